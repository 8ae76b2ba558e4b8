"""Attention in blocks of queries, forward and backward, with the scores of one block in the thread's scratch memory.

Queries run along the vectors' lanes: a block is held as [position][queries], so that the softmax over keys needs no
sum across lanes, keys and values are read where they lie, one number broadcast at a time, and every product is the
register tile of the matrix products. The derivative computes the scores once more; one thread makes all of a head's,
block after block, so that the sums over queries have a fixed order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from firepot.graph.dtypes import DType
from firepot.kernels.kernel import Kernel
from firepot.kernels.llvm import arithmetic
from firepot.kernels.llvm.builder import Builder, Module, Operand, Value, overload, vector
from firepot.kernels.llvm.epilogue import store_lanes
from firepot.kernels.llvm.expression import load_element, memory_type, register_type
from firepot.kernels.llvm.matmul import pack_panel
from firepot.kernels.llvm.tile import Accumulators, TileShape, choose_tile, lane_mask, transpose

Strides = tuple[int, int, int, int]
_SERIAL = 1 << 15  # multiply-adds below which one thread does all
_VECTORS = 2  # vectors of queries in a block


@dataclass(frozen=True)
class Attention:
    """softmax(scale · Q Kᵀ + mask) V; strides in elements along (batch, head, position, feature), 0 repeats.

    results: the strides of what is written: the result alone, or for the derivative the gradients of query, key and
    value, None where one is not wanted. gradient: those of the result's gradient, for the derivative.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    scale: float
    causal: bool
    dtype: DType
    query: Strides
    key: Strides
    value: Strides
    mask: Strides | None
    results: tuple[Strides | None, ...]
    gradient: Strides | None = None


def lower(d: Attention, processor: Any) -> Kernel:
    """The kernel. Operands: query, key, value, the mask if any, the result's gradient if any, the results."""
    backward = d.gradient is not None
    lanes = processor.vector_bytes // d.dtype.size
    seen = sum(min(t + 1, d.keys) for t in range(d.queries)) if d.causal else d.queries * d.keys
    pairs = d.batch * d.heads * seen
    features = (3 * d.width + 2 * d.value_width) if backward else d.width + d.value_width
    # Query, key and value are read; the result, or its gradient, goes with the queries.
    moved = d.batch * d.heads * (d.queries + d.keys) * (d.width + d.value_width)
    if d.mask is not None:
        sizes = (d.batch, d.heads, d.queries, d.keys)
        moved += math.prod(size for size, stride in zip(sizes, d.mask, strict=True) if stride)
    if backward:
        written = (d.queries * d.width, d.keys * d.width, d.keys * d.value_width)
        moved += d.batch * d.heads * sum(n for n, r in zip(written, d.results, strict=True) if r is not None)
    block = _Block(d, lanes, processor.vector_registers)
    return Kernel(
        key=f"attention {processor.vector_bytes} {d}",
        generate=lambda: _generate(block),
        phases=("attend",),
        label=f"attention{'_gradient' if backward else ''} {d.heads}x{d.queries}x{d.keys}x{d.width}",
        scratch=block.scratch_bytes,
        parallel=pairs * features >= _SERIAL,
        explicit=True,
        flops=2 * pairs * features,
        bytes=moved * d.dtype.size,
    )


@dataclass(frozen=True)
class _Block:
    """The sizes of a block of queries and what lies where in the scratch memory."""

    d: Attention
    lanes: int
    registers: int

    @property
    def columns(self) -> int:
        """Queries in a block."""
        return _VECTORS * self.lanes

    @property
    def count(self) -> int:
        """Blocks of a head."""
        return math.ceil(self.d.queries / self.columns)

    def rows(self, total: int) -> int:
        """Rows of the tile for a product of `total` rows."""
        most = (self.registers - 1 - _VECTORS) // _VECTORS
        return math.ceil(total / math.ceil(total / most))

    @property
    def sizes(self) -> list[int]:
        """Rows of `columns` elements of the areas: queries, scores, result; gradient and scores' gradient."""
        d = self.d
        scores = d.keys + 64  # the rows that a last tile reads beyond what a causal block needs
        forward = [d.width, scores, d.value_width]
        return forward if d.gradient is None else [d.width, scores, max(d.width, 1), d.value_width, scores]

    @property
    def scratch_bytes(self) -> int:
        return sum(self.sizes) * self.columns * self.d.dtype.size

    def areas(self, b: Builder) -> list[Value]:
        found, start = [], 0
        for size in self.sizes:
            found.append(b.offset(b.arg("scratch"), start))
            start += size * self.columns * self.d.dtype.size
        return found


def _generate(block: _Block) -> str:
    d = block.d
    module = Module("attention")
    with module.kernel("attend") as b:
        if d.gradient is None:
            start, stop = b.share(d.batch * d.heads * block.count)
            with b.loop(start, stop) as task:
                number, place = b.udiv(task, block.count), b.urem(task, block.count)
                _forward(_Head(b, block, number), b.mul(place, block.columns))
        else:
            start, stop = b.share(d.batch * d.heads)
            with b.loop(start, stop) as task:
                head = _Head(b, block, task)
                head.clear_sums()
                with b.loop(0, d.queries, block.columns) as first:
                    _backward(head, first)
    return str(module)


class _Head:
    """Code for one head: its operands' addresses, and the products of a block."""

    def __init__(self, b: Builder, block: _Block, number: Value) -> None:
        self.b, self.block, self.d = b, block, block.d
        d = block.d
        self.type = register_type(d.dtype)
        self.wide = vector(self.type, block.lanes)
        batch, head = b.udiv(number, d.heads), b.urem(number, d.heads)

        def operand(number: int, strides: Strides) -> Value:
            origin = b.add(b.mul(batch, strides[0]), b.mul(head, strides[1]))
            return b.element(b.operand(number), memory_type(d.dtype), origin)

        self.query, self.key, self.value = operand(0, d.query), operand(1, d.key), operand(2, d.value)
        following = 3
        if d.mask is not None:
            self.mask = operand(following, d.mask)
            following += 1
        if d.gradient is not None:
            self.gradient = operand(following, d.gradient)
            following += 1
        self.results: list[Value | None] = []
        for strides in d.results:
            self.results.append(None if strides is None else operand(following, strides))
            following += strides is not None

    # -- a row of a block: `columns` queries ---------------------------------------------------------------------

    def load_row(self, area: Value, row: Value) -> list[Value]:
        b, block = self.b, self.block
        line = b.element(area, self.type, b.mul(row, block.columns))
        return [b.load(b.element(line, self.type, v * block.lanes), self.wide) for v in range(_VECTORS)]

    def store_row(self, area: Value, row: Value, values: list[Value]) -> None:
        b, block = self.b, self.block
        line = b.element(area, self.type, b.mul(row, block.columns))
        for v, value in enumerate(values):
            b.store(value, b.element(line, self.type, v * block.lanes))

    def pack(self, source: Value, strides: Strides, depth: int, target: Value, first: Value) -> None:
        """The block's queries of an operand as [feature][query]."""
        pack_panel(
            self.b, source, self.d.dtype, self.block.lanes, self.b.mul(first, strides[2]), target,
            count=self.block.columns, depth=depth, across=strides[2], along=strides[3], first=first,
            total=self.d.queries,
        )  # fmt: skip

    # -- products -------------------------------------------------------------------------------------------------

    def product(
        self, total: int, limit: Operand, depth: Operand, source: Value, row_stride: int, depth_stride: int,
        area: Value, target: Value, scale: float = 1.0,
    ) -> None:  # fmt: skip
        """target[r][query] = scale · Σ_k source[r · row_stride + k · depth_stride] · area[k][query] for r < limit.

        A last tile that would pass `total` is moved back and computes some rows again.
        """
        b, block = self.b, self.block
        rows = block.rows(total)
        tile = Accumulators(b, TileShape(rows, _VECTORS, block.lanes), self.d.dtype)
        factor = b.constant(scale, self.wide)
        with b.loop(0, limit, rows) as start:
            first = b.intrinsic("llvm.umin", "i64", start, b.index(total - rows))
            tile.clear(b)
            origin = b.element(source, self.type, b.mul(first, row_stride))
            with b.loop(0, depth, unroll=4) as k:
                numbers = b.element(origin, self.type, b.mul(k, depth_stride))
                places = [b.element(numbers, self.type, r * row_stride) for r in range(rows)]
                tile.step(b, [partial(b.load, p, self.type) for p in places], self.load_row(area, k))
            for r in range(rows):
                values = [tile.get(b, r, v) for v in range(_VECTORS)]
                if scale != 1.0:
                    values = [b.mul(x, factor) for x in values]
                self.store_row(target, b.add(first, r), values)

    def add_outer(
        self, limit: Value, count: Value, weights: Value, source: Value, strides: Strides, width: int, target: Value,
        result: Strides,
    ) -> None:  # fmt: skip
        """target[key][feature] += Σ_q weights[key][q] · source[q][feature] over the block's queries, key < limit.

        Rows of `weights` from limit to the end of the tile are zeros.
        """
        b, d, block = self.b, self.d, self.block
        shape = choose_tile(d.keys, width, block.lanes, block.registers)
        whole = d.keys // shape.rows * shape.rows
        parts = [(b.intrinsic("llvm.umin", "i64", limit, b.index(whole)), 0, shape)]
        if whole < d.keys:
            parts.append((limit, whole, TileShape(d.keys - whole, shape.vectors, shape.lanes)))
        for end, begin, tile_shape in parts:
            with b.loop(begin, end, tile_shape.rows) as key:
                for column in range(0, width, shape.columns):
                    self._outer_tile(tile_shape, key, column, count, weights, source, strides, width, target, result)

    def _outer_tile(
        self, shape: TileShape, key: Value, column: int, count: Value, weights: Value, source: Value, strides: Strides,
        width: int, target: Value, result: Strides,
    ) -> None:  # fmt: skip
        b, d, block = self.b, self.d, self.block
        places = [column + v * shape.lanes for v in range(shape.vectors) if column + v * shape.lanes < width]
        shape = TileShape(shape.rows, len(places), shape.lanes)
        masks = [lane_mask(b, p, width, shape.lanes) if p + shape.lanes > width else None for p in places]
        tile = Accumulators(b, shape, d.dtype)
        tile.clear(b)
        numbers = b.element(weights, self.type, b.mul(key, block.columns))
        with b.loop(0, count, unroll=4) as q:
            line = b.element(source, self.type, b.mul(q, strides[2]))
            vectors = [
                _load_lanes(b, b.element(line, self.type, p * strides[3]), strides[3], d.dtype, shape.lanes, mask)
                for p, mask in zip(places, masks, strict=True)
            ]
            own = [b.element(b.element(numbers, self.type, q), self.type, r * block.columns) for r in range(shape.rows)]
            tile.step(b, [partial(b.load, p, self.type) for p in own], vectors)
        for r in range(shape.rows):
            line = b.element(target, self.type, b.mul(b.add(key, r), result[2]))
            for v, (p, mask) in enumerate(zip(places, masks, strict=True)):
                place = b.element(line, self.type, p * result[3])
                before = _load_lanes(b, place, result[3], d.dtype, shape.lanes, mask)
                store_lanes(b, place, b.index(0), result[3], d.dtype, b.add(before, tile.get(b, r, v)), mask)

    def clear_sums(self) -> None:
        """Set the gradients of key and value to zero."""
        b, d, lanes = self.b, self.d, self.block.lanes
        for which, width in ((1, d.width), (2, d.value_width)):
            target, strides = self.results[which], d.results[which]
            if target is None or strides is None:
                continue
            with b.loop(0, d.keys) as key:
                line = b.element(target, self.type, b.mul(key, strides[2]))
                for p in range(0, width, lanes):
                    mask = lane_mask(b, p, width, lanes) if p + lanes > width else None
                    place = b.index(p * strides[3])
                    store_lanes(b, line, place, strides[3], d.dtype, b.constant(0, self.wide), mask)

    def store_transposed(
        self, area: Value, width: int, target: Value, strides: Strides, first: Value, factors: list[Value] | None
    ) -> None:
        """target[query][feature] = area[feature][query] · factor, for the block's queries that exist."""
        b, d, block = self.b, self.d, self.block
        lanes = block.lanes
        for p in range(0, width, lanes):
            mask = lane_mask(b, p, width, lanes) if p + lanes > width else None
            rows = [self.load_row(area, b.index(min(p + r, width - 1))) for r in range(lanes)]
            for v in range(_VECTORS):
                column = [row[v] if factors is None else b.mul(row[v], factors[v]) for row in rows]
                for q, values in enumerate(transpose(b, column)):
                    query = b.add(first, v * lanes + q)
                    with b.when(b.compare("slt", query, d.queries)):
                        line = b.element(target, self.type, b.mul(query, strides[2]))
                        store_lanes(b, line, b.index(p * strides[3]), strides[3], d.dtype, values, mask)

    # -- softmax --------------------------------------------------------------------------------------------------

    def visible(self, first: Value) -> Value:
        """How many keys some query of the block sees."""
        if not self.d.causal:
            return self.b.index(self.d.keys)
        return self.b.intrinsic("llvm.umin", "i64", self.b.add(first, self.block.columns), self.b.index(self.d.keys))

    def exponentials(self, scores: Value, visible: Value, first: Value) -> list[Value]:
        """Replace the scores by exp(score − largest) and return the reciprocals of their sums; 0 for a sum of 0."""
        b, d = self.b, self.d
        lowest = b.constant(-math.inf, self.wide)
        zero = b.constant(0, self.wide)
        highest = [b.variable(self.wide, lowest) for _ in range(_VECTORS)]
        sums = [b.variable(self.wide, zero) for _ in range(_VECTORS)]

        def compare(key: Value, values: list[Value]) -> None:
            for slot, value in zip(highest, values, strict=True):
                before = b.get(slot, self.wide)
                b.set(slot, b.select(b.compare("ogt", value, before), value, before))

        # Before the diagonal every query of the block sees every key.
        plain = b.intrinsic("llvm.umin", "i64", first, visible) if d.causal else visible
        with b.loop(0, plain) as key:
            values = self.load_row(scores, key)
            if d.mask is not None:
                values = self._masked(values, key, first)
                self.store_row(scores, key, values)
            compare(key, values)
        if d.causal:
            with b.loop(plain, visible) as key:
                values = self.load_row(scores, key)
                if d.mask is not None:
                    values = self._masked(values, key, first)
                seen = []
                for v, value in enumerate(values):
                    query = b.add(first, v * self.block.lanes)
                    ahead = b.splat(b.sub(key, query), self.block.lanes)
                    sees = b.compare("sge", b.lane_numbers(self.block.lanes), ahead)
                    seen.append(b.select(sees, value, lowest))
                self.store_row(scores, key, seen)
                compare(key, seen)
        shifts = []
        for slot in highest:
            value = b.get(slot, self.wide)
            shifts.append(b.select(b.compare("oeq", value, lowest), zero, value))
        with b.loop(0, visible) as key:
            values = []
            for slot, value, shift in zip(sums, self.load_row(scores, key), shifts, strict=True):
                weight = arithmetic.emit(b, "exp", [b.sub(value, shift)], [d.dtype], d.dtype)
                b.set(slot, b.add(b.get(slot, self.wide), weight))
                values.append(weight)
            self.store_row(scores, key, values)
        factors = []
        for slot in sums:
            total = b.get(slot, self.wide)
            inverse = b.fdiv(b.constant(1, self.wide), total)
            factors.append(b.select(b.compare("oeq", total, zero), zero, inverse))
        return factors

    def _masked(self, values: list[Value], key: Value, first: Value) -> list[Value]:
        """The scores of one key with the mask added."""
        b, d, lanes = self.b, self.d, self.block.lanes
        assert d.mask is not None
        result = []
        for v, value in enumerate(values):
            query = b.add(first, v * lanes)
            exists = lane_mask(b, query, d.queries, lanes)
            if exists is None:
                exists = b.constant(True, vector("i1", lanes))
            place = b.add(b.mul(query, d.mask[2]), b.mul(key, d.mask[3]))
            address = b.element(self.mask, memory_type(d.dtype), place)
            result.append(b.add(value, _load_lanes(b, address, d.mask[2], d.dtype, lanes, exists)))
        return result


def _load_lanes(b: Builder, address: Value, stride: int, dtype: DType, lanes: int, mask: Value | None) -> Value:
    """`lanes` elements, `stride` elements apart, the first at `address`; lanes whose mask is off give 0."""
    type = memory_type(dtype)
    if stride == 1:
        return load_element(b, address, dtype, lanes, mask)
    if stride == 0:
        wide = b.splat(load_element(b, address, dtype, 1, None), lanes)
        return wide if mask is None else b.select(mask, wide, b.constant(0, wide.type))
    steps = b.mul(b.lane_numbers(lanes), b.constant(stride, vector("i64", lanes)))
    addresses = b.emit(vector("ptr", lanes), f"getelementptr inbounds {type}, {address!r}, {steps!r}")
    result = vector(type, lanes)
    mask = mask if mask is not None else b.constant(True, vector("i1", lanes))
    return b.intrinsic(
        "llvm.masked.gather", result, addresses, b.constant(dtype.size, "i32"), mask, b.constant(0, result),
        suffix=f"{overload(result)}.v{lanes}p0",
    )  # fmt: skip


def _forward(head: _Head, first: Value) -> None:
    """One block of the result."""
    b, d = head.b, head.d
    queries, scores, result = head.block.areas(b)
    visible = head.visible(first)
    head.pack(head.query, d.query, d.width, queries, first)
    head.product(d.keys, visible, d.width, head.key, d.key[2], d.key[3], queries, scores, d.scale)
    factors = head.exponentials(scores, visible, first)
    head.product(d.value_width, d.value_width, visible, head.value, d.value[3], d.value[2], scores, result)
    target, strides = head.results[0], d.results[0]
    assert target is not None and strides is not None
    head.store_transposed(result, d.value_width, target, strides, first, factors)


def _backward(head: _Head, first: Value) -> None:
    """What one block of queries adds to the gradients.

    With weights P and the gradient G of the result: dV = Pᵀ G; dP = G Vᵀ; dS = scale · P ∘ (dP − Σ P ∘ dP);
    dQ = dS K; dK = dSᵀ Q.
    """
    b, d, block = head.b, head.d, head.block
    assert d.gradient is not None
    queries, scores, result, gradients, changes = block.areas(b)
    visible = head.visible(first)
    count = b.intrinsic("llvm.umin", "i64", b.sub(b.index(d.queries), first), b.index(block.columns))
    head.pack(head.query, d.query, d.width, queries, first)
    head.pack(head.gradient, d.gradient, d.value_width, gradients, first)
    head.product(d.keys, visible, d.width, head.key, d.key[2], d.key[3], queries, scores, d.scale)
    factors = head.exponentials(scores, visible, first)
    head.product(d.keys, visible, d.value_width, head.value, d.value[2], d.value[3], gradients, changes)
    zero = b.constant(0, head.wide)
    shared = [b.variable(head.wide, zero) for _ in range(_VECTORS)]
    with b.loop(0, visible) as key:
        weights = [b.mul(w, f) for w, f in zip(head.load_row(scores, key), factors, strict=True)]
        head.store_row(scores, key, weights)
        for slot, weight, change in zip(shared, weights, head.load_row(changes, key), strict=True):
            b.set(slot, b.fma(weight, change, b.get(slot, head.wide)))
    means = [b.get(slot, head.wide) for slot in shared]
    scale = b.constant(d.scale, head.wide)
    with b.loop(0, visible) as key:
        rows = zip(head.load_row(scores, key), head.load_row(changes, key), means, strict=True)
        head.store_row(changes, key, [b.mul(b.mul(w, b.sub(c, m)), scale) for w, c, m in rows])
    with b.loop(visible, b.add(visible, block.registers)) as key:  # what the last tile of keys reads beyond
        head.store_row(scores, key, [zero] * _VECTORS)
        head.store_row(changes, key, [zero] * _VECTORS)
    target, strides = head.results[0], d.results[0]
    if target is not None and strides is not None:
        head.product(d.width, d.width, visible, head.key, d.key[3], d.key[2], changes, result)
        head.store_transposed(result, d.width, target, strides, first, None)
    target, strides = head.results[1], d.results[1]
    if target is not None and strides is not None:
        origin = b.element(head.query, head.type, b.mul(first, d.query[2]))
        head.add_outer(visible, count, changes, origin, d.query, d.width, target, strides)
    target, strides = head.results[2], d.results[2]
    if target is not None and strides is not None:
        origin = b.element(head.gradient, head.type, b.mul(first, d.gradient[2]))
        head.add_outer(visible, count, scores, origin, d.gradient, d.value_width, target, strides)
