"""The loop: what it optimises, its checkpoints, how it goes on, how it stops."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from train_cases import SIDE, TinyNet, config, make_tiny, one_thread, people, plain, state_of, tiny

import veilkern as vk
from veilkern.errors import ModelError, OutputError
from veilkern.networks.input_spec import InputSpec
from veilkern.training import checkpoint, loop
from veilkern.training.config import Plan
from veilkern.training.data import Reading, open_source, split
from veilkern.training.heads import make_head
from veilkern.training.verification import verify


def fit(out: Path, made: vk.People | None = None, **options) -> vk.TrainResult:
    """train, of TinyNets on small people; options that are no field of TrainConfig are train's."""
    given = {name: options.pop(name) for name in list(options) if name not in vk.TrainConfig.__dataclass_fields__}
    with tiny(), one_thread():
        return vk.train(made or people(), config(**options), out=out, progress=given.pop("progress", False), **given)


def same_weights(a: Path, b: Path) -> bool:
    first, second = state_of(a), state_of(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def crash_at(step: int, done: int, _: int) -> None:
    """A progress function that ends the training as nothing that is waited for does."""
    if done >= step:
        raise RuntimeError("crash")


@pytest.mark.parametrize("head,optimizer", [("softmax", "sgd"), ("lmcl", "adamw"), ("arcface", "sgd")])
def test_people_never_seen_are_recognised_better_after_it(head, optimizer, tmp_path):
    made = people(40, 8)
    result = fit(tmp_path / "net.safetensors", made, head=head, optimizer=optimizer, steps=120, batch=32, held_out=10)
    losses = [line["loss"] for line in result.history]
    assert result.steps == 120 and result.identities == 30 and result.photos == 240 and result.problems == []
    assert losses[-1] < losses[0] / 2 and result.verification["identities"] == 10
    before, after = TinyNet(16).eval(), TinyNet(16).eval()
    after.load_state_dict(state_of(result.path))
    training, held = split(open_source(made, [], []), 10)
    assert set(held.identities).isdisjoint(training.identities)
    images = made.images[held.photos]
    ranks = [
        verify(
            vk.FaceModel(net, size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3).features(images),
            torch.from_numpy(held.labels),
        )
        for net in (before, after)
    ]
    assert ranks[1].rank1 == pytest.approx(result.verification["rank1"])
    assert ranks[1].rank1 > max(0.6, ranks[0].rank1 + 0.1)


def job_of(tmp_path: Path, made: vk.People | None = None, **options) -> loop.Job:
    given, photos = config(**options), split(open_source(made or people(4, 5), [], []), 0)[0]
    plan = Plan.of(given, len(photos.identities), len(photos), tuned=False)
    torch.manual_seed(0)
    net, _ = make_tiny("tiny")
    head = make_head(given.head, len(photos.identities), 16, margin=plan.margin, scale=plan.scale)
    spec = InputSpec((SIDE, SIDE), (0.5,) * 3, (0.5,) * 3)
    where = tmp_path / "x.training"
    return loop.Job(net, head, photos, Reading((SIDE, SIDE)), None, spec, given, plan, where, {}, 100, 0, 0)


def run(job: loop.Job):
    from lightning_fabric import Fabric

    return loop.run(Fabric(accelerator="cpu", devices=1, precision=job.config.precision), job)


@pytest.mark.parametrize("head", ["softmax", "lmcl", "arcface"])
def test_the_optimiser_holds_every_weight_of_network_and_head(head, tmp_path, monkeypatch):
    seen: list[torch.optim.Optimizer] = []
    monkeypatch.setattr(checkpoint, "save", lambda path, both, optimizer, *_: seen.append(optimizer))
    job = job_of(tmp_path, head=head, steps=2, weight_decay=0.1)
    job.save_every = 1
    before = [p.detach().clone() for p in job.head.parameters()]
    run(job)
    groups = seen[0].param_groups
    held = {id(p) for group in groups for p in group["params"]}
    wanted = [*job.net.parameters(), *job.head.parameters()]
    assert held == {id(p) for p in wanted} and len(wanted) == sum(len(group["params"]) for group in groups)
    assert all(not torch.equal(a, b) for a, b in zip(before, job.head.parameters(), strict=True))
    for group, decay, axes in zip(groups, (0.1, 0.0), ((2, 3, 4), (0, 1)), strict=True):
        assert group["weight_decay"] == decay and {p.ndim for p in group["params"]} <= set(axes)


def test_rates_and_margins_are_those_of_the_schedule(tmp_path, monkeypatch):
    job = job_of(tmp_path, head="arcface", steps=10, lr=0.01, schedule="cosine", warmup=0.0, margin_warmup=0.5)
    seen: list[float] = []
    real = job.head.set_margin
    monkeypatch.setattr(job.head, "set_margin", lambda share: (seen.append(share), real(share)))
    run(job)
    assert seen == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1]) and job.head.library_loss.margin == 0.5
    rates = [line["lr"] for line in job.done.history]  # an epoch is a step and a quarter
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.001


def test_the_gradient_is_clipped(tmp_path):
    """With plain steps (constant rate, first step of SGD) the weights move by rate x norm at most."""
    moved = []
    for clip in (0.01, 0.0):
        job = job_of(
            tmp_path, optimizer="sgd", lr=1.0, steps=1, clip=clip, schedule="constant", warmup=0.0, weight_decay=0.0
        )
        before = [p.detach().clone() for p in (*job.net.parameters(), *job.head.parameters())]
        run(job)
        after = (*job.net.parameters(), *job.head.parameters())
        moved.append(math.sqrt(sum(float((a.detach() - b).square().sum()) for a, b in zip(after, before, strict=True))))
    assert moved[0] == pytest.approx(0.01, rel=1e-3) and moved[1] > 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_same_seed_gives_the_same_bits_and_another_others(optimizer, tmp_path):
    options = {"optimizer": optimizer, "steps": 12, "shift": 2, "brightness": 0.1, "held_out": 0}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(int(name, 16))  # whatever was drawn before
        fit(tmp_path / f"{name}.safetensors", seed=seed, **options)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert not same_weights(tmp_path / "a.safetensors", tmp_path / "c.safetensors")


def test_the_callers_random_numbers_and_threads_stay_as_they_were(tmp_path):
    torch.manual_seed(9)
    wanted, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(9)
    fit(tmp_path / "a.safetensors", steps=2, threads=1)
    assert torch.equal(torch.rand(3), wanted) and torch.get_num_threads() == threads


@pytest.mark.parametrize("crash", [9, 15, 23])
@pytest.mark.parametrize(
    "options", [{"optimizer": "sgd"}, {"optimizer": "adamw", "head": "arcface", "margin_warmup": 0.5}]
)
def test_going_on_after_a_crash_ends_with_the_same_bits(crash, options, tmp_path):
    """Of weights, and of the log; it begins at the last checkpoint: at most save_every steps are lost."""
    out, whole, log = tmp_path / "net.safetensors", tmp_path / "whole.safetensors", tmp_path / "log.jsonl"
    expected = fit(whole, **options)
    with pytest.raises(RuntimeError, match="crash"):
        fit(out, progress=functools.partial(crash_at, crash), save_every=5, log=log, **options)
    assert checkpoint.read(checkpoint.path_of(out))[1].step == crash // 5 * 5 and not out.exists()
    begun: list[int] = []
    found = fit(out, resume=True, progress=lambda done, _: begun.append(done), save_every=7, log=log, **options)
    assert begun[0] == crash // 5 * 5 and begun[-1] == found.steps == 24
    assert out.read_bytes() == whole.read_bytes() and not checkpoint.path_of(out).exists()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [line["step"] for line in expected.history]
    assert [line["loss"] for line in lines if line["step"] > crash] == [
        line["loss"] for line in expected.history if line["step"] > crash
    ]


SCRIPT = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from train_cases import config, people, tiny
    import veilkern as vk
    with tiny():
        vk.train(people(), config(), out=Path({out!r}), resume=True, save_every=4, threads=1,
                 progress=lambda done, _: done == 10 and os.kill(os.getpid(), signal.{signal}))
"""


def start(out: Path, name: str) -> subprocess.CompletedProcess:
    code = textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent), out=str(out), signal=name))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=200, env=environment, capture_output=True)


@pytest.mark.process
def test_kill_9_loses_at_most_the_steps_since_the_checkpoint(tmp_path):
    out, whole = tmp_path / "net.safetensors", tmp_path / "whole.safetensors"
    assert start(out, "SIGKILL").returncode == -signal.SIGKILL
    assert checkpoint.read(checkpoint.path_of(out))[1].step == 8
    fit(out, resume=True)
    fit(whole)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_the_step_in_work(signum, tmp_path):
    out, whole = tmp_path / "net.safetensors", tmp_path / "whole.safetensors"
    before = signal.getsignal(signum)
    with pytest.raises(
        vk.TrainInterrupted, match=r"after step 11; the checkpoint is .*net\.safetensors\.training"
    ) as stop:
        fit(out, progress=lambda done, _: done == 10 and os.kill(os.getpid(), signum))
    assert (stop.value.step, stop.value.signum) == (11, signum) and signal.getsignal(signum) is before
    assert checkpoint.read(stop.value.checkpoint)[1].step == 11
    fit(out, resume=True)
    fit(whole)
    assert out.read_bytes() == whole.read_bytes()


@pytest.fixture
def interrupted(tmp_path):
    """Where a training stopped at step 8."""
    out = tmp_path / "net.safetensors"
    with pytest.raises(RuntimeError, match="crash"):
        fit(out, progress=functools.partial(crash_at, 9), save_every=8)
    return out


@pytest.mark.parametrize(
    "options,text",
    [
        ({"lr": 0.5}, r"begun with another lr .* \(now 0\.5\)"),
        ({"head": "arcface"}, r"head lmcl \(now arcface\), margin 0\.35 \(now 0\.5\)"),
        ({"steps": 30}, r"steps 24 \(now 30\)"),
        ({"held_out": 5}, r"held_out 4 \(now 5\)"),
        ({"seed": 1}, r"seed 0 \(now 1\)"),
        ({"resize": True}, r"resize False \(now True\)"),
        ({"made": people(20, 8, seed=5)}, r"begun with another photos \w+\.\. \(now \w+\.\.\)"),
    ],
)
def test_other_options_or_photos_are_refused(interrupted, options, text):
    kept = checkpoint.path_of(interrupted).read_bytes()
    with pytest.raises(OutputError, match=rf"net\.safetensors\.training: .*{text}.*--overwrite\) to begin again"):
        fit(interrupted, resume=True, **options)
    assert checkpoint.path_of(interrupted).read_bytes() == kept
    fit(interrupted, overwrite=True, **options)
    assert interrupted.exists() and not checkpoint.path_of(interrupted).exists()


def test_what_is_there_is_kept_unless_told(interrupted, tmp_path):
    with pytest.raises(OutputError, match=r"a training was interrupted; resume=True"):
        fit(interrupted)
    with pytest.raises(ValueError, match="resume and overwrite exclude"):
        fit(interrupted, resume=True, overwrite=True)
    done = fit(interrupted, resume=True)
    with pytest.raises(OutputError, match=r"net\.safetensors: there already; kept"):
        fit(interrupted)
    again = fit(interrupted, resume=True)
    assert again.verification == done.verification and again.steps == 24
    assert ["trained already" in str(notice) for notice in again.notices] == [True]
    with pytest.raises(OutputError, match=r"begun with another seed 0 \(now 1\)"):
        fit(interrupted, resume=True, seed=1)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(vk.samples.WEIGHTS.read_bytes())
    with pytest.raises(OutputError, match=r"foreign\.safetensors: there already, and no network that veilkern trained"):
        fit(foreign, resume=True)


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_damaged_checkpoints_are_refused_by_name(interrupted, damage):
    path = checkpoint.path_of(interrupted)
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-5], "other": vk.samples.WEIGHTS.read_bytes(), "empty": b""}[damage])
    with pytest.raises(
        OutputError, match=r"net\.safetensors\.training: cannot be read as the checkpoint of a training"
    ):
        fit(interrupted, resume=True)


def test_another_number_of_threads_is_told(interrupted):
    with tiny():
        result = vk.train(people(), config(), out=interrupted, resume=True, threads=2, progress=False)
    assert any("begun with 1 threads, goes on with 2" in str(notice) for notice in result.notices)


@pytest.mark.parametrize("options", [{"lr": 1e30, "clip": 0.0, "optimizer": "sgd"}, {"scale": 1e38}])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(options, tmp_path):
    out = tmp_path / "net.safetensors"
    with pytest.raises(
        ModelError, match=r"tiny: the loss of step \d+, .* is not a number; there is no checkpoint yet; try"
    ):
        fit(out, save_every=100, **options)
    assert not out.exists() and not checkpoint.path_of(out).exists()


def test_no_checkpoint_of_weights_that_are_no_numbers(tmp_path, monkeypatch):
    """They break in step 12, whose loss is good yet: what was saved after step 8 stays, and can be gone on from."""
    out, real = tmp_path / "net.safetensors", loop._Loop._step

    def broken(self, batch, part):
        real(self, batch, part)
        if self.done.step == 12:
            next(self.both.parameters()).data[0] = math.nan

    monkeypatch.setattr(loop._Loop, "_step", broken)
    with pytest.raises(
        ModelError, match=r"is not a number; the checkpoint .*net\.safetensors\.training of before stays"
    ):
        fit(out, save_every=4)
    tensors, done, _ = checkpoint.read(checkpoint.path_of(out))
    assert done.step == 8 and all(tensor.isfinite().all() for tensor in tensors.values())


def test_bfloat16_trains_with_weights_in_float32(tmp_path):
    result = fit(tmp_path / "net.safetensors", precision="bf16-mixed", steps=60, batch=32)
    losses = [line["loss"] for line in result.history]
    assert losses[-1] < losses[0] / 2
    assert {t.dtype for t in state_of(result.path).values()} == {torch.float32, torch.int64}
    plain = fit(tmp_path / "plain.safetensors", steps=60, batch=32)
    assert [line["loss"] for line in plain.history] != losses


TWO = """
    import sys
    sys.path.insert(0, {tests!r})
    from train_cases import config, people, plain
    import veilkern as vk
    if __name__ == "__main__":
        with plain():
            given = config(head="softmax", steps=6)
            vk.train(people(), given, out={out!r}, accelerator="cpu", devices=2, threads=1, save_every=4)
"""


@pytest.mark.process
@pytest.mark.thorough
def test_two_devices_share_a_batch(tmp_path):
    """Two processes on the CPU: each photo of a step goes to one, and gradients are averaged. Without BatchNorm and
    dropout, which see but a half of the batch, that is what one device does."""
    script, two, one = (tmp_path / name for name in ("two.py", "two.safetensors", "one.safetensors"))
    script.write_text(textwrap.dedent(TWO.format(tests=str(Path(__file__).parent), out=str(two))))
    done = subprocess.run([sys.executable, str(script)], check=False, timeout=250, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with plain(), one_thread():
        vk.train(people(), config(head="softmax", steps=6), out=one, progress=False)
    for name, value in state_of(one).items():
        torch.testing.assert_close(state_of(two)[name], value, rtol=1e-3, atol=1e-6)
    assert not list(tmp_path.glob("*.training"))


@pytest.mark.parametrize("options", [{"devices": 3}, {"devices": 16}])
def test_a_batch_must_be_shared_out_evenly(options, tmp_path):
    with pytest.raises(
        ValueError, match=r"batch must be shared out evenly, two photos at least to each of \d+ devices"
    ):
        fit(tmp_path / "net.safetensors", accelerator="cpu", **options)


def test_an_unknown_accelerator_is_named(tmp_path):
    with pytest.raises(ValueError, match="train: accelerator 'abacus', devices 1: "):
        fit(tmp_path / "net.safetensors", accelerator="abacus")
