"""Galleries of other people, embedded once: templates in a file that is memory-mapped, a million of them or more.

The file is safetensors: `templates` (float32 or float16 [G, d]) and `photo_ids` (uint8 [G, 8], by which a picture of
the people who are evaluated is left out), and as metadata the network's name and fingerprint, how many photos it had no
feature of, and a checksum. Templates are biometric data: the file is its owner's alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from veilkern.data.files import atomic_write
from veilkern.data.photos import photo_id
from veilkern.errors import ModelError, OutputError, PhotoError
from veilkern.networks.face_model import FaceModel
from veilkern.networks.matching import Templates

FORMAT, VERSION = "veilkern.gallery", 1
_KINDS: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_ALIGNMENT, _PIECE = 64, 1 << 20  # bytes


@dataclass(frozen=True, eq=False)
class Gallery:
    """templates: features [G, d], memory-mapped, read-only. photo_ids: uint8 [G, 8], `photo_id` of each. name,
    fingerprint: of the network. left_out: photos that it had no feature of. It is read block by block wherever
    distractors are taken."""

    path: Path
    templates: np.ndarray
    photo_ids: np.ndarray
    name: str
    fingerprint: str
    left_out: int

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, check: bool = True) -> Gallery:
        """A file that `build_gallery` wrote. check: compare the templates with their checksum, which reads all of them.
        PhotoError when it is damaged or no gallery; it names the file and the cause."""
        path = Path(path)
        if not path.is_file():
            raise PhotoError(f"{path}: no such gallery file")
        try:
            found, meta = _opened(path)
            if check and _digest(meta, (found.templates, found.photo_ids)) != meta["sha256"]:
                raise ValueError("the content does not match its checksum: damaged, or changed after it was written")
        except OSError as error:
            raise PhotoError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise PhotoError(f"{path}: {error}") from error
        return found

    def __len__(self) -> int:
        return len(self.templates)

    def __repr__(self) -> str:
        return f"Gallery({self.path.name}, {len(self)} templates of {self.shape[1]} values by {self.name})"

    @property
    def shape(self) -> tuple[int, ...]:
        """(G, d)."""
        return self.templates.shape

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        return self.templates[rows]

    def require(self, model: FaceModel) -> None:
        """ModelError unless the templates are this network's."""
        if model.fingerprint != self.fingerprint:
            raise ModelError(
                f"{self.path}: templates of another network ({self.name}, {self.fingerprint[:12]}) than {model.name} "
                f"({model.fingerprint[:12]}): features of different networks do not compare; embed the gallery anew"
            )

    def without(self, photo_ids: Collection[str]) -> Templates:
        """The templates of all photos but those with these ids, in place: nothing is copied."""
        unwanted = np.array([int(mark, 16) for mark in photo_ids], dtype=">u8")
        twins = np.isin(np.ascontiguousarray(self.photo_ids).view(">u8")[:, 0], unwanted)
        return _Some(self.templates, np.flatnonzero(~twins)) if twins.any() else self


@dataclass(frozen=True, eq=False)
class _Some:
    """Some rows of templates, by their numbers."""

    templates: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.templates.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice, /) -> np.ndarray:
        return self.templates[self.rows[part]]


def build_gallery(
    model: FaceModel,
    photos: Iterable[torch.Tensor],
    path: str | os.PathLike[str],
    *,
    precision: str = "float32",
    batch: int = 64,
    overwrite: bool = False,
) -> Gallery:
    """Embed photos once, for every later evaluation with this network, and open the file.

    photos: uint8 tensors [n, 3, H, W] or [3, H, W], one after the other, as `people.images for people in
    vk.iter_people(folder)`: no more than `batch` and one of them are in memory. precision: of the templates in the
    file; float16 is half as large and moves scores by about 1e-4. A photo that the network has no feature of is left
    out and counted. The file (mode 0600) appears when it is whole; its folder needs room for it twice until then.
    Raises OutputError for a file that is there unless `overwrite`, or cannot be written; ModelError when no photo has
    a feature; ValueError for no photo at all, and what no photos are.
    """
    kinds = {"float32": "F32", "float16": "F16"}
    if precision not in kinds:
        raise ValueError(f"build_gallery: precision must be 'float32' or 'float16', got {precision!r}")
    path = Path(path)
    if not overwrite and (path.exists() or path.is_symlink()):
        raise OutputError(f"{path}: there already; kept (overwrite=True replaces it)")
    kind, width, left_out, tried = kinds[precision], 0, 0, 0
    with _Spool(path) as templates, _Spool(path) as ids:
        for part in _batches(photos, batch):
            features = model.features(part, check=False)
            good = features.isfinite().all(1)
            width, left_out, tried = features.shape[1], left_out + int((~good).sum()), tried + len(part)
            templates.write(features[good].cpu().numpy().astype(_KINDS[kind]).tobytes())
            ids.write(b"".join(bytes.fromhex(photo_id(image)) for image in part[good].cpu()))
        if not tried:
            raise ValueError("build_gallery: photos must hold at least one photo, got none")
        if left_out == tried:
            raise ModelError(f"{model.name}: NaN, infinity or a zero vector for all {tried} gallery photos")
        about = {"version": VERSION, **model.about(), "left_out": left_out}
        contents = _pieces({"templates": (kind, width, templates), "photo_ids": ("U8", 8, ids)}, about)
        atomic_write(path, contents, mode=0o600, replace=overwrite)
    return Gallery.load(path, check=False)


class _Spool:
    """A file without a name beside `path`, for what is written there once its length is known."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        """Add to the end."""
        try:
            self.file.write(data)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def pieces(self) -> Iterator[bytes]:
        """All that was written, from its beginning."""
        self.file.seek(0)
        while piece := self.file.read(_PIECE):
            yield piece


def _batches(photos: Iterable[torch.Tensor], batch: int) -> Iterator[torch.Tensor]:
    """uint8 [n, 3, H, W] of `batch` photos, the last of fewer."""
    waiting: list[torch.Tensor] = []
    for part in photos:
        fits = isinstance(part, torch.Tensor) and part.dtype == torch.uint8 and part.ndim in (3, 4)
        if not fits or part.shape[-3] != 3:
            got = f"{part.dtype} {list(part.shape)}" if isinstance(part, torch.Tensor) else type(part).__name__
            raise ValueError(f"build_gallery: photos must be uint8 [n, 3, H, W] or [3, H, W], got {got}")
        for image in part if part.ndim == 4 else [part]:
            waiting.append(image)
            if len(waiting) == batch:
                yield torch.stack(waiting)
                waiting = []
    if waiting:
        yield torch.stack(waiting)


def _pieces(parts: dict[str, tuple[str, int, _Spool]], about: dict[str, Any]) -> Iterator[bytes]:
    """The file's bytes, one piece after the other; parts: kind, width and the bytes of each tensor."""
    tensors, place = {}, 0
    digest = _begun(about)
    for name, (kind, width, spool) in parts.items():
        length = spool.file.tell()
        shape = [length // (width * (1 if kind == "U8" else _KINDS[kind].itemsize)), width]
        tensors[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + length]}
        place += length
        for piece in spool.pieces():
            digest.update(piece)
    metadata = {FORMAT: json.dumps({**about, "sha256": digest.hexdigest()})}
    header = json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    yield len(header).to_bytes(8, "little") + header
    for _, _, spool in parts.values():
        yield from spool.pieces()


def _begun(about: dict[str, Any]) -> hashlib._Hash:
    """The checksum of what a file says, to be gone on with its tensors."""
    told = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode())


def _digest(about: dict[str, Any], arrays: Iterable[np.ndarray]) -> str:
    digest = _begun(about)
    for array in arrays:
        rows = max(1, _PIECE // max(1, array[:1].nbytes))
        for begin in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[begin : begin + rows]).data)
    return digest.hexdigest()


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, which the library has found whole, and where the tensors begin."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            pass
    except SafetensorError as error:
        raise ValueError(f"not a gallery file, or truncated: {error}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def _meta(header: dict[str, Any]) -> dict[str, Any]:
    text = header.get("__metadata__", {}).get(FORMAT)
    if text is None:
        raise ValueError("a safetensors file, but not a gallery")
    meta = json.loads(text)
    wanted = {"version": int, "name": str, "fingerprint": str, "left_out": int, "sha256": str}
    if not isinstance(meta, dict) or any(type(meta.get(name)) is not kind for name, kind in wanted.items()):
        raise ValueError(f"damaged description: wanted {', '.join(wanted)}")
    if meta["version"] != VERSION:
        raise ValueError(f"gallery format {meta['version']}; this veilkern reads {VERSION}")
    return meta


def _opened(path: Path) -> tuple[Gallery, dict[str, Any]]:
    """The gallery, and what its file says of it."""
    header, start = _header(path)
    meta = _meta(header)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    if set(shapes) != {"templates", "photo_ids"} or header["templates"]["dtype"] not in _KINDS:
        raise ValueError("not the parts of a gallery")
    count, width = shapes["templates"] if len(shapes["templates"]) == 2 else (0, 0)
    if not count or not width or shapes["photo_ids"] != (count, 8) or header["photo_ids"]["dtype"] != "U8":
        raise ValueError(f"not the parts of a gallery: templates {shapes['templates']}, ids {shapes['photo_ids']}")
    begin = {name: start + header[name]["data_offsets"][0] for name in shapes}
    templates = np.memmap(path, _KINDS[header["templates"]["dtype"]], "r", begin["templates"], (count, width))
    photo_ids = np.fromfile(path, np.uint8, 8 * count, offset=begin["photo_ids"]).reshape(-1, 8)
    about = (meta["name"], meta["fingerprint"], meta["left_out"])
    return Gallery(path, templates, photo_ids, *about), meta
