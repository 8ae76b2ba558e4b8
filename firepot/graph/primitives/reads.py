"""What index expressions read, in terms of dimensions gone through by one axis each, and of sliding windows.

Axes are first cut where quotients and remainders say so, and turned around where they go backward; dimensions that
several axes go through in stretches, as groups of channels are, become several. Then x[n, o // 4 * 8 + c, i + a] is
read at n, at the upper part of o, at c and in windows: slices, permutations and `windows`, all with known transposes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from firepot.graph.index import Atom, Axis, Index, Quotient, Remainder
from firepot.graph.node import Node, Shape
from firepot.graph.primitives import views

Number = bool | int | float


def axis(number: int, size: int) -> Axis:
    """The loop axis that stands for a dimension of the result."""
    return Axis(f"i{number}", size)


def number_of(axis: Axis) -> int:
    """Of which dimension of the result it is the axis."""
    return int(axis.name[1:])


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

    @property
    def windows(self) -> list[Window]:
        return [d for d in self.dimensions if isinstance(d, Window)]

    @property
    def plain(self) -> list[int]:
        """The axes of the plain dimensions, in their order."""
        return [d.axis for d in self.dimensions if isinstance(d, Plain)]

    @property
    def axes(self) -> set[int]:
        return {*self.plain, *(a for w in self.windows for a in (w.outer, w.inner))}


class Parts:
    """Axes in parts: what `positions` says of the axes of `shape`, it says of these instead.

    shape: how far each of the original axes goes.
    sizes: how far each part goes; the parts of an axis follow one another, the outermost first.
    """

    def __init__(self, shape: Shape, reads: Iterable[Sequence[Index]]) -> None:
        positions = [p for read in reads for p in read]
        cuts: list[set[int]] = [set() for _ in shape]
        for p in positions:
            for atom, _ in p.terms:
                _find_cuts(atom, cuts)
        self.shape = shape
        self._parts = [_chain(size, found) for size, found in zip(shape, cuts, strict=True)]
        self.sizes: Shape = tuple(s for parts in self._parts for s in parts)
        self._turned: set[int] = set()  # parts that are gone through from their end
        for p in self.positions(positions):
            if len(p.terms) > 1:
                self._turned |= {number_of(a) for a, c in p.terms if isinstance(a, Axis) and c < 0}

    def count(self, axes: int) -> int:
        """The number of parts of the first so many axes."""
        return sum(len(parts) for parts in self._parts[:axes])

    def positions(self, positions: Sequence[Index]) -> list[Index]:
        whole, first = [], 0
        for parts in self._parts:
            total = Index()
            for n, size in enumerate(parts, first):
                part = Index.of(axis(n, size))
                total = total * size + (size - 1 - part if n in self._turned else part)
            whole.append(total)
            first += len(parts)
        return [p.substitute(lambda a: whole[number_of(a)] if isinstance(a, Axis) else None) for p in positions]

    def divide(self, x: Node) -> Node:
        """A value over the axes as one over their parts."""
        return views.flip(views.reshape(x, self.sizes), sorted(self._turned))

    def restore(self, x: Node, axes: int) -> Node:
        """A value over the parts of the first so many axes as one over the axes."""
        turned = sorted(n for n in self._turned if n < self.count(axes))
        return views.reshape(views.flip(x, turned), self.shape[:axes])


def _find_cuts(atom: Atom, cuts: list[set[int]]) -> tuple[int, int] | None:
    """Note where quotients and remainders cut an axis; (the axis, how much of it is below the atom's ones)."""
    if isinstance(atom, Axis):
        return number_of(atom), 1
    assert isinstance(atom, (Quotient, Remainder))
    inner = [(_find_cuts(a, cuts), c) for a, c in atom.value.terms]
    if len(inner) != 1 or inner[0][0] is None or inner[0][1] != 1 or atom.value.constant:
        return None
    number, below = inner[0][0]
    cuts[number].add(below * atom.divisor)
    return number, below * atom.divisor if isinstance(atom, Quotient) else below


def _chain(size: int, cuts: set[int]) -> list[int]:
    """The sizes of an axis's parts, which one after the other divide it; a cut that does not is left out."""
    parts, below = [], 1
    for cut in sorted(cuts):
        if cut % below == 0 and size % cut == 0 and below < cut < size:
            parts.append(cut // below)
            below = cut
    return [size // below, *reversed(parts)]


def analysed(x: Node, positions: Sequence[Index], fill: Number, folded: int, apart: Set[int] = frozenset()) -> Read | None:
    """The read of x at these positions in terms of plain dimensions and windows; None where it is none.

    Axes from number `folded` on are those that a fold goes over: they are the inner ones of windows. apart: axes that
    should be no window's outer one.
    """
    if 0 in x.shape:
        return None
    x, positions = _divided(x, positions, fill, folded, apart)
    found: list[Plain | Window | None] = []
    start, length, step = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    low, high = [0] * len(x.shape), [0] * len(x.shape)
    for d, (p, size) in enumerate(zip(positions, x.shape, strict=True)):
        terms = [(number_of(a), a.size, c) for a, c in p.terms if isinstance(a, Axis)]
        if len(terms) != len(p.terms) or len(terms) > 2:
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


def _divided(
    x: Node, positions: Sequence[Index], fill: Number, folded: int, apart: Set[int]
) -> tuple[Node, Sequence[Index]]:
    """x with a dimension for each stretch of axes, where several go through one without meeting."""
    positions, d = list(positions), 0
    while d < len(positions):
        stride = _stretch(positions[d], folded, apart)
        if stride is None:
            d += 1
            continue
        row, place = positions[d] // stride, positions[d] % stride
        rows = max(min(row.range[1] + 1, -(-x.shape[d] // stride)), 1)
        missing = max(rows * stride - x.shape[d], 0)
        x = views.pad(x, [0] * len(x.shape), [missing if e == d else 0 for e in range(len(x.shape))], fill)
        x = views.slice_(x, [0] * len(x.shape), (*x.shape[:d], rows * stride, *x.shape[d + 1 :]))
        x = views.reshape(x, (*x.shape[:d], rows, stride, *x.shape[d + 1 :]))
        positions[d : d + 1] = [row, place]
    return x, positions


def _stretch(p: Index, folded: int, apart: Set[int]) -> int | None:
    """The stride at which the position is a row and a place within the row, of axes of their own."""
    numbers = sorted(number_of(a) for a in p.axes())
    if len(numbers) == 2 and numbers[0] < folded <= numbers[1] and numbers[0] not in apart:
        return None  # the window of a convolution
    for stride in sorted({c for _, c in p.terms if c > 1}, reverse=True):
        parts = p // stride, p % stride
        if all(q.terms and all(isinstance(a, Axis) for a, _ in q.terms) for q in parts):
            return stride
    return None


def spread(read: Read, shape: Shape, fill: Number) -> Node:
    """The read as a value with an element for every position of its axes."""
    plain = [d for d, f in enumerate(read.dimensions) if isinstance(f, Plain)]
    windowed = [d for d, f in enumerate(read.dimensions) if isinstance(f, Window)]
    order = read.plain
    x = views.permute(read.value, (*plain, *windowed))
    found = read.windows
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


def grouped(read: Read, groups: Sequence[Sequence[int]], shape: Shape) -> Node:
    """The read's plain dimensions by these groups of axes, each group as one dimension; windowed ones follow."""
    place = {f.axis: d for d, f in enumerate(read.dimensions) if isinstance(f, Plain)}
    windowed = [d for d, f in enumerate(read.dimensions) if isinstance(f, Window)]
    x = views.permute(read.value, [*(place[a] for g in groups for a in g), *windowed])
    merged = [math.prod(shape[a] for a in g) for g in groups]
    return views.reshape(x, (*merged, *(read.value.shape[d] for d in windowed)))
