"""Sums of products of two reads, recognised as matrix products and convolutions.

Σ over k of a[…] · b[…] is a matrix product where every dimension is gone through by one axis: axes of the result that
both have are its batch, axes that one has its rows or columns, folded axes its inner dimension. It is a convolution
where one operand is read in windows, result axis · stride + folded axis · dilation + offset, and the other has the
folded axes as dimensions: the kernel; and one of size 1 where rows lie on both sides of the columns, as the positions
and the number of an image lie around its channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from firepot.graph.index import Index
from firepot.graph.node import Node, Shape
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.contract import contract, convolve
from firepot.graph.primitives.reduce import reduce
from firepot.graph.primitives.reindex import Plain, Read, Window, analysed, arranged

_Reads = Mapping[Node, tuple[Node, tuple[Index, ...]]]


def product_sum(node: Node, reads: _Reads, shape: Shape, kept: int, fill: bool | int | float) -> Node | None:
    """The sum of `node`, over all axes of `shape` from number `kept` on; None where it is no such sum.

    reads: what values were read from, and at which positions.
    """
    if node.primitive is not ew.mul_primitive or node.dtype.kind != "f" or 0 in shape:
        return None
    found = []
    for factor in node.inputs:
        if factor not in reads:
            return None
        x, positions = reads[factor]
        if fill != 0 and any(p.range[0] < 0 or p.range[1] >= s for p, s in zip(positions, x.shape, strict=True)):
            return None
        read = analysed(x, positions, 0, kept)
        if read is None:
            return None
        found.append(read)
    a, b = found
    ones = math.prod(shape[k] for k in range(kept, len(shape)) if k not in _axes(a) | _axes(b))
    if ones != 1:  # folded, but read by neither
        return None
    a, b = _alone(a, b, kept), _alone(b, a, kept)
    if _windows(b):
        a, b = b, a
    if _windows(b):
        return None
    return _convolution(a, b, shape, kept) if _windows(a) else _matrix_product(a, b, shape, kept)


def _windows(read: Read) -> list[Window]:
    return [d for d in read.dimensions if isinstance(d, Window)]


def _plain(read: Read) -> list[int]:
    return [d.axis for d in read.dimensions if isinstance(d, Plain)]


def _axes(read: Read) -> set[int]:
    return {*_plain(read), *(a for w in _windows(read) for a in (w.outer, w.inner))}


def _alone(read: Read, other: Read, kept: int) -> Read:
    """The read with those folded axes summed that the other does not have."""
    ours = [
        d for d, f in enumerate(read.dimensions)
        if isinstance(f, Plain) and f.axis >= kept and f.axis not in _axes(other)
    ]  # fmt: skip
    if not ours:
        return read
    return Read(reduce("sum", read.value, ours), tuple(f for d, f in enumerate(read.dimensions) if d not in ours))


def _as(read: Read, groups: Sequence[Sequence[int]], shape: Shape) -> Node:
    """The read's plain dimensions by these groups of axes, each group as one dimension; windowed ones follow."""
    place = {f.axis: d for d, f in enumerate(read.dimensions) if isinstance(f, Plain)}
    windowed = [d for d, f in enumerate(read.dimensions) if isinstance(f, Window)]
    x = views.permute(read.value, [*(place[a] for g in groups for a in g), *windowed])
    merged = [math.prod(shape[a] for a in g) for g in groups]
    return views.reshape(x, (*merged, *(read.value.shape[d] for d in windowed)))


def _matrix_product(a: Read, b: Read, shape: Shape, kept: int) -> Node | None:
    in_a, in_b = set(_plain(a)), set(_plain(b))
    batch = sorted(x for x in in_a & in_b if x < kept)
    inner = sorted(x for x in in_a & in_b if x >= kept)
    rows, columns = sorted(in_a - in_b), sorted(in_b - in_a)
    if not inner:
        return None
    if not batch:
        for x, y in ((a, b), (b, a)):
            pointwise = _pointwise(x, y, inner, shape, kept)
            if pointwise is not None:
                return pointwise
    product = contract(_as(a, (batch, rows, inner), shape), _as(b, (batch, inner, columns), shape))
    order = [*batch, *rows, *columns]
    return arranged(views.reshape(product, tuple(shape[x] for x in order)), order, shape[:kept])


def _pointwise(x: Read, kernel: Read, inner: Sequence[int], shape: Shape, kept: int) -> Node | None:
    """The product as a convolution of size 1, where x and the result have its channels between other dimensions: as a
    matrix product it would have to move all of them."""
    channels, axes = sorted(set(_plain(kernel)) - set(inner)), _plain(x)
    first = axes.index(inner[0])
    lead, rest = axes[:first], axes[first + len(inner) :]
    if not lead or not 1 <= len(rest) <= 3 or axes != [*lead, *inner, *rest] or [*lead, *channels, *rest] != [*range(kept)]:
        return None
    images = _as(x, (lead, inner, *([r] for r in rest)), shape)
    size, ones = images.shape[2:], (1,) * len(rest)
    filters = _as(kernel, (channels, inner), shape)
    filters = views.reshape(filters, (*filters.shape, *ones))
    result = convolve("forward", images, filters, size, ones, size, ones, (0,) * len(rest), ones, 1)
    return views.reshape(result, shape[:kept])


def _convolution(a: Read, b: Read, shape: Shape, kept: int) -> Node | None:
    windows = _windows(a)
    in_a, in_b = set(_plain(a)), set(_plain(b))
    taps, outer = [w.inner for w in windows], [w.outer for w in windows]
    if len(windows) > 3 or any(o >= kept or k < kept for o, k in zip(outer, taps, strict=True)):
        return None
    if not in_b.issuperset(taps) or in_b & set(outer):
        return None
    in_b -= set(taps)
    groups = sorted(x for x in in_a & in_b if x < kept)
    channels = sorted(x for x in in_a & in_b if x >= kept)
    batch, filters = sorted(in_a - in_b), sorted(in_b - in_a)
    x = _as(a, (batch, [*groups, *channels]), shape)
    kernel = _as(b, ([*groups, *filters], channels, *([t] for t in taps)), shape)
    out, size = tuple(shape[o] for o in outer), tuple(shape[t] for t in taps)
    low, high, padding = [0, 0], [0, 0], []
    for d, w in enumerate(windows):
        # A read from further in than the edge, or further out than the padding at both ends, moves the edge.
        last = (out[d] - 1) * w.stride + (size[d] - 1) * w.dilation + w.offset
        before = max(0, -w.offset)
        low.append(min(0, -w.offset))
        high.append(max(0, last - (x.shape[2 + d] - 1) - before))
        padding.append(before)
    x = views.pad(x, low, high, 0)
    result = convolve(
        "forward", x, kernel, x.shape[2:], size, out, tuple(w.stride for w in windows), tuple(padding),
        tuple(w.dilation for w in windows), math.prod(shape[g] for g in groups),
    )  # fmt: skip
    order = [*batch, *groups, *filters, *outer]
    return arranged(views.reshape(result, tuple(shape[o] for o in order)), order, shape[:kept])
