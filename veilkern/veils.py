"""VeilBank: the veils of many persons, and their file. A veil is a key: whoever has it sees the photos."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from veilkern.errors import BankError
from veilkern.files import atomic_write, is_plain_name

FORMAT, FORMAT_VERSION = "veilkern.bank", 1
MAX_SIDE, MAX_PEOPLE = 8192, 10_000_000


def photo_id(image: torch.Tensor) -> str:
    """A short hash of a photo's pixels, uint8 [3, H, W]: tells later which photos a veil was crafted on."""
    return hashlib.sha256(f"{list(image.shape)}".encode() + image.contiguous().numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True, repr=False)
class VeilBank:
    """Veils of P persons, all of one image size and blend.

    veils: uint8 [P, 3, H, W] RGB. names: P unique names. blend: a of alpha = a / 255. records: one dict a person
    (status, steps, losses, photo_ids). model: name and fingerprint of the network they were crafted for. config: the
    CraftConfig. key_id: tells which master key made the starts. key: that key in hex, only where craft made a fresh
    one, which serves this bank alone and is no more secret than its veils. version: of the veilkern that crafted them.
    """

    veils: torch.Tensor
    names: list[str]
    blend: int
    records: list[dict] = field(default_factory=list)
    model: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    key_id: str = ""
    key: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        if (
            not isinstance(self.veils, torch.Tensor)
            or self.veils.dtype != torch.uint8
            or self.veils.ndim != 4
            or self.veils.shape[1] != 3
        ):
            got = (
                f"{self.veils.dtype} {list(self.veils.shape)}"
                if isinstance(self.veils, torch.Tensor)
                else type(self.veils)
            )
            raise ValueError(f"VeilBank: veils must be uint8 [P, 3, H, W], got {got}")
        _check_names(self.names, len(self.veils), ValueError, "VeilBank")
        if isinstance(self.blend, bool) or not isinstance(self.blend, int) or not 1 <= self.blend <= 254:
            raise ValueError(f"VeilBank: blend must be an integer 1..254 (alpha = blend / 255), got {self.blend!r}")
        if self.records and len(self.records) != len(self.names):
            raise ValueError(
                f"VeilBank: records must have {len(self.names)} entries, one a person, got {len(self.records)}"
            )

    def __repr__(self) -> str:  # never the veils or the key
        size = f"{self.size[0]} x {self.size[1]}"
        return f"VeilBank({len(self)} veils of {size}, blend {self.blend}/255, for {self.model.get('name')})"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photos these veils fit."""
        return self.veils.shape[2], self.veils.shape[3]

    @property
    def alpha(self) -> float:
        """Share of the photo in a protected photo."""
        return self.blend / 255

    def rows(self, names: Iterable[str]) -> torch.Tensor:
        """Veil rows of these names, int64 [n]; KeyError names whoever has no veil."""
        place = {name: i for i, name in enumerate(self.names)}
        wanted = list(names)
        missing = sorted({name for name in wanted if name not in place})
        if missing:
            raise KeyError(f"VeilBank: no veil for {', '.join(missing[:10])}")
        return torch.tensor([place[name] for name in wanted], dtype=torch.int64)

    def join(self, other: VeilBank) -> VeilBank:
        """Both banks in one; ValueError unless they agree on size, blend, network and config and share no name."""
        for name, a, b in (
            ("size", self.size, other.size),
            ("blend", self.blend, other.blend),
            ("network", self.model.get("fingerprint"), other.model.get("fingerprint")),
            ("config", self.config, other.config),
        ):
            if a != b:
                raise ValueError(f"VeilBank.join: the banks differ in {name}: {a} and {b}")
        if both := sorted(set(self.names) & set(other.names)):
            raise ValueError(f"VeilBank.join: both banks have a veil of {', '.join(both[:10])}")
        keep_key = self.key if self.key_id == other.key_id else ""
        return VeilBank(
            torch.cat([self.veils, other.veils]),
            self.names + other.names,
            self.blend,
            self.records + other.records,
            self.model,
            self.config,
            self.key_id if self.key_id == other.key_id else f"{self.key_id}+{other.key_id}",
            keep_key,
            self.version,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, readable by its owner alone (0600), whole or not at all (OutputError)."""
        about = json.dumps(
            {
                "names": self.names,
                "blend": self.blend,
                "records": self.records,
                "model": self.model,
                "config": self.config,
                "key_id": self.key_id,
                "key": self.key,
                "version": self.version,
            },
            sort_keys=True,
            ensure_ascii=True,
        )
        veils = self.veils.detach().cpu().contiguous()
        # One entry, since safetensors writes several in any order and the same bank should be the same bytes.
        entry = json.dumps({"version": FORMAT_VERSION, "sha256": _digest(veils, about), "about": about})
        atomic_write(path, save({"veils": veils}, {FORMAT: entry}), mode=0o600)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> VeilBank:
        """Read a bank; everything is checked before its memory is taken. BankError names the file and the cause."""
        path = Path(path)
        if not path.is_file():
            raise BankError(f"{path}: no such veil file")
        try:
            with safe_open(path, framework="pt") as file:  # refuses headers that do not match the file's length
                about, sha256 = _check_header(path, file)
                veils = file.get_tensor("veils")
        except (SafetensorError, OSError, UnicodeDecodeError) as error:
            raise BankError(f"{path}: not a veil file, or truncated: {error}") from error
        if _digest(veils, about) != sha256:
            raise BankError(f"{path}: the content does not match its checksum: damaged, or changed after it was saved")
        values = json.loads(about)
        try:
            return cls(veils, **values)
        except (TypeError, ValueError) as error:
            raise BankError(f"{path}: {error}") from error


def _digest(veils: torch.Tensor, about: str) -> str:
    """Against damage, not against a forger, who can compute it too."""
    digest = hashlib.sha256(f"{FORMAT} {FORMAT_VERSION} {list(veils.shape)}\n{about}\n".encode())
    digest.update(veils.numpy().data)
    return digest.hexdigest()


def _check_header(path: Path, file) -> tuple[str, str]:
    entry = (file.metadata() or {}).get(FORMAT)
    if entry is None:
        raise BankError(f"{path}: a safetensors file, but not a veil bank")
    meta = _parse(path, entry)
    if meta.get("version") != FORMAT_VERSION:
        raise BankError(f"{path}: veil bank format {meta.get('version')!r}; this veilkern reads {FORMAT_VERSION}")
    about, sha256 = meta.get("about"), meta.get("sha256")
    if not isinstance(about, str) or not isinstance(sha256, str) or set(file.keys()) != {"veils"}:
        raise BankError(f"{path}: not the parts of a veil bank")
    part = file.get_slice("veils")
    shape, dtype = part.get_shape(), part.get_dtype()
    if (
        dtype != "U8"
        or len(shape) != 4
        or shape[1] != 3
        or not all(1 <= n <= MAX_SIDE for n in shape[2:])
        or shape[0] > MAX_PEOPLE
    ):
        raise BankError(f"{path}: veils must be uint8 [P, 3, H, W], got {dtype} {shape}")
    values = _parse(path, about)
    wanted = {"names", "blend", "records", "model", "config", "key_id", "key", "version"}
    if set(values) != wanted:
        raise BankError(f"{path}: damaged description: wanted the entries {', '.join(sorted(wanted))}")
    kinds = {"names": list, "records": list, "model": dict, "config": dict, "key_id": str, "key": str, "version": str}
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise BankError(f"{path}: damaged description: {name} must be a {kind.__name__}")
    _check_names(values["names"], shape[0], BankError, str(path))
    return about, sha256


def _parse(path: Path, text: str) -> dict:
    """A JSON object, or BankError."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BankError(f"{path}: damaged description: {error}") from error
    if not isinstance(values, dict):
        raise BankError(f"{path}: damaged description: not a JSON object")
    return values


def _check_names(names: Sequence[object], count: int, error: type[Exception], where: str) -> None:
    if len(names) != count:
        raise error(f"{where}: names must have {count} entries, one a veil, got {len(names)}")
    for name in names:
        if not isinstance(name, str) or not is_plain_name(name):
            raise error(f"{where}: names must be plain folder names (no path separators, not '..'), got {name!r}")
    if len(set(names)) != len(names):
        raise error(f"{where}: names must be unique")
