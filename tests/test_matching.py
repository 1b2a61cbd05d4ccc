"""Ranks in large galleries and verification: against plain Python on exact integers, whatever the blocks."""

from __future__ import annotations

import bisect
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import veilkern as vk
from veilkern.evaluate import identify, verify
from veilkern.evaluate.identification import TAR
from veilkern.networks import matching
from veilkern.networks.matching import HighScores, ranks_against, score_blocks, scores


def unit(count: int, width: int, seed: int, dtype=torch.float32) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=g, dtype=torch.float64)).to(dtype)


def whole(features) -> list[list[int | None]]:
    """Features as whole numbers of 2^-25, None for what is not a number."""
    values = np.asarray(features, dtype=np.float64)
    return [[int(v) if math.isfinite(v) else None for v in row] for row in np.rint(values * 2**25)]


def product(a, b) -> int | None:
    return None if None in a or None in b else sum(x * y for x, y in zip(a, b, strict=True))


def ranks_by_hand(probes, templates, distractors) -> list[list[int]]:
    """Python's integers: no rounding anywhere."""
    probes, templates, distractors = map(whole, (probes, templates, distractors))
    found = []
    for probe in probes:
        rivals = [product(probe, d) for d in distractors]
        own = [product(probe, t) for t in templates]
        found.append([1 + sum(s is None or r is None or r >= s for r in rivals) for s in own])
    return found


def cases(seed: int):
    """Probes, templates and distractors with ties, NaN and infinities among them."""
    probes, templates, distractors = unit(7, 24, seed), unit(5, 24, seed + 1), unit(150, 24, seed + 2)
    templates[1] = templates[0]
    distractors[::7] = templates[0]  # ties
    distractors[3] = templates[2]
    distractors[11, 5], distractors[12] = math.nan, math.nan
    probes[2, 1] = math.nan
    templates[4, 0] = math.inf
    return probes, templates, distractors


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_ranks_of_exact_scores(seed, dtype):
    probes, templates, distractors = (t.to(dtype) for t in cases(seed))
    found = ranks_against(probes, templates, distractors)
    assert found.dtype == torch.int64 and found.tolist() == ranks_by_hand(probes, templates, distractors)
    assert (found[2] == 151).all() and (found[:, 4] == 151).all()


@pytest.mark.parametrize("kind", ["tensor", "float32", "float16"])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 777])
def test_any_block_gives_the_same_ranks(kind, count, tmp_path, monkeypatch):
    probes, templates = unit(600, 40, 1), unit(6, 40, 2)  # more probes than are scored at a time
    distractors = unit(count, 40, 3)
    distractors[::5] = templates[1]
    if kind != "tensor" and count:
        distractors = distractors.numpy().astype(kind)
        np.save(tmp_path / "d.npy", distractors)
        distractors = np.load(tmp_path / "d.npy", mmap_mode="r")
    one = ranks_against(probes, templates, distractors)
    below = np.asarray(probes, np.float64) @ np.asarray(templates, np.float64).T
    rivals = np.asarray(probes, np.float64) @ np.asarray(distractors, np.float64).T
    wanted = 1 + (rivals[:, None, :] >= below[:, :, None] - 1e-7).sum(2)
    assert abs(one.numpy() - wanted).max() <= 1  # float64 without the grid: but for near ties
    for rows, blocks in ((512, (1, 3, 64, max(1, count - 1), count + 1, 10**6)), (7, (500,)), (600, (777,))):
        monkeypatch.setattr(matching.score_blocks, "__kwdefaults__", {"block": 4096, "rows": rows})
        for block in blocks:
            assert torch.equal(ranks_against(probes, templates, distractors, block=block), one)


def test_the_order_of_adding_does_not_matter():
    """The claim of the module: every score is the exact sum, also where float32's and float64's would differ."""
    a, b = unit(64, 512, 0), unit(64, 512, 1)
    found = scores(a, b)
    wanted = [[product(x, y) for y in whole(b)] for x in whole(a)]
    assert [[int(v) for v in row] for row in (found * 2.0**50).tolist()] == wanted
    assert torch.equal(scores(a.flip(1), b.flip(1)), found) and torch.equal(scores(b, a).T, found)
    assert (found - a.double() @ b.double().T).abs().max() < 5e-8
    assert not torch.equal(a.flip(1) @ b.flip(1).T, a @ b.T)  # which is why


@pytest.mark.parametrize("width", [2, 3, 64, 513])
@pytest.mark.parametrize("count", [1, 2, 17, 64])
def test_equal_templates_tie_wherever_they_lie(width, count):
    probes, template = unit(count, width, 4), unit(1, width, 5)
    distractors = template.expand(201, width)
    assert (ranks_against(probes, template, distractors, block=50) == 202).all()


class Recorded:
    """Distractors that remember what was asked of them."""

    def __init__(self, features):
        self.features, self.asked = features, []
        self.shape = features.shape

    def __len__(self):
        return len(self.features)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        part = self.features[rows]
        self.asked += [rows.start, len(part)]
        return part


def test_each_template_is_read_once_and_few_at_a_time():
    distractors = Recorded(unit(1000, 8, 0))
    probes = unit(1200, 8, 1)
    ranks_against(probes, probes[:2], distractors, block=300)
    assert distractors.asked == [0, 300, 300, 300, 600, 300, 900, 100]
    shapes = {tuple(found.shape) for _, _, found in score_blocks(probes, distractors, block=300, rows=500)}
    assert shapes == {(500, 300), (500, 100), (200, 300), (200, 100)}


@pytest.mark.parametrize(
    "arguments,options,error,words",
    [
        (
            (unit(2, 8, 0), unit(2, 8, 0), unit(4, 9, 0)),
            {},
            ValueError,
            r"templates must be features \[n, 8\].*\[4, 9\]",
        ),
        ((unit(2, 8, 0), unit(2, 7, 0), unit(4, 8, 0)), {}, ValueError, r"templates must be features \[n, 8\]"),
        ((unit(2, 8, 0)[0], unit(2, 8, 0), unit(4, 8, 0)), {}, ValueError, r"probes must be features \[n, d\]"),
        ((unit(2, 8, 0), unit(2, 8, 0), torch.ones(4, 8, dtype=torch.int64)), {}, TypeError, "got torch.int64"),
        ((unit(2, 8, 0), unit(2, 8, 0), np.ones((4, 8), np.uint8)), {}, TypeError, "got uint8"),
        *(
            ((unit(2, 8, 0), unit(2, 8, 0), unit(4, 8, 0)), {"block": block}, ValueError, "block must be an int of 1")
            for block in (0, -1, 1.5, True)
        ),
    ],
)
def test_wrong_arguments(arguments, options, error, words):
    with pytest.raises(error, match=words):
        ranks_against(*arguments, **options)


def verified_by_hand(genuine, impostors, far):
    """The definition: the lowest threshold at which the share of impostors that are accepted is at most far."""
    impostors = sorted(v for v in impostors if not math.isnan(v))
    if round(far * len(impostors), 9) < 1:
        return math.nan
    # Accepted is what lies above a threshold; between two impostor scores all thresholds accept the same of them.
    fit = [t for t in impostors if len(impostors) - bisect.bisect_right(impostors, t) <= far * len(impostors) + 1e-9]
    return sum(v > min(fit) for v in genuine) / len(genuine)


@pytest.mark.parametrize("distinct", [3, 30, 10**6])
@pytest.mark.parametrize("count", [3, 9, 10, 99, 101, 1000])
def test_tar_by_its_definition(distinct, count):
    g = torch.Generator().manual_seed(count + distinct)
    impostors = torch.randint(0, distinct, (count,), generator=g).double() / distinct
    genuine = torch.randint(0, distinct, (40,), generator=g).double() / distinct + 0.2
    impostors[::17] = math.nan
    genuine[3] = math.nan
    fars = (0.1, 0.01, 0.25)
    numbers = int((~impostors.isnan()).sum())
    for size in (1, 7, count):
        parts = [part.reshape(1, -1) for part in impostors.split(size)]
        found = verify(genuine, iter(parts), total=count, fars=fars)
        assert (found.genuine, found.impostors) == (40, numbers)
        for far in fars:
            wanted = verified_by_hand(genuine.tolist(), impostors.tolist(), far)
            assert found.tar[far] == wanted or (math.isnan(found.tar[far]) and math.isnan(wanted))
            if not math.isnan(wanted):
                assert int((impostors > found.thresholds[far]).sum()) <= far * numbers
                assert found.thresholds[far] in impostors.tolist()
    assert verify(genuine, parts, fars=fars).thresholds.keys() == set(fars)
    assert verify(genuine, impostors, fars=(0.25,)).tar == {0.25: found.tar[0.25]} or count < 4


def test_tar_against_a_sort_of_all():
    g = torch.Generator().manual_seed(0)
    impostors = torch.randn(50_000, generator=g, dtype=torch.float64)
    genuine = torch.randn(3_000, generator=g, dtype=torch.float64) + 3
    order = impostors.sort(descending=True).values
    for blocks in (impostors.split(1000), order.split(1000), order.flip(0).split(999)):  # best first, worst first
        found = verify(genuine, blocks)
        assert found.thresholds == {1e-3: order[50].item(), 1e-4: order[5].item()}
        for far, place in ((1e-3, 50), (1e-4, 5)):
            assert found.tar[far] == (genuine > order[place]).double().mean().item()


def test_memory_is_bounded_by_the_allowed():
    """Of a million scores of which a thousand may be accepted, no more than two thousand and a block are kept."""
    highest = HighScores(10**6)
    for seed in range(100):
        highest.add(torch.rand(10**4, generator=torch.Generator().manual_seed(seed)) + seed / 200)
        assert sum(map(len, highest._parts)) == highest._held <= 2 * 1001
    assert highest.count == 10**6


def test_a_threshold_may_be_asked_for_on_the_way():
    """Nothing is forgotten that later scores make count, and what no longer can count is not kept."""
    g = torch.Generator().manual_seed(0)
    stream = torch.rand(10, 1000, generator=g, dtype=torch.float64).sort(descending=True).values
    highest = HighScores(10_000)
    for number, part in enumerate(stream, 1):
        for piece in part.split(50):  # from the largest down
            highest.add(piece)
            highest.threshold(1e-3)
        order = stream[:number].flatten().sort(descending=True).values
        assert highest.threshold(1e-3) == order[number]
    before = highest._held
    highest.total += 10**6
    highest.add(torch.zeros(10**6))
    assert highest._held == before == 11 and highest.count == 10_000 + 10**6


@pytest.mark.parametrize("thousands", [1, 3, 29, 57, 1009])
def test_allowed_is_no_victim_of_rounding(thousands):
    assert matching._allowed(1e-3, 1000 * thousands) == thousands
    assert matching._allowed(1e-3, 1000 * thousands - 1) == thousands - 1


def test_too_few_and_none():
    found = verify(torch.ones(3), torch.zeros(999))
    assert math.isnan(found.tar[1e-3]) and math.isnan(found.thresholds[1e-3]) and found.impostors == 999
    found = verify(torch.tensor([0.5, math.nan]), torch.zeros(1000))
    assert found.tar[1e-3] == 0.5 and found.thresholds[1e-3] == 0 and math.isnan(found.tar[1e-4])
    assert math.isnan(verify(torch.zeros(0), torch.zeros(1000)).tar[1e-3])
    assert verify(torch.ones(2), torch.ones(1000)).tar[1e-3] == 0  # ties are not accepted
    assert verify(torch.ones(2), torch.zeros(0)).impostors == 0


def test_wrong_arguments_of_verify():
    with pytest.raises(TypeError, match="total must be given where impostors is a stream, got generator"):
        verify(torch.ones(1), (torch.ones(1) for _ in range(2)))
    with pytest.raises(ValueError, match="total is 3, but 4 scores came"):
        verify(torch.ones(1), iter([torch.ones(2), torch.ones(2)]), total=3)
    for far in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="fars must lie between 0 and 1"):
            verify(torch.ones(1), torch.ones(5), fars=(far,))


def crowd(counts, width, spread, seed):
    """People, features of their protected and of their clean photos."""
    people = vk.People.from_images([torch.zeros((n, 3, 2, 2), dtype=torch.uint8) for n in counts])
    centres = unit(len(counts), width, seed)[people.rows]
    clean, hidden = (
        torch.nn.functional.normalize(centres + spread * unit(len(people.images), width, seed + k)) for k in (1, 2)
    )
    return people, hidden, clean


def tar_by_hand(people, hidden, clean, gallery, far):
    rows, found = people.rows.tolist(), []
    points = scores(hidden, torch.cat([clean, gallery])).tolist()
    impostors = [
        s for i, line in enumerate(points) for j, s in enumerate(line) if j >= len(clean) or rows[j] != rows[i]
    ]
    for p in range(len(people)):
        own = [i for i, row in enumerate(rows) if row == p]
        genuine = [points[i][j] for i in own for j in own if i != j]
        found.append(verified_by_hand(genuine, impostors, far) if genuine else math.nan)
    return found, sum(not math.isnan(s) for s in impostors)


@pytest.mark.parametrize("gallery", [0, 300])
def test_identification_tells_tar(gallery):
    people, hidden, clean = crowd((9, 1, 12, 6, 8, 5), 12, 1.3, 0)
    hidden[3] = math.nan
    distractors = unit(gallery, 12, 9)
    found = identify(hidden, clean, people, distractors)
    for name, far in TAR.items():
        wanted, pairs = tar_by_hand(people, hidden, clean, distractors, far)
        assert [getattr(one, name) for one in found] == pytest.approx(wanted, nan_ok=True)
        assert {one.impostors for one in found} == {pairs}
    assert math.isnan(found[1].tar_1e3) and math.isnan(found[0].tar_1e4) == (gallery == 0)
    assert len({one.tar_1e3 for one in found if one.pairs}) > 1


def test_identification_reads_any_gallery_block_by_block(tmp_path, monkeypatch):
    """The same figures of a tensor, of a mapped file and however it is cut."""
    people, hidden, clean = crowd((4, 7, 1, 3), 16, 1.5, 3)
    distractors = unit(500, 16, 8)
    distractors[::9] = clean[2]
    one = repr(identify(hidden, clean, people, distractors))
    np.save(tmp_path / "g.npy", distractors.numpy())
    mapped = Recorded(np.load(tmp_path / "g.npy", mmap_mode="r"))
    assert repr(identify(hidden, clean, people, mapped, block=64)) == one
    assert max(mapped.asked[1::2]) == 64 and sum(mapped.asked[1::2]) == 500
    monkeypatch.setattr("veilkern.evaluate.identification._AT_ONCE", 40)
    assert repr(identify(hidden, clean, people, distractors, block=7)) == one


MILLION = """
import re, sys
from pathlib import Path
import numpy as np, torch
from veilkern.networks.matching import HighScores, ranks_against, score_blocks

def peak():  # MB, of this process alone
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

templates = np.load(sys.argv[1], mmap_mode="r")
probes = torch.from_numpy(np.array(templates[::33_334])).float()  # templates themselves: each ties with its own
ranks_against(probes, probes[:3], templates[:5000])  # what torch takes once
before = peak()
found = ranks_against(probes, probes, templates)
assert found.diagonal().tolist() == [2] * len(probes), found.diagonal()
assert (found > 1).all() and found.max() > 900_000
highest = HighScores(len(probes) * len(templates))
for _, _, part in score_blocks(probes, templates):
    highest.add(part)
print(peak() - before, highest.count, highest.threshold(1e-3), highest.threshold(1e-4))
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for the most memory a process took")
def test_a_million_templates_in_little_memory(tmp_path):
    """Ranks of 30 probes and thresholds among a million templates; the mapped file's pages (128 MB) are counted too."""
    file = np.lib.format.open_memmap(tmp_path / "m.npy", mode="w+", dtype=np.float16, shape=(10**6, 64))
    draw = np.random.Generator(np.random.Philox(0))
    for begin in range(0, 10**6, 50_000):
        part = draw.standard_normal((50_000, 64), dtype=np.float32)
        file[begin : begin + 50_000] = part / np.linalg.norm(part, axis=1, keepdims=True)
    file.flush()
    command = [sys.executable, "-c", MILLION, str(tmp_path / "m.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    megabytes, count, at_1e3, at_1e4 = map(float, done.stdout.split())
    assert megabytes < 128 + 150 and count == 30 * 10**6
    # Cosines of random directions in 64 dimensions are about normal, with a deviation of 1/8.
    assert 0.36 < at_1e3 < 0.39 and 0.43 < at_1e4 < 0.465
