"""Benchmarks: real shapes by name, one timer, rivals interleaved in one process.

Installed as `c2f_ops.bench`; front: `c2f bench`.
"""
