"""The matrix functions that PyTorch has outside linalg too, with their own argument orders and results."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from firepot.autocast_mode import autocasts
from firepot.ops import creation, random, shape
from firepot.ops.complex import conj
from firepot.ops.host import call, matrices
from firepot.ops.linalg import decompositions, norms, solving
from firepot.ops.linalg.decompositions import adjoint
from firepot.ops.linalg.solving import cholesky_inverse as cholesky_inverse
from firepot.ops.linalg.solving import cholesky_solve as cholesky_solve
from firepot.ops.linalg.solving import det as det
from firepot.ops.linalg.solving import inv as inverse
from firepot.ops.linalg.solving import logdet as logdet
from firepot.ops.linalg.solving import lu_legacy as lu
from firepot.ops.linalg.solving import lu_unpack as lu_unpack
from firepot.ops.linalg.solving import matrix_exp as matrix_exp
from firepot.ops.linalg.solving import slogdet as slogdet
from firepot.ops.linear import matmul
from firepot.tensor import Tensor

__all__ = [
    "chain_matmul", "cholesky", "cholesky_inverse", "cholesky_solve", "det", "geqrf", "inverse", "logdet", "lu",
    "lu_solve", "lu_unpack", "matrix_exp", "norm", "orgqr", "ormqr", "pca_lowrank", "pinverse", "qr", "slogdet", "svd",
    "svd_lowrank", "triangular_solve",
]  # fmt: skip

norm = norms.legacy_norm
orgqr = decompositions.householder_product


@autocasts
def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """linalg.cholesky."""
    return decompositions.cholesky(input, upper=upper)


@autocasts
def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """linalg.pinv with singular values up to rcond · the largest as zero."""
    return solving.pinv(input, rcond)


@autocasts
def chain_matmul(*matrices: Tensor) -> Tensor:
    """linalg.multi_dot."""
    return solving.multi_dot(matrices) if len(matrices) > 1 else matrices[0]


@autocasts
def qr(input: Tensor, some: bool = True) -> decompositions.QR:
    """linalg.qr in mode 'reduced', or 'complete' with some=False."""
    return decompositions.qr(input, "reduced" if some else "complete")


class UnconjugatedSVD(NamedTuple):
    """What torch.svd returns: V, not its transpose."""

    U: Tensor
    S: Tensor
    V: Tensor


@autocasts
def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> UnconjugatedSVD:
    """(U, S, V) with input = U diag(S) Vᴴ."""
    if not compute_uv:
        rows, columns = input.shape[-2:]
        blank = [creation.zeros((*input.shape[:-2], n, n), dtype=input.dtype) for n in (rows, columns)]
        return UnconjugatedSVD(blank[0], decompositions.svdvals(input), blank[1])
    u, s, vh = decompositions.svd(input, not some)
    return UnconjugatedSVD(u, s, adjoint(vh))


@autocasts
def lu_solve(b: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """linalg.lu_solve."""
    return solving.lu_solve(LU_data, LU_pivots, b)


class TriangularSolution(NamedTuple):
    """What triangular_solve returns."""

    solution: Tensor
    cloned_coefficient: Tensor


@autocasts
def triangular_solve(
    b: Tensor, A: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> TriangularSolution:
    """linalg.solve_triangular, of Aᵀ with transpose."""
    matrix = shape.transpose(A, -1, -2) if transpose else A
    x = solving.solve_triangular(matrix, b, upper=upper != transpose, unitriangular=unitriangular)
    return TriangularSolution(x, creation.clone(A))


class Reflections(NamedTuple):
    """What geqrf returns."""

    a: Tensor
    tau: Tensor


@autocasts
def geqrf(input: Tensor) -> Reflections:
    """LAPACK's form of QR: R above, the Householder vectors below the diagonal, and their factors. No derivative."""
    matrices("geqrf", input)

    def factor(x: Any) -> tuple[Any, Any]:
        h, tau = np.linalg.qr(x, "raw")
        return np.ascontiguousarray(np.swapaxes(h, -1, -2)), tau

    return Reflections(*call("geqrf", factor, input))


@autocasts
def ormqr(input: Tensor, tau: Tensor, other: Tensor, left: bool = True, transpose: bool = False) -> Tensor:
    """The product of Q, given as by geqrf, with a matrix: Q · other, or other · Q, or with Qᴴ."""
    matrices("ormqr", input, other)
    count = other.shape[-2 if left else -1]
    if input.shape[-2] != count or tau.shape[:-1] != input.shape[:-2] or tau.shape[-1] > input.shape[-1]:
        raise RuntimeError(
            f"ormqr: input {list(input.shape)}, tau {list(tau.shape)} and other {list(other.shape)} do not fit"
        )
    k = tau.shape[-1]
    unit = creation.eye(count, k, dtype=input.dtype)
    vectors = shape.tril(input, -1)[..., :k] + unit
    result = other if left else adjoint(other)
    backward = transpose != left
    tau = tau if backward else conj(tau)
    for i in reversed(range(k)) if backward else range(k):
        v = shape.unsqueeze(vectors[..., i], -1)
        result = result - tau[..., i, None, None] * matmul(v, matmul(adjoint(v), result))
    return result if left else adjoint(result)


def svd_lowrank(A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None) -> UnconjugatedSVD:
    """The q largest singular values and vectors by random projections. Halko, Martinsson and Tropp (2009)."""
    x = A if M is None else A - M
    rank = min(6 if q is None else q, *x.shape[-2:])
    return _lowrank(x, rank, 2 if niter is None else niter)


def _lowrank(x: Tensor, q: int, niter: int) -> UnconjugatedSVD:
    flipped = x.shape[-2] < x.shape[-1]
    a = adjoint(x) if flipped else x
    at = adjoint(a)
    start = random.randn((a.shape[-1], q), dtype=a.dtype)
    basis = decompositions.qr(matmul(a, start)).Q
    for _ in range(niter):
        basis = decompositions.qr(matmul(at, basis)).Q
        basis = decompositions.qr(matmul(a, basis)).Q
    u, s, vh = decompositions.svd(matmul(adjoint(basis), a), full_matrices=False)
    u, v = matmul(basis, u), adjoint(vh)
    return UnconjugatedSVD(v, s, u) if flipped else UnconjugatedSVD(u, s, v)


def pca_lowrank(A: Tensor, q: int | None = None, center: bool = True, niter: int = 2) -> UnconjugatedSVD:
    """Principal components: svd_lowrank of the rows, less their mean."""
    rank = min(6, *A.shape[-2:]) if q is None else q
    if not 0 <= rank <= min(A.shape[-2:]):
        raise ValueError(f"pca_lowrank: q must lie in 0 … {min(A.shape[-2:])}, got {rank}")
    x = A - A.mean(-2, keepdim=True) if center else A
    return _lowrank(x, rank, niter)
