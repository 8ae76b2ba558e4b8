"""Resampling, padding and layers that only move channels and pixels."""

from __future__ import annotations

from typing import Any

from firepot.nn import functional as F
from firepot.nn.module import Module
from firepot.ops.convolution import spatial
from firepot.tensor import Tensor

__all__ = [
    "ChannelShuffle", "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d",
    "ConstantPad3d", "PixelShuffle", "PixelUnshuffle", "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d",
    "ReplicationPad1d", "ReplicationPad2d", "ReplicationPad3d", "Upsample", "UpsamplingBilinear2d",
    "UpsamplingNearest2d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip


class Upsample(Module):
    """`F.interpolate` as a module: resamples (N, C, *S) to `size`, or by `scale_factor`.

    >>> nn.Upsample(scale_factor=2, mode="bilinear")(fp.randn(1, 3, 8, 8)).shape
    (1, 3, 16, 16)
    """

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        amount = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{amount}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Upsample with mode "nearest"."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """Upsample with mode "bilinear" and aligned corners."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)


class PixelShuffle(Module):
    """Channels moved into space: (*, C·r², H, W) -> (*, C, H·r, W·r). Shi et al. (2016).

    >>> nn.PixelShuffle(2)(fp.zeros(1, 12, 4, 4)).shape
    (1, 3, 8, 8)
    """

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(*, C, H·r, W·r) -> (*, C·r², H, W)."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class _Pad(Module):
    rank: int
    mode = "constant"

    def __init__(self, padding: Any, value: float = 0.0) -> None:
        super().__init__()
        self.padding = spatial(padding, 2 * self.rank, type(self).__name__)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self.mode, self.value if self.mode == "constant" else None)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(_Pad):
    """`value` added left and right of (…, L): a number, or (left, right). Negative numbers crop."""

    rank = 1


class ConstantPad2d(_Pad):
    """`value` added around (…, H, W): a number, or (left, right, top, bottom). Negative numbers crop.

    >>> nn.ConstantPad2d(1, 5.0)(fp.zeros(1, 1)).tolist()
    [[5.0, 5.0, 5.0], [5.0, 0.0, 5.0], [5.0, 5.0, 5.0]]
    """

    rank = 2


class ConstantPad3d(_Pad):
    """`value` added around (…, D, H, W): a number, or six, the last dimension first."""

    rank = 3


class ZeroPad1d(_Pad):
    """Zeros added left and right of (…, L): a number, or (left, right)."""

    rank = 1


class ZeroPad2d(_Pad):
    """Zeros added around (…, H, W): a number, or (left, right, top, bottom)."""

    rank = 2


class ZeroPad3d(_Pad):
    """Zeros added around (…, D, H, W): a number, or six, the last dimension first."""

    rank = 3


class ReflectionPad1d(_Pad):
    """The input mirrored at the ends of (…, L), the edge itself not repeated."""

    rank, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """The input mirrored at the edges of (…, H, W), the edge itself not repeated."""

    rank, mode = 2, "reflect"


class ReplicationPad1d(_Pad):
    """The outermost elements of (…, L) repeated."""

    rank, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """The outermost elements of (…, H, W) repeated."""

    rank, mode = 2, "replicate"


class CircularPad1d(_Pad):
    """(…, L) continued from its other end."""

    rank, mode = 1, "circular"


class CircularPad2d(_Pad):
    """(…, H, W) continued from its other sides."""

    rank, mode = 2, "circular"


class ReflectionPad3d(_Pad):
    """The input mirrored at the faces of (…, D, H, W), the face itself not repeated."""

    rank, mode = 3, "reflect"


class ReplicationPad3d(_Pad):
    """The outermost elements of (…, D, H, W) repeated."""

    rank, mode = 3, "replicate"


class CircularPad3d(_Pad):
    """(…, D, H, W) continued from its other sides."""

    rank, mode = 3, "circular"


class ChannelShuffle(Module):
    """Channels (N, C, *) taken in turn from each of `groups` groups. Zhang et al., ShuffleNet (2017)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
