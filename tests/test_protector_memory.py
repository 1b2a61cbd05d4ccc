"""What lies oddly, overlaps, is gone or written to meanwhile: refused or right, and nothing else is touched."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
import torch
from helpers import batch
from protector_cases import (
    KINDS,
    NAMES,
    ROWS,
    SIZE,
    A,
    Foreign,
    veils_of,
    wanted,
)
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import veilkern as vk
from veilkern import reference


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return batch(5, 3, 12)[0][:, :, :, :9].contiguous()


@pytest.fixture(scope="module")
def bank() -> vk.VeilBank:
    return vk.VeilBank(veils_of(3), NAMES, A)


@pytest.fixture
def protector(bank) -> vk.Protector:
    return vk.Protector(bank)


@pytest.mark.parametrize("lossless", [False, True])
def test_memory_that_does_not_lie_whole(photos, bank, lossless):
    """Strided photos and outputs, channels last under NCHW, planes under NHWC, a transposed bank."""
    value = wanted(photos, bank, lossless=lossless)
    turned = vk.VeilBank(bank.veils.transpose(2, 3).contiguous().transpose(2, 3), NAMES, A)
    wide = torch.zeros(10, 3, 14, 11, dtype=torch.uint8)
    wide[::2, :, 1:13, 1:10] = photos
    for protector in (vk.Protector(bank), vk.Protector(turned)):
        for x in (photos, photos.contiguous(memory_format=torch.channels_last), wide[::2, :, 1:13, 1:10]):
            found = protector.protect(x, ROWS, lossless=lossless)
            assert torch.equal(found, value) and found.stride(1) == (1 if x.stride(1) == 1 else 12 * 9)
            last = protector.protect(x.permute(0, 2, 3, 1), ROWS, lossless=lossless, layout="NHWC")
            assert torch.equal(last.permute(0, 3, 1, 2), value)
            order = torch.contiguous_format if x.stride(1) == 1 else torch.channels_last  # another than the photos'
            other = torch.zeros_like(value).contiguous(memory_format=order)
            assert torch.equal(protector.protect(x, ROWS, lossless=lossless, out=other), value)
            room = torch.zeros(10, 3, 14, 11, dtype=value.dtype)
            assert torch.equal(protector.protect(x, ROWS, lossless=lossless, out=room[1::2, :, 1:13, 1:10]), value)
            assert (room.int() != 0).sum() == (value.int() != 0).sum()  # and nothing beside it
            arrays = protector.protect(
                x.numpy(), ROWS, lossless=lossless, out=np.empty(value.shape, value.numpy().dtype)
            )
            assert np.array_equal(arrays, value.numpy())


def test_in_place(photos, bank, protector):
    for kind in ("torch", "numpy"):
        x = photos.clone()
        given = KINDS[kind](x)
        assert protector.protect(given, ROWS, out=given) is given and torch.equal(x, wanted(photos, bank))
        assert protector.recover(given, ROWS, out=given) is given
        assert torch.equal(x, reference.recover(wanted(photos, bank), bank.veils, ROWS, A))


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_an_out_beside_the_veils_and_one_byte_in_them(photos, bank, kind):
    """Before the first byte and behind the last is apart; a byte further is not."""
    size = photos[0].numel()
    memory = torch.zeros(13 * size, dtype=torch.uint8)  # room for five photos, the veils of three, five photos
    memory[5 * size : 8 * size] = bank.veils.flatten()
    near = vk.Protector(vk.VeilBank(memory[5 * size : 8 * size].view(3, 3, *SIZE), NAMES, A))
    for place, apart in ((0, True), (1, False), (8 * size - 1, False), (8 * size, True)):
        out = KINDS[kind](memory[place : place + 5 * size].view(photos.shape))
        if apart:
            near.protect(KINDS[kind](photos), ROWS, out=out)
            assert torch.equal(torch.as_tensor(out), wanted(photos, bank))
        else:
            with pytest.raises(ValueError, match="out must not overlap veils"):
                near.protect(KINDS[kind](photos), ROWS, out=out)
        assert torch.equal(memory[5 * size : 8 * size], bank.veils.flatten())


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_an_out_that_overlaps_is_refused(photos, bank, kind):
    """And nothing is written: neither over the photos, nor the rows, nor the veils."""
    size = photos[0].numel()
    memory = torch.arange(8 * size, dtype=torch.int64).to(torch.uint8)
    x, late = memory[: 5 * size].view(photos.shape), memory[size : 6 * size].view(photos.shape)
    protector = vk.Protector(vk.VeilBank(late[:3], NAMES, A))
    rows = memory[1624:1664].view(torch.int64).zero_()
    before = memory.clone()
    cases = [(x, late, ROWS, "images"), (photos, late, ROWS, "veils"), (photos, late, rows, "veils|rows")]
    cases += [(x, x[:1].expand(5, -1, -1, -1), ROWS, "every value")] if kind == "torch" else []
    for given, out, who, what in cases:
        with pytest.raises(ValueError, match=f"out must .*({what})"):
            protector.protect(KINDS[kind](given), who, out=KINDS[kind](out))
    many = torch.zeros(20 * size, dtype=torch.uint8)  # out lies over the last veils alone
    behind = vk.Protector(vk.VeilBank(many.view(20, 3, 12, 9), [f"{row}" for row in range(20)], A))
    with pytest.raises(ValueError, match="out must not overlap veils"):
        behind.protect(KINDS[kind](photos), ROWS, out=KINDS[kind](many[15 * size :].view(photos.shape)))
    assert not many.any()
    with pytest.raises(ValueError, match="out must not overlap rows"):
        vk.Protector(bank).protect(KINDS[kind](photos), rows, out=KINDS[kind](memory[3 * size :].view(photos.shape)))
    wide = torch.zeros(10 * size, dtype=torch.uint8).view(torch.uint16)  # same address, values of another width
    with pytest.raises(ValueError, match="out must not overlap images"):
        photo = wide.view(torch.uint8)[: 5 * size].view(photos.shape)
        protector.protect(KINDS[kind](photo), ROWS, out=KINDS[kind](wide.view(photos.shape)), lossless=True)
    assert torch.equal(memory, before) and not wide.view(torch.uint8).any()


def test_memory_that_is_gone(photos, bank):
    gone = photos.clone()
    gone.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="images must have memory"):
        vk.Protector(bank).protect(gone, ROWS)
    veils = bank.veils.clone()
    protector = vk.Protector(vk.VeilBank(veils, NAMES, A))
    veils.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="veils must have memory"):
        protector.protect(photos, ROWS)
    rows = ROWS.clone()
    rows.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="rows must have memory"):
        vk.Protector(bank).protect(photos, rows)


@pytest.mark.parametrize("who", ["images", "veils", "rows", "out"])
@pytest.mark.parametrize("strided", [False, True])
def test_memory_cut_short(photos, bank, who, strided):
    """A storage of fewer bytes than the tensor has values: nothing is read or written beyond it."""
    given = {"images": photos.clone(), "veils": bank.veils.clone(), "rows": ROWS.clone(), "out": photos.clone()}
    if strided:
        given[who] = given[who].repeat_interleave(2, -1)[..., ::2]
    protector = vk.Protector(vk.VeilBank(given["veils"], NAMES, A))
    assert protector.protect(given["images"], given["rows"], out=given["out"]) is given["out"]
    storage = given[who].untyped_storage()
    needed = (given[who].numel() * (1 + strided) - strided) * given[who].itemsize
    storage.resize_(needed)
    protector.protect(given["images"], given["rows"], out=given["out"])
    storage.resize_(needed - 1)
    with pytest.raises(ValueError, match=f"{who} must have memory, got .* whose storage is cut short"):
        protector.protect(given["images"], given["rows"], out=given["out"])


def test_a_bank_whose_tensor_is_turned_or_gets_other_memory(photos):
    """Shape and strides are those of the call, on both ways."""
    veils = veils_of(3)[:, :, :9]
    square = photos[:, :, :9].contiguous()
    bank = vk.VeilBank(veils, NAMES, A)
    protector = vk.Protector(bank)
    protector.protect(square, ROWS)
    veils.transpose_(2, 3)
    assert torch.equal(protector.protect(square, ROWS), wanted(square, bank))
    veils.set_(veils_of(1)[:, :, :9].contiguous())
    with pytest.raises(ValueError, match="rows must lie in 0..0"):
        protector.protect(square, ROWS)


def test_any_stride_of_a_side_of_one(photos, bank, protector):
    """NumPy calls such an array contiguous, torch does not take it."""
    value = protector.protect(photos[:1], "Ada").numpy()
    for step in (-1, 1):
        x, out = photos.numpy()[:1][::step], np.zeros_like(value)[::step]
        assert np.array_equal(protector.protect(x, "Ada"), value)
        assert protector.protect(x, "Ada", out=out) is out and np.array_equal(out, value)
    hidden = protector.protect(photos[:1].numpy(), "Ada", lossless=True)
    odd = np.lib.stride_tricks.as_strided(hidden, strides=(7, *hidden.strides[1:]))
    for who in ("Ada", np.zeros(1, np.int32)):  # the short way and the long
        assert np.array_equal(protector.recover(odd, who), photos[:1].numpy())


def test_fake_tensors_are_not_written_to(photos, protector):
    """Under FakeTensorMode an output has no memory, though the photos have."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(protector.protect(photos, ROWS)) is FakeTensor


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated, and warns of every check
@pytest.mark.parametrize("record", [lambda f, x: make_fx(f)(x), torch.jit.trace], ids=["make_fx", "trace"])
def test_what_is_recorded_holds_the_op(photos, bank, protector, record):
    """And not the result of the call that was recorded."""
    recorded, other = record(lambda x: protector.protect(x, ROWS), photos), 255 - photos
    assert torch.equal(recorded(other), wanted(other, bank))


def test_rows_that_another_thread_writes_to(photos, bank, protector):
    """A row is not read again once it was found right: then it may be any number."""
    many, rows, stop = photos.repeat(40, 1, 1, 1), torch.zeros(200, dtype=torch.int64), threading.Event()

    def write():
        while not stop.is_set():
            rows.fill_(10**13)
            rows.zero_()

    writer = threading.Thread(target=write)
    writer.start()
    value = wanted(many, bank, torch.zeros(200, dtype=torch.int64))
    try:
        for _ in range(2000):
            with contextlib.suppress(ValueError):  # rows must name a veil
                assert torch.equal(protector.protect(many, rows), value)
    finally:
        stop.set()
        writer.join()


def test_dlpack_that_cannot_be_shared(protector):
    class Locked(Foreign):
        def __dlpack__(self, **options):
            raise BufferError("read-only")

    with pytest.raises(TypeError, match=r"protect: images, Locked, cannot be shared by DLPack \(read-only\)"):
        protector.protect(Locked(torch.zeros(1)), "Ada")


def test_dlpack_of_a_read_only_output(photos, protector):
    """NumPy says so in a versioned capsule, which torch does not heed."""
    frozen = np.zeros(photos.shape, np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(TypeError, match="out, Foreign, cannot be shared by DLPack"):
        protector.protect(photos, "Ada", out=Foreign(frozen))
    assert not frozen.any()
