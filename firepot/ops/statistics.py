"""Counts, moments, distances and numerical integrals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.dtypes import promote
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather as ga
from firepot.graph.primitives import views
from firepot.ops import arithmetic, creation, linear, reduction, shape
from firepot.ops import complex as complex_
from firepot.ops.broadcast import axis_of
from firepot.tensor import Tensor, node_of, wrap

__all__ = [
    "aminmax", "cdist", "corrcoef", "cov", "cumulative_trapezoid", "gradient", "histc", "histogram", "histogramdd",
    "isin", "pdist", "trapezoid", "trapz",
]  # fmt: skip


class MinMax(NamedTuple):
    """What aminmax returns."""

    min: Tensor
    max: Tensor


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> MinMax:
    """The smallest and the largest element, of all or along a dimension."""
    return MinMax(reduction.amin(input, dim, keepdim), reduction.amax(input, dim, keepdim))


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each element occurs among test_elements."""
    tensors = [v for v in (elements, test_elements) if isinstance(v, Tensor)]
    if not tensors:
        raise TypeError("isin: at least one argument must be a tensor")
    a, b = (v if isinstance(v, Tensor) else wrap(node_of(v)) for v in (elements, test_elements))
    wide = shape.unsqueeze(a, -1)
    found = reduction.any(arithmetic.eq(wide, shape.reshape(b, (b.numel(),))), -1)
    return arithmetic.logical_not(found) if invert else found


# -- moments ---------------------------------------------------------------------------------------------------------


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """The covariance matrix of variables (rows) over observations (columns); weights count or scale observations."""
    if input.ndim > 2:
        raise RuntimeError(f"cov: expected a tensor of at most 2 dimensions, got shape {list(input.shape)}")
    if input.dtype is dtypes.bool_:
        raise RuntimeError("cov: bool tensors are not supported")
    x = input if input.ndim == 2 else shape.reshape(input, (1, input.numel()))
    if not x.dtype.is_inexact:
        x = wrap(ew.cast(x._node, dtypes.float32))
    count = x.shape[1]
    weights: Tensor | None = None
    for name, w in (("fweights", fweights), ("aweights", aweights)):
        if w is None:
            continue
        if w.ndim > 1 or w.numel() != count:
            raise RuntimeError(f"cov: {name} must be a vector of {count}, got shape {list(w.shape)}")
        if (w.dtype.kind == "f") != (name == "aweights") or w.dtype is dtypes.bool_:
            kind = "floating point" if name == "aweights" else "integers"
            raise RuntimeError(f"cov: {name} must be {kind}, got {w.dtype.name}")
        if bool(reduction.any(arithmetic.lt(w.detach(), 0))) if w.numel() else False:
            raise RuntimeError(f"cov: {name} cannot be negative")
        w = shape.reshape(w, (count,))
        weights = w if weights is None else arithmetic.mul(weights, w)
    if weights is None:
        total: Any = float(count)
        average = reduction.sum(x, 1, keepdim=True) / total if count else x.sum(1, keepdim=True) / 0.0
        norm: Any = total - correction
    else:
        total = reduction.sum(weights)
        average = reduction.sum(x * weights, 1, keepdim=True) / total
        if aweights is None:
            norm = total - correction
        else:
            norm = total - correction * reduction.sum(weights * aweights) / total
    centred = x - average
    right = (centred if weights is None else centred * weights).conj()
    common = promote(centred.dtype, right.dtype)
    centred, right = wrap(ew.cast(centred._node, common)), wrap(ew.cast(right._node, common))
    norm = arithmetic.clamp(norm, min=0) if isinstance(norm, Tensor) else max(norm, 0.0)
    found = linear.matmul(centred, shape.transpose(right, 0, 1))
    found = found / (norm if isinstance(norm, Tensor) else creation.full((), norm, dtype=x.dtype))
    return shape.reshape(found, ()) if found.numel() == 1 else found


def corrcoef(input: Tensor) -> Tensor:
    """The matrix of correlation coefficients of variables (rows) over observations (columns)."""
    if input.ndim > 2:
        raise RuntimeError(f"corrcoef: expected a tensor of at most 2 dimensions, got shape {list(input.shape)}")
    c = cov(input)
    if not c.shape:
        return c / c
    deviation = arithmetic.sqrt(shape.diagonal(c))
    scaled = c / shape.unsqueeze(deviation, 1) / shape.unsqueeze(deviation, 0)
    if c.dtype.is_complex:
        return complex_.complex(*(arithmetic.clamp(part, -1, 1) for part in (scaled.real, scaled.imag)))
    return arithmetic.clamp(scaled, -1, 1)


# -- histograms ------------------------------------------------------------------------------------------------------


def _limits(input: Tensor, low: float, high: float, what: str) -> tuple[float, float]:
    if low == high and input.numel():
        values = input.detach()._array(f"{what} without a range (which is looked up in the values)", "Give min and max")
        low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise RuntimeError(f"{what}: range of [{low}, {high}] is not finite")
    if low > high:
        raise RuntimeError(f"{what}: max must be larger than min, got {low} and {high}")
    return (low - 1, high + 1) if low == high else (low, high)


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements fall in each of `bins` equal intervals from min to max (0, 0: the elements' own range)."""
    if bins <= 0:
        raise RuntimeError(f"histc: bins must be > 0, got {bins}")
    kept = input.dtype in (dtypes.float32, dtypes.float64)
    x = input._node if kept else ew.cast(input._node, dtypes.float32 if input.dtype.kind == "f" else dtypes.float64)
    low, high = _limits(wrap(x), float(min), float(max), "histc")
    flat = views.reshape(x, (x.size,))
    inside = ew.and_(ew.ge(flat, ew.like(flat, low)), ew.compare("le", flat, ew.like(flat, high)))
    scaled = ew.div(ew.mul(ew.sub(flat, ew.like(flat, low)), ew.like(flat, bins)), ew.like(flat, high - low))
    place = ew.cast(ew.unary("floor", ew.where(inside, scaled, ew.like(flat, bins))), dtypes.int64)
    place = ew.where(inside, ew.binary("minimum", place, ew.like(place, bins - 1)), ew.like(place, bins))
    counts = ga.scatter(ew.full((bins + 1,), 0, dtypes.int64), ew.full((x.size,), 1, dtypes.int64), [place], [0], "add")
    return wrap(ew.cast(views.slice_(counts, (0,), (bins,)), input.dtype))


class Histogram(NamedTuple):
    """What histogram returns."""

    hist: Tensor
    bin_edges: Tensor


class HistogramDD(NamedTuple):
    """What histogramdd returns."""

    hist: Tensor
    bin_edges: tuple[Tensor, ...]


def histogramdd(
    input: Tensor, bins: Any, *, range: Sequence[float] | None = None, weight: Tensor | None = None,
    density: bool = False,
) -> HistogramDD:  # fmt: skip
    """Counts of points (…, N) in a grid of N dimensions. bins: edges of each dimension, or numbers of equal bins."""
    if input.ndim < 2:
        raise RuntimeError(f"histogramdd: expected points as the last of at least 2 dimensions, got {list(input.shape)}")
    if input.dtype not in (dtypes.float32, dtypes.float64):
        raise RuntimeError(f"histogramdd: expected float32 or float64, got {input.dtype.name}")
    n = input.shape[-1]
    points = shape.reshape(input, (math.prod(input.shape[:-1]), n))
    given = [bins] * n if isinstance(bins, int) else list(bins)
    if len(given) != n:
        raise RuntimeError(f"histogramdd: expected bins for {n} dimensions, got {len(given)}")
    edges: list[Tensor] = []
    for d, b in enumerate(given):
        if isinstance(b, Tensor):
            edges.append(b)
            continue
        if b <= 0:
            raise RuntimeError(f"histogramdd: the number of bins must be positive, got {b}")
        column = points[:, d]
        if range is None:
            if column.numel():
                values = column.detach()._array("histogramdd")
                low, high = float(values.min()), float(values.max())
            else:
                low, high = 0.0, 1.0
        else:
            low, high = float(range[2 * d]), float(range[2 * d + 1])
        if not (math.isfinite(low) and math.isfinite(high)) or low > high:
            raise RuntimeError(f"histogramdd: range of [{low}, {high}] is not usable")
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges.append(creation.linspace(low, high, b + 1, dtype=input.dtype))
    place = wrap(ew.full((points.shape[0],), 0, dtypes.int64))
    valid = wrap(ew.full((points.shape[0],), True, dtypes.bool_))
    sizes = [e.numel() - 1 for e in edges]
    for d, (e, size) in enumerate(zip(edges, sizes, strict=True)):
        x = shape.unsqueeze(points[:, d].detach(), 1)
        number = reduction.sum(arithmetic.le(e, x), 1) - 1
        number = arithmetic.where(arithmetic.eq(x[:, 0], e[-1]), size - 1, number)
        inside = arithmetic.logical_and(arithmetic.ge(x[:, 0], e[0]), arithmetic.le(x[:, 0], e[-1]))
        valid = arithmetic.logical_and(valid, inside)
        place = place * size + arithmetic.where(inside, number, 0)
    total = math.prod(sizes)
    target = arithmetic.where(valid, place, total)
    one = creation.ones(points.shape[0], dtype=input.dtype) if weight is None else shape.reshape(weight, (points.shape[0],))
    counts = ga.scatter(ew.full((total + 1,), 0, input.dtype), ew.cast(one._node, input.dtype), [target._node], [0], "add")
    hist = shape.reshape(wrap(views.slice_(counts, (0,), (total,))), sizes)
    if density:
        hist = hist / reduction.sum(hist)
        for d, e in enumerate(edges):
            width = e[1:] - e[:-1]
            hist = hist / shape.reshape(width, [-1 if k == d else 1 for k, _ in enumerate(edges)])
    return HistogramDD(hist, tuple(edges))


def histogram(
    input: Tensor, bins: Any, *, range: Sequence[float] | None = None, weight: Tensor | None = None,
    density: bool = False,
) -> Histogram:  # fmt: skip
    """Counts (or weights) of elements between edges. bins: a vector of edges, or the number of equal bins."""
    flat = shape.reshape(input, (input.numel(), 1))
    found = histogramdd(flat, [bins], range=range, weight=weight, density=density)
    return Histogram(found.hist, found.bin_edges[0])


# -- distances -------------------------------------------------------------------------------------------------------


def _minkowski(difference: Tensor, p: float) -> Tensor:
    """The p-norm along the last dimension; the gradient is zero at zero."""
    if p == 0:
        return reduction.norm(difference, 0, -1)
    if p in (1, 2, math.inf):
        return reduction.norm(difference, p, -1)
    size = arithmetic.abs(difference)
    total = reduction.sum(arithmetic.pow(size, p), -1)
    zero = arithmetic.eq(total, 0)
    return arithmetic.where(zero, total, arithmetic.pow(arithmetic.where(zero, 1.0, total), 1 / p))


@autocasts
def cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
) -> Tensor:
    """p-norm distances of every pair of rows: (…, P, M), (…, R, M) -> (…, P, R)."""
    for x in (x1, x2):
        if x.ndim < 2 or x.dtype.kind != "f":
            raise RuntimeError(f"cdist: expected floating tensors of at least 2 dimensions, got {x.dtype.name}{list(x.shape)}")
    if x1.shape[-1] != x2.shape[-1]:
        raise RuntimeError(f"cdist: the last sizes of {list(x1.shape)} and {list(x2.shape)} must be equal")
    if p < 0:
        raise RuntimeError(f"cdist: only supports non-negative p values, got {p}")
    if compute_mode not in (
        "use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist",
    ):  # fmt: skip
        raise ValueError(f"{compute_mode} is not a valid value for compute_mode")
    return _minkowski(shape.unsqueeze(x1, -2) - shape.unsqueeze(x2, -3), p)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """p-norm distances of every pair of different rows, in the order (0, 1), (0, 2), …"""
    if input.ndim != 2:
        raise RuntimeError(f"pdist: expected a matrix, got shape {list(input.shape)}")
    if p < 0:
        raise RuntimeError(f"pdist: only supports non-negative p values, got {p}")
    pairs = np.array(list(itertools.combinations(np.arange(input.shape[0]), 2)), np.int64).reshape(-1, 2)
    first, second = (wrap(ga.take(input._node, [node_of(np.ascontiguousarray(pairs[:, k]))], [0])) for k in (0, 1))
    return _minkowski(first - second, p)


# -- integrals and derivatives of samples ----------------------------------------------------------------------------


def _trapezoids(what: str, y: Tensor, x: Tensor | None, dx: Any, dim: int) -> tuple[Tensor, int]:
    if not y.shape:
        raise RuntimeError(f"{what}: expected at least one dimension")
    d = axis_of(dim, y.ndim, what)
    if y.dtype is dtypes.bool_:
        raise RuntimeError(f"{what}: bool tensors are not supported")
    n = y.shape[d]
    if n == 0:
        return y, d
    pairs = shape.narrow(y, d, 1, n - 1) + shape.narrow(y, d, 0, n - 1)
    if x is None:
        return pairs * (dx / 2.0), d
    if x.ndim == 1:
        if x.shape[0] != n:
            raise RuntimeError(f"{what}: there must be one `x` value for each sample point, got {x.shape[0]} and {n}")
        x = shape.reshape(x, [n if k == d else 1 for k, _ in enumerate(y.shape)])
    elif x.ndim < y.ndim:
        x = shape.reshape(x, (1,) * (y.ndim - x.ndim) + x.shape)
    axis = d + x.ndim - y.ndim
    size = x.shape[axis]
    if size not in (n, 1):
        raise RuntimeError(f"{what}: there must be one `x` value for each sample point, got {size} and {n}")
    width = shape.narrow(x, axis, 1, size - 1) - shape.narrow(x, axis, 0, size - 1)
    return pairs * width / 2.0, axis


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """The integral of samples along a dimension by trapezoids, dx apart or at the points x."""
    if x is not None and dx is not None:
        raise RuntimeError("trapezoid: give x or dx, not both")
    parts, d = _trapezoids("trapezoid", y, x, 1.0 if dx is None else dx, dim)
    total = reduction.sum(parts, d)
    return total if total.dtype.kind == "f" or parts.shape[d] else wrap(ew.cast(total._node, dtypes.float32))


trapz = trapezoid


def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """Running integrals of samples along a dimension by trapezoids."""
    if x is not None and dx is not None:
        raise RuntimeError("cumulative_trapezoid: give x or dx, not both")
    parts, d = _trapezoids("cumulative_trapezoid", y, x, 1.0 if dx is None else dx, dim)
    return reduction.cumsum(parts, d)


def gradient(input: Tensor, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1) -> list[Tensor]:
    """Derivatives of samples by central differences, at the ends one-sided of the order given.

    spacing: a distance, one for each dimension, or the coordinates of each dimension as vectors.
    """
    axes = [k for k, _ in enumerate(input.shape)] if dim is None else [dim] if isinstance(dim, int) else list(dim)
    axes = [axis_of(d, input.ndim, "gradient") for d in axes]
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"gradient: a dimension appears more than once in {axes}")
    if edge_order not in (1, 2):
        raise RuntimeError(f"gradient: edge_order must be 1 or 2, got {edge_order}")
    spacing = 1 if spacing is None else spacing
    many = isinstance(spacing, (list, tuple))
    given = list(spacing) if many else [spacing] * len(axes)
    if len(given) != len(axes):
        raise RuntimeError(f"gradient: expected spacing for {len(axes)} dimensions, got {len(given)}")
    result = []
    for d, s in zip(axes, given, strict=True):
        n = input.shape[d]
        if n <= edge_order:
            raise RuntimeError(f"gradient: dimension {d} of size {n} needs at least {edge_order + 1} samples")
        if isinstance(s, Tensor) and s.ndim == 1:
            if s.numel() != n:
                raise RuntimeError(f"gradient: expected {n} coordinates for dimension {d}, got {s.numel()}")
            result.append(_uneven(input, s, d, edge_order))
        else:
            result.append(_even(input, s, d, edge_order))
    return result


def _even(x: Tensor, h: Any, d: int, order: int) -> Tensor:
    n = x.shape[d]

    def at(i: int, count: int = 1) -> Tensor:
        return shape.narrow(x, d, i % n, count)

    middle = (at(2, n - 2) - at(0, n - 2)) / (2.0 * h) if n > 2 else None
    if order == 1:
        first, last = (at(1) - at(0)) / h, (at(-1) - at(-2)) / h
    else:
        first = (at(1) * 4.0 - at(0) * 3.0 - at(2)) / (2.0 * h)
        last = (at(-1) * 3.0 - at(-2) * 4.0 + at(-3)) / (2.0 * h)
    return shape.cat([p for p in (first, middle, last) if p is not None], d)


def _uneven(x: Tensor, points: Tensor, d: int, order: int) -> Tensor:
    n = x.shape[d]

    def at(i: int, count: int = 1) -> Tensor:
        return shape.narrow(x, d, i % n, count)

    steps = points[1:] - points[:-1]

    def step(i: int, count: int) -> Tensor:
        return shape.reshape(shape.narrow(steps, 0, i % (n - 1), count), [count if k == d else 1 for k, _ in enumerate(x.shape)])

    a, b = step(0, n - 2), step(1, n - 2)
    middle = at(0, n - 2) * (-b / (a * (a + b))) + at(1, n - 2) * ((b - a) / (a * b)) + at(2, n - 2) * (a / (b * (a + b)))
    if order == 1:
        first, last = (at(1) - at(0)) / step(0, 1), (at(-1) - at(-2)) / step(-1, 1)
    else:
        a, b = step(0, 1), step(1, 1)
        first = at(0) * (-(2.0 * a + b) / (a * (a + b))) + at(1) * ((a + b) / (a * b)) - at(2) * (a / (b * (a + b)))
        a, b = step(-2, 1), step(-1, 1)
        last = at(-3) * (b / (a * (a + b))) - at(-2) * ((a + b) / (a * b)) + at(-1) * ((2.0 * b + a) / (b * (a + b)))
    return shape.cat([first, middle, last], d)
