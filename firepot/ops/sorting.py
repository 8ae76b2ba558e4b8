"""Sorting and what is made of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from firepot.graph import dtypes
from firepot.graph.node import Node, detach
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather as ga
from firepot.graph.primitives import views
from firepot.ops.broadcast import axis_of
from firepot.ops.reduction import ValuesIndices
from firepot.tensor import Tensor, node_of, wrap

__all__ = [
    "argsort", "bucketize", "kthvalue", "median", "msort", "quantile", "searchsorted", "sort", "topk",
    "unique",
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


def quantile(input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The q-quantile, interpolated linearly between neighbours."""
    from firepot.ops import arithmetic, shape

    if dim is None:
        found = quantile(wrap(views.reshape(input._node, (input._value.size,))), q, 0)
        return shape.reshape(found, (*found.shape, *(1,) * input.ndim)) if keepdim else found
    axis = axis_of(dim, input.ndim, "quantile")
    if input.shape and input.shape[axis] == 0:
        raise RuntimeError(f"quantile: expected at least one element along dimension {axis} of {list(input.shape)}")
    values = shape.movedim(sort(input, axis).values, axis, -1)
    last = values.shape[-1] - 1

    def at(p: float) -> Tensor:
        place = p * last
        low = int(place)
        high = low + 1 if low < last else low
        return arithmetic.lerp(shape.select(values, -1, low), shape.select(values, -1, high), place - low)

    given = q.tolist() if isinstance(q, Tensor) else q
    if any(not 0 <= float(p) <= 1 for p in (given if isinstance(given, list) else [given])):
        raise RuntimeError(f"quantile: q must lie in 0 … 1, got {given}")
    many = [float(p) for p in (q.tolist() if isinstance(q, Tensor) and q.shape else [])]
    result = shape.stack([at(p) for p in many]) if many else at(float(q))
    return shape.unsqueeze(result, axis + bool(many)) if keepdim else result


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The different elements in order. Their number depends on values: not inside fp.jit."""
    array = input.detach()._array("unique (a size that depends on values)")
    found = np.unique(array, return_inverse=True, return_counts=True, axis=dim)
    values, inverse, counts = (wrap(node_of(a if i == 0 else a.astype(np.int64))) for i, a in enumerate(found))
    if dim is None:
        inverse = wrap(views.reshape(inverse._node, input.shape))
    result = [values] + [inverse] * return_inverse + [counts] * return_counts
    return tuple(result) if len(result) > 1 else values


def searchsorted(sorted_sequence: Tensor, values: Any, *, right: bool = False, side: str | None = None) -> Tensor:
    """Where to insert values so that the last dimension stays sorted."""
    from firepot.ops import arithmetic, reduction, shape

    v = values if isinstance(values, Tensor) else wrap(node_of(values))
    after = right or side == "right"
    wide = shape.unsqueeze(v, -1)
    row = sorted_sequence if sorted_sequence.ndim == 1 else shape.unsqueeze(sorted_sequence, -2)
    return reduction.sum((arithmetic.le if after else arithmetic.lt)(row, wide), -1)


def bucketize(input: Any, boundaries: Tensor, *, right: bool = False) -> Tensor:
    """For each element its bucket among the sorted `boundaries`: searchsorted with the arguments exchanged."""
    return searchsorted(boundaries, input, right=right)
