"""Host photos in pieces through a device; the CPU stands in for it."""

from __future__ import annotations

import pytest
import torch
from helpers import batch
from protector_cases import (
    KEY,
    KINDS,
    NAMES,
    RESULTS,
    ROWS,
    WHO,
    A,
    as_tensor,
    carried,
    laid,
    laid_back,
    sealed_bank,
    together,
    veils_of,
    wanted,
)

import veilkern as vk
from veilkern import reference
from veilkern.veils.apply import apply
from veilkern.veils.resident import Resident
from veilkern.veils.sealing import keyring_of
from veilkern.veils.staging import Staging
from veilkern.veils.task import PROTECT as PROTECTS
from veilkern.veils.task import RECOVER as RECOVERS

PROTECT, RECOVER = PROTECTS["blend"], RECOVERS["blend"]


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return batch(5, 3, 12)[0][:, :, :, :9].contiguous()


@pytest.fixture(scope="module")
def bank() -> vk.VeilBank:
    return vk.VeilBank(veils_of(3), NAMES, A)


class Staged:
    """Veils that are read through Staging; with the CPU in the place of a GPU: the same pieces, slots and buffers."""

    def __init__(self, bank, max_batch):
        device = torch.device("cpu")
        self.blend = bank.blend
        self.resident, self.staging = Resident(bank, device), Staging(device, max_batch)
        self.keyring = keyring_of("test", bank, KEY if bank.levels else None)

    def on_cpu(self):
        return None

    def run(self, task, photos, rows, option, out):
        how = self.keyring.sealing(rows, photos.device) if self.keyring else self.blend
        return self.staging.run(task, self.resident, photos, rows, how, option, out)


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


@pytest.mark.parametrize("max_batch", [2, 8])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("lossless", [False, True])
def test_sealed_photos_in_pieces(photos, max_batch, layout, lossless):
    bank = sealed_bank()
    staged, given = Staged(bank, max_batch), laid(photos, layout)
    hidden = apply(PROTECTS["sealed"], given, bank, staged, WHO["names"], None, lossless, layout)
    assert len({tuple(nonce) for nonce in carried(bank, laid_back(hidden, layout), lossless)}) == len(photos)
    back = apply(RECOVERS["sealed"], hidden, bank, staged, WHO["names"], None, None, layout)
    assert torch.equal(back, vk.recover(hidden, bank, ROWS, key=KEY, layout=layout))
    assert torch.equal(back, given) == lossless
    out = hidden.clone() if not lossless else torch.empty_like(given)
    source = out if not lossless else hidden
    smooth = apply(RECOVERS["sealed"], source, bank, staged, WHO["names"], out, 1.0, layout)
    assert smooth is out and torch.equal(
        smooth, vk.recover(hidden, bank, ROWS, key=KEY, gaussian_sigma=1.0, layout=layout)
    )
    with pytest.raises(ValueError, match="gaussian_sigma 9.0 reaches"):
        apply(RECOVERS["sealed"], source, bank, staged, WHO["names"], out, 9.0, layout)
    assert torch.equal(out, smooth)
    with pytest.raises(ValueError, match="rows must lie in 0..2"):
        apply(PROTECTS["sealed"], given, bank, staged, [0, 1, 2, 3, 0], None, False, layout)


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
