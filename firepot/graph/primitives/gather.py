"""Gathers, scatters, sorting and running folds: operations along computed positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Node, Opaque, Parts, Primitive, Shape, apply, grad_mode
from firepot.graph.primitives import complex, views
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives.reduce import reduce

Gradients = Sequence[Node | None]


class Take(Primitive):
    """Elements of x at computed positions along some axes.

    inputs: x, then one int64 index (all of one shape I, each already checked) for each of params (axes,). The result
    has the shape I followed by x's other dimensions.
    """

    name = "take"
    partwise = True

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        axes = params[0]
        rest = tuple(s for d, s in enumerate(inputs[0].shape) if d not in axes)
        return inputs[1].shape + rest, inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        x, *indices = node.inputs
        zeros = ew.like(x, 0)
        return [scatter(zeros, g, indices, node.params[0], "add"), *[None] * len(indices)]

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        x, *indices = inputs
        axes = node.params[0]
        if any(batched[1:]):
            if not batched[0]:
                spread = batching.spread(indices, batched[1:])
                return take(x, spread, axes)
            return take(x, *_positions(batching, indices, batched[1:], axes))
        rank = len(indices[0].shape)
        taken = take(x, indices, tuple(a + 1 for a in axes))  # the indices' shape, the examples, the rest
        return views.permute(taken, (rank, *range(rank), *range(rank + 1, len(taken.shape))))


class Scatter(Opaque):
    """x with updates written ('set'), added ('add') or folded ('max', 'min', 'prod') in at computed positions.

    inputs: x, updates (shaped as take's result), then the indices. params: (axes, mode). Where a position occurs
    twice, 'set' keeps the last in row-major order of the indices.
    """

    name = "scatter"
    partwise = True

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        return params[1] in ("set", "add")

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        x, updates, *indices = node.inputs
        axes, mode = node.params
        nothing = [None] * len(indices)
        if mode == "add":
            return [g, take(g, indices, axes), *nothing]
        if mode == "set":
            lost = scatter(g, ew.like(updates, 0), indices, axes, "set")
            return [lost, ew.where(_last_writers(node), take(g, indices, axes), ew.like(updates, 0)), *nothing]
        # The contributions that are the result share its gradient, the original element among them.
        spread = take(node, indices, axes)
        mine = ew.cast(ew.eq(updates, spread), x.dtype)
        own = ew.cast(ew.eq(x, node), x.dtype)
        if mode == "prod":
            return [*_product_gradients(g, node), *nothing]
        count = scatter(own, mine, indices, axes, "add")
        each = ew.div(g, ew.binary("maximum", count, ew.like(count, 1)))
        return [ew.mul(own, each), ew.mul(mine, take(each, indices, axes)), *nothing]

    def lower(self, context: Any, node: Node) -> None:
        context.scatter(node)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        x, updates = batching.spread(inputs[:2], batched[:2])
        indices = inputs[2:]
        axes, mode = node.params
        if any(batched[2:]):
            return scatter(x, updates, *_positions(batching, indices, batched[2:], axes), mode)
        rank = len(indices[0].shape)
        updates = views.permute(updates, (*range(1, rank + 1), 0, *range(rank + 1, len(updates.shape))))
        return scatter(x, updates, indices, tuple(a + 1 for a in axes), mode)


def _positions(
    batching: Batching, indices: Sequence[Node], batched: Sequence[bool], axes: Sequence[int]
) -> tuple[list[Node], tuple[int, ...]]:
    """Indices and axes for a value of many examples, whose number is an index too."""
    spread = batching.spread(indices, batched)
    shape = spread[0].shape
    column = views.reshape(ew.iota(batching.size, dtypes.int64), (batching.size, *(1,) * (len(shape) - 1)))
    return [views.expand(column, shape), *spread], (0, *(a + 1 for a in axes))


def _product_gradients(g: Node, node: Node) -> tuple[Node, Node]:
    """By x and by the updates of a 'prod': the product of all others at the position, also where some are zero."""
    x, updates, *indices = node.inputs
    axes = node.params[0]
    zero_x, zero_u = ew.eq(x, ew.like(x, 0)), ew.eq(updates, ew.like(updates, 0))
    zeros = scatter(ew.cast(zero_x, x.dtype), ew.cast(zero_u, x.dtype), indices, axes, "add")
    plain_x, plain_u = ew.where(zero_x, ew.like(x, 1), x), ew.where(zero_u, ew.like(updates, 1), updates)
    rest = scatter(plain_x, plain_u, indices, axes, "prod")  # of the elements that are not zero
    # The zeros themselves, for the second derivative: where one other is zero the product is so, but not its slope.
    nought_x, nought_u = ew.where(zero_x, x, ew.like(x, 0)), ew.where(zero_u, updates, ew.like(updates, 0))
    noughts = scatter(nought_x, nought_u, indices, axes, "add")

    def own(weight: Node, zeros: Node, product: Node, noughts: Node, zero: Node, plain: Node, nought: Node) -> Node:
        others = ew.sub(zeros, ew.cast(zero, zeros.dtype))  # how many of the others are zero
        product = ew.div(product, plain)
        once = ew.where(ew.eq(others, ew.like(others, 1)), ew.mul(product, ew.sub(noughts, nought)), ew.like(product, 0))
        return ew.mul(weight, ew.where(ew.eq(others, ew.like(others, 0)), product, once))

    g_u, zeros_u, rest_u, noughts_u = (take(n, indices, axes) for n in (g, zeros, rest, noughts))
    by_updates = own(g_u, zeros_u, rest_u, noughts_u, zero_u, plain_u, nought_u)
    return own(g, zeros, rest, noughts, zero_x, plain_x, nought_x), by_updates


def _last_writers(node: Node) -> Node:
    """Which updates of a 'set' are still there: shaped as the updates. Where positions repeat, the last one is."""
    x, updates, *indices = node.inputs
    axes, shape = node.params[0], indices[0].shape
    if shape == () or indices[0].size <= 1:
        return ew.full(updates.shape, True, dtypes.bool_)
    order = views.reshape(ew.iota(indices[0].size, dtypes.int64), shape)
    by_position = tuple(range(len(axes)))
    nobody = ew.full(tuple(x.shape[a] for a in axes), -1, dtypes.int64)
    winners = take(scatter(nobody, order, indices, by_position, "set"), indices, by_position)
    here = views.reshape(ew.eq(winners, order), shape + (1,) * (len(updates.shape) - len(shape)))
    return views.expand(here, updates.shape)


take_primitive = Take()
scatter_primitive = Scatter()


def take(x: Node, indices: Sequence[Node], axes: Sequence[int]) -> Node:
    return apply(take_primitive, (x, *indices), (tuple(axes),))


def scatter(x: Node, updates: Node, indices: Sequence[Node], axes: Sequence[int], mode: str) -> Node:
    return apply(scatter_primitive, (x, updates, *indices), (tuple(axes), mode))


class _ArgSort(Opaque):
    """The int64 positions that sort the last axis, stable, NaN last when ascending. params: (descending,)."""

    name = "argsort"
    differentiable = False

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, dtypes.int64

    def lower(self, context: Any, node: Node) -> None:
        context.argsort(node)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return argsort(inputs[0], node.params[0])


class _Scan(Opaque):
    """Running fold along the last axis. params: (combine,): sum, prod, max, min, logsumexp, or positions as int64:
    argmax, argmin (the last position of a tie, as torch.cummax)."""

    name = "scan"
    partwise = True
    holomorphic = True

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        return params[0] in ("sum", "prod")

    def parts(self, node: Node, inputs: Sequence[Node | Parts]) -> Node | Parts:
        if node.params[0] == "sum":
            return super().parts(node, inputs)
        # Products of 2, 4, 8, … numbers up to each position.
        (x,) = inputs
        assert isinstance(x, Parts)
        n, step, last = node.shape[-1], 1, len(node.shape) - 1
        while step < n:
            low, high = (*(0,) * last, step), (*(0,) * last, -step)
            before = Parts(views.pad(x.real, low, high, 1), views.pad(x.imag, low, high, 0))
            x = complex.product(before, x)
            step *= 2
        return x

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        dtype = dtypes.int64 if params[0].startswith("arg") else inputs[0].dtype
        return inputs[0].shape, dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        (combine,) = node.params
        x = node.inputs[0]
        last = len(x.shape) - 1

        def reversed_sum(v: Node) -> Node:
            return views.flip(scan(views.flip(v, (last,)), "sum"), (last,))

        if combine == "sum":
            return (reversed_sum(g),)
        if combine in ("max", "min"):
            positions = scan(x, "arg" + combine)
            return (_scatter_last(ew.like(x, 0), g, positions),)
        if combine == "prod":
            if grad_mode.enabled:
                return (_differentiable_product_gradient(g, x),)
            return (_cumulative_product_gradient(g, node, x, reversed_sum),)
        if combine == "logsumexp":
            return (_log_sum_gradient(g, node, x),)
        return (None,)

    def lower(self, context: Any, node: Node) -> None:
        context.scan(node)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return scan(inputs[0], node.params[0])


def _cumulative_product_gradient(g: Node, y: Node, x: Node, reversed_sum: Any) -> Node:
    """Σ_{j ≥ i} g_j · (Π_{k ≤ j} x_k without x_i), also where the row holds zeros.

    Before the first zero the usual y/x form holds. At the first zero z, the others' products are those of the row
    with x_z replaced by one. Behind the first zero every product contains it, and the gradient is zero.
    """
    zero = ew.eq(x, ew.like(x, 0))
    count = scan(ew.cast(zero, dtypes.int64), "sum")
    first = ew.and_(zero, ew.eq(count, ew.like(count, 1)))
    before = ew.eq(count, ew.like(count, 0))
    safe = ew.where(zero, ew.like(x, 1), x)
    plain = ew.div(reversed_sum(ew.mul(g, y)), safe)
    replaced = scan(ew.where(first, ew.like(x, 1), x), "prod")
    at_zero = reversed_sum(ew.mul(g, replaced))
    return ew.where(before, plain, ew.where(first, at_zero, ew.like(x, 0)))


def _differentiable_product_gradient(g: Node, x: Node) -> Node:
    """The same in a form that has derivatives of its own also at zeros: n² products for a row of n.

    Σ_j g_j Π_{k<i} x_k Π_{i<k≤j} x_k, the products behind i as running products of rows that hold 1 up to i.
    """
    n = x.shape[-1]
    last = len(x.shape)
    ones = ew.like(views.slice_(x, (0,) * last, (*x.shape[:-1], min(n, 1))), 1)
    before = views.concatenate([ones, views.slice_(scan(x, "prod"), (0,) * last, (*x.shape[:-1], max(n - 1, 0)))],
                               last - 1)  # fmt: skip
    wide = (*x.shape, n)
    row = views.expand(views.reshape(ew.iota(n, dtypes.int64), (n, 1)), wide)
    column = views.expand(ew.iota(n, dtypes.int64), wide)
    factors = views.expand(views.reshape(x, (*x.shape[:-1], 1, n)), wide)
    products = scan(ew.where(ew.gt(column, row), factors, ew.like(factors, 1)), "prod")
    weights = views.expand(views.reshape(g, (*x.shape[:-1], 1, n)), wide)
    kept = ew.where(ew.ge(column, row), ew.mul(weights, products), ew.like(weights, 0))
    return ew.mul(before, reduce("sum", kept, (last,)))


def _log_sum_gradient(g: Node, y: Node, x: Node) -> Node:
    """Σ_{j ≥ i} g_j exp(x_i − y_j), summed in logarithms, the positive weights apart from the negative ones."""
    axis = len(x.shape) - 1

    def side(weight: Node) -> Node:
        some = ew.gt(weight, ew.like(weight, 0))
        safe = ew.where(some, weight, ew.like(weight, 1))
        terms = ew.where(some, ew.sub(ew.log(safe), y), ew.like(weight, -math.inf))
        total = views.flip(scan(views.flip(terms, (axis,)), "logsumexp"), (axis,))
        return ew.unary("exp", ew.add(total, x))

    return ew.sub(side(g), side(ew.neg(g)))


def _grid(shape: Shape, last: Node) -> list[Node]:
    """Indices for every axis: positions for the leading ones, `last` for the last."""
    result = []
    for d, s in enumerate(shape[:-1]):
        column = views.reshape(ew.iota(s, dtypes.int64), (s,) + (1,) * (len(shape) - d - 1))
        result.append(views.expand(column, shape))
    return [*result, last]


def take_last(x: Node, positions: Node) -> Node:
    """x[..., positions] row by row: torch.gather along the last axis."""
    return take(x, _grid(positions.shape, positions), tuple(range(len(x.shape))))


def _scatter_last(x: Node, updates: Node, positions: Node) -> Node:
    return scatter(x, updates, _grid(positions.shape, positions), tuple(range(len(x.shape))), "add")


argsort_primitive = _ArgSort()
scan_primitive = _Scan()


def argsort(x: Node, descending: bool = False) -> Node:
    return apply(argsort_primitive, (x,), (descending,))


def scan(x: Node, combine: str) -> Node:
    return apply(scan_primitive, (x,), (combine,))
