"""One file an op: schema, fake kernel, autograd and the choice of the kernel. No arithmetic."""
