"""protect, recover and Protector with a sealed bank: keys, nonces, kinds of array, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import traceback

import pytest
import torch
from helpers import batch, native
from protector_cases import (
    KEY,
    KINDS,
    NAMES,
    RESULTS,
    ROWS,
    WHO,
    as_tensor,
    carried,
    laid,
    laid_back,
    sealed_bank,
    together,
)
from torch.fx.experimental.proxy_tensor import make_fx

import veilkern as vk
from veilkern import ops
from veilkern.veils import keyed, sealing
from veilkern.veils.sealing import Keyring, fresh_nonces

OTHER = b"another master key, none of these veils'"


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return batch(5, 3, 12)[0][:, :, :, :9].contiguous()


@pytest.fixture(scope="module")
def bank() -> vk.VeilBank:
    return sealed_bank()


def key_of(name: str, generation: int = 0, master: bytes = KEY) -> torch.Tensor:
    """As the issue defines it: HKDF-SHA256, info `seal`, NUL, the name, and for a generation NUL and it in decimal."""
    info = b"seal\0" + name.encode() + (b"\0" + str(generation).encode() if generation else b"")
    return torch.frombuffer(bytearray(keyed.hkdf_sha256(master, info, 32)), dtype=torch.uint8)


def test_a_persons_key():
    """By hand for one person: a change of the derivation would lose every sealed photo there is."""
    assert key_of("Ada").numpy().tobytes() == keyed.derived(KEY, "seal", "Ada")
    assert key_of("Ada", 3).numpy().tobytes() == keyed.derived(KEY, "seal", "Ada", 3)
    assert keyed.derived(KEY, "seal", "Ada").hex() == "ec75fd631d462548e31d49d86281a4fb3a99c9693145a15ad6257cdd476b306f"
    different = {
        keyed.derived(key, purpose, name, generation)
        for key in (KEY, OTHER)
        for purpose in ("seal", "tag")
        for name in NAMES
        for generation in (0, 1, 2)
    }
    assert len(different) == 2 * 2 * 3 * 3
    with pytest.raises(ValueError, match="NUL"):
        keyed.derived(KEY, "seal", "Ada\0")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("who", ["tensor", "names"])
def test_there_and_back(photos, bank, kind, layout, lossless, who):
    given = KINDS[kind](laid(photos, layout))
    hidden = vk.protect(given, bank, WHO[who], key=KEY, lossless=lossless, layout=layout)
    assert type(hidden) is RESULTS[kind]
    made = laid_back(as_tensor(hidden), layout)
    # What the photo carries is the nonce, and with it the op gives these values.
    nonces = torch.tensor(carried(bank, made, lossless)).view(5, 12, 8)
    nonces = (nonces << torch.arange(8)).sum(2).to(torch.uint8)
    keys = torch.stack([key_of(name) for name in NAMES])
    assert torch.equal(made, ops.seal(photos, bank.veils, ROWS, keys, nonces, lossless=lossless))
    back = vk.recover(hidden, bank, WHO[who], key=KEY, layout=layout)
    assert type(back) is RESULTS[kind]
    found = laid_back(as_tensor(back), layout)
    error = (found.int() - photos.int()).abs().flatten(1)
    assert (error == 0).all() if lossless else error[:, 96:].max() == 2 and error.max() == 4
    assert torch.equal(found, ops.unseal(made, bank.veils, ROWS, keys))


def test_no_two_calls_have_a_nonce_in_common(photos, bank):
    seen = set()
    protector = vk.Protector(bank, key=KEY)
    for _ in range(20):
        for hidden in (vk.protect(photos, bank, ROWS, key=KEY), protector.protect(photos, ROWS)):
            seen |= {tuple(nonce) for nonce in carried(bank, hidden)}
    assert len(seen) == 20 * 2 * 5


def test_nonces_come_from_the_operating_system(monkeypatch, photos, bank):
    monkeypatch.setattr(sealing.os, "urandom", lambda size: bytes(range(size)))
    hidden = vk.protect(photos[:2], bank, ROWS[:2], key=KEY)
    nonces = torch.tensor(carried(bank, hidden, rows=ROWS[:2])).view(2, 12, 8)
    assert (nonces << torch.arange(8)).sum(2).tolist() == [list(range(12)), list(range(12, 24))]
    assert fresh_nonces(0, torch.device("cpu")).shape == (0, 12)


def test_in_place(photos, bank):
    for layout in ("NCHW", "NHWC"):
        given = laid(photos, layout)
        out = given.clone()
        assert vk.protect(out, bank, ROWS, key=KEY, out=out, layout=layout) is out and not torch.equal(out, given)
        vk.recover(out, bank, ROWS, key=KEY, out=out, layout=layout)
        assert (out.int() - given.int()).abs().max() <= 4


def test_a_filter_on_what_is_recovered(photos, bank):
    """The Gaussian of recover, over what unseal gives; refused before anything is written."""
    hidden = vk.protect(photos, bank, ROWS, key=KEY)
    plain, out = vk.recover(hidden, bank, ROWS, key=KEY), torch.full_like(photos, 7)
    wanted = ops.recover(plain, bank.veils, ROWS, 255, gaussian_sigma=1.5)
    assert not torch.equal(wanted, plain)
    assert torch.equal(vk.recover(hidden, bank, ROWS, key=KEY, gaussian_sigma=1.5, out=out), wanted)
    out.fill_(7)
    for sigma, error in ((9.0, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="gaussian_sigma"):
            vk.recover(hidden, bank, ROWS, key=KEY, gaussian_sigma=sigma, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    "key,error,words",
    [
        (None, ValueError, "key must be given, the master key of this sealed bank"),
        (OTHER, ValueError, "key must be the master key that .*Ada was crafted with, id .*, got id "),
        ([], ValueError, "got id none"),
        ("text of more than sixteen", TypeError, "key must be bytes"),
        (7, TypeError, "key must be bytes, or several of them, got int"),
        (b"short", ValueError, "at least 16 bytes"),
        ([KEY, "text"], TypeError, "key must be bytes"),
    ],
)
def test_keys_that_are_none(photos, bank, key, error, words):
    for call in (vk.protect, vk.recover):
        with pytest.raises(error, match=words) as caught:
            call(photos, bank, "Ada", key=key)
        told = "".join(traceback.format_exception(caught.value))
        assert "another master" not in str(caught.value) and OTHER.hex() not in told


def test_a_bank_that_blends_takes_no_key(photos):
    blended = vk.VeilBank(sealed_bank().veils, NAMES, 51)
    for call in (vk.protect, vk.recover):
        with pytest.raises(ValueError, match="key must be None: this bank's veils are blended with"):
            call(photos, blended, ROWS, key=KEY)
    with pytest.raises(ValueError, match="Protector: key must be None"):
        vk.Protector(blended, key=KEY)


def test_protector_wants_a_key_of_somebody(bank):
    for key, words in ((None, "Protector: key must be given"), (OTHER, "Protector: key must be the master key")):
        with pytest.raises(ValueError, match=words):
            vk.Protector(bank, key=key)


def test_other_errors_are_those_of_every_bank(photos, bank):
    out = torch.full_like(photos, 7)
    for given, who, target, error, words in (
        (photos.float(), ROWS, out, TypeError, "images must be uint8"),
        (photos, [0, 0, 0, 0, 3], out, ValueError, "rows must lie in 0..2"),
        (photos, torch.tensor([0, 0, 0, 0, 3]), out, ValueError, "rows must lie in 0..2"),
        (photos, torch.tensor([0, 0, 0, 0, -1]), out, ValueError, "rows must lie in 0..2"),
        (photos, "Dora", out, KeyError, "no veil for Dora"),
        (photos, ROWS[:3], out, ValueError, "rows must have one entry per photo"),
        (photos, ROWS, out[:4], ValueError, "out must be"),
        (photos[:, :, :5], ROWS, None, ValueError, "the bank's veils are 12 x 9"),
    ):
        with pytest.raises(error, match=words):
            vk.protect(given, bank, who, key=KEY, out=target)
    assert (out == 7).all()


def test_persons_keep_their_key(photos, bank):
    """Renamed, taken, joined, of another generation: what was sealed before is recovered, and only by the right key."""
    hidden = vk.protect(photos, bank, "Ada", key=KEY, lossless=True)
    renamed = bank.rename({"Ada": "Ada Lovelace"})
    assert torch.equal(vk.recover(hidden, renamed, "Ada Lovelace", key=KEY), photos)
    other = sealed_bank(["Dora"], seed=5, key=OTHER)
    both = renamed.take(["Cleo", "Ada Lovelace"]).join(other)
    assert torch.equal(vk.recover(hidden, both, "Ada Lovelace", key=KEY), photos)
    dora = vk.protect(photos, both, "Dora", key=OTHER, lossless=True)
    protector = vk.Protector(both, key=[KEY, OTHER])
    who = ["Dora", "Cleo", "Ada Lovelace", "Dora", "Cleo"]
    assert torch.equal(protector.recover(protector.protect(photos, who, lossless=True), who), photos)
    assert torch.equal(protector.recover(dora, "Dora"), photos)
    with pytest.raises(ValueError, match="the veil of Dora was"):
        vk.recover(dora, both, "Dora", key=KEY)
    later = dataclasses.replace(bank, records=[{"generation": 1}, {}, {}])
    assert not torch.equal(vk.recover(hidden, later, "Ada", key=KEY), photos)
    how = Keyring("test", later, KEY).sealing(ROWS, torch.device("cpu"))
    assert torch.equal(how.keys, torch.stack([key_of("Ada", 1), key_of("Bill_Clinton"), key_of("Cleo")]))


def test_levels_and_rounds_are_the_banks(photos):
    for levels, rounds in ((16, 20), (128, 12)):
        bank = sealed_bank(levels=levels, rounds=rounds)
        keys = torch.stack([key_of(name) for name in NAMES])
        hidden = vk.protect(photos, bank, ROWS, key=KEY, lossless=True)
        how = {"levels": levels, "rounds": rounds}
        assert torch.equal(ops.unseal(hidden, bank.veils, ROWS, keys, **how), photos)
        assert torch.equal(vk.recover(hidden, bank, ROWS, key=KEY), photos)


def test_a_sealed_bank_comes_and_goes(photos, bank):
    """add, replace, remove and swap; banks of another scheme are refused."""
    protector = vk.Protector(bank, key=KEY)
    first = protector.protect(photos, "Ada", lossless=True)
    protector.add(sealed_bank(["Dora"], seed=5))
    assert torch.equal(protector.recover(protector.protect(photos, "Dora", lossless=True), "Dora"), photos)
    assert torch.equal(protector.recover(first, "Ada"), photos)
    protector.replace(sealed_bank(["Ada"], seed=6))
    assert not torch.equal(protector.recover(first, "Ada"), photos)
    protector.remove("Dora")
    with pytest.raises(KeyError, match="Dora"):
        protector.protect(photos, "Dora")
    for bad in (vk.VeilBank(bank.veils, NAMES, 51), sealed_bank(levels=32), sealed_bank(rounds=12)):
        with pytest.raises(ValueError, match="the veils must be of 12 x 9 and 64 levels, 20 rounds, got"):
            protector.swap(bad)
    with pytest.raises(ValueError, match="Protector: key must be the master key"):
        protector.swap(sealed_bank(key=OTHER))
    assert torch.equal(protector.recover(protector.protect(photos, "Cleo", lossless=True), "Cleo"), photos)


@pytest.mark.parametrize("way", ["short", "long"])
def test_rows_that_another_thread_writes_to(way, monkeypatch):
    """A photo is sealed under its person's key, whatever becomes of the caller's rows after they were looked at: a key
    that is not made yet is all zeros."""
    bank, photos = sealed_bank(), batch(4, 3, 12)[0][:, :, :, :9].contiguous()
    protector, rows = vk.Protector(bank, key=KEY), torch.zeros(4, dtype=torch.int64)
    plain = {"short": Keyring.has_made, "long": Keyring.sealing}[way]

    def then_changed(keyring, *arguments):
        found = plain(keyring, *arguments)
        rows.fill_(1)
        return found

    if way == "short":
        protector.protect(photos[:1], "Ada")  # now her key is made
    monkeypatch.setattr(Keyring, plain.__name__, then_changed)
    hidden = protector.protect(photos, rows, lossless=True)
    assert (rows == 1).all()
    monkeypatch.setattr(Keyring, plain.__name__, plain)
    assert torch.equal(protector.recover(hidden, "Ada"), photos)


def test_many_threads_and_one_keyring(photos):
    """Keys are made by whoever needs them first, and nobody sees half of one."""
    names = [f"p{i}" for i in range(40)]
    bank = sealed_bank(names)
    protector = vk.Protector(bank, key=KEY)

    def serve(turn):
        for i in range(40):
            name = names[(7 * i + turn) % 40]
            hidden = protector.protect(photos, name, lossless=True)
            assert torch.equal(protector.recover(hidden, name), photos)

    together(*(lambda turn=turn: serve(turn) for turn in range(4)))


def test_nothing_tells_a_key(bank):
    keyring = Keyring("test", bank, KEY)
    own = keyring.sealing(ROWS, torch.device("cpu")).keys
    assert repr(keyring) == "Keyring(3 persons)" and "key" not in repr(vk.Protector(bank, key=KEY))
    assert own.any()
    assert repr(keyring.sealing(ROWS, torch.device("cpu"))) == "Sealing(3 keys, 64 levels, 20 rounds)"
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            copied(keyring)
    keyring.wipe()
    assert not own.any() and not keyring.master


def test_a_caller_may_wipe_the_key(bank):
    key = bytearray(KEY)
    for given in (key, [key]):
        key[:] = KEY
        protector = vk.Protector(bank, key=given)
        key[:] = bytes(len(key))
        protector.add(sealed_bank(["Dora"], seed=5))
        assert "Dora" in protector


def test_keys_are_overwritten_when_the_keyring_goes(bank):
    keyring = Keyring("test", bank, KEY)
    own = keyring.sealing(ROWS, torch.device("cpu")).keys
    del keyring
    assert not own.any()


def test_all_keys_at_once(bank):
    """As on a GPU, where no call shall read its rows: of everybody whose master key is here."""
    both = bank.join(sealed_bank(["Dora"], key=OTHER))
    keyring = Keyring("test", both, KEY)
    keyring.make_all()
    assert keyring.keys.any(1).tolist() == [True, True, True, False]


@native
def test_an_empty_batch(bank):
    for layout, shape in (("NCHW", (0, 3, 12, 9)), ("NHWC", (0, 12, 9, 3))):
        none = torch.zeros(shape, dtype=torch.uint8)
        hidden = vk.protect(none, bank, [], key=KEY, layout=layout)
        assert hidden.shape == shape == vk.recover(hidden, bank, "Ada", key=KEY, layout=layout).shape


def test_a_compiled_call_draws_anew(photos, bank):
    """Nonces are drawn when the code runs, not when it is traced."""

    @torch.compile(backend="eager")
    def hide(x):
        return vk.protect(x, bank, ROWS, key=KEY)

    assert carried(bank, hide(photos)) != carried(bank, hide(photos))


@native
def test_the_short_way_is_the_long_way(photos, bank, monkeypatch):
    """Whether a key is made already, who made the nonces, and which way a call takes, changes no bit."""
    from veilkern.veils import apply as applying

    monkeypatch.setattr(sealing.os, "urandom", lambda size: bytes(range(100, 100 + size)))
    protector, taken = vk.Protector(bank, key=KEY), []
    plain = applying.direct

    def direct(*arguments):
        found = plain(*arguments)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(applying, "direct", direct)
    for lossless in (False, True):
        for layout in ("NCHW", "NHWC"):
            given = laid(photos, layout)
            first = protector.protect(given, ROWS, lossless=lossless, layout=layout)
            again = protector.protect(given, WHO["names"], lossless=lossless, layout=layout)
            with vk.use_backend("reference"):
                wanted = protector.protect(given, ROWS, lossless=lossless, layout=layout)
            assert torch.equal(first, wanted) and torch.equal(again, wanted)
            back = protector.recover(first, ROWS, layout=layout)
            with vk.use_backend("reference"):
                assert torch.equal(back, protector.recover(first, ROWS, layout=layout))
    calls = [True, True, False, True, False] * 4
    calls[0] = False  # the keys are made by the first call, which goes the long way
    assert taken == calls
    out = torch.full_like(photos, 7)
    for who in ([0, 1, 2, 3, 0], [0, 1, 2, -1, 0], torch.tensor([0, 1, 2, -1, 0])):
        with pytest.raises(ValueError, match="rows must lie in 0..2"):
            protector.protect(photos, who, out=out)
    keys = protector._state.keyring.keys
    for target in (bank.veils[:1].expand(5, -1, -1, -1), torch.empty(0)):
        with pytest.raises((ValueError, TypeError)):
            protector.protect(photos, ROWS, out=target)
    assert (out == 7).all() and torch.equal(keys, torch.stack([key_of(name) for name in NAMES]))


def test_a_keyring_that_goes_leaves_no_trace_in_a_graph(bank):
    """The garbage collector may take one at any time, in the middle of somebody's tracing too."""
    waiting = [Keyring("test", bank, KEY)]
    keys = waiting[0].sealing(ROWS, torch.device("cpu")).keys
    assert keys.any()

    def taken_meanwhile(x):
        waiting.clear()
        return x + 1

    graph = make_fx(taken_meanwhile)(torch.zeros(2)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.aten.add.Tensor]
    assert not waiting and not keys.any()
