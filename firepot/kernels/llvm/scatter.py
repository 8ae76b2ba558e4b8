"""Scatter: updates written or folded into a tensor at computed positions.

The updates are applied in row-major order of their indices, each thread to its own columns, so that the result is the
same for any number of threads and needs no atomic operation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.index import contiguous_strides
from firepot.kernels.kernel import Kernel
from firepot.kernels.llvm import arithmetic
from firepot.kernels.llvm.builder import Builder, Module, Value
from firepot.kernels.llvm.expression import load_element, memory_type, to_memory

_COMBINE = {"add": "add", "max": "maximum", "min": "minimum", "prod": "mul"}


@dataclass(frozen=True)
class Scatter:
    """out = x; out[index…] = or ∘= update. Operands: x, updates, one int64 index for each axis, out (row-major).

    Strides are in elements; `update_strides` are those of index dimensions followed by the other dimensions.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    mode: str
    index_shape: tuple[int, ...]
    dtype: DType
    x_strides: tuple[int, ...]
    update_strides: tuple[int, ...]
    index_strides: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Run:
    """A loop over columns: its size and its strides in the result and in the updates."""

    size: int
    out: int
    update: int


def _columns(s: Scatter) -> list[_Run]:
    """The dimensions that are not indexed, joined where both operands walk them as one."""
    out = contiguous_strides(s.shape)
    rank = len(s.index_shape)
    runs: list[_Run] = []
    rest = [d for d in range(len(s.shape)) if d not in s.axes]
    for d, update in zip(rest, s.update_strides[rank:], strict=True):
        if s.shape[d] == 1:
            continue
        new = _Run(s.shape[d], out[d], update)
        if runs and runs[-1].out == new.out * new.size and runs[-1].update == new.update * new.size:
            runs[-1] = _Run(runs[-1].size * new.size, new.out, new.update)
        else:
            runs.append(new)
    return runs


def lower(description: Scatter, processor: Any) -> Kernel:
    runs = _columns(description)
    shared = bool(runs) and runs[-1].size >= 32
    points = math.prod(description.index_shape) * math.prod(r.size for r in runs)
    return Kernel(
        key=f"scatter {processor.vector_bytes} {description}",
        generate=lambda: _generate(description, runs, shared, processor.vector_bytes // 4),
        phases=("copy", "update"),
        label=f"scatter[{description.mode}]",
        parallel=points + math.prod(description.shape) >= 1 << 14,
        flops=points if description.mode != "set" and description.dtype.kind == "f" else 0,
        bytes=description.dtype.size * (2 * math.prod(description.shape) + points)
        + 8 * len(description.axes) * math.prod(description.index_shape),
    )


def _generate(s: Scatter, runs: list[_Run], shared: bool, lanes: int) -> str:
    module = Module("scatter")
    count = len(s.axes)
    with module.kernel("copy") as b:
        _copy(b, s, 2 + count)
    with module.kernel("update") as b:
        out, updates = b.operand(2 + count), b.operand(1)
        indices = [b.operand(2 + i) for i in range(count)]
        if shared:
            start, stop = b.share(runs[-1].size, 16)
        else:
            first = b.compare("eq", b.arg("thread"), 0)
            size = runs[-1].size if runs else 1
            start, stop = b.index(0), b.select(first, b.index(size), b.index(0))
        last = runs[-1] if runs else _Run(1, 1, 1)
        with b.when(b.compare("slt", start, stop)), b.loop(0, math.prod(s.index_shape)) as n:
            place, source = _origin(b, s, indices, n)
            _loops(b, s, runs[:-1], last, out, updates, place, source, start, stop, lanes)
    return str(module)


def _copy(b: Builder, s: Scatter, out_operand: int) -> None:
    """out = x, rows shared among the threads."""
    x, out = b.operand(0), b.operand(out_operand)
    element = memory_type(s.dtype)
    total = math.prod(s.shape)
    start, stop = b.share(total, 16)
    contiguous = contiguous_strides(s.shape)
    with b.loop(start, stop) as n:
        if all(a == c or size == 1 for a, c, size in zip(s.x_strides, contiguous, s.shape, strict=True)):
            place = n
        else:
            place, rest = b.index(0), n
            for size, stride in reversed(list(zip(s.shape, s.x_strides, strict=True))):
                place = b.add(place, b.mul(b.urem(rest, size), stride))
                rest = b.udiv(rest, size)
        b.store(b.load(b.element(x, element, place), element), b.element(out, element, n))


def _origin(b: Builder, s: Scatter, indices: list[Value], n: Value) -> tuple[Value, Value]:
    """(position in the result, position in the updates) of update number n's first column."""
    coordinates: list[Value] = []
    rest = n
    for size in reversed(s.index_shape):
        coordinates.append(b.urem(rest, size))
        rest = b.udiv(rest, size)
    coordinates.reverse()
    out_strides = contiguous_strides(s.shape)
    place, source = b.index(0), b.index(0)
    for c, stride in zip(coordinates, s.update_strides, strict=False):
        source = b.add(source, b.mul(c, stride))
    for axis, pointer, strides in zip(s.axes, indices, s.index_strides, strict=True):
        where = b.index(0)
        for c, stride in zip(coordinates, strides, strict=True):
            where = b.add(where, b.mul(c, stride))
        index = b.load(b.element(pointer, "i64", where), "i64")
        place = b.add(place, b.mul(index, out_strides[axis]))
    return place, source


def _loops(
    b: Builder, s: Scatter, outer: list[_Run], last: _Run, out: Value, updates: Value, place: Value, source: Value,
    start: Value, stop: Value, lanes: int,
) -> None:  # fmt: skip
    if outer:
        run = outer[0]
        with b.loop(0, run.size) as i:
            inner_place = b.add(place, b.mul(i, run.out))
            inner_source = b.add(source, b.mul(i, run.update))
            _loops(b, s, outer[1:], last, out, updates, inner_place, inner_source, start, stop, lanes)
        return
    element = memory_type(s.dtype)

    def fold(i: Value, width: int) -> None:
        target = b.element(out, element, b.add(place, b.mul(i, last.out)))
        origin = b.element(updates, element, b.add(source, b.mul(i, last.update)))
        value = load_element(b, origin, s.dtype, width, None)
        if s.mode != "set":
            before = load_element(b, target, s.dtype, width, None)
            value = arithmetic.emit(b, _COMBINE[s.mode], [before, value], [s.dtype, s.dtype], s.dtype)
        b.store(to_memory(b, value, s.dtype), target)

    if last.out != 1 or last.update != 1 or last.size < lanes:
        with b.loop(start, stop) as i:
            fold(i, 1)
        return
    position = b.variable("i64", start)
    with b.loop(start, b.sub(stop, lanes - 1), lanes) as i:
        fold(i, lanes)
        b.set(position, b.add(i, lanes))
    with b.loop(b.get(position, "i64"), stop) as i:
        fold(i, 1)
