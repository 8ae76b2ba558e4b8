"""Index maps written as expressions: result[i, j, …] = x[p(i, j, …), q(i, j, …), …], or a constant outside of x.

Most such maps are slices, permutations, repetitions and sliding windows, and become those, whose transposes are known
maps too. What is left (diagonals, three axes that meet in one position) is a view of its own. Its transpose is a sum
over such a view wherever positions can be solved for axes: x[i, i + j] gets its gradient from g[s, t - s].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.index import Axis, Index, Quotient, Remainder
from firepot.graph.node import Batching, Node, Shape, View, apply
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.gather import scatter
from firepot.graph.primitives.reads import Number, Parts, analysed, axis, number_of, spread
from firepot.graph.primitives.reduce import reduce

Gradients = Sequence[Node | None]


def position_values(index: Index, shape: Shape) -> Node:
    """An index expression over the axes of `shape` as int64 values of that shape."""
    total = ew.full(shape, index.constant, dtypes.int64)
    for atom, coefficient in index.terms:
        if isinstance(atom, Axis):
            number = number_of(atom)
            column = (1,) * number + (atom.size,) + (1,) * (len(shape) - number - 1)
            value = views.expand(views.reshape(ew.iota(atom.size, dtypes.int64), column), shape)
        else:
            assert isinstance(atom, (Quotient, Remainder))
            inner = position_values(atom.value, shape)
            operation = "floordiv" if isinstance(atom, Quotient) else "remainder"
            value = ew.binary(operation, inner, ew.like(inner, atom.divisor))
        total = ew.add(total, ew.mul(value, ew.like(value, coefficient)))
    return total


def within(positions: Sequence[Node], sizes: Sequence[int]) -> Node:
    """bool: where every position lies in 0 … size − 1."""
    result = ew.full(positions[0].shape, True, dtypes.bool_)
    for p, size in zip(positions, sizes, strict=True):
        result = ew.and_(result, ew.and_(ew.ge(p, ew.like(p, 0)), ew.compare("lt", p, ew.like(p, size))))
    return result


class _Reindex(View):
    """params: (shape, positions, fill): an Index over the axes of the result for each dimension of the input."""

    name = "reindex"
    filling = 2

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return params[0], inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        shape, positions, _ = node.params
        x = node.inputs[0]
        if not x.shape or not x.size or 0 in shape:
            zeros = ew.full(x.shape, 0, g.dtype)
            return (zeros if x.shape else reduce("sum", g, range(len(shape))),)
        return (gathered(g, positions, x.shape),)

    def index(self, index: tuple[Index, ...], node: Node) -> views.Mapped:
        _, positions, _ = node.params

        def replace(atom: Any) -> Index | None:
            return index[number_of(atom)] if isinstance(atom, Axis) else None

        inner = tuple(p.substitute(replace) for p in positions)
        conditions = []
        for p, size in zip(inner, node.inputs[0].shape, strict=True):
            low, high = p.range
            if low < 0 or high >= size:
                conditions.append((p, size))
        return inner, tuple(conditions)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        shape, positions, fill = node.params

        def shifted(atom: Any) -> Index | None:
            return Index.of(axis(number_of(atom) + 1, atom.size)) if isinstance(atom, Axis) else None

        moved = tuple(p.substitute(shifted) for p in positions)
        examples = Index.of(axis(0, batching.size))
        return apply(self, inputs, ((batching.size, *shape), (examples, *moved), fill))


reindex_primitive = _Reindex()


def reindex(x: Node, shape: Shape, positions: Sequence[Index], fill: Number, folded: int) -> Node:
    """x at `positions`, over the axes of `shape`."""
    if 0 not in shape:
        parts = Parts(shape, [positions])
        read = analysed(x, parts.positions(positions), fill, parts.count(folded))
        if read is not None:
            return parts.restore(spread(read, parts.sizes, fill), len(shape))
    if not x.size:
        return ew.full(shape, fill, x.dtype)
    return apply(reindex_primitive, (x,), (shape, tuple(positions), fill))


def gathered(g: Node, positions: Sequence[Index], shape: Shape) -> Node:
    """The transpose of reading: for each place of `shape`, the sum of those g that `positions` put there.

    positions: over the axes of g, one for each dimension of the result. What they put outside of it is dropped.
    """
    parts = Parts(g.shape, [positions])
    g, positions = parts.divide(g), parts.positions(positions)
    used = sorted({number_of(a) for p in positions for a in p.axes()})
    g = reduce("sum", g, [n for n in range(len(g.shape)) if n not in used])
    place = {n: Index.of(axis(m, g.shape[m])) for m, n in enumerate(used)}
    positions = [p.substitute(lambda a: place[number_of(a)] if isinstance(a, Axis) else None) for p in positions]
    found = _Inverse(g.shape, positions, shape)
    if not found.solved or math.prod(found.shape) > 8 * (g.size + math.prod(shape)):
        return _scattered(g, positions, shape)
    value = reindex(g, found.shape, found.places, 0, len(shape))
    if found.zero:
        right = ew.full(found.shape, True, dtypes.bool_)
        for index in found.zero:
            v = position_values(index, found.shape)
            right = ew.and_(right, ew.eq(v, ew.like(v, 0)))
        value = ew.where(right, value, ew.like(value, 0))
    return reduce("sum", value, range(len(shape), len(found.shape)))


def _scattered(g: Node, positions: Sequence[Index], shape: Shape) -> Node:
    """`gathered`, one element of g after the other."""
    values = [position_values(p, g.shape) for p in positions]
    if any(p.range[0] < 0 or p.range[1] >= s for p, s in zip(positions, shape, strict=True)):
        inside = within(values, shape)
        g = ew.where(inside, g, ew.like(g, 0))
        values = [ew.where(inside, v, ew.like(v, 0)) for v in values]
    return scatter(ew.full(shape, 0, g.dtype), g, values, tuple(range(len(shape))), "add")


class _Inverse:
    """Axes solved for from positions: where the elements are that positions put at a given place.

    shape: of the places, followed by how far free axes go: each of their values may give one more element.
    places: for each original axis, where on it the element is; outside of it there is none.
    zero: what must be zero for the element to be at the place.
    solved: False where a position could not be solved for any axis.
    """

    def __init__(self, sizes: Shape, positions: Sequence[Index], shape: Shape) -> None:
        self.shape = shape
        self.zero: list[Index] = []
        self.solved = True
        self._sizes = sizes
        self._known: dict[int, Index] = {n: Index() for n, s in enumerate(sizes) if s == 1}
        waiting = list(range(len(shape)))
        while waiting:  # what fewest axes determine comes first: x[i + j, i] gives i, then j
            d = min(waiting, key=lambda d: len({number_of(a) for a in positions[d].axes()} - self._known.keys()))
            waiting.remove(d)
            self._solve(positions[d], Index.of(axis(d, shape[d])))
        self.places = [self._value(n) for n in range(len(sizes))]

    def _free(self, size: int) -> Index:
        self.shape = (*self.shape, size)
        return Index.of(axis(len(self.shape) - 1, size))

    def _value(self, number: int) -> Index:
        if number not in self._known:
            self._known[number] = self._free(self._sizes[number])
        return self._known[number]

    def _of_places(self, index: Index) -> Index:
        return index.substitute(lambda a: self._value(number_of(a)) if isinstance(a, Axis) else None)

    def _solve(self, position: Index, place: Index) -> None:
        """Make one axis known that puts the position at the place, whatever the others are."""
        unknown = [
            (a, c) for a, c in position.terms
            if isinstance(a, Axis) and number_of(a) not in self._known and a not in (position - Index(((a, c),))).axes()
        ]  # fmt: skip
        if unknown:
            atom, c = min(unknown, key=lambda t: (abs(t[1]), -t[0].size))
            rest = place - self._of_places(position - Index(((atom, c),)))
            rest, c = (rest, c) if c > 0 else (-rest, -c)
            self._known[number_of(atom)] = rest // c
            self._must_be_zero(rest % c)
        elif all(number_of(a) in self._known for a in position.axes()):
            self._must_be_zero(self._of_places(position) - place)
        elif len(position.terms) == 1 and position.terms[0][1] == 1:
            inner = position.terms[0][0]
            assert isinstance(inner, (Quotient, Remainder))
            value, divisor = inner.value, inner.divisor
            place = place - position.constant
            if isinstance(inner, Quotient):
                self._solve(value, place * divisor + self._free(divisor))
            else:
                low, high = (v // divisor for v in value.range)
                self._must_be_zero(place // divisor)
                self._solve(value, place + (self._free(high - low + 1) + low) * divisor)
        else:
            self.solved = False

    def _must_be_zero(self, index: Index) -> None:
        if index != Index():
            self.zero.append(index)
