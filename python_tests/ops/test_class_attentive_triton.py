"""The Triton kernels of class_attentive_supcon against the float64 reference, in Triton's interpreter.

As in test_triton.py the interpreter must be chosen before Triton is imported, so the first test runs this file again
in its own process. The interpreter has no bfloat16 products: test_triton_aot.py compiles them, the contract tests run
them on a GPU.
"""

import dataclasses
import itertools
import math
import os

import pytest
import torch

pytest.importorskip("triton", minversion="3.5")

pytestmark = [
    pytest.mark.usefixtures("poisoned_empty"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, on infinities that are selected away
]

INSIDE = os.environ.get("TRITON_INTERPRET") == "1"
inside = pytest.mark.skipif(not INSIDE, reason="runs in the interpreter's own process, see test_in_the_interpreter")
NAMES = ("attract", "repel", "d_z", "d_x", "d_v")
FORMS = {"supcon": (False, 0.1), "sharp": (False, 0.01), "hinge": (True, 0.0501)}


@pytest.mark.skipif(INSIDE, reason="already inside")
def test_in_the_interpreter(run_in_triton_interpreter):
    """Run this file with TRITON_INTERPRET=1."""
    run_in_triton_interpreter(__file__)


if INSIDE:
    from c2f_ops.reference import class_attentive_supcon as reference
    from c2f_ops.testing import relative_error
    from c2f_ops.triton import class_attentive_supcon as room


def operands(A=37, N=53, d=11, C=5, *, dtype=torch.float32, form="supcon", K=1, first=-1, size=1.0, seed=0):
    """Arguments of the forward; rows are views into NaN, some classes and keys are missing."""
    generator = torch.Generator().manual_seed(seed)

    def rows(count):
        buffer = torch.full((count + 1, d + 3), torch.nan)
        buffer[:count, :d] = size * torch.randn(count, d, generator=generator)
        return buffer.to(dtype)[:count, :d]

    def levels(labels):
        return torch.stack([torch.where(labels >= 0, labels // 2 ** (K - 1 - k), labels) for k in range(K)], 1)

    z, x = rows(A), rows(N)
    classes = torch.randint(-1, C, (A,), generator=generator)
    labels = torch.randint(-2, C, (N,), generator=generator)
    if first >= 0:
        z, labels[first : first + A] = x[first : first + A], classes
    v = (torch.rand(C, d, generator=generator) + 0.1).square()
    hinge, parameter = FORMS[form]
    attract = [0.0, *[0.5] * (K - 1), 1.0]
    repel = [1.0, *[3.0] * (K - 1), 0.0 if hinge else 1.0]
    order = classes.argsort(stable=True)
    return [z, x, levels(classes), levels(labels), classes, order, v, attract, repel, hinge, parameter, 1e-6, first]


def exact(arguments):
    return [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]


def both(arguments, needs=(True, True, True)):
    """Results and gradients."""
    attract, repel = room.class_attentive_supcon_fwd(*arguments)
    d = torch.randn(2, len(repel), generator=torch.Generator().manual_seed(1))
    return attract, repel, *room.class_attentive_supcon_bwd(*d, repel, *arguments, list(needs))


def check(arguments):
    results = both(arguments)
    wide = exact(arguments)
    attract, repel = reference.class_attentive_supcon_fwd(*wide)
    d = torch.randn(2, len(repel), generator=torch.Generator().manual_seed(1)).double()
    truth = attract, repel, *reference.class_attentive_supcon_bwd(*d, repel, *wide, [True] * 3)
    dtype, sharp = arguments[0].dtype, 0.1 / arguments[10] if not arguments[9] else 1.0
    for name, actual, expected in zip(NAMES, results, truth, strict=True):
        assert actual.dtype == (dtype if name in ("d_z", "d_x") else torch.float32)
        assert relative_error(actual, expected) <= 8 * torch.finfo(dtype).eps * sharp, name
    return results


SIZES = [
    {"A": 1, "N": 4, "d": 2, "C": 1, "seed": 3},
    {"A": 3, "N": 2, "d": 3, "C": 2},
    {"A": 70, "N": 97, "d": 20, "C": 3, "first": 9},
    {"A": 130, "N": 35, "d": 64, "C": 40},
    {"A": 65, "N": 65, "d": 33, "C": 1, "first": 0},
    {"A": 40, "N": 33, "d": 150, "C": 4},  # blocks of the width
]


@inside
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_against_float64(dtype, sizes):
    check(operands(**sizes, dtype=dtype))


@inside
@pytest.mark.parametrize("K", [1, 2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_forms_and_levels(form, K):
    check(operands(C=24, form=form, K=K, first=5))


@inside
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [1e-3, 300.0])
def test_any_size_of_embeddings(dtype, size):
    """Squares and weighted products of float16 leave its range, the results do not."""
    arguments = operands(dtype=dtype, size=size)
    arguments[6] *= 1e3
    check(arguments)


@inside
def test_many_parts(monkeypatch):
    """Few anchors and many keys, and the reverse: sums in parts, as accurate, the same from run to run."""
    for sizes in ({"A": 5, "N": 700}, {"A": 700, "N": 5}):
        arguments = operands(**sizes)
        assert room._parts(1, 700, 32, most=100)[0] > 4
        results = check(arguments)
        assert all(torch.equal(a, b) for a, b in zip(results, both(arguments), strict=True))


@inside
def test_small_gradients_in_float16():
    """Weights of pairs far below the smallest number of float16."""
    arguments = operands(dtype=torch.float16, d=20)
    _, repel = room.class_attentive_supcon_fwd(*arguments)
    d = torch.randn(2, len(repel))
    small = room.class_attentive_supcon_bwd(*(d * 2.0**-30), repel, *arguments, [False, False, True])[2]
    large = room.class_attentive_supcon_bwd(*d, repel, *arguments, [False, False, True])[2]
    assert relative_error(small * 2.0**30, large) < 1e-6


@inside
def test_any_order_of_the_anchors_of_a_class():
    arguments = operands(A=90)
    classes, (first, *rest) = arguments[4], both(arguments)
    shuffled = torch.randperm(90)
    arguments[5] = shuffled[classes[shuffled].argsort(stable=True)]
    for a, b in zip(both(arguments), (first, *rest), strict=True):
        assert relative_error(a, b) < 1e-6


@inside
def test_what_is_left_out_does_not_exist():
    """Excluded anchors and absent keys may be NaN; they have results and gradients of 0."""
    arguments = operands()
    z, x, _, x_labels, classes = arguments[:5]
    clean = both(arguments)
    z[classes < 0], x[x_labels[:, 0] < -1] = torch.nan, torch.nan
    results = both(arguments)
    assert all(torch.equal(a, b) for a, b in zip(results, clean, strict=True))
    for result, gone in ((results[0], classes < 0), (results[2], classes < 0), (results[3], x_labels[:, 0] < -1)):
        assert gone.any() and (result[gone] == 0).all()


@inside
@pytest.mark.parametrize("form", FORMS)
def test_nan_reaches_what_it_must(form):
    arguments = operands(form=form)
    z, x, _, x_labels, classes = arguments[:5]
    clean = room.class_attentive_supcon_fwd(*arguments)
    anchor = int((classes >= 0).nonzero()[3])
    z[anchor, 2] = torch.nan
    for actual, expected in zip(room.class_attentive_supcon_fwd(*arguments), clean, strict=True):
        assert actual.isnan().nonzero().flatten().tolist() == [anchor]
        assert torch.equal(actual[torch.arange(37) != anchor], expected[torch.arange(37) != anchor])
    x[int((x_labels[:, 0] >= 0).nonzero()[0])] = torch.nan
    for actual in room.class_attentive_supcon_fwd(*arguments):
        assert torch.equal(actual.isnan(), classes >= 0)


@inside
def test_a_class_without_weights_is_nan():
    arguments = operands()
    arguments[4][7] = 5
    arguments[5] = arguments[4].argsort(stable=True)
    attract, repel, d_z, d_x, d_v = both(arguments)
    for result in (attract, repel, d_z.sum(1)):
        assert result.isnan().nonzero().flatten().tolist() == [7]
    assert d_x.isfinite().all() and d_v.isfinite().all()


@inside
def test_no_keys_that_repel():
    arguments = operands()
    arguments[8] = [0.0, 0.0]
    attract, repel, d_z, d_x, d_v = both(arguments)
    classes = arguments[4]
    assert (repel[classes >= 0] == -math.inf).all() and (repel[classes < 0] == 0).all()
    assert all(t.isfinite().all() for t in (attract, d_z, d_x, d_v))


@inside
@pytest.mark.parametrize("sizes", [{"A": 0}, {"N": 0}, {"d": 0}, {"C": 0}, {"A": 0, "N": 0, "C": 1}], ids=str)
def test_nothing(sizes):
    if sizes.get("C") == 0:
        arguments = operands()
        arguments[6], arguments[4][:] = arguments[6][:0], -1
    else:
        arguments = operands(**sizes)
    attract, _, d_z, d_x, d_v = both(arguments)
    assert (attract == 0).all() and d_z.shape == arguments[0].shape and (d_z == 0).all()
    assert d_x.shape == arguments[1].shape and (d_x == 0).all()
    assert d_v.shape == arguments[6].shape and (d_v == 0).all()


@inside
def test_needs():
    arguments = operands()
    everything = both(arguments)[2:]
    for needs in itertools.product([False, True], repeat=3):
        for need, d, full in zip(needs, both(arguments, needs)[2:], everything, strict=True):
            assert torch.equal(d, full) if need else d.shape == (0, 11)


@inside
@pytest.mark.parametrize("mode", ["supcon", "pairwise", "paper"])
def test_through_the_public_function(mode):
    from c2f_ops import class_attentive_loss

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 12, generator=generator, requires_grad=True)
    w = (torch.rand(6, 12, generator=generator) + 0.1).requires_grad_()
    y = torch.randint(-1, 6, (50,), generator=generator)
    options = {"mode": mode, "margin": 0.1, "unlabelled_as_keys": True}
    grads = torch.autograd.grad(class_attentive_loss(z, y, w, backend="triton", **options), (z, w))
    wide = [t.detach().double().requires_grad_() for t in (z, w)]
    truth = torch.autograd.grad(class_attentive_loss(wide[0], y, wide[1], **options), wide)
    assert all(relative_error(a, e) < 1e-6 for a, e in zip(grads, truth, strict=True))


@inside
def test_every_step_through_the_width(monkeypatch):
    """One block and several: the same sums but for rounding."""
    arguments = operands(d=70, C=9)
    plan = room.plan_of(torch.float32, 70)
    one = both(arguments)
    for change in ({"block_k": 128}, {"block_d": 16}, {"outer": 16, "inner": 128}):
        monkeypatch.setattr(room, "plan_of", lambda *_, c=change: dataclasses.replace(plan, **c))
        assert all(relative_error(a, b) < 2e-6 for a, b in zip(both(arguments), one, strict=True))
