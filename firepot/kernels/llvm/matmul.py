"""Batched matrix products: packed panels around a register tile.

Both operands are packed into panels that the tile reads in order, whatever their strides: y as [panel][k][columns],
x as [panel][k][rows]. Packing converts half precision to float32, so the tile sees one dtype; where the processor has
dot-product instructions for the dtype, it makes words of several numbers along k (dots.py), and k counts words.

y is packed whole, for all threads. Each thread then has rows of its own: it packs a block of their panels, which stays
in its second-level cache, and multiplies it by one panel of y after the other; what it reads of x no other core has
written. For long k the work is blocked along k too; partial results wait in the workspace.

While a tile's products are summed, what will be needed next is asked for: the following panel of y (tile.py), and what
the epilogue will read and write.

After the analysis of Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from firepot.graph.dtypes import DType
from firepot.kernels.kernel import Kernel
from firepot.kernels.llvm import dots, matmul_rows, word_panels
from firepot.kernels.llvm.builder import Builder, Module, Operand, Value, vector
from firepot.kernels.llvm.epilogue import Epilogue, NestEpilogue
from firepot.kernels.llvm.expression import load_as, memory_type, register_type
from firepot.kernels.llvm.tile import (
    GROUP,
    Accumulators,
    NextPanel,
    TileShape,
    choose_tile,
    grouped_steps,
    lane_mask,
    load_lanes,
    transpose,
)

_K_BLOCK = 1024
_ROW_BLOCK = 384 << 10  # bytes of packed x that a thread holds: with a panel of y they fill most of 1 MB
_FEW_TERMS = 16
_SERIAL = 1 << 15  # multiply-adds below which one thread does all


@dataclass(frozen=True)
class Matmul:
    """out[b, m, n] = Σ_k x[b, m, k] · y[b, k, n], for any strides (in elements; 0 repeats)."""

    batch: int
    m: int
    n: int
    k: int
    x_strides: tuple[int, int, int]
    y_strides: tuple[int, int, int]
    dtype: DType
    accumulate: DType


@dataclass(frozen=True)
class _Plan:
    d: Matmul
    tile: TileShape
    y_batches: int
    direct_y: bool  # read y where it lies
    numbers: int  # along k in an element of a panel

    @property
    def depth(self) -> int:
        """Elements of a panel's row or column."""
        return math.ceil(self.d.k / self.numbers)

    @property
    def element(self) -> str:
        """The type of a panel's elements, as large as an accumulator."""
        return register_type(self.d.accumulate) if self.numbers == 1 else dots.WORD

    @property
    def shifted(self) -> bool:
        """Whether packed x is 128 too large; each panel of y then begins with what the sums are to begin with."""
        return self.numbers == 4

    @property
    def y_panel(self) -> int:
        """Elements of a panel of y."""
        return (self.depth + self.shifted) * self.tile.columns

    @property
    def row_panels(self) -> int:
        return math.ceil(self.d.m / self.tile.rows)

    @property
    def column_panels(self) -> int:
        return math.ceil(self.d.n / self.tile.columns)

    @property
    def k_blocks(self) -> int:
        return 1 if self.depth <= 2 * _K_BLOCK else math.ceil(self.depth / _K_BLOCK)

    @property
    def x_panel(self) -> int:
        """Elements of a panel of x, within a block of k."""
        return (self.depth if self.k_blocks == 1 else _K_BLOCK) * self.tile.rows

    @property
    def block(self) -> int:
        """Row panels that a thread packs and multiplies at a time. With few terms the time is that of writing the result,
        which is best done along its memory, row after row."""
        if self.d.k <= _FEW_TERMS:
            return 1
        return min(max(1, _ROW_BLOCK // (self.x_panel * self.d.accumulate.size)), self.row_panels)

    @property
    def x_bytes(self) -> int:
        """Scratch memory for packed x."""
        return -(-self.block * self.x_panel * self.d.accumulate.size // 64) * 64

    @property
    def y_bytes(self) -> int:
        if self.direct_y:
            return 0
        elements = self.y_batches * self.column_panels * self.y_panel
        return -(-elements * self.d.accumulate.size // 64) * 64

    @property
    def partial_bytes(self) -> int:
        if self.k_blocks == 1:
            return 0
        tiles = self.d.batch * self.row_panels * self.column_panels
        return tiles * self.tile.rows * self.tile.columns * self.d.accumulate.size


def lower(d: Matmul, epilogue: Epilogue, processor: Any, repeated: bool = False) -> Kernel:
    """The kernel of a product. Operands: x, y, then those of the epilogue; the workspace, if any, last.

    `repeated`: many products with the same y follow each other, so that its panels are as good as there already.
    """
    work = d.batch * d.m * d.n * d.k
    if matmul_rows.applies(d, processor):
        return matmul_rows.lower(d, epilogue, processor, parallel=work >= _SERIAL)
    lanes = processor.vector_bytes // d.accumulate.size
    tile = choose_tile(d.m, d.n, lanes, processor.vector_registers)
    y_batches = 1 if d.y_strides[0] == 0 else d.batch
    numbers = dots.numbers_of_a_word(d.dtype, d.accumulate, processor)
    few = d.m * d.batch // y_batches <= 4 * tile.rows and not repeated
    direct = numbers == 1 and d.y_strides[2] == 1 and d.dtype is d.accumulate and few
    plan = _Plan(d, tile, y_batches, direct, numbers)
    following = epilogue if isinstance(epilogue, NestEpilogue) else None
    size = plan.y_bytes + plan.partial_bytes
    tile_bytes = tile.rows * tile.columns * d.accumulate.size
    x_batches = d.batch if d.x_strides[0] else 1
    columns = f"columns of {y_batches}x{d.k}x{d.n} {d.y_strides} {d.dtype} by {numbers} in {tile.columns}"
    return Kernel(
        key=f"matmul {processor.vector_bytes} {numbers} {direct} {d} {epilogue.key}",
        generate=lambda: _generate(plan, epilogue),
        phases=("multiply",) if direct else ("pack_columns", "multiply"),
        label=f"matmul {d.batch}x{d.m}x{d.n}x{d.k}{' + ' + following.label if following else ''}",
        scratch=plan.x_bytes + (tile_bytes if epilogue.large else 0),
        workspace=size,
        # Kept copies of y are to be most of what is kept.
        prepares=(1, columns) if not direct and 2 * plan.y_bytes >= size else None,
        parallel=work >= _SERIAL,
        explicit=True,
        flops=2 * work + (following.flops if following else 0),
        bytes=d.dtype.size * (x_batches * d.m * d.k + plan.y_batches * d.k * d.n)
        + (following.bytes if following else (d.accumulate if d.dtype.is_integer else d.dtype).size * d.batch * d.m * d.n),
        rate=numbers,
        aliases=following.aliases if following else frozenset(),
    )


def _generate(plan: _Plan, epilogue: Epilogue) -> str:
    module = Module("matmul", workspace_operand=2 + epilogue.operands)
    if not plan.direct_y:
        with module.kernel("pack_columns") as b:
            _pack_columns(b, plan)
    with module.kernel("multiply") as b:
        _multiply(b, plan, epilogue)
    return str(module)


def _pack_columns(b: Builder, plan: _Plan) -> None:
    """y into [batch][panel][k][columns], columns beyond n as zeros."""
    d, tile = plan.d, plan.tile
    y = b.operand(1)
    packed = workspace(b)
    start, stop = b.share(plan.y_batches * plan.column_panels)
    with b.loop(start, stop) as task:
        batch, panel = b.udiv(task, plan.column_panels), b.urem(task, plan.column_panels)
        first = b.mul(panel, tile.columns)
        origin = b.add(b.mul(batch, d.y_strides[0]), b.mul(first, d.y_strides[2]))
        target = b.element(packed, plan.element, b.mul(task, plan.y_panel))
        words = b.element(target, plan.element, tile.columns) if plan.shifted else target
        _pack(b, plan, y, origin, words, tile.columns, d.y_strides[2], d.y_strides[1], first, d.n, d.k, False)
        if plan.shifted:
            word_panels.begin_shifted(b, words, target, tile.columns, plan.depth)


def _pack(
    b: Builder, plan: _Plan, source: Value, origin: Value, target: Value, count: int, across: int, along: int,
    first: Value, total: int, depth: int, shifted: bool,
) -> None:  # fmt: skip
    d = plan.d
    if plan.numbers > 1:
        word_panels.pack_panel(
            b, source, d.dtype, plan.numbers, origin, target, count=count, depth=depth, across=across, along=along,
            first=first, total=total, shifted=shifted,
        )  # fmt: skip
    else:
        pack_panel(
            b, source, d.dtype, plan.tile.lanes, origin, target, count=count, depth=depth, across=across, along=along,
            first=first, total=total, wide=d.accumulate,
        )  # fmt: skip


def workspace(b: Builder) -> Value:
    """The kernel's workspace: its last operand."""
    return b.operand(b.module.workspace_operand)


def pack_panel(
    b: Builder, source: Value, dtype: DType, lanes: int, origin: Value, target: Value, count: int, depth: int,
    across: int, along: int, first: Value, total: int, wide: DType | None = None,
) -> None:  # fmt: skip
    """One panel: target[k · count + i] = source[origin + i · across + k · along] for k < depth.

    Where first + i ≥ total, what is written is unspecified but finite if the source is. Half precision becomes float32,
    integers become `wide`.
    """
    element = memory_type(dtype)
    wide = wide or dtype
    type = register_type(wide)
    pieces = range(0, count, lanes)
    if across == 1:  # copy rows of `count`
        with b.loop(0, depth) as k:
            for i in pieces:
                width = min(lanes, count - i)
                limit = b.sub(b.index(total), b.add(first, i))
                mask = b.compare("slt", b.lane_numbers(lanes), b.splat(limit, lanes)) if lanes > 1 else None
                place = b.element(source, element, b.add(b.add(origin, i), b.mul(k, along)))
                if lanes > 1:
                    value = load_as(b, place, dtype, wide, lanes, _narrow(b, mask, width, lanes))
                else:
                    value = load_as(b, b.element(source, element, b.add(origin, b.mul(k, along))), dtype, wide, 1, None)
                _store_packed(b, value, b.element(target, type, b.add(b.mul(k, count), i)), width, lanes)
        return
    whole = depth // lanes * lanes if along == 1 and lanes > 1 else 0
    for i in pieces:
        width = min(lanes, count - i)
        if whole:
            with b.loop(0, whole, lanes) as k:
                rows = []
                for r in range(lanes):
                    if r >= width:
                        rows.append(b.constant(0, vector(type, lanes)))
                        continue
                    row = b.intrinsic("llvm.umin", "i64", b.add(first, i + r), b.index(total - 1))
                    place = b.add(b.add(origin, b.mul(b.sub(row, first), across)), k)
                    rows.append(load_as(b, b.element(source, element, place), dtype, wide, lanes, None))
                for step, column in enumerate(transpose(b, rows)):
                    place = b.element(target, type, b.add(b.mul(b.add(k, step), count), i))
                    _store_packed(b, column, place, width, lanes)
        with b.loop(whole, depth) as k:
            for r in range(width):
                row = b.intrinsic("llvm.umin", "i64", b.add(first, i + r), b.index(total - 1))
                place = b.add(b.add(origin, b.mul(b.sub(row, first), across)), b.mul(k, along))
                value = load_as(b, b.element(source, element, place), dtype, wide, 1, None)
                b.store(value, b.element(target, type, b.add(b.mul(k, count), i + r)))


def _narrow(b: Builder, mask: Value | None, width: int, lanes: int) -> Value | None:
    if width == lanes:
        return mask
    inside = Value(
        "<" + ", ".join(f"i1 {'true' if i < width else 'false'}" for i in range(lanes)) + ">", f"<{lanes} x i1>"
    )
    return inside if mask is None else b.and_(mask, inside)


def _store_packed(b: Builder, value: Value, place: Value, width: int, lanes: int) -> None:
    mask = _narrow(b, None, width, lanes)
    if mask is None:
        b.store(value, place)
    else:
        b.masked_store(value, place, mask)


def _multiply(b: Builder, plan: _Plan, epilogue: Epilogue) -> None:
    """This thread's tiles: of all tiles [batch][row panel][column panel], an equal part. It may begin and end within a row
    panel, which then two threads pack."""
    inner = plan.column_panels
    start, stop = b.share(plan.d.batch * plan.row_panels * inner)
    end = b.udiv(b.add(stop, inner - 1), inner)
    first = b.udiv(start, inner)
    with b.loop(b.udiv(first, plan.row_panels), b.udiv(b.add(end, plan.row_panels - 1), plan.row_panels)) as batch:
        low = b.intrinsic("llvm.umax", "i64", first, b.mul(batch, plan.row_panels))
        high = b.intrinsic("llvm.umin", "i64", end, b.mul(b.add(batch, 1), plan.row_panels))
        panels = b.sub(high, low)
        blocks = b.udiv(b.add(panels, plan.block - 1), plan.block)
        with b.loop(0, blocks) as number:  # of even sizes
            begin = b.add(low, b.udiv(b.mul(panels, number), blocks))
            following = b.add(low, b.udiv(b.mul(panels, b.add(number, 1)), blocks))
            block = _RowBlock(plan, batch, begin, following, start, stop)
            final = plan.k_blocks - 1
            if final:
                with b.loop(0, final) as k_block:
                    _multiply_block(b, block, epilogue, b.mul(k_block, _K_BLOCK), _K_BLOCK, last=False)
            rest = plan.depth - final * _K_BLOCK
            _multiply_block(b, block, epilogue, b.index(final * _K_BLOCK), rest, last=True)


@dataclass(frozen=True)
class _RowBlock:
    """Row panels, counted over all batches, that a thread multiplies together: those of its tiles start … stop − 1."""

    plan: _Plan
    batch: Value
    begin: Value
    end: Value
    start: Value
    stop: Value


def _multiply_block(
    b: Builder, block: _RowBlock, epilogue: Epilogue, k_first: Value, k_count: int, last: bool
) -> None:
    """Pack the block's rows over one block of k, and multiply them by each panel of y."""
    plan = block.plan
    d, tile = plan.d, plan.tile
    first_row_panel = b.mul(block.batch, plan.row_panels)
    packed = b.arg("scratch")
    with b.loop(block.begin, block.end) as panel:
        row = b.mul(b.sub(panel, first_row_panel), tile.rows)
        origin = b.add(b.mul(block.batch, d.x_strides[0]), b.mul(row, d.x_strides[1]))
        origin = b.add(origin, b.mul(k_first, plan.numbers * d.x_strides[2]))
        target = b.element(packed, plan.element, b.mul(b.sub(panel, block.begin), plan.x_panel))
        depth = d.k - (plan.k_blocks - 1) * _K_BLOCK * plan.numbers if last else k_count * plan.numbers
        _pack(b, plan, b.operand(0), origin, target, tile.rows, d.x_strides[1], d.x_strides[2], row, d.m, depth, plan.shifted)
    with b.loop(0, plan.column_panels) as column_panel:
        # The first and the last row panel may be another thread's in part.
        task = b.add(b.mul(block.begin, plan.column_panels), column_panel)
        begin = b.add(block.begin, b.convert("zext", b.compare("slt", task, block.start), "i64"))
        task = b.add(b.mul(b.sub(block.end, 1), plan.column_panels), column_panel)
        end = b.sub(block.end, b.convert("zext", b.compare("sge", task, block.stop), "i64"))
        with b.loop(begin, end) as panel:
            x = b.element(packed, plan.element, b.mul(b.sub(panel, block.begin), plan.x_panel))
            row_panel = b.sub(panel, first_row_panel)
            place = b.sub(panel, begin)
            _multiply_tile(b, plan, epilogue, x, place, block.batch, row_panel, column_panel, k_first, k_count, last)


def _multiply_tile(
    b: Builder, plan: _Plan, epilogue: Epilogue, x: Value, place: Value, batch: Value, row_panel: Value,
    column_panel: Value, k_first: Value, k_count: int, last: bool,
) -> None:  # fmt: skip
    """One tile of the result over one block of k, from a packed panel of x; its `place` among the block's tiles."""
    d, tile = plan.d, plan.tile
    type = register_type(d.accumulate)
    element = plan.element
    accumulators = Accumulators(b, tile, d.accumulate, plan.numbers)
    column = b.mul(column_panel, tile.columns)
    y_batch = batch if plan.y_batches > 1 else b.index(0)
    begins = None
    if plan.direct_y:
        y = b.element(b.operand(1), type, b.add(b.mul(y_batch, d.y_strides[0]), column))
        y_step = d.y_strides[1]
    else:
        y_panel = b.add(b.mul(y_batch, plan.column_panels), column_panel)
        y = b.element(workspace(b), element, b.mul(y_panel, plan.y_panel))
        if plan.shifted:
            begins = y
            y = b.element(y, element, tile.columns)
        y_step = tile.columns
    y = b.element(y, element, b.mul(k_first, y_step))
    accumulators.begin(b, begins)
    if plan.k_blocks > 1:
        panel = b.add(b.mul(batch, plan.row_panels), row_panel)
        number = b.add(b.mul(panel, plan.column_panels), column_panel)
        own = b.element(b.offset(workspace(b), plan.y_bytes), type, b.mul(number, tile.rows * tile.columns))
        if d.accumulate.is_integer:
            _take_up(b, accumulators, own, k_first, add=False)
    masks = [
        lane_mask(b, b.add(column, v * tile.lanes), d.n, tile.lanes) if plan.direct_y else None
        for v in range(tile.vectors)
    ]

    def step(k: Operand) -> None:
        row = b.element(y, element, b.mul(b.index(k), y_step))
        vectors = [
            load_lanes(b, b.element(row, element, v * tile.lanes), vector(element, tile.lanes), masks[v])
            for v in range(tile.vectors)
        ]
        numbers = b.element(x, element, b.mul(b.index(k), tile.rows))
        accumulators.step(
            b, [partial(b.load, b.element(numbers, element, r), element) for r in range(tile.rows)], vectors
        )

    def fetch_panel(group: Value) -> None:
        # Blocks of rows are of even sizes, so each has more than half of the most tiles.
        following = NextPanel.of(tile.columns * d.accumulate.size, plan.block // 2 + 1)
        following.fetch(b, b.element(y, element, plan.y_panel), place, group, k_count // GROUP)

    def fetch_row(group: Value) -> None:
        row = b.add(b.mul(row_panel, tile.rows), group)
        for v in range(tile.vectors):
            epilogue.prefetch(b, (batch, row, b.add(column, v * tile.lanes)), tile.lanes)

    grouped_steps(b, k_count, step, None if plan.direct_y else fetch_panel, tile.rows if last else 0, fetch_row)
    if plan.k_blocks > 1 and not d.accumulate.is_integer:
        _take_up(b, accumulators, own, k_first, add=True)
    if last:
        _finish(b, plan, epilogue, accumulators, batch, row_panel, column)
    else:
        for r in range(tile.rows):
            for v in range(tile.vectors):
                place = b.element(own, type, r * tile.columns + v * tile.lanes)
                b.store(accumulators.get(b, r, v), place)


def _take_up(b: Builder, accumulators: Accumulators, own: Value, k_first: Value, add: bool) -> None:
    """After the first block, take up the partial results of the blocks before.

    Sums of floating-point numbers start from zero in each block and are added afterwards: over millions of terms, what
    is rounded away is then that of a block's sum and of the sum of blocks, and not of one long sum. Integers are exact,
    and their first block begins with a row of its own (`word_panels.begin_shifted`).
    """
    shape = accumulators.shape
    with b.when(b.compare("sgt", k_first, 0)):
        for r in range(shape.rows):
            for v in range(shape.vectors):
                place = b.element(own, register_type(accumulators.dtype), r * shape.columns + v * shape.lanes)
                value = b.load(place, accumulators.type)
                if add:
                    value = b.add(accumulators.get(b, r, v), value)
                accumulators.set(b, r, v, value)


def _finish(
    b: Builder,
    plan: _Plan,
    epilogue: Epilogue,
    accumulators: Accumulators,
    batch: Value,
    row_panel: Value,
    column: Value,
) -> None:
    if epilogue.large:
        _finish_in_loop(b, plan, epilogue, accumulators, batch, row_panel, column)
        return
    d, tile = plan.d, plan.tile
    whole_rows = d.m % tile.rows == 0
    for r in range(tile.rows):
        m = b.add(b.mul(row_panel, tile.rows), r)

        def row(r: int = r, m: Value = m) -> None:
            for v in range(tile.vectors):
                n = b.add(column, v * tile.lanes)
                mask = lane_mask(b, n, d.n, tile.lanes)
                value = accumulators.get(b, r, v)
                if d.n % tile.columns == 0 or v == 0:
                    epilogue.emit(b, (batch, m, n), value, mask)
                else:  # a vector that may lie wholly outside
                    with b.when(b.compare("slt", n, d.n)):
                        epilogue.emit(b, (batch, m, n), value, mask)

        if whole_rows:
            row()
        else:
            with b.when(b.compare("slt", m, d.m)):
                row()


def _finish_in_loop(
    b: Builder, plan: _Plan, epilogue: Epilogue, accumulators: Accumulators, batch: Value, row_panel: Value, column: Value
) -> None:  # fmt: skip
    """By way of the scratch memory, so that a long epilogue stands in the code once a row instead of once a vector."""
    d, tile = plan.d, plan.tile
    type = register_type(d.accumulate)
    scratch = b.offset(b.arg("scratch"), plan.x_bytes)
    for r in range(tile.rows):
        for v in range(tile.vectors):
            b.store(accumulators.get(b, r, v), b.element(scratch, type, r * tile.columns + v * tile.lanes))
    first = b.mul(row_panel, tile.rows)
    rows = b.intrinsic("llvm.umin", "i64", b.sub(b.index(d.m), first), b.index(tile.rows))
    with b.loop(0, rows, unroll=1) as row:
        for v in range(tile.vectors):
            n = b.add(column, v * tile.lanes)
            mask = lane_mask(b, n, d.n, tile.lanes)
            place = b.element(scratch, type, b.add(b.mul(row, tile.columns), v * tile.lanes))
            if d.n % tile.columns == 0 or v == 0:
                epilogue.emit(b, (batch, b.add(first, row), n), b.load(place, accumulators.type), mask)
            else:  # a vector that may lie wholly outside
                with b.when(b.compare("slt", n, d.n)):
                    epilogue.emit(b, (batch, b.add(first, row), n), b.load(place, accumulators.type), mask)
