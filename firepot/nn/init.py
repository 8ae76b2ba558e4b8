"""Initial values of parameters, in place."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.grad_mode import no_grad
from firepot.tensor import Tensor


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps variances through an activation."""
    if nonlinearity in ("linear", "sigmoid", "conv1d", "conv2d", "conv3d"):
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity == "selu":
        return 0.75
    raise ValueError(f"calculate_gain: unsupported nonlinearity {nonlinearity!r}")


def fans(tensor: Tensor) -> tuple[int, int]:
    """(inputs, outputs) of one unit of a weight."""
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need at least 2 dimensions, the tensor has {tensor.ndim}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


@no_grad
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    return tensor.uniform_(a, b, generator=generator)


@no_grad
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    return tensor.normal_(mean, std, generator=generator)


@no_grad
def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Normal numbers within a … b, by the inverse of the distribution function."""

    def below(x: float) -> float:
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    low, high = below((a - mean) / std), below((b - mean) / std)
    u = ops.rand(tensor.shape) * (2 * high - 2 * low) + (2 * low - 1)
    return tensor.copy_(ops.clamp(ops.erfinv(u) * (std * math.sqrt(2.0)) + mean, a, b))


@no_grad
def constant_(tensor: Tensor, val: float) -> Tensor:
    return tensor.fill_(val)


def ones_(tensor: Any) -> Tensor:
    return constant_(tensor, 1.0)


def zeros_(tensor: Any) -> Tensor:
    return constant_(tensor, 0.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010)."""
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))))


def _spread(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    fan = fans(tensor)[0 if mode == "fan_in" else 1]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """He et al., Delving deep into rectifiers (2015)."""
    if 0 in tensor.shape:
        return tensor
    bound = math.sqrt(3.0) * _spread(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    return normal_(tensor, 0.0, _spread(tensor, a, mode, nonlinearity))


@no_grad
def eye_(tensor: Tensor) -> Tensor:
    return tensor.copy_(ops.eye(*tensor.shape))


@no_grad
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Convolution weights (out, in, *K) that pass as many input channels on as they can."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(f"dirac_: only tensors with 3, 4 or 5 dimensions are supported, got {list(tensor.shape)}")
    if tensor.shape[0] % groups:
        raise ValueError(f"dirac_: dim 0 of {list(tensor.shape)} must be divisible by groups {groups}")
    out = tensor.shape[0] // groups
    each = ops.eye(out, tensor.shape[1], dtype=tensor.dtype)
    values = ops.cat([each] * groups, 0).reshape(*tensor.shape[:2], *[1] * (tensor.ndim - 2))
    for d in range(2, tensor.ndim):
        size = tensor.shape[d]
        middle = (ops.arange(size) == size // 2).to(tensor.dtype)
        values = values * middle.reshape([-1 if k == d else 1 for k in range(tensor.ndim)])
    return tensor.copy_(values)


@no_grad
def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal numbers, of which a share of each column is zero. Martens (2010)."""
    if tensor.ndim != 2:
        raise ValueError(f"sparse_: only tensors with 2 dimensions are supported, got {list(tensor.shape)}")
    rows = tensor.shape[0]
    order = ops.argsort(ops.rand(tensor.shape, generator=generator), 0)
    drawn = ops.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * std
    return tensor.copy_(ops.where(order < math.ceil(sparsity * rows), 0.0, drawn))


@no_grad
def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """A random orthogonal matrix (Gram and Schmidt through NumPy's QR). Saxe et al. (2013)."""
    import numpy as np

    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    flat = ops.randn(max(rows, columns), min(rows, columns)).numpy()
    q, r = np.linalg.qr(flat)
    q = q * np.sign(np.diag(r))
    q = q.T if rows < columns else q
    return tensor.copy_(ops.from_numpy(np.ascontiguousarray(q, np.float32)).reshape(tensor.shape) * gain)
