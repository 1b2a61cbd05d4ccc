"""Protector: values, kinds of array, layouts, out, the short and the long way, hot swap, threads, staging."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import pytest
import torch
from helpers import batch, native
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import veilkern as vk
from veilkern import reference
from veilkern.veils import apply as apply_module
from veilkern.veils import resident as resident_module
from veilkern.veils.apply import apply
from veilkern.veils.resident import Resident
from veilkern.veils.staging import Staging
from veilkern.veils.task import PROTECT, RECOVER

A, NAMES = 51, ["Ada", "Bill_Clinton", "Cleo"]
ROWS = torch.tensor([2, 0, 1, 1, 0])
SIZE = (12, 9)


def veils_of(people: int, seed: int = 0) -> torch.Tensor:
    return batch(1, people, 12, seed)[1][:, :, :, :9].contiguous()


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


def wanted(photos, bank, rows=ROWS, lossless=False) -> torch.Tensor:
    return reference.blend(photos, bank.veils, rows, bank.blend, lossless=lossless)


class Foreign:
    """An array of another library: nothing but DLPack."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


def as_tensor(found) -> torch.Tensor:
    return torch.from_numpy(found) if isinstance(found, np.ndarray) else found


def laid(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    return tensor.permute(0, 2, 3, 1).contiguous() if layout == "NHWC" else tensor.contiguous()


KINDS = {"torch": lambda t: t, "numpy": lambda t: t.numpy(), "dlpack": Foreign}
RESULTS = {"torch": torch.Tensor, "numpy": np.ndarray, "dlpack": torch.Tensor}


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


WHO = {
    "tensor": ROWS,
    "tensor_strided": torch.stack([ROWS, ROWS], dim=1)[:, 0],
    "tensor_int32": ROWS.int(),
    "list": ROWS.tolist(),
    "tuple": tuple(ROWS.tolist()),
    "array": ROWS.numpy(),
    "array_strided": np.stack([ROWS.numpy()] * 2, axis=1)[:, 0],
    "array_backwards": ROWS.numpy()[::-1].copy()[::-1],
    "array_uint8": ROWS.numpy().astype(np.uint8),
    "array_big_endian": ROWS.numpy().astype(">i8"),
    "dlpack": Foreign(ROWS),
    "names": [NAMES[row] for row in ROWS],
    "names_tuple": tuple(NAMES[row] for row in ROWS),
    "names_array": np.array([NAMES[row] for row in ROWS]),
    "mixed_integers": [np.int64(2), 0, torch.tensor(1), 1, 0],
}


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


def test_persons_come_and_go(photos, bank):
    protector = vk.Protector(bank)
    more, other = vk.VeilBank(veils_of(2, seed=5), ["Dan", "Eve"], A), vk.VeilBank(veils_of(1, seed=6), ["Ada"], A)
    protector.add(more)
    assert len(protector) == 5 and "Eve" in protector and protector.bank.names == [*NAMES, "Dan", "Eve"]
    assert torch.equal(protector.protect(photos, "Eve"), wanted(photos, more, torch.ones(5, dtype=torch.int64)))
    protector.replace(other)
    assert torch.equal(protector.protect(photos, "Ada"), wanted(photos, other, torch.zeros(5, dtype=torch.int64)))
    assert protector.bank.names == [*NAMES, "Dan", "Eve"]
    protector.remove(["Ada", "Dan"])
    protector.remove("Cleo")
    for call in (protector.protect, protector.recover):
        for who in ("Ada", ["Ada"] * 5):
            with pytest.raises(KeyError, match="no veil for Ada"):
                call(photos, who)
    assert torch.equal(
        protector.protect(photos, "Bill_Clinton"), wanted(photos, bank, torch.ones(5, dtype=torch.int64))
    )
    assert bank.names == NAMES and "Dan" not in protector  # the bank that was given is as it was
    protector.swap(bank)
    assert torch.equal(protector.protect(photos, ROWS), wanted(photos, bank))


def test_changes_that_are_refused(bank, protector):
    tall = vk.VeilBank(veils_of(1).transpose(2, 3), ["Dan"], A)
    for change in (protector.add, protector.swap, protector.replace):
        for wrong, what in (
            (tall, "9 x 12 and blend 51"),
            (vk.VeilBank(veils_of(1), ["Ada"], 50), "12 x 9 and blend 50"),
        ):
            with pytest.raises(ValueError, match=f"the veils must be of 12 x 9 and blend 51, got {what}"):
                change(wrong)
        with pytest.raises(TypeError, match=r"Protector\.\w+: wanted a VeilBank, got str"):
            change("Ada")
    with pytest.raises(ValueError, match="both banks have a veil of Ada"):
        protector.add(vk.VeilBank(veils_of(1), ["Ada"], A))
    with pytest.raises(KeyError, match="no veil for Dan"):
        protector.replace(vk.VeilBank(veils_of(2), ["Ada", "Dan"], A))
    with pytest.raises(KeyError, match="no veil for Dan"):
        protector.remove(["Ada", "Dan"])
    assert protector.bank is bank


def together(*works) -> None:
    """Run works at once; what any of them raises is raised here."""
    errors: list[BaseException] = []

    def run(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("way", ["short", "long"])
def test_a_call_sees_one_state(photos, way):
    """Two banks with the same persons in opposite order: rows of the one with veils of the other would be somebody
    else's. Every call, by names, is wholly of one bank."""
    first = vk.VeilBank(veils_of(3), NAMES, A)
    second = vk.VeilBank(veils_of(3, seed=9), NAMES[::-1], A)
    who = [NAMES[row] for row in ROWS]
    possible = [wanted(photos, bank, bank.rows(who)) for bank in (first, second)]
    x = photos if way == "short" else photos.transpose(2, 3).contiguous().transpose(2, 3)
    protector, seen, begun = vk.Protector(first), set(), time.monotonic()

    def more() -> bool:
        """Until both banks have been met, and a thousand swaps at least."""
        return turns < 1000 or (seen != {0, 1} and time.monotonic() - begun < 60)

    def serve():
        while more():
            found = protector.protect(x, who)
            seen.add(next((i for i, value in enumerate(possible) if torch.equal(found, value)), "a mixture"))

    def swap():
        nonlocal turns
        while more():
            protector.swap((second, first)[turns % 2])
            turns += 1

    turns = 0
    together(serve, serve, swap)
    assert seen == {0, 1}


@pytest.mark.parametrize("op", ["protect", "recover"])
def test_a_call_reads_the_state_once(photos, bank, op):
    """Another state at every look: a call that looked twice would mix them."""
    states = [vk.Protector(bank)._state, vk.Protector(vk.VeilBank(veils_of(3, seed=9), NAMES[::-1], A))._state]
    looks = []

    class Flickering(vk.Protector):
        @property
        def _state(self):
            looks.append(states[len(looks) % 2])
            return looks[-1]

        @_state.setter
        def _state(self, state):
            pass

    protector = Flickering(bank)
    for x in (photos, photos.numpy(), photos.transpose(2, 3).contiguous().transpose(2, 3)):
        looks.clear()
        found, value = getattr(protector, op)(x, "Ada"), getattr(vk, op)(photos, bank, "Ada")
        assert len(looks) == 1 and torch.equal(as_tensor(found), value)


def test_a_change_in_the_middle_of_a_call(photos, bank):
    """Seen from inside of one: photos that swap the bank when they are read, before any row is looked up."""
    protector, other = vk.Protector(bank), vk.VeilBank(veils_of(3, seed=9), NAMES[::-1], A)

    class Swapping(Foreign):
        def __dlpack__(self, **options):
            protector.swap(other)
            return super().__dlpack__(**options)

    assert torch.equal(protector.protect(Swapping(photos), "Ada"), vk.protect(photos, bank, "Ada"))
    assert torch.equal(protector.protect(photos, "Ada"), vk.protect(photos, other, "Ada"))


def test_changes_at_once_lose_nothing(bank, monkeypatch):
    """Several threads that add and remove, each change long enough for the others to begin: every one counts."""
    protector, plain = vk.Protector(bank), vk.VeilBank.join

    def join(*banks, **options):
        time.sleep(0.001)
        return plain(*banks, **options)

    monkeypatch.setattr(vk.VeilBank, "join", join)

    def change(number):
        for turn in range(20):
            protector.add(vk.VeilBank(veils_of(2, seed=turn), [f"{number}_{turn}", f"{number}_{turn}_gone"], A))
            protector.remove(f"{number}_{turn}_gone")

    together(*(lambda number=number: change(number) for number in range(4)))
    assert sorted(protector.bank.names) == sorted([*NAMES, *(f"{n}_{t}" for n in range(4) for t in range(20))])


def test_many_threads_at_once(bank, protector):
    """Each thread with photos, rows and outputs of its own gets its own results."""

    def serve(seed):
        x = batch(7, 3, 12, seed)[0][:, :, :, :9].contiguous()
        rows = torch.randint(0, 3, (7,), generator=torch.Generator().manual_seed(seed))
        out, value = torch.empty_like(x), wanted(x, bank, rows)
        for _ in range(200):
            assert torch.equal(protector.protect(x, rows.tolist(), out=out), value)
            assert torch.equal(protector.protect(x, rows), value)

    together(*(lambda seed=seed: serve(seed) for seed in range(6)))


def test_a_mapped_bank_stays_mapped(photos, bank, tmp_path):
    bank.save(tmp_path / "veils.safetensors")
    mapped = vk.VeilBank.load(tmp_path / "veils.safetensors", mmap=True)
    protector = vk.Protector(mapped)
    assert protector.bank.veils.data_ptr() == mapped.veils.data_ptr()
    assert torch.equal(protector.protect(photos, ROWS), wanted(photos, bank))
    protector.add(vk.VeilBank(veils_of(1, seed=3), ["Dan"], A))
    assert torch.equal(protector.protect(photos, ROWS), wanted(photos, bank))


def test_the_functions_keep_a_copy_per_device(photos, bank, monkeypatch):
    """One copy for all calls, anew once somebody writes to the bank, gone with the bank. Seen with veils on meta."""
    veils = bank.veils.clone()
    own, made = vk.VeilBank(veils, NAMES, A), []
    plain = resident_module.Resident
    monkeypatch.setattr(resident_module, "Resident", lambda *given: made.append(given[1]) or plain(*given))
    there, before = photos.to("meta"), len(resident_module._residents)
    for _ in range(3):
        vk.protect(there, own, ROWS)
        vk.recover(there, own, "Ada")
        vk.protect(photos, own, ROWS)
    assert sorted(str(device) for device in made) == ["cpu", "meta"]
    veils.add_(1)
    vk.protect(there, own, ROWS)
    assert torch.equal(vk.protect(photos, own, ROWS), wanted(photos, own))  # no copy here: as the bank is now
    assert sorted(str(device) for device in made) == ["cpu", "meta", "meta"]
    made.clear()
    del own
    assert len(resident_module._residents) <= before


def test_of_two_threads_that_come_first_one_copies(photos, bank, monkeypatch):
    own, made, plain = vk.VeilBank(bank.veils, NAMES, A), [], resident_module.Resident

    def slowly(*given):
        made.append(given[1])
        time.sleep(0.05)
        return plain(*given)

    monkeypatch.setattr(resident_module, "Resident", slowly)
    together(*[lambda: vk.protect(photos, own, ROWS)] * 4)
    assert len(made) == 1


class Staged:
    """Veils that are read through Staging; with the CPU in the place of a GPU: the same pieces, slots and buffers."""

    def __init__(self, bank, max_batch):
        device = torch.device("cpu")
        self.resident, self.staging = Resident(bank, device), Staging(device, max_batch)

    def on_cpu(self, bank):
        return None

    def run(self, way, bank, photos, rows, option, out):
        return self.staging.run(way, self.resident, photos, rows, bank.blend, option, out)


@pytest.mark.parametrize("max_batch", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("lossless", [False, True])
def test_staged_in_pieces(photos, bank, max_batch, layout, lossless):
    staged, value = Staged(bank, max_batch), wanted(photos, bank, lossless=lossless)
    for _ in range(2):  # the second time by the buffers of the first
        for kind in KINDS:
            given = KINDS[kind](laid(photos, layout))
            found = apply(PROTECT, given, bank, staged, ROWS, None, lossless, layout)
            assert type(found) is RESULTS[kind] and torch.equal(as_tensor(found), laid(value, layout))
            out = torch.zeros(laid(value, layout).shape, dtype=torch.uint8)
            for sigma in (None, 1.0):
                back = apply(RECOVER, as_tensor(found), bank, staged, WHO["names"], out, sigma, layout)
                expected = reference.recover(value, bank.veils, ROWS, A, gaussian_sigma=sigma)
                assert back is out and torch.equal(out, laid(expected, layout))
    assert apply(PROTECT, photos[:0], bank, staged, [], None, lossless, "NCHW").shape == photos[:0].shape
    assert len(staged.staging.slots) == (2 if max_batch < 5 else 1)


@pytest.mark.parametrize("layout,step", [("NCHW", 12 * 9), ("NHWC", 1)])
def test_staged_photos_keep_their_order(photos, bank, layout, step):
    """In the buffers values lie as the photos do, so that each copy is one of memory to memory."""
    seen = []

    def call(photos, veils, rows, a, option, out):
        seen.extend((photos.stride(1), out.stride(1)))
        return PROTECT.call(photos, veils, rows, a, option, out)

    apply(PROTECT._replace(call=call), laid(photos, layout), bank, Staged(bank, 3), ROWS, None, False, layout)
    assert seen == [step] * 4


def test_staged_calls_are_checked_before_anything_moves(photos, bank):
    staged, out = Staged(bank, 2), torch.full_like(photos, 7)
    cases = [
        (photos.float(), ROWS, out, TypeError, "images must be uint8"),
        (photos, [0, 0, 0, 0, 3], out, ValueError, "rows must lie in 0..2"),
        (photos, torch.tensor([0, 0, 0, 0, 3]), out, ValueError, r"rows must lie in 0..2 .*, got 0..3"),
        (photos, ROWS[:3], out, ValueError, "rows must have one entry per photo"),
        (photos, ROWS, out[:4], ValueError, r"out must be \[5, 3, 12, 9\]"),
        (photos, ROWS, out.to(torch.uint16), TypeError, "out must be uint8"),
        (out[:4], ROWS[:4], out[1:], ValueError, "out must not overlap images"),
    ]
    for given, who, target, error, message in cases:
        with pytest.raises(error, match=message):
            apply(PROTECT, given, bank, staged, who, target, False, "NCHW")
    with pytest.raises(ValueError, match="out must not overlap protected"):
        apply(RECOVER, out[:4], bank, staged, ROWS[:4], out[1:], None, "NCHW")
    with pytest.raises(ValueError, match="rows must lie in 0..2"):
        apply(RECOVER, photos, bank, staged, torch.full((5,), -1), out, None, "NCHW")
    assert (out == 7).all() and not staged.staging.slots


def test_staged_by_many_threads(bank):
    """Slots are nobody else's while a call has them, and come back when it fails."""
    staged = Staged(bank, 2)

    def serve(seed):
        x = batch(7, 3, 12, seed)[0][:, :, :, :9].contiguous()
        rows = torch.randint(0, 3, (7,), generator=torch.Generator().manual_seed(seed))
        value = wanted(x, bank, rows)
        for _ in range(30):
            assert torch.equal(apply(PROTECT, x, bank, staged, rows, None, False, "NCHW"), value)

    together(*(lambda seed=seed: serve(seed) for seed in range(4)))
    held = len(staged.staging.slots)
    assert 2 <= held <= 8 and len({id(slot) for slot in staged.staging.slots}) == held
    with vk.use_backend("reference"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "blend", None)
        with pytest.raises(TypeError):
            serve(0)
    assert len(staged.staging.slots) == held
    serve(1)


def test_nothing_secret_is_shown(protector):
    assert repr(protector) == "Protector(VeilBank(3 veils of 12 x 9, blend 51/255, for None), on cpu)"
    assert protector.device == torch.device("cpu")
