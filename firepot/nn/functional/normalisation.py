"""Normalisation: batch, layer, group, instance, root mean square, local response."""

from __future__ import annotations

from collections.abc import Sequence

from firepot import ops
from firepot.grad_mode import no_grad
from firepot.graph import dtypes
from firepot.graph.primitives.standardise import standardise
from firepot.tensor import Tensor, wrap

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm"]


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float | Tensor = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Each channel of (N, C, *) centred and scaled; in training by the batch, whose statistics move the running ones.

    Ioffe and Szegedy, Batch normalization (2015). The running variance is the unbiased one, as PyTorch's.
    """
    if input.ndim < 2 and input.numel():
        raise RuntimeError(f"batch_norm: expected an input (N, C, …), got {list(input.shape)}")
    if input.ndim < 2:
        return input  # which has no elements
    channels = input.shape[1]
    for name, t in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        if t is not None and t.shape != (channels,):
            raise RuntimeError(f"batch_norm: {name} must have shape [{channels}], got {list(t.shape)}")
    per_channel = [1, channels] + [1] * (input.ndim - 2)
    if training:
        axes = [0, *range(2, input.ndim)]
        count = input.numel() // max(channels, 1)
        if count <= 1 and input.numel():
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {list(input.shape)}"
            )
        wide = _wide(input)
        var, mean = ops.var_mean(wide, axes, correction=0)
        with no_grad():
            if running_mean is not None:
                running_mean.copy_(running_mean + (mean - running_mean) * momentum)
            if running_var is not None:
                running_var.copy_(
                    running_var + (var * (count / (count - 1) if count > 1 else 1.0) - running_var) * momentum
                )
    else:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: expected running_mean and running_var when training is False")
        wide, mean, var = input, running_mean, running_var
    # One multiplication and one addition for each element: the rest is work on C numbers.
    if training and wide.numel():
        factor = ops.ones([channels], dtype=wide.dtype) if weight is None else weight.to(wide.dtype)
        result = wrap(standardise(wide._node, factor._node, axes, eps))
        if bias is not None:
            result = result + bias.reshape(per_channel)
    else:
        scale = ops.rsqrt(var + eps)
        if weight is not None:
            scale = scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        result = wide * scale.reshape(per_channel) + shift.reshape(per_channel)
    return result.to(input.dtype)


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Each channel of each sample of (N, C, *) centred and scaled. Ulyanov et al. (2016)."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = list(range(2, input.ndim))
    wide = _wide(input)
    var, mean = ops.var_mean(wide, axes, correction=0, keepdim=True)
    with no_grad():
        count = input.numel() // (input.shape[0] * input.shape[1])
        if running_mean is not None:
            running_mean.copy_(running_mean * (1 - momentum) + mean.mean([0, *axes]) * momentum)
        if running_var is not None:
            unbiased = var.mean([0, *axes]) * (count / max(count - 1, 1))
            running_var.copy_(running_var * (1 - momentum) + unbiased * momentum)
    return _affine((wide - mean) * ops.rsqrt(var + eps), weight, bias).to(input.dtype)


def _wide(x: Tensor) -> Tensor:
    """In float32 where it is half precision: what statistics are taken of."""
    return x.to(dtypes.float32) if x.dtype.size == 2 else x


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = [1, x.shape[1]] + [1] * (x.ndim - 2)
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """The last dimensions, of shape normalized_shape, centred and scaled together. Ba et al., Layer normalization
    (2016).

    weight and bias have that shape. RuntimeError where the input's last sizes differ.

    >>> F.layer_norm(fp.tensor([[1.0, 3.0]]), (2,), eps=0.0)
    tensor([[-1.,  1.]])
    """
    axes = _last(input, normalized_shape, "layer_norm", weight, bias)
    wide = _wide(input)
    var, mean = ops.var_mean(wide, axes, correction=0, keepdim=True)
    result = (wide - mean) * ops.rsqrt(var + eps)
    if weight is not None:
        result = result * weight
    return (result if bias is None else result + bias).to(input.dtype)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """The last dimensions divided by their root mean square. Zhang and Sennrich (2019)."""
    axes = _last(input, normalized_shape, "rms_norm", weight)
    wide = _wide(input)
    eps = ops.finfo(input.dtype).eps if eps is None else eps
    result = wide * ops.rsqrt(ops.mean(wide * wide, axes, keepdim=True) + eps)
    return (result if weight is None else result * weight).to(input.dtype)


def _last(input: Tensor, normalized_shape: Sequence[int], what: str, *parameters: Tensor | None) -> list[int]:
    shape = tuple(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise RuntimeError(
            f"{what}: normalized_shape {list(shape)} must be the last sizes of the input {list(input.shape)}"
        )
    for p in parameters:
        if p is not None and p.shape != shape:
            raise RuntimeError(f"{what}: weight and bias must have shape {list(shape)}, got {list(p.shape)}")
    return list(range(input.ndim - len(shape), input.ndim))


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Groups of channels of each sample of (N, C, *) centred and scaled. Wu and He (2018)."""
    if input.ndim < 2 or input.shape[1] % num_groups:
        raise RuntimeError(
            f"group_norm: the channels of {list(input.shape)} must be divisible by num_groups={num_groups}"
        )
    n, channels, *space = input.shape
    grouped = _wide(input).reshape(n, num_groups, channels // num_groups, *space)
    axes = list(range(2, grouped.ndim))
    var, mean = ops.var_mean(grouped, axes, correction=0, keepdim=True)
    return _affine(((grouped - mean) * ops.rsqrt(var + eps)).reshape(input.shape), weight, bias).to(input.dtype)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / (k + alpha · mean of neighbouring channels' squares)^beta. Krizhevsky et al. (2012)."""
    if input.ndim < 3:
        raise ValueError(f"local_response_norm: expected 3D or higher dimensionality input, got {list(input.shape)}")
    if not input.numel():
        return input
    flat = (input * input).reshape(input.shape[0], 1, input.shape[1], -1)
    padded = ops.shape.constant_pad(flat, [0, 0, size // 2, (size - 1) // 2])
    windows = padded.unfold(2, size, 1)
    mean = ops.mean(windows, -1) if input.dtype.kind == "f" else ops.div(ops.sum(windows, -1), size, rounding_mode="trunc")
    mean = mean.reshape(input.shape)
    return input / ops.pow(mean * alpha + k, beta)
