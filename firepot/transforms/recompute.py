"""Recomputation: parts of a graph whose values the backward pass computes again instead of keeping.

Chen et al., Training deep nets with sublinear memory cost (2016). The nodes of such a part are registered here;
differentiation takes their derivatives at copies, made behind barriers so that no pass identifies them with the
originals.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from firepot.graph.node import Node, apply, barrier, mark_primitive, topological


class Segment:
    """The nodes between the arguments (marks) and the results of one checkpointed call, which may be part of one."""

    def __init__(self, parent: Segment | None = None) -> None:
        self.parent = parent

    def contains(self, node: Node) -> bool:
        segment = segments.get(node)
        while segment is not None and segment is not self:
            segment = segment.parent
        return segment is self


segments: WeakKeyDictionary[Node, Segment] = WeakKeyDictionary()


def register(arguments: Sequence[Node], results: Sequence[Node]) -> None:
    """Make a segment of the nodes that depend on `arguments`, which are fresh marks, and lead to `results`."""
    segment = Segment()
    first = min(a.sequence for a in arguments)
    inside = set(arguments)
    for node in topological(results, lambda n: n in inside or n.sequence < first):
        if node not in inside and not any(i in inside for i in node.inputs):
            continue
        inside.add(node)
        inner = segments.get(node)
        if inner is None:
            segments[node] = segment
            continue
        while inner.parent is not None and inner.parent is not segment:
            inner = inner.parent
        if inner is not segment:
            inner.parent = segment


def follow(node: Node, image: Node, inputs: Sequence[Node], images: dict[Segment, Segment]) -> None:
    """Have what a rewriting made of a node, up to the rewritten inputs, belong to the image of the node's segment."""
    segment = segments.get(node) if segments else None
    if segment is None:
        return
    stop = set(inputs)
    for n in topological([image], stop.__contains__):
        if n not in stop and n.inputs:
            segments.setdefault(n, _image(segment, images))


def _image(segment: Segment, images: dict[Segment, Segment]) -> Segment:
    found = images.get(segment)
    if found is None:
        parent = None if segment.parent is None else _image(segment.parent, images)
        found = images[segment] = Segment(parent)
    return found


class Copies:
    """The copies made while one graph is differentiated."""

    def __init__(self) -> None:
        self._copies: dict[Segment, dict[Node, Node]] = {}

    def of(self, node: Node, after: Node) -> Node:
        """The node to differentiate instead of `node`: its copy where it is to be computed again, after `after`."""
        segment = segments.get(node) if segments else None
        if segment is None or node.primitive is mark_primitive:
            return node
        return self._copy(segment, node, after)

    def _copy(self, segment: Segment | None, node: Node, after: Node) -> Node:
        if segment is None:
            return node
        copies = self._copies.setdefault(segment, {})
        for n in topological([node], lambda n: n in copies or not segment.contains(n)):
            if n in copies:
                continue
            if not segment.contains(n):
                copies[n] = self._copy(segment.parent, n, after)
            elif n.primitive is mark_primitive and segments[n] is segment and not segment.contains(n.inputs[0]):
                copies[n] = barrier(self._copy(segment.parent, n.inputs[0], after), after)
            elif n.primitive is mark_primitive:
                copies[n] = copies[n.inputs[0]]
            else:
                copies[n] = apply(n.primitive, tuple(copies[i] for i in n.inputs), n.params)
        return copies[node]
