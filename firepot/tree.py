"""Trees: nested dicts, lists and tuples of tensors, as the transforms take and give them.

A named tuple keeps its type. Whatever is no container is a leaf.

>>> fp.tree.map(lambda p, g: p - 10 * g, {"w": 50, "b": (7,)}, {"w": 2, "b": (0,)})
{'w': 30, 'b': (7,)}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["Structure", "broadcast", "flatten", "leaves", "map", "structure", "unflatten"]


class _Leaf:
    def __repr__(self) -> str:
        return "*"


_LEAF = _Leaf()


class Structure:
    """The containers of a tree, without its leaves. Equal where the trees have the same form."""

    def __init__(self, form: Any, count: int) -> None:
        self._form = form
        self.count = count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and bool(self._form == other._form)

    def __hash__(self) -> int:
        return hash(self.count)

    def __repr__(self) -> str:
        return repr(self._form)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """(the leaves in order, the structure). Dicts are gone through in the order of their keys' insertion."""
    found: list[Any] = []
    form = _strip(tree, found)
    return found, Structure(form, len(found))


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Any:
    """The tree of that structure with these leaves."""
    if len(leaves) != structure.count:
        raise ValueError(f"tree.unflatten: {len(leaves)} leaves for a structure of {structure.count}: {structure}")
    return _fill(structure._form, iter(leaves))


def leaves(tree: Any) -> list[Any]:
    return flatten(tree)[0]


def structure(tree: Any) -> Structure:
    return flatten(tree)[1]


def map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree of function(leaf, corresponding leaves of the others…). Raises ValueError where the forms differ."""
    first, form = flatten(tree)
    rest = []
    for other in others:
        found, its = flatten(other)
        if its != form:
            raise ValueError(f"tree.map: the trees have different structures: {form} and {its}")
        rest.append(found)
    return unflatten(form, [function(*values) for values in zip(first, *rest, strict=True)])


def broadcast(prefix: Any, tree: Any) -> list[Any]:
    """For each leaf of `tree` the leaf of `prefix` above it: a tree that may end where `tree` goes on.

    Raises: ValueError where `prefix` has containers that `tree` does not have.
    """
    result: list[Any] = []
    _broadcast(prefix, tree, result)
    return result


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    """(key, child) of a container, None for a leaf."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    return None


def _rebuild(value: Any, children: Sequence[Any]) -> Any:
    if isinstance(value, dict):
        return dict(zip(value, children, strict=True))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*children)
    return tuple(children) if isinstance(value, tuple) else list(children)


def _strip(value: Any, found: list[Any]) -> Any:
    children = _children(value)
    if children is None:
        found.append(value)
        return _LEAF
    return _rebuild(value, [_strip(c, found) for _, c in children])


def _fill(form: Any, leaves: Iterator[Any]) -> Any:
    children = _children(form)
    if children is None:
        return next(leaves)
    return _rebuild(form, [_fill(c, leaves) for _, c in children])


def _broadcast(prefix: Any, tree: Any, result: list[Any]) -> None:
    above, below = _children(prefix), _children(tree)
    if above is None:
        result.extend([prefix] * len(leaves(tree)))
        return
    if below is None or [k for k, _ in above] != [k for k, _ in below] or isinstance(prefix, dict) != isinstance(
        tree, dict
    ):
        raise ValueError(f"the structure {structure(prefix)} does not fit {structure(tree)}")
    for (_, p), (_, t) in zip(above, below, strict=True):
        _broadcast(p, t, result)
