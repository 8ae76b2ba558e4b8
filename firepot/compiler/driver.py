"""Evaluation: find or compile the program of a pending graph, and run it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from firepot.compiler import debug, plan_cache, simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import build
from firepot.compiler.rematerialise import OverBudget
from firepot.compiler.simplify import Recorded
from firepot.compiler.statistics import Compilation, log
from firepot.graph.node import Node, collection_paused
from firepot.graph.primitives.elementwise import constant_primitive, is_leaf
from firepot.runtime.buffer import Buffer, readable

_MAXIMAL_PROGRAMS = 512
_programs: OrderedDict[Hashable, Executor] = OrderedDict()
_families: OrderedDict[Hashable, Any] = OrderedDict()  # what graphs of one make have in common -> key of the latest


def evaluate(nodes: Sequence[Node], also: Sequence[Node] = ()) -> None:
    """Give each of the nodes its value. Programs are remembered by the structure of the graph.

    also: further nodes that are to have their values. What has nothing in common with `nodes` gets a program of its
    own, before theirs: what happens to be pending elsewhere makes no difference to the program of a training step.

    Raises: IndexError where a checked index was out of range; none of `nodes` has been given a value then.
    """
    graph = simplify.recorded((*nodes, *also))
    key, leaves = graph.key, graph.leaves
    executor = _programs.get(key)
    if executor is None and nodes and also:
        linked = _linked(key, len(nodes))
        if not all(linked):
            evaluate([n for n, with_nodes in zip(also, linked, strict=True) if not with_nodes])
            evaluate((*nodes, *(n for n, with_nodes in zip(also, linked, strict=True) if with_nodes)))
            return
    nodes = graph.outputs
    if executor is None:
        executor = compiled(graph, {}, "eager", _reason(key))
        executor.program = None  # nodes are found again by what they are: it may hold those that get values here
        _programs[key] = executor
        if len(_programs) > _MAXIMAL_PROGRAMS:
            _programs.popitem(last=False)
    else:
        _programs.move_to_end(key)
        log.reused += 1
    buffers = executor([_value(leaf) for leaf in leaves])
    for node, buffer in zip(nodes, buffers, strict=True):
        node.realise(buffer)


def _linked(key: Any, count: int) -> list[bool]:
    """For each output of a graph with this key after the first `count`: whether it has an operation or a given value
    in common with those."""
    entries, outputs = key
    group = list(range(len(entries)))  # of each entry one earlier one that is linked with it, at the end itself

    def first(n: int) -> int:
        while group[n] != n:
            group[n] = n = group[group[n]]
        return n

    constant: list[bool] = []
    for n, entry in enumerate(entries):
        inputs = entry[2] if _is_operation(entry) else ()
        constant.append(_is_operation(entry) and all(constant[i] for i in inputs))
        for i in inputs:
            if not constant[i]:
                group[first(i)] = first(n)
    wanted = {first(n) for n in outputs[:count]}
    return [first(n) in wanted for n in outputs[count:]]


def compiled(
    graph: Recorded, donations: dict[int, int], name: str, reason: str, constants: Sequence[int] = (),
    origins: list[tuple[int, Node | None]] | None = None, budget: int | None = None,
) -> Executor:  # fmt: skip
    """Native code for a recorded graph, logged under `name` with the reason.

    An earlier process may have left the plan of the same graph on disk (`plan_cache`): then there is nothing to
    compile.

    Args:
        donations, constants: as of `build`, of the graph's leaves and outputs.
        budget: as of `build`.
        origins: filled with where the program's nodes come from, as by `simplify`; it is built anew then.

    Raises: MemoryError where no program was found that keeps within the budget.
    """
    start = time.perf_counter()
    # All that `build` gets, and so all that its program depends on, is in the plan's name.
    places = {n: i for i, n in enumerate(graph.leaves)}
    settings: dict[str, Any] = {
        "inputs": tuple([places[n] for n in graph.order if is_leaf(n)]),
        "donations": tuple(sorted(donations.items())),
        "constants": tuple(constants),
        "budget": budget,
    }
    planned = plan_cache.name_of(graph.key, settings) if origins is None else None
    executor = plan_cache.load(planned) if planned is not None else None
    found = executor is not None
    log.planned += found
    if executor is None:
        with collection_paused():
            placeholders, copies = simplify.simplify(graph.order, graph.leaves, graph.outputs, origins=origins)
            try:
                program = build(placeholders, copies, dict(donations), constants=constants, budget=budget)
            except OverBudget as over:
                assert budget is not None
                raise MemoryError(
                    f"{name} does not fit into memory_budget={budget} ({readable(budget)}), whatever is computed again; "
                    f"the smallest budget that works is {over.smallest} bytes ({readable(over.smallest)})"
                ) from None
            executor = Executor(program)
        if planned is not None:
            plan_cache.store(planned, executor)
            executor.program = None  # the plan is all that is needed from here on
        program.compile_seconds = time.perf_counter() - start
    compilation = Compilation(name, reason, len(executor.plan.steps), executor.plan.arena, time.perf_counter() - start)
    log.add(compilation)
    debug.show_summary(compilation, found=found)
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
