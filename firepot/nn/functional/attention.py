"""Attention. Vaswani et al., Attention is all you need (2017)."""

from __future__ import annotations

from firepot import ops
from firepot.nn.functional.dropout import dropout
from firepot.tensor import Tensor

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """softmax(scale · query keyᵀ + mask) value, computed in tiles: the scores are never stored.

    query (*, L, E), key (*, S, E), value (*, S, V) -> (*, L, V). attn_mask: bool (True takes part) or floating (added),
    broadcast to (*, L, S). is_causal: position i sees 0 … i. scale defaults to 1/√E. enable_gqa: key and value have
    fewer heads (dimension −3), each serving a group of query heads. Vaswani et al. (2017); Dao et al., FlashAttention
    (2022).

    >>> q = k = v = fp.randn(2, 4, 10, 8)
    >>> F.scaled_dot_product_attention(q, k, v, is_causal=True).shape
    (2, 4, 10, 8)
    """
    if query.ndim < 2 or query.ndim != key.ndim or key.ndim != value.ndim:
        raise RuntimeError(
            f"scaled_dot_product_attention: expected tensors of equal dimensions, 2 or more, got {list(query.shape)}, "
            f"{list(key.shape)} and {list(value.shape)}"
        )
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise RuntimeError(
            f"scaled_dot_product_attention: query {list(query.shape)}, key {list(key.shape)} and value "
            f"{list(value.shape)} do not fit: query and key need one last size, key and value one length"
        )
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        groups = query.shape[-3] // key.shape[-3]
        key, value = ops.repeat_interleave(key, groups, -3), ops.repeat_interleave(value, groups, -3)
    if dropout_p == 0.0:
        return ops.scaled_dot_product_attention(query, key, value, attn_mask, is_causal, scale)
    probabilities = dropout(ops.attention_probabilities(query, key, attn_mask, is_causal, scale), dropout_p)
    return ops.matmul(probabilities, value)
