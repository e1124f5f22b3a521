"""The search for the resolution of each level, on training images alone."""

from .curve import Curve, NoCrossing, StartsBelow, crossing, isotonic
from .run import SearchResult, TrainOnly, search_resolutions

__all__ = [
    "Curve",
    "NoCrossing",
    "SearchResult",
    "StartsBelow",
    "TrainOnly",
    "crossing",
    "isotonic",
    "search_resolutions",
]
