"""Fine-to-coarse relations: exact solver, its certificate, and the co-occurrence matrix that it works on."""

from ._cooccurrence import group_cost
from ._solve import RelationResult, balance_threshold, solve_relations

__all__ = ["RelationResult", "balance_threshold", "group_cost", "solve_relations"]
