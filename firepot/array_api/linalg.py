"""Matrix products, and the `linalg` extension: `firepot.linalg` by the standard's names and results."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any, NamedTuple

from firepot import ops
from firepot.array_api.data_types import common
from firepot.array_api.statistics import sum as _sum
from firepot.graph.dtypes import DType
from firepot.ops import linalg as _linalg
from firepot.tensor import Tensor

__all__ = [
    "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "matmul", "matrix_norm", "matrix_power",
    "matrix_rank", "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot",
    "trace", "vecdot", "vector_norm",
]  # fmt: skip


class EighResult(NamedTuple):
    eigenvalues: Tensor
    eigenvectors: Tensor


class QRResult(NamedTuple):
    Q: Tensor
    R: Tensor


class SlogdetResult(NamedTuple):
    sign: Tensor
    logabsdet: Tensor


class SVDResult(NamedTuple):
    U: Tensor
    S: Tensor
    Vh: Tensor


def matmul(x1: Tensor, x2: Tensor, /) -> Tensor:
    return ops.matmul(*common(x1, x2))


def matrix_transpose(x: Tensor, /) -> Tensor:
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: needs two dimensions or more, not {x.ndim}")
    return x.mT


def tensordot(x1: Tensor, x2: Tensor, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    a, b = common(x1, x2)
    return ops.tensordot(a, b, axes)


def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """The scalar product along an axis, counted from the last in both arrays."""
    a, b = common(x1, x2)
    if not -min(a.ndim, b.ndim) <= axis < 0:
        raise ValueError(f"vecdot: axis {axis} is outside of {-min(a.ndim, b.ndim)} … -1")
    if a.shape[axis] != b.shape[axis]:
        raise ValueError(f"vecdot: axis {axis} has sizes {a.shape[axis]} and {b.shape[axis]}")
    return _linalg.vecdot(a, b, dim=axis)


def cholesky(x: Tensor, /, *, upper: builtins.bool = False) -> Tensor:
    return _linalg.cholesky(x, upper=upper)


def cross(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    a, b = common(x1, x2)
    return _linalg.cross(a, b, dim=axis)


def det(x: Tensor, /) -> Tensor:
    return _linalg.det(x)


def diagonal(x: Tensor, /, *, offset: int = 0) -> Tensor:
    return _linalg.diagonal(x, offset=offset)


def eigh(x: Tensor, /) -> EighResult:
    values, vectors = _linalg.eigh(x)
    return EighResult(values, vectors)


def eigvalsh(x: Tensor, /) -> Tensor:
    return _linalg.eigvalsh(x)


def inv(x: Tensor, /) -> Tensor:
    return _linalg.inv(x)


def matrix_norm(x: Tensor, /, *, keepdims: builtins.bool = False, ord: Any = "fro") -> Tensor:
    return _linalg.matrix_norm(x, ord, keepdim=keepdims)


def matrix_power(x: Tensor, n: int, /) -> Tensor:
    return _linalg.matrix_power(x, n)


def matrix_rank(x: Tensor, /, *, rtol: float | Tensor | None = None) -> Tensor:
    return _linalg.matrix_rank(x, rtol=rtol)


def outer(x1: Tensor, x2: Tensor, /) -> Tensor:
    a, b = common(x1, x2)
    return ops.outer(a, b)


def pinv(x: Tensor, /, *, rtol: float | Tensor | None = None) -> Tensor:
    return _linalg.pinv(x, rtol=rtol)


def qr(x: Tensor, /, *, mode: str = "reduced") -> QRResult:
    q, r = _linalg.qr(x, mode)
    return QRResult(q, r)


def slogdet(x: Tensor, /) -> SlogdetResult:
    sign, logarithm = _linalg.slogdet(x)
    return SlogdetResult(sign, logarithm)


def solve(x1: Tensor, x2: Tensor, /) -> Tensor:
    """The solution of x1 · result = x2; x2 is a vector exactly if it has one dimension."""
    a, b = common(x1, x2)
    return _linalg.solve(a, b.unsqueeze(-1)).squeeze(-1) if b.ndim == 1 else _linalg.solve(a, b)


def svd(x: Tensor, /, *, full_matrices: builtins.bool = True) -> SVDResult:
    u, s, vh = _linalg.svd(x, full_matrices)
    return SVDResult(u, s, vh)


def svdvals(x: Tensor, /) -> Tensor:
    return _linalg.svdvals(x)


def trace(x: Tensor, /, *, offset: int = 0, dtype: DType | None = None) -> Tensor:
    """The sum along a diagonal of the matrices in the last two dimensions."""
    return _sum(_linalg.diagonal(x, offset=offset), axis=-1, dtype=dtype)


def vector_norm(
    x: Tensor, /, *, axis: int | tuple[int, ...] | None = None, keepdims: builtins.bool = False, ord: float = 2
) -> Tensor:
    return _linalg.vector_norm(x, ord, axis, keepdims)
