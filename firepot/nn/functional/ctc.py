"""Connectionist temporal classification. Graves et al. (2006)."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.autocast_mode import autocasts
from firepot.func.control import scan
from firepot.graph import dtypes
from firepot.tensor import Tensor

__all__ = ["ctc_loss"]


@autocasts
def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: str = "mean", zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """−log of the probability of the target sequences under all alignments.

    log_probs (T, N, C) or (T, C); targets (N, S) or all sequences one after another; lengths: tensors, lists or
    tuples of N integers. "mean" divides each loss by its target length first, as PyTorch does.
    """
    if log_probs.ndim == 2:
        one = ctc_loss(
            log_probs.unsqueeze(1), targets.reshape(1, -1), [int(input_lengths)], [int(target_lengths)], blank, "none",
            zero_infinity,
        )  # fmt: skip
        return one.sum() / max(int(target_lengths), 1) if reduction == "mean" else one.sum()
    if log_probs.ndim != 3:
        raise RuntimeError(f"ctc_loss: expected log_probs (T, N, C) or (T, C), got {list(log_probs.shape)}")
    steps, batch, classes = log_probs.shape
    if not 0 <= blank < classes:
        raise RuntimeError(f"ctc_loss: blank must be one of {classes} classes, got {blank}")
    inputs, lengths = _lengths(input_lengths, batch, "input"), _lengths(target_lengths, batch, "target")
    if targets.ndim == 1:
        targets = _padded(targets, lengths)
    longest = targets.shape[1]
    labels = ops.check_index(targets, classes, f"ctc_loss: target {{index}} is out of bounds for {classes} classes")
    # The labels with blanks between: blank, a, blank, b, blank.
    extended = ops.stack([ops.full_like(labels, blank), labels], 2).reshape(batch, 2 * longest)
    extended = ops.cat([extended, ops.full((batch, 1), blank, dtype=labels.dtype)], 1)
    states = 2 * longest + 1
    skip = ops.cat([ops.ones(batch, 2, dtype=dtypes.bool_), extended[:, 2:] == extended[:, :-2]], 1)
    skip = ops.logical_or(skip, extended == blank)
    emitted = ops.gather(log_probs, 2, extended.unsqueeze(0).expand(steps, batch, states))
    # A large negative number for log 0: infinity minus infinity has no derivative.
    nothing = -1e30 if log_probs.dtype.size >= 4 else -1e4
    start = ops.arange(states) < 2
    alpha = ops.where(start, emitted[0], nothing)

    def step(alpha: Tensor, row: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        probability, t = row
        one = ops.cat([ops.full((batch, 1), nothing, dtype=alpha.dtype), alpha[:, :-1]], 1)
        two = ops.cat([ops.full((batch, 2), nothing, dtype=alpha.dtype), alpha[:, :-2]], 1)[:, :states]
        two = ops.where(skip, nothing, two)
        top = ops.maximum(ops.maximum(alpha, one), two).detach()
        total = ops.exp(alpha - top) + ops.exp(one - top) + ops.exp(two - top)
        after = ops.log(total) + top + probability
        return ops.where((inputs > t).unsqueeze(1), after, alpha), None  # a sequence that has ended stays as it is

    result = alpha if steps == 1 else scan(step, alpha, (emitted[1:], ops.arange(1, steps)))[0]
    places = ops.arange(states)
    ends = ops.logical_or(places == (2 * lengths).unsqueeze(1), places == (2 * lengths - 1).unsqueeze(1))
    final = ops.where(ends, result, nothing)
    loss = -ops.logsumexp(final, 1)
    impossible = loss > -nothing / 2
    loss = ops.where(impossible, 0.0 if zero_infinity else math.inf, loss)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return ops.sum(loss)
    if reduction != "mean":
        raise ValueError(f"{reduction!r} is not a valid value for reduction: 'mean', 'sum' or 'none'")
    return ops.mean(loss / ops.clamp(lengths, min=1).to(loss.dtype))


def _lengths(value: Any, batch: int, what: str) -> Tensor:
    lengths = value if isinstance(value, Tensor) else ops.tensor(list(value))
    if lengths.shape != (batch,):
        raise RuntimeError(f"ctc_loss: expected {batch} {what} lengths, got {list(lengths.shape)}")
    return lengths


def _padded(targets: Tensor, lengths: Tensor) -> Tensor:
    """Sequences one after another as rows of equal length."""
    ends = ops.cumsum(lengths, 0)
    places = (ends - lengths).unsqueeze(1) + ops.arange(int(ops.max(lengths).item()))
    return targets[ops.clamp(places, max=targets.shape[0] - 1)]
