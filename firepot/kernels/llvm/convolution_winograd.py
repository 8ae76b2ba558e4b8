"""3×3 convolutions without stride by minimal filtering (convolution_filtering.py), in all three modes.

Forward and input gradient (the same with the filter turned around): transform the weights; transform 6×6 tiles of the
source; 36 matrix products [tiles × channels] · [channels × result channels]; transform back to 4×4 results. A block of
tiles goes through the products and the way back within the cache, where its size allows the way in too.

Weight gradient: the tiles of both activations are transformed, 36 products sum over tiles, one transform gives 3×3.

float16 and bfloat16 become float32 as they are read, and everything else is done in float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.kernels.llvm.builder import KERNEL_PARAMETERS, Builder, Module, Operand, Value, vector
from firepot.kernels.llvm.convolution_filtering import (
    FROM_FILTER,
    FROM_POINTS,
    POINTS,
    PRODUCTS,
    RESULTS,
    TAPS,
    TO_FILTER,
    TO_GRADIENT,
    TO_INPUT,
    Matrix,
    both_ways,
    from_points,
    to_points,
)
from firepot.kernels.llvm.convolution_folds import Folds, folds_of
from firepot.kernels.llvm.convolution_form import Convolution, Five, Triple
from firepot.kernels.llvm.convolution_source import round_up
from firepot.kernels.llvm.epilogue import Epilogue
from firepot.kernels.llvm.expression import from_memory, load_element, memory_type
from firepot.kernels.llvm.matmul import workspace
from firepot.kernels.llvm.tile import (
    GROUP,
    Accumulators,
    NextPanel,
    TileShape,
    choose_tile,
    grouped_steps,
    lane_mask,
)

_FUSED_BYTES = 1100 << 10  # transformed source and products of a block that goes all the way in the cache
_FAR = 4 << 20  # bytes of transformed weights whose panels are asked for before they are needed
_PRODUCT_BYTES = 640 << 10  # products of a block otherwise
_GROUP_COLUMNS = 64  # result channels of a task that does not take them all
_CHUNK_BYTES = 10 << 20  # both transformed operands of the weight gradient at a time
_PART_BYTES = 10 << 20  # transformed weights, or their sums before the way back, at a time
_PART_TASKS = 8  # that the threads share for each part of the weights
_SUM_BYTES = 256 << 10  # of both operands that the weight gradient's products go over before the next block
_FINISHED = 16  # input channels whose weights are handed over together
_WORTH = 0.9  # of the direct sum's time, estimated


def applies(c: Convolution, direct_rate: float = 105) -> bool:
    """Whether minimal filtering computes this convolution, and faster than direct sums do.

    direct_rate: operations of direct sums in 1e-9 s on one core.
    """
    possible = (
        c.winograd and c.groups == 1 and c.kernel == (1, TAPS, TAPS) and c.stride == (1, 1, 1)
        and c.dilation == (1, 1, 1) and c.padding[0] == 0 and c.accumulate is dtypes.float32
        and max(c.padding) < TAPS and c.input_size[0] == c.output_size[0]
        and c.first_strides[1] == 1 and (c.mode != "weight_grad" or c.second_strides[1] == 1)
    )  # fmt: skip
    if not possible or min(c.in_channels, c.out_channels) < 16:
        return False
    # Operations and bytes at the rates of one core, in a time unit of 1e-9 s.
    direct = 2 * c.products / direct_rate
    channels, products = c.in_channels + c.out_channels, c.in_channels * c.out_channels
    tiles = Tiling.of(c).tiles
    moved = 2 * 4 * PRODUCTS * (tiles * channels + products)
    return 2 * PRODUCTS * tiles * products / 95 + moved / 20 < _WORTH * direct


@dataclass(frozen=True)
class Tiling:
    """4×4 tiles of the positions that are filled, or summed over."""

    size: Triple
    batch: int
    high: int
    wide: int

    @staticmethod
    def of(c: Convolution) -> Tiling:
        size = c.output_size if c.mode == "weight_grad" else c.result_size
        return Tiling(size, c.batch * size[0], math.ceil(size[1] / RESULTS), math.ceil(size[2] / RESULTS))

    @property
    def tiles(self) -> int:
        return self.batch * self.high * self.wide

    def place(self, b: Builder, tile: Value) -> tuple[Value, Value, Value, Value]:
        """(n, z, first y, first x) of a tile's results."""
        x, rest = b.urem(tile, self.wide), b.udiv(tile, self.wide)
        y, rest = b.urem(rest, self.high), b.udiv(rest, self.high)
        z, n = b.urem(rest, self.size[0]), b.udiv(rest, self.size[0])
        return n, z, b.mul(y, RESULTS), b.mul(x, RESULTS)


def _row_width(channels: int, lanes: int) -> int:
    """Elements from one tile's transformed channels to the next's: not where neighbours share a cache set."""
    width = -(-channels // lanes) * lanes
    return width + lanes if width % 512 == 0 else width


def _transform_tile(
    b: Builder, matrix: Matrix, source: Value, dtype: DType, strides: Five, size: Triple,
    place: tuple[Value, Value, Value, Value], channels: int, zeros: Value, target: Value, spacing: int, lanes: int,
) -> None:  # fmt: skip
    """Transform all channels of one tile, whose first position is `place`: target[point · spacing + channel]."""
    element = memory_type(dtype)
    count = len(matrix[0])
    n, z, first_y, first_x = place
    plane = b.add(b.mul(n, strides[0]), b.mul(z, strides[2]))

    def line_of_positions(first: Value, stride: int, length: int) -> list[tuple[Value, Value]]:
        positions = [b.add(first, i) for i in range(count)]
        return [(b.mul(position, stride), b.compare("ult", position, length)) for position in positions]

    rows = line_of_positions(first_y, strides[3], size[1])
    columns = line_of_positions(first_x, strides[4], size[2])
    places = []
    for row, row_exists in rows:
        line = b.add(plane, row)
        for column, column_exists in columns:
            there = b.element(source, element, b.add(line, column))
            places.append(b.select(b.and_(row_exists, column_exists), there, zeros))
    with b.loop(0, channels, lanes) as channel:
        mask = lane_mask(b, channel, channels, lanes)
        values = [load_element(b, b.element(p, element, channel), dtype, lanes, mask) for p in places]
        square = [values[i * count : (i + 1) * count] for i in range(count)]
        points = both_ways(b, to_points, matrix, square)
        own = b.element(target, "float", channel)
        for k, value in enumerate(v for line in points for v in line):
            b.store(value, b.element(own, "float", k * spacing))


def _product_step(
    b: Builder, accumulators: Accumulators, left: Value, left_row: int, left_step: int, right: Value, right_step: int,
) -> Callable[[Operand], None]:  # fmt: skip
    """What adds to accumulators[r] for a k: left[r · left_row + k · left_step] · right[k · right_step …]."""
    tile = accumulators.shape

    def step(k: Operand) -> None:
        line = b.element(right, "float", b.mul(b.index(k), right_step))
        vectors = [b.load(b.element(line, "float", v * tile.lanes), accumulators.type) for v in range(tile.vectors)]
        numbers = b.element(left, "float", b.mul(b.index(k), left_step))
        places = [b.element(numbers, "float", r * left_row) for r in range(tile.rows)]
        accumulators.step(b, [functools.partial(b.load, place, "float") for place in places], vectors)

    return step


def _accumulator_places(b: Builder, tile: TileShape, target: Value, row: int) -> list[tuple[int, int, Value]]:
    return [
        (r, v, b.element(target, "float", r * row + v * tile.lanes))
        for r in range(tile.rows) for v in range(tile.vectors)
    ]  # fmt: skip


def _clear_zeros(b: Builder, place: Value, count: int, lanes: int) -> None:
    with b.when(b.compare("eq", b.arg("thread"), 0)), b.loop(0, count, lanes) as i:
        b.store(b.constant(0, vector("float", lanes)), b.element(place, "float", i))


# -- forward and input gradient --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Winograd:
    """Forward convolution or input gradient.

    Where the weights outgrow the source, transformed 36 numbers for 9, they go through in parts, one after another in
    the same memory.
    """

    c: Convolution
    tiling: Tiling
    tile: TileShape
    block_rows: int  # register tiles that a block of image tiles has
    group_panels: int  # panels of result channels of one task
    part_groups: int  # groups of panels whose weights are there at a time

    @staticmethod
    def of(c: Convolution, lanes: int, registers: int, l2: int = 1 << 20) -> Winograd:
        tiling = Tiling.of(c)
        tile = choose_tile(tiling.tiles, c.result_channels, lanes, registers)
        panels = math.ceil(c.result_channels / tile.columns)
        per_row = 4 * PRODUCTS * tile.rows
        all_rows = math.ceil(tiling.tiles / tile.rows)
        fused = per_row * (_row_width(c.source_channels, lanes) + panels * tile.columns)
        most = _FUSED_BYTES // fused
        group = panels
        if most < 2 <= 11 * l2 // 10 // fused:
            most = 2
        if most < min(2, all_rows):
            group = min(panels, max(1, _GROUP_COLUMNS // tile.columns))
            most = _PRODUCT_BYTES // (per_row * group * tile.columns)
        most = max(1, min(most, math.ceil(all_rows * math.ceil(panels / group) / 16)))
        blocks = math.ceil(all_rows / most)
        whole = Winograd(c, tiling, tile, math.ceil(all_rows / blocks), group, math.ceil(panels / group))
        if whole.fused:
            return whole
        parts = math.ceil(whole.weight_bytes / _PART_BYTES)
        if parts == 1:
            return whole
        group = max(1, min(group, panels * blocks // (parts * _PART_TASKS)))
        return replace(whole, group_panels=group, part_groups=math.ceil(panels / (group * parts)))

    @property
    def phases(self) -> tuple[str, ...]:
        if self.fused:
            return ("transform_0", "multiply_0")
        further = (f"{what}_{part}" for part in range(1, self.parts) for what in ("transform", "multiply"))
        return ("transform_0", "transform_source", "multiply_0", *further)

    @property
    def weights_alone(self) -> bool:
        """Whether nothing but transformed weights (and zeros) is in the workspace."""
        return self.fused

    @property
    def panels(self) -> int:
        return math.ceil(self.c.result_channels / self.tile.columns)

    @property
    def groups(self) -> int:
        return math.ceil(self.panels / self.group_panels)

    @property
    def parts(self) -> int:
        return math.ceil(self.groups / self.part_groups)

    def panels_of(self, part: int) -> tuple[int, int]:
        """The first panel of a part, and the one after its last."""
        first = part * self.part_groups * self.group_panels
        return first, min(first + self.part_groups * self.group_panels, self.panels)

    @property
    def fused(self) -> bool:
        """Whether each task transforms its own source, being the only one that needs it."""
        return self.groups == 1

    @property
    def block(self) -> int:
        """Image tiles of a block."""
        return self.block_rows * self.tile.rows

    @property
    def blocks(self) -> int:
        return math.ceil(self.tiling.tiles / self.block)

    @property
    def source_row(self) -> int:
        return _row_width(self.c.source_channels, self.tile.lanes)

    @property
    def source_spacing(self) -> int:
        """Elements between points of a block's transformed source."""
        return self.block * self.source_row

    @property
    def product_row(self) -> int:
        return self.group_panels * self.tile.columns

    @property
    def weight_panel(self) -> int:
        return self.c.source_channels * self.tile.columns

    @property
    def weight_spacing(self) -> int:
        """Elements between points of a part's transformed weights, not a power of two."""
        return self.panels_of(0)[1] * self.weight_panel + self.tile.lanes

    @property
    def weight_bytes(self) -> int:
        return round_up(4 * PRODUCTS * self.weight_spacing)

    @property
    def zeros_bytes(self) -> int:
        return round_up(4 * (self.c.source_channels + self.tile.lanes))

    @property
    def source_bytes(self) -> int:
        """Of one block's transformed source."""
        return round_up(4 * PRODUCTS * self.source_spacing)

    @property
    def workspace_bytes(self) -> int:
        return self.weight_bytes + self.zeros_bytes + (0 if self.fused else self.blocks * self.source_bytes)

    @property
    def scratch_bytes(self) -> int:
        products = round_up(4 * PRODUCTS * self.block * self.product_row)
        return products + (self.source_bytes if self.fused else 0)

    def folds(self, epilogue: Epilogue) -> Folds | None:
        return folds_of(epilogue, self.workspace_bytes, self.blocks, self.c.result_channels, self.tile.lanes)

    def generate(self, epilogue: Epilogue) -> str:
        module = Module("winograd", workspace_operand=2 + epilogue.operands)
        for part in range(self.parts):
            with module.kernel(f"transform_{part}") as b:
                _transform_weights(b, self, *self.panels_of(part))
                if part == 0:
                    zeros = b.offset(workspace(b), self.weight_bytes)
                    _clear_zeros(b, zeros, self.c.source_channels, self.tile.lanes)
        if not self.fused:
            with module.kernel("transform_source") as b:
                zeros = b.offset(workspace(b), self.weight_bytes)
                start, stop = b.share(self.tiling.tiles)
                with b.loop(start, stop) as tile:
                    block, within = b.udiv(tile, self.block), b.urem(tile, self.block)
                    target = b.offset(b.offset(zeros, self.zeros_bytes), b.mul(block, self.source_bytes))
                    _transform_source(b, self, tile, b.element(target, "float", b.mul(within, self.source_row)))
        with module.function("multiply", [*KERNEL_PARAMETERS, ("i64", "first"), ("i64", "last")], internal=True) as b:
            _multiply(b, self, epilogue)
        for part in range(self.parts):
            with module.kernel(f"multiply_{part}") as b:
                first, last = self.panels_of(part)
                b.call("multiply", "void", *(b.arg(name) for _, name in KERNEL_PARAMETERS), b.index(first), b.index(last))
        if folds := self.folds(epilogue):
            with module.kernel("fold") as b:
                folds.finish(b)
        return str(module)


def _transform_weights(b: Builder, plan: Winograd, first_panel: int, last_panel: int) -> None:
    """The weights of these panels into [point][panel][source channel][columns]."""
    c, tile = plan.c, plan.tile
    lanes = tile.lanes
    element = memory_type(c.dtype)
    o_stride, i_stride, _, y_stride, x_stride = c.second_strides
    turned = c.mode == "input_grad"
    outer_stride, inner_stride = (i_stride, o_stride) if turned else (o_stride, i_stride)
    source, target = b.operand(1), workspace(b)
    start, stop = b.share((last_panel - first_panel) * tile.vectors * c.source_channels)
    with b.loop(start, stop) as task:
        channel, rest = b.urem(task, c.source_channels), b.udiv(task, c.source_channels)
        v, panel = b.urem(rest, tile.vectors), b.udiv(rest, tile.vectors)
        first = b.add(b.mul(b.add(panel, first_panel), tile.columns), b.mul(v, lanes))
        origin = b.mul(channel, inner_stride)
        lines = []
        for i in range(lanes):
            # Lanes beyond the last channel repeat it; what comes of them is never stored.
            outer = b.intrinsic("llvm.umin", "i64", b.add(first, i), b.index(c.result_channels - 1))
            lines.append(b.element(source, element, b.add(origin, b.mul(outer, outer_stride))))
        square = []
        for y in range(TAPS):
            row = []
            for x in range(TAPS):
                ky, kx = (TAPS - 1 - y, TAPS - 1 - x) if turned else (y, x)
                value = Value("poison", vector(element, lanes))
                for i, line in enumerate(lines):
                    place = b.element(line, element, ky * y_stride + kx * x_stride)
                    value = b.insert(value, b.load(place, element), i)
                row.append(from_memory(b, value, c.dtype))
            square.append(row)
        place = b.add(b.mul(panel, plan.weight_panel), b.add(b.mul(channel, tile.columns), b.mul(v, lanes)))
        own = b.element(target, "float", place)
        points = both_ways(b, to_points, TO_FILTER, square)
        for k, value in enumerate(v for line in points for v in line):
            b.store(value, b.element(own, "float", k * plan.weight_spacing))


def _transform_source(b: Builder, plan: Winograd, tile: Value, target: Value) -> None:
    c = plan.c
    zeros = b.offset(workspace(b), plan.weight_bytes)
    low = [TAPS - 1 - p if c.mode == "input_grad" else p for p in c.padding[1:]]
    n, z, y, x = plan.tiling.place(b, tile)
    place = (n, z, b.sub(y, low[0]), b.sub(x, low[1]))
    _transform_tile(
        b, TO_INPUT, b.operand(0), c.dtype, c.first_strides, c.source_size, place, c.source_channels, zeros, target,
        plan.source_spacing, plan.tile.lanes,
    )  # fmt: skip


def _multiply(b: Builder, plan: Winograd, epilogue: Epilogue) -> None:
    """This thread's tasks for the panels from `first` to `last`: [block of image tiles][group of panels]."""
    tile = plan.tile
    base = workspace(b)
    products = b.arg("scratch")
    accumulators = Accumulators(b, tile, plan.c.accumulate)
    square = b.variable(f"[{RESULTS * RESULTS} x {accumulators.type}]", align=64)
    following = NextPanel.of(4 * tile.columns, plan.block_rows)
    part, part_end = b.arg("first"), b.arg("last")
    groups = b.udiv(b.add(b.sub(part_end, part), plan.group_panels - 1), plan.group_panels)
    start, stop = b.share(b.mul(groups, plan.blocks))
    with b.loop(start, stop) as task:
        group, block = b.urem(task, groups), b.udiv(task, groups)
        first = b.mul(block, plan.block)
        last = b.intrinsic("llvm.umin", "i64", b.add(first, plan.block), b.index(plan.tiling.tiles))
        if plan.fused:
            source = b.offset(products, plan.scratch_bytes - plan.source_bytes)
            with b.loop(first, last) as t:
                own = b.mul(b.sub(t, first), plan.source_row)
                _transform_source(b, plan, t, b.element(source, "float", own))
        else:
            source = b.offset(base, b.add(b.mul(block, plan.source_bytes), plan.weight_bytes + plan.zeros_bytes))
        first_panel = b.add(part, b.mul(group, plan.group_panels))
        last_panel = b.intrinsic("llvm.umin", "i64", b.add(first_panel, plan.group_panels), part_end)
        rows = b.udiv(b.add(b.sub(last, first), tile.rows - 1), tile.rows)
        with (
            b.loop(0, PRODUCTS) as point,
            b.loop(first_panel, last_panel) as panel,
            b.loop(0, rows) as row,
        ):
            left = b.add(b.mul(point, plan.source_spacing), b.mul(row, tile.rows * plan.source_row))
            right = b.add(b.mul(point, plan.weight_spacing), b.mul(b.sub(panel, part), plan.weight_panel))
            panel_of_weights = b.element(base, "float", right)
            step = _product_step(
                b, accumulators, b.element(source, "float", left), plan.source_row, 1, panel_of_weights, tile.columns
            )
            channels = plan.c.source_channels

            def fetch_panel(group: Value, panel: Value = panel_of_weights, row: Value = row) -> None:
                following.fetch(b, b.element(panel, "float", plan.weight_panel), row, group, channels // GROUP)

            accumulators.clear(b)
            grouped_steps(b, channels, step, fetch_panel if plan.weight_bytes > _FAR else None)
            place = b.add(b.mul(point, plan.block), b.mul(row, tile.rows))
            place = b.add(b.mul(place, plan.product_row), b.mul(b.sub(panel, first_panel), tile.columns))
            for r, v, there in _accumulator_places(b, tile, b.element(products, "float", place), plan.product_row):
                b.store(accumulators.get(b, r, v), there)
        columns = b.mul(b.sub(last_panel, first_panel), tile.columns)
        columns = b.intrinsic(
            "llvm.umin", "i64", columns, b.sub(plan.c.result_channels, b.mul(first_panel, tile.columns))
        )
        folds = plan.folds(epilogue)
        if folds:
            with b.loop(0, columns, tile.lanes) as column:
                folds.clear(b, block, b.add(b.mul(first_panel, tile.columns), column))
        with b.loop(first, last) as t, b.loop(0, columns, tile.lanes) as column:
            own = b.add(b.mul(b.sub(t, first), plan.product_row), column)
            channel = b.add(b.mul(first_panel, tile.columns), column)
            _results(b, plan, epilogue, folds, block, square, t, channel, b.element(products, "float", own))


def _results(
    b: Builder, plan: Winograd, epilogue: Epilogue, folds: Folds | None, part: Value, square: Value, tile: Value,
    channel: Value, products: Value,
) -> None:  # fmt: skip
    """One vector of channels of an image tile's results, by way of memory so that the epilogue is written once."""
    lanes = plan.tile.lanes
    wide = vector("float", lanes)
    size = plan.tiling.size
    spacing = plan.block * plan.product_row
    points = [
        [b.load(b.element(products, "float", (i * POINTS + j) * spacing), wide) for j in range(POINTS)]
        for i in range(POINTS)
    ]
    results = both_ways(b, from_points, FROM_POINTS, points)
    for k, value in enumerate(v for line in results for v in line):
        b.store(value, b.element(square, "float", k * lanes))
    n, z, first_y, first_x = plan.tiling.place(b, tile)
    mask = lane_mask(b, channel, plan.c.result_channels, lanes)
    run = None
    if folds:
        run = folds.begin(b, channel, mask)
        folds.pivot(b, run, part, (n, channel, z, first_y, first_x), b.load(square, wide), mask)

    def result(y: Value, x: Value, number: Value) -> None:
        value = b.load(b.element(square, "float", b.mul(number, lanes)), wide)
        epilogue.emit(b, (n, channel, z, y, x), value, mask, run)

    with b.loop(0, RESULTS * RESULTS) as number:
        y, x = b.add(first_y, b.udiv(number, RESULTS)), b.add(first_x, b.urem(number, RESULTS))
        if size[1] % RESULTS == 0 and size[2] % RESULTS == 0:
            result(y, x, number)
        else:
            with b.when(b.and_(b.compare("slt", y, size[1]), b.compare("slt", x, size[2]))):
                result(y, x, number)
    if folds and run:
        rows, columns = (
            b.intrinsic("llvm.umin", "i64", b.sub(b.index(s), first), b.index(RESULTS))
            for s, first in ((size[1], first_y), (size[2], first_x))
        )
        folds.end(b, run, b.mul(rows, columns), part, channel, mask)


# -- weight gradient -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WinogradWeight:
    """Weight gradient. Image tiles are transformed and multiplied in chunks that stay in the shared cache. Where there
    is one chunk, the sums go in parts, each transformed back before the next is made in the same memory."""

    c: Convolution
    tiling: Tiling
    tile: TileShape
    chunks: int
    part_panels: int  # panels of output channels whose sums are there at a time

    @staticmethod
    def of(c: Convolution, lanes: int, registers: int) -> WinogradWeight:
        tile = choose_tile(c.in_channels, c.out_channels, lanes, registers)
        plan = WinogradWeight(c, Tiling.of(c), tile, 1, math.ceil(c.out_channels / tile.columns))
        chunks = math.ceil((plan.source_bytes + plan.gradient_bytes) / _CHUNK_BYTES)
        parts = math.ceil(plan.sum_bytes / _PART_BYTES) if chunks == 1 else 1
        return replace(plan, chunks=chunks, part_panels=math.ceil(plan.panels / parts))

    @property
    def chunk(self) -> int:
        """Image tiles of a chunk."""
        return math.ceil(self.tiling.tiles / self.chunks)

    @property
    def phases(self) -> tuple[str, ...]:
        chunks = (f"{what}_{i}" for i in range(self.chunks) for what in ("transform", "multiply"))
        further = (f"{what}_{i}" for i in range(1, self.parts) for what in ("multiply", "finish"))
        return ("prepare", *chunks, "finish_0", *further)

    @property
    def parts(self) -> int:
        return math.ceil(self.panels / self.part_panels)

    def panels_of(self, part: int) -> tuple[int, int]:
        """The first panel of a part, and the one after its last."""
        return part * self.part_panels, min((part + 1) * self.part_panels, self.panels)

    scratch_bytes = 0

    @property
    def panels(self) -> int:
        return math.ceil(self.c.out_channels / self.tile.columns)

    @property
    def rows(self) -> int:
        return math.ceil(self.c.in_channels / self.tile.rows)

    @property
    def source_row(self) -> int:
        return _row_width(self.c.in_channels, self.tile.lanes)

    @property
    def gradient_row(self) -> int:
        return _row_width(self.panels * self.tile.columns, self.tile.lanes)

    @property
    def sum_panel(self) -> int:
        """Elements of a point's sums of one panel of output channels."""
        return self.rows * self.tile.rows * self.tile.columns

    @property
    def source_spacing(self) -> int:
        """Elements between points of a chunk's transformed x, not a power of two."""
        return self.chunk * self.source_row + self.tile.lanes

    @property
    def gradient_spacing(self) -> int:
        return self.chunk * self.gradient_row + self.tile.lanes

    @property
    def sum_spacing(self) -> int:
        return self.part_panels * self.sum_panel + self.tile.lanes

    @property
    def sum_bytes(self) -> int:
        return round_up(4 * PRODUCTS * self.sum_spacing)

    @property
    def zeros_bytes(self) -> int:
        return round_up(4 * (max(self.c.in_channels, self.c.out_channels) + self.tile.lanes))

    @property
    def source_bytes(self) -> int:
        return round_up(4 * PRODUCTS * self.source_spacing)

    @property
    def gradient_bytes(self) -> int:
        return round_up(4 * PRODUCTS * self.gradient_spacing)

    @property
    def workspace_bytes(self) -> int:
        return self.zeros_bytes + self.source_bytes + self.gradient_bytes + self.sum_bytes

    def generate(self, epilogue: Epilogue) -> str:
        module = Module("winograd_weight_gradient", workspace_operand=2 + epilogue.operands)
        with module.kernel("prepare") as b:
            _clear_zeros(b, workspace(b), max(self.c.in_channels, self.c.out_channels), self.tile.lanes)
        tiles, panels = [("i64", "first"), ("i64", "last")], [("i64", "first_panel"), ("i64", "last_panel")]
        with module.function("transform", [*KERNEL_PARAMETERS, *tiles], internal=True) as b:
            _transform_both(b, self)
        with module.function("multiply", [*KERNEL_PARAMETERS, *tiles, *panels], internal=True) as b:
            _sum_products(b, self)
        with module.function("finish", [*KERNEL_PARAMETERS, *panels], internal=True) as b:
            _finish_weights(b, self, epilogue)

        def phase(what: str, number: int, *numbers: int) -> None:
            with module.kernel(f"{what}_{number}") as b:
                b.call(what, "void", *(b.arg(name) for _, name in KERNEL_PARAMETERS), *map(b.index, numbers))

        for i in range(self.chunks):
            first, last = i * self.chunk, min((i + 1) * self.chunk, self.tiling.tiles)
            phase("transform", i, first, last)
            phase("multiply", i, first, last, *self.panels_of(0))
        for part in range(self.parts):
            if part > 0:
                phase("multiply", part, 0, self.tiling.tiles, *self.panels_of(part))
            phase("finish", part, *self.panels_of(part))
        return str(module)

    def places(self, b: Builder) -> tuple[Value, Value, Value, Value]:
        """Addresses of the zeros, of both transformed operands and of the sums."""
        zeros = workspace(b)
        source = b.offset(zeros, self.zeros_bytes)
        gradient = b.offset(source, self.source_bytes)
        return zeros, source, gradient, b.offset(gradient, self.gradient_bytes)


def _transform_both(b: Builder, plan: WinogradWeight) -> None:
    """Image tiles from `first` to `last` into [point][tile][channel]."""
    c, lanes = plan.c, plan.tile.lanes
    zeros, source, gradient, _ = plan.places(b)
    start, stop = b.share(b.sub(b.arg("last"), b.arg("first")))
    with b.loop(start, stop) as t:
        n, z, y, x = place = plan.tiling.place(b, b.add(b.arg("first"), t))
        shifted = (n, z, b.sub(y, c.padding[1]), b.sub(x, c.padding[2]))
        own = b.element(source, "float", b.mul(t, plan.source_row))
        _transform_tile(
            b, TO_INPUT, b.operand(0), c.dtype, c.first_strides, c.input_size, shifted, c.in_channels, zeros, own,
            plan.source_spacing, lanes,
        )  # fmt: skip
        own = b.element(gradient, "float", b.mul(t, plan.gradient_row))
        _transform_tile(
            b, TO_GRADIENT, b.operand(1), c.dtype, c.second_strides, c.output_size, place, c.out_channels, zeros, own,
            plan.gradient_spacing, lanes,
        )  # fmt: skip


def _sum_products(b: Builder, plan: WinogradWeight) -> None:
    """Add image tiles `first` to `last` up into [point][panel][input channel][columns], for the panels from
    `first_panel` to `last_panel`; tasks are [point][panel]."""
    tile = plan.tile
    tiles = b.sub(b.arg("last"), b.arg("first"))
    _, source, gradient, sums = plan.places(b)
    accumulators = Accumulators(b, tile, plan.c.accumulate)
    longest = max(1, _SUM_BYTES // (4 * (plan.source_row + tile.columns)))
    step = math.ceil(plan.chunk / math.ceil(plan.chunk / longest))
    panels = b.sub(b.arg("last_panel"), b.arg("first_panel"))
    start, stop = b.share(b.mul(panels, PRODUCTS))
    with b.loop(start, stop) as task:
        panel, point = b.urem(task, panels), b.udiv(task, panels)
        left = b.element(source, "float", b.mul(point, plan.source_spacing))
        columns = b.mul(b.add(b.arg("first_panel"), panel), tile.columns)
        right = b.add(b.mul(point, plan.gradient_spacing), columns)
        right = b.element(gradient, "float", right)
        target = b.add(b.mul(point, plan.sum_spacing), b.mul(panel, plan.sum_panel))
        target = b.element(sums, "float", target)
        with b.loop(0, tiles, step) as low, b.loop(0, plan.rows) as row:
            high = b.intrinsic("llvm.umin", "i64", b.add(low, step), tiles)
            own = b.element(target, "float", b.mul(row, tile.rows * tile.columns))
            places = _accumulator_places(b, tile, own, tile.columns)
            accumulators.clear(b)
            with b.when(b.compare("sgt", b.add(low, b.arg("first")), 0)):
                for r, v, there in places:
                    accumulators.set(b, r, v, b.load(there, accumulators.type))
            numbers = b.element(left, "float", b.mul(row, tile.rows))
            add = _product_step(b, accumulators, numbers, 1, plan.source_row, right, plan.gradient_row)
            with b.loop(low, high, unroll=4) as k:
                add(k)
            for r, v, there in places:
                b.store(accumulators.get(b, r, v), there)


def _finish_weights(b: Builder, plan: WinogradWeight, epilogue: Epilogue) -> None:
    """Transform the sums of a vector of output channels and a few input channels, then hand them over by output channel,
    for the panels from `first_panel` to `last_panel`.

    Weights lie in this order as a rule: a line of the result is filled at once.
    """
    c, lanes = plan.c, plan.tile.lanes
    wide = vector("float", lanes)
    *_, sums = plan.places(b)
    groups = math.ceil(c.in_channels / _FINISHED)
    first_out, columns = b.mul(b.arg("first_panel"), plan.tile.columns), plan.tile.columns
    last_out = b.intrinsic("llvm.umin", "i64", b.mul(b.arg("last_panel"), columns), b.index(c.out_channels))
    vectors = b.udiv(b.add(b.sub(last_out, first_out), lanes - 1), lanes)
    taps = TAPS * TAPS
    results = b.variable(f"[{_FINISHED * taps} x {wide}]", align=64)
    start, stop = b.share(b.mul(vectors, groups))
    with b.loop(start, stop) as task:
        group, v = b.urem(task, groups), b.udiv(task, groups)
        within, first = b.mul(v, lanes), b.mul(group, _FINISHED)
        out = b.add(first_out, within)
        panel = b.add(b.mul(b.udiv(within, columns), plan.sum_panel), b.urem(within, columns))
        count = b.intrinsic("llvm.umin", "i64", b.sub(c.in_channels, first), b.index(_FINISHED))
        with b.loop(0, count) as i:
            own = b.element(sums, "float", b.add(panel, b.mul(b.add(first, i), plan.tile.columns)))
            points = [
                [b.load(b.element(own, "float", (j * POINTS + k) * plan.sum_spacing), wide) for k in range(POINTS)]
                for j in range(POINTS)
            ]
            place = b.element(results, "float", b.mul(i, taps * lanes))
            square = both_ways(b, from_points, FROM_FILTER, points)
            for k, value in enumerate(v for line in square for v in line):
                b.store(value, b.element(place, "float", k * lanes))
        existing = b.intrinsic("llvm.umin", "i64", b.sub(c.out_channels, out), b.index(lanes))
        with b.loop(0, existing) as lane, b.loop(0, count) as i:
            place = b.element(results, "float", b.add(b.mul(i, taps * lanes), lane))
            for tap in range(taps):
                value = b.load(b.element(place, "float", tap * lanes), "float")
                index = (b.add(out, lane), b.add(first, i), b.index(0), b.index(tap // TAPS), b.index(tap % TAPS))
                epilogue.emit(b, index, value, None)
