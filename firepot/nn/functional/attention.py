"""Attention. Vaswani et al., Attention is all you need (2017)."""

from __future__ import annotations

from firepot import ops
from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.nn.functional.dropout import dropout
from firepot.nn.functional.linear import linear
from firepot.tensor import Tensor

__all__ = ["multi_head_attention_forward", "scaled_dot_product_attention"]


@autocasts
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
    if query.ndim < 2 or key.ndim < 2 or value.ndim < 2:
        raise RuntimeError(
            f"scaled_dot_product_attention: expected tensors of 2 dimensions or more, got {list(query.shape)}, "
            f"{list(key.shape)} and {list(value.shape)}"
        )
    half = query.dtype
    if half in (dtypes.float16, dtypes.bfloat16) and key.dtype is half and value.dtype is half:
        # The scores and the sums over them keep float32's digits.
        q, k, v = (x.to(dtypes.float32) for x in (query, key, value))
        mask = attn_mask if attn_mask is None or attn_mask.dtype is dtypes.bool_ else attn_mask.to(dtypes.float32)
        return scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal, scale, enable_gqa).to(half)
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


def multi_head_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float,
    out_proj_weight: Tensor, out_proj_bias: Tensor | None, training: bool = True,
    key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None, k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None, static_k: Tensor | None = None, static_v: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """What nn.MultiheadAttention computes: (output, weights or None).

    query (L, N, E), key (S, N, kdim), value (S, N, vdim), or without N. Masks are bool with True for what is left out,
    or floating and added: attn_mask (L, S) or (N·heads, L, S), key_padding_mask (N, S). bias_k and bias_v (1, 1, E)
    are one more key and value; add_zero_attn adds one of zeros; static_k and static_v (N·heads, S, head) stand for the
    projected keys and values.
    """
    what = "multi_head_attention_forward"
    batched = query.ndim == 3
    if not batched:
        if query.ndim != 2 or key.ndim != 2 or value.ndim != 2:
            raise RuntimeError(f"{what}: query should be batched 3D or unbatched 2D, got {list(query.shape)}")
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        same = query is key and key is value
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        if same:
            key = value = query
    length, n, width = query.shape
    if width != embed_dim_to_check or width % num_heads:
        raise RuntimeError(
            f"{what}: the embedding {width} must be {embed_dim_to_check} and divisible by num_heads {num_heads}"
        )
    if is_causal and attn_mask is None:
        raise RuntimeError(f"{what}: need attn_mask if specifying the is_causal hint")
    biases = [None] * 3 if in_proj_bias is None else ops.chunk(in_proj_bias, 3)
    if use_separate_proj_weight:
        weights_in = [q_proj_weight, k_proj_weight, v_proj_weight]
    else:
        if in_proj_weight is None:
            raise RuntimeError(f"{what}: use_separate_proj_weight is False but in_proj_weight is None")
        weights_in = list(ops.chunk(in_proj_weight, 3))
    if not use_separate_proj_weight and query is key and key is value:
        assert in_proj_weight is not None
        q, k, v = ops.chunk(linear(query, in_proj_weight, in_proj_bias), 3, -1)
    else:
        parts = []
        for x, w, b in zip((query, key, value), weights_in, biases, strict=True):
            if w is None:
                raise RuntimeError(f"{what}: a projection weight is missing")
            parts.append(linear(x, w, b))
        q, k, v = parts
    extra = 0
    if bias_k is not None and bias_v is not None:
        if static_k is not None or static_v is not None:
            raise RuntimeError(f"{what}: bias_k and bias_v cannot be added to static keys and values")
        k = ops.cat([k, bias_k.expand(1, n, width)], 0)
        v = ops.cat([v, bias_v.expand(1, n, width)], 0)
        extra += 1
    head = width // num_heads
    half = q.dtype if q.dtype.size == 2 else None
    if half is not None:  # the scores and the sums over them keep float32's digits
        q, k, v = (x.to(dtypes.float32) for x in (q, k, v))
        static_k, static_v = (x if x is None else x.to(dtypes.float32) for x in (static_k, static_v))

    def heads(x: Tensor) -> Tensor:  # (S, N, E) -> (N, heads, S, head)
        return x.reshape(x.shape[0], n, num_heads, head).permute(1, 2, 0, 3)

    q = heads(q)
    k = heads(k) if static_k is None else static_k.reshape(n, num_heads, -1, head)
    v = heads(v) if static_v is None else static_v.reshape(n, num_heads, -1, head)
    if add_zero_attn:
        zero = ops.zeros(n, num_heads, 1, head, dtype=k.dtype)
        k, v = ops.cat([k, zero], 2), ops.cat([v, zero], 2)
        extra += 1
    source = k.shape[2]
    mask = _added_masks(what, attn_mask, key_padding_mask, n, num_heads, length, source, extra, q.dtype)
    p = dropout_p if training else 0.0
    weights: Tensor | None = None
    if need_weights:
        weights = dropout(ops.attention_probabilities(q, k, mask), p)
        attended = ops.matmul(weights, v)
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        attended = scaled_dot_product_attention(q, k, v, mask, p)
    if half is not None:
        attended, weights = attended.to(half), None if weights is None else weights.to(half)
    output = linear(attended.permute(2, 0, 1, 3).reshape(length, n, width), out_proj_weight, out_proj_bias)
    if batched:
        return output, weights
    return output.squeeze(1), None if weights is None else weights.squeeze(0)


def _added_masks(
    what: str, attn_mask: Tensor | None, padding: Tensor | None, n: int, heads: int, length: int, source: int,
    extra: int, dtype: DType,
) -> Tensor | None:  # fmt: skip
    """One mask to add to the scores (N, heads, L, S), or None; `extra` keys at the end are never left out."""

    def added(mask: Tensor) -> Tensor:
        if mask.dtype is dtypes.bool_:
            mask = ops.where(mask, float("-inf"), ops.zeros((), dtype=dtype))
        return ops.shape.constant_pad(mask.to(dtype), [0, extra]) if extra else mask.to(dtype)

    result = None
    if attn_mask is not None:
        if attn_mask.shape not in ((length, source - extra), (n * heads, length, source - extra)):
            raise RuntimeError(
                f"{what}: expected attn_mask {[length, source - extra]} or {[n * heads, length, source - extra]}, got "
                f"{list(attn_mask.shape)}"
            )
        result = added(attn_mask)
        if result.ndim == 3:
            result = result.reshape(n, heads, length, source)
    if padding is not None:
        if padding.shape != (n, source - extra):
            raise RuntimeError(f"{what}: expected key_padding_mask {[n, source - extra]}, got {list(padding.shape)}")
        columns = added(padding).reshape(n, 1, 1, source)
        result = columns if result is None else result + columns
    return result
