"""The search: train the finest level, see where it fails, go on with a head for the next coarser level."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data import LabeledImages, degrade_settings
from ...hierarchy import Hierarchy
from ...models import MLPH
from .._typed import one_of
from ..checkpoint import find_checkpoint, load_model, save_checkpoint
from ..config import Config, Stage
from ..evaluate import predict_logits
from ..folder import CONFIG, HIERARCHY, settled
from ..grid import default_grid, extended
from ..logs import RunLog
from ..loop import Hooks, Trainer
from ..machine import cpu_threads, make_accelerator, say, stop_signals
from ..run import build_model, load_split
from ..sampler import stratified_split
from .curve import MODES, Curve, NoCrossing, crossing
from .picture import plot_search

RESULT, PICTURE = "resolutions.json", "resolutions.png"
HELD_OUT = 0.2


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and from what.

    Attributes:
        levels: names, coarse to fine.
        sides: of the levels, coarse to fine, rising.
        curves: of the levels that decided, fine to coarse.
        thresholds: that they were held to, likewise.
        mode: "absolute" or "relative".
        retrained: whether each point is a network trained at that side.
        split_sha256: of the sorted names of the held-out images.
        hierarchy: sha256 of the tree.
        seed, degrade, seconds: of the search.
    """

    levels: tuple[str, ...]
    sides: tuple[int, ...]
    curves: tuple[Curve, ...]
    thresholds: tuple[float, ...]
    mode: str
    retrained: bool
    split_sha256: str
    hierarchy: str
    seed: int
    degrade: dict[str, Any]
    seconds: float

    def to_json(self, path: Path) -> None:
        """Write all of it."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @property
    def option(self) -> str:
        """The sides as `c2f train mlph --resolutions` takes them, fine to coarse."""
        return ",".join(map(str, reversed(self.sides)))


class TrainOnly:
    """Gives out the training split and no other: a search must not see test images."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def load(self, split: str) -> LabeledImages:
        """Load a split.

        Raises:
            PermissionError: it is not the training split.
        """
        if split != "train":
            raise PermissionError(f"search_resolutions: split must be train, the search never opens {split!r}")
        return load_split(self._config, split)


def search_resolutions(
    config: Config,
    run: Path,
    *,
    thresholds: float | Sequence[float] = 0.8,
    mode: str = "absolute",
    grid: Sequence[int] | None = None,
    retrain: bool = False,
    fine_tune: bool = False,
    extend: bool = True,
    resume: bool = False,
    console: Any = None,
) -> SearchResult:
    """Find the side at which each level but the finest is to be trained.

    A network for the finest level is trained at the full side S on four fifths of the training images. On the rest,
    degraded to ever smaller sides, its accuracy falls; the first side below the threshold becomes that of the next
    coarser level. A head for that level is then trained at S on the same backbone and projections, and its accuracy
    followed from there on, and so up to the coarsest level. Test images are not opened.

    Args:
        config: of the training; its resolutions and tasks have no say.
        run: folder to write.
        thresholds: accuracy that a level must keep, or one for each level but the coarsest, fine to coarse.
        mode: "absolute", or "relative": shares of the accuracy at S.
        grid: falling sides to measure at; the first must be S. None: `default_grid` of S.
        retrain: train a network at every side instead of degrading for one that was trained at S: what can be learned
            there, at the price of as many trainings.
        fine_tune: train backbone and projections too when the head is replaced.
        extend: go below the grid, by its last ratio down to 4 px, where nothing crosses on it.
        resume: go on with a folder; levels that it has are not trained again, also with other thresholds.
        console: a rich console; None says nothing.

    Returns:
        The result, which is also in resolutions.json, with a picture beside it.

    Raises:
        StartsBelow: a level is below its threshold at S already.
        NoCrossing: a level never falls below it.
        ValueError: an argument does not fit.

    Source: Coarse-to-Fine Grained Classification (SIGIR 2019), section 2; docs/resolutions.md.
    """
    one_of("search_resolutions", "mode", mode, MODES)
    config = settled(replace(config, tasks=(), held_out=0.0), run, resume=resume)
    with cpu_threads(config.threads):
        search = _Search(config, run, mode, retrain, fine_tune, console)
        return search.find(_per_level(thresholds, search.hierarchy), _checked_grid(grid, config.image_size), extend)


def _per_level(thresholds: float | Sequence[float], hierarchy: Hierarchy) -> tuple[float, ...]:
    count = hierarchy.num_levels - 1
    values = (thresholds,) * count if isinstance(thresholds, (int, float)) else tuple(thresholds)
    if len(values) != count or not all(0 < value < 1 for value in values):
        raise ValueError(
            f"search_resolutions: thresholds must be one number in (0, 1), or one for each of the {count} levels below "
            f"{hierarchy.levels[0]}, got {thresholds!r}"
        )
    return values


def _checked_grid(grid: Sequence[int] | None, side: int) -> tuple[int, ...]:
    sides = default_grid(side) if grid is None else tuple(grid)
    if not sides or sides[0] != side or any(a <= b for a, b in itertools.pairwise(sides)) or sides[-1] < 1:
        raise ValueError(f"search_resolutions: grid must fall from image_size {side} on, got {sides}")
    return sides


class _Search:
    """Data, split and networks of one search."""

    def __init__(self, config: Config, run: Path, mode: str, retrain: bool, fine_tune: bool, console: Any) -> None:
        self.run, self.mode, self.retrain, self.fine_tune = run, mode, retrain, fine_tune
        self.accelerator = make_accelerator(config.device, config.precision, find_unused=False)
        if self.accelerator.num_processes > 1:
            raise ValueError(
                f"search_resolutions: it runs in one process, got {self.accelerator.num_processes}; a search is small"
            )
        self.config = replace(config, precision=self.accelerator.mixed_precision.replace("no", "fp32"))
        self.console = console
        say(console, f"reading {config.data} ...")
        dataset = TrainOnly(config).load("train")
        self.hierarchy = dataset.hierarchy
        if self.hierarchy.num_levels < 2:
            raise ValueError(f"search_resolutions: data must have at least 2 levels, got {self.hierarchy!r}")
        self.images, self.labels = dataset.stacked(config.load_size), dataset.labels
        self.kept, self.held = stratified_split(self.labels[:, -1], HELD_OUT, config.seed)
        if not len(self.held):
            raise ValueError(
                f"search_resolutions: data must have at least 3 images of some class of {self.hierarchy.levels[-1]}, "
                f"of which a fifth is held out, got {len(self.labels)} of {self.hierarchy.sizes[-1]} classes"
            )
        held = "\n".join(sorted(dataset.ids[i] for i in self.held.tolist()))
        self.split = hashlib.sha256(held.encode()).hexdigest()

    def find(self, thresholds: tuple[float, ...], grid: tuple[int, ...], extend: bool) -> SearchResult:
        """Go from the finest level to the coarsest but one."""
        self.run.mkdir(parents=True, exist_ok=True)
        self.hierarchy.to_json(self.run / HIERARCHY)
        self.config.to_json(self.run / CONFIG)
        begun, sides, curves = time.monotonic(), [grid[0]], []
        model: MLPH | None = None
        for level, threshold in zip(range(self.hierarchy.num_levels - 1, 0, -1), thresholds, strict=True):
            model, accuracy_at = self._trained(level, model)
            name = self.hierarchy.levels[level]
            curve = self._curve(name, grid, accuracy_at)
            try:
                side = crossing(curve, threshold, mode=self.mode, below=sides[-1])
            except NoCrossing:
                if not extend or len(extended(grid)) == len(grid):
                    raise
                grid = extended(grid)
                curve = self._curve(name, grid, accuracy_at)
                side = crossing(curve, threshold, mode=self.mode, below=sides[-1])
            say(self.console, f"{curve}: {self.hierarchy.levels[level - 1]} at {side} px")
            sides.append(side)
            curves.append(curve)
        result = SearchResult(
            levels=self.hierarchy.levels,
            sides=tuple(reversed(sides)),
            curves=tuple(curves),
            thresholds=thresholds,
            mode=self.mode,
            retrained=self.retrain,
            split_sha256=self.split,
            hierarchy=self.hierarchy.sha256,
            seed=self.config.seed,
            degrade=degrade_settings(),
            seconds=time.monotonic() - begun,
        )
        result.to_json(self.run / RESULT)
        plot_search(result, self.run / PICTURE)
        return result

    def _curve(self, name: str, grid: tuple[int, ...], accuracy_at: Callable[[int], float]) -> Curve:
        level = self.hierarchy.levels.index(name)
        known = int((self.labels[self.held, level] >= 0).sum())
        if not known:
            raise ValueError(f"search_resolutions: data must have held-out images with a {name}, got none")
        return Curve(name, grid, tuple(accuracy_at(side) for side in grid), (known,) * len(grid))

    def _trained(self, level: int, before: MLPH | None) -> tuple[MLPH | None, Callable[[int], float]]:
        """A network for a level, and its accuracy at a side; each is asked for once."""
        seen: dict[int, float] = {}
        full = self.config.image_size
        if self.retrain:

            def measured(side: int) -> float:
                return self._accuracy(self._fit(level, side, None), level, side)

            model = None
        else:
            fitted = model = self._fit(level, full, before)

            def measured(side: int) -> float:
                return self._accuracy(fitted, level, side)

        def once(side: int) -> float:
            if side not in seen:
                seen[side] = measured(side)
            return seen[side]

        return model, once

    def _fit(self, level: int, side: int, before: MLPH | None) -> MLPH:
        """Train for one level at one side; on top of a network, its head alone."""
        name = self.hierarchy.levels[level]
        config = replace(self.config, resolutions=(), tasks=((name, side),))
        if before is not None and not self.fine_tune:
            config = replace(config, stages=(_head_alone(config.stages[-1]),))
        folder = self.run / f"{name}-{side}"
        torch.manual_seed(self.config.seed)
        model = build_model(config, self.hierarchy) if before is None else before
        with contextlib.suppress(FileNotFoundError):
            load_model(find_checkpoint(folder, self.hierarchy)[0], model, self.hierarchy)
            return model.to(self.accelerator.device)
        say(self.console, f"training for {name} at {side} px")
        folder.mkdir(parents=True, exist_ok=True)
        log = RunLog(folder, 0)
        trainer = Trainer(
            model, config, self.images[self.kept], self.labels[self.kept], self.hierarchy, self.accelerator
        )
        with stop_signals() as should_stop:
            try:
                trainer.run(Hooks(log, self.console, should_stop=should_stop))
            finally:
                log.close()
        save_checkpoint(
            folder, trainer.position.step, model, None, {"level": name, "side": side}, self.hierarchy.sha256
        )
        return model

    def _accuracy(self, model: MLPH, level: int, side: int) -> float:
        """On the held-out images that have a label."""
        name = self.hierarchy.levels[level]
        config = replace(self.config, resolutions=(), tasks=((name, side),))
        wanted: Tensor = self.labels[self.held, level]
        logits = predict_logits(model, self.images[self.held], config, side, precision=self.config.precision)[level]
        return float((logits.argmax(1) == wanted)[wanted >= 0].float().mean())


def _head_alone(stage: Stage) -> Stage:
    """The same steps for the classifiers alone; statistics of a backbone that does not learn stay as they are."""
    return replace(stage, name="head", trained="classifiers", batch_norm="frozen")
