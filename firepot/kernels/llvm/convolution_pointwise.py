"""Weight gradient of 1×1 convolutions: a matrix product whose sum runs over all positions.

dw[o, c] = Σ_p g[p, o] · x[p, c]. Both activations are long and thin: they are packed into panels a chunk of positions
at a time, so that the packed chunk stays in the shared cache and the register tile reads two streams. The sums wait in
the workspace from chunk to chunk. Where there are few tiles, positions are summed in several parts, whatever the number
of threads. Where the processor has dot-product instructions for the dtype (dots.py), two neighbouring positions of a
line are packed as one, an odd line's last with a zero. Where it multiplies whole tiles of such words (amx.py), lines are
filled up to whole tiles with zeros.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from firepot.kernels.llvm import amx, dots
from firepot.kernels.llvm.builder import KERNEL_PARAMETERS, Builder, Module, Value, vector
from firepot.kernels.llvm.convolution_form import Convolution, Five
from firepot.kernels.llvm.convolution_source import round_up
from firepot.kernels.llvm.epilogue import Epilogue
from firepot.kernels.llvm.expression import load_element, memory_type, register_type
from firepot.kernels.llvm.matmul import workspace
from firepot.kernels.llvm.tile import Accumulators, TileShape, choose_tile, lane_mask

_CHUNK_BYTES = 3 << 20
_BLOCK_BYTES = 256 << 10  # a panel of x that all tiles of its column go over before the next positions
_TASKS = 16  # wanted for an even share among threads
_MOST_PARTS = 8


def applies(c: Convolution) -> bool:
    """Whether this is the weight gradient of a plain 1×1 convolution of channels-last activations."""
    return (
        c.mode == "weight_grad" and c.kernel == (1, 1, 1) and c.padding == (0, 0, 0) and c.groups == 1
        and c.accumulate.kind == "f" and c.first_strides[1] == 1 and c.second_strides[1] == 1
        and _worth_packing(c) and all((o - 1) * s < i for o, s, i in zip(c.output_size, c.stride, c.input_size, strict=True))
    )  # fmt: skip


def _worth_packing(c: Convolution) -> bool:
    """Whether each number that is packed is used often enough: with 64 channels reading in place is 5 to 10 % faster."""
    return min(c.in_channels, c.out_channels) >= 128


@dataclass(frozen=True)
class PointwiseWeight:
    """rows of the tile are output channels, its columns input channels, so that a row of weights is stored at once."""

    c: Convolution
    tile: TileShape
    chunk_lines: int  # lines of positions (n, z, y) that are packed together
    parts: int  # sums over a part of a chunk's positions each
    numbers: int  # positions in a packed one
    tiled: bool = False  # by tile instructions

    @staticmethod
    def of(c: Convolution, lanes: int, registers: int, numbers: int = 1, tiles: bool = False) -> PointwiseWeight:
        whole = amx.WORDS * amx.NUMBERS
        tiled = tiles and numbers == amx.NUMBERS and 3 * c.output_size[2] >= 2 * round_to(c.output_size[2], whole)
        tile = amx.SQUARE.shape if tiled else choose_tile(c.out_channels, c.in_channels, lanes, registers)
        number = math.ceil(c.out_channels / tile.rows) * math.ceil(c.in_channels / tile.columns)
        plan = PointwiseWeight(c, tile, 1, 1, numbers, tiled)
        lines, per_line = plan.lines, plan.width * (plan.g_width + plan.x_width) * c.accumulate.size
        chunks = math.ceil(lines * per_line / _CHUNK_BYTES)
        chunk = math.ceil(lines / min(chunks, lines))
        parts = 1 if number >= _TASKS else min(_MOST_PARTS, math.ceil(_TASKS / number), chunk)
        return PointwiseWeight(c, tile, chunk, parts, numbers, tiled)

    @property
    def element(self) -> str:
        """The type of packed numbers, as large as an accumulator."""
        return register_type(self.c.accumulate) if self.numbers == 1 else dots.WORD

    @property
    def width(self) -> int:
        """Packed positions of a line."""
        width = -(-self.c.output_size[2] // self.numbers)
        return round_to(width, amx.WORDS) if self.tiled else width

    @property
    def lines(self) -> int:
        return self.c.batch * self.c.output_size[0] * self.c.output_size[1]

    @property
    def chunks(self) -> int:
        return math.ceil(self.lines / self.chunk_lines)

    @property
    def chunk(self) -> int:
        """Packed positions of a chunk."""
        return self.chunk_lines * self.width

    @property
    def row_panels(self) -> int:
        return math.ceil(self.c.out_channels / self.tile.rows)

    @property
    def column_panels(self) -> int:
        return math.ceil(self.c.in_channels / self.tile.columns)

    @property
    def g_width(self) -> int:
        return self.row_panels * self.tile.rows

    @property
    def x_width(self) -> int:
        return self.column_panels * self.tile.columns

    @property
    def g_bytes(self) -> int:
        return round_up(self.chunk * self.g_width * self.c.accumulate.size) + 64

    @property
    def x_bytes(self) -> int:
        return round_up(self.chunk * self.x_width * self.c.accumulate.size)

    @property
    def tiles(self) -> int:
        return self.row_panels * self.column_panels

    @property
    def kept(self) -> bool:
        """Whether sums wait in the workspace."""
        return self.tiled or self.chunks > 1 or self.parts > 1 or self.block < self.chunk

    @property
    def block(self) -> int:
        """Positions that all tiles go over before the next."""
        most = max(1, _BLOCK_BYTES // (self.tile.columns * self.c.accumulate.size))
        part = math.ceil(self.chunk / self.parts)
        return round_to(math.ceil(part / math.ceil(part / most)), self.unit)

    @property
    def unit(self) -> int:
        """Packed positions that are summed over at once."""
        return amx.WORDS if self.tiled else 1

    @property
    def workspace_bytes(self) -> int:
        sums = self.parts * self.tiles * self.tile.rows * self.tile.columns * self.c.accumulate.size
        return self.g_bytes + self.x_bytes + (sums if self.kept else 0)

    scratch_bytes = 0

    @property
    def phases(self) -> tuple[str, ...]:
        parts = [f"{what}_{i}" for i in range(self.chunks) for what in ("pack", "multiply")]
        return (*parts, "finish") if self.kept else tuple(parts)

    def generate(self, epilogue: Epilogue) -> str:
        module = Module("pointwise_weight_gradient", workspace_operand=2 + epilogue.operands)
        parameters = [*KERNEL_PARAMETERS, ("i64", "first"), ("i64", "last")]
        with module.function("pack", parameters, internal=True) as b:
            _pack(b, self)
        with module.function("multiply", parameters, internal=True) as b:
            if self.tiled:
                amx.SQUARE.configure(b)
            _multiply(b, self, epilogue)
            if self.tiled:
                amx.release(b)
        for i in range(self.chunks):
            first, last = i * self.chunk_lines, min((i + 1) * self.chunk_lines, self.lines)
            for what in ("pack", "multiply"):
                with module.kernel(f"{what}_{i}") as b:
                    arguments = [b.arg(name) for _, name in KERNEL_PARAMETERS]
                    b.call(what, "void", *arguments, b.index(first), b.index(last))
        if self.kept:
            with module.kernel("finish") as b:
                _finish(b, self, epilogue)
        return str(module)

    def places(self, b: Builder) -> tuple[Value, Value, Value]:
        """Addresses of packed g, of packed x and of the sums."""
        g = workspace(b)
        x = b.offset(g, self.g_bytes)
        return g, x, b.offset(x, self.x_bytes)


def round_to(count: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-count // unit) * unit


def _pack(b: Builder, plan: PointwiseWeight) -> None:
    """Lines from `first` to `last` of both activations into [panel][position][channels of the panel]."""
    c, tile = plan.c, plan.tile
    depth, height, _ = c.output_size
    packed_g, packed_x, _ = plan.places(b)
    start, stop = b.share(b.sub(b.arg("last"), b.arg("first")))
    with b.loop(start, stop) as own:
        line = b.add(b.arg("first"), own)
        y, rest = b.urem(line, height), b.udiv(line, height)
        place = (b.udiv(rest, depth), b.urem(rest, depth), y)
        position = b.mul(own, plan.width)
        pack_g = _pack_tiles if plan.tiled else _pack_line
        pack_g(b, plan, b.operand(1), c.second_strides, (1, 1, 1), place, position, packed_g, tile.rows, c.out_channels)
        _pack_line(b, plan, b.operand(0), c.first_strides, c.stride, place, position, packed_x, tile.columns, c.in_channels)


def _pack_line(
    b: Builder, plan: PointwiseWeight, source: Value, strides: Five, step: tuple[int, int, int],
    place: tuple[Value, Value, Value], position: Value, target: Value, count: int, channels: int,
) -> None:  # fmt: skip
    c, lanes = plan.c, plan.tile.lanes
    element, type = memory_type(c.dtype), plan.element
    n, z, y = place
    origin = b.add(b.add(b.mul(n, strides[0]), b.mul(z, strides[2] * step[0])), b.mul(y, strides[3] * step[1]))
    panels = math.ceil(channels / count)
    whole_words = c.output_size[2] // plan.numbers

    def load(place: Value, mask: Value | None, positions: int) -> Value:
        """`lanes` channels at one position, or at two neighbouring ones."""
        if plan.numbers == 1:
            return load_element(b, b.element(source, element, place), c.dtype, lanes, mask)
        at = [b.add(place, j * strides[4] * step[2]) for j in range(positions)]
        return dots.join(b, [dots.load_numbers(b, source, c.dtype, p, lanes, mask) for p in at])

    def panel(number: Value, left: int) -> None:
        """Positions of the line: `left` channels of one panel."""
        first = b.add(origin, b.mul(number, count))
        own = b.element(target, type, b.mul(b.add(b.mul(number, plan.chunk), position), count))
        with b.loop(0, whole_words, unroll=2) as x:
            pack(x, first, own, left, plan.numbers)
        if rest := c.output_size[2] % plan.numbers:
            pack(b.index(whole_words), first, own, left, rest)
        filled = whole_words + (rest > 0)
        with b.loop(filled * count, plan.width * count, lanes) as zeros:
            b.store(b.constant(0, vector(type, lanes)), b.element(own, type, zeros))

    def pack(x: Value, first: Value, own: Value, left: int, positions: int) -> None:
        here = b.add(first, b.mul(x, strides[4] * step[2] * plan.numbers))
        there = b.element(own, type, b.mul(x, count))
        for i in range(0, count, lanes):
            width = min(lanes, count - i)  # stored, of which `exist` are channels
            exist = max(0, min(width, left - i))
            if exist:
                mask = None if exist == lanes else b.tail_mask(b.index(exist), lanes)
                value = load(b.add(here, i), mask, positions)
            else:
                value = b.constant(0, vector(type, lanes))
            to = b.element(there, type, i)
            if width == lanes:
                b.store(value, to)
            else:
                b.masked_store(value, to, b.tail_mask(b.index(width), lanes))

    whole = channels // count
    if whole:
        with b.loop(0, whole) as number:
            panel(number, count)
    if whole < panels:
        panel(b.index(whole), channels - whole * count)


def _pack_tiles(
    b: Builder, plan: PointwiseWeight, source: Value, strides: Five, step: tuple[int, int, int],
    place: tuple[Value, Value, Value], position: Value, target: Value, count: int, channels: int,
) -> None:  # fmt: skip
    """`_pack_line` with a channel's words together, as tiles have them."""
    n, z, y = place
    origin = b.add(b.add(b.mul(n, strides[0]), b.mul(z, strides[2] * step[0])), b.mul(y, strides[3] * step[1]))
    with b.loop(0, math.ceil(channels / count)) as number:
        first = b.mul(number, count)
        own = b.element(target, plan.element, b.mul(b.add(b.mul(number, plan.chunk), position), count))
        length, along = plan.c.output_size[2], strides[4] * step[2]
        amx.pack_rows(b, source, plan.c.dtype, b.add(origin, first), own, length, 1, along, first, channels)


def _multiply(b: Builder, plan: PointwiseWeight, epilogue: Epilogue) -> None:
    """Add the chunk's positions to this thread's tiles: [part][column panel][row panel]."""
    c, tile = plan.c, plan.tile
    type = register_type(c.accumulate)
    packed_g, packed_x, sums = plan.places(b)
    positions = b.mul(b.sub(b.arg("last"), b.arg("first")), plan.width)
    element = plan.element
    accumulators = Accumulators(b, tile, c.accumulate, plan.numbers)
    start, stop = b.share(plan.parts * plan.tiles)
    blocks = math.ceil(math.ceil(plan.chunk / plan.parts) / plan.block)
    with b.loop(0, blocks) as block, b.loop(start, stop) as task:
        row_panel, rest = b.urem(task, plan.row_panels), b.udiv(task, plan.row_panels)
        column_panel, part = b.urem(rest, plan.column_panels), b.udiv(rest, plan.column_panels)
        units = b.udiv(positions, plan.unit)
        begin = b.mul(b.udiv(b.mul(part, units), plan.parts), plan.unit)
        end = b.mul(b.udiv(b.mul(b.add(part, 1), units), plan.parts), plan.unit)
        low = b.intrinsic("llvm.umin", "i64", b.add(begin, b.mul(block, plan.block)), end)
        high = b.intrinsic("llvm.umin", "i64", b.add(low, plan.block), end)
        own = b.element(sums, type, b.mul(task, tile.rows * tile.columns))
        left = b.element(packed_g, element, b.mul(b.mul(row_panel, plan.chunk), tile.rows))
        right = b.element(packed_x, element, b.mul(b.mul(column_panel, plan.chunk), tile.columns))
        begins = b.compare("eq", b.add(block, b.arg("first")), 0)
        if plan.tiled:
            _add_tiles(b, plan, own, begins, left, right, low, high)
        else:
            _add_products(b, plan, accumulators, own, begins, left, right, low, high)
            if not plan.kept:
                _hand_over(b, plan, epilogue, row_panel, column_panel, lambda r, v: accumulators.get(b, r, v))


def _add_products(
    b: Builder, plan: PointwiseWeight, accumulators: Accumulators, own: Value, begins: Value, left: Value, right: Value,
    low: Value, high: Value,
) -> None:  # fmt: skip
    """Packed positions from `low` to `high` in the register tile, on top of the sums that wait in memory if any do."""
    tile, element = plan.tile, plan.element
    places = [
        (r, v, b.element(own, register_type(plan.c.accumulate), r * tile.columns + v * tile.lanes))
        for r in range(tile.rows) for v in range(tile.vectors)
    ]  # fmt: skip
    accumulators.clear(b)
    if plan.kept:
        with b.when(b.xor(begins, b.constant(True, "i1"))):
            for r, v, place in places:
                accumulators.set(b, r, v, b.load(place, accumulators.type))
    with b.loop(low, high, unroll=4) as k:
        line = b.element(right, element, b.mul(k, tile.columns))
        wide = vector(element, tile.lanes)
        vectors = [b.load(b.element(line, element, v * tile.lanes), wide) for v in range(tile.vectors)]
        numbers = b.element(left, element, b.mul(k, tile.rows))
        rows = [b.element(numbers, element, r) for r in range(tile.rows)]
        accumulators.step(b, [functools.partial(b.load, row, element) for row in rows], vectors)
    if plan.kept:
        for r, v, place in places:
            b.store(accumulators.get(b, r, v), place)


def _add_tiles(
    b: Builder, plan: PointwiseWeight, own: Value, begins: Value, left: Value, right: Value, low: Value, high: Value
) -> None:
    """`_add_products` by tile instructions; the sums always wait in memory."""
    tile = plan.tile
    with b.when(begins):
        amx.SQUARE.clear(b)
    with b.when(b.xor(begins, b.constant(True, "i1"))):
        amx.SQUARE.load(b, own)
    with b.loop(low, high, amx.WORDS) as k:
        x = b.element(left, plan.element, b.mul(k, tile.rows))
        y = b.element(right, plan.element, b.mul(k, tile.columns))
        half = b.offset(x, amx.ROWS * amx.ROW_BYTES)
        amx.SQUARE.step(b, (x, half), amx.ROW_BYTES, y, tile.columns * dots.WORD_BYTES)
    amx.SQUARE.store(b, own)


def _finish(b: Builder, plan: PointwiseWeight, epilogue: Epilogue) -> None:
    """Add up the parts of each tile, in order."""
    tile = plan.tile
    type = register_type(plan.c.accumulate)
    wide = vector(type, tile.lanes)
    _, _, sums = plan.places(b)
    size = tile.rows * tile.columns
    start, stop = b.share(plan.tiles)
    with b.loop(start, stop) as task:
        row_panel, column_panel = b.urem(task, plan.row_panels), b.udiv(task, plan.row_panels)

        def total(r: int, v: int) -> Value:
            own = b.element(sums, type, b.add(b.mul(task, size), r * tile.columns + v * tile.lanes))
            value = b.load(own, wide)
            for part in range(1, plan.parts):
                value = b.add(value, b.load(b.element(own, type, part * plan.tiles * size), wide))
            return value

        _hand_over(b, plan, epilogue, row_panel, column_panel, total)


def _hand_over(
    b: Builder, plan: PointwiseWeight, epilogue: Epilogue, row_panel: Value, column_panel: Value,
    value: Callable[[int, int], Value],
) -> None:  # fmt: skip
    c, tile = plan.c, plan.tile
    zero = b.index(0)
    for r in range(tile.rows):
        out = b.add(b.mul(row_panel, tile.rows), r)
        with b.when(b.compare("slt", out, c.out_channels)):
            for v in range(tile.vectors):
                channel = b.add(b.mul(column_panel, tile.columns), v * tile.lanes)
                mask = lane_mask(b, channel, c.in_channels, tile.lanes)
                with b.when(b.compare("slt", channel, c.in_channels)):
                    epilogue.emit(b, (out, channel, zero, zero, zero), value(r, v), mask)
