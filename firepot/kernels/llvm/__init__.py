"""Generators that print kernels as LLVM IR."""
