"""Branches in the graph: two bodies of which the native program runs one (`fp.cond`).

The derivative is a branch too: the same condition chooses between the derivatives of the bodies, which compute their
body once more. Where the condition differs between the examples of a batch, both bodies are computed and the results
selected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.graph.node import Batching, Node, apply, data, grad_mode, mark
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.loop import Body
from firepot.transforms.batch import Batch
from firepot.transforms.body import (
    OfTwoBodies,
    add_to,
    closed,
    examples_of,
    handles_of,
    inlined,
    nonzero,
    on_common_operands,
    row_of,
    rows_in,
    values_of,
)
from firepot.transforms.differentiate import gradients


class Choice(OfTwoBodies):
    """The results of one dtype of a branch.

    inputs: the condition, bool (1,); what the bodies read (size,).
    params: (then, otherwise, dtype), bodies that have constants only, the same, and results of the same shapes and
    dtypes. The compiler runs the branch once for all dtypes.
    """

    name = "branch"

    def lower(self, context: Any, node: Node) -> None:
        context.branch(node)

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        return _gradients(g, node)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        found = _selected(node, inputs, batched, batching) if batched[0] else _chosen(node, inputs, batched, batching)
        return examples_of(found, rows_in(node.params), batching.size)


choice_primitive = Choice()


def choose(condition: Node, then: Body, otherwise: Body, operands: Sequence[Node]) -> list[Node]:
    """The results of `then` where the condition holds, else those of `otherwise`."""
    inputs = (row_of(condition), *map(row_of, operands))
    results: dict[int, Node] = {}
    for dtype in dict.fromkeys(r.dtype for r in then.results):
        params = (then, otherwise, dtype)
        results.update(values_of(apply(choice_primitive, inputs, params), rows_in(params), then))
    return [results[n] for n in range(len(then.results))]


def _gradients(g: Node, node: Node) -> Sequence[Node | None]:
    operands = node.inputs[1:]
    wanted = [k for k, o in enumerate(operands) if o.requires_grad]
    parts = {p.result: part for p in rows_in(node.params) if (part := nonzero(g, p.start, p.size)) is not None}
    found = []
    reached: set[int] = set()
    for body in node.params[:2]:
        arriving = {r: data(body.results[r].shape, body.results[r].dtype) for r in parts}
        weights: dict[Node, Node] = {}
        for r, placeholder in arriving.items():
            if body.results[r].requires_grad:
                add_to(weights, body.results[r], mark(placeholder, grad_mode.enabled))
        before = len(body.placeholders) - len(body.constants)
        handles = body.handles[before:]
        by = [handles[k] for k in wanted if handles[k].requires_grad]
        made = gradients(weights, by, grad_mode.enabled) if weights else {}
        reached.update(k for k in wanted if handles[k] in made)
        results = [made.get(handles[k]) or ew.like(body.constants[k], 0) for k in wanted]
        found.append(closed((), (), (*body.constants, *arriving.values()), results))
    if not reached:
        return [None] * len(node.inputs)
    (then, otherwise), further = on_common_operands(found, len(operands) + len(parts))
    values = choose(node.inputs[0], then, otherwise, [*operands, *parts.values(), *further])
    gradient: list[Node | None] = [None] * len(node.inputs)
    for k, value in zip(wanted, values, strict=True):
        if k in reached:
            gradient[1 + k] = row_of(value)
    return gradient


def _chosen(
    node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching
) -> dict[int, Node]:
    """The branch of the batched bodies."""
    size = batching.size
    bodies = []
    for body in node.params[:2]:
        rewriting = Batch(size)
        new = [data((size, *p.shape), p.dtype) if b else p for p, b in zip(body.constants, batched[1:], strict=True)]
        for p, n in zip(body.constants, new, strict=True):
            if n is not p:
                rewriting.bind(p, n)
        rewriting.anywhere()
        results = rewriting.spread_all(body.results)
        bodies.append(Body((), (), new, handles_of(body, rewriting), results))
    params = (*bodies, node.params[2])
    values = (inputs[0], *(row_of(i) for i in inputs[1:]))
    return values_of(apply(choice_primitive, values, params), rows_in(params), bodies[0])


def _selected(
    node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching
) -> dict[int, Node]:
    """Both bodies, and of each example the results of the one that its condition says."""
    size = batching.size
    sides = []
    for body in node.params[:2]:
        rewriting = Batch(size)
        values = []
        for p, i, b in zip(body.constants, inputs[1:], batched[1:], strict=True):
            values.append(data(p.shape, p.dtype) if b else views.reshape(i, p.shape))
            if b:
                rewriting.bind(values[-1], views.reshape(i, (size, *p.shape)))
        sides.append(rewriting.spread_all(inlined(body, values)))
    found = {}
    for p in rows_in(node.params):
        x, y = (side[p.result] for side in sides)
        condition = views.reshape(inputs[0], (size, *(1 for _ in x.shape[1:])))
        found[p.result] = ew.where(views.expand(condition, x.shape), x, y)
    return found
