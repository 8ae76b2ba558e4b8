"""Recording branches and loops with a condition: Python functions run once on stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from firepot import tree
from firepot.func._recording import NotRecordable, Step, Touched
from firepot.graph import dtypes
from firepot.graph.node import Node, data, detach, grad_mode, mark, sequence_number, variable
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.jit import TraceError
from firepot.tensor import Tensor, caller_site, node_of, wrap
from firepot.transforms import while_loop
from firepot.transforms.body import closed, on_common_operands
from firepot.transforms.branch import choose

Changed = dict[int, tuple[Touched, Node]]


def branch(condition: Node, branches: Sequence[Callable[..., Any]], operands: Sequence[Any]) -> Any:
    """branches[0](*operands) where the condition, one bool, holds, else branches[1](*operands), as a branch of the
    program.

    Tensors from outside that a branch changes have the new values afterwards if it was taken.

    Raises: TypeError where the results do not agree; TraceError where a branch looks at values or collects gradients.
    """
    since = sequence_number()
    leaves, structure = tree.flatten(operands)
    given: set[Node] = set()
    recorded: list[tuple[list[Node], Any, Changed]] = []
    for function in branches:
        stand_ins = [mark(v._node, v.requires_grad) if isinstance(v, Tensor) else v for v in leaves]
        arguments = tree.unflatten(structure, [wrap(v) if isinstance(v, Node) else v for v in stand_ins])
        result, changed, seen = _run(lambda f=function, a=arguments: f(*a), "fp.cond")
        given.update(v for v in stand_ins if isinstance(v, Node))
        given.update(seen)
        made, form = tree.flatten(result)
        recorded.append(([node_of(v) for v in made if v is not None], (form, [v is None for v in made]), changed))
    (first, form, _), (second, other, _) = recorded
    if form[0] != other[0] or form[1] != other[1]:
        raise TypeError(f"cond: the results have different structures: {form[0]} and {other[0]}")
    for a, b in zip(first, second, strict=True):
        same(a, b, "cond")
    touched = {number: t for _, _, changed in recorded for number, (t, _) in changed.items()}
    sides = []
    for results, _, changed in recorded:
        sides.append([*results, *(_after(n, t, changed) for n, t in touched.items())])
    for t, a, b in zip(touched.values(), *(side[len(first) :] for side in sides), strict=True):
        for new in (a, b):
            same(new, t.before, "cond: a tensor that a branch changes")
    kept = [n for n, r in enumerate(sides[0]) if r.size]
    bodies, operands = on_common_operands(
        [closed((), (), (), [side[n] for n in kept], since=since, given=given) for side in sides]
    )
    if any(n.dtype.kind == "c" for n in (*operands, *sides[0])):  # which the compiler takes apart, but not in bodies
        values = {n: ew.where(views.expand(condition, sides[0][n].shape), *(side[n] for side in sides)) for n in kept}
    else:
        values = dict(zip(kept, choose(condition, *bodies, operands), strict=True)) if kept else {}
    found = []
    for n, (a, b) in enumerate(zip(*sides, strict=True)):
        value = values[n] if n in values else ew.like(a, 0)
        found.append(value if a.requires_grad or b.requires_grad else detach(value))
    for t, value in zip(touched.values(), found[len(first) :], strict=True):
        _assign(t, value)
    ys = iter(found)
    structure, missing = form
    return tree.unflatten(structure, [None if m else wrap(next(ys)) for m in missing])


def repeat_while(test: Callable[[Any], Any], body: Callable[[Any], Any], init: Any) -> Any:
    """`body` applied to `init` as long as `test` of the value holds, as a loop of the program.

    Raises: TypeError where the value changes its form; TraceError where a function looks at values or collects
        gradients, or `test` changes tensors.
    """
    first, structure = tree.flatten(init)
    begin = [node_of(v) for v in first]
    carries = [data(n.shape, n.dtype) if n.size else ew.like(n, 0) for n in begin]

    def value() -> Any:
        handles = [mark(p, grad_mode.enabled) if p.dtype.kind == "f" and p.size else p for p in carries]
        return tree.unflatten(structure, [wrap(h) for h in handles])

    flag, changed, _, looked = _recorded(lambda: one_bool(test(value()), "while_loop"), "fp.while_loop")
    if changed:
        raise TraceError(
            f"while_loop at {caller_site()}: the condition changes a tensor (random numbers change their generator); "
            "do that in the body, inside fp.jit and fp.vmap"
        )
    made, changed, _, ran = _recorded(lambda: carried(value(), body(value()), "while_loop"), "fp.while_loop")
    if any(t.before.owner is not None for t, _ in changed.values()):
        raise TraceError(
            f"while_loop at {caller_site()}: the body changes a parameter, which collects gradients; inside fp.jit and "
            "fp.vmap carry its value along instead"
        )
    results = [node_of(v) for v in tree.leaves(made)]
    stand_ins: list[dict[Node, Node]] = [{}, {}]
    for number, (t, now) in changed.items():
        same(now, t.before, "while_loop: a tensor that the body changes")
        begin.append(t.before)
        results.append(now)
        carries.append(data(now.shape, now.dtype))
        for known, step in zip(stand_ins, (looked, ran), strict=True):
            if number in step.stand_ins:
                known[step.stand_ins[number]] = mark(carries[-1]) if now.requires_grad else carries[-1]
    kept = [n for n, p in enumerate(carries) if p.size]
    own = [carries[n] for n in kept]
    bodies, operands = on_common_operands(
        [
            closed(own, (), (), [node_of(flag)], stand_ins[0]),
            closed(own, (), (), [results[n] for n in kept], stand_ins[1]),
        ]
    )
    last = while_loop.run(*bodies, [begin[n] for n in kept], operands)
    values = dict(zip(kept, last, strict=True))
    found = []
    for n, b in enumerate(begin):
        one = values.get(n, b)
        found.append(one if b.requires_grad or results[n].requires_grad else detach(one))
    for (t, _), one in zip(changed.values(), found[len(first) :], strict=True):
        t.tensor._point(one)
    return tree.unflatten(structure, [wrap(n) for n in found[: len(first)]])


def _run(call: Callable[[], Any], name: str) -> tuple[Any, Changed, list[Node]]:
    result, changed, seen, _ = _recorded(call, name)
    return result, changed, seen


def _recorded(call: Callable[[], Any], name: str) -> tuple[Any, Changed, list[Node], Step]:
    """(what the function returns, the tensors from outside that it changed, what stands for those it read, the
    recording)."""
    recording = Step(name)
    try:
        result, changed = recording.record(call)
    except NotRecordable:
        raise TraceError(
            f"{name} at {caller_site()}: inside fp.jit and fp.vmap the function cannot collect gradients (backward()); "
            "use fp.grad in it, or do this outside"
        ) from None
    by_number = {id(t.tensor): (t, now) for t, now in changed}
    seen = [*recording.stand_ins.values(), *(t.before for t in recording.touched.values())]
    return result, by_number, seen, recording


def _after(number: int, touched: Touched, changed: Changed) -> Node:
    """What a tensor is after a branch; of a parameter the value only, which begins to collect gradients anew."""
    now = changed[number][1] if number in changed else touched.before
    if touched.before.owner is None:
        return now
    return now.inputs[0] if now is not touched.before and now.primitive is variable and now.inputs else detach(now)


def _assign(touched: Touched, value: Node) -> None:
    if touched.before.owner is None:
        touched.tensor._point(value)
        return
    before, grad_mode.enabled = grad_mode.enabled, False
    try:
        touched.tensor._rebind(value)
    finally:
        grad_mode.enabled = before


def one_bool(found: Any, what: str) -> Tensor:
    """A condition as a bool tensor of shape ()."""
    node = node_of(found)
    if node.size != 1:
        raise RuntimeError(f"{what}: the condition must have one element, its shape is {list(node.shape)}")
    node = ew.ne(node, ew.like(node, 0)) if node.dtype is not dtypes.bool_ else node
    return wrap(views.reshape(node, ()))


def same(a: Node, b: Node, what: str) -> None:
    if a.shape != b.shape or a.dtype is not b.dtype:
        raise TypeError(
            f"{what}: the results must agree in shape and dtype, got {a.dtype.name}{list(a.shape)} and "
            f"{b.dtype.name}{list(b.shape)}"
        )


def carried(before: Any, after: Any, what: str) -> Any:
    """`after`, which must be of the same form as `before`."""
    first, structure = tree.flatten(before)
    second, other = tree.flatten(after)
    if structure != other:
        raise TypeError(f"{what}: the function changed the structure of what it carries, {structure}, to {other}")
    for a, b in zip(first, second, strict=True):
        same(node_of(a), node_of(b), f"{what}: what is carried")
    return after
