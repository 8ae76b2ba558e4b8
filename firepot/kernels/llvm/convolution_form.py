"""What a convolution kernel computes: sizes, strides, and which positions each result is summed from.

forward:      y[n, o, t]  = Σ_{c,k} x[n, c, s] · w[o, c, k]
input_grad:   dx[n, c, s] = Σ_{o,k} g[n, o, t] · w[o, c, k]
weight_grad:  dw[o, c, k] = Σ_{n,t} x[n, c, s] · g[n, o, t]      where s = t·stride + k·dilation − padding
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from firepot.graph.dtypes import DType
from firepot.kernels.llvm.builder import Builder, Value

Triple = tuple[int, int, int]
Five = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Convolution:
    """One mode of graph.primitives.contract.Convolve, with three spatial dimensions.

    Operands: 0 and 1 are the node's inputs with element strides by logical dimension (N, C, D, H, W or O, C/groups,
    kernel); then those of the epilogue, whose index is (N, C, D, H, W) with lanes along C, or (O, C/groups, kernel)
    with lanes along O; the workspace last.

    winograd: whether minimal filtering may be used, which multiplies less and rounds about six times as coarsely.
    """

    mode: str
    batch: int
    groups: int
    in_channels: int
    out_channels: int
    input_size: Triple
    kernel: Triple
    output_size: Triple
    stride: Triple
    dilation: Triple
    padding: Triple
    first_strides: Five
    second_strides: Five
    result_strides: Five
    dtype: DType
    accumulate: DType
    winograd: bool = True

    @property
    def products(self) -> int:
        """Multiplications of the definition, those with the padding included."""
        channels = self.out_channels * (self.in_channels // self.groups)
        return self.batch * math.prod(self.output_size) * channels * math.prod(self.kernel)

    @property
    def result_size(self) -> Triple:
        """The spatial size that forward and input gradient fill."""
        return self.output_size if self.mode == "forward" else self.input_size

    @property
    def source_size(self) -> Triple:
        """The spatial size of operand 0."""
        return self.output_size if self.mode == "input_grad" else self.input_size

    @property
    def source_channels(self) -> int:
        return self.out_channels if self.mode == "input_grad" else self.in_channels

    @property
    def result_channels(self) -> int:
        return self.in_channels if self.mode == "input_grad" else self.out_channels


@dataclass(frozen=True)
class Taps:
    """The kernel elements that matter along one dimension, evenly spaced.

    Tap j reads position q·stride + offset + j·offset_step with kernel element tap + j·tap_step; offset_step ≥ 0.
    """

    count: int
    offset: int
    offset_step: int
    tap: int
    tap_step: int

    def __iter__(self) -> itertools.starmap[tuple[int, int]]:
        """(offset, kernel element) of each."""
        return itertools.starmap(
            lambda j: (self.offset + j * self.offset_step, self.tap + j * self.tap_step),
            ((j,) for j in range(self.count)),
        )

    @property
    def last_offset(self) -> int:
        return self.offset + (self.count - 1) * self.offset_step


@dataclass(frozen=True)
class Sweep:
    """Result positions start + step·q for q in count; q is summed from positions q·stride + each tap's offset."""

    start: Triple
    step: Triple
    count: Triple
    stride: Triple
    taps: tuple[Taps, Taps, Taps]

    @property
    def all_taps(self) -> list[tuple[Triple, Triple]]:
        """(offset, kernel element) in three dimensions, the last dimension fastest."""
        return [
            ((z[0], y[0], x[0]), (z[1], y[1], x[1])) for z, y, x in itertools.product(*(list(t) for t in self.taps))
        ]


def sweeps(c: Convolution) -> list[Sweep]:
    """One for the forward pass and the weight gradient; for the input gradient one for each residue of the stride.

    So no product with a zero that the stride would insert is computed.
    """
    if c.mode != "input_grad":
        along = [Taps(c.kernel[d], -c.padding[d], c.dilation[d], 0, 1) for d in range(3)]
        return [Sweep((0, 0, 0), (1, 1, 1), c.output_size, c.stride, (along[0], along[1], along[2]))]
    result = []
    for phase in itertools.product(*map(range, c.stride)):
        # s = phase + stride·q receives g at t = (s + padding − k·dilation) / stride where that divides.
        along = []
        for d in range(3):
            hits = [k for k in range(c.kernel[d]) if (phase[d] + c.padding[d] - k * c.dilation[d]) % c.stride[d] == 0]
            hits.reverse()  # offsets ascend as kernel elements descend
            if not hits:
                along.append(Taps(0, 0, 0, 0, 0))
                continue
            offsets = [(phase[d] + c.padding[d] - k * c.dilation[d]) // c.stride[d] for k in hits]
            offset_step = offsets[1] - offsets[0] if len(hits) > 1 else 0
            tap_step = hits[1] - hits[0] if len(hits) > 1 else 0
            along.append(Taps(len(hits), offsets[0], offset_step, hits[0], tap_step))
        count = tuple(max(0, -(-(c.input_size[d] - phase[d]) // c.stride[d])) for d in range(3))
        if 0 not in count:
            result.append(
                Sweep(
                    (phase[0], phase[1], phase[2]),
                    c.stride,
                    (count[0], count[1], count[2]),
                    (1, 1, 1),
                    (along[0], along[1], along[2]),
                )
            )
    return result


def inside(b: Builder, taps: Taps, position: Value, stride: int, count: int, size: int) -> tuple[Value, Value]:
    """The taps [low, high) that read inside 0 … size − 1 for result `position` of `count`."""
    offsets = [offset for offset, _ in taps]
    low, high = b.index(0), b.index(0)
    reach = (count - 1) * stride
    first = b.mul(position, stride)
    for offset in offsets:
        if offset < 0:
            low = b.add(low, b.convert("zext", b.compare("slt", first, -offset), "i64"))
        if offset + reach < size:
            high = b.add(high, b.index(1))
        else:
            high = b.add(high, b.convert("zext", b.compare("slt", first, size - offset), "i64"))
    return low, high


def whole_columns(taps: Taps, stride: int, count: int, size: int) -> tuple[int, int]:
    """The result positions [low, high) along a dimension all of whose taps read inside 0 … size − 1."""
    if taps.count == 0:
        return 0, count
    low = max(0, math.ceil(-taps.offset / stride))
    high = min(count, (size - 1 - taps.last_offset) // stride + 1)
    return (low, high) if low < high else (0, 0)


def columns_inside(taps: Taps, stride: int, position: int, size: int) -> list[int]:
    """Numbers of the taps that read inside for one result position."""
    return [j for j, (offset, _) in enumerate(taps) if 0 <= position * stride + offset < size]


def even_tiles(count: int, most: int) -> tuple[int, int]:
    """(size, how many) of the fewest even pieces of at most `most`; the last may be smaller."""
    pieces = max(1, -(-count // most))
    size = max(1, -(-count // pieces))
    return size, -(-count // size)


def dot(values: Sequence[Value], factors: Sequence[int], b: Builder) -> Value:
    """Σ value · factor, over i64."""
    total = b.index(0)
    for value, factor in zip(values, factors, strict=True):
        if factor:
            total = b.add(total, b.mul(value, factor))
    return total
