"""CIFAR-100 from packed .npz shards or from the standard folder ``cifar-100-python``. Nothing is downloaded."""

from __future__ import annotations

import codecs
import io
import pickle
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from .images import LabeledImages, decode_image

SIDE = 32


class Cifar(NamedTuple):
    """Images uint8 ``[N, 3, 32, 32]``, fine labels ``[N]``, file names, and the tree."""

    images: Tensor
    fine: np.ndarray
    ids: list[str]
    hierarchy: Hierarchy


def load_cifar100(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read ``cifar100_<split>*.npz`` in ``root`` if there is one, else ``cifar-100-python`` (``root`` or below it)."""
    shards = sorted(root.glob(f"cifar100_{split}*.npz"))
    folder = root / "cifar-100-python" if (root / "cifar-100-python").is_dir() else root
    if shards:
        data = _read_shards(shards)
    elif (folder / split).is_file() and (folder / "meta").is_file():
        data = _read_pickles(folder, split)
    else:
        raise FileNotFoundError(
            f"load_dataset: root must hold cifar100_{split}*.npz or the folder cifar-100-python, got {root}"
        )
    labels = data.hierarchy.from_fine(data.fine)
    return LabeledImages("cifar100", split, data.hierarchy, labels, data.ids, data.images, **options)


def _read_shards(paths: list[Path]) -> Cifar:
    """Read shards: atlases of 32 x 32 tiles in WebP, labels, and names compressed with zlib."""
    images: list[Tensor] = []
    fine: list[np.ndarray] = []
    ids: list[str] = []
    trees: list[Hierarchy] = []
    for path in paths:
        with np.load(path, allow_pickle=False) as shard:
            if "scale" in shard and int(shard["scale"]) != 1:
                raise ValueError(f"load_dataset: {path} must have scale 1, got {shard['scale']}")
            for key in sorted(key for key in shard.files if key.startswith("atlas_")):
                atlas = decode_image(shard[key].tobytes())
                tiles = atlas.unflatten(2, (-1, SIDE)).unflatten(1, (-1, SIDE))  # [3, rows, 32, columns, 32]
                images.append(tiles.permute(1, 3, 0, 2, 4).flatten(0, 1))
            fine.append(shard["fine"].astype(np.int64))
            ids += zlib.decompress(shard["filename_zlib"].tobytes()).decode().split("\n")
            names, coarse_names = ([name.decode() for name in shard[key]] for key in ("fine_names", "coarse_names"))
            trees.append(_tree(coarse_names, names, shard["fine_to_coarse"].tolist()))
    if any(tree != trees[0] for tree in trees):
        raise ValueError(f"load_dataset: shards must have one hierarchy, got several in {', '.join(map(str, paths))}")
    return Cifar(torch.cat(images), np.concatenate(fine), ids, trees[0])


def _read_pickles(folder: Path, split: str) -> Cifar:
    data = _load_plain(folder / split, "data", "filenames", "fine_labels", "coarse_labels")
    names = _load_plain(folder / "meta", "fine_label_names", "coarse_label_names")
    fine, coarse = np.asarray(data["fine_labels"]), np.asarray(data["coarse_labels"])
    pairs = np.unique(np.stack([fine, coarse], axis=1), axis=0)
    if not np.array_equal(pairs[:, 0], np.arange(len(names["fine_label_names"]))):
        raise ValueError(
            f"load_dataset: {folder / split} must give each fine class one coarse class, got {len(pairs)} pairs"
        )
    tree = _tree(names["coarse_label_names"], names["fine_label_names"], pairs[:, 1].tolist())
    images = torch.from_numpy(np.ascontiguousarray(data["data"])).view(-1, 3, SIDE, SIDE)
    return Cifar(images, fine, list(data["filenames"]), tree)


def _tree(coarse: list[str], fine: list[str], fine_to_coarse: list[int]) -> Hierarchy:
    return Hierarchy(("coarse", "fine"), (coarse, fine), (None, fine_to_coarse), {"source": "CIFAR-100"})


_ARRAY = np.empty(0)

#: All that pickles of plain data and NumPy arrays refer to; the two functions have moved between versions of NumPy.
_PLAIN = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY.__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY.__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): _ARRAY.__reduce_ex__(5)[0],
    ("numpy._core.numeric", "_frombuffer"): _ARRAY.__reduce_ex__(5)[0],
    ("_codecs", "encode"): codecs.encode,  # how Python 3 writes bytes in the old protocols
}


class _PlainUnpickler(pickle.Unpickler):
    """Unpickle numbers, strings, lists, dicts and NumPy arrays; refuse everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _PLAIN[module, name]


def _load_plain(path: Path, *keys: str) -> dict[str, Any]:
    # The published files were written by Python 2: latin1 maps their byte strings, array data included, one to one.
    data = io.BytesIO(path.read_bytes())
    try:
        content = _PlainUnpickler(data, encoding="latin1").load()
    except Exception as error:  # reading a damaged pickle fails in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"load_dataset: {path} must be a pickle of plain data and arrays, got {reason}") from None
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"load_dataset: {path} must hold {', '.join(keys)}, got none for {', '.join(missing)}")
    return content
