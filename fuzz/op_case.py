"""One call of an op with drawn arguments: tensors anywhere in memory, odd values, one argument of the wrong kind."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import torch
from file_targets import require

import veilkern as vk
from veilkern import ops
from veilkern.errors import VeilkernError
from veilkern.testing.table import TABLE

FLOATS = (torch.float32, torch.float64)
CANARY = 0xA5
# Nothing, and values of every wrong kind.
ODD_VALUES = (
    None, True, -1, 0, 2, 256, 2**31, 2**63, 2**70, 0.5, 1e-200, 1e308, -1.0, math.nan, math.inf, "x", b"x", (), [], {},
    (1, 2, 3), (0, 0, 0), (math.nan,) * 3, (2**31, 2), object(), np.zeros(3), torch.tensor(1.0), torch.float64,
)  # fmt: skip


class Case:
    """One call: the op's name, its arguments, and the storages its tensors lie in."""

    def __init__(self, rng: random.Random, draws: dict[str, Callable]):
        self.rng = rng
        self.storages: list[tuple[torch.Tensor, torch.Tensor]] = []  # whole storage, and which of it may be written
        self.tame = True  # no number that is not finite, huge or tiny
        self.op = rng.choice(sorted(draws))
        self.entry = TABLE[self.op]
        self.positional, self.options = draws[self.op](self) if rng.random() < 0.75 else self._sampled()
        if rng.random() < 0.3:
            self._spoil()

    def _sampled(self) -> tuple[dict, dict]:
        """One of the table's samples, every tensor somewhere in memory of its own."""
        sample = self.rng.choice([one for one in self.entry.samples if one.light])  # the others are large
        options: dict = {}
        for name, value in sample.make().items():
            if isinstance(value, torch.Tensor) and not (name == "out" and self.op.endswith("_normalize")):
                written = name in self.entry.writes
                value = self.place(value, written=written, overlapping=not written)
            elif isinstance(value, torch.Tensor):  # it must stay channels_last
                self.storages.append((value, torch.ones(value.shape, dtype=torch.bool)))
            options[name] = value
        return {}, options

    def argument(self, name: str, default=None):
        """The argument of that name, however it is given."""
        return {**self.positional, **self.options}.get(name, default)

    def call(self, backend: str, threads: int | None = None, isa: str | None = None):
        """What came: tensors, or the error's class."""
        with vk.use_backend(backend, threads=threads if backend == "cpu" else None), limited_to(isa):
            try:
                found = getattr(ops, self.op)(*self.positional.values(), **self.options)
            except (TypeError, ValueError, VeilkernError) as error:
                require(len(str(error)) > 0, "an error without a word")
                return error
        return found if isinstance(found, tuple) else (found,)

    def in_float64(self) -> tuple[torch.Tensor, ...]:
        """What the reference gives of the same arguments in float64."""

        def wide(value):
            return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

        options = {name: wide(value) for name, value in self.options.items() if name not in self.entry.unknown}
        found = self.entry.reference(*map(wide, self.positional.values()), **options)
        return found if isinstance(found, tuple) else (found,)

    def dtypes(self) -> list[torch.dtype]:
        """Of every tensor given."""
        given = (*self.positional.values(), *self.options.values())
        return [value.dtype for value in given if isinstance(value, torch.Tensor)]

    def place(self, values: torch.Tensor, *, written: bool = False, overlapping: bool = True) -> torch.Tensor:
        """The same values somewhere in a storage of their own, in any order and with gaps; the rest is a canary."""
        rng, shape = self.rng, values.shape
        if rng.random() < 0.35:
            view = values.clone()
            self.storages.append((view, torch.full(view.shape, written)))
            return view
        order, strides, size = rng.sample(range(values.ndim), values.ndim), [0] * values.ndim, 1
        if rng.random() < 0.5:
            order = list(reversed(range(values.ndim)))
        for dim in order:
            strides[dim] = size * rng.choice((1, 1, 1, 1, 2, 3))
            size = max(strides[dim] * shape[dim] + rng.choice((0, 0, 0, 1, 5)), 1)
        if overlapping and rng.random() < 0.15 and values.numel():
            dim = rng.randrange(values.ndim)
            strides[dim], values = 0, values.narrow(dim, 0, 1).expand(shape)
        offset = rng.choice((0, 0, 1, 3, 31, 64))
        storage = torch.zeros(offset + size + 70, dtype=values.dtype)
        storage.view(torch.uint8).fill_(CANARY)
        view = storage.as_strided(shape, strides, offset)
        may = torch.zeros(storage.shape, dtype=torch.bool)
        if written:
            may.as_strided(shape, strides, offset).fill_(True)
        if 0 in strides:
            view[tuple(slice(0, 1) if s == 0 else slice(None) for s in strides)] = values[
                tuple(slice(0, 1) if s == 0 else slice(None) for s in strides)
            ]
        else:
            view.copy_(values)
        self.storages.append((storage, may))
        return view

    def bytes_outside(self) -> list[torch.Tensor]:
        """Everything that must stay as it is."""
        return [storage.reshape(-1)[~may.reshape(-1)].view(torch.uint8).clone() for storage, may in self.storages]

    def bytes8(self, *shape: int) -> torch.Tensor:
        """Random uint8."""
        return torch.from_numpy(np.frombuffer(self.rng.randbytes(math.prod(shape)), np.uint8).reshape(shape).copy())

    def floats(self, *shape: int, dtype: torch.dtype, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Random numbers; now and then one that is not finite, huge or tiny."""
        g = torch.Generator().manual_seed(self.rng.getrandbits(60))
        values = torch.rand(shape, generator=g, dtype=torch.float64) * (high - low) + low
        if values.numel() and self.rng.random() < 0.1:
            odd = self.rng.choice((math.nan, math.inf, -math.inf, 1e38, -1e38, 1e-40, 0.0))
            values.view(-1)[self.rng.randrange(values.numel())] = odd
            self.tame = False
        return values.to(dtype)

    def rows(self, count: int, people: int) -> torch.Tensor:
        """Rows in range; seldom one that is not."""
        rows = [self.rng.randrange(people) for _ in range(count)]
        if rows and self.rng.random() < 0.06:
            rows[self.rng.randrange(count)] = self.rng.choice((-1, people, 2**40, -(2**63)))
        return self.place(torch.tensor(rows, dtype=torch.int64))

    def offsets(self, counts: list[int]) -> torch.Tensor:
        """Prefix sums; seldom wrong ones."""
        marks = [0, *np.cumsum(counts).tolist()] if counts else [0]
        if self.rng.random() < 0.06:
            marks[self.rng.randrange(len(marks))] = self.rng.choice((-1, 1, marks[-1] + 1, 2**40, -(2**63)))
        return self.place(torch.tensor(marks, dtype=torch.int64))

    def out(self, shape, dtype: torch.dtype, source: torch.Tensor) -> torch.Tensor | None:
        """None, a place of its own, or one that overlaps `source`."""
        way = self.rng.random()
        if way < 0.4:
            return None
        if way < 0.8 or source.dtype != dtype or not source.numel():
            return self.place(torch.zeros(shape, dtype=dtype), written=True, overlapping=self.rng.random() < 0.2)
        inner = math.prod(shape[1:])
        shift = self.rng.choice((0, 1, shape[-1], shape[-1] * shape[-2], inner))
        storage = source.as_strided((1,), (1,), 0)
        room = source.untyped_storage().nbytes() // source.element_size()
        if shift + math.prod(shape) > room:
            shift = 0
        if math.prod(shape) > room:
            return None
        for i, (whole, may) in enumerate(self.storages):
            if whole.untyped_storage().data_ptr() == source.untyped_storage().data_ptr():
                self.storages[i] = whole, torch.ones_like(may)  # the source may change where out lies over it
        return storage.as_strided(shape, torch.empty(shape, device="meta").stride(), shift)

    def _spoil(self) -> None:
        """One argument becomes something else."""
        group = self.rng.choice([g for g in (self.positional, self.options) if g])
        name = self.rng.choice(sorted(group))
        group[name] = self._odd_tensor(group[name]) if self.rng.random() < 0.5 else self.rng.choice(ODD_VALUES)

    def _odd_tensor(self, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return self.rng.choice(ODD_VALUES)
        dtypes = (torch.int8, torch.int32, torch.uint16, torch.float16, torch.bool, torch.complex64, *FLOATS)
        return self.rng.choice(
            (
                lambda: value.unsqueeze(0), lambda: value[:0], lambda: value[0], lambda: value[..., :-1],
                lambda: value.to(self.rng.choice(dtypes)), lambda: value.tolist(),
                lambda: value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy(),  # it has no bfloat16
                lambda: value.to("meta"),
                lambda: value if value.dtype == torch.uint16 else value.flip(-1),  # torch flips none of uint16

                lambda: value if value.dtype == torch.uint16 else value.to_sparse(),  # torch makes none of uint16
                lambda: value.double().requires_grad_(), lambda: torch.cat([value, value]),
                lambda: torch.empty(()), lambda: torch.zeros(value.shape, dtype=torch.complex64).imag,
                lambda: torch._neg_view(value) if value.is_floating_point() else value,
            )
        )() if value.ndim and len(value) else value[None]  # fmt: skip


def native():
    from veilkern import _cpu

    return _cpu


class limited_to:
    """The C++ kernels with this instruction set at most (None: all)."""

    def __init__(self, isa: str | None):
        self.isa = isa

    def __enter__(self):
        if self.isa:
            native().set_isa(self.isa)

    def __exit__(self, *error):
        if self.isa:
            native().set_isa(native().best_isa())
