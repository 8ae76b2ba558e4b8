"""Forward convolution and input gradient as direct sums over kernel taps in the register tile.

Both are one algorithm, for each sweep of the form (convolution_form.py): rows of the tile are neighbouring
result positions, columns are result channels, and the sum runs over the taps that lie inside and over the channels
of the source. Weights are packed into panels first. Positions are taken a cache-sized block at a time, and all
panels go over one block before the next.

Where the processor has dot-product instructions for the dtype (dots.py), neighbouring channels of the source lie
together in words, and so do the weights that belong to them. Where it multiplies whole tiles of words (amx.py), their
rows are neighbouring positions, read where they lie.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from firepot.graph.dtypes import DType
from firepot.kernels.llvm import amx, dots
from firepot.kernels.llvm.amx import Blocking
from firepot.kernels.llvm.builder import Builder, Module, Operand, Value, vector
from firepot.kernels.llvm.convolution_flat import Flat, sweep_flat, vectors_of
from firepot.kernels.llvm.convolution_folds import Folds, folds_of
from firepot.kernels.llvm.convolution_form import Convolution, Sweep, Taps, dot, inside, sweeps
from firepot.kernels.llvm.convolution_source import Source, copy, round_up, source
from firepot.kernels.llvm.epilogue import Epilogue
from firepot.kernels.llvm.expression import load_as, memory_type, register_type
from firepot.kernels.llvm.matmul import workspace
from firepot.kernels.llvm.tile import (
    GROUP,
    Accumulators,
    NextPanel,
    TileShape,
    choose_tile,
    grouped_steps,
    lane_mask,
    transpose,
)
from firepot.kernels.llvm.word_panels import Filter

_BLOCK_BYTES = 192 << 10  # of the source, that all panels go over; of 1×1 more where the second-level cache is larger
_TASKS = 64  # wanted for an even share among threads
_FEW_CHANNELS = 8  # up to here the taps of a row are summed as if they were channels
_EDGE_ROWS = 4  # rows of a tile that may have an address of their own
_NEAR = 256 << 10  # bytes of weights that stay in a core's own caches
_CLOSE = 1024  # elements below which neighbouring positions of a 1×1 convolution are read where they lie


@dataclass(frozen=True)
class Direct:
    """How a forward convolution or an input gradient is cut into tiles."""

    c: Convolution
    tile: TileShape
    sweeps: list[Sweep]
    source: Source
    inner: int  # elements summed over in one group for each tap
    outer: int  # result channels of one group
    merged: bool  # whether the taps of a row count as channels, which follow each other in memory
    gathered: bool  # whether a block's positions are copied first: far apart, they would meet in one set of the cache
    numbers: int  # in an element; more than one are a word
    block_bytes: int = _BLOCK_BYTES
    blocking: Blocking | None = None  # of tile instructions
    flat: Flat | None = None  # tiles go on from row to row

    @staticmethod
    def of(
        c: Convolution, lanes: int, registers: int, numbers: int = 1, l2: int = 1 << 20, tiles: bool = False
    ) -> Direct:
        all_sweeps = sweeps(c)
        inner, outer = c.source_channels // c.groups, c.result_channels // c.groups
        width = max((s.count[2] for s in all_sweeps), default=1)
        blocking = _blocking(all_sweeps, inner, outer) if tiles and numbers == amx.NUMBERS else None
        tile = blocking.shape if blocking else choose_tile(width, outer, lanes, registers)
        merged = c.groups == 1 and inner <= _FEW_CHANNELS and c.kernel[2] > 1 and len(all_sweeps) == 1 and (
            all_sweeps[0].taps[2].offset_step == 1
        )  # fmt: skip
        overrun = max((-s.count[2] % tile.rows for s in all_sweeps), default=0)
        bordered = merged or any(not _edges_fit(s, tile.rows, c.source_size[2]) for s in all_sweeps)
        if blocking:  # tiles are read whole, and nothing behind a row
            bordered, overrun = True, 0
        place = source(
            c, all_sweeps, c.source_channels, c.source_size, c.first_strides, bordered=bordered,
            copied=(merged and c.first_strides[4] != -(-inner // numbers) * numbers) or (bordered and overrun > 0)
            or numbers == 4, numbers=numbers, slack=tile.rows * max((s.stride[2] for s in all_sweeps), default=1),
        )  # fmt: skip
        flat = Flat.of(c, all_sweeps, place) if blocking else None
        if flat:
            blocking = amx.SQUARE
            tile = blocking.shape
        inner = -(-inner // numbers)
        if merged:
            inner *= c.kernel[2]
        gathered = (
            c.kernel == (1, 1, 1) and c.padding == (0, 0, 0) and c.groups == 1 and not place.copied
            and place.strides[3] * max(s.stride[2] for s in all_sweeps) >= _CLOSE and not blocking
        )  # fmt: skip
        block_bytes = max(_BLOCK_BYTES, 3 * l2 // 16) if math.prod(c.kernel) == 1 else _BLOCK_BYTES
        return Direct(c, tile, all_sweeps, place, inner, outer, merged, gathered, numbers, block_bytes, blocking, flat)

    @property
    def element(self) -> str:
        """The type of what is read of the source and of packed weights, as large as an accumulator."""
        return register_type(self.c.accumulate) if self.numbers == 1 else dots.WORD

    @property
    def shifted(self) -> bool:
        """Whether the source is 128 too large; a panel of weights then begins with what the sums are to begin with."""
        return self.numbers == 4

    @property
    def panels(self) -> int:
        return math.ceil(self.outer / self.tile.columns)

    def taps_of(self, sweep: Sweep) -> int:
        """Places of a sweep that are summed one after another."""
        return math.prod(t.count for t in (sweep.taps[:2] if self.merged else sweep.taps))

    @property
    def weight_panel(self) -> int:
        """Elements of a panel of packed weights: [tap][inner channel][columns], every sweep's taps in turn."""
        return (sum(self.taps_of(s) for s in self.sweeps) * self.inner + self.shifted) * self.tile.columns

    @property
    def weight_bytes(self) -> int:
        return round_up(self.c.groups * self.panels * self.weight_panel * self.c.accumulate.size)

    @property
    def zeros_bytes(self) -> int:
        """What a tap that lies outside reads instead."""
        return round_up(self.inner * self.c.accumulate.size)

    @property
    def workspace_bytes(self) -> int:
        return self.weight_bytes + self.zeros_bytes + self.source.bytes

    @property
    def gathered_step(self) -> int:
        """Elements from one gathered position to the next: no power of two."""
        return self.inner + 16

    @property
    def scratch_bytes(self) -> int:
        if not self.gathered:
            return 0
        positions = max(self.rows_per_block(s) * -(-s.count[2] // self.tile.rows) * self.tile.rows for s in self.sweeps)
        return round_up(positions * self.gathered_step * self.c.accumulate.size)

    @property
    def tile_bytes(self) -> int:
        """Further scratch memory for a finished tile, where the epilogue is large."""
        return round_up(self.tile.rows * self.tile.columns * self.c.accumulate.size)

    @property
    def weights_alone(self) -> bool:
        """Whether nothing but packed weights (and zeros) is in the workspace."""
        return not self.source.copied

    @property
    def phases(self) -> tuple[str, ...]:
        return ("prepare", "multiply")

    def rows_per_block(self, sweep: Sweep) -> int:
        """Rows of results whose source fits the cache, fewer where that leaves too few tasks."""
        width = self.tile.rows if self.flat else sweep.count[2] * sweep.stride[2] * sweep.stride[1]
        per_row = width * self.source.channels * self.c.accumulate.size
        rows = self.rows(sweep)
        fitting = max(1, self.block_bytes // per_row)
        sharing = max(1, rows * self.panels * self.c.groups // _TASKS)
        blocks = math.ceil(rows / min(fitting, sharing, rows))
        return math.ceil(rows / blocks)

    def blocks(self, sweep: Sweep) -> int:
        """Pieces that the results' rows are taken in."""
        return math.ceil(self.rows(sweep) / self.rows_per_block(sweep))

    def rows(self, sweep: Sweep) -> int:
        """Rows of results; where tiles go on from row to row, tiles."""
        return self.flat.tiles if self.flat else self.c.batch * sweep.count[0] * sweep.count[1]

    def folds(self, epilogue: Epilogue) -> Folds | None:
        parts = sum(self.blocks(s) for s in self.sweeps)
        return folds_of(epilogue, self.workspace_bytes, parts, self.c.result_channels, self.tile.lanes)

    def generate(self, epilogue: Epilogue) -> str:
        module = Module("convolution", workspace_operand=2 + epilogue.operands)
        with module.kernel("prepare") as b:
            _pack_weights(b, self)
            zeros = b.offset(workspace(b), self.weight_bytes)
            with b.when(b.compare("eq", b.arg("thread"), 0)), b.loop(0, self.inner) as i:
                b.store(b.constant(0, self.element), b.element(zeros, self.element, i))
            if self.source.copied:
                copy(
                    b,
                    self.c,
                    b.operand(0),
                    self.c.first_strides,
                    self.source,
                    b.offset(zeros, self.zeros_bytes),
                )
        with module.kernel("multiply") as b:
            if self.blocking:
                self.blocking.configure(b)
            before = parts = 0
            for sweep in self.sweeps:
                if self.flat:
                    sweep_flat(b, self, self.flat, sweep, epilogue)
                else:
                    _sweep(b, self, sweep, before, epilogue, parts)
                before += self.taps_of(sweep)
                parts += self.blocks(sweep)
            if self.blocking:
                amx.release(b)
        if folds := self.folds(epilogue):
            with module.kernel("fold") as b:
                folds.finish(b)
        return str(module)


def _blocking(all_sweeps: list[Sweep], inner: int, outer: int) -> Blocking | None:
    """Tiles of positions in a row, as many as divide every row if it can be, by up to 64 result channels. None where words
    of channels do not fill tiles, or nothing is summed in some sweep."""
    widths = {s.count[2] for s in all_sweeps}
    taps = min((math.prod(t.count for t in s.taps) for s in all_sweeps), default=0)
    if inner % (amx.WORDS * amx.NUMBERS) or not taps or min(widths) < 2:
        return None
    most = min(amx.ROWS, *widths)
    rows = next(r for r in range(most, 0, -1) if all(w % r == 0 for w in widths))
    right = min(4, math.ceil(outer / amx.WORDS))
    return Blocking(1, right, rows if 2 * rows > most else most)


def _edge_rows(sweep: Sweep, rows: int, size: int) -> list[int]:
    """Rows of the tile that may read outside the source's row, in whichever tile."""
    taps, stride, count = sweep.taps[2], sweep.stride[2], sweep.count[2]
    last = -(-count // rows) - 1
    found = set()
    for r in range(rows):
        if r * stride + taps.offset < 0 or (last * rows + r) * stride + taps.last_offset >= size:
            found.add(r)
    return sorted(found)


def _edges_fit(sweep: Sweep, rows: int, size: int) -> bool:
    """Whether few rows of the tile read outside, and those in the first and the last tile of a row only."""
    taps, stride, count = sweep.taps[2], sweep.stride[2], sweep.count[2]
    pieces = -(-count // rows)
    if taps.count == 0:
        return True
    if pieces > 2:
        second = rows * stride + taps.offset
        before_last = ((pieces - 1) * rows - 1) * stride + taps.last_offset
        if second < 0 or before_last >= size:
            return False
    return len(_edge_rows(sweep, rows, size)) <= _EDGE_ROWS


def _pack_weights(b: Builder, plan: Direct) -> None:
    """Weights into [group][panel][tap][element of inner channels][columns]; what lies beyond the last channel is never used."""
    c, tile = plan.c, plan.tile
    o_stride, i_stride, *k_strides = c.second_strides
    # w is (O, C/groups, kernel): the result channel is O forward, C/groups backward.
    if c.mode == "forward":
        outer_stride, inner_stride, group_stride = o_stride, i_stride, o_stride * plan.outer
    else:
        outer_stride, inner_stride, group_stride = i_stride, o_stride, o_stride * (c.out_channels // c.groups)
    taps = [tap for sweep in plan.sweeps for _, tap in sweep.all_taps]
    if not taps:
        return
    offsets = [sum(k * s for k, s in zip(tap, k_strides, strict=True)) for tap in taps]
    table = b.module.constant_array("weight_taps", "i64", offsets)
    source = b.operand(1)
    channels = c.source_channels // c.groups
    lanes = tile.lanes
    # One vector of result channels at a time.
    start, stop = b.share(c.groups * plan.panels * tile.vectors)
    with b.loop(start, stop) as task:
        v, rest = b.urem(task, tile.vectors), b.udiv(task, tile.vectors)
        panel, group = b.urem(rest, plan.panels), b.udiv(rest, plan.panels)
        first = b.add(b.mul(panel, tile.columns), b.mul(v, lanes))
        origin = b.mul(group, group_stride)
        target = b.element(workspace(b), plan.element, b.add(b.mul(rest, plan.weight_panel), b.mul(v, lanes)))
        exists = [b.compare("slt", b.add(first, i), plan.outer) for i in range(lanes)]
        lines = [
            b.add(origin, b.mul(b.select(exists[i], b.add(first, i), b.index(0)), outer_stride)) for i in range(lanes)
        ]
        words = b.element(target, plan.element, tile.columns) if plan.shifted else target
        mask = lane_mask(b, first, plan.outer, lanes)
        taken = Filter(
            source, c.dtype, plan.numbers, lines, outer_stride == 1, mask, inner_stride, offsets, table, channels, words,
            tile.columns,
        )  # fmt: skip
        if plan.numbers == 1:
            _pack_numbers(b, taken, c.accumulate)
        else:
            taken.pack(b)
        if plan.shifted:
            b.store(b.mul(taken.sum(b), -128), target)


def _pack_numbers(b: Builder, f: Filter, accumulate: DType) -> None:
    """A vector of result channels in the accumulator's dtype, by a transpose where neighbouring inner channels are close."""
    element, type = memory_type(f.dtype), register_type(accumulate)
    lanes = len(f.lines)
    whole = 0
    if f.inner_stride == 1 and len(f.offsets) == 1 and lanes > 1:
        whole = f.channels // lanes * lanes
        with b.loop(0, whole, lanes) as channel:
            rows = [
                load_as(
                    b, b.element(f.source, element, b.add(b.add(line, f.offsets[0]), channel)), f.dtype, accumulate,
                    lanes, None,
                )
                for line in f.lines
            ]
            for i, column in enumerate(transpose(b, rows)):
                b.store(column, b.element(f.target, type, b.mul(b.add(channel, i), f.columns)))
    mask = f.mask if f.contiguous else None
    with b.loop(whole, f.channels) as channel, b.loop(0, len(f.offsets)) as t:
        offset = b.add(b.load(b.element(f.table, "i64", t), "i64"), b.mul(channel, f.inner_stride))
        where = b.mul(b.add(b.mul(t, f.channels), channel), f.columns)
        for i in range(1 if f.contiguous else lanes):
            there = b.element(f.source, element, b.add(f.lines[i], offset))
            value = load_as(b, there, f.dtype, accumulate, lanes if f.contiguous else 1, mask)
            b.store(value, b.element(f.target, type, b.add(where, i)))


def _sweep(
    b: Builder, plan: Direct, sweep: Sweep, taps_before: int, epilogue: Epilogue, parts_before: int
) -> None:
    """This thread's tiles of one sweep: [group][block of rows][panel][row][tile of the row]."""
    c, tile, s = plan.c, plan.tile, plan.source
    type = plan.element
    base = workspace(b)
    zeros = b.offset(base, plan.weight_bytes)
    activation = b.offset(zeros, plan.zeros_bytes) if s.copied else b.operand(0)
    depth, height, width = sweep.count
    per_block = plan.rows_per_block(sweep)
    rows = plan.rows(sweep)
    blocks = plan.blocks(sweep)
    folds = plan.folds(epilogue)
    accumulators = Accumulators(b, tile, c.accumulate, plan.numbers)
    gathered = plan.gathered and math.prod(t.count for t in sweep.taps) > 0
    wide = -(-width // tile.rows) * tile.rows  # gathered positions of a row
    start, stop = b.share(c.groups * blocks * plan.panels)
    with b.loop(start, stop) as task:
        panel, rest = b.urem(task, plan.panels), b.udiv(task, plan.panels)
        block, group = b.urem(rest, blocks), b.udiv(rest, blocks)
        low = b.mul(block, per_block)
        high = b.intrinsic("llvm.umin", "i64", b.add(low, per_block), b.index(rows))
        weights = b.mul(b.add(b.mul(group, plan.panels), panel), plan.weight_panel)
        panel_begin = b.element(base, type, weights)
        weights = b.element(panel_begin, type, (taps_before * plan.inner + plan.shifted) * tile.columns)
        part = b.add(block, parts_before)
        if folds:
            for channel, mask, exists in vectors_of(b, plan, group, panel):
                with b.when(exists):
                    folds.clear(b, part, channel, mask)
        if gathered:
            with b.when(b.or_(b.compare("eq", task, start), b.compare("eq", panel, 0))):
                _gather(b, plan, sweep, activation, low, high, wide)
        with b.loop(low, high) as row:
            y, rest = b.urem(row, height), b.udiv(row, height)
            z, n = b.urem(rest, depth), b.udiv(rest, depth)
            ranges = [
                (b.index(0), b.index(sweep.taps[d].count)) if s.inside
                else inside(b, sweep.taps[d], q, sweep.stride[d], sweep.count[d], s.size[d])
                for d, q in ((0, z), (1, y))
            ]  # fmt: skip
            steps = (s.strides[0], s.strides[1] * sweep.stride[0], s.strides[2] * sweep.stride[1])
            corner = s.origin + sum(t.offset * k for t, k in zip(sweep.taps, s.strides[1:], strict=True))
            origin = b.add(b.add(dot((n, z, y), steps, b), corner), b.mul(group, plan.inner))
            with b.loop(0, width, tile.rows) as begin:
                # Where tiles of words do not divide a row, the last begins earlier and repeats some positions.
                first, repeated = begin, b.index(0)
                if plan.blocking:
                    first = b.intrinsic("llvm.umin", "i64", begin, b.index(width - tile.rows))
                    repeated = b.sub(begin, first)
                    plan.blocking.clear(b)
                else:
                    accumulators.begin(b, panel_begin if plan.shifted else None)
                if gathered:
                    position = b.add(b.mul(b.sub(row, low), wide), first)
                    line = b.element(b.arg("scratch"), type, b.mul(position, plan.gathered_step))
                else:
                    line = b.element(activation, type, b.add(origin, b.mul(first, sweep.stride[2] * s.strides[3])))
                place = (
                    n, group, b.add(b.mul(z, sweep.step[0]), sweep.start[0]),
                    b.add(b.mul(y, sweep.step[1]), sweep.start[1]),
                )  # fmt: skip
                number = b.add(b.mul(b.sub(row, low), -(-width // tile.rows)), b.udiv(begin, tile.rows))

                def fetch_result(
                    r: Value, first: Value = first, place: tuple[Value, ...] = place, panel: Value = panel
                ) -> None:
                    n, group, z, y = place
                    x = b.add(b.mul(b.add(first, r), sweep.step[2]), sweep.start[2])
                    channel = b.add(b.mul(group, plan.outer), b.mul(panel, tile.columns))
                    for v in range(tile.vectors):
                        epilogue.prefetch(b, (n, b.add(channel, v * tile.lanes), z, y, x), tile.lanes)

                _tile(b, plan, sweep, accumulators, line, zeros, weights, ranges, first, number, fetch_result)
                _finish(b, plan, sweep, epilogue, folds, accumulators, place, part, panel, first, repeated)


def _gather(b: Builder, plan: Direct, sweep: Sweep, activation: Value, low: Value, high: Value, wide: int) -> None:
    """Copy the positions that a block of results reads into this thread's memory."""
    s, lanes = plan.source, plan.tile.lanes
    type = plan.element
    depth, height, width = sweep.count
    whole = plan.inner // lanes * lanes
    with b.loop(low, high) as row:
        y, rest = b.urem(row, height), b.udiv(row, height)
        z, n = b.urem(rest, depth), b.udiv(rest, depth)
        steps = (s.strides[0], s.strides[1] * sweep.stride[0], s.strides[2] * sweep.stride[1])
        origin = b.add(dot((n, z, y), steps, b), s.origin)
        own = b.mul(b.sub(row, low), wide)
        with b.loop(0, width) as x:
            here = b.element(activation, type, b.add(origin, b.mul(x, sweep.stride[2] * s.strides[3])))
            there = b.element(b.arg("scratch"), type, b.mul(b.add(own, x), plan.gathered_step))
            with b.loop(0, whole, lanes, unroll=4) as channel:
                value = b.load(b.element(here, type, channel), vector(type, lanes))
                b.store(value, b.element(there, type, channel))
            with b.loop(whole, plan.inner) as channel:
                b.store(b.load(b.element(here, type, channel), type), b.element(there, type, channel))


def _tile(
    b: Builder, plan: Direct, sweep: Sweep, accumulators: Accumulators, line: Value, zeros: Value, weights: Value,
    ranges: list[tuple[Value, Value]], first: Value, number: Value, fetch_result: Callable[[Value], None],
) -> None:  # fmt: skip
    """Sum one tile over the taps that lie inside and over all channels: the tile of this number among a block's.

    fetch_result: has fetched what the epilogue will touch for a row of the tile
    """
    tile, s = plan.tile, plan.source
    type = plan.element
    columns = Taps(1, 0, 0, 0, 0) if plan.merged else sweep.taps[2]
    edges = [] if s.copied or plan.gathered else _edge_rows(sweep, tile.rows, s.size[2])
    stride = plan.gathered_step if plan.gathered else sweep.stride[2] * s.strides[3]
    single = math.prod(t.count for t in sweep.taps) == 1
    ahead = not plan.gathered and plan.inner >= 64 and single
    following = NextPanel.of(
        GROUP * tile.columns * plan.c.accumulate.size, plan.rows_per_block(sweep) * -(-sweep.count[2] // tile.rows)
    )
    with b.loop(*ranges[0]) as jz, b.loop(*ranges[1]) as jy, b.loop(0, columns.count) as jx:
        offset = dot((jz, jy, jx), [t.offset_step * k for t, k in zip(sweep.taps, s.strides[1:], strict=True)], b)
        pixels = b.element(line, type, offset)
        tap = b.add(b.mul(b.add(b.mul(jz, sweep.taps[1].count), jy), columns.count), jx)
        panel = b.element(weights, type, b.mul(tap, plan.inner * tile.columns))
        own: dict[int, Value] = {}
        for r in edges:
            column = b.add(b.mul(b.add(first, r), sweep.stride[2]), b.mul(jx, columns.offset_step))
            exists = b.compare("ult", b.add(column, columns.offset), s.size[2])
            own[r] = b.select(exists, b.element(pixels, type, r * stride), zeros)

        def step(
            channel: Operand, pixels: Value = pixels, panel: Value = panel, own: dict[int, Value] = own
        ) -> None:
            row = b.element(panel, type, b.mul(b.index(channel), tile.columns))
            vectors = [b.load(b.element(row, type, v * tile.lanes), vector(type, tile.lanes)) for v in range(tile.vectors)]
            numbers = b.element(pixels, type, channel)
            if ahead:
                # The next tile's lines, each once: in every 16 channels one line of each position.
                line_of, position = b.and_(b.index(channel), -16), b.and_(b.index(channel), 15)
                next_tile = b.add(line_of, b.mul(b.add(position, tile.rows), stride))
                b.prefetch(b.element(pixels, type, next_tile))
            places = [
                b.element(own[r], type, channel) if r in own else b.element(numbers, type, r * stride)
                for r in range(tile.rows)
            ]
            accumulators.step(b, [functools.partial(b.load, place, type) for place in places], vectors)

        def fetch_panel(group: Value, panel: Value = panel) -> None:
            following.fetch(b, b.element(panel, type, plan.weight_panel), number, group, plan.inner // GROUP)

        if plan.blocking:
            step_bytes = amx.WORDS * tile.columns * dots.WORD_BYTES
            with b.loop(0, plan.inner // amx.WORDS) as k:
                left = b.element(pixels, type, b.mul(k, amx.WORDS))
                right = b.offset(panel, b.mul(k, step_bytes))
                plan.blocking.step(b, [left], stride * dots.WORD_BYTES, right, tile.columns * dots.WORD_BYTES)
        else:
            # Sums over several taps are long enough for what the processor fetches by itself.
            large = single and plan.weight_bytes > _NEAR
            grouped_steps(b, plan.inner, step, fetch_panel if large else None, tile.rows if single else 0, fetch_result)


def _finish(
    b: Builder, plan: Direct, sweep: Sweep, epilogue: Epilogue, folds: Folds | None, accumulators: Accumulators,
    place: tuple[Value, Value, Value, Value], part: Value, panel: Value, first: Value, repeated: Value,
) -> None:  # fmt: skip
    """Hand the tile to the epilogue, but for its first rows if an earlier one had those positions."""
    tile = plan.tile
    n, group, z, y = place
    width = sweep.count[2]
    if epilogue.large or plan.blocking:  # by way of memory, so that its code stands once a row instead of once a vector
        type = register_type(plan.c.accumulate)
        finished = b.offset(b.arg("scratch"), plan.scratch_bytes)
        if plan.blocking:
            plan.blocking.store(b, finished)
            first = b.add(first, repeated)
            finished = b.element(finished, type, b.mul(repeated, tile.columns))
        else:
            for r in range(tile.rows):
                for v in range(tile.vectors):
                    b.store(accumulators.get(b, r, v), b.element(finished, type, r * tile.columns + v * tile.lanes))
        rows = b.intrinsic("llvm.umin", "i64", b.sub(b.index(width), first), b.sub(b.index(tile.rows), repeated))
        if folds:
            for v, (channel, mask, exists) in enumerate(vectors_of(b, plan, group, panel)):
                column = b.element(finished, type, v * tile.lanes)
                with b.when(exists):
                    run = folds.begin(b, channel, mask)
                    start = b.add(b.mul(first, sweep.step[2]), sweep.start[2])
                    folds.pivot(b, run, part, (n, channel, z, y, start), b.load(column, accumulators.type), mask)
                    with b.loop(0, rows, unroll=1) as number:
                        x = b.add(b.mul(b.add(first, number), sweep.step[2]), sweep.start[2])
                        value = b.load(b.element(column, type, b.mul(number, tile.columns)), accumulators.type)
                        epilogue.emit(b, (n, channel, z, y, x), value, mask, run)
                    folds.end(b, run, rows, part, channel, mask)
            return
        with b.loop(0, rows, unroll=1) as number:
            x = b.add(b.mul(b.add(first, number), sweep.step[2]), sweep.start[2])
            for v in range(tile.vectors):
                within = b.add(b.mul(panel, tile.columns), v * tile.lanes)
                mask = lane_mask(b, within, plan.outer, tile.lanes)
                there = b.element(finished, type, b.add(b.mul(number, tile.columns), v * tile.lanes))
                with b.when(b.compare("slt", within, plan.outer)):
                    channel = b.add(b.mul(group, plan.outer), within)
                    epilogue.emit(b, (n, channel, z, y, x), b.load(there, accumulators.type), mask)
        return
    for r in range(tile.rows):
        q = b.add(first, r)

        def row(r: int = r, q: Value = q) -> None:
            x = b.add(b.mul(q, sweep.step[2]), sweep.start[2])
            for v in range(tile.vectors):
                within = b.add(b.mul(panel, tile.columns), v * tile.lanes)
                channel = b.add(b.mul(group, plan.outer), within)
                mask = lane_mask(b, within, plan.outer, tile.lanes)
                value = accumulators.get(b, r, v)
                if plan.outer % tile.columns == 0 or v == 0:
                    epilogue.emit(b, (n, channel, z, y, x), value, mask)
                else:  # a vector that may lie wholly outside
                    with b.when(b.compare("slt", within, plan.outer)):
                        epilogue.emit(b, (n, channel, z, y, x), value, mask)

        if width % tile.rows == 0:
            row()
        else:
            with b.when(b.compare("slt", q, width)):
                row()
