"""Losses. `reduction` is "mean", "sum" or "none"; targets of classification are checked at run time."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.tensor import Tensor

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "cross_entropy",
    "gaussian_nll_loss", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "linear_cross_entropy", "margin_ranking_loss", "mse_loss",
    "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss", "nll_loss", "poisson_nll_loss",
    "smooth_l1_loss", "soft_margin_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss",
]  # fmt: skip


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return ops.mean(loss)
    if reduction == "sum":
        return ops.sum(loss)
    if reduction == "none":
        return loss
    raise ValueError(f"{reduction!r} is not a valid value for reduction: 'mean', 'sum' or 'none'")


def _same_shape(what: str, input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape:
        raise ValueError(f"{what}: target {list(target.shape)} must have the shape of the input {list(input.shape)}")


@autocasts
def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    ignore_index: int = -100, reduce: bool | None = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """−log softmax(input) of the target class.

    input: (N, C, *) or (C,) logits. target: integers (N, *), or floating (N, C, *) probabilities. weight: (C,), one for
    each class. Targets equal to ignore_index count for nothing. label_smoothing moves that share of each target to all
    classes evenly. reduction: "mean" (over the targets that count, by weight), "sum" or "none".

    ValueError where the target's shape does not fit; IndexError, when the value is needed, where a target is no class.

    >>> F.cross_entropy(fp.zeros(8, 10), fp.arange(8))
    tensor(2.3026)
    """
    axis = 0 if input.ndim == 1 else 1
    if not input.ndim:
        raise RuntimeError("cross_entropy: expected input (N, C, …) or (C,), got a 0-d tensor")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"cross_entropy: label_smoothing must be between 0 and 1, got {label_smoothing}")
    logs = ops.log_softmax(input, axis)
    if target.dtype.kind != "f":
        return _negative_log_likelihood("cross_entropy", logs, target, weight, ignore_index, reduction, label_smoothing)
    _same_shape("cross_entropy", input, target)
    classes = input.shape[axis]
    shares = target
    if label_smoothing:
        shares = target * (1 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        logs = logs * _by_class(weight, input, axis, "cross_entropy")
    loss = -ops.sum(shares * logs, axis)
    if reduction == "mean":
        return ops.sum(loss) / (input.numel() // classes)
    return _reduced(loss, reduction)


def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, linear_bias: Tensor | None = None,
    weight: Tensor | None = None, reduction: str = "mean", ignore_index: int | None = None,
    label_smoothing: float = 0.0, options: Any = None,
) -> Tensor:  # fmt: skip
    """cross_entropy(linear(input, linear_weight, linear_bias), target).

    input (N, in) or (in,), linear_weight (C, in) or (C, *D, in) for targets (N, *D). `options` say how PyTorch saves
    memory; here the compiler decides that.
    """
    if linear_weight.ndim < 2 or input.ndim not in (1, 2) or input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError(
            f"linear_cross_entropy: input {list(input.shape)} and linear_weight {list(linear_weight.shape)} do not fit"
        )
    classes = linear_weight.shape[:-1]
    if len(classes) > 1 and input.ndim != 2:
        raise RuntimeError(
            f"linear_cross_entropy: a K-dimensional loss, by linear_weight {list(linear_weight.shape)}, requires batched "
            f"input (N, {linear_weight.shape[-1]}), got {list(input.shape)}"
        )
    if linear_bias is not None and linear_bias.shape != classes:
        raise RuntimeError(
            f"linear_cross_entropy: expected linear_bias of shape {list(classes)}, got {list(linear_bias.shape)}"
        )
    flat = linear_weight.reshape(-1, linear_weight.shape[-1])
    logits = ops.matmul(input, flat.t()).reshape(*input.shape[:-1], *classes)
    if linear_bias is not None:
        logits = logits + linear_bias
    if target.dtype.kind == "f" and ignore_index is not None:
        raise RuntimeError("linear_cross_entropy: ignore_index cannot be specified when target contains probabilities")
    ignored = -100 if ignore_index is None else ignore_index
    return cross_entropy(
        logits, target, weight, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing
    )


@autocasts
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    ignore_index: int = -100, reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """−input at the target class, for log probabilities (N, C, *) and integer targets (N, *).

    weight, ignore_index, reduction and errors as cross_entropy's, which is this after log_softmax.

    >>> F.nll_loss(fp.tensor([[-1.0, -2.0]]), fp.tensor([1]))
    tensor(2.)
    """
    return _negative_log_likelihood("nll_loss", input, target, weight, ignore_index, reduction, 0.0)


def _by_class(weight: Tensor, input: Tensor, axis: int, what: str) -> Tensor:
    classes = input.shape[axis]
    if weight.shape != (classes,):
        raise RuntimeError(
            f"{what}: weight must have one number for each of {classes} classes, got {list(weight.shape)}"
        )
    return weight.reshape([-1 if d == axis else 1 for d in range(input.ndim)])


def _negative_log_likelihood(
    what: str, logs: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    axis = 0 if logs.ndim == 1 else 1
    expected = logs.shape[:axis] + logs.shape[axis + 1 :]
    if target.shape != expected:
        raise ValueError(
            f"{what}: expected a target of shape {list(expected)} for the input {list(logs.shape)}, got "
            f"{list(target.shape)}"
        )
    if target.dtype.kind not in "iu":
        raise RuntimeError(
            f"{what}: the target must hold integer classes or floating probabilities, got {target.dtype.name}"
        )
    classes = logs.shape[axis]
    target = target.to(dtypes.int64)
    kept = target != ignore_index
    # The class is found by comparison, not by a gather: so the selection fuses with the softmax, both ways.
    safe = ops.check_index(
        ops.where(kept, target, 0), classes, f"{what}: target {{index}} is out of bounds for {classes} classes"
    )
    places = ops.arange(classes).reshape([-1 if d == axis else 1 for d in range(logs.ndim)])
    hit = safe.unsqueeze(axis) == places
    factor = None if weight is None else _by_class(weight, logs, axis, what)
    weighted = logs if factor is None else logs * factor
    loss = -ops.sum(ops.where(hit, weighted, 0.0), axis)
    if smoothing:
        loss = loss * (1 - smoothing) - ops.sum(weighted, axis) * (smoothing / classes)
    loss = ops.where(kept, loss, 0.0)
    if reduction != "mean":
        return _reduced(loss, reduction)
    if factor is None:
        return ops.sum(loss) / ops.sum(kept).to(loss.dtype)
    counts = ops.sum(ops.where(ops.logical_and(hit, kept.unsqueeze(axis)), factor, 0.0))
    return ops.sum(loss) / counts


@autocasts
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """−t log p − (1 − t) log(1 − p) for probabilities p; the logarithms are at least −100, as PyTorch's.

    input, target: one shape (ValueError else). Better conditioned: binary_cross_entropy_with_logits.

    >>> F.binary_cross_entropy(fp.tensor([0.5, 1.0]), fp.tensor([1.0, 1.0]))
    tensor(0.3466)
    """
    _same_shape("binary_cross_entropy", input, target)
    loss = -(target * ops.clamp(ops.log(input), min=-100) + (1 - target) * ops.clamp(ops.log1p(-input), min=-100))
    return _reduced(loss if weight is None else loss * weight, reduction)


@autocasts
def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean", pos_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """binary_cross_entropy of sigmoid(input), without overflow.

    input, target: one shape (ValueError else). weight: of each element; pos_weight: of the positive ones; both
    broadcast.

    >>> F.binary_cross_entropy_with_logits(fp.tensor([0.0, 1000.0]), fp.tensor([1.0, 1.0]))
    tensor(0.3466)
    """
    _same_shape("binary_cross_entropy_with_logits", input, target)
    log_one_minus = ops.logsigmoid(-input)
    if pos_weight is None:
        loss = (1 - target) * input - ops.logsigmoid(input)
    else:
        loss = -(pos_weight * target * ops.logsigmoid(input) + (1 - target) * log_one_minus)
    return _reduced(loss if weight is None else loss * weight, reduction)


@autocasts
def mse_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(input − target)², broadcast; averaged, or reduction="sum" or "none".

    >>> F.mse_loss(fp.tensor([1.0, 3.0]), fp.tensor([1.0, 1.0]))
    tensor(2.)
    """
    loss = ops.square(input - target)
    return _reduced(loss if weight is None else loss * weight, reduction)


@autocasts
def l1_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """|input − target|, broadcast; averaged, or reduction="sum" or "none".

    >>> F.l1_loss(fp.tensor([1.0, 3.0]), fp.tensor([1.0, 1.0]))
    tensor(1.)
    """
    loss = ops.abs(input - target)
    return _reduced(loss if weight is None else loss * weight, reduction)


@autocasts
def smooth_l1_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", beta: float = 1.0,
) -> Tensor:  # fmt: skip
    """d² / (2 beta) where d = |input − target| is below beta, d − beta / 2 elsewhere."""
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss: beta must be 0 or more, got {beta}")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    distance = ops.abs(input - target)
    near = distance < beta
    # The square of what is near only: that of an infinite distance would make the gradient NaN.
    square = ops.square(ops.where(near, distance, 0.0))
    return _reduced(ops.where(near, square * (0.5 / beta), distance - 0.5 * beta), reduction)


@autocasts
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d² / 2 where d = |input − target| is at most delta, delta · (d − delta / 2) elsewhere."""
    if delta <= 0:
        raise RuntimeError(f"huber_loss: delta must be positive, got {delta}")
    distance = ops.abs(input - target)
    near = distance <= delta
    square = ops.square(ops.where(near, distance, 0.0))  # as in smooth_l1_loss
    loss = ops.where(near, square * 0.5, (distance - 0.5 * delta) * delta)
    return _reduced(loss if weight is None else loss * weight, reduction)


@autocasts
def kl_div(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", log_target: bool = False,
) -> Tensor:  # fmt: skip
    """target · (log target − input) for log probabilities `input`; the target is probabilities, or their logarithms
    with log_target. reduction="batchmean", the divergence per sample, is the mathematical one; "mean" divides by all
    elements.

    >>> F.kl_div(fp.tensor([[0.5, 0.5]]).log(), fp.tensor([[0.5, 0.5]]), reduction="batchmean")
    tensor(0.)
    """
    if log_target:
        loss = ops.exp(target) * (target - input)
    else:
        loss = ops.xlogy(target, target) - target * input
    if reduction == "batchmean":
        return ops.sum(loss) / input.shape[0] if input.ndim else ops.sum(loss)
    return _reduced(loss, reduction)


@autocasts
def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, size_average: bool | None = None, full: bool = False,
    eps: float = 1e-8, reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """The negative log likelihood of Poisson counts."""
    loss = ops.exp(input) - target * input if log_input else input - target * ops.log(input + eps)
    if full:
        stirling = ops.xlogy(target, target) - target + ops.log(target * (2 * math.pi)) * 0.5
        loss = loss + ops.where(target > 1, stirling, 0.0)
    return _reduced(loss, reduction)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """The negative log likelihood of a normal distribution with mean `input` and variance `var`."""
    variance = var if isinstance(var, Tensor) else ops.full_like(input, var)
    if variance.shape != input.shape and variance.ndim == input.ndim - 1:
        variance = variance.unsqueeze(-1)
    # The floor counts for the value alone: the gradient is that of the variance given.
    variance = variance + (ops.clamp(variance, min=eps) - variance).detach()
    loss = (ops.log(variance) + ops.square(input - target) / variance) * 0.5
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _reduced(loss, reduction)


@autocasts
def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """x where the target is 1, max(0, margin − x) where it is −1."""
    near = ops.where(target != -1, input, 0.0)
    far = ops.where(target != 1, ops.clamp(margin - input, min=0.0), 0.0)
    return _reduced(near + far, reduction)


@autocasts
def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
) -> Tensor:
    """log(1 + exp(−target · input))."""
    return _reduced(-ops.logsigmoid(target * input), reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """The mean over classes of binary cross-entropies of sigmoid(input)."""
    loss = -(target * ops.logsigmoid(input) + (1 - target) * ops.logsigmoid(-input))
    return _reduced(ops.mean(loss if weight is None else loss * weight, -1), reduction)


@autocasts
def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, −target · (input1 − input2) + margin)."""
    return _reduced(ops.clamp(-target * (input1 - input2) + margin, min=0.0), reduction)


@autocasts
def multi_margin_loss(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
    size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Σ max(0, margin − x_target + x_i)^p / C over the other classes i."""
    if input.ndim < 2:
        result = multi_margin_loss(input.reshape(1, -1), target.reshape(1), p, margin, weight, reduction="none")
        return _reduced(result.reshape(()), reduction)
    classes = input.shape[1]
    safe = ops.check_index(
        target, classes, f"multi_margin_loss: target {{index}} is out of bounds for {classes} classes"
    )
    hit = safe.unsqueeze(1) == ops.arange(classes)
    own = ops.sum(ops.where(hit, input, 0.0), 1, keepdim=True)
    excess = ops.pow(ops.clamp(margin - own + input, min=0.0), p)
    if weight is not None:
        excess = excess * ops.sum(ops.where(hit, weight, 0.0), 1, keepdim=True)
    return _reduced(ops.sum(ops.where(hit, 0.0, excess), 1) / classes, reduction)


@autocasts
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """1 − cos where the target is 1, max(0, cos − margin) where it is −1."""
    product = ops.sum(input1 * input2, -1)
    squares = (ops.sum(input1 * input1, -1) + 1e-12) * (ops.sum(input2 * input2, -1) + 1e-12)
    cosine = product / ops.sqrt(squares)
    near = ops.where(target == 1, 1 - cosine, 0.0)
    far = ops.where(target == -1, ops.clamp(cosine - margin, min=0.0), 0.0)
    return _reduced(near + far, reduction)


@autocasts
def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2, eps: float = 1e-6,
    swap: bool = False, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, distance to positive − distance to negative + margin)."""
    from firepot.nn.functional.linear import pairwise_distance

    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = ops.minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduced(ops.clamp(near - far + margin, min=0.0), reduction)


def triplet_margin_with_distance_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *, distance_function: Any = None, margin: float = 1.0,
    swap: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """triplet_margin_loss with a distance of one's own (default: pairwise_distance)."""
    from firepot.nn.functional.linear import pairwise_distance

    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise RuntimeError(
            f"triplet_margin_with_distance_loss: expected tensors of equal dimensions, got {list(anchor.shape)}, "
            f"{list(positive.shape)} and {list(negative.shape)}"
        )
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = ops.minimum(far, distance(positive, negative))
    return _reduced(ops.clamp(near - far + margin, min=0.0), reduction)


@autocasts
def multilabel_margin_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
) -> Tensor:
    """Σ over the target classes j and the others i of max(0, 1 − x_j + x_i) / C.

    target: the classes of each sample first, then −1. input and target (N, C) or (C,).
    """
    if input.shape != target.shape or input.ndim not in (0, 1, 2):
        raise RuntimeError(
            f"multilabel_margin_loss: input and target need one shape of at most 2 dimensions, got {list(input.shape)} "
            f"and {list(target.shape)}"
        )
    if target.dtype is not dtypes.int64:
        raise RuntimeError(f"multilabel_margin_loss: the target must be int64, got {target.dtype.name}")
    x, t = (input, target) if input.ndim == 2 else (input.reshape(1, -1), target.reshape(1, -1))
    classes = x.shape[1]
    ended = ops.cumsum(t < 0, 1) > 0  # what stands behind the first −1 does not count
    safe = ops.check_index(
        ops.where(ended, 0, t), classes, f"multilabel_margin_loss: target {{index}} is out of bounds for {classes} classes"
    )
    listed = ops.logical_and(safe.unsqueeze(2) == ops.arange(classes), ops.logical_not(ended).unsqueeze(2))
    is_target = ops.any(listed, 1)
    own = ops.gather(x, 1, safe).unsqueeze(2)
    excess = ops.clamp(1 - own + x.unsqueeze(1), min=0.0)
    counted = ops.logical_and(ops.logical_not(ended).unsqueeze(2), ops.logical_not(is_target).unsqueeze(1))
    loss = ops.sum(ops.where(counted, excess, 0.0), (1, 2)) / classes
    return _reduced(loss if input.ndim == 2 else loss.reshape(()), reduction)
