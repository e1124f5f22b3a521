"""FALCON as a scikit-learn estimator: fine classes from features and coarse labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..metrics import evaluate_discovery
from ..models import Falcon, FalconConfig
from ._copies import merge_copies, split_classes
from ._inputs import Labels, Rows, check_range, dense, find_device, fit_scaling, read_labels, to_array
from ._loop import Loop, Plan, find_neighbours, logits_of, make_head
from ._reports import MultiParent, second_parents
from ._reservoir import Reservoir
from ._start import Retreat, start_from_kmeans
from .n_fine import count_fine

_WHO = "FalconClusterer"
_METRICS = ("cosine", "l2", "ip")
_ACTIONS = ("report", "duplicate")


class FalconClusterer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Discover fine classes below coarse labels, and which coarse class each belongs to, from features.

    A linear or multilayer head is trained by FALCON (`c2f_ops.models.Falcon`) from a start by k-means inside each
    coarse class. Coarse labels are needed in `fit` alone: `predict` sees features only.

    Args:
        n_fine: K_F, the number of fine classes, at least the number of coarse ones. None: `estimate_n_fine`, with a
            warning that says what it chose.
        preset: "recommended", "paper" or "reference", see `FalconConfig`.
        config: The switches themselves; goes before ``preset``.
        relations: int ``[K_F]`` or ``[D, K_F]``, coarse class of each fine class (as index into the sorted labels) to
            start from; with ``learn_relations=False`` in the configuration they stay.
        hidden: Sizes of hidden layers; none is a linear head.
        epochs: Passes over the data.
        batch_size: Samples of a step; None: as many as make 20 steps an epoch, between 64 and 512 and no less than four
            for each fine class (at most 1024).
        lr: Learning rate of SGD with momentum 0.9, falling to 0 along a cosine. None: 0.03 from a k-means start that
            knows the one taxonomy there is; 0.1 from a random one, or where several taxonomies have to meet.
        weight_decay: Its weight decay.
        standardize: Each feature to mean 0 and variance 1. False: all features centred and divided by one number.
        noise: Standard deviation of Gaussian noise that makes the two views of a sample, in units of a feature's
            standard deviation.
        dropout: Share of features put to their mean in a view.
        confidence: Mean largest probability inside the coarse class that the k-means start is scaled to.
        metric: "cosine", "l2" or "ip", distance of the nearest neighbours in X as it is given.
        drop_uncertain: After the soft epochs this share of coarse labels, those that the teacher finds least likely, is
            dropped. For noisy labels.
        may_keep_start: `fit` on one data set returns the k-means start where neighbours share their fine class less
            often after training than before.
        multi_parent: Share of a second coarse class from which a fine class is reported in ``multi_parent_``.
        multi_parent_action: "report", or "duplicate": after the soft epochs such a class gets a copy below its second
            coarse class, and the relations stay from there on. For hierarchies that are not strict.
        reservoir: Samples that `partial_fit` keeps of each coarse class, to find neighbours among.
        device: "auto" or a torch device.
        random_state: None, an integer or a `numpy.random.RandomState`.
        verbose: 1 prints a line for each epoch.

    Attributes:
        relations_: int32 ``[D, K_F]``, index of the coarse class of each fine class in each data set; columns beyond
            K_F are those of copies.
        classes_coarse_: The sorted coarse labels; a list of them where there are several data sets.
        datasets_: Names of the data sets (taxonomies).
        n_fine_: K_F.
        n_fine_estimate_: `FineCountEstimate` where ``n_fine`` is None, else None.
        labels_: int64 ``[N]``, fine class of each training sample.
        kept_start_: Whether the result is the start, see ``may_keep_start``.
        history_: One dict for each epoch: loss and its terms, clusters in use, changed parents, tau, lr.
        mstep_gap_: Largest gap of the latest solve to its proven bound; NaN without a solve.
        balance_forced_: Whether the balance term alone fixed the group sizes in the latest solve.
        multi_parent_: `MultiParent` rows: fine classes with more than one coarse class, by the labels of their samples.
        copies_: int64, the fine class that each copy is of; empty unless ``multi_parent_action`` is "duplicate".
        dropped_: bool ``[N, D]``, labels dropped as uncertain.
        n_features_in_, feature_names_in_: As in scikit-learn.

    Source: Fine-grained Classes and How to Find Them (ICML 2024).

    Example:
        >>> from c2f_ops.estimators import FalconClusterer
        >>> model = FalconClusterer(n_fine=10, random_state=0).fit(X, y_coarse)  # doctest: +SKIP
        >>> model.predict(X_new), model.relations_[0]  # doctest: +SKIP
    """

    _loop: Loop

    def __init__(
        self,
        n_fine: int | None = None,
        *,
        preset: str = "recommended",
        config: FalconConfig | None = None,
        relations: Any = None,
        hidden: Sequence[int] = (),
        epochs: int = 60,
        batch_size: int | None = None,
        lr: float | None = None,
        weight_decay: float = 0.0,
        standardize: bool = True,
        noise: float = 0.0,
        dropout: float = 0.0,
        confidence: float = 0.4,
        metric: str = "cosine",
        drop_uncertain: float = 0.0,
        may_keep_start: bool = True,
        multi_parent: float = 0.25,
        multi_parent_action: str = "report",
        reservoir: int = 256,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_fine = n_fine
        self.preset = preset
        self.config = config
        self.relations = relations
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.noise = noise
        self.dropout = dropout
        self.confidence = confidence
        self.metric = metric
        self.drop_uncertain = drop_uncertain
        self.may_keep_start = may_keep_start
        self.multi_parent = multi_parent
        self.multi_parent_action = multi_parent_action
        self.reservoir = reservoir
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ---- training ----------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y_coarse: Any, dataset: Any = None) -> FalconClusterer:
        """Train on features and coarse labels.

        Args:
            X: ``[N, d]`` array, tensor, data frame, scipy CSR matrix or memory map.
            y_coarse: ``[N]`` labels (integers, strings, booleans; -1, None or NaN: none), or ``[N, D]`` with a column
                for each data set (taxonomy).
            dataset: ``[N]`` the data set each label of ``[N]`` belongs to.

        Returns:
            Itself.
        """
        X, labels = self._begin(X, y_coarse, dataset)
        rows = Rows(X, self._scaling, self._device)
        codes = torch.from_numpy(labels.codes).to(self._device)
        groups = None
        retreat = None
        one = len(labels.classes) == 1  # a start does not know the other data sets' labels
        if self.may_keep_start and one and self.epochs and self._sharper is not None:
            retreat = Retreat(self._loop, rows, self._sharper)
        self.dropped_ = np.zeros_like(labels.codes, dtype=bool)
        due = math.ceil(self._falcon.config.soft_length(self.epochs))
        for epoch in range(1, self.epochs + 1):
            known, groups = groups, self._loop.groups(rows, labels)
            if known is None or not np.array_equal(known, groups):
                near = self._neighbours(X, groups)
            self._note(self._loop.run_epoch(rows, codes, near))
            if epoch == due and self.multi_parent_action == "duplicate":
                self._loop, self.copies_ = split_classes(self._loop, rows, codes, self.multi_parent)
            if epoch == due and self.drop_uncertain:
                self.dropped_ = self._loop.uncertain(rows, codes, self.drop_uncertain).cpu().numpy()
                labels = Labels(np.where(self.dropped_, -1, labels.codes), labels.classes, labels.datasets)
                codes = torch.from_numpy(labels.codes).to(self._device)
        if retreat is not None and not len(self.copies_) and retreat.better(self._loop, rows, near):
            self.kept_start_ = True
            retreat.go(self._loop)
        solve = bool(self.epochs) and not self.kept_start_
        for d, share in enumerate(self._loop.finish(rows, codes, solve=solve)):
            np.add.at(share, self.copies_, share[self.n_fine_ :])
            found = second_parents(share[: self.n_fine_], self.multi_parent)
            self.multi_parent_ += [MultiParent(d, *row) for row in found]
        self._publish(rows)
        return self

    def partial_fit(
        self, X: Any, y_coarse: Any, dataset: Any = None, *, classes: Any = None, datasets: Any = None
    ) -> FalconClusterer:
        """Train one epoch on a chunk of the data.

        The first call takes classes, standardisation, start and, where ``n_fine`` is None, the number of classes from
        its chunk; ``classes`` names the coarse classes (for several data sets a list of them, with ``datasets``) where
        the first chunk lacks some. Neighbours come from the chunk and from a reservoir of ``reservoir`` samples for
        each coarse class. The learning rate stays at ``lr``; ``epochs`` calls are the length of the pseudo-label
        schedule.

        Args:
            X: As for `fit`.
            y_coarse: As for `fit`.
            dataset: As for `fit`.
            classes: The coarse classes, in the first call.
            datasets: The data sets, in the first call.
        """
        first = not hasattr(self, "_loop")
        if first:
            several = datasets is not None
            known = None if classes is None else [np.unique(c) for c in (classes if several else [classes])]
            X, labels = self._begin(X, y_coarse, dataset, known, datasets)
        else:
            X = self._features(X, reset=False)
            labels = read_labels(
                _WHO, y_coarse, dataset, X.shape[0], classes=self._classes, datasets=self._names(dataset)
            )
        held = len(self._reservoir)
        X, codes = self._reservoir.join(dense(X), labels.codes)
        labels = Labels(codes, labels.classes, labels.datasets)
        rows = Rows(X, self._scaling, self._device)
        near = self._neighbours(X, self._loop.groups(rows, labels))
        target = torch.from_numpy(codes).to(self._device)
        self._note(self._loop.run_epoch(rows, target, near, skip=held, constant_lr=True))
        self._reservoir.keep(X, labels, seed=self._loop.plan.seed + self._loop.epoch)
        self._publish(Rows(X[held:], self._scaling, self._device))
        return self

    def fit_predict(self, X: Any, y_coarse: Any = None, dataset: Any = None) -> np.ndarray:
        """`fit`, and the fine class of each training sample."""
        return self.fit(X, y_coarse, dataset).labels_

    def _begin(
        self, X: Any, y_coarse: Any, dataset: Any, classes: list[np.ndarray] | None = None, datasets: Any = None
    ) -> tuple[Any, Labels]:
        """Read the data, and make the network and its start."""
        self._check_parameters()
        X = self._features(X, reset=True)
        labels = read_labels(_WHO, y_coarse, dataset, X.shape[0], classes=classes, datasets=datasets)
        if (labels.codes < 0).all():
            raise ValueError(f"{_WHO}: y_coarse must have a label where training begins, got none")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._device = self._find_device()
        self._scaling = fit_scaling(X, self.standardize)
        rows = Rows(X, self._scaling, self._device)
        self.n_fine_, sizes, self.n_fine_estimate_ = count_fine(_WHO, X, labels, self.n_fine, seed, self.device)
        config = self.config if self.config is not None else FalconConfig.preset(self.preset)
        head = make_head(X.shape[1], self.n_fine_, self.hidden, seed, self._device)
        kmeans = config.mstep_init == "kmeans"
        given = self.relations
        spread = np.stack([np.arange(self.n_fine_) * count // self.n_fine_ for count in labels.counts])
        falcon = Falcon(
            head, self.n_fine_, labels.counts, config, relations=spread if kmeans and given is None else given,
            seed=seed, group=None,
        ).to(self._device)  # fmt: skip
        batch = self._batch(X.shape[0])
        lr = (0.03 if kmeans and len(labels.counts) == 1 else 0.1) if self.lr is None else self.lr
        plan = Plan(self.epochs, batch, lr, self.weight_decay, self.noise, self.dropout, seed)
        self._loop = Loop(falcon, plan)
        start = (rows, labels.codes, sizes, self.confidence, seed)
        self._sharper = start_from_kmeans(falcon, *start, keep=given is not None) if kmeans else None
        self._classes, self.datasets_ = labels.classes, labels.datasets
        self.history_: list[dict[str, Any]] = []
        self.kept_start_ = False
        self.classes_coarse_ = labels.classes[0] if len(labels.classes) == 1 else labels.classes
        self._start_streaming()
        return X, labels

    def _neighbours(self, X: Any, groups: np.ndarray) -> Tensor:
        config = self._falcon.config
        k = config.neighbours_retrieved if config.neighbours_per_step and any(config.lambdas[1:-1]) else 0
        return find_neighbours(X, groups, k, self.metric, self._device)

    def _note(self, record: dict[str, Any]) -> None:
        self.history_.append(record)
        if self.verbose:
            shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
            print(", ".join(shown), flush=True)

    def _publish(self, rows: Rows) -> None:
        results = self._falcon.last_results or ()
        self.mstep_gap_ = max((abs(r.gap) for r in results), default=math.nan)
        self.balance_forced_ = bool(results) and all(r.balance_forced for r in results)
        self.relations_ = self._falcon.relations.cpu().numpy()
        self.labels_ = self._classify(rows)

    def _find_device(self) -> torch.device:
        return find_device(_WHO, self.device)

    def _start_streaming(self) -> None:
        """Nothing held, copied or dropped."""
        self._reservoir = Reservoir(self.reservoir)
        self.multi_parent_: list[MultiParent] = []
        self.copies_, self.dropped_ = np.zeros(0, np.int64), np.zeros((0, len(self._classes)), dtype=bool)

    def _batch(self, count: int) -> int:
        if self.batch_size is not None:
            return self.batch_size
        return int(max(np.clip(count // 20, 64, 512), min(4 * self.n_fine_, 1024)))

    # ---- prediction --------------------------------------------------------------------------------------------------

    def predict(self, X: Any, y_coarse: Any = None) -> np.ndarray:
        """Fine class of each sample, int64 ``[N]``.

        Args:
            X: ``[N, d]``.
            y_coarse: Where coarse labels of these samples are known, ``[N]`` or ``[N, D]`` as in `fit`: the answer is
                then among the fine classes under them. A sample without label is free; so is one whose labels have no
                fine class in common.
        """
        rows = self._rows(X)
        return self._classify(rows, None if y_coarse is None else self._allowed(y_coarse, len(rows)))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the fine classes, float32 ``[N, K_F]``."""
        return self._collect(X, lambda logits: merge_copies(logits, self.copies_).softmax(1))

    def predict_coarse(self, X: Any, dataset: Any = 0) -> np.ndarray:
        """Coarse label of each sample in a data set, given by its name or its position."""
        check_is_fitted(self)
        names = list(self.datasets_)
        if np.ndim(dataset) or (dataset not in names and dataset not in range(len(names))):
            raise ValueError(f"{_WHO}: dataset must be one of {self.datasets_.tolist()}, got {dataset!r}")
        d = names.index(dataset) if dataset in names else int(dataset)
        g = torch.from_numpy(self.relations_[d]).long().to(self._device)
        count = len(self._classes[d])

        def mass(logits: Tensor) -> Tensor:
            return logits.new_zeros(len(logits), count).index_add_(1, g, logits.softmax(1)).argmax(1)

        return self._classes[d][self._collect(X, mass)]

    def transform(self, X: Any) -> np.ndarray:
        """Logits, float32 ``[N, K_F]``."""
        return self._collect(X, lambda logits: merge_copies(logits, self.copies_))

    def score(self, X: Any, y_fine: Any) -> float:
        """Clustering accuracy: share of samples right under the best one-to-one naming of the fine classes.

        Samples whose fine label is -1, None or NaN are left out.
        """
        predicted = self.predict(X)
        truth = read_labels(_WHO, y_fine, None, len(predicted), name="y_fine").codes
        if truth.shape[1] != 1:
            raise ValueError(f"{_WHO}: y_fine must have shape [N], got {list(truth.shape)}")
        return float(evaluate_discovery(truth[:, 0], predicted).accuracy)

    def _rows(self, X: Any) -> Rows:
        check_is_fitted(self)
        return Rows(self._features(X, reset=False), self._scaling, self._device)

    def _collect(self, X: Any, work: Any) -> np.ndarray:
        rows = self._rows(X)
        return np.concatenate([work(logits).cpu().numpy() for _, logits in logits_of(self._network, rows)])

    def _classify(self, rows: Rows, allowed: Any = None) -> np.ndarray:
        out = np.empty(len(rows), np.int64)
        for where, logits in logits_of(self._network, rows):
            if allowed is not None:
                logits = logits.masked_fill(~allowed(where), -torch.inf)
            out[where] = merge_copies(logits, self.copies_).argmax(1).cpu().numpy()
        return out

    def _allowed(self, y_coarse: Any, count: int) -> Any:
        """A function from a slice to bool ``[n, K_F]``: fine classes under the labels of these samples."""
        labels = read_labels(_WHO, y_coarse, None, count, classes=self._classes)
        return lambda where: self._falcon.fine_under(torch.from_numpy(labels.codes[where]).to(self._device))

    @property
    def _falcon(self) -> Falcon:
        return self._loop.falcon

    @property
    def _network(self) -> Any:
        falcon = self._falcon.eval()
        return falcon.student if falcon.config.predict_with == "student" else falcon.teacher

    @property
    def _n_features_out(self) -> int:
        return self.n_fine_

    # ---- files, single cells -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the fitted estimator to one safetensors file, its settings as JSON in the header; see `load`."""
        from ._files import save

        check_is_fitted(self)
        return save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> FalconClusterer:
        """Read what `save` wrote; nothing in the file is executed.

        Predictions are those of the saved estimator. `partial_fit` goes on with a fresh optimiser and an empty
        reservoir.
        """
        from ._files import load

        return load(cls, Path(path), device)

    def fit_anndata(
        self,
        adata: Any,
        coarse_key: str,
        *,
        layer: str | None = None,
        obsm: str | None = None,
        unlabeled_category: Any = None,
        batch_key: str | None = None,
    ) -> FalconClusterer:
        """Train on an AnnData object and write the result into it.

        Writes ``obs["c2f_fine"]`` (categories named after their coarse class, "T cell/0", in the order of the coarse
        categories), ``obs["c2f_fine_conf"]`` (probability), ``obsm["X_c2f"]`` (logits) and ``uns["c2f"]`` (hierarchy,
        settings, version). Backed matrices are read whole, in their form on disk.

        Args:
            adata: The object; X dense, CSR or backed.
            coarse_key: Column of ``obs`` with coarse labels; its missing values are unlabelled.
            layer: Layer to read in place of X.
            obsm: Entry of ``obsm`` to read in place of X, for example "X_pca".
            unlabeled_category: Category that means no label.
            batch_key: Column of ``obs`` whose values are data sets with coarse labels of their own meaning.
        """
        from ._anndata import fit_anndata

        return fit_anndata(self, adata, coarse_key, layer, obsm, unlabeled_category, batch_key)

    # ---- checks ------------------------------------------------------------------------------------------------------

    def _features(self, X: Any, *, reset: bool) -> Any:
        """X as an array or CSR matrix of numbers in the type it has."""
        X = validate_data(self, to_array(X), reset=reset, accept_sparse="csr", dtype="numeric")
        check_range(_WHO, X)
        return X

    def _names(self, dataset: Any) -> Any:
        return None if dataset is None else self.datasets_

    def _check_parameters(self) -> None:
        for name, low in (("n_fine", 1), ("epochs", 0), ("batch_size", 1), ("reservoir", 1)):
            value = getattr(self, name)
            optional = name in ("n_fine", "batch_size")
            if value is None and optional:
                continue
            if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
                expected = f"{'None or ' if optional else ''}an integer of at least {low}"
                raise ValueError(f"{_WHO}: {name} must be {expected}, got {value!r}")
        ranges = {"lr": (0, math.inf), "weight_decay": (0, math.inf), "noise": (0, math.inf), "dropout": (0, 1)}
        ranges |= {"confidence": (0, 1), "drop_uncertain": (0, 1), "multi_parent": (0, 1)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is None and name == "lr":
                continue
            if not isinstance(value, Real) or not low <= float(value) < high:
                raise ValueError(f"{_WHO}: {name} must be a number in [{low}, {high}), got {value!r}")
        sizes = self.hidden
        if not np.iterable(sizes) or any(not isinstance(size, Integral) or size < 1 for size in sizes):
            raise ValueError(f"{_WHO}: hidden must be sizes of layers, integers of at least 1, got {sizes!r}")
        for name, allowed in (("metric", _METRICS), ("multi_parent_action", _ACTIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{_WHO}: {name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.config is not None and not isinstance(self.config, FalconConfig):
            raise TypeError(f"{_WHO}: config must be None or a FalconConfig, got {type(self.config).__name__}")

    def __sklearn_tags__(self) -> Any:
        """Targets are required, sparse features are read, predictions are deterministic given ``random_state``."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = []
        return tags
