"""Protector: values, kinds of array, layouts, out, the short and the long way, hot swap, threads, staging."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import batch, native
from protector_cases import (
    KINDS,
    NAMES,
    RESULTS,
    ROWS,
    WHO,
    A,
    as_tensor,
    laid,
    veils_of,
    wanted,
)

import veilkern as vk
from veilkern import reference
from veilkern.veils import apply as apply_module


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return batch(5, 3, 12)[0][:, :, :, :9].contiguous()


@pytest.fixture(scope="module")
def bank() -> vk.VeilBank:
    return vk.VeilBank(veils_of(3), NAMES, A)


@pytest.fixture
def protector(bank) -> vk.Protector:
    return vk.Protector(bank)


@pytest.fixture
def ways(monkeypatch) -> list[str]:
    """Which way each call went: short or long."""
    taken, plain = [], apply_module.direct

    def watched(*arguments):
        found = plain(*arguments)
        taken.append("long" if found is None else "short")
        return found

    monkeypatch.setattr(apply_module, "direct", watched)
    return taken


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("given", [False, True], ids=["new", "out"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_values(photos, bank, protector, layout, kind, lossless, given, count):
    """Bit for bit those of the reference; the kind, layout and memory order of the photos; `out` itself comes back."""
    x, rows = photos[:count], ROWS[:count]
    value = wanted(x, bank, rows, lossless)
    back_value = reference.recover(value, bank.veils, rows, A)
    for call, source, expected, option in (
        (protector.protect, x, value, {"lossless": lossless}),
        (protector.recover, value, back_value, {}),
    ):
        image = KINDS[kind](laid(source, layout))
        target = torch.full_like(laid(expected.int(), layout), 7).to(expected.dtype)
        out = KINDS[kind](target) if given else None
        found = call(image, rows, out=out, layout=layout, **option)
        assert found is out if given else type(found) is RESULTS[kind]
        found = target if given else as_tensor(found)
        assert found.dtype == expected.dtype and torch.equal(found, laid(expected, layout)) and found.is_contiguous()
    if lossless:
        assert torch.equal(back_value, x)


@pytest.mark.parametrize("a", [1, 51, 128, 254])
def test_every_pair_of_values(a):
    """All 65,536 pairs of a photo's value and a veil's, both forms, by the short way."""
    x = torch.arange(256, dtype=torch.uint8).repeat(3, 256).view(1, 3, 256, 256)
    veil = x.transpose(2, 3).contiguous()
    protector = vk.Protector(vk.VeilBank(veil, ["Ada"], a))
    for lossless in (False, True):
        hidden = protector.protect(x, "Ada", lossless=lossless)
        value = reference.blend(x, veil, torch.tensor([0]), a, lossless=lossless)
        assert torch.equal(hidden, value)
        assert torch.equal(protector.recover(hidden, "Ada"), reference.recover(value, veil, torch.tensor([0]), a))


def test_gaussian_sigma(photos, bank, protector):
    hidden = wanted(photos, bank)
    for kind in ("torch", "numpy"):
        found = protector.recover(KINDS[kind](hidden), ROWS, gaussian_sigma=1.0)
        expected = reference.recover(hidden, bank.veils, ROWS, A, gaussian_sigma=1.0)
        assert torch.equal(as_tensor(found), expected)
    with pytest.raises(ValueError, match="gaussian_sigma must lie in 0.1..100 pixels, got 0"):
        protector.recover(hidden, ROWS, gaussian_sigma=0)
    with pytest.raises(TypeError, match="gaussian_sigma must be a number of pixels or None, got True"):
        protector.recover(hidden, ROWS, gaussian_sigma=True)


@pytest.mark.parametrize("who", WHO)
def test_who(photos, bank, protector, who):
    value = wanted(photos, bank)
    assert torch.equal(protector.protect(photos, WHO[who]), value)
    assert torch.equal(protector.recover(value, WHO[who]), reference.recover(value, bank.veils, ROWS, A))


def test_one_name_is_everybody(photos, bank, protector):
    for name in ("Bill_Clinton", np.str_("Bill_Clinton")):
        expected = wanted(photos, bank, torch.ones(5, dtype=torch.int64))
        assert torch.equal(protector.protect(photos, name), expected)
    assert protector.rows(["Cleo", "Ada"]).tolist() == [2, 0]


@native
@pytest.mark.parametrize("who", ["tensor", "list", "tuple", "array", "array_strided", "names", "names_tuple"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_plain_calls_take_the_short_way(photos, protector, ways, who, layout):
    """What is measured: no tensor is made of a plain call. Among it read-only arrays, which torch would copy."""
    x = laid(photos, layout)
    frozen = x.numpy().copy()
    frozen.flags.writeable = False
    for given in (x, x.numpy(), frozen):
        hidden = protector.protect(given, WHO[who], layout=layout)
        protector.recover(hidden, WHO[who], layout=layout)
        protector.protect(given, WHO[who], layout=layout, out=np.empty_like(x.numpy()))
        protector.protect(given, "Ada", layout=layout, lossless=True)
    for given in (x.clone(), x.numpy().copy()):
        protector.protect(given, WHO[who], layout=layout, out=given)
    assert torch.equal(
        as_tensor(protector.protect(frozen, WHO[who], layout=layout)), protector.protect(x, WHO[who], layout=layout)
    )
    protector.protect(photos.contiguous(memory_format=torch.channels_last), WHO[who])
    assert set(ways) == {"short"}


@native
def test_another_backend_is_asked_for(photos, bank, protector, ways):
    """use_backend holds here too, and threads= reaches the kernels' way."""
    with vk.use_backend("reference"):
        assert torch.equal(protector.protect(photos, ROWS), wanted(photos, bank))
    assert ways == ["long"]
    with vk.use_backend("cpu", threads=2):
        assert torch.equal(protector.protect(photos, ROWS), wanted(photos, bank))
    assert ways == ["long", "short"]


@pytest.mark.parametrize(
    "out,error,message",
    [
        (torch.zeros(4, 3, 12, 9, dtype=torch.uint8), ValueError, r"out must be \[5, 3, 12, 9\], got \[4, 3, 12, 9\]"),
        (torch.zeros(5, 3, 12, 9), TypeError, "out must be uint8"),
        (torch.zeros(5, 3, 12, 9, dtype=torch.uint16), TypeError, "out must be uint8"),
        (torch.zeros(5, 12, 9, 3, dtype=torch.uint8), ValueError, r"out must be uint8 \[N, 3, H, W\]|out must be"),
        (np.zeros((5, 3, 12, 9)), TypeError, "out must be uint8 or uint16, got float64"),
        (np.zeros((5, 3, 12, 9), dtype=">u2"), ValueError, "out must be writable, of this machine's byte order"),
        (np.broadcast_to(np.uint8(0), (5, 3, 12, 9)), ValueError, "out must be writable"),
        ([], TypeError, "out must be a tensor or a NumPy array, or have __dlpack__, got list"),
    ],
)
def test_wrong_outputs(photos, protector, out, error, message):
    with pytest.raises(error, match=message):
        protector.protect(photos, ROWS, out=out)
    frozen = np.zeros((5, 3, 12, 9), np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable"):
        protector.protect(photos, ROWS, out=frozen)
    assert not frozen.any()
    with pytest.raises(ValueError, match=r"layout must be one of NCHW, NHWC, got \[\]"):
        protector.protect(photos, ROWS, layout=[])


@pytest.mark.parametrize(
    "images,error,message",
    [
        ([1], TypeError, "protect: images must be a tensor or a NumPy array, or have __dlpack__, got list"),
        (torch.zeros(5, 3, 12, 9), TypeError, r"images must be uint8 \[N, 3, H, W\], got float32"),
        (np.zeros((5, 3, 12, 9)), TypeError, "protect: images must be uint8 or uint16, got float64"),
        (np.zeros((5, 3, 12, 9), np.uint16), TypeError, "images must be uint8 "),
        (torch.zeros(3, 12, 9, dtype=torch.uint8), ValueError, r"images must be uint8 \[N, 3, H, W\]"),
        (torch.zeros((), dtype=torch.uint8), ValueError, r"images must be uint8 \[N, 3, H, W\]"),
        (torch.zeros(5, 3, 9, 12, dtype=torch.uint8), ValueError, "veils are 12 x 9, the photos 9 x 12"),
        (np.zeros((5, 3, 9, 12), np.uint8), ValueError, "veils are 12 x 9, the photos 9 x 12"),
        (np.zeros((5, 3, 12, 8), np.uint8), ValueError, "veils are 12 x 9, the photos 12 x 8"),
        (np.zeros((5, 12, 9, 3), np.uint8), ValueError, 'look like .* pass layout="NHWC"'),
        (torch.zeros(5, 12, 9, 3, dtype=torch.uint8), ValueError, 'look like .* pass layout="NHWC"'),
        (
            torch.zeros(5, 1, 12, 9, dtype=torch.uint8),
            ValueError,
            r"images must be uint8 \[N, 3, H, W\]|veils must hold photos like",
        ),
        (torch.zeros(5, 3, 12, 9, dtype=torch.uint8).to_sparse(), TypeError, "images must be a dense tensor"),
        (
            torch.zeros(5, 3, 12, 9, dtype=torch.uint8, device="meta"),
            ValueError,
            "images must be on cpu, with the veils",
        ),
    ],
)
def test_wrong_photos(protector, images, error, message):
    with pytest.raises(error, match=message):
        protector.protect(images, ROWS)


@pytest.mark.parametrize(
    "who,error,message",
    [
        ("Dan", KeyError, "no veil for Dan"),
        (["Ada", "Dan", "Eve", "Ada", "Ada"], KeyError, "no veil for Dan, Eve"),
        (["Ada"], ValueError, "rows must have one entry per photo, 5, got 1"),
        (["Ada"] * 6, ValueError, "rows must have one entry per photo, 5, got 6"),
        ([0] * 6, ValueError, "rows must have one entry per photo, 5, got 6"),
        (np.zeros(6, np.int64), ValueError, "rows must have one entry per photo, 5, got 6"),
        ([0, 0, 3, 0, 0], ValueError, r"rows must lie in 0..2 \(there are 3 veils\), got 3"),
        ([0, 0, -1, 0, 0], ValueError, r"rows must lie in 0..2 .*, got -1"),
        ([2**70, 0, 0, 0, 0], ValueError, "rows must lie in 0..2"),
        (torch.tensor([0, 0, 3, 0, 0]), ValueError, r"rows must lie in 0..2 .*, got 0..3"),
        (np.array([0, 0, -1, 0, 0]), ValueError, r"rows must lie in 0..2 .*, got -1..0"),
        (ROWS[:4], ValueError, "rows must have one entry per photo, 5, got 4"),
        (ROWS[None], ValueError, r"rows must be int64 \[N\]"),
        ([True, False, True, True, False], TypeError, "rows must be int64 bank rows, names, or one name"),
        ([1, True, 0, 0, 0], TypeError, "got True among them"),
        ([1.0, 0, 0, 0, 0], TypeError, "got 1.0 among them"),
        (["Ada", 0, 0, 0, 0], TypeError, "got 'Ada' among them"),
        (torch.ones(5), TypeError, "got a tensor of torch.float32"),
        (None, TypeError, "got NoneType"),
    ],
)
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_wrong_rows(photos, protector, who, error, message, kind):
    """The text of the functions, and an output that is left alone."""
    out = torch.full_like(photos, 7)
    for call in (protector.protect, protector.recover):
        with pytest.raises(error, match=message):
            call(KINDS[kind](photos), who, out=KINDS[kind](out))
    assert (out == 7).all()


def test_wrong_protectors(bank):
    with pytest.raises(TypeError, match="Protector: bank must be a VeilBank, got Tensor"):
        vk.Protector(bank.veils)
    for wrong in (0, -3):
        with pytest.raises(ValueError, match="max_batch must be 1 or more"):
            vk.Protector(bank, max_batch=wrong)
    for kind in (True, 2.0, None):
        with pytest.raises(TypeError, match="max_batch must be an integer"):
            vk.Protector(bank, max_batch=kind)
    for device in ("meta", "nonsense", 1.5):
        with pytest.raises(ValueError, match="device must be cpu or a GPU"):
            vk.Protector(bank, device)
    with pytest.raises(ValueError, match=r"device must be there, got cuda:99: torch .* sees \d+ GPUs"):
        vk.Protector(bank, "cuda:99")


def test_a_mapped_bank_stays_mapped(photos, bank, tmp_path):
    bank.save(tmp_path / "veils.safetensors")
    mapped = vk.VeilBank.load(tmp_path / "veils.safetensors", mmap=True)
    protector = vk.Protector(mapped)
    assert protector.bank.veils.data_ptr() == mapped.veils.data_ptr()
    assert torch.equal(protector.protect(photos, ROWS), wanted(photos, bank))
    protector.add(vk.VeilBank(veils_of(1, seed=3), ["Dan"], A))
    assert torch.equal(protector.protect(photos, ROWS), wanted(photos, bank))


def test_nothing_secret_is_shown(protector):
    assert repr(protector) == "Protector(VeilBank(3 veils of 12 x 9, blend 51/255, for None), on cpu)"
    assert protector.device == torch.device("cpu")
