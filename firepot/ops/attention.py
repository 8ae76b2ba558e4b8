"""Attention, with a kernel that never stores the scores where that pays."""

from __future__ import annotations

import math

from firepot.graph import dtypes
from firepot.graph.node import Node
from firepot.graph.primitives import attention as at
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.ops.broadcast import broadcast_shapes
from firepot.tensor import Tensor, wrap

_FEW = 8  # with fewer queries the scores are no larger than the keys, and plain products are faster


def _four(x: Node, batch: tuple[int, ...]) -> Node:
    """(*batch, L, E) as (B, H, L, E), after broadcasting."""
    x = views.expand(x, (*batch, *x.shape[-2:]))
    if len(batch) == 2:
        return x
    leading = (math.prod(batch[:-1]), batch[-1]) if batch else (1, 1)
    return views.reshape(x, (*leading, *x.shape[-2:]))


def _prepared(
    query: Tensor, key: Tensor, attn_mask: Tensor | None, is_causal: bool, others: tuple[Tensor, ...] = ()
) -> tuple[tuple[int, ...], list[Node], Node | None]:
    """(batch shape, query, key and others as (B, H, L, E), the mask to add as (B, H, L, S) or None)."""
    if is_causal and attn_mask is not None:
        raise RuntimeError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    for x in (key, *others):
        if x.dtype is not query.dtype:
            raise RuntimeError(
                f"scaled_dot_product_attention: query, key and value need one dtype, got {query.dtype.name} and "
                f"{x.dtype.name}"
            )
    if query.dtype.kind != "f":
        raise RuntimeError(f"scaled_dot_product_attention: expected floating tensors, got {query.dtype.name}")
    given = (query, key, *others)
    batch = broadcast_shapes(*(x.shape[:-2] for x in given), what="scaled_dot_product_attention")
    nodes = [_four(x._node, batch) for x in given]
    if attn_mask is None:
        return batch, nodes, None
    mask = attn_mask._node
    if mask.dtype is dtypes.bool_:
        zero = ew.full(mask.shape, 0, query.dtype)
        mask = ew.where(mask, zero, ew.like(zero, -math.inf))
    scores = (*batch, query.shape[-2], key.shape[-2])
    if broadcast_shapes(mask.shape, scores, what="scaled_dot_product_attention (mask)") != scores:
        raise RuntimeError(
            f"scaled_dot_product_attention: attn_mask {list(mask.shape)} does not broadcast to the scores {list(scores)}"
        )
    return batch, nodes, _four(views.expand(ew.cast(mask, query.dtype), scores), batch)


def attention_probabilities(
    query: Tensor, key: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """softmax(scale · query keyᵀ + mask): (*, L, E), (*, S, E) -> (*, L, S); scale defaults to 1/√E."""
    batch, (q, k), mask = _prepared(query, key, attn_mask, is_causal)
    weights = at.probabilities(q, k, mask, _scale(query, scale), is_causal)
    return wrap(views.reshape(weights, (*batch, query.shape[-2], key.shape[-2])))


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """softmax(scale · query keyᵀ + mask) value over the last two dimensions; scale defaults to 1/√E."""
    batch, (q, k, v), mask = _prepared(query, key, attn_mask, is_causal, (value,))
    shape = (*batch, query.shape[-2], value.shape[-1])
    factor = _scale(query, scale)
    masked_with_gradient = mask is not None and mask.requires_grad
    has_kernel = query.dtype in (dtypes.float32, dtypes.float64) and 0 not in (*q.shape, *k.shape, *v.shape)
    if has_kernel and not masked_with_gradient and query.shape[-2] >= _FEW:
        return wrap(views.reshape(at.attention(q, k, v, mask, factor, is_causal), shape))
    weights = at.probabilities(q, k, mask, factor, is_causal)
    return wrap(views.reshape(at.weighted(weights, v), shape))


def _scale(query: Tensor, scale: float | None) -> float:
    if scale is not None:
        return float(scale)
    return 1 / math.sqrt(query.shape[-1]) if query.shape[-1] else 1.0
