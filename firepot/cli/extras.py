"""The packages of the `train` extra: progress bars, figures, TensorBoard event files."""

from __future__ import annotations

from importlib.util import find_spec

from firepot.cli.errors import UserError

_NAMES = ("tqdm", "matplotlib", "tensorboardX")


def require_extras() -> None:
    """Raises UserError that says how to install what is missing: before the work begins, not after it."""
    missing = [name for name in _NAMES if find_spec(name) is None]
    if missing:
        raise UserError(f"needs {' and '.join(missing)}, not installed here: pip install 'firepot[train]'")
