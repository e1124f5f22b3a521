"""Kills, damage and hostile files in small form; `python -m c2f_ops.bench.robustness run` is the full one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import c2f_ops

ROOT = Path(__file__).parents[2]
# The installed package has the module as its own; beside the sources it stands in the folder bench, which conftest.py
# makes known to this process and not to others.
INSTALLED = (Path(c2f_ops.__file__).parent / "bench").is_dir()

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with fork")


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    """Do it once, in a process of its own: it forks, which a process that has trained must not."""
    for library in ("timm", "accelerate", "safetensors", "matplotlib", "rich"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    out = tmp_path_factory.mktemp("robustness") / "record.json"
    module = "c2f_ops.bench.robustness" if INSTALLED else "bench.robustness"
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), None if INSTALLED else str(ROOT)]))
    result = subprocess.run(
        [sys.executable, "-m", module, "run", "--kills", "4", "--damages", "32", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=out.parent,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert out.is_file(), result.stdout + result.stderr
    return json.loads(out.read_text())


def test_killed_runs_end_as_undisturbed_ones(record) -> None:
    kills = record["kills"]
    assert len(kills) == 4 and {kill["way"] for kill in kills} == {"line", "time", "write"}
    assert [kill for kill in kills if not kill["same"]] == []


def test_damage_is_told_and_harms_nothing(record) -> None:
    outcomes = [case["outcome"] for case in record["damage"]]
    assert len(outcomes) == 32 and {"fell back", "refused"} <= set(outcomes)
    assert [case for case in record["damage"] if case["outcome"] not in ("fell back", "refused", "no effect")] == []


def test_hostile_pickles_are_refused_at_every_door(record) -> None:
    assert len({case["pickle"] for case in record["pickles"]}) == 10
    assert len({case["door"] for case in record["pickles"]}) == 7
    assert [case for case in record["pickles"] if not case["refused"]] == []
