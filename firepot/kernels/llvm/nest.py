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
from dataclasses import dataclass, replace
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.index import Axis, Computed, Index
from firepot.kernels.kernel import Kernel
from firepot.kernels.llvm.builder import Builder, Module, Value, vector
from firepot.kernels.llvm.expression import Evaluator, Scope, from_memory, memory_type, register_type, to_memory
from firepot.kernels.llvm.normalise import indices, normalise
from firepot.kernels.loops import (
    CheckedIndex,
    Const,
    Expr,
    Finished,
    Guard,
    Load,
    Nest,
    Op,
    Position,
    Reduce,
    Reduced,
    Store,
    children,
)

_SMALL = 1 << 14  # points below which one thread does the whole kernel
_CHUNKS = 64  # parts that a long fold is cut into, whatever the number of threads
_MOST_CHUNKS = 1024
_SHORTEST = 32  # terms of each fold that a chunk has at least
_BLOCK = 128  # terms that a floating sum adds up before it adds the block's sum to the total
_TILE = 4096  # points of a map that one task takes
_WIDEST_ROW = 4096  # columns whose sums stay in the first cache


@dataclass(frozen=True)
class Plan:
    """How a nest is turned into loops."""

    nest: Nest
    along: Axis | None  # the axis that lanes run along
    lanes: int
    unroll: int  # vectors side by side (columns)
    folding: bool
    along_is_outer: bool
    chunks: int  # parts of the outermost folded axis; 1: not cut
    streamed: bool = False  # columns in one sweep over memory: sums wait in the cache, not in registers

    @property
    def others(self) -> tuple[Axis, ...]:
        """Outer axes but for the vectorised one."""
        return tuple(a for a in self.nest.axes if not (self.along_is_outer and a == self.along))


def lower(nest: Nest, processor: Any) -> Kernel:
    """The kernel of a nest for a processor (runtime.processor.Processor)."""
    nest = _stores_last(normalise(nest))
    plan = _plan(nest, processor.vector_bytes // 4)
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
        workspace=_workspace(plan),
        scratch=_invariant_bytes(plan),
        parallel=points >= _SMALL,
        explicit=_affine(nest),
        flops=operations(nest),
        bytes=traffic(nest),
        aliases=_fold_aliases(nest) if plan.folding else aliases(nest),
    )


def _stores_last(nest: Nest) -> Nest:
    """Stores that have no loops of their own after all else, where they part no passes over the same points."""
    last = [s for s in nest.stages if isinstance(s, Store) and not s.axes]
    first = [s for s in nest.stages if not (isinstance(s, Store) and not s.axes)]
    return replace(nest, stages=(*first, *last))


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


# -- planning --------------------------------------------------------------------------------------------------------


def _plan(nest: Nest, widest: int) -> Plan:
    inner: list[Axis] = []
    for stage in nest.stages:
        inner += [a for a in stage.axes if a not in inner]
    score: dict[Axis, float] = dict.fromkeys([*nest.axes, *inner], 0.0)
    turns = math.prod(a.size for a in inner)
    for place in _accesses(nest):
        # What does not vary in the inner loops is touched once a fold.
        weight = 1 if not inner or any(a in inner for a, _ in place.terms) else 1 / max(1, turns)
        for atom, coefficient in place.terms:
            if isinstance(atom, Axis) and coefficient == 1 and atom in score:
                score[atom] += weight
    folding = any(isinstance(s, Reduce) for s in nest.stages)
    along: Axis | None = None
    best = 0.0
    for axis in [*nest.axes, *inner]:
        value = score[axis] * min(axis.size, widest) / widest
        if value >= best and value > 0:
            along, best = axis, value
    if along is None and nest.axes and not folding:
        along = nest.axes[-1]
    lanes = 1
    if along is not None:
        lanes = min(widest, 1 << (along.size - 1).bit_length())
    outer = along in nest.axes
    unroll = 1
    if folding and outer and along is not None:
        for count in (4, 3, 2):
            if along.size % (count * lanes) == 0:
                unroll = count
                break
    chunks, streamed = 1, False
    groups = _stage_groups(nest)
    if folding and groups[0][0].axes and all(not s.axes for g in groups[1:] for s in g):
        side = lanes * unroll if outer else 1  # neighbouring folds that one task makes
        tasks = math.prod(a.size for a in nest.axes)
        if outer and along is not None:
            tasks = tasks // along.size * -(-along.size // side)
        loops = _inner_order(groups[0][0].axes, along)
        terms = math.prod(a.size for a in loops)
        if outer and along is not None and nest.axes == (along,) and along.size % lanes == 0:
            # A row of columns lies together in memory: taken a few columns at a time, each line would be waited for
            # alone.
            streamed = 2 * side <= along.size <= _WIDEST_ROW and terms >= 2 * _SHORTEST
        if streamed:  # short parts, for the accuracy of their sums
            chunks = max(min(_CHUNKS, terms // _SHORTEST), min(_MOST_CHUNKS, terms // (4 * _BLOCK)))
        elif tasks < 16 and terms * side >= 1 << 15:
            chunks = max(1, min(_CHUNKS, terms * side // 4096, terms // _SHORTEST))
        chunks = max(1, min(chunks, loops[0].size))  # an empty sum is one part
        streamed &= chunks > 1
    return Plan(nest, along, lanes, unroll, folding, outer, chunks, streamed)


def _inner_order(axes: tuple[Axis, ...], along: Axis | None) -> tuple[Axis, ...]:
    """Inner loops with the vectorised axis last."""
    return (*(a for a in axes if a != along), *(a for a in axes if a == along))


def _stage_groups(nest: Nest) -> list[list[Any]]:
    """Stages that run in one pass: the same inner axes, none using another's fold."""
    groups: list[list[Any]] = []
    for stage in nest.stages:
        if groups and groups[-1][0].axes == stage.axes:
            folds = {id(s) for s in groups[-1] if isinstance(s, Reduce)}
            if not _reads_fold(stage.value, folds, set()):
                groups[-1].append(stage)
                continue
        groups.append([stage])
    return groups


def _reads_fold(expr: Expr, folds: set[int], seen: set[int]) -> bool:
    if id(expr) in seen:
        return False
    seen.add(id(expr))
    if isinstance(expr, Reduced):
        return id(expr.stage) in folds
    return any(_reads_fold(a, folds, seen) for a in children(expr))


def _accesses(nest: Nest) -> list[Index]:
    """Offsets of loads and stores, once per access."""
    found = [load.offset for load in loads(nest)]
    for stage in nest.stages:
        if isinstance(stage, Store):
            found += [stage.offset, stage.offset]
    return found


# -- code ------------------------------------------------------------------------------------------------------------


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
            _stream(b, plan)
        with module.kernel("phase1") as b, _tasks(b, plan, 1) as (coordinates, vectors, _):
            _combine_chunks(b, plan, coordinates, vectors)
    else:
        with module.kernel("phase0") as b, _tasks(b, plan, plan.chunks) as (coordinates, vectors, chunk):
            _folding_body(b, plan, coordinates, vectors, chunk)
        with module.kernel("phase1") as b, _tasks(b, plan, 1) as (coordinates, vectors, _):
            _combine_chunks(b, plan, coordinates, vectors)
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


def _pointers(b: Builder, plan: Plan) -> list[Value]:
    return [b.operand(i) for i in range(len(plan.nest.operands))]


def _map(b: Builder, plan: Plan) -> None:
    others = plan.others
    rows = math.prod(a.size for a in others)
    pointers = _pointers(b, plan)
    if plan.along is None:
        start, stop = b.share(rows)
        with b.loop(start, stop) as task:
            scope = Scope(_decode(b, task, others))
            _body(b, pointers, plan, list(plan.nest.stages), [(scope, None)], {})
        return
    size, lanes = plan.along.size, plan.lanes
    tile = size if rows >= 256 and size <= 4 * _TILE else min(size, max(lanes, _TILE))
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


def _combine(b: Builder, combine: str, dtype: DType, x: Value, y: Value) -> Value:
    from firepot.kernels.llvm import arithmetic

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
        x = _combine(b, combine, dtype, low, high)
        lanes = half
    return x


def _folding_body(
    b: Builder, plan: Plan, coordinates: dict[Axis, Value], vectors: list[tuple[Value, Value | None]] | None,
    chunk: Value | None,
) -> None:  # fmt: skip
    """All stages at one outer point (or one vector of them); of a cut fold, one chunk of the first group."""
    pointers = _pointers(b, plan)
    if vectors is None:
        places: list[tuple[Scope, Value | None]] = [(Scope(coordinates), None)]
    else:
        assert plan.along is not None
        places = [(Scope({**coordinates, plan.along: base}), mask) for base, mask in vectors]
    folds: list[dict[Reduce, Value]] = [{} for _ in places]
    groups = _stage_groups(plan.nest)
    for number, group in enumerate(groups):
        if chunk is not None and number > 0:
            break
        if not group[0].axes:
            _outer_stage(b, pointers, plan, group, places, folds, vectors is None)
            continue
        _inner_loops(b, pointers, plan, group, places, folds, chunk, vectors is None)
    if chunk is not None:
        _store_partials(b, plan, coordinates, vectors, chunk, groups[0], folds)


def _outer_stage(
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


def _inner_loops(
    b: Builder, pointers: list[Value], plan: Plan, group: list[Any], places: list[tuple[Scope, Value | None]],
    folds: list[dict[Reduce, Value]], chunk: Value | None, rows: bool,
) -> None:  # fmt: skip
    """One pass over the inner axes: folds accumulate, stores write."""
    loops = _inner_order(group[0].axes, plan.along if rows else None)
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
            _hoist(evaluator, stage.value, set(loops))

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
                    b.set(slot, _combine(b, stage.combine, stage.dtype, before, value))
                else:
                    evaluator.store(stage.operand, stage.offset, stage.value, plan.nest.operands[stage.operand][0])

    def end_block() -> None:
        for own, total in zip(accumulators, totals, strict=True):
            for r, slot in total.items():
                type = vector(register_type(r.dtype), lanes)
                b.set(slot, _combine(b, "sum", r.dtype, b.get(slot, type), b.get(own[r], type)))
                b.set(own[r], b.constant(0.0, type))

    def innermost(axis: Axis, low: Value | int, high: Value, coordinates: dict[Axis, Value], step: int) -> Value:
        """The last loop over whole vectors, in blocks where sums want them; where it ended."""
        position = b.variable("i64", b.index(low))

        def run(first: Value | int, stop: Value) -> None:
            with b.loop(first, stop, step) as i:
                body({**coordinates, axis: i}, None)
                b.set(position, b.add(i, step))

        if block_level == len(loops):
            with b.loop(low, high, _BLOCK * step) as first:
                run(first, b.intrinsic("llvm.smin", "i64", b.add(first, _BLOCK * step), high))
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
    if math.prod(trips) <= 2 * _BLOCK:
        return None
    if trips[-1] > 2 * _BLOCK:
        return len(loops)
    within = 1
    for level in range(len(loops) - 1, 0, -1):
        within *= trips[level]
        if within >= _BLOCK // 2:
            return level - 1
    return None


def _stream(b: Builder, plan: Plan) -> None:
    """The chunks of a fold over columns: every position's columns in a row, sums in the chunk's partial results."""
    assert plan.along is not None
    pointers = _pointers(b, plan)
    group = _stage_groups(plan.nest)[0]
    reduces, offsets, _ = _partial_layout(plan)
    invariants = _invariants(plan)
    loops = _inner_order(group[0].axes, None)
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
                    after = _combine(b, stage.combine, stage.dtype, before, value)
                    b.store(to_memory(b, after, stage.dtype), place)

        descend(0, {})


def _invariants(plan: Plan) -> list[Expr]:
    """The largest sub-expressions that vary from column to column only, but for plain loads and comparisons."""
    if not plan.streamed:
        return []
    group = _stage_groups(plan.nest)[0]
    inner = set(group[0].axes)
    found: list[Expr] = []
    seen: set[int] = set()

    def walk(expr: Expr) -> None:
        if id(expr) in seen:
            return
        seen.add(id(expr))
        if isinstance(expr, Op) and not (expr.axes() & inner):
            if expr.dtype.kind in "fiu" and plan.along in expr.axes() and expr not in found:
                found.append(expr)
            return
        if isinstance(expr, Op):
            for a in expr.args:
                walk(a)

    for stage in group:
        walk(stage.value)
    return found


def _invariant_bytes(plan: Plan) -> int:
    """Scratch of a thread: eight bytes for each invariant of each column."""
    assert plan.along is not None or not plan.streamed
    return len(_invariants(plan)) * plan.along.size * 8 if plan.streamed and plan.along is not None else 0


def _hoist(evaluator: Evaluator, expr: Expr, inner: set[Axis]) -> None:
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
            _hoist(evaluator, a, inner)


# -- folds cut into chunks -------------------------------------------------------------------------------------------


def _partial_layout(plan: Plan) -> tuple[list[Reduce], list[int], int]:
    """(folds, byte offset of each one's partial results, bytes in all)."""
    reduces = [s for s in _stage_groups(plan.nest)[0] if isinstance(s, Reduce)]
    points = math.prod(a.size for a in plan.nest.axes)
    offsets = []
    total = 0
    for r in reduces:
        offsets.append(total)
        total += -(-points * plan.chunks * r.dtype.size // 64) * 64
    return reduces, offsets, total


def _workspace(plan: Plan) -> int:
    return _partial_layout(plan)[2] if plan.chunks > 1 else 0


def _point_number(b: Builder, plan: Plan, coordinates: dict[Axis, Value], base: Value | None) -> Value:
    """The row-major number of an outer point, the vectorised axis last."""
    number = b.index(0)
    for axis in plan.others:
        number = b.add(b.mul(number, axis.size), coordinates[axis])
    if base is not None and plan.along is not None:
        number = b.add(b.mul(number, plan.along.size), base)
    return number


def _store_partials(
    b: Builder, plan: Plan, coordinates: dict[Axis, Value], vectors: list[tuple[Value, Value | None]] | None,
    chunk: Value, group: list[Any], folds: list[dict[Reduce, Value]],
) -> None:  # fmt: skip
    reduces, offsets, _ = _partial_layout(plan)
    points = math.prod(a.size for a in plan.nest.axes)
    workspace = b.operand(len(plan.nest.operands))
    for u, found in enumerate(folds):
        base, mask = vectors[u] if vectors is not None else (None, None)
        number = b.add(b.mul(chunk, points), _point_number(b, plan, coordinates, base))
        for r, offset in zip(reduces, offsets, strict=True):
            value = to_memory(b, found[r], r.dtype)
            address = b.element(b.offset(workspace, offset), memory_type(r.dtype), number)
            if mask is None:
                b.store(value, address)
            else:
                b.masked_store(value, address, mask)


def _combine_chunks(
    b: Builder, plan: Plan, coordinates: dict[Axis, Value], vectors: list[tuple[Value, Value | None]] | None
) -> None:
    """Second phase: fold the partial results in the order of the chunks, then run the stages that follow."""
    reduces, offsets, _ = _partial_layout(plan)
    points = math.prod(a.size for a in plan.nest.axes)
    pointers = _pointers(b, plan)
    workspace = b.operand(len(plan.nest.operands))
    lanes = 1 if vectors is None else plan.lanes
    places = vectors if vectors is not None else [(None, None)]
    for base, mask in places:
        number = _point_number(b, plan, coordinates, base)
        found: dict[Reduce, Value] = {}
        slots = {}
        for r in reduces:
            type = vector(register_type(r.dtype), lanes)
            slots[r] = b.variable(type, b.constant(fold_identity(r.combine, r.dtype), type))
        with b.loop(0, plan.chunks) as chunk:
            place = b.add(b.mul(chunk, points), number)
            for r, offset in zip(reduces, offsets, strict=True):
                address = b.element(b.offset(workspace, offset), memory_type(r.dtype), place)
                type = vector(memory_type(r.dtype), lanes)
                raw = b.load(address, type) if mask is None else b.masked_load(address, type, mask)
                value = from_memory(b, raw, r.dtype)
                b.set(slots[r], _combine(b, r.combine, r.dtype, b.get(slots[r], value.type), value))
        for r in reduces:
            found[r] = b.get(slots[r], vector(register_type(r.dtype), lanes))
        scope = Scope(coordinates if base is None or plan.along is None else {**coordinates, plan.along: base})
        for group in _stage_groups(plan.nest)[1:]:
            _outer_stage(b, pointers, plan, group, [(scope, mask)], [found], vectors is None)


# -- description -----------------------------------------------------------------------------------------------------


def describe(nest: Nest) -> str:
    """The nest as text; equal texts mean equal code."""
    numbers: dict[int, int] = {}
    lines: list[str] = []
    folds: dict[int, int] = {}

    def place(index: Index) -> str:
        parts = [str(index.constant)]
        for atom, coefficient in index.terms:
            if isinstance(atom, Axis):
                text = f"{atom.name}:{atom.size}"
            elif isinstance(atom, Computed):
                text = f"[{walk(atom.value)}:{atom.size}]"
            else:
                text = f"{type(atom).__name__[0]}({place(atom.value)},{atom.divisor})"
            parts.append(f"{coefficient}*{text}")
        return "+".join(parts)

    def walk(expr: Expr) -> int:
        found = numbers.get(id(expr))
        if found is not None:
            return found
        if isinstance(expr, Const):
            text = f"{expr.value!r}"
        elif isinstance(expr, Load):
            text = f"load {expr.operand} {place(expr.offset)}"
        elif isinstance(expr, Position):
            text = f"at {place(expr.index)}"
        elif isinstance(expr, Op):
            text = f"{expr.name} {[walk(a) for a in expr.args]}"
        elif isinstance(expr, Guard):
            conditions = [f"{place(i)}<{s}" for i, s in expr.conditions]
            text = f"guard {conditions} {walk(expr.value)} {walk(expr.fill)}"
        elif isinstance(expr, CheckedIndex):
            text = f"check {walk(expr.value)} {expr.size} {expr.site}"
        elif isinstance(expr, Finished):
            text = "finished"
        else:
            assert isinstance(expr, Reduced)
            text = f"fold {folds[id(expr.stage)]}"
        numbers[id(expr)] = len(lines)
        lines.append(f"{text}:{expr.dtype.name}")
        return numbers[id(expr)]

    stages = []
    for i, stage in enumerate(nest.stages):
        value = walk(stage.value)
        axes = [f"{a.name}:{a.size}" for a in stage.axes]
        if isinstance(stage, Reduce):
            folds[id(stage)] = i
            stages.append(f"{stage.combine} {value} {axes} {stage.dtype.name}")
        else:
            stages.append(f"store {stage.operand} {place(stage.offset)} {value} {axes}")
    loops = [f"{a.name}:{a.size}" for a in nest.axes]
    operands = [d.name for d, _ in nest.operands]
    return "\n".join([f"{loops} {operands}", *lines, *stages])


def label(nest: Nest) -> str:
    names: list[str] = []
    seen: set[int] = set()

    def walk(expr: Expr) -> None:
        if id(expr) in seen:
            return
        seen.add(id(expr))
        for a in children(expr):
            walk(a)
        if isinstance(expr, Op) and expr.name not in names:
            names.append(expr.name)

    for stage in nest.stages:
        walk(stage.value)
    folds = [s.combine for s in nest.stages if isinstance(s, Reduce)]
    inside = ",".join(names[:5] + (["…"] if len(names) > 5 else []))
    return f"reduce[{','.join(folds)}]({inside})" if folds else f"map({inside or 'copy'})"


def operations(nest: Nest) -> int:
    """Floating-point operations: each once for every point of the axes that its value varies over."""
    outer = math.prod(a.size for a in nest.axes)
    total = 0
    seen: set[int] = set()

    def walk(expr: Expr) -> None:
        nonlocal total
        if id(expr) in seen:
            return
        seen.add(id(expr))
        if isinstance(expr, Op) and expr.name not in _NO_ARITHMETIC and any(a.dtype.kind == "f" for a in expr.args):
            total += math.prod(a.size for a in expr.axes())
        for child in children(expr):
            walk(child)

    for stage in nest.stages:
        walk(stage.value)
        if isinstance(stage, Reduce) and stage.dtype.kind == "f":
            total += outer * math.prod(a.size for a in stage.axes)
    return total


_NO_ARITHMETIC = frozenset(("cast", "bitcast", "where"))


def traffic(nest: Nest) -> int:
    """Bytes of the elements that are read and written, each once: what must be moved if caches held everything."""
    places: dict[tuple[int, bool], set[Index]] = {}
    seen: set[int] = set()

    def walk(expr: Expr) -> None:
        if id(expr) in seen:
            return
        seen.add(id(expr))
        if isinstance(expr, Load):
            places.setdefault((expr.operand, False), set()).add(expr.offset)
        for child in children(expr):
            walk(child)

    for stage in nest.stages:
        walk(stage.value)
        if isinstance(stage, Store):
            places.setdefault((stage.operand, True), set()).add(stage.offset)
    total = 0
    for (operand, _), offsets in places.items():
        dtype, size = nest.operands[operand]
        total += dtype.size * min(size, sum(math.prod(a.size for a in offset.axes()) for offset in offsets))
    return total


def aliases(nest: Nest) -> frozenset[tuple[int, int]]:
    """(read, written) operands of a map that are only touched at equal positions."""
    places: dict[int, set[Index]] = {}
    for load in loads(nest):
        places.setdefault(load.operand, set()).add(load.offset)
    pairs = set()
    for stage in nest.stages:
        if isinstance(stage, Store):
            for operand, offsets in places.items():
                if offsets == {stage.offset}:
                    pairs.add((operand, stage.operand))
    return frozenset(pairs)


def _fold_aliases(nest: Nest) -> frozenset[tuple[int, int]]:
    """The same of a nest that folds: no pass over the points that comes after the one that writes may read either.

    Of the stages of one pass, all values of a point are computed before the first is written; stages without loops
    of their own come one after the other.
    """
    later: dict[int, set[int]] = {}  # stage of a store -> operands that are loaded after it
    groups = _stage_groups(nest)
    passes = [part for g in groups for part in ([g] if g[0].axes else [[stage] for stage in g])]
    read: set[int] = set()
    for group in reversed(passes):
        later.update((stage.operand, read) for stage in group if isinstance(stage, Store))
        read = read | {load.operand for load in loads(Nest(nest.axes, tuple(group), nest.operands))}
    return frozenset((r, w) for r, w in aliases(nest) if r not in later[w])


def loads(nest: Nest) -> list[Load]:
    """Every load of the nest, a shared one once."""
    found: list[Load] = []
    seen: set[int] = set()

    def walk(expr: Expr) -> None:
        if id(expr) in seen:
            return
        seen.add(id(expr))
        if isinstance(expr, Load):
            found.append(expr)
        for a in children(expr):
            walk(a)

    for stage in nest.stages:
        walk(stage.value)
    return found


__all__ = [
    "Plan", "aliases", "describe", "indices", "label", "loads", "lower", "operations", "same_positions", "traffic",
]  # fmt: skip
