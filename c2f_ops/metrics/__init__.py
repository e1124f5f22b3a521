"""Metrics of hierarchical classification, of calibration, and of class discovery."""

from __future__ import annotations

from .discovery import (
    DiscoveryMetrics,
    clustering_accuracy,
    evaluate_discovery,
    match_classes,
)
from .hierarchical import (
    HierarchicalMetrics,
    area_under_risk_coverage,
    expected_calibration_error,
    hierarchical_metrics,
    predictions_from_logits,
)
from .relations import graph_edit_distance, relation_accuracy

__all__ = [
    "DiscoveryMetrics",
    "HierarchicalMetrics",
    "area_under_risk_coverage",
    "clustering_accuracy",
    "evaluate_discovery",
    "expected_calibration_error",
    "graph_edit_distance",
    "hierarchical_metrics",
    "match_classes",
    "predictions_from_logits",
    "relation_accuracy",
]
