"""The native module ``c2f_ops._C``: loaded once, and where there is none, one line of why."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from types import ModuleType

from ._version import __version__


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    """Return the module and "", or None and the reason."""
    choice = os.environ.get("C2F_NATIVE") or "auto"
    if choice not in ("auto", "off", "require"):
        raise ValueError(f"C2F_NATIVE must be auto, off or require, got {choice!r}")
    if choice == "off":
        return None, "native code is switched off (C2F_NATIVE=off)"
    reason = ""
    if importlib.util.find_spec("c2f_ops._C") is None:
        reason = "c2f_ops was built without native code (no compiler was found, or C2F_NATIVE=off)"
    else:
        try:
            module = importlib.import_module("c2f_ops._C")
        except ImportError as error:
            reason = f"c2f_ops._C does not load: {' '.join(str(error).split())}"
        else:
            built = module.build_info()["version"]
            if built == __version__:
                return module, ""
            reason = f"c2f_ops._C is of version {built}, the package of {__version__}: build it again"
    if choice == "require":
        raise ImportError(f"C2F_NATIVE=require: {reason}")
    return None, reason


def unavailable() -> str | None:
    """Say in one line why there is no native module; None: there is one."""
    return _load()[1] or None


def cuda_unavailable() -> str | None:
    """Say in one line why there are no native CUDA kernels; None: they are built in. Asks no GPU."""
    module, reason = _load()
    if module is None:
        return reason
    info = module.build_info()
    return None if info["cuda"] else f"c2f_ops._C was built without CUDA: {info['cuda_note']}"


def module() -> ModuleType:
    """Return ``c2f_ops._C``.

    Raises:
        RuntimeError: there is none; the message is that of :func:`unavailable`.
    """
    loaded, reason = _load()
    if loaded is None:
        raise RuntimeError(reason)
    return loaded
