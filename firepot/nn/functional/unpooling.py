"""Max pooling undone, and pooling over windows drawn at random."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.autocast_mode import autocasts
from firepot.autograd import Function
from firepot.graph import dtypes
from firepot.ops.convolution import spatial
from firepot.tensor import Tensor

__all__ = [
    "fractional_max_pool2d", "fractional_max_pool2d_with_indices", "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip


class _PutBack(Function):
    """Values written at places of the last dimension. Where windows overlapped, one element stands for several maxima
    of equal value; each of them gets its gradient, as PyTorch has it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        return ops.scatter(ops.zeros((*values.shape[:-1], size), dtype=values.dtype), -1, places, values)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return ops.gather(g, -1, places), None, None


def _unpool(
    what: str, rank: int, input: Tensor, indices: Tensor, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> Tensor:
    if input.ndim not in (rank + 1, rank + 2) or indices.shape != input.shape:
        raise RuntimeError(
            f"{what}: expected an input of {rank + 1} or {rank + 2} dimensions and indices of its shape, got "
            f"{list(input.shape)} and {list(indices.shape)}"
        )
    if indices.dtype is not dtypes.int64:
        raise RuntimeError(f"{what}: elements in indices should be type int64 but got: {indices.dtype.name}")
    kernel = spatial(kernel_size, rank, what)
    strides = kernel if stride is None or stride == () else spatial(stride, rank, what)
    paddings = spatial(padding, rank, what)
    small = input.shape[-rank:]
    usual = [(s - 1) * t + k - 2 * p for s, t, k, p in zip(small, strides, kernel, paddings, strict=True)]
    size = usual if output_size is None else [int(o) for o in list(output_size)[-rank:]]
    if output_size is not None:
        for o, u, t in zip(size, usual, strides, strict=True):
            if not u - t < o < u + t:
                raise ValueError(f"{what}: output_size {size} must lie within {usual} ± stride {list(strides)}")
    batch = input.shape[:-rank]
    if not input.numel():
        return ops.zeros((*batch, *size), dtype=input.dtype)
    values, places = input.reshape(*batch, -1), indices.reshape(*batch, -1)
    result: Tensor = _PutBack.apply(values, places, math.prod(size))
    return result.reshape(*batch, *size)


@autocasts
def max_unpool1d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Elements put back where max_pool1d with return_indices took them from, zeros elsewhere."""
    return _unpool("max_unpool1d", 1, input, indices, kernel_size, stride, padding, output_size)


@autocasts
def max_unpool2d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Elements put back where max_pool2d with return_indices took them from, zeros elsewhere."""
    return _unpool("max_unpool2d", 2, input, indices, kernel_size, stride, padding, output_size)


@autocasts
def max_unpool3d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Elements put back where max_pool3d with return_indices took them from, zeros elsewhere."""
    return _unpool("max_unpool3d", 3, input, indices, kernel_size, stride, padding, output_size)


def _starts(samples: Tensor, size: int, out: int, kernel: int) -> Tensor:
    """(…,) uniform numbers -> (…, out): where the windows begin. Graham, Fractional max-pooling (2014)."""
    u = samples.unsqueeze(-1)
    if out == 1:
        return ops.full((*samples.shape, 1), size - kernel, dtype=dtypes.int64)
    alpha = (size - kernel) / (out - 1)
    place = ops.arange(out - 1).to(samples.dtype)
    found = (ops.floor((place + u) * alpha) - ops.floor(u * alpha)).to(dtypes.int64)
    last = ops.full((*samples.shape, 1), size - kernel, dtype=dtypes.int64)
    return ops.cat([found, last], -1)


def _fractional(
    what: str, rank: int, input: Tensor, kernel_size: Any, output_size: Any, output_ratio: Any, samples: Tensor | None
) -> tuple[Tensor, Tensor]:
    if (output_size is None) == (output_ratio is None):
        raise ValueError(f"{what} requires specifying either an output_size or an output_ratio")
    if input.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(f"{what}: expected an input of {rank + 1} or {rank + 2} dimensions, got {list(input.shape)}")
    size = input.shape[-rank:]
    kernel = spatial(kernel_size, rank, what)
    if output_size is not None:
        out = spatial(output_size, rank, what)
    else:
        ratios = (output_ratio,) * rank if isinstance(output_ratio, (int, float)) else tuple(output_ratio)
        if any(not 0 < r < 1 for r in ratios):
            raise ValueError(f"{what}: output_ratio must be between 0 and 1, got {list(ratios)}")
        out = tuple(int(s * r) for s, r in zip(size, ratios, strict=True))
    if any(o < 1 or o + k - 1 > s for o, k, s in zip(out, kernel, size, strict=True)):
        raise RuntimeError(f"{what}: kernel {list(kernel)} and output {list(out)} do not fit the input {list(size)}")
    x = input if input.ndim == rank + 2 else input.unsqueeze(0)
    n, c = x.shape[:2]
    if not x.numel():
        empty = ops.zeros((*input.shape[:-rank], *out), dtype=input.dtype)
        return empty, empty.to(dtypes.int64)
    u = ops.rand(n, c, rank, dtype=input.dtype) if samples is None else samples
    if u.ndim != 3 or u.shape[0] < n or u.shape[1:] != (c, rank):
        raise RuntimeError(f"{what}: expected _random_samples of shape {[n, c, rank]} or more, got {list(u.shape)}")
    u = u[:n]
    index: Tensor | None = None
    for d in range(rank):  # PyTorch's samples belong to the dimensions from the last to the first
        start = _starts(u[:, :, rank - 1 - d], size[d], out[d], kernel[d])
        shape = [n, c] + [1] * (2 * rank)
        shape[2 + d] = out[d]
        window = [1] * (2 + 2 * rank)
        window[2 + rank + d] = kernel[d]
        place = start.reshape(shape) + ops.arange(kernel[d]).reshape(window)
        index = place if index is None else index * size[d] + place
    assert index is not None
    full = (n, c, *out, *kernel)
    places = index.expand(full).reshape(n, c, -1)
    windows = ops.gather(x.reshape(n, c, -1), 2, places).reshape(n, c, *out, -1)
    values, chosen = ops.max(windows, -1)
    where = ops.gather(places.reshape(n, c, *out, -1), -1, chosen.unsqueeze(-1)).squeeze(-1)
    return (values, where) if x is input else (values.squeeze(0), where.squeeze(0))


def fractional_max_pool2d_with_indices(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """fractional_max_pool2d and the indices of the elements in the flattened H·W."""
    return _fractional("fractional_max_pool2d", 2, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool3d_with_indices(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """fractional_max_pool3d and the indices of the elements in the flattened D·H·W."""
    return _fractional("fractional_max_pool3d", 3, input, kernel_size, output_size, output_ratio, _random_samples)


@autocasts
def fractional_max_pool2d(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """The largest element of windows whose places are drawn at random. Graham, Fractional max-pooling (2014)."""
    found = _fractional("fractional_max_pool2d", 2, input, kernel_size, output_size, output_ratio, _random_samples)
    return found if return_indices else found[0]


@autocasts
def fractional_max_pool3d(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """The largest element of windows whose places are drawn at random. Graham, Fractional max-pooling (2014)."""
    found = _fractional("fractional_max_pool3d", 3, input, kernel_size, output_size, output_ratio, _random_samples)
    return found if return_indices else found[0]
