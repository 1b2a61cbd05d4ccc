"""craft(journal=..): what it takes up, and under which key."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import veilkern as vk
from veilkern.crafting.journal import Journal
from veilkern.crafting.run import describe
from veilkern.data.files import locked
from veilkern.errors import OutputError
from veilkern.veils import keyed

SIDE = 16


def noise(people=6, photos=3, seed=0) -> vk.People:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (people, photos, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    return vk.People.from_images(list(images), [f"p{i}" for i in range(people)])


def test_one_craft_at_a_time_on_a_journal(tmp_path):
    path = tmp_path / "j"
    with locked(path), pytest.raises(OutputError, match="another command is at work"):
        vk.craft(model(), noise(), CONFIG, journal=path)
    assert len(vk.craft(model(), noise(), CONFIG, journal=path, progress=False).bank) == 6


def model() -> vk.FaceModel:
    torch.manual_seed(0)
    return vk.FaceModel(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 8)), size=SIDE)


CONFIG = vk.CraftConfig(steps=3, photos_in_flight=2)


def stop_after(done_wanted):
    def progress(done, total):
        if done > done_wanted:
            raise KeyboardInterrupt

    return progress


def same(a: vk.VeilBank, b: vk.VeilBank) -> bool:
    return torch.equal(a.veils, b.veils) and (a.names, a.records, a.key, a.config) == (
        b.names,
        b.records,
        b.key,
        b.config,
    )


def test_a_fresh_key_is_taken_up_too(tmp_path):
    net, people, path = model(), noise(), tmp_path / "j"
    with pytest.raises(vk.CraftInterrupted) as caught:
        vk.craft(net, people, CONFIG, journal=path, progress=stop_after(8))
    assert len(caught.value.result.bank) == 2 and list(Journal.open(path).entries) == ["p0", "p1"]
    with pytest.raises(OutputError, match="there already, with 2 finished veils"):
        vk.craft(net, people, CONFIG, journal=path)
    resumed = vk.craft(net, people, CONFIG, journal=path, resume=True, progress=False)
    assert resumed.key == caught.value.result.key
    assert same(resumed.bank, vk.craft(net, people, CONFIG, key=resumed.key, progress=False).bank) is False  # its key
    assert resumed.bank.key == resumed.key.hex()
    whole = vk.craft(net, people, CONFIG, key=resumed.key, progress=False).bank
    assert torch.equal(resumed.bank.veils, whole.veils) and resumed.bank.records == whole.records
    seeded = vk.CraftConfig(steps=3, photos_in_flight=2, seed=4)
    path.unlink()
    with pytest.raises(vk.CraftInterrupted):
        vk.craft(net, people, seeded, journal=path, progress=stop_after(8))
    again = vk.craft(net, people, CONFIG, journal=path, resume=True, progress=False)
    assert same(again.bank, vk.craft(net, people, seeded, progress=False).bank) and again.key is None


def test_a_key_of_ones_own_is_asked_for(tmp_path):
    net, people, path = model(), noise(), tmp_path / "j"
    with pytest.raises(vk.CraftInterrupted):
        vk.craft(net, people, CONFIG, key=bytes(16), journal=path, progress=stop_after(8))
    with pytest.raises(ValueError, match="crafted with a key of your own"):
        vk.craft(net, people, CONFIG, journal=path, resume=True)
    known, before = {"journal": path, "resume": True}, path.read_bytes()
    for words, arguments in (
        ("key id", (net, people, CONFIG, {"key": bytes(17)})),
        (r"lam 0.\d+ \(now 0.5\)", (net, people, vk.CraftConfig(steps=3, lam=0.5), {"key": bytes(16)})),
        ("network", (vk.FaceModel(net.module, size=SIDE, bgr=True), people, CONFIG, {"key": bytes(16)})),
    ):
        *given, key = arguments
        with pytest.raises(ValueError, match=f"crafted with another {words}"):
            vk.craft(*given, **key, **known)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="resume needs the journal"):
        vk.craft(net, people, CONFIG, resume=True)


def test_other_photos_or_generations_are_crafted_again(tmp_path):
    net, people, path = model(), noise(), tmp_path / "j"
    vk.craft(net, people, CONFIG, key=bytes(16), journal=path, progress=False)
    images = people.images.clone()
    images[0, 0, 0, 0] ^= 1
    changed = vk.People(images, people.offsets, people.names, people.files)
    calls = []
    told = {"key": bytes(16), "progress": lambda done, total: calls.append(done)}
    result = vk.craft(net, changed, CONFIG, journal=path, resume=True, generation={"p3": 1}, **told)
    assert calls[0] == 4 * CONFIG.steps  # who was taken up
    assert [notice.split(":")[0] for notice in result.notices] == ["p0"]
    plain = vk.craft(net, changed, CONFIG, key=bytes(16), generation={"p3": 1}, progress=False)
    assert same(result.bank, plain.bank) and result.bank.generations == [0, 0, 0, 1, 0, 0]


def test_the_key_that_decides(tmp_path):
    """describe: the key given, else the seed's, else none yet."""
    net, seeded = model(), vk.CraftConfig(seed=5)
    ids = [
        describe(net, (SIDE, SIDE), config, key)["key_id"]
        for config, key in ((CONFIG, bytes(16)), (seeded, None), (CONFIG, None), (seeded, None))
    ]
    assert ids[0] == keyed.key_id(bytes(16)) and ids[2] == "" and ids[1] == ids[3] not in (ids[0], "")
    assert vk.craft(net, noise(1), seeded, progress=False).bank.key_id == ids[1]


def test_a_full_disk_ends_a_craft_with_who_is_finished_kept(tmp_path, monkeypatch):
    net, people, path = model(), noise(), tmp_path / "j"
    real, calls = Journal.append, []

    def append(self, record, veil):
        calls.append(record)
        if len(calls) > 3:
            raise OutputError("full")
        real(self, record, veil)

    monkeypatch.setattr(Journal, "append", append)
    with pytest.raises(OutputError, match="full"):
        vk.craft(net, people, CONFIG, key=bytes(16), journal=path, progress=False)
    monkeypatch.undo()
    resumed = vk.craft(net, people, CONFIG, key=bytes(16), journal=path, resume=True, progress=False)
    assert same(resumed.bank, vk.craft(net, people, CONFIG, key=bytes(16), progress=False).bank)
