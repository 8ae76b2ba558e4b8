"""Depthwise convolutions: every channel on its own, lanes along the channels of channels-last activations.

They do little arithmetic for each number they read, so nothing is copied that can be read in place: taps that
lie outside are left out, those of rows by the bounds of the loop, those of columns by tiles of their own at the
row's ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from firepot.kernels.llvm.builder import Builder, Module, Operand, Value, vector
from firepot.kernels.llvm.convolution_folds import Folds, Run, folds_of
from firepot.kernels.llvm.convolution_form import (
    Convolution,
    Sweep,
    columns_inside,
    dot,
    even_tiles,
    inside,
    sweeps,
    whole_columns,
)
from firepot.kernels.llvm.convolution_source import Source, copy, round_up, source
from firepot.kernels.llvm.epilogue import Epilogue
from firepot.kernels.llvm.expression import load_element, memory_type, register_type
from firepot.kernels.llvm.matmul import workspace
from firepot.kernels.llvm.tile import lane_mask

_ACCUMULATORS = 8  # of a tile: more of them would not be reused from, and each is a copy of the epilogue
_PARTS = 32  # the weight gradient's rows are summed in so many parts, whatever the number of threads
_FOLD_PARTS = 64  # in which folds over what a sweep makes are taken, whatever the number of threads
_WIDEST_KERNEL = 16  # columns of a kernel: each is unrolled


def applies(c: Convolution) -> bool:
    return (
        c.groups == c.in_channels == c.out_channels and c.groups > 1 and c.kernel[2] <= _WIDEST_KERNEL
        and c.accumulate.kind == "f"
    )  # fmt: skip


@dataclass(frozen=True)
class Depthwise:
    """How a depthwise convolution of any mode is cut into tiles."""

    c: Convolution
    sweeps: list[Sweep]
    source: Source
    gradient: Source | None  # g of the weight gradient
    lanes: int
    vectors: int

    @staticmethod
    def of(c: Convolution, lanes: int) -> Depthwise:
        vectors = 2 if math.ceil(c.groups / lanes) % 2 == 0 else 1
        all_sweeps = sweeps(c)
        gradient = None
        if c.mode == "weight_grad":
            gradient = source(c, [], c.groups, c.output_size, c.second_strides)
        own = source(c, all_sweeps, c.groups, c.source_size, c.first_strides)
        return Depthwise(c, all_sweeps, own, gradient, lanes, vectors)

    @property
    def block(self) -> int:
        """Channels of a tile."""
        return self.vectors * self.lanes

    @property
    def blocks(self) -> int:
        return math.ceil(self.c.groups / self.block)

    @property
    def channels(self) -> int:
        """Channels of a packed weight."""
        return self.blocks * self.block

    @property
    def taps(self) -> int:
        return math.prod(self.c.kernel)

    @property
    def rows(self) -> int:
        """Rows of g that the weight gradient sums over."""
        return self.c.batch * self.c.output_size[0] * self.c.output_size[1]

    @property
    def parts(self) -> int:
        return min(_PARTS, self.rows)

    @property
    def weight_bytes(self) -> int:
        copies = self.parts if self.c.mode == "weight_grad" else 1
        return round_up(copies * self.taps * self.channels * self.c.accumulate.size)

    @property
    def workspace_bytes(self) -> int:
        return self.weight_bytes + self.source.bytes + (self.gradient.bytes if self.gradient else 0)

    scratch_bytes = 0

    @property
    def phases(self) -> tuple[str, ...]:
        return ("prepare", "accumulate", "combine") if self.c.mode == "weight_grad" else ("prepare", "multiply")

    def fold_parts(self, sweep: Sweep) -> int:
        return min(_FOLD_PARTS, self.c.batch * sweep.count[0] * sweep.count[1])

    def folds(self, epilogue: Epilogue) -> Folds | None:
        parts = sum(self.fold_parts(s) for s in self.sweeps)
        return folds_of(epilogue, self.workspace_bytes, parts, self.c.groups, self.lanes)

    def generate(self, epilogue: Epilogue) -> str:
        module = Module("depthwise", workspace_operand=2 + epilogue.operands)
        with module.kernel("prepare") as b:
            if self.source.copied:
                place = b.offset(workspace(b), self.weight_bytes)
                copy(b, self.c, b.operand(0), self.c.first_strides, self.source, place)
            if self.gradient is None:
                _pack_weights(b, self)
            elif self.gradient.copied:
                place = b.offset(workspace(b), self.weight_bytes + self.source.bytes)
                copy(b, self.c, b.operand(1), self.c.second_strides, self.gradient, place)
        if self.c.mode == "weight_grad":
            with module.kernel("accumulate") as b:
                _accumulate(b, self)
            with module.kernel("combine") as b:
                _combine(b, self, epilogue)
        else:
            folds, before = self.folds(epilogue), 0
            with module.kernel("multiply") as b:
                for sweep in self.sweeps:
                    _multiply(b, self, sweep, epilogue, folds, before)
                    before += self.fold_parts(sweep)
            if folds:
                with module.kernel("fold") as b:
                    folds.finish(b)
        return str(module)


def _pack_weights(b: Builder, plan: Depthwise) -> None:
    """Weights into [tap][channel]; what lies beyond the last channel is never used."""
    c = plan.c
    channel_stride, _, *strides = c.second_strides
    _, height, width = c.kernel
    start, stop = b.share(plan.taps)
    with b.loop(start, stop) as tap:
        x, rest = b.urem(tap, width), b.udiv(tap, width)
        y, z = b.urem(rest, height), b.udiv(rest, height)
        origin = dot((z, y, x), strides, b)
        with b.loop(0, c.groups, unroll=4) as channel:
            place = b.element(b.operand(1), memory_type(c.dtype), b.add(origin, b.mul(channel, channel_stride)))
            value = load_element(b, place, c.dtype, 1, None)
            target = b.add(b.mul(tap, plan.channels), channel)
            b.store(value, b.element(workspace(b), register_type(c.accumulate), target))


def _activation(b: Builder, plan: Depthwise) -> Value:
    if not plan.source.copied:
        return b.operand(0)
    return b.offset(workspace(b), plan.weight_bytes)


def _masks(b: Builder, plan: Depthwise, channel: Value) -> list[Value | None]:
    return [lane_mask(b, b.add(channel, v * plan.lanes), plan.c.groups, plan.lanes) for v in range(plan.vectors)]


@dataclass(frozen=True)
class _Columns:
    """A run of result columns that are computed alike: `repeat` tiles of `size`, from `first` on."""

    first: int
    size: int
    repeat: int
    taps: list[int]  # numbers of the columns' taps that lie inside


def _column_runs(s: Source, sweep: Sweep, most: int) -> list[_Columns]:
    """A row of results in tiles of at most `most`."""
    taps, stride, count, size = sweep.taps[2], sweep.stride[2], sweep.count[2], s.size[2]
    low, high = (0, count) if s.inside else whole_columns(taps, stride, count, size)
    runs = [_Columns(x, 1, 1, columns_inside(taps, stride, x, size)) for x in range(low)]
    if high > low:
        every = list(range(taps.count))
        tile, pieces = even_tiles(high - low, most)
        whole = (high - low) // tile
        runs.append(_Columns(low, tile, whole, every))
        if whole < pieces:
            runs.append(_Columns(low + whole * tile, high - low - whole * tile, 1, every))
    runs += [_Columns(x, 1, 1, columns_inside(taps, stride, x, size)) for x in range(high, count)]
    merged: list[_Columns] = []
    for run in runs:  # a large border is a loop over equal columns, not a copy of the code for each
        last = merged[-1] if merged else None
        if last is not None and last.size == run.size and last.taps == run.taps:
            merged[-1] = _Columns(last.first, last.size, last.repeat + run.repeat, run.taps)
        else:
            merged.append(run)
    return merged


def _multiply(
    b: Builder, plan: Depthwise, sweep: Sweep, epilogue: Epilogue, folds: Folds | None, parts_before: int
) -> None:
    """This thread's rows of one sweep."""
    rows = plan.c.batch * sweep.count[0] * sweep.count[1]
    if folds is None:
        start, stop = b.share(rows)
        _multiply_rows(b, plan, sweep, epilogue, start, stop, None, None)
        return
    parts = plan.fold_parts(sweep)
    start, stop = b.share(parts)
    with b.loop(start, stop) as number:
        part = b.add(number, parts_before)
        with b.loop(0, plan.blocks) as block:
            for v in range(plan.vectors):
                folds.clear(b, part, b.add(b.mul(block, plan.block), v * plan.lanes))
        low, high = (b.udiv(b.mul(n, rows), parts) for n in (number, b.add(number, 1)))
        _multiply_rows(b, plan, sweep, epilogue, low, high, folds, part)


def _multiply_rows(
    b: Builder, plan: Depthwise, sweep: Sweep, epilogue: Epilogue, start: Value, stop: Value, folds: Folds | None,
    part: Value | None,
) -> None:  # fmt: skip
    c, s = plan.c, plan.source
    depth, height, width = sweep.count
    activation = _activation(b, plan)
    runs = _column_runs(s, sweep, max(1, _ACCUMULATORS // plan.vectors))
    with b.loop(start, stop) as row:
        y, rest = b.urem(row, height), b.udiv(row, height)
        z, n = b.urem(rest, depth), b.udiv(rest, depth)
        ranges = [
            (b.index(0), b.index(sweep.taps[d].count)) if s.inside
            else inside(b, sweep.taps[d], q, sweep.stride[d], sweep.count[d], s.size[d])
            for d, q in ((0, z), (1, y))
        ]  # fmt: skip
        first = [sweep.taps[d].offset for d in range(3)]
        origin = b.add(
            dot((n, z, y), (s.strides[0], s.strides[1] * sweep.stride[0], s.strides[2] * sweep.stride[1]), b),
            s.origin + sum(f * t for f, t in zip(first, s.strides[1:], strict=True)),
        )
        with b.loop(0, plan.blocks) as block:
            channel = b.mul(block, plan.block)
            line = b.element(activation, register_type(c.accumulate), b.add(origin, channel))
            place = (
                n,
                b.add(b.mul(z, sweep.step[0]), sweep.start[0]),
                b.add(b.mul(y, sweep.step[1]), sweep.start[1]),
            )
            masks = _masks(b, plan, channel)
            folded: list[Run] = []  # of each vector, over the row
            if folds:
                folded = [folds.begin(b, b.add(channel, v * plan.lanes), masks[v]) for v in range(plan.vectors)]
            for run in runs:
                if run.repeat == 1:
                    _tile(b, plan, sweep, epilogue, run, b.index(run.first), line, ranges, place, channel, folds, folded, part)
                    continue
                with b.loop(run.first, run.first + run.repeat * run.size, run.size) as x:
                    _tile(b, plan, sweep, epilogue, run, x, line, ranges, place, channel, folds, folded, part)
            for v, ended in enumerate(folded):
                assert folds is not None and part is not None
                folds.end(b, ended, b.index(width), part, b.add(channel, v * plan.lanes), masks[v])


def _tile(
    b: Builder, plan: Depthwise, sweep: Sweep, epilogue: Epilogue, run: _Columns, x: Value, line: Value,
    ranges: Sequence[tuple[Value, Value]], place: tuple[Value, Value, Value], channel: Value, folds: Folds | None,
    folded: Sequence[Run], part: Value | None,
) -> None:  # fmt: skip
    """`run.size` neighbouring results of a block of channels, from column x on."""
    c, s = plan.c, plan.source
    scalar = register_type(c.accumulate)
    wide = vector(scalar, plan.lanes)
    masks = _masks(b, plan, channel)
    zero = b.constant(0, wide)
    sums = [[b.variable(wide) for _ in range(plan.vectors)] for _ in range(run.size)]
    for row in sums:
        for slot in row:
            b.set(slot, zero)
    taps = sweep.taps
    _, height, width = c.kernel
    there = b.element(line, scalar, b.mul(x, sweep.stride[2] * s.strides[3]))
    weights = b.element(workspace(b), scalar, channel)
    with b.loop(*ranges[0]) as jz, b.loop(*ranges[1]) as jy:
        offset = b.add(b.mul(jz, taps[0].offset_step * s.strides[1]), b.mul(jy, taps[1].offset_step * s.strides[2]))
        pixels = b.element(there, scalar, offset)
        tap_y = b.add(b.mul(jy, taps[1].tap_step), taps[1].tap)
        tap_z = b.add(b.mul(jz, taps[0].tap_step), taps[0].tap)
        line_of_taps = b.element(weights, scalar, b.mul(b.add(b.mul(tap_z, height), tap_y), width * plan.channels))
        readers: dict[int, list[tuple[int, int]]] = {}  # which sums need the pixel at a column: (result, tap)
        for r in range(run.size):
            for j in run.taps:
                readers.setdefault(r * sweep.stride[2] + j * taps[2].offset_step, []).append((r, j))
        for v in range(plan.vectors):
            factors = {
                j: b.load(
                    b.element(
                        line_of_taps,
                        scalar,
                        (taps[2].tap + j * taps[2].tap_step) * plan.channels + v * plan.lanes,
                    ),
                    wide,
                )
                for j in run.taps
            }
            for column in sorted(readers):
                pixel = load_element(
                    b,
                    b.element(pixels, scalar, column * s.strides[3] + v * plan.lanes),
                    c.accumulate,
                    plan.lanes,
                    masks[v],
                )
                for r, j in readers[column]:
                    b.set(sums[r][v], b.fma(pixel, factors[j], b.get(sums[r][v], wide)))
    n, z, y = place
    if folds and part and run.first == 0:
        with b.when(b.compare("eq", x, 0)):
            for v, own in enumerate(folded):
                index = (n, b.add(channel, v * plan.lanes), z, y, b.index(sweep.start[2]))
                folds.pivot(b, own, part, index, b.get(sums[0][v], wide), masks[v])
    for r in range(run.size):
        out_x = b.add(b.mul(b.add(x, r), sweep.step[2]), sweep.start[2])
        for v in range(plan.vectors):
            index = (n, b.add(channel, v * plan.lanes), z, y, out_x)
            epilogue.emit(b, index, b.get(sums[r][v], wide), masks[v], folded[v] if folded else None)


def _accumulate(b: Builder, plan: Depthwise) -> None:
    """The weight gradient's partial sums into [part][tap][channel]."""
    c, s = plan.c, plan.source
    g = plan.gradient
    assert g is not None
    sweep = plan.sweeps[0]
    scalar = register_type(c.accumulate)
    wide = vector(scalar, plan.lanes)
    activation = _activation(b, plan)
    gradient = b.offset(workspace(b), plan.weight_bytes + s.bytes) if g.copied else b.operand(1)
    depth, height, _ = sweep.count
    runs = _column_runs(s, sweep, 1)
    size = plan.taps * plan.channels
    start, stop = b.share(plan.parts)
    with b.loop(start, stop) as part:
        own = b.element(workspace(b), scalar, b.mul(part, size))
        with b.loop(0, size, plan.lanes) as i:
            b.store(b.constant(0, wide), b.element(own, scalar, i))
        first, last = (
            b.udiv(b.mul(part, plan.rows), plan.parts),
            b.udiv(b.mul(b.add(part, 1), plan.rows), plan.parts),
        )
        with b.loop(first, last) as row:
            y, rest = b.urem(row, height), b.udiv(row, height)
            z, n = b.urem(rest, depth), b.udiv(rest, depth)
            ranges = [
                (b.index(0), b.index(sweep.taps[d].count)) if s.inside
                else inside(b, sweep.taps[d], q, sweep.stride[d], sweep.count[d], s.size[d])
                for d, q in ((0, z), (1, y))
            ]  # fmt: skip
            steps = (s.strides[0], s.strides[1] * sweep.stride[0], s.strides[2] * sweep.stride[1])
            corner = s.origin + sum(t.offset * k for t, k in zip(sweep.taps, s.strides[1:], strict=True))
            x_row = b.add(dot((n, z, y), steps, b), corner)
            g_row = b.add(dot((n, z, y), g.strides[:3], b), g.origin)
            with b.loop(0, plan.blocks) as block, b.loop(*ranges[0]) as jz, b.loop(*ranges[1]) as jy:
                channel = b.mul(block, plan.block)
                offset = dot(
                    (jz, jy),
                    (sweep.taps[0].offset_step * s.strides[1], sweep.taps[1].offset_step * s.strides[2]),
                    b,
                )
                x_line = b.element(activation, scalar, b.add(b.add(x_row, offset), channel))
                g_line = b.element(gradient, scalar, b.add(g_row, channel))
                tap = b.mul(b.add(b.mul(jz, c.kernel[1]), jy), c.kernel[2] * plan.channels)
                _kernel_row(b, plan, sweep, runs, x_line, g_line, b.element(own, scalar, b.add(tap, channel)), channel)


def _kernel_row(
    b: Builder, plan: Depthwise, sweep: Sweep, runs: Sequence[_Columns], x_line: Value, g_line: Value, sums: Value,
    channel: Value,
) -> None:  # fmt: skip
    """Add to one row of the kernel's gradient what one row of positions gives."""
    c, s, g = plan.c, plan.source, plan.gradient
    assert g is not None
    scalar = register_type(c.accumulate)
    wide = vector(scalar, plan.lanes)
    masks = _masks(b, plan, channel)
    columns = sweep.taps[2]

    def place(j: int, v: int) -> Value:
        return b.element(sums, scalar, j * plan.channels + v * plan.lanes)

    slots = [[b.variable(wide) for _ in range(plan.vectors)] for _ in range(columns.count)]
    for j in range(columns.count):
        for v in range(plan.vectors):
            b.set(slots[j][v], b.load(place(j, v), wide))

    def position(x: Operand, taps: Sequence[int]) -> None:
        here = b.element(g_line, scalar, b.mul(b.index(x), g.strides[3]))
        there = b.element(x_line, scalar, b.mul(b.index(x), sweep.stride[2] * s.strides[3]))
        for v in range(plan.vectors):
            slope = load_element(b, b.element(here, scalar, v * plan.lanes), c.accumulate, plan.lanes, masks[v])
            for j in taps:
                at = b.element(there, scalar, j * columns.offset_step * s.strides[3] + v * plan.lanes)
                pixel = load_element(b, at, c.accumulate, plan.lanes, masks[v])
                b.set(slots[j][v], b.fma(pixel, slope, b.get(slots[j][v], wide)))

    for run in runs:
        if run.repeat == 1:
            position(run.first, run.taps)
        else:
            with b.loop(run.first, run.first + run.repeat, unroll=2) as x:
                position(x, run.taps)
    for j in range(columns.count):
        for v in range(plan.vectors):
            b.store(b.get(slots[j][v], wide), place(j, v))


def _combine(b: Builder, plan: Depthwise, epilogue: Epilogue) -> None:
    """Add up the parts, in order."""
    c = plan.c
    scalar = register_type(c.accumulate)
    wide = vector(scalar, plan.lanes)
    pieces = plan.channels // plan.lanes
    _, height, width = c.kernel
    start, stop = b.share(plan.taps * pieces)
    with b.loop(start, stop) as task:
        tap, piece = b.udiv(task, pieces), b.urem(task, pieces)
        channel = b.mul(piece, plan.lanes)
        own = b.element(workspace(b), scalar, b.mul(task, plan.lanes))
        total = b.variable(wide)
        b.set(total, b.load(own, wide))
        with b.loop(1, plan.parts) as part:
            more = b.load(b.element(own, scalar, b.mul(part, plan.taps * plan.channels)), wide)
            b.set(total, b.add(b.get(total, wide), more))
        x, rest = b.urem(tap, width), b.udiv(tap, width)
        y, z = b.urem(rest, height), b.udiv(rest, height)
        mask = lane_mask(b, channel, c.groups, plan.lanes)
        with b.when(b.compare("slt", channel, c.groups)):
            epilogue.emit(b, (channel, b.index(0), z, y, x), b.get(total, wide), mask)
