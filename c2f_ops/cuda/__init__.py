"""The CUDA room: launchers of the kernels in csrc/cuda. They allocate, take the current stream and pass addresses."""

from __future__ import annotations

import functools

import torch

from .. import _native

DeviceFacts = tuple[int, int, int, int, int]


@functools.cache
def unavailable() -> str | None:
    """Say in one line why no CUDA kernel can run on this machine; None: one can."""
    if why := _native.cuda_unavailable():
        return why
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


def runs_on(archs: list[str], capability: tuple[int, int]) -> bool:
    """Whether a build for ``archs`` ("80", "90a", "100f", ...) has code for a GPU of this compute capability.

    Machine code runs on its major version from its own minor version on, that of an "a" target on exactly its own. The
    newest target without a suffix is also there as PTX, which runs on everything from it on.
    """
    parsed = [(int(a.rstrip("af")[:-1]), int(a.rstrip("af")[-1]), a[-1]) for a in archs]
    portable = [(major, minor) for major, minor, suffix in parsed if suffix not in "af"]
    return any(
        (major, minor) == capability if suffix == "a" else major == capability[0] and minor <= capability[1]
        for major, minor, suffix in parsed
    ) or (bool(portable) and capability >= max(portable))


@functools.cache
def device_obstacle(device: torch.device) -> str | None:
    """Say in one line why the kernels of this build cannot run on ``device``; None: they can."""
    archs = _native.module().build_info()["cuda_archs"]
    capability = torch.cuda.get_device_capability(device)
    if runs_on(archs, capability):
        return None
    return (
        f"c2f_ops._C was built for {', '.join(f'sm_{a}' for a in archs)}, the GPU is sm_{capability[0]}{capability[1]}"
    )


@functools.cache
def built_for(arch: str) -> bool:
    """Whether this build has code for ``arch`` ("80", "90a", ...) itself."""
    return arch in _native.module().build_info()["cuda_archs"]


@functools.cache
def device_facts(device: torch.device) -> DeviceFacts:
    """What a plan depends on: (major, minor, multiprocessors, shared memory of a block, L2), memory in bytes."""
    p = torch.cuda.get_device_properties(device)
    return p.major, p.minor, p.multi_processor_count, p.shared_memory_per_block_optin, p.L2_cache_size


def current_stream(device: torch.device) -> int:
    """The handle of torch's current stream on ``device``."""
    return torch.cuda.current_stream(device).cuda_stream
