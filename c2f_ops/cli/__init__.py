"""`c2f`, the command line. `commands.py` names the commands; errors are dealt with here."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; bad input ends with one line and status 2."""
    try:
        from .commands import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        print(f'c2f: {error.name} is not installed; pip install "c2f_ops[train]"', file=sys.stderr)
        sys.exit(2)
    arguments = sys.argv[1:]
    traceback = "--traceback" in arguments
    try:
        app(args=[a for a in arguments if a != "--traceback"], prog_name="c2f")
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if traceback:
            raise
        print(f"c2f: {error} (--traceback shows where)", file=sys.stderr)
        sys.exit(2)
