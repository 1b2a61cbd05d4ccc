"""Writing files: whole or not at all, durable, nobody's work overwritten; names that every platform takes."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from veilkern.data.files import atomic_write, inside, is_plain_name, locked, make_folder
from veilkern.errors import OutputError

posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and signals of Unix")


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".veilkern-")]


def test_parts_are_written_one_after_the_other(tmp_path):
    atomic_write(tmp_path / "a", [b"ab", bytearray(b"cd"), memoryview(b"ef")])
    assert (tmp_path / "a").read_bytes() == b"abcdef"
    atomic_write(tmp_path / "a", (part for part in (b"x", b"", b"y")))
    assert (tmp_path / "a").read_bytes() == b"xy"
    for whole in (b"whole", bytearray(b"whole"), memoryview(b"whole")):
        atomic_write(tmp_path / "a", whole)
        assert (tmp_path / "a").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@posix
def test_modes_hold_from_the_first_byte(tmp_path, monkeypatch):
    seen = []

    def parts():
        seen.extend(stat.S_IMODE((tmp_path / name).stat().st_mode) for name in temporaries(tmp_path))
        yield b"secret"

    atomic_write(tmp_path / "veils", parts(), mode=0o600)
    assert seen == [0o600] and stat.S_IMODE((tmp_path / "veils").stat().st_mode) == 0o600
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "open", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o640


@posix
def test_links_are_followed(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("store/real")
    (tmp_path / "chain").symlink_to("link")
    (tmp_path / "dangling").symlink_to("store/new")
    for name, target in (("link", "real"), ("chain", "real"), ("dangling", "new")):
        atomic_write(tmp_path / name, name.encode())
        assert (tmp_path / name).is_symlink() and (tmp_path / "store" / target).read_bytes() == name.encode()
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["new", "real"]
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OutputError, match="round: cannot be written: its links lead in a circle"):
        atomic_write(tmp_path / "round", b"")


@pytest.mark.parametrize("links", [True, False])
def test_nothing_that_is_there_is_replaced_unasked(tmp_path, monkeypatch, links):
    if not links:  # a file system without hard links

        def refuse(*_):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("veilkern.data.files.os.link", refuse)
    atomic_write(tmp_path / "a", b"first", replace=False)
    with pytest.raises(OutputError, match="a: there already; kept"):
        atomic_write(tmp_path / "a", b"second", replace=False)
    assert (tmp_path / "a").read_bytes() == b"first" and temporaries(tmp_path) == []


def test_of_many_who_create_at_once_one_wins(tmp_path):
    won, start = [], threading.Barrier(8)

    def create(number):
        start.wait()
        try:
            atomic_write(tmp_path / "a", str(number).encode(), replace=False)
            won.append(number)
        except OutputError:
            pass

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and (tmp_path / "a").read_bytes() == str(won[0]).encode() and temporaries(tmp_path) == []


@posix
@pytest.mark.parametrize("replace", [True, False])
def test_the_file_then_its_folder_are_synced(tmp_path, monkeypatch, replace):
    """The content is on the disk before it gets its name, and the name before anybody is told."""
    events: list[str] = []
    sync, swap, link = os.fsync, os.replace, os.link

    def spy_sync(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        found = os.fstat(handle)
        assert found.st_size == 1 if events[-1] == "file" else os.path.samestat(found, tmp_path.stat())
        sync(handle)

    monkeypatch.setattr("veilkern.data.files.os.fsync", spy_sync)
    monkeypatch.setattr("veilkern.data.files.os.replace", lambda *a: (events.append("name"), swap(*a)))
    monkeypatch.setattr("veilkern.data.files.os.link", lambda *a: (events.append("name"), link(*a)))
    atomic_write(tmp_path / "a", b"x", replace=replace)
    assert events == ["file", "name", "folder"]


@posix
@pytest.mark.parametrize("cause,told", [(errno.EIO, True), (errno.EINVAL, False), (errno.ENOTSUP, False)])
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, cause, told):
    """Told where the disk fails, passed over where the file system has no such thing."""

    def fail(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(cause, os.strerror(cause))

    monkeypatch.setattr("veilkern.data.files.os.fsync", fail)
    if told:
        with pytest.raises(OutputError, match="cannot be written"):
            atomic_write(tmp_path / "a", b"x")
    else:
        atomic_write(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


@posix
def test_a_full_disk_keeps_what_was_there(tmp_path):
    """A real limit on file sizes, met in the middle of the parts: EFBIG, as ENOSPC comes of a full disk."""
    (tmp_path / "a").write_bytes(b"old")
    code = (
        "import resource, signal, sys\n"
        "from veilkern.errors import OutputError\n"
        "from veilkern.data.files import atomic_write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    atomic_write(sys.argv[1], [bytes(60_000)] * 3)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path / 'a'}: cannot be written: File too large")
    assert (tmp_path / "a").read_bytes() == b"old" and temporaries(tmp_path) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
def test_whatever_stops_a_write_leaves_the_old_file(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")

    def parts():
        yield b"half"
        raise error

    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        atomic_write(tmp_path / "a", parts())
    assert (tmp_path / "a").read_bytes() == b"old" and temporaries(tmp_path) == []


def test_a_folder_is_made_with_its_parents_once(tmp_path):
    for _ in range(2):
        assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b" and (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: the output folder cannot be made: File exists"):
        make_folder(tmp_path / "file")


@pytest.mark.parametrize("place", ["absent/a", "file/a", "folder"])
def test_places_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        atomic_write(tmp_path / place, b"x")
    assert temporaries(tmp_path) == []


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.thorough
def test_killed_in_the_middle_of_a_save(tmp_path):
    """kill -9 at many moments of endless saves: the file is always one of the two, whole."""
    path, halves = tmp_path / "a", 0
    path.write_bytes(b"x" * 2_000_000)
    for attempt in range(30):
        before = path.stat().st_ino
        child = os.fork()  # not a new process: importing torch takes long
        if not child:
            while True:
                for byte in (b"x", b"y"):
                    atomic_write(path, [byte * 1000] * 2000)
        deadline = time.monotonic() + 60
        while path.stat().st_ino == before and time.monotonic() < deadline:
            time.sleep(0.001)  # until the saves have begun
        time.sleep(0.0005 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = path.read_bytes()
        assert len(found) == 2_000_000 and set(found) in ({ord("x")}, {ord("y")})
        halves += len(temporaries(tmp_path))
        for name in temporaries(tmp_path):
            (tmp_path / name).unlink()
    assert halves  # some were killed in the middle


def test_one_lock_at_a_time(tmp_path):
    with locked(tmp_path / "a"):
        with pytest.raises(OutputError, match="at work on it"), locked(tmp_path / "a"):
            pass
        with locked(tmp_path / "b"):
            pass
    with locked(tmp_path / "a", wait=1):
        pass
    with pytest.raises(OutputError, match="cannot be locked"), locked(tmp_path / "absent" / "a"):
        pass
    assert not (tmp_path / "absent").exists()
    with locked(tmp_path / ("é" * 127)):  # its lock's name must fit as well
        pass


@posix
def test_a_link_and_its_target_share_a_lock(tmp_path):
    (tmp_path / "link").symlink_to("a")
    with locked(tmp_path / "a"), pytest.raises(OutputError, match="at work on it"), locked(tmp_path / "link"):
        pass


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, time\nfrom veilkern.data.files import locked\n"
        "with locked(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with pytest.raises(OutputError), locked(tmp_path / "a", wait=0.1):
        pass
    child.kill()
    child.wait()
    with locked(tmp_path / "a"):
        pass


PLAIN = [
    "Ann",
    "a.b",
    ".hidden",
    "Zoë",
    "日" * 85,
    "x" * 255,
    " a",
    "a b",
    "CONSOLE",
    "COM0",
    "COM10",
    "a.CON",
    "con-1",
    "😀" * 63,
]
NOT_PLAIN = {
    "nothing": ["", ".", ".."],
    "leaves its folder": ["a/b", "/a", "a\\b", "..\\a", "c:", "a:b"],
    "characters that Windows refuses": [
        "a?",
        "a*b",
        "<a",
        "a>",
        'a"',
        "a|b",
        "a\n",
        "\n",
        "a\r",
        "\x1b[31m",
        "a\0",
        "\x1f",
    ],
    "an end that Windows takes off": ["a.", "a ", "a. ", "a .", "...", " "],
    "devices": [
        "CON",
        "con",
        "Prn",
        "AUX",
        "NUL",
        "nul.txt",
        "NUL .a",
        "com1",
        "COM¹",
        "LPT9.png",
        "CONIN$",
        "conout$",
    ],
    "too long": ["x" * 256, "日" * 86, "😀" * 64],
    "not text": ["\ud800", "a\udcff"],
}


def test_plain_names():
    assert [name for name in PLAIN if not is_plain_name(name)] == []
    assert [name for names in NOT_PLAIN.values() for name in names if is_plain_name(name)] == []


def test_plain_names_can_be_written_and_come_back(tmp_path):
    for name in PLAIN:
        (tmp_path / name).mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PLAIN)


@posix
def test_inside_stays_inside(tmp_path):
    root = tmp_path / "out"
    root.mkdir()
    (root / "away").symlink_to(tmp_path)
    assert inside(root, "Ann", "a.png") == root / "Ann" / "a.png"
    for parts in (("..", "a"), ("a/b",), ("away", "a.png")):
        with pytest.raises(OutputError):
            inside(root, *parts)
