"""A run: every method with every seed, one line each in ``results.jsonl``, then the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...metrics import class_attentive_scores, collapse_report, error_bound, linear_probe
from ..folder import CONFIG, settled
from ..machine import cpu_threads, say
from .config import ContrastiveConfig
from .data import Problem, load_problem
from .methods import Outcome, fit_method
from .report import EMBEDDINGS, RESULTS, read_results, write_report


def train(config: ContrastiveConfig, run: Path, *, resume: bool = False, console: Any = None) -> Path:
    """Compute what the folder lacks and write ``report.md``.

    Args:
        config: What to compare.
        run: Folder.
        resume: Go on with a folder that has results; its config holds.
        console: A rich console; None says nothing.

    Returns:
        The page.
    """
    config = settled(config, run, resume=resume)
    done = {(record["method"], record["seed"]) for record in read_results(run)}
    with cpu_threads(config.threads):
        for seed in range(config.seeds):
            problem: Problem | None = None
            for method in config.methods:
                if (method, seed) in done:
                    continue
                problem = problem or load_problem(config, seed)
                (run / EMBEDDINGS).mkdir(parents=True, exist_ok=True)  # not before: data or settings may be wrong
                config.to_json(run / CONFIG)
                outcome = fit_method(method, problem, config, seed)
                record = {"method": method, "seed": seed, **judge(problem, outcome, config, seed)}
                if seed == 0:
                    _keep(run / EMBEDDINGS / f"{method}.npz", problem, outcome)
                with (run / RESULTS).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                say(console, f"{method}, seed {seed}: " + told(record))
        page = write_report(run, config)
    say(console, f"report: {page}")
    return page


def told(record: dict[str, Any]) -> str:
    """A record in one line."""
    return (
        f"label-free {100 * record['label_free']:.2f} %, probe {100 * record['probe']:.2f} %, "
        f"bound {record['bound']:.3f}, {record['status']}, {record['seconds']:.1f} s"
    )


def judge(problem: Problem, outcome: Outcome, config: ContrastiveConfig, seed: int) -> dict[str, Any]:
    """Every readout of one trained method; accuracies on the test samples."""
    z, y, z_test, y_test = outcome.z, problem.y, outcome.z_test, problem.y_test
    predicted = np.asarray(class_attentive_scores(z_test, outcome.w, outcome.prototypes)).argmax(1)
    bound = error_bound(z, y, outcome.w)
    fresh = error_bound(z_test, y_test, outcome.w, prototypes=outcome.prototypes, gamma=bound.gamma)
    state = collapse_report(z, y, outcome.w)
    probes = {
        name: linear_probe(
            z, y, z_test, y_test, solver=config.probe, epochs=config.probe_epochs,  # type: ignore[arg-type]
            batch_size=config.probe_batch, seed=seed, **options,
        ).accuracy
        for name, options in (
            ("probe", {}), ("probe_standardized", {"standardize": True}), ("probe_normalized", {"normalize": True})
        )
    }  # fmt: skip
    return {
        "label_free": float(np.mean(predicted == y_test)), "classifier": outcome.classifier, **probes,
        "knn": _knn(z, y, z_test, y_test, config.neighbours), "bound": bound.bound, "gamma": bound.gamma,
        "delta": bound.delta, "ell": bound.ell, "direct": bound.direct, "true_error": bound.true_error,
        "holdout": fresh.holdout, "status": state.status, "trace": state.trace,
        "effective_rank": state.effective_rank, "alignment": state.alignment, "uniformity": state.uniformity,
        "overlap": _overlap(problem, outcome), "seconds": outcome.seconds, "history": outcome.history,
    }  # fmt: skip


def _knn(z: np.ndarray, y: np.ndarray, z_test: np.ndarray, y_test: np.ndarray, k: int) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    return float(KNeighborsClassifier(k, metric="cosine").fit(z, y).score(z_test, y_test))


def _overlap(problem: Problem, outcome: Outcome) -> float | None:
    """Share of the planted features among the largest weights of each class; None where features are not inputs."""
    planted, w = problem.planted, outcome.w
    if planted is None or w is None or w.shape[1] != problem.x.shape[1]:
        return None
    top = np.argsort(-w, 1, kind="stable")[:, : planted.shape[1]]
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(top.tolist(), planted.tolist(), strict=True)]))


def _keep(path: Path, problem: Problem, outcome: Outcome) -> None:
    """What the figures show, of the first seed."""
    w = np.ones((0, 0)) if outcome.w is None else outcome.w
    np.savez(
        path, z=outcome.z, y=problem.y, z_test=outcome.z_test, y_test=problem.y_test, w=w,
        prototypes=outcome.prototypes, names=np.array(problem.names),
    )  # fmt: skip
