"""The CPU room: launchers of the C++ kernels in csrc/cpu. They allocate and pass addresses, C++ computes."""

from __future__ import annotations

import torch


def num_threads() -> int:
    """Threads of a kernel: torch's setting, within the bound of the thread pool."""
    return min(torch.get_num_threads(), 256)
