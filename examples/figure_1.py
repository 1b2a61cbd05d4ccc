"""The paper's Fig. 1, whole, in one process: a data provider makes veils and uploads protected photos to a cloud store;
a recognition service that was never changed tells whose they are; whoever has the key gets the photos back.

    python examples/figure_1.py [--service http://127.0.0.1:18081]

Synthetic people and the sample network; with --service, embeddings come from a service of InsightFace-REST's protocol
(its network must be the one that the veils were crafted for). Returns 0 if everybody was recognised and recovered.
"""

import argparse
import io
import sys

import numpy as np
import torch
from PIL import Image
from recognition_service import Gallery, RecognitionService

import veilkern as vk
from veilkern.samples import load_model, synthetic_people
from veilkern.veils.keyed import fresh_key

PEOPLE, PHOTOS, ENROLLED = 4, 6, 3


def png(photo: torch.Tensor) -> bytes:
    """uint8 [3, H, W] as a file."""
    file = io.BytesIO()
    Image.fromarray(photo.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def photo_of(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)


class InProcess:
    """The recognition service, in this process: it is given files and gives embeddings."""

    def __init__(self) -> None:
        self._network = load_model()

    def embeddings(self, crops: list[bytes]) -> np.ndarray:
        return self._network.features(torch.stack([photo_of(crop) for crop in crops])).numpy()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--service", help="the address of a recognition service; default: one in this process")
    address = parser.parse_args(arguments).service
    service = RecognitionService(address) if address else InProcess()

    # The recognition service has enrolled these people long ago, from clear photos.
    people = synthetic_people(PEOPLE, PHOTOS)
    gallery = Gallery()
    for row, name in enumerate(people.names):
        own = people.images[people.offsets[row] : people.offsets[row] + ENROLLED]
        gallery.enrol(name, service.embeddings([png(photo) for photo in own]))

    # The data provider crafts a veil a person, keeps the key, and uploads protected photos alone.
    key = fresh_key()
    config = vk.CraftConfig(scheme="sealed", robust="none")
    bank = vk.craft(load_model(), people, config, key=key).bank
    rows = bank.rows(people.names)[people.rows]
    cloud_store = {
        file: png(hidden)
        for file, hidden in zip(people.files, vk.protect(people.images, bank, rows, key=key), strict=True)
    }

    # The recognition service is given files of the store.
    found = gallery.identify(service.embeddings(list(cloud_store.values())))
    right = sum(name == file.split("/")[0] for file, (name, _) in zip(cloud_store, found, strict=True))
    print(f"recognised: {right} of {len(found)}, mean cosine {np.mean([cosine for _, cosine in found]):.3f}")

    # Authorised recovery: the key and the bank open the files of the store.
    stored = torch.stack([photo_of(data) for data in cloud_store.values()])
    back = vk.recover(stored, bank, rows, key=key)
    error = int((back.int() - people.images.int()).abs().max())
    print(f"recovered: {len(back)} photos, largest error {error} of 255")
    return 0 if right == len(found) and error <= bank.error_bound else 1


if __name__ == "__main__":
    sys.exit(main())
