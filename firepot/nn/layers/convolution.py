"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.graph.dtypes import DType
from firepot.nn import functional as F
from firepot.nn import init
from firepot.nn.module import Module, Parameter
from firepot.ops.convolution import spatial
from firepot.tensor import Tensor

__all__ = [
    "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Fold", "Unfold",
]  # fmt: skip

_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """State: weight (out, in/groups, *kernel), or (in, out/groups, *kernel) when transposed, and bias (out,)."""

    rank: int
    transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
        groups: int, bias: bool, padding_mode: str, output_padding: Any, dtype: DType | None,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        if groups <= 0 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: in_channels {in_channels} and out_channels {out_channels} must be divisible by groups {groups}"
            )
        if padding_mode not in _MODES or (self.transposed and padding_mode != "zeros"):
            raise ValueError(
                f"{name}: padding_mode must be one of {_MODES} ('zeros' when transposed), got {padding_mode!r}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = spatial(kernel_size, self.rank, name)
        self.stride = spatial(stride, self.rank, name)
        self.padding = padding if isinstance(padding, str) else spatial(padding, self.rank, name)
        self.dilation = spatial(dilation, self.rank, name)
        self.output_padding = spatial(output_padding, self.rank, name)
        self.padding_mode = padding_mode
        shape = (in_channels, out_channels // groups) if self.transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(ops.zeros(*shape, *self.kernel_size, dtype=dtype))
        self.bias = Parameter(ops.zeros(out_channels, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init.fans(self.weight)
            bound = 1 / math.sqrt(fan_in) if fan_in else 0
            init.uniform_(self.bias, -bound, bound)

    def _explicit_padding(self) -> list[int]:
        """F.pad's argument for the modes that are not zeros."""
        pads: list[int] = []
        for d in reversed(range(self.rank)):
            if isinstance(self.padding, str):
                total = self.dilation[d] * (self.kernel_size[d] - 1) if self.padding == "same" else 0
                pads += [total // 2, total - total // 2]
            else:
                pads += [self.padding[d]] * 2
        return pads

    def _convolve(self, function: Any, input: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._explicit_padding(), self.padding_mode), 0
        result: Tensor = function(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return result

    def _transpose(self, function: Any, input: Tensor, output_size: Any) -> Tensor:
        extra = self.output_padding
        if output_size is not None:
            sizes = list(output_size)[-self.rank :]
            padding: Any = self.padding
            least = [
                (s - 1) * t - 2 * p + d * (k - 1) + 1
                for s, t, p, d, k in zip(
                    input.shape[-self.rank :], self.stride, padding, self.dilation, self.kernel_size, strict=True
                )
            ]
            extra = tuple(int(o) - n for o, n in zip(sizes, least, strict=True))
        result: Tensor = function(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
        return result

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if isinstance(self.padding, str) or any(self.padding):
            text += f", padding={self.padding}"
        if any(d != 1 for d in self.dilation):
            text += f", dilation={self.dilation}"
        if any(self.output_padding):
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"


class _Forward(_Conv):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None,
        dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, 0, dtype
        )


class _Transposed(_Conv):
    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, bias: bool = True, dilation: Any = 1, padding_mode: str = "zeros",
        device: Any = None, dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            output_padding, dtype,
        )  # fmt: skip


class Conv1d(_Forward):
    """Cross-correlation: (N, C, L) or (C, L) -> (N, out_channels, L'). Arguments as those of Conv2d.

    >>> nn.Conv1d(2, 8, 5, stride=2)(fp.randn(4, 2, 21)).shape
    (4, 8, 9)
    """

    rank = 1

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(F.conv1d, input)


class Conv2d(_Forward):
    """Cross-correlation: (N, C, H, W) or (C, H, W) -> (N, out_channels, H', W').

    y[n, o, i, j] = bias[o] + Σ weight[o, c, r, s] · x[n, c, i·stride + r·dilation − padding, …], and
    H' = (H + 2·padding − dilation·(kernel − 1) − 1) // stride + 1.

    Args:
        kernel_size, stride, dilation: a number, or a pair for height and width.
        padding: a number, a pair, 'valid' (none) or 'same' (the input's size; stride 1).
        groups: divides both channel counts; groups = in_channels is a depthwise convolution.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.

    State: weight (out, in/groups, *kernel), bias (out,). ValueError where groups do not divide the channels,
    RuntimeError where the input's channels differ or the kernel is larger than the padded input.

    >>> nn.Conv2d(3, 16, 3, padding=1)(fp.randn(8, 3, 32, 32)).shape
    (8, 16, 32, 32)
    """

    rank = 2

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(F.conv2d, input)


class Conv3d(_Forward):
    """Cross-correlation: (N, C, D, H, W) -> (N, out_channels, D', H', W'). Arguments as those of Conv2d."""

    rank = 3

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(F.conv3d, input)


class ConvTranspose1d(_Transposed):
    """The transpose of Conv1d: (N, C, L) -> (N, out_channels, L')."""

    rank = 1

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        return self._transpose(F.conv_transpose1d, input, output_size)


class ConvTranspose2d(_Transposed):
    """The transpose of Conv2d, its derivative by the input: (N, C, H, W) -> (N, out_channels, H', W').

    H' = (H − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1; `forward(x, output_size)` chooses
    output_padding. State: weight (in, out/groups, *kernel), bias (out,). Zeiler et al. (2010).

    >>> nn.ConvTranspose2d(16, 3, 2, stride=2)(fp.randn(8, 16, 8, 8)).shape
    (8, 3, 16, 16)
    """

    rank = 2

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        return self._transpose(F.conv_transpose2d, input, output_size)


class ConvTranspose3d(_Transposed):
    """The transpose of Conv3d: (N, C, D, H, W) -> (N, out_channels, D', H', W')."""

    rank = 3

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        return self._transpose(F.conv_transpose3d, input, output_size)


class Unfold(Module):
    """Sliding blocks as columns: (N, C, H, W) -> (N, C·R·S, number of blocks).

    >>> nn.Unfold(3, padding=1)(fp.zeros(2, 4, 5, 5)).shape
    (2, 36, 25)
    """

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Tensor) -> Tensor:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(Module):
    """The transpose of Unfold: columns (N, C·R·S, number of blocks) summed into (N, C, H, W).

    >>> nn.Fold((5, 5), 3, padding=1)(fp.zeros(2, 36, 25)).shape
    (2, 4, 5, 5)
    """

    def __init__(
        self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ) -> None:
        super().__init__()
        self.output_size, self.kernel_size = output_size, kernel_size
        self.dilation, self.padding, self.stride = dilation, padding, stride

    def forward(self, input: Tensor) -> Tensor:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)
