"""From nodes to loops: the loop-level expression of a node's element at a symbolic position.

Positions are pulled from results to inputs: a view rewrites the position, an element-wise node becomes an operation,
a stored node becomes a load. Everything between two stored values becomes one expression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from firepot.graph.dtypes import DType, bool_
from firepot.graph.index import Axis, Computed, Index, flatten
from firepot.graph.node import Elementwise, Node, View
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.gather import Take
from firepot.graph.primitives.reduce import Reduce as ReducePrimitive
from firepot.graph.primitives.reduce import accumulator
from firepot.kernels.llvm.nest_description import loads
from firepot.kernels.llvm.normalise import substitute
from firepot.kernels.loops import Const, Expr, Guard, Load, Nest, Op, Reduce, Reduced, Store, children

Position = tuple[Index, ...]

ALIGNMENT = 64  # bytes; kernels get their operands at such addresses


@dataclass(frozen=True)
class Storage:
    """A stored value: the block of memory that holds it, and where its elements lie in there.

    number, size: the block among the program's blocks and its length in elements
    strides, offset: element (i, j, …) lies at offset + Σ index × stride, in elements. Values that are the parts of
    a concatenation share its block.
    """

    number: int
    dtype: DType
    size: int
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def base(self) -> int:
        """The last aligned element at or before the offset: kernels take it as the operand's address, so that
        equal kernels at different places of a block are one."""
        unit = ALIGNMENT // self.dtype.size
        return self.offset // unit * unit

    def locate(self, position: Position) -> Index:
        """Where from the base on the element at `position` lies."""
        return flatten(position, self.strides) + (self.offset - self.base)


def rebased(nest: Nest, operands: Sequence[Storage]) -> tuple[Nest, tuple[tuple[Storage, int], ...]]:
    """(the nest with each operand's address moved up to where its accesses begin, the operands with their bytes).

    Kernels that do the same at other places of a block are one then: the steps of a sequence, the layers of a stack.
    """
    places: dict[int, list[Index]] = {}
    for load in loads(nest):
        places.setdefault(load.operand, []).append(load.offset)
    for stage in nest.stages:
        if isinstance(stage, Store):
            places.setdefault(stage.operand, []).append(stage.offset)
    moved: dict[int, int] = {}
    for number, offsets in places.items():
        unit = ALIGNMENT // operands[number].dtype.size
        least = min(offset.constant for offset in offsets)
        if least >= unit and all(c > 0 for offset in offsets for _, c in offset.terms):
            moved[number] = least // unit * unit
    if moved:
        nest = substitute(nest, {}, lambda axes: axes, moved)
    return nest, tuple((s, (s.base + moved.get(i, 0)) * s.dtype.size) for i, s in enumerate(operands))


class Misaligned(Exception):
    """A value of the same kernel is needed at another point than the one where it is made."""


class Emitter:
    """Builds the expressions of one kernel.

    Args:
        storage: the stored values that may be loaded,
        own: but for these, which the kernel makes itself.
        local: positions at which values made in this very kernel are available, with a function that gives them.
    """

    def __init__(self, storage: dict[Node, Storage], own: Set[Node] = frozenset()) -> None:
        self.storage = storage
        self.own = own
        self.local: dict[Node, tuple[Position, Callable[[], Expr]]] = {}
        self.operands: list[Storage] = []
        self._numbers: dict[tuple[int, int], int] = {}
        self._memo: dict[tuple[Node, Position], Expr] = {}

    def operand(self, storage: Storage) -> int:
        """The kernel's operand number of a stored value."""
        key = (storage.number, storage.base)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.operands)
            self.operands.append(storage)
        return number

    def value(self, node: Node, position: Position) -> Expr:
        """The element of `node` at `position`."""
        key = (node, position)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._value(node, position)
        return found

    def _value(self, node: Node, position: Position) -> Expr:
        local = self.local.get(node)
        if local is not None:
            if local[0] != position:
                raise Misaligned(f"{node} at {position}, made at {local[0]}")
            return local[1]()
        stored = self.storage.get(node)
        if stored is not None and node not in self.own:
            return Load(self.operand(stored), stored.locate(position), node.dtype)
        return self.compute(node, position)

    def compute(self, node: Node, position: Position) -> Expr:
        """The element computed from the node's inputs."""
        primitive = node.primitive
        if isinstance(primitive, Elementwise):
            return primitive.scalar(tuple(self.value(i, position) for i in node.inputs), node)
        if primitive is ew.constant_primitive:
            return Const(node.params[0], node.dtype)
        if primitive is ew.iota_primitive:
            return ew.iota_primitive.position(position, node)
        if isinstance(primitive, views.Concatenate):
            return self._concatenate(node, position)
        if isinstance(primitive, Take):
            return self._take(node, position)
        assert isinstance(primitive, View), f"{node} has no expression"
        inner, conditions = primitive.index(position, node)
        live = []
        for index, size in conditions:
            low, high = index.range
            if high < 0 or low >= size:
                return Const(primitive.fill(node), node.dtype)
            if low < 0 or high >= size:
                live.append((index, size))
        value = self.value(node.inputs[0], inner)
        if not live:
            return value
        return Guard(tuple(live), value, Const(primitive.fill(node), node.dtype), node.dtype)

    def _concatenate(self, node: Node, position: Position) -> Expr:
        axis = node.params[0]
        end = node.shape[axis]
        result: Expr = Const(0, node.dtype)
        for i in reversed([i for i in node.inputs if i.shape[axis]]):
            end -= i.shape[axis]
            along = position[axis] - end
            inner = (*position[:axis], along, *position[axis + 1 :])
            result = Guard(((along, i.shape[axis]),), self.value(i, inner), result, node.dtype)
        return result

    def _take(self, node: Node, position: Position) -> Expr:
        x, *indices = node.inputs
        axes = node.params[0]
        rank = len(indices[0].shape)
        inner: list[Index] = []
        chosen: list[Expr] = []
        rest = iter(position[rank:])
        for d, size in enumerate(x.shape):
            if d in axes:
                chosen.append(self.value(indices[axes.index(d)], position[:rank]))
                inner.append(Index.of(Computed(chosen[-1], size)))
            else:
                inner.append(next(rest))
        value = self.value(x, tuple(inner))
        if (x not in self.storage or x in self.own) and x not in self.local:
            # An element that does not depend on the position (of a constant, say) must not lose the check of the index.
            for index in chosen:
                if not _contains(value, index):
                    valid = Op("ge", (index, Const(0, index.dtype)), bool_)
                    value = Op("where", (valid, value, value), node.dtype)
        return value

    def fold(self, node: Node, kept: Position, inner: Sequence[Axis], loops: Sequence[Axis]) -> tuple[Reduce, Expr]:
        """(the stage that folds a Reduce node at the kept position, its result in the node's dtype).

        `inner`: an axis for each folded dimension, ascending; `loops`: the same, outermost loop first.
        """
        primitive = node.primitive
        assert isinstance(primitive, ReducePrimitive)
        axes = node.params[0]
        along, across = iter(kept), iter(inner)
        x = node.inputs[0]
        position = tuple(Index.of(next(across)) if d in axes else next(along) for d in range(len(x.shape)))
        value = self.value(x, position)
        dtype = accumulator(node.dtype)
        if dtype is not node.dtype:
            value = Op("cast", (value,), dtype)
        stage = Reduce(primitive.combine, value, tuple(loops), dtype)
        result: Expr = Reduced(stage, dtype)
        if dtype is not node.dtype:
            result = Op("cast", (result,), node.dtype)
        return stage, result


def _contains(expr: Expr, part: Expr) -> bool:
    """Whether `part` occurs in an expression or in a position that it loads from."""
    waiting, seen = [expr], set()
    while waiting:
        e = waiting.pop()
        if e is part:
            return True
        if id(e) not in seen:
            seen.add(id(e))
            waiting.extend(children(e))
    return False
