"""VeilBank: what it keeps, and that nothing damaged or forged gets in."""

from __future__ import annotations

import copy
import json
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

import veilkern as vk
from veilkern.errors import BankError, OutputError
from veilkern.veils.bank_file import digest_1 as _digest


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


def test_what_is_shown_of_a_bank():
    wide = vk.VeilBank(torch.zeros(2, 3, 4, 9, dtype=torch.uint8), ["a", "b"], 51)
    assert "2 veils of 4 x 9, blend 51/255" in repr(wide)


@pytest.mark.parametrize("blend,fine", [(0, False), (1, True), (254, True), (255, False), (True, False), (51.0, False)])
def test_a_blend_that_shows_and_hides_something(tmp_path, blend, fine):
    """At 0 nothing is left of the photo, at 255 nothing is hidden."""
    if not fine:
        with pytest.raises(ValueError, match="blend must be an integer 1..254"):
            bank(blend=blend)
        return
    bank(blend=blend).save(tmp_path / "bank")
    assert vk.VeilBank.load(tmp_path / "bank").blend == blend


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
        ({"meta": {"version": 4}}, "format 4; this veilkern reads 1, 2, 3"),
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
        ({"about": {"records": [1]}}, "records must be dictionaries"),
        ({"about": {"records": [{"photo_ids": 1}]}}, "photo_ids of records must be list"),
        ({"about": {"key": "no hex"}}, "must be text in hex"),
        ({"about": {"model": []}}, "model must be a dict"),
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

    monkeypatch.setattr("veilkern.data.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        bank(people=5).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_join():
    one, two = bank(2), bank(2, names=["q0", "q1"], config={"steps": 3, "photos_in_flight": 9})
    three = bank(1, names=["r"], records=[])
    both = one.join(two, three)
    assert both.names == ["p0", "p1", "q0", "q1", "r"] and torch.equal(both.veils[2:4], two.veils)
    assert both.records == [*one.records, *two.records, {}] and both.key_id == "k"
    with pytest.raises(ValueError, match="both banks have a veil of p0"):
        one.join(one)
    for change in ({"blend": 60}, {"model": {"fingerprint": "g"}}, {"config": {}}, {"veils": both.veils[:2, :, 1:]}):
        with pytest.raises(ValueError, match="differ in"):
            one.join(bank(2, names=["q0", "q1"]), bank(2, **{"names": ["r0", "r1"]} | change))
    with pytest.raises(ValueError, match=r"differ in config: steps 3 \(now 5\)$"):
        one.join(bank(2, names=["q0", "q1"], config={"steps": 5}))


def test_join_in_place_of_earlier_veils():
    one = bank(3)
    new = bank(2, names=["p1", "q"], veils=255 - one.veils[:2], records=[{"generation": 1}, {}], key_id="other")
    both = one.join(new, replace=True)
    assert both.names == ["p0", "p1", "p2", "q"] and both.generations == [0, 1, 0, 0]
    assert torch.equal(both.veils, torch.stack([one.veils[0], new.veils[0], one.veils[2], new.veils[1]]))
    assert both.key_ids == ["k", "other", "k", "other"]


def test_each_person_keeps_the_key_of_its_veil(tmp_path):
    """Joining banks of different keys neither loses a key nor gives anybody another's."""
    mixed = bank(2, key_id="k1", key="11" * 16).join(
        bank(1, names=["q"], key_id="k2", key="22" * 16, records=[]),
        bank(1, names=["r"], key_id="k3"),  # crafted with a key that the user keeps
    )
    mixed.save(tmp_path / "bank")
    for found in (mixed, vk.VeilBank.load(tmp_path / "bank")):
        assert found.key_ids == ["k1", "k1", "k2", "k3"] and found.key_id == "" and found.key == ""
        keys = [found.key_of(name) for name in found.names]
        assert keys == [b"\x11" * 16, b"\x11" * 16, b"\x22" * 16, None]
        assert [found.record(name)["key_id"] for name in found.names] == found.key_ids
    again = mixed.take(["q"])
    assert (again.key_id, again.key, again.keys) == ("k2", "22" * 16, {})
    assert "22" * 16 not in str(vars(mixed.remove("q")))  # no key of somebody who is gone
    alike = bank(1, key="11" * 16).join(bank(1, names=["q"], key="11" * 16))
    assert (alike.key_id, alike.key, alike.keys, alike.records[0]) == ("k", "11" * 16, {}, {"status": "converged"})


def test_take_remove_and_contains():
    one = bank(4, records=[{"steps": i} for i in range(4)])
    for who in (["p3", "p1"], [3, 1], torch.tensor([3, 1]), iter(["p3", "p1"])):
        some = one.take(who)
        assert some.names == ["p3", "p1"] and torch.equal(some.veils, one.veils[[3, 1]])
        assert [r["steps"] for r in some.records] == [3, 1] and some.rows("p1").tolist() == [1]
    assert one.take("p2").names == ["p2"] and one.take([]).names == [] and len(one.take(torch.tensor([]))) == 0
    left = one.remove(["p0", "p2"])
    assert left.names == ["p1", "p3"] and torch.equal(left.veils, one.veils[1::2]) and one.remove("p0").names[0] == "p1"
    assert "p0" in one and "p0" not in left and 0 not in one and ["p0"] not in one
    for who, error in ((["x"], KeyError), ([4], ValueError), ([-1], ValueError), (["p0", "p0"], ValueError)):
        with pytest.raises(error):
            one.take(who)
    for who in ([0, 0], ["p0", 1], [True], torch.tensor([[0]])):
        with pytest.raises((ValueError, TypeError, KeyError)):
            one.take(who)
    with pytest.raises(KeyError, match="no veil for x"):
        one.remove(["p0", "x"])


def test_rename():
    one = bank(3)
    two = one.rename({"p0": "p1", "p1": "p0"}).rename({"p2": "Zoë"})
    assert two.names == ["p1", "p0", "Zoë"] and torch.equal(two.veils, one.veils) and one.names == ["p0", "p1", "p2"]
    assert two.record("Zoë") == {"key_id": "k", "generation": 0, "status": "converged", "name": "Zoë", "keyed_as": "p2"}
    assert two.rename({"Zoë": "z"}).record("z")["keyed_as"] == "p2"  # the name that keyed the start
    assert two.next_generations() == one.next_generations() == {"p0": 1, "p1": 1, "p2": 1}
    assert bank(2, records=[{"generation": 3}, {"keyed_as": "p0"}]).next_generations() == {"p0": 4}
    assert bank(2, records=[]).next_generations() == {"p0": 1, "p1": 1}
    assert bank(3, records=[]).rename({"p0": "z"}).records == [{"name": "z", "keyed_as": "p0"}, {}, {}]
    for names, error in (({"x": "y"}, KeyError), ({"p0": "p1"}, ValueError), ({"p0": "a/b"}, ValueError)):
        with pytest.raises(error):
            one.rename(names)


def test_one_name_is_one_person():
    assert bank().rows("p1").tolist() == [1]
    with pytest.raises(KeyError, match="no veil for Bill_Clinton'"):
        bank().rows("Bill_Clinton")
    for wrong in (3, [["p0"]]):
        with pytest.raises(TypeError):
            bank().rows(wrong)
    with pytest.raises(KeyError, match="no veil for 3, x"):
        bank().rows(["x", 3])


def test_rows_look_at_no_other_name():
    """The index is made once: a lookup does not go through the names of the bank."""
    one = bank()

    class Untouchable(list):
        def __iter__(self):
            raise AssertionError("gone through")

        __getitem__ = __contains__ = index = __iter__

    object.__setattr__(one, "names", Untouchable(one.names))
    assert one.rows(["p2", "p0"]).tolist() == [2, 0] and "p1" in one


def test_a_bank_does_not_change_with_the_lists_it_was_made_from():
    names, records = ["a", "b", "c"], [{}, {}, {}]
    one = bank(names=names, records=records)
    names[0], records[0] = "z", {"generation": 7}
    assert one.names == ["a", "b", "c"] and one.generations == [0, 0, 0] and one.rows("a").tolist() == [0]


def test_update_bank(tmp_path):
    path = tmp_path / "bank"
    assert vk.update_bank(path, lambda now: bank(1) if now is None else now).names == ["p0"]
    before = path.stat()
    vk.update_bank(path, lambda now: now)
    assert path.stat().st_mtime_ns == before.st_mtime_ns  # nothing to save

    def fail(now):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        vk.update_bank(path, fail)
    assert vk.VeilBank.load(path).names == ["p0"]
    path.write_bytes(b"damaged")
    with pytest.raises(BankError):
        vk.update_bank(path, lambda now: bank(1))
    assert path.read_bytes() == b"damaged"


def test_updates_at_once_lose_nothing(tmp_path):
    path = tmp_path / "bank"

    def add(name):
        return vk.update_bank(
            path, lambda now: bank(1, names=[name]) if now is None else now.join(bank(1, names=[name]))
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, [f"p{i}" for i in range(40)]))
    assert sorted(vk.VeilBank.load(path).names) == sorted(f"p{i}" for i in range(40))


def test_saving_where_a_bank_is_already(tmp_path):
    bank(1).save(tmp_path / "bank", replace=False)
    before = (tmp_path / "bank").read_bytes()
    with pytest.raises(OutputError, match="there already"):
        bank(2).save(tmp_path / "bank", replace=False)
    assert (tmp_path / "bank").read_bytes() == before


@pytest.mark.parametrize(
    "change,words",
    [
        ({"veils": torch.zeros(3, 3, 8, 8)}, "veils must be uint8"),
        ({"names": ["a"]}, "names must have 3 entries"),
        ({"names": ["a", "a", "b"]}, "unique"),
        ({"names": ["a", "..", "b"]}, "plain folder names"),
        ({"blend": 255}, "1..254"),
        ({"records": [{}]}, "records must have 3 entries"),
        ({"veils": [1, 2]}, "veils must be uint8"),
        ({"veils": torch.zeros(3, 3, 8, 8, dtype=torch.uint8).to_sparse()}, "veils must be a dense tensor"),
        ({"veils": torch.zeros((3, 3, 0, 8), dtype=torch.uint8)}, "sides of 1..65535"),
        ({"names": "abc"}, "names must be a list"),
        ({"names": ["a", "b", "c\n"]}, "plain folder names"),
        ({"names": ["a", "b", 3]}, "plain folder names"),
        ({"blend": True}, "1..254"),
        ({"records": [1, 2, 3]}, "records must be dictionaries, got int at 0"),
        ({"records": [{}, None, {}]}, "records must be dictionaries, got NoneType at 1"),
        ({"records": "abc"}, "records must be a list"),
        ({"records": [{"photo_ids": 3}] * 3}, "photo_ids of records must be list"),
        ({"records": [{"photo_ids": [3]}] * 3}, "photo_ids of records must be text"),
        ({"records": [{"status": None}] * 3}, "status of records must be str"),
        ({"records": [{"steps": True}] * 3}, "steps of records must be int"),
        ({"records": [{"generation": -1}] * 3}, "generation of records must be 0 or more"),
        ({"records": [{"key_id": 7}] * 3}, "key_id of records must be str"),
        ({"model": [1]}, "model must be a dict"),
        ({"config": None}, "config must be a dict"),
        ({"version": 1}, "version must be a str"),
        ({"keys": {"a": 1}}, "key and keys must be text in hex"),
        ({"key": "secret"}, "key and keys must be text in hex"),
    ],
)
def test_wrong_arguments(change, words):
    with pytest.raises(ValueError, match=words) as caught:
        bank(**change)
    assert "secret" not in str(caught.value)


def test_copies_find_their_rows():
    for twin in (copy.deepcopy(bank()), pickle.loads(pickle.dumps(bank()))):
        assert twin.rows(["p2"]).tolist() == [2] and torch.equal(twin.veils, bank().veils)
