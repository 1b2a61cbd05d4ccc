"""The file of a bank: both formats, what happens to it while it is read or mapped, and damage of every kind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import torch
from bank_damage import damaged, load_or_refuse, parts, put, same
from safetensors import safe_open
from safetensors.torch import load_file

import veilkern as vk
from veilkern.errors import BankError
from veilkern.veils.bank_file import digest

# Written by veilkern 0.1.0 with format 1.
FORMAT_1 = (
    "c-o~>$!^0S5beJ2`!V8dMK*X#ZtXwx6h{^|Luw^~$R?F4%l}@m(~@qdBFiwtoA+RN58E5<s8O2EK~Y8(O;a?i(JK_QDU_n0Q87hBR3|!BR)rJ^8u"
    "mP=m!Rr};vh6(f*1{>JR|`Rvxr9&qHK@{IdSuhf#-VQ6U=fR48k~~K4H1%LPjBAaf}B8g5v}kMw-c`>Imy3Nl-Qe!OUXV3yh>*<x=os(&buArC?"
    "EYF=;x?6yCao`MdudhU1eqE!aA<=V45U?*~B`Mv+C%C4<@88F?WlP%g?sC|k}gUeGz%4FN5xv3slgjm-2Yge`oMnVH62R6;IG_5rScGJmOEyhtV"
    "Wh1SVkm-98kN>R0}Y`t#2Ho*j#W%<_rUqn}D{9W`9A;a3674t&<p|q;|u%vyHzSnP`tkIutVe8|{7@DcK1!yBb$H+0(HNglw#K8_8JE(QO<h%l<"
    ";Um|<{<vv2Hn+BScK7xV4v&scPS4ISF0Za{Ztw2j0s0y5!~"
)


def known() -> vk.VeilBank:
    """The bank in FORMAT_1."""
    records = [
        {"name": "Ann", "status": "converged", "steps": 3, "photo_ids": ["00ff"]},
        {"name": "Bob", "status": "step limit", "steps": 3, "photo_ids": []},
    ]
    veils = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
    net = {"name": "net", "fingerprint": "f"}
    return vk.VeilBank(veils, ["Ann", "Bob"], 51, records, net, {"steps": 3}, "0011223344556677", "00" * 32, "0.1.0")


def small(value: int, people: int = 20) -> vk.VeilBank:
    """Veils of one colour."""
    return vk.VeilBank(torch.full((people, 3, 64, 64), value, dtype=torch.uint8), [f"p{i}" for i in range(people)], 51)


def test_format_1_is_read_and_saved_as_format_2(tmp_path):
    (tmp_path / "old").write_bytes(zlib.decompress(base64.b85decode(FORMAT_1)))
    bank = vk.VeilBank.load(tmp_path / "old")
    assert same(bank, known()) and bank.key_of("Ann") == bytes(32)
    bank.save(tmp_path / "new")
    assert same(vk.VeilBank.load(tmp_path / "new"), bank)


def test_format_2_is_plain_safetensors_and_stays(tmp_path):
    path = tmp_path / "veils.safetensors"
    known().save(path)
    found = load_file(path)
    assert set(found) == {"veils", "names", "records", "about"} and torch.equal(found["veils"], known().veils)
    assert bytes(found["names"].tolist()) == b"Ann\nBob"
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["veilkern.bank"])["version"] == 2
    whole = path.read_bytes()
    # Pinned: the same bank is the same file in every version that writes format 2.
    assert hashlib.sha256(whole).hexdigest() == "eb16fa0fa5023edd27d4d4a466c733fed67b6449e572200c2a38fb3dd59412bc"
    assert (8 + int.from_bytes(whole[:8], "little")) % 64 == 0


def test_the_header_does_not_grow_with_the_persons(tmp_path):
    many = vk.VeilBank(torch.zeros(5000, 3, 1, 1, dtype=torch.uint8), [f"{i:04}" * 10 for i in range(5000)], 51)
    many.save(tmp_path / "bank")
    assert int.from_bytes((tmp_path / "bank").read_bytes()[:8], "little") < 1000


@pytest.mark.parametrize(
    "people",
    [
        200_000,
        pytest.param(1_000_000, marks=[pytest.mark.large, pytest.mark.skipif("not os.environ.get('VEILKERN_LARGE')")]),
    ],
)
def test_many_people(tmp_path, people):
    names = [f"person-{i:07d}" for i in range(people)]
    veils = torch.randint(0, 256, (people, 3, 1, 1), dtype=torch.uint8)
    records = [{"status": "converged", "steps": i % 80} for i in range(people)]
    start = time.perf_counter()
    vk.VeilBank(veils, names, 51, records).save(tmp_path / "bank")
    bank = vk.VeilBank.load(tmp_path / "bank")
    assert torch.equal(bank.rows(names), torch.arange(people))
    assert time.perf_counter() - start < 30e-6 * people + 1  # linear, with room for a busy machine
    assert torch.equal(bank.veils, veils) and bank.names == names and bank.records == records


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_bank_that_is_not_read(tmp_path, mmap, sealed):
    """check=False: damage in veils goes unseen, any other does not; an older file is read whole."""
    path, size = tmp_path / "bank", (5, 3, 8, 8)
    scheme = {"blend": 0, "levels": 64} if sealed else {"blend": 51}
    veils = torch.randint(0, 193, size, dtype=torch.uint8)
    vk.VeilBank(veils, list("abcde"), records=[{"status": "converged"}] * 5, **scheme).save(path)
    assert same(vk.VeilBank.load(path, mmap=mmap, check=False), vk.VeilBank.load(path))
    whole, place = path.read_bytes(), path.read_bytes().index(veils.numpy().tobytes())
    for at, seen in ((place, False), (place + veils.numel() - 1, False), (place + veils.numel() + 2, True)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(BankError):
            vk.VeilBank.load(path, mmap=mmap)
        if seen:
            with pytest.raises(BankError, match="does not match its checksum"):
                vk.VeilBank.load(path, mmap=mmap, check=False)
        else:
            assert vk.VeilBank.load(path, mmap=mmap, check=False).names == list("abcde")
    path.write_bytes(whole[: len(whole) - 1])
    with pytest.raises(BankError, match="truncated"):
        vk.VeilBank.load(path, mmap=mmap, check=False)


def test_an_older_file_without_a_checksum_of_its_head_is_read_whole(tmp_path):
    path = tmp_path / "bank"
    small(7).save(path)
    blob = path.read_bytes()
    before = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]["veilkern.bank"]
    after = json.dumps({k: v for k, v in json.loads(before).items() if k != "head"})
    written = [json.dumps(text)[1:-1].encode() for text in (before, after)]
    path.write_bytes(blob.replace(written[0], written[1] + b" " * (len(written[0]) - len(written[1]))))
    assert same(vk.VeilBank.load(path, check=False), small(7))
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(bytes([7] * 100)) + 50] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BankError, match="does not match its checksum"):
        vk.VeilBank.load(path, check=False)


def test_an_empty_bank_and_odd_layouts(tmp_path):
    empty = vk.VeilBank(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), [], 51)
    empty.save(tmp_path / "empty")
    assert vk.VeilBank.load(tmp_path / "empty").names == [] and vk.VeilBank.load(
        tmp_path / "empty", mmap=True
    ).size == (8, 8)
    veils = torch.randint(0, 256, (4, 3, 8, 6), dtype=torch.uint8)
    for odd in (
        veils.to(memory_format=torch.channels_last),
        veils[::2],
        veils.transpose(2, 3),
        veils[:, [0]].expand(4, 3, 8, 6),
    ):
        vk.VeilBank(odd, [str(i) for i in range(len(odd))], 51).save(tmp_path / "odd")
        assert torch.equal(vk.VeilBank.load(tmp_path / "odd").veils, odd)


def test_what_cannot_be_loaded_cannot_be_saved(tmp_path):
    widest = vk.VeilBank(torch.zeros(1, 3, 1, 65535, dtype=torch.uint8), ["a"], 51)
    widest.save(tmp_path / "bank")
    assert vk.VeilBank.load(tmp_path / "bank").size == (1, 65535)
    with pytest.raises(ValueError, match="sides of 1..65535"):
        vk.VeilBank(torch.zeros(1, 3, 1, 65536, dtype=torch.uint8), ["a"], 51)
    before = (tmp_path / "bank").read_bytes()
    for value in (torch.zeros(2), {1, 2}, b"bytes", deep(100_000)):
        with pytest.raises(ValueError, match="records must hold only what JSON can"):
            vk.VeilBank(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"], 51, [{"more": value}]).save(
                tmp_path / "bank"
            )
    assert (tmp_path / "bank").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def deep(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.thorough
@pytest.mark.process
def test_saving_takes_no_copy_of_the_veils(tmp_path):
    code = (
        "import sys, resource, torch, veilkern as vk\n"
        "bank = vk.VeilBank(torch.full((100, 3, 1000, 1000), 3, dtype=torch.uint8), [str(i) for i in range(100)], 51)\n"
        "bank.take(['1']).save(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "bank.save(sys.argv[1])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # MiB; the veils have 286


@pytest.mark.parametrize("mmap", [False, True])
def test_a_bank_replaced_by_a_save_stays_what_it_was(tmp_path, mmap):
    path = tmp_path / "veils.safetensors"
    small(1).save(path)
    bank = vk.VeilBank.load(path, mmap=mmap)
    small(2).save(path)
    assert (bank.veils == 1).all() and (vk.VeilBank.load(path).veils == 2).all()
    bank.veils.fill_(3)  # a mapping is private: nothing reaches the file
    assert (vk.VeilBank.load(path).veils == 2).all()


def test_a_file_written_over_in_place_does_not_reach_a_loaded_bank(tmp_path):
    path, other = tmp_path / "veils.safetensors", tmp_path / "other"
    small(1).save(path)
    small(2).save(other)
    bank = vk.VeilBank.load(path)
    shutil.copyfile(other, path)  # as `cp` does
    assert (bank.veils == 1).all() and (vk.VeilBank.load(path).veils == 2).all()


@pytest.mark.process
def test_a_file_truncated_after_loading_ends_nothing(tmp_path):
    path = tmp_path / "veils.safetensors"
    small(1, 200).save(path)
    code = (
        "import os, sys, veilkern as vk\n"
        "bank = vk.VeilBank.load(sys.argv[1])\n"
        "os.truncate(sys.argv[1], 0)\n"
        "assert (bank.veils == 1).all()\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


@pytest.mark.process
def test_loading_while_another_process_saves(tmp_path):
    path = tmp_path / "veils.safetensors"
    small(1).save(path)
    code = (
        "import sys, torch, veilkern as vk\n"
        "banks = [vk.VeilBank(torch.full((n, 3, 64, 64), n, dtype=torch.uint8), [f'p{i}' for i in range(n)], 51)"
        " for n in (20, 30)]\n"
        "while True:\n"
        "    for bank in banks: bank.save(sys.argv[1])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        seen, loads, deadline = set(), 0, time.monotonic() + 60
        while (len(seen) < 3 or loads < 150) and time.monotonic() < deadline:
            loads += len(seen) > 1
            bank = vk.VeilBank.load(path)  # never a false "damaged"
            assert (bank.veils == (1 if int(bank.veils[0, 0, 0, 0]) == 1 else len(bank))).all()
            seen.add(int(bank.veils[0, 0, 0, 0]))
    finally:
        child.kill()
        child.wait()
    assert seen == {1, 20, 30}


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "veils.safetensors"
    small(1).save(path)
    size = path.stat().st_size
    plain = os.fstat

    def longer(handle):  # as if the file had been cut right after it was looked at
        found = plain(handle)
        os.truncate(path, size - 5000)
        return found

    monkeypatch.setattr("veilkern.veils.bank_file.os.fstat", longer)
    with pytest.raises(BankError, match="truncated while it was read"):
        vk.VeilBank.load(path)


@pytest.mark.parametrize(
    "shape,offsets,words",
    [
        ([2**30, 3, 2, 2], [0, 24], "veils must be uint8"),
        ([2**30, 3, 2, 2], [0, 12 * 2**30], "overlap or leave gaps"),
        ([0, 3, 2**62, 2**62], [0, 0], "overlap or leave gaps"),
        ([2, 3, 2, 2], [24, 0], "overlap or leave gaps"),
        ([2, 3, 2, 2], [0, -24], "'veils' is no tensor"),
        ([2, 3, 2, 2.0], [0, 24], "'veils' is no tensor"),
        ([2, 3, 2, 2], [0, 24, 24], "'veils' is no tensor"),
        ([2, 3, 2, 2], [0, 2**63], "'veils' is no tensor"),
        ([0, 3, 2, 2**63], [0, 24], "'veils' is no tensor"),
        ([24], [0, 24], "veils must be uint8"),
    ],
)
def test_lengths_are_checked_before_memory_is_taken(tmp_path, shape, offsets, words):
    known().save(tmp_path / "bank")
    header, rest = parts((tmp_path / "bank").read_bytes())
    header["veils"] = {"dtype": "U8", "shape": shape, "data_offsets": offsets}
    (tmp_path / "bank").write_bytes(put(header, rest))
    with pytest.raises(BankError, match=words):
        vk.VeilBank.load(tmp_path / "bank")


def test_files_longer_or_shorter_than_their_header_says(tmp_path):
    known().save(tmp_path / "bank")
    whole = (tmp_path / "bank").read_bytes()
    for data in (whole + b"\0", whole + whole, whole[:-1]):
        (tmp_path / "bank").write_bytes(data)
        with pytest.raises(BankError, match="truncated: wanted"):
            vk.VeilBank.load(tmp_path / "bank")
    for length in (len(whole) - 7, 10**8, 2**63):
        (tmp_path / "bank").write_bytes(length.to_bytes(8, "little") + whole[8:])
        with pytest.raises(BankError, match=f"a header of {length} bytes in a file of {len(whole)}"):
            vk.VeilBank.load(tmp_path / "bank")


@pytest.mark.parametrize("mmap", [False, True])
def test_the_parts_may_come_in_any_order(tmp_path, mmap):
    known().save(tmp_path / "bank")
    header, rest = parts((tmp_path / "bank").read_bytes())
    for order in (["names", "veils", "about", "records"], ["about", "records", "names", "veils"]):
        moved, body = {"__metadata__": header["__metadata__"]}, b""
        for name in order:
            begin, end = header[name]["data_offsets"]
            moved[name] = {**header[name], "data_offsets": [len(body), len(body) + end - begin]}
            body += rest[begin:end]
        (tmp_path / "moved").write_bytes(put(moved, body))
        assert same(vk.VeilBank.load(tmp_path / "moved", mmap=mmap), known())


def test_tensors_that_leave_gaps_or_share_bytes(tmp_path):
    """Bytes that no tensor holds would escape the checksum; safetensors' own reader refuses such files too."""
    known().save(tmp_path / "bank")
    header, rest = parts((tmp_path / "bank").read_bytes())
    start = header["names"]["data_offsets"][0]
    for name in ("names", "records", "about"):
        header[name]["data_offsets"] = [place + 5 for place in header[name]["data_offsets"]]
    (tmp_path / "bank").write_bytes(put(header, rest[:start] + b"extra" + rest[start:]))
    with pytest.raises(BankError, match="overlap or leave gaps"):
        vk.VeilBank.load(tmp_path / "bank")
    header["names"]["data_offsets"] = [start - 7, start]  # within the veils
    (tmp_path / "bank").write_bytes(put(header, rest[:start] + b"extra" + rest[start:]))
    with pytest.raises(BankError, match="overlap or leave gaps"):
        vk.VeilBank.load(tmp_path / "bank")


@pytest.mark.skipif("not sys.platform.startswith('linux')")
def test_a_sparse_file_larger_than_memory_is_refused(tmp_path):
    size = 2**42
    header = {
        "__metadata__": {"veilkern.bank": json.dumps({"version": 2, "sha256": ""})},
        "veils": {"dtype": "U8", "shape": [2**18, 3, 1024, 1024], "data_offsets": [0, 3 * 2**38]},
        **{n: {"dtype": "U8", "shape": [0], "data_offsets": [3 * 2**38] * 2} for n in ("names", "records", "about")},
    }
    path = tmp_path / "bank"
    path.write_bytes(put(header, b""))
    try:
        os.truncate(path, path.stat().st_size + 3 * 2**38)
    except OSError:
        pytest.skip(f"no sparse files of {size} bytes here")
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
        pytest.skip("this system promises memory that it does not have")
    with pytest.raises(BankError, match="do not fit in memory"):
        vk.VeilBank.load(path)


@pytest.mark.parametrize("version", [1, 2])
def test_a_thousand_damages(tmp_path, version):
    """Random damage gives BankError or, where nothing that matters was hit, the same bank; a forgery one that works."""
    path = tmp_path / "veils.safetensors"
    known().save(path)
    whole = path.read_bytes() if version == 2 else zlib.decompress(base64.b85decode(FORMAT_1))
    path.write_bytes(whole)
    good, rng = vk.VeilBank.load(path), random.Random(version)
    loaded = {"same": 0, "forged": 0, "refused": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1000):
        data = damaged(rng, whole)
        bank = load_or_refuse(path, data)
        if bank is None:
            loaded["refused"] += 1
        else:
            path.write_bytes(data)
            assert torch.equal(load_file(path)["veils"], bank.veils)  # the library's own reader agrees
            kind = "forged" if content(data) != content(whole) else "same"
            assert kind == "forged" or same(bank, good)
            loaded[kind] += 1
    assert loaded["refused"] > 500 and loaded["forged"] > 5, loaded
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def content(data: bytes) -> str:
    """The checksum, which a forgery has anew."""
    return json.loads(parts(data)[0]["__metadata__"]["veilkern.bank"])["sha256"]


def test_the_checksum_covers_every_part():
    blobs = {"veils": b"\0" * 12, "names": b"a", "records": b"[]", "about": b"{}"}
    found = {digest([1, 3, 2, 2], blobs), digest([1, 3, 1, 4], blobs)}
    found |= {digest([1, 3, 2, 2], {**blobs, name: b"#" + blob[1:]}) for name, blob in blobs.items()}
    found.add(digest([1, 3, 2, 2], {**blobs, "names": b"a[", "records": b"]"}))
    assert len(found) == 7
