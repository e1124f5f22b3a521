"""The page of `mlph_study`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from c2f_ops.metrics import holm, mcnemar, paired_bootstrap
from c2f_ops.training.contrastive.report import spread

from .mlph_study import unpacked
from .records import fill_marks, said

Record = Mapping[str, Any]
Found = dict[str, dict[int, Record]]  # {setting: {seed: record}}

TITLES = {
    "linear": "ridge regression on pixels",
    "A0": "HBP, finest level",
    "A1": "MLP, finest level",
    "A2": "MLPH, alternating",
    "A3": "MLPH, joint",
    "A4": "A1, as many steps as A2",
    "A5": "all levels, full side",
    "A6": "finest level, all sides",
    "A7": "a network per level",
}
#: (ours, rival, question)
COMPARED = (
    ("A2", "linear", "a base line"),
    ("A1", "A0", "the trilinear term"),
    ("A2", "A1", "hierarchy and sides"),
    ("A2", "A3", "alternating or joint"),
    ("A2", "A4", "equal steps"),
    ("A2", "A5", "sides besides hierarchy"),
    ("A2", "A6", "hierarchy besides sides"),
    ("A2", "A7", "sharing"),
    ("A2", "A2 mapped", "own head or the finest one's, mapped up"),
)
SAME_AT_FINEST = ("A7", "A2 mapped")  # the first is A1 there, the second A2


def write_page(records: Sequence[Record], page: Path, notes: str) -> None:
    """Write the notes with the tables in the places that ``<!-- results -->`` and so on mark."""
    found: Found = {}
    for record in records:
        found.setdefault(record["setting"], {})[record["seed"]] = record
    found["A2 mapped"] = {seed: {**r, "right": r["right_mapped"]} for seed, r in found.get("A2", {}).items()}
    first = records[0]
    parts = {
        "results": results(found, first),
        "seeds": per_seed(found, first),
        "comparisons": comparisons(found, first),
        "sides": sides(found, first),
        "design": design(found, first),
        "conditions": conditions(records, first),
    }
    page.write_text(fill_marks(notes, parts, "mlph_report"), encoding="utf-8")


def of_level(found: Found, setting: str, level: str) -> dict[int, Record]:
    """Records by seed that answer for a level: A7 has a network for each, the finest one's is A1's."""
    if setting != "A7":
        return found.get(setting, {})
    return found.get(f"A7 {level}") or found.get("A1", {})


def results(found: Found, first: Record) -> str:
    """A row for each setting: every level at its own side, its own head or, in italics, the finest mapped upwards."""
    levels = list(zip(first["levels"], first["resolutions"], strict=True))[::-1]
    lines = [
        "| | " + " | ".join(f"{level}, {side} px" for level, side in levels) + " | seeds | CPU s |",
        "|---|" + "---:|" * (len(levels) + 2),
    ]
    for setting, title in TITLES.items():
        by_level = {level: of_level(found, setting, level) for level, _ in levels}
        if not by_level[levels[0][0]]:
            continue
        cells = []
        for level, side in levels:
            rows = [*by_level[level].values()]
            cell = spread([r["accuracy"][str(side)][level] for r in rows], 1)
            cells.append(cell if level in rows[0]["heads"] else f"*{cell}*")
            if setting in ("A2", "A3") and level != levels[0][0]:
                cells[-1] += f" ({spread([r['mapped'][str(side)][level] for r in rows], 1)})"
        seconds = sum(np.mean([r["seconds"] for r in rows.values()]) for rows in by_level.values() if rows)
        if setting != "A7":
            seconds = np.mean([r["seconds"] for r in by_level[levels[0][0]].values()])
        seeds = len(by_level[levels[0][0]])
        name = title if setting == "linear" else f"{setting}: {title}"
        lines.append("| " + " | ".join([name, *cells, str(seeds), f"{seconds:.0f}"]) + " |")
    return "\n".join(lines)


def per_seed(found: Found, first: Record) -> str:
    """Accuracy of every seed."""
    levels = list(zip(first["levels"], first["resolutions"], strict=True))[::-1]
    lines = [
        "| | " + " | ".join(f"{level}, {side} px" for level, side in levels) + " |",
        "|---|" + "---|" * len(levels),
    ]
    for setting in TITLES:
        cells = []
        for level, side in levels:
            rows = of_level(found, setting, level)
            cells.append(", ".join(f"{100 * rows[s]['accuracy'][str(side)][level]:.1f}" for s in sorted(rows)))
        if any(cells):
            lines.append("| " + " | ".join([setting, *cells]) + " |")
    return "\n".join(lines)


def pairs(found: Found, ours: str, rival: str, level: str) -> tuple[Tensor, Tensor] | None:
    """Whether each image is right, bool ``[S, N]`` of both, over the seeds that both have."""
    a, b = of_level(found, ours, level), of_level(found, rival, level)
    if b and rival == "linear":
        b = dict.fromkeys(a, b[0])  # it has no chance in it
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    first, second = (torch.stack([unpacked(r[s]["right"][level], r[s]["images"]) for s in seeds]) for r in (a, b))
    return first, second


def tested(compared: Sequence[tuple[Tensor, Tensor]]) -> list[list[str]]:
    """Cells of each pair: difference, interval, difference and McNemar's p of each seed, p after Holm's correction."""
    intervals = [paired_bootstrap(a, b, rounds=4000) for a, b in compared]
    lines = []
    for (a, b), interval, p in zip(compared, intervals, holm([i.p for i in intervals]), strict=True):
        mean = f"{100 * interval.difference:+.1f}"
        span = f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
        each = ", ".join(f"{100 * d:+.1f}" for d in (a.double() - b.double()).mean(1).tolist())
        tests = ", ".join(f"{mcnemar(x, y).p:.2g}" for x, y in zip(a, b, strict=True))
        lines.append([f"**{mean}**" if p < 0.05 else mean, span, each, tests, f"{p:.2g}"])
    return lines


def comparisons(found: Found, first: Record) -> str:
    """Paired differences at each level's own side; Holm's correction over the page's comparisons."""
    rows, compared = [], []
    for ours, rival, question in COMPARED:
        for level in reversed(first["levels"]):
            same = rival in SAME_AT_FINEST and level == first["levels"][-1]
            pair = None if same else pairs(found, ours, rival, level)
            if pair is not None:
                rows.append([f"{ours} - {rival}", question, level])
                compared.append(pair)
    lines = [
        "| | question | level | difference, points | 95 % interval | of each seed | McNemar's p of each | p, Holm |",
        "|---|---|---|---:|---|---|---|---:|",
    ]
    lines += ["| " + " | ".join([*row, *cells]) + " |" for row, cells in zip(rows, tested(compared), strict=True)]
    return "\n".join(lines)


def sides(found: Found, first: Record) -> str:
    """Every level at every side, means over the seeds."""
    levels, resolutions = first["levels"][::-1], first["resolutions"][::-1]
    lines = [
        "| | " + " | ".join(f"{level}: " + ", ".join(map(str, resolutions)) for level in levels) + " |",
        "|---|" + "---|" * len(levels),
    ]
    for setting in ("A1", "A2", "A3", "A5", "A6"):
        rows = [*found.get(setting, {}).values()]
        if not rows:
            continue
        cells = [
            ", ".join(f"{100 * np.mean([r['accuracy'][str(side)][level] for r in rows]):.1f}" for side in resolutions)
            for level in levels
        ]
        lines.append("| " + " | ".join([f"{setting}: {TITLES[setting]}", *cells]) + " |")
    return "\n".join(lines)


def design(found: Found, first: Record) -> str:
    """A8: each choice against A1, at the finest level; empty where it was not run."""
    level, side = first["levels"][-1], first["resolutions"][-1]
    compared = {name: pairs(found, name, "A1", level) for name in found if name.startswith("A8")}
    known = {name.removeprefix("A8 "): pair for name, pair in compared.items() if pair is not None}
    if not known:
        return ""
    lines = [
        f"| against A1 | {level}, {side} px | difference, points | 95 % interval | of each seed | McNemar's p of each "
        "| p, Holm |",
        "|---|---:|---:|---|---|---|---:|",
    ]
    for (name, (a, _)), cells in zip(known.items(), tested([*known.values()]), strict=True):
        lines.append("| " + " | ".join([name, spread(a.double().mean(1).tolist(), 1), *cells]) + " |")
    return "\n".join(lines)


def conditions(records: Sequence[Record], first: Record) -> str:
    """Hashes, network, steps, cost, and where and when, as far as the records say."""
    config = first["config"]
    hashes = sorted({(r["hierarchy"][:12], r["data_sha256"][:12]) for r in records})
    stage = config["stages"][0]
    options = json.dumps(config["backbone_options"])
    where = [said(r) for r in {str(r["machine"]): r for r in records if "machine" in r}.values()]
    if unsaid := sum("machine" not in r for r in records):
        where.append(f"{unsaid} of {len(records)} records name neither device, versions, commit nor date.")
    return (
        f"{config['backbone']} {options}, d {config['dim']}, {stage['epochs']:g} epochs of batches of "
        f"{stage['batch_size']} for each task, {config['precision']}, one thread; {first['images']:,} test images. "
        f"Hierarchy and test data (SHA-256): {'; '.join(f'{h}, {d}' for h, d in hashes)}. "
        f"{sum(r['seconds'] for r in records) / 3600:.1f} hours of a core. {' '.join(where)}"
    )
