"""Activations as the tiles read them: in place where that is possible, else copied once.

The copy is channels-last, in the accumulator's dtype, with a border of zeros wide enough for every tap: it converts
half precision and other layouts on the way. For dot-product instructions (dots.py) its elements, and those of what is
read in place, are words of neighbouring channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from firepot.kernels.llvm import dots
from firepot.kernels.llvm.builder import Builder, Operand, Value, vector
from firepot.kernels.llvm.convolution_form import Convolution, Five, Sweep, Triple
from firepot.kernels.llvm.expression import load_as, memory_type, register_type

_LANES = 16  # of the copying loops


@dataclass(frozen=True)
class Source:
    """An activation: channels contiguous, `origin` its position (0, 0, 0) in elements.

    channels: elements of a position
    numbers:  channels in an element; more than one are a word
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
    numbers: int = 1


def source(
    c: Convolution, sweeps: Sequence[Sweep], channels: int, size: Triple, strides: Five, slack: int = 0,
    bordered: bool = False, copied: bool = False, numbers: int = 1, apart: int = 0,
) -> Source:  # fmt: skip
    """How the sweeps read an activation of this size.

    Args:
        slack: positions that a tile may read (never use) behind the end of a row of the copy.
        bordered: the reader cannot leave out taps that lie outside, so they must find zeros.
        copied: the reader wants a copy whatever the layout.
        numbers: channels in an element.
        apart: elements between one position of the copy and the next.
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
    if numbers == 1:
        plain = (strides[1] == 1 or channels == 1) and c.dtype is c.accumulate
    else:  # four numbers of a word are shifted on the way
        steps = (channels, *(n for n, size in zip(strides[2:], size, strict=True) if size > 1))
        steps = (*steps, strides[0]) if c.batch > 1 else steps
        plain = numbers == 2 and strides[1] == 1 and all(n % numbers == 0 for n in steps)
    channels = -(-channels // numbers)
    if plain and not copied and not (bordered and reaches_out):
        n, _, z, y, x = (s // numbers for s in strides)
        return Source(channels, size, (n, z, y, x), 0, (0, 0, 0), size, False, not reaches_out, 0, numbers)
    padded = (size[0] + low[0] + high[0], size[1] + low[1] + high[1], size[2] + low[2] + high[2])
    w = channels + apart
    h = padded[2] * w
    z = padded[1] * h
    n = padded[0] * z
    origin = low[0] * z + low[1] * h + low[2] * w
    total = (c.batch * n + slack * w) * c.accumulate.size
    return Source(channels, size, (n, z, h, w), origin, (low[0], low[1], low[2]), padded, True, True, round_up(total), numbers)


def round_up(bytes: int) -> int:
    """The next multiple of the alignment of operands."""
    return -(-bytes // 64) * 64


def copy(b: Builder, c: Convolution, operand: Value, strides: Five, s: Source, target: Value) -> None:
    """Make the copy in this thread's share of its rows."""
    type = register_type(c.accumulate) if s.numbers == 1 else dots.WORD
    zero = b.constant(0, type)
    if s.numbers == 4:
        zero = dots.unsigned(b, zero)
    depth, height, width = s.padded
    start, stop = b.share(c.batch * depth * height)
    with b.loop(start, stop) as row:
        y, rest = b.urem(row, height), b.udiv(row, height)
        z, n = b.urem(rest, depth), b.udiv(rest, depth)
        line = b.element(target, type, b.mul(row, width * s.channels))
        sy, sz = b.sub(y, s.low[1]), b.sub(z, s.low[0])
        exists = b.and_(b.compare("ult", sy, s.size[1]), b.compare("ult", sz, s.size[0]))
        with b.when(b.xor(exists, b.constant(True, "i1"))):
            _fill(b, zero, line, 0, width * s.channels)
        with b.when(exists):
            after = s.low[2] + s.size[2]
            _fill(b, zero, line, 0, s.low[2] * s.channels)
            _fill(b, zero, line, after * s.channels, width * s.channels)
            origin = b.add(b.add(b.mul(n, strides[0]), b.mul(sz, strides[2])), b.mul(sy, strides[3]))
            inner = b.element(line, type, s.low[2] * s.channels)
            copy_positions = _copy_positions if s.numbers == 1 else _copy_words
            copy_positions(b, c, operand, origin, strides, s, inner)


def copy_pairs(
    b: Builder, c: Convolution, operand: Value, strides: Five, s: Source, target: Value, size: int, advance: int,
    distance: int,
) -> None:  # fmt: skip
    """The copy with words of one channel at two positions of a row, channels-last on both sides.

    Element p of a row holds positions p · advance − border and `distance` behind it, of a row of `size` positions;
    zeros for those that do not exist.
    """
    depth, height, width = s.padded
    lanes, step = dots.LANES, s.strides[3]
    zero = b.constant(0, dots.WORD)
    start, stop = b.share(c.batch * depth * height)
    with b.loop(start, stop) as row:
        y, rest = b.urem(row, height), b.udiv(row, height)
        z, n = b.urem(rest, depth), b.udiv(rest, depth)
        line = b.element(target, dots.WORD, b.mul(row, width * step))
        sy, sz = b.sub(y, s.low[1]), b.sub(z, s.low[0])
        exists = b.and_(b.compare("ult", sy, s.size[1]), b.compare("ult", sz, s.size[0]))
        with b.when(b.xor(exists, b.constant(True, "i1"))):
            _fill(b, zero, line, 0, width * step)
        with b.when(exists):
            origin = b.add(b.add(b.mul(n, strides[0]), b.mul(sz, strides[2])), b.mul(sy, strides[3]))
            with b.loop(0, width) as p:
                first = b.sub(b.mul(p, advance), s.low[2])
                positions = [first, b.add(first, distance)]
                inside = [b.splat(b.compare("ult", q, size), lanes) for q in positions]
                places = [b.add(origin, b.mul(q, strides[4])) for q in positions]
                there = b.element(line, dots.WORD, b.mul(p, step))

                def move(channel: Operand, tail: Value | None) -> None:
                    masks = inside if tail is None else [b.and_(mask, tail) for mask in inside]
                    numbers = [
                        dots.load_numbers(b, operand, c.dtype, b.add(place, channel), lanes, mask)
                        for place, mask in zip(places, masks, strict=True)
                    ]
                    to = b.element(there, dots.WORD, channel)
                    if tail is None:
                        b.store(dots.join(b, numbers), to)
                    else:
                        b.masked_store(dots.join(b, numbers), to, tail)

                whole, rest_ = s.channels // lanes * lanes, s.channels % lanes
                with b.loop(0, whole, lanes) as channel:
                    move(channel, None)
                if rest_:
                    move(whole, b.tail_mask(b.index(rest_), lanes))


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
            value = load_as(b, b.element(operand, element, place), c.dtype, c.accumulate, 1, None)
            b.store(value, b.element(target, type, b.add(b.mul(x, s.channels), channel)))


def _copy_words(
    b: Builder, c: Convolution, operand: Value, origin: Value, strides: Five, s: Source, target: Value
) -> None:
    """One row's positions with all their channels, those beyond the last zero."""
    channels, width, element = c.source_channels, s.size[2], memory_type(c.dtype)
    whole, rest = divmod(channels, s.numbers)

    def words(place: Value, there: Value, count: int) -> None:
        """`count` words of numbers that lie together."""
        full = count // dots.LANES * dots.LANES
        for low, high, lanes in ((0, full, dots.LANES), (full, count, 1)):
            if low < high:
                with b.loop(low, high, lanes) as w:
                    from_ = b.element(operand, element, b.add(place, b.mul(w, s.numbers)))
                    word = b.load(from_, vector(dots.WORD, lanes), align=c.dtype.size)
                    b.store(dots.unsigned(b, word) if s.numbers == 4 else word, b.element(there, dots.WORD, w))

    def joined(place: Value, there: Value, count: int) -> None:
        """One word of `count` numbers that lie anywhere."""
        bits = [
            dots.load_numbers(b, operand, c.dtype, b.add(place, j * strides[1]), 1, None) for j in range(count)
        ]  # fmt: skip
        word = dots.join(b, bits)
        b.store(dots.unsigned(b, word) if s.numbers == 4 else word, there)

    if strides[1] == 1 and rest == 0 and (strides[4] == channels or width == 1):
        words(origin, target, width * whole)
        return
    if strides[1] == 1:
        with b.loop(0, width) as x:
            place, there = b.add(origin, b.mul(x, strides[4])), b.element(target, dots.WORD, b.mul(x, s.channels))
            words(place, there, whole)
            if rest:
                joined(b.add(place, whole * s.numbers), b.element(there, dots.WORD, whole), rest)
        return
    for first, last, count in ((0, whole, s.numbers), (whole, whole + (rest > 0), rest)):
        with b.loop(first, last) as word, b.loop(0, width, unroll=4) as x:
            if count:
                place = b.add(b.add(origin, b.mul(x, strides[4])), b.mul(word, s.numbers * strides[1]))
                joined(place, b.element(target, dots.WORD, b.add(b.mul(x, s.channels), word)), count)


def _copy_line(b: Builder, c: Convolution, operand: Value, origin: Value, target: Value, count: int) -> None:
    type, element = register_type(c.accumulate), memory_type(c.dtype)

    def move(i: Operand, lanes: int) -> None:
        place = b.element(operand, element, b.add(origin, i))
        b.store(load_as(b, place, c.dtype, c.accumulate, lanes, None), b.element(target, type, i))

    whole = count // _LANES * _LANES
    if whole:
        with b.loop(0, whole, _LANES) as i:
            move(i, _LANES)
    if count > whole:
        with b.loop(whole, count) as i:
            move(i, 1)


def _fill(b: Builder, zero: Value, line: Value, first: int, last: int) -> None:
    """Zeros in the elements first … last − 1."""
    if first == last:
        return
    wide = b.splat(zero, _LANES)
    whole = first + (last - first) // _LANES * _LANES
    if whole > first:
        with b.loop(first, whole, _LANES) as i:
            b.store(wide, b.element(line, zero.type, i))
    if last > whole:
        with b.loop(whole, last) as i:
            b.store(zero, b.element(line, zero.type, i))
