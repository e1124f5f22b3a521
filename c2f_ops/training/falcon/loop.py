"""The training loop of FALCON: batches, views and neighbours for `c2f_ops.models.Falcon`. It never sees fine labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ...models import Falcon
from ...neighbours import sample_neighbours
from ...relations import RelationResult
from ..logs import Progress, RunLog
from ..loop import Interrupted
from ..machine import agree
from ..sampler import BatchSampler, stable_seed
from ..schedule import learning_rate
from .config import FalconRun
from .views import make_view, whole

TERMS = ("coarse", "nn", "conf", "reg")


@dataclass
class Position:
    """Where a run is: everything random follows from it and the seed.

    Attributes:
        step: Optimiser steps done. seconds: Spent training. finished: The last solve is done too.
    """

    step: int = 0
    seconds: float = 0.0
    finished: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data."""
        return asdict(self)


@dataclass
class Hooks:
    """What a run does besides training.

    Attributes:
        log, console: Where to report; None for nowhere.
        restore: Loads the state of the optimiser at the position where the run starts.
        checkpoint: Called in the main process every ``checkpoint_minutes`` and before an interruption.
        should_stop: Asked after each step, in every process.
    """

    log: RunLog | None = None
    console: Any = None
    restore: Callable[[torch.optim.Optimizer], None] | None = None
    checkpoint: Callable[[FalconTrainer], None] | None = None
    should_stop: Callable[[], bool] | None = None


class Learner(nn.Module):
    """What changes in training: `Falcon`, and with ``neighbour_mode`` "bank" the teacher's logits of all images."""

    bank: Tensor

    def __init__(self, falcon: Falcon, images: int) -> None:
        super().__init__()
        self.falcon = falcon
        rows = images if falcon.config.neighbour_mode == "bank" else 0
        self.register_buffer("bank", torch.zeros(rows, falcon.num_fine))


class FalconTrainer:
    """Trains on images in memory and their coarse labels.

    Args:
        learner: On the CPU or the device of the accelerator.
        run: Its settings.
        images: uint8 ``[N, 3, S, S]``, on the CPU.
        y: int64 ``[N, D]``, coarse labels under each taxonomy, -1 for none.
        neighbours: int32 ``[N, k]``, -1 for none.
        accelerator: Of `accelerate`; settles device, precision and processes.
        position: Where to start.
    """

    def __init__(
        self,
        learner: Learner,
        run: FalconRun,
        images: Tensor,
        y: Tensor,
        neighbours: Tensor,
        accelerator: Any,
        position: Position | None = None,
    ) -> None:
        self.settings, self.images, self.y, self.neighbours = run, images, y, neighbours
        self.accelerator, self.position = accelerator, position or Position()
        falcon = learner.falcon
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            falcon.student = nn.SyncBatchNorm.convert_sync_batchnorm(falcon.student)
            falcon.teacher = nn.SyncBatchNorm.convert_sync_batchnorm(falcon.teacher)
        self.learner = learner.to(accelerator.device).to(memory_format=torch.channels_last)
        self.falcon = falcon
        self.sampler = BatchSampler(len(images), run.batch_size, run.seed, "falcon")
        if self.sampler.batch_size < accelerator.num_processes:
            raise ValueError(
                f"falcon: batch_size must be at least 1 for each of {accelerator.num_processes} processes, "
                f"got {self.sampler.batch_size}"
            )
        self.steps = run.epochs * self.sampler.batches
        self.optimizer = torch.optim.SGD(
            falcon.student.parameters(), run.lr, momentum=run.momentum, weight_decay=run.weight_decay
        )
        if not accelerator.is_main_process:  # a checkpoint's counts are those of all processes; the main one has them
            self._drop_counts()
        self.solve_ms = 0.0

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 1."""
        return self.position.step // self.sampler.batches + 1

    def train(self, hooks: Hooks | None = None) -> None:
        """Train from the position to the end, and solve the relations a last time.

        Raises:
            Interrupted: ``hooks.should_stop`` was true in some process; the checkpoint is written.
            FloatingPointError: the loss is not finite.
        """
        hooks = hooks or Hooks()
        here, accelerator = self.position, self.accelerator
        if hooks.restore is not None:
            hooks.restore(self.optimizer)
        wrapped, optimizer = accelerator.prepare(self.falcon.student, self.optimizer)
        main = accelerator.is_main_process
        log = hooks.log if main else None
        progress = Progress(hooks.console if main else None, "falcon", self.steps, here.step, self.sampler.batch_size)
        sums = _Sums(self.falcon.num_fine, accelerator.device)
        log_every = max(1, min(20, self.sampler.batches // 2))
        saved, begun = time.monotonic(), time.monotonic() - here.seconds
        self.falcon.train()
        try:
            while here.step < self.steps:
                epoch, rate = self.epoch, self.rate(here.step)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                if here.step % self.sampler.batches == 0:
                    self.falcon.start_epoch()
                    self._refresh_bank()
                results = self._step(wrapped, optimizer, epoch, sums)
                here.step, here.seconds = here.step + 1, time.monotonic() - begun
                progress.advance(sums.note)
                tags = {"epoch": here.step / self.sampler.batches}
                if results is not None and log is not None:
                    log.write("relations", here.step, {**tags, **self._describe(results, epoch)})
                ended = here.step % self.sampler.batches == 0
                if here.step % log_every == 0 or ended:
                    values = sums.flush(accelerator)
                    _check_finite(values["loss"], here.step)
                    if log is not None:
                        tau = self.falcon.config.tau(epoch, self.settings.epochs)
                        speed = progress.images_per_second
                        log.write(
                            "train", here.step, {**tags, "lr": rate, "tau": tau, "images_per_second": speed, **values}
                        )
                if ended:
                    used = sums.used(accelerator)
                    if log is not None:
                        log.write("clusters", here.step, {**tags, "used": used})
                    progress.epoch(f"epoch {epoch}  {sums.note}  {used} of {self.falcon.num_fine} classes in use")
                self._maybe_stop(hooks, time.monotonic() - saved, main)
                if time.monotonic() - saved > 60 * self.settings.checkpoint_minutes:
                    saved = time.monotonic()
            if not here.finished:
                results = self._solve_last()
                if results is not None and log is not None:
                    facts = self._describe(results, self.settings.epochs)
                    log.write("relations", here.step, {"epoch": float(self.settings.epochs), "last": True, **facts})
                here.finished = True
        finally:
            progress.close()
            accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        run = self.settings
        stage = run.stage(self.sampler.batches)
        if run.schedule != "cosine":
            return learning_rate(stage, step, self.steps)
        period = self.steps if run.restart_epochs is None else round(run.restart_epochs * self.sampler.batches)
        return run.min_lr + learning_rate(stage, step % period, period)

    def _step(self, wrapped: Any, optimizer: Any, epoch: int, sums: _Sums) -> list[RelationResult] | None:
        """One optimiser step on this process's share of the batch."""
        run, falcon, accelerator, step = self.settings, self.falcon, self.accelerator, self.position.step
        chosen = self.sampler.batch(step)
        rows = _share(len(chosen), accelerator.process_index, accelerator.num_processes)
        mine, batch = chosen[rows], len(chosen)
        torch.manual_seed(stable_seed(run.seed, "step", step, accelerator.process_index))  # dropout and the like
        y = self.y[mine].to(accelerator.device)
        z = wrapped(self._view(mine, "student", batch, rows))
        with accelerator.autocast():
            s = falcon.teacher_logits(self._view(mine, "teacher", batch, rows)).float()
            t, mask, index = self._neighbours(mine, batch, rows)
        loss, terms = falcon.loss(z, s, t, y, epoch, run.epochs, nbr_mask=mask, idx=index)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        optimizer.step()
        z = z.detach()
        sums.add(loss.detach(), terms, z)
        begun = time.perf_counter()
        results = falcon.after_step(z, s, y, epoch, run.epochs)
        self.solve_ms = 1e3 * (time.perf_counter() - begun)
        return results

    def _view(self, chosen: Tensor, stream: str, batch: int, rows: slice | Tensor) -> Tensor:
        images = self.images[chosen].to(self.accelerator.device)
        return make_view(images, self.settings, stream, self.position.step, batch=batch, rows=rows)

    def _neighbours(self, mine: Tensor, batch: int, rows: slice) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Teacher logits of neighbours drawn for the samples ``mine``: (t, mask, None), or (bank, None, indices)."""
        run, device = self.settings, self.accelerator.device
        drawn = min(run.falcon.neighbours_per_step, self.neighbours.shape[1])
        if drawn == 0:
            return None, None, None
        near = sample_neighbours(self.neighbours[mine], drawn, seed=run.seed, step=self.position.step, samples=mine)
        if run.falcon.neighbour_mode == "bank":
            return self.learner.bank, None, near.to(device)
        mask = near >= 0
        t = torch.zeros(*near.shape, self.falcon.num_fine, device=device)
        if mask.any():
            place = torch.arange(batch * drawn).view(batch, drawn)[rows][mask]  # among those of all processes
            t[mask.to(device)] = self.falcon.teacher_logits(
                self._view(near[mask], "neighbours", batch * drawn, place)
            ).float()
        return t, mask.to(device), None

    @torch.no_grad()
    def _refresh_bank(self) -> None:
        """Renew the teacher's logits of all images, each process its share of them."""
        bank, accelerator = self.learner.bank, self.accelerator
        if not len(bank):
            return
        bank.zero_()
        for where, logits in self._pass(self.falcon.teacher):
            bank[where] = logits
        if accelerator.num_processes > 1:
            dist.all_reduce(bank)

    def _pass(self, network: nn.Module, batch: int = 256) -> Any:
        """Yield slices of this process's share of the images, and the logits of the whole images, in eval mode."""
        training = network.training
        network.eval()
        share = _share(len(self.images), self.accelerator.process_index, self.accelerator.num_processes)
        for first in range(share.start, share.stop, batch):
            where = slice(first, min(first + batch, share.stop))
            with torch.no_grad(), self.accelerator.autocast():
                yield where, network(whole(self.images[where].to(self.accelerator.device))).float()
        network.train(training)

    def _solve_last(self) -> list[RelationResult] | None:
        """The relations at the end, as ``last_solve`` says."""
        falcon, last = self.falcon, self.settings.last_solve
        if not falcon.config.learn_relations or last == "none" or (last == "window" and not int(falcon.batches)):
            return None
        if last == "full_pass":
            falcon.forget()
            network = falcon.student if falcon.config.mstep_source == "student" else falcon.teacher
            for where, logits in self._pass(network):
                falcon.count(logits, self.y[where].to(self.accelerator.device))
        begun = time.perf_counter()
        results = falcon.solve(self.settings.epochs, self.settings.epochs)
        self.solve_ms = 1e3 * (time.perf_counter() - begun)
        return results

    def _maybe_stop(self, hooks: Hooks, waited: float, main: bool) -> None:
        stop = agree(self.accelerator, hooks.should_stop is not None and hooks.should_stop())
        due = agree(self.accelerator, main and waited > 60 * self.settings.checkpoint_minutes)
        if hooks.checkpoint is not None and (stop or due):
            self.gather_counts()
            if main:
                hooks.checkpoint(self)
        if stop:
            raise Interrupted

    def gather_counts(self) -> None:
        """Bring the co-occurrence counts of all processes into the main one, whose state a checkpoint holds."""
        if self.accelerator.num_processes == 1:
            return
        for d in range(len(self.falcon.num_coarse)):
            dist.all_reduce(self.falcon.get_buffer(f"cost_{d}"))
        if not self.accelerator.is_main_process:
            self._drop_counts()

    def _drop_counts(self) -> None:
        for d in range(len(self.falcon.num_coarse)):
            self.falcon.get_buffer(f"cost_{d}").zero_()

    def _describe(self, results: list[RelationResult], epoch: int) -> dict[str, Any]:
        """Figures of a solve, over the taxonomies."""
        falcon = self.falcon
        lam = [
            falcon.config.balance(falcon.num_fine, count, epoch, self.settings.epochs) for count in falcon.num_coarse
        ]
        return {
            "moved": sum(r.moved for r in results),
            "gap": max(r.gap for r in results),
            "balance_forced": any(r.balance_forced for r in results),
            "lambda_m": lam[0] if len(lam) == 1 else {str(d): value for d, value in enumerate(lam)},
            "milliseconds": self.solve_ms,
            "methods": [r.method for r in results],
        }


class _Sums:
    """Loss, terms and predicted classes, kept on the device so that steps need not wait."""

    def __init__(self, num_fine: int, device: torch.device) -> None:
        self._values = torch.zeros(6, device=device)
        self._classes = torch.zeros(num_fine, dtype=torch.int64, device=device)
        self.note = ""

    def add(self, loss: Tensor, terms: Tensor, z: Tensor) -> None:
        self._values += torch.cat([torch.ones_like(loss)[None], loss[None], terms]).float()
        self._classes += z.argmax(1).bincount(minlength=len(self._classes))

    def flush(self, accelerator: Any) -> dict[str, Any]:
        """Return means since the last flush, over all processes, and start anew."""
        count, loss, *terms = accelerator.reduce(self._values, "mean").tolist()
        self._values.zero_()
        named = dict(zip(TERMS, (term / count for term in terms), strict=True))
        self.note = f"loss {loss / count:.3f}  (" + "  ".join(f"{k} {v:.2f}" for k, v in named.items()) + ")"
        return {"loss": loss / count, "terms": named}

    def used(self, accelerator: Any) -> int:
        """How many classes were predicted since the last call."""
        count = int((accelerator.reduce(self._classes, "sum") > 0).sum())
        self._classes.zero_()
        return count


def _share(count: int, process: int, processes: int) -> slice:
    """The rows of a process, all shares alike but for one row."""
    return slice(process * count // processes, (process + 1) * count // processes)


def _check_finite(loss: float, step: int) -> None:
    if not abs(loss) < float("inf"):
        raise FloatingPointError(f"falcon: loss must be finite, got {loss} before step {step}; a lower lr may help")
