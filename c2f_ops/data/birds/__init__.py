"""Drawn birds: a procedural fine-grained image set with a true hierarchy, generated in place."""

from .dataset import birds_hierarchy, generate_birds
from .labelled import load_birds
from .taxonomy import LEVELS, NAMES, PARENTS, plumage_key

__all__ = ["LEVELS", "NAMES", "PARENTS", "birds_hierarchy", "generate_birds", "load_birds", "plumage_key"]
