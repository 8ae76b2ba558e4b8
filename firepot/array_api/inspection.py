"""What there is: devices, dtypes, defaults, capabilities."""

from __future__ import annotations

import builtins
from typing import Any

from firepot.array_api.data_types import KINDS
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.tensor import CPU, Device, default_dtype


class Information:
    """The namespace's own description."""

    def capabilities(self) -> dict[str, Any]:
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> Device:
        return CPU

    def default_dtypes(self, *, device: Any = None) -> dict[str, DType]:
        """What arrays have whose dtype nobody named."""
        floating = default_dtype()
        return {"real floating": floating, "complex floating": floating.to_complex(), "integral": dtypes.int64, "indexing": dtypes.int64}

    def dtypes(self, *, device: Any = None, kind: str | tuple[str, ...] | None = None) -> dict[str, DType]:
        """Dtypes by name, all or of some kinds. Raises ValueError for a kind that the standard does not name."""
        kinds = ("bool", "numeric") if kind is None else (kind,) if isinstance(kind, str) else kind
        unknown = [k for k in kinds if k not in KINDS]
        if unknown:
            raise ValueError(f"dtypes: there is no kind {unknown[0]!r}; there are {', '.join(map(repr, KINDS))}")
        return {dtype.name: dtype for k in kinds for dtype in KINDS[k]}

    def devices(self) -> list[Device]:
        return [CPU]


def __array_namespace_info__() -> Information:
    return Information()


__all__: builtins.list[str] = []
