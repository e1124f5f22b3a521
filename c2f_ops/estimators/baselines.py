"""What FALCON is compared with on features: the same protocol, simpler ideas.

Each is fitted on features and coarse labels, predicts clusters from features alone, and says which coarse class each
cluster belongs to. All read features alike: standardised (or only centred and scaled by one number), in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.falcon_init import kmeans_start, proportional
from ..neighbours import group_knn, sample_neighbours
from ._baseline import Baseline, network, train, train_classifier
from ._inputs import read_labels


class _Centroids(Baseline):
    """k-means inside each coarse class on `_features`; all centroids together serve prediction."""

    fine_per_coarse: Sequence[int] | None

    def _cluster(self, features: Tensor, codes: np.ndarray) -> None:
        assert self.n_fine is not None
        counts = np.bincount(codes[codes >= 0], minlength=len(self.classes_coarse_))
        sizes = proportional(self.n_fine, counts) if self.fine_per_coarse is None else np.asarray(self.fine_per_coarse)
        if sizes.shape != counts.shape or sizes.min() < 1 or sizes.sum() != self.n_fine:
            raise ValueError(
                f"{type(self).__name__}: fine_per_coarse must be {len(counts)} numbers of at least 1 with sum "
                f"n_fine={self.n_fine}, got {sizes.tolist()}"
            )
        start = kmeans_start(features.cpu().numpy(), codes, sizes, seed=self.seed_)
        self.cluster_centers_, self.relations_ = start.centroids, start.relations

    def _features(self, rows: Tensor) -> Tensor:
        return rows

    def _scores(self, rows: Tensor) -> Tensor:
        features, centers = self._features(rows), torch.from_numpy(self.cluster_centers_).to(rows.device)
        return features @ centers.T - centers.square().sum(1) / 2


class GroupKMeans(_Centroids):
    """k-means inside each coarse class; a sample without label goes to the nearest of all centroids.

    Args:
        n_fine: K_F, clusters in all.
        fine_per_coarse: Clusters of each coarse class (in the order of the sorted labels). None: in proportion to the
            samples of the class, at least 1.
        standardize: Each feature to mean 0 and variance 1. False: all centred and divided by one number.
        device: "auto" or a torch device, for prediction.
        random_state: None, an integer or a `numpy.random.RandomState`.

    Attributes:
        cluster_centers_: float32 ``[K_F, d]``, in standardised features.
        relations_: int32 ``[K_F]``, index into ``classes_coarse_`` of each cluster.
        classes_coarse_: the sorted coarse labels.
        labels_: int64 ``[N]``, clusters of the training samples as `predict` finds them.
    """

    def __init__(
        self,
        n_fine: int | None = None,
        *,
        fine_per_coarse: Sequence[int] | None = None,
        standardize: bool = True,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.n_fine = n_fine
        self.fine_per_coarse = fine_per_coarse
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def _fit(self, rows: Tensor, codes: np.ndarray) -> None:
        self._cluster(rows, codes)


class CoarseTrainingKMeans(_Centroids):
    """A network trained on the coarse labels, then k-means on its hidden features inside each coarse class.

    The clustering step of GEORGE (Sohoni et al., NeurIPS 2020), with k-means.

    Args:
        n_fine: K_F, clusters in all.
        hidden: Units of the hidden layer (ReLU) whose activations are clustered. 0: a linear classifier, whose logits
            are clustered.
        fine_per_coarse: As in `GroupKMeans`.
        epochs: Passes over the labelled samples.
        batch_size: Samples of a step.
        lr: Learning rate of AdamW, falling to 0 along a cosine.
        weight_decay: Its weight decay.
        standardize: As in `GroupKMeans`.
        device: "auto" or a torch device.
        random_state: As in `GroupKMeans`.

    Attributes:
        cluster_centers_: float32 ``[K_F, hidden]``.
        relations_, classes_coarse_, labels_: As in `GroupKMeans`.
    """

    def __init__(
        self,
        n_fine: int | None = None,
        *,
        hidden: int = 256,
        fine_per_coarse: Sequence[int] | None = None,
        epochs: int = 30,
        batch_size: int = 256,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        standardize: bool = True,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.n_fine = n_fine
        self.hidden = hidden
        self.fine_per_coarse = fine_per_coarse
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def _fit(self, rows: Tensor, codes: np.ndarray) -> None:
        net = network(rows, (self.hidden,) if self.hidden else (), len(self.classes_coarse_), self.seed_)
        train_classifier(net, rows, codes, self)
        self._body = net[:-1] if self.hidden else net
        with torch.no_grad():
            self._cluster(self._features(rows), codes)

    def _features(self, rows: Tensor) -> Tensor:
        return self._body(rows)


class NeighbourClustering(Baseline):
    """SCAN on features (Van Gansbeke et al., ECCV 2020); with neighbours of the same coarse class SCAN-C.

    Minimises ``-mean log <p_i, p_j> - entropy_weight H(mean p)`` with j one of the k nearest neighbours of i, drawn
    anew in each step. Then each sample whose largest probability exceeds ``threshold`` is trained towards that class.
    In SCAN-C that pseudo-label is the largest among the clusters of the sample's own coarse class: the relation so far
    masks all others. Coarse labels take no other part.

    Args:
        n_fine: K_F, clusters in all.
        unrestricted: Neighbours among all samples and no mask: plain SCAN, which sees coarse labels only when its
            clusters are named.
        hidden: Sizes of hidden layers (ReLU); none is a linear head.
        k: Nearest neighbours of each sample.
        metric: "cosine", "l2" or "ip", their distance in standardised features.
        entropy_weight: Weight of the entropy of the mean prediction.
        epochs: Passes of the first phase.
        self_label_epochs: Passes of the second phase; 0 leaves it out.
        threshold: Its least probability.
        batch_size, lr, weight_decay, standardize, device, random_state: As in `CoarseTrainingKMeans`.

    Attributes:
        relations_: int32 ``[K_F]``: the coarse class that most of a cluster's probability falls on, over the training
            samples. A coarse class may end up without a cluster.
        classes_coarse_, labels_: As in `GroupKMeans`.
    """

    def __init__(
        self,
        n_fine: int | None = None,
        *,
        unrestricted: bool = False,
        hidden: Sequence[int] = (),
        k: int = 20,
        metric: str = "cosine",
        entropy_weight: float = 5.0,
        epochs: int = 60,
        self_label_epochs: int = 10,
        threshold: float = 0.99,
        batch_size: int = 256,
        lr: float = 3e-3,
        weight_decay: float = 1e-4,
        standardize: bool = True,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.n_fine = n_fine
        self.unrestricted = unrestricted
        self.hidden = hidden
        self.k = k
        self.metric = metric
        self.entropy_weight = entropy_weight
        self.epochs = epochs
        self.self_label_epochs = self_label_epochs
        self.threshold = threshold
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def _fit(self, rows: Tensor, codes: np.ndarray) -> None:
        assert self.n_fine is not None
        near = group_knn(rows, None if self.unrestricted else codes, self.k, self.metric).indices
        self._network = network(rows, self.hidden, self.n_fine, self.seed_)

        def agree(pick: Tensor, step: int) -> Tensor:
            pair = sample_neighbours(near[pick], 1, seed=self.seed_, step=step, samples=pick)[:, 0]
            pair = torch.where(pair < 0, pick, pair)  # without neighbours a sample agrees with itself
            log_p = self._network(rows[pick]).log_softmax(1)
            together = torch.logsumexp(log_p + self._network(rows[pair]).log_softmax(1), dim=1)
            mean = log_p.exp().mean(0)
            return torch.special.xlogy(mean, mean).sum() * self.entropy_weight - together.mean()

        train(self._network, agree, torch.arange(len(rows)), self, self.epochs)
        self.relations_ = self._relate(rows, codes)
        if self.self_label_epochs and self.epochs:
            self._label_itself(rows, codes)
            self.relations_ = self._relate(rows, codes)

    def _label_itself(self, rows: Tensor, codes: np.ndarray) -> None:
        coarse = torch.from_numpy(codes).to(rows.device)
        parents = torch.from_numpy(self.relations_).to(rows.device)
        teacher = copy.deepcopy(self._network)

        def follow(pick: Tensor, step: int) -> Tensor:
            with torch.no_grad():
                p = teacher(rows[pick]).softmax(1)
                if not self.unrestricted:
                    own = coarse[pick][:, None]
                    p = p.masked_fill((own >= 0) & (parents != own), 0)
                share, label = p.max(1)
                sure = (share > self.threshold).float()
            losses = nn.functional.cross_entropy(self._network(rows[pick]), label, reduction="none")
            return (losses * sure).sum() / sure.sum().clamp(min=1)

        train(self._network, follow, torch.arange(len(rows)), self, self.self_label_epochs)

    @torch.no_grad()
    def _relate(self, rows: Tensor, codes: np.ndarray) -> np.ndarray:
        """Coarse class of most mass, for each cluster."""
        mass = torch.zeros(self.n_fine or 0, len(self.classes_coarse_), dtype=torch.float64)
        for part, y in zip(rows.split(8192), torch.from_numpy(codes).split(8192), strict=True):
            p = self._network(part).softmax(1).double().cpu()[y >= 0]
            mass.index_add_(1, y[y >= 0], p.T.contiguous())
        return mass.argmax(1).to(torch.int32).numpy()

    def _scores(self, rows: Tensor) -> Tensor:
        return self._network(rows)


class SupervisedUpperBound(Baseline):
    """A classifier trained on the fine labels: what discovery could reach with the same features and head.

    Args:
        n_fine: K_F, at least the number of fine labels. None: that number.
        hidden: Sizes of hidden layers (ReLU); none is multinomial logistic regression.
        epochs, batch_size, lr, weight_decay, standardize, device, random_state: As in `CoarseTrainingKMeans`.

    Attributes:
        classes_fine_: The sorted fine labels; predictions are indices into them.
        relations_: int32 ``[K_F]``: the coarse class of most training samples of a fine class.
        classes_coarse_, labels_: As in `GroupKMeans`.
    """

    def __init__(
        self,
        n_fine: int | None = None,
        *,
        hidden: Sequence[int] = (),
        epochs: int = 30,
        batch_size: int = 256,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        standardize: bool = True,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.n_fine = n_fine
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y_coarse: Any, y_fine: Any = None) -> SupervisedUpperBound:
        """Fit on features ``[N, d]``, coarse labels ``[N]`` and fine labels ``[N]`` (-1: none, left out)."""
        rows, codes = self._read(X, y_coarse)
        name = type(self).__name__
        if y_fine is None:
            raise ValueError(f"{name}: y_fine must be the fine labels, got None")
        fine = read_labels(name, y_fine, None, len(codes))  # its messages speak of y_coarse
        self.classes_fine_ = fine.classes[0]
        count = len(self.classes_fine_) if self.n_fine is None else self.n_fine
        if count < len(self.classes_fine_):
            raise ValueError(f"{name}: n_fine must be at least the {len(self.classes_fine_)} fine labels, got {count}")
        self._network = network(rows, self.hidden, count, self.seed_)
        train_classifier(self._network, rows, fine.codes[:, 0], self)
        both = (codes >= 0) & (fine.codes[:, 0] >= 0)
        table = np.zeros((count, len(self.classes_coarse_)), np.int64)
        np.add.at(table, (fine.codes[both, 0], codes[both]), 1)
        self.relations_ = table.argmax(1).astype(np.int32)
        self.labels_ = self._assign(rows)
        return self

    def _scores(self, rows: Tensor) -> Tensor:
        return self._network(rows)
