"""MLPH in a folder: weights in safetensors; config, hierarchy and calibration in JSON, under one list of hashes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .._files import MODEL, Damaged, read_json, read_signed, replacing, sha256_of, signed, write_json
from .._version import __version__
from ..hierarchy import Hierarchy
from .taps import _import

if TYPE_CHECKING:
    from .mlph import MLPH

CONFIG, HIERARCHY, CALIBRATION = "config.json", "hierarchy.json", "calibration.json"
_KIND, _FORMAT, _SHOWN = "c2f_ops.MLPH", 1, 5


def save(model: MLPH, folder: Path) -> None:
    """Write ``model`` to ``folder``; see `MLPH.save_pretrained`."""
    tree = model.hierarchy
    if tree is None:
        raise ValueError(
            f"MLPH.save_pretrained: model must be made with a Hierarchy, whose names a reader needs, "
            f"got one made with class counts {model.num_classes}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with replacing(folder / MODEL) as partial:
        _import("safetensors.torch").save_file(tensors, partial, {"format": "pt", "hierarchy": tree.sha256})
    tree.to_json(folder / HIERARCHY)
    files = [MODEL, HIERARCHY]
    if model.calibration is None:
        (folder / CALIBRATION).unlink(missing_ok=True)  # of a model that stood here before
    else:
        write_json(folder / CALIBRATION, model.calibration)
        files.append(CALIBRATION)
    about = {
        "kind": _KIND, "format": _FORMAT, "version": __version__, "model": model.config, "mean": list(model.mean),
        "std": list(model.std), "hierarchy": tree.sha256, "files": {name: sha256_of(folder / name) for name in files},
    }  # fmt: skip
    write_json(folder / CONFIG, signed(about))


def load(cls: type[MLPH], folder: Path, hierarchy: Hierarchy | None, *, map_names: bool) -> MLPH:
    """Read a model; see `MLPH.from_pretrained`."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"MLPH.from_pretrained: folder must hold {CONFIG}, got {folder}")
    try:
        about = _checked(folder)
        saved = Hierarchy.from_json(folder / HIERARCHY)
        calibration = read_json(folder / CALIBRATION) if CALIBRATION in about["files"] else None
    except Damaged as error:
        raise ValueError(f"MLPH.from_pretrained: {error}") from None
    tree = saved if hierarchy is None else hierarchy
    if tree != saved and not map_names:
        raise ValueError(
            f"MLPH.from_pretrained: hierarchy must be the one of {folder} with sha256 {saved.sha256[:12]}, "
            f"got {tree.sha256[:12]}; map_names=True keeps the classes that both have by name"
        )
    model = cls(tree, **about["model"])
    for part in (model, model.backbone):  # those of the weights, not of the architecture
        part.mean, part.std = tuple(about["mean"]), tuple(about["std"])
    tensors = _import("safetensors.torch").load_file(folder / MODEL)
    if tree != saved:
        _map_heads(model, tensors, tree.match_names(saved))
        if calibration is not None:
            warnings.warn("MLPH.from_pretrained: calibration belongs to the other hierarchy and is left", stacklevel=3)
            calibration = None
    own = model.state_dict()
    odd = own.keys() ^ tensors.keys() or {key for key in own if own[key].shape != tensors[key].shape}
    if odd:
        raise ValueError(f"MLPH.from_pretrained: {folder / MODEL} must suit {CONFIG}, got another tensor {min(odd)}")
    model.load_state_dict(tensors)
    model.calibration = calibration
    return model.eval()


def _checked(folder: Path) -> dict[str, Any]:
    """Return config.json after a look at every file that it lists."""
    about, _ = read_signed(folder / CONFIG)
    if about.get("kind") != _KIND:
        raise Damaged(folder / CONFIG, f"must be of kind {_KIND}, got {about.get('kind')!r}")
    if about.get("format") != _FORMAT:
        raise Damaged(
            folder / CONFIG,
            f"must have format {_FORMAT}, got {about.get('format')!r} of c2f_ops {about.get('version')}",
        )
    for name in (MODEL, HIERARCHY, CALIBRATION):
        if name in about["files"] and sha256_of(folder / name) != about["files"][name]:
            raise Damaged(folder / name, f"is not as it was written: {CONFIG} has another sha256")
    return about


def _map_heads(model: MLPH, tensors: dict[str, Tensor], matches: tuple[Tensor, ...]) -> None:
    """Put the rows of the heads where the classes of the same names are in ``model``; new classes keep its rows."""
    tree, own = model.hierarchy, model.state_dict()
    assert tree is not None
    if all(bool((match < 0).all()) for match in matches):
        raise ValueError("MLPH.from_pretrained: hierarchy must share class names with that of the folder, got none")
    for k, match in enumerate(matches):
        known = match >= 0
        for name in (f"heads.{k}.weight", f"heads.{k}.bias"):
            rows = own[name].clone()
            rows[known] = tensors[name][match[known]]
            tensors[name] = rows
        new = [name for name, keep in zip(tree.names[k], known.tolist(), strict=True) if not keep]
        if new:
            listed = ", ".join(new[:_SHOWN]) + (", ..." if len(new) > _SHOWN else "")
            warnings.warn(
                f"MLPH.from_pretrained: {len(new)} of {len(known)} classes of level {tree.levels[k]!r} are new and "
                f"keep their initial values: {listed}",
                stacklevel=4,
            )
