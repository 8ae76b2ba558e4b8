"""Assembly: concatenations whose parts are written where they belong, so that they cost no pass of their own.

A concatenation that is *assembled* gets a block of memory and no kernel. Each part that some kernel makes anyway is
stored straight into its place of the block; each other part (an argument, a part of two concatenations) is copied
there by a small kernel. A concatenation of two values that nothing wants in memory is left to the fused kernels,
which select the input by position. A result of the program that shows a value in another shape is a concatenation of
one: the value is made in the result's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from firepot.compiler.emit import ALIGNMENT, Storage
from firepot.compiler.layout import Layout, row_major, strides_of
from firepot.graph.dtypes import DType
from firepot.graph.index import Index
from firepot.graph.node import Elementwise, Node, Opaque, Shape, View, apply
from firepot.graph.primitives import views
from firepot.graph.primitives.attention import attention_gradient, attention_primitive
from firepot.graph.primitives.contract import contract_primitive
from firepot.graph.primitives.elementwise import is_leaf
from firepot.graph.primitives.reduce import Reduce

_RENAMINGS = (views.reshape_primitive, views.permute_primitive)  # the same elements under other positions
_STRIDED = (contract_primitive, attention_primitive, attention_gradient)  # kernels that write by any strides
_MANY = 3  # from so many inputs on, selecting by position costs more than a pass over memory


class _Copy(View):
    """A value once more, to be stored at a second place. params: (which copy,)."""

    name = "copy"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, inputs[0].dtype

    def index(self, index: tuple[Index, ...], node: Node) -> tuple[tuple[Index, ...], tuple[tuple[Index, int], ...]]:
        return index, ()


_copy = _Copy()


@dataclass(frozen=True)
class Part:
    """A stored value that fills a place of a block: where its elements lie, as in Storage."""

    node: Node
    strides: tuple[int, ...]
    offset: int


@dataclass
class Assembly:
    """The graph's nodes in order with the copies that are needed, and the parts of each assembled concatenation.

    A concatenation can be part of another; the outermost has the block.
    """

    order: list[Node]
    parts: dict[Node, list[Part]] = field(default_factory=dict)

    def place(self, storage: dict[Node, Storage], whole: Node) -> None:
        """Give the parts of `whole` their storage in its block."""
        for part in self.parts.get(whole, ()):
            storage[part.node] = replace(storage[whole], strides=part.strides, offset=part.offset)
            self.place(storage, part.node)


def assemble(order: Sequence[Node], roots: set[Node], outputs: Sequence[Node], layouts: dict[Node, Layout]) -> Assembly:
    """Choose the concatenations to assemble; they and their parts are added to the roots."""
    result = Assembly([])
    inside: dict[Node, Part] = {}
    results = set(outputs)
    taken = set(outputs)
    for node in reversed(order):  # the outer before those that are their parts
        result.order.append(node)
        if not node.size:
            continue
        place = inside.get(node, Part(node, strides_of(node.shape, layouts[node]), 0))
        if node.primitive is not views.concatenate_primitive:
            if node in results and node.primitive in _RENAMINGS:
                part = _in_place(node, place.strides, 0, taken)
                if part is not None:
                    taken.add(part.node)
                    inside[part.node] = part
                    roots.add(part.node)
                    result.parts[node] = [part]
            continue
        if node not in inside and not _worth_it(node, roots):
            continue
        axis = node.params[0]
        start = place.offset
        parts = []
        for number, piece in enumerate(node.inputs):
            if piece.size:
                part = _in_place(piece, place.strides, start, taken)
                if part is None:
                    shown, strides = _without_ones(piece, place.strides)
                    copy = apply(_copy, (shown,), (node.sequence, number))
                    layouts[copy] = layouts[node] if shown is piece else row_major(len(shown.shape))
                    result.order.append(copy)
                    part = Part(copy, strides, start)
                taken.add(part.node)
                inside[part.node] = part
                parts.append(part)
            start += piece.shape[axis] * place.strides[axis]
        roots.add(node)
        roots.update(p.node for p in parts)
        result.parts[node] = parts
    result.order.reverse()
    return result


def _worth_it(node: Node, roots: set[Node]) -> bool:
    pieces = [i for i in node.inputs if i.size]
    if len(pieces) >= _MANY:
        return True
    return node in roots and len(pieces) > 1 and any(_base(i) in roots for i in pieces)


def _base(node: Node) -> Node:
    while node.primitive in _RENAMINGS and node.inputs:
        node = node.inputs[0]
    return node


def _without_ones(piece: Node, strides: tuple[int, ...]) -> tuple[Node, tuple[int, ...]]:
    """What a piece shows under a shape with more dimensions of size 1, and its strides: the parts of complex numbers,
    whose kernels join where they go over the same positions."""
    if piece.primitive is views.reshape_primitive:
        below = piece.inputs[0]
        if [s for s in piece.shape if s != 1] == [s for s in below.shape if s != 1] and len(below.shape) < len(piece.shape):
            found = _strides_below(piece, strides)
            if found is not None:
                return below, found
    return piece, strides


def _in_place(piece: Node, strides: tuple[int, ...], offset: int, taken: set[Node]) -> Part | None:
    """`piece`, or the value that it shows in another shape, stored at strides and offset; None where it cannot be."""
    base = _base(piece)
    if offset * base.dtype.size % ALIGNMENT:  # other kernels read it there too
        return None
    makers = (Elementwise, Reduce, Opaque, views.Concatenate)
    if is_leaf(base) or base in taken or not isinstance(base.primitive, makers):
        return None
    node, found = piece, strides
    while node is not base:
        below = _strides_below(node, found)
        if below is None:
            return None
        node, found = node.inputs[0], below
    if isinstance(base.primitive, Opaque) and (base.primitive not in _STRIDED or found[-1] != 1):
        return None
    return Part(base, found, offset)


def _strides_below(node: Node, strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides for the input of a view such that the view has the given ones; None where there are none."""
    if node.primitive is views.permute_primitive:
        return tuple(strides[d] for d in views.inverse(node.params[0]))
    result = [0] * len(node.inputs[0].shape)
    for run, below in views.equal_runs(node.shape, node.inputs[0].shape):
        step = 1
        for stride, size in reversed(list(zip(strides[run], node.shape[run], strict=True))):
            if size == 1:
                continue
            if step == 1:
                first = stride
            elif stride != first * step:
                return None
            step *= size
        if step == 1:
            first = 1
        for d in reversed(range(below.start, below.stop)):
            result[d] = first
            first *= node.inputs[0].shape[d]
    return tuple(result)
