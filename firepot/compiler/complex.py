"""Complex values taken apart: the pending graph over real numbers, which is all that the passes and kernels know.

A complex argument or result of a program is a real one with a last dimension of 2, which is the same memory; inside,
every complex value is two real ones, by the `parts` of its primitive.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from firepot.graph.node import Node, Parts, apply, data, sequence_number, topological
from firepot.graph.primitives import views
from firepot.graph.primitives.elementwise import is_leaf


def apart(
    order: Sequence[Node], leaves: Sequence[Node], outputs: Sequence[Node]
) -> tuple[Sequence[Node], Sequence[Node], Sequence[Node], Callable[[Node], Node]]:
    """(order, leaves, outputs) of a graph without complex values, and for each of its nodes the one it was made of.

    A graph without complex values stays as it is; else everything is made anew, over new leaves.
    """
    if not any(n.dtype.kind == "c" for n in order):
        return order, leaves, outputs, lambda node: node
    values: dict[Node, Node | Parts] = {}
    starts: list[int] = []
    sources: list[Node] = []
    real_leaves: list[Node] = []
    whole: dict[Node, Node] = {}  # complex values that are there as pairs
    for leaf in leaves:
        if leaf.dtype.kind == "c":
            pairs = data((*leaf.shape, 2), leaf.dtype.to_real())
            values[leaf] = Parts(_part(pairs, 0), _part(pairs, 1))
            whole[leaf] = pairs
            real_leaves.append(pairs)
        else:
            values[leaf] = placeholder = data(leaf.shape, leaf.dtype)
            real_leaves.append(placeholder)
    for node in order:
        if node in values:
            continue
        starts.append(sequence_number())
        sources.append(node)
        inputs = tuple(values[i] for i in node.inputs)
        if node.primitive.identity:
            values[node] = inputs[0]
            if node.inputs[0] in whole:
                whole[node] = whole[node.inputs[0]]
        elif node.dtype.kind == "c" or any(isinstance(i, Parts) for i in inputs):
            values[node] = node.primitive.parts(node, inputs)
        else:
            values[node] = apply(node.primitive, tuple(i for i in inputs if isinstance(i, Node)), node.params)
    starts.append(sequence_number())
    results = []
    for o in outputs:
        value = values[o]
        results.append(value if isinstance(value, Node) else whole[o] if o in whole else _together(value))

    def source(node: Node) -> Node:
        at = bisect_right(starts, node.sequence) - 1
        return sources[min(at, len(sources) - 1)] if at >= 0 else node

    return topological(results, is_leaf), real_leaves, results, source


def _part(pairs: Node, which: int) -> Node:
    shape = pairs.shape[:-1]
    return views.reshape(views.slice_(pairs, (*(0 for _ in shape), which), (*shape, 1)), shape)


def _together(value: Parts) -> Node:
    parts = [views.reshape(p, (*p.shape, 1)) for p in value]
    return views.concatenate(parts, len(parts[0].shape) - 1)
