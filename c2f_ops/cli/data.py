"""`c2f data`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ._common import DATA, AsJson, Root, listed, make_console, option

SHOWN = 5


def check(
    data: Annotated[str, typer.Argument(help="Name of the data set: folder, csv, cub, ...", show_default=False)],
    root: Root = None,
    splits: Annotated[str | None, option(DATA, "Splits, comma-separated; default those that the files have.")] = None,
    min_side: Annotated[int, option(DATA, "Shorter side in pixels below which an image is reported.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Read every image and list what is wrong with a data set. Exit status 1 where there are errors."""
    from ..data.check import check_dataset

    console = make_console(stderr=as_json)
    names = None if splits is None else listed("splits", splits, str)
    findings = check_dataset(data, root=root, splits=names, min_side=min_side)
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        print(json.dumps({"errors": errors, "findings": [finding._asdict() for finding in findings]}, indent=2))
    else:
        for finding in findings:
            count = f" ({len(finding.items)})" if finding.items else ""
            line = f"{finding.severity:7s}  {finding.split}: {finding.kind}{count}: {finding.message}"
            console.print(line, style="red" if finding.severity == "error" else None, highlight=False, markup=False)
            rest = len(finding.items) - SHOWN
            for item in (*finding.items[:SHOWN], *([f"... and {rest} more (--json lists all)"] if rest > 0 else [])):
                console.print(f"           {item}", highlight=False, markup=False)
        console.print(f"errors: {errors}, warnings: {len(findings) - errors}", highlight=False)
    if errors:
        raise typer.Exit(1)
