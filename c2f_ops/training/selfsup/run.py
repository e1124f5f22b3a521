"""A self-supervised run and its folder: contrastive training with resume, and its features."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data import LabeledImages, load_dataset
from ..checkpoint import NO_HIERARCHY, find_checkpoint, load_model, load_optimizer, save_checkpoint
from ..folder import CONFIG, read_config, settled
from ..logs import Progress, RunLog
from ..loop import Interrupted
from ..machine import agree, cpu_threads, find_device, make_accelerator, say, stop_signals
from ..sampler import BatchSampler, stable_seed
from ..schedule import learning_rate
from .augment import two_views
from .config import SelfsupConfig
from .embed import embed, knn_accuracy
from .loss import nt_xent
from .model import SimCLR

_BANK = 5000  # images that the monitor compares with


@dataclass
class _Position:
    step: int = 0
    seconds: float = 0.0


def pretrain(config: SelfsupConfig, run: Path, *, resume: bool = False, console: Any = None) -> SimCLR:
    """Train a backbone on images without labels; checkpoints and log go to ``run``.

    Views, order and rates follow from the config and the step, so a resumed run equals one that was never stopped, bit
    for bit on the same machine and number of processes.

    Args:
        config: of the run; with ``resume`` that of the folder counts.
        run: folder to write; must be new, or hold the run to resume.
        resume: go on from the newest checkpoint.
        console: a rich console for progress; None for silence.

    Raises:
        Interrupted: stopped by SIGINT or SIGTERM after a checkpoint.
        FileExistsError: the folder holds a run and ``resume`` is False.
    """
    config = settled(config, run, resume=resume)
    with cpu_threads(config.threads):
        return _pretrain(config, run, resume, console)


def _pretrain(config: SelfsupConfig, run: Path, resume: bool, console: Any) -> SimCLR:
    accelerator = make_accelerator(config.device, config.precision)
    main = accelerator.is_main_process
    console = console if main else None
    config = replace(config, precision=accelerator.mixed_precision.replace("no", "fp32"))
    if config.batch_size % accelerator.num_processes:
        raise ValueError(
            f"selfsup: batch_size must be a multiple of the {accelerator.num_processes} processes, "
            f"got {config.batch_size}"
        )
    say(console, f"reading {config.data} ...")
    dataset = load_images(config, "train")
    torch.manual_seed(config.seed)
    model = SimCLR(config)
    position, folder = _Position(), None
    if resume:
        with contextlib.suppress(FileNotFoundError):  # killed before the first checkpoint: start anew
            folder, state = find_checkpoint(run, None)
            load_model(folder, model, None)
            position = _Position(**state["position"])
    accelerator.wait_for_everyone()  # all have looked at the folder before one writes to it
    if main:
        run.mkdir(parents=True, exist_ok=True)
        config.to_json(run / CONFIG)
    model = model.to(accelerator.device).to(memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in model.backbone.parameters()) / 1e6
    say(console, f"{len(dataset)} images; {config.backbone}, {parameters:.1f} M parameters, on {accelerator.device}")
    _Loop(config, run, model, dataset, accelerator, position, console).train(folder)
    return model.eval()


def load_images(config: SelfsupConfig, split: str, n: int | None = None) -> LabeledImages:
    """Load the images of a run; by default the training images that it has."""
    n = config.train_images if split == "train" and n is None else n
    return load_dataset(config.data, root=config.root, split=split, size=config.image_size, seed=config.data_seed, n=n)


def load_selfsup(run: Path, device: str = "auto") -> tuple[SimCLR, SelfsupConfig]:
    """Load the newest model of a run folder, or that of one checkpoint folder inside it.

    Raises:
        FileNotFoundError: not a run folder, or no checkpoint in it.
    """
    folder = run
    if (run / "model.safetensors").is_file():
        run = run.parent.parent
    config = read_config(SelfsupConfig, run)
    model = SimCLR(config)
    load_model(find_checkpoint(run, None)[0] if folder == run else folder, model, None)
    return model.to(find_device(device)).to(memory_format=torch.channels_last).eval(), config


class _Loop:
    """Steps of one run."""

    def __init__(
        self,
        config: SelfsupConfig,
        run: Path,
        model: SimCLR,
        dataset: LabeledImages,
        accelerator: Any,
        position: _Position,
        console: Any,
    ) -> None:
        self.config, self.run, self.model, self.accelerator = config, run, model, accelerator
        self.position, self.console = position, console
        self.images, self.coarse = dataset.stacked(config.image_size), dataset.labels[:, 0]
        self.sampler = BatchSampler(len(self.images), config.batch_size, config.seed, "selfsup")
        self.steps = max(1, round(config.epochs * self.sampler.batches))
        groups: list[dict[str, Any]] = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1]},
        ]
        self.optimizer = torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
        )

    def train(self, folder: Path | None) -> None:
        """Go from the position to the last step; ``folder`` holds the state of the optimiser, if there is any."""
        config, here, accelerator = self.config, self.position, self.accelerator
        if folder is not None:
            load_optimizer(folder, self.model, self.optimizer)
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            self.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        wrapped, optimizer = accelerator.prepare(self.model, self.optimizer)
        main, epoch = accelerator.is_main_process, self.sampler.batches
        log = RunLog(self.run, here.step) if main else None
        progress = Progress(self.console, "contrastive", self.steps, here.step, self.sampler.batch_size)
        stage, log_every = config.stage(epoch), max(1, min(20, epoch // 2))
        saved, begun = time.monotonic(), time.monotonic() - here.seconds
        total = torch.zeros((), device=accelerator.device)
        counted = 0
        with stop_signals() as should_stop:
            try:
                wrapped.train()
                while here.step < self.steps:
                    rate = learning_rate(stage, here.step, self.steps)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    total += self._step(wrapped, optimizer)
                    here.step, here.seconds, counted = here.step + 1, time.monotonic() - begun, counted + 1
                    progress.advance("")
                    ended = here.step % epoch == 0 or here.step == self.steps
                    if here.step % log_every == 0 or here.step == self.steps:
                        loss = float(accelerator.reduce(total, "mean")) / counted
                        total, counted = torch.zeros_like(total), 0
                        if log is not None:
                            values = {"loss": loss, "lr": rate, "images_per_second": progress.images_per_second}
                            log.write("train", here.step, {"epoch": here.step / epoch, **values})
                    if ended and log is not None:
                        note = f"epoch {here.step / epoch:g}  loss {loss:.3f}"
                        if here.step == self.steps or here.step // epoch % config.monitor_epochs == 0:
                            measured = self.monitor()
                            log.write("monitor", here.step, {"epoch": here.step / epoch, **measured})
                            note += "".join(f"  {name} {value:.3f}" for name, value in measured.items())
                        progress.epoch(note)
                    stop = agree(accelerator, should_stop())
                    due = time.monotonic() - saved > 60 * config.checkpoint_minutes
                    if main and (stop or due or here.step == self.steps):
                        self._checkpoint()
                        saved = time.monotonic()
                    if stop and here.step < self.steps:
                        raise Interrupted
            finally:
                progress.close()
                if log is not None:
                    log.close()
        accelerator.wait_for_everyone()
        accelerator.end_training()

    def _step(self, wrapped: Any, optimizer: Any) -> Tensor:
        config, accelerator, step = self.config, self.accelerator, self.position.step
        chosen = self.sampler.batch(step)
        share = len(chosen) // accelerator.num_processes  # of all processes alike, for the sake of the negatives
        rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        torch.manual_seed(stable_seed(config.seed, "step", step, accelerator.process_index))  # dropout and the like
        views = two_views(self.images[chosen[rows]].to(accelerator.device), config, step, batch=len(chosen), rows=rows)
        first, second = wrapped(views).chunk(2)
        loss = nt_xent(
            first,
            second,
            temperature=config.temperature,
            decoupled=config.decoupled,
            gather=accelerator.num_processes > 1,
        )
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        optimizer.step()
        return loss.detach()

    def monitor(self) -> dict[str, float]:
        """Vote of the 20 nearest among up to 5000 training images on the coarse class of others; nothing uses it."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.config.seed))
        order = order[self.coarse[order] >= 0]
        queries, bank = order[: self.config.monitor_images], order[self.config.monitor_images :][:_BANK]
        if not len(queries) or not len(bank):
            return {}
        chosen = torch.cat([queries, bank])
        x = embed(self.model, self.images[chosen], precision=self.config.precision)
        n = len(queries)
        unit = torch.nn.functional.normalize(x, dim=1)
        return {
            "knn_coarse": knn_accuracy(x[n:], self.coarse[bank], x[:n], self.coarse[queries]),
            "spread": float(1 - unit.mean(0).square().sum()),  # 0: all features point one way
        }

    def _checkpoint(self) -> None:
        state = {"position": {"step": self.position.step, "seconds": self.position.seconds}}
        save_checkpoint(self.run, self.position.step, self.model, self.optimizer, state, NO_HIERARCHY)
