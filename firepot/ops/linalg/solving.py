"""Linear systems, inverses and determinants, through LAPACK."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from firepot.autocast_mode import autocasts
from firepot.autograd import Function
from firepot.graph import dtypes
from firepot.graph.node import grad_mode
from firepot.graph.primitives import elementwise as ew
from firepot.ops import arithmetic, creation, reduction, shape
from firepot.ops.broadcast import broadcast_shapes
from firepot.ops.complex import angle, complex, conj, imag, real
from firepot.ops.host import LinAlgError, call, matrices
from firepot.ops.linalg.decompositions import adjoint as _h
from firepot.ops.linalg.decompositions import eigh, lu_factor, svd, svdvals, unpack
from firepot.ops.linalg.decompositions import permutation as _permutation
from firepot.ops.linear import matmul
from firepot.tensor import Tensor, wrap

__all__ = [
    "cholesky_inverse", "cholesky_solve", "det", "inv", "inv_ex", "logdet", "lstsq", "lu_solve", "matrix_exp",
    "matrix_rank", "multi_dot", "pinv", "slogdet", "solve", "solve_ex", "solve_triangular", "tensorinv", "tensorsolve",
]  # fmt: skip




def _reduced(g: Tensor, like: Tensor) -> Tensor:
    """A gradient summed over what broadcasting repeated."""
    from firepot.ops.rearrange import sum_to_size

    return g if g.shape == like.shape else sum_to_size(g, like.shape)


# -- systems ---------------------------------------------------------------------------------------------------------


class _Solve(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.results = call("solve", np.linalg.solve, a, b)
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        x = _Solve.apply(a, b) if grad_mode.enabled else ctx.results
        g_b = _Solve.apply(_h(a), g)
        return _reduced(-matmul(g_b, _h(x)), a), _reduced(g_b, b)


def _is_vector(a: Tensor, b: Tensor) -> bool:
    return b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])


@autocasts
def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with A X = B (X A = B with left=False); B may be a vector or a batch of vectors.

    Raises: LinAlgError where a matrix is singular.
    """
    matrices("linalg.solve", A, square=True)
    vector = left and _is_vector(A, B)
    b = shape.unsqueeze(B, -1) if vector else B
    _check_system("linalg.solve", A, b, left)
    if not left:
        return _h(solve(_h(A), _h(b)))
    x: Tensor = _Solve.apply(A, b)
    return shape.squeeze(x, -1) if vector else x


def _check_system(what: str, a: Tensor, b: Tensor, left: bool = True) -> None:
    matrices(what, b)
    if a.dtype is not b.dtype:
        raise RuntimeError(f"{what}: A is {a.dtype.name} and B is {b.dtype.name}; they must be equal")
    if a.shape[-1] != b.shape[-2 if left else -1]:
        raise RuntimeError(f"{what}: A {list(a.shape)} and B {list(b.shape)} do not fit")
    broadcast_shapes(a.shape[:-2], b.shape[:-2], what=what)


class SolveInfo(NamedTuple):
    """What solve_ex returns."""

    result: Tensor
    info: Tensor


def _one_by_one(what: str, function: Any, check_errors: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """(results, 0 for each matrix or 1 where LAPACK failed: that result is then NaN)."""

    def each(*given: Any) -> tuple[Any, Any]:
        batch = np.broadcast_shapes(*(a.shape[:-2] for a in given))
        arrays = [np.broadcast_to(a, (*batch, *a.shape[-2:])) for a in given]
        out, info = np.full(arrays[-1].shape, np.nan, arrays[-1].dtype), np.ones(batch, np.int32)
        for place in np.ndindex(*batch):
            try:
                out[place] = function(*(a[place] for a in arrays))
                info[place] = 0
            except np.linalg.LinAlgError:
                if check_errors:
                    raise
        return out, info

    broadcast_shapes(*(t.shape[:-2] for t in tensors), what=what)
    found: tuple[Tensor, Tensor] = call(what, each, *(t.detach() for t in tensors))
    return found


def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> SolveInfo:
    """solve, and for each matrix 0, or 1 where it is singular."""
    vector = left and _is_vector(A, B)
    b = shape.unsqueeze(B, -1) if vector else B
    batch = broadcast_shapes(A.shape[:-2], b.shape[:-2], what="linalg.solve_ex")
    try:
        return SolveInfo(solve(A, B, left=left), creation.zeros(batch, dtype=dtypes.int32))
    except LinAlgError:
        if check_errors:
            raise
    system = (A, b) if left else (_h(A), _h(b))
    found, info = _one_by_one("linalg.solve_ex", np.linalg.solve, check_errors, *system)
    found = found if left else _h(found)
    return SolveInfo(shape.squeeze(found, -1) if vector else found, info)


class _Inverse(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        ctx.results = call("inv", np.linalg.inv, a)
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        y = _h(_Inverse.apply(a) if grad_mode.enabled else ctx.results)
        return -matmul(matmul(y, g), y)


@autocasts
def inv(A: Tensor) -> Tensor:
    """The inverses of square matrices. Raises LinAlgError where a matrix is singular."""
    matrices("linalg.inv", A, square=True)
    result: Tensor = _Inverse.apply(A)
    return result


class InverseInfo(NamedTuple):
    """What inv_ex returns."""

    inverse: Tensor
    info: Tensor


@autocasts
def inv_ex(A: Tensor, *, check_errors: bool = False) -> InverseInfo:
    """inv, and for each matrix 0, or 1 where it is singular (its elements are then NaN)."""
    matrices("linalg.inv_ex", A, square=True)
    try:
        return InverseInfo(inv(A), creation.zeros(A.shape[:-2], dtype=dtypes.int32))
    except LinAlgError:
        if check_errors:
            raise
    return InverseInfo(*_one_by_one("linalg.inv_ex", np.linalg.inv, check_errors, A))


class _SolveTriangular(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, upper: bool, unit: bool) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.upper, ctx.unit = upper, unit

        def substitute(x: Any, y: Any) -> Any:
            x = np.triu(x) if upper else np.tril(x)
            if unit:
                x = x - x * np.eye(x.shape[-1], dtype=x.dtype) + np.eye(x.shape[-1], dtype=x.dtype)
            return np.linalg.solve(x, y)

        ctx.results = call("solve_triangular", substitute, a, b)
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a, b = ctx.saved_tensors
        x = _SolveTriangular.apply(a, b, ctx.upper, ctx.unit) if grad_mode.enabled else ctx.results
        g_b = _SolveTriangular.apply(_h(a), g, not ctx.upper, ctx.unit)
        g_a = -matmul(g_b, _h(x))
        edge = int(ctx.unit)
        g_a = shape.triu(g_a, edge) if ctx.upper else shape.tril(g_a, -edge)
        return _reduced(g_a, a), _reduced(g_b, b), None, None


def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """X with A X = B (X A = B with left=False) for triangular A; unitriangular: ones on the diagonal."""
    matrices("linalg.solve_triangular", A, square=True)
    _check_system("linalg.solve_triangular", A, B, left)
    if not left:
        return _h(_SolveTriangular.apply(_h(A), _h(B), not upper, unitriangular))
    result: Tensor = _SolveTriangular.apply(A, B, upper, unitriangular)
    return result


class _CholeskySolve(Function):
    """The derivative by the factor is that of all its elements, as PyTorch has it, not of one triangle's."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, factor: Tensor, upper: bool) -> Tensor:
        ctx.save_for_backward(b, factor)
        ctx.upper = upper
        lower = _h(factor) if upper else factor
        ctx.results = solve_triangular(_h(lower), solve_triangular(lower, b, upper=False), upper=True)
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        b, factor = ctx.saved_tensors
        x = _CholeskySolve.apply(b, factor, ctx.upper) if grad_mode.enabled else ctx.results
        g_b = _CholeskySolve.apply(g, factor, ctx.upper)
        both = matmul(g_b, _h(x))
        both = both + _h(both)
        g_factor = -matmul(factor, both) if ctx.upper else -matmul(both, factor)
        return _reduced(g_b, b), _reduced(g_factor, factor), None


@autocasts
def cholesky_solve(B: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """X with A X = B, given A's Cholesky factor."""
    matrices("cholesky_solve", L, square=True)
    _check_system("cholesky_solve", L, B)
    result: Tensor = _CholeskySolve.apply(B, L, upper)
    return result


@autocasts
def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """A⁻¹, given A's Cholesky factor."""
    matrices("cholesky_inverse", L, square=True)
    unit = creation.eye(L.shape[-1], dtype=L.dtype).expand(L.shape)
    return cholesky_solve(unit, L, upper)


@autocasts
def lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    """X with A X = B, given lu_factor(A); left=False: X A = B; adjoint: of Aᵀ."""
    matrices("linalg.lu_solve", LU, square=True)
    _check_system("linalg.lu_solve", LU, B, left)
    if pivots.dtype is not dtypes.int32 or pivots.shape != LU.shape[:-1]:
        raise RuntimeError(
            f"linalg.lu_solve: pivots must be int32 {list(LU.shape[:-1])}, got {pivots.dtype.name}{list(pivots.shape)}"
        )
    if not left:
        return _h(lu_solve(LU, pivots, _h(B), adjoint=not adjoint))
    p = _permutation(pivots, LU.shape[-1], LU.dtype)
    if adjoint:
        y = solve_triangular(_h(LU), B, upper=False)
        return matmul(p, solve_triangular(_h(LU), y, upper=True, unitriangular=True))
    y = solve_triangular(LU, matmul(_h(p), B), upper=False, unitriangular=True)
    return solve_triangular(LU, y, upper=True)


# -- determinants ----------------------------------------------------------------------------------------------------


class _Determinant(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return call("det", np.linalg.det, a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return shape.unsqueeze(shape.unsqueeze(g, -1), -1) * _cofactors(a)


def _cofactors(a: Tensor) -> Tensor:
    """The conjugate of det(A) A⁻ᵀ, also of singular matrices: by singular values, with the products of all others."""
    try:
        return shape.unsqueeze(shape.unsqueeze(conj(det(a)), -1), -1) * _h(inv(a))
    except LinAlgError:
        u, s, vh = svd(a, full_matrices=False)
        n = s.shape[-1]
        same = creation.eye(n, dtype=dtypes.bool_)
        others = reduction.prod(arithmetic.where(same, 1.0, shape.unsqueeze(s, -2)), -1)
        sign = shape.unsqueeze(conj(det(u) * det(vh)), -1)
        return matmul(u * shape.unsqueeze(sign * others, -2), vh)


def det(A: Tensor) -> Tensor:
    """The determinants of square matrices."""
    matrices("linalg.det", A, square=True)
    result: Tensor = _Determinant.apply(A)
    return result


class SignLog(NamedTuple):
    """What slogdet returns."""

    sign: Tensor
    logabsdet: Tensor


class _LogDeterminant(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a)
        result: tuple[Tensor, Tensor] = call("slogdet", lambda x: tuple(np.linalg.slogdet(x)), a)
        ctx.results = result
        return result

    @staticmethod
    def backward(ctx: Any, g_sign: Tensor, g: Tensor) -> Tensor:  # the derivative of a real sign is zero
        (a,) = ctx.saved_tensors
        if a.dtype.is_complex:
            sign, _ = slogdet(a) if grad_mode.enabled else ctx.results
            g = complex(g, -imag(conj(g_sign) * sign))
        return shape.unsqueeze(shape.unsqueeze(g, -1), -1) * _h(inv(a))


def slogdet(A: Tensor) -> SignLog:
    """The sign and the logarithm of the absolute value of determinants: 0 and −∞ for singular matrices."""
    matrices("linalg.slogdet", A, square=True)
    return SignLog(*_LogDeterminant.apply(A))


def logdet(A: Tensor) -> Tensor:
    """The logarithm of determinants: NaN where negative, −∞ where zero; of complex matrices complex."""
    sign, log = slogdet(A)
    if A.dtype.is_complex:
        return complex(log, angle(sign))
    return arithmetic.where(arithmetic.lt(sign, 0), math.nan, log)


# -- least squares and pseudo-inverses -------------------------------------------------------------------------------


def _tolerance(a: Tensor, largest: Tensor, atol: Any, rtol: Any) -> Tensor:
    if rtol is None:
        given = isinstance(atol, Tensor) or (atol is not None and atol > 0)
        rtol = arithmetic.finfo(a.dtype).eps * max(a.shape[-2:]) if not isinstance(atol, Tensor) and not given else 0.0
        if isinstance(atol, Tensor):
            default = arithmetic.finfo(a.dtype).eps * max(a.shape[-2:])
            rtol = arithmetic.where(arithmetic.gt(atol, 0), 0.0, default)
    return arithmetic.maximum(
        arithmetic.mul(largest, rtol), creation.as_tensor(0.0 if atol is None else atol, dtype=largest.dtype)
    )


@autocasts
def matrix_rank(A: Tensor, tol: Any = None, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Tensor:
    """How many singular values are above max(atol, rtol · the largest)."""
    matrices("linalg.matrix_rank", A, square=hermitian)
    if tol is not None:
        atol, rtol = tol, 0.0
    if 0 in A.shape[-2:]:
        return creation.zeros(A.shape[:-2], dtype=dtypes.int64)
    values = arithmetic.abs(eigh(A.detach()).eigenvalues) if hermitian else svdvals(A.detach())
    limit = _tolerance(A, reduction.amax(values, -1), atol, rtol)
    return reduction.sum(arithmetic.gt(values, shape.unsqueeze(limit, -1)), -1)


class _PseudoInverse(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, limit: Tensor) -> Tensor:
        ctx.save_for_backward(a, limit)

        def inverse(x: Any, least: Any) -> Any:
            u, s, vh = np.linalg.svd(x, full_matrices=False)
            kept = s > least[..., None]
            inverted = np.where(kept, 1 / np.where(kept, s, 1), 0).astype(x.dtype)
            return (vh.swapaxes(-1, -2).conj() * inverted[..., None, :]) @ u.swapaxes(-1, -2).conj()

        ctx.results = call("pinv", inverse, a, limit, core=(2, 0))
        return ctx.results

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        # Golub and Pereyra, The differentiation of pseudo-inverses (1973)
        a, limit = ctx.saved_tensors
        p = _PseudoInverse.apply(a, limit) if grad_mode.enabled else ctx.results
        pt, gt = _h(p), _h(g)
        first = -matmul(matmul(pt, g), pt)
        second = matmul(gt - matmul(a, matmul(p, gt)), matmul(p, pt))
        third = matmul(matmul(pt, p), gt - matmul(matmul(gt, p), a))
        return first + second + third, None


def pinv(A: Tensor, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Tensor:
    """The pseudo-inverse (Moore and Penrose); singular values up to max(atol, rtol · the largest) count as zero."""
    matrices("linalg.pinv", A, square=hermitian)
    rtol = rcond if rtol is None else rtol
    if not A.numel():
        return _h(A)  # which has no elements, and keeps the history
    if hermitian:
        below, diagonal = shape.tril(A, -1), shape.diagonal(A, 0, -2, -1)
        diagonal = wrap(ew.cast(ew.real(diagonal._node), A.dtype))
        symmetric = below + _h(below) + shape.diag_embed(diagonal)
        A = (A + _h(A)) / 2  # one triangle counts, but the derivative is that of the whole matrix
        A = A + (symmetric - A).detach()
    values = svdvals(A.detach())
    limit = shape.expand(_tolerance(A, reduction.amax(values, -1), atol, rtol), values.shape[:-1])
    result: Tensor = _PseudoInverse.apply(A, wrap(ew.cast(limit._node, A.dtype.to_real())))
    return result


class LeastSquares(NamedTuple):
    """What lstsq returns."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


@autocasts
def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> LeastSquares:
    """X that makes ‖A X − B‖ least (and ‖X‖ least where there are many), by the pseudo-inverse.

    residuals are given where A is higher than wide and of full rank; rank and singular values as the driver gives them.
    """
    matrices("linalg.lstsq", A)
    vector = _is_vector(A, B)
    b = shape.unsqueeze(B, -1) if vector else B
    _check_least_squares(A, b, driver)
    rows, columns = A.shape[-2:]
    limit = arithmetic.finfo(A.dtype).eps * max(rows, columns) if rcond is None else rcond
    x = matmul(pinv(A, rtol=limit), b)
    batch = broadcast_shapes(A.shape[:-2], b.shape[:-2], what="linalg.lstsq")
    empty = shape.slice_empty(real(x))
    residuals, rank, values = empty, creation.zeros(0, dtype=dtypes.int64), empty
    if driver != "gels":
        rank = matrix_rank(A, rtol=limit)
        if driver in ("gelsd", "gelss"):
            values = svdvals(A)
    if rows > columns and driver != "gelsy" and (driver == "gels" or driver is None or bool(
        reduction.all(arithmetic.eq(matrix_rank(A, rtol=limit), columns)))):  # fmt: skip
        away = matmul(A, x) - b
        residuals = reduction.sum(real(away * conj(away)), -2)
        residuals = shape.reshape(residuals, batch) if vector else residuals
    return LeastSquares(shape.squeeze(x, -1) if vector else x, residuals, rank, values)


def _check_least_squares(a: Tensor, b: Tensor, driver: str | None) -> None:
    if a.dtype is not b.dtype or a.shape[-2] != b.shape[-2]:
        raise RuntimeError(
            f"linalg.lstsq: A {a.dtype.name}{list(a.shape)} and B {b.dtype.name}{list(b.shape)} do not fit"
        )
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError(f"linalg.lstsq: driver must be gels, gelsy, gelsd or gelss, not {driver!r}")


# -- products and powers ---------------------------------------------------------------------------------------------


@autocasts
def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of matrices in the cheapest order; the first and last may be vectors."""
    given = list(tensors)
    if len(given) < 2:
        raise RuntimeError(f"linalg.multi_dot: expected at least two tensors, got {len(given)}")
    first, last = given[0].ndim == 1, given[-1].ndim == 1
    if first:
        given[0] = shape.unsqueeze(given[0], 0)
    if last:
        given[-1] = shape.unsqueeze(given[-1], 1)
    for i, t in enumerate(given):
        if t.ndim != 2:
            raise RuntimeError(f"linalg.multi_dot: tensor {i} must be a matrix, got shape {list(tensors[i].shape)}")
    sizes = [t.shape[0] for t in given] + [given[-1].shape[1]]
    best: dict[tuple[int, int], tuple[int, int]] = {}

    def cost(i: int, j: int) -> int:
        if i == j:
            return 0
        if (i, j) not in best:
            best[i, j] = min((cost(i, k) + cost(k + 1, j) + sizes[i] * sizes[k + 1] * sizes[j + 1], k) for k in range(i, j))
        return best[i, j][0]

    def product(i: int, j: int) -> Tensor:
        if i == j:
            return given[i]
        cost(i, j)
        k = best[i, j][1]
        return matmul(product(i, k), product(k + 1, j))

    result = product(0, len(given) - 1)
    result = shape.squeeze(result, 0) if first else result
    return shape.squeeze(result, -1) if last else result


@autocasts
def matrix_exp(A: Tensor) -> Tensor:
    """e to the power of square matrices: Taylor's series of A / 2ˢ, squared s times.

    s is chosen by the largest matrix, so values are looked at: not inside fp.jit.
    """
    matrices("linalg.matrix_exp", A, square=True)
    if not A.numel():
        return A
    half = A.dtype in (dtypes.float16, dtypes.bfloat16)
    x = wrap(ew.cast(A._node, dtypes.float32)) if half else A
    size = float(reduction.amax(reduction.sum(arithmetic.abs(x.detach()), -1)).item())
    # Up to these sizes the series of 18 terms is exact to the last digit.
    least = 1.09 if x.dtype.to_real() is dtypes.float64 else 3.01
    squarings = max(0, math.ceil(math.log2(size / least))) if size > 0 and math.isfinite(size) else 0
    x = x * 2.0**-squarings
    unit = creation.eye(A.shape[-1], dtype=x.dtype)
    result = unit + x * (1 / 18)
    for k in range(17, 0, -1):  # Horner's rule: 1 + x/1 (1 + x/2 (1 + …))
        result = unit + matmul(x, result) * (1 / k)
    for _ in range(squarings):
        result = matmul(result, result)
    return wrap(ew.cast(result._node, A.dtype))


@autocasts
def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse of A seen as a matrix from its last dimensions to its first `ind`."""
    if ind <= 0:
        raise RuntimeError(f"linalg.tensorinv: ind must be positive, got {ind}")
    first, rest = A.shape[:ind], A.shape[ind:]
    if math.prod(first) != math.prod(rest):
        raise RuntimeError(f"linalg.tensorinv: the sizes {list(first)} and {list(rest)} must have equal products")
    return shape.reshape(inv(shape.reshape(A, (math.prod(first), math.prod(rest)))), (*rest, *first))


@autocasts
def tensorsolve(A: Tensor, B: Tensor, dims: Sequence[int] | None = None) -> Tensor:
    """X with tensordot(A, X, X.ndim) = B."""
    if dims is not None:
        A = shape.movedim(A, tuple(dims), tuple(range(A.ndim - len(dims), A.ndim)))
    rest = A.shape[B.ndim :]
    if math.prod(A.shape[: B.ndim]) != math.prod(rest) or math.prod(rest) != B.numel():
        raise RuntimeError(f"linalg.tensorsolve: A {list(A.shape)} and B {list(B.shape)} do not make a square system")
    matrix = shape.reshape(A, (B.numel(), math.prod(rest)))
    return shape.reshape(solve(matrix, shape.reshape(B, (B.numel(),))), rest)


def lu_unpack(
    LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """(P, L, U) of lu_factor's results."""
    matrices("lu_unpack", LU_data)
    if LU_pivots.dtype is not dtypes.int32:
        raise RuntimeError(f"lu_unpack: LU_pivots is expected to be int32, got {LU_pivots.dtype.name}")
    empty = creation.zeros(0, dtype=LU_data.dtype)
    lower, upper = unpack(LU_data) if unpack_data else (empty, empty)
    p = _permutation(LU_pivots, LU_data.shape[-2], LU_data.dtype) if unpack_pivots else empty
    return p, lower, upper


@autocasts
def lu_legacy(A: Tensor, pivot: bool = True, get_infos: bool = False) -> Any:
    """torch.lu: (LU, pivots), with get_infos also the error numbers."""
    packed, pivots = lu_factor(A, pivot=pivot)
    return (packed, pivots, creation.zeros(A.shape[:-2], dtype=dtypes.int32)) if get_infos else (packed, pivots)
