"""A batch in blocks: a graph that treats the examples of a batch alike, as the graph of fewer of them, run repeatedly.

Between two kernels the values of a large batch go to main memory and back. Where networks do little arithmetic on
what they read (depthwise convolutions, expansions by 1×1), that is what takes the time. A block of examples whose
values stay in the shared cache from kernel to kernel goes through all kernels before the next block begins. What is
made of constant weights is kept from block to block, as it is from run to run.

The examples lie along the first dimension that is not of size 1, so that a block's are one piece of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from firepot.compiler.memory import ALIGNMENT
from firepot.graph.node import Elementwise, Node, apply, data, grad_mode, topological
from firepot.graph.primitives import views
from firepot.graph.primitives.contract import contract_primitive, convolve_primitive
from firepot.graph.primitives.elementwise import is_leaf
from firepot.graph.primitives.reduce import Reduce
from firepot.runtime.processor import processor

_SHARE = 0.5  # of the shared cache, for the largest operand and result of a kernel together
_LARGE = 2  # times the shared cache: batches whose values are fewer are left whole
# Operations for each byte of operands and results, from which on memory is not what takes the time: ResNet-50 does 75
# and is slower in blocks, MobileNetV2 10.
_OPERATIONS_PER_BYTE = 25


@dataclass(frozen=True)
class Blocks:
    """count: of the blocks; inputs, outputs: the graph of one; moved: numbers of the inputs that have the examples, the
    others are given whole to each block; sources: of its nodes, what they stand for in the whole graph."""

    count: int
    inputs: list[Node]
    outputs: list[Node]
    moved: tuple[int, ...]
    sources: dict[Node, Node]


def in_blocks(inputs: Sequence[Node], outputs: Sequence[Node], constants: Sequence[int]) -> Blocks | None:
    """The graph in blocks, where it can be taken apart and is faster so.

    Args:
        constants: numbers of the inputs that are the same for all examples.
    """
    varying = [i for i, node in enumerate(inputs) if i not in constants and node.shape]
    if not constants or not varying or not outputs:
        return None
    batch = inputs[varying[0]].shape[0]
    moved = tuple(i for i in varying if inputs[i].shape[0] == batch)
    if batch < 2 or len(set(outputs)) < len(outputs) or any(o in inputs for o in outputs):
        return None
    order = topological(outputs, is_leaf)
    count = _worthwhile(order, [inputs[i] for i in moved], outputs, batch)
    return None if count is None else divided(inputs, outputs, moved, count)


def _worthwhile(order: Sequence[Node], examples: Sequence[Node], outputs: Sequence[Node], batch: int) -> int | None:
    """How many blocks make the values between kernels fit the cache; None where the batch is better left whole."""
    cache = processor().l3
    depending = set(examples)
    operations = total = largest = 0
    for node in order:
        if not depending.isdisjoint(node.inputs):
            depending.add(node)
            if node.primitive is convolve_primitive or node.primitive is contract_primitive:
                moved = sum(n.size * n.dtype.size for n in (node, *node.inputs) if n in depending)
                total, largest = total + moved, max(largest, moved)
                operations += 2 * node.size * _summed(node)
    if total < _LARGE * cache or operations > _OPERATIONS_PER_BYTE * total:
        return None
    for count in range(2, batch + 1):
        fits = largest / count <= _SHARE * cache
        pieces = [n.size * n.dtype.size for n in (*examples, *outputs)]
        if batch % count == 0 and fits and all(size % (count * ALIGNMENT) == 0 for size in pieces):
            return count
    return None


def _summed(node: Node) -> int:
    """How many products each element of a convolution or contraction is the sum of."""
    first, second = node.inputs
    if node.primitive is contract_primitive:
        return first.shape[2]
    # Each element of the kernel meets each position of the output's size once for each example.
    positions = views.size_of(node.params[3]) * first.shape[0]
    weights = second if node.params[0] != "weight_grad" else node
    return max(1, positions * weights.size // max(node.size, 1))


def divided(inputs: Sequence[Node], outputs: Sequence[Node], moved: Sequence[int], count: int) -> Blocks | None:
    """The graph of one of `count` blocks; None where some operation joins examples, or is not known not to.

    Args:
        moved: numbers of the inputs that have the examples.
    """
    shares = {node: node for node in inputs}
    for i in moved:
        node = inputs[i]
        if not _divides(node, count):
            return None
        shares[node] = data((node.shape[0] // count, *node.shape[1:]), node.dtype)
    division = _Division(count, {inputs[i]: shares[inputs[i]] for i in moved})
    before, grad_mode.enabled = grad_mode.enabled, False
    try:
        found = [division.share(node) for node in topological(outputs, is_leaf)]
    finally:
        grad_mode.enabled = before
    if None in found or any(o not in division.shares for o in outputs):
        return None
    sources = {share: node for node, share in division.shares.items()}
    return Blocks(
        count, [shares[node] for node in inputs], [division.shares[o] for o in outputs], tuple(moved), sources
    )


def _axis(node: Node) -> int:
    """The dimension that the examples lie along: the first that is not of size 1."""
    return next((d for d, size in enumerate(node.shape) if size != 1), -1)


def _divides(node: Node, count: int) -> bool:
    axis = _axis(node)
    return axis >= 0 and node.shape[axis] % count == 0


class _Division:
    """shares: of each value that depends on the example, the part that one block has."""

    def __init__(self, count: int, shares: dict[Node, Node]) -> None:
        self.count = count
        self.shares = shares

    def share(self, node: Node) -> Node | None:
        """What a block has of a value: all of it where it is the same for all examples. None: no share is known."""
        if node in self.shares:
            return self.shares[node]
        if not any(i in self.shares for i in node.inputs):
            return node
        if not _divides(node, self.count) or node.primitive.checks(node):
            return None
        found = self._rule(node)
        if found is None or found.shape != self._shape(node):
            return None
        self.shares[node] = found
        return found

    def _shape(self, node: Node) -> tuple[int, ...]:
        axis = _axis(node)
        return tuple(s // self.count if d == axis else s for d, s in enumerate(node.shape))

    def _rule(self, node: Node) -> Node | None:
        kind = node.primitive
        first = node.inputs[0]
        if isinstance(kind, Elementwise):
            return self._together(node)
        if kind is views.reshape_primitive:  # a piece of memory stays one
            return views.reshape(self.shares[first], self._shape(node))
        if isinstance(kind, views.Concatenate):
            return self._together(node) if node.params[0] != _axis(node) else None
        if kind is contract_primitive:
            return self._contract(node)
        if kind is convolve_primitive:
            x, weights = node.inputs
            if node.params[0] == "weight_grad" or x not in self.shares or weights in self.shares or x.shape[0] == 1:
                return None
            return apply(kind, (self.shares[x], weights), node.params)
        rule = _ALONG.get(type(kind))
        return rule(node, self.shares[first], _axis(first), self._shape(node)) if rule is not None else None

    def _together(self, node: Node) -> Node | None:
        """Inputs that are the same for all examples must be repeated along them."""
        axis = _axis(node)
        inputs = []
        for i in node.inputs:
            if i in self.shares and _axis(i) == axis:
                inputs.append(self.shares[i])
            elif i not in self.shares and i.primitive is views.expand_primitive and _repeated(i, axis):
                inputs.append(views.expand(i.inputs[0], self._shape(i)))
            else:
                return None
        return apply(node.primitive, tuple(inputs), node.params)

    def _contract(self, node: Node) -> Node | None:
        x, y = node.inputs
        if x in self.shares and y in self.shares:
            together = x.shape[0] > 1  # many products, one for each example or several
            return apply(node.primitive, (self.shares[x], self.shares[y]), node.params) if together else None
        if x in self.shares and x.shape[0] == 1 and x.shape[1] > 1:
            return apply(node.primitive, (self.shares[x], y), node.params)
        return None


def _repeated(node: Node, axis: int) -> bool:
    """Whether an expansion repeats its input along a dimension of the result, which is the first not of size 1."""
    inner = node.inputs[0].shape
    own = axis - (len(node.shape) - len(inner))
    return _axis(node) == axis and (own < 0 or inner[own] == 1)


# Views and folds of one value, where the dimension of the examples is left alone: (node, the input's share, the
# dimension of the examples in the input, shape of the result's share).
_Along = Callable[[Node, Node, int, tuple[int, ...]], Node | None]


def _expand(node: Node, x: Node, axis: int, shape: tuple[int, ...]) -> Node | None:
    return views.expand(x, shape) if _axis(node) == axis + len(node.shape) - len(x.shape) else None


def _permute(node: Node, x: Node, axis: int, shape: tuple[int, ...]) -> Node | None:
    order = node.params[0]
    return views.permute(x, order) if order[_axis(node)] == axis else None


def _pad(node: Node, x: Node, axis: int, shape: tuple[int, ...]) -> Node | None:
    low, high, value = node.params
    return views.pad(x, low, high, value) if low[axis] == high[axis] == 0 and _axis(node) == axis else None


def _slice(node: Node, x: Node, axis: int, shape: tuple[int, ...]) -> Node | None:
    start, length, step = node.params
    whole = start[axis] == 0 and step[axis] == 1 and length[axis] == node.inputs[0].shape[axis]
    return views.slice_(x, start, shape, step) if whole and _axis(node) == axis else None


def _fold(node: Node, x: Node, axis: int, shape: tuple[int, ...]) -> Node | None:
    axes = node.params[0]
    return apply(node.primitive, (x,), (axes,)) if axis not in axes else None


_ALONG: dict[type, _Along] = {
    type(views.expand_primitive): _expand, type(views.permute_primitive): _permute, type(views.pad_primitive): _pad,
    type(views.slice_primitive): _slice, Reduce: _fold,
}  # fmt: skip
