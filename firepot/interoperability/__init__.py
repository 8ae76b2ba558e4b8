"""Firepot's tensors in other libraries: each in a module of its own, imported by who uses that library."""
