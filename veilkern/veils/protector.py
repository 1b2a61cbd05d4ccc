"""Protector: a bank resident on a device, for serving: protect and recover from any thread, persons come and go."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch

from veilkern.veils.apply import apply
from veilkern.veils.arrays import Photos
from veilkern.veils.bank import VeilBank
from veilkern.veils.resident import Resident
from veilkern.veils.rows import Rows
from veilkern.veils.sealing import Keyring, MasterKeys, keyring_of
from veilkern.veils.staging import Staging
from veilkern.veils.task import PROTECT, RECOVER, Task


class Protector:
    """A bank whose veils stay on a device, to be embedded in a server; every method may be called from any thread.

        protector = vk.Protector(vk.VeilBank.load("veils.safetensors"))
        protector.protect(photos, "Ada", out=buffer)
        protector.add(bank_of_new_persons)  # while other threads protect

    device: cpu or a GPU ("cuda", "cuda:1"). max_batch: of a batch on the host, how many photos go through the GPU at a
    time, by pinned buffers of that size; any number in a call. Photos that are on the GPU already are used there, on
    the current stream, and nothing waits. On the CPU the memory of the bank's veils is used as it is, mapped files too:
    nobody may write to it.

    key: the master key of a sealed bank, or several where its persons are of several; ValueError where it is nobody's.
    The persons' keys stay in memory, on the device too, for as long as the Protector does.

    `add`, `replace`, `remove` and `swap` make the bank anew beside the one in use and then put it in its place at once:
    a call sees the one or the other, whole. They take as long as copying the bank, and for that long memory for two; no
    call waits for them. Integer rows are rows of the bank that the call meets: where persons come and go, give names.
    A CUDA graph that has captured a call keeps the veils of its capture, and their memory is kept for it.
    """

    def __init__(
        self,
        bank: VeilBank,
        device: str | torch.device = "cpu",
        max_batch: int = 256,
        *,
        key: MasterKeys | None = None,
    ):
        if not isinstance(bank, VeilBank):
            raise TypeError(f"Protector: bank must be a VeilBank, got {type(bank).__name__}")
        if isinstance(max_batch, bool) or not isinstance(max_batch, int):
            raise TypeError(f"Protector: max_batch must be an integer, got {max_batch!r}")
        if max_batch < 1:
            raise ValueError(f"Protector: max_batch must be 1 or more, got {max_batch}")
        self._device = _device_of(device)
        self._changing = threading.Lock()  # of who changes the bank; calls read self._state once and take no lock
        self._staging = None if self._device.type == "cpu" else Staging(self._device, max_batch)
        self._captured: list[_State] = []
        # A copy: the caller may well wipe its own.
        self._key = key if key is None else bytes(key) if isinstance(key, (bytes, bytearray)) else [*map(bytes, key)]
        self._state = self._state_of(bank)

    def __repr__(self) -> str:  # as the bank's: never veils or keys
        return f"Protector({self.bank!r}, on {self._device})"

    def __len__(self) -> int:
        return len(self.bank)

    def __contains__(self, name: object) -> bool:
        return name in self.bank

    @property
    def bank(self) -> VeilBank:
        """The bank in use, its veils on the device."""
        return self._state.bank

    @property
    def device(self) -> torch.device:
        """Where the veils are."""
        return self._device

    def protect(
        self,
        images: Photos,
        who: Rows,
        *,
        out: Photos | None = None,
        lossless: bool = False,
        layout: str = "NCHW",
    ) -> Photos:
        """`vk.protect` with the bank in use: uint8 photos [N, 3, H, W] (NHWC: [N, H, W, 3]) to uint8, or with lossless
        uint16, in the shape, layout and kind of array of the photos. who: bank rows [N], N names, or one name for all.
        out: where to write. Raises TypeError, ValueError, or KeyError for a name without a veil."""
        state = self._state
        return apply(PROTECT[state.bank.scheme], images, state.bank, state, who, out, bool(lossless), layout)

    def recover(
        self,
        protected: Photos,
        who: Rows,
        *,
        out: Photos | None = None,
        gaussian_sigma: float | None = None,
        layout: str = "NCHW",
    ) -> Photos:
        """`vk.recover` with the bank in use: protected uint8 or uint16 photos to uint8. gaussian_sigma: smooth the
        result, in pixels. All else as of `protect`."""
        state = self._state
        return apply(RECOVER[state.bank.scheme], protected, state.bank, state, who, out, gaussian_sigma, layout)

    def rows(self, names: Iterable[str] | str) -> torch.Tensor:
        """Rows, int64 [n] on the CPU, of these names in the bank in use; KeyError names whoever has no veil."""
        return self.bank.rows(names)

    def add(self, persons: VeilBank) -> None:
        """Take in the persons of another bank (VeilBank.join); ValueError when one is here already, or the banks differ
        in size, blend, network or config."""
        self._change("add", persons, lambda bank, more: bank.join(more))

    def replace(self, persons: VeilBank) -> None:
        """Give persons who are here the veils of another bank; KeyError names whoever is not here, other errors as of
        `add`. Photos protected before are recovered with the veils of before: keep those."""

        def replaced(bank: VeilBank, more: VeilBank) -> VeilBank:
            bank.rows(more.names)
            return bank.join(more, replace=True)

        self._change("replace", persons, replaced)

    def remove(self, names: Iterable[str] | str) -> None:
        """Forget persons, by name; KeyError names whoever is not here."""
        names = [names] if isinstance(names, str) else list(names)
        self._change("remove", None, lambda bank, _: bank.remove(names))

    def swap(self, bank: VeilBank) -> None:
        """Serve another bank from now on, of the same size and scheme (ValueError otherwise), whoever is in it."""
        self._change("swap", bank, lambda _, other: other)

    def _change(self, what: str, given: VeilBank | None, change: Callable[..., VeilBank]) -> None:
        """Put change(bank in use, the given bank on its device) in the place of the bank in use."""
        if what != "remove" and not isinstance(given, VeilBank):
            raise TypeError(f"Protector.{what}: wanted a VeilBank, got {type(given).__name__}")
        with self._changing:
            bank = self.bank
            if given is not None:
                _check_alike(what, bank, given)
                given = _moved(given, self._device)
            self._state = self._state_of(change(bank, given))

    def _state_of(self, bank: VeilBank) -> _State:
        bank = _moved(bank, self._device)
        keyring = keyring_of("Protector", bank, self._key)
        if keyring is not None:
            keyring.check()
            if self._device.type != "cpu":  # there no call shall wait to read its rows
                keyring.make_all()
        return _State(bank, Resident(bank, self._device), keyring, self._staging, self._captured)


class _State:
    """One bank on the device, as calls see it: never changed, only put in the place of another."""

    __slots__ = ("bank", "captured", "keyring", "resident", "staging")

    def __init__(
        self, bank: VeilBank, resident: Resident, keyring: Keyring | None, staging: Staging | None, captured: Any
    ) -> None:
        self.bank, self.resident, self.keyring = bank, resident, keyring
        self.staging, self.captured = staging, captured

    def on_cpu(self) -> Resident | None:
        return self.resident if self.staging is None else None

    def run(
        self, task: Task, photos: torch.Tensor, rows: torch.Tensor, option: Any, out: torch.Tensor | None
    ) -> torch.Tensor:
        device = self.resident.veils.device
        how: Any = self.bank.blend
        if self.keyring is not None:
            rows = rows.clone()  # somebody may write to the caller's while keys are made
            how = self.keyring.sealing(rows, device)
        if photos.device.type == "cpu" and self.staging is not None:
            return self.staging.run(task, self.resident, photos, rows, how, option, out)
        if photos.device != device:
            places = f"{device}" if self.staging is None else f"{device} or on the host"
            raise ValueError(f"{task.name}: {task.photos} must be on {places}, with the veils, got {photos.device}")
        if photos.is_cuda and torch.cuda.is_current_stream_capturing() and self not in self.captured:
            self.captured.append(self)  # the graph reads these veils, and keys, whenever it is replayed
        return self.resident.run(task, photos, rows, how, option, out)


def _device_of(device: str | torch.device) -> torch.device:
    """The device by its index; ValueError for one that there is not."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"Protector: device must be cpu or a GPU such as cuda:0, got {device!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"Protector: device must be cpu or a GPU such as cuda:0, got {found}")
    if found.type == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    index = (torch.cuda.current_device() if count else 0) if found.index is None else found.index
    if index >= count:
        raise ValueError(f"Protector: device must be there, got {found}: torch {torch.__version__} sees {count} GPUs")
    return torch.device("cuda", index)


def _check_alike(what: str, bank: VeilBank, given: VeilBank) -> None:
    """Every state serves the same photos: they fit the buffers, and what is protected stays recoverable."""
    wanted, found = (
        f"{b.size[0]} x {b.size[1]} and "
        + (f"{b.levels} levels, {b.rounds} rounds" if b.levels else f"blend {b.blend}")
        for b in (bank, given)
    )
    if wanted != found:
        raise ValueError(f"Protector.{what}: the veils must be of {wanted}, got {found}")


def _moved(bank: VeilBank, device: torch.device) -> VeilBank:
    return bank if bank.veils.device == device else dataclasses.replace(bank, veils=bank.veils.to(device))
