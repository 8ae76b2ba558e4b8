"""Reverse-mode differentiation: from a graph to the graph of its gradients, out of the same primitives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from firepot.graph.node import Node, data_primitive, grad_mode, mark_primitive, severed_primitive, topological, variable
from firepot.graph.primitives import elementwise as ew
from firepot.tracing import state
from firepot.transforms.accumulate import accumulate
from firepot.transforms.recompute import Copies


class _Transposing(threading.local):
    """Whether gradients are taken to be transposed again: what is linear in them and cannot be computed is no error
    then, as it will vanish."""

    active = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before, self.active = self.active, True
        try:
            yield
        finally:
            self.active = before


transposing = _Transposing()
Hook = Callable[[Node, Node], Node]


def _no_hook(node: Node, gradient: Node) -> Node:
    return gradient


def _is_boundary(node: Node) -> bool:
    return not node.requires_grad or node.primitive is variable


def gradients(
    cotangents: Mapping[Node, Node],
    wrt: Sequence[Node] | None = None,
    create_graph: bool = False,
    hook: Hook = _no_hook,
) -> dict[Node, Node]:
    """Gradients of Σ ⟨output, cotangent⟩ with respect to `wrt` (default: every leaf reached).

    Args:
        cotangents: for each output node, a node of its shape and dtype.
        wrt: the nodes whose gradients are wanted; they may be leaves or intermediate results.
        create_graph: whether the gradients can themselves be differentiated.
        hook: called with a node and its complete gradient; what it returns is passed on.

    Returns: node -> gradient, for those of `wrt` that the outputs depend on.
    Raises: RuntimeError where the history has been let go by an earlier backward(), or is inside a captured program.
    """
    order = topological(cotangents, _is_boundary)
    wanted = set(wrt) if wrt is not None else {n for n in order if n.primitive is variable}
    # What is asked for may lie behind a history that is gone, unless it is newer than any.
    if wrt is None or any(n.primitive is not mark_primitive for n in wanted.difference(order)):
        _refuse_lost_history(order)
    on_path: set[Node] = set()
    for node in order:
        if node in wanted or (not _is_boundary(node) and any(i in on_path for i in node.inputs)):
            on_path.add(node)
    received: dict[Node, list[Node]] = {n: [g] for n, g in cotangents.items() if n in on_path}
    result: dict[Node, Node] = {}
    copies = Copies()
    before = grad_mode.enabled, state.autocast
    # Rules written with operations compute in the dtypes of the forward pass, wherever they run.
    grad_mode.enabled, state.autocast = create_graph, None
    try:
        for node in reversed(order):
            contributions = received.pop(node, None)
            if contributions is None:
                continue
            g = hook(node, accumulate(contributions))
            if node in wanted:
                result[node] = g
            if _is_boundary(node):
                continue
            if not any(i in on_path for i in node.inputs):
                continue
            at = copies.of(node, g)
            for i, gi in zip(node.inputs, _vjp(at, g), strict=True):
                if gi is None or i not in on_path:
                    continue
                assert gi.shape == i.shape, f"{node} gave {gi} as the gradient of {i}"
                received.setdefault(i, []).append(ew.as_gradient(gi, i.dtype))
    finally:
        grad_mode.enabled, state.autocast = before
    return result


def _vjp(node: Node, g: Node) -> Sequence[Node | None]:
    """The gradients of a node's inputs by its primitive's rule.

    A gradient is ∂L/∂re + i ∂L/∂im; where y = f(z) has the complex derivative f′, that of z is g times the conjugate of
    f′, which the rule gives as real analysis has it: g · f′.
    """
    if node.dtype.kind != "c" or not node.primitive.holomorphic:
        return node.primitive.vjp(g, node)
    return [None if gi is None else ew.conj(gi) for gi in node.primitive.vjp(ew.conj(g), node)]


def _refuse_lost_history(order: Sequence[Node]) -> None:
    for node in order:
        if node.primitive is severed_primitive:
            raise RuntimeError(
                "backward: the graph holds the result of a function under fp.jit, whose history is inside the captured "
                "program. Call backward() inside the jitted function too, or detach() the result"
            )
        if node.primitive is data_primitive and node.requires_grad:
            raise RuntimeError(
                "backward: inside fp.vmap, gradients cannot collect in the .grad of what is mapped over; use fp.grad or "
                "fp.autograd.grad inside, or call backward() on the result of fp.vmap"
            )
        if not node.inputs and not _is_boundary(node):
            raise RuntimeError(
                f"backward: the history of {node} was let go by an earlier backward(); "
                "call the earlier one with retain_graph=True to go through it again"
            )
