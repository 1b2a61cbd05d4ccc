"""Keyed randomness: HKDF (RFC 5869) from the master key to a person's stream, Philox (a counter-based generator) on it.

Whoever has the master key and a person's id can make the person's start again ("unique initial value" of the paper).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import warnings
from pathlib import Path

import numpy as np
import torch

from veilkern.errors import OutputError

MIN_KEY_BYTES, MAX_KEY_BYTES = 16, 65536
_SALT = b"veilkern/1"


def hkdf_sha256(key: bytes, info: bytes, length: int, salt: bytes = _SALT) -> bytes:
    """`length` bytes derived from `key` for the purpose `info` (RFC 5869 with SHA-256, extract then expand)."""
    if not 0 < length <= 255 * 32:
        raise ValueError(f"hkdf_sha256: length must lie in 1..8160 bytes, got {length}")
    secret = hmac.new(salt or bytes(32), key, hashlib.sha256).digest()
    out, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.new(secret, block + info + bytes([counter]), hashlib.sha256).digest()
        out += block
    return out[:length]


def check_key(key: object) -> bytes:
    """A master key: at least 16 bytes. The message never shows it."""
    if not isinstance(key, (bytes, bytearray)):
        raise TypeError(f"key must be bytes, got {type(key).__name__}")
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"key must have at least {MIN_KEY_BYTES} bytes, got {len(key)}")
    return bytes(key)


def fresh_key() -> bytes:
    """32 random bytes of which the last is no newline: read_key takes off one that an editor may have left."""
    while (key := secrets.token_bytes(32)).endswith(b"\n"):
        pass
    return key


def read_key(path: str | os.PathLike[str]) -> bytes:
    """The master key in a file: its bytes, without the one newline (\\n or \\r\\n) that an editor leaves at the end.

    Warns (UserWarning) when others than its owner can read it. Raises OutputError when it cannot be read and
    ValueError when it holds fewer than 16 bytes or more than 65536; no message shows the key.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(MAX_KEY_BYTES + 3)
    except OSError as error:
        raise OutputError(f"{path}: the key file cannot be read: {error.strerror or error}") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        warnings.warn(f"{path} can be read by others; a key file should have mode 0600", UserWarning, stacklevel=2)
    key = key.removesuffix(b"\n").removesuffix(b"\r") if key.endswith(b"\n") else key
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        got = len(key) if len(key) <= MAX_KEY_BYTES else "more"
        raise ValueError(f"{path}: a key must have {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes, got {got}")
    return key


def key_id(key: bytes) -> str:
    """A short name for a key that does not reveal it, to tell which key a bank was crafted with."""
    return hkdf_sha256(key, b"key id", 8).hex()


def derived(key: bytes, purpose: str, person: str, generation: int = 0) -> bytes:
    """The 32-byte key of one person and purpose (`seal`, `tag`) under the master key: HKDF with info purpose, NUL, the
    person's name, and for a generation g > 0 NUL and g in decimal."""
    if "\0" in person + purpose:
        raise ValueError(f"derived: person and purpose must not contain NUL, got {person!r} and {purpose!r}")
    info = b"\0".join([purpose.encode(), person.encode(errors="surrogateescape")])
    return hkdf_sha256(key, info + (f"\0{generation}".encode() if generation else b""), 32)


def stream(key: bytes, person: str, purpose: str, generation: int = 0) -> np.random.Philox:
    """The generator of one person, purpose and generation (0, 1, ..); no two of these share a stream."""
    if "\0" in person + purpose:  # what separates them below
        raise ValueError(f"stream: person and purpose must not contain NUL, got {person!r} and {purpose!r}")
    if isinstance(generation, bool) or not isinstance(generation, int) or not 0 <= generation < 2**64:
        raise ValueError(f"stream: generation must be an integer, 0 or more, got {generation!r}")
    info = b"\0".join([purpose.encode(), person.encode(errors="surrogateescape")])
    if generation:  # the first generation's streams are those of veilkern 0.1
        info += b"\0" + generation.to_bytes(8, "big")
    material = np.frombuffer(hkdf_sha256(key, info, 16), dtype="<u8")
    return np.random.Philox(key=material)


def uniform(generator: np.random.Philox, shape: tuple[int, ...]) -> torch.Tensor:
    """float32 uniform in [0, 1) from the top 24 bits of each draw; NumPy guarantees the raw stream for ever."""
    raw = generator.random_raw(int(np.prod(shape)))
    return torch.from_numpy(((raw >> np.uint64(40)) * 2.0**-24).astype(np.float32).reshape(shape))


def shuffled(generator: np.random.Philox, count: int) -> np.ndarray:
    """A random order of 0..count - 1: the places of sorted random numbers."""
    return np.argsort(generator.random_raw(count), kind="stable")
