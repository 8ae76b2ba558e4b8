"""3×3 convolutions without stride by minimal filtering (convolution_filtering.py): forward and input gradient.

Both (the second with the filter turned around) transform the weights; transform 6×6 tiles of the source; take 36 matrix
products [tiles × channels] · [channels × result channels]; transform back to 4×4 results. A block of tiles goes through
the products and the way back within the cache, where its size allows the way in too.

float16 and bfloat16 become float32 as they are read, and everything else is done in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from firepot.graph import dtypes
from firepot.kernels.llvm.builder import KERNEL_PARAMETERS, Builder, Module, Value, vector
from firepot.kernels.llvm.convolution_filtering import (
    FROM_POINTS,
    POINTS,
    PRODUCTS,
    RESULTS,
    TAPS,
    TO_FILTER,
    TO_INPUT,
    both_ways,
    from_points,
    to_points,
)
from firepot.kernels.llvm.convolution_folds import Folds, folds_of
from firepot.kernels.llvm.convolution_form import Convolution
from firepot.kernels.llvm.convolution_image_tiles import (
    Tiling,
    accumulator_places,
    clear_zeros,
    product_step,
    row_width,
    transform_tile,
)
from firepot.kernels.llvm.convolution_source import round_up
from firepot.kernels.llvm.epilogue import Epilogue
from firepot.kernels.llvm.expression import from_memory, memory_type
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
_PART_BYTES = 10 << 20  # transformed weights, or their sums before the way back, at a time
_PART_TASKS = 8  # that the threads share for each part of the weights
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
        fused = per_row * (row_width(c.source_channels, lanes) + panels * tile.columns)
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
        return row_width(self.c.source_channels, self.tile.lanes)

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
                    clear_zeros(b, zeros, self.c.source_channels, self.tile.lanes)
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
    transform_tile(
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
    following = NextPanel.of(GROUP * 4 * tile.columns, plan.block_rows)
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
            step = product_step(
                b, accumulators, b.element(source, "float", left), plan.source_row, 1, panel_of_weights, tile.columns
            )
            channels = plan.c.source_channels

            def fetch_panel(group: Value, panel: Value = panel_of_weights, row: Value = row) -> None:
                following.fetch(b, b.element(panel, "float", plan.weight_panel), row, group, channels // GROUP)

            accumulators.clear(b)
            grouped_steps(b, channels, step, fetch_panel if plan.weight_bytes > _FAR else None)
            place = b.add(b.mul(point, plan.block), b.mul(row, tile.rows))
            place = b.add(b.mul(place, plan.product_row), b.mul(b.sub(panel, first_panel), tile.columns))
            for r, v, there in accumulator_places(b, tile, b.element(products, "float", place), plan.product_row):
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
