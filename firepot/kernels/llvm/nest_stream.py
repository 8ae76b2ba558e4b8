"""Folds over columns in one sweep over memory: every position's columns in a row, sums waiting in the first cache."""

from __future__ import annotations

from firepot.graph.index import Axis
from firepot.kernels.llvm.builder import Builder, Value, vector
from firepot.kernels.llvm.expression import Evaluator, Scope, from_memory, memory_type, register_type, to_memory
from firepot.kernels.llvm.nest_chunks import partial_layout
from firepot.kernels.llvm.nest_fold import combine_values, fold_identity, operand_pointers
from firepot.kernels.llvm.nest_plan import Plan, column_invariants, inner_order, stage_groups
from firepot.kernels.loops import Reduce


def stream(b: Builder, plan: Plan) -> None:
    """The chunks of a fold over columns: every position's columns in a row, sums in the chunk's partial results."""
    assert plan.along is not None
    pointers = operand_pointers(b, plan)
    group = stage_groups(plan.nest)[0]
    reduces, offsets, _ = partial_layout(plan)
    invariants = column_invariants(plan)
    loops = inner_order(group[0].axes, None)
    size, lanes = plan.along.size, plan.lanes
    workspace, scratch = b.operand(len(plan.nest.operands)), b.arg("scratch")

    def sums(r: int, chunk: Value, column: Value) -> Value:
        place = b.add(b.mul(chunk, size), column)
        return b.element(b.offset(workspace, offsets[r]), memory_type(reduces[r].dtype), place)

    def kept(number: int, column: Value) -> Value:
        expr = invariants[number]
        return b.element(b.offset(scratch, number * size * 8), register_type(expr.dtype), column)

    start, stop = b.share(plan.chunks)
    with b.when(b.compare("slt", start, stop)), b.loop(0, size, lanes) as column:
        evaluator = Evaluator(b, pointers, plan.along, lanes, None, Scope({plan.along: column}), {})
        for number, expr in enumerate(invariants):
            b.store(evaluator.vector(expr), kept(number, column))
    with b.loop(start, stop) as chunk:
        with b.loop(0, size, lanes) as column:
            for number, r in enumerate(reduces):
                neutral = b.constant(fold_identity(r.combine, r.dtype), vector(register_type(r.dtype), lanes))
                b.store(to_memory(b, neutral, r.dtype), sums(number, chunk, column))

        def descend(level: int, coordinates: dict[Axis, Value]) -> None:
            axis = loops[level] if level < len(loops) else plan.along
            assert axis is not None
            if level < len(loops):
                low: Value | int = 0
                high: Value | int = axis.size
                if level == 0:
                    low = b.udiv(b.mul(chunk, axis.size), plan.chunks)
                    high = b.udiv(b.mul(b.add(chunk, 1), axis.size), plan.chunks)
                with b.loop(low, high) as i:
                    descend(level + 1, {**coordinates, axis: i})
                return
            with b.loop(0, size, lanes) as column:
                scope = Scope({**coordinates, axis: column})
                for number, expr in enumerate(invariants):
                    type = vector(register_type(expr.dtype), lanes)
                    scope.values[(expr, True)] = b.load(kept(number, column), type)
                evaluator = Evaluator(b, pointers, plan.along, lanes, None, scope, {})
                values = [evaluator.vector(s.value) for s in group]
                for stage, value in zip(group, values, strict=True):
                    if not isinstance(stage, Reduce):
                        dtype = plan.nest.operands[stage.operand][0]
                        evaluator.store(stage.operand, stage.offset, stage.value, dtype)
                        continue
                    place = sums(reduces.index(stage), chunk, column)
                    before = from_memory(b, b.load(place, vector(memory_type(stage.dtype), lanes)), stage.dtype)
                    after = combine_values(b, stage.combine, stage.dtype, before, value)
                    b.store(to_memory(b, after, stage.dtype), place)

        descend(0, {})
