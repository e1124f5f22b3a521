"""`falcon_loss`: which arguments are refused, and with which words."""

# ruff: noqa: E501  (a table of bad calls)

from __future__ import annotations

import math

import pytest
import torch

import c2f_ops
from c2f_ops import falcon_loss

BAD = {
    "z list": (dict(z=[1.0]), TypeError, "z must be a tensor, got list"),
    "z integer": (dict(z=torch.ones(4, 9, dtype=torch.int64)), TypeError, "z must be one of float64, .*got torch.int64"),
    "z one dimension": (dict(z=torch.randn(9)), ValueError, r"z must have 2 dimensions, got shape \[9\]"),
    "no classes": (dict(z=torch.randn(4, 0), s=torch.randn(4, 0)), ValueError, r"z must have at least one fine class, got shape \[4, 0\]"),
    "s shape": (dict(s=torch.randn(4, 8)), ValueError, r"s must have the shape \[4, 9\] of z, got \[4, 8\]"),
    "s device": (dict(s=torch.randn(4, 9, device="meta")), ValueError, "s must be on cpu like z, got meta"),
    "t two dimensions": (dict(t=torch.randn(4, 9)), ValueError, r"t must have 3 dimensions without idx, got shape \[4, 9\]"),
    "t classes": (dict(t=torch.randn(4, 2, 8)), ValueError, r"t must have shape \[B, L, K_F\] = \[4, L, 9\], got \[4, 2, 8\]"),
    "bank dimensions": (dict(idx=torch.zeros(4, 2, dtype=torch.int64)), ValueError, r"t must have 2 dimensions with idx"),
    "bank classes": (dict(t=torch.randn(5, 8), idx=torch.zeros(4, 2, dtype=torch.int64)), ValueError, r"t must have shape \[N, K_F\] = \[N, 9\], got \[5, 8\]"),
    "idx without t": (dict(t=None, idx=torch.zeros(4, 2, dtype=torch.int64)), ValueError, "t must be given where idx or nbr_mask is, got None"),
    "idx type": (dict(t=torch.randn(5, 9), idx=torch.zeros(4, 2)), TypeError, "idx must be an int64 or int32 tensor, got torch.float32"),
    "idx rows": (dict(t=torch.randn(5, 9), idx=torch.zeros(3, 2, dtype=torch.int64)), ValueError, r"idx must have shape \[4, any\], got \[3, 2\]"),
    "idx beyond": (dict(t=torch.randn(5, 9), idx=torch.tensor([[0, 4], [1, 5], [7, 2], [-1, 0]])), ValueError, "idx must be below 5, the rows of t, got 7"),
    "empty bank": (dict(t=torch.randn(0, 9), idx=torch.tensor([[0], [-1], [-1], [-1]])), ValueError, "idx must be below 0, the rows of t, got 0"),
    "mask type": (dict(nbr_mask=torch.ones(4, 2)), TypeError, "nbr_mask must be a bool tensor, got torch.float32"),
    "mask shape": (dict(nbr_mask=torch.ones(4, 3, dtype=torch.bool)), ValueError, r"nbr_mask must have shape \[4, 2\], got \[4, 3\]"),
    "y type": (dict(y=torch.zeros(4)), TypeError, "y must be an int64 or int32 tensor, got torch.float32"),
    "y list": (dict(y=[0, 1, 2, 0]), TypeError, "y must be an int64 or int32 tensor, got list"),
    "y shape": (dict(y=torch.zeros(5, dtype=torch.int64)), ValueError, r"y must have shape \[4\], got \[5\]"),
    "y columns": (dict(y=torch.zeros(4, 2, dtype=torch.int64)), ValueError, r"y must have shape \[4, 1\], got \[4, 2\]"),
    "y unknown": (dict(y=torch.tensor([0, 7, 1, 5])), ValueError, "g must give each class in y a fine class, got none for class 7 of data set 0"),
    "y enormous": (dict(y=torch.tensor([0, 1, 2**32, 0])), ValueError, "g must give each class .* got none for class 4294967296 of data set 0"),
    "empty group of a data set": (dict(g=torch.stack([torch.arange(9) % 3, torch.arange(9) % 2]), d=torch.tensor([0, 1, 0, 1]), y=torch.tensor([2, 1, 1, 2])), ValueError, "got none for class 2 of data set 1"),
    "both faults": (dict(y=torch.tensor([0, 7, 1, 5]), t=torch.randn(5, 9), idx=torch.full((4, 2), 5)), ValueError, "got none for class 7 of data set 0"),
    "g type": (dict(g=torch.zeros(9)), TypeError, "g must be an int64 or int32 tensor, got torch.float32"),
    "g shape": (dict(g=torch.zeros(8, dtype=torch.int32)), ValueError, r"g must have shape \[any, 9\], got \[1, 8\]"),
    "d missing": (dict(g=torch.zeros(2, 9, dtype=torch.int32)), ValueError, "d must name the data set of each sample where g has 2 rows, got None"),
    "d too much": (dict(y=torch.zeros(4, 1, dtype=torch.int64), d=torch.zeros(4, dtype=torch.int64)), ValueError, "d must be None where y has a column"),
    "d shape": (dict(d=torch.zeros(3, dtype=torch.int64)), ValueError, r"d must have shape \[4\], got \[3\]"),
    "d beyond": (dict(g=torch.zeros(2, 9, dtype=torch.int32), d=torch.tensor([0, 1, 2, 0])), ValueError, r"d must be in 0\.\.1, the rows of g, got 0 to 2"),
    "d negative": (dict(d=torch.tensor([0, 0, -1, 0])), ValueError, r"d must be in 0\.\.0, the rows of g, got -1 to 0"),
    "lambdas": (dict(lambdas=(1, -1, 1)), ValueError, r"lambdas must be three or four finite numbers, none negative, got \(1, -1, 1\)"),
    "two lambdas": (dict(lambdas=(1, 1)), ValueError, "lambdas must be three"),
    "T": (dict(T=0.0), ValueError, r"T must be in \[1e-30, 1e30\], got 0.0"),
    "T without a reciprocal": (dict(T=1e-300), ValueError, r"T must be in \[1e-30, 1e30\], got 1e-300"),
    "T text": (dict(T="warm"), TypeError, "T must be a number, got str"),
    "tau none": (dict(tau=None), TypeError, "tau must be a number, got NoneType"),
    "lambdas number": (dict(lambdas=1.0), TypeError, "lambdas must be a sequence of numbers, got 1.0"),
    "lambdas text": (dict(lambdas=("1", "1", "1")), TypeError, "lambdas must be a sequence of numbers, got"),
    "y below": (dict(y=torch.tensor([0, -5, 1, 2])), ValueError, "y must be -1 or a coarse class, got -5 to 2"),
    "idx below": (dict(t=torch.randn(5, 9), idx=torch.full((4, 2), -7)), ValueError, "idx must be -1 or a row of t, got -7 to -7"),
    "g beyond int32": (dict(g=torch.tensor([2**32, 1, 2] * 3)), ValueError, r"g must be -1 or a coarse class below 2\^31, got 1 to 4294967296"),
    "g below": (dict(g=torch.tensor([0, 1, 2] * 2 + [-3, 1, 2])), ValueError, "g must be -1 or a coarse class .*, got -3 to 2"),
    "sparse z": (dict(z=torch.randn(4, 9).to_sparse()), TypeError, "z must be strided, got torch.sparse_coo"),
    "group": (dict(group="world"), TypeError, "group must be 'auto', None or a process group, got 'world'"),
    "tau": (dict(tau=1.5), ValueError, r"tau must be in \[0, 1\], got 1.5"),
    "tau nan": (dict(tau=math.nan), ValueError, "tau must be in"),
    "reduction": (dict(reduction="sum"), ValueError, "reduction must be one of .*got 'sum'"),
    "backend": (dict(backend="gpu"), ValueError, "backend must be one of .*got 'gpu'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("room", ["reference", "cpu"])
def test_bad_arguments_are_named(name, room):
    if (state := c2f_ops.backends()["falcon_loss"][room]) != "ok":
        pytest.skip(f"{room}: {state}")
    changes, error, message = BAD[name]
    arguments = {"z": torch.randn(4, 9), "s": torch.randn(4, 9), "t": torch.randn(4, 2, 9), "y": torch.arange(4) % 3}
    arguments |= {"g": torch.arange(9) % 3, "backend": room, **changes}
    with pytest.raises(error, match="^falcon_loss: .*" + message):
        falcon_loss(*(arguments.pop(k) for k in ("z", "s", "t", "y", "g")), arguments.pop("d", None), **arguments)
