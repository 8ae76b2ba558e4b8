"""`fp.masked`: reductions and normalisations of the elements where a mask holds, by the names of torch.masked.

Elements outside the mask count as the operation's identity. `mask` broadcasts to the input; None takes all elements.
"""

from __future__ import annotations

import math
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.primitives import elementwise as ew
from firepot.ops import arithmetic, reduction, sorting
from firepot.ops.arithmetic import iinfo
from firepot.ops.broadcast import axes_of, broadcast_shapes
from firepot.ops.complex import conj
from firepot.tensor import Tensor, wrap

__all__ = [
    "amax", "amin", "argmax", "argmin", "cumprod", "cumsum", "log_softmax", "logaddexp", "logsumexp", "mean", "median",
    "norm", "normalize", "prod", "softmax", "softmin", "std", "sum", "var",
]  # fmt: skip


def _filled(what: str, input: Tensor, mask: Tensor | None, value: Any) -> Tensor:
    if mask is None:
        return input
    if mask.dtype is not dtypes.bool_:
        raise TypeError(f"masked.{what}: the mask must be bool, not {mask.dtype.name}")
    if broadcast_shapes(input.shape, mask.shape, what=f"masked.{what}") != input.shape:
        raise ValueError(f"masked.{what}: the mask {list(mask.shape)} does not broadcast to {list(input.shape)}")
    if input.dtype is dtypes.bool_:
        value = bool(value)
    return arithmetic.where(mask, input, wrap(ew.full((), value, input.dtype)))


def _as(input: Tensor, dtype: DType | None) -> Tensor:
    return input if dtype is None else wrap(ew.cast(input._node, dtype))


def _summed(input: Tensor, dtype: DType | None) -> Tensor:
    if dtype is None and not input.dtype.is_inexact:
        dtype = dtypes.int64
    return _as(input, dtype)


def _lowest(dtype: DType, sign: int) -> Any:
    if dtype.kind == "f":
        return -math.inf * sign
    if dtype.kind == "b":
        return sign < 0
    return iinfo(dtype).min if sign > 0 else iinfo(dtype).max


def sum(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: DType | None = None,
        mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _summed(input, dtype)
    return reduction.sum(_filled("sum", x, mask, 0), dim, keepdim, dtype=x.dtype)


def prod(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: DType | None = None,
         mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _summed(input, dtype)
    return reduction.prod(_filled("prod", x, mask, 1), dim, keepdim, dtype=x.dtype)


def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None, mask: Tensor | None = None) -> Tensor:
    return reduction.cumsum(_filled("cumsum", _summed(input, dtype), mask, 0), dim)


def cumprod(input: Tensor, dim: int, *, dtype: DType | None = None, mask: Tensor | None = None) -> Tensor:
    return reduction.cumprod(_filled("cumprod", _summed(input, dtype), mask, 1), dim)


def amax(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: DType | None = None,
         mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _as(input, dtype)
    return reduction.amax(_filled("amax", x, mask, _lowest(x.dtype, 1)), dim, keepdim)


def amin(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: DType | None = None,
         mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _as(input, dtype)
    return reduction.amin(_filled("amin", x, mask, _lowest(x.dtype, -1)), dim, keepdim)


def argmax(input: Tensor, dim: int | None = None, *, keepdim: bool = False, dtype: DType | None = None,
           mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _as(input, dtype)
    return _as(reduction.argmax(_filled("argmax", x, mask, _lowest(x.dtype, 1)), dim, keepdim), x.dtype)


def argmin(input: Tensor, dim: int | None = None, *, keepdim: bool = False, dtype: DType | None = None,
           mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _as(input, dtype)
    return _as(reduction.argmin(_filled("argmin", x, mask, _lowest(x.dtype, -1)), dim, keepdim), x.dtype)


def _count(input: Tensor, dim: Any, keepdim: bool, mask: Tensor | None) -> Tensor:
    ones = wrap(ew.full(input.shape, 1, dtypes.int64))
    return reduction.sum(_filled("mean", ones, mask, 0), dim, keepdim)


def mean(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: DType | None = None,
         mask: Tensor | None = None) -> Tensor:  # fmt: skip
    """The mean of the elements that the mask holds for; NaN where there are none."""
    x = _as(input, dtype)
    if x.dtype.kind in "biu":
        raise ValueError(f"masked.mean: expected a floating-point tensor, got {x.dtype.name}")
    total = sum(x, dim, keepdim=keepdim, mask=mask)
    return arithmetic.div(total, _as(_count(x, dim, keepdim, mask), x.dtype))


def median(input: Tensor, dim: int = -1, *, keepdim: bool = False, dtype: DType | None = None,
           mask: Tensor | None = None) -> Tensor:  # fmt: skip
    """The lower median of the elements that the mask holds for; NaN where there are none, or one is."""
    x = _as(input, dtype)
    if x.dtype.kind != "f":
        raise TypeError(f"masked.median: expected a floating-point tensor, got {x.dtype.name}")
    if x.ndim == 0:
        return _filled("median", x, mask, math.nan)
    found = sorting.nanmedian(_filled("median", x, mask, math.nan), dim, keepdim).values
    bad = reduction.any(_filled("median", arithmetic.isnan(x), mask, False), dim, keepdim)
    return arithmetic.where(bad, math.nan, found)


def norm(input: Tensor, ord: Any = 2.0, dim: Any = None, *, keepdim: bool = False, dtype: DType | None = None,
         mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _as(input, dtype)
    return reduction.norm(_filled("norm", x, mask, math.inf if ord == -math.inf else 0), ord, dim, keepdim)


def var(input: Tensor, dim: Any = None, unbiased: bool | None = None, *, correction: Any = None, keepdim: bool = False,
        dtype: DType | None = None, mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _as(input, dtype)
    if x.dtype.kind not in "fc":
        x = _as(x, dtypes.float32)
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    average = mean(x, dim, keepdim=True, mask=mask)
    deviation = arithmetic.sub(x, average)
    square = arithmetic.mul(deviation, conj(deviation)) if x.dtype.kind == "c" else arithmetic.square(deviation)
    away = _filled("var", square, mask, 0)
    count = _as(_count(x, dim, keepdim, mask), dtypes.float64 if x.dtype.kind == "c" else x.dtype)
    divisor = arithmetic.maximum(arithmetic.sub(count, correction), wrap(ew.full((), 0, count.dtype)))
    return arithmetic.div(reduction.sum(away, dim, keepdim), _as(divisor, x.dtype))


def std(input: Tensor, dim: Any = None, unbiased: bool | None = None, *, correction: Any = None, keepdim: bool = False,
        dtype: DType | None = None, mask: Tensor | None = None) -> Tensor:  # fmt: skip
    found = var(input, dim, unbiased, correction=correction, keepdim=keepdim, dtype=dtype, mask=mask)
    return arithmetic.sqrt(found)


def softmax(input: Tensor, dim: int, *, dtype: DType | None = None, mask: Tensor | None = None) -> Tensor:
    return reduction.softmax(_filled("softmax", _as(input, dtype), mask, -math.inf), dim)


def log_softmax(input: Tensor, dim: int, *, dtype: DType | None = None, mask: Tensor | None = None) -> Tensor:
    return reduction.log_softmax(_filled("log_softmax", _as(input, dtype), mask, -math.inf), dim)


def softmin(input: Tensor, dim: int, *, dtype: DType | None = None, mask: Tensor | None = None) -> Tensor:
    return reduction.softmax(arithmetic.neg(_filled("softmin", _as(input, dtype), mask, math.inf)), dim)


def normalize(input: Tensor, ord: Any, dim: int, *, eps: float = 1e-12, dtype: DType | None = None,
              mask: Tensor | None = None) -> Tensor:  # fmt: skip
    """The elements over their norm along a dimension."""
    x = _as(input, dtype)
    size = norm(x, ord, dim, keepdim=True, mask=mask)
    return arithmetic.div(_filled("normalize", x, mask, 0), arithmetic.clamp(size, min=eps))


def logaddexp(input: Tensor, other: Tensor, *, dtype: DType | None = None, input_mask: Tensor | None = None,
              other_mask: Tensor | None = None) -> Tensor:  # fmt: skip
    a = _filled("logaddexp", _as(input, dtype), input_mask, -math.inf)
    return arithmetic.logaddexp(a, _filled("logaddexp", _as(other, dtype), other_mask, -math.inf))


def logsumexp(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: DType | None = None,
              mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _as(input, dtype)
    wide = x if x.dtype.kind in "fc" else _as(x, dtypes.float32)
    axes = axes_of(dim, x.ndim, "masked.logsumexp")
    return _as(reduction.logsumexp(_filled("logsumexp", wide, mask, -math.inf), axes, keepdim), x.dtype)
