"""Every op of the table on every sample and path: values, bits, what is written, torch's own checks, bad inputs."""

from __future__ import annotations

import pytest
import torch
from helpers import another_order, assert_same_bits_everywhere, interpreted, native, opcheck

import veilkern as vk
from veilkern import ops
from veilkern.testing.compare import require_same_bits
from veilkern.testing.entry import KINDS, Entry
from veilkern.testing.table import TABLE


def each(what: str):
    """One case for each op of the table and each of its samples, or bad inputs."""
    return [
        pytest.param(entry, one, id=f"{entry.name}-{getattr(one, 'label', None) or f'{i}: {one.words}'}")
        for entry in TABLE.values()
        for i, one in enumerate(getattr(entry, what))
    ]


def test_every_op_has_an_entry():
    assert set(TABLE) == set(ops.__all__)


@pytest.mark.parametrize("entry", TABLE.values(), ids=list(TABLE))
def test_every_op_has_samples_of_every_kind(entry: Entry):
    """Or says why there is none."""
    there = {sample.kind for sample in entry.samples}
    assert there | set(entry.missing) == {*KINDS, "many"} and not there & set(entry.missing)
    assert all(entry.missing.values()) and entry.bad
    labels = [sample.label for sample in entry.samples]
    assert len(labels) == len(set(labels)) and "\n" not in "".join(labels)


@pytest.mark.parametrize("backend", vk.list_backends(), ids=lambda backend: backend.name)
def test_every_backend_has_every_op_or_says_why_not(backend):
    wanted = {entry.launcher for entry in TABLE.values()}
    if not backend.available:
        assert backend.reason
        return
    assert set(backend.ops) | set(backend.lacks) == wanted and not set(backend.ops) & set(backend.lacks)
    for op, reason in backend.lacks.items():
        assert reason and backend.supports(op, torch.zeros(1)) == reason


def test_a_benchmark_size_says_what_it_moves():
    sized = {entry.launcher for entry in TABLE.values() if entry.sizes(False)}
    assert sized == {entry.launcher for entry in TABLE.values()}
    for on_gpu in (False, True):
        for size in (size for entry in TABLE.values() for size in entry.sizes(on_gpu)):
            assert size.words and size.moved > 0


def bytes_of(arguments) -> dict[str, torch.Tensor]:
    """The whole storage of every tensor given."""
    tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    return {
        name: torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()).clone() for name, value in tensors.items()
    }


def require_nothing_else_written(entry: Entry, before: dict, arguments) -> None:
    """Every byte that no written argument covers is as it was."""
    covered: dict[int, torch.Tensor] = {}  # address of a storage -> which of its bytes may change
    for name in set(entry.writes) & set(arguments):
        view = arguments[name]
        size, address = view.element_size(), view.untyped_storage().data_ptr()
        may = covered.setdefault(address, torch.zeros(view.untyped_storage().nbytes(), dtype=torch.bool))
        strides = [s * size for s in view.stride()]
        may.as_strided((*view.shape, size), (*strides, 1), view.storage_offset() * size).fill_(True)
    for name, now in bytes_of(arguments).items():
        may = covered.get(arguments[name].untyped_storage().data_ptr(), torch.zeros(now.shape, dtype=torch.bool))
        changed = (before[name] != now) & ~may
        assert not changed.any(), f"{name}: byte {int(changed.nonzero()[0])} of its storage was written"


@pytest.mark.parametrize("entry,sample", [p for p in each("samples") if p.values[1].kind != "many"])
def test_values(path, entry: Entry, sample):
    """The results are the reference's in float64, the same bits in a second run; nothing else is written."""
    here = interpreted(path, unless="VEILKERN_LARGE")
    if here and not sample.light:
        pytest.skip("Triton's interpreter takes too long; VEILKERN_LARGE=1 runs it")
    arguments, again = sample.make(), sample.make()
    wanted, before = entry.truth(sample.make()), bytes_of(arguments)
    found = entry.call(arguments)
    entry.require(found, wanted, arguments if not entry.writes else sample.make())
    require_nothing_else_written(entry, before, arguments)
    if "out" in arguments:
        assert any(result is arguments["out"] for result in found)
    if sample.kind == "ordinary" or not here:
        with another_order(path):
            require_same_bits("a second run", entry.call(again), found)


@native
@pytest.mark.parametrize("entry,sample", [p for p in each("samples") if p.values[1].kind == "many"])
def test_same_bits_everywhere(entry: Entry, sample):
    """Whatever the instruction set, the number of threads and the run; and they are right."""
    arguments = sample.make()
    wanted = entry.truth(sample.make())
    assert_same_bits_everywhere(lambda: entry.call(sample.make()))
    entry.require(entry.call(arguments), wanted, arguments if not entry.writes else sample.make())


@pytest.mark.parametrize("entry,sample", [p for p in each("samples") if p.values[1].light])
def test_torch_schema(entry: Entry, sample):
    """torch's own checks of schema, fake and registration; of traced samples of the traced graph and its gradient."""
    for name, arguments in entry.registered(sample.make()):
        opcheck(name, arguments, dynamic=sample.traced)


@pytest.mark.parametrize("entry,bad", each("bad"))
def test_bad_inputs(entry: Entry, bad):
    arguments = bad.arguments(entry.samples[0].make())
    with pytest.raises(bad.error, match=bad.words):
        entry.call(arguments)


def tensors():
    """(entry, sample, name) of every tensor that an op takes, in each dtype once."""
    for entry in TABLE.values():
        seen = set()
        for sample in (sample for sample in entry.samples if sample.light):
            for name, value in sample.make().items():
                key = (name, getattr(value, "dtype", None))
                if isinstance(value, torch.Tensor) and value.numel() and key not in seen:
                    seen.add(key)
                    yield pytest.param(entry, sample, name, id=f"{entry.name}-{name}-{str(value.dtype)[6:]}")


def others(made) -> bool:
    """Whether a call has more tensors than one."""
    return sum(isinstance(value, torch.Tensor) and value.numel() > 0 for value in made.values()) > 1


every_tensor = pytest.mark.parametrize("entry,sample,name", list(tensors()))


@every_tensor
def test_a_sparse_tensor(entry: Entry, sample, name):
    """TypeError that says what to do, before anything runs."""
    given = sample.make()
    if given[name].dtype == torch.uint16:
        pytest.skip("torch makes no sparse tensor of uint16")
    with pytest.raises(TypeError, match=rf": {name} must be a dense tensor, .*use .to_dense"):
        entry.call(given | {name: given[name].to_sparse()})


@every_tensor
def test_a_tensor_whose_memory_is_not_its_values(entry: Entry, sample, name):
    """Freed storage (the kernels read address 0) and views that torch negates when it reads them."""
    given = sample.make()
    given[name].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=rf": {name} must have memory"):
        entry.call(given)
    given = sample.make()
    if given[name].is_floating_point():
        with pytest.raises(ValueError, match=rf": {name} must hold its own values, .*resolve_neg"):
            entry.call(given | {name: torch._neg_view(given[name])})


@every_tensor
def test_a_tensor_on_another_device(entry: Entry, sample, name):
    """ValueError that names an argument; never an error from inside, never a silent copy."""
    calls = (one.make() for one in (sample, *entry.samples) if one.light)
    given = next((made for made in calls if name in made and others(made)), None)
    if given is None:
        pytest.skip("the only tensor of every call: it says where the op runs")
    with pytest.raises(ValueError, match=r": (\w+) must be on the device of (\w+), ") as raised:
        entry.call(given | {name: given[name].to("meta")})
    assert name in str(raised.value)


@pytest.mark.parametrize(
    "entry,sample,name", [p for p in tensors() if p.values[2] in p.values[0].writes and "float" in p.id]
)
def test_an_output_that_requires_a_gradient(entry: Entry, sample, name, path):
    """ValueError on every backend, never torch's error from inside."""
    given = sample.make()
    given[name].requires_grad_()
    with pytest.raises(ValueError, match=rf": {name} must not require a gradient"):
        entry.call(given)
