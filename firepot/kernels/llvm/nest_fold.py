"""Folds of a loop nest in registers: at one outer point, or at a vector of neighbouring ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.index import Axis
from firepot.kernels.llvm import arithmetic
from firepot.kernels.llvm.builder import Builder, Value, vector
from firepot.kernels.llvm.expression import Evaluator, Scope, register_type
from firepot.kernels.llvm.nest_plan import BLOCK, Plan, inner_order
from firepot.kernels.loops import Const, Expr, Guard, Op, Reduce


def operand_pointers(b: Builder, plan: Plan) -> list[Value]:
    return [b.operand(i) for i in range(len(plan.nest.operands))]


def fold_identity(combine: str, dtype: DType) -> float | int | bool:
    if combine in ("sum", "any"):
        return 0
    if combine in ("prod", "all"):
        return 1
    if dtype.kind == "f":
        return -math.inf if combine == "max" else math.inf
    bits = dtype.size * 8
    if dtype.kind == "b":
        return combine == "min"
    if dtype.kind == "u":
        return 0 if combine == "max" else (1 << bits) - 1
    return -(1 << (bits - 1)) if combine == "max" else (1 << (bits - 1)) - 1


def combine_values(b: Builder, combine: str, dtype: DType, x: Value, y: Value) -> Value:
    name = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and"}[combine]
    return arithmetic.emit(b, name, [x, y], [dtype, dtype], dtype)


def _across(b: Builder, combine: str, dtype: DType, x: Value) -> Value:
    """Fold the lanes of a vector, halves by halves."""
    lanes = x.lanes
    while lanes > 1:
        half = lanes // 2
        if half == 1:
            low, high = b.extract(x, 0), b.extract(x, 1)
        else:
            low = b.shuffle(x, None, list(range(half)))
            high = b.shuffle(x, None, list(range(half, lanes)))
        x = combine_values(b, combine, dtype, low, high)
        lanes = half
    return x


def outer_stage(
    b: Builder, pointers: list[Value], plan: Plan, group: list[Any], places: list[tuple[Scope, Value | None]],
    folds: list[dict[Reduce, Value]], scalar: bool,
) -> None:  # fmt: skip
    """Stages without loops of their own: once for each outer point."""
    for place, found in zip(places, folds, strict=True):
        lanes = 1 if scalar else plan.lanes
        evaluator = Evaluator(b, pointers, plan.along, lanes, place[1], place[0], found)
        for stage in group:
            if isinstance(stage, Reduce):  # over no axes: the value itself
                found[stage] = evaluator.vector(stage.value) if lanes > 1 else evaluator.expr(stage.value)
            else:
                evaluator.store(stage.operand, stage.offset, stage.value, plan.nest.operands[stage.operand][0])


def inner_loops(
    b: Builder, pointers: list[Value], plan: Plan, group: list[Any], places: list[tuple[Scope, Value | None]],
    folds: list[dict[Reduce, Value]], chunk: Value | None, rows: bool,
) -> None:  # fmt: skip
    """One pass over the inner axes: folds accumulate, stores write."""
    loops = inner_order(group[0].axes, plan.along if rows else None)
    lanes = plan.lanes if not rows or plan.along in loops else 1
    reduces = [s for s in group if isinstance(s, Reduce)]
    accumulators = [_accumulators(b, reduces, lanes) for _ in places]
    sums = [r for r in reduces if r.combine == "sum" and r.dtype.kind == "f"]
    block_level = _block_level(loops, lanes if rows else 1, plan.chunks if chunk is not None else 1)
    totals = [_accumulators(b, sums if block_level is not None else [], lanes) for _ in places]
    for place, found in zip(places, folds, strict=True):  # what does not vary in the loops is computed before them
        outer_lanes = 1 if rows else lanes
        evaluator = Evaluator(b, pointers, plan.along, outer_lanes, place[1], place[0], found)
        for stage in group:
            hoist(evaluator, stage.value, set(loops))

    def body(coordinates: dict[Axis, Value], tail: Value | None) -> None:
        for place, own, found in zip(places, accumulators, folds, strict=True):
            scope = place[0].inside(coordinates)
            mask = place[1] if tail is None else tail
            evaluator = Evaluator(b, pointers, plan.along, lanes, mask, scope, found)
            values = [evaluator.vector(s.value) if lanes > 1 else evaluator.expr(s.value) for s in group]
            for stage, value in zip(group, values, strict=True):
                if isinstance(stage, Reduce):
                    slot = own[stage]
                    before = b.get(slot, value.type)
                    if tail is not None:
                        neutral = b.constant(fold_identity(stage.combine, stage.dtype), value.type)
                        value = b.select(tail, value, neutral)
                    b.set(slot, combine_values(b, stage.combine, stage.dtype, before, value))
                else:
                    evaluator.store(stage.operand, stage.offset, stage.value, plan.nest.operands[stage.operand][0])

    def end_block() -> None:
        for own, total in zip(accumulators, totals, strict=True):
            for r, slot in total.items():
                type = vector(register_type(r.dtype), lanes)
                b.set(slot, combine_values(b, "sum", r.dtype, b.get(slot, type), b.get(own[r], type)))
                b.set(own[r], b.constant(0.0, type))

    def innermost(axis: Axis, low: Value | int, high: Value, coordinates: dict[Axis, Value], step: int) -> Value:
        """The last loop over whole vectors, in blocks where sums want them; where it ended."""
        position = b.variable("i64", b.index(low))

        def run(first: Value | int, stop: Value) -> None:
            with b.loop(first, stop, step) as i:
                body({**coordinates, axis: i}, None)
                b.set(position, b.add(i, step))

        if block_level == len(loops):
            with b.loop(low, high, BLOCK * step) as first:
                run(first, b.intrinsic("llvm.smin", "i64", b.add(first, BLOCK * step), high))
                end_block()
        else:
            run(low, high)
        return b.get(position, "i64")

    def descend(level: int, coordinates: dict[Axis, Value]) -> None:
        axis = loops[level]
        low: Value | int = 0
        high: Value | int = axis.size
        if level == 0 and chunk is not None:
            low = b.udiv(b.mul(chunk, axis.size), plan.chunks)
            high = b.udiv(b.mul(b.add(chunk, 1), axis.size), plan.chunks)
        last = level == len(loops) - 1
        if not last:
            with b.loop(low, high) as i:
                descend(level + 1, {**coordinates, axis: i})
                if level == block_level:
                    end_block()
        elif not rows or lanes == 1:
            innermost(axis, low, b.index(high), coordinates, 1)
        else:
            exact = axis.size % lanes == 0 and not (level == 0 and chunk is not None)
            stop = b.index(high) if exact else b.sub(b.index(high), lanes - 1)
            i = innermost(axis, low, stop, coordinates, lanes)
            if not exact:
                remaining = b.sub(b.index(high), i)
                with b.when(b.compare("sgt", remaining, 0)):
                    body({**coordinates, axis: i}, b.tail_mask(remaining, lanes))

    descend(0, {})
    if block_level is not None:
        end_block()
    for own, total, found in zip(accumulators, totals, folds, strict=True):
        for r, slot in own.items():
            value = b.get(total.get(r, slot), vector(register_type(r.dtype), lanes))
            found[r] = _across(b, r.combine, r.dtype, value) if rows and lanes > 1 else value


def _accumulators(b: Builder, reduces: Sequence[Reduce], lanes: int) -> dict[Reduce, Value]:
    slots = {}
    for r in reduces:
        type = vector(register_type(r.dtype), lanes)
        slots[r] = b.variable(type, b.constant(fold_identity(r.combine, r.dtype), type))
    return slots


def _block_level(loops: Sequence[Axis], lanes: int, chunks: int) -> int | None:
    """The loop of whose every turn floating sums make a block; len(loops): the last loop is itself cut into blocks;
    None: there are too few terms.

    Added one after the other, n terms lose up to n roundings; in blocks, about 2 √n (Higham, The Accuracy of
    Floating Point Summation, 1993).
    """
    trips = [a.size for a in loops]
    trips[-1] = -(-trips[-1] // lanes)
    trips[0] = -(-trips[0] // chunks)
    if math.prod(trips) <= 2 * BLOCK:
        return None
    if trips[-1] > 2 * BLOCK:
        return len(loops)
    within = 1
    for level in range(len(loops) - 1, 0, -1):
        within *= trips[level]
        if within >= BLOCK // 2:
            return level - 1
    return None


def hoist(evaluator: Evaluator, expr: Expr, inner: set[Axis]) -> None:
    """Compute the largest sub-expressions that do not vary in the inner loops now; the scope remembers them."""
    if isinstance(expr, Const):
        return
    if not (expr.axes() & inner):
        if isinstance(expr, Guard) or evaluator.along not in inner or evaluator.lanes == 1:
            value = evaluator.expr(expr)
            evaluator.scope.values[(expr, True)] = value
            evaluator.scope.values[(expr, False)] = value
        return
    if isinstance(expr, Op):
        for a in expr.args:
            hoist(evaluator, a, inner)
