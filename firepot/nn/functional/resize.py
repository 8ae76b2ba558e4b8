"""Padding and resampling of (N, C, *S)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from firepot import ops
from firepot.autocast_mode import autocasts, in_float32
from firepot.graph import dtypes
from firepot.ops.shape import constant_pad
from firepot.tensor import Tensor

__all__ = [
    "affine_grid", "channel_shuffle", "grid_sample", "interpolate", "pad", "pixel_shuffle", "pixel_unshuffle", "upsample",
    "upsample_bilinear", "upsample_nearest",
]  # fmt: skip


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Pad the last dimensions; `pad` holds (low, high) of the last dimension first.

    mode: "constant" (with `value`; negative numbers crop), "reflect", "replicate" or "circular".

    >>> F.pad(fp.ones(1, 2), (1, 0, 0, 1))
    tensor([[0., 1., 1.],
            [0., 0., 0.]])
    """
    if mode == "constant":
        return constant_pad(input, pad, 0 if value is None else value)
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(f"pad: mode must be 'constant', 'reflect', 'replicate' or 'circular', not {mode!r}")
    listed = mode == "replicate" or (mode == "reflect" and len(pad) <= 4)  # by torch's autocast
    result = in_float32(input) if listed else input
    for i in range(len(pad) // 2):
        dim, low, high = input.ndim - 1 - i, pad[2 * i], pad[2 * i + 1]
        size = input.shape[dim]
        limit = size - 1 if mode == "reflect" else size
        if mode != "replicate" and (low > limit or high > limit):
            raise RuntimeError(
                f"pad: {mode} padding ({low}, {high}) must be at most {limit} for dimension {dim} of {list(input.shape)}"
            )
        if low or high:
            result = _extended(result, dim, low, high, mode)
    return result


def _extended(x: Tensor, dim: int, low: int, high: int, mode: str) -> Tensor:
    size = x.shape[dim]
    parts = []
    if mode == "replicate" and (low < 0 or high < 0):  # the edge may have been cut off: read by position
        places = [min(max(i, 0), size - 1) for i in range(-low, size + high)]
        return ops.index_select(x, dim, ops.tensor(places, dtype=dtypes.int64))
    if low < 0 or high < 0:
        x = ops.narrow(x, dim, max(-low, 0), size - max(-low, 0) - max(-high, 0))
        return _extended(x, dim, max(low, 0), max(high, 0), mode) if low > 0 or high > 0 else x
    if low:
        if mode == "reflect":
            parts.append(ops.flip(ops.narrow(x, dim, 1, low), [dim]))
        elif mode == "circular":
            parts.append(ops.narrow(x, dim, size - low, low))
        else:
            parts.append(_repeated(ops.narrow(x, dim, 0, 1), dim, low))
    parts.append(x)
    if high:
        if mode == "reflect":
            parts.append(ops.flip(ops.narrow(x, dim, size - 1 - high, high), [dim]))
        elif mode == "circular":
            parts.append(ops.narrow(x, dim, 0, high))
        else:
            parts.append(_repeated(ops.narrow(x, dim, size - 1, 1), dim, high))
    return ops.cat(parts, dim)


def _repeated(x: Tensor, dim: int, count: int) -> Tensor:
    return x.expand([count if d == dim else s for d, s in enumerate(x.shape)])


@autocasts
def interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Tensor:  # fmt: skip
    """Resample (N, C, *S) to `size`, or by `scale_factor`.

    mode: "nearest", "nearest-exact", "linear" (3-d input), "bilinear", "bicubic" (4-d), "trilinear" (5-d), "area".
    align_corners has the corner samples meet, else the edges of the pixels do.

    >>> F.interpolate(fp.tensor([[[0.0, 1.0]]]), size=4, mode="linear")
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    rank = input.ndim - 2
    if rank not in (1, 2, 3):
        raise NotImplementedError(f"interpolate: expected an input of 3 to 5 dimensions, got {list(input.shape)}")
    if antialias:
        raise NotImplementedError("interpolate: antialias=True is not supported; blur or pool first")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    old = input.shape[2:]
    factors: list[float | None] = [None] * rank
    if size is not None:
        new = [size] * rank if isinstance(size, int) else [int(s) for s in size]
    else:
        given = [scale_factor] * rank if isinstance(scale_factor, (int, float)) else list(scale_factor)
        new = [math.floor(s * f) for s, f in zip(old, given, strict=False)]
        if not recompute_scale_factor:
            factors = [float(f) for f in given]
    if len(new) != rank:
        raise ValueError(f"interpolate: expected {rank} sizes for an input {list(input.shape)}, got {len(new)}")
    if any(n < 1 for n in new):
        raise RuntimeError(f"interpolate: the output size must be positive, got {new}")
    if mode == "area":
        from firepot.nn.functional import pooling

        pools = (pooling.adaptive_avg_pool1d, pooling.adaptive_avg_pool2d, pooling.adaptive_avg_pool3d)
        return pools[rank - 1](input, new)
    if mode in ("nearest", "nearest-exact"):
        result = input
        for d in range(rank):
            result = _nearest(result, d + 2, new[d], factors[d], exact=mode == "nearest-exact")
        return result
    named = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
    if named.get(mode) != rank:
        raise NotImplementedError(f"interpolate: mode {mode!r} does not fit an input of {input.ndim} dimensions")
    result = input
    for d in range(rank):
        matrix = _weights(old[d], new[d], factors[d], bool(align_corners), cubic=mode == "bicubic").to(input.dtype)
        # A product with a sparse matrix: sizes are small, and it differentiates by itself.
        result = ops.movedim(ops.matmul(ops.movedim(result, d + 2, -1), matrix), -1, d + 2)
    return result


upsample = interpolate


def _nearest(x: Tensor, dim: int, new: int, factor: float | None, exact: bool) -> Tensor:
    old = x.shape[dim]
    if new % old == 0 and (factor is None or factor == new // old):
        return ops.repeat_interleave(x, new // old, dim) if new != old else x
    step = 1 / factor if factor is not None else old / new
    places = [min(math.floor((i + 0.5) * step if exact else i * step), old - 1) for i in range(new)]
    return ops.index_select(x, dim, ops.tensor(places))


def _weights(old: int, new: int, factor: float | None, align_corners: bool, cubic: bool) -> Tensor:
    """The matrix (old, new) of one dimension's interpolation."""
    rows = [[0.0] * new for _ in range(old)]
    for i in range(new):
        if align_corners:
            place = i * (old - 1) / (new - 1) if new > 1 else 0.0
        else:
            place = (i + 0.5) * (1 / factor if factor is not None else old / new) - 0.5
        if not cubic:
            place = max(place, 0.0)
        first = math.floor(place)
        t = place - first
        taps = _cubic(t) if cubic else ((0, 1 - t), (1, t))
        for offset, weight in taps:
            rows[min(max(first + offset, 0), old - 1)][i] += weight
    return ops.tensor(rows, dtype=dtypes.float64)


def _cubic(t: float, a: float = -0.75) -> tuple[tuple[int, float], ...]:
    """Keys, Cubic convolution interpolation (1981), with a = −0.75 as PyTorch has it."""

    def near(x: float) -> float:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: float) -> float:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return (-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C·r², H, W) -> (*, C, H·r, W·r). Shi et al. (2016)."""
    r = upscale_factor
    *batch, c, h, w = input.shape
    if c % (r * r):
        raise RuntimeError(f"pixel_shuffle: the channels of {list(input.shape)} must be divisible by {r * r}")
    n = len(batch)
    x = input.reshape(*batch, c // (r * r), r, r, h, w)
    x = x.permute(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*batch, c // (r * r), h * r, w * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H·r, W·r) -> (*, C·r², H, W)."""
    r = downscale_factor
    *batch, c, h, w = input.shape
    if h % r or w % r:
        raise RuntimeError(f"pixel_unshuffle: the sizes of {list(input.shape)} must be divisible by {r}")
    n = len(batch)
    x = input.reshape(*batch, c, h // r, r, w // r, r)
    return x.permute(*range(n), n, n + 2, n + 4, n + 1, n + 3).reshape(*batch, c * r * r, h // r, w // r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels (N, C, *) taken in turn from each of `groups` groups. Zhang et al., ShuffleNet (2017)."""
    if input.ndim < 3:
        raise RuntimeError(f"channel_shuffle: expected an input with more than 2 dimensions, got {list(input.shape)}")
    if groups <= 0 or input.shape[1] % groups:
        raise RuntimeError(f"channel_shuffle: the channels of {list(input.shape)} must be divisible by groups {groups}")
    n, c, *space = input.shape
    return input.reshape(n, groups, c // groups, *space).transpose(1, 2).reshape(input.shape)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """interpolate with mode "nearest"."""
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """interpolate with mode "bilinear" and aligned corners."""
    return interpolate(input, size, scale_factor, "bilinear", align_corners=True)


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Sampling positions (N, H, W, 2) of affine maps theta (N, 2, 3), or (N, D, H, W, 3) of (N, 3, 4)."""
    n, _, *space = size
    rank = len(space)
    if theta.shape != (n, rank, rank + 1) or rank not in (2, 3) or any(s <= 0 for s in size):
        raise ValueError(f"affine_grid: theta {list(theta.shape)} and size {list(size)} do not fit")

    def line(count: int) -> Tensor:
        if align_corners:
            return ops.linspace(-1, 1, count, dtype=theta.dtype) if count > 1 else ops.zeros(1, dtype=theta.dtype)
        return (ops.arange(count).to(theta.dtype) * 2 + 1) / count - 1

    axes = ops.meshgrid(*(line(s) for s in space))
    base = ops.stack([*reversed(axes), ops.ones_like(axes[0])], -1).reshape(1, -1, rank + 1)
    points = ops.matmul(base.expand(n, base.shape[1], rank + 1), theta.transpose(1, 2))
    return points.reshape(n, *space, rank)


@autocasts
def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """Sample (N, C, H, W) at grid (N, H', W', 2) of (x, y) in −1 … 1, or (N, C, D, H, W) at (N, D', H', W', 3).

    mode: "bilinear", "nearest" or (4-d only) "bicubic"; padding_mode: "zeros", "border" or "reflection".
    """
    rank = input.ndim - 2
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(f"grid_sample: mode must be 'bilinear', 'nearest' or 'bicubic', not {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"grid_sample: padding_mode must be 'zeros', 'border' or 'reflection', not {padding_mode!r}")
    if rank not in (2, 3) or grid.ndim != input.ndim or grid.shape[-1] != rank or grid.shape[0] != input.shape[0]:
        raise RuntimeError(f"grid_sample: input {list(input.shape)} and grid {list(grid.shape)} do not fit")
    if mode == "bicubic" and rank == 3:
        raise RuntimeError("grid_sample: mode 'bicubic' only takes 4-d input")
    if 0 in input.shape[1:]:
        raise RuntimeError(f"grid_sample: only the batch may be empty, got {list(input.shape)}")
    space = input.shape[2:]
    n = input.shape[0]
    batch = ops.arange(n).reshape([n] + [1] * rank)
    channels_last = ops.movedim(input, 1, -1)

    def bounded(at: Tensor, size: int) -> Tensor:
        if padding_mode == "border":
            return _clipped(at, size)
        if padding_mode == "reflection":
            return _clipped(_reflected(at, size, bool(align_corners)), size)
        return at

    def value(places: Sequence[Tensor]) -> Tensor:
        inside: Tensor | None = None
        rows = []
        for p, size in zip(places, space, strict=True):
            within = ops.logical_and(p >= 0, p < size)
            inside = within if inside is None else ops.logical_and(inside, within)
            rows.append(ops.clamp(ops.nan_to_num(p, 0.0, 0.0, 0.0), 0, size - 1).to(dtypes.int64))
        assert inside is not None
        return ops.where(inside.unsqueeze(-1), channels_last[(batch, *rows)], 0.0)

    # The grid's coordinates are (x, y, z): from the last dimension to the first.
    raw = [grid[..., rank - 1 - d] for d in range(rank)]
    at = [(c + 1) / 2 * (s - 1) if align_corners else ((c + 1) * s - 1) / 2 for c, s in zip(raw, space, strict=True)]
    if mode == "bicubic":
        return ops.movedim(_bicubic(at, space, bounded, value), -1, 1)
    at = [bounded(c, s) for c, s in zip(at, space, strict=True)]
    if mode == "nearest":
        return ops.movedim(value([ops.round(c.detach()) for c in at]), -1, 1)
    low = [ops.floor(c.detach()) for c in at]
    part = [c - f for c, f in zip(at, low, strict=True)]
    result: Tensor | None = None
    for corner in itertools.product((0, 1), repeat=rank):
        weight: Tensor | None = None
        for up, t in zip(corner, part, strict=True):
            factor = t if up else 1 - t
            weight = factor if weight is None else weight * factor
        assert weight is not None
        term = value([f + up for f, up in zip(low, corner, strict=True)]) * weight.unsqueeze(-1)
        result = term if result is None else result + term
    assert result is not None
    return ops.movedim(result, -1, 1)


def _clipped(at: Tensor, size: int) -> Tensor:
    """Within 0 … size − 1; the gradient is zero at the limits, and NaN goes to 0, as PyTorch has it."""
    inside = ops.logical_and(at > 0, at < size - 1)
    return ops.where(inside, at, ops.clamp(ops.nan_to_num(at.detach(), 0.0), 0, size - 1))


def _reflected(at: Tensor, size: int, align_corners: bool) -> Tensor:
    """Mirrored at the centres (aligned) or the edges of the outermost elements as often as it takes."""
    low, span = (0.0, float(size - 1)) if align_corners else (-0.5, float(size))
    if span == 0:
        return at * 0
    away = ops.abs(at - low)
    turns = ops.floor(away.detach() / span)
    rest = away - turns * span
    even = ops.remainder(turns, 2) == 0
    return ops.where(even, rest + low, span - rest + low)


def _bicubic(at: Sequence[Tensor], space: Sequence[int], bounded: Any, value: Any) -> Tensor:
    low = [ops.floor(c.detach()) for c in at]
    weights = [_cubic_tensors(c - f) for c, f in zip(at, low, strict=True)]
    result: Tensor | None = None
    for i, j in itertools.product(range(4), repeat=2):
        places = [bounded(f + (k - 1), s) for f, k, s in zip(low, (i, j), space, strict=True)]
        term = value(places) * (weights[0][i] * weights[1][j]).unsqueeze(-1)
        result = term if result is None else result + term
    assert result is not None
    return result


def _cubic_tensors(t: Tensor, a: float = -0.75) -> tuple[Tensor, ...]:
    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)
