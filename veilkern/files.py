"""Writing files so that nothing is lost: a temporary name in the same folder, fsync, then rename."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from veilkern.errors import OutputError


def atomic_write(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o666) -> None:
    """Write `data` to `path` whole or not at all; an old file there stays until the new one is safe on disk.

    mode: as the process's umask allows, like any new file; 0o600 for veils. Raises OutputError naming the path and the
    cause (full disk, no permission, no such folder).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        # The mode holds from the first byte: a veil is never readable by others, even for a moment.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:  # also on KeyboardInterrupt: no stray temporary files (after the rename there is none)
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the platform lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder with its parents; OutputError names it when that cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the output folder cannot be made: {error.strerror or error}") from error
    return Path(path)


def inside(root: Path, *parts: str) -> Path:
    """`root` joined with `parts`, refused with OutputError when that would leave `root` (.., /, links)."""
    for part in parts:
        if not is_plain_name(part):
            raise OutputError(f"{part!r}: not a plain file name; writing it would leave {root}")
    path = root.joinpath(*parts)
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise OutputError(f"{path}: leads out of the output folder {root} (through a link)")
    return path


def is_plain_name(name: str) -> bool:
    """Whether `name` is one path component that stays in its folder on every platform."""
    return (
        bool(name)
        and name not in (".", "..")
        and len(name.encode(errors="surrogatepass")) <= 255
        and not any(c in "/\\:" or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in name)
    )
