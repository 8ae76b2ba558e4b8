"""Linear maps and look-ups."""

from __future__ import annotations

from firepot import ops
from firepot.tensor import Tensor

__all__ = ["bilinear", "cosine_similarity", "embedding", "linear", "normalize", "pairwise_distance"]


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


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x₁ᵀ W x₂ + b: (*, in1), (*, in2), (out, in1, in2) -> (*, out)."""
    result = ops.einsum("...i,oij,...j->...o", input1, weight, input2)
    return result if bias is None else result + bias


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """Rows of `weight` (V, D) by integer `input` (*): (*, D). Rows at padding_idx collect no gradient.

    IndexError, when the value is needed, for an index outside 0 … V − 1. max_norm, scale_grad_by_freq and sparse
    gradients are refused.

    >>> F.embedding(fp.tensor([2, 0]), fp.eye(3))
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotImplementedError("embedding: max_norm, scale_grad_by_freq and sparse are not supported")
    if input.dtype.kind not in "iu":
        raise RuntimeError(f"embedding: the indices must be integers, got {input.dtype.name}")
    rows = ops.gather_rows(weight, input)
    if padding_idx is None:
        return rows
    padding = padding_idx % weight.shape[0]
    return ops.where((input == padding).unsqueeze(-1), rows.detach(), rows)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x divided by its p-norm along `dim`, which counts as at least eps.

    >>> F.normalize(fp.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    return input / ops.clamp(ops.norm(input, p, dim, keepdim=True), min=eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along a dimension."""
    product = ops.sum(x1 * x2, dim)
    return product / (ops.clamp(ops.norm(x1, 2, dim), min=eps) * ops.clamp(ops.norm(x2, 2, dim), min=eps))


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 − x2 + eps along the last dimension."""
    return ops.norm(x1 - x2 + eps, p, -1, keepdim=keepdim)
