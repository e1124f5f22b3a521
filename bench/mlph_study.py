"""MLPH against its ablations: one line per (data, setting, seed), and a page per data set.

    python -m c2f_ops.bench.mlph_study run --data birds --out bench/results/DATE-mlph-birds.jsonl
    python -m c2f_ops.bench.mlph_study report bench/results/*-mlph-birds.jsonl --notes NOTES --out PAGE

A run goes on where it was interrupted: results in the file are not computed again. All settings of a data set share
data, network, rates and seeds; nothing is chosen on test images, which are looked at after training only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

from c2f_ops.data.degrade import resize_uint8
from c2f_ops.functional import HBP, MLP
from c2f_ops.hierarchy import Hierarchy
from c2f_ops.training import Config, load_run, make_config, predict_logits, train
from c2f_ops.training.augment import centre_crop
from c2f_ops.training.evaluate import answers
from c2f_ops.training.run import load_split
from c2f_ops.training.sampler import stratified_split

from .records import conditions, read_lines

#: What differs from the preset of a data set. A seed of all settings of cub100 takes 18 minutes of a core.
DATA: dict[str, dict[str, Any]] = {
    "birds": {"image_size": 64, "load_size": 64, "padding": 4, "resolutions": (12, 24, 64), "held_out": 0.0},
    "cub100": {"image_size": 64, "load_size": 72, "resolutions": (16, 32, 64), "precision": "bf16"},
    "cifar100": {"train_images": 10_000, "precision": "bf16"},
}
LEVELS = {
    "birds": ("family", "genus", "species"),
    "cub100": ("family", "genus", "species"),
    "cifar100": ("coarse", "fine"),
}
LINEAR = "linear"
EPOCHS = {"birds": 16, "cub100": 8, "cifar100": 10}


def settings(data: str) -> Iterator[tuple[str, dict[str, Any], float]]:
    """Yield (name, changes of the config, factor on the epochs) of all settings of a data set."""
    levels, base = LEVELS[data], make_config(data, DATA[data])
    sides, side = base.resolutions, base.image_size
    fine, everything = levels[-1], [*zip(levels, sides, strict=True)][::-1]
    alone: dict[str, Any] = {"tasks": ((fine, side),)}
    yield LINEAR, {}, 1
    yield "A0", {**alone, "interactions": HBP}, 1
    yield "A1", alone, 1
    yield "A2", {}, 1
    yield "A3", {"mode": "joint"}, 1
    yield "A4", alone, len(levels)
    yield "A5", {"tasks": tuple((level, side) for level, _ in everything)}, 1
    yield "A6", {"tasks": tuple((fine, r) for _, r in everything)}, 1
    for level, r in everything[1:]:
        yield f"A7 {level}", {"tasks": ((level, r),)}, 1
    if data == "birds":
        for name, changes in DESIGN.items():
            yield f"A8 {name}", {**alone, **changes}, 1


#: A8, choices of the pooling, each against A1.
DESIGN: dict[str, dict[str, Any]] = {
    "d 128": {"dim": 128},
    "d 2048": {"dim": 2048},
    "sqrt caffe": {"sqrt_mode": "caffe"},
    "sqrt smooth": {"sqrt_mode": "smooth"},
    "sqrt none": {"sqrt_mode": "none"},
    "norm joint": {"norm_scope": "joint"},
    "norm none": {"norm_scope": "none"},
    "mean": {"pooling": "mean"},
}


def config_of(data: str, changes: Mapping[str, Any], factor: float, seed: int, root: str | None) -> Config:
    """The config of a cell; the seed is that of weights and shuffles, the data stay the same."""
    values = {"interactions": MLP, **DATA[data], **changes, "seed": seed, "root": root}
    if "tasks" in changes:
        values["resolutions"] = None
    return make_config(data, values, {"epochs": [EPOCHS[data] * factor]})


def result_of(config: Config, data: str) -> dict[str, Any]:
    """Train, and measure every level at every side of the data set."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        train(config, Path(folder) / "run")
        seconds = time.process_time() - begun
        model, config, hierarchy = load_run(Path(folder) / "run")
    test = load_split(config, "test")
    images, levels = test.stacked(config.load_size), hierarchy.levels
    heads = config.trained_levels(levels)
    own_sides = make_config(data, DATA[data]).resolutions
    accuracy: dict[str, Any] = {}
    mapped: dict[str, Any] = {}
    right: dict[str, str] = {}
    right_mapped: dict[str, str] = {}
    for side in reversed(own_sides):
        logits = predict_logits(model, images, config, side, precision=config.precision)
        own, upwards = (answers(logits, hierarchy, which) == test.labels for which in (heads, heads[-1:]))
        accuracy[str(side)] = _shares(own, hierarchy)
        mapped[str(side)] = _shares(upwards, hierarchy)
        for k, level in enumerate(levels):
            if own_sides[k] == side:
                right[level], right_mapped[level] = _packed(own[:, k]), _packed(upwards[:, k])
    return {
        **_described(config, data, hierarchy, images, test.labels),
        "heads": [levels[k] for k in heads],
        "accuracy": accuracy,  # {side: {level}}: its own head, else the ancestor of the next finer answer
        "mapped": mapped,  # of the finest head mapped upwards
        "right": right,  # {level: bits, hexadecimal} at its own side
        "right_mapped": right_mapped,
        "seconds": round(seconds, 1),
    }


def linear_result(config: Config, data: str) -> dict[str, Any]:
    """Ridge regression on at most 16 x 16 pixels of each level's side; its penalty is chosen on a fifth held out."""
    begun = time.process_time()
    train_set, test_set = (load_split(config, split) for split in ("train", "test"))
    kept, held = stratified_split(train_set.labels[:, -1], 0.2, 0)
    stacked = [part.stacked(config.load_size) for part in (train_set, test_set)]
    levels, accuracy, right = train_set.hierarchy.levels, {}, {}
    for k, side in enumerate(make_config(data, DATA[data]).resolutions):
        size = min(side, 16)
        x, x_test = (
            resize_uint8(centre_crop(images, config.image_size), (size, size)).flatten(1).numpy() / np.float32(255)
            for images in stacked
        )
        y = train_set.labels[:, k].numpy()
        shares = {p: RidgeClassifier(p).fit(x[kept], y[kept]).score(x[held], y[held]) for p in (1, 10, 100, 1e3, 1e4)}
        predicted = RidgeClassifier(max(shares, key=lambda p: shares[p])).fit(x, y).predict(x_test)
        correct = torch.from_numpy(predicted) == test_set.labels[:, k]
        accuracy[str(side)] = {levels[k]: float(correct.double().mean())}
        right[levels[k]] = _packed(correct)
    return {
        **_described(config, data, test_set.hierarchy, stacked[1], test_set.labels),
        "heads": levels,
        "accuracy": accuracy,
        "right": right,
        "seconds": round(time.process_time() - begun, 1),
    }


def _described(config: Config, data: str, hierarchy: Hierarchy, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """What was measured, when, where, and on what."""
    return {
        **conditions("cpu"),
        "levels": hierarchy.levels,
        "resolutions": make_config(data, DATA[data]).resolutions,
        "images": len(images),
        "hierarchy": hierarchy.sha256,
        "data_sha256": hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest(),
        "config": {**asdict(config), "root": None},  # where the images lay is no part of a result
    }


def unpacked(bits: str, count: int) -> Tensor:
    """Bool ``[count]`` of what `_packed` wrote."""
    number = int(bits, 16)
    return torch.tensor([bool(number >> i & 1) for i in range(count)])


def _packed(right: Tensor) -> str:
    return hex(sum(1 << i for i, value in enumerate(right.tolist()) if value))[2:]


def _shares(right: Tensor, hierarchy: Hierarchy) -> dict[str, float]:
    return dict(zip(hierarchy.levels, right.double().mean(0).tolist(), strict=True))


def run(arguments: argparse.Namespace) -> None:
    """Compute what is not in the file, appending each result as it comes."""
    torch.set_num_threads(1)
    done = {(r["data"], r["setting"], r["seed"]) for r in read_lines(arguments.out)}
    wanted = None if arguments.only is None else arguments.only.split(",")
    for seed in range(arguments.seeds):
        for setting, changes, factor in settings(arguments.data):
            if (arguments.data, setting, seed) in done or not (wanted is None or setting.split()[0] in wanted):
                continue
            if setting == LINEAR and seed:
                continue  # has no chance in it
            config = config_of(arguments.data, changes, factor, seed, arguments.root)
            result = (linear_result if setting == LINEAR else result_of)(config, arguments.data)
            with arguments.out.open("a") as file:
                file.write(json.dumps({"data": arguments.data, "setting": setting, "seed": seed, **result}) + "\n")
            print(setting, seed, result["accuracy"], f"{result['seconds']} s", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    go = commands.add_parser("run")
    go.add_argument("--data", choices=DATA, required=True)
    go.add_argument("--root", help="folder of the images")
    go.add_argument("--out", type=Path, required=True)
    go.add_argument("--seeds", type=int, default=5)
    go.add_argument("--only", help="settings, comma-separated: A0,A1")
    page = commands.add_parser("report")
    page.add_argument("results", type=Path, nargs="+", help="records of one data set")
    page.add_argument("--notes", type=Path, required=True, help="what stands around the tables")
    page.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "report":
        from .mlph_report import write_page

        write_page(read_lines(*arguments.results), arguments.out, arguments.notes.read_text())
    else:
        run(arguments)


if __name__ == "__main__":
    main()
