"""Direct sums by tile instructions over positions counted through all rows and images.

Without strides the positions that a tap reads lie as far from the results' in every row. So where the source is
contiguous, or a copy with a border, tiles may go on from one row to the next and from one image to the next, and small
images fill them too. What falls into the border is computed and thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from firepot.kernels.llvm import amx, dots
from firepot.kernels.llvm.builder import Builder, Value, vector
from firepot.kernels.llvm.convolution_folds import Folds, Run
from firepot.kernels.llvm.convolution_form import Convolution, Sweep
from firepot.kernels.llvm.convolution_source import Source
from firepot.kernels.llvm.epilogue import Epilogue
from firepot.kernels.llvm.expression import register_type
from firepot.kernels.llvm.matmul import workspace
from firepot.kernels.llvm.tile import lane_mask

if TYPE_CHECKING:
    from firepot.kernels.llvm.convolution_direct import Direct


@dataclass(frozen=True)
class Flat:
    """Positions of the source as one row.

    width:         of a row of the source, its border included
    height:        rows from an image to the next
    size:          (height, width) of the results of an image
    total:         positions from the first result to the last
    """

    width: int
    height: int
    size: tuple[int, int]
    total: int

    @staticmethod
    def of(c: Convolution, all_sweeps: list[Sweep], s: Source) -> Flat | None:
        """None where tiles cannot go on from row to row, or most of what they hold would be thrown away."""
        if len(all_sweeps) != 1:
            return None
        (sweep,) = all_sweeps
        depth, rows, columns = sweep.count
        plain = sweep.stride == sweep.step == (1, 1, 1) and sweep.start == (0, 0, 0) and depth == 1 and s.inside
        image, _, line, position = s.strides
        if not plain or line % position or image % line:
            return None
        width, height = line // position, image // line if c.batch > 1 else rows
        total = ((c.batch - 1) * height + rows - 1) * width + columns
        if total < amx.SQUARE.shape.rows or 3 * rows * columns < width * height:
            return None
        return Flat(width, height, (rows, columns), total)

    @property
    def tiles(self) -> int:
        return math.ceil(self.total / amx.SQUARE.shape.rows)

    def place(self, b: Builder, position: Value) -> tuple[Value, Value, Value]:
        """(image, row, column) of a position."""
        x, rest = b.urem(position, self.width), b.udiv(position, self.width)
        return b.udiv(rest, self.height), b.urem(rest, self.height), x


def sweep_flat(b: Builder, plan: Direct, flat: Flat, sweep: Sweep, epilogue: Epilogue) -> None:
    """This thread's tiles: [group][block of tiles][panel][tile of the block]."""
    tile, s, type = plan.tile, plan.source, plan.element
    base = workspace(b)
    zeros = b.offset(base, plan.weight_bytes)
    activation = b.offset(zeros, plan.zeros_bytes) if s.copied else b.operand(0)
    per_block, blocks = plan.rows_per_block(sweep), plan.blocks(sweep)
    folds = plan.folds(epilogue)
    corner = s.origin + sum(t.offset * k for t, k in zip(sweep.taps, s.strides[1:], strict=True))
    start, stop = b.share(plan.c.groups * blocks * plan.panels)
    with b.loop(start, stop) as task:
        panel, rest = b.urem(task, plan.panels), b.udiv(task, plan.panels)
        block, group = b.urem(rest, blocks), b.udiv(rest, blocks)
        low = b.mul(block, per_block)
        high = b.intrinsic("llvm.umin", "i64", b.add(low, per_block), b.index(flat.tiles))
        weights = b.mul(b.add(b.mul(group, plan.panels), panel), plan.weight_panel)
        if folds:
            for channel, mask, exists in vectors_of(b, plan, group, panel):
                with b.when(exists):
                    folds.clear(b, block, channel, mask)
        with b.loop(low, high) as number:
            # The last tile begins earlier and repeats some positions of the one before.
            begin = b.mul(number, tile.rows)
            first = b.intrinsic("llvm.umin", "i64", begin, b.index(flat.total - tile.rows))
            origin = b.add(b.add(b.mul(first, s.strides[3]), corner), b.mul(group, plan.inner))
            _sum(b, plan, sweep, b.element(activation, type, origin), b.element(base, type, weights))
            _finish(b, plan, flat, epilogue, folds, block, group, panel, first, b.sub(begin, first))


def _sum(b: Builder, plan: Direct, sweep: Sweep, line: Value, weights: Value) -> None:
    """One tile over all taps and channels."""
    assert plan.blocking is not None
    s, type = plan.source, plan.element
    position_bytes, row_bytes = s.strides[3] * dots.WORD_BYTES, plan.tile.columns * dots.WORD_BYTES
    deep, high, wide = (t.count for t in sweep.taps)
    plan.blocking.clear(b)
    with b.loop(0, deep) as jz, b.loop(0, high) as jy, b.loop(0, wide) as jx:
        offset = b.mul(jz, sweep.taps[0].offset_step * s.strides[1])
        offset = b.add(offset, b.mul(jy, sweep.taps[1].offset_step * s.strides[2]))
        offset = b.add(offset, b.mul(jx, sweep.taps[2].offset_step * s.strides[3]))
        pixels = b.element(line, type, offset)
        tap = b.add(b.mul(b.add(b.mul(jz, high), jy), wide), jx)
        panel = b.offset(weights, b.mul(tap, plan.inner * row_bytes))
        with b.loop(0, plan.inner // amx.WORDS) as k:
            left = b.offset(pixels, b.mul(k, amx.ROW_BYTES))
            tiles = [b.offset(left, i * amx.ROWS * position_bytes) for i in range(plan.blocking.left)]
            plan.blocking.step(b, tiles, position_bytes, b.offset(panel, b.mul(k, amx.WORDS * row_bytes)), row_bytes)


def _finish(
    b: Builder, plan: Direct, flat: Flat, epilogue: Epilogue, folds: Folds | None, part: Value, group: Value, panel: Value,
    first: Value, repeated: Value,
) -> None:  # fmt: skip
    """Hand those results to the epilogue that an image has, and that no tile before had."""
    assert plan.blocking is not None
    tile = plan.tile
    type = register_type(plan.c.accumulate)
    wide = vector(type, tile.lanes)
    finished = b.offset(b.arg("scratch"), plan.scratch_bytes)
    plan.blocking.store(b, finished)
    zero = b.index(0)

    def each(emit_row: Callable[[Value, Value, Value, Value], None]) -> None:
        with b.loop(repeated, tile.rows, unroll=1) as row:
            n, y, x = flat.place(b, b.add(first, row))
            inside = b.and_(b.compare("ult", y, flat.size[0]), b.compare("ult", x, flat.size[1]))
            with b.when(inside):
                emit_row(row, n, y, x)

    def value(row: Value, v: int) -> Value:
        place = b.add(b.mul(row, tile.columns), v * tile.lanes)
        return b.load(b.element(finished, type, place), wide)

    vectors = list(vectors_of(b, plan, group, panel))
    if folds is None:

        def emit(row: Value, n: Value, y: Value, x: Value) -> None:
            for v, (channel, mask, exists) in enumerate(vectors):
                with b.when(exists):
                    epilogue.emit(b, (n, channel, zero, y, x), value(row, v), mask)

        each(emit)
        return
    for v, (channel, mask, exists) in enumerate(vectors):
        with b.when(exists):
            run = folds.begin(b, channel, mask)
            # Any value near the results' serves as a pivot, also one of the border.
            n, y, x = flat.place(b, b.add(first, repeated))
            y = b.intrinsic("llvm.umin", "i64", y, b.index(flat.size[0] - 1))
            x = b.intrinsic("llvm.umin", "i64", x, b.index(flat.size[1] - 1))
            folds.pivot(b, run, part, (n, channel, zero, y, x), value(repeated, v), mask)
            count = b.variable("i64", zero)

            each(partial(_emit_counted, b, epilogue, count, channel, mask, run, partial(value, v=v)))
            folds.end(b, run, b.get(count, "i64"), part, channel, mask)


def _emit_counted(
    b: Builder, epilogue: Epilogue, count: Value, channel: Value, mask: Value | None, run: Run,
    value: Callable[[Value], Value], row: Value, n: Value, y: Value, x: Value,
) -> None:  # fmt: skip
    b.set(count, b.add(b.get(count, "i64"), 1))
    epilogue.emit(b, (n, channel, b.index(0), y, x), value(row), mask, run)


def vectors_of(b: Builder, plan: Direct, group: Value, panel: Value) -> Iterator[tuple[Value, Value | None, Value]]:
    """(first channel, lanes that exist, whether any does) of each vector of a panel."""
    for v in range(plan.tile.vectors):
        within = b.add(b.mul(panel, plan.tile.columns), v * plan.tile.lanes)
        mask = lane_mask(b, within, plan.outer, plan.tile.lanes)
        yield b.add(b.mul(group, plan.outer), within), mask, b.compare("slt", within, plan.outer)
