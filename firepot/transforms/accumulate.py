"""Sums of gradient contributions, in the form that is cheapest to compute.

A value used by many (the rows of `unbind`, the steps of a recurrent network) collects one contribution from each.
Added up pairwise, each would be written over the whole value; two forms do better:

- pieces that fill different places of one value are its concatenation;
- matrix products of one shape are one product over a longer inner dimension: Σ AᵢBᵢ = [A₁ A₂ …] [B₁; B₂; …].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from firepot.graph.node import Node, Shape
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.contract import contract, contract_primitive


@dataclass(frozen=True)
class _Piece:
    """`node`, which is `value` from `start` on along `axis` among zeros."""

    node: Node
    axis: int
    start: int
    value: Node

    @property
    def end(self) -> int:
        return self.start + self.value.shape[self.axis]


def accumulate(contributions: Sequence[Node]) -> Node:
    """The sum of nodes of one shape and dtype."""
    rest: list[Node] = []
    pieces: dict[int, list[_Piece]] = {}
    products: dict[tuple[Shape, Shape], list[Node]] = {}
    for node in contributions:
        piece = _as_piece(node)
        if piece is not None:
            pieces.setdefault(piece.axis, []).append(piece)
        elif node.primitive is contract_primitive and worth_joining(node):
            products.setdefault((node.inputs[0].shape, node.inputs[1].shape), []).append(node)
        else:
            rest.append(node)
    for axis, found in pieces.items():
        rest.extend(_concatenations(axis, found, contributions[0]))
    for joined in products.values():
        # In the order in which the forward pass used the value: other sums over the same steps then share the operands.
        joined.sort(key=lambda p: min(i.sequence for i in p.inputs))
        x = views.concatenate([p.inputs[0] for p in joined], 2)
        y = views.concatenate([p.inputs[1] for p in joined], 1)
        rest.append(contract(x, y) if len(joined) > 1 else joined[0])
    total = rest[0]
    for node in rest[1:]:
        total = ew.add(total, node)
    return total


def _as_piece(node: Node) -> _Piece | None:
    if node.primitive is views.unslice_primitive and node.inputs:
        shape, start, step = node.params
    elif node.primitive is views.pad_primitive and node.inputs:
        (start, high, value), shape, step = node.params, node.shape, ()
        if value != 0 or min(start) < 0 or min(high) < 0:
            return None
    else:
        return None
    partial = [d for d, s in enumerate(node.inputs[0].shape) if s != shape[d]]
    if len(partial) != 1 or any(t != 1 for t in step) or 0 in node.inputs[0].shape:
        return None
    return _Piece(node, partial[0], start[partial[0]], node.inputs[0])


def worth_joining(product: Node) -> bool:
    """Whether copying the operands moves less than adding the results would."""
    _, m, n = product.shape
    return product.inputs[0].shape[2] * (m + n) <= 2 * m * n


def _concatenations(axis: int, pieces: list[_Piece], like: Node) -> list[Node]:
    """Nodes whose sum is the sum of the pieces: each a concatenation of those that do not overlap."""
    waiting = sorted(pieces, key=lambda p: p.start)
    result = []
    while waiting:
        parts: list[Node] = []
        beside: list[_Piece] = []
        overlapping: list[_Piece] = []
        end = 0
        for p in waiting:
            if p.start < end:
                overlapping.append(p)
                continue
            parts.extend(_zeros(like, axis, p.start - end))
            parts.append(p.value)
            beside.append(p)
            end = p.end
        parts.extend(_zeros(like, axis, like.shape[axis] - end))
        result.append(views.concatenate(parts, axis) if len(beside) > 1 else beside[0].node)
        waiting = overlapping
    return result


def _zeros(like: Node, axis: int, length: int) -> list[Node]:
    if not length:
        return []
    shape = tuple(length if d == axis else s for d, s in enumerate(like.shape))
    return [ew.full(shape, 0, like.dtype)]
