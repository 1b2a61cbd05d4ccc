"""A craft's steps on a device that the host does not wait for: what goes in, what comes out, in which order it adds.

There is no GPU here, so the steps run on torch's meta device. Its tensors have shapes but no values, so a step that
reads one (.item(), bool(), .tolist(), .cpu(), .numpy(), nonzero, a mask) cannot go on: it raises, whatever way it takes
to the value. The few things that would be a copy or a wait on a GPU and pass here (tensors of two devices in one call,
a mask that is written through, a tensor made of Python's numbers) are noted by `Ledger`, and what it notes is tested.
The ops run their own code, down to Triton's launchers; only the launches themselves are left out.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import veilkern as vk
from veilkern import backends
from veilkern.crafting.batch import IdentityBatch
from veilkern.crafting.feature_loss import FeatureLoss
from veilkern.crafting.sampler import PhotoSampler, draw
from veilkern.crafting.schemes import Blend
from veilkern.crafting.sums import sums_in_order
from veilkern.progress import Progress
from veilkern.veils import keyed

KEY = b"sixteen bytes at least"
SIDE = 16
SPECS = {
    "plain": {},
    "normalised": {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.125)},
    "bgr, up to 255": {"mean": (104.0, 117.0, 123.0), "std": (57.0, 58.0, 64.0), "bgr": True, "value_range": 255.0},
}


def some_people(counts=(1, 5, 3), seed=0) -> vk.People:
    g = torch.Generator().manual_seed(seed)
    return vk.People.from_images(
        [torch.randint(0, 256, (n, 3, SIDE, SIDE), generator=g, dtype=torch.uint8) for n in counts]
    )


def network(spec="bgr, up to 255", **options) -> vk.FaceModel:
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 49, 12)
    return vk.FaceModel(nn.Sequential(*layers), size=SIDE, **{**SPECS[spec], **options})


class Ledger(TorchDispatchMode):
    """Notes, in `copies`, calls that join two devices, masks used as an index, and device tensors of host numbers."""

    MASKS = (torch.bool, torch.uint8)
    INDEXING = ("index.Tensor", "index_put", "index_put_", "_index_put_impl_", "masked_select", "masked_scatter_")
    MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)

    def __init__(self):
        super().__init__()
        self.copies: list[str] = []
        self.makers = _Makers(self)

    def __enter__(self):
        self.makers.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.makers.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result, name = function(*args, **(kwargs or {})), str(function).removeprefix("aten.")
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        if len({t.device.type for t in tensors}) > 1:
            self.copies.append(name)
        if name.startswith(self.INDEXING) and any(t.dtype in self.MASKS for t in tree_leaves(args[1]) if t is not None):
            self.copies.append(name)
        return result


class _Makers(TorchFunctionMode):
    """The calls that make a tensor of host numbers, of which a dispatch mode sees nothing."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in Ledger.MAKERS and result.device.type != "cpu":
            self.ledger.copies.append(function.__name__)
        return result


X, HERE = torch.zeros(4, 3, device="meta"), torch.ones(3)
WAITS = {
    "item": lambda: X.sum().item(),
    "float": lambda: float(X.sum()),
    "bool": lambda: bool((X > 0).any()),
    "if": lambda: 1 if X.sum() else 0,
    "cpu": lambda: X.cpu(),
    "to": lambda: X.to("cpu", non_blocking=True),
    "copy_": lambda: torch.zeros(4, 3).copy_(X),
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "nonzero": lambda: X.nonzero(),
    "where": lambda: torch.where(X > 0),
    "equal": lambda: torch.equal(X, X),
    "allclose": lambda: torch.allclose(X, X),
    "unique": lambda: X.unique(),
    "a mask is read": lambda: X[X > 0],
    "a mask is written": lambda: X.__setitem__(X > 0, 1.0),
    "masked_select": lambda: X.masked_select(X > 0),
    "repeat_interleave": lambda: torch.repeat_interleave(X.long()[0]),
    "an index on the host": lambda: X[torch.tensor([1, 2])],
    "a number on the device as an index": lambda: X[X.sum().long()],
    "arange": lambda: torch.arange(X.sum()),
    "a tensor of the host": lambda: X + HERE[0],
    "a copy in": lambda: HERE.to("meta"),
    "tensor": lambda: torch.tensor([1.0], device="meta"),
    "as_tensor": lambda: torch.as_tensor([1.0], device="meta"),
    "new_tensor": lambda: X.new_tensor([1.0]),
}


@pytest.mark.parametrize("way", WAITS)
def test_the_ledger_misses_no_way_to_wait(way):
    with Ledger() as ledger:
        try:
            WAITS[way]()
        except (RuntimeError, NotImplementedError, TypeError) as refused:  # meta tensors have no values
            assert "meta" in str(refused).lower()
            return
    assert len(ledger.copies) == 1


@pytest.fixture
def no_launches(monkeypatch):
    """The ops as on a GPU, launches left out; where there is no Triton, its launchers too."""
    triton = {backend.name: backend for backend in backends.list_backends()}["triton"]
    for stem in ("blend_normalize", "seal_normalize", "seal", "hull_distance", "veil_step"):
        op = importlib.import_module(f"veilkern.ops.{stem}")
        writes = stem in ("blend_normalize", "seal_normalize", "seal")  # what it is given, and returns nothing
        launcher = (lambda *_: None) if writes else op._fake
        if triton.available and stem in triton.ops | {"veil_step": None}:
            module = importlib.import_module(f"veilkern.backends.triton.{stem}")
            monkeypatch.setattr(module, "run", lambda *_, **__: None)
            monkeypatch.setattr("veilkern.backends.launch_tables.gpu_name", lambda _: "interpreter")
            launcher = triton.ops["veil_step_" if stem == "veil_step" else stem]
        monkeypatch.setattr(op, "serve", lambda _, *arguments, launcher=launcher: launcher(*arguments))


def moved(batch: IdentityBatch, device: str) -> IdentityBatch:
    """The batch on another device: all its tensors but the two that are the host's."""
    loss, scheme = batch.feature_loss, batch.scheme
    owners = batch, loss, scheme, scheme.contour, batch.watch, loss.changes, loss.changes and loss.changes.jpeg
    for owner in filter(None, owners):
        for name, value in list(vars(owner).items()):
            on_the_host = owner in (batch, scheme) and name in ("offsets", "counts")
            if isinstance(value, torch.Tensor) and not on_the_host:
                setattr(owner, name, value.to(device))
            if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
                setattr(owner, name, [one.to(device) for one in value])
    batch.model.module.to(device)
    return batch


def batch_on_meta(**options) -> IdentityBatch:
    config = vk.CraftConfig(**{"steps": 12, "patience": 2, **options})
    return moved(IdentityBatch(network(), some_people(), config, KEY, [0] * 3, 4, look=5), "meta")


CHANGES = [
    {},
    {"photos_per_step": 0, "subspace": "convex"},
    {"photos_per_step": 2, "subspace": "self", "visual": "mse"},
    {"subspace": "affine", "nu": 0.0, "early_stop": False, "schedule": "cosine"},
    {"robust": "strong", "photos_per_step": 2},
    {"scheme": "sealed", "robust": "none"},
    {"scheme": "sealed", "subspace": "convex", "photos_per_step": 2, "early_stop": True},
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_host_waits_for_nothing_between_two_looks(no_launches, monkeypatch, change):
    """12 steps, a look after the 5th, 10th and last: three copies in, three looks, and nothing else."""
    batch, steps, looks = batch_on_meta(**change), [], []
    monkeypatch.setattr(batch, "_finish", lambda *_: iter(()))  # the records are made on the host
    monkeypatch.setattr(batch.watch, "read", lambda: looks.append(len(steps)) or [0, 0, 0])
    step = batch._step
    monkeypatch.setattr(batch, "_step", lambda *arguments: (step(*arguments), steps.append(arguments[0])))
    with Ledger() as ledger:
        assert list(batch.run(Progress(36, None))) == []
    assert steps == list(range(12)) and looks == [5, 10, 12]
    assert ledger.copies == ["_to_copy.default"] * 3


def test_the_look_is_the_first_thing_that_the_host_waits_for(no_launches, monkeypatch):
    batch, steps = batch_on_meta(), []
    see = batch.watch.see
    monkeypatch.setattr(batch.watch, "see", lambda step, *figures: (see(step, *figures), steps.append(step)))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor") as caught:
        list(batch.run(Progress(36, None)))
    assert steps == [0, 1, 2, 3, 4] and caught.traceback[-1].name == "read"


def test_a_step_that_waits_is_found(no_launches, monkeypatch):
    batch = batch_on_meta()
    see = batch.watch.see
    monkeypatch.setattr(batch.watch, "see", lambda step, d, total: (bool(total.isfinite().all()), see(step, d, total)))
    with pytest.raises(RuntimeError, match="meta tensors"):
        list(batch.run(Progress(36, None)))


def test_a_plan_is_what_the_samplers_draw():
    counts, per_step, width = [1, 7, 2, 5], 3, 4
    offsets = torch.tensor([0, 1, 8, 10, 15])

    def samplers():
        return [PhotoSampler(keyed.stream(KEY, f"{p}", "photos"), n, per_step) for p, n in enumerate(counts)]

    plan, twins = draw(samplers(), [0, 1, 3], offsets, 6, width, torch.device("cpu")), samplers()
    assert plan.person.tolist() == [0, 1, 1, 1, 3, 3, 3, 3] and plan.offsets.tolist() == [0, 1, 4, 4, 7]
    assert plan.pieces.tolist() == [[0, 1, 4, 4, 4], [0, 0, 0, 0, 3]]
    for turn in range(6):
        own = [twins[p].next() for p in (0, 1, 3)]
        rows = torch.cat([part + offsets[p] for part, p in zip(own, (0, 1, 3), strict=True)])
        assert torch.equal(plan.own[turn], torch.cat(own))
        assert torch.equal(plan.rows[turn], torch.cat([rows, rows[-1:]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_made_first_to_last(dtype):
    g = torch.Generator().manual_seed(0)
    values = torch.randn(300, 5, generator=g, dtype=dtype) * 10 ** (6 * torch.rand(300, 5, generator=g, dtype=dtype))
    rows, offsets = torch.randperm(300, generator=g), torch.tensor([0, 1, 1, 130, 300])
    weights = torch.rand(300, generator=g, dtype=dtype)
    for given in (None, weights):
        found = sums_in_order(values, rows, offsets, given)
        wanted = torch.zeros(4, 5, dtype=dtype)
        for group in range(4):
            for i in range(int(offsets[group]), int(offsets[group + 1])):
                wanted[group] += values[rows[i]] if given is None else values[rows[i]] * given[i]
        assert torch.equal(found, wanted) if given is None else torch.allclose(found, wanted, rtol=1e-5)
        alone = sums_in_order(
            values[:, :1], rows[1:130], torch.tensor([0, 129]), None if given is None else given[1:130]
        )
        assert torch.equal(alone[0], found[2, :1])  # whoever is summed beside


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("subspace", ["centre", "convex", "self"])
@pytest.mark.parametrize("blend", [51, 100])
def test_the_slope_is_that_of_the_protected_photo(spec, subspace, blend):
    """In float64, against the network's input made of the protected photo by hand, and autograd down to that photo."""
    people, model = some_people(), network(spec)
    model.module.double()
    x = people.images.double() / 255
    veils = torch.rand(3, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    clean = model.embed(x)
    samplers = [PhotoSampler(keyed.stream(KEY, f"{p}", "photos"), n, 2) for p, n in enumerate((1, 5, 3))]
    plan = draw(samplers, [0, 1, 2], people.offsets, 2, 4, x.device)  # five photos in two pieces
    rows, own, person = plan.rows[1, :5], plan.own[1], plan.person[:5]
    config = vk.CraftConfig(alpha=blend / 255, subspace=subspace)
    scheme = Blend(people.images, people.offsets, config)
    loss = FeatureLoss(model, clean, people.offsets, config, scheme.network_input)
    distance, found = loss(people.images[plan.rows[1]], veils, plan, 1)
    mixed = (blend / 255 * x[rows] + (1 - blend / 255) * veils[person]).requires_grad_()
    given = mixed.flip(1) if model.input.bgr else mixed
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (model.input.mean, model.input.std))
    features = nn.functional.normalize(model.module((given * model.input.value_range - mean) / std))
    wanted, weights, _ = vk.reference.hull_distance(
        features, clean, plan.offsets, clean_offsets=people.offsets, subspace=subspace, own=own
    )
    (slope,) = torch.autograd.grad(wanted.sum(), mixed)
    tolerance = {"rtol": 1e-6, "atol": 1e-6 * slope.abs().max().item()}
    torch.testing.assert_close(found, slope, **tolerance)
    torch.testing.assert_close(distance, wanted.detach(), rtol=1e-6, atol=1e-9)
    if subspace == "convex":  # the next search starts where these ended, and that of other photos where it would
        torch.testing.assert_close(loss.weights[rows], weights, rtol=0, atol=1e-4)
        assert (loss.weights[[i for i in range(9) if i not in rows.tolist()]].max(1).values < 0.34).all()


class Flat(nn.Module):
    """A line on flattened photos, which are made flat, or changed, in a way that not every tensor allows."""

    def __init__(self, how):
        super().__init__()
        self.how, self.line = how, nn.Linear(3 * SIDE * SIDE, 12)

    def forward(self, x):
        return self.line(self.how(x))


@pytest.mark.parametrize("how", [lambda x: x.view(len(x), -1), lambda x: x.mul_(2).flatten(1)], ids=["view", "write"])
def test_networks_get_an_input_that_they_can_view_and_write_to(how):
    model = vk.FaceModel(Flat(how), size=SIDE, mean=(0.5,) * 3)
    result = vk.craft(model, some_people(), vk.CraftConfig(steps=2), key=KEY, progress=False)
    assert len(result.bank) == 3
