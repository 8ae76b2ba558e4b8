"""Reductions and cumulative sums."""

from __future__ import annotations

import builtins
from typing import Any

from firepot import ops
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.tensor import Tensor

__all__ = [
    "all", "any", "count_nonzero", "cumulative_prod", "cumulative_sum", "diff", "max", "mean", "min", "prod", "std",
    "sum", "var",
]  # fmt: skip

Axis = int | tuple[int, ...] | None


def all(x: Tensor, /, *, axis: Axis = None, keepdims: builtins.bool = False) -> Tensor:
    return _logical(ops.all, x, axis, keepdims)


def any(x: Tensor, /, *, axis: Axis = None, keepdims: builtins.bool = False) -> Tensor:
    return _logical(ops.any, x, axis, keepdims)


def _logical(reduce: Any, x: Tensor, axis: Axis, keepdims: builtins.bool) -> Tensor:
    return x.to(dtypes.bool_) if axis == () else reduce(x.to(dtypes.bool_), axis, keepdims)


def count_nonzero(x: Tensor, /, *, axis: Axis = None, keepdims: builtins.bool = False) -> Tensor:
    return sum((x != 0).to(dtypes.int64), axis=axis, keepdims=keepdims)


def max(x: Tensor, /, *, axis: Axis = None, keepdims: builtins.bool = False) -> Tensor:
    return ops.positive(x) if axis == () else ops.amax(x, _axes(x, axis), keepdims)


def min(x: Tensor, /, *, axis: Axis = None, keepdims: builtins.bool = False) -> Tensor:
    return ops.positive(x) if axis == () else ops.amin(x, _axes(x, axis), keepdims)


def mean(x: Tensor, /, *, axis: Axis = None, keepdims: builtins.bool = False) -> Tensor:
    return ops.positive(x) if axis == () else ops.mean(x, axis, keepdims)


def sum(x: Tensor, /, *, axis: Axis = None, dtype: DType | None = None, keepdims: builtins.bool = False) -> Tensor:
    """The sum over axes; of small integers in the default integer of their kind."""
    x = x.to(_accumulated(x.dtype, dtype))
    return x if axis == () else ops.sum(x, axis, keepdims, dtype=x.dtype)


def prod(x: Tensor, /, *, axis: Axis = None, dtype: DType | None = None, keepdims: builtins.bool = False) -> Tensor:
    """The product over axes; of small integers in the default integer of their kind."""
    x = x.to(_accumulated(x.dtype, dtype))
    if axis == ():
        return x
    for a in sorted((d % x.ndim for d in _axes(x, axis)), reverse=True):
        x = ops.prod(x, a, keepdims, dtype=x.dtype)
    return x


def std(x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: builtins.bool = False) -> Tensor:
    """The standard deviation; the sum of squares is divided by n − correction."""
    return ops.sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def var(x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: builtins.bool = False) -> Tensor:
    """The variance; the sum of squares is divided by n − correction."""
    if axis == ():
        return ops.zeros_like(x) if correction < 1 else ops.full_like(x, float("nan"))
    return ops.var(x, axis, keepdim=keepdims, correction=correction)


def cumulative_sum(
    x: Tensor, /, *, axis: int | None = None, dtype: DType | None = None, include_initial: builtins.bool = False
) -> Tensor:
    """Sums of the first elements along an axis; from a leading 0 on if `include_initial`."""
    return _cumulative("cumulative_sum", ops.cumsum, 0, x, axis, dtype, include_initial)


def cumulative_prod(
    x: Tensor, /, *, axis: int | None = None, dtype: DType | None = None, include_initial: builtins.bool = False
) -> Tensor:
    """Products of the first elements along an axis; from a leading 1 on if `include_initial`."""
    return _cumulative("cumulative_prod", ops.cumprod, 1, x, axis, dtype, include_initial)


def _cumulative(
    what: str, scan: Any, first: int, x: Tensor, axis: int | None, dtype: DType | None, include_initial: builtins.bool
) -> Tensor:
    if axis is None:
        if x.ndim > 1:
            raise ValueError(f"{what}: an array of {x.ndim} dimensions needs an axis")
        axis = 0
    x = x.to(_accumulated(x.dtype, dtype))
    result = scan(x, axis, dtype=x.dtype)
    if include_initial:
        shape = list(result.shape)
        shape[axis] = 1
        result = ops.concat([ops.full(shape, first, dtype=result.dtype), result], axis)
    return result


def diff(
    x: Tensor, /, *, axis: int = -1, n: int = 1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    return ops.diff(x, n, axis, prepend, append)


def _axes(x: Tensor, axis: Axis) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    return (axis,) if isinstance(axis, int) else tuple(axis)


def _accumulated(dtype: DType, asked: DType | None) -> DType:
    if asked is not None:
        return asked
    return {"u": dtypes.uint64, "i": dtypes.int64}.get(dtype.kind, dtype)
