"""Evaluation in full, and its page: what it says, that it is well formed and needs nothing, how it looks."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from c2f_ops.answering import Calibration
from c2f_ops.hierarchy import Hierarchy
from c2f_ops.metrics import expected_calibration_error, hierarchical_metrics, negative_log_likelihood
from c2f_ops.training import evaluate
from c2f_ops.training.evaluate import predict_logits
from c2f_ops.training.logs import plain
from c2f_ops.training.page import write_page
from c2f_ops.training.page.svg import Chart, heat_map, log_ticks, round_ticks
from c2f_ops.training.run import build_model
from c2f_ops.training.summaries import Outputs, confusions, heads_that_lose
from c2f_ops.training.words import shortened

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")
SIDES = (8, 12, 16, 20, 24, 32)
EVIL, LONG = "<blink>\"A\" & 'B'</blink>", "Rubus idaeus var. " + "x" * 62  # 80 characters
VOID = {"meta", "img", "br", "line", "polyline", "polygon", "circle", "rect", "path"}


def half(tree: Hierarchy) -> Calibration:
    """Temperatures: 1/2 everywhere but for the third level, which depends on the side."""
    rows = tuple(tuple(0.5 if k < 2 else side / 16 for k in range(tree.num_levels)) for side in (*SIDES, 1))
    return Calibration(tree.levels, SIDES, rows, rows, (), (), tree.sha256)


class Page(HTMLParser):
    """Collects tags, text, pictures and the cells of tables; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.words: list[str] = []
        self.sources: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag == "circle":  # has a title inside
            return
        if tag == "rect":
            return
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def evaluated(tiny):
    """Make an untrained network of so many levels and evaluate it on noise."""

    def make(depth: int, n: int = 24, **changes: object):
        levels = [f"level{k}" for k in range(depth)]
        names = [[f"{k}.{i}" for i in range(k + 2)] for k in range(depth)]
        names[-1][0], names[-1][1] = EVIL, LONG
        parents = [None] + [[min(i, k) for i in range(k + 2)] for k in range(1, depth)]
        tree = Hierarchy(levels, names, parents)
        config = tiny(**{"resolutions": SIDES[-depth:], **changes})
        torch.manual_seed(1)
        model = build_model(config, tree)
        images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)
        labels = tree.from_fine(torch.arange(n) % tree.sizes[-1])
        labels[:3, -1] = -1  # known to the level above, if there is one
        metrics = evaluate(model, images, labels, tree, config, keep=True, calibration=half(tree))
        return metrics.pop("outputs"), metrics, images, labels, tree, config, model

    return make


@pytest.fixture(scope="module")
def three(evaluated):
    return evaluated(3)


@pytest.fixture(scope="module")
def page(three, tmp_path_factory):
    outputs, metrics, images, _, tree, config, _ = three
    path = tmp_path_factory.mktemp("page") / "index.html"
    assert write_page(metrics, outputs, images, tree, config, path, title="A <title>") == path
    return path


def test_evaluation_agrees_with_the_metrics_it_is_made_of(three) -> None:
    outputs, metrics, images, labels, tree, config, model = three
    assert outputs.sides == (32, 24, 20) and outputs.predicted.shape == outputs.confidence.shape == (3, 24, 3)
    truth = tree.validate_labels(labels)
    for i, side in enumerate(outputs.sides):
        logits = predict_logits(model, images, config, side)
        own = hierarchical_metrics(outputs.predicted[i], truth, tree)
        assert metrics["hierarchical"][str(side)] == own.to_dict()
        assert tuple(metrics["accuracy"][str(side)].values()) == own.accuracy
        for k, level in enumerate(tree.levels):
            row, known = metrics["calibration"][str(side)][level], truth[:, k] >= 0
            assert row["images"] == int(known.sum()) == (21 if k == 2 else 24)
            for key, scaled in (("", logits[k]), ("_scaled", logits[k] / half(tree).temperature(k, side))):
                sure, answer = scaled[known].double().softmax(1).max(1)
                assert row[f"ece{key}"] == expected_calibration_error(sure, answer == truth[known, k])
                assert row[f"nll{key}"] == negative_log_likelihood(scaled, truth[:, k])[0]
                assert sum(count for _, _, count in row[f"bins{key}"]) == row["images"]
            scaled = (logits[k] / half(tree).temperature(k, side)).softmax(1).amax(1)
            torch.testing.assert_close(outputs.confidence[i, :, k], scaled)
            curve = metrics["selective"][str(side)]["risk_coverage"][level]
            assert curve[-1] == [1.0, pytest.approx(1 - own.accuracy[k])]
        heights = metrics["error_heights"][str(side)]
        assert sum(heights) == 21 and heights[0] / 21 == pytest.approx(own.accuracy[2])
        assert sum(h * n for h, n in enumerate(heights)) / 21 == pytest.approx(own.hierarchical_distance)
        everything = metrics["selective"][str(side)]["thresholds"][0]
        assert everything["threshold"] == 0.0 and everything["coverage"]["level0"] == 1.0
    json.dumps(plain(metrics), allow_nan=False)


def test_heads_that_lose_are_those_whose_mapped_accuracy_is_higher(three) -> None:
    _, metrics, _, _, tree, _, _ = three
    expected = {
        (level, int(side)): metrics["mapped_accuracy"][side][level] - row[level]
        for side, row in metrics["accuracy"].items()
        for level in tree.levels
        if metrics["mapped_accuracy"][side][level] > row[level]
    }
    found = {(row["level"], row["side"]): row["difference"] for row in metrics["heads_that_lose"]}
    assert found == pytest.approx(expected) and all(row["standard_error"] > 0 for row in metrics["heads_that_lose"])


def test_a_head_loses_by_one_image() -> None:
    tree = Hierarchy.from_paths(["a/1", "b/2"], ["coarse", "fine"])
    truth = tree.from_fine([0, 0, 1, 1])
    own = tree.from_fine([1, 0, 1, 0])
    said = Outputs((8,), own[None], tree.from_fine([0, 0, 1, 0])[None], torch.ones(1, 4, 2), truth)
    error = pytest.approx(math.sqrt(1 / 4 * 3 / 4 / 4))
    assert heads_that_lose(said, tree, [0, 1]) == [
        {"level": "coarse", "side": 8, "difference": 0.25, "standard_error": error}
    ]
    assert heads_that_lose(Outputs((8,), own[None], own[None], said.confidence, truth), tree, [0, 1]) == []


def test_confusions_count_the_answers(three) -> None:
    outputs, metrics = three[:2]
    coarse, worst = metrics["confusion"], metrics["worst_confusions"]
    assert coarse["level"] == "level0" and coarse["classes"] == [0, 1] and list(coarse["counts"]) == ["32", "20"]
    for side, table in coarse["counts"].items():
        right = np.trace(table) / np.sum(table)
        assert np.sum(table) == 24 and right == pytest.approx(metrics["accuracy"][side]["level0"])
    assert (worst["level"], worst["side"]) == ("level2", 32)
    for pair in worst["pairs"]:
        rows = (outputs.labels[:, 2] == pair["true"]) & (outputs.predicted[0, :, 2] == pair["predicted"])
        assert pair["count"] == int(rows.sum()) and set(pair["images"]) <= set(rows.nonzero()[:, 0].tolist())
        assert len(pair["images"]) == min(3, pair["count"])


def test_answers_are_saved_without_pickles(three, tmp_path) -> None:
    outputs = three[0]
    outputs.save(tmp_path / "predictions.npz")
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as saved:
        assert saved["sides"].tolist() == [32, 24, 20]
        for name in ("predicted", "mapped", "confidence", "labels"):
            assert np.array_equal(saved[name], getattr(outputs, name).numpy(), equal_nan=name == "confidence")


def test_files_are_there_in_whole_or_not_at_all(three, tmp_path, monkeypatch) -> None:
    outputs, metrics, images, _, tree, config, _ = three
    page, saved = tmp_path / "index.html", tmp_path / "predictions.npz"
    write_page(metrics, outputs, images, tree, config, page, title="old")
    outputs.save(saved)
    before = page.read_bytes(), saved.read_bytes()
    save = np.savez_compressed

    def torn(file, **_) -> None:
        save(file, labels=np.zeros(1))
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", torn)
    with pytest.raises(OSError, match="disk full"):
        outputs.save(saved)
    monkeypatch.setattr("os.replace", lambda *_: torn(io.BytesIO()))
    with pytest.raises(OSError, match="disk full"):
        write_page(metrics, outputs, images, tree, config, page, title="new")
    as_before = (page.read_bytes(), saved.read_bytes()) == before
    assert as_before and len(list(tmp_path.iterdir())) == 2


def test_a_level_without_a_head_has_its_mapped_accuracy(evaluated, tmp_path) -> None:
    tasks = (("level0", 16), ("level1", 24), ("level1", 32))
    outputs, metrics, images, _, tree, config, _ = evaluated(3, resolutions=(), tasks=tasks)
    assert metrics["accuracy"]["32"]["level2"] is None and set(metrics["calibration"]["32"]) == {"level0", "level1"}
    assert metrics["worst_confusions"]["level"] == "level1" and (outputs.predicted[:, :, 2] == -1).all()
    assert outputs.confidence[:, :, 2].isnan().all()
    write_page(metrics, outputs, images, tree, config, tmp_path / "page.html")
    table = Page((tmp_path / "page.html").read_text(encoding="utf-8")).tables[0]
    assert table[1] == ["level2", *["\N{EN DASH}"] * 3]
    assert table[2][1].endswith("0") and "mapped" not in table[2][1] and "mapped" in table[3][1]


def test_the_page_is_well_formed_and_needs_nothing(page) -> None:
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert "http" not in text and "@import" not in text and not re.search(r"url\(", text)
    assert parsed.tags.isdisjoint({"script", "link", "iframe", "object", "blink"})
    assert parsed.sources and all(source.startswith("data:image/jpeg;base64,") for source in parsed.sources)
    words = "".join(parsed.words)
    assert EVIL in words and LONG in words and "A <title>" in words
    image_module = pytest.importorskip("PIL.Image")
    for source in parsed.sources:
        picture = image_module.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert picture.size == (32, 32)


def test_the_numbers_of_the_page_are_those_of_the_json(page, three) -> None:
    metrics = three[1]
    tables = Page(page.read_text(encoding="utf-8")).tables
    levels = ["level2", "level1", "level0"]
    assert tables[0][0] == ["", "32 px", "24 px", "20 px"]
    for level, row in zip(levels, tables[0][1:], strict=True):
        assert row[0] == level
        for side, cell in zip(("32", "24", "20"), row[1:], strict=True):
            own, mapped = (100 * metrics[table][side][level] for table in ("accuracy", "mapped_accuracy"))
            assert cell == (f"{own:.1f}" if level == "level2" else f"{own:.1f}{mapped:.1f} mapped")
    for side, row in zip(("32", "24", "20"), tables[1][1:], strict=True):
        tree = metrics["hierarchical"][side]
        assert row[:5] == [
            f"{side} px",
            f"{100 * tree['full_path_accuracy']:.1f}of 21",
            f"{100 * tree['inconsistency_rate']:.1f}of 24",
            f"{tree['lca_severity']:.2f}of {tree['num_wrong']}",
            f"{tree['hierarchical_distance']:.2f}of 21",
        ]
        assert tree["num_wrong"] < 21 and [cell.partition("of ")[2] for cell in row[5:]] == ["24"] * 3
    calibration = {(row[0], row[1]): row for row in tables[2][1:]}
    assert len(calibration) == 9
    for (level, side), row in calibration.items():
        said = metrics["calibration"][side.removesuffix(" px")][level]
        assert row[3:] == [
            f"{100 * said['ece']:.1f}", f"{said['nll']:.3f}", f"{said['temperature']:.2f}",
            f"{100 * said['ece_scaled']:.1f}", f"{said['nll_scaled']:.3f}",
        ]  # fmt: skip


@pytest.mark.parametrize("depth", [1, 6])
def test_pages_of_one_level_and_of_six(evaluated, tmp_path, depth: int) -> None:
    outputs, metrics, images, _, tree, config, _ = evaluated(depth)
    path = write_page(metrics, outputs, images, tree, config, tmp_path / "index.html")
    parsed = Page(path.read_text(encoding="utf-8"))
    assert len(parsed.tables[0]) == depth + 1
    assert ("mapped" in "".join(parsed.words)) == (depth > 1)


def test_a_level_that_nobody_labelled(three, tmp_path) -> None:
    _, _, images, labels, tree, config, model = three
    metrics = evaluate(model, images, labels.index_fill(1, torch.tensor(2), -1), tree, config, keep=True)
    outputs = metrics.pop("outputs")
    assert metrics["worst_confusions"]["pairs"] == [] and metrics["hierarchical"]["32"]["num_labeled"]["level2"] == 0
    path = write_page(metrics, outputs, images, tree, config, tmp_path / "index.html")
    parsed = Page(path.read_text(encoding="utf-8"))
    assert parsed.tables[0][1] == ["level2", *["\N{EN DASH}"] * 3]
    assert "No level2 was taken for another." in "".join(parsed.words)


def test_the_page_says_what_was_measured(three, tmp_path) -> None:
    outputs, metrics, images, _, tree, config, _ = three
    about = {"data": "owls", "split": "train", "best": True, "corrupt": {"train": [("a", "b"), ("c", "d")]}}
    path = write_page({**metrics, **about}, outputs, images, tree, config, tmp_path / "index.html")
    words = "".join(Page(path.read_text(encoding="utf-8")).words)
    for said in ("24 images of owls, split train; 3 resolutions", "best on held-out images", "unreadable2 images"):
        assert said in words


def test_ticks() -> None:
    assert log_ticks([448, 384, 320, 256, 128, 120, 8]) == [8, 128, 320, 448]
    assert log_ticks([32]) == [32]
    assert round_ticks(0.37) == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert round_ticks(4.1) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert round_ticks(0.0) == [0.0, 1.0]
    assert shortened("abcdef", 6) == "abcdef" and shortened("abcdef", 4) == "abc\N{HORIZONTAL ELLIPSIS}"


def test_points_land_where_the_axes_say() -> None:
    chart = Chart("t", "x", "y", (8, 32), (0.0, 2.0), log=True)
    (left, floor), (right, top), (middle, half) = chart.at(8, 0), chart.at(32, 2), chart.at(16, 1)
    assert (middle, half) == pytest.approx(((left + right) / 2, (floor + top) / 2)) and right > left and floor > top
    assert chart.at(8, 9) == (left, top), "what is out of range stays at the border"
    one = Chart("t", "x", "y", (8, 8), log=True)
    assert left < one.at(8, 0)[0] < right


def test_numbers_on_the_axes() -> None:
    drawn = Chart("t", "x", "y", (0.0, 8.0), (0.0, 0.125)).svg([0, 8], round_ticks(0.11), percent="y")
    assert re.findall(r'class="tick end".*?>([^<]*)<', drawn) == ["0", "2.5", "5", "7.5", "10", "12.5"]
    assert re.findall(r'class="tick mid".*?>([^<]*)<', drawn) == ["0", "8"]


def test_shade_of_a_confusion_is_the_share_of_its_row() -> None:
    drawn = heat_map(["a", "b"], [[3, 1], [0, 2]], [4, 2], "t")
    assert re.findall(r'class="(hit|miss)".*?fill-opacity="([\d.]+)"', drawn) == [
        ("hit", "0.78"), ("miss", "0.34"), ("hit", "1.00"),
    ]  # fmt: skip


def test_answers_outside_a_cut_matrix_count(monkeypatch) -> None:
    """Class 0 is called 0, 1 and twice 2; of the three, the two with most errors are shown."""
    monkeypatch.setattr("c2f_ops.training.summaries.LARGEST_MATRIX", 2)
    tree = Hierarchy.from_paths(["a", "b", "c"], ["class"])
    said, truth = torch.tensor([0, 1, 2, 2, 2])[:, None], torch.tensor([0, 0, 0, 0, 2])[:, None]
    table = confusions(Outputs((8,), said[None], said[None], torch.ones(1, 5, 1), truth), tree, 0, 8)
    assert (
        table["classes"] == [0, 2] and table["counts"] == {"8": [[1, 2], [0, 1]]} and table["totals"] == {"8": [4, 1]}
    )
    drawn = heat_map(["a", "c"], table["counts"]["8"], table["totals"]["8"], "t")
    assert "a: 1 of 4 right" in drawn and "a: 2 of 4 called c" in drawn and 'fill-opacity="0.34"' in drawn


def test_a_verdict_is_about_the_resolutions_that_are_shown(three, evaluated, tmp_path) -> None:
    def words(outputs, metrics, images, _, tree, config, __) -> str:
        metrics = {**metrics, "heads_that_lose": []}
        path = write_page(metrics, outputs, images, tree, config, tmp_path / "index.html")
        return "".join(Page(path.read_text(encoding="utf-8")).words)

    said = "No coarse head is worse than the finest one mapped upwards at these resolutions."
    assert said in words(*three)
    assert "No coarse head" not in words(*evaluated(3, resolutions=(), tasks=(("level2", 16), ("level2", 32))))


@pytest.mark.parametrize("width", [1280, 500])
def test_in_a_browser(page, tmp_path, width: int) -> None:
    """The picture is not blank, and nothing hangs over the right edge."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    image_module = pytest.importorskip("PIL.Image")
    shot = tmp_path / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},3000", f"--screenshot={shot}"]
    subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=300)
    pixels = np.asarray(image_module.open(shot).convert("RGB")).astype(int)
    assert pixels.shape[1] == width
    paper = pixels[0, 0]
    drawn = (pixels != paper).any(2)
    assert drawn.mean() > 0.02 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
    assert not drawn[:, -10:].any(), "the margin is free"
