"""`c2f bench`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from ._common import DATA, MACHINE, OnDevice, listed, option

_Dtypes = Annotated[str, option(DATA, "float32, bfloat16, float16.")]
_Backend = Annotated[str, option(MACHINE, "auto, reference, cpu, triton or cuda.")]
_Seconds = Annotated[float, option(MACHINE, "Time for each row.")]
_Compiled = Annotated[bool, option(MACHINE, "Measure torch.compile too.", "--compile/--no-compile")]
_Clock = Annotated[str, option(MACHINE, "wall, or cpu: processor time of all threads.")]
_Out = Annotated[Path | None, option(MACHINE, "JSON file to write; the table goes beside it.")]


def bench_pool(
    cases: Annotated[str, option(DATA, "vgg, r50-layer3, r50-layer4, vit-b14, small, tiny.")] = "vgg",
    interactions: Annotated[str, option(DATA, "mlp, hbp, fbp, trilinear.")] = "mlp",
    dtypes: _Dtypes = "float32,bfloat16",
    directions: Annotated[str, option(DATA, "forward, both (forward and backward).")] = "forward,both",
    batch: Annotated[int | None, option(DATA, "Batch size instead of the case's own.")] = None,
    backend: _Backend = "auto",
    algo: Annotated[str, option(MACHINE, "auto, fused, chunked or gram.")] = "auto",
    device: OnDevice = "auto",
    seconds: _Seconds = 20.0,
    compiled: _Compiled = True,
    precisions: Annotated[str, option(DATA, "Of float32 products: highest, high, medium.")] = "highest",
    clock: _Clock = "wall",
    out: _Out = None,
) -> None:
    """Time multilinear_pool on real shapes, interleaved with its rivals, with limits and peak memory.

    Several cases, types and so on are separated by commas.
    """
    from ..bench.cases import CASES, INTERACTIONS
    from ..bench.records import DTYPES, write_record
    from ..bench.report import run_suite, table

    record = run_suite(
        _chosen("cases", cases, CASES),
        interactions=_chosen("interactions", interactions, INTERACTIONS),
        dtypes=_chosen("dtypes", dtypes, DTYPES),
        device=_device(device),
        directions=[value == "both" for value in _chosen("directions", directions, ("forward", "both"))],
        backend=backend,
        algo=algo,
        seconds=seconds,
        compiled=compiled,
        batch=batch,
        precisions=_chosen("precisions", precisions, ("highest", "high", "medium")),
        clock=_chosen("clock", clock, ("wall", "cpu"))[0],
    )
    print(table(record))
    if out is not None:
        write_record(record, table, out)


def bench_falcon_loss(
    cases: Annotated[str, option(DATA, "tiered, cifar, entity13, pbmc, large.")] = "tiered,cifar,entity13,pbmc,large",
    dtypes: _Dtypes = "float32,bfloat16",
    backend: _Backend = "auto",
    device: OnDevice = "auto",
    seconds: _Seconds = 10.0,
    compiled: _Compiled = True,
    clock: _Clock = "wall",
    out: _Out = None,
) -> None:
    """Time falcon_loss with its gradient against the dense masked form, interleaved, with limits and peak memory."""
    from ..bench import bench_falcon_loss, falcon_cases

    _bench_loss(
        bench_falcon_loss, falcon_cases.CASES, cases, dtypes, out, backend=backend, device=device, seconds=seconds,
        compiled=compiled, clock=clock,
    )  # fmt: skip


def bench_class_attentive_loss(
    cases: Annotated[str, option(DATA, "toy, batch, memory, many, large.")] = "toy,batch,memory,many,large",
    dtypes: _Dtypes = "float32",
    backend: _Backend = "auto",
    device: OnDevice = "auto",
    seconds: _Seconds = 10.0,
    compiled: _Compiled = True,
    clock: _Clock = "wall",
    out: _Out = None,
) -> None:
    """Time class_attentive_loss and its gradient against the form with all pairs, interleaved, with peak memory."""
    from ..bench import bench_class_attentive_loss as bench

    _bench_loss(
        bench, bench.CASES, cases, dtypes, out, backend=backend, device=device, seconds=seconds, compiled=compiled,
        clock=clock,
    )  # fmt: skip


def _bench_loss(
    bench: Any,
    known: Collection[str],
    cases: str,
    dtypes: str,
    out: Path | None,
    *,
    device: str,
    clock: str,
    **rest: Any,
) -> None:
    """Run the suite of a loss, print its table, keep its record."""
    from ..bench.records import DTYPES, write_record

    record = bench.run_suite(
        _chosen("cases", cases, known),
        dtypes=_chosen("dtypes", dtypes, DTYPES),
        device=_device(device),
        clock=_chosen("clock", clock, ("wall", "cpu"))[0],
        **rest,
    )
    print(bench.table(record))
    if out is not None:
        write_record(record, bench.table, out)


def _chosen(name: str, text: str, known: Collection[str]) -> list[str]:
    values = listed(name, text, str)
    for value in values:
        if value not in known:
            raise ValueError(f"bench: --{name} must be among {', '.join(known)}, got {value!r}")
    return values


def _device(name: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
