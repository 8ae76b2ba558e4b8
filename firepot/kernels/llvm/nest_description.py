"""What a loop nest is, for keys, labels and counts: its text, operations, bytes, and operands touched alike."""

from __future__ import annotations

import math

from firepot.graph.index import Axis, Computed, Index
from firepot.kernels.llvm.math import FUNCTIONS
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


def _expressions(nest: Nest) -> list[Expr]:
    """Every expression of the nest, a shared one once, after those that it is made of."""
    found: list[Expr] = []
    seen: set[int] = set()

    def walk(expr: Expr) -> None:
        if id(expr) in seen:
            return
        seen.add(id(expr))
        for a in children(expr):
            walk(a)
        found.append(expr)

    for stage in nest.stages:
        walk(stage.value)
    return found


def label(nest: Nest) -> str:
    names = list(dict.fromkeys(e.name for e in _expressions(nest) if isinstance(e, Op)))
    folds = [s.combine for s in nest.stages if isinstance(s, Reduce)]
    inside = ",".join(names[:5] + (["…"] if len(names) > 5 else []))
    return f"reduce[{','.join(folds)}]({inside})" if folds else f"map({inside or 'copy'})"


def operations(nest: Nest, function: int = 1) -> int:
    """Floating-point operations: each once for every point of the axes that its value varies over.

    `function`: for how many a function such as exp counts.
    """
    outer = math.prod(a.size for a in nest.axes)
    total = 0
    seen: set[int] = set()

    def walk(expr: Expr) -> None:
        nonlocal total
        if id(expr) in seen:
            return
        seen.add(id(expr))
        if isinstance(expr, Op) and expr.name not in _NO_ARITHMETIC and any(a.dtype.kind == "f" for a in expr.args):
            total += math.prod(a.size for a in expr.axes()) * (function if expr.name in FUNCTIONS else 1)
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


def loads(nest: Nest) -> list[Load]:
    """Every load of the nest, a shared one once."""
    return [e for e in _expressions(nest) if isinstance(e, Load)]
