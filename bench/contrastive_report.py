"""The page of `contrastive_study`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from c2f_ops.training.contrastive.report import compare, difference, group, spread, table

from .contrastive_ablation import table as ablation
from .records import fill_marks

Record = Mapping[str, Any]

TITLES = {
    "raw": "Toy circles, raw features",
    "standardised": "Toy circles, standardised features",
    "planted": "Planted features",
    "digits": "Handwritten digits",
    "ablation": "Ablation: one change at a time on raw circles",
    "cifar20": "CIFAR-100 features, 20 fine classes of 4 coarse ones",
    "cifar100": "CIFAR-100 features, 100 fine classes",
    "cifar20-images": "CIFAR-100 images, 20 fine classes of 4 coarse ones",
    "cub100-images": "CUB images, 100 species",
}


def write_page(records: Sequence[Record], page: Path, notes: str) -> None:
    """Write the notes, then tables. In the notes ``<!-- raw -->`` and so on mark the places of the tables."""
    parts = {}
    for experiment, title in TITLES.items():
        rows = [r for r in records if r["experiment"] == experiment]
        drawn = {"planted": planted, "ablation": ablation}.get(experiment, compared)
        body = drawn(rows) if rows else "Not computed."
        beside = [r for r in records if r["experiment"] == "digits-rivals"]
        if experiment == "digits" and beside:
            body += "\n\n" + rivals(beside)
        parts[experiment] = f"## {title}\n\n{body}"
    page.write_text(fill_marks(notes, parts, "contrastive_report"), encoding="utf-8")


def compared(rows: Sequence[Record]) -> str:
    """Table of the methods, and paired differences from the proposed one."""
    by_method = group(rows)
    differences = compare(by_method, "attentive")
    parts = [table(by_method)]
    if differences:
        parts += ["Class-attentive SupCon against the others:", differences]
    return "\n\n".join(parts)


def rivals(rows: Sequence[Record]) -> str:
    """What classifiers of the raw features reach on the same folds."""
    accuracy = {
        m: [r["classifier"] for r in rows if r["method"] == m] for m in dict.fromkeys(r["method"] for r in rows)
    }
    return "On the same folds and raw features: " + ", ".join(f"{m} {spread(v, 1)}" for m, v in accuracy.items()) + "."


def planted(rows: Sequence[Record]) -> str:
    """A row for each setting: both accuracies, their difference, overlap of weights with the planted features."""
    lines = [
        "| setting | attentive | plain | overlap | bound: attentive, plain | difference, points | of each seed "
        "| 95 % interval | p |",
        "|---|---:|---:|---:|---|---:|---|---|---:|",
    ]
    for setting in dict.fromkeys(r["setting"] for r in rows):
        pair = [
            sorted((r for r in rows if r["setting"] == setting and r["method"] == m), key=lambda r: r["seed"])
            for m in ("attentive", "plain")
        ]
        seeds = {r["seed"] for r in pair[0]} & {r["seed"] for r in pair[1]}
        ours, theirs = ([r for r in part if r["seed"] in seeds] for part in pair)
        if not seeds:
            continue
        accuracies = [[r["label_free"] for r in part] for part in (ours, theirs)]
        bounds = ", ".join(f"{np.mean([r['bound'] for r in part]):.2f}" for part in (ours, theirs))
        cells = [setting, *(spread(values, 1) for values in accuracies)]
        cells += [spread([r["overlap"] for r in ours], 0), bounds]
        lines.append("| " + " | ".join([*cells, difference(*accuracies)]) + " |")
    return "\n".join(lines)
