"""Executable specification: plain PyTorch, forward and backward, float64-capable. Imports nothing of ours."""
