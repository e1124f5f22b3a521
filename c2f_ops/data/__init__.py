"""Data: image degradation, labelled images with a hierarchy, readers of public sets and generated ones."""

from .cars import cars_hierarchy
from .check import Finding, check_dataset
from .circles import PlantedFeatures, circles_toy, planted_features
from .degrade import degrade, degrade_settings
from .images import LabeledImages
from .registry import DATASETS, load_dataset
from .taxonomies import Taxonomies, grouping, mix_taxonomies, read_grouping, regroup, second_taxonomy

__all__ = [
    "DATASETS",
    "Finding",
    "LabeledImages",
    "PlantedFeatures",
    "Taxonomies",
    "cars_hierarchy",
    "check_dataset",
    "circles_toy",
    "degrade",
    "degrade_settings",
    "grouping",
    "load_dataset",
    "mix_taxonomies",
    "planted_features",
    "read_grouping",
    "regroup",
    "second_taxonomy",
]
