"""Loops that run as long as a condition holds (`fp.while_loop`).

The number of steps is known only as the native program runs, so what a derivative in reverse mode would have to keep
has no size: that is refused. A derivative in forward mode is a loop over values and tangents side by side. Where the
condition differs between the examples of a batch, the loop runs until it holds for none of them; examples that have
ended keep their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Node, Opaque, Shape, apply, data, grad_mode, mark
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.loop import Body
from firepot.graph.primitives.reduce import reduce
from firepot.transforms.body import (
    OfTwoBodies,
    add_to,
    batched_body,
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
from firepot.transforms.differentiate import gradients, transposing


class While(OfTwoBodies):
    """The last carries of one dtype.

    inputs: the first carries (size,), the constants (size,).
    params: (test, body, dtype), on the same carries and constants: one bool, the next carries. The compiler runs the
    loop once for all dtypes.
    """

    name = "while_loop"

    def lower(self, context: Any, node: Node) -> None:
        context.while_loop(node)

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        if not transposing.active:
            raise RuntimeError(_NO_REVERSE)
        return _pulled_back(g, node)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return _batched(node, inputs, batched, batching)


_NO_REVERSE = (
    "while_loop: the number of steps is not known before it runs, so there is no derivative in reverse mode "
    "(backward, fp.grad) inside fp.jit and fp.vmap. Use fp.scan for a known number of steps, give maximum= for a "
    "bound, or fp.jvp for a derivative in forward mode"
)

while_primitive = While()


def run(test: Body, body: Body, begin: Sequence[Node], operands: Sequence[Node]) -> list[Node]:
    """The last carries."""
    inputs = (*map(row_of, begin), *map(row_of, operands))
    results: dict[int, Node] = {}
    for dtype in dict.fromkeys(r.dtype for r in body.results):
        params = (test, body, dtype)
        results.update(values_of(apply(while_primitive, inputs, params), rows_in(params), body))
    return [results[n] for n in range(len(body.results))]


# -- the derivative in forward mode ------------------------------------------------------------------------------------


class _PullBack(Opaque):
    """The gradients of a loop's inputs of one dtype, one after another: a step on the way to forward mode, which has
    no value itself.

    inputs: the gradient of the While's result, the inputs of the While. params: (the While's, dtype).
    """

    name = "while_loop backwards"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return (sum(i.size for i in inputs[1:] if i.dtype is params[1]),), params[1]

    def lower(self, context: Any, node: Node) -> None:
        raise RuntimeError(_NO_REVERSE)

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        if not transposing.active:
            raise RuntimeError(_NO_REVERSE)
        tangents: list[Node | None] = []
        start = 0
        for i in node.inputs[1:]:
            tangents.append(None)
            if i.dtype is node.dtype:
                tangents[-1] = nonzero(g, start, i.size)
                start += i.size
        return (_pushed_forward(node.params[0], node.inputs[1:], tangents), *(None for _ in node.inputs[1:]))

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        raise RuntimeError(_NO_REVERSE)


_pull_back = _PullBack()


def _pulled_back(g: Node, node: Node) -> list[Node | None]:
    """The gradients of the inputs, as parts of nodes that are linear in g and are never computed."""
    found: list[Node | None] = []
    starts: dict[DType, int] = {}
    for i in node.inputs:
        if i.dtype.kind != "f":
            found.append(None)
            continue
        block = apply(_pull_back, (g, *node.inputs), (node.params, i.dtype))
        start = starts.get(i.dtype, 0)
        found.append(views.slice_(block, (start,), (i.size,)))
        starts[i.dtype] = start + i.size
    return found


def _pushed_forward(params: tuple[Any, ...], inputs: Sequence[Node], tangents: Sequence[Node | None]) -> Node:
    """The tangent of the result of the While with these inputs: a loop over values and tangents."""
    test, body, _ = params
    count = len(body.carries)
    floating = [n for n, p in enumerate(body.placeholders) if p.dtype.kind == "f"]
    moving = [n for n in floating if n < count or tangents[n] is not None]  # carries may begin to move on the way
    arriving = {n: data(body.placeholders[n].shape, body.placeholders[n].dtype) for n in moving}
    carried = [n for n in moving if n < count]
    pushed = tangents_of(
        [body.results[n] for n in carried],
        [body.handles[n] for n in moving],
        [mark(arriving[n], grad_mode.enabled) for n in moving],
    )
    carries = [*body.carries, *(arriving[n] for n in carried)]
    constants = [*body.constants, *(arriving[n] for n in moving if n >= count)]
    found = [
        closed(carries, (), constants, [*body.results, *pushed]),
        closed(carries, (), constants, inlined(test, body.placeholders)),
    ]
    (larger, look), further = on_common_operands(found, len(constants))

    def begin(n: int) -> Node:
        tangent = tangents[n]
        return ew.like(body.placeholders[n], 0) if tangent is None else tangent

    values = run(
        look, larger, [*inputs[:count], *(begin(n) for n in carried)],
        [*inputs[count:], *(begin(n) for n in moving if n >= count), *further],
    )  # fmt: skip
    at = dict(zip(carried, values[count:], strict=True))
    rows = [views.pad(row_of(at[p.result]), (0,), (p.pitch - p.size,)) for p in rows_in(params)]
    return views.concatenate(rows, 0)


def tangents_of(outputs: Sequence[Node], by: Sequence[Node], tangents: Sequence[Node]) -> list[Node]:
    """The directional derivatives of outputs by marks: the transpose of the transpose of the derivative."""
    weights = {o: mark(ew.like(o, 0)) for o in dict.fromkeys(outputs) if o.requires_grad}
    with transposing():
        pulled = gradients(weights, [h for h in by if h.requires_grad], True)
        arriving: dict[Node, Node] = {}
        for h, t in zip(by, tangents, strict=True):
            if h in pulled and pulled[h].requires_grad:
                add_to(arriving, pulled[h], t)
        found = gradients(arriving, list(weights.values()), grad_mode.enabled)
    return [found[weights[o]] if o in weights and weights[o] in found else ew.like(o, 0) for o in outputs]


# -- batching ----------------------------------------------------------------------------------------------------------


def _batched(node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
    """The loop of the batched body. A carry is batched where it begins or becomes so; all are where the condition is."""
    test, body, dtype = node.params
    size, count = batching.size, len(body.carries)
    flags = inlined(test, body.placeholders)
    rewriting, new, many, found = batched_body(body, batched, size, flags)
    flag = found.pop()
    results = []
    for c, (one, whole) in enumerate(zip(body.results, found, strict=True)):
        if whole is None and many[c]:
            (whole,) = rewriting.spread([one], [False])
        if whole is not None and flag is not None:
            going = views.expand(views.reshape(flag, (size, *(1 for _ in one.shape))), whole.shape)
            whole = ew.where(going, whole, new[c])
        results.append(one if whole is None else whole)
    handles = handles_of(body, rewriting)
    whole_flag = flags[0] if flag is None else reduce("any", flag, (0,))
    bodies = [Body(new[:count], (), new[count:], handles, r) for r in ([whole_flag], results)]
    values = []
    for n, i in enumerate(inputs):
        whole = i if batched[n] or not many[n] else views.expand(i, (size, *i.shape))
        values.append(row_of(whole))
    params = (*bodies, dtype)
    made = values_of(apply(while_primitive, tuple(values), params), rows_in(params), bodies[1])
    spread = {
        c: value if many[c] else views.expand(value, (size, *value.shape)) for c, value in made.items()
    }
    return examples_of(spread, rows_in(node.params), size)
