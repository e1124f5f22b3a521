"""Answers about objects that are seen again and again: evidence adds up, answers deepen and seldom turn back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from ..metrics import hierarchical_metrics
from .calibration import TARGET, Calibration
from .decoding import check_finite, posteriors
from .rule import Answer, describe, settle


class ObjectStream:
    """Objects, one per row, each with the evidence of its frames so far.

    The state of an object is the weighted sum of the path log-scores of its frames. Frames of one object err together,
    so the sum of weights is capped: with W the weight so far, a frame of weight w that would take it beyond ``n_eff``
    first shrinks what was there,

        S <- S (n_eff - w) / W + w s,    W <- n_eff,

    so that the newest frame always counts in full. An answer may deepen at any frame; it is withdrawn only where its
    posterior falls below its threshold by more than ``hysteresis``, or below that of another child of the same node.
    A level with threshold 0 is answered at every frame from the evidence so far.

    Args:
        hierarchy: the tree.
        calibration: of the model.
        batch: number of objects.
        n_eff: cap on the sum of weights.
        hysteresis: see above.
        target: precision wanted, one of ``calibration.targets``.

    Attributes:
        scores: float64 ``[batch, n_{K-1}]``. evidence: ``[batch]``, the sums of weights.
        nodes: LongTensor ``[batch, K]``, the answers, -1 for none.

    Raises:
        ValueError: the calibration is of another tree, or an option is out of range.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        calibration: Calibration,
        *,
        batch: int = 1,
        n_eff: float = 5.0,
        hysteresis: float = 0.1,
        target: float = TARGET,
    ) -> None:
        calibration.check(hierarchy)
        for name, value, right in (("batch", batch, batch >= 1), ("n_eff", n_eff, n_eff > 0)):
            if not right:
                raise ValueError(f"ObjectStream: {name} must be positive, got {value}")
        if not hysteresis >= 0:
            raise ValueError(f"ObjectStream: hysteresis must be from 0 up, got {hysteresis}")
        self.hierarchy, self.calibration = hierarchy, calibration
        self.n_eff, self.hysteresis, self.target = n_eff, hysteresis, target
        self.thresholds = calibration.thresholds_of(target)
        self.scores = torch.zeros((batch, hierarchy.sizes[-1]), dtype=torch.float64)
        self.evidence = torch.zeros(batch, dtype=torch.float64)
        self.nodes = torch.full((batch, hierarchy.num_levels), -1)

    def update(
        self,
        logits: Sequence[Tensor],
        side: int | None,
        weight: float = 1.0,
        rows: Sequence[int] | Tensor | None = None,
    ) -> list[Answer]:
        """Add one frame of some objects and return their answers.

        Args:
            logits: K tensors ``[B, n_k]``, coarse to fine, of any floating dtype and on any device.
            side: native side of the crops in pixels; None for unknown.
            weight: of the frame, in (0, n_eff].
            rows: B distinct objects that the frames show; by default all, in order.

        Returns:
            B answers.

        Raises:
            ValueError: logits, side, weight or rows do not fit; logits are not finite. Nothing has changed then.
        """
        if not 0 < weight <= self.n_eff:
            raise ValueError(f"ObjectStream.update: weight must be in (0, {self.n_eff}], got {weight}")
        chosen = self._rows("update", rows)
        frame = self.calibration.scores([z.cpu() for z in logits], self.hierarchy, side)
        if len(frame) != len(chosen):
            raise ValueError(f"ObjectStream.update: logits must have {len(chosen)} rows, got {len(frame)}")
        check_finite("ObjectStream.update", "logits", [frame])
        before = self.evidence[chosen]
        full = before + weight > self.n_eff
        shrink = torch.where(full, (self.n_eff - weight) / before.clamp(min=torch.finfo(before.dtype).tiny), 1.0)
        self.scores[chosen] = self.scores[chosen] * shrink[:, None] + weight * frame
        self.evidence[chosen] = (before + weight).clamp(max=self.n_eff)
        p = self.posteriors(chosen)
        nodes = settle(p, self.hierarchy, self.thresholds, held=self.nodes[chosen], hysteresis=self.hysteresis)
        self.nodes[chosen] = nodes
        return describe(nodes, p, self.hierarchy, self.thresholds)

    def posteriors(self, rows: Sequence[int] | Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the probability of every node given the frames so far, K tensors ``[B, n_k]``.

        Raises:
            ValueError: rows are repeated or out of range.
        """
        return posteriors(self.scores[self._rows("posteriors", rows)], self.hierarchy)

    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Forget objects, by default all: other ones take their rows.

        Raises:
            ValueError: rows are repeated or out of range.
        """
        chosen = self._rows("reset", rows)
        self.scores[chosen], self.evidence[chosen], self.nodes[chosen] = 0.0, 0.0, -1

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON data; hierarchy and calibration are not in it."""
        return {
            "hierarchy": self.hierarchy.sha256,
            "n_eff": self.n_eff,
            "hysteresis": self.hysteresis,
            "target": self.target,
            "scores": self.scores.tolist(),
            "evidence": self.evidence.tolist(),
            "nodes": self.nodes.tolist(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], hierarchy: Hierarchy, calibration: Calibration) -> ObjectStream:
        """Go on from the state that `to_dict` gave, bit by bit.

        Raises:
            ValueError: the state is of another tree or is something else; see also `ObjectStream`.
        """
        try:
            saved, options = state["hierarchy"], {name: state[name] for name in ("n_eff", "hysteresis", "target")}
            scores, evidence = (torch.tensor(state[name], dtype=torch.float64) for name in ("scores", "evidence"))
            nodes = torch.tensor(state["nodes"], dtype=torch.long)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"ObjectStream: state must be that of to_dict, got {error!r}") from None
        if saved != hierarchy.sha256:
            raise ValueError(
                f"ObjectStream: state must be of the hierarchy {hierarchy.sha256[:12]}, got {str(saved)[:12]}"
            )
        stream = cls(hierarchy, calibration, batch=len(scores), **options)
        for name, value in (("scores", scores), ("evidence", evidence), ("nodes", nodes)):
            if value.shape != (wanted := getattr(stream, name).shape):
                raise ValueError(f"ObjectStream: {name} must have shape {list(wanted)}, got {list(value.shape)}")
            setattr(stream, name, value)
        return stream

    def _rows(self, method: str, rows: Sequence[int] | Tensor | None) -> Tensor:
        everything = torch.arange(len(self.evidence))
        chosen = everything if rows is None else torch.as_tensor(rows, dtype=torch.long)
        if chosen.ndim != 1 or len(chosen.unique()) < len(chosen) or not torch.isin(chosen, everything).all():
            raise ValueError(
                f"ObjectStream.{method}: rows must be distinct and in 0..{len(everything) - 1}, got {chosen.tolist()}"
            )
        return chosen


def stream_report(
    answers: Sequence[Sequence[Answer]], sides: Sequence[int], truth: Tensor, hierarchy: Hierarchy
) -> dict[str, Any]:
    """Say how answers deepened over the frames of objects.

    Args:
        answers: for each of F frames those about N objects.
        sides: F sides.
        truth: LongTensor ``[N, K]``, -1 for unknown.
        hierarchy: the tree.

    Returns:
        JSON data: ``reached`` {level: {"share" of objects ever answered at that level, mean number "frame" (from 1) and
        "side" of the first such frame}}; ``flip_rate``, the share of given nodes that the next frame changed or
        withdrew, and ``withdrawn_rate``, the share that it withdrew; ``final``: coverage and accuracy of the last
        answers per level, mean depth, and hierarchical F1.

    Raises:
        ValueError: sides or truth do not fit the answers, there are none, or truth does not fit the tree.
    """
    if len(answers) != len(sides) or not answers:
        raise ValueError(f"stream_report: sides must be one per frame, got {len(sides)} for {len(answers)} frames")
    if not len(truth) or any(len(frame) != len(truth) for frame in answers):
        counts = ", ".join(map(str, sorted({len(frame) for frame in answers})))
        raise ValueError(f"stream_report: answers must be one per row of truth, got {counts} for {len(truth)} rows")
    nodes = torch.tensor([[a.nodes for a in frame] for frame in answers])  # [F, N, K]
    given, frame_sides = nodes >= 0, torch.tensor(sides, dtype=torch.float64)
    reached = {}
    for k, level in enumerate(hierarchy.levels):
        ever = given[:, :, k].any(0)
        first = given[:, ever, k].long().argmax(0)  # the first of equal values
        reached[level] = {
            "share": _mean(ever),
            "frame": _mean(first + 1),
            "side": _mean(frame_sides[first]),
        }
    before, after = nodes[:-1], nodes[1:]
    final = hierarchical_metrics(nodes[-1], truth, hierarchy)
    fields = ("coverage", "answered_accuracy", "mean_depth", "hierarchical_f1")
    return {
        "objects": nodes.shape[1],
        "sides": list(sides),
        "reached": reached,
        "flip_rate": _mean((after != before)[before >= 0]),
        "withdrawn_rate": _mean((after < 0)[before >= 0]),
        "final": {name: _known(final.to_dict()[name]) for name in fields},
    }


def _known(value: Any) -> Any:
    """None in place of the accuracy of no answers, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: _known(item) for key, item in value.items()}
    return None if math.isnan(value) else value


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
