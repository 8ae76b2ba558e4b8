"""Attention that never stores the score matrix: softmax(scale · Q Kᵀ + mask) V and its derivative.

Vaswani et al., Attention is all you need (2017); recomputing the scores in the derivative after Dao et al.,
FlashAttention (2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Node, Opaque, Shape, apply, detach, grad_mode
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.contract import contract
from firepot.graph.primitives.reduce import reduce

Gradients = Sequence[Node | None]


class Attention(Opaque):
    """inputs: query (B, H, T, D), key (B, H, S, D), value (B, H, S, E) and maybe a mask (B, H, T, S) that is added.

    Result (B, H, T, E). params: (scale, causal); causal lets query t see the keys 0 … t. A query that sees no key
    gives zeros. The mask has no derivative here.
    """

    name = "attention"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return (*inputs[0].shape[:3], inputs[2].shape[3]), inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        rest = [None] * (len(node.inputs) - 3)
        if grad_mode.enabled:  # out of primitives that can be differentiated again
            return [*_gradients(g, node), *rest]
        given = (*node.inputs, g)
        return [*(apply(attention_gradient, given, (*node.params, which)) for which in range(3)), *rest]

    def lower(self, context: Any, node: Node) -> None:
        context.attention(node)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return _batched(self, node, inputs, batched, batching)


class AttentionGradient(Opaque):
    """The gradient of one input of attention. inputs: attention's, then the gradient of its result.

    params: (scale, causal, which), which = 0 the query's, 1 the key's, 2 the value's. The compiler makes those of
    one attention with one kernel.
    """

    name = "attention_gradient"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[params[2]].shape, inputs[0].dtype

    def lower(self, context: Any, node: Node) -> None:
        context.attention_gradient(node)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return _batched(self, node, inputs, batched, batching)


def _batched(
    primitive: Opaque, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching
) -> Node:
    """The examples as part of the batch that attention has anyway."""
    joined = [
        views.reshape(i, (i.shape[0] * i.shape[1], *i.shape[2:])) for i in batching.spread(inputs, batched)
    ]
    return views.reshape(apply(primitive, tuple(joined), node.params), (batching.size, *node.shape))


attention_primitive = Attention()
attention_gradient = AttentionGradient()


def attention(query: Node, key: Node, value: Node, mask: Node | None, scale: float, causal: bool) -> Node:
    inputs = (query, key, value) if mask is None else (query, key, value, mask)
    return apply(attention_primitive, inputs, (scale, causal))


def probabilities(query: Node, key: Node, mask: Node | None, scale: float, causal: bool) -> Node:
    """softmax(scale · Q Kᵀ + mask), (B, H, T, S), out of smaller primitives; rows that see no key are zeros."""
    scores = _product(ew.mul(query, ew.like(query, scale)), _transposed(key))
    length, source = scores.shape[2:]
    if causal:
        kept = ew.ge(_positions(length, source, 0), _positions(length, source, 1))
        scores = ew.where(views.expand(kept, scores.shape), scores, ew.like(scores, -math.inf))
    if mask is not None:
        scores = ew.add(scores, mask)
    # The largest score only shifts the others: it has no part in the derivative. Nothing is shifted by -inf.
    highest = _along(reduce("max", scores, (3,)), scores)
    highest = ew.where(ew.eq(highest, ew.like(highest, -math.inf)), ew.like(highest, 0), highest)
    weights = ew.unary("exp", ew.sub(scores, detach(highest)))
    total = reduce("sum", weights, (3,))
    total = ew.where(ew.eq(total, ew.like(total, 0)), ew.like(total, 1), total)
    return ew.div(weights, _along(total, scores))


def weighted(weights: Node, value: Node) -> Node:
    """(B, H, T, S), (B, H, S, E) -> (B, H, T, E)."""
    return _product(weights, value)


def _gradients(g: Node, node: Node) -> Gradients:
    query, key, value, *masks = node.inputs
    scale, causal = node.params
    weights = probabilities(query, key, masks[0] if masks else None, scale, causal)
    weight_gradient = _product(g, _transposed(value))
    shared = reduce("sum", ew.mul(weights, weight_gradient), (3,))
    score_gradient = ew.mul(weights, ew.sub(weight_gradient, _along(shared, weights)))
    score_gradient = ew.mul(score_gradient, ew.like(score_gradient, scale))
    return (
        _product(score_gradient, key),
        _product(_transposed(score_gradient), query),
        _product(_transposed(weights), g),
    )


def _transposed(x: Node) -> Node:
    return views.permute(x, (0, 1, 3, 2))


def _product(x: Node, y: Node) -> Node:
    b, h, m, k = x.shape
    out = contract(views.reshape(x, (b * h, m, k)), views.reshape(y, (b * h, *y.shape[2:])))
    return views.reshape(out, (b, h, m, y.shape[3]))


def _along(x: Node, like: Node) -> Node:
    return views.expand(views.reshape(x, (*like.shape[:3], 1)), like.shape)


def _positions(length: int, source: int, axis: int) -> Node:
    numbers = ew.iota((length, source)[axis], dtypes.int64)
    shape = (length, 1) if axis == 0 else (1, source)
    return views.expand(views.reshape(numbers, shape), (length, source))
