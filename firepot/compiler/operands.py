"""What is stored for the kernels of opaque nodes to read, and in which layout.

An opaque kernel reads its operands through strides. Views between a stored value and such an operand are free where
strides can say them; where they cannot, the operand itself must be stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from firepot.compiler.emit import Storage
from firepot.compiler.layout import Layout, channels_last, row_major, strides_of
from firepot.compiler.lower import access
from firepot.compiler.subprogram import dense
from firepot.graph.node import Elementwise, Node, Opaque, viewed
from firepot.graph.primitives.contract import convolve_primitive


def lay_operands_out(order: Sequence[Node], roots: set[Node], fixed: set[Node], layouts: dict[Node, Layout]) -> None:
    """Have the stored operands of convolutions channels-last."""
    for node in order:
        for operand in _activations(node):
            if operand in roots and operand not in fixed:
                layouts[operand] = channels_last(len(operand.shape))


def store_as_read(order: Sequence[Node], roots: set[Node], fixed: set[Node], layouts: dict[Node, Layout]) -> None:
    """Store the operand rather than the element-wise value that it views, where no strides can say the view and nobody
    else reads the value: as the gradient of max pooling, whose windows interleave in the image. Else one kernel would
    write the value and another move it.
    """
    users: dict[Node, list[Node]] = {}
    for node in order:
        for i in node.inputs:
            users.setdefault(i, []).append(node)
    for node in order:
        for operand in node.inputs if isinstance(node.primitive, Opaque) else ():
            between = [operand]
            while (below := viewed(between[-1])) is not None and between[-1] not in roots:
                between.append(below)
            source = between[-1]
            if len(between) == 1 or source not in roots or source in fixed or not isinstance(source.primitive, Elementwise):
                continue
            alone = all(len(users[b]) == 1 for b in between[1:])
            if not alone or 2 * source.size < operand.size:  # else it would be computed more than once
                continue
            stored = Storage(0, source.dtype, source.size, strides_of(source.shape, layouts[source]))
            if not readable(node, operand, {source: stored}):
                roots.remove(source)
                roots.add(operand)
                layouts[operand] = layout_of_operand(node, operand)


def readable(node: Node, operand: Node, storage: dict[Node, Storage]) -> bool:
    """Whether the kernel of an opaque node can read its operand through strides."""
    found = access(operand, storage)
    return found is not None and (not node.primitive.dense or dense(found, operand.shape))  # type: ignore[attr-defined]


def layout_of_operand(node: Node, operand: Node) -> Layout:
    """The layout in which an operand that is stored for this opaque node is read best."""
    rank = len(operand.shape)
    return channels_last(rank) if operand in _activations(node) else row_major(rank)


def _activations(node: Node) -> list[Node]:
    """The operands of a convolution that hold images: not the weights, and not images of very few channels."""
    if node.primitive is not convolve_primitive:
        return []
    return [i for i in node.inputs[: 2 if node.params[0] == "weight_grad" else 1] if i.shape[1] >= 8]
