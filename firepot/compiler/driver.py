"""Evaluation: find or compile the program of a pending graph, and run it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import build
from firepot.graph.node import Node
from firepot.runtime.buffer import Buffer

_MAXIMAL_PROGRAMS = 512
_programs: OrderedDict[Hashable, Executor] = OrderedDict()


def evaluate(nodes: Sequence[Node]) -> None:
    """Give each of the nodes its value. Programs are remembered by the structure of the graph.

    Raises: IndexError where a checked index was out of range; no node has been given a value then.
    """
    key, leaves, order = simplify.structure(nodes)
    executor = _programs.get(key)
    if executor is None:
        placeholders, copies = simplify.simplify(order, leaves, nodes)
        executor = Executor(build(placeholders, copies))
        _programs[key] = executor
        if len(_programs) > _MAXIMAL_PROGRAMS:
            _programs.popitem(last=False)
    else:
        _programs.move_to_end(key)
    buffers = executor([_value(leaf) for leaf in leaves])
    for node, buffer in zip(nodes, buffers, strict=True):
        node.realise(buffer)


def _value(leaf: Node) -> Buffer:
    if leaf.buffer is None:
        raise RuntimeError(
            "a traced value was used after its trace ended: a tensor made inside a function under fp.jit must leave it "
            "as a return value or in-place update"
        )
    buffer: Buffer = leaf.buffer
    return buffer


def statistics() -> dict[str, int]:
    """Programs in memory and kernels in them."""
    return {"programs": len(_programs), "kernels": sum(len(e.program.steps) for e in _programs.values())}
