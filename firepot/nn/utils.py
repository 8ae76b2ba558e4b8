"""Helpers around parameters, by PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Iterable

from firepot import ops
from firepot.grad_mode import no_grad
from firepot.tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_", "parameters_to_vector", "vector_to_parameters"]


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [g for g in (p.grad for p in given) if g is not None]


@no_grad
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """Scale gradients so that their norm, taken together, is at most max_norm. Returns the norm before.

    Works within fp.jit; error_if_nonfinite reads the norm, so it does not. Pascanu et al. (2013).
    """
    gradients = _gradients(parameters)
    if not gradients:
        return ops.tensor(0.0)
    if norm_type == math.inf:
        total = ops.amax(ops.stack([ops.amax(ops.abs(g)) for g in gradients]))
    elif norm_type == 2:
        total = ops.sqrt(sum((ops.sum(ops.square(g)) for g in gradients), ops.tensor(0.0)))
    else:
        powers = (ops.sum(ops.pow(ops.abs(g), norm_type)) for g in gradients)
        total = ops.pow(sum(powers, ops.tensor(0.0)), 1 / norm_type)
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(
            f"clip_grad_norm_: the total norm of order {norm_type} is not finite, so it cannot be clipped"
        )
    factor = ops.clamp(max_norm / (total + 1e-6), max=1.0)
    for g in gradients:
        g.mul_(factor.to(g.dtype))
    return total


@no_grad
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Limit every element of the gradients to ±clip_value."""
    for g in _gradients(parameters):
        g.clamp_(-clip_value, clip_value)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters one after another, as one vector."""
    return ops.cat([p.reshape(-1) for p in parameters])


@no_grad
def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write a vector back into parameters, in order."""
    given = list(parameters)
    if vec.numel() != sum(p.numel() for p in given):
        raise RuntimeError(
            f"vector_to_parameters: the vector has {vec.numel()} elements, the parameters {sum(p.numel() for p in given)}"
        )
    start = 0
    for p in given:
        p.copy_(vec[start : start + p.numel()].reshape(p.shape))
        start += p.numel()
