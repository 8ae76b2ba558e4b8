"""Kernels that go through rows in order: running folds and sorting. Threads take whole rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.kernels.kernel import Kernel
from firepot.kernels.llvm import arithmetic
from firepot.kernels.llvm.builder import Builder, Module, Value
from firepot.kernels.llvm.expression import load_element, memory_type, register_type, to_memory
from firepot.kernels.llvm.math import emit as emit_math
from firepot.kernels.llvm.nest_fold import fold_identity


@dataclass(frozen=True)
class Scan:
    """Running fold along the last axis. Operands: x by strides, the result row-major.

    combine: sum, prod, max, min, logsumexp, argmax or argmin (int64 positions of the running extremum, the last of
    ties).
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType
    combine: str


@dataclass(frozen=True)
class ArgSort:
    """Stable int64 sorting positions along the last axis. Operands: x by strides, the result row-major.

    NaN counts as the largest value.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType
    descending: bool


def _row_start(b: Builder, shape: tuple[int, ...], strides: tuple[int, ...], row: Value) -> Value:
    place, rest = b.index(0), row
    for size, stride in reversed(list(zip(shape[:-1], strides[:-1], strict=True))):
        place = b.add(place, b.mul(b.urem(rest, size), stride))
        rest = b.udiv(rest, size)
    return place


def lower_scan(s: Scan, processor: Any) -> Kernel:
    return Kernel(
        key=f"scan {s}", generate=lambda: _generate_scan(s), phases=("scan",), label=f"scan[{s.combine}]",
        parallel=math.prod(s.shape) >= 1 << 13,
        flops=math.prod(s.shape) if s.dtype.kind == "f" else 0,
        bytes=math.prod(s.shape) * (s.dtype.size + (8 if s.combine.startswith("arg") else s.dtype.size)),
    )  # fmt: skip


def _generate_scan(s: Scan) -> str:
    module = Module("scan")
    positions = s.combine.startswith("arg")
    combine = s.combine.removeprefix("arg")
    name = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "logsumexp": ""}[combine]
    identity = -math.inf if combine == "logsumexp" else fold_identity(combine, s.dtype)
    type = register_type(s.dtype)
    out_dtype = dtypes.int64 if positions else s.dtype
    length = s.shape[-1]
    with module.kernel("scan") as b:
        x, out = b.operand(0), b.operand(1)
        start, stop = b.share(math.prod(s.shape[:-1]))
        with b.loop(start, stop) as row:
            origin = _row_start(b, s.shape, s.strides, row)
            running = b.variable(type, b.constant(identity, type))
            best = b.variable("i64", b.index(0))
            with b.loop(0, length) as i:
                place = b.element(x, memory_type(s.dtype), b.add(origin, b.mul(i, s.strides[-1])))
                value = load_element(b, place, s.dtype, 1, None)
                before = b.get(running, type)
                if combine == "logsumexp":
                    after = _log_add(b, before, value)
                else:
                    after = arithmetic.emit(b, name, [before, value], [s.dtype, s.dtype], s.dtype)
                b.set(running, after)
                target = b.element(out, memory_type(out_dtype), b.add(b.mul(row, length), i))
                if positions:
                    taken = arithmetic.emit(b, "eq", [after, value], [s.dtype, s.dtype], dtypes.bool_)
                    if s.dtype.kind == "f":  # NaN stays the extremum from its first occurrence on
                        taken = b.or_(taken, b.compare("uno", value, value))
                    now = b.select(taken, i, b.get(best, "i64"))
                    b.set(best, now)
                    b.store(now, target)
                else:
                    b.store(to_memory(b, after, s.dtype), target)
    return str(module)


def _log_add(b: Builder, x: Value, y: Value) -> Value:
    """log(eˣ + eʸ) by the larger of the two."""
    top = b.intrinsic("llvm.maximum", x.type, x, y)
    away = b.fneg(b.intrinsic("llvm.fabs", x.type, b.sub(x, y)))
    smooth = b.add(top, emit_math(b, "log1p", [emit_math(b, "exp", [away])]))
    finite = b.compare("olt", b.intrinsic("llvm.fabs", x.type, top), b.constant(math.inf, x.type))
    return b.select(finite, smooth, top)


def lower_sort(s: ArgSort, processor: Any) -> Kernel:
    return Kernel(
        key=f"argsort {s}", generate=lambda: _generate_sort(s), phases=("sort",), label="argsort",
        scratch=s.shape[-1] * 8 if s.shape else 8, parallel=math.prod(s.shape) >= 1 << 10,
        bytes=math.prod(s.shape) * (s.dtype.size + 8),
    )  # fmt: skip


def _generate_sort(s: ArgSort) -> str:
    """Bottom-up merge sort of positions, between the result's row and the thread's scratch."""
    module = Module("argsort")
    length = s.shape[-1]
    passes = max(0, (length - 1).bit_length())
    with module.kernel("sort") as b:
        x, result, scratch = b.operand(0), b.operand(1), b.arg("scratch")
        start, stop = b.share(math.prod(s.shape[:-1]))
        with b.loop(start, stop) as row:
            origin = _row_start(b, s.shape, s.strides, row)
            out = b.element(result, "i64", b.mul(row, length))
            first, second = (out, scratch) if passes % 2 == 0 else (scratch, out)
            with b.loop(0, length) as i:
                b.store(i, b.element(first, "i64", i))
            source, target = b.variable("ptr", first), b.variable("ptr", second)
            with b.loop(0, passes) as step:
                width = b.emit("i64", f"shl i64 1, {step.text}")
                from_, to = b.get(source, "ptr"), b.get(target, "ptr")
                with b.loop(0, length, b.add(width, width)) as low:
                    _merge(b, s, x, origin, from_, to, low, width, length)
                b.set(source, to)
                b.set(target, from_)
    return str(module)


def _merge(
    b: Builder, s: ArgSort, x: Value, origin: Value, source: Value, target: Value, low: Value, width: Value, length: int
) -> None:
    end = b.index(length)
    middle = b.intrinsic("llvm.umin", "i64", b.add(low, width), end)
    high = b.intrinsic("llvm.umin", "i64", b.add(middle, width), end)
    left, right = b.variable("i64", low), b.variable("i64", middle)
    final = b.index(length - 1)

    def candidate(i: Value) -> tuple[Value, Value]:
        number = b.load(b.element(source, "i64", b.intrinsic("llvm.umin", "i64", i, final)), "i64")
        place = b.element(x, memory_type(s.dtype), b.add(origin, b.mul(number, s.strides[-1])))
        return number, load_element(b, place, s.dtype, 1, None)

    with b.loop(low, high) as k:
        i, j = b.get(left, "i64"), b.get(right, "i64")
        (a, x_a), (c, x_c) = candidate(i), candidate(j)
        before = _precedes(b, s, x_c, x_a)  # the right one goes first only if it must: stable
        right_open = b.compare("slt", j, high)
        left_done = b.compare("sge", i, middle)
        take_right = b.and_(right_open, b.or_(left_done, before))
        b.store(b.select(take_right, c, a), b.element(target, "i64", k))
        b.set(left, b.select(take_right, i, b.add(i, 1)))
        b.set(right, b.select(take_right, b.add(j, 1), j))


def _precedes(b: Builder, s: ArgSort, x: Value, y: Value) -> Value:
    name = "gt" if s.descending else "lt"
    result = arithmetic.emit(b, name, [x, y], [s.dtype, s.dtype], dtypes.bool_)
    if s.dtype.kind != "f":
        return result
    nan_x, nan_y = b.compare("uno", x, x), b.compare("uno", y, y)
    larger, smaller = (nan_x, nan_y) if s.descending else (nan_y, nan_x)
    return b.or_(result, b.and_(larger, b.xor(smaller, b.constant(True, "i1"))))
