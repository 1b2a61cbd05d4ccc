"""Writing files so that nothing is lost: a temporary name in the same folder, fsync, then rename; and their locks."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from veilkern.errors import OutputError

Buffer = bytes | bytearray | memoryview


def atomic_write(
    path: str | os.PathLike[str], data: Buffer | Iterable[Buffer], *, mode: int = 0o666, replace: bool = True
) -> None:
    """Write `data` (a buffer, or several in a row) to `path` whole or not at all; an old file there stays until the new
    one is safe on disk. A link is followed: what it points to is written.

    mode: as the process's umask allows, like any new file; 0o600 for veils. It is never wider than that of a file that
    is replaced. replace: False leaves whatever is there alone, also when it came into being a moment ago. Raises
    OutputError naming the path and the cause (full disk, no permission, no such folder, there already).
    """
    target = _target(path)
    temporary = target.with_name(f".veilkern-{secrets.token_hex(8)}.tmp")
    try:
        if replace and target.exists():
            mode &= stat.S_IMODE(target.stat().st_mode)
        # The mode holds from the first byte: a veil is never readable by others, even for a moment.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            for part in [data] if isinstance(data, Buffer) else data:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, target)
        else:
            _create(temporary, target)
        _sync_folder(target.parent)
    except FileExistsError as error:
        raise OutputError(f"{path}: there already; kept") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:  # also on KeyboardInterrupt: no stray temporary files (after the rename there is none)
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _target(path: str | os.PathLike[str]) -> Path:
    """Where `path` leads: links are followed, so that they stay links."""
    try:
        target = Path(os.path.realpath(path))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    if target.is_symlink():  # only a circle of links has no end
        raise OutputError(f"{path}: cannot be written: its links lead in a circle")
    return target


def _create(temporary: Path, target: Path) -> None:
    """Give `temporary` its name unless something has that name: FileExistsError."""
    try:
        os.link(temporary, target)  # unlike a rename it never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without links: reserve the name, then rename over the reservation
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(temporary, target)


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of output `path` (a file .<name>.lock beside it), against other processes and threads.

    wait: seconds to wait for whoever holds it. Raises OutputError when it is still held then, or cannot be made. The
    lock ends with the process, however that ends.
    """
    target = _target(path)
    if not target.parent.is_dir():  # filelock would make it
        raise OutputError(f"{path}: cannot be locked: no such folder")
    lock = FileLock(target.with_name(f".{_shortened(target.name)}.lock"), timeout=wait, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(f"{path}: another command is at work on it; wait until that ends") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _shortened(name: str) -> str:
    """The start of a name, so that a prefix and a suffix still fit a file system's 255 bytes."""
    return name.encode(errors="surrogateescape")[:200].decode(errors="ignore")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the platform lets a folder be opened and synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
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


def refuse_inside(folder: Path, *outputs: Path) -> None:
    """OutputError where an output is the folder that is read, or lies in it: there it would be taken for input."""
    for out in outputs:
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder)):
            raise OutputError(f"{out}: lies in the input folder {folder}; put it elsewhere")


# A reserved name, also with an ending; else characters that are allowed, the last one neither a dot nor a blank.
_PLAIN = re.compile(
    r"""(?! (?: CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[1-9¹²³] ) \ * (?: \. | \Z ) )
        [^<>:"/\\|?*\x00-\x1f\ud800-\udfff]* [^<>:"/\\|?*\x00-\x1f\ud800-\udfff.\ ]""",
    re.VERBOSE | re.IGNORECASE,
)


def is_plain_name(name: str) -> bool:
    """Whether `name` is one path component that stays in its folder and can be written on every platform.

    Refused are what Windows refuses (<>:"/\\|?*, control characters, CON and the like with any ending, a dot or blank
    at the end, more than 255 UTF-16 units), what Unix refuses (/, NUL, more than 255 bytes), and lone surrogates.
    Two plain names may still be one file where a file system takes upper and lower case, or Unicode's ways of
    writing a letter, for the same.
    """
    return _PLAIN.fullmatch(name) is not None and (len(name) <= 63 or len(name.encode()) <= 255)
