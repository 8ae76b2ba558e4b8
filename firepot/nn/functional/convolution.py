"""Convolutions: `conv1d`, `conv2d`, `conv3d` and their transposes; unfold and fold."""

from __future__ import annotations

from typing import Any

from firepot import ops
from firepot.autocast_mode import autocasts
from firepot.ops.convolution import convolution, spatial
from firepot.tensor import Tensor

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "fold", "unfold"]


def _convolve(
    what: str, rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
    groups: int, transposed: bool = False, output_padding: Any = 0,
) -> Tensor:  # fmt: skip
    if weight.ndim != rank + 2 or input.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"{what}: expected input of {rank + 2} dimensions (N, C, …), or {rank + 1} without a batch, and weight of "
            f"{rank + 2}; got {list(input.shape)} and {list(weight.shape)}"
        )
    batched = input if input.ndim == rank + 2 else input.unsqueeze(0)
    if isinstance(padding, str):
        batched, padding = _named_padding(what, rank, batched, weight, padding, stride, dilation)
    result = convolution(batched, weight, stride, padding, dilation, transposed, output_padding, groups)
    if bias is not None:
        channels = result.shape[1]
        if bias.shape != (channels,):
            raise RuntimeError(f"{what}: expected bias of shape [{channels}], got {list(bias.shape)}")
        if bias.dtype is not input.dtype:
            raise RuntimeError(
                f"{what}: input type {input.dtype.name} and bias type {bias.dtype.name} should be the same"
            )
        result = result + bias.reshape([channels] + [1] * rank)
    return result if input.ndim == rank + 2 else result.squeeze(0)


def _named_padding(
    what: str, rank: int, input: Tensor, weight: Tensor, padding: str, stride: Any, dilation: Any
) -> tuple[Tensor, Any]:
    if padding == "valid":
        return input, 0
    if padding != "same":
        raise RuntimeError(f"{what}: padding must be numbers, 'valid' or 'same', not {padding!r}")
    if any(s != 1 for s in spatial(stride, rank, what)):
        raise RuntimeError(f"{what}: padding='same' needs stride 1, got {stride}")
    total = [d * (k - 1) for d, k in zip(spatial(dilation, rank, what), weight.shape[2:], strict=True)]
    odd: list[int] = []
    for t in reversed(total):
        odd += [0, t % 2]
    return (ops.shape.constant_pad(input, odd) if any(odd) else input), tuple(t // 2 for t in total)


@autocasts
def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """(N, C, L), weight (O, C/groups, K) -> (N, O, L'). padding: a number, 'valid' or 'same'."""
    return _convolve("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


@autocasts
def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation: (N, C, H, W), weight (O, C/groups, R, S) -> (N, O, H', W'); see nn.Conv2d.

    padding: a number, a pair, 'valid' or 'same'. RuntimeError where channels do not fit.

    >>> F.conv2d(fp.ones(1, 1, 3, 3), fp.ones(1, 1, 3, 3), padding=1)[0, 0]
    tensor([[4., 6., 4.],
            [6., 9., 6.],
            [4., 6., 4.]])
    """
    return _convolve("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


@autocasts
def conv3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """(N, C, D, H, W), weight (O, C/groups, Q, R, S) -> (N, O, D', H', W')."""
    return _convolve("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


@autocasts
def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The transpose of conv1d: (N, C, L), weight (C, O/groups, K) -> (N, O, L')."""
    return _transpose("conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@autocasts
def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The transpose of conv2d: (N, C, H, W), weight (C, O/groups, R, S) -> (N, O, H', W')."""
    return _transpose("conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@autocasts
def conv_transpose3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The transpose of conv3d: (N, C, D, H, W), weight (C, O/groups, Q, R, S) -> (N, O, D', H', W')."""
    return _transpose("conv_transpose3d", 3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _transpose(
    what: str, rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any,
    output_padding: Any, groups: int, dilation: Any,
) -> Tensor:  # fmt: skip
    extra, strides = spatial(output_padding, rank, what), spatial(stride, rank, what)
    dilations = spatial(dilation, rank, what)
    if any(e < 0 or e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise RuntimeError(
            f"{what}: output_padding must be smaller than stride or dilation, got {extra} with stride {strides} and "
            f"dilation {dilations}"
        )
    return _convolve(what, rank, input, weight, bias, stride, padding, dilation, groups, True, output_padding)


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """Sliding blocks as columns: (N, C, H, W) -> (N, C·R·S, number of blocks)."""
    if input.ndim == 3:
        return unfold(input.unsqueeze(0), kernel_size, dilation, padding, stride).squeeze(0)
    kernel = spatial(kernel_size, 2, "unfold")
    windows = ops.windows(input, kernel, stride, padding, dilation)  # (N, C, H', W', R, S)
    n, c, h, w, r, s = windows.shape
    return windows.permute(0, 1, 4, 5, 2, 3).reshape(n, c * r * s, h * w)


def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """The transpose of unfold: columns (N, C·R·S, number of blocks) summed into (N, C, H, W)."""
    if input.ndim == 2:
        return fold(input.unsqueeze(0), output_size, kernel_size, dilation, padding, stride).squeeze(0)
    size, kernel = spatial(output_size, 2, "fold"), spatial(kernel_size, 2, "fold")
    strides, paddings = spatial(stride, 2, "fold"), spatial(padding, 2, "fold")
    dilations = spatial(dilation, 2, "fold")
    blocks = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, p, d, k, t in zip(size, paddings, dilations, kernel, strides, strict=True)
    ]
    n, columns, count = input.shape
    area = kernel[0] * kernel[1]
    if columns % area or count != blocks[0] * blocks[1]:
        raise RuntimeError(
            f"fold: input {list(input.shape)} does not fit: expected (N, C·{area}, {blocks[0] * blocks[1]}) for "
            f"output_size {list(size)} and kernel_size {list(kernel)}"
        )
    shaped = input.reshape(n, columns // area, *kernel, *blocks)
    return ops.overlap_add(shaped.permute(0, 1, 4, 5, 2, 3), size, strides, paddings, dilations)
