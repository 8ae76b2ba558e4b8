"""What the derivative transforms share: arguments to differentiate by, and which results outer transforms can reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from firepot import tree
from firepot.graph.node import Node, detach, grad_mode, mark, topological, variable
from firepot.tensor import Tensor, node_of, wrap
from firepot.tracing import state

Argnums = int | tuple[int, ...]


@contextmanager
def transforming() -> Iterator[None]:
    """Run a function for a transform: it records history, whatever the caller's grad mode is."""
    before, grad_mode.enabled = grad_mode.enabled, True
    state.transforms += 1
    try:
        yield
    finally:
        state.transforms -= 1
        grad_mode.enabled = before


@dataclass(frozen=True)
class Marked:
    """Trees of arguments on fresh marks."""

    marks: list[Node]
    structure: tree.Structure
    values: Any  # the tree of tensors on the marks

    def tree(self, nodes: Sequence[Node]) -> Any:
        return tree.unflatten(self.structure, [wrap(n) for n in nodes])


def marked(value: Any, what: str) -> Marked:
    """A tree whose tensors (and Python floats) can be differentiated by.

    Raises: TypeError for a leaf that is no floating-point or complex tensor or number.
    """
    leaves, structure = tree.flatten(value)
    marks = []
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, float, complex)):
            raise TypeError(
                f"{what}: can only differentiate by tensors (in dicts, lists and tuples), got {type(leaf).__name__}"
                + ("; write it as a float" if isinstance(leaf, int) and not isinstance(leaf, bool) else "")
            )
        node = node_of(leaf)
        if not node.dtype.is_inexact:
            raise TypeError(f"{what}: can only differentiate by floating-point and complex tensors, got {_said(node)}")
        marks.append(mark(node))
    return Marked(marks, structure, tree.unflatten(structure, [wrap(m) for m in marks]))


def chosen(args: tuple[Any, ...], argnums: Argnums, what: str) -> tuple[int, ...]:
    """The numbers of the arguments to differentiate by, from 0. Raises IndexError."""
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)
    for n in numbers:
        if not isinstance(n, int) or not -len(args) <= n < len(args):
            raise IndexError(f"{what}: argnums = {argnums}, but the function got {len(args)} positional arguments")
    found = tuple(n % len(args) for n in numbers)
    if len(set(found)) != len(found):
        raise ValueError(f"{what}: argnums = {argnums} names an argument twice")
    return found


def result_nodes(value: Any, what: str) -> tuple[list[Node], tree.Structure]:
    """The nodes of a function's result. Raises TypeError where a leaf is no tensor."""
    leaves, structure = tree.flatten(value)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"{what}: the function must return tensors (in dicts, lists and tuples), but a result is of type "
                f"{type(leaf).__name__}"
            )
    return [leaf._node for leaf in leaves], structure


def _said(node: Node) -> str:
    return f"{node.dtype.name}{list(node.shape)}"


def reached_from_outside(nodes: Sequence[Node], marks: Sequence[Node]) -> list[bool]:
    """For each node whether it depends on something that can be differentiated by, other than these marks."""
    own = set(marks)
    first = min((m.sequence for m in marks), default=-1)

    def stop(node: Node) -> bool:
        return not node.requires_grad or node in own or node.primitive is variable or node.sequence < first

    reached: set[Node] = set()
    for node in topological(nodes, stop):
        if not node.requires_grad:
            continue
        if node in own:
            found = node.inputs[0].requires_grad
        elif stop(node) or not node.inputs:
            found = True
        else:
            found = any(i in reached for i in node.inputs)
        if found:
            reached.add(node)
    return [n in reached for n in nodes]


def released(nodes: Sequence[Node], marks: Sequence[Node]) -> list[Node]:
    """The nodes as the caller may have them: with history only where something outside can ask for it."""
    if not grad_mode.enabled:
        return [detach(n) for n in nodes]
    outside = reached_from_outside(nodes, marks)
    return [n if kept else detach(n) for n, kept in zip(nodes, outside, strict=True)]


def release(value: Any, marks: Sequence[Node]) -> Any:
    """A tree with its tensors released; other leaves stay."""
    leaves, structure = tree.flatten(value)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    for i, node in zip(places, released([leaves[i]._node for i in places], marks), strict=True):
        leaves[i] = wrap(node)
    return tree.unflatten(structure, leaves)


def split_aux(result: Any, has_aux: bool, what: str) -> tuple[Any, Any]:
    if not has_aux:
        return result, None
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"{what}: with has_aux the function must return a pair (result, auxiliary), got {_kind(result)}")
    return result


def _kind(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"


def named(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
