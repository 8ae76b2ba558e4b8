"""Activations as the tiles read them: in place where that is possible, else copied once.

The copy is channels-last, in the accumulator's dtype, with a border of zeros wide enough for every tap: it converts
half precision and other layouts on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from firepot.graph.dtypes import DType
from firepot.kernels.llvm.builder import Builder, Operand, Value
from firepot.kernels.llvm.convolution_form import Convolution, Five, Sweep, Triple
from firepot.kernels.llvm.expression import load_element, memory_type, register_type

_LANES = 16  # of the copying loops


@dataclass(frozen=True)
class Source:
    """An activation: channels contiguous, `origin` its position (0, 0, 0) in elements.

    strides:  of N, D, H, W in elements
    low:      border widths of the copy before the first position
    padded:   the copy's size
    inside:   whether every tap of every result reads inside the border
    bytes:    of the copy; 0 in place
    """

    channels: int
    size: Triple
    strides: tuple[int, int, int, int]
    origin: int
    low: Triple
    padded: Triple
    copied: bool
    inside: bool
    bytes: int


def source(
    c: Convolution, sweeps: Sequence[Sweep], channels: int, size: Triple, strides: Five, slack: int = 0,
    bordered: bool = False, copied: bool = False,
) -> Source:  # fmt: skip
    """How the sweeps read an activation of this size.

    Args:
        slack: positions that a tile may read (never use) behind the end of a row of the copy.
        bordered: the reader cannot leave out taps that lie outside, so they must find zeros.
        copied: the reader wants a copy whatever the layout.
    """
    low, high = [0, 0, 0], [0, 0, 0]
    for d in range(3):
        for sweep in sweeps:
            if not sweep.taps[d].count:
                continue
            low[d] = max(low[d], -sweep.taps[d].offset)
            last = (sweep.count[d] - 1) * sweep.stride[d] + sweep.taps[d].last_offset
            high[d] = max(high[d], last - size[d] + 1)
    reaches_out = any(low) or any(high)
    plain = (strides[1] == 1 or channels == 1) and c.dtype is c.accumulate
    if plain and not copied and not (bordered and reaches_out):
        place = (strides[0], strides[2], strides[3], strides[4])
        return Source(channels, size, place, 0, (0, 0, 0), size, False, not reaches_out, 0)
    padded = (size[0] + low[0] + high[0], size[1] + low[1] + high[1], size[2] + low[2] + high[2])
    w = channels
    h = padded[2] * w
    z = padded[1] * h
    n = padded[0] * z
    origin = low[0] * z + low[1] * h + low[2] * w
    total = (c.batch * n + slack * channels) * c.accumulate.size
    return Source(channels, size, (n, z, h, w), origin, (low[0], low[1], low[2]), padded, True, True, round_up(total))


def round_up(bytes: int) -> int:
    """The next multiple of the alignment of operands."""
    return -(-bytes // 64) * 64


def copy(b: Builder, c: Convolution, operand: Value, strides: Five, s: Source, target: Value) -> None:
    """Make the copy in this thread's share of its rows."""
    type = register_type(c.accumulate)
    depth, height, width = s.padded
    start, stop = b.share(c.batch * depth * height)
    with b.loop(start, stop) as row:
        y, rest = b.urem(row, height), b.udiv(row, height)
        z, n = b.urem(rest, depth), b.udiv(rest, depth)
        line = b.element(target, type, b.mul(row, width * s.channels))
        sy, sz = b.sub(y, s.low[1]), b.sub(z, s.low[0])
        exists = b.and_(b.compare("ult", sy, s.size[1]), b.compare("ult", sz, s.size[0]))
        with b.when(b.xor(exists, b.constant(True, "i1"))):
            _clear(b, c.accumulate, line, 0, width * s.channels)
        with b.when(exists):
            after = s.low[2] + s.size[2]
            _clear(b, c.accumulate, line, 0, s.low[2] * s.channels)
            _clear(b, c.accumulate, line, after * s.channels, width * s.channels)
            origin = b.add(b.add(b.mul(n, strides[0]), b.mul(sz, strides[2])), b.mul(sy, strides[3]))
            inner = b.element(line, type, s.low[2] * s.channels)
            _copy_positions(b, c, operand, origin, strides, s, inner)


def _copy_positions(
    b: Builder, c: Convolution, operand: Value, origin: Value, strides: Five, s: Source, target: Value
) -> None:
    """One row's positions with all their channels."""
    type, element = register_type(c.accumulate), memory_type(c.dtype)
    if strides[1] == 1 and (strides[4] == s.channels or s.size[2] == 1):
        _copy_line(b, c, operand, origin, target, s.size[2] * s.channels)
    elif strides[1] == 1 and s.channels >= _LANES:
        with b.loop(0, s.size[2]) as x:
            there = b.element(target, type, b.mul(x, s.channels))
            _copy_line(b, c, operand, b.add(origin, b.mul(x, strides[4])), there, s.channels)
    else:
        with b.loop(0, s.channels) as channel, b.loop(0, s.size[2], unroll=4) as x:
            place = b.add(b.add(origin, b.mul(x, strides[4])), b.mul(channel, strides[1]))
            value = load_element(b, b.element(operand, element, place), c.dtype, 1, None)
            b.store(value, b.element(target, type, b.add(b.mul(x, s.channels), channel)))


def _copy_line(b: Builder, c: Convolution, operand: Value, origin: Value, target: Value, count: int) -> None:
    type, element = register_type(c.accumulate), memory_type(c.dtype)

    def move(i: Operand, lanes: int) -> None:
        place = b.element(operand, element, b.add(origin, i))
        b.store(load_element(b, place, c.dtype, lanes, None), b.element(target, type, i))

    whole = count // _LANES * _LANES
    if whole:
        with b.loop(0, whole, _LANES) as i:
            move(i, _LANES)
    if count > whole:
        with b.loop(whole, count) as i:
            move(i, 1)


def _clear(b: Builder, dtype: DType, line: Value, first: int, last: int) -> None:
    """Zeros in the elements first … last − 1."""
    type = register_type(dtype)
    if first == last:
        return
    zero = b.constant(0, type)
    wide = b.splat(zero, _LANES)
    whole = first + (last - first) // _LANES * _LANES
    if whole > first:
        with b.loop(first, whole, _LANES) as i:
            b.store(wide, b.element(line, type, i))
    if last > whole:
        with b.loop(whole, last) as i:
            b.store(zero, b.element(line, type, i))
