"""The page of a run: accuracies over seeds, what differs between methods, figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .config import METHODS, ContrastiveConfig
from .figures import draw_figures

RESULTS, EMBEDDINGS, PAGE = "results.jsonl", "embeddings", "report.md"
Record = Mapping[str, Any]

LABELS = {
    "attentive": "class-attentive SupCon",
    "plain": "plain SupCon",
    "cross-entropy": "cross-entropy",
    "paper": "as printed",
    "paper-plain": "as printed, without weights",
    "pairwise": "class-attentive pairwise",
    "pairwise-plain": "plain pairwise",
    "attentive-embedding": "class-attentive SupCon, weights from class embeddings",
    "attentive-fast": "class-attentive SupCon, weights at learning rate 0.01",
    "attentive-hard": "class-attentive SupCon, negatives of the same coarse class twice",
}
# Column: key of the record, in per cent, digits.
COLUMNS = {
    "label-free": ("label_free", 1),
    "probe, raw z": ("probe", 1),
    "probe, z/\\|z\\|": ("probe_normalized", 1),
    "probe, standardised z": ("probe_standardized", 1),
    "k-NN": ("knn", 1),
    "own classifier": ("classifier", 1),
}
READOUTS = (
    "Accuracies on test samples in %, mean ± standard deviation over seeds. Label-free: the nearest class prototype, "
    "each class with its own weights. Probes: a linear classifier on frozen z. Compare within a column only: a "
    "standardised probe magnifies whatever variance a collapsed embedding has left, and a raw one may read the length "
    "of z. Bound: on training samples, mean and largest over seeds, vacuous from 1; held out: on test samples with "
    "gamma and prototypes from training, plus Hoeffding's term, with probability 95 %. s: processor time of training."
)
_COMPARED = {
    "label_free": "label-free", "knn": "k-NN", "probe_standardized": "probe, standardised z",
    "bound": "bound (less is better)", "holdout": "bound, held out (less is better)",
}  # fmt: skip


def read_results(run: Path) -> list[dict[str, Any]]:
    """What a run has so far."""
    path = run / RESULTS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def write_report(run: Path, config: ContrastiveConfig) -> Path:
    """Write ``report.md`` and its figures from what the folder holds."""
    records = [r for r in read_results(run) if r["method"] in config.methods and r["seed"] < config.seeds]
    if not records:
        raise FileNotFoundError(f"contrastive: run must hold {RESULTS} with results, got {run}")
    by_method = group(records)
    inputs = "standardised features" if config.scaled else "raw features"
    what = f", {config.n_per_class} per class" if config.data in ("circles", "planted") else ""
    network = f"{config.network} ({config.hidden} hidden)" if config.network == "mlp" else config.network
    if config.images:
        inputs = f"images of {config.side} pixels"
        what = f", {config.coarse_classes} coarse classes" if config.coarse_classes else ""
        network += f", trained on mirrored crops of {config.min_area:.0%} of an image or more, and a linear layer"
    parts = [
        f"# Contrastive methods on {Path(config.data).name}{what}, {inputs}",
        f"{network} to {config.dim} dimensions, {config.epochs} epochs, batches of {config.batch_size}, Adam at "
        f"{config.lr:g}, temperature {config.temperature:g}; {config.seeds} seeds. {READOUTS}",
        table(by_method),
    ]
    first = config.methods[0]
    compared = compare(by_method, first)
    if compared:
        parts += [f"## {LABELS[first]} against the others", compared]
    for file, caption in draw_figures(run, by_method, config):
        parts += [f"![{caption}]({file})", caption]
    page = run / PAGE
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def group(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each method in the order of `METHODS`, by seed."""
    found = {m: sorted((r for r in records if r["method"] == m), key=lambda r: r["seed"]) for m in METHODS}
    return {m: rows for m, rows in found.items() if rows}


def table(by_method: Mapping[str, Sequence[Record]]) -> str:
    """A row for each method."""
    shown = {
        head: (key, digits) for head, (key, digits) in COLUMNS.items()
        if any(r.get(key) is not None for rows in by_method.values() for r in rows)
    }  # fmt: skip
    overlap = any(r.get("overlap") is not None for rows in by_method.values() for r in rows)
    heads = ["method", "seeds", *shown, "bound (largest)", "held out", "state", *(["overlap"] if overlap else []), "s"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for method, rows in by_method.items():
        states = sorted({r["status"] for r in rows})
        counts = ", ".join(s if len(states) == 1 else f"{s} {sum(r['status'] == s for r in rows)}" for s in states)
        cells = [LABELS[method], str(len(rows))]
        cells += [spread([r.get(key) for r in rows], digits) for key, digits in shown.values()]
        cells += [f"{np.mean([r['bound'] for r in rows]):.3f} ({max(r['bound'] for r in rows):.3f})"]
        cells += [f"{np.mean([r['holdout'] for r in rows]):.3f}", counts]
        cells += [spread([r["overlap"] for r in rows], 1)] if overlap else []
        lines.append("| " + " | ".join([*cells, f"{np.mean([r['seconds'] for r in rows]):.1f}"]) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean ± standard deviation of shares, in per cent."""
    known = 100 * np.array([v for v in values if v is not None], float)
    if not len(known):
        return "-"
    return f"{known.mean():.{digits}f}" + (f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else "")


def compare(by_method: Mapping[str, Sequence[Record]], first: str) -> str:
    """Paired differences, ``first`` minus each other method, over the seeds that both have."""
    lines = []
    for other in by_method:
        both = {r["seed"] for r in by_method.get(first, ())} & {r["seed"] for r in by_method[other]}
        if other == first or len(both) < 2:
            continue
        for key, what in _COMPARED.items():
            pairs = [[r[key] for r in by_method[m] if r["seed"] in both] for m in (first, other)]
            lines.append(f"| {LABELS[other]} | {what} | {difference(*pairs)} |")
    if not lines:
        return ""
    head = "| against | readout | difference, points | of each seed | 95 % interval | p |\n|---|---|---:|---|---|---:|"
    return "\n".join([head, *lines, "", "Paired over seeds; interval and p of the paired t-test."])


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Cells: mean difference, those of each seed, interval, p."""
    from scipy.stats import t as student

    d = 100 * (np.array(ours) - np.array(theirs))
    each, error = ", ".join(f"{x:+.2f}" for x in d), d.std(ddof=min(1, len(d) - 1)) / math.sqrt(len(d))
    if error == 0:
        return f"{d.mean():+.2f} | {each} | - | -"
    reach, p = student.ppf(0.975, len(d) - 1) * error, 2 * student.sf(abs(d.mean() / error), len(d) - 1)
    return f"{d.mean():+.2f} | {each} | {d.mean() - reach:+.2f} to {d.mean() + reach:+.2f} | {p:.2g}"
