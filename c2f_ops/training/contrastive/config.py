"""What a comparison of contrastive methods is made of, as plain data that is saved with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...data.circles import ANGLES
from ...metrics.probe import SOLVERS
from ...models.contrastive import PROTOTYPES
from ...nn.attention import BOUNDS
from .._typed import TypedConfig
from ..config import DEVICES

# Name: options of `ClassAttentiveClassifier`; None is a classifier trained by cross-entropy.
METHODS: dict[str, dict[str, Any] | None] = {
    "attentive": {},
    "plain": {"attention": "identity"},
    "cross-entropy": None,
    "paper": {"mode": "paper"},
    "paper-plain": {"mode": "paper", "attention": "identity"},
    "pairwise": {"mode": "pairwise"},
    "pairwise-plain": {"mode": "pairwise", "attention": "identity"},
    "attentive-embedding": {"attention": "embedding"},
    "attentive-fast": {"attention_lr": 0.01},
}
BACKBONES = ("mlp", "linear", "identity")
GENERATED = ("circles", "planted", "digits")


@dataclass(frozen=True)
class ContrastiveConfig(TypedConfig):
    """The proposed method and its baselines on one data set, over seeds.

    Attributes:
        data: "circles" or "planted" (generated, see `c2f_ops.data.circles`), "digits" (scikit-learn's, a fold of a
            five-fold split for each seed), or a file that `c2f_ops.data.embeddings.load_embeddings` reads.
        test: file with test samples; None with a file: a fifth of the samples, drawn by the seed.
        n_per_class: samples of each class in training and, drawn anew, in test; of generated data.
        angles, radius_step, sigma: of "circles": their law, how radii differ, noise of a coordinate.
        nuisance: of "planted".
        methods: names out of `METHODS`; the first is compared with each of the others.
        seeds: runs of each method, with seeds 0, 1, ...: of data, weights and batches.
        standardize: each feature to mean 0, variance 1; None: not for "circles", whose features are given raw in the
            paper, else so.
        backbone, hidden, dim, batch_norm, front_end, epochs, batch_size, lr, attention_lr, temperature, margin, bound,
            w_min, w_max, prototype: as for `c2f_ops.estimators.ClassAttentiveClassifier`; network and steps are the
            same for all methods.
        probe_solver, probe_epochs, probe_batch: of the linear probes, as for `c2f_ops.metrics.linear_probe`.
        neighbours: of k-NN, by cosine.
        device, threads: of the run.
    """

    OP: ClassVar[str] = "contrastive"
    KIND: ClassVar[str | None] = "contrastive"

    data: str = "circles"
    test: str | None = None
    n_per_class: int = 1000
    angles: str = "fixed"
    radius_step: float = 0.05
    sigma: float = 0.05
    nuisance: float = 1.0
    methods: tuple[str, ...] = ("attentive", "plain", "cross-entropy", "paper", "paper-plain")
    seeds: int = 5
    standardize: bool | None = None
    backbone: str = "mlp"
    hidden: int = 128
    dim: int = 64
    batch_norm: bool = False
    front_end: str | None = None
    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    attention_lr: float | None = None
    temperature: float = 0.1
    margin: float = 0.5
    bound: str = "auto"
    w_min: float = 0.05
    w_max: float = 2.0
    prototype: str = "mean"
    probe_solver: str = "adam"
    probe_epochs: int = 100
    probe_batch: int = 64
    neighbours: int = 5
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        self.check_words(
            backbone=BACKBONES,
            device=DEVICES,
            angles=ANGLES,
            probe_solver=SOLVERS,
            bound=("auto", *BOUNDS),
            prototype=PROTOTYPES,
        )
        self.check_positive(
            "n_per_class",
            "radius_step",
            "seeds",
            "hidden",
            "dim",
            "epochs",
            "lr",
            "temperature",
            "probe_epochs",
            "probe_batch",
            "neighbours",
        )
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(
                f"{self.OP}: methods must be different names out of {', '.join(METHODS)}, got {', '.join(self.methods)}"
            )
        if self.test is not None and self.data in GENERATED:
            raise ValueError(f"{self.OP}: test must be None with data {self.data!r}, got {self.test!r}")

    @property
    def scaled(self) -> bool:
        """Whether features are standardised."""
        return self.data != "circles" if self.standardize is None else self.standardize
