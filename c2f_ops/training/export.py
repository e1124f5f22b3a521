"""From a run folder to a folder that `MLPH.from_pretrained` reads."""

from __future__ import annotations

from pathlib import Path

from .._files import Damaged, read_json
from ..models.pretrained import CALIBRATION
from .run import load_run


def export_run(run: Path, folder: Path) -> None:
    """Write the newest model of a run, with its hierarchy and its calibration if it has one.

    Raises:
        FileNotFoundError: ``run`` is not a run folder, or has no checkpoint.
        ValueError: A file of the run is damaged.
    """
    model, _, _ = load_run(run, "cpu")
    if (run / CALIBRATION).is_file():
        try:
            model.calibration = read_json(run / CALIBRATION)
        except Damaged as error:
            raise ValueError(f"export: {error}") from None
    model.save_pretrained(folder)
