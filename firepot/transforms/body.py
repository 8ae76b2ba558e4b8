"""Bodies: graphs on placeholders that a loop repeats or a branch chooses, and the blocks in which their results lie."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Node, Opaque, Shape, apply, data, grad_mode, mark, mark_primitive, topological
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.loop import Body, Piece, pieces
from firepot.transforms import recompute
from firepot.transforms.batch import Batch


class OfTwoBodies(Opaque):
    """The results of one dtype of a branch or of a loop with a condition, in one dimension (see `pieces`).

    params: (a body, another one, whose results these are, dtype).
    """

    dense = True

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        last = rows_in(params)[-1]
        return (last.start + last.pitch,), params[2]

    def checks(self, node: Node) -> Sequence[tuple[Any, ...]]:
        return [c for body in node.params[:2] for c in body.checks]


def rows_in(params: tuple[Any, ...]) -> list[Piece]:
    """Where the results lie in a block of `OfTwoBodies`, each of one row."""
    return pieces(params[1], 1, False, False, params[2])


def row_of(x: Node) -> Node:
    """A value as the loop reads it: in one dimension."""
    return views.reshape(x, (x.size,))


def part_of(block: Node, start: int, size: int) -> Node:
    """Elements start … start + size − 1 of a block."""
    return views.slice_(block, (start,), (size,))


def closed(
    carries: Sequence[Node], slices: Sequence[Node], constants: Sequence[Node], results: Sequence[Node],
    stand_ins: Mapping[Node, Node] | None = None, since: int | None = None, given: Collection[Node] = (),
) -> tuple[Body, list[Node]]:  # fmt: skip
    """(the body with these placeholders and results, the nodes from outside that it reads as further constants).

    What does not depend on a placeholder is computed once, outside; unless `since` is given: then all that was recorded
    from that sequence number on is inside, but for the nodes `given`. `stand_ins` are put in the place of other nodes.
    """
    known: dict[Node, Node] = {p: p for p in (*carries, *slices, *constants)}
    known.update(stand_ins or {})
    outside: dict[Node, Node] = {}  # nodes from outside -> placeholders
    images: dict[recompute.Segment, recompute.Segment] = {}
    order = topological(results, known.__contains__)
    inside = set(known)
    plain: set[Node] = set()  # numbers and what is made of them alone, by which nobody differentiates
    for node in order:
        if any(i in inside for i in node.inputs):
            inside.add(node)
        elif not node.requires_grad and not ew.is_leaf(node) and all(i in plain for i in node.inputs):
            plain.add(node)
        elif since is not None and node.sequence > since and node.inputs and node not in given:
            inside.add(node)

    def image(node: Node) -> Node:
        found = known.get(node)
        if found is None:
            if node in plain:
                return node
            if not node.size:  # nothing to pass on
                known[node] = ew.full(node.shape, 0, node.dtype)
                return known[node]
            outside[node] = data(node.shape, node.dtype)
            found = known[node] = mark(outside[node]) if node.requires_grad else outside[node]
        return found

    before = grad_mode.enabled
    try:
        for node in order:
            if node in known or node not in inside:
                continue
            inputs = tuple(image(i) for i in node.inputs)
            if inputs == node.inputs:
                known[node] = node
                continue
            known[node] = _on(node, inputs, images)
    finally:
        grad_mode.enabled = before
    placeholders = [*carries, *slices, *constants, *outside.values()]
    ends = [image(r) for r in results]
    placeholders += [p for p in outside.values() if p not in placeholders]
    handles = {h.inputs[0]: h for h in known.values() if h.primitive is mark_primitive and h.inputs[0] in placeholders}
    body = Body(
        carries, slices, [*constants, *outside.values()], [handles.get(p, p) for p in placeholders], ends
    )
    return body, list(outside)


def _on(node: Node, inputs: tuple[Node, ...], images: dict[recompute.Segment, recompute.Segment]) -> Node:
    """The node on other inputs, which collects gradients, and is recomputed, as it is. Sets the mode for that."""
    grad_mode.enabled = node.requires_grad
    if node.primitive is mark_primitive:
        found = mark(inputs[0], node.requires_grad)
    else:
        found = apply(node.primitive, inputs, node.params)
    recompute.follow(node, found, inputs, images)
    return found


def on_common_operands(
    found: Sequence[tuple[Body, Sequence[Node]]], given: int = 0
) -> tuple[list[Body], list[Node]]:
    """(the bodies with equal rows of constants, the operands that these stand for), of what `closed` gave for each.

    given: how many constants of each body, before those for operands, correspond already.
    """
    operands = list(dict.fromkeys(n for _, outside in found for n in outside))
    bodies = []
    for body, outside in found:
        before = len(body.placeholders) - len(outside)
        own = dict(zip(outside, zip(body.placeholders[before:], body.handles[before:], strict=True), strict=True))
        assert len(body.constants) == given + len(outside), "constants are those given, and operands"
        pairs = [own[n] if n in own else (data(n.shape, n.dtype),) * 2 for n in operands]
        bodies.append(
            Body(
                body.carries, body.slices, [*body.constants[:given], *(p for p, _ in pairs)],
                [*body.handles[:before], *(h for _, h in pairs)], body.results,
            )
        )  # fmt: skip
    return bodies, operands


def inlined(body: Body, values: Sequence[Node]) -> list[Node]:
    """The results of a body with these values, of the same shapes, in the place of its placeholders."""
    known: dict[Node, Node] = dict(zip(body.placeholders, values, strict=True))
    images: dict[recompute.Segment, recompute.Segment] = {}
    before = grad_mode.enabled
    try:
        for node in topological(body.results, known.__contains__):
            if node in known:
                continue
            inputs = tuple(known[i] for i in node.inputs)
            known[node] = _on(node, inputs, images)
    finally:
        grad_mode.enabled = before
    return [known[r] for r in body.results]


def handles_of(body: Body, rewriting: Batch) -> list[Node]:
    """What collects the gradients of a body's placeholders, in the rewriting for a batch."""
    return [h if w is None else w for h, w in zip(body.handles, rewriting.rewrite(body.handles), strict=True)]


def nonzero(g: Node, start: int, size: int) -> Node | None:
    """Elements start … start + size − 1 of a gradient in one dimension; None where they are zero by its making."""
    if ew.constant_value(g) == 0:
        return None
    if g.inputs and g.primitive is ew.add_primitive:
        a, b = (nonzero(i, start, size) for i in g.inputs)
        return a if b is None else b if a is None else ew.add(a, b)
    if g.inputs and g.primitive is views.concatenate_primitive:
        begin, parts = 0, []
        for i in g.inputs:
            low, high = max(begin, start), min(begin + i.size, start + size)
            if low < high:
                parts.append(nonzero(i, low - begin, high - low) or (high - low))
            begin += i.size
        if all(isinstance(p, int) for p in parts):
            return None
        return views.concatenate([ew.full((p,), 0, g.dtype) if isinstance(p, int) else p for p in parts], 0)
    if g.inputs and g.primitive is views.unslice_primitive and g.params[2] == (1,):
        (begin,), inner = g.params[1], g.inputs[0]
        low, high = max(begin, start), min(begin + inner.size, start + size)
        if low >= high:
            return None
        found = nonzero(inner, low - begin, high - low)
        return None if found is None else views.pad(found, (low - start,), (start + size - high,))
    return part_of(g, start, size)


def values_of(block: Node, found: Sequence[Piece], body: Body) -> dict[int, Node]:
    """The results in a block of one row each, by number, in their shapes."""
    return {
        p.result: views.reshape(part_of(block, p.start, p.size), body.results[p.result].shape) for p in found
    }


def examples_of(values: Mapping[int, Node], found: Sequence[Piece], size: int) -> Node:
    """Results (size, …) for all examples as blocks (size, elements): what batching such a block gives."""
    rows = [views.pad(views.reshape(values[p.result], (size, p.size)), (0, 0), (0, p.pitch - p.size)) for p in found]
    return views.concatenate(rows, 1)


def batched_body(
    body: Body, batched: Sequence[bool], size: int, condition: Sequence[Node] = ()
) -> tuple[Batch, list[Node], list[bool], list[Node | None]]:
    """(the rewriting of a loop's body for a batch, its placeholders there, which of them are batched, its results there
    and then the condition's; None for what is the same for all examples).

    A carry is batched where it begins or becomes so; all are where the condition is.
    """
    count, many = len(body.carries), list(batched)
    while True:
        rewriting = Batch(size)
        new = []
        for p, is_batched in zip(body.placeholders, many, strict=True):
            new.append(data((size, *p.shape), p.dtype) if is_batched else p)
            if is_batched:
                rewriting.bind(p, new[-1])
        rewriting.anywhere()
        found = rewriting.rewrite([*body.results, *condition])
        differs = any(c is not None for c in found[len(body.results) :])
        grown = [c for c in range(count) if not many[c] and (differs or found[c] is not None)]
        if not grown:
            return rewriting, new, many, found
        for c in grown:
            many[c] = True


def add_to(weights: dict[Node, Node], node: Node, gradient: Node) -> None:
    weights[node] = ew.add(weights[node], gradient) if node in weights else gradient
