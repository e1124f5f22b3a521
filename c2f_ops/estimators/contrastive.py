"""Class-attentive contrastive learning as a scikit-learn classifier."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import nn

from ..metrics import (
    BoundReport,
    CollapseReport,
    class_attentive_prototypes,
    class_attentive_scores,
    collapse_report,
    error_bound,
)
from ..models.contrastive import PROTOTYPES, PolarRadii, perceptron
from ..nn.attention import BOUNDS, KINDS
from ._contrastive_loop import Loop, Plan, embed, fit_temperature, make_criterion, weights_of
from ._inputs import Rows, check_range, find_device, fit_scaling, to_array

_WHO = "ClassAttentiveClassifier"
_MODES = ("supcon", "pairwise", "paper")


class ClassAttentiveClassifier(ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator):
    """Classify by the nearest class prototype, each class looking with feature weights of its own.

    A network z = f(x) and a weight vector w_c for each class are trained by `c2f_ops.class_attentive_loss`. With
    ``u_c(x) = z o w_c / |z o w_c|``, class c has the score ``-|u_c(x) - mu_c|^2``, mu_c the mean of u_c over its
    training samples; the highest wins. Labels are needed in `fit` alone.

    Args:
        mode: "supcon", "pairwise", or "paper", the loss as printed, which collapses.
        attention: "table", "embedding", or "identity": all weights 1, the plain contrastive baseline.
        bound: How weights are kept within ``[w_min, w_max]``, see `c2f_ops.nn.ClassAttention`. "auto": "sigmoid", but
            "none" with mode="paper".
        w_min, w_max: Smallest and largest weight.
        temperature: Of "supcon".
        margin, negative_weight: Of "pairwise".
        backbone: "mlp", "linear", "identity" (z is X, and nothing but the weights is learned), or a function
            (features, dim) to a module ``[B, features] -> [B, dim]``.
        hidden: Width of the hidden layer of "mlp", or the widths of several.
        dim: Width of z, which for "identity" is that of X.
        batch_norm: Batch normalisation in "mlp".
        front_end: None, or "polar": features are interleaved coordinates of points, and their radii are used.
        standardize: Each feature to mean 0 and variance 1. False: features as they are.
        prototype: "mean", or "unit": the mean at length 1.
        epochs: Passes over the data.
        batch_size: Samples of a step; classes in it have equal numbers of them.
        lr: Learning rate of Adam.
        attention_lr: Learning rate of the class weights; None: ``lr``.
        validation_fraction: Share of the samples that are not trained on, from which the temperature of
            `predict_proba` is found.
        device: "auto" or a torch device.
        random_state: None, an integer or a `numpy.random.RandomState`.
        verbose: 1 prints a line for each epoch.

    Attributes:
        classes_: ``[C]``, sorted.
        prototypes_: float64 ``[C, d]``.
        class_weights_: float32 ``[C, d]``.
        temperature_: What scores are divided by in `predict_proba`.
        bound_: `BoundReport` of the samples given to `fit`; None for a single class.
        collapse_report_: `CollapseReport` of them; None for a single sample.
        history_: One dict for each epoch: the loss, ``log_candidates`` (the loss of a constant embedding), the collapse
            monitor, the error bound and the true error of up to 2048 training samples.
        n_features_in_, feature_names_in_: As in scikit-learn.

    Source: Fine-Grained Classification via Class-Attentive Contrastive Representation Learning; what differs is in
    docs/models/contrastive.md.

    Example:
        >>> from c2f_ops.estimators import ClassAttentiveClassifier
        >>> model = ClassAttentiveClassifier(random_state=0).fit(X, y)  # doctest: +SKIP
        >>> model.predict(X_new), model.bound_.bound, model.collapse_report_.status  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        mode: str = "supcon",
        attention: str = "table",
        bound: str = "auto",
        w_min: float = 0.05,
        w_max: float = 2.0,
        temperature: float = 0.1,
        margin: float = 0.5,
        negative_weight: float = 1.0,
        backbone: str | Callable[[int, int], nn.Module] = "mlp",
        hidden: int | Sequence[int] = 128,
        dim: int = 64,
        batch_norm: bool = False,
        front_end: str | None = None,
        standardize: bool = True,
        prototype: Literal["mean", "unit"] = "mean",
        epochs: int = 20,
        batch_size: int = 64,
        lr: float = 1e-3,
        attention_lr: float | None = None,
        validation_fraction: float = 0.1,
        device: Any = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.mode = mode
        self.attention = attention
        self.bound = bound
        self.w_min = w_min
        self.w_max = w_max
        self.temperature = temperature
        self.margin = margin
        self.negative_weight = negative_weight
        self.backbone = backbone
        self.hidden = hidden
        self.dim = dim
        self.batch_norm = batch_norm
        self.front_end = front_end
        self.standardize = standardize
        self.prototype = prototype
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.attention_lr = attention_lr
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ---- training ----------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any) -> ClassAttentiveClassifier:
        """Train on features ``[N, d]`` and classes ``[N]``; any type of label, each value is a class.

        Returns:
            Itself.
        """
        self._check_parameters()
        X, y = validate_data(self, to_array(X), to_array(y), accept_sparse="csr", dtype="numeric")
        check_range(_WHO, X)
        check_classification_targets(y)
        self.classes_, codes = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        codes = codes.astype(np.int64)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._device = find_device(_WHO, self.device)
        X = self._front(X)
        self._scaling = fit_scaling(X, True)
        if not self.standardize:
            self._scaling = type(self._scaling)(np.zeros_like(self._scaling.mean), np.ones_like(self._scaling.scale))
        self._build(seed)
        held = _held_out(codes, self.validation_fraction, seed)
        self._train(Rows(X[~held], self._scaling, self._device), codes[~held], seed)

        z = embed(self._network, Rows(X, self._scaling, self._device)).numpy()
        self._note_weights()
        # The samples that judge have had no part in the prototypes that they judge.
        trained, judged = (~held, held) if held.any() else (slice(None), slice(None))
        scores = self._scored(z[judged], self._means(z[trained], codes[trained]))
        self.temperature_ = fit_temperature(scores, codes[judged]) if len(self.classes_) > 1 else 1.0
        self.prototypes_ = self._means(z, codes)
        self.bound_: BoundReport | None = None
        self.collapse_report_: CollapseReport | None = None
        if len(self.classes_) > 1:
            self.bound_ = error_bound(z, codes, self._weights, kind=self.prototype)
        if len(z) > 1:
            self.collapse_report_ = collapse_report(z, codes, self._weights)
            if self.collapse_report_.status != "ok":
                warnings.warn(
                    f"{_WHO}: the embeddings: {self.collapse_report_.status}: {self.collapse_report_.reason}",
                    stacklevel=2,
                )
        return self

    def _train(self, rows: Rows, codes: np.ndarray, seed: int) -> None:
        attention_lr = self.lr if self.attention_lr is None else self.attention_lr
        plan = Plan(self.epochs, self.batch_size, self.lr, attention_lr, seed)
        self.history_: list[dict[str, Any]] = []
        warned = False
        for record in Loop(self._network, self._criterion, plan, self._device).epochs(rows, codes):
            self.history_.append(record)
            if record.get("stuck") and not warned:
                warned = True
                warnings.warn(
                    f"{_WHO}: the loss of epoch {record['epoch']}, {record['loss']:.3f}, is that of a constant "
                    f"embedding, log(candidates) = {record['log_candidates']:.3f}: use a lower lr, batch_norm=True or "
                    "standardize=True, or more epochs",
                    stacklevel=3,
                )
            if self.verbose:
                shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
                print(", ".join(shown), flush=True)

    def _build(self, seed: int) -> None:
        """Network and loss, whose weights depend on the seed alone."""
        count, width = len(self.classes_), len(self._scaling.mean)
        dim = width if self.backbone == "identity" else self.dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if callable(self.backbone):
                self._network = self.backbone(width, dim)
            elif self.backbone == "identity":
                self._network = nn.Identity()
            else:
                hidden = self._sizes() if self.backbone == "mlp" else []
                self._network = perceptron(width, hidden, dim, batch_norm=self.batch_norm)
            self._criterion = make_criterion(
                count, dim, mode=self.mode, attention=self.attention, bound=self.bound, w_min=self.w_min,
                w_max=self.w_max, temperature=self.temperature, margin=self.margin,
                negative_weight=self.negative_weight,
            )  # fmt: skip

    def _note_weights(self) -> None:
        self.class_weights_ = self._criterion.attention.weights().cpu().numpy()
        self._weights = None if weights_of(self._criterion) is None else self.class_weights_

    def _means(self, z: np.ndarray, codes: np.ndarray) -> np.ndarray:
        found = class_attentive_prototypes(
            z, codes, self._weights, num_classes=len(self.classes_), kind=self.prototype
        )  # fmt: skip
        return np.asarray(found)

    def _scored(self, z: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
        return np.asarray(class_attentive_scores(z, self._weights, prototypes))

    # ---- prediction --------------------------------------------------------------------------------------------------

    def predict(self, X: Any) -> np.ndarray:
        """Class of each sample ``[N]``: the highest score; ties go to the first class."""
        highest = self._scores(X).argmax(1)
        return self.classes_[highest]

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores of the classes, minus squared distances from the prototypes, float64 ``[N, C]``.

        Of two classes the difference ``[N]``, as scikit-learn has it: positive for the second.
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, float64 ``[N, C]``: ``softmax(score / temperature_)``."""
        scores = self._scores(X) / self.temperature_
        p = np.exp(scores - scores.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    def _scores(self, X: Any) -> np.ndarray:
        return self._scored(self.transform(X), self.prototypes_)

    def transform(self, X: Any) -> np.ndarray:
        """Embeddings z, float32 ``[N, dim]``; weights and prototypes have no part in them."""
        check_is_fitted(self)
        X = validate_data(self, to_array(X), reset=False, accept_sparse="csr", dtype="numeric")
        check_range(_WHO, X)
        return embed(self._network, Rows(self._front(X), self._scaling, self._device)).numpy()

    @property
    def _n_features_out(self) -> int:
        return self.class_weights_.shape[1]

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the fitted estimator to one safetensors file, its settings as JSON in the header; see `load`."""
        from ._contrastive_files import save

        check_is_fitted(self)
        return save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", backbone: Any = None) -> ClassAttentiveClassifier:
        """Read what `save` wrote; nothing in the file is executed.

        Args:
            path: The file.
            device: "auto" or a torch device.
            backbone: The function that was given as ``backbone``, where one was: files hold no code.
        """
        from ._contrastive_files import load

        return load(cls, Path(path), device, backbone)

    # ---- checks ------------------------------------------------------------------------------------------------------

    def _front(self, X: Any) -> Any:
        """Features that the network is made for."""
        if self.front_end is None:
            return X
        X = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
        if X.shape[1] % 2:
            raise ValueError(f"{_WHO}: X must have an even number of features with front_end='polar', got {X.shape[1]}")
        return PolarRadii()(torch.from_numpy(np.array(X, dtype=np.float32))).numpy()

    def _sizes(self) -> list[int]:
        return list(self.hidden) if np.iterable(self.hidden) else [self.hidden]  # type: ignore[arg-type, list-item]

    def _check_parameters(self) -> None:
        for name, low in (("dim", 1), ("epochs", 0), ("batch_size", 2)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
                raise ValueError(f"{_WHO}: {name} must be an integer of at least {low}, got {value!r}")
        rates = [(name, getattr(self, name)) for name in ("lr", "attention_lr", "temperature")]
        for name, value in rates:
            if name == "attention_lr" and value is None:
                continue
            if not isinstance(value, Real) or not 0 < float(value) < math.inf:
                raise ValueError(f"{_WHO}: {name} must be positive and finite, got {value!r}")
        share = self.validation_fraction
        if not isinstance(share, Real) or not 0 <= float(share) < 1:
            raise ValueError(f"{_WHO}: validation_fraction must be in [0, 1), got {share!r}")
        sizes = self._sizes() if isinstance(self.hidden, Integral) or np.iterable(self.hidden) else [0]
        if any(not isinstance(size, Integral) or size < 1 for size in sizes):
            raise ValueError(f"{_WHO}: hidden must be the size of a layer or several, got {self.hidden!r}")
        words = {
            "mode": _MODES, "attention": KINDS, "bound": ("auto", *BOUNDS), "front_end": (None, "polar"),
            "prototype": PROTOTYPES,
        }  # fmt: skip
        if not callable(self.backbone):
            words["backbone"] = ("mlp", "linear", "identity")
        for name, allowed in words.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{_WHO}: {name} must be one of {allowed}, got {getattr(self, name)!r}")

    def __sklearn_tags__(self) -> Any:
        """Sparse features are read; embeddings are float32 whatever X is."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _held_out(codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool ``[N]``: that share of the samples of each class, rounded down; a class keeps at least 2 to train on."""
    rng, held = np.random.default_rng(seed), np.zeros(len(codes), dtype=bool)
    for c in np.unique(codes):
        members = np.flatnonzero(codes == c)
        held[rng.permutation(members)[: max(0, min(int(share * len(members)), len(members) - 2))]] = True
    return held
