"""Recording the body of a loop: a Python function run once on stand-ins for a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from firepot import tree
from firepot.func._recording import NotRecordable, Step
from firepot.graph.node import Node, data, detach, grad_mode, mark
from firepot.tensor import Tensor, node_of, wrap
from firepot.tracing import state
from firepot.transforms.body import closed
from firepot.transforms.loop import rows_of, run


def loop(
    step: Callable[[Any, list[Any]], tuple[Any, Any]], init: Any, xs: Sequence[Tensor], count: int, reverse: bool,
    name: str,
) -> tuple[Any, Any] | None:  # fmt: skip
    """(the last carry, the stacked results) of `step` applied count times, as a loop of the program.

    None where the steps have to be taken one by one: the function looks at values in plain code, collects gradients,
    or works on tensors without elements.
    """
    if state.eager is not None:
        return None
    first, structure = tree.flatten(init)
    begin = [node_of(v) for v in first]
    rows = [x._node for x in xs]
    if any(n.size == 0 for n in (*begin, *rows)):
        return None
    carries = [data(n.shape, n.dtype) for n in begin]
    slices = [data(n.shape[1:], n.dtype) for n in rows]
    handles = [mark(p, grad_mode.enabled) if p.dtype.kind == "f" else p for p in (*carries, *slices)]

    def call() -> Any:
        values = [wrap(h) for h in handles]
        return step(tree.unflatten(structure, values[: len(begin)]), values[len(begin) :])

    recording = Step(name)
    try:
        (after, made), changed = recording.record(call)
    except NotRecordable:
        return None
    if any(t.before.owner is not None for t, _ in changed):  # parameters, which begin to collect gradients anew
        return None
    results = [node_of(v) for v in tree.leaves(after)]
    stacked, made_structure = tree.flatten(made)
    results += [now for _, now in changed]  # what is changed from step to step is carried too
    results += [node_of(v) for v in stacked if v is not None]
    if any(r.size == 0 for r in results):
        return None
    stand_ins: dict[Node, Node] = {}
    for t, now in changed:
        if now.shape != t.before.shape or now.dtype is not t.before.dtype:
            return None
        begin.append(t.before)
        carries.append(data(now.shape, now.dtype))
        stand_ins[recording.stand_ins[id(t.tensor)]] = mark(carries[-1]) if now.requires_grad else carries[-1]
    body, outside = closed(carries, slices, (), results, stand_ins)
    last, whole = run(body, begin, [rows_of(r) for r in rows], outside, count, reverse)
    last = [v if r.requires_grad else detach(v) for v, r in zip(last, body.results, strict=False)]
    whole = [v if r.requires_grad else detach(v) for v, r in zip(whole, body.stacked, strict=True)]
    for (t, _), value in zip(changed, last[len(first) :], strict=True):
        t.tensor._point(value)
    ys = iter(whole)
    return (
        tree.unflatten(structure, [wrap(n) for n in last[: len(first)]]),
        tree.unflatten(made_structure, [None if v is None else wrap(next(ys)) for v in stacked]),
    )
