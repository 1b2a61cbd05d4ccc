"""seal_normalize: sealed photos as the network's input, on every path."""

from __future__ import annotations

import pytest
import torch
from helpers import MANY, gradcheck, large, layouts
from hypothesis import given, settings
from hypothesis import strategies as st

from veilkern import ops, reference
from veilkern.testing.making import bytes8, laid_out, sealable_photos

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
HALF_STEP = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def batch(n=4, people=2, h=6, w=7, dtype=torch.float32, seed=0):
    made = sealable_photos(n, people, h, w, seed=seed)
    veils = torch.rand(people, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made | {"veils": veils.to(dtype)}


def formula(made, levels=64, rounds=20, bgr=False):
    """Written out in float64 from what seal adds to a black veil; not rounded to the output."""
    black = torch.zeros_like(made["veils"], dtype=torch.uint8)
    added = reference.seal(**made | {"veils": black}, levels=levels, rounds=rounds).double()
    mixed = (made["veils"].double()[made["rows"]] * (256 - levels) + added) / 255
    mixed = mixed.flip(1) if bgr else mixed
    column = torch.tensor([MEAN, STD], dtype=torch.float64).view(2, 1, 3, 1, 1)
    return (mixed - column[0]) / column[1]


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("veil_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", list(HALF_STEP))
def test_the_reference_is_the_formula(bgr, veil_dtype, dtype):
    made = batch(dtype=veil_dtype, h=13, w=37)
    precise = made | {"veils": made["veils"].double()}
    found = reference.seal_normalize(**precise, mean=MEAN, std=STD, bgr=bgr, dtype=dtype)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    wanted = formula(made, bgr=bgr)
    assert ((found.double() - wanted).abs() <= wanted.abs() * HALF_STEP[dtype] + 1e-13).all()


@pytest.mark.parametrize("levels", [16, 32, 64, 128])
def test_a_veil_of_whole_steps_is_the_sealed_photo(path, levels):
    """Of a veil whose values are whole: the 8-bit photo that seal makes, normalised."""
    made = sealable_photos(3, 2, 9, 8, levels=levels)
    exact = made | {"veils": made["veils"].double() / (256 - levels)}
    how = {"levels": levels, "rounds": 12}
    found = ops.seal_normalize(**exact, **how, mean=(0,) * 3, std=(1 / 255,) * 3, dtype=torch.float64)
    torch.testing.assert_close(found, ops.seal(**made, **how).double(), rtol=0, atol=1e-9)


def test_over_black_photos_it_is_uniform_noise(path):
    """Another draw for each nonce and each key, of all levels, above the veil."""
    veils = torch.zeros(2, 3, 12, 12)
    black = torch.zeros(1, 3, 12, 12, dtype=torch.uint8).expand(6, -1, -1, -1)
    rows, keys, nonces = torch.tensor([0, 1, 0, 1, 0, 1]), bytes8(2, 32), bytes8(3, 12).repeat_interleave(2, 0)
    found = ops.seal_normalize(black, veils, rows, keys, nonces, mean=(0,) * 3, std=(1 / 255,) * 3)
    noise = found.round()
    assert (found - noise).abs().max() < 1e-3 and noise.min() == 0 and noise.max() == 63
    shares = [(noise[i] == noise[j]).float().mean().item() for i in range(6) for j in range(i)]
    assert max(shares) < 0.3  # the first 96 of 432 values have the nonce's bits in common, and half by chance


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 4),
    people=st.integers(1, 3),
    h=st.integers(4, 20),
    w=st.integers(8, 40),
    levels=st.sampled_from((16, 32, 64, 128)),
    bgr=st.booleans(),
    layout=layouts,
    veil_layout=layouts,
)
def test_any_shape(n, people, h, w, levels, bgr, layout, veil_layout):
    made = batch(n, people, h, w)
    laid = {"images": laid_out(made["images"], layout), "veils": laid_out(made["veils"], veil_layout)}
    found = ops.seal_normalize(**made | laid, levels=levels, mean=MEAN, std=STD, bgr=bgr)
    torch.testing.assert_close(found.double(), formula(made, levels, bgr=bgr), atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("levels", [32, 128])
def test_gradient_with_respect_to_veils(path, bgr, levels):
    made = batch(3, 2, 6, 6, dtype=torch.float64)
    veils = made.pop("veils")
    how = {"levels": levels, "mean": MEAN, "std": STD, "bgr": bgr, "dtype": torch.float64}
    assert gradcheck(path, lambda v: ops.seal_normalize(veils=v, **made, **how), veils.requires_grad_())


def test_the_defaults(path):
    """64 levels, 20 rounds, red first, float32."""
    made, half = batch(2, 2), {"mean": MEAN, "std": STD}
    found = ops.seal_normalize(**made, **half)
    spelled = {"levels": 64, "rounds": 20, "bgr": False, "dtype": torch.float32}
    assert torch.equal(found, ops.seal_normalize(**made, **half, **spelled)) and found.dtype == torch.float32
    for other in ({"levels": 32}, {"rounds": 12}, {"bgr": True}):
        assert not torch.equal(found, ops.seal_normalize(**made, **half, **other))


def test_compiles_whole():
    made = batch()
    given = [made[name] for name in ("images", "veils", "rows", "keys", "nonces")]
    compiled = torch.compile(
        lambda *tensors: ops.seal_normalize(*tensors, mean=MEAN, std=STD), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(*given), ops.seal_normalize(*given, mean=MEAN, std=STD))


@pytest.mark.large
@large
def test_more_than_2_to_31_values():
    made = batch(MANY, 2, 112, 112)
    out = ops.seal_normalize(**made, mean=MEAN, std=STD)
    for i in (0, MANY - 1):
        part = {k: v[i : i + 1] if k in ("images", "rows", "nonces") else v for k, v in made.items()}
        assert torch.equal(out[i : i + 1], ops.seal_normalize(**part, mean=MEAN, std=STD))
