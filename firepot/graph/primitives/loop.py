"""Loops: what is computed at each step, and where the results of all steps lie. The primitive is `transforms.loop.Loop`,
as its derivative and its batching are those of a whole graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Node, Shape, topological
from firepot.graph.primitives import elementwise as ew

_ALIGNMENT = 64  # bytes; rows begin at such addresses


class Body:
    """What is computed at each step, recorded on placeholders.

    carries, slices, constants: placeholders for what is carried, for a row of each stacked input and for what is the
        same at every step
    handles: the nodes through which the results use those placeholders: marks, by which can be differentiated
    results: the next value of each carry, then a row of each stacked result

    Equal where the graphs are equal.
    """

    def __init__(
        self, carries: Sequence[Node], slices: Sequence[Node], constants: Sequence[Node], handles: Sequence[Node],
        results: Sequence[Node],
    ) -> None:  # fmt: skip
        self.carries, self.slices, self.constants = tuple(carries), tuple(slices), tuple(constants)
        self.handles = tuple(handles)
        self.results = tuple(results)
        order = topological(results, ew.is_leaf)
        numbers: dict[Node, Any] = {p: n for n, p in enumerate(self.placeholders)}
        key: list[Any] = [(p.shape, p.dtype.name) for p in self.placeholders]
        for node in order:
            if node in numbers:
                continue
            assert not ew.is_leaf(node), "all that a body reads is a placeholder"
            numbers[node] = len(key)
            key.append((node.primitive, node.params, tuple(numbers[i] for i in node.inputs), node.requires_grad))
        self.key = (len(carries), len(slices), tuple(key), tuple(numbers[r] for r in results))
        self._hash = hash(self.key)
        self.checks = [c for n in order for c in n.primitive.checks(n)]

    @property
    def placeholders(self) -> tuple[Node, ...]:
        return (*self.carries, *self.slices, *self.constants)

    @property
    def stacked(self) -> tuple[Node, ...]:
        return self.results[len(self.carries) :]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Body) and other.key == self.key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"body of {len(self.key[2]) - len(self.placeholders)} operations"


@dataclass(frozen=True)
class Piece:
    """Where in the block of a loop's results one of them lies: `rows` rows of `size` elements, `pitch` apart."""

    result: int  # number among the body's results
    start: int
    rows: int
    size: int
    pitch: int


def pitch_of(shape: Shape, dtype: DType) -> int:
    """Elements from one row to the next."""
    unit = _ALIGNMENT // dtype.size
    return -(-math.prod(shape) // unit) * unit


def pieces(body: Body, length: int, reverse: bool, saved: bool, dtype: DType) -> list[Piece]:
    """The places of the results of one dtype."""
    found, start = [], 0
    for n, r in enumerate(body.results):
        if r.dtype is dtype:
            pitch = pitch_of(r.shape, dtype)
            rows = length if n >= len(body.carries) else (length + 1 if saved else 1)
            found.append(Piece(n, start, rows, r.size, pitch))
            start += rows * pitch
    return found
