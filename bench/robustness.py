"""What a run folder and the readers of files stand: kills, damage, hostile pickles.

    python -m c2f_ops.bench.robustness run --out bench/results/DATE-robustness.json
    python -m c2f_ops.bench.robustness report bench/results/DATE-robustness*.json --notes NOTES --out docs/robustness.md

A run of 12 steps on generated birds is killed with SIGKILL again and again and must end as an undisturbed one does, bit
for bit; files of a stopped run are damaged, and a resume must go back to the checkpoint before or refuse in one line;
files that would run code are offered wherever files of others are read. Needs a system with fork.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .records import conditions, fill_marks, said
from .robustness_damage import FILES, WAYS, run_damage
from .robustness_kills import run_kills, warm_up
from .robustness_pickles import run_pickles

PARTS = ("kills", "damage", "pickles")
_WAYS = {
    "line": "before a random line of the code that writes",
    "time": "at a random time",
    "write": "in the middle of a random write, half of the file on the disk",
}
_PHASES = {
    "first": "before the first checkpoint: the run starts anew",
    "resume": "in a resume, before it had saved anything",
    "training": "later, among training, saves and evaluation",
}


def run(parts: Sequence[str], kills: int, damages: int, seed: int, folder: Path) -> dict[str, Any]:
    """Do the parts and return the record."""
    record, begun = conditions("cpu"), time.monotonic()
    say = lambda text: print(f"{time.monotonic() - begun:5.0f} s  {text}", flush=True)  # noqa: E731
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    record["machine"]["commit"] = commit.stdout.strip()[:12] or record["machine"]["commit"]  # else the native module's
    warm_up()
    for name in PARTS:
        (folder / name).mkdir()
    if "kills" in parts:
        record["kills"] = run_kills(folder / "kills", kills, seed, say)
    if "damage" in parts or "pickles" in parts:
        record["damage"] = run_damage(folder / "damage", damages if "damage" in parts else 0, seed, say)
    if "pickles" in parts:
        record["pickles"] = run_pickles(folder / "pickles", folder / "damage" / "base", say)
    record = {key: value for key, value in record.items() if value != []}
    return {**record, "seed": seed, "seconds": round(time.monotonic() - begun)}


def failures(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of what should not have happened."""
    return [
        *(r for r in record.get("kills", ()) if not r["same"]),
        *(r for r in record.get("damage", ()) if r["outcome"] in ("WRONG", "unnoticed")),
        *(r for r in record.get("pickles", ()) if not r["refused"]),
    ]


def page(records: Sequence[dict[str, Any]], notes: str) -> str:
    """The notes, with tables in place of their marks ``<!-- kills -->``, ``<!-- damage -->``, ``<!-- pickles -->``."""
    found = {part: record for record in records for part in PARTS if part in record}
    kills, damage, pickles = (found[part][part] if part in found else [] for part in PARTS)
    runs = len({r["run"] for r in kills})
    same = len({r["run"] for r in kills if r["same"]})
    tables = {
        "kills": [
            f"{len(kills)} kills of {runs} runs, of which {same} ended with the tensors and the metrics of the "
            f"undisturbed run. {sum(r['where'] != 'outside a write' for r in kills)} kills fell into code that writes.",
            "",
            *table("kill", (_WAYS[r["way"]] for r in kills)),
            "",
            *table("phase", (_PHASES[r["phase"]] for r in kills)),
            "",
            *table("where", (r["where"] for r in kills)),
        ],
        "damage": [
            f"{len(damage)} damaged files, {len(damage) - sum(r['outcome'] in ('WRONG', 'unnoticed') for r in damage)} "
            "as they should. Each cell counts: fell back on the checkpoint before and ended with the tensors of the "
            "undisturbed run / refused in one line / no effect, same tensors.",
            "",
            "| | " + " | ".join(f"`{name}`" for name in FILES) + " |",
            "|---|" + "---:|" * len(FILES),
            *(f"| {way} | " + " | ".join(cell(damage, name, way) for name in FILES) + " |" for way in WAYS),
        ],
        "pickles": [
            f"{len({r['pickle'] for r in pickles})} files at {len({r['door'] for r in pickles})} doors: "
            f"{sum(r['refused'] for r in pickles)} of {len(pickles)} refused in one sentence, none run.",
            "",
            "Files: " + "; ".join(dict.fromkeys(r["pickle"] for r in pickles)) + ".",
            "",
            "Doors: " + "; ".join(dict.fromkeys(r["door"] for r in pickles)) + ".",
        ],
    }
    for name, about in found.items():
        tables[name] += ["", f"{said(about)} Seed {about['seed']}."]
    parts = {name: "\n".join(lines if name in found else ["Not run."]) for name, lines in tables.items()}
    return fill_marks(notes, parts, "robustness")


def table(title: str, values: Iterable[str]) -> list[str]:
    """Lines of a table of counts, the largest first."""
    return [f"| {title} | count |", "|---|---:|", *(f"| {k} | {n} |" for k, n in Counter(values).most_common())]


def cell(damage: list[dict[str, Any]], name: str, way: str) -> str:
    """Counts of the outcomes of one file and way."""
    here = Counter(r["outcome"] for r in damage if (r["file"], r["way"]) == (name, way))
    wrong = here["WRONG"] + here["unnoticed"]
    return f"{here['fell back']} / {here['refused']} / {here['no effect']}" + (f", {wrong} WRONG" if wrong else "")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    go = commands.add_parser("run")
    go.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    go.add_argument("--kills", type=int, default=50)
    go.add_argument("--damages", type=int, default=320)
    go.add_argument("--seed", type=int, default=0)
    go.add_argument("--out", type=Path, required=True)
    report = commands.add_parser("report")
    report.add_argument("results", type=Path, nargs="+", help="of a part, the last one counts")
    report.add_argument("--notes", type=Path, required=True, help="what stands around the tables")
    report.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "report":
        records = [json.loads(path.read_text()) for path in arguments.results]
        arguments.out.write_text(page(records, arguments.notes.read_text()))
        return
    folder = Path(tempfile.mkdtemp(prefix="robustness-"))
    try:
        record = run(arguments.only, arguments.kills, arguments.damages, arguments.seed, folder)
    finally:
        shutil.rmtree(folder)
    arguments.out.write_text(json.dumps(record, indent=1).replace(f"{folder}/", "") + "\n")
    if failures(record):
        raise SystemExit("\n".join(map(str, failures(record))))


if __name__ == "__main__":
    main()
