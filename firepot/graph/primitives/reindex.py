"""Index maps written as expressions: result[i, j, …] = x[p(i, j, …), q(i, j, …), …], or a constant outside of x.

Most such maps are slices, permutations, repetitions and sliding windows, and become those, whose transposes are known
maps too. What is left (diagonals, quotients, three axes in one position) is a view of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.index import Axis, Index, Quotient, Remainder
from firepot.graph.node import Batching, Node, Shape, View, apply
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.gather import scatter

Gradients = Sequence[Node | None]
Number = bool | int | float


def axis(number: int, size: int) -> Axis:
    """The loop axis that stands for a dimension of the result."""
    return Axis(f"i{number}", size)


def position_values(index: Index, shape: Shape) -> Node:
    """An index expression over the axes of `shape` as int64 values of that shape."""
    total = ew.full(shape, index.constant, dtypes.int64)
    for atom, coefficient in index.terms:
        if isinstance(atom, Axis):
            number = int(atom.name[1:])
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
        zeros = ew.full(x.shape, 0, g.dtype)
        if not x.shape or not x.size:
            from firepot.graph.primitives.reduce import reduce

            return (reduce("sum", g, tuple(range(len(shape)))) if not x.shape else zeros,)
        values = [position_values(p, shape) for p in positions]
        if any(p.range[0] < 0 or p.range[1] >= s for p, s in zip(positions, x.shape, strict=True)):
            inside = within(values, x.shape)
            g = ew.where(inside, g, ew.like(g, 0))
            values = [ew.where(inside, v, ew.like(v, 0)) for v in values]
        return (scatter(zeros, g, values, tuple(range(len(x.shape))), "add"),)

    def index(self, index: tuple[Index, ...], node: Node) -> views.Mapped:
        _, positions, _ = node.params

        def replace(atom: Any) -> Index | None:
            return index[int(atom.name[1:])] if isinstance(atom, Axis) else None

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
            return Index.of(axis(int(atom.name[1:]) + 1, atom.size)) if isinstance(atom, Axis) else None

        moved = tuple(p.substitute(shifted) for p in positions)
        examples = Index.of(axis(0, batching.size))
        return apply(self, inputs, ((batching.size, *shape), (examples, *moved), fill))


reindex_primitive = _Reindex()


@dataclass(frozen=True)
class Plain:
    """A dimension gone through by one axis, from 0 on."""

    axis: int


@dataclass(frozen=True)
class Window:
    """A dimension read at outer · stride + inner · dilation + offset, outside of which it is `fill`."""

    outer: int
    inner: int
    stride: int
    dilation: int
    offset: int


@dataclass(frozen=True)
class Read:
    """A value with what each of its dimensions is read at; no axis occurs twice."""

    value: Node
    dimensions: tuple[Plain | Window, ...]


def analysed(x: Node, positions: Sequence[Index], fill: Number, folded: int) -> Read | None:
    """The read of x at these positions in terms of plain dimensions and windows; None where it is none.

    Axes from number `folded` on are those that a fold goes over: they are the inner ones of windows.
    """
    found: list[Plain | Window | None] = []
    start, length, step = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    low, high = [0] * len(x.shape), [0] * len(x.shape)
    for d, (p, size) in enumerate(zip(positions, x.shape, strict=True)):
        terms = [(int(a.name[1:]), a.size, c) for a, c in p.terms if isinstance(a, Axis)]
        if len(terms) != len(p.terms) or len(terms) > 2 or size == 0:
            return None
        if len(terms) == 2:
            outer, inner = sorted(terms, key=lambda t: (t[0] >= folded, -abs(t[2]), t[0]))
            if outer[2] <= 0 or inner[2] <= 0:
                return None
            found.append(Window(outer[0], inner[0], outer[2], inner[2], p.constant))
            continue
        first, last = p.range
        low[d], high[d] = max(0, -first), max(0, last - size + 1)
        start[d] = p.constant + low[d]
        length[d], step[d] = (terms[0][1], terms[0][2]) if terms else (1, 1)
        found.append(Plain(terms[0][0]) if terms else None)
    used = [a for f in found if f for a in ([f.axis] if isinstance(f, Plain) else [f.outer, f.inner])]
    if len(set(used)) != len(used):
        return None
    x = views.slice_(views.pad(x, low, high, fill), start, length, step)
    kept = tuple(s for s, f in zip(x.shape, found, strict=True) if f is not None)
    return Read(views.reshape(x, kept), tuple(f for f in found if f is not None))


def spread(read: Read, shape: Shape, fill: Number) -> Node:
    """The read as a value with an element for every position of its axes."""
    plain = [d for d, f in enumerate(read.dimensions) if isinstance(f, Plain)]
    windowed = [d for d, f in enumerate(read.dimensions) if isinstance(f, Window)]
    order = [f.axis for f in read.dimensions if isinstance(f, Plain)]
    x = views.permute(read.value, (*plain, *windowed))
    found = [f for f in read.dimensions if isinstance(f, Window)]
    if found:
        outer, inner = [f.outer for f in found], [f.inner for f in found]
        x = views.windows(
            x, [shape[a] for a in outer], [shape[a] for a in inner], [f.stride for f in found],
            [f.dilation for f in found], [-f.offset for f in found], fill,
        )  # fmt: skip
        order += [*outer, *inner]
    return arranged(x, order, shape)


def arranged(x: Node, order: Sequence[int], shape: Shape) -> Node:
    """A value whose dimensions are these axes of `shape`, in the order of `shape`, repeated along the others."""
    x = views.permute(x, sorted(range(len(order)), key=lambda d: order[d]))
    present = set(order)
    x = views.reshape(x, tuple(s if a in present else 1 for a, s in enumerate(shape)))
    return views.expand(x, shape)


def reindex(x: Node, shape: Shape, positions: Sequence[Index], fill: Number, folded: int) -> Node:
    """x at `positions`, over the axes of `shape`."""
    if 0 not in shape:
        read = analysed(x, positions, fill, folded)
        if read is not None:
            return spread(read, shape, fill)
    if not x.size:
        return ew.full(shape, fill, x.dtype)
    return apply(reindex_primitive, (x,), (shape, tuple(positions), fill))
