"""The training loop: stages of cycles, a cycle of one step per task, a level at a side (or one joint step)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..hierarchy import Hierarchy
from ..models import MLPH
from .augment import augment, to_input
from .config import Config, Stage
from .consistency import consistency_loss
from .logs import Progress, RunLog
from .machine import agree
from .optimizer import prepare_stage, set_learning_rate, train_mode
from .sampler import BatchSampler, ImageBatches, stable_seed
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


class Turn(NamedTuple):
    """One step of a cycle.

    Attributes:
        level: whose head learns. side: that the images are degraded to. statistics: index of the set of batch-norm
            statistics of that side.
        stream: of random numbers: how many steps of the cycle are still to come.
    """

    level: int
    side: int
    statistics: int
    stream: int


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
        images: uint8 ``[N, 3, load, load]``, on the CPU, or an `ImageBatches`.
        labels: LongTensor ``[N, K]``, coarse to fine, -1 for unknown.
        hierarchy: their tree.
        accelerator: of `accelerate`; settles device, precision and processes.
        position: where to start.
    """

    def __init__(
        self,
        model: MLPH,
        config: Config,
        images: ImageBatches,
        labels: Tensor,
        hierarchy: Hierarchy,
        accelerator: Any,
        position: Position | None = None,
    ) -> None:
        self.config, self.images, self.labels, self.accelerator = config, images, labels, accelerator
        self.model = model.to(accelerator.device).to(memory_format=torch.channels_last)
        self.position = position or Position()
        self.optimizer: Any = None
        self.level_names = hierarchy.levels
        cycle = config.cycle(hierarchy.levels)
        self.turns = [
            Turn(level, side, config.nearest_side(side), len(cycle) - 1 - i) for i, (level, side) in enumerate(cycle)
        ]
        self.trained = config.trained_levels(hierarchy.levels)
        self._members: list[Tensor] = []  # of each trained level but the coarsest: which node of the one above
        if config.consistency:
            tree, _ = hierarchy.select([hierarchy.levels[k] for k in self.trained])
            self._members = [tree.mask(k).float().to(accelerator.device) for k in range(1, tree.num_levels)]

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
        optimizer = prepare_stage(self.model, stage, self.trained)
        if restore is not None:
            restore(optimizer)
        wrapped, self.optimizer = accelerator.prepare(self.model, optimizer)
        samplers = {turn.stream: self._sampler(stage, turn) for turn in self.turns}
        epoch, cycles = samplers[0].batches, self.cycles(stage)
        steps = [[turn] for turn in self.turns] if self.config.mode == "alternating" else [self.turns]
        console = hooks.console if accelerator.is_main_process else None
        progress = Progress(console, stage.name, cycles, here.cycle, samplers[0].batch_size * len(self.turns))
        sums = _Sums(self.level_names, accelerator.device)
        log_every = max(1, min(20, epoch // 2))
        saved, begun = time.monotonic(), time.monotonic() - here.seconds
        try:
            while here.cycle < cycles:
                rate = learning_rate(stage, here.cycle, cycles)
                set_learning_rate(self.optimizer, rate)
                while here.turn < len(steps):
                    self._step(wrapped, stage, steps[here.turn], samplers, sums)
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

    def _sampler(self, stage: Stage, turn: Turn) -> BatchSampler:
        stream = f"{stage.name}/{'all' if self.config.same_images else turn.stream}"
        sampler = BatchSampler(len(self.images), stage.batch_size, self.config.seed, stream)
        if sampler.batch_size % self.accelerator.num_processes:
            raise ValueError(
                f"training: batch_size must be a multiple of the {self.accelerator.num_processes} processes, "
                f"got {sampler.batch_size} with {len(self.images)} images"
            )
        return sampler

    def _step(
        self, wrapped: Any, stage: Stage, turns: list[Turn], samplers: dict[int, BatchSampler], sums: _Sums
    ) -> None:
        """One optimiser step on the losses of ``turns``; none if no image has a label there."""
        self.optimizer.zero_grad(set_to_none=True)  # idle heads keep None, so momentum and decay pass them by
        learned = [self._backward(wrapped, stage, turn, samplers[turn.stream], sums) for turn in turns]
        if any(learned):
            self.optimizer.step()

    def _backward(self, wrapped: Any, stage: Stage, turn: Turn, sampler: BatchSampler, sums: _Sums) -> bool:
        """Add the gradient of one task's loss, the mean over the labelled images of the batch of all processes.

        Each adds up over the processes on its own: what a joint step defers to its last task would reach only the
        parameters that this one uses.
        """
        level, side, statistics, stream = turn
        here, config, accelerator = self.position, self.config, self.accelerator
        chosen = sampler.batch(here.cycle)
        targets = self.labels[chosen, level]
        labelled = int((targets >= 0).sum())
        if labelled == 0:
            return False
        seed = stable_seed(config.seed, here.stage, here.cycle, "all" if config.same_images else stream)
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
        x = to_input(x, side, self.model.mean, self.model.std)
        targets = targets[rows].to(accelerator.device)
        weight = 1.0 if config.level_weights is None else config.level_weights[level]
        scale = weight * accelerator.num_processes / labelled  # DDP takes the mean over processes
        levels = self.trained if config.consistency else (level,)
        pieces = list(zip(x.chunk(stage.accumulate), targets.chunk(stage.accumulate), strict=True))
        for number, (images, wanted) in enumerate(pieces):
            last = number == len(pieces) - 1
            with nullcontext() if last else accelerator.no_sync(wrapped):
                heads = dict(zip(levels, wrapped(images, levels=levels, resolution=statistics), strict=True))
                logits = heads[level]
                loss = F.cross_entropy(
                    logits, wanted, ignore_index=-1, reduction="sum", label_smoothing=config.label_smoothing
                )
                objective = loss
                for k, members in enumerate(self._members):
                    apart = consistency_loss(heads[self.trained[k]], heads[self.trained[k + 1]], members)
                    objective = objective + config.consistency * (apart * (wanted >= 0)).sum()
                accelerator.backward(objective * scale)
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
