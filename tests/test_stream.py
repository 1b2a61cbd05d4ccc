"""craft_stream: what craft would give, in the memory of one batch, however it ends."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import stat
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
from craft_cases import KEY, linear_model, people_of
from torch import nn

import veilkern as vk
from veilkern.crafting.journal import Journal
from veilkern.crafting.templates import between
from veilkern.errors import ModelError, OutputError, PhotoError

SIDE = 8
SCHEMES = {
    "blend": vk.CraftConfig(steps=3, photos_in_flight=4),
    "sealed": vk.CraftConfig(steps=3, scheme="sealed", block=(3, 3), photos_in_flight=4),
}
FAST = SCHEMES["blend"]
COUNTS = [3, 1, 2, 5, 1, 1, 4, 2, 60, 1, 2]


def in_parts(people: vk.People, *sizes: int):
    """The persons in items of so many, again and again."""
    first, turn = 0, 0
    while first < len(people):
        last = min(first + sizes[turn % len(sizes)], len(people))
        yield between(people, first, last)
        first, turn = last, turn + 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sizes", [(1,), (3, 1), (100,)])
def test_the_bank_is_that_of_craft(tmp_path, scheme, sizes):
    people, model, config = people_of(COUNTS), linear_model(), SCHEMES[scheme]
    whole = vk.craft(model, people, config, key=KEY, progress=False)
    whole.bank.save(tmp_path / "whole")
    out = tmp_path / "out"
    seen = []
    made = vk.craft_stream(
        model, in_parts(people, *sizes), config, out=out, key=KEY, progress=lambda *done: seen.append(done)
    )
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert torch.equal(made.bank.veils, whole.bank.veils) and made.report == whole.report
    assert seen[-1] == (len(people) * 3, len(people) * 3)
    assert not (tmp_path / "out.journal").exists()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_held_out_photos_are_judged_as_in_craft(tmp_path, scheme):
    """Over several batches, and after a stop: of whom the journal has is judged too."""
    people, model, config = people_of(COUNTS), linear_model(), SCHEMES[scheme]
    crafting, unseen = people.split(2)
    wanted = vk.craft(model, crafting, config, key=KEY, held_out=unseen, progress=False)
    assert sum("held_out" in record for record in wanted.report) == 7  # who has more than one photo
    wanted.bank.save(tmp_path / "wanted")

    def broken():
        yield from itertools.islice(in_parts(people, 1), 6)
        raise PhotoError("the disk is gone")

    how = {"config": config, "out": tmp_path / "out", "key": KEY, "held_out": 2, "progress": False}
    with pytest.raises(PhotoError):
        vk.craft_stream(model, broken(), **how)
    made = vk.craft_stream(model, in_parts(people, 1), resume=True, **how)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "wanted").read_bytes()
    assert made.report == wanted.report
    for bad in (-1, True, 1.5):
        with pytest.raises(ValueError, match="held_out must be"):
            vk.craft_stream(model, in_parts(people, 1), **(how | {"held_out": bad, "out": tmp_path / "bad"}))


def test_no_more_is_held_than_a_batch(tmp_path):
    people, model = people_of([2] * 40), linear_model()
    alive, most = list[weakref.ref](), []

    def stream():
        for part in in_parts(people, 1):
            item = vk.People(part.images.clone(), part.offsets, part.names, part.files)
            alive.append(weakref.ref(item))
            most.append(sum(one() is not None for one in alive))
            yield item
            del item, part

    done_when_asked, veils_held = [], []

    def veils() -> int:
        tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.dtype == torch.uint8]
        return sum(one.shape == (3, SIDE, SIDE) for one in tensors)

    others = veils()  # of other tests

    def asked():
        for number, item in enumerate(stream()):
            journal = tmp_path / "out.journal"
            done_when_asked.append((number, len(Journal.open(journal).entries)))
            if number % 8 == 7:  # to look at all objects takes its time
                veils_held.append(veils() - others)
            yield item

    vk.craft_stream(model, asked(), FAST, out=tmp_path / "out", key=KEY, progress=False)
    assert max(most) <= 8 and len(veils_held) == 5 and max(veils_held) <= 8
    # Who was asked for and is not finished yet: a batch of four, and the one that did not fit any more.
    assert max(number - finished for number, finished in done_when_asked) <= 5


MEMORY = """
import re, sys, torch
from pathlib import Path
from torch import nn
import veilkern as vk

def most():
    return int(re.search(r"^VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text(), re.M)[1]) / 1024

torch.manual_seed(0)
model = vk.FaceModel(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8)))
config = vk.CraftConfig(scheme="sealed", robust="none", steps=1, photos_in_flight=8)

def stream(first, last):
    for n in range(first, last):
        photos = torch.randint(0, 256, (20, 3, 112, 112), dtype=torch.uint8)
        yield vk.People.from_images([photos], [f"p{n}"])

vk.craft_stream(model, stream(0, 16), config, out=sys.argv[1] + "/few", progress=False)
before = most()
vk.craft_stream(model, stream(0, 160), config, out=sys.argv[1] + "/many", progress=False)
print(most() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts a process's memory")
def test_ten_times_the_people_in_the_same_memory(tmp_path):
    """160 persons of 20 photos are 115 MiB, their veils 6."""
    done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 25
    assert len(vk.VeilBank.load(tmp_path / "many")) == 160


def test_a_person_who_fails_has_no_veil_and_costs_nobody_else(tmp_path):
    people, model = people_of([2, 2, 2]), linear_model()
    plain, spoilt = model.module.forward, people.images[2:4].float() / 255

    def forward(x):
        found = plain(x)
        bad = torch.stack([(x - photo).flatten(1).abs().amax(1) < 1e-6 for photo in spoilt]).any(0)
        return torch.where(bad[:, None], torch.nan, found)

    model.module.forward = forward
    made = vk.craft_stream(model, in_parts(people, 1), FAST, out=tmp_path / "out", key=KEY, progress=False)
    assert made.bank.names == ["person-0", "person-2"]
    assert "not finite" in made.report[1]["status"]


def test_items_without_anybody_are_passed_over_and_a_bank_of_nobody_is_not_written(tmp_path):
    people, model = people_of([2, 2]), linear_model()
    parts = [people.take([]), between(people, 0, 1), people.take([]), between(people, 1, 2)]
    made = vk.craft_stream(model, parts, FAST, out=tmp_path / "out", key=KEY, progress=False)
    assert made.bank.names == ["person-0", "person-1"]
    broken = linear_model().module
    broken.forward = lambda x: nn.Sequential.forward(broken, x) * (torch.nan if x.requires_grad else 1)
    model = vk.FaceModel(broken, size=SIDE)
    made = vk.craft_stream(model, parts, FAST, out=tmp_path / "none", key=KEY, progress=False)
    assert len(made.bank) == 0 and [r["status"][:6] for r in made.report] == ["failed"] * 2
    assert not (tmp_path / "none").exists() and not (tmp_path / "none.journal").exists()


def test_a_network_of_nan_is_an_error_early(tmp_path):
    model = linear_model()
    model.module[1].weight.data[:] = float("nan")
    asked = []

    def stream():
        for part in in_parts(people_of([1] * 90), 1):
            asked.append(part)
            yield part

    with pytest.raises(ModelError, match="NaN"):
        vk.craft_stream(model, stream(), FAST, out=tmp_path / "out", key=KEY, progress=False)
    assert len(asked) < 45 and not (tmp_path / "out").exists()


def test_who_comes_again_is_passed_over(tmp_path):
    people, model = people_of([2, 1, 3]), linear_model()
    again = vk.People.from_images([people.photos(2), people.photos(1)], ["person-0", "new"])
    parts = [*in_parts(people, 2), again]
    made = vk.craft_stream(model, parts, FAST, out=tmp_path / "out", key=KEY, progress=False)
    assert made.bank.names == ["person-0", "person-1", "person-2", "new"]
    assert any(notice.startswith("person-0: came again") for notice in made.notices)
    alone = vk.craft(model, people_of([2, 1, 3]), FAST, key=KEY, progress=False)
    assert torch.equal(made.bank.veils[0], alone.bank.veils[0])


@pytest.mark.parametrize("error", [RuntimeError("the source is gone"), KeyboardInterrupt()])
def test_a_stream_that_breaks_loses_nothing(tmp_path, error):
    people, model, out = people_of([2] * 12), linear_model(), tmp_path / "out"

    def broken():
        for number, part in enumerate(in_parts(people, 1)):
            if number == 9:
                raise error
            yield part

    with pytest.raises(type(error)) as caught:
        vk.craft_stream(model, broken(), FAST, out=out, key=KEY, progress=False)
    if isinstance(caught.value, vk.CraftInterrupted):
        assert "8 of 8 veils" in str(caught.value) and len(caught.value.result.report) == 8
    journal = tmp_path / "out.journal"
    assert not out.exists() and len(Journal.open(journal).entries) == 8
    with pytest.raises(OutputError, match="resume"):
        vk.craft_stream(model, in_parts(people, 1), FAST, out=out, key=KEY, progress=False)
    vk.craft_stream(model, in_parts(people, 1), FAST, out=out, key=KEY, progress=False, resume=True)
    vk.craft(model, people, FAST, key=KEY, progress=False).bank.save(tmp_path / "whole")
    assert out.read_bytes() == (tmp_path / "whole").read_bytes() and not journal.exists()


SLOW = """
import sys, time
sys.path.insert(0, sys.argv[2])
from craft_cases import KEY, linear_model, people_of
from test_stream import FAST, in_parts
import veilkern as vk

def slowly():
    for part in in_parts(people_of([2] * 12), 1):
        time.sleep(0.2)
        yield part

vk.craft_stream(linear_model(), slowly(), FAST, out=sys.argv[1], key=KEY, progress=False, threads=1)
"""


def test_killed_it_goes_on_bit_for_bit(tmp_path):
    out, journal = tmp_path / "out", tmp_path / "out.journal"
    process = subprocess.Popen([sys.executable, "-c", SLOW, out, Path(__file__).parent])
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (journal.exists() and len(Journal.open(journal).entries) >= 4):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(Journal.open(journal).entries)
    assert 4 <= finished < 12
    people, model = people_of([2] * 12), linear_model()
    vk.craft_stream(model, in_parts(people, 1), FAST, out=out, key=KEY, progress=False, resume=True)
    vk.craft(model, people, FAST, key=KEY, progress=False, threads=1).bank.save(tmp_path / "whole")
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_two_at_once_and_a_bank_that_is_there(tmp_path):
    people, model, out = people_of([1, 1]), linear_model(), tmp_path / "out"

    def craft(stream):
        return vk.craft_stream(model, stream, FAST, out=out, key=KEY, progress=False)

    def meanwhile():
        with pytest.raises(OutputError, match="at work on it"):
            craft(in_parts(people, 1))
        yield people

    craft(meanwhile())
    before = out.read_bytes()
    with pytest.raises(OutputError, match="there already"):
        craft(in_parts(people, 1))
    assert out.read_bytes() == before


def test_a_bank_written_meanwhile_stays_and_the_veils_too(tmp_path):
    people, model, out = people_of([1, 1]), linear_model(), tmp_path / "out"

    def stream():
        yield people
        out.write_bytes(b"somebody else's")

    with pytest.raises(OutputError, match="there already; kept"):
        vk.craft_stream(model, stream(), FAST, out=out, key=KEY, progress=False)
    assert out.read_bytes() == b"somebody else's"
    assert len(Journal.open(tmp_path / "out.journal").entries) == 2


def test_a_sealed_stream_without_a_key_gives_the_key(tmp_path):
    people, model = people_of([2, 1]), linear_model()
    made = vk.craft_stream(model, [people], SCHEMES["sealed"], out=tmp_path / "out", progress=False)
    assert made.key is not None and vk.VeilBank.load(tmp_path / "out").key == ""


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"people": people_of([1])}, TypeError, "people must be an iterable of People, got People"),
        ({"people": 3}, TypeError, "got int"),
        ({"people": []}, ValueError, "at least one person, got none"),
        ({"people": [3]}, TypeError, "people must be a People, got int"),
        ({"people": [people_of([1], side=9)]}, ValueError, "wants photos of"),
        ({"model": None}, TypeError, "model must be a FaceModel, got NoneType"),
        ({"config": 3}, TypeError, "config must be a CraftConfig, got int"),
        ({"generation": -1}, ValueError, "generation must be an integer"),
        ({"out": "absent/out"}, OutputError, "no such folder"),
    ],
)
def test_wrong_arguments(tmp_path, change, error, words):
    given = {"model": linear_model(), "people": [people_of([1])], "config": FAST, "out": "out", "key": KEY} | change
    given["out"] = tmp_path / given["out"]
    with pytest.raises(error, match=words):
        vk.craft_stream(given.pop("model"), given.pop("people"), given.pop("config"), progress=False, **given)
    assert not given["out"].exists()


def test_iter_people_reads_what_read_people_reads(tmp_path, people):
    from veilkern.data.photos import write_png

    for image, file in zip(people.images, people.files, strict=True):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / file, image)
    (tmp_path / people.names[0] / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "nobody").mkdir()
    (tmp_path / people.names[1] / "notes.txt").write_text("x")
    whole, problems, notices = vk.read_people(tmp_path), [], []
    parts = list(vk.iter_people(tmp_path, problems=problems, notices=notices))
    assert [part.names for part in parts] == [[name] for name in whole.names]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert [file for part in parts for file in part.files] == whole.files
    assert problems == whole.problems and notices == whole.notices and problems and notices
    with pytest.raises(PhotoError, match="no usable photo"):
        list(vk.iter_people(tmp_path / "nobody"))
