"""Real images go the whole way; what is reached on them is in docs/results/."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from c2f_ops.training import train

ROOT = Path(os.environ.get("C2F_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.parametrize(
    ("data", "file", "sizes", "resolutions"),
    [
        ("cub100", "cub100_train.zip", (30, 76, 100), (8, 16, 32)),
        ("cifar100", "cifar100_train_a.npz", (20, 100), (16, 32)),
    ],
)
@pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")
def test_a_step_and_an_evaluation(tiny, tmp_path, data, file, sizes, resolutions) -> None:
    if not (ROOT / file).is_file():
        pytest.skip(f"{file} is not in {ROOT}; set C2F_DATA to its folder")
    config = tiny(
        {"epochs": [0.25]}, data=data, root=str(ROOT), resolutions=resolutions, train_images=40, test_images=20
    )
    metrics = train(config, tmp_path / "run")
    assert metrics["images"] == 20 and tuple(metrics["accuracy"]) == tuple(map(str, reversed(resolutions)))
    assert (tmp_path / "run" / "contact_sheet.png").is_file()
    assert all(0 <= value <= 1 for row in metrics["accuracy"].values() for value in row.values())
    from c2f_ops.training import load_run

    assert load_run(tmp_path / "run", "cpu")[2].sizes == sizes
