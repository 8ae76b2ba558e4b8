"""Linear maps and look-ups."""

from __future__ import annotations

from typing import Any

from firepot import ops
from firepot.autocast_mode import autocasts
from firepot.autograd import Function
from firepot.grad_mode import no_grad
from firepot.graph import dtypes
from firepot.ops import pdist as pdist
from firepot.tensor import Tensor

__all__ = [
    "bilinear", "cosine_similarity", "embedding", "embedding_bag", "linear", "normalize", "pairwise_distance", "pdist",
]  # fmt: skip


@autocasts
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input weightᵀ + bias: (*, in), (out, in), (out,) -> (*, out). RuntimeError where the sizes do not fit.

    >>> F.linear(fp.ones(2, 3), fp.ones(4, 3), fp.zeros(4)).shape
    (2, 4)
    """
    if weight.ndim not in (1, 2) or not input.ndim or input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(
            f"linear: input {list(input.shape)} and weight {list(weight.shape)} do not fit; the input's last size "
            f"must be the weight's last size {weight.shape[-1] if weight.ndim else '(the weight is 0-d)'}"
        )
    result = ops.matmul(input, weight.t() if weight.ndim == 2 else weight)
    return result if bias is None else result + bias


@autocasts
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x₁ᵀ W x₂ + b: (*, in1), (*, in2), (out, in1, in2) -> (*, out)."""
    result = ops.einsum("...i,oij,...j->...o", input1, weight, input2)
    return result if bias is None else result + bias


class _ByFrequency(Function):
    """Rows of a table, whose gradients are divided by how often each row was taken."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = weight.shape[0]
        return ops.gather_rows(weight, index)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        flat = index.reshape(-1)
        counts = ops.scatter_add(ops.zeros(ctx.size, dtype=g.dtype), 0, flat, ops.ones_like(flat, dtype=g.dtype))
        rows = g.reshape(flat.numel(), g.shape[-1]) / counts[flat].unsqueeze(-1)
        return ops.index_add(ops.zeros(ctx.size, g.shape[-1], dtype=g.dtype), 0, flat, rows), None


def _renormed(weight: Tensor, index: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows that are taken down to max_norm, in place."""
    with no_grad():
        flat = index.detach().reshape(-1)
        touched = ops.index_fill(ops.zeros(weight.shape[0], dtype=dtypes.bool_), 0, flat, True).unsqueeze(1)
        norms = ops.norm(weight.detach(), norm_type, 1, keepdim=True)
        factor = ops.where(ops.logical_and(touched, norms > max_norm), max_norm / (norms + 1e-7), 1.0)
        weight.copy_(weight.detach() * factor.to(weight.dtype))


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """Rows of `weight` (V, D) by integer `input` (*): (*, D). Rows at padding_idx collect no gradient.

    max_norm: rows that are taken are first scaled down to it, in the table. scale_grad_by_freq: gradients are divided
    by how often a row is taken. `sparse` is accepted: gradients are dense. IndexError, when the value is needed, for an
    index outside 0 … V − 1.

    >>> F.embedding(fp.tensor([2, 0]), fp.eye(3))
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    if input.dtype.kind not in "iu":
        raise RuntimeError(f"embedding: the indices must be integers, got {input.dtype.name}")
    if weight.ndim != 2:
        raise RuntimeError(f"embedding: 'weight' must be 2-D, got shape {list(weight.shape)}")
    if padding_idx is not None and not -weight.shape[0] <= padding_idx < weight.shape[0]:
        raise RuntimeError(f"embedding: padding_idx {padding_idx} must be within the {weight.shape[0]} rows")
    if max_norm is not None:
        _renormed(weight, input, max_norm, norm_type)
    rows: Tensor = _ByFrequency.apply(weight, input) if scale_grad_by_freq else ops.gather_rows(weight, input)
    if padding_idx is None:
        return rows
    padding = padding_idx % weight.shape[0]
    return ops.where((input == padding).unsqueeze(-1), rows.detach(), rows)


def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None, norm_type: float = 2,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Tensor | None = None, include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """Sums, means or maxima of rows of `weight` (V, D) over bags of indices: (B, N), or (N,) with offsets (B,).

    offsets: where each bag begins. per_sample_weights: a factor for each index, with mode "sum". Indices equal to
    padding_idx count for nothing; an empty bag gives zeros.
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: mode has to be one of sum, mean or max, not {mode!r}")
    if per_sample_weights is not None:
        if mode != "sum":
            raise NotImplementedError(f"embedding_bag: per_sample_weights was given with mode={mode!r}; only 'sum' takes it")
        if per_sample_weights.shape != input.shape:
            raise ValueError(
                f"embedding_bag: expected per_sample_weights of shape {list(input.shape)}, got "
                f"{list(per_sample_weights.shape)}"
            )
    if input.ndim == 2:
        if offsets is not None:
            raise ValueError("embedding_bag: if input is 2D, then offsets has to be None")
        count = input.shape[0]
        bags = ops.repeat_interleave(ops.arange(count), input.shape[1])
        input = input.reshape(-1)
        per_sample_weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
    elif input.ndim == 1:
        if offsets is None or offsets.ndim != 1:
            raise ValueError("embedding_bag: a 1-D input needs 1-D offsets")
        starts = offsets[:-1] if include_last_offset else offsets
        count = starts.shape[0]
        place = ops.arange(input.shape[0])
        # The bag of a place is the last one that has begun.
        bags = (starts.to(dtypes.int64) <= place.unsqueeze(1)).sum(1) - 1
    else:
        raise ValueError(f"embedding_bag: input has to be 1D or 2D, got {list(input.shape)}")
    rows = embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    kept = None if padding_idx is None else input != padding_idx % weight.shape[0]
    width = weight.shape[1]
    spread = bags.unsqueeze(1).expand(input.shape[0], width)
    if mode == "max":
        start = ops.zeros(count, width, dtype=weight.dtype)
        if kept is not None:  # padding goes to a row of its own, which is cut off
            spread = ops.where(kept.unsqueeze(1), spread, count)
            start = ops.zeros(count + 1, width, dtype=weight.dtype)
        return ops.scatter_reduce(start, 0, spread, rows, "amax", include_self=False)[:count]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    if kept is not None:
        rows = ops.where(kept.unsqueeze(1), rows, 0.0)
    total = ops.index_add(ops.zeros(count, width, dtype=rows.dtype), 0, bags, rows)
    if mode == "sum":
        return total
    ones = ops.ones_like(bags, dtype=rows.dtype) if kept is None else kept.to(rows.dtype)
    sizes = ops.index_add(ops.zeros(count, dtype=rows.dtype), 0, bags, ones)
    return total / ops.clamp(sizes, min=1).unsqueeze(1)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x divided by its p-norm along `dim`, which counts as at least eps.

    >>> F.normalize(fp.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    return input / ops.clamp(ops.norm(input, p, dim, keepdim=True), min=eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along a dimension."""
    x1, x2 = ops.broadcast_tensors(x1, x2)
    product = ops.sum(x1 * x2, dim)
    return product / (ops.clamp(ops.norm(x1, 2, dim), min=eps) * ops.clamp(ops.norm(x2, 2, dim), min=eps))


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 − x2 + eps along the last dimension."""
    return ops.norm(x1 - x2 + eps, p, -1, keepdim=keepdim)
