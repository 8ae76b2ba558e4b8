"""Enlargement of index maps: where the elements of views are at another size."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from firepot.graph import dtypes
from firepot.graph.node import Node, apply
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.gather import take
from firepot.transforms.enlarge.core import (
    Digit,
    Dimension,
    Enlargement,
    Rule,
    Unsupported,
    Value,
    canonical,
    clipped,
    fixed,
    sizes,
)


def _reshape(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    if 0 in a.shape or 0 in b.shape:
        raise Unsupported("a reshape of no elements")
    digits = split([d for dimension in x.digits for d in dimension], a.shape, b.shape)
    if digits is None:
        return e.regrouped(x, e.dimensions(a, b))
    return Value(views.reshape(x.node, b.shape), digits, x.clean)


def split(digits: Sequence[Digit], true_shape: Sequence[int], padded_shape: Sequence[int]) -> tuple[Dimension, ...] | None:
    """Row-major digits as those of the dimensions of these shapes; None where one would be in two of them."""
    waiting = list(digits)
    result: list[Dimension] = []
    for true, padded in zip(true_shape, padded_shape, strict=True):
        found: list[Digit] = []
        t = p = 1
        while (t, p) != (true, padded):
            if not waiting or padded % p or true % t:
                return None
            digit = waiting.pop(0)
            need_true, need_padded = true // t, padded // p
            if digit.padded > need_padded or digit.true > need_true:
                behind = digit.padded // need_padded
                if digit.padded % need_padded or digit.true != behind * need_true:
                    return None
                name = ("part", digit.name, behind)
                if isinstance(digit.name, tuple) and digit.name[0] == "times" and digit.name[2] == behind:
                    name = digit.name[1]
                waiting.insert(0, Digit(behind, behind))
                digit = Digit(need_true, need_padded, name if need_true != need_padded else None)
            found.append(digit)
            t, p = t * digit.true, p * digit.padded
        result.append(canonical(found))
    return None if any(d.padded != 1 for d in waiting) else tuple(result)


def _permute(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    order = b.params[0]
    if a.params != b.params:
        raise Unsupported("a permutation that depends on a size")
    return Value(views.permute(x.node, order), tuple(x.digits[d] for d in order), x.clean)


def _expand(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    inner_a, inner_b = a.inputs[0].shape, b.inputs[0].shape
    extra = len(b.shape) - len(inner_b)
    digits = list(e.dimensions(a, b))
    for d, (t, p) in enumerate(zip(inner_a, inner_b, strict=True)):
        if (t == 1) != (p == 1):
            raise Unsupported("broadcasting of a size that is 1 at times")
        if p != 1:
            digits[extra + d] = x.digits[d]
    return Value(views.expand(x.node, b.shape), tuple(digits))


def pad(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    if a.params != b.params:
        raise Unsupported("padding that depends on a size")
    low, high, value = b.params
    moved = [d for d in range(len(b.shape)) if low[d] or high[d]]
    x = e.single(x, moved)
    digits = list(x.digits)
    for d in moved:
        digits[d] = _resized(e, x.digits[d], a.shape[d], b.shape[d], ("pad", low[d], high[d]))
    node = e.masked(x, [d for d in moved if high[d] > 0 or low[d] > 0], value)
    return Value(views.pad(node, low, high, value), tuple(digits))


def _resized(e: Enlargement, before: Dimension, true: int, padded: int, how: Hashable) -> Dimension:
    """A dimension made of `before` in a way that fixes its size."""
    if true == padded:
        return fixed(true)
    name = (how, before[0].name) if before and before[0].varies else None
    return (Digit(true, padded, name),) if name is not None else e.dimension(true, padded)


def _slice(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    (start_a, length_a, step_a), (start, length, step) = a.params, b.params
    shape_a, shape = a.inputs[0].shape, b.inputs[0].shape
    moved = [
        d
        for d in range(len(length))
        if (start[d], length[d], step[d]) != (0, shape[d], 1) or (start_a[d], length_a[d], step_a[d]) != (0, shape_a[d], 1)
    ]
    x = e.single(x, moved)
    node, digits = x.node, list(x.digits)
    whole_start, whole_length, whole_step = [0] * len(length), list(node.shape), [1] * len(length)
    for d in moved:
        same = start[d] == start_a[d] and step[d] == step_a[d]
        digits[d] = _resized(e, x.digits[d], length_a[d], length[d], ("slice", step[d], same))
        if same and (step[d] > 0 or not any(g.varies for g in x.digits[d] + digits[d])):
            whole_start[d], whole_length[d], whole_step[d] = start[d], length[d], step[d]
            continue
        # From an end that moves, or at a distance that varies: by computed positions.
        index = ew.iota(length[d], dtypes.int64)
        first = views.expand(e.number(start_a[d], dtypes.int64), index.shape)
        index = ew.add(ew.mul(index, e._spread(step_a[d], step[d] == step_a[d], length[d])), first)
        node = _taken_along(node, clipped(index, node.shape[d]), d)
        whole_length[d] = length[d]
    node = views.slice_(node, whole_start, whole_length, whole_step)
    return Value(node, tuple(digits))


def _taken_along(x: Node, index: Node, axis: int) -> Node:
    """x at the positions of a vector along one axis."""
    found = take(x, [index], (axis,))
    rank = len(x.shape)
    return views.permute(found, (*range(1, axis + 1), 0, *range(axis + 1, rank)))


def unslice(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    (shape_a, start_a, step_a), (shape, start, step) = a.params, b.params
    inner_a, inner = a.inputs[0].shape, b.inputs[0].shape
    moved = [
        d
        for d in range(len(shape))
        if (shape[d], start[d], step[d]) != (inner[d], 0, 1) or (shape_a[d], start_a[d], step_a[d]) != (inner_a[d], 0, 1)
    ]
    x = e.single(x, moved)
    digits = list(x.digits)
    for d in moved:
        digits[d] = _resized(e, x.digits[d], shape_a[d], shape[d], ("unslice", step[d]))
    node = e.masked(x, moved)
    whole_shape, whole_start, whole_step = list(node.shape), [0] * len(shape), [1] * len(shape)
    for d in moved:
        same = start[d] == start_a[d] and step[d] == step_a[d]
        if same and (step[d] > 0 or not any(g.varies for g in digits[d] + x.digits[d])):
            whole_shape[d], whole_start[d], whole_step[d] = shape[d], start[d], step[d]
            continue
        # result[j] = x[(j − start) / step], where that is a position of x.
        position = ew.iota(shape[d], dtypes.int64)
        first = views.expand(e.number(start_a[d], dtypes.int64), position.shape)
        away = ew.sub(position, first) if step[d] > 0 else ew.sub(first, position)
        by = e._spread(abs(step_a[d]), step[d] == step_a[d], shape[d])
        index = ew.binary("floordiv", away, by)
        there = ew.and_(ew.ge(away, ew.like(away, 0)), ew.compare("lt", index, ew.like(index, node.shape[d])))
        there = ew.and_(there, ew.eq(ew.binary("remainder", away, by), ew.like(away, 0)))
        node = _taken_along(node, clipped(index, node.shape[d]), d)
        line = (1,) * d + (shape[d],) + (1,) * (len(shape) - d - 1)
        node = ew.where(views.expand(views.reshape(there, line), node.shape), node, ew.like(node, 0))
        whole_shape[d] = shape[d]
    if moved:
        node = views.unslice(node, tuple(whole_shape), whole_start, whole_step)
    return Value(node, tuple(digits))


def _concatenate(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    axis = b.params[0]
    if a.params != b.params:
        raise Unsupported("a concatenation along an axis that depends on a size")
    others = [d for d in range(len(b.shape)) if d != axis]
    inputs = e.agreed(inputs, [others] * len(inputs))
    digits = list(inputs[0].digits)
    nodes = [v.node for v in inputs]
    if not any(v.varying([axis]) for v in inputs):
        digits[axis] = fixed(b.shape[axis])
        return Value(views.concatenate(nodes, axis), tuple(digits), all(v.clean for v in inputs))
    if all(sizes(v.digits[axis]) == sizes(digits[axis]) for v in inputs) and len(inputs) > 1:  # equal parts, one after another with their surplus
        digits[axis] = canonical((Digit(len(inputs), len(inputs)), *digits[axis]))
        return Value(views.concatenate(nodes, axis), tuple(digits), all(v.clean for v in inputs))
    inputs = [e.single(v, [axis]) for v in inputs]
    digits[axis] = e.dimension(a.shape[axis], b.shape[axis])
    if not any(v.varying([axis]) for v in inputs[:-1]):
        return Value(views.concatenate([v.node for v in inputs], axis), tuple(digits))
    # What follows a part that varies begins where that part truly ends.
    position = ew.iota(b.shape[axis], dtypes.int64)
    line = (1,) * axis + (b.shape[axis],) + (1,) * (len(b.shape) - axis - 1)
    result, end = None, 0
    for v, part in zip(inputs, a.inputs, strict=True):
        if not v.node.shape[axis]:
            continue
        first = views.expand(e.number(end, dtypes.int64), position.shape)
        here = _taken_along(v.node, clipped(ew.sub(position, first), v.node.shape[axis]), axis)
        begun = views.expand(views.reshape(ew.ge(position, first), line), b.shape)
        result = here if result is None else ew.where(begun, here, result)
        end += part.shape[axis]
    assert result is not None
    return Value(result, tuple(digits))


def _windows(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    """The three maps of sliding windows: outside of what they read lies what the surplus is made to be."""
    (x,) = inputs
    sized = {"windows": (0,), "spread_windows": (0, 1), "pick_windows": (0, 1)}[b.primitive.name]
    if any(p != q for n, (p, q) in enumerate(zip(a.params, b.params, strict=True)) if n not in sized):
        raise Unsupported("sliding windows that depend on a size")
    rank = len(b.params[0])
    lead = len(x.node.shape) - rank * (1 if b.primitive.name == "windows" else 2)
    inner = range(lead, lead + rank)
    x = e.single(x, inner)
    value = b.params[5] if b.primitive.name == "windows" else 0
    digits = [*x.digits[:lead], *e.dimensions(a, b)[lead:]]
    return Value(apply(b.primitive, (e.masked(x, inner, value),), b.params), tuple(digits))


RULES: dict[type, Rule] = {
    type(views.reshape_primitive): _reshape,
    type(views.permute_primitive): _permute,
    type(views.expand_primitive): _expand,
    type(views.pad_primitive): pad,
    type(views.slice_primitive): _slice,
    type(views.unslice_primitive): unslice,
    views.Concatenate: _concatenate,
    type(views.windows_primitive): _windows,
    type(views.spread_windows): _windows,
    type(views.pick_windows): _windows,
}
