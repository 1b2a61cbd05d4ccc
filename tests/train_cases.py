"""What the tests of training share: small people, a network that learns them in seconds, files of photos."""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import tarfile
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import veilkern as vk
from veilkern.data.photos import write_png
from veilkern.samples import synthetic_people
from veilkern.training.recordio import MAGIC

SIDE = 32


class TinyNet(nn.Module):
    """float [N, 3, 32, 32] -> [N, embedding], with BatchNorm and dropout as large networks have them."""

    def __init__(self, embedding: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8),
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.PReLU(16),
            nn.Dropout(0.1), nn.Flatten(), nn.Linear(16 * 64, embedding), nn.BatchNorm1d(embedding),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class PlainNet(nn.Module):
    """float [N, 3, 32, 32] -> [N, embedding], each photo by itself."""

    def __init__(self, embedding: int):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, 4), nn.Linear(8 * 64, embedding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(self.conv(x)).flatten(1))


def make_plain(name: str, *, embedding: int | None = None, small: bool = False):
    """As `make`, whatever the name."""
    return PlainNet(embedding or 16), {"size": SIDE}


def make_tiny(name: str, *, embedding: int | None = None, small: bool = False):
    """As `make`, whatever the name."""
    return TinyNet(embedding or 16), {"size": SIDE, "mean": (0.5,) * 3, "std": (0.5,) * 3}


def tiny():
    """A context in which `train` makes TinyNets."""
    return patch("veilkern.training.prepare.make", make_tiny)


def plain():
    """A context in which `train` makes PlainNets."""
    return patch("veilkern.training.prepare.make", make_plain)


@functools.cache
def people(count: int = 20, photos: int = 8, seed: int = 71) -> vk.People:
    """Synthetic people of 32 x 32 pixels."""
    made = synthetic_people(count, photos, seed)
    images = F.interpolate(made.images.float(), (SIDE, SIDE), mode="area").round().to(torch.uint8)
    return vk.People(images, made.offsets, made.names, made.files)


def config(**options) -> vk.TrainConfig:
    """A quick one."""
    given = {"head": "lmcl", "optimizer": "adamw", "batch": 16, "steps": 24, "held_out": 4} | options
    return vk.TrainConfig("tiny", **given)


def state_of(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def write_folder(root: Path, made: vk.People) -> Path:
    for image, file in zip(made.images, made.files, strict=True):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / file, image)
    return root


def jpeg(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def payload(labels: float | tuple[float, ...], data: bytes = b"", number: int = 0) -> bytes:
    """A record's: IRHeader and photo."""
    if isinstance(labels, tuple):
        return struct.pack("<IfQQ", len(labels), 0.0, number, 0) + struct.pack(f"<{len(labels)}f", *labels) + data
    return struct.pack("<IfQQ", 0, labels, number, 0) + data


def record(content: bytes) -> bytes:
    """A record as dmlc writes it: cut where MAGIC stands at a multiple of 4."""
    mark, cuts = MAGIC.to_bytes(4, "little"), []
    cuts = [at for at in range(0, len(content) // 4 * 4, 4) if content[at : at + 4] == mark]
    parts = [content[a:b] for a, b in zip([0, *(c + 4 for c in cuts)], [*cuts, len(content)], strict=True)]
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        mark + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def write_rec(path: Path, payloads: dict[int, bytes]) -> Path:
    """PATH.rec and PATH.idx of payloads by their numbers."""
    lines, whole = [], b""
    for number, content in payloads.items():
        lines.append(f"{number}\t{len(whole)}\n")
        whole += record(content)
    path.write_bytes(whole)
    path.with_suffix(".idx").write_text("".join(lines))
    return path


def insightface(made: vk.People, *, identities: bool = True, padding: bytes = b"") -> dict[int, bytes]:
    """The payloads of people as insightface packs them: 0, photos, identities."""
    count = len(made.images)
    found = {0: payload((float(count + 1), float(count + 1 + len(made))))}
    for number, (image, row) in enumerate(zip(made.images, made.rows.tolist(), strict=True), 1):
        found[number] = payload(float(row), jpeg(image) + padding, number)
    for row, (start, stop) in enumerate(zip(made.offsets[:-1].tolist(), made.offsets[1:].tolist(), strict=True)):
        if identities:
            found[count + 1 + row] = payload((float(start + 1), float(stop + 1)), number=count + 1 + row)
    return found


@contextlib.contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
