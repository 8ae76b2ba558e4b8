"""Centring and scaling by the statistics of a value itself: the core of batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Composite, Node, Shape, apply
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives.reduce import reduce, restore


class _Standardise(Composite):
    """(x − mean) · weight / √(variance + ε), statistics over some axes. inputs: x, weight of the kept axes' shape.

    params: (axes, count, ε), count elements being folded. The composition would be differentiated through the mean
    inside the variance, a path whose contribution is zero, and would sum over x twice more.
    """

    name = "standardise"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, inputs[0].dtype

    def expand(self, inputs: tuple[Node, ...], node: Node) -> Node:
        x, weight = inputs
        axes, count, epsilon = node.params
        centred, inverse = _statistics(x, axes, count, epsilon)
        return ew.mul(centred, restore(ew.mul(inverse, weight), x.shape, axes))

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        x, weight = node.inputs
        axes, count, epsilon = node.params
        centred, inverse = _statistics(x, axes, count, epsilon)
        total = reduce("sum", g, axes)
        along = ew.mul(reduce("sum", ew.mul(g, centred), axes), inverse)
        # g less its mean and less its component along the standardised value.
        scale = ew.mul(inverse, weight)
        mean = ew.mul(total, ew.like(total, -1 / count))
        slope = ew.mul(ew.mul(along, inverse), ew.like(along, -1 / count))
        rest = ew.add(g, ew.add(ew.mul(centred, restore(slope, x.shape, axes)), restore(mean, x.shape, axes)))
        return ew.mul(rest, restore(scale, x.shape, axes)), along

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        axes, count, epsilon = node.params
        return apply(self, batching.spread(inputs, batched), (tuple(d + 1 for d in axes), count, epsilon))


def _statistics(x: Node, axes: tuple[int, ...], count: int, epsilon: float) -> tuple[Node, Node]:
    """(x less its mean, one over the standard deviation), the nodes that `var_mean` makes."""
    total = reduce("sum", x, axes)
    average = ew.div(total, ew.like(total, count))
    centred = ew.sub(x, restore(average, x.shape, axes))
    squares = reduce("sum", ew.square(centred), axes)
    variance = ew.div(squares, ew.like(squares, float(count)))
    return centred, ew.unary("rsqrt", ew.add(variance, ew.like(variance, epsilon)))


standardise_primitive = _Standardise()


def standardise(x: Node, weight: Node, axes: Sequence[int], epsilon: float) -> Node:
    """x (any shape, floating point, at least one element folded) centred and scaled over `axes`, times `weight`."""
    count = 1
    for d in axes:
        count *= x.shape[d]
    return apply(standardise_primitive, (x, weight), (tuple(sorted(axes)), count, float(epsilon)))
