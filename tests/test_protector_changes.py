"""Persons come and go while others protect: a call sees one state; and many threads at once."""

from __future__ import annotations

import time

import pytest
import torch
from helpers import batch
from protector_cases import (
    NAMES,
    ROWS,
    A,
    Foreign,
    as_tensor,
    together,
    veils_of,
    wanted,
)

import veilkern as vk
from veilkern.veils import resident as resident_module


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return batch(5, 3, 12)[0][:, :, :, :9].contiguous()


@pytest.fixture(scope="module")
def bank() -> vk.VeilBank:
    return vk.VeilBank(veils_of(3), NAMES, A)


@pytest.fixture
def protector(bank) -> vk.Protector:
    return vk.Protector(bank)


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
