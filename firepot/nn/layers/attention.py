"""Multi-head attention and transformer blocks. Vaswani et al., Attention is all you need (2017)."""

from __future__ import annotations

import copy
from typing import Any

from firepot import ops
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.nn import functional as F
from firepot.nn import init
from firepot.nn.containers import ModuleList
from firepot.nn.layers.linear import Dropout, Linear
from firepot.nn.layers.normalisation import LayerNorm
from firepot.nn.module import Module, Parameter
from firepot.tensor import Tensor

__all__ = [
    "MultiheadAttention", "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
    "TransformerEncoderLayer",
]  # fmt: skip


class MultiheadAttention(Module):
    """Attention of `num_heads` heads, each of embed_dim / num_heads columns, between projections. Vaswani et al.
    (2017).

    query (L, N, E), key (S, N, kdim), value (S, N, vdim); with batch_first (N, L, E) …; or all without N. Returns
    (output shaped as the query, weights (N, L, S) averaged over the heads, or None with need_weights=False, which is
    faster and never stores them). Masks: bool, True for what is left out, or floating and added; attn_mask (L, S) or (N
    · heads, L, S), key_padding_mask (N, S). ValueError where num_heads does not divide embed_dim.

    State: in_proj_weight (3E, E) or q/k/v_proj_weight, in_proj_bias, out_proj.weight, out_proj.bias.

    >>> attention = nn.MultiheadAttention(32, 4, batch_first=True)
    >>> x = fp.randn(2, 10, 32)
    >>> output, weights = attention(x, x, x)
    >>> output.shape, weights.shape
    ((2, 10, 32), (2, 10, 10))
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
        add_zero_attn: bool = False, kdim: int | None = None, vdim: int | None = None, batch_first: bool = False,
        device: Any = None, dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: embed_dim {embed_dim} must be divisible by num_heads {num_heads}")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.head_dim = embed_dim // num_heads
        self._joint = self.kdim == embed_dim and self.vdim == embed_dim
        if self._joint:
            self.in_proj_weight = Parameter(ops.zeros(3 * embed_dim, embed_dim, dtype=dtype))
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.q_proj_weight = Parameter(ops.zeros(embed_dim, embed_dim, dtype=dtype))
            self.k_proj_weight = Parameter(ops.zeros(embed_dim, self.kdim, dtype=dtype))
            self.v_proj_weight = Parameter(ops.zeros(embed_dim, self.vdim, dtype=dtype))
            self.register_parameter("in_proj_weight", None)
        self.in_proj_bias = Parameter(ops.zeros(3 * embed_dim, dtype=dtype)) if bias else None
        self.add_zero_attn = add_zero_attn
        self.bias_k = Parameter(ops.zeros(1, 1, embed_dim, dtype=dtype)) if add_bias_kv else None
        self.bias_v = Parameter(ops.zeros(1, 1, embed_dim, dtype=dtype)) if add_bias_kv else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype)
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for row in (self.bias_k, self.bias_v):
            if row is not None:
                init.xavier_normal_(row)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        biases = [None] * 3 if self.in_proj_bias is None else ops.chunk(self.in_proj_bias, 3)
        if self._joint and query is key and key is value:
            return list(ops.chunk(F.linear(query, self.in_proj_weight, self.in_proj_bias), 3, -1))
        if self._joint:
            weights = list(ops.chunk(self.in_proj_weight, 3))
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Masks as PyTorch's: bool with True for what is left out, or floating and added."""
        batched = query.ndim == 3
        if self.bias_k is not None or self.add_zero_attn:
            return self._with_more_keys(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if not batched:
            same = query is key and key is value
            query, key, value = (query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0))
            if same:
                key = value = query
        elif not self.batch_first:
            if query is key and key is value:
                query = key = value = query.transpose(0, 1)
            else:
                query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        n, length, _ = query.shape
        source = key.shape[1]

        def heads(x: Tensor) -> Tensor:
            return x.reshape(n, -1, self.num_heads, self.head_dim).transpose(1, 2)

        q, k, v = (heads(x) for x in self._projected(query, key, value))
        mask = self._mask(attn_mask, key_padding_mask, n, length, source, q.dtype, is_causal and not need_weights)
        p = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            weights = ops.attention_probabilities(q, k, mask)
            attended = ops.matmul(F.dropout(weights, p), v)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            causal = is_causal and key_padding_mask is None
            attended = F.scaled_dot_product_attention(q, k, v, None if causal else mask, p, causal)
        output = self.out_proj(attended.transpose(1, 2).reshape(n, length, self.embed_dim))
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return (output if self.batch_first else output.transpose(0, 1)), weights

    def _with_more_keys(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None, need_weights: bool,
        attn_mask: Tensor | None, average_attn_weights: bool, is_causal: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """add_bias_kv and add_zero_attn, by the function that has them."""
        turned = self.batch_first and query.ndim == 3
        if turned:
            same = query is key and key is value
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
            if same:
                key = value = query
        output, weights = F.multi_head_attention_forward(
            query, key, value, self.embed_dim, self.num_heads, self.in_proj_weight, self.in_proj_bias, self.bias_k,
            self.bias_v, self.add_zero_attn, self.dropout, self.out_proj.weight, self.out_proj.bias, self.training,
            key_padding_mask, need_weights, attn_mask, not self._joint, self.q_proj_weight, self.k_proj_weight,
            self.v_proj_weight, average_attn_weights=average_attn_weights, is_causal=is_causal,
        )  # fmt: skip
        return (output.transpose(0, 1) if turned else output), weights

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, n: int, length: int, source: int, dtype: DType,
        causal: bool,
    ) -> Tensor | None:  # fmt: skip
        """One mask to add, or None."""

        def added(mask: Tensor) -> Tensor:
            return ops.where(mask, float("-inf"), ops.zeros((), dtype=dtype)) if mask.dtype is dtypes.bool_ else mask

        if causal and padding is None:
            return None
        result = None
        if attn_mask is not None:
            result = added(attn_mask)
            if result.ndim == 3:
                result = result.reshape(n, self.num_heads, length, source)
        elif causal:
            result = added(ops.triu(ops.ones(length, source, dtype=dtypes.bool_), 1))
        if padding is not None:
            columns = added(padding).reshape(n, 1, 1, source)
            result = columns if result is None else result + columns
        return result


class TransformerEncoderLayer(Module):
    """Self-attention and a feed-forward network, each with dropout, a shortcut and layer normalisation.

    (L, N, d_model), with batch_first (N, L, d_model) -> the same shape. norm_first normalises before each part instead
    of after the shortcut. activation: 'relu', 'gelu' or a function. Vaswani et al., Attention is all you need (2017).

    >>> nn.TransformerEncoderLayer(32, 4, batch_first=True)(fp.randn(2, 10, 32)).shape
    (2, 10, 32)
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = F.relu,
        layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        device: Any = None, dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.activation = _activation(activation)

    def forward(
        self, src: Tensor, src_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        def attend(x: Tensor) -> Tensor:
            y, _ = self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)
            return self.dropout1(y)

        def feed_forward(x: Tensor) -> Tensor:
            return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        if self.norm_first:
            x = src + attend(self.norm1(src))
            return x + feed_forward(self.norm2(x))
        x = self.norm1(src + attend(src))
        return self.norm2(x + feed_forward(x))


class TransformerDecoderLayer(Module):
    """Self-attention, attention to a memory, and a feed-forward network."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = F.relu,
        layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        device: Any = None, dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.norm_first = norm_first
        for i in (1, 2, 3):
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype))
            setattr(self, f"dropout{i}", Dropout(dropout))
        self.activation = _activation(activation)

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None, memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None, memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        def own(x: Tensor) -> Tensor:
            y, _ = self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal)
            return self.dropout1(y)

        def other(x: Tensor) -> Tensor:
            y, _ = self.multihead_attn(
                x, memory, memory, memory_key_padding_mask, False, memory_mask, is_causal=memory_is_causal
            )
            return self.dropout2(y)

        def feed_forward(x: Tensor) -> Tensor:
            return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        x = tgt
        for part, norm in ((own, self.norm1), (other, self.norm2), (feed_forward, self.norm3)):
            x = x + part(norm(x)) if self.norm_first else norm(x + part(x))
        return x


def _activation(activation: Any) -> Any:
    if isinstance(activation, str):
        if activation not in ("relu", "gelu"):
            raise RuntimeError(f"activation should be relu/gelu, not {activation}")
        return F.relu if activation == "relu" else F.gelu
    return activation


class TransformerEncoder(Module):
    """num_layers copies of an encoder layer, one after another, and `norm` at the end if one is given.

    >>> layer = nn.TransformerEncoderLayer(32, 4, batch_first=True)
    >>> nn.TransformerEncoder(layer, num_layers=2)(fp.randn(2, 10, 32)).shape
    (2, 10, 32)
    """

    def __init__(
        self, encoder_layer: Module, num_layers: int, norm: Module | None = None, enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:  # fmt: skip
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=bool(is_causal))
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """Copies of a decoder layer, one after another."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(decoder_layer) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm

    def forward(self, tgt: Tensor, memory: Tensor, **masks: Any) -> Tensor:
        for layer in self.layers:
            tgt = layer(tgt, memory, **masks)
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """An encoder of the source and a decoder of the target, each of several layers and a final normalisation."""

    def __init__(
        self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
        dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = F.relu, custom_encoder: Any = None,
        custom_decoder: Any = None, layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False,
        bias: bool = True, device: Any = None, dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        settings: Any = (
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device,
            dtype,
        )  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)

        self.encoder = custom_encoder if custom_encoder is not None else TransformerEncoder(
            TransformerEncoderLayer(*settings), num_encoder_layers, norm()
        )  # fmt: skip
        self.decoder = custom_decoder if custom_decoder is not None else TransformerDecoder(
            TransformerDecoderLayer(*settings), num_decoder_layers, norm()
        )  # fmt: skip
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def forward(
        self, src: Tensor, tgt: Tensor, src_mask: Tensor | None = None, tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None, memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None, tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise RuntimeError(
                f"Transformer: the last sizes of src {list(src.shape)} and tgt {list(tgt.shape)} must be {self.d_model}"
            )
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        result: Tensor = self.decoder(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=bool(tgt_is_causal),
            memory_is_causal=memory_is_causal,
        )  # fmt: skip
        return result

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: DType | None = None) -> Tensor:
        """(sz, sz): −∞ above the diagonal, 0 elsewhere: each position sees itself and what came before."""
        return ops.triu(ops.full((sz, sz), float("-inf"), dtype=dtype), 1)
