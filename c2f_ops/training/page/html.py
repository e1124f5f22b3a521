"""The page: what an evaluation found, in words, tables, charts and pictures, in one file without script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from ..._files import write_atomically
from ...hierarchy import Hierarchy
from ..config import Config
from ..logs import plain
from ..report import own_sides
from ..sampler import ImageBatches
from ..summaries import Outputs
from ..words import percent
from . import figures
from .pictures import confusion_cards
from .style import CSS

NOTHING = "\N{EN DASH}"
_percent = partial(percent, nothing=NOTHING)


def write_page(
    metrics: Mapping[str, Any],
    outputs: Outputs,
    images: ImageBatches,
    hierarchy: Hierarchy,
    config: Config,
    path: Path,
    *,
    title: str = "Evaluation",
) -> Path:
    """Write an evaluation as one HTML file with everything inside: no network, no script.

    Args:
        metrics: of `c2f_ops.training.evaluate`; all numbers of the page are from here.
        outputs: of the same evaluation; says which images to show.
        images: those evaluated.
        hierarchy: names of the classes.
        config: of the run.
        path: file to write.
        title: heading.

    Returns:
        ``path``.
    """
    metrics = plain(metrics)
    sections = [
        _summary(metrics, title),
        _table(metrics),
        _curves(metrics),
        _paths(metrics),
        _calibration(metrics),
        _selective(metrics),
        _confusion(metrics, hierarchy),
        confusion_cards(metrics, outputs, images, hierarchy, config),
        _settings(metrics, hierarchy, config),
    ]
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )
    write_atomically(path, text.encode())
    return path


def _number(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table; the first cell of each row is its name. Cells are HTML."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    said = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="scroll"><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _key(metrics: Mapping[str, Any], dashed: str = "") -> str:
    """Colours of the levels, finest first."""
    parts = [
        f'<span><i class="{figures.colour(metrics, level)}"></i>{escape(level)}</span>'
        for level in reversed(metrics["resolutions"])
    ]
    if dashed:
        parts.append(f'<span><i class="dashed none"></i>{dashed}</span>')
    return f'<div class="key">{"".join(parts)}</div>'


def _charts(charts: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(f"<div>{chart}</div>" for chart in charts)}</div>'


def _summary(metrics: Mapping[str, Any], title: str) -> str:
    tiles = []
    for level, value in reversed(metrics["own_resolution"].items()):
        if value is not None:
            side = metrics["resolutions"][level]
            n = metrics["hierarchical"][str(side)]["num_labeled"][level]
            error = 100 * figures.binomial_error(value, n)
            tiles.append((f"{_percent(value)} %", f"{escape(level)} at {side}&nbsp;px, \N{PLUS-MINUS SIGN}{error:.1f}"))
    side = next(iter(metrics["accuracy"]))
    tree = metrics["hierarchical"][side]
    tiles.append((f"{_percent(tree['full_path_accuracy'])} %", f"right at every level at {side}&nbsp;px"))
    tiles.append((f"{_percent(tree['inconsistency_rate'])} %", f"answers that contradict the tree at {side}&nbsp;px"))
    shown = "".join(f'<div class="tile"><b>{value}</b><span>{words}</span></div>' for value, words in tiles)
    what = f"{metrics['images']} images of {escape(str(metrics.get('data', 'the data')))}"
    split = f", split {escape(str(metrics['split']))}" if "split" in metrics else ""
    which = " Model that was best on held-out images." if metrics.get("best") else ""
    return (
        f'<h1>{escape(title)}</h1><p class="quiet">{what}{split}; {len(metrics["accuracy"])} resolutions. Answers of '
        f"independent heads.{which}</p>"
        f'<div class="tiles">{shown}</div>'
    )


def _table(metrics: Mapping[str, Any]) -> str:
    sides, levels = own_sides(metrics), list(metrics["resolutions"])
    trained = {(level, str(side)) for level, side in metrics["tasks"]}
    finest = max((level for level, _ in trained), key=levels.index)
    rows = []
    for level in reversed(levels):
        row = [escape(level)]
        for side in sides:
            value, mapped = (metrics[table][side][level] for table in ("accuracy", "mapped_accuracy"))
            above = levels.index(level) < levels.index(finest)
            kind = "shade trained" if (level, side) in trained else "shade"
            note = f"<small>{_percent(mapped)} mapped</small>" if above else ""
            row.append(f'<td class="{kind}" style="--share: {value or 0:.3f}">{_percent(value)}{note}</td>')
        rows.append(row)
    lead = "Accuracy of each head at each resolution, %. Framed: trained at that resolution."
    if levels.index(finest):
        lead += f" Below, mapped: the class of that level above the answer of the {escape(finest)} head."
    losing = "".join(f"<li>{_losing(row)}</li>" for row in metrics["heads_that_lose"] if str(row["side"]) in sides)
    if losing:
        verdict = f"<p>Heads worse than the {escape(finest)} head mapped upwards:</p><ul>{losing}</ul>"
    else:
        several = len({level for level, _ in trained}) > 1
        verdict = (
            "<p>No coarse head is worse than the finest one mapped upwards at these resolutions.</p>" if several else ""
        )
    return (
        "<h2>Every level at every resolution</h2>"
        + f'<p class="quiet">{lead}</p>'
        + _rows(["", *(f"{side} px" for side in sides)], rows)
        + verdict
    )


def _losing(row: Mapping[str, Any]) -> str:
    difference, error = 100 * row["difference"], 100 * row["standard_error"]
    text = f"{escape(row['level'])} at {row['side']} px: {difference:.1f} points behind, standard error {error:.1f}"
    return f"{text}; {'of no use there' if difference > 2 * error else 'no detectable difference'}"


def _curves(metrics: Mapping[str, Any]) -> str:
    dashed = "finest head mapped upwards" if len(metrics["resolutions"]) > 1 else ""
    return (
        "<h2>What is left as images get smaller</h2>"
        '<p class="quiet">Bands are one binomial standard error; a dot marks the resolution that a level is measured '
        "at as its own. The areas say how far down the tree the finest answer is right; grey is wrong at the top."
        "</p>" + _key(metrics, dashed) + _charts([figures.accuracy_chart(metrics), figures.depth_chart(metrics)])
    )


def _paths(metrics: Mapping[str, Any]) -> str:
    head = ["side", "whole path, %", "inconsistent, %", "severity", "distance", "hP, %", "hR, %", "hF, %"]
    rows = [
        [
            f"{side} px",
            _over(_percent(row["full_path_accuracy"]), row["num_full_path"]),
            _over(_percent(row["inconsistency_rate"]), row["num_predicted"]),
            _over(_number(row["lca_severity"]), row["num_wrong"]),
            _over(_number(row["hierarchical_distance"]), row["num_fine"]),
            *(_over(_percent(row[f"hierarchical_{name}"]), row["num_paths"]) for name in ("precision", "recall", "f1")),
        ]
        for side, row in metrics["hierarchical"].items()
    ]
    lead = (
        "Whole path: right at every level. Inconsistent: some answer is not the parent of the one below it. Severity: "
        "mean height at which a wrong finest answer meets the truth (1: same parent); distance: the same over all "
        "images. hP, hR, hF: overlap of the answer and its ancestors with the true ones. Below each: its images."
    )
    return f'<h2>Along the tree</h2><p class="quiet">{lead}</p>{_rows(head, rows)}'


def _over(value: str, images: int) -> str:
    return f"<td>{value}<small>of {images}</small></td>"


def _calibration(metrics: Mapping[str, Any]) -> str:
    sides = own_sides(metrics)
    scaled = any("ece_scaled" in row for rows in metrics["calibration"].values() for row in rows.values())
    head = ["level", "side", "images", "ECE, %", "NLL"]
    head += ["temperature", "ECE scaled, %", "NLL scaled"] if scaled else []
    rows = []
    for side in sides:
        for level, row in reversed(metrics["calibration"][side].items()):
            cells = [escape(level), f"{side} px", str(row["images"]), _percent(row["ece"]), _number(row["nll"], 3)]
            if scaled:
                cells += [
                    _number(row.get("temperature")),
                    _percent(row.get("ece_scaled")),
                    _number(row.get("nll_scaled"), 3),
                ]
            rows.append(cells)
    lead = (
        "A calibrated head is right as often as it says. ECE: expected calibration error over 15 bins of equal mass; "
        "NLL: negative log-likelihood of the true class, in nats. "
    )
    lead += (
        "Hollow and dashed: after temperature scaling."
        if scaled
        else "The run has no temperatures: before scaling only."
    )
    charts = [*figures.calibration_charts(metrics), *(figures.reliability_chart(metrics, side) for side in sides)]
    return (
        f'<h2>Calibration</h2><p class="quiet">{lead}</p>{_key(metrics, "after temperature scaling" if scaled else "")}'
        f"{_charts(charts)}<details><summary>Numbers</summary>{_rows(head, rows)}</details>"
    )


def _selective(metrics: Mapping[str, Any]) -> str:
    sides = own_sides(metrics)
    areas = [
        [escape(level), *(_percent(metrics["selective"][side]["aurc"].get(level), 2) for side in sides)]
        for level in reversed(metrics["selective"][sides[0]]["aurc"])
    ]
    blocks = []
    for i, side in enumerate(sides):
        rows = [
            [
                f"{row['threshold']:g}",
                *(
                    f"<td>{_percent(row['coverage'][level])}<small>{_right(row['accuracy'][level])}</small></td>"
                    for level in metrics["resolutions"]
                ),
                _number(row["mean_depth"]),
                _percent(row["hierarchical_precision"]),
                _percent(row["hierarchical_recall"]),
            ]
            for row in metrics["selective"][side]["thresholds"]
        ]
        head = ["confidence", *(f"{escape(level)}, %" for level in metrics["resolutions"]), "depth", "hP, %", "hR, %"]
        opened = " open" if i == 0 else ""
        blocks.append(f"<details{opened}><summary>Answered at {side} px</summary>{_rows(head, rows)}</details>")
    lead = (
        "The curves say how often a level is wrong if it answers only its most confident images, from 1 % of them on; "
        "AURC is the mean height of the whole curve. "
        "The tables go down the tree as long as every level reaches a confidence and continues the one above: share of "
        "images answered, below it the share of right ones among them; depth is the mean number of levels answered."
    )
    table = _rows(["AURC, %", *(f"{side} px" for side in sides)], areas)
    return (
        f'<h2>Answering only when sure</h2><p class="quiet">{lead}</p>{_key(metrics)}'
        f"{_charts([figures.risk_chart(metrics, side) for side in sides])}{table}{''.join(blocks)}"
    )


def _right(share: float | None) -> str:
    return "" if share is None else f"{_percent(share)} right"


def _confusion(metrics: Mapping[str, Any], hierarchy: Hierarchy) -> str:
    data = metrics["confusion"]
    level = data["level"]
    total, shown = len(hierarchy.names[hierarchy.levels.index(level)]), len(data["classes"])
    which = "" if shown == total else f" Shown are the {shown} of {total} classes with most errors."
    maps = "".join(f'<div class="scroll">{drawn}</div>' for drawn in figures.confusion_maps(metrics, hierarchy))
    return (
        f'<h2>Confusion by {escape(level)}</h2><p class="quiet">Rows are true classes, columns answers; the shade is '
        f"the share of all answers in the row, blue for right and orange for wrong.{which}</p>"
        f'<div class="maps">{maps}</div>'
    )


def _settings(metrics: Mapping[str, Any], hierarchy: Hierarchy, config: Config) -> str:
    degraded = metrics["degrade"]
    entries = {
        "model": f"{config.backbone}, d {config.dim}, trained {config.mode}, precision {metrics['precision']}",
        "tasks": ", ".join(f"{level} at {side} px" for level, side in metrics["tasks"]),
        "input": f"{config.image_size} px, seen at side r: {degraded['down']} down to r, {degraded['up']} up",
        "hierarchy": ", ".join(f"{n} {level}" for level, n in zip(hierarchy.levels, hierarchy.sizes, strict=True))
        + f"; sha256 {metrics['hierarchy']}",
    }
    if unreadable := sum(map(len, metrics.get("corrupt", {}).values())):
        entries["unreadable"] = f"{unreadable} images"
    shown = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in entries.items())
    return f"<h2>Settings</h2><dl>{shown}</dl>"
