"""Weight gradient of 3×3 convolutions without stride by minimal filtering (convolution_filtering.py).

The tiles of both activations are transformed, 36 products sum over tiles, one transform gives 3×3. What is transformed,
and the sums, go through in parts where they are large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from firepot.kernels.llvm.builder import KERNEL_PARAMETERS, Builder, Module, Value, vector
from firepot.kernels.llvm.convolution_filtering import (
    FROM_FILTER,
    POINTS,
    PRODUCTS,
    TAPS,
    TO_GRADIENT,
    TO_INPUT,
    both_ways,
    from_points,
)
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
from firepot.kernels.llvm.matmul import workspace
from firepot.kernels.llvm.tile import (
    Accumulators,
    TileShape,
    choose_tile,
)

_CHUNK_BYTES = 10 << 20  # both transformed operands of the weight gradient at a time
_PART_BYTES = 10 << 20  # transformed weights, or their sums before the way back, at a time
_SUM_BYTES = 256 << 10  # of both operands that the weight gradient's products go over before the next block
_FINISHED = 16  # input channels whose weights are handed over together


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
        return row_width(self.c.in_channels, self.tile.lanes)

    @property
    def gradient_row(self) -> int:
        return row_width(self.panels * self.tile.columns, self.tile.lanes)

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
            clear_zeros(b, workspace(b), max(self.c.in_channels, self.c.out_channels), self.tile.lanes)
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
        transform_tile(
            b, TO_INPUT, b.operand(0), c.dtype, c.first_strides, c.input_size, shifted, c.in_channels, zeros, own,
            plan.source_spacing, lanes,
        )  # fmt: skip
        own = b.element(gradient, "float", b.mul(t, plan.gradient_row))
        transform_tile(
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
            places = accumulator_places(b, tile, own, tile.columns)
            accumulators.clear(b)
            with b.when(b.compare("sgt", b.add(low, b.arg("first")), 0)):
                for r, v, there in places:
                    accumulators.set(b, r, v, b.load(there, accumulators.type))
            numbers = b.element(left, "float", b.mul(row, tile.rows))
            add = product_step(b, accumulators, numbers, 1, plan.source_row, right, plan.gradient_row)
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
