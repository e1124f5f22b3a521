"""The studies of FALCON (`bench/falcon_*.py`) on a handful of samples: data, cells, records, pages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from c2f_ops.bench import falcon_cells as cells
from c2f_ops.bench import falcon_data as data
from c2f_ops.bench import falcon_report as report
from c2f_ops.bench import falcon_study as study
from c2f_ops.bench import falcon_synthetic as synthetic
from c2f_ops.bench import falcon_zoo as zoo
from c2f_ops.bench.records import read_lines

ROOT = Path(__file__).parents[1]
rng = np.random.default_rng


def gaussians(seed: int = 0, **options):
    classes = data.Gaussians.of((3, 2, 4, 3), 8, rng(seed), **options)
    return classes, classes.draw(np.full(12, 20), rng(seed + 1))


# ---- data ------------------------------------------------------------------------------------------------------------


def test_gaussians_stand_where_they_say():
    classes, samples = gaussians(nuisance=2)
    assert np.bincount(samples.fine).tolist() == [20] * 12
    assert (samples.coarse == classes.parents[samples.fine]).all()
    many = classes.draw([4000] + [0] * 11, rng(3)).x
    np.testing.assert_allclose(many.mean(0), classes.centres[0], atol=0.25)
    expected = np.eye(8) + classes.nuisance.T @ classes.nuisance
    np.testing.assert_allclose(np.cov(many.T), expected, atol=0.6)
    assert np.linalg.eigvalsh(np.cov(many.T))[-2:].min() > 8 > 2 > np.linalg.eigvalsh(np.cov(many.T))[-3]


def test_nearest_centre_is_by_mahalanobis_distance():
    classes, samples = gaussians(nuisance=2)
    precision = np.linalg.inv(np.eye(8) + classes.nuisance.T @ classes.nuisance)
    gap = samples.x[:, None] - classes.centres[None]
    assert (classes.nearest(samples.x) == np.einsum("nki,ij,nkj->nk", gap, precision, gap).argmin(1)).all()


def test_pair_noise_stays_within_pairs():
    _, samples = gaussians()
    noisy = data.with_pair_noise(samples, 0.4, rng(0))
    changed = noisy.coarse != samples.coarse
    assert 0.3 < changed.mean() < 0.5 and (noisy.coarse // 2 == samples.coarse // 2).all()


def test_second_parents_have_their_share():
    classes, samples = gaussians()
    split = data.with_two_parents(samples, 2, rng(0), share=0.25)
    changed = split.coarse != samples.coarse
    assert len(np.unique(samples.fine[changed])) == 2 and 2 <= changed.sum() <= 20
    for k in np.unique(samples.fine[changed]):
        assert len(np.unique(split.coarse[changed & (samples.fine == k)])) == 1
    assert (classes.parents[samples.fine] == samples.coarse).all()


def test_variants_of_cifar100_have_the_published_sizes():
    from c2f_ops.data.cifar_variants import _table

    fine = np.repeat(np.arange(100), 250)
    coarse = fine % 20
    samples = data.Samples(np.arange(len(fine), dtype=np.float32)[:, None], coarse, fine)
    small = data.variant(samples, "CIFAR-68")
    assert len(small.x) == 68 * 250 and small.fine.max() == 67
    kept = data.variant(samples, "CIFAR-SI")
    images = np.array([int(row["si_images"]) for row in _table()])
    assert np.bincount(kept.fine).tolist() == (250 * images // 500).tolist()
    assert kept.x[:3, 0].tolist() == [0, 1, 2] and kept.x[-1, 0] == 99 * 250 + 250 * images[99] // 500 - 1


def test_spectra_differ_between_classes_and_between_samples():
    train, test = data.spectra((2, 2), 30, rng(0))
    assert train.x.shape == test.x.shape == (120, 128) and train.x.min() >= 0
    means = np.stack([train.x[train.fine == k].mean(0) for k in range(4)])
    right = np.square(test.x[:, None] - means).sum(2).argmin(1) == test.fine
    assert right.mean() > 0.9 and not np.array_equal(train.x, test.x)


# ---- cells -----------------------------------------------------------------------------------------------------------


def test_groups_of_the_birds():
    assert len(synthetic.CUB) == 30 and sum(synthetic.CUB) == 100
    assert (min(synthetic.CUB), max(synthetic.CUB), synthetic.CUB.count(1)) == (1, 15, 9)
    table = ROOT.parent / "shared" / "data" / "cub200_taxonomy.csv"
    if table.exists():
        import csv
        from collections import Counter

        rows = [row for row in csv.DictReader(table.read_text().splitlines()) if row["subset_id"]]
        assert tuple(sorted(Counter(row["family"] for row in rows).values())) == synthetic.CUB


FIRST = {cell.experiment: cell for cell in reversed(list(synthetic.cells(1))) if cell.method == "FALCON"}


@pytest.mark.parametrize("experiment", [name for name in FIRST if name != "large"])
def test_every_synthetic_experiment_computes(experiment):
    result = synthetic.compute(FIRST[experiment], samples=12, epochs=1)
    assert 0 < result["accuracy"] <= 1 and result["used_clusters"] > 1
    extra = report.PAGES["falcon-synthetic"][experiment][1]
    assert set(extra) <= set(result)
    json.dumps(result)


def test_keys_are_distinct():
    for page in (study, synthetic):
        keys = [cell.key for cell in page.cells(2)]
        assert len(keys) == len(set(keys))


def test_a_class_under_two_parents_is_reported():
    cell = cells.Cell("two parents, 10 of 50", "40%", "FALCON", 0)
    result = synthetic.compute(cell, samples=30, epochs=10)
    assert result["split"] == 10 and 1 <= result["found"] <= min(10, result["reported"])
    cell = cells.Cell("two parents, 10 of 50", "0%", "FALCON", 0)
    assert synthetic.compute(cell, samples=30, epochs=10)["split"] == 0


def test_lambda_m_and_prior_reach_the_solver():
    def error(prior: str, weight: str) -> float:
        cell = cells.Cell("unbalanced", f"equal counts, {prior} prior, lambda_m {weight}", "FALCON", 0)
        return synthetic.compute(cell, samples=10, epochs=2)["group_size_error"]

    even = np.abs(np.array(synthetic.CUB) - np.sort([4] * 10 + [3] * 20)).sum()
    assert error("equal", "2 x threshold") >= even  # it makes the groups equal
    assert error("proportional", "2 x threshold") < 10 < error("equal", "0")
    given = cells.Cell("unbalanced", "Zipf counts, true relations given", "FALCON", 0)
    assert synthetic.compute(given, samples=10, epochs=1)["group_size_error"] == 0


def test_methods_against_noise_differ():
    cell = {method: cells.Cell("noise", "40%", method, 0) for method in cells.FALCONS}
    accuracy = {
        m: synthetic.compute(c, samples=20, epochs=6, lr=0.1, may_keep_start=False)["ari"] for m, c in cell.items()
    }
    assert len(set(accuracy.values())) == 3


def test_the_large_fit_says_what_it_took():
    from c2f_ops.bench import falcon_large as large

    cell = cells.Cell("large", "small", "FALCON", 0)
    result = large._costs(cell, large.Size(coarse=12, fine=3, samples=40, width=8, epochs=3))
    assert not abs(result["gap"]) >= 1e-9 and result["peak_mib"] >= result["peak_before_mib"] > 0
    assert result["solves"] and {"method", "moved", "seconds"} == set(result["solves"][0])
    assert "| gap to the proven bound |" in report.costs(result)


def test_study_on_rows_of_cifar(tmp_path):
    fine = np.repeat(np.arange(100), 8)
    coarse = fine // 5
    x = rng(0).standard_normal((100, 6))[fine] + 0.1 * rng(1).standard_normal((800, 6))
    samples = data.Samples(x.astype(np.float32), coarse, fine)
    for experiment, setting, classes in (("variants", "CIFAR-SI", 100), ("noise in pairs", "40%", 100)):
        cell = cells.Cell(experiment, setting, "FALCON", 0)
        result = study.compute(cell, samples, samples, epochs=1)
        assert 0 < result["accuracy"] <= 1 and result["used_clusters"] <= classes
    assert study.compute(cells.Cell("variants", "CIFAR-68", "GroupKMeans", 0), samples, samples)["used_clusters"] <= 68


def test_a_cell_of_the_zoo():
    cell = cells.Cell("zoo", "iris, {0} and {1, 2}", "FALCON's start", 1)
    result = zoo.compute(cell, zoo.zoo(None))
    assert result["accuracy"] > 0.7 and result["relation_accuracy"] == 1


# ---- records and pages -----------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_stopped_and_a_page_is_written(tmp_path, monkeypatch):
    out, notes, pages = tmp_path / "synthetic.jsonl", tmp_path / "notes.md", tmp_path / "docs" / "results"
    notes.write_text("# Title\n")
    pages.mkdir(parents=True)

    def command(*args: object) -> None:
        monkeypatch.setattr("sys.argv", ["falcon_synthetic", *map(str, args)])
        synthetic.main()

    options = ("run", "--out", out, "--seeds", 1, "--samples", 8, "--epochs", 1, "--only", "taxonomies")
    command(*options)
    first = read_lines(out)
    assert len(first) == 9 and {r["experiment"] for r in first} == {"taxonomies"}
    out.write_text("".join(json.dumps(record) + "\n" for record in first[1:]))
    command(*options)
    again = read_lines(out)
    assert [r["key"] for r in again] == [r["key"] for r in (*first[1:], first[0])]
    assert again[-1]["ari"] == first[0]["ari"] and again[:-1] == first[1:]
    command("report", out, "--notes", notes, "--out", pages)
    text = (pages / "falcon-synthetic.md").read_text()
    assert text.startswith("# Title\n\n## Two taxonomies\n\n| setting |") and text.count("| spectra, both |") == 1
    assert text.index("| Gaussians, first taxonomy |") < text.index("| spectra, both |")  # in the order of the cells


def made_up(experiment: str, setting: str, method: str, seed: int, **more):
    values = dict.fromkeys((*report.COLUMNS, *report.SIZES), 0.5)
    cell = cells.Cell(experiment, setting, method, seed)
    return {"key": cell.key, **vars(cell), **values, "accuracy": 0.5 + 0.1 * seed, **more}


def test_page_of_made_up_records(tmp_path):
    rates = [("noise", "0%"), ("noise", "40%"), ("noise in pairs", "40%")]
    records = [made_up(e, s, m, seed) for e, s in rates for m in ("FALCON", "GroupKMeans") for seed in (0, 1)]
    records += [made_up("estimate", "estimated", "FALCON", 0, estimate=89), made_up("data", "x", "KMeans", 0)]
    records += [made_up("variants", "CIFAR-68", method, 0) for method in ("FALCON", "KMeans")]
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    page = report.write_page("falcon-cifar100", records, folder, "Notes")
    text = page.read_text()
    assert "| 40% | FALCON | 55.0 ± 7.1 | 50.0 ± 0.0 |" in text and "| 50.0, 60.0 |" in text
    assert "| CIFAR-68 | FALCON |" not in text  # one setting alone needs no column
    assert "60.4 / 47.0 |" in text and "54.9 / 39.9 (89 classes) |" in text and "## The data" not in text
    assert (
        "54.9" not in report.write_page("falcon-synthetic", records, folder, "Notes").read_text()
    )  # of CIFAR-100 only
    assert (tmp_path / "docs" / "images" / "falcon-cifar100-noise.png").stat().st_size > 10_000
    assert "(../images/falcon-cifar100-noise.png)" in text
