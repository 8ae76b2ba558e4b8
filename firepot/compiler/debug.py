"""What FIREPOT_DEBUG prints: 1 each compilation, 2 the schedule, 3 the graph, 4 the loop nests, 5 LLVM IR."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from firepot.graph.node import Node
from firepot.kernels.loops import Nest

if TYPE_CHECKING:
    from firepot.compiler.program import Program


def _level() -> int:
    try:
        return int(os.environ.get("FIREPOT_DEBUG", "0") or 0)
    except ValueError:
        return 1


LEVEL = _level()  # read once, when the compiler is first needed


def show_graph(order: Sequence[Node], outputs: Sequence[Node]) -> None:
    if LEVEL < 3:
        return
    numbers = {n: i for i, n in enumerate(order)}
    for n in order:
        inputs = " ".join(f"%{numbers[i]}" for i in n.inputs)
        params = " ".join(map(str, n.params))
        print(
            f"  %{numbers[n]} = {n.primitive.name} {inputs} {params} : {n.dtype.name}{list(n.shape)}", file=sys.stderr
        )
    print("  return " + " ".join(f"%{numbers[o]}" for o in outputs), file=sys.stderr)


def show_nest(nest: Nest) -> None:
    if LEVEL >= 4:
        print(nest, file=sys.stderr)


def show_schedule(program: Program) -> None:
    if LEVEL < 1:
        return
    print(
        f"firepot: compiled {len(program.steps)} kernels, arena {program.arena / 2**20:.1f} MiB, "
        f"{program.compile_seconds * 1e3:.0f} ms",
        file=sys.stderr,
    )
    if LEVEL >= 2:
        for t, step in enumerate(program.steps):
            operands = " ".join(f"{s.number}:{program.places[s.number][0]}" for s, _ in step.operands)
            roots = ", ".join(map(repr, step.nodes))
            print(f"  {t:4} {step.kernel.label:40} [{operands}] {roots}", file=sys.stderr)
            if LEVEL >= 5:
                print(step.kernel.generate(), file=sys.stderr)
