"""Numbers and names as people read them."""

from __future__ import annotations


def percent(value: float | None, digits: int = 1, *, nothing: str = "-") -> str:
    """Return a share in per cent, without the sign; ``nothing`` where there is none."""
    return nothing if value is None else f"{100 * value:.{digits}f}"


def spoken(name: str) -> str:
    """Return a name without the underscores of files."""
    return name.replace("_", " ")


def shortened(name: str, length: int) -> str:
    """Cut a name that is too long."""
    return name if len(name) <= length else name[: max(length - 1, 1)] + "\N{HORIZONTAL ELLIPSIS}"
