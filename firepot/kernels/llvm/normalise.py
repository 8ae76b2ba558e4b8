"""Rewriting of loop nests before code is written: fewer, longer loops and affine positions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

from firepot.graph.index import Atom, Axis, Computed, Index, Quotient, Remainder
from firepot.kernels.loops import (
    CheckedIndex,
    Expr,
    Guard,
    Load,
    Nest,
    Op,
    Position,
    Reduce,
    Reduced,
    Stage,
    Store,
    children,
)


def indices(nest: Nest) -> list[Index]:
    """Every position in the nest, those inside run-time integers too."""
    found: dict[Index, None] = {}
    seen: set[int] = set()

    def add(index: Index) -> None:
        if index in found:
            return
        found[index] = None
        for atom, _ in index.terms:
            if isinstance(atom, Computed):
                walk(atom.value)
            elif not isinstance(atom, Axis):
                inner(atom.value)

    def inner(index: Index) -> None:
        for atom, _ in index.terms:
            if isinstance(atom, Computed):
                walk(atom.value)
            elif not isinstance(atom, Axis):
                inner(atom.value)

    def walk(expr: Expr) -> None:
        if id(expr) in seen:
            return
        seen.add(id(expr))
        if isinstance(expr, Load):
            add(expr.offset)
        elif isinstance(expr, Position):
            add(expr.index)
        elif isinstance(expr, Guard):
            for index, _ in expr.conditions:
                add(index)
            walk(expr.value)
            walk(expr.fill)
        elif isinstance(expr, Op):
            for a in expr.args:
                walk(a)
        elif isinstance(expr, CheckedIndex):
            walk(expr.value)

    for stage in nest.stages:
        walk(stage.value)
        if isinstance(stage, Store):
            add(stage.offset)
    return list(found)


def substitute(
    nest: Nest, replace_axis: dict[Axis, Index], axes: Callable[[tuple[Axis, ...]], tuple[Axis, ...]],
    moved: Mapping[int, int] | None = None,
) -> Nest:  # fmt: skip
    """The same nest over other axes: each replaced axis is the Index given; `axes` rewrites the lists of loops.

    `moved`: by operand, the elements by which its address has moved up.
    """
    moved = moved or {}
    memo: dict[int, Expr] = {}
    keep: list[Expr] = []
    stages: dict[int, Reduce] = {}

    def at(index: Index) -> Index:
        def new(atom: Atom) -> Index | None:
            if isinstance(atom, Axis):
                return replace_axis.get(atom)
            if isinstance(atom, Computed):
                return Index.of(Computed(walk(atom.value), atom.size))
            return None

        return index.substitute(new)

    def walk(expr: Expr) -> Expr:
        found = memo.get(id(expr))
        if found is None:
            found = rebuild(expr)
            memo[id(expr)] = found
            keep.append(expr)
        return found

    def rebuild(expr: Expr) -> Expr:
        if isinstance(expr, Load):
            return Load(expr.operand, at(expr.offset) - moved.get(expr.operand, 0), expr.dtype)
        if isinstance(expr, Position):
            return Position(at(expr.index), expr.dtype)
        if isinstance(expr, Guard):
            conditions = tuple((at(i), s) for i, s in expr.conditions)
            return Guard(conditions, walk(expr.value), walk(expr.fill), expr.dtype)
        if isinstance(expr, Op):
            return Op(expr.name, tuple(walk(a) for a in expr.args), expr.dtype)
        if isinstance(expr, CheckedIndex):
            return CheckedIndex(walk(expr.value), expr.size, expr.site, expr.dtype)
        if isinstance(expr, Reduced):
            return Reduced(stages[id(expr.stage)], expr.dtype)
        return expr

    result: list[Stage] = []
    for stage in nest.stages:
        if isinstance(stage, Reduce):
            new = replace(stage, value=walk(stage.value), axes=axes(stage.axes))
            stages[id(stage)] = new
            result.append(new)
        else:
            place = at(stage.offset) - moved.get(stage.operand, 0)
            result.append(Store(stage.operand, place, walk(stage.value), axes(stage.axes)))
    operands = tuple((dtype, length - moved.get(i, 0)) for i, (dtype, length) in enumerate(nest.operands))
    return Nest(axes(nest.axes), tuple(result), operands)


def normalise(nest: Nest) -> Nest:
    """Drop loops of one iteration, split axes under quotients and remainders, join what is contiguous, and bring
    together the stages that can share one pass over the inner axes."""
    nest = _without_ones(nest)
    for _ in range(8):
        split = _splittable(nest)
        if split is None:
            break
        nest = _split(nest, *split)
    return _by_pass(_collapse(nest))


def _by_pass(nest: Nest) -> Nest:
    """Stages in the order of the folds that they wait for: all that read none first, so that one pass makes them."""
    depth: dict[Stage, int] = {}  # how many folds, one after the other, a stage waits for

    def waits(expr: Expr, seen: set[int]) -> int:
        if id(expr) in seen:
            return 0
        seen.add(id(expr))
        if isinstance(expr, Reduced):
            return depth[expr.stage] + 1
        return max((waits(part, seen) for part in children(expr)), default=0)

    for stage in nest.stages:
        depth[stage] = waits(stage.value, set())

    def turn(stage: Stage) -> int:
        return 2 * depth[stage] if stage.axes else max(2 * depth[stage] - 1, 1)

    return Nest(nest.axes, tuple(sorted(nest.stages, key=turn)), nest.operands)


def _without_ones(nest: Nest) -> Nest:
    if all(a.size != 1 for axes in (nest.axes, *(s.axes for s in nest.stages)) for a in axes):
        return nest

    def drop(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(a for a in axes if a.size != 1)

    return substitute(nest, {}, drop)


def _splittable(nest: Nest) -> tuple[Axis, int] | None:
    """An axis and a divisor of its size that make a quotient or remainder affine."""

    def look(index: Index) -> tuple[Axis, int] | None:
        for atom, _ in index.terms:
            if isinstance(atom, (Quotient, Remainder)):
                for inner, coefficient in atom.value.terms:
                    if isinstance(inner, Axis):
                        c = abs(coefficient)
                        if atom.divisor % c == 0:
                            part = atom.divisor // c
                            if 1 < part < inner.size and inner.size % part == 0:
                                return inner, part
                found = look(atom.value)
                if found is not None:
                    return found
        return None

    for index in indices(nest):
        found = look(index)
        if found is not None:
            return found
    return None


def _split(nest: Nest, axis: Axis, part: int) -> Nest:
    outer = Axis(axis.name + "o", axis.size // part)
    inner = Axis(axis.name + "i", part)

    def loops(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        result: list[Axis] = []
        for a in axes:
            result += [outer, inner] if a == axis else [a]
        return tuple(result)

    return substitute(nest, {axis: Index.of(outer) * part + Index.of(inner)}, loops)


def _collapse(nest: Nest) -> Nest:
    """Join neighbouring loops that every position walks as one."""
    joined = True
    while joined:
        joined = False
        places = indices(nest)
        lists = {nest.axes} | {s.axes for s in nest.stages if s.axes}
        for loops in lists:
            for a, c in itertools.pairwise(loops):
                if all((a in other) == (c in other) for other in lists) and _walks_as_one(places, a, c):
                    whole = Axis(a.name + c.name, a.size * c.size)
                    nest = _join(nest, a, c, whole)
                    joined = True
                    break
            if joined:
                break
    return nest


def _walks_as_one(places: list[Index], a: Axis, c: Axis) -> bool:
    for index in places:
        if index.coefficient(a) != index.coefficient(c) * c.size:
            return False
        for atom, _ in index.terms:
            if isinstance(atom, (Quotient, Remainder)) and {a, c} & atom.value.axes():
                return False
    return True


def _join(nest: Nest, a: Axis, c: Axis, whole: Axis) -> Nest:
    # Where both occur as a·(k·size) + c·k the sum is whole·k: put it in c's place and drop a.
    def loops(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(whole if x == c else x for x in axes if x != a)

    return substitute(nest, {a: Index(), c: Index.of(whole)}, loops)
