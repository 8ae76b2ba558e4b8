"""Sorting and what is made of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.node import Node, detach
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather as ga
from firepot.graph.primitives import views
from firepot.graph.primitives.reduce import reduce, restore
from firepot.ops.broadcast import axis_of
from firepot.ops.reduction import ValuesIndices
from firepot.tensor import Tensor, caller_site, node_of, wrap

__all__ = [
    "argsort", "bucketize", "kthvalue", "median", "mode", "msort", "nanmedian", "nanquantile", "quantile",
    "searchsorted", "sort", "topk", "unique", "unique_consecutive",
]  # fmt: skip


def _last(x: Node, dim: int, what: str) -> tuple[Node, list[int]]:
    axis = axis_of(dim, len(x.shape), what)
    order = [d for d in range(len(x.shape)) if d != axis] + [axis]
    return views.permute(x, order), order


def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> ValuesIndices:
    """(values, indices) in order along a dimension. Always stable; NaN is the largest."""
    if not input.shape:
        return ValuesIndices(input, wrap(ew.full((), 0, dtypes.int64)))
    x, order = _last(input._node, dim, "sort")
    places = ga.argsort(detach(x), descending)
    back = views.inverse(order)
    return ValuesIndices(wrap(views.permute(ga.take_last(x, places), back)), wrap(views.permute(places, back)))


def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices that sort along `dim`, int64; equal elements keep their order."""
    return sort(input, dim, descending).indices


def msort(input: Tensor) -> Tensor:
    """Sorted along the first dimension."""
    return sort(input, 0).values


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesIndices:
    """The k largest (or smallest) along a dimension, in order."""
    if not input.shape:
        if k not in (0, 1):
            raise RuntimeError(f"topk: k = {k} is out of range for a 0-d tensor")
        return ValuesIndices(input, wrap(ew.full((), 0, dtypes.int64)))
    x, order = _last(input._node, dim, "topk")
    if not 0 <= k <= x.shape[-1]:
        raise RuntimeError(f"topk: k = {k} is out of range for dimension {dim} with size {x.shape[-1]}")
    places = views.slice_(ga.argsort(detach(x), largest), (0,) * len(x.shape), (*x.shape[:-1], k))
    back = views.inverse(order)
    return ValuesIndices(wrap(views.permute(ga.take_last(x, places), back)), wrap(views.permute(places, back)))


def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """The k-th smallest along a dimension (k from 1)."""
    if not input.shape:
        if k != 1:
            raise RuntimeError(f"kthvalue: k = {k} is out of range for a 0-d tensor")
        return ValuesIndices(input, wrap(ew.full((), 0, dtypes.int64)))
    x, _ = _last(input._node, dim, "kthvalue")
    if not 1 <= k <= x.shape[-1]:
        raise RuntimeError(f"kthvalue: k = {k} is out of range for size {x.shape[-1]}")
    places = views.slice_(ga.argsort(detach(x)), (*(0,) * (len(x.shape) - 1), k - 1), (*x.shape[:-1], 1))
    axis = axis_of(dim, len(x.shape), "kthvalue")
    shape = tuple(1 if d == axis else s for d, s in enumerate(input.shape))
    if not keepdim:
        shape = tuple(s for d, s in enumerate(input.shape) if d != axis)
    return ValuesIndices(wrap(views.reshape(ga.take_last(x, places), shape)), wrap(views.reshape(places, shape)))


def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower median of all elements, or (values, indices) along a dimension. NaN where there is one."""
    if dim is None:
        flat = wrap(views.reshape(input._node, (input._value.size,)))
        return median(flat, 0).values
    axis = axis_of(dim, input.ndim, "median")
    size = input.shape[axis] if input.shape else 1
    if size == 0:
        raise RuntimeError(f"median: expected at least one element along dimension {axis} of {list(input.shape)}")
    found = kthvalue(input, (size + 1) // 2, axis, keepdim)
    if input.dtype.kind != "f" or not input.shape:
        return found
    worst = kthvalue(input, size, axis, keepdim)  # NaN sorts last
    bad = ew.predicate("isnan", worst.values._node)
    return ValuesIndices(
        wrap(ew.where(bad, worst.values._node, found.values._node)),
        wrap(ew.where(bad, worst.indices._node, found.indices._node)),
    )


def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower median of the elements that are not NaN; NaN where there are none."""
    if dim is None:
        return nanmedian(wrap(views.reshape(input._node, (input._value.size,))), 0).values
    if input.dtype.kind != "f" or not input.shape:
        return median(input, dim, keepdim)
    axis = axis_of(dim, input.ndim, "nanmedian")
    size = input.shape[axis]
    if size == 0:
        raise RuntimeError(f"nanmedian: expected at least one element along dimension {axis} of {list(input.shape)}")
    x, _ = _last(input._node, axis, "nanmedian")
    numbers = ew.cast(ew.unary("not", ew.predicate("isnan", detach(x))), dtypes.int64)
    count = reduce("sum", numbers, (len(x.shape) - 1,))
    middle = ew.sub(count, ew.where(ew.gt(count, ew.like(count, 0)), ew.like(count, 1), ew.like(count, 0)))
    middle = ew.binary("floordiv", middle, ew.like(middle, 2))
    places = ga.take_last(ga.argsort(detach(x)), views.reshape(middle, (*middle.shape, 1)))
    shape = tuple(1 if d == axis else s for d, s in enumerate(input.shape))
    if not keepdim:
        shape = tuple(s for d, s in enumerate(input.shape) if d != axis)
    return ValuesIndices(wrap(views.reshape(ga.take_last(x, places), shape)), wrap(views.reshape(places, shape)))


def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """The most frequent element along a dimension (the smallest of those), and the position of its last occurrence."""
    if not input.shape:
        return ValuesIndices(input, wrap(ew.full((), 0, dtypes.int64)))
    axis = axis_of(dim, input.ndim, "mode")
    if input.shape[axis] == 0:
        raise IndexError(f"mode: expected at least one element along dimension {axis} of {list(input.shape)}")
    x, _ = _last(input._node, axis, "mode")
    n, last = x.shape[-1], len(x.shape) - 1
    order = ga.argsort(detach(x))
    values = ga.take_last(detach(x), order)
    # The length of the run of equal elements up to each place: places since the last change.
    previous = views.slice_(values, (0,) * (last + 1), (*x.shape[:-1], n - 1))
    current = views.slice_(values, (*(0,) * last, 1), (*x.shape[:-1], n - 1))
    changed = views.pad(ew.ne(current, previous), [*[0] * last, 1], [0] * (last + 1), True)
    position = views.expand(ew.iota(n, dtypes.int64), x.shape)
    start = ga.scan(ew.where(changed, position, ew.like(position, 0)), "max")
    # The first place of the longest run, by the smallest of −length · n + place.
    run = ew.sub(position, start)
    score = ew.sub(ew.mul(run, ew.like(run, n)), position)
    best = reduce("max", score, (last,))
    hit = ew.eq(score, restore(best, x.shape, (last,)))
    end = reduce("max", ew.where(hit, position, ew.like(position, 0)), (last,))
    places = ga.take_last(order, views.reshape(end, (*end.shape, 1)))
    shape = tuple(1 if d == axis else s for d, s in enumerate(input.shape))
    if not keepdim:
        shape = tuple(s for d, s in enumerate(input.shape) if d != axis)
    return ValuesIndices(wrap(views.reshape(ga.take_last(x, places), shape)), wrap(views.reshape(places, shape)))


_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(
    what: str, input: Tensor, q: Any, dim: int | None, keepdim: bool, interpolation: str, skip_nan: bool
) -> Tensor:
    if interpolation not in _INTERPOLATIONS:
        raise RuntimeError(f"{what}: interpolation must be one of {', '.join(_INTERPOLATIONS)}, not {interpolation!r}")
    if input.dtype not in (dtypes.float32, dtypes.float64):
        raise RuntimeError(f"{what}: the input must be float32 or float64, got {input.dtype.name}")
    if isinstance(q, Tensor):
        if q.ndim > 1:
            raise RuntimeError(f"{what}: q must be a number or a vector, got shape {list(q.shape)}")
        if q.dtype is not input.dtype:
            raise RuntimeError(f"{what}: q must have the input's dtype {input.dtype.name}, got {q.dtype.name}")
    else:
        if not 0 <= float(q) <= 1:
            raise RuntimeError(f"{what}: q must lie in 0 … 1, got {q}")
        q = wrap(ew.constant(float(q), input.dtype))
    axis = None if dim is None else axis_of(dim, input.ndim, what)
    x = views.reshape(input._node, (input.numel(),)) if axis is None else input._node
    if axis is not None and x.shape:
        x, _ = _last(x, axis, what)
    x = views.reshape(x, x.shape or (1,))
    last = len(x.shape) - 1
    size = x.shape[-1]
    if size == 0:
        raise RuntimeError(f"{what}: expected at least one element, the input has shape {list(input.shape)}")
    values = ga.take_last(x, ga.argsort(detach(x)))
    counts = q.numel()
    wide = (*x.shape[:-1], counts)
    valid = ew.ge(q._node, ew.like(q._node, 0))
    valid = ew.and_(valid, ew.compare("le", q._node, ew.like(q._node, 1)))
    message = f"{what}: q must lie in 0 … 1 (at {caller_site()})"
    zero = ew.check_index(ew.cast(ew.unary("not", valid), dtypes.int64), 1, message)
    rank = views.expand(views.reshape(q._node, (counts,)), wide)
    if skip_nan:
        number = ew.cast(ew.unary("not", ew.predicate("isnan", detach(x))), dtypes.int64)
        found = restore(reduce("sum", number, (last,)), wide, (last,))
        end = ew.cast(ew.where(ew.gt(found, ew.like(found, 0)), ew.sub(found, ew.like(found, 1)), found), x.dtype)
    else:
        end = ew.full(wide, size - 1, x.dtype)
    rank = ew.mul(rank, end)
    low = ew.cast(ew.unary("floor", detach(rank)), dtypes.int64)
    low = ew.add(low, views.expand(views.reshape(zero, (counts,)), wide))
    high = ew.cast(ew.unary("ceil", detach(rank)), dtypes.int64)
    if interpolation == "nearest":
        low = high = ew.cast(ew.unary("round", detach(rank)), dtypes.int64)
    weight = ew.sub(rank, ew.cast(low, x.dtype))
    if interpolation in ("lower", "nearest"):
        result = ga.take_last(values, low)
    elif interpolation == "higher":
        result = ga.take_last(values, high)
    else:
        below, above = ga.take_last(values, low), ga.take_last(values, high)
        weight = ew.like(weight, 0.5) if interpolation == "midpoint" else weight
        result = ew.add(below, ew.mul(weight, ew.sub(above, below)))
        result = ew.where(ew.eq(low, high), below, result)
    if not skip_nan:
        bad = restore(reduce("any", ew.predicate("isnan", detach(x)), (last,)), wide, (last,))
        result = ew.where(bad, ew.like(result, math.nan), result)
    rest = input.shape if axis is None else tuple(s for d, s in enumerate(input.shape) if d != axis)
    kept = (1,) * input.ndim if axis is None else tuple(1 if d == axis else s for d, s in enumerate(input.shape))
    shape = kept if keepdim else (() if axis is None else rest)
    moved = views.permute(result, (last, *range(last)))
    return wrap(views.reshape(moved, (*((counts,) if q.shape else ()), *shape)))


@autocasts
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The q-quantile, between neighbours by 'linear', 'lower', 'higher', 'midpoint' or 'nearest'. NaN where there is one.

    A vector q gives its quantiles along a new first dimension.
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation, False)


@autocasts
def nanquantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The q-quantile of the elements that are not NaN."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, True)


_SORTED = "Use fp.sort and compare neighbours to keep the size"


def unique(
    input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,
    dim: int | None = None,
) -> Any:  # fmt: skip
    """The different elements in order. Their number depends on values: not inside fp.jit."""
    if input.dtype is dtypes.bfloat16:
        return _as_float("unique", unique, input, sorted, return_inverse, return_counts, dim)
    array = input.detach()._array("unique (a size that depends on values)", _SORTED)
    axis = None if dim is None else axis_of(dim, input.ndim, "unique")
    if axis is not None and array.size == 0 and array.shape and array.shape[axis]:
        raise RuntimeError(f"unique: there are 0-sized dimensions beside the one asked for in {list(input.shape)}")
    found = np.unique(array, return_inverse=True, return_counts=True, axis=axis if input.shape else None)
    values, inverse, counts = (wrap(node_of(a if i == 0 else a.astype(np.int64))) for i, a in enumerate(found))
    if dim is None or not input.shape:
        inverse = wrap(views.reshape(inverse._node, input.shape))
    result = [values] + [inverse] * return_inverse + [counts] * return_counts
    return tuple(result) if len(result) > 1 else values


def _as_float(what: str, function: Any, input: Tensor, *arguments: Any) -> Any:
    """A function of values, of bfloat16 by way of float32."""
    result = function(wrap(ew.cast(input._node, dtypes.float32)), *arguments)
    first, *rest = result if isinstance(result, tuple) else (result,)
    back = wrap(ew.cast(first._node, input.dtype))
    return (back, *rest) if rest else back


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The elements (or slices of a dimension) without those equal to the one before: not inside fp.jit."""
    if input.dtype is dtypes.bfloat16:
        return _as_float("unique_consecutive", unique_consecutive, input, return_inverse, return_counts, dim)
    array = input.detach()._array("unique_consecutive (a size that depends on values)", _SORTED)
    axis = 0 if dim is None else axis_of(dim, input.ndim, "unique_consecutive")
    rows = array.reshape(-1) if dim is None or not input.shape else np.moveaxis(array, axis, 0)
    flat = rows.reshape(rows.shape[0], -1)
    changed = np.ones(rows.shape[0], bool)
    changed[1:] = (flat[1:] != flat[:-1]).any(1)
    kept = rows[changed] if dim is None or not input.shape else np.moveaxis(rows[changed], 0, axis)
    inverse = np.cumsum(changed) - 1
    starts = np.flatnonzero(changed)
    counts = np.diff(np.append(starts, rows.shape[0]))
    result = [wrap(node_of(np.ascontiguousarray(kept)))]
    if return_inverse:
        shaped = inverse.reshape(input.shape) if dim is None or not input.shape else inverse
        result.append(wrap(node_of(shaped.astype(np.int64))))
    if return_counts:
        result.append(wrap(node_of(counts.astype(np.int64))))
    return tuple(result) if len(result) > 1 else result[0]


def searchsorted(
    sorted_sequence: Tensor, values: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Where to insert values so that the last dimension stays sorted. sorter: positions that sort the sequence."""
    from firepot.ops import arithmetic, reduction, shape

    if side not in (None, "left", "right"):
        raise RuntimeError(f"searchsorted: side can only be 'left' or 'right' but got {side!r}")
    if side == "left" and right:
        raise RuntimeError("searchsorted: side and right can't be set to opposites, got side of left while right was True")
    v = values if isinstance(values, Tensor) else wrap(node_of(values, sorted_sequence.dtype))
    if isinstance(values, Tensor) and v.dtype is not sorted_sequence.dtype:
        raise RuntimeError(
            f"searchsorted: the sequence is {sorted_sequence.dtype.name} and the values are {v.dtype.name}; they must "
            "be equal"
        )
    if not sorted_sequence.shape:
        raise RuntimeError("searchsorted: the sequence needs at least one dimension")
    if sorted_sequence.ndim != 1 and v.shape[:-1] != sorted_sequence.shape[:-1]:
        raise RuntimeError(
            f"searchsorted: all sizes but the last must agree, got {list(sorted_sequence.shape)} and {list(v.shape)}"
        )
    if sorter is not None:
        if sorter.shape != sorted_sequence.shape or sorter.dtype is not dtypes.int64:
            raise RuntimeError(
                f"searchsorted: sorter must be int64 {list(sorted_sequence.shape)}, got {sorter.dtype.name}"
                f"{list(sorter.shape)}"
            )
        from firepot.ops.indexing import gather

        sorted_sequence = gather(sorted_sequence, -1, sorter)
    after = right or side == "right"
    wide = shape.unsqueeze(v, -1)
    row = sorted_sequence if sorted_sequence.ndim == 1 else shape.unsqueeze(sorted_sequence, -2)
    if after:
        passed = arithmetic.logical_not(arithmetic.gt(row, wide))
    else:  # NaN is the largest: it goes behind every number
        passed = arithmetic.lt(row, wide)
        if v.dtype.kind == "f":
            behind = arithmetic.logical_and(arithmetic.isnan(wide), arithmetic.logical_not(arithmetic.isnan(row)))
            passed = arithmetic.logical_or(passed, behind)
    if after and v.dtype.kind == "f":
        nan_row = arithmetic.logical_and(arithmetic.isnan(row), arithmetic.logical_not(arithmetic.isnan(wide)))
        passed = arithmetic.logical_and(passed, arithmetic.logical_not(nan_row))
    count = reduction.sum(passed, -1)
    return wrap(ew.cast(count._node, dtypes.int32)) if out_int32 else count


def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The number of the interval between sorted boundaries that each element lies in."""
    if boundaries.ndim != 1:
        raise RuntimeError(f"bucketize: boundaries must be a vector, got shape {list(boundaries.shape)}")
    if isinstance(input, Tensor) and input.dtype is not boundaries.dtype:
        from firepot.graph.dtypes import promote

        common = promote(input.dtype, boundaries.dtype)
        input, boundaries = wrap(ew.cast(input._node, common)), wrap(ew.cast(boundaries._node, common))
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)
