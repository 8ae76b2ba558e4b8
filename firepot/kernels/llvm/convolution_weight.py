"""Weight gradient as direct sums over positions in the register tile.

A tile of (input channels × output channels) of one kernel element stays in registers while positions run; all
tiles go over a cache-sized block of positions before the next block. Both activations are read channels-last.

Threads share the tiles; where there are few, they share the positions instead, each part of which has sums of its own,
so that an activation is read by one thread only. The number of parts does not depend on how many threads there are.

Where the processor has dot-product instructions for the dtype (dots.py), both are copied in words of a channel at two
neighbouring positions. Any kernel element can begin at any position, so the copy of x has a word for every position; that
of g has one for every second, the last with a zero where the row is odd.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

from firepot.kernels.llvm.builder import Builder, Module, Value, vector
from firepot.kernels.llvm.convolution_form import Convolution, Five, Sweep, sweeps
from firepot.kernels.llvm.convolution_source import Source, copy, copy_pairs, source
from firepot.kernels.llvm.dots import WORD
from firepot.kernels.llvm.epilogue import Epilogue
from firepot.kernels.llvm.expression import register_type
from firepot.kernels.llvm.matmul import workspace
from firepot.kernels.llvm.tile import Accumulators, TileShape, choose_tile, lane_mask, load_lanes

_BLOCK_BYTES = 384 << 10  # of both activations that all tiles go over before the next block
_ADDRESSES = 8  # rows of a tile that may have an address of their own, being perhaps a repetition of the last
_ROW = 256  # positions of a row of a flattened convolution, at most
_PARTS = 16  # of the positions, where threads share those
_PART_BYTES = 64 << 10  # of the sums of a part, at most


def flattened(c: Convolution) -> Convolution:
    """A 1×1 convolution without stride or border over rows of positions as long as useful, where memory allows it."""
    plain = c.kernel == (1, 1, 1) and c.stride == (1, 1, 1) and c.padding == (0, 0, 0)
    if not plain:
        return c
    d, h, w = c.input_size
    for n_, _, z_, y_, x_ in (c.first_strides, c.second_strides):
        if (y_ != x_ * w and h > 1) or (z_ != x_ * w * h and d > 1) or (n_ != x_ * w * h * d and c.batch > 1):
            return c
    positions = c.batch * d * h * w
    width = max(k for k in range(1, _ROW + 1) if positions % k == 0)
    if width < min(_ROW // 4, w):
        return c
    size = (1, positions // width, width)

    def flat(s: Five) -> Five:
        return (0, s[1], 0, s[4] * width, s[4])

    return replace(
        c, batch=1, input_size=size, output_size=size, first_strides=flat(c.first_strides),
        second_strides=flat(c.second_strides),
    )  # fmt: skip


def _apart(channels: int, copied: bool) -> int:
    """Elements to leave between positions of a copy, so that neighbours do not meet in few sets of the cache."""
    return 16 if copied and channels % 128 == 0 else 0


@dataclass(frozen=True)
class WeightGradient:
    c: Convolution
    tile: TileShape
    sweep: Sweep
    source: Source  # x
    gradient: Source  # g, read vector by vector
    inner: int  # input channels of a group
    outer: int  # output channels of a group
    rows_per_block: int  # rows of positions that all tiles go over before the next
    numbers: int  # positions in an element

    @staticmethod
    def of(c: Convolution, lanes: int, registers: int, numbers: int = 1) -> WeightGradient:
        sweep = sweeps(c)[0]
        inner, outer = c.in_channels // c.groups, c.out_channels // c.groups
        tile = choose_tile(inner, outer, lanes, registers, inexact_limit=_ADDRESSES)
        paired = numbers > 1
        x = source(c, [sweep], c.in_channels, c.input_size, c.first_strides, bordered=True, copied=paired,
                   apart=_apart(c.in_channels, paired))  # fmt: skip
        depth, height, width = c.output_size
        size = (depth, height, -(-width // numbers))
        gradient = source(c, [], c.out_channels, size, c.second_strides, copied=paired, apart=_apart(c.out_channels, paired))
        # A single tap reads each activation once for every line of tiles: only the smaller need stay in the cache.
        channels = c.in_channels * c.stride[2] + c.out_channels
        if math.prod(c.kernel) == 1:
            channels = min(c.in_channels, c.out_channels) + tile.columns
        per_row = c.accumulate.size * c.output_size[2] * channels
        return WeightGradient(c, tile, sweep, x, gradient, inner, outer, max(1, _BLOCK_BYTES // max(per_row, 1)), numbers)

    @property
    def element(self) -> str:
        """The type of what is read of both activations, as large as an accumulator."""
        return register_type(self.c.accumulate) if self.numbers == 1 else WORD

    @property
    def row_tiles(self) -> int:
        return math.ceil(self.inner / self.tile.rows)

    @property
    def column_tiles(self) -> int:
        return math.ceil(self.outer / self.tile.columns)

    @property
    def tiles(self) -> int:
        return self.c.groups * math.prod(self.c.kernel) * self.row_tiles * self.column_tiles

    @property
    def rows(self) -> int:
        """Rows of positions."""
        return self.c.batch * self.c.output_size[0] * self.c.output_size[1]

    @property
    def sums(self) -> int:
        """Elements of the sums of one part."""
        return self.tiles * self.tile.rows * self.tile.columns

    @property
    def parts(self) -> int:
        few = self.sums * self.c.accumulate.size <= _PART_BYTES
        return _PARTS if few and self.rows >= 2 * _PARTS else 1

    @property
    def partial_bytes(self) -> int:
        return self.parts * self.sums * self.c.accumulate.size

    scratch_bytes = 0

    @property
    def phases(self) -> tuple[str, ...]:
        return ("prepare", "accumulate", "finish")

    @property
    def workspace_bytes(self) -> int:
        return self.source.bytes + self.gradient.bytes + self.partial_bytes + 128

    def generate(self, epilogue: Epilogue) -> str:
        module = Module("weight_gradient", workspace_operand=2 + epilogue.operands)
        with module.kernel("prepare") as b:
            base = workspace(b)
            c, target = self.c, b.offset(base, self.source.bytes)
            if self.numbers > 1:
                width, distance = c.input_size[2], c.stride[2]
                copy_pairs(b, c, b.operand(0), c.first_strides, self.source, base, width, 1, distance)
                copy_pairs(b, c, b.operand(1), c.second_strides, self.gradient, target, c.output_size[2], 2, 1)
            else:
                if self.source.copied:
                    copy(b, c, b.operand(0), c.first_strides, self.source, base)
                if self.gradient.copied:
                    copy(b, c, b.operand(1), c.second_strides, self.gradient, target)
        with module.kernel("accumulate") as b:
            _accumulate(b, self)
        with module.kernel("finish") as b:
            _finish(b, self, epilogue)
        return str(module)


def _accumulate(b: Builder, plan: WeightGradient) -> None:
    """Each thread owns parts of the positions, or tiles [group][tap][row tile][column tile], and takes its tiles over
    one block of positions after another, so that both activations' blocks are read from the cache."""
    c = plan.c
    type = register_type(c.accumulate)
    base = workspace(b)
    x = base if plan.source.copied else b.operand(0)
    g = b.offset(base, plan.source.bytes) if plan.gradient.copied else b.operand(1)
    partial = b.offset(base, plan.source.bytes + plan.gradient.bytes)
    taps = [
        plan.source.origin
        + o[0] * plan.source.strides[1]
        + o[1] * plan.source.strides[2]
        + o[2] * plan.source.strides[3]
        for o, _ in plan.sweep.all_taps
    ]
    table = b.module.constant_array("taps", "i64", taps)
    accumulators = Accumulators(b, plan.tile, c.accumulate, plan.numbers)
    if plan.parts > 1:
        parts, tiles = b.share(plan.parts), (b.index(0), b.index(plan.tiles))
    else:
        parts, tiles = (b.index(0), b.index(1)), b.share(plan.tiles)
    size = plan.tile.rows * plan.tile.columns
    width = plan.gradient.size[2]
    # Very long rows are cut into pieces.
    per_position = c.accumulate.size * (min(c.in_channels, c.out_channels) + plan.tile.columns)
    pieces = math.ceil(width * per_position / _BLOCK_BYTES)
    piece = math.ceil(width / pieces)
    pieces = math.ceil(width / piece)

    def tile(task: Value, sums: Value, begins: Value, *positions: Value) -> None:
        # The activation with more channels is read along its memory, the other's part stays in the cache.
        if plan.inner > plan.outer:
            row_tile, rest = b.urem(task, plan.row_tiles), b.udiv(task, plan.row_tiles)
            column_tile, rest = b.urem(rest, plan.column_tiles), b.udiv(rest, plan.column_tiles)
        else:
            column_tile, rest = b.urem(task, plan.column_tiles), b.udiv(task, plan.column_tiles)
            row_tile, rest = b.urem(rest, plan.row_tiles), b.udiv(rest, plan.row_tiles)
        tap, group = b.urem(rest, len(taps)), b.udiv(rest, len(taps))
        own = b.add(b.mul(b.add(b.mul(rest, plan.row_tiles), row_tile), plan.column_tiles), column_tile)
        own = b.element(sums, type, b.mul(own, size))
        places = [
            (r, v, b.element(own, type, r * plan.tile.columns + v * plan.tile.lanes))
            for r in range(plan.tile.rows) for v in range(plan.tile.vectors)
        ]  # fmt: skip
        accumulators.clear(b)
        with b.when(b.xor(begins, b.constant(True, "i1"))):
            for r, v, place in places:
                accumulators.set(b, r, v, b.load(place, accumulators.type))
        _positions(b, plan, accumulators, x, g, table, (group, tap, row_tile, column_tile), *positions)
        for r, v, place in places:
            b.store(accumulators.get(b, r, v), place)

    with b.loop(*parts) as part:
        sums = b.element(partial, type, b.mul(part, plan.sums))
        first = b.udiv(b.mul(part, plan.rows), plan.parts)
        # One turn even where there are no positions: it clears the sums.
        last = b.udiv(b.mul(b.add(part, 1), max(plan.rows, 1)), plan.parts)
        with b.loop(first, last, plan.rows_per_block) as low, b.loop(0, pieces) as number:
            high = b.intrinsic("llvm.umin", "i64", b.add(low, plan.rows_per_block), last if plan.rows else b.index(0))
            begin, to = b.index(0), b.index(width)
            if pieces > 1:
                begin = b.mul(number, piece)
                to = b.intrinsic("llvm.umin", "i64", b.add(begin, piece), to)
            begins = b.and_(b.compare("eq", low, first), b.compare("eq", number, 0))
            with b.loop(*tiles) as task:
                tile(task, sums, begins, low, high, begin, to)


def _positions(
    b: Builder, plan: WeightGradient, accumulators: Accumulators, x: Value, g: Value, table: Value,
    tile_place: tuple[Value, Value, Value, Value], low: Value, high: Value, begin: Value, to: Value,
) -> None:  # fmt: skip
    c, tile = plan.c, plan.tile
    type = plan.element
    depth, height, _ = c.output_size
    group, tap, row_tile, column_tile = tile_place
    # Rows of the tile beyond the last channel repeat it; they are never stored.
    channel = b.mul(row_tile, tile.rows)
    column = b.mul(column_tile, tile.columns)
    x_first = b.add(b.load(b.element(table, "i64", tap), "i64"), b.add(b.mul(group, plan.inner), channel))
    g_first = b.add(b.mul(group, plan.outer), column)
    masks = [lane_mask(b, b.add(column, v * tile.lanes), plan.outer, tile.lanes) for v in range(tile.vectors)]
    exact = plan.inner % tile.rows == 0
    limits = [
        b.index(r) if exact else b.intrinsic("llvm.smin", "i64", b.sub(plan.inner - 1, channel), b.index(r))
        for r in range(tile.rows)
    ]
    xn, xd, xh, xw = plan.source.strides
    gn, gd, gh, gw = plan.gradient.strides
    with b.loop(low, high) as row:
        y, rest = b.urem(row, height), b.udiv(row, height)
        z, n = b.urem(rest, depth), b.udiv(rest, depth)
        x_row, g_row = b.add(x_first, b.mul(n, xn)), b.add(g_first, b.mul(n, gn))
        for q, x_stride, g_stride, s in ((z, xd, gd, c.stride[0]), (y, xh, gh, c.stride[1])):
            x_row = b.add(x_row, b.mul(q, x_stride * s))
            g_row = b.add(g_row, b.mul(q, g_stride))
        x_line, g_line = b.element(x, type, x_row), b.element(g, type, g_row)

        def step(w: Value, second: bool) -> None:
            """One element of the row; of the last word of an odd row the first position alone."""
            there = b.element(g_line, type, b.mul(w, gw))
            vectors = [
                load_lanes(b, b.element(there, type, v * tile.lanes), vector(type, tile.lanes), masks[v])
                for v in range(tile.vectors)
            ]
            here = b.element(x_line, type, b.mul(w, xw * c.stride[2] * plan.numbers))
            places = [b.element(here, type, limit) for limit in limits]

            def number(place: Value) -> Value:
                return b.load(place, type) if second else b.and_(b.load(place, type), 0xFFFF)

            accumulators.step(b, [functools.partial(number, place) for place in places], vectors)

        whole, odd = divmod(c.output_size[2], plan.numbers)
        with b.loop(begin, b.intrinsic("llvm.umin", "i64", to, b.index(whole)), unroll=2) as w:
            step(w, True)
        if odd:
            with b.when(b.compare("ugt", to, whole)):
                step(b.index(whole), False)


def _finish(b: Builder, plan: WeightGradient, epilogue: Epilogue) -> None:
    """Hand the sums to the epilogue one by one, in the order in which weights lie in memory as a rule.

    Vectors along the output channels would have to be scattered, to places that may all meet in one set of the cache.
    """
    c, tile = plan.c, plan.tile
    type = register_type(c.accumulate)
    _, kh, kw = c.kernel
    partial = b.offset(workspace(b), plan.source.bytes + plan.gradient.bytes)
    start, stop = b.share(c.groups * plan.column_tiles * plan.row_tiles)
    with b.loop(start, stop) as task:
        row_tile, rest = b.urem(task, plan.row_tiles), b.udiv(task, plan.row_tiles)
        column_tile, group = b.urem(rest, plan.column_tiles), b.udiv(rest, plan.column_tiles)
        first_row, first_column = b.mul(row_tile, tile.rows), b.mul(column_tile, tile.columns)
        rows = b.intrinsic("llvm.umin", "i64", b.sub(plan.inner, first_row), b.index(tile.rows))
        columns = b.intrinsic("llvm.umin", "i64", b.sub(plan.outer, first_column), b.index(tile.columns))
        own = b.add(b.mul(group, math.prod(c.kernel) * plan.row_tiles), row_tile)
        own = b.mul(b.add(b.mul(own, plan.column_tiles), column_tile), tile.rows * tile.columns)
        per_tap = plan.row_tiles * plan.column_tiles * tile.rows * tile.columns
        out = b.add(b.mul(group, plan.outer), first_column)
        with b.loop(0, columns) as column, b.loop(0, rows) as row:
            here = b.element(partial, type, b.add(own, b.add(b.mul(row, tile.columns), column)))
            with b.loop(0, c.kernel[0]) as z, b.loop(0, kh) as y, b.loop(0, kw) as x:
                tap = b.add(b.mul(b.add(b.mul(z, kh), y), kw), x)
                here = b.element(here, type, b.mul(tap, per_tap))
                value = b.load(here, type)
                for part in range(1, plan.parts):
                    value = b.add(value, b.load(b.element(here, type, part * plan.sums), type))
                epilogue.emit(b, (b.add(out, column), b.add(first_row, row), z, y, x), value, None)
