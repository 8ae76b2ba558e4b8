"""Minimal filtering F(4×4, 3×3): the transforms of Winograd's convolution as vector code.

Four results of a three-tap filter take six products instead of twelve: evaluate the six inputs and the filter at six
points as polynomials, multiply there, interpolate. In two dimensions 36 products replace 144. After S. Winograd,
Arithmetic Complexity of Computations (1980), and A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural
Networks (2015).

The points 0, ±3/4, ±3/2, ∞ round half as coarsely as the usual 0, ±1, ±2, ∞: about 9e-7 root mean square of the
result in float32, where direct sums have 1.6e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from firepot.kernels.llvm.builder import Builder, Value

Matrix = tuple[tuple[Fraction, ...], ...]

RESULTS = 4  # results of a tile along one dimension
TAPS = 3
POINTS = RESULTS + TAPS - 1  # and inputs of a tile
PRODUCTS = POINTS * POINTS

# Pairs of opposite points are neighbours; `_opposite` relies on it.
_FINITE = (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))


def _product_of(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of Π (x − root), the constant one first."""
    result = [Fraction(1)]
    for root in roots:
        result = [
            (result[i - 1] if i else Fraction(0)) - (root * result[i] if i < len(result) else 0)
            for i in range(len(result) + 1)
        ]
    return result


def _evaluation(count: int) -> Matrix:
    """Rows: a polynomial of `count` coefficients at each point."""
    rows = [tuple(p**i for i in range(count)) for p in _FINITE]
    return (*rows, tuple(Fraction(i == count - 1) for i in range(count)))


def transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _input_matrix() -> Matrix:
    rows = []
    for k in range(len(_FINITE)):
        others = [p for j, p in enumerate(_FINITE) if j != k]
        rows.append((*_product_of(others), Fraction(0)))
    return (*rows, tuple(_product_of(_FINITE)))


def _filter_matrix() -> Matrix:
    rows = []
    for k, row in enumerate(_evaluation(TAPS)[:-1]):
        scale = Fraction(1)
        for j, p in enumerate(_FINITE):
            if j != k:
                scale *= _FINITE[k] - p
        rows.append(tuple(value / scale for value in row))
    return (*rows, _evaluation(TAPS)[-1])


# result = FROM_POINTS · ((TO_FILTER · filter) ⊙ (TO_INPUT · input)); the transposes are what the derivatives need.
TO_INPUT = _input_matrix()  # 6 × 6
TO_FILTER = _filter_matrix()  # 6 × 3
FROM_POINTS = transposed(_evaluation(RESULTS))  # 4 × 6
TO_GRADIENT = _evaluation(RESULTS)  # 6 × 4
FROM_FILTER = transposed(TO_FILTER)  # 3 × 6

Along = Callable[[Builder, Matrix, Sequence[Value]], list[Value]]


def to_points(b: Builder, matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """A matrix with a row for each point times a vector. Opposite points share their even and odd halves."""
    result = [_combine(b, matrix[0], values)]
    for k in (1, 3):
        even = _combine(b, [f if i % 2 == 0 else Fraction(0) for i, f in enumerate(matrix[k])], values)
        odd = _combine(b, [f if i % 2 == 1 else Fraction(0) for i, f in enumerate(matrix[k])], values)
        result += [b.add(even, odd), b.sub(even, odd)]
    return [*result, _combine(b, matrix[-1], values)]


def from_points(b: Builder, matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """A matrix with a column for each point times a vector. Opposite points are added and subtracted once."""
    sums = [b.add(values[k], values[k + 1]) for k in (1, 3)]
    differences = [b.sub(values[k], values[k + 1]) for k in (1, 3)]
    result = []
    for row in matrix:
        near = sums[0] if row[1] == row[2] else differences[0]
        far = sums[1] if row[3] == row[4] else differences[1]
        result.append(_combine(b, (row[0], row[1], row[3], row[5]), (values[0], near, far, values[5])))
    return result


def both_ways(b: Builder, along: Along, matrix: Matrix, values: Sequence[Sequence[Value]]) -> list[list[Value]]:
    """matrix · values · matrixᵀ, for a square of vectors given by rows."""
    columns = [along(b, matrix, column) for column in zip(*values, strict=True)]
    return [along(b, matrix, row) for row in zip(*columns, strict=True)]


def _combine(b: Builder, factors: Sequence[Fraction], values: Sequence[Value]) -> Value:
    """Σ factor · value, beginning with a value whose factor is one if there is any."""
    terms = [(f, v) for f, v in zip(factors, values, strict=True) if f]
    terms.sort(key=lambda term: term[0] != 1)
    factor, total = terms[0]
    if factor != 1:
        total = b.mul(total, b.constant(float(factor), total.type))
    for factor, value in terms[1:]:
        if factor == 1:
            total = b.add(total, value)
        else:
            total = b.fma(value, b.constant(float(factor), value.type), total)
    return total
