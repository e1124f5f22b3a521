"""`c2f bench pool` on a tiny case: what a record has, and what its table says."""

from __future__ import annotations

import pytest
import torch
from c2f_ops.bench.report import run_suite, table

from c2f_ops import _native


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_record_and_table(clock):
    before = torch.get_float32_matmul_precision()
    record = run_suite(
        ["tiny"],
        interactions=["mlp"],
        dtypes=["float32", "bfloat16"],
        device="cpu",
        directions=[False, True],
        seconds=0.05,
        compiled=False,
        precisions=("highest", "high"),
        clock=clock,
    )
    assert torch.get_float32_matmul_precision() == before
    rows = record["rows"]
    assert [(r["dtype"], r["precision"], r["what"]) for r in rows] == [
        (dtype, precision, what)
        for dtype, precision in (("float32", "highest"), ("float32", "high"), ("bfloat16", "highest"))
        for what in ("forward", "forward+backward")
    ]
    for row in rows:
        assert set(row["ratios"]) == {"eager", "mm"} - ({"mm"} if "backward" in row["what"] else set())
        assert set(row["timings"]) == {"ours", *row["ratios"]}
        if _native.unavailable() is None:  # a call is nearly all overhead
            assert 0 < row["of_peak"] < 0.1 and row["peak_flops"] > 1e8
        else:
            assert row["of_peak"] is None
    text = table(record)
    assert text.count("| tiny mlp |") == 6 and "| float32 high |" in text
    assert ("processor" in text) == (clock == "cpu")
