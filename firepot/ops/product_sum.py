"""Sums of products of reads, recognised as matrix products and convolutions.

Σ over k of a[…] · b[…] is a matrix product where every dimension is gone through by one axis: axes of the result that
both have are its batch, axes that one has its rows or columns, folded axes its inner dimension. It is a convolution
where one operand is read in windows, result axis · stride + folded axis · dilation + offset, and the other has the
folded axes as dimensions: the kernel; and one of size 1 where rows lie on both sides of the columns, as the positions
and the number of an image lie around its channels. Axes of the result that both have are its groups, o // 4 among them
(see `reads`): with as many as channels it is depthwise. Further factors are multiplied into the operand that has all of
their axes, or into the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from firepot.graph.index import Index
from firepot.graph.node import Node, Shape
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.contract import contract, convolve
from firepot.graph.primitives.reads import Parts, Plain, Read, Window, analysed, arranged, grouped, number_of
from firepot.graph.primitives.reduce import reduce

_Reads = Mapping[Node, tuple[Node, tuple[Index, ...]]]


def product_sum(node: Node, reads: _Reads, shape: Shape, kept: int, fill: bool | int | float) -> Node | None:
    """The sum of `node`, over all axes of `shape` from number `kept` on; None where it is no such sum.

    reads: what values were read from, and at which positions.
    """
    if node.dtype.kind != "f" or 0 in shape:
        return None
    factors = _factors(node, reads)
    numbers = [f for f in factors if f not in reads]
    read = [reads[f] for f in factors if f in reads]
    if len(read) < 2 or any(ew.constant_value(n) is None for n in numbers):
        return None
    if fill != 0 and any(
        p.range[0] < 0 or p.range[1] >= s for x, positions in read for p, s in zip(positions, x.shape, strict=True)
    ):
        return None
    parts = Parts(shape, [positions for _, positions in read])
    first_folded = parts.count(kept)
    found = [parts.positions(positions) for _, positions in read]
    axes = [{number for p in positions for number in _numbers(p)} for positions in found]
    operands = []
    for i, (x, _) in enumerate(read):
        others = set[int]().union(*(a for j, a in enumerate(axes) if j != i))
        operand = analysed(x, found[i], 0, first_folded, others)
        if operand is None:
            return None
        operands.append(operand)
    sizes = parts.sizes
    ones = math.prod(s for k, s in enumerate(sizes) if k >= first_folded and not any(k in r.axes for r in operands))
    if ones != 1:  # folded, but not read
        return None
    operands, scales = _merged(operands, first_folded, sizes)
    if len(operands) != 2:
        return None
    a, b = operands
    a, b = _alone(a, b, first_folded), _alone(b, a, first_folded)
    if b.windows:
        a, b = b, a
    if b.windows:
        return None
    result = (_convolution if a.windows else _matrix_product)(a, b, sizes, first_folded)
    if result is None:
        return None
    for scale in scales:
        result = ew.mul(result, arranged(scale.value, scale.plain, sizes[:first_folded]))
    for number in numbers:
        value = ew.constant_value(number)
        assert value is not None
        result = ew.mul(result, ew.like(result, value))
    return parts.restore(result, kept)


def _factors(node: Node, reads: _Reads) -> list[Node]:
    if node in reads or node.primitive is not ew.mul_primitive:
        return [node]
    return [f for n in node.inputs for f in _factors(n, reads)]


def _numbers(position: Index) -> list[int]:
    return [number_of(a) for a in position.axes()]


def _merged(operands: list[Read], kept: int, shape: Shape) -> tuple[list[Read], list[Read]]:
    """(the operands, down to two where they can be, those to multiply the result with).

    Each goes where there are fewest elements to multiply.
    """
    scales: list[Read] = []
    for factor in sorted(operands, key=lambda r: r.value.size):
        if len(operands) == 2:
            break
        if factor.windows:
            continue
        rest = [r for r in operands if r is not factor]
        into = min((r for r in rest if factor.axes <= {*r.plain}), key=lambda r: r.value.size, default=None)
        if all(a < kept for a in factor.axes) and (into is None or into.value.size > math.prod(shape[:kept])):
            scales.append(factor)
        elif into is not None:
            places = {a: p for p, a in enumerate(sorted(into.plain))}
            own = tuple(shape[a] for a in sorted(into.plain))
            along = arranged(factor.value, [places[a] for a in factor.plain], own)
            order = [places[f.axis] if isinstance(f, Plain) else None for f in into.dimensions]
            along = views.permute(along, [o for o in order if o is not None])
            sizes = tuple(s if o is not None else 1 for s, o in zip(into.value.shape, order, strict=True))
            along = views.expand(views.reshape(along, sizes), into.value.shape)
            rest[rest.index(into)] = Read(ew.mul(into.value, along), into.dimensions)
        else:
            continue
        operands = rest
    return operands, scales


def _alone(read: Read, other: Read, kept: int) -> Read:
    """The read with those folded axes summed that the other does not have."""
    ours = [
        d for d, f in enumerate(read.dimensions)
        if isinstance(f, Plain) and f.axis >= kept and f.axis not in other.axes
    ]  # fmt: skip
    if not ours:
        return read
    return Read(reduce("sum", read.value, ours), tuple(f for d, f in enumerate(read.dimensions) if d not in ours))


def _matrix_product(a: Read, b: Read, shape: Shape, kept: int) -> Node | None:
    in_a, in_b = set(a.plain), set(b.plain)
    batch = sorted(x for x in in_a & in_b if x < kept)
    inner = sorted(x for x in in_a & in_b if x >= kept)
    rows, columns = sorted(in_a - in_b), sorted(in_b - in_a)
    if not inner:
        return None
    for x, y in ((a, b), (b, a)):
        pointwise = _pointwise(x, y, batch, inner, shape, kept)
        if pointwise is not None:
            return pointwise
    product = contract(grouped(a, (batch, rows, inner), shape), grouped(b, (batch, inner, columns), shape))
    order = [*batch, *rows, *columns]
    return arranged(views.reshape(product, tuple(shape[x] for x in order)), order, shape[:kept])


def _pointwise(
    x: Read, kernel: Read, groups: Sequence[int], inner: Sequence[int], shape: Shape, kept: int
) -> Node | None:
    """The product as a convolution of size 1, where x and the result have its channels between other dimensions: as a
    matrix product it would have to move all of them."""
    channels, axes = sorted(set(kernel.plain) - {*groups, *inner}), x.plain
    middle = [*groups, *inner]
    first = axes.index(middle[0])
    lead, rest = axes[:first], axes[first + len(middle) :]
    if not lead or not 1 <= len(rest) <= 3 or axes != [*lead, *middle, *rest]:
        return None
    if [*lead, *groups, *channels, *rest] != [*range(kept)]:
        return None
    images = grouped(x, (lead, middle, *([r] for r in rest)), shape)
    size, ones = images.shape[2:], (1,) * len(rest)
    filters = grouped(kernel, ([*groups, *channels], inner), shape)
    filters = views.reshape(filters, (*filters.shape, *ones))
    count = math.prod(shape[g] for g in groups)
    result = convolve("forward", images, filters, size, ones, size, ones, (0,) * len(rest), ones, count)
    return views.reshape(result, shape[:kept])


def _convolution(a: Read, b: Read, shape: Shape, kept: int) -> Node | None:
    in_a, in_b = set(a.plain), set(b.plain)
    taps, outer = [w.inner for w in a.windows], [w.outer for w in a.windows]
    if len(outer) > 3 or any(o >= kept or k < kept for o, k in zip(outer, taps, strict=True)):
        return None
    if not in_b.issuperset(taps) or in_b & set(outer):
        return None
    groups = sorted(x for x in in_a & in_b if x < kept)
    channels = sorted(x for x in in_a & in_b if x >= kept)
    filters = sorted(in_b - in_a - set(taps))
    by_weight = math.prod(shape[t] for t in taps) > math.prod(shape[o] for o in outer)
    if not by_weight:
        a, b, shape = _with_single_taps(a, b, shape)
    batch = sorted(set(a.plain) - in_b)
    windows = a.windows
    taps, outer = [w.inner for w in windows], [w.outer for w in windows]
    out, size = tuple(shape[o] for o in outer), tuple(shape[t] for t in taps)
    if by_weight:  # few places of a window that goes over all of an image: the gradient of a convolution's weight
        x = grouped(a, (channels, [*groups, *batch]), shape)
        kernel = grouped(b, (channels, [*groups, *filters], *([t] for t in taps)), shape)
    else:
        x = grouped(a, (batch, [*groups, *channels]), shape)
        kernel = grouped(b, ([*groups, *filters], channels, *([t] for t in taps)), shape)
    low, high, padding = [0, 0], [0, 0], []
    for d, w in enumerate(windows):
        # A read from further in than the edge, or further out than the padding at both ends, moves the edge.
        last = (out[d] - 1) * w.stride + (size[d] - 1) * w.dilation + w.offset
        before = max(0, -w.offset)
        low.append(min(0, -w.offset))
        high.append(max(0, last - (x.shape[2 + d] - 1) - before))
        padding.append(before)
    x = views.pad(x, low, high, 0)
    strides, dilations = tuple(w.stride for w in windows), tuple(w.dilation for w in windows)
    count = math.prod(shape[g] for g in groups)
    if by_weight:
        result = convolve(
            "weight_grad", x, kernel, x.shape[2:], out, size, dilations, tuple(padding), strides, count
        )  # fmt: skip
        order = [*groups, *filters, *batch, *outer]
    else:
        result = convolve("forward", x, kernel, x.shape[2:], size, out, strides, tuple(padding), dilations, count)
        order = [*batch, *groups, *filters, *outer]
    return arranged(views.reshape(result, tuple(shape[o] for o in order)), order, shape[:kept])


def _with_single_taps(a: Read, b: Read, shape: Shape) -> tuple[Read, Read, Shape]:
    """The same sum where dimensions of images that are read plainly, between or behind windows and channels, are
    windows of one tap: they stay in place then."""
    first = next(d for d, f in enumerate(a.dimensions) if isinstance(f, Window) or f.axis in b.axes)
    for d, f in enumerate(a.dimensions):
        if d > first and isinstance(f, Plain) and f.axis not in b.axes and len(a.windows) < 3:
            tap, shape = len(shape), (*shape, 1)
            a = Read(a.value, (*a.dimensions[:d], Window(f.axis, tap, 1, 1, 0), *a.dimensions[d + 1 :]))
            b = Read(views.reshape(b.value, (*b.value.shape, 1)), (*b.dimensions, Plain(tap)))
    return a, b, shape
