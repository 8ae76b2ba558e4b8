"""Products with few rows: dot products along k, both operands read where they lie.

Such a product reads each number of y for few multiply-adds, so that packing y would cost more than the product. Where
k is contiguous in both operands (x @ W.T with W row-major: a linear layer on one sample), a task takes as many columns
as a vector has lanes. Each column has a vector accumulator for each row; at the end their transpose is summed. Where the
processor has dot-product instructions for the dtype (dots.py), a vector holds words of several numbers along k; where these
are int8, a further row of accumulators sums the numbers of y.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from firepot.graph.dtypes import DType
from firepot.kernels.kernel import Kernel
from firepot.kernels.llvm import dots
from firepot.kernels.llvm.builder import Builder, Module, Value, vector
from firepot.kernels.llvm.epilogue import Epilogue, NestEpilogue
from firepot.kernels.llvm.expression import load_as, memory_type, register_type
from firepot.kernels.llvm.tile import lane_mask, transpose

if TYPE_CHECKING:
    from firepot.kernels.llvm.matmul import Matmul

_ROWS = 4  # more make packing y worth its while
_RUN = 256  # steps along k whose products one accumulator sums


def applies(d: Matmul, processor: Any) -> bool:
    """Whether the product is one for these kernels."""
    lanes = processor.vector_bytes // d.accumulate.size
    uses = d.m if d.y_strides[0] else d.m * d.batch  # how often each number of y is wanted
    return uses <= _ROWS and d.x_strides[2] == d.y_strides[1] == 1 and d.k >= lanes > 1


def lower(d: Matmul, epilogue: Epilogue, processor: Any, parallel: bool) -> Kernel:
    """The kernel of a product that `applies` accepts. Operands: x, y, then those of the epilogue."""
    lanes = processor.vector_bytes // d.accumulate.size
    following = epilogue if isinstance(epilogue, NestEpilogue) else None
    numbers = dots.numbers_of_a_word(d.dtype, d.accumulate, processor)
    work = d.batch * d.m * d.n * d.k
    x_batches, y_batches = (d.batch if strides[0] else 1 for strides in (d.x_strides, d.y_strides))
    return Kernel(
        key=f"matmul rows {processor.vector_bytes} {processor.vector_registers} {numbers} {d} {epilogue.key}",
        generate=lambda: _generate(d, epilogue, lanes, numbers, processor.vector_registers),
        phases=("multiply",),
        label=f"matmul {d.batch}x{d.m}x{d.n}x{d.k}{' + ' + following.label if following else ''}",
        scratch=d.m * lanes * d.accumulate.size if epilogue.large else 0,
        parallel=parallel,
        explicit=True,
        flops=2 * work + (following.flops if following else 0),
        bytes=d.dtype.size * (x_batches * d.m * d.k + y_batches * d.k * d.n)
        + (following.bytes if following else d.dtype.size * d.batch * d.m * d.n),
        rate=numbers,
        aliases=following.aliases if following else frozenset(),
    )


def _generate(d: Matmul, epilogue: Epilogue, lanes: int, numbers: int, registers: int) -> str:
    module = Module("matmul_rows", workspace_operand=2 + epilogue.operands)
    with module.kernel("multiply") as b:
        blocks = math.ceil(d.n / lanes)
        start, stop = b.share(d.batch * blocks)
        with b.loop(start, stop, unroll=1) as task:
            batch, column = b.udiv(task, blocks), b.mul(b.urem(task, blocks), lanes)
            results = _block(b, d, lanes, numbers, registers, batch, column)
            mask = lane_mask(b, column, d.n, lanes)
            if epilogue.large:
                _finish_in_loop(b, d, epilogue, results, batch, column, mask)
            else:
                for row, value in enumerate(results):
                    epilogue.emit(b, (batch, row, column), value, mask)
    return str(module)


def _finish_in_loop(
    b: Builder, d: Matmul, epilogue: Epilogue, results: list[Value], batch: Value, column: Value, mask: Value | None
) -> None:
    """By way of the scratch memory, so that a long epilogue stands in the code once instead of once a row."""
    element, lanes = register_type(d.accumulate), results[0].lanes
    scratch = b.arg("scratch")
    for row, value in enumerate(results):
        b.store(value, b.element(scratch, element, row * lanes))
    with b.loop(0, d.m, unroll=1) as m:
        value = b.load(b.element(scratch, element, b.mul(m, lanes)), results[0].type)
        epilogue.emit(b, (batch, m, column), value, mask)


def _block(
    b: Builder, d: Matmul, lanes: int, numbers: int, registers: int, batch: Value, column: Value
) -> list[Value]:
    """For each row, a vector of the `lanes` results from `column` on. Lanes beyond n are unspecified."""
    width = min(lanes, d.n)
    shifted = numbers == 4  # x is taken 128 too large
    group = min(width, max(1, registers // 2 // (d.m + shifted)))  # columns whose accumulators stay in registers together
    type = vector(register_type(d.accumulate), lanes)
    zero = b.constant(0, type)
    x = [
        _place(b, b.operand(0), d.dtype, b.add(b.mul(batch, d.x_strides[0]), row * d.x_strides[1]))
        for row in range(d.m)
    ]  # fmt: skip
    sums: list[list[Value]] = [[] for _ in range(d.m + shifted)]
    taken = lanes * numbers  # along k in a step
    whole = d.k // taken * taken
    for first in range(0, width, group):
        count = min(group, width - first)
        y = []
        for i in range(first, first + count):
            inside = b.intrinsic("llvm.umin", "i64", b.add(column, i), b.index(d.n - 1))
            origin = b.add(b.mul(batch, d.y_strides[0]), b.mul(inside, d.y_strides[2]))
            y.append(_place(b, b.operand(1), d.dtype, origin))
        slots = [[b.variable(type) for _ in y] for _ in sums]
        _set(b, slots, zero)
        run = _RUN * taken
        if d.accumulate.kind == "f" and whole > run:
            # Each run of k is summed by itself, so that over millions of terms what is rounded away is that of a run's sum
            # and of the sum of runs, and not of one long sum.
            totals = [[b.variable(type) for _ in y] for _ in sums]
            _set(b, totals, zero)
            with b.loop(0, whole, run) as begin:
                _set(b, slots, zero)
                with b.loop(begin, b.intrinsic("llvm.umin", "i64", b.add(begin, run), b.index(whole)), taken) as k:
                    _step(b, d, lanes, numbers, x, y, slots, k, None)
                for totals_row, row in zip(totals, slots, strict=True):
                    for total, slot in zip(totals_row, row, strict=True):
                        b.set(total, b.add(b.get(total, type), b.get(slot, type)))
            slots = totals
        else:
            with b.loop(0, whole, taken) as k:
                _step(b, d, lanes, numbers, x, y, slots, k, None)
        if whole < d.k:
            _step(b, d, lanes, numbers, x, y, slots, b.index(whole), b.tail_mask(b.index(d.k - whole), taken))
        for found, row in zip(sums, slots, strict=True):
            found.extend(b.get(slot, type) for slot in row)
    results = [_total(b, transpose(b, found + [zero] * (lanes - width))) for found in sums]
    if shifted:
        excess = b.mul(results.pop(), 128)
        results = [b.sub(result, excess) for result in results]
    return results


def _set(b: Builder, slots: list[list[Value]], value: Value) -> None:
    for row in slots:
        for slot in row:
            b.set(slot, value)


def _step(
    b: Builder, d: Matmul, lanes: int, numbers: int, x: list[Value], y: list[Value], slots: list[list[Value]],
    k: Value, mask: Value | None,
) -> None:  # fmt: skip
    """Add the products of `lanes` numbers, or words of numbers, along k."""
    type = vector(register_type(d.accumulate), lanes)

    def load(pointer: Value) -> Value:
        if numbers == 1:
            return load_as(b, _place(b, pointer, d.dtype, k), d.dtype, d.accumulate, lanes, mask)
        raw = dots.load_numbers(b, pointer, d.dtype, k, lanes * numbers, mask)
        return b.convert("bitcast", raw, vector(dots.WORD, lanes))

    factors = [load(place) for place in x]
    if numbers == 4:
        factors = [*(dots.unsigned(b, value) for value in factors), b.constant(0x01010101, vector(dots.WORD, lanes))]
    for c, place in enumerate(y):
        weights = load(place)
        for value, row in zip(factors, slots, strict=True):
            before = b.get(row[c], type)
            if numbers > 1:
                b.set(row[c], dots.dot(b, value, weights, before))
            elif d.accumulate.kind == "f":
                b.set(row[c], b.fma(value, weights, before))
            else:
                b.set(row[c], b.add(b.mul(value, weights), before))


def _place(b: Builder, pointer: Value, dtype: DType, index: Value) -> Value:
    return b.element(pointer, memory_type(dtype), index)


def _total(b: Builder, values: list[Value]) -> Value:
    """The sum, pair by pair."""
    while len(values) > 1:
        values = [b.add(values[i], values[i + 1]) for i in range(0, len(values), 2)]
    return values[0]
