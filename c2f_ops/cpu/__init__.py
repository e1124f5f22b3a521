"""The CPU room: launchers of the C++ kernels in csrc/cpu. They allocate and pass addresses, C++ computes."""

from __future__ import annotations

import torch

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # DType of c2f/common.h


def num_threads() -> int:
    """Threads of a kernel: torch's setting, within the bound of the thread pool."""
    return min(torch.get_num_threads(), 256)
