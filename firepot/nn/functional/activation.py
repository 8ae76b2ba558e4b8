"""Activations. All are element-wise on tensors of any shape unless they name a dimension."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.autocast_mode import autocasts
from firepot.graph.dtypes import DType
from firepot.ops import logsigmoid as logsigmoid
from firepot.ops import relu as relu
from firepot.ops import sigmoid as sigmoid
from firepot.ops import tanh as tanh
from firepot.tensor import Tensor

__all__ = [
    "celu", "celu_", "elu", "elu_", "gelu", "glu", "gumbel_softmax", "hardshrink", "hardsigmoid", "hardswish", "hardtanh",
    "hardtanh_", "leaky_relu", "leaky_relu_", "log_softmax", "logsigmoid", "mish", "prelu", "relu", "relu6", "relu_",
    "rrelu", "rrelu_", "selu", "selu_", "sigmoid", "silu", "softmax", "softmin", "softplus", "softshrink", "softsign",
    "tanh", "tanhshrink", "threshold", "threshold_",
]  # fmt: skip


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(0, x), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to min_val … max_val; the gradient is zero at the limits."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val cannot be greater than max_val, got {min_val} and {max_val}")
    if input.dtype.kind != "f":
        if input.dtype.kind == "b" or (input.dtype.kind == "u" and min_val < 0):
            raise RuntimeError(f"hardtanh: cannot do hardtanh on {input.dtype.name} with min_val {min_val}")
        return _written(input, ops.clamp(input, int(min_val), int(max_val)), inplace)
    inside = ops.logical_and(input > min_val, input < max_val)
    result = ops.where(inside, input, ops.clamp(input.detach(), min_val, max_val))
    return _written(input, result, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where it is positive, negative_slope · x elsewhere."""
    return _written(input, ops.where(input > 0, input, input * negative_slope), inplace)


def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """leaky_relu whose slope is drawn for each element in training, and is the middle otherwise."""
    if lower > upper:
        raise RuntimeError(f"rrelu: lower bound should be less than or equal to the upper bound, got {lower} and {upper}")
    slope: Any = ops.rand_like(input) * (upper - lower) + lower if training else (lower + upper) / 2
    return _written(input, ops.where(input >= 0, input, input * slope), inplace)


@autocasts
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """leaky_relu with a learned slope: one, or one for each channel (dimension 1)."""
    if weight.ndim > 1:
        raise RuntimeError(f"prelu: expected `weight` to be a scalar or a vector, got shape {list(weight.shape)}")
    if weight.numel() != 1:
        channels = input.shape[1] if input.ndim > 1 else input.shape[0] if input.ndim else 1
        if weight.numel() != channels:
            raise RuntimeError(f"prelu: expected 1 slope or one for each of {channels} channels, got {weight.numel()}")
        weight = weight.reshape([-1] + [1] * (input.ndim - 2)) if input.ndim > 1 else weight
    elif not input.ndim:
        weight = weight.reshape(())
    return ops.where(input > 0, input, input * weight)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, alpha · (exp(x) − 1) elsewhere. Clevert et al. (2015)."""
    return _written(input, ops.where(input > 0, input, _expm1_below(input) * alpha), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Klambauer et al., Self-normalizing neural networks (2017)."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return _written(input, ops.where(input > 0, input, _expm1_below(input) * alpha) * scale, inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(0, x) + min(0, alpha · (exp(x / alpha) − 1))."""
    return _written(input, ops.where(input > 0, input, _expm1_below(input / alpha) * alpha), inplace)


def _expm1_below(x: Tensor) -> Tensor:
    """exp(x) − 1 for negative x; zero elsewhere, so that the branch that is not taken cannot overflow."""
    return ops.expm1(ops.where(x > 0, 0.0, x))


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x · Φ(x) with the normal distribution function, or its approximation by "tanh". Hendrycks & Gimpel (2016).

    >>> F.gelu(fp.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1587,  0.0000,  0.8413])
    """
    if approximate == "none":
        return input * 0.5 * (ops.erf(input * math.sqrt(0.5)) + 1)
    if approximate == "tanh":
        inner = (input + input * input * input * 0.044715) * math.sqrt(2 / math.pi)
        return input * 0.5 * (ops.tanh(inner) + 1)
    raise RuntimeError(f"gelu: approximate must be 'none' or 'tanh', not {approximate!r}")


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x · sigmoid(x)."""
    return _written(input, input * ops.sigmoid(input), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · tanh(softplus(x))."""
    return _written(input, input * ops.tanh(softplus(input)), inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta · x)) / beta; x itself where beta · x is above the threshold."""
    scaled = input * beta
    large = scaled > threshold
    return ops.where(large, input, ops.log1p(ops.exp(ops.where(large, 0.0, scaled))) / beta)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return input / (ops.abs(input) + 1)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards zero by lambd, and zero within ±lambd."""
    if lambd < 0:
        raise RuntimeError(f"softshrink: lambd must be 0 or more, got {lambd}")
    return ops.where(input > lambd, input - lambd, ops.where(input < -lambd, input + lambd, input * 0.0))


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x outside ±lambd, zero within."""
    return ops.where(ops.logical_and(input >= -lambd, input <= lambd), 0.0, input)


def tanhshrink(input: Tensor) -> Tensor:
    """x − tanh(x)."""
    return input - ops.tanh(input)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where it is above the threshold, `value` elsewhere."""
    return _written(input, ops.where(input <= threshold, value, input), inplace)


_threshold = threshold


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """x / 6 + 1 / 2, limited to 0 … 1."""
    return _written(input, hardtanh(input, -3.0, 3.0) / 6 + 0.5, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · hardsigmoid(x). Howard et al., Searching for MobileNetV3 (2019)."""
    middle = input * (input + 3) / 6
    return _written(input, ops.where(input <= -3, 0.0, ops.where(input >= 3, input, middle)), inplace)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a · sigmoid(b) for the two halves a, b of a dimension. Dauphin et al. (2016)."""
    if not input.ndim or input.shape[dim] % 2:
        raise RuntimeError(f"glu: dimension {dim} of {list(input.shape)} must have an even size to be halved")
    a, b = ops.chunk(input, 2, dim)
    return a * ops.sigmoid(b)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """exp(x) / Σ exp(x) along `dim`, without overflow. `dtype` converts first.

    >>> F.softmax(fp.tensor([1000.0, 1000.0]), 0)
    tensor([0.5000, 0.5000])
    """
    return ops.softmax(input, _class_dimension(input, dim), dtype)


def softmin(input: Tensor, dim: int | None = None, dtype: DType | None = None) -> Tensor:
    """softmax(−x)."""
    return ops.softmax(-input, _class_dimension(input, dim), dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """x − log Σ exp(x) along `dim`, without overflow. `dtype` converts first.

    >>> F.log_softmax(fp.tensor([1000.0, 1000.0]), 0)
    tensor([-0.6931, -0.6931])
    """
    return ops.log_softmax(input, _class_dimension(input, dim), dtype)


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A sample of the categorical distribution made differentiable. Jang et al. (2016), Maddison et al. (2016)."""
    noise = -ops.log(-ops.log(ops.rand_like(logits) * (1 - 1e-7) + 1e-7 / 2))
    soft = ops.softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    places = ops.arange(soft.shape[dim]).reshape([-1 if d == dim % soft.ndim else 1 for d in range(soft.ndim)])
    one_hot = (ops.argmax(soft, dim, keepdim=True) == places).to(soft.dtype)
    return one_hot - soft.detach() + soft


def _class_dimension(input: Tensor, dim: int | None) -> int:
    """PyTorch's choice when no dimension is given."""
    if dim is not None:
        return dim
    return 0 if input.ndim in (0, 1, 3) else 1


def _written(input: Tensor, result: Tensor, inplace: bool) -> Tensor:
    """The result, or with `inplace` the input handle standing for it."""
    return input._rebind(result._node) if inplace else result


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """celu in place."""
    return celu(input, alpha, inplace=True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """elu in place."""
    return elu(input, alpha, inplace=True)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """hardtanh in place."""
    return hardtanh(input, min_val, max_val, inplace=True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """leaky_relu in place."""
    return leaky_relu(input, negative_slope, inplace=True)


def selu_(input: Tensor) -> Tensor:
    """selu in place."""
    return selu(input, inplace=True)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """threshold in place."""
    return _threshold(input, threshold, value, inplace=True)


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """rrelu in place."""
    return rrelu(input, lower, upper, training, inplace=True)


def relu_(input: Tensor) -> Tensor:
    """relu in place."""
    return _written(input, relu(input), True)
