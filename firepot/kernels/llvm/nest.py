"""The code generator for loop nests: element-wise work, index maps and reductions.

Three shapes of code come out of it. A *map* writes every point, a vector of lanes at a time. A *row* kernel loops over
folded axes in vectors, once per outer point. A *column* kernel keeps a vector of neighbouring outer points and loops
over the folded axes with all lanes side by side (batch statistics with channels last). Long folds with few outer
points are cut into a fixed number of chunks whose partial results a second phase combines, so that threads share the
work and the result does not depend on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from firepot.graph.index import Axis
from firepot.kernels.kernel import Kernel
from firepot.kernels.llvm.builder import Builder, Module, Value
from firepot.kernels.llvm.expression import Evaluator, Scope
from firepot.kernels.llvm.nest_chunks import combine_chunks, store_partials, workspace_bytes
from firepot.kernels.llvm.nest_description import aliases, describe, label, operations, traffic
from firepot.kernels.llvm.nest_fold import inner_loops, operand_pointers, outer_stage
from firepot.kernels.llvm.nest_plan import Plan, fold_aliases, invariant_bytes, plan_nest, stage_groups
from firepot.kernels.llvm.nest_stream import stream
from firepot.kernels.llvm.normalise import indices, normalise
from firepot.kernels.loops import CheckedIndex, Expr, Guard, Nest, Reduce, children

_SMALL = 1 << 14  # points below which one thread does the whole kernel,
_LITTLE_WORK = 1 << 18  # if these are its instructions, or less: what sending for the others costs
_TILE = 4096  # points of a map that one task takes
_LONG_TILE = 512  # the same, where a point takes many instructions
_FUNCTION = 20  # instructions of an exp, tanh or the like


def lower(nest: Nest, processor: Any) -> Kernel:
    """The kernel of a nest for a processor (runtime.processor.Processor)."""
    nest = normalise(nest)
    plan = plan_nest(nest, processor.vector_bytes // 4)
    key = f"nest {processor.vector_bytes} {describe(nest)}"
    points = math.prod(a.size for a in nest.axes) * max(
        (math.prod(a.size for a in s.axes) for s in nest.stages), default=1
    )
    phases = ("phase0", "phase1") if plan.chunks > 1 else ("phase0",)
    return Kernel(
        key=key,
        generate=lambda: _generate(plan),
        phases=phases,
        label=label(nest),
        workspace=workspace_bytes(plan),
        scratch=invariant_bytes(plan),
        parallel=points >= _SMALL or operations(nest, _FUNCTION) > _LITTLE_WORK,
        explicit=_affine(nest),
        flops=operations(nest),
        bytes=traffic(nest),
        aliases=fold_aliases(nest) if plan.folding else aliases(nest),
    )


def _affine(nest: Nest) -> bool:
    """Whether every position is a plain sum and nothing is guarded: LLVM has no conditions or divisions to hoist."""
    waiting: list[Expr] = [stage.value for stage in nest.stages]
    seen: set[int] = set()
    while waiting:
        expr = waiting.pop()
        if id(expr) not in seen:
            seen.add(id(expr))
            if isinstance(expr, (Guard, CheckedIndex)):
                return False
            waiting += children(expr)
    return all(isinstance(atom, Axis) for index in indices(nest) for atom, _ in index.terms)


def same_positions(kernel: Kernel, read: int, written: int) -> bool:
    """Whether the kernel may write operand `written` over operand `read`."""
    return (read, written) in kernel.aliases


def _generate(plan: Plan) -> str:
    module = Module("nest")
    if not plan.folding:
        with module.kernel("phase0") as b:
            _map(b, plan)
    elif plan.chunks == 1:
        with module.kernel("phase0") as b, _tasks(b, plan, 1) as (coordinates, vectors, _):
            _folding_body(b, plan, coordinates, vectors, None)
    elif plan.streamed:
        with module.kernel("phase0") as b:
            stream(b, plan)
        with module.kernel("phase1") as b, _tasks(b, plan, 1) as (coordinates, vectors, _):
            combine_chunks(b, plan, coordinates, vectors)
    else:
        with module.kernel("phase0") as b, _tasks(b, plan, plan.chunks) as (coordinates, vectors, chunk):
            _folding_body(b, plan, coordinates, vectors, chunk)
        with module.kernel("phase1") as b, _tasks(b, plan, 1) as (coordinates, vectors, _):
            combine_chunks(b, plan, coordinates, vectors)
    return str(module)


def _decode(b: Builder, number: Value, axes: Sequence[Axis]) -> dict[Axis, Value]:
    """Coordinates of a row-major number; also leaves nothing over for the first axis."""
    result: dict[Axis, Value] = {}
    for axis in reversed(axes[1:]):
        result[axis] = b.urem(number, axis.size)
        number = b.udiv(number, axis.size)
    if axes:
        result[axes[0]] = number
    return result


def _map(b: Builder, plan: Plan) -> None:
    others = plan.others
    rows = math.prod(a.size for a in others)
    pointers = operand_pointers(b, plan)
    if plan.along is None:
        start, stop = b.share(rows)
        with b.loop(start, stop) as task:
            scope = Scope(_decode(b, task, others))
            _body(b, pointers, plan, list(plan.nest.stages), [(scope, None)], {})
        return
    size, lanes = plan.along.size, plan.lanes
    points = rows * size
    most = _LONG_TILE if points < 16 * _TILE and operations(plan.nest, _FUNCTION) > _LITTLE_WORK else _TILE
    tile = size if rows >= 256 and size <= 4 * _TILE else min(size, max(lanes, most))
    tile = tile if tile == size else tile // lanes * lanes
    pieces = -(-size // tile)
    start, stop = b.share(rows * pieces)
    with b.loop(start, stop) as task:
        row, piece = b.udiv(task, pieces), b.urem(task, pieces)
        coordinates = _decode(b, row, others)
        low = b.mul(piece, tile)
        high = b.intrinsic("llvm.umin", "i64", b.add(low, tile), b.index(size))
        exact = tile % lanes == 0 and size % tile == 0
        whole = high if exact else b.sub(high, lanes - 1)
        outer = Scope(coordinates)
        position = b.variable("i64", low)
        with b.loop(low, whole, lanes) as v:
            scope = outer.inside({plan.along: v})
            _body(b, pointers, plan, list(plan.nest.stages), [(scope, None)], {})
            b.set(position, b.add(v, lanes))
        if not exact:
            v = b.get(position, "i64")
            remaining = b.sub(high, v)
            with b.when(b.compare("sgt", remaining, 0)):
                scope = outer.inside({plan.along: v})
                _body(b, pointers, plan, list(plan.nest.stages), [(scope, b.tail_mask(remaining, lanes))], {})


@contextmanager
def _tasks(b: Builder, plan: Plan, chunks: int) -> Iterator[Any]:
    """Loop over this thread's outer points: (coordinates, [(base, mask) of each vector], chunk number)."""
    others = plan.others
    rows = math.prod(a.size for a in others)
    if not plan.along_is_outer or plan.along is None:
        start, stop = b.share(rows * chunks)
        with b.loop(start, stop) as task:
            chunk = b.urem(task, chunks)
            yield _decode(b, b.udiv(task, chunks), others), None, chunk
        return
    step = plan.lanes * plan.unroll
    columns = -(-plan.along.size // step)
    start, stop = b.share(rows * columns * chunks)
    with b.loop(start, stop) as task:
        chunk = b.urem(task, chunks)
        place = b.udiv(task, chunks)
        column = b.urem(place, columns)
        coordinates = _decode(b, b.udiv(place, columns), others)
        vectors = []
        for u in range(plan.unroll):
            base = b.add(b.mul(column, step), u * plan.lanes)
            mask = None
            if plan.along.size % step:
                mask = b.tail_mask(b.sub(plan.along.size, base), plan.lanes)
            vectors.append((base, mask))
        yield coordinates, vectors, chunk


def _body(
    b: Builder, pointers: list[Value], plan: Plan, stages: list[Any], places: list[tuple[Scope, Value | None]],
    folds: dict[Reduce, Value], lanes: int | None = None,
) -> None:  # fmt: skip
    """Stores at one vector of points. All values are computed before the first is written."""
    for scope, tail in places:
        evaluator = Evaluator(b, pointers, plan.along, lanes or plan.lanes, tail, scope, folds)
        for stage in stages:
            (evaluator.vector if evaluator.lanes > 1 else evaluator.expr)(stage.value)
        for stage in stages:
            evaluator.store(stage.operand, stage.offset, stage.value, plan.nest.operands[stage.operand][0])


def _folding_body(
    b: Builder, plan: Plan, coordinates: dict[Axis, Value], vectors: list[tuple[Value, Value | None]] | None,
    chunk: Value | None,
) -> None:  # fmt: skip
    """All stages at one outer point (or one vector of them); of a cut fold, one chunk of the first group."""
    pointers = operand_pointers(b, plan)
    if vectors is None:
        places: list[tuple[Scope, Value | None]] = [(Scope(coordinates), None)]
    else:
        assert plan.along is not None
        places = [(Scope({**coordinates, plan.along: base}), mask) for base, mask in vectors]
    folds: list[dict[Reduce, Value]] = [{} for _ in places]
    groups = stage_groups(plan.nest)
    for number, group in enumerate(groups):
        if chunk is not None and number > 0:
            break
        if not group[0].axes:
            outer_stage(b, pointers, plan, group, places, folds, vectors is None)
            continue
        inner_loops(b, pointers, plan, group, places, folds, chunk, vectors is None)
    if chunk is not None:
        store_partials(b, plan, coordinates, vectors, chunk, groups[0], folds)
