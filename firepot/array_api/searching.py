"""Searching, sorting, indexing by arrays, and sets."""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple

from firepot import ops
from firepot.array_api.data_types import common
from firepot.graph import dtypes
from firepot.tensor import Tensor

__all__ = [
    "argmax", "argmin", "argsort", "nonzero", "searchsorted", "sort", "take", "take_along_axis", "unique_all",
    "unique_counts", "unique_inverse", "unique_values", "where",
]  # fmt: skip


def argmax(x: Tensor, /, *, axis: int | None = None, keepdims: builtins.bool = False) -> Tensor:
    return _best(ops.argmax, x, axis, keepdims)


def argmin(x: Tensor, /, *, axis: int | None = None, keepdims: builtins.bool = False) -> Tensor:
    return _best(ops.argmin, x, axis, keepdims)


def _best(search: Any, x: Tensor, axis: int | None, keepdims: builtins.bool) -> Tensor:
    if axis is None:
        place = search(x.reshape(-1), 0)
        return place.reshape((1,) * x.ndim) if keepdims else place
    return search(x, axis, keepdims)


def argsort(
    x: Tensor, /, *, axis: int = -1, descending: builtins.bool = False, stable: builtins.bool = True
) -> Tensor:
    return ops.argsort(x, axis, descending, stable)


def sort(x: Tensor, /, *, axis: int = -1, descending: builtins.bool = False, stable: builtins.bool = True) -> Tensor:
    return ops.sort(x, axis, descending, stable)[0]


def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    """The places of the elements that are not 0: one array of indices a dimension. Reads the values."""
    if x.ndim == 0:
        raise ValueError("nonzero: an array without dimensions has no places")
    return tuple(ops.nonzero(x, as_tuple=True))


def searchsorted(x1: Tensor, x2: Tensor, /, *, side: str = "left", sorter: Tensor | None = None) -> Tensor:
    """Where elements of x2 would be put into x1, sorted in one dimension, so that it stays sorted."""
    return ops.searchsorted(x1, x2, side=side, sorter=sorter)


def where(condition: Tensor, x1: Tensor | float, x2: Tensor | float, /) -> Tensor:
    """Elements of x1 where the condition holds, of x2 elsewhere."""
    if condition.dtype is not dtypes.bool_:
        raise TypeError(f"where: the condition is bool, not {condition.dtype.name}")
    return ops.where(condition, *common(x1, x2))


def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
    """Slices of x along an axis at the places that an array of one dimension names."""
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"take: an array of {x.ndim} dimensions needs an axis")
        axis = 0
    places = _integers("take", indices)
    return ops.index_select(x, axis, ops.where(places < 0, places + x.shape[axis], places))


def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Tensor:
    """result[…, i, …] = x[…, indices[…, i, …], …], the other dimensions broadcast."""
    places = _integers("take_along_axis", indices)
    return ops.take_along_dim(x, ops.where(places < 0, places + x.shape[axis], places), axis)


class UniqueAll(NamedTuple):
    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Tensor, /) -> UniqueAll:
    """Different values in rising order; where each is first, which one every element is, and how many there are.

    Every NaN is a value of its own. Reads the values: the size of the results depends on them.
    """
    flat = x.reshape(-1)
    order = ops.argsort(flat, 0, stable=True)
    ordered = ops.index_select(flat, 0, order)
    begins = ops.concat([ops.ones(1, dtype=dtypes.bool_), ordered[1:] != ordered[:-1]])[: flat.shape[0]]
    (starts,) = ops.nonzero(begins, as_tuple=True)
    ends = ops.concat([starts[1:], ops.full((1,), flat.shape[0], dtype=dtypes.int64)])[: starts.shape[0]]
    numbers = ops.cumsum(begins.to(dtypes.int64), 0) - 1
    inverse = ops.index_select(numbers, 0, ops.argsort(order, 0))
    return UniqueAll(
        ops.index_select(ordered, 0, starts), ops.index_select(order, 0, starts), inverse.reshape(x.shape),
        ends - starts,
    )  # fmt: skip


def unique_counts(x: Tensor, /) -> UniqueCounts:
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Tensor, /) -> UniqueInverse:
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Tensor, /) -> Tensor:
    return unique_all(x).values


def _integers(what: str, x: Tensor) -> Tensor:
    """x, checked to be of integers. Raises TypeError."""
    if not x.dtype.is_integer:
        raise TypeError(f"{what}: indices are integers, not {x.dtype.name}")
    return x.to(dtypes.int64)
