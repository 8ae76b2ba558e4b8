"""Decompositions of matrices, through LAPACK. All take batches; derivatives are the known closed forms."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from firepot.autocast_mode import autocasts
from firepot.autograd import Function
from firepot.graph import dtypes
from firepot.graph.node import grad_mode
from firepot.graph.primitives import elementwise as ew
from firepot.ops import arithmetic, creation, reduction, shape
from firepot.ops.arithmetic import where
from firepot.ops.complex import complex, conj, imag, real
from firepot.ops.host import LinAlgError, call, matrices
from firepot.ops.linear import matmul
from firepot.tensor import Tensor, wrap

__all__ = [
    "cholesky", "cholesky_ex", "eig", "eigh", "eigvals", "eigvalsh", "householder_product", "lu", "lu_factor", "lu_factor_ex", "qr", "svd",
    "svdvals",
]  # fmt: skip


def adjoint(x: Tensor) -> Tensor:
    """The conjugate transpose of matrices."""
    return conj(shape.transpose(x, -1, -2))


_h = adjoint


def _diag(x: Tensor) -> Tensor:
    return shape.diag_embed(x)


def _sym(x: Tensor) -> Tensor:
    return (x + _h(x)) / 2


def _hermitian(lower: Tensor) -> Tensor:
    """The Hermitian matrix with this lower triangle, of whose diagonal the real part counts."""
    below = shape.tril(lower, -1)
    return below + _h(below) + _diag(real(shape.diagonal(lower, 0, -2, -1)))


def _half_lower(x: Tensor) -> Tensor:
    """The lower triangle with the diagonal halved."""
    return shape.tril(x) - _diag(shape.diagonal(x, 0, -2, -1)) / 2


def _solve(a: Tensor, b: Tensor) -> Tensor:
    from firepot.ops.linalg.solving import solve

    return solve(a, b)


def _again(ctx: Any, function: Any, *arguments: Any) -> Any:
    """The forward's results: with their history where derivatives of derivatives are taken, else as they are."""
    return function(*arguments) if grad_mode.enabled else ctx.results


# -- Cholesky --------------------------------------------------------------------------------------------------------


class _Cholesky(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        ctx.results = call("cholesky", np.linalg.cholesky, a)
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        from firepot.ops.linalg.solving import solve_triangular

        (a,) = ctx.saved_tensors
        lower = _again(ctx, _Cholesky.apply, a)
        inner = _half_lower(matmul(_h(lower), g))
        left = solve_triangular(_h(lower), inner, upper=True)  # L⁻ᵀ Φ(Lᵀ g)
        right = _h(solve_triangular(_h(lower), _h(left), upper=True))  # … L⁻¹
        return _sym(right)


@autocasts
def cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """The lower triangle L with A = L Lᴴ (or the upper one) of symmetric or Hermitian positive definite matrices.

    Raises: LinAlgError where a matrix is not positive definite.
    """
    matrices("linalg.cholesky", A, square=True)
    lower = _Cholesky.apply(A)
    return _h(lower) if upper else lower


class LInfo(NamedTuple):
    """What cholesky_ex returns."""

    L: Tensor
    info: Tensor


@autocasts
def cholesky_ex(A: Tensor, *, upper: bool = False, check_errors: bool = False) -> LInfo:
    """cholesky, and for each matrix 0, or 1 where there is none (its elements are then NaN)."""
    matrices("linalg.cholesky_ex", A, square=True)
    batch = A.shape[:-2]
    try:
        return LInfo(cholesky(A, upper=upper), creation.zeros(batch, dtype=dtypes.int32))
    except LinAlgError:
        if check_errors:
            raise

    def each(array: Any) -> tuple[Any, Any]:
        out, info = np.full(array.shape, np.nan, array.dtype), np.ones(array.shape[:-2], np.int32)
        for place in np.ndindex(*info.shape):
            try:
                out[place] = np.linalg.cholesky(array[place])
                info[place] = 0
            except np.linalg.LinAlgError:
                pass
        return out, info

    lower, found = call("linalg.cholesky_ex", each, A.detach())
    return LInfo(_h(lower) if upper else lower, found)


# -- symmetric eigenvalues -------------------------------------------------------------------------------------------


class Eigen(NamedTuple):
    """What eigh and eig return."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class _Eigh(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, lower: bool) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a)
        ctx.lower = lower
        ctx.results = call("eigh", lambda x: tuple(np.linalg.eigh(x, "L" if lower else "U")), a)
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g_values: Tensor, g_vectors: Tensor) -> tuple[Tensor, None]:
        (a,) = ctx.saved_tensors
        values, vectors = _again(ctx, _Eigh.apply, a, ctx.lower)
        away = shape.unsqueeze(values, -2) - shape.unsqueeze(values, -1)
        same = creation.eye(values.shape[-1], dtype=dtypes.bool_)
        quotient = where(same, 0.0, 1 / where(same, 1.0, away))
        inner = _diag(g_values) + matmul(_h(vectors), g_vectors) * quotient
        return _sym(matmul(matmul(vectors, inner), _h(vectors))), None


class _EigenValues(Function):
    """Only the values, whose derivative is defined where values coincide too."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, lower: bool) -> Tensor:
        ctx.save_for_backward(a)
        ctx.lower = lower
        ctx.results = call("eigvalsh", lambda x: tuple(np.linalg.eigh(x, "L" if lower else "U")), a)
        return ctx.results[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (a,) = ctx.saved_tensors
        _, vectors = _again(ctx, _Eigh.apply, a, ctx.lower)
        return matmul(vectors * shape.unsqueeze(g, -2), _h(vectors)), None


@autocasts
def eigh(A: Tensor, UPLO: str = "L") -> Eigen:
    """Eigenvalues in ascending order and eigenvectors (as columns) of symmetric matrices; one triangle is read."""
    matrices("linalg.eigh", A, square=True)
    if UPLO not in ("L", "U"):
        raise RuntimeError(f"linalg.eigh: UPLO must be 'L' or 'U', not {UPLO!r}")
    return Eigen(*_Eigh.apply(A, UPLO == "L"))


@autocasts
def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues of symmetric matrices in ascending order."""
    matrices("linalg.eigvalsh", A, square=True)
    if UPLO not in ("L", "U"):
        raise RuntimeError(f"linalg.eigvalsh: UPLO must be 'L' or 'U', not {UPLO!r}")
    result: Tensor = _EigenValues.apply(A, UPLO == "L")
    return result


# -- eigenvalues of any matrices -------------------------------------------------------------------------------------


class _Eig(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a)
        ctx.results = call("eig", _complex_eigen, a)
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g_values: Tensor, g_vectors: Tensor) -> Tensor:
        # Boeddeker et al., On the computation of complex-valued gradients with application to statistically optimum
        # beamforming (2019), for vectors of length one.
        (a,) = ctx.saved_tensors
        values, vectors = _again(ctx, _Eig.apply, a)
        projected = matmul(_h(vectors), g_vectors)
        lengths = real(shape.diagonal(projected, 0, -2, -1))
        projected = projected - matmul(_h(vectors), vectors * shape.unsqueeze(lengths, -2))
        away = conj(shape.unsqueeze(values, -2) - shape.unsqueeze(values, -1))
        same = creation.eye(values.shape[-1], dtype=dtypes.bool_)
        inner = _diag(g_values) + where(same, 0.0, projected / where(same, 1.0, away))
        found = _solve(_h(vectors), matmul(inner, _h(vectors)))
        return found if a.dtype.is_complex else real(found)


def _complex_eigen(a: Any) -> tuple[Any, Any]:
    values, vectors = np.linalg.eig(a)
    return values + 0j, vectors + 0j


@autocasts
def eig(A: Tensor) -> Eigen:
    """Eigenvalues and eigenvectors (as columns of length one) of square matrices, always complex; in no order.

    The derivative of the vectors is that of a function that does not depend on their phases.
    """
    matrices("linalg.eig", A, square=True)
    return Eigen(*_Eig.apply(A))


@autocasts
def eigvals(A: Tensor) -> Tensor:
    """Eigenvalues of square matrices, always complex; in no order."""
    matrices("linalg.eigvals", A, square=True)
    return eig(A).eigenvalues


# -- QR --------------------------------------------------------------------------------------------------------------


class QR(NamedTuple):
    """What qr returns."""

    Q: Tensor
    R: Tensor


class _QR(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, mode: Any) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a)
        ctx.mode = mode
        ctx.results = call("qr", lambda x: tuple(np.linalg.qr(x, mode)), a)
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g_q: Tensor, g_r: Tensor) -> tuple[Tensor, None]:
        from firepot.ops.linalg.solving import solve_triangular

        (a,) = ctx.saved_tensors
        rows, columns = a.shape[-2:]
        if ctx.mode == "complete" and rows > columns:
            raise RuntimeError("linalg.qr: the derivative is not defined in mode 'complete' for tall matrices")
        q, r = _again(ctx, _QR.apply, a, ctx.mode)
        # Roberts and Roberts, QR and LQ decomposition matrix backpropagation (2020)
        if rows >= columns:
            m = matmul(r, _h(g_r)) - matmul(_h(g_q), q)
            g_a = g_q + matmul(q, _hermitian(m))
            return _h(solve_triangular(r, _h(g_a), upper=True)), None
        left = r[..., :rows]
        g_left, g_right = g_r[..., :rows], g_r[..., rows:]
        y = a[..., rows:]
        g_q = g_q + matmul(y, _h(g_right))
        m = matmul(left, _h(g_left)) - matmul(_h(g_q), q)
        g_a = g_q + matmul(q, _hermitian(m))
        first = _h(solve_triangular(left, _h(g_a), upper=True))
        return shape.cat([first, matmul(q, g_right)], -1), None


@autocasts
def qr(A: Tensor, mode: str = "reduced") -> QR:
    """A = Q R with orthonormal columns in Q and an upper triangle R. mode: 'reduced', 'complete' or 'r' (Q is empty)."""
    matrices("linalg.qr", A)
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(f"linalg.qr: mode must be 'reduced', 'complete' or 'r', not {mode!r}")
    if mode == "r":
        r = call("qr", lambda x: np.linalg.qr(x, "r"), A)
        return QR(creation.zeros(0, dtype=A.dtype), r)
    return QR(*_QR.apply(A, mode))


# -- singular values -------------------------------------------------------------------------------------------------


class SVD(NamedTuple):
    """What svd returns."""

    U: Tensor
    S: Tensor
    Vh: Tensor


class _SVD(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, full: bool) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(a)
        ctx.full = full
        ctx.results = call("svd", lambda x: tuple(np.linalg.svd(x, full)), a)
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g_u: Tensor, g_s: Tensor, g_vh: Tensor) -> tuple[Tensor, None]:
        (a,) = ctx.saved_tensors
        u, s, vh = _again(ctx, _SVD.apply, a, ctx.full)
        k = s.shape[-1]
        if ctx.full:  # beyond the singular values the vectors are arbitrary and have no derivative
            u, vh, g_u, g_vh = u[..., :k], vh[..., :k, :], g_u[..., :k], g_vh[..., :k, :]
        return _svd_gradient(u, s, _h(vh), g_u, g_s, _h(g_vh)), None


def _svd_gradient(u: Tensor, s: Tensor, v: Tensor, g_u: Tensor, g_s: Tensor, g_v: Tensor) -> Tensor:
    """Townsend, Differentiating the singular value decomposition (2016)."""
    same = creation.eye(s.shape[-1], dtype=dtypes.bool_)
    squares = s * s
    away = shape.unsqueeze(squares, -2) - shape.unsqueeze(squares, -1)
    f = where(same, 0.0, 1 / where(same, 1.0, away))
    row, column = shape.unsqueeze(s, -2), shape.unsqueeze(s, -1)
    j, k = f * matmul(_h(u), g_u), f * matmul(_h(v), g_v)
    inner = _diag(g_s) + (j + _h(j)) * row + column * (k + _h(k))
    if inner.dtype.is_complex:  # a turn of u that v does not share
        turn = imag(shape.diagonal(matmul(_h(u), g_u), 0, -2, -1)) / s
        inner = inner + _diag(complex(arithmetic.mul(turn, 0), turn))
    result = matmul(matmul(u, inner), _h(v))
    if u.shape[-2] > u.shape[-1]:
        scaled = g_u / row
        result = result + matmul(scaled - matmul(u, matmul(_h(u), scaled)), _h(v))
    if v.shape[-2] > v.shape[-1]:
        scaled = g_v / row
        result = result + matmul(u, _h(scaled - matmul(v, matmul(_h(v), scaled))))
    return result


class _SingularValues(Function):
    """Only the values, whose derivative is defined where values coincide too."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        u, s, vh = call("svd", lambda x: tuple(np.linalg.svd(x, False)), a)
        ctx.results = u, s, vh
        return s

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        u, _, vh = _again(ctx, _SVD.apply, a, False)
        return matmul(u * shape.unsqueeze(g, -2), vh)


@autocasts
def svd(A: Tensor, full_matrices: bool = True, *, driver: str | None = None) -> SVD:
    """A = U diag(S) Vh with singular values in descending order."""
    matrices("linalg.svd", A)
    return SVD(*_SVD.apply(A, full_matrices))


@autocasts
def svdvals(A: Tensor, *, driver: str | None = None) -> Tensor:
    """Singular values in descending order."""
    matrices("linalg.svdvals", A)
    result: Tensor = _SingularValues.apply(A)
    return result


# -- LU --------------------------------------------------------------------------------------------------------------


def _eliminate(a: Any) -> tuple[Any, Any]:
    """(L below and U on and above the diagonal, pivots from 1) by Gauss with partial pivoting, all matrices at once."""
    a = np.array(a)
    rows, columns = a.shape[-2:]
    flat = a.reshape(-1, rows, columns)
    count = min(rows, columns)
    pivots = np.empty((flat.shape[0], count), np.int32)
    each = np.arange(flat.shape[0])
    for k in range(count):
        column = flat[:, k:, k]
        sizes = np.abs(column.real) + np.abs(column.imag) if np.iscomplexobj(a) else np.abs(column)  # as LAPACK's
        chosen = k + sizes.argmax(1) if rows > k else np.full(flat.shape[0], k)
        pivots[:, k] = chosen + 1
        flat[each, k], flat[each, chosen] = flat[each, chosen].copy(), flat[each, k].copy()
        pivot = flat[:, k, k]
        safe = np.where(pivot == 0, 1, pivot)
        flat[:, k + 1 :, k] /= safe[:, None]
        flat[:, k + 1 :, k + 1 :] -= flat[:, k + 1 :, k, None] * flat[:, k, None, k + 1 :]
    return flat.reshape(a.shape), pivots.reshape((*a.shape[:-2], count))


class _LU(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a)
        packed, pivots = call("lu_factor", _eliminate, a)
        ctx.results = packed, pivots
        ctx.mark_non_differentiable(pivots)
        return packed, pivots

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        packed, pivots = _again(ctx, _LU.apply, a)
        rows, columns = a.shape[-2:]
        k = min(rows, columns)
        lower, upper = unpack(packed)
        g_l, g_u = shape.tril(g, -1)[..., :, :k], shape.triu(g)[..., :k, :]
        p = permutation(pivots, rows, a.dtype)
        return matmul(p, _lu_gradient(lower, upper, g_l, g_u))


def _lu_gradient(lower: Tensor, upper: Tensor, g_l: Tensor, g_u: Tensor) -> Tensor:
    """The gradient of Pᵀ A."""
    from firepot.ops.linalg.solving import solve_triangular

    k = lower.shape[-1]
    rows, columns = lower.shape[-2], upper.shape[-1]
    l1, u1 = lower[..., :k, :], upper[..., :, :k]
    inner = shape.tril(matmul(_h(lower), g_l), -1) + shape.triu(matmul(g_u, _h(upper)))
    if rows == columns:
        left = solve_triangular(_h(l1), inner, upper=True, unitriangular=True)
        return solve_triangular(_h(u1), left, upper=False, left=False)
    if rows < columns:
        u2, g_u2 = upper[..., k:], g_u[..., k:]
        inner = shape.tril(matmul(_h(l1), g_l) - matmul(g_u2, _h(u2)), -1) + shape.triu(matmul(g_u[..., :k], _h(u1)))
        left = solve_triangular(_h(u1), inner, upper=False, left=False)
        first = solve_triangular(_h(l1), left, upper=True, unitriangular=True)
        second = solve_triangular(_h(l1), g_u2, upper=True, unitriangular=True)
        return shape.cat([first, second], -1)
    l2, g_l2 = lower[..., k:, :], g_l[..., k:, :]
    inner = shape.tril(matmul(_h(l1), g_l[..., :k, :]), -1) + shape.triu(matmul(g_u, _h(u1)) - matmul(_h(l2), g_l2))
    left = solve_triangular(_h(l1), inner, upper=True, unitriangular=True)
    first = solve_triangular(_h(u1), left, upper=False, left=False)
    second = solve_triangular(_h(u1), g_l2, upper=False, left=False)
    return shape.cat([first, second], -2)


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """(L with ones on its diagonal, U) from both in one matrix."""
    rows, columns = packed.shape[-2:]
    k = min(rows, columns)
    ones = creation.eye(rows, k, dtype=packed.dtype)
    return shape.tril(packed, -1)[..., :, :k] + ones, shape.triu(packed)[..., :k, :]


def permutation(pivots: Tensor, rows: int, dtype: Any) -> Tensor:
    """The matrix P with A = P L U from LAPACK's row exchanges."""

    def exchanged(array: Any) -> Any:
        count = math.prod(array.shape[:-1])
        order = np.tile(np.arange(rows), (count, 1))
        for row, exchanges in zip(order, array.reshape(count, array.shape[-1]).astype(np.int64), strict=True):
            for i, j in enumerate(exchanges):
                row[i], row[j - 1] = row[j - 1], row[i]
        matrix = order[:, None, :] == np.arange(rows)[None, :, None]
        return matrix.reshape(*array.shape[:-1], rows, rows).astype(array.dtype)

    exact = wrap(ew.cast(pivots.detach()._node, dtypes.float64))
    return wrap(ew.cast(call("lu pivots", exchanged, exact, core=(1,))._node, dtype))


class LUFactor(NamedTuple):
    """What lu_factor returns."""

    LU: Tensor
    pivots: Tensor


class LUFactorInfo(NamedTuple):
    """What lu_factor_ex returns."""

    LU: Tensor
    pivots: Tensor
    info: Tensor


class PLU(NamedTuple):
    """What lu returns."""

    P: Tensor
    L: Tensor
    U: Tensor


def lu_factor(A: Tensor, *, pivot: bool = True) -> LUFactor:
    """L and U in one matrix, and the row exchanges (from 1, int32), with partial pivoting."""
    matrices("linalg.lu_factor", A)
    if not pivot:
        raise RuntimeError("linalg.lu_factor: LU without pivoting is not implemented on the CPU")
    return LUFactor(*_LU.apply(A))


def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> LUFactorInfo:
    """lu_factor, and for each matrix the number of its first zero pivot (0: none)."""
    packed, pivots = lu_factor(A, pivot=pivot)
    diagonal = shape.diagonal(packed.detach(), 0, -2, -1)
    k = diagonal.shape[-1]
    zero = diagonal == 0
    place = where(zero, creation.arange(1, k + 1), k + 1)
    first = reduction.amin(place, -1) if k else creation.full(A.shape[:-2], k + 1)
    info = wrap(ew.cast(where(first > k, 0, first)._node, dtypes.int32))
    if check_errors and bool(reduction.any(info != 0)):
        raise LinAlgError("linalg.lu_factor_ex: a pivot is exactly zero: the matrix is singular")
    return LUFactorInfo(packed, pivots, info)


def lu(A: Tensor, *, pivot: bool = True) -> PLU:
    """A = P L U."""
    packed, pivots = lu_factor(A, pivot=pivot)
    lower, upper = unpack(packed)
    return PLU(permutation(pivots, A.shape[-2], A.dtype), lower, upper)




@autocasts
def householder_product(A: Tensor, tau: Tensor) -> Tensor:
    """The first columns of the product of the reflections 1 − τ v vᵀ, v in the columns of A below the diagonal."""
    matrices("linalg.householder_product", A)
    rows, columns = A.shape[-2:]
    if rows < columns or tau.shape[:-1] != A.shape[:-2] or tau.shape[-1] > columns:
        raise RuntimeError(
            f"linalg.householder_product: A {list(A.shape)} must be no wider than high and tau {list(tau.shape)} fit it"
        )
    q = creation.eye(rows, columns, dtype=A.dtype).expand(A.shape)
    unit = creation.eye(rows, tau.shape[-1], dtype=A.dtype)
    vectors = shape.tril(A, -1)[..., : tau.shape[-1]] + unit
    if not tau.shape[-1]:  # the derivative is zero, and is there
        return where(creation.ones(A.shape, dtype=dtypes.bool_), q, A)
    for i in reversed(range(tau.shape[-1])):
        v = shape.unsqueeze(vectors[..., i], -1)
        q = q - tau[..., i, None, None] * matmul(v, matmul(_h(v), q))
    return q
