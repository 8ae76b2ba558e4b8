"""Calls of NumPy's LAPACK from the graph's side: decompositions, which no kernel of ours computes.

The arguments are computed, the call is made, and its results are leaves; so there is none of it inside fp.jit. Under
fp.vmap one call is made for all examples. The derivatives are compositions of ordinary operations, to be used in
`Function`s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from firepot.graph import dtypes
from firepot.tensor import Tensor, node_of, wrap
from firepot.tracing import state

Array = np.ndarray[Any, Any]


def call(what: str, function: Callable[..., Any], *tensors: Tensor, core: Sequence[int] | None = None) -> Any:
    """The arrays that `function` makes of the tensors' values, as tensors of the first one's precision.

    Args:
        tensors: of one floating-point or complex dtype, behind the first also int32 (row exchanges).
        function: of stacks of matrices, whose leading dimensions broadcast.
        core: how many dimensions of each tensor are one matrix, behind those of the stack (default: 2 of each).

    Raises: RuntimeError for dtypes that LAPACK does not know; what NumPy's LinAlgError says, as LinAlgError.
    """
    dtype = tensors[0].dtype
    for t in (t for t in tensors if t is tensors[0] or t.dtype is not dtypes.int32):
        if t.dtype.to_real() not in (dtypes.float32, dtypes.float64):
            raise RuntimeError(f"{what}: expected float32, float64 or complex, got {t.dtype.name}; convert it first")
        if t.dtype.to_real() is not dtype.to_real():
            raise RuntimeError(f"{what}: expected tensors of one dtype, got {dtype.name} and {t.dtype.name}")
    if state.trace is not None:
        core = core or [2] * len(tensors)
        mapped = state.trace.on_host(lambda *many: call(what, function, *many, core=core), tensors, core)
        if mapped is not None:
            return mapped
    arrays = [t.detach()._array(what) for t in tensors]
    try:
        found = function(*arrays)
    except np.linalg.LinAlgError as error:
        raise LinAlgError(f"{what}: {error}") from None

    def back(array: Any) -> Tensor:
        array = np.array(array, order="C")
        precision = {"f": dtype.to_real(), "c": dtype.to_complex()}.get(array.dtype.kind)
        return wrap(node_of(array if precision is None else array.astype(precision.numpy)))

    return tuple(back(a) for a in found) if isinstance(found, tuple) else back(found)


class LinAlgError(RuntimeError):
    """A decomposition that does not exist for these values: a singular matrix, one that is not positive definite."""


def matrices(what: str, *tensors: Tensor, square: bool = False) -> None:
    """Check that the tensors are matrices, or batches of them. Raises RuntimeError naming the shapes."""
    for t in tensors:
        if t.ndim < 2:
            raise RuntimeError(f"{what}: expected a matrix or a batch of matrices, got shape {list(t.shape)}")
        if square and t.shape[-1] != t.shape[-2]:
            raise RuntimeError(f"{what}: expected square matrices, got shape {list(t.shape)}")
        if not t.dtype.is_inexact:
            raise RuntimeError(f"{what}: expected a floating-point or complex tensor, got {t.dtype.name}")
