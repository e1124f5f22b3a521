"""`python -m c2f_ops.cli` is `c2f`."""

from . import main

main()
