"""The ablation study: its settings, a small run that goes on where it stopped, the page."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("accelerate")

from c2f_ops.bench import mlph_report, mlph_study
from c2f_ops.bench.records import read_lines

CHANGES = {"train_images": 80, "test_images": 40, "image_size": 32, "load_size": 32, "resolutions": (8, 16, 32)}
NOTES = "# Birds\n\n" + "\n\n".join(
    f"<!-- {name} -->" for name in ("results", "seeds", "comparisons", "sides", "design", "conditions")
)


def test_settings_differ_in_what_they_ask():
    found = {name: mlph_study.config_of("birds", changes, factor, 3, None)
             for name, changes, factor in mlph_study.settings("birds")}  # fmt: skip
    levels = mlph_study.LEVELS["birds"]
    tasks = {name: config.cycle(levels) for name, config in found.items()}
    assert tasks["A0"] == tasks["A1"] == tasks["A4"] == ((2, 64),)
    assert found["A0"].interactions == found["A1"].interactions[:3]
    assert tasks["A2"] == tasks["A3"] == ((2, 64), (1, 24), (0, 12))
    assert (found["A2"].mode, found["A3"].mode) == ("alternating", "joint")
    assert found["A4"].stages[0].epochs == 3 * found["A1"].stages[0].epochs
    assert tasks["A5"] == ((2, 64), (1, 64), (0, 64))
    assert tasks["A6"] == ((2, 64), (2, 24), (2, 12))
    assert (tasks["A7 genus"], tasks["A7 family"]) == (((1, 24),), ((0, 12),))
    assert {config.seed for config in found.values()} == {3}
    assert {config.data_seed for config in found.values()} == {0}


def test_bits_round_trip():
    right = torch.rand(77) < 0.5
    assert torch.equal(mlph_study.unpacked(mlph_study._packed(right), 77), right)


def own_of(record):
    return record["accuracy"]["32"]["species"]


def test_a_small_study(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(mlph_study.DATA, "birds", {**CHANGES, "held_out": 0.0, "padding": 0, "dim": 16})
    monkeypatch.setitem(mlph_study.EPOCHS, "birds", 0.5)
    out, page, notes = tmp_path / "out.jsonl", tmp_path / "page.md", tmp_path / "notes.md"
    notes.write_text(NOTES)
    command = ["mlph_study", "run", "--data", "birds", "--out", str(out), "--seeds", "1", "--only", "A1,A2,A7"]
    monkeypatch.setattr("sys.argv", command)
    mlph_study.main()
    records = read_lines(out)
    assert [r["setting"] for r in records] == ["A1", "A2", "A7 genus", "A7 family"]
    for record in records:
        for level, side in zip(record["levels"], record["resolutions"], strict=True):
            share = mlph_study.unpacked(record["right"][level], record["images"]).double().mean().item()
            known = record["accuracy"][str(side)][level]
            assert share == pytest.approx(known)
    capsys.readouterr()
    mlph_study.main()  # all there
    assert capsys.readouterr().out == ""
    assert len(read_lines(out)) == 4
    mlph_report.write_page(records, page, notes.read_text())
    text = page.read_text()
    finest = 100 * own_of(records[0])
    assert f"| A1: MLP, finest level | {finest:.1f} |" in text
    assert "| A2 - A1 | hierarchy and sides | species |" in text and "<!--" not in text
    rows = [line for line in text.splitlines() if line.startswith(("| A2 - A7", "| A2 - A2 mapped"))]
    assert [line.split(" | ")[2] for line in rows] == ["genus", "family"] * 2, (
        "the finest would be compared with itself"
    )
    own, mapped = (100 * records[1][key]["8"]["family"] for key in ("accuracy", "mapped"))
    assert f"| {own - mapped:+.1f} |" in rows[-1].replace("*", "")
    assert f"torch {torch.__version__}, commit " in text
    again = [{k: v for k, v in r.items() if k != "machine"} for r in records]
    again[0] = {**again[1], "setting": "A1"}
    again.append({**again[0], "setting": "A8 mean"})
    mlph_report.write_page(again, page, notes.read_text())
    text = page.read_text()
    assert "5 of 5 records name neither device, versions, commit nor date." in text
    for row in ("A2 - A1 | hierarchy and sides | species", f"mean | {100 * own_of(again[0]):.1f}"):
        assert f"| {row} | +0.0 | +0.0 to +0.0 | +0.0 | 1 | 1 |" in text, "a tie is a comparison too"
    with pytest.raises(ValueError, match="mark <!-- seeds -->"):
        mlph_report.write_page(records, page, NOTES.replace("<!-- seeds -->", ""))
