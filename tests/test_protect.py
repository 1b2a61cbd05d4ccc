"""protect and recover of a bank's photos: kinds of array, layouts, rows by name and number, out."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from helpers import batch, native

import veilkern as vk
from veilkern import ops

NAMES = ["Ada", "Bill_Clinton", "Cleo"]


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return batch(5, 3, 12)[0][:, :, :, :9].contiguous()


@pytest.fixture(scope="module")
def bank() -> vk.VeilBank:
    return vk.VeilBank(batch(5, 3, 12)[1][:, :, :, :9].contiguous(), NAMES, 51)


ROWS = torch.tensor([2, 0, 1, 1, 0])


def wanted(photos, bank, rows=ROWS, lossless=False) -> torch.Tensor:
    return ops.blend(photos, bank.veils, rows, bank.blend, lossless=lossless)


def nhwc(photos):
    """The same photos [N, H, W, 3], whole in memory."""
    return np.ascontiguousarray(photos.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("lossless", [False, True])
def test_numpy_in_numpy_out(photos, bank, lossless):
    hidden = vk.protect(photos.numpy(), bank, ROWS, lossless=lossless)
    assert isinstance(hidden, np.ndarray) and hidden.dtype == (np.uint16 if lossless else np.uint8)
    assert np.array_equal(hidden, wanted(photos, bank, lossless=lossless).numpy())
    back = vk.recover(hidden, bank, ROWS)
    assert isinstance(back, np.ndarray) and back.dtype == np.uint8
    assert np.array_equal(back, vk.recover(torch.from_numpy(hidden), bank, ROWS).numpy())
    assert not lossless or np.array_equal(back, photos.numpy())


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("lossless", [False, True])
def test_channels_at_the_end(photos, bank, kind, lossless):
    """[N, H, W, 3] in, the same out: shape, layout in memory, kind of array."""
    given = nhwc(photos) if kind == "numpy" else torch.from_numpy(nhwc(photos))
    hidden = vk.protect(given, bank, ROWS, lossless=lossless, layout="NHWC")
    back = vk.recover(hidden, bank, ROWS, layout="NHWC")
    for found in (hidden, back):
        assert type(found) is type(given) and tuple(found.shape) == (5, 12, 9, 3)
        assert found.flags.c_contiguous if kind == "numpy" else found.is_contiguous()
    value = wanted(photos, bank, lossless=lossless)
    assert np.array_equal(np.asarray(hidden), nhwc(value))
    assert np.array_equal(np.asarray(back), nhwc(vk.recover(value, bank, ROWS)))


def test_a_layout_that_does_not_fit_is_named(photos, bank):
    for given in (nhwc(photos), torch.from_numpy(nhwc(photos))):
        with pytest.raises(ValueError, match=r'protect: images \[5, 12, 9, 3\] look like .* pass layout="NHWC"'):
            vk.protect(given, bank, ROWS)
        with pytest.raises(ValueError, match=r'recover: protected .* pass layout="NHWC"'):
            vk.recover(given, bank, ROWS)
    with pytest.raises(ValueError, match=r"images must be \[N, H, W, 3\] with layout NHWC, got \[5, 3, 12, 9\]"):
        vk.protect(photos, bank, ROWS, layout="NHWC")
    with pytest.raises(ValueError, match="layout must be one of NCHW, NHWC, got 'HWC'"):
        vk.protect(photos, bank, ROWS, layout="HWC")
    with pytest.raises(ValueError, match="veils are 12 x 9, the photos 9 x 12"):
        vk.protect(photos.transpose(2, 3), bank, ROWS)
    with pytest.raises(ValueError, match="veils are 12 x 9, the photos 9 x 12"):
        vk.protect(nhwc(photos.transpose(2, 3)), bank, ROWS, layout="NHWC")


def test_three_pixels_wide_is_no_riddle():
    """[N, 3, H, 3] is channels first unless the layout says otherwise."""
    x, v, rows = batch(4, 2, 3)
    bank = vk.VeilBank(v, ["a", "b"], 51)
    assert torch.equal(vk.protect(x, bank, rows), ops.blend(x, v, rows, 51))
    last = x.permute(0, 2, 3, 1).contiguous()
    assert torch.equal(vk.protect(last, bank, rows, layout="NHWC").permute(0, 3, 1, 2), ops.blend(x, v, rows, 51))


def test_arrays_that_torch_cannot_share(photos, bank):
    """Read-only, written backwards, of another byte order: read all the same; as `out` refused."""
    frozen = photos.numpy().copy()
    frozen.flags.writeable = False
    backwards = photos.numpy()[:, ::-1].copy()[:, ::-1]
    value = wanted(photos, bank).numpy()
    assert np.array_equal(vk.protect(frozen, bank, ROWS), value)
    assert np.array_equal(vk.protect(backwards, bank, ROWS), value)
    exact = vk.protect(photos.numpy(), bank, ROWS, lossless=True)
    assert np.array_equal(vk.recover(exact.astype(exact.dtype.newbyteorder()), bank, ROWS), photos.numpy())
    for out in (frozen, backwards):
        with pytest.raises(ValueError, match="out must be writable"):
            vk.protect(photos.numpy(), bank, ROWS, out=out)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_out(photos, bank, kind, layout):
    """The result is written there, and `out` itself comes back."""
    first = photos.permute(0, 2, 3, 1).contiguous() if layout == "NHWC" else photos
    value = wanted(photos, bank)
    for call, given, expected in (
        (vk.protect, first, value),
        (vk.recover, value.permute(0, 2, 3, 1).contiguous() if layout == "NHWC" else value, None),
    ):
        expected = ops.recover(value, bank.veils, ROWS, 51) if expected is None else expected
        given = given.numpy() if kind == "numpy" else given
        out = np.full(given.shape, 7, np.uint8) if kind == "numpy" else torch.full(given.shape, 7, dtype=torch.uint8)
        assert call(given, bank, ROWS, out=out, layout=layout) is out
        found = torch.as_tensor(out)
        assert torch.equal(found.permute(0, 3, 1, 2) if layout == "NHWC" else found, expected)
    with pytest.raises(ValueError, match="out must be"):
        vk.protect(photos, bank, ROWS, out=torch.zeros(2, 3, 12, 9, dtype=torch.uint8))
    with pytest.raises(TypeError, match="out must be uint8"):
        vk.protect(photos, bank, ROWS, out=torch.zeros(photos.shape))
    with pytest.raises(TypeError, match="protect: out must be a tensor or a NumPy array, or have __dlpack__, got list"):
        vk.protect(photos, bank, ROWS, out=[])


@pytest.mark.parametrize(
    "rows",
    [
        [2, 0, 1, 1, 0],
        (2, 0, 1, 1, 0),
        ["Cleo", "Ada", "Bill_Clinton", "Bill_Clinton", "Ada"],
        np.array(["Cleo", "Ada", "Bill_Clinton", "Bill_Clinton", "Ada"]),
        [np.str_("Cleo"), "Ada", "Bill_Clinton", "Bill_Clinton", "Ada"],
        np.array([2, 0, 1, 1, 0], dtype=np.uint8),
        np.array([2, 0, 1, 1, 0], dtype=np.int64),
        [np.int32(2), 0, torch.tensor(1), 1, 0],
        ROWS.int(),
        ROWS.to(torch.uint8),
    ],
)
def test_rows(photos, bank, rows):
    hidden = vk.protect(photos, bank, rows)
    assert torch.equal(hidden, wanted(photos, bank))
    assert torch.equal(vk.recover(hidden, bank, rows), vk.recover(hidden, bank, ROWS))


def test_one_name_is_everybody(photos, bank):
    for name in ("Bill_Clinton", np.str_("Bill_Clinton")):
        hidden = vk.protect(photos, bank, name)
        assert torch.equal(hidden, wanted(photos, bank, torch.ones(5, dtype=torch.int64)))
        assert torch.equal(vk.recover(hidden, bank, name), vk.recover(hidden, bank, [1] * 5))
    assert len(vk.protect(photos[:0], bank, "Ada")) == 0 and len(vk.protect(photos[:0], bank, [])) == 0
    for rows in ("Dan", ["Ada", "Dan", "Ada", "Ada", "Ada"]):
        with pytest.raises(KeyError, match="no veil for Dan"):
            vk.protect(photos, bank, rows)


@pytest.mark.parametrize(
    "rows,error",
    [
        ([2.0, 0, 1, 1, 0], TypeError),
        ([0.5] * 5, TypeError),
        ([True, False, True, True, False], TypeError),
        ([1, True, 0, 0, 0], TypeError),
        ([1, torch.tensor(True), 0, 0, 0], TypeError),
        ([1, np.bool_(True), 0, 0, 0], TypeError),
        (np.array([1.0, 0, 1, 1, 0]), TypeError),
        (np.array([True] * 5), TypeError),
        (torch.tensor([1.0, 0, 1, 1, 0]), TypeError),
        (torch.tensor([True] * 5), TypeError),
        (torch.zeros(5, dtype=torch.complex64), TypeError),
        (["Ada", 0, 0, 0, 0], TypeError),
        ([None] * 5, TypeError),
        (None, TypeError),
        (1, TypeError),
        (b"Ada", TypeError),
        ([3, 0, 0, 0, 0], ValueError),
        ([-1, 0, 0, 0, 0], ValueError),
        ([2**70, 0, 0, 0, 0], ValueError),
        (np.array([2**64 - 1, 0, 0, 0, 0], dtype=np.uint64), ValueError),
        ([0, 1], ValueError),
        ([[0, 1, 2, 0, 1]], TypeError),
        (torch.zeros((5, 1), dtype=torch.int64), ValueError),
        ("", KeyError),
    ],
)
@pytest.mark.parametrize("op", [vk.protect, vk.recover])
def test_rows_that_are_none(photos, bank, rows, error, op):
    """Nothing is rounded or taken for a number: an error that names rows."""
    with pytest.raises(error, match="rows must|no veil for"):
        op(photos, bank, rows)


def test_rows_follow_the_photos_to_their_device(photos, bank):
    """Seen without a GPU: photos that have a shape and a device alone."""
    there = photos.to("meta")
    for rows in (ROWS, ROWS.numpy(), ROWS.tolist(), "Ada", ["Ada"] * 5):
        assert vk.protect(there, bank, rows).device.type == "meta"
    with pytest.raises(ValueError, match="rows must be on the device of images"):
        ops.blend(photos, bank.veils, ROWS.to("meta"), 51)


def test_wrong_photos_and_banks(photos, bank):
    with pytest.raises(
        TypeError, match="protect: images must be a tensor or a NumPy array, or have __dlpack__, got list"
    ):
        vk.protect([photos], bank, ROWS)
    with pytest.raises(TypeError, match="protect: images must be uint8 or uint16, got float64"):
        vk.protect(photos.numpy().astype(float), bank, ROWS)
    with pytest.raises(TypeError, match="images must be uint8"):
        vk.protect(photos.float(), bank, ROWS)
    with pytest.raises(TypeError, match="recover: bank must be a VeilBank, got Tensor"):
        vk.recover(photos, bank.veils, ROWS)
    for one in (photos[0], photos[0].numpy()):
        with pytest.raises(ValueError, match=r"images must be uint8 \[N, 3, H, W\], got \[3, 12, 9\]"):
            vk.protect(one, bank, ROWS)


# A bank of 3,000,000 people, 113 GB, if anybody made a copy of it: one veil for each in turn, in no memory.
MANY = 3_000_000
LARGE_BANKS = ("planes", "channels_last", "crop", "transposed")


def large_bank(layout: str, dtype=torch.uint8) -> torch.Tensor:
    one = torch.randint(0, 256, (1, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)).to(
        dtype
    )
    if layout == "channels_last":
        one = one.contiguous(memory_format=torch.channels_last)
    elif layout == "crop":
        one = torch.nn.functional.pad(one, (3, 5, 2, 1))[:, :, 2:-1, 3:-5]
    elif layout == "transposed":
        one = one.transpose(2, 3).contiguous().transpose(2, 3)
    return one.expand(MANY, -1, -1, -1)


@native
@pytest.mark.parametrize("layout", LARGE_BANKS)
@pytest.mark.parametrize("last", [False, True])
def test_a_bank_is_never_copied(layout, last, monkeypatch):
    """Whatever the layout of photos and bank, only the veils of the photos are read."""
    veils, rows = large_bank(layout), torch.tensor([0, MANY - 1, 1234567, 5])
    images = batch(4, 1, 112)[0]
    images = images.contiguous(memory_format=torch.channels_last) if last else images
    copied: list[int] = []
    rooms = [importlib.import_module(f"veilkern.backends.cpu.{m}") for m in ("_tensors", "recover", "blend_normalize")]
    plain = rooms[0].whole
    for room in rooms:
        monkeypatch.setattr(room, "whole", lambda photos, order: copied.append(len(photos)) or plain(photos, order))
    one, first = veils[:1].contiguous(), torch.zeros(4, dtype=torch.int64)
    dense = images.contiguous()
    for lossless in (False, True):
        found = ops.blend(images, veils, rows, 51, lossless=lossless)
        assert torch.equal(found, ops.blend(dense, one, first, 51, lossless=lossless))
        for sigma in (None, 1.0):
            back = ops.recover(found, veils, rows, 51, gaussian_sigma=sigma)
            assert torch.equal(back, ops.recover(found.contiguous(), one, first, 51, gaussian_sigma=sigma))
    numbers = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    normal = ops.blend_normalize(images, large_bank(layout, torch.float32), rows, 51, **numbers)
    assert torch.equal(normal, ops.blend_normalize(dense, one.float(), first, 51, **numbers))
    assert max(copied) <= 4
