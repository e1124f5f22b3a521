"""Weights of backbones from files of MoCo v3, solo-learn, timm, torchvision and our own runs; none runs code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from .._files import MODEL, STATE, Damaged, newest_checkpoint, read_checkpoint
from ._tensors import read_tensors

#: Where each kind of file keeps the backbone. Momentum copies are not among them: name their prefix to get them.
PREFIXES: dict[str, tuple[str, ...]] = {
    "mocov3": ("module.base_encoder.", "base_encoder.", "module.encoder_q.", "encoder_q."),
    "solo": ("backbone.", "encoder."),
    "timm": ("", "module.", "model."),
    "torchvision": ("", "module."),
    "c2f": ("backbone.", "student.backbone.", "module.backbone."),
}
SOURCES = ("auto", *PREFIXES)
_HEADS = ("fc", "head", "head_dist", "heads", "classifier", "projector", "predictor", "linear")


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_backbone_weights` did.

    Attributes:
        source, prefix: where the weights were found.
        loaded: names of the tensors that the model took.
        missing: those of the model that the file lacks, counters of batch norms aside.
        unexpected: tensors of another name or shape below the prefix, heads aside.
        dropped: tensors of heads, and all that is outside the prefix.
    """

    source: str
    prefix: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]


def load_backbone_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    source: str = "auto",
    prefix: str | None = None,
    strict: bool = True,
) -> LoadedWeights:
    """Load the weights of a backbone without its heads.

    Args:
        model: a backbone of `c2f_ops.models.make_backbone`, or any module with the names of the file.
        path: a ``.safetensors`` file, one of `torch.save`, or the folder of a checkpoint or a run, whose newest
            checkpoint counts. Only tensors and plain data are read; a file that needs more is refused.
        source: ``"mocov3"`` (v1 and v2 too), ``"solo"``, ``"timm"``, ``"torchvision"``, ``"c2f"``, or ``"auto"``: the
            one with most tensors of the model.
        prefix: of the names of the backbone in the file, where it is none of `PREFIXES`, for example
            ``"module.momentum_encoder."``.
        strict: whether a missing or an unexpected tensor is an error; without it at least one tensor must fit.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not safe to read, or holds no weights of this model, or of another size.
    """
    if source not in SOURCES:
        raise ValueError(f"load_backbone_weights: source must be one of {', '.join(SOURCES)}, got {source!r}")
    file = _find(Path(path))
    tensors = read_tensors(file, "load_backbone_weights", "path")
    own = model.state_dict()
    candidates = [(source, prefix)] if prefix is not None else _candidates(tensors, source)
    fitting = [(_fitting(own, tensors, p), s, p) for s, p in candidates]
    loaded, source, prefix = max(fitting, key=lambda entry: len(entry[0]), default=((), source, ""))
    if not loaded:
        raise ValueError(
            f"load_backbone_weights: path must hold weights of {type(model).__name__} "
            f"({', '.join(list(own)[:2])}, ...) as {source} names them, "
            f"got {', '.join(list(tensors)[:3]) or 'no tensors'}, ... in {file}"
        )
    below = [key for key in tensors if key.startswith(prefix)]
    odd = [key for key in below if key[len(prefix) :] not in loaded]
    heads = {key for key in odd if key[len(prefix) :].partition(".")[0] in _HEADS and key[len(prefix) :] not in own}
    report = LoadedWeights(
        source,
        prefix,
        loaded,
        tuple(key for key in own if key not in loaded and not key.endswith("num_batches_tracked")),
        tuple(key for key in odd if key not in heads),
        tuple(key for key in tensors if key in heads or not key.startswith(prefix)),
    )
    if strict and (report.missing or report.unexpected):
        raise ValueError(
            f"load_backbone_weights: path must hold exactly the weights of the model, "
            f"got {len(report.missing)} missing ({_first(report.missing, own)}) "
            f"and {len(report.unexpected)} unexpected ({_first(report.unexpected, tensors)}) in {file}"
        )
    model.load_state_dict({key: tensors[prefix + key] for key in loaded}, strict=False)
    return report


def _find(path: Path) -> Path:
    """Return the file that a path means; a checkpoint must be as it was written."""
    if path.is_dir() and (path / STATE).is_file():
        try:
            read_checkpoint(path)
        except Damaged as error:
            raise ValueError(f"load_backbone_weights: path must hold an intact checkpoint, got {error}") from None
    newest = newest_checkpoint(path)
    folder = path if newest is None else newest[0]
    return folder / MODEL if folder.is_dir() else folder


def _candidates(tensors: Mapping[str, Tensor], source: str) -> list[tuple[str, str]]:
    """Sources and prefixes that occur in a file, in the order of `PREFIXES`."""
    return [
        (name, prefix)
        for name, prefixes in PREFIXES.items()
        if source in ("auto", name)
        for prefix in prefixes
        if any(key.startswith(prefix) for key in tensors)
    ]


def _fitting(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    return tuple(key for key in own if prefix + key in tensors and tensors[prefix + key].shape == own[key].shape)


def _first(keys: tuple[str, ...], tensors: Mapping[str, Tensor]) -> str:
    return f"{keys[0]} {list(tensors[keys[0]].shape)}" if keys else "none"
