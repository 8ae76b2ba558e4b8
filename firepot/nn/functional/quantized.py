"""Layers of int8 numbers with scales: the integers are multiplied exactly, the result is float32.

A number x is stored as the int8 nearest to x / scale (`quantize`), so that x ≈ scale · int8. Zero is always zero: there is
no zero point, as in ONNX's symmetric quantisation. Products of int8 take a quarter of the instructions of float32 on
processors with AVX512_VNNI, and scales, bias and what follows element by element are done as results leave the registers.
"""

from __future__ import annotations

from typing import Any

from firepot import ops
from firepot.graph import dtypes
from firepot.ops.convolution import convolution, spatial
from firepot.tensor import Tensor

__all__ = ["quantize", "quantized_conv2d", "quantized_linear"]


def quantize(input: Tensor, scale: Any) -> Tensor:
    """The int8 nearest to input / scale, halves to even; −128 or 127 beyond the range and 0 for NaN.

    input: floating point, any shape. scale: a positive number, or a tensor that broadcasts against the input (one for
    each output channel of a weight: (O, 1) or (O, 1, 1, 1)). RuntimeError where the input is not floating point.

    >>> F.quantize(fp.tensor([0.5, -0.26, 100.0]), 0.1)
    tensor([  5,  -3, 127], dtype=firepot.int8)
    """
    if not input.dtype.is_floating_point:
        raise RuntimeError(f"quantize: expected a floating-point tensor, got {input.dtype.name}")
    return ops.round(input / scale).to(dtypes.int8)  # which saturates


def quantized_linear(
    input: Tensor, weight: Tensor, scale_input: Any, scale_weight: Any, bias: Tensor | None = None
) -> Tensor:
    """scale_input · scale_weight · (input weightᵀ) + bias in float32: int8 (*, in), int8 (out, in) -> (*, out).

    The integers are summed exactly, in int32 (see `fp.int_mm`).

    Args:
        scale_input: a number, or a tensor that broadcasts against (*, 1): one for each row.
        scale_weight: a number, or a tensor (out,): one for each output.
        bias: floating point (out,).

    RuntimeError where an operand is not int8, or sizes do not fit.

    >>> x, w = fp.tensor([[10, -20]], dtype=fp.int8), fp.tensor([[1, 2], [3, 0]], dtype=fp.int8)
    >>> F.quantized_linear(x, w, 0.5, fp.tensor([1.0, 0.1]), fp.tensor([0.0, 1.0]))
    tensor([[-15.0000,   2.5000]])
    """
    what = "quantized_linear"
    _check(what, input, weight)
    if weight.ndim != 2 or not input.ndim or input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(
            f"{what}: expected input (*, in) and weight (out, in), got {list(input.shape)} and {list(weight.shape)}"
        )
    sums = ops.int_mm(input, weight.t())
    return _scaled(what, sums, scale_input, scale_weight, bias, weight.shape[0], ())


def quantized_conv2d(
    input: Tensor, weight: Tensor, scale_input: Any, scale_weight: Any, bias: Tensor | None = None, stride: Any = 1,
    padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of int8 in float32: (N, C, H, W), weight (O, C/groups, R, S) -> (N, O, H', W'), as F.conv2d.

    The integers are summed exactly, in int32.

    Args:
        scale_input: a number, or a tensor that broadcasts against (N, 1, 1, 1).
        scale_weight: a number, or a tensor (O,): one for each output channel.
        bias: floating point (O,).

    RuntimeError where an operand is not int8, or shapes do not fit.

    >>> x, w = fp.ones(1, 1, 3, 3, dtype=fp.int8), fp.ones(1, 1, 3, 3, dtype=fp.int8)
    >>> F.quantized_conv2d(x, w, 0.5, 0.5, padding=1)[0, 0]
    tensor([[1.0000, 1.5000, 1.0000],
            [1.5000, 2.2500, 1.5000],
            [1.0000, 1.5000, 1.0000]])
    """
    what = "quantized_conv2d"
    _check(what, input, weight)
    if weight.ndim != 4 or input.ndim != 4:
        raise RuntimeError(
            f"{what}: expected input (N, C, H, W) and weight (O, C/groups, R, S), got {list(input.shape)} and "
            f"{list(weight.shape)}"
        )
    sums = convolution(
        input, weight, spatial(stride, 2, what), spatial(padding, 2, what), dilation, groups=groups, dtype=dtypes.int32
    )
    return _scaled(what, sums, scale_input, scale_weight, bias, weight.shape[0], (1, 1))


def _check(what: str, input: Tensor, weight: Tensor) -> None:
    if input.dtype is not dtypes.int8 or weight.dtype is not dtypes.int8:
        raise RuntimeError(
            f"{what}: expected int8 input and weight, got {input.dtype.name} and {weight.dtype.name}; F.quantize makes "
            "int8 of floating-point numbers"
        )


def _scaled(
    what: str, sums: Tensor, scale_input: Any, scale_weight: Any, bias: Tensor | None, channels: int,
    spatial: tuple[int, ...],
) -> Tensor:  # fmt: skip
    """Sums times both scales, plus the bias; `spatial`: sizes of one that follow the channels."""
    for name, value in (("scale_weight", scale_weight), ("bias", bias)):
        if isinstance(value, Tensor) and value.shape not in ((channels,), () if name == "scale_weight" else (channels,)):
            raise RuntimeError(f"{what}: expected {name} of shape [{channels}], got {list(value.shape)}")
    if isinstance(scale_weight, Tensor) and scale_weight.ndim:
        scale_weight = scale_weight.reshape(channels, *spatial)
    result = sums.to(dtypes.float32) * (scale_input * scale_weight)
    return result if bias is None else result + bias.reshape(channels, *spatial)
