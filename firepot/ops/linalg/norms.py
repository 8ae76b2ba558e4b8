"""Norms of vectors and matrices, condition numbers."""

from __future__ import annotations

import math
from typing import Any

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.primitives import elementwise as ew
from firepot.ops import arithmetic, creation, linear, rearrange, reduction, shape
from firepot.ops.broadcast import axis_of
from firepot.ops.host import LinAlgError
from firepot.ops.linalg.decompositions import svdvals
from firepot.ops.linalg.solving import inv
from firepot.tensor import Tensor, wrap

__all__ = ["cond", "cross", "diagonal", "matmul", "matrix_norm", "matrix_power", "norm", "vander", "vecdot",
           "vector_norm"]  # fmt: skip

matmul, matrix_power = linear.matmul, linear.matrix_power


def _as(A: Tensor, dtype: DType | None, what: str) -> Tensor:
    if dtype is not None and not dtype.is_inexact:
        raise RuntimeError(f"{what}: dtype must be floating point or complex, got {dtype.name}")
    if not A.dtype.is_inexact:
        raise RuntimeError(f"{what}: expected a floating-point or complex tensor, got {A.dtype.name}")
    return A if dtype is None else wrap(ew.cast(A._node, dtype))


def vector_norm(
    x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """(Σ |x|^ord)^(1/ord) over dimensions (default all)."""
    x = _as(x, dtype, "linalg.vector_norm")
    return reduction.norm(x, float(ord), dim, keepdim)


def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Norms of matrices: 'fro', 'nuc', 1, −1, 2, −2, inf or −inf."""
    A = _as(A, dtype, "linalg.matrix_norm")
    if A.ndim < 2 or len(dim) != 2:
        raise RuntimeError(f"linalg.matrix_norm: expected two dimensions of a matrix, got {list(dim)} of {list(A.shape)}")
    rows, columns = (axis_of(d, A.ndim, "linalg.matrix_norm") for d in dim)
    if rows == columns:
        raise RuntimeError(f"linalg.matrix_norm: dims must be different, got {list(dim)}")
    if ord == "fro":
        return reduction.norm(A, 2, (rows, columns), keepdim)
    if ord in ("nuc", 2, -2):
        values = svdvals(shape.movedim(A, (rows, columns), (-2, -1)))
        if not values.shape[-1] and ord == 2:  # of nothing the largest is 0
            ord = "nuc"
        result = reduction.sum(values, -1) if ord == "nuc" else (
            reduction.amax(values, -1) if ord > 0 else reduction.amin(values, -1))  # fmt: skip
    elif ord in (1, -1, math.inf, -math.inf):
        along = rows if abs(ord) == 1 else columns
        across = columns if along == rows else rows
        sums = reduction.sum(arithmetic.abs(A), along, keepdim=True)
        if not A.shape[across] and ord > 0:  # over nothing the largest sum is 0
            sums = reduction.sum(sums, across, keepdim=True)
        result = (reduction.amax if ord > 0 else reduction.amin)(sums, across, keepdim=True)
        result = shape.squeeze(result, (rows, columns))
    else:
        raise RuntimeError(f"linalg.matrix_norm: order {ord!r} is not supported")
    if not keepdim:
        return result
    return shape.reshape(result, tuple(1 if d in (rows, columns) else s for d, s in enumerate(A.shape)))


def norm(
    A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The matrix norm for two dimensions and the vector norm otherwise; without ord the 2-norm of all elements."""
    A = _as(A, dtype, "linalg.norm")
    if ord is None:
        return vector_norm(A, 2, dim, keepdim)
    if dim is None:
        if A.ndim not in (1, 2):
            raise RuntimeError(f"linalg.norm: with ord and no dim expected 1 or 2 dimensions, got shape {list(A.shape)}")
        dim = (0, 1) if A.ndim == 2 else 0
    if isinstance(dim, int) or len(dim) == 1:
        if isinstance(ord, str):
            raise RuntimeError(f"linalg.norm: order {ord!r} is only for two dimensions, got {dim}")
        return vector_norm(A, ord, dim, keepdim)
    return matrix_norm(A, ord, dim, keepdim)


def legacy_norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: DType | None = None) -> Tensor:
    """torch.norm: the p-norm over dimensions, 'fro' or 'nuc'."""
    x = input if dtype is None else wrap(ew.cast(input._node, dtype))
    if p == "nuc":
        if dim is None and x.ndim != 2:
            raise RuntimeError(f"norm: 'nuc' needs a matrix or two dimensions, got shape {list(x.shape)}")
        return matrix_norm(x, "nuc", (0, 1) if dim is None else dim, keepdim)
    if isinstance(p, str) and p != "fro":
        raise RuntimeError(f"norm: p must be a number, 'fro' or 'nuc', not {p!r}")
    return reduction.norm(x, p, dim, keepdim)


@autocasts
def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number ‖A‖ ‖A⁻¹‖; ∞ for singular matrices."""
    if A.ndim < 2:
        raise RuntimeError(f"linalg.cond: expected a matrix, got shape {list(A.shape)}")
    if p in (None, 2, -2):
        values = svdvals(A)
        if not A.numel():
            return creation.zeros(A.shape[:-2], dtype=A.dtype.to_real())
        large, small = values[..., 0], values[..., -1]
        return small / large if p == -2 else large / small
    if p not in ("fro", "nuc", 1, -1, math.inf, -math.inf):
        raise RuntimeError(f"linalg.cond: p={p!r} is not supported")
    if A.shape[-1] != A.shape[-2]:
        raise RuntimeError(f"linalg.cond: with p={p!r} expected square matrices, got shape {list(A.shape)}")
    if not A.numel():
        return creation.zeros(A.shape[:-2], dtype=A.dtype.to_real())
    try:
        return matrix_norm(A, p) * matrix_norm(inv(A), p)
    except LinAlgError:
        from firepot.ops.linalg.solving import inv_ex

        inverse, info = inv_ex(A)
        return arithmetic.where(arithmetic.ne(info, 0), math.inf, matrix_norm(A, p) * matrix_norm(inverse, p))


@autocasts
def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Σ x · y along a dimension, x conjugated."""
    if x.dtype is not y.dtype:
        raise RuntimeError(f"linalg.vecdot: x is {x.dtype.name} and y is {y.dtype.name}; they must be equal")
    product = arithmetic.mul(wrap(ew.conj(x._node)), y)
    total = reduction.sum(product, dim)
    return total if total.dtype is product.dtype else wrap(ew.cast(total._node, product.dtype))


def cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The cross product of vectors of three along a dimension."""
    return rearrange.cross(input, other, dim)


def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The diagonals of matrices."""
    return shape.diagonal(A, offset, dim1, dim2)


def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """(…, n) -> (…, n, N): the powers 0 … N − 1 of each element."""
    if not x.shape:
        x = shape.reshape(x, (1,))
    count = x.shape[-1] if N is None else N
    if count <= 1 and N is not None:
        raise RuntimeError(f"linalg.vander: N must be greater than 1, got {N}")
    given = wrap(ew.cast(x._node, dtypes.int64)) if x.dtype.kind in "biu" else x
    return rearrange.vandermonde(given, count)
