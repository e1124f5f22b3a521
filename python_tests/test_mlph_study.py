"""The ablation study: its settings, a small run that goes on where it stopped, the page."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("accelerate")

from c2f_ops.bench import mlph_report, mlph_study

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


def test_a_small_study(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(mlph_study.DATA, "birds", {**CHANGES, "held_out": 0.0, "padding": 0, "dim": 16})
    monkeypatch.setitem(mlph_study.EPOCHS, "birds", 0.5)
    out, page, notes = tmp_path / "out.jsonl", tmp_path / "page.md", tmp_path / "notes.md"
    notes.write_text(NOTES)
    command = ["mlph_study", "run", "--data", "birds", "--out", str(out), "--seeds", "1", "--only", "A1,A2,A7"]
    monkeypatch.setattr("sys.argv", command)
    mlph_study.main()
    records = mlph_study.read([out])
    assert [r["setting"] for r in records] == ["A1", "A2", "A7 genus", "A7 family"]
    for record in records:
        for level, side in zip(record["levels"], record["resolutions"], strict=True):
            share = mlph_study.unpacked(record["right"][level], record["images"]).double().mean().item()
            known = record["accuracy"][str(side)][level]
            assert share == pytest.approx(known)
    capsys.readouterr()
    mlph_study.main()  # all there
    assert capsys.readouterr().out == ""
    assert len(mlph_study.read([out])) == 4
    mlph_report.write_page(records, page, notes.read_text())
    text = page.read_text()
    finest = 100 * records[0]["accuracy"]["32"]["species"]
    assert f"| A1: MLP, finest level | {finest:.1f} |" in text
    assert "A2 - A1" in text and "A2 - A7" in text and "<!--" not in text
    with pytest.raises(ValueError, match="mark <!-- seeds -->"):
        mlph_report.write_page(records, page, NOTES.replace("<!-- seeds -->", ""))
