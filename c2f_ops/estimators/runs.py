"""Folders of `c2f discover`: the fitted estimator, its classes and relations as tables, metrics and pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.embeddings import Embeddings, save_predictions
from ..metrics import evaluate_discovery
from ..models import FalconConfig
from .falcon import FalconClusterer
from .plots import plot_classes, plot_relations

MODEL, METRICS = "model.safetensors", "metrics.json"


@dataclasses.dataclass(frozen=True)
class DiscoverOptions:
    """Options of a run, as saved in ``options.json``; None leaves the estimator's default.

    Attributes:
        n_fine: K_F; None estimates it.
        preset: Preset of `FalconConfig`.
        switches: Changes to it.
        hidden: Sizes of hidden layers.
        epochs, batch_size, lr, drop_uncertain, metric: As for `FalconClusterer`.
        seed: Seed of everything random.
    """

    n_fine: int | None = None
    preset: str = "recommended"
    switches: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hidden: tuple[int, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    drop_uncertain: float | None = None
    metric: str | None = None
    seed: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> DiscoverOptions:
        """From plain data; unknown names are an error."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"discover: options must be among {', '.join(sorted(known))}, got {', '.join(unknown)}")
        hidden, switches = values.get("hidden", ()), values.get("switches", {})
        if not isinstance(hidden, list | tuple):
            raise ValueError(f"discover: hidden must be a list of sizes, got {hidden!r}")
        if not isinstance(switches, Mapping):
            raise ValueError(f"discover: switches must be given by name, got {switches!r}")
        return cls(**{**values, "hidden": tuple(hidden)})

    def estimator(self, **extra: Any) -> FalconClusterer:
        """The unfitted estimator."""
        optional = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr", "drop_uncertain", "metric")}
        given = {name: value for name, value in optional.items() if value is not None}
        config = FalconConfig.preset(self.preset, **self.switches)
        return FalconClusterer(
            self.n_fine, config=config, hidden=self.hidden, random_state=self.seed, **given, **extra
        )  # fmt: skip


def named(codes: np.ndarray, names: tuple[tuple[str, ...], ...]) -> np.ndarray:
    """Class ids ``[N]`` or ``[N, D]`` as names, None where unknown."""
    columns = codes[:, None] if codes.ndim == 1 else codes
    out = np.empty(columns.shape, dtype=object)
    for d, classes in enumerate(names):
        out[:, d] = np.array([*classes, None], dtype=object)[columns[:, d]]
    return out[:, 0] if codes.ndim == 1 else out


def fit_run(data: Embeddings, options: DiscoverOptions, out: Path, **extra: Any) -> FalconClusterer:
    """Fit, and write the folder ``out``: model, tables, log, pictures, and metrics where fine labels are there."""
    if data.coarse is None:
        raise ValueError(f"discover: {data.source} must have coarse labels, got none; name their column with --coarse")
    _check_writable(out)
    model = options.estimator(**extra).fit(data.X, named(data.coarse, data.coarse_names))
    out.mkdir(parents=True, exist_ok=True)
    (out / METRICS).unlink(missing_ok=True)  # of an earlier run, perhaps on data with fine labels
    _write_json(out / "options.json", dataclasses.asdict(options) | {"data": data.source})
    model.save(out / MODEL)
    (out / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in model.history_))
    write_predictions(model, data, out / f"predictions{_suffix(data)}", options)
    write_relations(model, model.labels_, out / "relations.csv")
    draw(model, data, out)
    if data.fine is not None:
        _write_json(out / METRICS, judge(model, data, "transductive"))
    return model


def _check_writable(out: Path) -> None:
    """Before the work, not after it: a folder that is there or can be made."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"discover: out must be a folder that can be written, got {out}")


def load_run(folder: Path) -> FalconClusterer:
    """The estimator of a run folder."""
    if not (folder / MODEL).is_file():
        raise FileNotFoundError(f"discover: run must be a folder with {MODEL}, got {folder}")
    return FalconClusterer.load(folder / MODEL)


def write_predictions(
    model: FalconClusterer, data: Embeddings, path: Path, options: DiscoverOptions | None = None
) -> None:
    """Fine class, its probability and coarse class of each sample."""
    probabilities = model.predict_proba(data.X)
    fine = probabilities.argmax(1)
    save_predictions(
        path, fine=fine, confidence=probabilities.max(1), ids=data.ids, coarse=model.relations_[0][fine],
        coarse_names=class_names(model), scores=None if path.suffix in (".csv", ".tsv") else model.transform(data.X),
        relations=model.relations_, params=None if options is None else _plain(dataclasses.asdict(options)),
        source=data.source if path.suffix == Path(data.source).suffix == ".h5ad" else None,
    )  # fmt: skip


def class_names(model: FalconClusterer) -> list[list[str]]:
    """Names of the coarse classes of each taxonomy, in the order of ``relations_``."""
    classes = model.classes_coarse_ if isinstance(model.classes_coarse_, list) else [model.classes_coarse_]
    return [[str(name) for name in names] for names in classes]


def relation_rows(model: FalconClusterer, fine: np.ndarray) -> list[tuple[str, str, int, int]]:
    """(taxonomy, coarse class, fine class, its samples among ``fine``), by coarse class and size."""
    counts = np.bincount(fine, minlength=model.n_fine_)
    rows = []
    for d, (names, parents) in enumerate(zip(class_names(model), model.relations_, strict=True)):
        order = sorted(range(model.n_fine_), key=lambda k: (parents[k], -counts[k], k))
        rows += [(str(d), names[parents[k]], k, int(counts[k])) for k in order]
    return rows


def write_relations(model: FalconClusterer, fine: np.ndarray, path: Path) -> None:
    """The hierarchy as a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["taxonomy", "coarse", "fine", "samples"])
        writer.writerows(relation_rows(model, fine))


def judge(model: FalconClusterer, data: Embeddings, protocol: Any) -> dict[str, Any]:
    """The metrics of the model on data with fine labels; the relations are judged where coarse labels are there too."""
    if data.fine is None:
        raise ValueError(f"discover: {data.source} must have fine labels, got none; name their column with --fine")
    known = data.fine >= 0
    truth = None
    coarse = None
    if data.coarse is not None:
        truth = true_relations(data, class_names(model))
        coarse = data.coarse[known] if data.coarse.ndim == 1 else None
    metrics = evaluate_discovery(
        data.fine[known], model.predict(data.X[known]), g_true=truth,
        g_pred=None if truth is None else model.relations_, y_coarse=coarse, protocol=protocol,
    )  # fmt: skip
    return _plain(metrics.to_dict())


def true_relations(data: Embeddings, names: list[list[str]]) -> np.ndarray:
    """int ``[D, K]``: most frequent coarse class of each fine class, index into ``names``; -1 where there is none."""
    assert data.coarse is not None and data.fine is not None
    columns = data.coarse[:, None] if data.coarse.ndim == 1 else data.coarse
    relations = []
    for d, own in enumerate(data.coarse_names):
        place = np.array([*(names[d].index(n) if n in names[d] else -1 for n in own), -1])[columns[:, d]]
        counts = np.zeros((len(data.fine_names), len(names[d])))
        both = (place >= 0) & (data.fine >= 0)
        np.add.at(counts, (data.fine[both], place[both]), 1)
        relations.append(np.where(counts.sum(1) > 0, counts.argmax(1), -1))
    return np.stack(relations)


def draw(model: FalconClusterer, data: Embeddings, out: Path) -> None:
    """Write ``classes.png`` and ``relations.png`` of the first taxonomy."""
    assert data.coarse is not None
    names = class_names(model)[0]
    codes = data.coarse if data.coarse.ndim == 1 else data.coarse[:, 0]
    place = np.array([*(names.index(n) if n in names else -1 for n in data.coarse_names[0]), -1])[codes]
    plot_classes(data.X, place, model.labels_, model.relations_[0], names, out / "classes.png")
    counts = np.zeros((model.n_fine_, len(names)))
    np.add.at(counts, (model.labels_[place >= 0], place[place >= 0]), 1)
    plot_relations(counts, model.relations_[0], names, out / "relations.png")


def _suffix(data: Embeddings) -> str:
    suffix = Path(data.source).suffix
    return ".csv" if suffix == ".npy" else suffix


def _plain(value: Any) -> Any:
    """NumPy values as plain data, NaN as None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and value != value else value


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(_plain(value), indent=1) + "\n")
