"""The training loop, on Lightning Fabric: one device or several, mixed precision, checkpoints, verification.

What a step does hangs on its number alone: its photos, what is done to them, its learning rate and margin, and the
random numbers that the network draws (dropout). So a training that goes on from a checkpoint ends with the bits of one
that was never interrupted, where the device adds in one order, as a CPU with the same number of threads does.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from veilkern.errors import ModelError
from veilkern.networks.input_spec import InputSpec
from veilkern.training import checkpoint
from veilkern.training.augment import augment, seed_of
from veilkern.training.batches import Batch, Order, batches
from veilkern.training.config import Plan, TrainConfig
from veilkern.training.data import Photos, Reading
from veilkern.training.heads import Head
from veilkern.training.schedule import share_of_margin, share_of_rate
from veilkern.training.verification import HeldOut, Verification, embed, verify

LOOK_EVERY = 16  # steps between looks at the loss: each look waits for the device


@dataclass
class Job:
    """All that the loop needs. save_every, verify_every: steps (verify_every 0: at the end of each epoch).

    state: where a checkpoint goes; about: what it records to be compared; done: the progress to go on from."""

    net: nn.Module
    head: Head
    photos: Photos
    reading: Reading
    held_out: HeldOut | None
    spec: InputSpec
    config: TrainConfig
    plan: Plan
    state: Path
    about: dict[str, Any]
    save_every: int
    verify_every: int
    workers: int
    done: checkpoint.Progress = field(default_factory=checkpoint.Progress)
    tensors: dict[str, torch.Tensor] | None = None


class Stopped(Exception):
    """Ctrl-C or SIGTERM; the step in work was finished, and the checkpoint written. signum: which of them."""

    def __init__(self, step: int, signum: int):
        super().__init__(step, signum)
        self.step, self.signum = step, signum


class _Both(nn.Module):
    """Network and head as one module: float photos [N, 3, H, W], labels int64 [N] -> the loss."""

    def __init__(self, net: nn.Module, head: Head):
        super().__init__()
        self.net, self.head = net, head

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(x).flatten(1), labels)


def run(
    fabric: Any,
    job: Job,
    advance: Callable[[int], None] = lambda step: None,
    tell: Callable[[dict[str, Any]], None] = lambda line: None,
) -> None:
    """Trains job.net, and leaves the progress in job.done; on several devices, whose processes have copies of both, in
    a checkpoint too. advance(step) is called after each step, tell(line) with each line of the log, both in the process
    of the first device.

    Raises ModelError when the loss is no longer a number, Stopped when it was told to stop; the last checkpoint stays.
    """
    loop = _Loop(fabric, job, advance, tell)
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        loop.go()


class _Loop:
    def __init__(
        self, fabric: Any, job: Job, advance: Callable[[int], None], tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self.fabric, self.job, self.advance, self.tell, self.done = fabric, job, advance, tell, job.done
        self.both = _Both(job.net, job.head).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decayed, others = checkpoint.parts_of([self.both])  # the head's weights are among them
        groups = [
            {"params": decayed, "weight_decay": job.plan.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        if job.config.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=job.plan.lr, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(groups, lr=job.plan.lr)
        self.both.train()
        self.module, self.optimizer = fabric.setup(self.both, optimizer)
        if job.tensors is not None:
            checkpoint.restore(job.tensors, self.both, self.optimizer.optimizer)
        mean, std = (torch.tensor(job.spec.normalisation[name]).view(3, 1, 1) for name in ("mean", "std"))
        self.mean, self.std = mean.to(fabric.device), std.to(fabric.device)
        self.losses = list(torch.tensor(self.done.losses, device=fabric.device))
        self.since = (time.monotonic(), self.done.step)

    def go(self) -> None:
        job, ranks = self.job, self.fabric.world_size
        part = slice(self.fabric.global_rank, None, ranks)
        order = Order(len(job.photos), job.config.batch, job.config.seed, part, self.done.step, job.plan.steps)
        with _signals(wanted=ranks == 1) as told:
            for batch in batches(job.photos, job.reading, order, job.workers):
                self._step(batch, part)
                step = self.done.step
                ends = step == job.plan.steps
                if step % LOOK_EVERY == 0 or self._reports(step) or told or step % job.save_every == 0 or ends:
                    self._check_losses()
                if self._reports(step):
                    self._report()
                if told or (step % job.save_every == 0 and not ends):
                    self._save()
                if told:
                    raise Stopped(step, told[0])
                if self.fabric.is_global_zero:
                    self.advance(step)
        if ranks > 1:
            gathered: list[Any] = [None] * ranks
            torch.distributed.all_gather_object(gathered, self.done.problems)
            self.done.problems = {file: cause for one in gathered for file, cause in one.items()}
            self._save()

    def _step(self, batch: Batch, part: slice) -> None:
        job, step = self.job, self.done.step
        config, plan, fabric = job.config, job.plan, self.fabric
        self.done.problems |= {problem.file: problem.cause for problem in batch.problems}
        torch.manual_seed(seed_of(config.seed, step, fabric.global_rank))
        images, labels = batch.images.to(fabric.device), batch.labels.to(fabric.device)
        x = augment(images, config.seed, step, part, config.batch, shift=config.shift, brightness=config.brightness)
        x = ((x.flip(1) if job.spec.bgr else x) - self.mean) / self.std
        rate = plan.lr * share_of_rate(config.schedule, step, plan.steps, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        job.head.set_margin(share_of_margin(step, plan.steps, config.margin_warmup))
        self.optimizer.zero_grad()
        loss = self.module(x.to(memory_format=torch.channels_last), labels)
        fabric.backward(loss)
        if config.clip:
            fabric.clip_gradients(self.module, self.optimizer, max_norm=config.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.losses.append(loss.detach())
        self.done.step += 1

    def _check_losses(self) -> None:
        """ModelError once a loss, or a weight, is not a number; on all devices alike."""
        total = (
            torch.stack(self.losses[-LOOK_EVERY:]).sum() if self.losses else torch.zeros((), device=self.mean.device)
        )
        for parameter in self.both.parameters():
            total = total + 0 * parameter.detach().float().sum()
        if not math.isfinite(float(self.fabric.all_reduce(total, reduce_op="sum"))):
            step, path = self.done.step, self.job.state
            kept = f"the checkpoint {path} of before stays" if path.exists() else "there is no checkpoint yet"
            raise ModelError(
                f"{self.job.config.arch}: the loss of step {step}, or of one of the {LOOK_EVERY} before it, is not a "
                f"number; {kept}; try a smaller lr (now at most {self.job.plan.lr:g}), a longer warm-up, or a smaller "
                "scale or margin"
            )

    def _reports(self, step: int) -> bool:
        job = self.job
        if step == job.plan.steps:
            return True
        if job.verify_every:
            return step % job.verify_every == 0
        return math.floor(step / job.plan.epoch) > math.floor((step - 1) / job.plan.epoch)

    def _report(self) -> None:
        """One line of the log, with the figures of the held-out identities."""
        job, step = self.job, self.done.step
        loss = float(self.fabric.all_reduce(torch.stack(self.losses).mean(), reduce_op="mean"))
        seconds = time.monotonic() - self.since[0]
        found = self._on_first(self._verified)
        line = {
            "step": step,
            "steps": job.plan.steps,
            "epoch": round(step / job.plan.epoch, 3),
            "loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "photos_per_second": round((step - self.since[1]) * job.config.batch / max(seconds, 1e-9), 1),
            "verification": None if found is None else found.as_dict(),
        }
        self.done.history.append(line)
        self._on_first(self.tell, line)
        self.losses, self.done.losses, self.since = [], [], (time.monotonic(), step)

    def _verified(self) -> Verification | None:
        if self.job.held_out is None:
            return None
        features = embed(self.job.net, self.job.held_out.images, self.mean, self.std, self.job.spec.bgr)
        return verify(features, self.job.held_out.rows)

    def _save(self) -> None:
        self.done.losses = torch.stack(self.losses).tolist() if self.losses else []
        self._on_first(checkpoint.save, self.job.state, self.both, self.optimizer.optimizer, self.done, self.job.about)

    def _on_first(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it in the process of the first device, while the others wait."""
        found = function(*arguments) if self.fabric.is_global_zero else None
        self.fabric.barrier()
        return found


@contextlib.contextmanager
def _signals(*, wanted: bool) -> Iterator[list[int]]:
    """The signals that came, of Ctrl-C and SIGTERM: the first one is put down here, another has its usual effect. Only
    where the process can listen to them: in the main thread, and on one device."""
    told: list[int] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield told
        return

    def stop(signum: int, _: object) -> None:
        told.append(signum)
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
