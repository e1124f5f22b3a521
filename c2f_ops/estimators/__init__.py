"""scikit-learn estimators on embeddings."""

from .baselines import CoarseTrainingKMeans, GroupKMeans, NeighbourClustering, SupervisedUpperBound
from .contrastive import ClassAttentiveClassifier
from .falcon import FalconClusterer
from .n_fine import FineCountEstimate, estimate_n_fine

__all__ = [
    "ClassAttentiveClassifier",
    "CoarseTrainingKMeans",
    "FalconClusterer",
    "FineCountEstimate",
    "GroupKMeans",
    "NeighbourClustering",
    "SupervisedUpperBound",
    "estimate_n_fine",
]
