"""The command line, from train to predict, and what it says when something is wrong."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import c2f_ops
from c2f_ops import cli

for library in ("typer", "timm", "torchvision", "accelerate", "safetensors", "matplotlib"):
    pytest.importorskip(library)


TINY = [
    "--train-images", "40", "--test-images", "12", "--image-size", "32", "--resolutions", "32,16,8", "--dim", "8",
    "--backbone-options", '{"layers": [1, 1, 3, 1], "channels": [8, 8, 16, 16], "stem_width": 8}',
    "--batch-size", "10", "--device", "cpu", "--threads", "1",
]  # fmt: skip


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run `c2f` in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["c2f", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(c2f_ops.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def test_train_evaluate_predict(monkeypatch, capsys, tmp_path) -> None:
    run = tmp_path / "run"
    assert call(monkeypatch, "train", "mlph", *TINY, "--epochs", "1", "--held-out", "0.2", "--out", run) == 0
    said = capsys.readouterr().out
    for word in ("birds, 12 test images", "32 px", "16 px", "8 px", "species", "genus", "family", f"run folder: {run}"):
        assert word in said
    trained = json.loads((run / "metrics.json").read_text())

    assert call(monkeypatch, "evaluate", run, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert {side: again["accuracy"][side] for side in trained["accuracy"]} == trained["accuracy"]
    assert len(again["accuracy"]) > 10 and json.loads((run / "evaluation" / "metrics.json").read_text()) == again
    assert {path.name for path in (run / "evaluation").iterdir()} == {"index.html", "metrics.json", "predictions.npz"}
    arguments = ("--grid", "24,12", "--split", "train", "--no-html", "--out", tmp_path / "out")
    assert call(monkeypatch, "evaluate", run, *arguments) == 0
    said = capsys.readouterr().out
    assert "24 px" in said and "40 train images" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "predictions.npz"}
    shutil.copytree(run / "checkpoints", run / "best" / "checkpoints")
    assert call(monkeypatch, "evaluate", run, "--best", "--split", "train", "--grid", "none", "--no-html") == 0
    assert "best" in capsys.readouterr().out
    shutil.rmtree(run / "best")
    best = json.loads((run / "evaluation-best-train" / "metrics.json").read_text())
    assert best["best"] and not again["best"] and set(best["accuracy"]) == set(trained["accuracy"])
    assert json.loads((run / "metrics.json").read_text()) == trained, "an evaluation has a folder of its own"

    assert (
        call(monkeypatch, "predict", run, run / "contact_sheet.png", run / "curves.png", "--resolution", "8", "--json")
        == 0
    )
    first, second = json.loads(capsys.readouterr().out)
    assert (
        first["resolution"] == 8
        and first["trained_level"] == "family"
        and list(second["levels"]) == ["family", "genus", "species"]
    )
    assert call(monkeypatch, "predict", run, run / "curves.png") == 0
    assert "answer:" in capsys.readouterr().out

    assert call(monkeypatch, "train", "mlph", "--resume", run) == 0, "a finished run is evaluated again"
    assert json.loads((run / "metrics.json").read_text())["accuracy"] == trained["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mlph", "--resolutions", "24,48,128"], "from the finest level to the coarsest, got 24,48,128"),
        (["train", "mlph", "--resolutions", "128,x"], "--resolutions must be whole numbers separated by commas"),
        (["train", "mlph", "--data", "cats"], "name must be one of aircraft"),
        (["train", "mlph", "--data", "cub100"], "root must be the folder of cub100, got None"),
        (["train", "mlph", "--backbone-options", "[1]"], "--backbone-options must be a JSON object, got '[1]'"),
        (["train", "mlph", "--precision", "fp16", "--device", "cpu"], "must be fp32 or bf16 on a CPU, got fp16"),
        (["train", "mlph", "--resume", "nowhere"], "folder must hold config.json, got nowhere"),
        (["evaluate", "nowhere"], "folder must hold config.json, got nowhere"),
        (["train", "mlph", "--backbone", "timm/nix"], "name must be a model of timm, got 'nix'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(monkeypatch, capsys, tmp_path, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = [] if "--resume" in arguments or arguments[0] == "evaluate" else ["--train-images", "40"]
    assert call(monkeypatch, *arguments, *tiny) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists(), "nothing is left behind"


def test_unknown_option_is_refused(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "train", "mlph", "--nonsense") == 2
    assert "nonsense" in capsys.readouterr().err


def test_without_typer_one_sentence(monkeypatch, capsys) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "typer":
            raise ImportError("No module named 'typer'", name="typer")
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "c2f_ops.cli.commands", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert call(monkeypatch, "info") == 2
    assert capsys.readouterr().err == 'c2f: typer is not installed; pip install "c2f_ops[train]"\n'


def test_info_and_help(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "info") == 0
    assert "multilinear_pool" in capsys.readouterr().out
    assert call(monkeypatch, "train", "mlph", "--help") == 0
    assert "--resolutions" in capsys.readouterr().out


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "c2f_ops.cli", "train", "mlph", *TINY, "--out", str(run), "--epochs", "100000"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "log.jsonl").is_file() or not (run / "log.jsonl").stat().st_size:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"c2f train mlph --resume {run}" in said and "Traceback" not in said
    assert len(list((run / "checkpoints").glob("step-*"))) == 1
