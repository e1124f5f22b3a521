"""pytest-benchmark front of the pooling cases: ``pytest bench --benchmark-group-by=group``.

Every contender of a group runs in this one process; `c2f bench pool` interleaves them and adds limits and memory.
"""

from __future__ import annotations

import pytest
import torch
from c2f_ops.bench.cases import CASES, eager, operands, ours, step

RIVALS = {"ours": lambda: ours, "eager": lambda: eager, "compile": lambda: torch.compile(eager)}


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("what", ["forward", "forward+backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_pool(benchmark, name, dtype, what, rival):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = CASES[name] if device == "cuda" or name in ("small", "tiny") else CASES[name].scaled(1)
    tensors = operands(case, "mlp", dtype, device, grad=what != "forward")
    run = RIVALS[rival]()
    leaves = [t for group in tensors for t in group]
    timed = step(lambda: run(*tensors, "mlp", case.layout), leaves, backward=what != "forward")
    benchmark.group = f"{name} B={case.batch} {dtype} {what}"

    def synchronised():
        timed()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(synchronised, rounds=5, warmup_rounds=1)
