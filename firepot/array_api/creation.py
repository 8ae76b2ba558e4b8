"""Arrays from numbers, sequences and other libraries."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

from firepot import ops
from firepot.graph.dtypes import DType
from firepot.tensor import Tensor

__all__ = [
    "arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like", "linspace", "meshgrid",
    "ones", "ones_like", "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip

Size = int | Sequence[int]


def _dims(shape: Size) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def arange(
    start: float, /, stop: float | None = None, step: float = 1, *, dtype: DType | None = None, device: Any = None
) -> Tensor:
    """start, start + step, … below stop; from 0 to `start` without `stop`."""
    if stop is None:
        start, stop = type(start)(0), start
    if step == 0:
        raise ValueError("arange: the step is 0")
    if (stop - start) * step <= 0:  # empty by the standard, an error in PyTorch
        integers = all(isinstance(n, int) for n in (start, stop, step))
        return ops.empty(0, dtype=dtype or (ops.arange(0).dtype if integers else None), device=device)
    return ops.arange(start, stop, step, dtype=dtype, device=device)


def asarray(
    obj: Any, /, *, dtype: DType | None = None, device: Any = None, copy: builtins.bool | None = None
) -> Tensor:
    """An array of a number, nested sequences, an array of any library, or what has Python's buffer protocol.

    Raises ValueError if `copy` is False and memory of another kind than an array's would have to be copied.
    """
    if copy is False and not (isinstance(obj, Tensor) and dtype in (None, obj.dtype)):
        raise ValueError(f"asarray: {type(obj).__name__} cannot become an array of the asked dtype without a copy")
    if isinstance(obj, (bytes, bytearray)):
        obj = memoryview(obj)
    return ops.asarray(obj, dtype=dtype, device=device)


def empty(shape: Size, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    return ops.empty(_dims(shape), dtype=dtype, device=device)


def empty_like(x: Tensor, /, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    return ops.empty_like(x, dtype=dtype, device=device)


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: DType | None = None, device: Any = None
) -> Tensor:
    """Ones on the k-th diagonal (above the main one if positive), zeros elsewhere."""
    columns = n_rows if n_cols is None else n_cols
    if k == 0:
        return ops.eye(n_rows, columns, dtype=dtype, device=device)
    below = ops.arange(n_rows, device=device).unsqueeze(1) + k
    return (below == ops.arange(columns, device=device)).to(dtype or ops.eye(0).dtype)


def from_dlpack(x: object, /, *, device: Any = None, copy: builtins.bool | None = None) -> Tensor:
    """An array of another library through DLPack.

    Raises BufferError if `copy` is False: the elements are always copied.
    """
    return ops.from_dlpack(x, device=device, copy=copy)


def full(shape: Size, fill_value: Any, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    return ops.full(_dims(shape), fill_value, dtype=dtype, device=device)


def full_like(x: Tensor, /, fill_value: Any, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    return ops.full_like(x, fill_value, dtype=dtype, device=device)


def linspace(
    start: float, stop: float, /, num: int, *, dtype: DType | None = None, device: Any = None,
    endpoint: builtins.bool = True,
) -> Tensor:  # fmt: skip
    """`num` numbers at equal distances from start to stop, with or without stop itself."""
    if endpoint:
        return ops.linspace(start, stop, num, dtype=dtype, device=device)
    return ops.linspace(start, stop, num + 1, dtype=dtype, device=device)[:num]


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> list[Tensor]:
    """Grids of coordinates; with "xy" the first two dimensions are exchanged, as for columns and rows of a picture."""
    return list(ops.meshgrid(*arrays, indexing=indexing))


def ones(shape: Size, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    return ops.ones(_dims(shape), dtype=dtype, device=device)


def ones_like(x: Tensor, /, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    return ops.ones_like(x, dtype=dtype, device=device)


def tril(x: Tensor, /, *, k: int = 0) -> Tensor:
    return ops.tril(x, k)


def triu(x: Tensor, /, *, k: int = 0) -> Tensor:
    return ops.triu(x, k)


def zeros(shape: Size, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    return ops.zeros(_dims(shape), dtype=dtype, device=device)


def zeros_like(x: Tensor, /, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    return ops.zeros_like(x, dtype=dtype, device=device)
