"""scikit-learn estimators on embeddings."""

from .baselines import CoarseTrainingKMeans, GroupKMeans, NeighbourClustering, SupervisedUpperBound
from .falcon import FalconClusterer
from .n_fine import FineCountEstimate, estimate_n_fine

__all__ = [
    "CoarseTrainingKMeans",
    "FalconClusterer",
    "FineCountEstimate",
    "GroupKMeans",
    "NeighbourClustering",
    "SupervisedUpperBound",
    "estimate_n_fine",
]
