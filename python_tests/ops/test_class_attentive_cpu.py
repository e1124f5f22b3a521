"""The CPU room of class_attentive_supcon: slabs, shares, runs, edges of tiles against the float64 reference; errors."""

from __future__ import annotations

import itertools

import pytest
import torch

import c2f_ops
from c2f_ops.testing import relative_error

OP = torch.ops.c2f_ops.class_attentive_supcon
BACKWARD = torch.ops.c2f_ops.class_attentive_supcon_bwd

pytestmark = pytest.mark.skipif(
    c2f_ops.backends()["class_attentive_supcon"]["cpu"] != "ok", reason="there is no native module"
)


def operands(anchors, keys, width, classes, levels, *, hinge=False, first=-1, dtype=torch.float32):
    """Some zero vectors, unknown labels, labels beyond 32 bits, excluded anchors, keys that are left out."""
    generator = torch.Generator().manual_seed(anchors + keys)
    z, x = (torch.randn(n, width, generator=generator).to(dtype) for n in (anchors, keys))
    z[2:3], x[1:2] = 0, 0
    z_labels = torch.randint(-1, 3, (anchors, levels), generator=generator)
    x_labels = torch.randint(-2, 3, (keys, levels), generator=generator)
    z_labels, x_labels = (torch.where(y > 0, y * 10**12, y) for y in (z_labels, x_labels))
    c = torch.randint(-1, classes, (anchors,), generator=generator)
    v = torch.rand(classes, width, generator=generator)
    attract, repel = [0.0] + [0.5] * (levels - 1) + [1.0], [1.0] + [2.0] * (levels - 1) + [0.5]
    options = (attract, repel, hinge, 0.2 if hinge else 0.07, 1e-6, first)
    return (z, x, z_labels, x_labels, c, c.argsort(stable=True), v, *options)


def results(args, backend, needs=(True, True, True)):
    """attract, repel, d_z, d_x, d_v for slopes that are the same for all types."""
    attract, repel = OP(*args, backend)
    slopes = torch.randn(2, len(attract), generator=torch.Generator().manual_seed(1)).to(attract.dtype)
    slopes[1][repel.isinf()] = 0
    return attract, repel, *BACKWARD(*slopes, repel, *args, list(needs), backend)


def wide(args):
    return tuple(a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)


SHAPES = [
    (0, 5, 4, 2, 1),
    (5, 0, 4, 2, 1),
    (5, 6, 0, 2, 1),
    (1, 1, 1, 1, 1),
    (1, 70, 5, 1, 2),
    (300, 1, 33, 7, 4),
    (513, 1100, 65, 40, 3),  # several slabs and shares, classes across slabs
    (600, 300, 300, 600, 2),  # more classes in a block than rows in a tile, squares in several pieces
]


@pytest.mark.parametrize("hinge", [False, True])
@pytest.mark.parametrize("first", [-1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_reference(shape, first, hinge, poisoned_empty):
    args = operands(*shape, hinge=hinge, first=first)
    for what, a, e in zip(
        ("attract", "repel", "d_z", "d_x", "d_v"), results(args, "cpu"), results(wide(args), "reference"), strict=True
    ):
        finite = e.isfinite()
        assert torch.equal(a.isfinite(), finite), what
        assert relative_error(a[finite], e[finite]) < 1e-5, what


def test_gradients_that_are_not_needed_cost_no_bits():
    args = operands(513, 600, 20, 9, 2)
    everything = results(args, "cpu")[2:]
    for needs in itertools.product([False, True], repeat=3):
        for some, whole, need in zip(results(args, "cpu", needs)[2:], everything, needs, strict=True):
            assert torch.equal(some, whole) if need else len(some) == 0


def test_no_key_that_repels():
    """The sum of exponentials is empty, also where similarities over temperature are beyond the range of exp."""
    args = list(operands(40, 50, 8, 3, 1))
    args[8], args[10] = [0.0, 0.0], 0.005
    attract, repel, *gradients = results(args, "cpu")
    present = args[4] >= 0
    assert (repel[present] == -torch.inf).all() and (repel[~present] == 0).all() and attract.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)


def test_errors():
    args = list(operands(40, 50, 8, 3, 1))
    with pytest.raises(ValueError, match="classes must be below 2, the rows of v, got 2"):
        OP(*args[:6], args[6][:2], *args[7:], "cpu")
    with pytest.raises(ValueError, match="order must list the anchors by class, got class 0 behind class"):
        OP(*args[:4], torch.arange(40) % 3, torch.arange(40), *args[6:], "cpu")
