"""VeilBank: what it keeps, and that nothing damaged or forged gets in."""

from __future__ import annotations

import json
import stat

import pytest
import torch
from safetensors.torch import save_file

import veilkern as vk
from veilkern.bank_file import digest_1 as _digest
from veilkern.errors import BankError, OutputError


def bank(people=3, side=8, **change):
    veils = torch.randint(
        0, 256, (people, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    values = {
        "veils": veils,
        "names": [f"p{i}" for i in range(people)],
        "blend": 51,
        "records": [{"status": "converged"}] * people,
        "model": {"name": "net", "fingerprint": "f"},
        "config": {"steps": 3},
        "key_id": "k",
        "version": "0",
    }
    return vk.VeilBank(**(values | change))


def test_round_trip_and_mode(tmp_path):
    one = bank()
    path = tmp_path / "veils.safetensors"
    one.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    two = vk.VeilBank.load(path)
    assert torch.equal(one.veils, two.veils)
    assert (one.names, one.blend, one.records, one.model, one.config) == (
        two.names,
        two.blend,
        two.records,
        two.model,
        two.config,
    )
    one.save(tmp_path / "again")
    assert path.read_bytes() == (tmp_path / "again").read_bytes()
    assert two.size == (8, 8) and two.alpha == 0.2 and two.rows(["p2", "p0"]).tolist() == [2, 0]
    with pytest.raises(KeyError, match="no veil for nobody"):
        two.rows(["nobody"])


def test_repr_shows_no_secret():
    text = repr(bank(key="00ff00ff00ff"))
    assert "00ff" not in text and "tensor" not in text


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "veils.safetensors"
    bank().save(path)
    whole = path.read_bytes()
    for cut in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(BankError, match="veils.safetensors: not a veil file, or truncated"):
            vk.VeilBank.load(path)


def test_any_changed_byte_is_refused(tmp_path):
    path = tmp_path / "veils.safetensors"
    bank(people=1, side=4).save(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        try:
            loaded = vk.VeilBank.load(path)
        except BankError:
            continue
        # The header may be padded or spelled otherwise; then everything must still be the same.
        assert torch.equal(loaded.veils, bank(people=1, side=4).veils) and loaded.names == ["p0"], place


def forge(path, veils=None, names=("p0",), meta=(), about=()):
    """A file with a good checksum and other content, as somebody with bad intentions would make it."""
    veils = torch.zeros((1, 3, 4, 4), dtype=torch.uint8) if veils is None else veils
    text = json.dumps(
        {
            "names": list(names),
            "blend": 51,
            "records": [],
            "model": {},
            "config": {},
            "key_id": "",
            "key": "",
            "version": "0",
        }
        | dict(about)
    )
    entry = {"version": 1, "about": text, "sha256": _digest(veils, text) if veils.dtype == torch.uint8 else ""} | dict(
        meta
    )
    save_file({"veils": veils}, path, {"veilkern.bank": json.dumps(entry)})


@pytest.mark.parametrize(
    "options,words",
    [
        ({"meta": {"version": 3}}, "format 3; this veilkern reads 1 and 2"),
        ({"meta": {"about": 3}}, "not the parts of a veil bank"),
        ({"meta": {"sha256": "0" * 64}}, "does not match its checksum"),
        ({"meta": {"about": "{"}}, "damaged description"),
        ({"veils": torch.zeros(1, 3, 4, 4)}, "veils must be uint8"),
        ({"veils": torch.zeros((1, 1, 4, 4), dtype=torch.uint8)}, "veils must be uint8"),
        ({"names": ("a", "b")}, "names must have 1 entries"),
        ({"names": ("../../etc",)}, "plain folder names"),
        ({"names": ("",)}, "plain folder names"),
        ({"names": (3,)}, "plain folder names"),
        ({"about": {"blend": 0}}, "blend must be an integer 1..254"),
        ({"about": {"blend": "51"}}, "blend must be an integer"),
        ({"about": {"extra": 1}}, "damaged description"),
        ({"about": {"records": {}}}, "records must be a list"),
    ],
)
def test_forged_files_are_refused(tmp_path, options, words):
    forge(tmp_path / "bank", **options)
    with pytest.raises(BankError, match=words) as caught:
        vk.VeilBank.load(tmp_path / "bank")
    assert str(tmp_path / "bank") in str(caught.value)


def test_repeated_names_absent_files_and_other_files(tmp_path):
    forge(tmp_path / "bank", torch.zeros((2, 3, 4, 4), dtype=torch.uint8), names=("a", "a"))
    with pytest.raises(BankError, match="unique"):
        vk.VeilBank.load(tmp_path / "bank")
    with pytest.raises(BankError, match="no such veil file"):
        vk.VeilBank.load(tmp_path / "absent")
    save_file({"weights": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(BankError, match="not a veil bank"):
        vk.VeilBank.load(tmp_path / "other")


def test_a_header_that_promises_more_than_the_file_holds(tmp_path):
    header = json.dumps(
        {"veils": {"dtype": "U8", "shape": [10**6, 3, 8192, 8192], "data_offsets": [0, 10**6 * 3 * 8192**2]}}
    )
    (tmp_path / "huge").write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0" * 64)
    with pytest.raises(BankError, match="truncated"):
        vk.VeilBank.load(tmp_path / "huge")


def test_a_full_disk_keeps_the_old_bank(tmp_path, monkeypatch):
    path = tmp_path / "veils.safetensors"
    bank().save(path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("veilkern.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        bank(people=5).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_join():
    one, two = bank(2), bank(2, names=["q0", "q1"])
    both = one.join(two)
    assert both.names == ["p0", "p1", "q0", "q1"] and torch.equal(both.veils[2:], two.veils)
    with pytest.raises(ValueError, match="both banks have a veil of p0"):
        one.join(one)
    for change in ({"blend": 60}, {"model": {"fingerprint": "g"}}, {"config": {}}):
        with pytest.raises(ValueError, match="differ in"):
            one.join(bank(2, names=["q0", "q1"], **change))


@pytest.mark.parametrize(
    "change,words",
    [
        ({"veils": torch.zeros(3, 3, 8, 8)}, "veils must be uint8"),
        ({"names": ["a"]}, "names must have 3 entries"),
        ({"names": ["a", "a", "b"]}, "unique"),
        ({"names": ["a", "..", "b"]}, "plain folder names"),
        ({"blend": 255}, "1..254"),
        ({"records": [{}]}, "records must have 3 entries"),
    ],
)
def test_wrong_arguments(change, words):
    with pytest.raises(ValueError, match=words):
        bank(**change)
