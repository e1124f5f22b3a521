"""Stanford Cars: the official folders, whose tables are MATLAB files, or an index file. Nothing is downloaded."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .._hierarchy_checks import clean, some
from .cars import cars_hierarchy
from .images import FileSource, LabeledImages

COLUMNS = {"path": "a file", "model": "a class name", "split": "train or test"}
SPLITS = ("train", "test")


class Cars(NamedTuple):
    """Class names in the order of the class ids, and the files of a split with their class ids, as a table has them."""

    table: Path
    models: list[str]
    folder: Path
    files: list[str]
    classes: list[int]


def load_cars(root: Path, split: str, *, merge_supercab: bool = False, **options: Any) -> LabeledImages:
    """Read Stanford Cars in one of three forms; levels body type, make and body type, model (see `cars_hierarchy`).

    - ``cars.csv``: columns path, model (class name), split; paths are relative to it.
    - ``cars_annos.mat`` with ``car_ims/``.
    - ``devkit/`` with ``cars_train/`` and ``cars_test/``; the labels of the test images stand in
      ``cars_test_annos_withlabels.mat``, in ``devkit`` or beside it.

    Args:
        root: folder of these files, or of the folder ``stanford_cars`` with them.
        split: ``"train"`` or ``"test"``.
        merge_supercab: count "SuperCab" as "Extended Cab": 13 body types instead of 14.
        options: as for :class:`LabeledImages`.

    Raises:
        FileNotFoundError: none of the three, or one of their tables is missing.
        ValueError: a table is damaged, lacks columns, cells or lines of the split, or names an unknown class.
        ImportError: SciPy, which reads ``.mat``, is not installed.
    """
    for folder in (root, root / "stanford_cars"):
        if (folder / "cars.csv").is_file():
            cars = _read_csv(folder / "cars.csv", split)
        elif (folder / "cars_annos.mat").is_file():
            cars = _read_annotations(folder, split)
        elif (folder / "devkit").is_dir():
            cars = _read_devkit(folder, split)
        else:
            continue
        break
    else:
        raise FileNotFoundError(f"load_dataset: root must hold cars.csv, cars_annos.mat or devkit, got {root}")
    if not cars.files:
        raise ValueError(f"load_dataset: {cars.table.name} must have lines of split {split!r}, got none")
    hierarchy = cars_hierarchy(cars.models, merge_supercab=merge_supercab)
    wrong = sorted({i for i in cars.classes if not 0 <= i < len(cars.models)})
    if wrong:
        numbers = some((i + 1 for i in wrong), "classes")
        raise ValueError(
            f"load_dataset: cars in {cars.folder} must be of classes 1 to {len(cars.models)}, got {numbers}"
        )
    files = FileSource([cars.folder / name for name in cars.files])
    return LabeledImages("cars", split, hierarchy, hierarchy.from_fine(cars.classes), cars.files, files, **options)


def _read_csv(path: Path, split: str) -> Cars:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise ValueError(
                f"load_dataset: {path.name} must have the columns {', '.join(COLUMNS)}, "
                f"got {', '.join(reader.fieldnames or ()) or 'none'}"
            )
        lines = [(reader.line_num, {column: clean(row[column]) for column in COLUMNS}) for row in reader]
    for column, expected in COLUMNS.items():
        wrong = [i for i, row in lines if (row[column] not in SPLITS if column == "split" else not row[column])]
        if wrong:
            where = some(wrong, "lines")
            raise ValueError(f"load_dataset: {path.name} must have {expected} in column {column}, got others ({where})")
    rows = [row for _, row in lines]
    models = sorted({row["model"] for row in rows})
    chosen = [row for row in rows if row["split"] == split]
    position = {model: i for i, model in enumerate(models)}
    return Cars(path, models, path.parent, [row["path"] for row in chosen], [position[row["model"]] for row in chosen])


def _read_annotations(folder: Path, split: str) -> Cars:
    path = folder / "cars_annos.mat"
    table = _load_mat(path, "class_names", "annotations")
    rows = _rows(path, table["annotations"], "test", "relative_im_path", "class")
    chosen = [row for row in rows if bool(row["test"]) == (split == "test")]
    files = [str(row["relative_im_path"]) for row in chosen]
    return Cars(path, _names(table["class_names"]), folder, files, [int(row["class"]) - 1 for row in chosen])


def _read_devkit(folder: Path, split: str) -> Cars:
    models = _names(_load_mat(folder / "devkit" / "cars_meta.mat", "class_names")["class_names"])
    name = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
    path = folder / name if (folder / name).is_file() else folder / "devkit" / name
    rows = _rows(path, _load_mat(path, "annotations")["annotations"], "fname", "class")
    images = folder / f"cars_{split}"
    return Cars(path, models, images, [str(row["fname"]) for row in rows], [int(row["class"]) - 1 for row in rows])


def _load_mat(path: Path, *keys: str) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError(
            'load_dataset: scipy, which reads .mat, is not installed; pip install "c2f_ops[train]"'
        ) from None
    if not path.is_file():
        raise FileNotFoundError(f"load_dataset: root must hold {path.name} of Stanford Cars, got {path.parent}")
    try:
        table: dict[str, Any] = loadmat(path, squeeze_me=True)
    except Exception as error:  # a damaged file fails in any way
        raise ValueError(f"load_dataset: {path} must be a MATLAB file, got {type(error).__name__}: {error}") from None
    missing = [key for key in keys if key not in table]
    if missing:
        raise ValueError(f"load_dataset: {path} must hold {', '.join(keys)}, got none for {', '.join(missing)}")
    return table


def _rows(path: Path, table: Any, *fields: str) -> Iterable[Any]:
    missing = [field for field in fields if field not in (table.dtype.names or ())]
    if missing:
        raise ValueError(
            f"load_dataset: annotations of {path} must have {', '.join(fields)}, got none for {', '.join(missing)}"
        )
    return table.reshape(-1)  # one line alone comes without a dimension


def _names(cells: Any) -> list[str]:
    return [str(name) for name in cells.reshape(-1)]
