"""The audit on real faces, where VEILKERN_REAL_FACES names them: blended photos leak, sealed ones do not.

The veils are random: that the attacks take them out, or cannot, does not depend on how they were made. The whole audit
of all people takes minutes: these are parts, large enough to tell.
"""

from __future__ import annotations

import hashlib

import pytest
import torch
from audit_cases import KEY, blend_bank, same_nonces, sealed_bank

import veilkern as vk
from veilkern.data.photos import read_photo

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
TAKES_OUT = ("average", "difference", "known_pair", "known_veil")


def once(features):
    """`features`, worked out once for each batch of photos: half of an audit goes into the gallery's."""
    known = {}

    def found(images, **options):
        key = hashlib.sha256(images.numpy().tobytes()).digest(), str(options)
        if key not in known:
            known[key] = features(images, **options)
        return known[key].clone()

    return found


@pytest.fixture(scope="module")
def real(real_faces):
    """People, gallery and networks."""
    people = vk.read_people(real_faces / "people")
    gallery = torch.stack([read_photo(file)[0] for file in sorted((real_faces / "gallery").glob("*.png"))])
    files = sorted((real_faces / "networks").glob("*.safetensors"))
    networks = [vk.FaceModel.load(f"{file.with_suffix('.py')}:load") for file in files]
    assert len(people) >= 8 and not people.problems and len(networks) >= 2
    for network in networks:
        network.features = once(network.features)
    return people, gallery, networks


def some(people: vk.People, count: int, photos: int) -> vk.People:
    """The first photos of the first persons."""
    index = torch.arange(len(people.images)) - people.offsets[people.rows]
    return people.take(((people.rows < count) & (index < photos)).nonzero().flatten())


def test_blended_photos_leak(real):
    everybody, gallery, networks = real
    people = some(everybody, 8, 6)
    found = vk.audit(networks[0], people, blend_bank(people), networks=networks[1:], gallery=gallery, progress=False)
    print([row.sentence for row in found.attacks])
    assert {found[name].verdict for name in TAKES_OUT} == {"gives photos away"}
    average = found["average"]
    assert average.ssim.value > 0.5 and average.auc_ssim.value > 0.99 and average.auc_contour.value > 0.95
    assert all(figure.value > 0.3 for figure in average.rank1.values())
    for name in ("known_pair", "known_veil"):
        assert found[name].ssim.value > 0.95 and found[name].auc_ssim.value > 0.999
        assert all(figure.value > 0.95 for figure in found[name].rank1.values())


def test_sealed_photos_do_not(real, monkeypatch):
    everybody, gallery, networks = real
    people = some(everybody, 8, 6)
    same_nonces(monkeypatch)
    found = vk.audit(
        networks[0], people, sealed_bank(people), key=KEY, networks=networks[1:], gallery=gallery, progress=False
    )
    print([row.sentence for row in found.attacks])
    for row in found.attacks:  # random veils show nobody's face either
        assert row.verdict == "nothing found", row.sentence
        # Of 48 photos with 7 others each an AUC misses 0.5 by about 0.045 by chance alone.
        assert abs(row.auc_ssim.value - 0.5) < 0.12 and abs(row.ssim.value - row.ssim_others.value) < 0.004
        assert abs(row.auc_contour.value - 0.5) < 0.12 and abs(row.contour.value) < 0.04
        assert all(figure.value < 0.1 for figure in row.rank1.values())
    assert all(test.fine for test in found.field_tests)
