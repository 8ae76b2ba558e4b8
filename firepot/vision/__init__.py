"""Images: data sets, transforms and models. Each is imported when it is first named."""

import importlib
from typing import Any

_ROOMS = ("datasets", "models", "transforms")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"firepot.vision.{name}")
    raise AttributeError(f"module 'firepot.vision' has no attribute '{name}'; it has {', '.join(_ROOMS)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
