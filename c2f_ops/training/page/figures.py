"""The charts of an evaluation, from its JSON data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...hierarchy import Hierarchy
from ..words import spoken
from .svg import Chart, heat_map, log_ticks, round_ticks

Metrics = Mapping[str, Any]
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def colour(metrics: Metrics, level: str) -> str:
    """Class that paints a level, the same in every chart: the finest is the first colour."""
    levels = list(metrics["resolutions"])
    return f"c{(len(levels) - 1 - levels.index(level)) % 6}"


def _sides(metrics: Metrics) -> list[int]:
    """All measured sides, rising."""
    return sorted(int(side) for side in metrics["accuracy"])


def _over_sides(metrics: Metrics, title: str, name: str, top: float = 1.0) -> Chart:
    sides = _sides(metrics)
    return Chart(title, "side of the image, px", name, (sides[0], sides[-1]), (0.0, top), log=True)


def accuracy_chart(metrics: Metrics) -> str:
    """Accuracy of each head against resolution with binomial errors, and of the finest head mapped upwards."""
    sides = _sides(metrics)
    chart = _over_sides(metrics, "Accuracy against resolution", "accuracy, %")
    for level, own_side in metrics["resolutions"].items():
        style = colour(metrics, level)
        rows = [(r, metrics["accuracy"][str(r)][level]) for r in sides]
        points = [(r, value) for r, value in rows if value is not None]
        errors = [binomial_error(value, metrics["hierarchical"][str(r)]["num_labeled"][level]) for r, value in points]
        chart.area(
            [(r, value - e) for (r, value), e in zip(points, errors, strict=True)],
            [(r, value + e) for (r, value), e in zip(points, errors, strict=True)],
            style,
            faint=True,
        )
        mapped = [(r, metrics["mapped_accuracy"][str(r)][level]) for r in sides]
        if [value for _, value in mapped] != [value for _, value in rows]:
            chart.line([(r, value) for r, value in mapped if value is not None], style, dashed=True)
        chart.line(points, style)
        for r, value in points:
            if r == own_side:
                chart.dot(r, value, style, f"{level} at {r} px: {100 * value:.1f} %", radius=4.5)
    return chart.svg(log_ticks(sides), SHARES, percent="y")


def binomial_error(accuracy: float, n: int) -> float:
    """Standard error of a share of n images."""
    return math.sqrt(accuracy * (1 - accuracy) / n) if n else 0.0


def depth_chart(metrics: Metrics) -> str:
    """How far down the tree the finest answer is right, as shares of the images against resolution."""
    sides, levels = _sides(metrics), list(metrics["resolutions"])
    heights = {r: metrics["error_heights"][str(r)] for r in sides}
    chart = _over_sides(metrics, "How deep the finest answer is right", "images, %")
    lower = [(r, 0.0) for r in sides]
    for height in range(len(heights[sides[0]])):
        depth = len(heights[sides[0]]) - 1 - height  # levels from the root that are right
        upper = [(r, y + heights[r][height] / max(sum(heights[r]), 1)) for r, y in lower]
        chart.area(lower, upper, colour(metrics, levels[depth - 1]) if depth else "none")
        lower = upper
    return chart.svg(log_ticks(sides), SHARES, percent="y")


def calibration_charts(metrics: Metrics) -> list[str]:
    """Calibration error and negative log-likelihood against resolution, dashed after temperature scaling."""
    sides, charts = _sides(metrics), []
    names = {"ece": ("Calibration error", "ECE, %"), "nll": ("Negative log-likelihood", "nats")}
    for key, (title, name) in names.items():
        series: dict[tuple[str, bool], list[tuple[float, float]]] = {}
        for r in sides:
            for level, row in metrics["calibration"][str(r)].items():
                for scaled in (False, True):
                    value = row.get(f"{key}_scaled" if scaled else key)
                    if value is not None:
                        series.setdefault((level, scaled), []).append((r, value))
        ticks = round_ticks(max((y for points in series.values() for _, y in points), default=1.0))
        chart = _over_sides(metrics, title, name, ticks[-1])
        for (level, scaled), points in series.items():
            chart.line(points, colour(metrics, level), dashed=scaled)
        charts.append(chart.svg(log_ticks(sides), ticks, percent="y" if key == "ece" else ""))
    return charts


def reliability_chart(metrics: Metrics, side: str) -> str:
    """Accuracy against confidence in bins of equal mass; hollow and dashed after temperature scaling."""
    chart = Chart(f"Reliability at {side} px", "confidence, %", "accuracy, %", (0.0, 1.0))
    chart.line([(0.0, 0.0), (1.0, 1.0)], "none", dashed=True)
    for level, row in metrics["calibration"][side].items():
        for bins, hollow in ((row["bins"], False), (row.get("bins_scaled") or [], True)):
            chart.line([(sure, right) for sure, right, _ in bins], f"thin {colour(metrics, level)}", dashed=hollow)
            for sure, right, count in bins:
                note = f"{level}: {100 * right:.0f} % right at confidence {100 * sure:.0f} %, {count} images"
                chart.dot(sure, right, colour(metrics, level), note, radius=2.6, hollow=hollow)
    return chart.svg(SHARES, SHARES, percent="xy")


def risk_chart(metrics: Metrics, side: str) -> str:
    """Error rate among the most confident answers against their share, from 1 % on: the first few answers are noise."""
    drawn = metrics["selective"][side]["risk_coverage"].items()
    curves = {level: [point for point in points if point[0] >= 0.01] for level, points in drawn}
    ticks = round_ticks(max((risk for points in curves.values() for _, risk in points), default=1.0))
    chart = Chart(
        f"Risk and coverage at {side} px", "images answered, %", "wrong among them, %", (0.0, 1.0), (0.0, ticks[-1])
    )
    for level, points in curves.items():
        chart.line(points, colour(metrics, level))
    return chart.svg(SHARES, ticks, percent="xy")


def confusion_maps(metrics: Metrics, hierarchy: Hierarchy) -> list[str]:
    """One heat map for each side in ``confusion``."""
    data = metrics["confusion"]
    names = _names(hierarchy, data["level"], data["classes"])
    return [
        heat_map(names, counts, data["totals"][side], f"{data['level']} at {side} px")
        for side, counts in data["counts"].items()
    ]


def _names(hierarchy: Hierarchy, level: str, ids: Sequence[int]) -> list[str]:
    names = hierarchy.names[hierarchy.levels.index(level)]
    return [spoken(names[i]) for i in ids]
