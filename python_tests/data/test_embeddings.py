"""Embedding files of every format, and files of predictions; parquet and h5ad where their libraries are installed."""

import json
import re
import sys

import numpy as np
import pytest

from c2f_ops.data.embeddings import load_embeddings, save_predictions

FEATURES = np.arange(15, dtype=np.float64).reshape(5, 3) / 4
COARSE = ["b", "a", "", "b", "a"]
TABLE = "id,coarse,fine,f0,f1,f2\n" + "".join(
    f"s{i},{COARSE[i]},{i % 2},{','.join(map(str, row))}\n" for i, row in enumerate(FEATURES)
)


def check_table(data, fine=True, ids=True):
    """What every format must give for the table above."""
    assert data.X.dtype == np.float32
    assert np.array_equal(np.asarray(data.X), FEATURES)
    assert data.coarse.dtype == np.int64
    assert data.coarse.tolist() == [1, 0, -1, 1, 0]
    assert data.coarse_names == (("a", "b"),)
    assert (data.fine.tolist() if fine else data.fine) == ([0, 1, 0, 1, 0] if fine else None)
    assert data.fine_names == (("0", "1") if fine else ())
    assert (data.ids.tolist() if ids else data.ids) == ([f"s{i}" for i in range(5)] if ids else None)
    assert len(data) == 5


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.tsv", "\t")])
def test_text(tmp_path, name, delimiter):
    path = tmp_path / name
    path.write_text(TABLE.replace(",", delimiter))
    data = load_embeddings(path)
    check_table(data)
    assert data.source == str(path)


def test_text_columns_by_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("cell,tissue,type,x,n\nu,skin,1,0.5,7\nv,gut,10,1.5,8\nw,none,9,2.5,9\n")
    data = load_embeddings(path, x=["x"], coarse="tissue", fine="type", ids="cell", unlabeled="none")
    assert data.X.tolist() == [[0.5], [1.5], [2.5]]
    assert data.coarse.tolist() == [1, 0, -1]
    assert data.coarse_names == (("gut", "skin"),)
    assert data.fine.tolist() == [0, 2, 1]
    assert data.fine_names == ("1", "9", "10"), "numbers in numeric order"
    two = load_embeddings(path, x=["n", "x"], coarse=["tissue", "type"])
    assert two.X[0].tolist() == [7, 0.5]
    assert two.coarse.tolist() == [[2, 0], [0, 2], [1, 1]]
    assert two.coarse_names == (("gut", "none", "skin"), ("1", "9", "10"))
    bare = load_embeddings(path, x="n")
    assert (bare.coarse, bare.coarse_names, bare.fine, bare.ids) == (None, (), None, None)


def test_text_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("c2f_ops.data._embedding_files.BLOCK", 2)
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    check_table(load_embeddings(path))
    path.write_text(TABLE.replace("s4,a,0,3.0,", "s4,a,0,three,"))
    with pytest.raises(ValueError, match=r"line 6 of t.csv must have a number in column f0 .* got 'three'"):
        load_embeddings(path)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("coarse,x\na,1\nb\n", {}, "line 3 of t.csv must have 2 cells, got 1"),
        ("coarse,x\na,1\n", {"x": ["y"]}, "x must be among the columns of t.csv, got y"),
        ("coarse,x\na,1\n", {"coarse": "group"}, "t.csv must have group, got none named group"),
        ("coarse,x\na,1\n", {"layer": "raw"}, "layer and obsm must be None for .csv, got 'raw', None"),
        ("coarse,x\na,1\n", {"labels": "l.csv"}, "labels must be None for .csv, which has its own, got l.csv"),
        ("coarse,x\na,1\n", {"mmap": True}, "mmap must be False for .csv"),
    ],
)
def test_text_errors(tmp_path, text, options, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_embeddings(tmp_path / "t.csv", **options)


def test_npz_of_names(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, X=FEATURES, coarse=np.array(COARSE), fine=np.arange(5) % 2, id=np.array([f"s{i}" for i in range(5)]))
    check_table(load_embeddings(path))


def test_npz_of_ids_into_names(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, emb=FEATURES, y=np.array([2, 0, -1, 2, 0]), y_names=np.array(["z", "unused", "none"]))
    data = load_embeddings(path, x="emb", coarse="y")
    assert data.coarse.tolist() == [2, 0, -1, 2, 0]
    assert data.coarse_names == (("z", "unused", "none"),)
    data = load_embeddings(path, x="emb", coarse="y", unlabeled="none")
    assert data.coarse.tolist() == [-1, 0, -1, -1, 0]
    assert data.coarse_names == (("z", "unused"),)
    np.savez(path, X=FEATURES, y=np.array([0, 1, 2, 3, 0]), y_names=np.array(["z", "y"]))
    with pytest.raises(ValueError, match=re.escape("y must be in -1..1, as it has 2 names, got 0..3")):
        load_embeddings(path, coarse="y")


def test_npz_of_several_taxonomies(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, X=FEATURES, coarse=np.array([[0, -1], [-1, 5], [1, -1], [-1, 3], [0, 3]]))
    data = load_embeddings(path)
    assert data.coarse.tolist() == [[0, -1], [-1, 1], [1, -1], [-1, 0], [0, 0]]
    assert data.coarse_names == (("0", "1"), ("3", "5"))


def test_npz_errors(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, features=FEATURES, coarse=np.arange(4))
    with pytest.raises(ValueError, match=r"x must be among features, coarse of t.npz, got 'X'"):
        load_embeddings(path)
    with pytest.raises(ValueError, match=r"coarse of t.npz must have 5 values, got 4"):
        load_embeddings(path, x="features")
    np.savez(path, X=FEATURES[0], coarse=np.array([0.0, 0.5, np.nan]))
    with pytest.raises(ValueError, match=re.escape("X of t.npz must be numbers [N, d], got float64 [3]")):
        load_embeddings(path)
    np.savez(path, X=FEATURES[:3], coarse=np.array([0.0, 0.5, np.nan]))
    with pytest.raises(ValueError, match=r"labels must be integers or names, got 0\.5"):
        load_embeddings(path)


def test_sparse_npz_with_labels(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    sparse.save_npz(tmp_path / "t.npz", sparse.csc_matrix(FEATURES))
    (tmp_path / "l.csv").write_text("id,coarse,note\n" + "".join(f"s{i},{c},x\n" for i, c in enumerate(COARSE)))
    data = load_embeddings(tmp_path / "t.npz", labels=tmp_path / "l.csv")
    assert data.X.format == "csr"
    assert data.X.dtype == np.float32
    assert np.array_equal(data.X.toarray(), FEATURES)
    assert data.coarse.tolist() == [1, 0, -1, 1, 0]
    assert data.ids.tolist() == [f"s{i}" for i in range(5)]


def test_npy_with_labels(tmp_path):
    np.save(tmp_path / "t.npy", FEATURES.astype(np.float16))
    (tmp_path / "l.tsv").write_text(TABLE.replace(",", "\t"))
    check_table(load_embeddings(tmp_path / "t.npy", labels=tmp_path / "l.tsv"))
    mapped = load_embeddings(tmp_path / "t.npy", mmap=True)
    assert isinstance(mapped.X, np.memmap)
    assert mapped.X.dtype == np.float16
    assert mapped.coarse is None
    (tmp_path / "l.tsv").write_text("coarse\na\n")
    with pytest.raises(ValueError, match=r"coarse of l.tsv must have 5 values, got 1"):
        load_embeddings(tmp_path / "t.npy", labels=tmp_path / "l.tsv")


def test_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be a file, got .*t\.npy"):
        load_embeddings(tmp_path / "t.npy")
    with pytest.raises(ValueError, match=r"path must end in .csv, .h5ad, .npy, .npz, .parquet, .tsv, got 't.pt'"):
        load_embeddings(tmp_path / "t.pt")
    with pytest.raises(ValueError, match=r"path must end in .csv, .h5ad, .npz, .parquet, .tsv, got 't.pt'"):
        save_predictions(tmp_path / "t.pt", fine=[0], confidence=[1.0])


@pytest.mark.parametrize(("suffix", "library"), [(".parquet", "pyarrow"), (".h5ad", "anndata")])
def test_missing_library_is_one_sentence(tmp_path, monkeypatch, suffix, library):
    for name in list(sys.modules):
        if name.partition(".")[0] == library:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    path = tmp_path / f"t{suffix}"
    path.write_bytes(b"")
    for call in (lambda: load_embeddings(path), lambda: save_predictions(path, fine=[0], confidence=[1.0])):
        with pytest.raises(ImportError, match=rf"needs {library}, which is not installed; pip install"):
            call()


# Parquet.


def test_parquet_columns(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"id": [f"s{i}" for i in range(5)], "coarse": [name or None for name in COARSE], "fine": [0, 1, 0, 1, 0]}
    features = {f"f{j}": FEATURES[:, j] for j in range(3)}
    pq.write_table(pa.table({**columns, **features}), tmp_path / "t.parquet")
    check_table(load_embeddings(tmp_path / "t.parquet"))
    columns["fine"][2] = None
    pq.write_table(pa.table({**columns, **features}), tmp_path / "t.parquet")
    assert load_embeddings(tmp_path / "t.parquet").fine.tolist() == [0, 1, -1, 1, 0]
    pq.write_table(pa.table({**features, "note": ["x"] * 5}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column note of t.parquet must hold numbers without gaps .*got string"):
        load_embeddings(tmp_path / "t.parquet")
    assert load_embeddings(tmp_path / "t.parquet", x=["f2"]).X.tolist() == FEATURES[:, 2:].tolist()
    with pytest.raises(ValueError, match=r"x must be among the columns of t.parquet, got f9"):
        load_embeddings(tmp_path / "t.parquet", x=["f9"])


@pytest.mark.parametrize("fixed", [False, True])
def test_parquet_lists_and_categories(tmp_path, fixed):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = pa.list_(pa.float64(), 3) if fixed else pa.list_(pa.float64())
    coarse = pa.DictionaryArray.from_arrays(pa.array([2, 0, None, 2, 0], pa.int8()), ["z", "unused", "y"])
    table = pa.table({"vector": pa.array(FEATURES.tolist(), kind), "coarse": coarse, "note": ["x"] * 5})
    pq.write_table(table, tmp_path / "t.parquet")
    data = load_embeddings(tmp_path / "t.parquet", x="vector")
    assert np.array_equal(data.X, FEATURES)
    assert data.X.dtype == np.float32
    assert data.coarse.tolist() == [2, 0, -1, 2, 0]
    assert data.coarse_names == (("z", "unused", "y"),)
    pq.write_table(pa.table({"vector": [[1.0], [1.0, 2.0]]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=re.escape("lists of vector must have one length, got [1, 2]")):
        load_embeddings(tmp_path / "t.parquet", x="vector")


# AnnData.


def cells(n=60, genes=12, seed=0, sparse=True):
    """Counts of a few cell types (negative binomial): 2 coarse types, 5 fine ones, some cells without a type."""
    anndata, pandas = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, 5, n)
    mean = rng.gamma(1.0, 3.0, (5, genes))[fine] * rng.gamma(20.0, 0.05, (n, 1))  # profile x size of the cell
    counts = rng.negative_binomial(2, 2 / (2 + mean)).astype(np.float32)
    coarse = np.array(["T", "T", "B", "B", "B"], dtype=object)[fine]
    coarse[::10] = "Unknown"
    obs = pandas.DataFrame(index=[f"cell{i}" for i in range(n)])
    obs["cell_type"] = pandas.Categorical(coarse, ["T", "Unknown", "B"])
    obs["cell_state"] = pandas.Categorical.from_codes(fine, ["naive", "memory", "plasma", "b1", "b2"])
    obs["batch"] = ["x"] * n
    obs["donor"] = pandas.array([None, 12, 7, *[7] * (n - 3)], dtype="Int64")
    if sparse:
        counts = pytest.importorskip("scipy.sparse").csr_matrix(counts)
    return anndata.AnnData(counts, obs=obs, layers={"log": np.log1p(counts)}, obsm={"X_pca": rng.normal(size=(n, 4))})


@pytest.mark.parametrize("sparse", [True, False])
def test_h5ad(tmp_path, sparse):
    adata = cells(sparse=sparse)
    path = tmp_path / "t.h5ad"
    adata.write_h5ad(path)
    options = {"coarse": "cell_type", "fine": "cell_state", "unlabeled": "Unknown"}
    data = load_embeddings(path, **options)
    assert hasattr(data.X, "indptr") == sparse
    assert data.X.dtype == np.float32
    dense = (lambda matrix: matrix.toarray()) if sparse else np.asarray
    assert np.array_equal(dense(data.X), dense(adata.X))
    assert data.coarse_names == (("T", "B"),), "the order of the categories, without the unlabelled one"
    expected = [-1 if name == "Unknown" else ["T", "B"].index(name) for name in adata.obs["cell_type"]]
    assert data.coarse.tolist() == expected
    assert data.fine_names == ("naive", "memory", "plasma", "b1", "b2")
    assert data.fine.tolist() == adata.obs["cell_state"].cat.codes.tolist()
    assert data.ids.tolist() == adata.obs_names.tolist()
    assert np.array_equal(dense(load_embeddings(path, layer="log").X), dense(adata.layers["log"]))
    pca = load_embeddings(path, obsm="X_pca", mmap=True, **options)
    assert np.array_equal(pca.X, adata.obsm["X_pca"].astype(np.float32))
    assert pca.coarse.tolist() == expected
    mapped = load_embeddings(path, mmap=True, **options)
    assert isinstance(mapped.X, np.memmap) != sparse
    assert np.array_equal(dense(mapped.X), dense(adata.X))
    assert load_embeddings(path, coarse="batch").coarse.tolist() == [0] * len(adata)
    donor = load_embeddings(path, coarse="donor")
    assert donor.coarse[:3].tolist() == [-1, 1, 0]
    assert donor.coarse_names == (("7", "12"),)
    for bad, message in [
        ({"layer": "raw"}, "layers of t.h5ad must have 'raw', got log"),
        ({"obsm": "X_umap"}, "obsm of t.h5ad must have 'X_umap', got X_pca"),
        ({"obsm": "a", "layer": "b"}, "layer or obsm must be None, got 'b', 'a'"),
        ({"coarse": "type"}, "t.h5ad must have type, got none named type"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            load_embeddings(path, **bad)


def test_h5ad_that_cannot_be_mapped_is_read(tmp_path):
    adata = cells(sparse=False)
    adata.write_h5ad(tmp_path / "t.h5ad", compression="gzip")
    data = load_embeddings(tmp_path / "t.h5ad", mmap=True)
    assert not isinstance(data.X, np.memmap)
    assert np.array_equal(data.X, adata.X)


# Predictions.

PREDICTED = {
    "fine": np.array([3, 0, 3, 1]),
    "confidence": np.array([0.5, 0.75, 1.0, 0.25]),
    "coarse": np.array([1, 0, 1, 0]),
    "coarse_names": [["a", "b"], ["x"]],
    "scores": np.arange(16.0).reshape(4, 4),
    "relations": np.array([[0, 0, 1, 1], [0, 0, 0, 0]]),
    "params": {"n_fine": 4, "seed": 0},
}


@pytest.mark.parametrize(("name", "delimiter"), [("p.csv", ","), ("p.tsv", "\t")])
def test_predictions_as_text(tmp_path, name, delimiter):
    save_predictions(tmp_path / name, ids=list("wxyz"), **PREDICTED)
    lines = (tmp_path / name).read_text().splitlines()
    assert lines[0].split(delimiter) == ["id", "c2f_fine", "c2f_fine_conf", "c2f_coarse"]
    assert lines[2].split(delimiter) == ["x", "0", "0.75", "0"]
    assert len(lines) == 5
    save_predictions(tmp_path / name, fine=[1], confidence=[0.5])
    assert (tmp_path / name).read_text().splitlines()[1].split(delimiter) == ["0", "1", "0.5"]
    assert [path.name for path in tmp_path.iterdir()] == [name], "no draft stays behind"


def test_predictions_as_npz(tmp_path):
    save_predictions(tmp_path / "p.npz", ids=list("wxyz"), **PREDICTED)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as data:
        assert data["id"].tolist() == list("wxyz")
        assert np.array_equal(data["c2f_fine"], PREDICTED["fine"])
        assert np.array_equal(data["X_c2f"], PREDICTED["scores"])
        assert np.array_equal(data["relations"], PREDICTED["relations"])
        assert data["coarse_names_0"].tolist() == ["a", "b"]
        assert json.loads(str(data["params"])) == PREDICTED["params"]
    back = load_embeddings(tmp_path / "p.npz", x="X_c2f", fine="c2f_fine", coarse="c2f_coarse")
    assert back.coarse.tolist() == PREDICTED["coarse"].tolist()


def test_predictions_as_parquet(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    save_predictions(tmp_path / "p.parquet", **PREDICTED)
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["id", "c2f_fine", "c2f_fine_conf", "c2f_coarse", "X_c2f"]
    assert table["c2f_fine_conf"].to_pylist() == PREDICTED["confidence"].tolist()
    assert json.loads(table.schema.metadata[b"c2f"])["params"] == PREDICTED["params"]
    assert np.array_equal(load_embeddings(tmp_path / "p.parquet", x="X_c2f").X, PREDICTED["scores"])


def test_predictions_beside_the_cells(tmp_path):
    anndata = pytest.importorskip("anndata")
    adata = cells(n=4)
    adata.write_h5ad(tmp_path / "t.h5ad")
    save_predictions(tmp_path / "t.h5ad", source=tmp_path / "t.h5ad", ids=adata.obs_names, **PREDICTED)
    back = anndata.read_h5ad(tmp_path / "t.h5ad")
    assert np.array_equal(back.X.toarray(), adata.X.toarray())
    assert back.obs["cell_type"].tolist() == adata.obs["cell_type"].tolist()
    assert back.obs["c2f_fine"].tolist() == ["3", "0", "3", "1"]
    assert back.obs["c2f_fine"].cat.categories.tolist() == ["0", "1", "2", "3"]
    assert back.obs["c2f_fine_conf"].tolist() == PREDICTED["confidence"].tolist()
    assert back.obs["c2f_coarse"].tolist() == ["b", "a", "b", "a"]
    assert np.array_equal(back.obsm["X_c2f"], PREDICTED["scores"])
    record = back.uns["c2f"]
    assert sorted(record) == ["hierarchy", "params", "version"]
    assert np.array_equal(record["hierarchy"]["relations"], PREDICTED["relations"])
    assert list(record["hierarchy"]["coarse_names_0"]) == ["a", "b"]
    assert json.loads(record["params"]) == PREDICTED["params"]
    before = (tmp_path / "t.h5ad").read_bytes()
    for changes, message in [
        ({"fine": [0], "confidence": [1.0]}, "fine must have 4 rows, the cells of source, got 1"),
        ({"fine": [0] * 4, "confidence": [1.0] * 4, "ids": list("abcd")}, "ids must be the obs_names of source"),
    ]:
        with pytest.raises(ValueError, match=message):
            save_predictions(tmp_path / "t.h5ad", source=tmp_path / "t.h5ad", **changes)
    assert (tmp_path / "t.h5ad").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["t.h5ad"]


def test_predictions_as_a_new_h5ad(tmp_path):
    anndata = pytest.importorskip("anndata")
    save_predictions(tmp_path / "p.h5ad", fine=[1, 0], confidence=[0.5, 1.0], ids=["u", "v"])
    back = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert back.obs_names.tolist() == ["u", "v"]
    assert back.obs["c2f_fine"].tolist() == ["1", "0"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "p.csv"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("c2f_ops.data.predictions.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_predictions(path, fine=[0], confidence=[1.0])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_prediction_errors(tmp_path):
    with pytest.raises(ValueError, match="scores must have 1 rows, as fine has, got 2"):
        save_predictions(tmp_path / "p.npz", fine=[0], confidence=[1.0], scores=[[0.0], [1.0]])
    with pytest.raises(ValueError, match=r"source must be None for .npz, got in.h5ad"):
        save_predictions(tmp_path / "p.npz", fine=[0], confidence=[1.0], source="in.h5ad")
