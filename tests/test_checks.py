"""The checks that the ops share, each by itself: a backend that refuses too must not hide that a check is gone."""

from __future__ import annotations

import pytest
import torch

from veilkern import ops
from veilkern.ops import _checks

HERE, ELSEWHERE = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64, device="meta")


@pytest.mark.parametrize("marks", [[1, 3], [0, 2], [0, 4], [0, 2, 1, 3], [-1, 3], [0, 3, 2]])
def test_offsets_that_do_not_rise_from_0_to_the_count(marks):
    with pytest.raises(ValueError, match="op: offsets must rise from 0 to 3, got"):
        _checks.check_offset_range("op", "offsets", torch.tensor(marks), 3)


@pytest.mark.parametrize("marks,count", [([0], 0), ([0, 3], 3), ([0, 0, 3, 3], 3)])
def test_offsets_of_few_and_of_nobody_are_taken(marks, count):
    offsets = torch.tensor(marks)
    assert _checks.check_offsets("op", "offsets", offsets, "x", HERE) is offsets
    _checks.check_offset_range("op", "offsets", offsets, count)


def test_what_wrong_offsets_look_like():
    short, long = torch.arange(20), torch.arange(21)
    with pytest.raises(ValueError, match=rf"got \[{', '.join(map(str, range(20)))}\]$"):
        _checks.check_offset_range("op", "offsets", short, 7)
    with pytest.raises(ValueError, match=r"got \[0, 1, .*, 9\] \.\. \[11, .*, 20\]$"):
        _checks.check_offset_range("op", "offsets", long, 7)
    with pytest.raises(ValueError, match="must have P \\+ 1 entries, got none"):
        _checks.check_offsets("op", "offsets", short[:0], "x", HERE)


def test_values_elsewhere_are_not_read():
    _checks.check_offset_range("op", "offsets", ELSEWHERE, 3)  # meta tensors hold none
    _checks.check_row_range("op", ELSEWHERE, 1)


def test_every_check_looks_at_the_device():
    with pytest.raises(ValueError, match="offsets must be on the device of x, cpu, got meta"):
        _checks.check_offsets("op", "offsets", ELSEWHERE, "x", HERE)
    with pytest.raises(ValueError, match="rows must be on the device of images, cpu, got meta"):
        _checks.check_rows("op", ELSEWHERE, 3, HERE)
    with pytest.raises(ValueError, match="a must be on the device of b, cpu, got meta"):
        _checks.check_same_photo("op", "a", torch.empty(1, 3, 4, 4, device="meta"), "b", torch.empty(2, 3, 4, 4))


def test_rows_elsewhere_are_refused_by_every_op():
    photos, rows = torch.zeros(3, 3, 4, 4, dtype=torch.uint8), ELSEWHERE
    for op in (ops.blend, ops.recover):
        with pytest.raises(ValueError, match="rows must be on the device of images, cpu, got meta"):
            op(photos, photos, rows, 51)


@pytest.mark.parametrize("rows", [[-1], [2], [0, 2], [1, -1]])
def test_rows_beyond_the_veils(rows):
    with pytest.raises(ValueError, match=r"rows must lie in 0\.\.1 \(there are 2 veils\)"):
        _checks.check_row_range("op", torch.tensor(rows), 2)
    _checks.check_row_range("op", torch.tensor([0, 1]), 2)
    _checks.check_row_range("op", torch.tensor([], dtype=torch.int64), 0)


@pytest.mark.parametrize("block", [3, (3,), (3, 3, 3), (0, 1), (1, 0), (-1, 1), (1.0, 1), None])
def test_blocks_that_are_none(block):
    with pytest.raises(ValueError, match="block must be two positive integers"):
        _checks.check_block("op", block, 1, 8, 8)


@pytest.mark.parametrize("stride", [True, 1.0, 0, -1, 2**31, None])
def test_strides_that_are_none(stride):
    with pytest.raises(ValueError, match="stride must be a positive integer up to 2147483647"):
        _checks.check_block("op", (3, 3), stride, 8, 8)


def test_the_largest_and_smallest_of_blocks_and_strides():
    for block, stride in (((1, 1), 1), ([8, 9], 2**31 - 1)):
        _checks.check_block("op", block, stride, 8, 9)
    for block in ((9, 9), (8, 10)):
        with pytest.raises(ValueError, match="block must fit the image, 8 x 9"):
            _checks.check_block("op", block, 1, 8, 9)


@pytest.mark.parametrize("window", [True, 3.0, 0, -1, 2, 4, 2**16 + 1, None])
@pytest.mark.parametrize("borders", ["valid", "same"])
def test_windows_of_ssim_that_are_none(window, borders):
    x = torch.zeros(1, 1, 12, 12)
    with pytest.raises(ValueError, match="window must be an odd positive integer"):
        ops.ssim(x, x, window=window, borders=borders)


def test_every_other_tensor_is_looked_at():
    """What comes before it, absent or elsewhere or the output itself, ends no search."""
    memory = torch.zeros(20)
    out, shifted = memory[:10], memory[5:15]
    for before in (("a", None), ("a", torch.zeros(3)), ("a", out), ("a", memory[10:])):
        with pytest.raises(ValueError, match="out must not overlap b in memory"):
            _checks.check_output("op", ("out", out), (before, ("b", shifted)), same="a")
        _checks.check_output("op", ("out", out), (before,), same="a")
