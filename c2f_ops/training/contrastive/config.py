"""What a comparison of contrastive methods is made of, as plain data that is saved with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...data import DATASETS
from ...data.circles import ANGLES
from ...metrics.probe import SOLVERS
from ...models.contrastive import PROTOTYPES
from ...models.resnet_cifar import CIFAR_RESNETS
from ...nn.attention import BOUNDS
from .._typed import TypedConfig
from ..config import DEVICES

# Name: options of `c2f_ops.losses.ClassAttentiveLoss`, and attention_lr; None is a classifier trained by cross-entropy.
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
    "attentive-hard": {"hard_coarse_weight": 2.0},
}
BACKBONES = ("mlp", "linear", "identity")
GENERATED = ("circles", "planted", "digits")
_OF_IMAGES = ("root", "image_size", "coarse_classes", "train_images", "test_images")


@dataclass(frozen=True)
class ContrastiveConfig(TypedConfig):
    """The proposed method and its baselines on one data set, over seeds.

    Attributes:
        data: "circles" or "planted" (generated, see `c2f_ops.data.circles`), "digits" (scikit-learn's, a fold of a
            five-fold split for each seed), a file that `c2f_ops.data.embeddings.load_embeddings` reads, or the name of
            a set of images out of `c2f_ops.data.DATASETS`, whose last level are the classes.
        test: file with test samples; None with a file: a fifth of the samples, drawn by the seed, as with images in a
            "folder" or "csv" without a split "test".
        root, train_images, test_images: of images, as for `c2f_ops.data.load_dataset`, with n of either split; the
            seed of a run draws them.
        image_size: side of the images; None: 32 for CIFAR, else 64.
        coarse_classes: keep the classes of the first so many classes of the level above; None: all.
        min_area: of images: least share of an image in the crops that are trained on, half of them mirrored.
        n_per_class: samples of each class in training and, drawn anew, in test; of generated data.
        angles, radius_step, sigma: of "circles": their law, how radii differ, noise of a coordinate.
        nuisance: of "planted".
        methods: names out of `METHODS`; the first is compared with each of the others.
        seeds: runs of each method, with seeds 0, 1, ...: of data, weights and batches.
        standardize: each feature to mean 0, variance 1; None: not for "circles", whose features are given raw in the
            paper, else so. Images have the colours that the backbone expects.
        backbone: of features "mlp", "linear" or "identity"; of images as for `c2f_ops.models.make_backbone`, followed
            by a linear layer to ``dim``. None: "mlp", "cifar_resnet_small".
        hidden, dim, batch_norm, front_end, epochs, batch_size, lr, attention_lr, temperature, margin, bound,
            w_min, w_max, prototype: as for `c2f_ops.estimators.ClassAttentiveClassifier`; network and steps are the
            same for all methods. hidden, batch_norm and front_end are of features.
        precision: of a backbone for images: "fp32", "bf16" (autocast), or "auto": bf16 on a GPU that has it.
        probe_solver, probe_epochs, probe_batch: of the linear probes, as for `c2f_ops.metrics.linear_probe`; None:
            "adam", as in the paper, but "ridge" for images, which takes no epochs over what may be many samples.
        neighbours: of k-NN, by cosine.
        device, threads: of the run.
    """

    OP: ClassVar[str] = "contrastive"
    KIND: ClassVar[str | None] = "contrastive"

    data: str = "circles"
    test: str | None = None
    root: str | None = None
    image_size: int | None = None
    coarse_classes: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    min_area: float = 0.4
    n_per_class: int = 1000
    angles: str = "fixed"
    radius_step: float = 0.05
    sigma: float = 0.05
    nuisance: float = 1.0
    methods: tuple[str, ...] = ("attentive", "plain", "cross-entropy", "paper", "paper-plain")
    seeds: int = 5
    standardize: bool | None = None
    backbone: str | None = None
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
    precision: str = "auto"
    probe_solver: str | None = None
    probe_epochs: int = 100
    probe_batch: int = 64
    neighbours: int = 5
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        self.check_words(
            device=DEVICES,
            angles=ANGLES,
            precision=("auto", "fp32", "bf16"),
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
        self.check_shares("(0, 1]", "min_area")
        if self.batch_size < 2:
            raise ValueError(f"{self.OP}: batch_size must be at least 2, for positives, got {self.batch_size}")
        if self.attention_lr is not None:
            self.check_positive("attention_lr")
        if self.probe_solver is not None:
            self.check_words(probe_solver=SOLVERS)
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(
                f"{self.OP}: methods must be different names out of {', '.join(METHODS)}, got {', '.join(self.methods)}"
            )
        if self.test is not None and (self.images or self.data in GENERATED):
            raise ValueError(f"{self.OP}: test must be None with data {self.data!r}, got {self.test!r}")
        self._check_images() if self.images else self._check_features()

    def _check_images(self) -> None:
        given = [name for name in _OF_IMAGES[1:] if getattr(self, name) is not None]
        self.check_positive(*given)
        for name, none in (("standardize", None), ("front_end", None), ("batch_norm", False)):
            if getattr(self, name) is not none:
                raise ValueError(
                    f"{self.OP}: {name} must be {none} with images, which are for a backbone, got {getattr(self, name)}"
                )
        if self.network not in CIFAR_RESNETS and not self.network.startswith(("torchvision/", "timm/")):
            known = ", ".join([*CIFAR_RESNETS, "torchvision/<model>", "timm/<model>"])
            raise ValueError(f"{self.OP}: backbone must be one of {known} with images, got {self.network!r}")

    def _check_features(self) -> None:
        if self.network not in BACKBONES:
            raise ValueError(
                f"{self.OP}: backbone must be one of {', '.join(BACKBONES)} with features, got {self.network!r}"
            )
        for name in _OF_IMAGES:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{self.OP}: {name} must be None unless data names a set of images, got {getattr(self, name)!r} "
                    f"with data {self.data!r}"
                )
        if self.precision == "bf16":
            raise ValueError(f"{self.OP}: precision must be auto or fp32 with features, got bf16")

    @property
    def images(self) -> bool:
        """Whether the samples are images."""
        return self.data in DATASETS

    @property
    def side(self) -> int:
        """Side of the images."""
        return self.image_size or (32 if "cifar" in self.data else 64)

    @property
    def network(self) -> str:
        """The backbone's name."""
        return self.backbone or ("cifar_resnet_small" if self.images else "mlp")

    @property
    def probe(self) -> str:
        """The probes' solver."""
        return self.probe_solver or ("ridge" if self.images else "adam")

    @property
    def scaled(self) -> bool:
        """Whether features are standardised."""
        return self.data != "circles" if self.standardize is None else self.standardize
