"""What the table says of an op: an Entry, with its samples, bad inputs and benchmark sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from veilkern import ops
from veilkern.testing.compare import Arguments, Tolerances, require_results

# What every op is tried on, or its entry says why not.
KINDS = ("ordinary", "ragged", "empty", "one", "odd", "strided", "channels_last", "extreme")
Results = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Sample:
    """One good call. kind: one of KINDS, or `many` (enough for several threads: compared bit by bit among all of the
    native paths). make() -> new arguments by name, tensors on the CPU. light: cheap enough for Triton's interpreter.
    traced: torch.compile's view of it is checked too, which takes a second."""

    kind: str
    words: str
    make: Callable[..., Arguments]  # of nothing; mypy infers no lambda with defaults otherwise
    light: bool = True
    traced: bool = False

    @property
    def label(self) -> str:
        """Kind and words."""
        return ": ".join(part for part in (self.kind, self.words) if part)


@dataclass(frozen=True)
class Bad:
    """One bad input: how it differs from the first sample, the error that it must raise, and words (a regular
    expression) of its message. A function among the changes is given the sample's arguments."""

    change: Mapping[str, Any]
    error: type[Exception]
    words: str

    def arguments(self, good: Arguments) -> Arguments:
        """The first sample's arguments, spoiled."""
        return good | {k: v(good) if inspect.isfunction(v) else v for k, v in self.change.items()}


@dataclass(frozen=True)
class Size:
    """One size of the benchmark. words: as its row is called. make(device) -> arguments. moved: bytes that the op must
    read and write; copied: those that the copy beside it does (0: as many). parts: into how many equal ones (people)
    the work falls, for rivals too slow for all of it."""

    words: str
    make: Callable[..., Arguments]
    moved: int
    copied: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Workload:
    """Photos of people to run kernels on, on the CPU: images uint8 [N, 3, H, W], veils uint8 [P, 3, H, W], rows int64
    [N], offsets int64 [P + 1] (N photos), features float32 [N, d] of unit length or zero."""

    images: torch.Tensor
    veils: torch.Tensor
    rows: torch.Tensor
    offsets: torch.Tensor
    features: torch.Tensor


@dataclass(frozen=True)
class KernelCall:
    """One way into an op's kernels. case: its name in the resource report ("": not there). launch: the shape class of
    launch tables that it falls in ("": not measured by `veilkern tune`). make(work) -> arguments. compared: which of
    the results must not change with the launch (None: all)."""

    case: str
    launch: str
    make: Callable[[Workload], Arguments]
    compared: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Entry:
    """An op: name in veilkern.ops, launcher's name in the backends, its reference and all that it is tried on.

    registered(arguments) -> (name, arguments) of the torch ops that a call comes to. tolerances: none for ops that are
    exact. writes: arguments that it writes, where they are given. unknown: arguments that the reference does not take.
    missing: kind of sample -> why there is none. agree(found, wanted, arguments) raises AssertionError where results
    (those returned, then those written) are not the reference's. sizes(on_gpu) -> those of the benchmark. calls: ways
    into its kernels.
    """

    name: str
    launcher: str
    reference: Callable[..., Any]
    samples: tuple[Sample, ...]
    bad: tuple[Bad, ...]
    registered: Callable[[Arguments], list[tuple[str, tuple]]]
    tolerances: Tolerances = field(default_factory=dict)
    writes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ("out",)
    missing: Mapping[str, str] = field(default_factory=dict)
    agree: Callable[[Results, Results, Arguments], None] | None = None
    sizes: Callable[[bool], tuple[Size, ...]] = lambda on_gpu: ()
    calls: tuple[KernelCall, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether every backend gives the same bits."""
        return not self.tolerances and self.agree is None

    def call(self, arguments: Arguments) -> Results:
        """Run the op: what it returns, then what it wrote of `writes` (not out, which it returns)."""
        return self._run(getattr(ops, self.name), arguments)  # looked up now: tests put others in its place

    def truth(self, arguments: Arguments) -> Results:
        """The same by the reference, in float64, on copies of what is written."""
        precise = {k: _precise(v) for k, v in arguments.items() if k not in self.unknown}
        precise |= {k: precise[k].clone() for k in self.writes if k in precise}
        return self._run(self.reference, precise)

    def require(self, found: Results, wanted: Results, arguments: Arguments) -> None:
        """AssertionError, with the first place that differs, where found is not wanted."""
        if self.agree is not None:
            self.agree(found, wanted, arguments)
        else:
            require_results(found, wanted, arguments, self.tolerances)

    def _run(self, function: Callable, arguments: Arguments) -> Results:
        found = function(**arguments)
        results = found if isinstance(found, tuple) else (found,)
        return (*results, *(arguments[k] for k in self.writes if k != "out" and k in arguments))


def _precise(value: Any) -> Any:
    """A floating tensor in float64, a floating dtype as float64, anything else as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) else value
