"""Data: image degradation, labelled images with a hierarchy, readers of public sets and generated ones."""

from .cars import cars_hierarchy
from .degrade import degrade, degrade_settings
from .images import LabeledImages
from .registry import DATASETS, load_dataset
from .taxonomies import Taxonomies, grouping, mix_taxonomies, read_grouping, regroup, second_taxonomy

__all__ = [
    "DATASETS",
    "LabeledImages",
    "Taxonomies",
    "cars_hierarchy",
    "degrade",
    "degrade_settings",
    "grouping",
    "load_dataset",
    "mix_taxonomies",
    "read_grouping",
    "regroup",
    "second_taxonomy",
]
