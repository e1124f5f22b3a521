"""The training loop: stages of cycles, a cycle of one step per resolution (or one joint step)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import MLPH
from .augment import augment, to_input
from .config import Config, Stage
from .logs import Progress, RunLog
from .machine import agree
from .optimizer import prepare_stage, set_learning_rate, train_mode
from .sampler import BatchSampler, stable_seed
from .schedule import learning_rate


@dataclass
class Position:
    """Where a run is: everything random follows from it and the seed.

    Attributes:
        stage: index of the stage. cycle: in the stage. turn: optimiser steps done in the cycle.
        step: optimiser steps done in all. seconds: spent training.
    """

    stage: int = 0
    cycle: int = 0
    turn: int = 0
    step: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data."""
        return asdict(self)


class Interrupted(Exception):
    """Training stopped on request, after a complete step."""


@dataclass
class Hooks:
    """What a run does besides training.

    Attributes:
        log, console: where to report; None for nowhere.
        restore: loads the state of the optimiser of the stage at the position where the run starts.
        checkpoint: called in the main process every ``checkpoint_minutes`` and before an interruption.
        epoch_end: measures the model in the main process; returns {name: accuracy}.
        should_stop: asked after each step, in every process.
    """

    log: RunLog | None = None
    console: Any = None
    restore: Callable[[torch.optim.Optimizer], None] | None = None
    checkpoint: Callable[[Trainer], None] | None = None
    epoch_end: Callable[[Trainer], dict[str, float]] | None = None
    should_stop: Callable[[], bool] | None = None


class Trainer:
    """Runs the stages of a config on images in memory.

    Args:
        model: on the CPU or the device of the accelerator.
        config: of the run.
        images: uint8 ``[N, 3, load, load]``, on the CPU.
        labels: LongTensor ``[N, K]``, coarse to fine, -1 for unknown.
        level_names: K names, coarse to fine.
        accelerator: of `accelerate`; settles device, precision and processes.
        position: where to start.
    """

    def __init__(
        self,
        model: MLPH,
        config: Config,
        images: Tensor,
        labels: Tensor,
        level_names: Sequence[str],
        accelerator: Any,
        position: Position | None = None,
    ) -> None:
        self.config, self.images, self.labels, self.accelerator = config, images, labels, accelerator
        self.model = model.to(accelerator.device).to(memory_format=torch.channels_last)
        self.position = position or Position()
        self.optimizer: Any = None
        self.level_names = tuple(level_names)
        self.order = list(range(len(level_names)))[::-1]  # of the levels in a cycle: fine to coarse

    def run(self, hooks: Hooks | None = None) -> None:
        """Train from the position to the end.

        Raises:
            Interrupted: ``hooks.should_stop`` was true in some process; the checkpoint is written.
        """
        hooks = hooks or Hooks()
        restore = hooks.restore
        while self.position.stage < len(self.config.stages):
            self._run_stage(self.config.stages[self.position.stage], hooks, restore)
            restore = None
            self.position.stage, self.position.cycle, self.position.turn = self.position.stage + 1, 0, 0

    def cycles(self, stage: Stage) -> int:
        """Cycles of a stage."""
        batch = min(stage.batch_size, len(self.images))
        return max(1, round(stage.epochs * (len(self.images) // batch)))

    def _run_stage(self, stage: Stage, hooks: Hooks, restore: Callable[[torch.optim.Optimizer], None] | None) -> None:
        here, accelerator = self.position, self.accelerator
        optimizer = prepare_stage(self.model, stage)
        if restore is not None:
            restore(optimizer)
        wrapped, self.optimizer = accelerator.prepare(self.model, optimizer)
        samplers = {level: self._sampler(stage, level) for level in self.order}
        epoch, cycles = samplers[0].batches, self.cycles(stage)
        turns = [[level] for level in self.order] if self.config.mode == "alternating" else [self.order]
        console = hooks.console if accelerator.is_main_process else None
        progress = Progress(console, stage.name, cycles, here.cycle, samplers[0].batch_size * len(self.order))
        sums = _Sums(self.level_names, accelerator.device)
        log_every = max(1, min(20, epoch // 2))
        saved, begun = time.monotonic(), time.monotonic() - here.seconds
        try:
            while here.cycle < cycles:
                rate = learning_rate(stage, here.cycle, cycles)
                set_learning_rate(self.optimizer, rate)
                while here.turn < len(turns):
                    self._step(wrapped, stage, turns[here.turn], samplers, sums)
                    here.turn, here.step, here.seconds = here.turn + 1, here.step + 1, time.monotonic() - begun
                    stop = agree(accelerator, hooks.should_stop is not None and hooks.should_stop())
                    due = time.monotonic() - saved > 60 * self.config.checkpoint_minutes
                    if hooks.checkpoint is not None and accelerator.is_main_process and (stop or due):
                        hooks.checkpoint(self)
                        saved = time.monotonic()
                    if stop:
                        raise Interrupted
                here.cycle, here.turn = here.cycle + 1, 0
                progress.advance(sums.note)
                tags = {"stage": stage.name, "epoch": here.cycle / epoch}
                if here.cycle % log_every == 0 or here.cycle == cycles:
                    values = {"lr": rate, "images_per_second": progress.images_per_second, **sums.flush(accelerator)}
                    if hooks.log is not None:
                        hooks.log.write("train", here.step, {**tags, **values})
                if (here.cycle % epoch == 0 or here.cycle == cycles) and accelerator.is_main_process:
                    measured = {} if hooks.epoch_end is None else hooks.epoch_end(self)
                    train_mode(self.model, stage)
                    if measured and hooks.log is not None:
                        hooks.log.write("held_out", here.step, {**tags, "accuracy": measured})
                    shown = "".join(f"  {name} {value:.1%}" for name, value in measured.items())
                    progress.epoch(
                        f"epoch {here.cycle / epoch:g}  {sums.note}" + (f"   held out{shown}" if shown else "")
                    )
        finally:
            progress.close()
            accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)

    def _sampler(self, stage: Stage, level: int) -> BatchSampler:
        if stage.batch_size % self.accelerator.num_processes:
            raise ValueError(
                f"training: batch_size must be a multiple of the {self.accelerator.num_processes} processes, "
                f"got {stage.batch_size}"
            )
        stream = f"{stage.name}/{'all' if self.config.same_images else level}"
        return BatchSampler(len(self.images), stage.batch_size, self.config.seed, stream)

    def _step(
        self, wrapped: Any, stage: Stage, levels: list[int], samplers: dict[int, BatchSampler], sums: _Sums
    ) -> None:
        """One optimiser step on the losses of ``levels``; none if no image has a label there."""
        self.optimizer.zero_grad(set_to_none=True)  # idle heads keep None, so momentum and decay pass them by
        learned = [self._backward(wrapped, stage, level, samplers[level], sums) for level in levels]
        if any(learned):
            self.optimizer.step()

    def _backward(self, wrapped: Any, stage: Stage, level: int, sampler: BatchSampler, sums: _Sums) -> bool:
        """Add the gradient of one level's loss, the mean over the labelled images of the batch of all processes."""
        here, config, accelerator = self.position, self.config, self.accelerator
        chosen = sampler.batch(here.cycle)
        targets = self.labels[chosen, level]
        labelled = int((targets >= 0).sum())
        if labelled == 0:
            return False
        seed = stable_seed(config.seed, here.stage, here.cycle, "all" if config.same_images else level)
        torch.manual_seed(stable_seed(seed, accelerator.process_index))  # dropout and the like
        share = math.ceil(len(chosen) / accelerator.num_processes)
        rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        x = augment(
            self.images[chosen[rows]].to(accelerator.device),
            config,
            torch.Generator().manual_seed(seed),
            batch=len(chosen),
            rows=rows,
        )
        x = to_input(x, config.resolutions[level], self.model.mean, self.model.std)
        targets = targets[rows].to(accelerator.device)
        weight = 1.0 if config.level_weights is None else config.level_weights[level]
        scale = weight * accelerator.num_processes / labelled  # DDP takes the mean over processes
        pieces = list(zip(x.chunk(stage.accumulate), targets.chunk(stage.accumulate), strict=True))
        for number, (images, wanted) in enumerate(pieces):
            last = number == len(pieces) - 1
            with nullcontext() if last else accelerator.no_sync(wrapped):
                (logits,) = wrapped(images, levels=[level], resolution=level)
                loss = F.cross_entropy(
                    logits, wanted, ignore_index=-1, reduction="sum", label_smoothing=config.label_smoothing
                )
                accelerator.backward(loss * scale)
            sums.add(level, loss.detach(), logits.detach(), wanted)
        return True


class _Sums:
    """Loss, hits and counts per level since the last flush, kept on the device so that steps need not wait."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._names = names
        self._values = torch.zeros(len(names), 3, device=device)
        self.note = ""

    def add(self, level: int, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        hits = (logits.argmax(1) == targets).sum()
        self._values[level] += torch.stack([loss, hits, (targets >= 0).sum()])

    def flush(self, accelerator: Any) -> dict[str, dict[str, float]]:
        """Return means per level over all processes, and start anew."""
        rows = zip(self._names, accelerator.reduce(self._values, "sum").tolist(), strict=True)
        self._values.zero_()
        seen = {name: (loss / n, hits / n) for name, (loss, hits, n) in rows if n}
        self.note = "loss  " + "  ".join(f"{name} {loss:.2f}" for name, (loss, _) in reversed(seen.items()))
        return {
            "loss": {name: loss for name, (loss, _) in seen.items()},
            "accuracy": {name: hits for name, (_, hits) in seen.items()},
        }
