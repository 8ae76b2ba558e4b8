"""The compiler as text: graphs, schedules and kernels, for FIREPOT_DEBUG and for people who ask `fp.explain`.

FIREPOT_DEBUG prints to stderr: 1 each compilation, 2 the schedule, 3 the graph, 4 the loop nests, 5 LLVM IR.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from firepot.compiler.statistics import Compilation
from firepot.graph.dtypes import DType
from firepot.graph.node import Node, topological
from firepot.graph.primitives.elementwise import is_leaf

if TYPE_CHECKING:
    from firepot.compiler.program import Program


def _level() -> int:
    given = os.environ.get("FIREPOT_DEBUG", "").strip()
    if given and not given.isdecimal():
        raise ValueError(f"FIREPOT_DEBUG must be a number from 0 to 5, not {given!r}")
    return int(given or 0)


LEVEL = _level()  # read once, when the compiler is first needed


def show(program: Program) -> None:
    """Print what the level asks for of a program that is planned: before LLVM, which may refuse it."""
    if LEVEL < 2:
        return
    parts = []
    if LEVEL >= 3:
        parts += ["graph", _indented(graph_text(program.results))]
    parts += ["schedule", _indented(schedule_text(program))]
    if LEVEL >= 4:
        for number, step in enumerate(program.steps):
            if step.nest is not None:
                parts += [f"loops of kernel {number}", _indented(str(step.nest))]
    if LEVEL >= 5:
        for number, step in enumerate(program.steps):
            parts += [f"LLVM of kernel {number}", step.kernel.generate()]
    print("\n".join(parts), file=sys.stderr)


def show_summary(compilation: Compilation, found: bool) -> None:
    """Print one line for a program that was compiled, or found on disk."""
    if LEVEL >= 1:
        c, how = compilation, "found" if found else "compiled"
        print(
            f"firepot: {how} {c.name}, {c.kernels} kernels, arena {c.arena_bytes / 2**20:.1f} MiB, "
            f"in {c.seconds * 1e3:.0f} ms: {c.reason}",
            file=sys.stderr,
        )


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def graph_text(outputs: Sequence[Node]) -> str:
    """One line a node, inputs first: `%3 = add %1 %2 : float32[4, 5]`."""
    order = topological(outputs, is_leaf)
    numbers = {n: i for i, n in enumerate(order)}
    lines = []
    for n in order:
        inputs = [f"%{numbers[i]}" for i in n.inputs]
        name = "input" if is_leaf(n) else n.primitive.name
        words = " ".join([name, *inputs, *(() if is_leaf(n) else _parameters(n))])
        lines.append(f"%{numbers[n]} = {words} : {n.dtype.name}{list(n.shape)}")
    lines.append("return " + " ".join(f"%{numbers[o]}" for o in outputs))
    return "\n".join(lines)


def _parameters(node: Node) -> Iterator[str]:
    if node.primitive.name == "constant":  # its other parameters tell equal numbers apart
        yield str(node.params[0])
        return
    for p in node.params:
        yield p.name if isinstance(p, DType) else str(p)


def schedule_text(program: Program) -> str:
    """One line a kernel: what it runs, where its operands lie (bytes from the start of the arena), what it makes."""
    lines = []
    for number, step in enumerate(program.steps):
        operands = []
        for storage, offset in step.operands:
            kind, where = program.places[storage.number]
            place = f"arena+{where + offset}" if kind == "arena" else f"{kind} {where}" + (f"+{offset}" if offset else "")
            operands.append(place)
        made = ", ".join(map(repr, step.nodes))
        lines.append(f"{number:4} {step.kernel.label}  ({', '.join(operands)})  makes {made}")
    return "\n".join(lines)
