"""Executable specification: plain PyTorch, forward and backward, differentiable, float64-capable. Imports nothing of ours."""
