"""Folds over dimensions, running folds and what is made of them."""

from __future__ import annotations

import builtins
import math
import warnings
from typing import Any, NamedTuple

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node, detach
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather, views
from firepot.graph.primitives import reduce as rd
from firepot.ops import arithmetic, shape
from firepot.ops.broadcast import axes_of, axis_of, floating
from firepot.tensor import Tensor, wrap

__all__ = [
    "ValuesIndices", "all", "amax", "amin", "any", "argmax", "argmin", "count_nonzero", "cummax",
    "cummin", "cumprod", "cumsum", "log_softmax", "logcumsumexp", "logsumexp", "max", "mean", "min",
    "nanmean", "nansum", "prod", "softmax", "std", "std_mean", "sum", "var", "var_mean",
]  # fmt: skip


class ValuesIndices(NamedTuple):
    """What max, min, sort, topk, median and the running extrema return."""

    values: Tensor
    indices: Tensor


def _keep(node: Node, shape: tuple[int, ...], axes: tuple[int, ...], keepdim: bool) -> Node:
    return views.reshape(node, tuple(1 if d in axes else s for d, s in enumerate(shape))) if keepdim else node


def _fold(combine: str, x: Node, dim: Any, keepdim: bool, what: str) -> Tensor:
    axes = axes_of(dim, len(x.shape), what)
    return wrap(_keep(rd.reduce(combine, x, axes), x.shape, axes, keepdim))


def _summable(input: Tensor, dtype: DType | None) -> Node:
    x = input._node
    if dtype is not None:
        return ew.cast(x, dtype)
    return x if x.dtype.is_inexact else ew.cast(x, dtypes.int64)


def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The sum over dimensions (default all). Integers and bools sum to int64."""
    return _fold("sum", _summable(input, dtype), dim, keepdim, "sum")


@autocasts
def prod(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The product over a dimension (default all)."""
    return _fold("prod", _summable(input, dtype), dim, keepdim, "prod")


def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The mean over dimensions (default all), of floating or complex tensors."""
    x = input._node if dtype is None else ew.cast(input._node, dtype)
    if not x.dtype.is_inexact:
        raise RuntimeError(f"mean: the input must be floating point, got {x.dtype.name}; convert it with .float()")
    axes = axes_of(dim, len(x.shape), "mean")
    count = math.prod(x.shape[d] for d in axes)
    total = _keep(rd.reduce("sum", x, axes), x.shape, axes, keepdim)
    return wrap(ew.mul(total, ew.like(total, 1 / count)) if count else ew.div(total, ew.like(total, 0)))


def var_mean(
    input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(variance, mean): Σ |x − mean|² / (n − correction); correction is 1 unless said otherwise."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    x = input._node
    if not x.dtype.is_inexact:
        raise RuntimeError(f"var: the input must be floating point, got {x.dtype.name}")
    if correction is None:
        correction = 1.0 if unbiased is None or unbiased else 0.0
    axes = axes_of(dim, len(x.shape), "var")
    count = math.prod(x.shape[d] for d in axes)
    total = rd.reduce("sum", x, axes)
    average = ew.div(total, ew.like(total, count))
    centred = ew.sub(x, rd.restore(average, x.shape, axes))
    squares = rd.reduce("sum", _square(centred), axes)
    divisor = builtins.max(count - correction, 0.0)
    variance = ew.div(squares, ew.like(squares, divisor))
    return wrap(_keep(variance, x.shape, axes, keepdim)), wrap(_keep(average, x.shape, axes, keepdim))


def _square(x: Node) -> Node:
    """|x|²."""
    return ew.add(ew.square(ew.real(x)), ew.square(ew.imag(x))) if x.dtype.is_complex else ew.square(x)


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The variance over `dim` (default: all): Σ |x − mean|² / (n − correction), correction 1 unless given (0 if not
    unbiased).

    >>> fp.var(fp.tensor([1.0, 2.0, 3.0]))
    tensor(1.)
    """
    return var_mean(input, dim, unbiased, keepdim, correction=correction)[0]


def std(
    input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> Tensor:
    """The square root of the variance; arguments as var's."""
    return wrap(ew.unary("sqrt", var(input, dim, unbiased, keepdim, correction=correction)._node))


def std_mean(
    input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(standard deviation, mean); arguments as var's."""
    v, m = var_mean(input, dim, unbiased, keepdim, correction=correction)
    return wrap(ew.unary("sqrt", v._node)), m


def _nonempty(x: Node, axes: tuple[int, ...], what: str) -> None:
    if builtins.any(x.shape[d] == 0 for d in axes):
        raise RuntimeError(
            f"{what}: expected a reduction over at least one element, the input has shape {list(x.shape)}"
        )


def amax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The largest element over dimensions; ties share the gradient."""
    _nonempty(input._node, axes_of(dim, input.ndim, "amax"), "amax")
    return _fold("max", input._node, dim, keepdim, "amax")


def amin(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The smallest element over dimensions; ties share the gradient."""
    _nonempty(input._node, axes_of(dim, input.ndim, "amin"), "amin")
    return _fold("min", input._node, dim, keepdim, "amin")


def _position(x: Node, axis: int, combine: str, dtype: DType = dtypes.int64) -> Node:
    """The first position of the extremum along an axis (of the first NaN, where there is one).

    dtype: holds the axis's size.
    """
    best = rd.restore(rd.reduce(combine, x, (axis,)), x.shape, (axis,))
    hit = ew.eq(x, best)
    if x.dtype.kind == "f":
        hit = ew.or_(hit, ew.predicate("isnan", x))
    places = _places(x.shape, axis, dtype)
    return rd.reduce("min", ew.where(hit, places, ew.like(places, x.shape[axis])), (axis,))


def _places(shape: tuple[int, ...], axis: int, dtype: DType) -> Node:
    """The position of each element along an axis."""
    size = shape[axis]
    places = views.reshape(ew.iota(size, dtype), tuple(size if d == axis else 1 for d in range(len(shape))))
    return views.expand(places, shape)


def _extremum(input: Tensor, dim: Any, keepdim: bool, combine: str, what: str) -> Any:
    x = input._node
    if isinstance(dim, Tensor):
        return (arithmetic.maximum if combine == "max" else arithmetic.minimum)(input, dim)
    if dim is None:
        _nonempty(x, tuple(range(len(x.shape))), what)
        return _fold(combine, x, None, False, what)
    axis = axis_of(dim, len(x.shape), what)
    if not x.shape:
        return ValuesIndices(input, wrap(ew.full((), 0, dtypes.int64)))
    _nonempty(x, (axis,), what)
    # The backward pass reads the position: a byte of it is kept where that will do, as for the windows of pooling.
    dtype = dtypes.uint8 if x.shape[axis] <= 255 else dtypes.int32 if x.shape[axis] < 1 << 31 else dtypes.int64
    position = _position(detach(x), axis, combine, dtype)
    chosen = ew.eq(_places(x.shape, axis, dtype), rd.restore(position, x.shape, (axis,)))
    index = ew.cast(position, dtypes.int64)
    if x.dtype.kind == "f" and x.requires_grad:  # the gradient goes to the position that is returned
        values = rd.reduce("sum", ew.where(chosen, x, ew.like(x, 0)), (axis,))
    else:
        values = rd.reduce(combine, x, (axis,))
    shape, axes = x.shape, (axis,)
    return ValuesIndices(wrap(_keep(values, shape, axes, keepdim)), wrap(_keep(index, shape, axes, keepdim)))


def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; with `dim`, (values, indices) along it; with a tensor, the element-wise maximum."""
    return _extremum(input, dim, keepdim, "max", "max")


def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; with `dim`, (values, indices) along it; with a tensor, the element-wise minimum."""
    return _extremum(input, dim, keepdim, "min", "min")


def _arg(input: Tensor, dim: int | None, keepdim: bool, combine: str, what: str) -> Tensor:
    x = detach(input._node)
    if dim is None:
        flat = views.reshape(x, (x.size,))
        _nonempty(flat, (0,), what)
        index = _position(flat, 0, combine)
        return wrap(views.reshape(index, (1,) * len(x.shape)) if keepdim else index)
    axis = axis_of(dim, len(x.shape), what)
    if not x.shape:
        return wrap(ew.full((), 0, dtypes.int64))
    _nonempty(x, (axis,), what)
    return wrap(_keep(_position(x, axis, combine), x.shape, (axis,), keepdim))


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The position of the largest element: the first of ties."""
    return _arg(input, dim, keepdim, "max", "argmax")


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The position of the smallest element: the first of ties."""
    return _arg(input, dim, keepdim, "min", "argmin")


def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether an element is not zero: bool for every dtype (PyTorch makes an exception of uint8)."""
    return _fold("any", ew.cast(input._node, dtypes.bool_), dim, keepdim, "any")


def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether no element is zero: bool for every dtype (PyTorch makes an exception of uint8)."""
    return _fold("all", ew.cast(input._node, dtypes.bool_), dim, keepdim, "all")


def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """The number of elements other than zero over `dim` (default: all), int64."""
    return sum(wrap(ew.cast(input._node, dtypes.bool_)), dim)


def nansum(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The sum without NaN."""
    x = input._node
    return sum(wrap(ew.where(ew.predicate("isnan", x), ew.like(x, 0), x)), dim, keepdim)


def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The mean of what is not NaN."""
    number = ew.unary("not", ew.predicate("isnan", input._node))
    count = sum(wrap(ew.cast(number, input.dtype)), dim, keepdim)
    return wrap(ew.div(nansum(input, dim, keepdim)._node, count._node))


def norm(input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The p-norm of the elements over dimensions: (Σ |x|^p)^(1/p), the largest |x| for p = inf. 'fro' is 2."""
    x = floating(input._node)
    if x.dtype.is_complex:
        return _complex_norm(x, p, dim, keepdim)
    if x.dtype.size == 2:  # squares and sums of half precision overflow soon
        wide = norm(wrap(ew.cast(x, dtypes.float32)), p, dim, keepdim)
        return wrap(ew.cast(wide._node, x.dtype))
    if p == "fro" or p == 2:
        squares = _fold("sum", ew.square(x), dim, keepdim, "norm")._node
        zero = ew.eq(squares, ew.like(squares, 0))  # where the root has no slope; the norm's gradient is 0 there
        root = ew.unary("sqrt", ew.where(zero, ew.like(squares, 1), squares))
        return wrap(ew.where(zero, squares, root))
    size = ew.unary("abs", x)
    if p == math.inf or p == -math.inf:
        return _fold("max" if p > 0 else "min", size, dim, keepdim, "norm")
    if p == 0:  # the derivative is zero, and is there, as PyTorch has it
        counted = ew.where(ew.ne(x, ew.like(x, 0)), ew.like(x, 1), ew.mul(x, ew.like(x, 0)))
        return _fold("sum", counted, dim, keepdim, "norm")
    if p == 1:
        return _fold("sum", size, dim, keepdim, "norm")
    axes = axes_of(dim, len(x.shape), "norm")
    total = rd.reduce("sum", ew.power(size, ew.like(size, p)), axes)
    value = ew.power(total, ew.like(total, 1 / p))
    zero = ew.eq(value, ew.like(value, 0))  # where the gradient is 0, as PyTorch has it
    if x.requires_grad:
        apart = ew.where(rd.restore(zero, x.shape, axes), ew.like(size, 1), size)
        sums = rd.reduce("sum", ew.power(apart, ew.like(size, p)), axes)
        value = ew.where(zero, ew.like(value, 0), ew.power(sums, ew.like(sums, 1 / p)))
    return wrap(_keep(value, x.shape, axes, keepdim))


def _complex_norm(x: Node, p: Any, dim: Any, keepdim: bool) -> Tensor:
    if p == "fro" or p == 2:  # the norm of all parts
        parts = views.concatenate([views.reshape(v, (1, *x.shape)) for v in (ew.real(x), ew.imag(x))], 0)
        size = norm(wrap(parts), 2, [0, *(d + 1 for d in axes_of(dim, len(x.shape), "norm"))], keepdim)
        return wrap(views.reshape(size._node, size.shape[1:])) if keepdim else size
    return norm(arithmetic.abs(wrap(x)), p, dim, keepdim)


def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """log Σ exp(x) over dimensions, without overflow."""
    x = floating(input._node)
    axes = axes_of(dim, len(x.shape), "logsumexp")
    top = detach(rd.reduce("max", ew.real(x), axes))
    safe = ew.cast(ew.where(ew.predicate("isfinite", top), top, ew.like(top, 0)), x.dtype)
    total = rd.reduce("sum", ew.unary("exp", ew.sub(x, rd.restore(safe, x.shape, axes))), axes)
    return wrap(_keep(ew.add(ew.log(total), safe), x.shape, axes, keepdim))


def _converted(x: Node, dtype: DType | None) -> Node:
    """The elements in the dtype asked for; only real parts of complex ones, with PyTorch's warning, if it is real."""
    if dtype is None:
        return floating(x)
    if x.dtype.is_complex and not dtype.is_complex:
        warnings.warn(f"{x.dtype.name} as {dtype.name} discards the imaginary part", stacklevel=3)
        x = ew.real(x)
    return ew.cast(x, dtype)


def softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """exp(x) / Σ exp(x) along a dimension."""
    x = _converted(input._node, dtype)
    axis = (axis_of(dim, len(x.shape), "softmax"),) if x.shape else ()
    top = detach(rd.restore(rd.reduce("max", x, axis), x.shape, axis))
    e = ew.unary("exp", ew.sub(x, top))
    return wrap(ew.div(e, rd.restore(rd.reduce("sum", e, axis), x.shape, axis)))


def log_softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """x − log Σ exp(x) along a dimension."""
    x = _converted(input._node, dtype)
    axis = (axis_of(dim, len(x.shape), "log_softmax"),) if x.shape else ()
    top = detach(rd.restore(rd.reduce("max", x, axis), x.shape, axis))
    away = ew.sub(x, top)
    total = ew.log(rd.reduce("sum", ew.unary("exp", away), axis))
    return wrap(ew.sub(away, rd.restore(total, x.shape, axis)))


def _running(x: Node, dim: int, combine: str, what: str) -> Node:
    if not x.shape:
        return x if not combine.startswith("arg") else ew.full((), 0, dtypes.int64)
    axis = axis_of(dim, len(x.shape), what)
    order = [d for d in range(len(x.shape)) if d != axis] + [axis]
    return views.permute(gather.scan(views.permute(x, order), combine), views.inverse(order))


def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Running sums along a dimension."""
    return wrap(_running(_summable(input, dtype), dim, "sum", "cumsum"))


def cumprod(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Running products along a dimension."""
    return wrap(_running(_summable(input, dtype), dim, "prod", "cumprod"))


def cummax(input: Tensor, dim: int) -> ValuesIndices:
    """Running maxima along a dimension, and their positions."""
    x = input._node
    return ValuesIndices(wrap(_running(x, dim, "max", "cummax")), wrap(_running(detach(x), dim, "argmax", "cummax")))


def cummin(input: Tensor, dim: int) -> ValuesIndices:
    """Running minima along a dimension, and their positions."""
    x = input._node
    return ValuesIndices(wrap(_running(x, dim, "min", "cummin")), wrap(_running(detach(x), dim, "argmin", "cummin")))


def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """log of running sums of exp, without overflow. Of complex numbers, the angle is known up to multiples of 2π."""
    x = floating(input._node)
    if not x.dtype.is_complex or not x.shape:
        return wrap(_running(x, dim, "logsumexp", "logcumsumexp"))
    axis, known = axis_of(dim, len(x.shape), "logcumsumexp"), 1
    while known < x.shape[axis]:  # sums of so many terms that end at each place are known, and made sums of twice as many
        rest = x.shape[axis] - known
        start, before, after = (shape.narrow(wrap(x), axis, *part) for part in ((0, known), (0, rest), (known, rest)))
        x = shape.cat([start, arithmetic.logaddexp(after, before)], axis)._node
        known *= 2
    return wrap(x)
