"""Evaluation: find or compile the program of a pending graph, and run it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from firepot.compiler import debug, simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import build
from firepot.compiler.rematerialise import OverBudget
from firepot.compiler.statistics import Compilation, log
from firepot.graph.node import Node
from firepot.graph.primitives.elementwise import constant_primitive
from firepot.runtime.buffer import Buffer, readable

_MAXIMAL_PROGRAMS = 512
_programs: OrderedDict[Hashable, Executor] = OrderedDict()
_families: OrderedDict[Hashable, Any] = OrderedDict()  # what graphs of one make have in common -> key of the latest


def evaluate(nodes: Sequence[Node]) -> None:
    """Give each of the nodes its value. Programs are remembered by the structure of the graph.

    Raises: IndexError where a checked index was out of range; no node has been given a value then.
    """
    key, leaves, order = simplify.structure(nodes)
    executor = _programs.get(key)
    if executor is None:
        placeholders, copies = simplify.simplify(order, leaves, nodes)
        executor = compiled(placeholders, copies, {}, "eager", _reason(key))
        _programs[key] = executor
        if len(_programs) > _MAXIMAL_PROGRAMS:
            _programs.popitem(last=False)
    else:
        _programs.move_to_end(key)
        log.reused += 1
    buffers = executor([_value(leaf) for leaf in leaves])
    for node, buffer in zip(nodes, buffers, strict=True):
        node.realise(buffer)


def compiled(
    inputs: Sequence[Node], outputs: Sequence[Node], donations: dict[int, int], name: str, reason: str,
    constants: Sequence[int] = (), budget: int | None = None,
) -> Executor:  # fmt: skip
    """Compile a graph to native code (arguments as of `build`) and log it under `name` with the reason.

    Raises: MemoryError where no program was found that keeps within the budget.
    """
    start = time.perf_counter()
    try:
        program = build(inputs, outputs, donations, constants=constants, budget=budget)
    except OverBudget as found:
        assert budget is not None
        raise MemoryError(
            f"{name} does not fit into memory_budget={budget} ({readable(budget)}), whatever is computed again; the "
            f"smallest budget that works is {found.smallest} bytes ({readable(found.smallest)})"
        ) from None
    executor = Executor(program)
    program.compile_seconds = time.perf_counter() - start
    log.add(Compilation(name, reason, len(program.steps), program.arena, program.compile_seconds))
    debug.show_summary(program, name, reason)
    return executor


def _reason(key: Any) -> str:
    """Why the graph with this key needs a program of its own, by comparison with the latest of the same make."""
    entries, outputs = key
    family = (tuple([e[0] if _is_operation(e) else None for e in entries]), outputs)
    before = _families.get(family)
    _families[family] = entries
    _families.move_to_end(family)
    if len(_families) > _MAXIMAL_PROGRAMS:
        _families.popitem(last=False)
    if before is None:
        return "a graph of this make was not seen before"
    changes = []
    for old, new in zip(before, entries, strict=True):
        if old == new:
            continue
        if not _is_operation(new):
            changes.append(f"an input is {_kind(new)} and was {_kind(old)}")
        elif new[0] is constant_primitive and new[1][1] is old[1][1]:
            changes.append(
                f"the Python number {new[1][0]} was {old[1][0]}: what changes from step to step is better a tensor"
            )
    if changes:
        return changes[0] + (f", and {len(changes) - 1} more changes" if len(changes) > 1 else "")
    return "the same operations with other parameters" if before != entries else "its program was dropped from memory"


def _is_operation(entry: Any) -> bool:
    return len(entry) == 3


def _kind(entry: Any) -> str:
    return f"{entry[1]}{list(entry[0])}"


def _value(leaf: Node) -> Buffer:
    if leaf.buffer is None:
        raise RuntimeError(
            "a traced value was used after its trace ended: a tensor made inside a function under fp.jit must leave it "
            "as a return value or in-place update"
        )
    buffer: Buffer = leaf.buffer
    return buffer


def programs_kept() -> int:
    """Programs of plain code in memory."""
    return len(_programs)
