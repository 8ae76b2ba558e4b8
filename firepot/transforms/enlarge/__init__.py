"""A graph for one size as a graph for a larger one: see `core`."""

from __future__ import annotations

from collections.abc import Callable

from firepot.graph.node import Node
from firepot.transforms.enlarge import folds, index_maps, loops
from firepot.transforms.enlarge.core import Digit, Dimension, Enlargement, Unsupported, Value

_RULES = {**index_maps.RULES, **folds.RULES, **loops.RULES}


def enlargement(leaf: Callable[[Node, Node], Value]) -> Enlargement:
    """The rewriting of a pair of recordings, by the rules of all operations that have one."""
    return Enlargement(leaf, _RULES)


__all__ = ["Digit", "Dimension", "Enlargement", "Unsupported", "Value", "enlargement"]
