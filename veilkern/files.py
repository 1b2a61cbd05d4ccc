"""Writing files so that nothing is lost: a temporary name in the same folder, fsync, then rename."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from veilkern.errors import OutputError


def atomic_write(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` to `path` whole or not at all; an old file there stays until the new one is safe on disk.

    Raises OutputError naming the path and the cause (full disk, no permission, no such folder).
    """
    path = Path(path)
    temporary = None
    try:
        # mkstemp makes the file 0600 from the first byte, so a veil is never readable by others, even for a moment.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:  # also on KeyboardInterrupt: no stray temporary files
        if temporary is not None:
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
