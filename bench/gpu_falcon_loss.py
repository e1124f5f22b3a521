"""falcon_loss on a GPU: each kernel and what users write today, forward and backward, at the shapes of the paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from c2f_ops import falcon_loss

from .falcon_cases import CASES, Case
from .falcon_cases import operands as rows_of
from .gpu_rows import Row, measure_contenders, table_of_rows, write_rows
from .limits import measure_limits
from .records import DTYPES

BACKENDS = ("reference", "triton", "cuda")
LAMBDAS, TEMPERATURE, TAU = (0.5, 0.5, 2.0), 0.9, 0.5


def operands(case: Case, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """z (a leaf), s, t as a bank of B L rows, idx, y, g."""
    z, s, t, y, g = rows_of(case, dtype, device)
    bank = t.flatten(0, 1)
    idx = torch.randperm(len(bank), generator=torch.Generator().manual_seed(1)).view(t.shape[:2]).to(device)
    return z, s, bank, idx, y, g


def eager(z: Tensor, s: Tensor, t: Tensor, idx: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """What users write today: masks and softmaxes of whole rows in float32, a copy of each neighbour's row."""
    z, s = z.float(), s.float()
    member = g[None] == y[:, None]
    log_p = z.log_softmax(1)
    coarse = -log_p.masked_fill(~member, float("-inf")).logsumexp(1).mean()
    r = t[idx].float().softmax(2)
    nn = -torch.einsum("bk,blk->bl", log_p.exp(), r).log().mean()
    target = (s / TEMPERATURE).masked_fill(~member, float("-inf"))
    hard = torch.zeros_like(s).scatter_(1, target.argmax(1, keepdim=True), 1.0)
    conf = -((TAU * target.softmax(1) + (1 - TAU) * hard) * log_p).sum(1).mean()
    mean_p = log_p.exp().mean(0)
    reg = (mean_p * (mean_p * z.shape[1]).log()).sum()
    return LAMBDAS[0] * coarse + LAMBDAS[1] * (nn + conf) + LAMBDAS[2] * reg


def contenders(tensors: tuple[Tensor, ...]) -> dict[str, Callable[[], Tensor]]:
    """Eager, `torch.compile` and each backend of ours; all return the loss."""
    z, s, t, idx, y, g = tensors
    torch._dynamo.reset()
    compiled = torch.compile(eager, dynamic=False)
    options = {"lambdas": LAMBDAS, "T": TEMPERATURE, "tau": TAU, "idx": idx, "group": None}
    runs: dict[str, Callable[[], Tensor]] = {"eager": lambda: eager(*tensors), "compile": lambda: compiled(*tensors)}
    for name in BACKENDS:
        runs[name] = lambda name=name: falcon_loss(z, s, t, y, g, backend=name, **options)  # type: ignore[misc]
    return runs


def exact_gradient(tensors: tuple[Tensor, ...]) -> Tensor:
    """The gradient in float64, from the reference kernels."""
    z, s, t, idx, y, g = (x.detach().double() if x.is_floating_point() else x for x in tensors)
    z.requires_grad_()
    loss = falcon_loss(z, s, t, y, g, idx=idx, lambdas=LAMBDAS, T=TEMPERATURE, tau=TAU, group=None, backend="reference")
    return torch.autograd.grad(loss, z)[0]


def measure_case(case: Case, dtype: str, copy_rate: float, seconds: float, device: str = "cuda") -> Row:
    """One row of the record: forward and backward."""
    tensors = operands(case, DTYPES[dtype], device)

    def gradient_of(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(run(), tensors[0])[0]

    steps = {name: gradient_of(run) for name, run in contenders(tensors).items()}
    runs = {name: (step, step) for name, step in steps.items()}
    return {
        "case": {"name": case.source, "B": case.batch, "K_F": case.fine, "K_C": case.coarse, "L": case.neighbours},
        "dtype": dtype,
        **measure_contenders(runs, exact_gradient(tensors), seconds=seconds, device=device),
        "limit_seconds": case.minimum_bytes(DTYPES[dtype].itemsize) / copy_rate,
    }


def measure(path: Path, end: float) -> None:
    """Measure until ``end``, the largest cases first."""
    rate = measure_limits(torch.bfloat16, "cuda", seconds=1.0).copy

    def rows() -> Iterator[Row]:
        for case in sorted(CASES.values(), key=lambda case: -case.batch * case.fine):
            for dtype in ("float32", "bfloat16"):
                yield measure_case(case, dtype, rate, seconds=1.0)

    write_rows(path, {"copy": rate}, rows(), end)


def table(record: dict) -> str:
    """The record as Markdown."""
    lines = [
        f"falcon_loss, forward and backward. Limit: the bytes of its rows at {record['copy'] / 1e12:.2f} TB/s. "
        "Error: relative L2 of the gradient against float64.",
        "",
    ]
    title = "{case[name]} {case[B]} x {case[K_F]} {dtype}".format_map
    return "\n".join(lines + table_of_rows(record["rows"], title, "us", {}))
