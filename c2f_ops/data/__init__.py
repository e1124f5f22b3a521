"""Data: image degradation, labelled images with a hierarchy, readers of public sets and generated ones."""

from .cars import cars_hierarchy
from .degrade import degrade, degrade_settings
from .images import LabeledImages
from .registry import DATASETS, load_dataset

__all__ = ["DATASETS", "LabeledImages", "cars_hierarchy", "degrade", "degrade_settings", "load_dataset"]
