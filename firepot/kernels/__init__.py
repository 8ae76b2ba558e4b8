"""Kernels: the loop-level IR and the generators that turn descriptions into native code."""
