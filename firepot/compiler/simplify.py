"""Simplification: the pending graph, copied without what a program does not need.

The copy has placeholders for leaves, no differentiation markers, and goes through the primitives' constructors again,
where neutral operations vanish and equal ones meet. Its structure is the key under which programs are cached.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from firepot.graph.node import Node, apply, data, data_primitive, detach_primitive, grad_mode, topological, variable
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.reduce import Reduce, reduce

# Primitives that are their first input, once derivatives have been taken.
identities = {variable, detach_primitive}


def structure(outputs: Sequence[Node]) -> tuple[Hashable, list[Node], list[Node]]:
    """(key, leaves, order): two graphs with equal keys compile to the same program.

    `order` lists the nodes inputs first; `leaves` are those of them whose values are given.
    """
    order = topological(outputs, ew.is_leaf)
    numbers: dict[Node, int] = {}
    leaves: list[Node] = []
    key: list[Any] = []
    for node in order:
        if ew.is_leaf(node):
            numbers[node] = len(key)
            leaves.append(node)
            key.append((node.shape, node.dtype.name))
        elif node.primitive in identities:
            numbers[node] = numbers[node.inputs[0]]
        else:
            numbers[node] = len(key)
            key.append((node.primitive, node.params, tuple([numbers[i] for i in node.inputs])))
    return (tuple(key), tuple(numbers[o] for o in outputs)), leaves, order


_Rule = Callable[[Node, Sequence[Node]], Node]

_RULES: dict[Any, _Rule] = {
    views.reshape_primitive: lambda n, i: views.reshape(i[0], n.params[0]),
    views.permute_primitive: lambda n, i: views.permute(i[0], n.params[0]),
    views.expand_primitive: lambda n, i: views.expand(i[0], n.params[0]),
    views.pad_primitive: lambda n, i: views.pad(i[0], *n.params),
    views.slice_primitive: lambda n, i: views.slice_(i[0], *n.params),
    ew.mul_primitive: lambda n, i: ew.mul(i[0], i[1]),
    ew.div_primitive: lambda n, i: ew.div(i[0], i[1]),
    ew.where_primitive: lambda n, i: ew.where(i[0], i[1], i[2]),
    ew.cast_primitive: lambda n, i: ew.cast(i[0], n.params[0]),
}


def simplify(
    order: Sequence[Node], leaves: Sequence[Node], outputs: Sequence[Node], rules: bool = True,
    origins: dict[Node, Node] | None = None,
) -> tuple[list[Node], list[Node]]:  # fmt: skip
    """(placeholders for the leaves, the outputs' copies); without `rules`, a plain copy.

    `origins`, where given, is filled with the first node that each copy was made of.
    """
    before, grad_mode.enabled = grad_mode.enabled, False
    try:
        copies: dict[Node, Node] = {leaf: data(leaf.shape, leaf.dtype) for leaf in leaves}
        for node in order:
            if node in copies:
                continue
            inputs = tuple(copies[i] for i in node.inputs)
            if node.primitive in identities:
                copies[node] = inputs[0]
            elif rules and (rule := _RULES.get(node.primitive)) is not None:
                copies[node] = rule(node, inputs)
            elif rules and isinstance(node.primitive, Reduce):
                copies[node] = reduce(node.primitive.combine, inputs[0], node.params[0])
            else:
                copies[node] = apply(node.primitive, inputs, node.params)
        if origins is not None:
            for node in order:
                origins.setdefault(copies[node], node)
        return [copies[leaf] for leaf in leaves], [copies[o] for o in outputs]
    finally:
        grad_mode.enabled = before


def is_placeholder(node: Node) -> bool:
    return node.primitive is data_primitive
