"""Comparisons: what agrees, what does not, and that the first differing place is named."""

from __future__ import annotations

import pytest
import torch

from veilkern.testing.compare import (
    Tolerance,
    coarsest,
    first_difference,
    require_near,
    require_results,
    require_same_bits,
)
from veilkern.testing.entry import Bad


def test_the_first_place_that_differs_is_named():
    a = torch.zeros(2, 3, 4)
    b = a.clone()
    b[1, 0, 2] = b[1, 2, 3] = 0.5
    assert first_difference(a, a.clone()) is None
    assert first_difference(a, b) == "2 of 24 values differ, first at [1, 0, 2]: 0.0, wanted 0.5 within 0"
    assert first_difference(a, b, 0.5) is None and first_difference(a, b, 0.4999) is not None
    bound = torch.full_like(b, 1.0)
    bound[1, 2, 3] = 0.1
    assert "1 of 24 values differ, first at [1, 2, 3]: 0.0, wanted 0.5 within 0.1" in first_difference(a, b, bound)
    with pytest.raises(AssertionError, match=r"blend: 2 of 24 values differ, first at \[1, 0, 2\]"):
        require_near("blend", a, b)
    assert first_difference(a, a[0]) == "shape [2, 3, 4], wanted [3, 4]"
    assert (
        first_difference(torch.tensor(1), torch.tensor(2)) == "1 of 1 values differ, first at []: 1, wanted 2 within 0"
    )


def test_values_that_are_not_finite():
    odd = torch.tensor([float("nan"), float("inf"), float("-inf"), 1.0])
    assert first_difference(odd, odd.clone()) is None and first_difference(odd, odd.double(), 1e-9) is None
    for place, other in ((0, 1.0), (1, float("-inf")), (2, 1e30), (3, float("nan"))):
        wrong = odd.clone()
        wrong[place] = other
        assert f"first at [{place}]" in first_difference(wrong, odd, 1e3)
        assert f"first at [{place}]" in first_difference(odd, wrong, 1e3)


def test_integers_are_compared_exactly():
    large = torch.tensor([2**62, 2**62 + 1])
    assert first_difference(large, large.clone()) is None
    assert "first at [1]" in first_difference(large, torch.tensor([2**62, 2**62]))
    assert first_difference(torch.tensor([65535], dtype=torch.uint16), torch.tensor([65535])) is None


def test_bits_have_signs_and_dtypes():
    zero, nan = torch.tensor([0.0, 1.0]), torch.tensor([float("nan")])
    require_same_bits("x", [zero, nan], [zero.clone(), nan.clone()])
    with pytest.raises(AssertionError, match="x, result 0: a zero of the other sign"):
        require_same_bits("x", [zero], [torch.tensor([-0.0, 1.0])])
    with pytest.raises(AssertionError, match="x, result 1: torch.float64, wanted torch.float32"):
        require_same_bits("x", [nan, zero.double()], [nan, zero])
    with pytest.raises(AssertionError, match=r"x, result 0: 1 of 2 values differ, first at \[1\]"):
        require_same_bits("x", [zero], [torch.tensor([0.0, 1.0 + 2**-23])])
    with pytest.raises(ValueError):
        require_same_bits("x", [zero], [])


def test_a_tolerance_is_the_sum_of_its_parts():
    wanted = torch.tensor([1.0, -4.0, float("inf"), float("nan")], dtype=torch.float64)
    assert Tolerance(absolute=0.5).bound(wanted)[:2].tolist() == [0.5, 0.5]
    assert Tolerance(relative=0.5).bound(wanted)[:2].tolist() == [0.5, 2.0]
    assert Tolerance(largest=0.5).bound(wanted)[:2].tolist() == [2.0, 2.0]
    assert Tolerance(largest=0.5, least=8.0).bound(wanted)[:2].tolist() == [4.0, 4.0]
    assert Tolerance(largest=0.5, least=lambda made: made["n"]).bound(wanted, {"n": 10.0})[0] == 5.0
    assert Tolerance(0.5, 0.25, 0.125).bound(wanted)[:2].tolist() == [1.25, 2.75]
    assert Tolerance(largest=1.0).bound(wanted[:0]).shape == (0,)


def test_results_are_compared_by_the_coarsest_dtype():
    assert coarsest([torch.float64, torch.float32, torch.int64]) == torch.float32
    assert coarsest([torch.float16, torch.bfloat16]) == torch.bfloat16 and coarsest([torch.uint8]) is None
    tolerances = {torch.float64: Tolerance(), torch.float32: (Tolerance(absolute=1.0), Tolerance(absolute=0.1))}
    one, half = torch.ones(1, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
    require_results([one, one], [half, one], {"x": torch.zeros(1)}, tolerances)
    with pytest.raises(AssertionError, match="result 1"):
        require_results([one, one], [half, half], {"x": torch.zeros(1)}, tolerances)
    with pytest.raises(AssertionError, match="result 0"):
        require_results([one], [half], {"x": one}, tolerances)
    with pytest.raises(AssertionError, match="result 0"):
        require_results([torch.tensor([3])], [torch.tensor([4])], {}, {})


def test_a_bad_input_is_a_good_one_with_changes():
    bad = Bad({"a": 1, "out": lambda good: good["x"] + 1}, ValueError, "words")
    assert bad.arguments({"a": 0, "x": 5}) == {"a": 1, "x": 5, "out": 6}


def test_equal_means_equal():
    """Nothing is near enough where no bound is given; of two NaN neither is of the other sign."""
    one = torch.tensor([1.0, 2.0], dtype=torch.float64)
    with pytest.raises(AssertionError, match="x: 1 of 2 values differ, first at \\[1\\]"):
        require_near("x", one, one + torch.tensor([0, 1e-12]))
    require_near("x", one, one.clone())
    signed = torch.tensor([float("nan"), 0.0, -1.0])
    require_same_bits("x", [signed], [torch.tensor([-float("nan"), 0.0, -1.0])])
    with pytest.raises(AssertionError, match="a zero of the other sign"):
        require_same_bits("x", [signed], [torch.tensor([float("nan"), -0.0, -1.0])])
