"""A bounded uniform sample of a stream for each group."""

from __future__ import annotations

import numpy as np

from ._inputs import Labels


class Reservoir:
    """Up to ``size`` samples of each group of equal labels, every sample seen so far with equal chance.

    Each sample gets a random key; the smallest keys of a group stay.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.x: np.ndarray | None = None
        self.codes = np.zeros((0, 0), np.int64)
        self.keys = np.zeros(0)

    def __len__(self) -> int:
        return len(self.keys)

    def join(self, x: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is held, followed by a chunk: features ``[R + N, d]`` and codes."""
        if self.x is None:
            return x, codes
        return np.concatenate([self.x, x]), np.concatenate([self.codes, codes])

    def keep(self, x: np.ndarray, labels: Labels, seed: int) -> None:
        """Choose what to hold among the rows that `join` gave."""
        fresh = np.random.default_rng(seed).random(len(x) - len(self))
        keys, groups = np.concatenate([self.keys, fresh]), labels.groups
        order = np.lexsort((keys, groups))
        ordered = groups[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        kept = np.sort(order[rank < self.size])
        self.x, self.codes, self.keys = np.array(x[kept], dtype=np.float32), labels.codes[kept], keys[kept]
