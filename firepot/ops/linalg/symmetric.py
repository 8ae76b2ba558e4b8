"""Symmetric indefinite matrices: A = L D Lᵀ by the pivoting of Bunch and Kaufman, and systems with such a matrix.

NumPy has no such decomposition, so it is written here, as LAPACK's sytf2 and hetf2 for the lower triangle. J. R. Bunch and
L. Kaufman, Some stable methods for calculating inertia and solving symmetric linear systems (1977).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from firepot.autograd import Function
from firepot.graph import dtypes
from firepot.ops.broadcast import broadcast_shapes
from firepot.ops.complex import conj
from firepot.ops.host import Array, call, matrices
from firepot.ops.rearrange import sum_to_size
from firepot.tensor import Tensor

__all__ = ["ldl_factor", "ldl_factor_ex", "ldl_solve"]

_ALPHA = (1 + math.sqrt(17)) / 8  # the bound on the growth of elements is smallest for it


class LDLFactor(NamedTuple):
    """What ldl_factor returns."""

    LD: Tensor
    pivots: Tensor


class LDLFactorInfo(NamedTuple):
    """What ldl_factor_ex returns."""

    LD: Tensor
    pivots: Tensor
    info: Tensor


# -- on the host: one matrix -----------------------------------------------------------------------------------------


def _sizes(x: Array) -> Array:
    """LAPACK's measure of the size of a number."""
    return np.abs(x.real) + np.abs(x.imag)


def _block(a: Array, k: int) -> tuple[int, int]:
    """The block to eliminate at column k: (the row to exchange with the block's last, 1 or 2 rows)."""
    size, below = _sizes(a[k, k]), _sizes(a[k + 1 :, k])
    largest = below.max(initial=0)
    if size >= _ALPHA * largest:
        return k, 1
    row = k + 1 + int(below.argmax())
    across = np.delete(_sizes(a[row, k:]), row - k).max()
    if size >= _ALPHA * largest * (largest / across):
        return k, 1
    return row, 1 if _sizes(a[row, row]) >= _ALPHA * across else 2


def _factor(a: Array, hermitian: bool) -> tuple[Array, Array, int]:
    """(L below D's blocks, where each block's last row was exchanged, the first pivot that is zero, from 1, or 0).

    Pivots count from 1, and are negative for both rows of a block of two.
    """
    n = a.shape[0]
    below = np.tril(a, -1)
    a = np.tril(a) + (below.conj() if hermitian else below).T  # only the lower triangle counts
    if hermitian:
        np.fill_diagonal(a, a.diagonal().real)
    pivots, info, k = np.empty(n, np.int32), 0, 0
    while k < n:
        if not _sizes(a[k:, k]).any() or np.isnan(a[k, k]):
            info = info or k + 1
            pivots[k] = k + 1
            k += 1
            continue
        row, width = _block(a, k)
        end = k + width
        a[[end - 1, row], k:] = a[[row, end - 1], k:]
        a[k:, [end - 1, row]] = a[k:, [row, end - 1]]
        pivots[k:end] = row + 1 if width == 1 else -row - 1
        factors = np.linalg.solve(a[k:end, k:end].T, a[end:, k:end].T).T
        a[end:, end:] -= factors @ a[k:end, end:]
        a[end:, k:end] = factors
        if hermitian:
            np.fill_diagonal(a[end:, end:], a[end:, end:].diagonal().real)
        k = end
    return np.tril(a), pivots, info


def _blocks(pivots: Array) -> list[tuple[int, int, int]]:
    """(first row, row behind the last, the row exchanged with the last) of D's blocks."""
    found, k = [], 0
    while k < len(pivots):
        end = k + (1 if pivots[k] > 0 else 2)
        found.append((k, end, abs(int(pivots[k])) - 1))
        k = end
    return found


def _substitute(packed: Array, pivots: Array, b: Array, hermitian: bool) -> Array:
    """X with A X = B."""
    x = b.copy()
    turned = packed.conj().T if hermitian else packed.T
    for k, end, row in _blocks(pivots):
        x[[end - 1, row]] = x[[row, end - 1]]
        x[end:] -= packed[end:, k:end] @ x[k:end]
        block = packed[k:end, k:end]
        x[k:end] = np.linalg.solve(block + np.triu(turned[k:end, k:end], 1), x[k:end])
    for k, end, row in reversed(_blocks(pivots)):
        x[k:end] -= turned[k:end, end:] @ x[end:]
        x[[end - 1, row]] = x[[row, end - 1]]
    return x


# -- stacks of matrices ----------------------------------------------------------------------------------------------


def ldl_factor_ex(A: Tensor, *, hermitian: bool = False, check_errors: bool = False) -> LDLFactorInfo:
    """A = L D Lᵀ of symmetric matrices (…, n, n), of which the lower triangle is read. There is no derivative.

    Args:
        hermitian: A = L D Lᴴ of Hermitian matrices.
        check_errors: raise LinAlgError where a pivot is exactly zero.

    Returns:
        LD (…, n, n), L below the blocks of D, which are 1 × 1 and 2 × 2; pivots (…, n) int32 as LAPACK's sytrf gives them;
        info (…) int32, the number of the first pivot that is exactly zero, 0 where there is none.

    Raises: RuntimeError for what is not a square matrix of floating-point or complex numbers.

    >>> fp.linalg.ldl_factor_ex(fp.tensor([[0.0, 2.0], [2.0, 0.0]])).pivots
    tensor([-2, -2], dtype=firepot.int32)
    """
    matrices("linalg.ldl_factor", A, square=True)

    def each(a: Array) -> tuple[Array, Array, Array]:
        n = a.shape[-1]
        flat = a.reshape(math.prod(a.shape[:-2]), n, n)
        packed, pivots, info = np.empty_like(flat), np.empty(flat.shape[:2], np.int32), np.empty(len(flat), np.int32)
        for i, matrix in enumerate(flat):
            packed[i], pivots[i], info[i] = _factor(matrix, hermitian)
        if check_errors and info.any():
            raise np.linalg.LinAlgError(f"pivot {info[info > 0][0]} is exactly zero: the matrix is singular")
        return packed.reshape(a.shape), pivots.reshape(a.shape[:-1]), info.reshape(a.shape[:-2])

    return LDLFactorInfo(*call("linalg.ldl_factor", each, A.detach()))


def ldl_factor(A: Tensor, *, hermitian: bool = False) -> LDLFactor:
    """A = L D Lᵀ (hermitian: L D Lᴴ) of symmetric matrices (…, n, n), with pivoting; see ldl_factor_ex.

    Raises: LinAlgError where a pivot is exactly zero.

    >>> LD, pivots = fp.linalg.ldl_factor(fp.tensor([[4.0, 2.0], [2.0, 3.0]]))
    >>> LD
    tensor([[4.0000, 0.0000],
            [0.5000, 2.0000]])
    """
    packed, pivots, _ = ldl_factor_ex(A, hermitian=hermitian, check_errors=True)
    return LDLFactor(packed, pivots)


class _Solution(Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, pivots: Tensor, b: Tensor, hermitian: bool) -> Tensor:
        ctx.save_for_backward(packed, pivots)
        ctx.hermitian, ctx.shape = hermitian, b.shape

        def each(p: Array, exchanges: Array, given: Array) -> Array:
            batch = np.broadcast_shapes(p.shape[:-2], given.shape[:-2])
            p, given = (np.broadcast_to(a, (*batch, *a.shape[-2:])) for a in (p, given))
            exchanges = np.broadcast_to(exchanges, (*batch, exchanges.shape[-1]))
            x = np.empty(given.shape, given.dtype)
            for place in np.ndindex(*batch):
                x[place] = _substitute(p[place], exchanges[place], given[place], hermitian)
            return x

        result: Tensor = call("linalg.ldl_solve", each, packed, pivots, b, core=(2, 1, 2))
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, Tensor, None]:
        if ctx.needs_input_grad[0]:
            raise RuntimeError("linalg.ldl_solve: there is no derivative by LD; fp.linalg.solve(A, B) has one by A")
        packed, pivots = ctx.saved_tensors
        # A⁻ᴴ is A⁻¹ of a Hermitian matrix, its conjugate of a symmetric one.
        if ctx.hermitian or not g.dtype.is_complex:
            found = ldl_solve(packed, pivots, g, hermitian=ctx.hermitian)
        else:
            found = conj(ldl_solve(packed, pivots, conj(g)))
        return None, None, sum_to_size(found, ctx.shape), None


def ldl_solve(LD: Tensor, pivots: Tensor, B: Tensor, *, hermitian: bool = False) -> Tensor:
    """X (…, n, k) with A X = B, given ldl_factor(A). Derivatives are those by B.

    Args:
        LD: (…, n, n) and pivots (…, n) int32: what ldl_factor returned.
        B: (…, n, k), whose batches broadcast with LD's.
        hermitian: as it was for ldl_factor.

    Raises: RuntimeError where shapes or dtypes do not fit; LinAlgError where a pivot is zero.

    >>> A, B = fp.tensor([[0.0, 2.0], [2.0, 1.0]]), fp.tensor([[2.0], [3.0]])
    >>> fp.linalg.ldl_solve(*fp.linalg.ldl_factor(A), B)
    tensor([[1.],
            [1.]])
    """
    matrices("linalg.ldl_solve", LD, square=True)
    matrices("linalg.ldl_solve", B)
    if pivots.dtype is not dtypes.int32 or pivots.shape != LD.shape[:-1]:
        raise RuntimeError(
            f"linalg.ldl_solve: pivots must be int32 {list(LD.shape[:-1])}, got {pivots.dtype.name}{list(pivots.shape)}"
        )
    if LD.dtype is not B.dtype or B.shape[-2] != LD.shape[-1]:
        raise RuntimeError(
            f"linalg.ldl_solve: LD {LD.dtype.name}{list(LD.shape)} and B {B.dtype.name}{list(B.shape)} do not fit; "
            f"expected {LD.dtype.name} with {LD.shape[-1]} rows"
        )
    broadcast_shapes(LD.shape[:-2], B.shape[:-2], what="linalg.ldl_solve")
    result: Tensor = _Solution.apply(LD, pivots, B, hermitian)
    return result
