"""Pooling over the last dimensions of (N, C, *S) or (C, *S)."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.autocast_mode import autocasts, in_float32
from firepot.graph import dtypes
from firepot.ops.convolution import spatial
from firepot.tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
]  # fmt: skip


class _Geometry:
    """Kernel, stride, padding and output size of a pooling, checked."""

    def __init__(
        self, what: str, rank: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
        ceil_mode: bool,
    ) -> None:  # fmt: skip
        if input.ndim not in (rank + 1, rank + 2):
            raise RuntimeError(
                f"{what}: expected an input of {rank + 1} or {rank + 2} dimensions, got {list(input.shape)}"
            )
        self.kernel = spatial(kernel_size, rank, what)
        self.stride = self.kernel if stride is None or stride == () else spatial(stride, rank, what)
        self.padding, self.dilation = spatial(padding, rank, what), spatial(dilation, rank, what)
        self.size = input.shape[-rank:]
        if 0 in input.shape[-rank - 1 :]:
            raise RuntimeError(f"{what}: only the batch may be empty, got {list(input.shape)}")
        for k, s, p, d in zip(self.kernel, self.stride, self.padding, self.dilation, strict=True):
            if k < 1 or s < 1 or d < 1:
                raise RuntimeError(f"{what}: kernel size, stride and dilation must be positive, got {k}, {s}, {d}")
            if p < 0 or p > k // 2:
                raise RuntimeError(f"{what}: padding must be between 0 and half the kernel size {k}, got {p}")
        self.output = tuple(
            _output(*each, ceil_mode)
            for each in zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        if any(o < 1 for o in self.output):
            raise RuntimeError(
                f"{what}: kernel {list(self.kernel)} does not fit the padded input {list(self.size)}: the output size "
                f"would be {list(self.output)}"
            )

    def windows(self, input: Tensor, fill: float) -> Tensor:
        return ops.windows(input, self.kernel, self.stride, self.padding, self.dilation, fill, output_size=self.output)


def _output(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    out = -(-span // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out  # the last window starts inside the input


def _max_pool(
    what: str, rank: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    return_indices: bool,
) -> Any:  # fmt: skip
    g = _Geometry(what, rank, input, kernel_size, stride, padding, dilation, ceil_mode)
    lowest: float = -math.inf if input.dtype.kind == "f" else ops.iinfo(input.dtype).min
    windows = g.windows(input, lowest)
    flat = windows.flatten(-rank)
    if return_indices:
        values, place = ops.max(flat, -1)
        return values, _positions(place, g)
    return ops.max(flat, -1)[0]


def _positions(place: Tensor, g: _Geometry) -> Tensor:
    """The place in the window of each result as an index into the flattened input."""
    rank = len(g.kernel)
    index = None
    for d in range(rank):
        inner = math.prod(g.kernel[d + 1 :])
        within = ops.floor_divide(place, inner) % g.kernel[d]
        start = ops.arange(g.output[d]).reshape([-1 if i == d else 1 for i in range(rank)]) * g.stride[d]
        coordinate = within * g.dilation[d] + start - g.padding[d]
        index = coordinate if index is None else index * g.size[d] + coordinate
    assert index is not None
    return index


def max_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window; with return_indices also its index."""
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window of (N, C, H, W) or (C, H, W); with return_indices also its index in the
    flattened H·W. stride defaults to kernel_size. RuntimeError for padding above half the kernel.

    >>> F.max_pool2d(fp.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    tensor([[ 5.,  7.],
            [13., 15.]])
    """
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window; with return_indices also its index in the flattened D·H·W."""
    if not return_indices:
        input = in_float32(input)
    return _max_pool("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(
    what: str, rank: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    g = _Geometry(what, rank, input, kernel_size, stride, padding, 1, ceil_mode)
    total = ops.sum(g.windows(input, 0), tuple(range(-rank, 0)))
    whole = input.dtype.kind != "f"  # integers are divided as C divides them
    if divisor_override is not None:
        if divisor_override == 0:
            raise RuntimeError(f"{what}: divisor must be not zero")
        return ops.div(total, divisor_override, rounding_mode="trunc") if whole else total / divisor_override
    reach = [s + 2 * p for s, p in zip(g.size, g.padding, strict=True)]
    beyond = any((o - 1) * s + k > r for o, s, k, r in zip(g.output, g.stride, g.kernel, reach, strict=True))
    if not beyond and (count_include_pad or not any(g.padding)):
        if whole:
            return ops.div(total, math.prod(g.kernel), rounding_mode="trunc")
        return total * (1 / math.prod(g.kernel))
    counts: Any = 1
    for d in range(rank):
        first = ops.arange(g.output[d]) * g.stride[d] - g.padding[d]
        end = ops.clamp(first + g.kernel[d], max=g.size[d] + g.padding[d])
        if not count_include_pad:
            first, end = ops.clamp(first, min=0), ops.clamp(end, max=g.size[d])
        counts = (end - first).reshape([-1 if i == d else 1 for i in range(rank)]) * counts
    return ops.div(total, counts, rounding_mode="trunc") if whole else total / counts.to(input.dtype)


def avg_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window."""
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window of (N, C, H, W) or (C, H, W). stride defaults to kernel_size.

    >>> F.avg_pool2d(fp.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    tensor([[ 2.5000,  4.5000],
            [10.5000, 12.5000]])
    """
    return _avg_pool(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@autocasts
def avg_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window."""
    return _avg_pool(
        "avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def _adaptive_size(what: str, rank: int, input: Tensor, output_size: Any) -> tuple[int, ...]:
    if input.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(f"{what}: expected an input of {rank + 1} or {rank + 2} dimensions, got {list(input.shape)}")
    wanted = (output_size,) * rank if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(wanted) != rank:
        raise RuntimeError(f"{what}: expected one output size or {rank}, got {list(wanted)}")
    return tuple(s if w is None else int(w) for w, s in zip(wanted, input.shape[-rank:], strict=True))


def _segments(size: int, count: int) -> list[tuple[int, int]]:
    """PyTorch's windows of adaptive pooling: from floor(i·size/count) to ceil((i + 1)·size/count)."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _adaptive_avg(what: str, rank: int, input: Tensor, output_size: Any) -> Tensor:
    wanted = _adaptive_size(what, rank, input, output_size)
    result = input
    for d, count in enumerate(wanted, input.ndim - rank):  # a mean over a box is a mean along each dimension
        size = result.shape[d]
        if count == size:
            continue
        if count == 1:
            result = ops.mean(result, d, keepdim=True)
        elif size % count == 0:
            shape = (*result.shape[:d], count, size // count, *result.shape[d + 1 :])
            result = ops.mean(result.reshape(shape), d + 1)
        else:
            result = ops.cat(
                [ops.mean(ops.narrow(result, d, a, b - a), d, keepdim=True) for a, b in _segments(size, count)], d
            )
    return result


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Means over windows that divide the input into output_size parts."""
    return _adaptive_avg("adaptive_avg_pool1d", 1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means over windows that divide the input into output_size parts; None keeps a size."""
    return _adaptive_avg("adaptive_avg_pool2d", 2, input, output_size)


@autocasts
def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Means over windows that divide the input into output_size parts; None keeps a size."""
    return _adaptive_avg("adaptive_avg_pool3d", 3, input, output_size)


def _adaptive_max(what: str, rank: int, input: Tensor, output_size: Any, return_indices: bool) -> Any:
    wanted = _adaptive_size(what, rank, input, output_size)
    size = input.shape[-rank:]
    if all(s % w == 0 for s, w in zip(size, wanted, strict=True)):
        kernel = tuple(s // w for s, w in zip(size, wanted, strict=True))
        return _max_pool(what, rank, input, kernel, None, 0, 1, False, return_indices)
    if return_indices:
        return _adaptive_max_with_indices(rank, input, wanted)
    result = input
    for d, count in enumerate(wanted, input.ndim - rank):
        parts = [
            ops.amax(ops.narrow(result, d, a, b - a), d, keepdim=True) for a, b in _segments(result.shape[d], count)
        ]
        result = ops.cat(parts, d)
    return result


def _adaptive_max_with_indices(rank: int, input: Tensor, wanted: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Windows of unequal sizes as equal ones: where one is shorter its last element counts twice."""
    size = input.shape[-rank:]
    batch = input.shape[:-rank]
    index: Tensor | None = None
    spans = [max((b - a for a, b in _segments(s, w)), default=1) for s, w in zip(size, wanted, strict=True)]
    for d in range(rank):
        rows = [[min(a + k, b - 1) for k in range(spans[d])] for a, b in _segments(size[d], wanted[d])]
        shape = [1] * (2 * rank)
        shape[d], shape[rank + d] = wanted[d], spans[d]
        place = ops.tensor(rows, dtype=dtypes.int64).reshape(shape)
        index = place if index is None else index * size[d] + place
    assert index is not None
    places = index.expand((*wanted, *spans)).reshape(-1)
    windows = ops.index_select(input.reshape(*batch, -1), len(batch), places).reshape(*batch, *wanted, -1)
    values, chosen = ops.max(windows, -1)
    rows_of = places.reshape(*wanted, -1).expand(windows.shape)
    return values, ops.gather(rows_of, -1, chosen.unsqueeze(-1)).squeeze(-1)


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima over windows that divide the input into output_size parts."""
    return _adaptive_max("adaptive_max_pool1d", 1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima over windows that divide the input into output_size parts."""
    return _adaptive_max("adaptive_max_pool2d", 2, input, output_size, return_indices)


@autocasts
def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima over windows that divide the input into output_size parts."""
    return _adaptive_max("adaptive_max_pool3d", 3, input, output_size, return_indices)


def _lp_pool(
    what: str, rank: int, input: Tensor, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool
) -> Tensor:
    g = _Geometry(what, rank, input, kernel_size, stride, 0, 1, ceil_mode)
    powers = g.windows(ops.pow(input, norm_type), 0)
    total = ops.sum(powers, tuple(range(-rank, 0)))
    return ops.pow(ops.sign(total) * ops.relu(ops.abs(total)), 1 / norm_type)


def lp_pool1d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """(Σ x^p)^(1/p) of each window."""
    return _lp_pool("lp_pool1d", 1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """(Σ x^p)^(1/p) of each window."""
    return _lp_pool("lp_pool3d", 3, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """(Σ x^p)^(1/p) of each window."""
    return _lp_pool("lp_pool2d", 2, input, norm_type, kernel_size, stride, ceil_mode)


def max_pool1d_with_indices(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """max_pool1d with return_indices."""
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def adaptive_max_pool1d_with_indices(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """adaptive_max_pool1d with return_indices."""
    return _adaptive_max("adaptive_max_pool1d", 1, input, output_size, True)


def max_pool2d_with_indices(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """max_pool2d with return_indices."""
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def adaptive_max_pool2d_with_indices(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """adaptive_max_pool2d with return_indices."""
    return _adaptive_max("adaptive_max_pool2d", 2, input, output_size, True)


def max_pool3d_with_indices(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """max_pool3d with return_indices."""
    return _max_pool("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def adaptive_max_pool3d_with_indices(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """adaptive_max_pool3d with return_indices."""
    return _adaptive_max("adaptive_max_pool3d", 3, input, output_size, True)
