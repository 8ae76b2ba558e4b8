"""Kernels that people write as loops: `fp.kernel`. source.py reads the Python, translate.py types it, decorator.py calls it."""

from firepot.custom_kernel.decorator import kernel as kernel
