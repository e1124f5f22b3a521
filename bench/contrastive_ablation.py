"""What each choice of class-attentive contrastive learning is worth: one change at a time from the default.

Raw circles, 250 per class, where differences show; read and run by `contrastive_study`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2f_ops.estimators._contrastive_loop import Loop, Plan, embed
from c2f_ops.estimators._inputs import Rows, Scaling
from c2f_ops.metrics import class_attentive_prototypes
from c2f_ops.models.contrastive import perceptron
from c2f_ops.nn import ClassAttention
from c2f_ops.training.contrastive import ContrastiveConfig, Outcome, Problem
from c2f_ops.training.contrastive.report import difference, spread

Record = Mapping[str, Any]

BASE = ContrastiveConfig(data="circles", n_per_class=250, probe_solver="ridge")
OWN_WEIGHTS = "own-weights"
_BOTH = ("attentive", "plain")
# Setting: changes of the config, and the methods that it says something about.
SETTINGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "default": ({}, (*_BOTH, OWN_WEIGHTS, "attentive-embedding", "pairwise", "pairwise-plain")),
    **{f"attention_lr {x:g}": ({"attention_lr": x}, ("attentive", OWN_WEIGHTS)) for x in (0.01, 0.1)},
    "bound softmax": ({"bound": "softmax"}, ("attentive",)),
    "bound softplus": ({"bound": "softplus"}, ("attentive",)),
    "no bound": ({"bound": "none"}, ("attentive",)),
    "prototype unit": ({"prototype": "unit"}, _BOTH),
    "standardised features": ({"standardize": True}, _BOTH),
    "batch normalisation": ({"batch_norm": True}, _BOTH),
    **{f"w_min {x:g}": ({"w_min": x}, ("attentive",)) for x in (0.01, 0.2, 0.5)},
    **{f"temperature {x:g}": ({"temperature": x}, _BOTH) for x in (0.05, 0.2, 0.5)},
    **{f"margin {x:g}": ({"margin": x}, ("pairwise", "pairwise-plain")) for x in (0.0, 0.25, 0.75)},
    **{f"batch {x}": ({"batch_size": x}, _BOTH) for x in (32, 256, 1000)},
    **{f"noise {x:g}": ({"sigma": x}, _BOTH) for x in (0.02, 0.1, 0.2)},
    **{f"radius step {x:g}": ({"radius_step": x}, _BOTH) for x in (0.01, 0.02)},
    **{f"{x} per class": ({"n_per_class": x}, _BOTH) for x in (50, 100, 500, 1000)},
}


def settings() -> Iterator[tuple[str, str, ContrastiveConfig]]:
    """Setting, method and config of everything to compute, of one seed."""
    for setting, (changes, methods) in SETTINGS.items():
        for method in methods:
            yield setting, method, replace(BASE, **changes)


class OwnWeightsLoss(nn.Module):
    """SupCon of ``z_i o w_{y_i}`` and ``z_j o w_{y_j}``: each side under its own weights, through which labels leak."""

    def __init__(self, num_classes: int, dim: int, temperature: float) -> None:
        super().__init__()
        self.attention, self.temperature = ClassAttention(num_classes, dim), temperature

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of embeddings ``[B, d]`` with classes ``[B]``."""
        u = F.normalize(z * self.attention()[y], dim=1)
        itself = torch.eye(len(y), dtype=torch.bool)
        s = (u @ u.T / self.temperature).masked_fill(itself, -torch.inf)
        same = (y[:, None] == y) & ~itself
        return (s.logsumexp(1) - s.masked_fill(~same, 0).sum(1) / same.sum(1)).mean()


def fit_own_weights(problem: Problem, config: ContrastiveConfig, seed: int) -> Outcome:
    """Train with `OwnWeightsLoss`, else as the others."""
    width, classes = problem.x.shape[1], len(problem.names)
    torch.manual_seed(seed)
    network = perceptron(width, [config.hidden], config.dim)
    criterion = OwnWeightsLoss(classes, config.dim, config.temperature)
    scaling = Scaling(np.zeros(width, np.float32), np.ones(width, np.float32))
    rows, rows_test = (Rows(x, scaling, torch.device("cpu")) for x in (problem.x, problem.x_test))
    plan = Plan(config.epochs, config.batch_size, config.lr, config.attention_lr or config.lr, seed)
    loop = Loop(network, criterion, plan, rows.device)
    start = time.process_time()
    history = list(loop.epochs(rows, problem.y))
    seconds = time.process_time() - start
    z, w = embed(network, rows).numpy(), criterion.attention.weights().detach().numpy()
    prototypes = np.asarray(class_attentive_prototypes(z, problem.y, w, num_classes=classes))
    return Outcome(z, embed(network, rows_test).numpy(), w, prototypes, history, None, seconds)


def table(rows: Sequence[Record]) -> str:
    """A row for each setting and method; where plain was trained too, the difference from it."""
    lines = [
        "| setting | method | label-free | k-NN | probe, z/\\|z\\| | bound | collapsed | against plain, points "
        "| of each seed | 95 % interval | p |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|---|---:|",
    ]
    for setting, (_, methods) in SETTINGS.items():
        for method in methods:
            found = _of(rows, setting, method)
            if not found:
                continue
            rival = {"attentive": "plain", "pairwise": "pairwise-plain"}.get(method)
            plain = _of(rows, setting, rival) if rival else []
            pairs = [[r["label_free"] for r in part] for part in (found, plain)]
            against = difference(*pairs) if plain and len(plain) == len(found) > 1 else "- | - | - | -"
            collapsed = sum(r["status"] == "collapsed" for r in found)
            cells = [setting, method, *(spread([r[k] for r in found], 1) for k in ("label_free", "knn"))]
            cells += [spread([r["probe_normalized"] for r in found], 1)]
            cells += [f"{np.mean([r['bound'] for r in found]):.2f}", f"{collapsed} of {len(found)}", against]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Paired over seeds; interval and p of the paired t-test."])


def _of(rows: Sequence[Record], setting: str, method: str) -> list[Record]:
    return sorted((r for r in rows if (r["setting"], r["method"]) == (setting, method)), key=lambda r: r["seed"])
