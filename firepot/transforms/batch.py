"""Vectorisation: from the graph of one example to the graph of many, by the primitives' batching rules.

A function recorded on placeholders for one example is rewritten from the placeholders to its results: what depends on
a placeholder gets a leading dimension over the examples, what does not stays as it is and is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

from firepot.graph.node import Node, grad_mode, topological
from firepot.graph.primitives import views
from firepot.transforms import recompute


class Batch:
    """The rewriting of one recorded function for `size` examples. It can go on: what was rewritten is remembered."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._known: dict[Node, Node] = {}
        self._segments: dict[recompute.Segment, recompute.Segment] = {}
        self._first = -1  # sequence number before which no node depends on a placeholder

    def bind(self, placeholder: Node, value: Node) -> None:
        """Let `value`, (size, …), hold the examples that `placeholder` stands for."""
        if not self._known:
            self._first = placeholder.sequence
        self._known[placeholder] = value

    def anywhere(self) -> None:
        """Expect what depends on a placeholder among nodes of any age: placeholders may be younger than it."""
        self._first = -1

    def extended(self) -> Batch:
        """A rewriting that starts with what this one knows."""
        other = Batch(self.size)
        other._known, other._segments, other._first = dict(self._known), self._segments, self._first
        return other

    def depends(self, node: Node) -> bool:
        """Whether the value of a node differs between the examples."""
        self._rewrite([node])
        return node in self._known

    def rewrite(self, outputs: Sequence[Node]) -> list[Node | None]:
        """For each output the node for all examples, or None where it is the same for all."""
        self._rewrite(outputs)
        return [self._known.get(o) for o in outputs]

    def spread(self, inputs: Sequence[Node], batched: Sequence[bool]) -> tuple[Node, ...]:
        """All inputs with the leading dimension; those without are repeated."""
        return tuple(
            i if b else views.expand(i, (self.size, *i.shape)) for i, b in zip(inputs, batched, strict=True)
        )

    def spread_all(self, outputs: Sequence[Node]) -> list[Node]:
        """The outputs for all examples; those that are the same for all are repeated."""
        found = self.rewrite(outputs)
        return [views.expand(o, (self.size, *o.shape)) if f is None else f for o, f in zip(outputs, found, strict=True)]

    def _rewrite(self, outputs: Sequence[Node]) -> None:
        known = self._known
        before = grad_mode.enabled
        try:
            for node in topological(outputs, lambda n: n in known or n.sequence < self._first):
                if node in known:
                    continue
                batched = tuple(i in known for i in node.inputs)
                if not any(batched):
                    continue
                # What was recorded under no_grad, or cannot be differentiated, stays so.
                grad_mode.enabled = node.requires_grad
                inputs = tuple(known.get(i, i) for i in node.inputs)
                known[node] = node.primitive.batch(node, inputs, batched, self)
                assert known[node].shape == (self.size, *node.shape), f"batching {node} gave {known[node]}"
                recompute.follow(node, known[node], inputs, self._segments)
        finally:
            grad_mode.enabled = before
