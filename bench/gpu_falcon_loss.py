"""falcon_loss on a GPU: each kernel and what users write today, forward and backward, at the shapes of the paper."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from c2f_ops import falcon_loss
from c2f_ops.testing import relative_error

from .limits import measure_limits
from .report import DTYPES
from .timing import interleave, noisy, peak_extra_bytes

BACKENDS = ("reference", "triton", "cuda")
LAMBDAS, TEMPERATURE, TAU = (0.5, 0.5, 2.0), 0.9, 0.5


@dataclass(frozen=True)
class Case:
    """A batch of B samples with L neighbours each; K_F fine and K_C coarse classes."""

    name: str
    B: int
    K_F: int
    K_C: int
    L: int = 5

    def minimum_bytes(self, itemsize: int) -> int:
        """Forward: z, s and L rows of t read, the gradient written in float32; backward: both read, d_z written."""
        return self.B * self.K_F * ((2 + self.L) * itemsize + 4 + itemsize + 4 + itemsize)


CASES = (
    Case("large", 512, 10_000, 1_000),
    Case("tieredImageNet", 512, 608, 34),
    Case("Entity13", 512, 260, 13),
    Case("CIFAR-100", 256, 100, 20),
    Case("PBMC", 1024, 84, 27),
)


def operands(case: Case, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """z (a leaf), s, t as a bank of B L rows, idx, y, g."""
    generator = torch.Generator().manual_seed(0)

    def rows(count: int) -> Tensor:
        return (2 * torch.randn(count, case.K_F, generator=generator)).to(device, dtype)

    bank = case.B * case.L
    idx = torch.randperm(bank, generator=generator).view(case.B, case.L).to(device)
    y = torch.randint(case.K_C, (case.B,), generator=generator).to(device)
    g = (torch.arange(case.K_F) % case.K_C).int().to(device)
    return rows(case.B).requires_grad_(), rows(case.B), rows(bank), idx, y, g


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


def measure_case(case: Case, dtype: str, copy_rate: float, seconds: float, device: str = "cuda") -> dict[str, object]:
    """Time forward and backward of those that run, in turns; the others leave their error."""
    tensors = operands(case, DTYPES[dtype], device)
    z = tensors[0]
    exact = [x.detach().double() if x.is_floating_point() else x for x in tensors]
    exact[0].requires_grad_()
    truth = exact_gradient(exact)
    runs: dict[str, Callable[[], object]] = {}
    failed, errors, peaks = {}, {}, {}
    for name, run in contenders(tensors).items():
        step = lambda run=run: torch.autograd.grad(run(), z)  # noqa: E731
        try:
            errors[name] = relative_error(step()[0], truth)
            peaks[name] = peak_extra_bytes(step, device)
            runs[name] = step
        except Exception as error:  # one that fails must not take the others' numbers with it
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    timings = interleave(runs, device=device, seconds=seconds)
    return {
        "case": asdict(case),
        "dtype": dtype,
        "timings": {name: asdict(t) for name, t in timings.items()},
        "noisy": [name for name, t in timings.items() if name != "eager" and noisy(timings["eager"], t)],
        "errors": errors,
        "failed": failed,
        "peak_bytes": peaks,
        "limit_seconds": case.minimum_bytes(DTYPES[dtype].itemsize) / copy_rate,
    }


def exact_gradient(exact: list[Tensor]) -> Tensor:
    """The gradient in float64, from the reference kernels."""
    z, s, t, idx, y, g = exact
    loss = falcon_loss(z, s, t, y, g, idx=idx, lambdas=LAMBDAS, T=TEMPERATURE, tau=TAU, group=None, backend="reference")
    return torch.autograd.grad(loss, z)[0]


def measure(path: Path, seconds: float) -> None:
    """Measure the cases until ``seconds`` are spent; the file is written after each of them."""
    end = time.monotonic() + seconds
    rows: list[dict[str, object]] = []
    rate = measure_limits(torch.bfloat16, "cuda", seconds=1.0).copy
    for case in CASES:
        for dtype in ("float32", "bfloat16"):
            if time.monotonic() > end:
                return
            rows.append(measure_case(case, dtype, rate, seconds=1.0))
            path.write_text(json.dumps({"copy": rate, "rows": rows}, indent=1) + "\n")
            torch.cuda.empty_cache()


def table(record: dict) -> str:
    """The record as Markdown."""
    lines = [
        f"falcon_loss, forward and backward. Limit: the bytes of its rows at {record['copy'] / 1e12:.2f} TB/s. "
        "Error: relative L2 of the gradient against float64.",
        "",
        "| case | contender | us | of limit | vs eager | peak MB | error |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        case = row["case"]
        title = f"{case['name']} {case['B']} x {case['K_F']} {row['dtype']}"
        base = row["timings"].get("eager", {}).get("median")
        for name, t in row["timings"].items():
            versus = "-" if base is None or name == "eager" else f"{base / t['median']:.2f}x"
            versus += " (noisy)" if name in row["noisy"] else ""
            cell = [
                title,
                name,
                f"{t['median'] * 1e6:.0f} ({t['low'] * 1e6:.0f}-{t['high'] * 1e6:.0f})",
                f"{row['limit_seconds'] / t['median']:.0%}",
                versus,
                f"{row['peak_bytes'][name] / 2**20:.0f}",
                f"{row['errors'][name]:.1e}",
            ]
            lines.append("| " + " | ".join(cell) + " |")
        lines += [f"| {title} | {name} | failed: {why} | | | | |" for name, why in row["failed"].items()]
    return "\n".join(lines)


def main() -> None:
    """Entry point of ``python -m bench.gpu_falcon_loss``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    measure(args.path, args.seconds)


if __name__ == "__main__":
    main()
