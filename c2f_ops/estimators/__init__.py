"""scikit-learn estimators on embeddings."""

from .falcon import FalconClusterer
from .n_fine import FineCountEstimate, estimate_n_fine

__all__ = ["FalconClusterer", "FineCountEstimate", "estimate_n_fine"]
