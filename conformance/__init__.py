"""Firepot held against suites that others wrote: PyTorch's databases of operators, modules and optimisers."""
