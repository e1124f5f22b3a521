"""Which backend each op has on this machine."""

from __future__ import annotations

from .choice import BACKENDS, missing

OPS = ("multilinear_pool", "signed_sqrt_normalize", "falcon_loss", "class_attentive_supcon")


def backends() -> dict[str, dict[str, str]]:
    """For each op and backend "ok", or one line that says why it is not available here."""
    return {op: {name: missing(name, op) or "ok" for name in BACKENDS} for op in OPS}
