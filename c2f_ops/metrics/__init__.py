"""Metrics of hierarchical classification, of calibration, of class discovery, and of embeddings."""

from __future__ import annotations

from .calibration import (
    Bin,
    area_under_risk_coverage,
    confident_answers,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)
from .collapse import CollapseReport, collapse_report
from .confusion import Confusion, confusion_matrix, worst_confusions
from .contrastive import BoundReport, epsilon_margin, error_bound
from .discovery import (
    DiscoveryMetrics,
    clustering_accuracy,
    evaluate_discovery,
    match_classes,
)
from .hierarchical import (
    HierarchicalMetrics,
    hierarchical_metrics,
    predictions_from_logits,
)
from .paired import Interval, McNemar, holm, mcnemar, paired_bootstrap
from .probe import ProbeReport, linear_probe
from .prototypes import class_attentive_prototypes, class_attentive_scores, own_and_wrong_distances
from .relations import graph_edit_distance, relation_accuracy

__all__ = [
    "Bin",
    "BoundReport",
    "CollapseReport",
    "Confusion",
    "DiscoveryMetrics",
    "HierarchicalMetrics",
    "Interval",
    "McNemar",
    "ProbeReport",
    "area_under_risk_coverage",
    "class_attentive_prototypes",
    "class_attentive_scores",
    "clustering_accuracy",
    "collapse_report",
    "confident_answers",
    "confusion_matrix",
    "epsilon_margin",
    "error_bound",
    "evaluate_discovery",
    "expected_calibration_error",
    "graph_edit_distance",
    "hierarchical_metrics",
    "holm",
    "linear_probe",
    "match_classes",
    "mcnemar",
    "negative_log_likelihood",
    "own_and_wrong_distances",
    "paired_bootstrap",
    "predictions_from_logits",
    "relation_accuracy",
    "reliability",
    "risk_coverage",
    "worst_confusions",
]
