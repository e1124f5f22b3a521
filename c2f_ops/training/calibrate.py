"""The calibration of a run, from images that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..answering import Calibration, calibrate
from ..hierarchy import Hierarchy
from ..models import MLPH
from .config import Config
from .evaluate import predict_logits
from .grid import default_grid

CALIBRATION = "calibration.json"


def calibrate_run(
    model: MLPH,
    images: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    config: Config,
    *,
    sides: Sequence[int] | None = None,
) -> Calibration:
    """Fit temperatures, weights of the levels and thresholds to images seen at every side of the grid.

    Args:
        model: of the run.
        images: uint8 ``[N, 3, load, load]``, held out from training.
        labels: LongTensor ``[N, K]``, coarse to fine, -1 for unknown.
        hierarchy: their tree.
        config: of the run.
        sides: other sides than those of `default_grid`.
    """
    grid = default_grid(config.image_size) if sides is None else sides
    return calibrate(
        {side: predict_logits(model, images, config, side, precision=config.precision) for side in grid},
        labels,
        hierarchy,
        heads=config.trained_levels(hierarchy.levels),
        split=f"{config.data}: {config.held_out:g} of train, held out",
        seed=config.seed,
    )


def read_calibration(folder: Path, hierarchy: Hierarchy, config: Config) -> Calibration:
    """Read the calibration in a folder, that of a run or of its best model; `Calibration.none` where there is none.

    Raises:
        ValueError: it is of another tree.
    """
    if not (folder / CALIBRATION).is_file():
        return Calibration.none(hierarchy, config.trained_levels(hierarchy.levels))
    calibration = Calibration.from_json(folder / CALIBRATION)
    calibration.check(hierarchy)
    return calibration
