"""How a loop nest is turned into loops: the vectorised axis, parts of long folds, which stages run in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from firepot.graph.index import Axis, Index
from firepot.kernels.llvm.nest_description import aliases, loads
from firepot.kernels.loops import Expr, Nest, Op, Reduce, Reduced, Store, children

_CHUNKS = 64  # parts that a long fold is cut into, whatever the number of threads
_MOST_CHUNKS = 1024
_SHORTEST = 32  # terms of each fold that a chunk has at least
BLOCK = 128  # terms that a floating sum adds up before it adds the block's sum to the total
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


def plan_nest(nest: Nest, widest: int) -> Plan:
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
    groups = stage_groups(nest)
    if folding and groups[0][0].axes and all(not s.axes for g in groups[1:] for s in g):
        side = lanes * unroll if outer else 1  # neighbouring folds that one task makes
        tasks = math.prod(a.size for a in nest.axes)
        if outer and along is not None:
            tasks = tasks // along.size * -(-along.size // side)
        loops = inner_order(groups[0][0].axes, along)
        terms = math.prod(a.size for a in loops)
        if outer and along is not None and nest.axes == (along,) and along.size % lanes == 0:
            # A row of columns lies together in memory: taken a few columns at a time, each line would be waited for
            # alone.
            streamed = 2 * side <= along.size <= _WIDEST_ROW and terms >= 2 * _SHORTEST
        if streamed:  # short parts, for the accuracy of their sums
            chunks = max(min(_CHUNKS, terms // _SHORTEST), min(_MOST_CHUNKS, terms // (4 * BLOCK)))
        elif tasks < 16 and terms * side >= 1 << 15:
            chunks = max(1, min(_CHUNKS, terms * side // 4096, terms // _SHORTEST))
        chunks = max(1, min(chunks, loops[0].size))  # an empty sum is one part
        streamed &= chunks > 1
    return Plan(nest, along, lanes, unroll, folding, outer, chunks, streamed)


def inner_order(axes: tuple[Axis, ...], along: Axis | None) -> tuple[Axis, ...]:
    """Inner loops with the vectorised axis last."""
    return (*(a for a in axes if a != along), *(a for a in axes if a == along))


def stage_groups(nest: Nest) -> list[list[Any]]:
    """Stages that run in one pass: the same inner axes, none using another's fold."""
    groups: list[list[Any]] = []
    for stage in nest.stages:
        if groups and groups[-1][0].axes == stage.axes:
            folds = {id(s) for s in groups[-1] if isinstance(s, Reduce)}
            if not reads_fold(stage.value, folds, set()):
                groups[-1].append(stage)
                continue
        groups.append([stage])
    return groups


def reads_fold(expr: Expr, folds: set[int], seen: set[int]) -> bool:
    if id(expr) in seen:
        return False
    seen.add(id(expr))
    if isinstance(expr, Reduced):
        return id(expr.stage) in folds
    return any(reads_fold(a, folds, seen) for a in children(expr))


def _accesses(nest: Nest) -> list[Index]:
    """Offsets of loads and stores, once per access."""
    found = [load.offset for load in loads(nest)]
    for stage in nest.stages:
        if isinstance(stage, Store):
            found += [stage.offset, stage.offset]
    return found


def column_invariants(plan: Plan) -> list[Expr]:
    """The largest sub-expressions that vary from column to column only, but for plain loads and comparisons."""
    if not plan.streamed:
        return []
    group = stage_groups(plan.nest)[0]
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


def invariant_bytes(plan: Plan) -> int:
    """Scratch of a thread: eight bytes for each invariant of each column."""
    assert plan.along is not None or not plan.streamed
    return len(column_invariants(plan)) * plan.along.size * 8 if plan.streamed and plan.along is not None else 0


def fold_aliases(nest: Nest) -> frozenset[tuple[int, int]]:
    """The same of a nest that folds: no pass over the points that comes after the one that writes may read either.

    Of the stages of one pass, all values of a point are computed before the first is written; stages without loops
    of their own come one after the other.
    """
    later: dict[int, set[int]] = {}  # stage of a store -> operands that are loaded after it
    groups = stage_groups(nest)
    passes = [part for g in groups for part in ([g] if g[0].axes else [[stage] for stage in g])]
    read: set[int] = set()
    for group in reversed(passes):
        later.update((stage.operand, read) for stage in group if isinstance(stage, Store))
        read = read | {load.operand for load in loads(Nest(nest.axes, tuple(group), nest.operands))}
    return frozenset((r, w) for r, w in aliases(nest) if r not in later[w])
