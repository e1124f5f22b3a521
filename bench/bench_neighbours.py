"""Neighbours inside groups against scikit-learn's brute force over all samples, interleaved in one process.

    python -m c2f_ops.bench.bench_neighbours [--json FILE]

scikit-learn searches the nearest of all samples: what a user without groups pays. ``sklearn per group`` loops over
the groups, the same task as ours. Where scikit-learn gets only some of the queries its time is scaled to all of them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from c2f_ops.neighbours import group_knn

from .records import machine
from .timing import interleave, peak_extra_bytes, ratios


def measure(
    samples: int, width: int, groups: int, k: int, *, metric: str, seconds: float, queries: int, threads: int
) -> dict[str, object]:
    """Time the contenders, and compare what they find."""
    from sklearn.neighbors import NearestNeighbors

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, width, generator=generator)
    y = torch.randint(0, groups, (samples,), generator=generator)
    rows, labels = x.numpy(), y.numpy()
    asked = rows[:queries]

    def sklearn_all() -> object:
        search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute", metric=metric, n_jobs=threads)
        return search.fit(rows).kneighbors(asked)

    def sklearn_per_group() -> np.ndarray:
        found = np.empty((samples, k + 1), dtype=np.int64)
        for group in range(groups):
            members = np.flatnonzero(labels == group)
            search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute", metric=metric, n_jobs=threads)
            found[members] = members[search.fit(rows[members]).kneighbors(rows[members], return_distance=False)]
        return found

    ours = {"cosine": "cosine", "sqeuclidean": "l2"}[metric]
    runs = {
        "ours": lambda: group_knn(x, y, k, ours),
        "sklearn all": sklearn_all,
        "sklearn per group": sklearn_per_group,
    }
    timings = interleave(runs, seconds=seconds, least=3)
    theirs = sklearn_per_group()
    scale = samples / len(asked)
    found = ratios(timings, "ours")
    found["sklearn all"] *= scale
    return {
        "machine": machine("cpu"),
        "case": {"samples": samples, "width": width, "groups": groups, "k": k, "metric": metric},
        "timings": {name: asdict(timing) for name, timing in timings.items()},
        "sklearn_all_queries": len(asked),
        "sklearn_all_scale": scale,
        "ours_is_faster": found,
        "peak_extra_bytes": {name: peak_extra_bytes(run) for name, run in runs.items() if name != "sklearn all"},
        "equal_neighbours": float((np.sort(theirs[:, 1:]) == np.sort(group_knn(x, y, k, ours).indices.numpy())).mean()),
    }


def table(record: dict) -> str:
    """The record in words and a Markdown table."""
    case, scale = record["case"], record["sklearn_all_scale"]
    lines = [
        f"{case['samples']} x {case['width']}, {case['groups']} groups, k = {case['k']}, {case['metric']}; "
        f"{record['machine']['device']}, {record['machine']['threads']} threads, torch {record['machine']['torch']}. "
        f"Medians (20 % to 80 %); sklearn all: {record['sklearn_all_queries']} queries, time x {scale:g}. "
        f"Neighbours equal to scikit-learn's per group: {record['equal_neighbours']:.4%}.",
        "",
        "| what | seconds | ours is faster | peak extra memory |",
        "|---|---:|---:|---:|",
    ]
    for name, timing in record["timings"].items():
        factor = scale if name == "sklearn all" else 1.0
        median, low, high = (timing[key] * factor for key in ("median", "low", "high"))
        ratio, size = record["ours_is_faster"].get(name), record["peak_extra_bytes"].get(name)
        lines.append(
            f"| {name} | {median:.3g} ({low:.3g}-{high:.3g}) | {'-' if ratio is None else f'{ratio:.1f}x'} "
            f"| {'-' if size is None else f'{size / 2**20:.0f} MB'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse options, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--metric", choices=("cosine", "sqeuclidean"), default="cosine")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for the interleaved runs")
    parser.add_argument("--queries", type=int, default=2_000, help="queries given to scikit-learn over all samples")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the record here")
    options = vars(parser.parse_args())
    path = options.pop("json")
    record = measure(options.pop("samples"), options.pop("width"), options.pop("groups"), options.pop("k"), **options)
    print(table(record))
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
