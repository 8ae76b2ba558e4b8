"""Simplification: the pending graph, copied without what a program does not need.

The copy has placeholders for leaves, no differentiation markers and no complex values (see `complex`), and goes
through the primitives' constructors again, where neutral operations vanish and equal ones meet. Its structure is the
key under which programs are cached.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from firepot.compiler.complex import apart
from firepot.graph.node import (
    Composite,
    Elementwise,
    Node,
    apply,
    data,
    data_primitive,
    grad_mode,
    sequence_number,
    topological,
)
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.contract import convolve_primitive
from firepot.graph.primitives.reduce import Reduce, reduce


@dataclass(frozen=True)
class Recorded:
    """A recorded graph.

    key:     two graphs with equal keys compile to the same program
    leaves:  the nodes whose values are given, in the order in which the program gets them
    order:   all nodes, inputs first
    outputs: the nodes whose values are wanted
    """

    key: Any
    leaves: list[Node]
    order: list[Node]
    outputs: list[Node]


def recorded(outputs: Sequence[Node]) -> Recorded:
    """The graph of `outputs`."""
    key, leaves, order = structure(outputs)
    return Recorded(key, leaves, order, list(outputs))


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
        elif node.primitive.identity:
            numbers[node] = numbers[node.inputs[0]]
        else:
            numbers[node] = len(key)
            key.append((node.primitive, node.params, tuple([numbers[i] for i in node.inputs])))
    return (tuple(key), tuple(numbers[o] for o in outputs)), leaves, order


AGAIN = ("again",)  # parameters of a node that computes once more what another does

_Rule = Callable[[Node, Sequence[Node]], Node]

_RULES: dict[Any, _Rule] = {
    views.reshape_primitive: lambda n, i: views.reshape(i[0], n.params[0]),
    views.permute_primitive: lambda n, i: views.permute(i[0], n.params[0]),
    views.expand_primitive: lambda n, i: views.expand(i[0], n.params[0]),
    views.pad_primitive: lambda n, i: views.pad(i[0], *n.params),
    views.slice_primitive: lambda n, i: views.slice_(i[0], *n.params),
    ew.mul_primitive: lambda n, i: ew.mul(i[0], i[1]),
    ew.div_primitive: lambda n, i: ew.div(i[0], i[1]),
    ew.where_primitive: lambda n, i: i[2] if _limited(*i) else ew.where(i[0], i[1], i[2]),
    ew.cast_primitive: lambda n, i: ew.cast(i[0], n.params[0]),
}


def simplify(
    order: Sequence[Node], leaves: Sequence[Node], outputs: Sequence[Node], rules: bool = True,
    origins: list[tuple[int, Node | None]] | None = None,
) -> tuple[list[Node], list[Node]]:  # fmt: skip
    """(placeholders for the leaves, the outputs' copies); without `rules`, a plain copy.

    `origins`, where given, is filled with (sequence number, node): the nodes from that number on, up to the next
    entry's, were made of `node`.
    """
    before, grad_mode.enabled = grad_mode.enabled, False
    try:
        order, leaves, outputs, source = apart(order, leaves, outputs)
        copies: dict[Node, Node] = {leaf: data(leaf.shape, leaf.dtype) for leaf in leaves}
        activations = _Activations(n.inputs[0] for n in order if _is_weight_gradient(n))
        standardised = activations.standardised
        for node in order:
            if node in copies:
                continue
            if origins is not None:
                origins.append((sequence_number(), source(node)))
            inputs = tuple(copies[i] for i in node.inputs)
            if node.primitive.identity:
                copies[node] = inputs[0]
            elif isinstance(node.primitive, Composite):
                copies[node] = node.primitive.expand(inputs, node)
                standardised.add(copies[node])
            elif rules and (compared := _before_relu(node, inputs, activations)) is not None:
                copies[node] = compared
            elif rules and _is_weight_gradient(node):
                copies[node] = apply(node.primitive, (activations.again(inputs[0]), inputs[1]), node.params)
            elif rules and (rule := _RULES.get(node.primitive)) is not None:
                copies[node] = rule(node, inputs)
            elif rules and isinstance(node.primitive, Reduce):
                copies[node] = reduce(node.primitive.combine, inputs[0], node.params[0])
            else:
                copies[node] = apply(node.primitive, inputs, node.params)
            if isinstance(node.primitive, Elementwise) and len(inputs) == 2:
                x, y = inputs
                if (x in standardised and _is_spread(y)) or (y in standardised and _is_spread(x)):
                    standardised.add(copies[node])
            activations.copied(node, copies[node])
        if origins is not None:
            origins.append((sequence_number(), None))
        return [copies[leaf] for leaf in leaves], [copies[o] for o in outputs]
    finally:
        grad_mode.enabled = before


def is_again(node: Node) -> bool:
    """Whether this computes once more what another node does, for a reader long after the others."""
    return node.params == AGAIN


def _is_weight_gradient(node: Node) -> bool:
    return node.primitive is convolve_primitive and node.params[0] == "weight_grad"


class _Activations:
    """Which activations are computed once more for readers long after the others, the weight gradients of the
    convolutions that they went through, so that they need not be kept meanwhile.

    It is those that are made of what is kept anyway: relu of a standardised value, which the derivative of the
    standardisation reads, and relu of the sum of such a value and another, or an activation that stays (residual
    networks). Hence every second block's result of a residual network is kept.

    Args:
        read_later: the nodes that weight gradients read, before they are copied.

    standardised: copies of values that a Composite standardised, scaled and shifted or not
    """

    def __init__(self, read_later: Iterable[Node]) -> None:
        self.standardised: set[Node] = set()
        self._read_later = set(read_later)
        self._staying: set[Node] = set()

    def copied(self, node: Node, copy: Node) -> None:
        if node in self._read_later and not self.made_again(copy):
            self._staying.add(copy)

    def made_again(self, x: Node) -> bool:
        if x.primitive.name != "relu":
            return False
        below = x.inputs[0]
        if below in self.standardised:
            return True
        if below.primitive is not ew.add_primitive:
            return False
        a, b = below.inputs
        if a not in self.standardised:
            a, b = b, a
        return a in self.standardised and (b in self.standardised or b in self._staying)

    def again(self, x: Node) -> Node:
        """`x`, or a node of its own with the same value."""
        return apply(x.primitive, x.inputs, AGAIN) if self.made_again(x) else x


def _before_relu(node: Node, inputs: Sequence[Node], activations: _Activations) -> Node | None:
    """relu(x) ≤ 0 as x ≤ 0, where x is recomputed from what the derivative of a standardisation reads anyway."""
    if node.primitive.name != "le" or not activations.made_again(inputs[0]):
        return None
    constant = inputs[1]
    while constant.primitive is views.expand_primitive or constant.primitive is views.reshape_primitive:
        constant = constant.inputs[0]
    if constant.primitive is not ew.constant_primitive or constant.params[0] != 0:
        return None
    return ew.compare("le", inputs[0].inputs[0], inputs[1])


def _limited(condition: Node, x: Node, other: Node) -> bool:
    """Whether a choice between x where low < x < high, and x limited to low … high, is the latter: hardtanh, whose
    derivative is zero at the limits, while those of the limits alone are not."""
    below, above = _operands(other, "where", 3), _operands(condition, "and", 2)
    if below is None or above is None:
        return False
    above_low, under_high = (_operands(c, name, 2) for c, name in zip(above, ("gt", "lt"), strict=True))
    exceeds, high, rest = below
    inner, outside = _operands(rest, "where", 3), _operands(exceeds, "gt", 2)
    if above_low is None or under_high is None or inner is None or outside is None:
        return False
    low = inner[1]
    return (
        above_low == (x, low) and under_high == (x, high) and outside == (rest, high) and inner[2] is x
        and _operands(inner[0], "lt", 2) == (x, low)
    )  # fmt: skip


def _operands(node: Node, name: str, count: int) -> tuple[Node, ...] | None:
    """The inputs of a node of this primitive, which has `count` of them."""
    return node.inputs if node.primitive.name == name and len(node.inputs) == count else None


def _is_spread(node: Node) -> bool:
    return node.primitive is views.expand_primitive


def is_placeholder(node: Node) -> bool:
    return node.primitive is data_primitive
