"""Padding and resampling of (N, C, *S)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from firepot import ops
from firepot.graph import dtypes
from firepot.ops.shape import constant_pad
from firepot.tensor import Tensor

__all__ = ["affine_grid", "grid_sample", "interpolate", "pad", "pixel_shuffle", "pixel_unshuffle", "upsample"]


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
    result = input
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
    return ops.tensor(rows)


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


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Sampling positions (N, H, W, 2) of affine maps theta (N, 2, 3)."""
    n, _, h, w = size

    def line(count: int) -> Tensor:
        if align_corners:
            return ops.linspace(-1, 1, count) if count > 1 else ops.zeros(1)
        return (ops.arange(count).to(theta.dtype) * 2 + 1) / count - 1

    x, y = line(w).reshape(1, w).expand(h, w), line(h).reshape(h, 1).expand(h, w)
    base = ops.stack([x, y, ops.ones_like(x)], -1).reshape(1, h * w, 3).expand(n, h * w, 3)
    return ops.matmul(base.to(theta.dtype), theta.transpose(1, 2)).reshape(n, h, w, 2)


def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """Sample (N, C, H, W) at grid (N, H', W', 2) of (x, y) in −1 … 1. mode: "bilinear" or "nearest"; padding_mode:
    "zeros" or "border"."""
    if mode not in ("bilinear", "nearest") or padding_mode not in ("zeros", "border"):
        raise NotImplementedError(f"grid_sample: mode {mode!r} with padding_mode {padding_mode!r} is not supported")
    n, _c, h, w = input.shape

    def place(coordinate: Tensor, size: int) -> Tensor:
        at = (coordinate + 1) / 2 * (size - 1) if align_corners else ((coordinate + 1) * size - 1) / 2
        return ops.clamp(at, 0, size - 1) if padding_mode == "border" else at

    x, y = place(grid[..., 0], w), place(grid[..., 1], h)
    batch = ops.arange(n).reshape(n, 1, 1)
    channels_last = input.permute(0, 2, 3, 1)

    def corner(row: Tensor, column: Tensor, weight: Tensor | None) -> Tensor:
        inside = ops.logical_and(ops.logical_and(row >= 0, row < h), ops.logical_and(column >= 0, column < w))
        rows, columns = ops.clamp(row, 0, h - 1).to(dtypes.int64), ops.clamp(column, 0, w - 1).to(dtypes.int64)
        value = ops.where(inside.unsqueeze(-1), channels_last[batch, rows, columns], 0.0)
        return value if weight is None else value * weight.unsqueeze(-1)

    if mode == "nearest":
        return corner(ops.round(y.detach()), ops.round(x.detach()), None).permute(0, 3, 1, 2)
    left, top = ops.floor(x.detach()), ops.floor(y.detach())
    u, v = x - left, y - top
    result = (
        corner(top, left, (1 - v) * (1 - u)) + corner(top, left + 1, (1 - v) * u)
        + corner(top + 1, left, v * (1 - u)) + corner(top + 1, left + 1, v * u)
    )  # fmt: skip
    return result.permute(0, 3, 1, 2)
