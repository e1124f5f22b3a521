"""What was built, what this machine has, and which backend each op can use."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from . import _native
from ._version import __version__


def info() -> dict[str, Any]:
    """Describe the installation in plain values: strings, numbers, booleans, lists and dicts.

    Returns:
        ``version`` and ``commit`` of the package; ``built``: compilers, instruction sets and CUDA architectures of the
        native module, or why there is none; ``found``: interpreter, libraries, GPUs, usable CPU features and threads;
        ``backends``: op -> backend -> ``"ok"`` or one line of why not.
    """
    from ._ops.registry import backends

    reason = _native.unavailable()
    build = {} if reason else _native.module().build_info()
    return {
        "version": __version__,
        "commit": build.get("commit", "unknown"),
        "built": {
            "native": reason or "ok",
            "compiler": build.get("compiler", "none"),
            "isas": build.get("isas", []),
            "cuda": _native.cuda_unavailable() or build["cuda_compiler"],
            "cuda_archs": build.get("cuda_archs", []),
        },
        "found": _found(),
        "backends": backends(),
    }


def _found() -> dict[str, Any]:
    import torch

    features = {} if _native.unavailable() else _native.module().cpu_features()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda or "built without CUDA",
        "numpy": _version_of("numpy"),
        "triton": _version_of("triton"),
        "gpus": [
            {
                "name": torch.cuda.get_device_name(i),
                "capability": ".".join(map(str, torch.cuda.get_device_capability(i))),
            }
            for i in range(torch.cuda.device_count())
        ],
        "cpu_features": [name for name, usable in features.items() if usable],
        "cpu_isa": "unknown" if _native.unavailable() else _native.module().cpu_isa(),
        "threads": torch.get_num_threads(),
    }


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def format_info(info: dict[str, Any]) -> str:
    """Lay out the result of :func:`info` as indented plain text, one fact a line."""
    return "\n".join(_lines(info, ""))


def _lines(values: dict[str, Any], indent: str) -> list[str]:
    width = max((len(name) for name in values), default=0)
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
            continue
        items = value if isinstance(value, list) else [value]
        text = ", ".join(" ".join(map(str, item.values())) if isinstance(item, dict) else str(item) for item in items)
        lines.append(f"{indent}{name:<{width}}  {text or 'none'}")
    return lines
