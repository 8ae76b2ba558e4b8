"""Enlargement of loops: every step is enlarged; how many there are must not vary.

A loop reads and writes rows with room behind them, and blocks in which the rows of several results follow one another
(see `graph.primitives.loop`). The enlarged loop has the blocks of the larger one, so that what is cut out of them is
cut as in the larger graph; what is valid in the parts is known from the results of the enlarged body.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from firepot.graph.node import Elementwise, Node, apply, data
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.loop import Body, Piece, pieces, pitch_of
from firepot.transforms.body import row_of
from firepot.transforms.enlarge import index_maps
from firepot.transforms.enlarge.core import (
    Digit,
    Dimension,
    Enlargement,
    Packed,
    Rule,
    Unsupported,
    Value,
    canonical,
    fixed,
    sizes,
)
from firepot.transforms.loop import Loop, loop_primitive


@dataclass(frozen=True)
class _Rows(Packed):
    """Rows with room behind them, (rows, pitch) or one after another (rows · pitch,).

    row:   the digits of one
    pitch: from one to the next, in the true and in the larger graph
    """

    row: Dimension = ()
    pitch: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Block(Packed):
    """The results of a loop of one dtype. parts: their places in the true and in the larger block, digits of a row."""

    parts: tuple[tuple[Piece, Piece, Dimension], ...] = ()


def _rows(node: Node, row: Dimension, pitch: tuple[int, int]) -> _Rows:
    return _Rows(node, ((),) * len(node.shape), row=row, pitch=pitch)


def _whole_rows(node: Node, count: int, row: Dimension) -> Value:
    """Rows without room behind them, in one dimension."""
    return Value(node, (canonical((Digit(count, count), *row)),))


def _loop(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    body, length, reverse, saved, dtype = b.params
    if a.params[1:] != b.params[1:]:
        raise Unsupported("a loop whose number of steps varies")
    key = ("loop", a.inputs, b.inputs, a.params[0], body, length, reverse, saved)
    if key not in e.remembered:  # there is a node for each dtype of the results: the same loop
        e.remembered[key] = _enlarged(e, a, b, inputs)
    larger, nodes, digits = e.remembered[key]
    params = (larger, length, reverse, saved, dtype)
    node = apply(loop_primitive, nodes, params)
    parts = tuple((p, q, digits[q.result]) for p, q in zip(pieces(*a.params), pieces(*params), strict=True))
    if len(parts) == 1 and all(p.pitch == p.size for p in parts[0][:2]):
        return _whole_rows(node, parts[0][1].rows, parts[0][2])
    return _Block(node, e.dimensions(a, b), parts=parts)


def _enlarged(
    e: Enlargement, a: Node, b: Node, inputs: list[Value]
) -> tuple[Body, tuple[Node, ...], list[Dimension]]:
    """(the body, what the loop reads, the digits of each result in one dimension)."""
    true, body = a.params[0], b.params[0]
    if len(true.placeholders) != len(body.placeholders) or len(true.results) != len(body.results):
        raise Unsupported("a loop that carries other things at another size")
    count, given = len(body.carries), len(body.slices)
    nodes: list[Node] = []
    known: dict[tuple[Node, Node], Value] = {}
    for n, (p, q, value) in enumerate(zip(true.placeholders, body.placeholders, inputs, strict=True)):
        node, row = _read(e, a.inputs[n], b.inputs[n], value, count <= n < count + given)
        stacked = count <= n < count + given
        digits = index_maps.split(row, p.shape, q.shape) if p.shape != q.shape else e.dimensions(p, q)
        if digits is None and stacked:
            raise Unsupported("a loop over rows that are counted otherwise at another size")
        if digits is None:
            digits = e.dimensions(p, q)
            node = e.regrouped(Value(node, (row,)), (_flat(digits),)).node
        nodes.append(node)
        known[p, q] = Value(data(q.shape, q.dtype), digits)
    inner = e.within(lambda p, q: known[p, q])
    found = inner.rewrite(true.results, body.results)
    for c, (p, q) in enumerate(zip(true.carries, body.carries, strict=True)):
        carried = known[p, q].digits
        if [sizes(d) for d in found[c].digits] != [sizes(d) for d in carried]:
            found[c] = inner.regrouped(found[c], carried)
        found[c] = Value(found[c].node, carried)
    new = [v.node for v in known.values()]
    constants = [*new[count + given :], *inner.number_nodes]
    nodes += [row_of(e.number(value, dtype)) for value, dtype in inner.numbers]
    handles = [*new, *inner.number_nodes]
    larger = Body(new[:count], new[count : count + given], constants, handles, [v.node for v in found])
    return larger, tuple(nodes), [_flat(v.digits) for v in found]


def _flat(digits: Sequence[Dimension]) -> Dimension:
    return canonical([d for dimension in digits for d in dimension])


def _read(e: Enlargement, a: Node, b: Node, value: Value, stacked: bool) -> tuple[Node, Dimension]:
    """(what a loop reads, the digits of it, or of a row)."""
    if isinstance(value, _Rows):
        return value.node, value.row
    if isinstance(value, Packed):
        raise Unsupported("a loop over all results of another one")
    if not stacked:
        return value.node, value.digits[0]
    if value.varying([0]):
        raise Unsupported("a loop whose number of steps varies")
    # Where rows are as long with their room in both, they look like rows of a size that does not vary.
    inside = e.value(*(n.inputs[0] if _in_front(n) else n for n in (a, b)))
    return value.node, (value if inside is None or len(inside.digits) != 2 else inside).digits[1]


def _in_front(node: Node) -> bool:
    """Whether zeros are put behind each row, and nothing else."""
    if node.primitive is views.pad_primitive:
        return not any(node.params[0]) and node.params[1][0] == 0 == node.params[2]
    return node.primitive is views.unslice_primitive and not any(node.params[1]) and set(node.params[2]) == {1}


def _pad(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    if a.params != b.params and a.params[2] == b.params[2] == 0:
        (x,) = inputs
        found = _with_room(a, b, x) if _in_front(a) and _in_front(b) else None
        if found is not None:
            return found
        if len(b.shape) == 1 and len(x.digits[0]) > 1 and not x.digits[0][0].varies:
            count, *row = x.digits[0]
            more = _more_rows(a, b, (math.prod(d.true for d in row), math.prod(d.padded for d in row)))
            if more is not None:
                return _whole_rows(_as_larger(b, x.node), count.true + more, tuple(row))
    return index_maps.pad(e, a, b, inputs)


def _more_rows(a: Node, b: Node, pitch: tuple[int, int]) -> int | None:
    """How many rows of zeros padding puts before and behind rows one after another; None where it does not."""
    if len(b.shape) != 1 or a.params[2] != 0 or b.params[2] != 0:
        return None
    total = 0
    for true, padded in zip((*a.params[0], *a.params[1]), (*b.params[0], *b.params[1]), strict=True):
        count = true // pitch[0]
        if count < 0 or (true, padded) != (count * pitch[0], count * pitch[1]):
            return None
        total += count
    return total


def _unslice(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    found = _with_room(a, b, inputs[0]) if a.params != b.params and _in_front(a) and _in_front(b) else None
    return index_maps.unslice(e, a, b, inputs) if found is None else found


def _as_larger(b: Node, node: Node) -> Node:
    """Padding, or placing among zeros, as in the larger graph; none where that was put in to correspond (`_whole`)."""
    return node if node.shape == b.shape else apply(b.primitive, (node,), b.params)


def _with_room(a: Node, b: Node, x: Value) -> Value | None:
    """Rows made longer as a loop wants them; None where it is something else."""
    for n in (a, b):
        shape = n.inputs[0].shape
        if len(shape) != 2 or n.shape != (shape[0], pitch_of(shape[1:], n.dtype)):
            return None
    if x.varying([0]):
        return None
    return _rows(_as_larger(b, x.node), x.digits[1], (a.shape[1], b.shape[1]))


def _packed(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    """Operations on rows and blocks."""
    primitive, x = b.primitive, inputs[0]
    if primitive is loop_primitive:
        return _loop(e, a, b, inputs)
    if isinstance(x, _Block) and len(x.parts) == 1 and primitive is not views.slice_primitive:
        x = _rows(x.node, x.parts[0][2], (x.parts[0][0].pitch, x.parts[0][1].pitch))
    found: Value | None = None
    if primitive is views.slice_primitive:
        found = _cut(a, b, x)
    elif isinstance(x, _Rows) and primitive is views.reshape_primitive:
        pitch = (a.shape[-1], b.shape[-1])
        if len(b.shape) == 1 or (len(b.shape) == 2 and pitch == x.pitch):
            found = _rows(views.reshape(x.node, b.shape), x.row, x.pitch)
    elif isinstance(x, _Rows) and primitive is views.pad_primitive:
        node = _as_larger(b, x.node)
        if _more_rows(a, b, x.pitch) is not None:
            found = _rows(node, x.row, x.pitch)
        elif len(b.shape) == 2 and not any((*a.params[0], *b.params[0])):  # the room is taken off
            found = _without_room(a, b, node, x.row)
    if found is not None:
        return found
    if isinstance(primitive, Elementwise) and a.params == b.params and a.shape[0] == b.shape[0]:
        rows = [v for v in inputs if isinstance(v, _Rows)]
        alike = len({(tuple(sizes(r.row)), r.pitch) for r in rows}) == 1
        if alike and all(isinstance(v, _Rows) or ew.constant_value(v.node) is not None for v in inputs):
            return _rows(apply(primitive, tuple(v.node for v in inputs), b.params), rows[0].row, rows[0].pitch)
    raise Unsupported(f"{primitive.name} of the rows of a loop")


def _without_room(a: Node, b: Node, node: Node, row: Dimension) -> Value | None:
    digits = index_maps.split(row, a.shape[1:], b.shape[1:])
    return None if digits is None or a.shape[0] != b.shape[0] else Value(node, (fixed(b.shape[0]), *digits))


def _cut(a: Node, b: Node, x: Value) -> Value | None:
    """Rows of a block, or what is in rows without the room behind."""
    (start_a, length_a, step_a), (start, length, step) = a.params, b.params
    if set(step_a) != {1} or set(step) != {1}:
        return None
    node = views.slice_(x.node, start, length)
    if isinstance(x, _Rows) and len(length) == 2 and not any(start_a) and not any(start):
        return _without_room(a, b, node, x.row)
    if not isinstance(x, _Block):
        return None
    for p, q, row in x.parts:
        number, behind = divmod(start[0] - q.start, q.pitch)
        if behind or not 0 <= number < q.rows or start_a[0] != p.start + number * p.pitch:
            continue
        if (length_a[0], length[0]) == (p.size, q.size):
            return Value(node, (row,))
        count = length[0] // q.pitch
        if (length_a[0], length[0]) == (count * p.pitch, count * q.pitch):
            without_room = (p.pitch, q.pitch) == (p.size, q.size)
            return _whole_rows(node, count, row) if without_room else _rows(node, row, (p.pitch, q.pitch))
    return None


RULES: dict[type, Rule] = {
    Loop: _loop,
    Packed: _packed,
    type(views.pad_primitive): _pad,
    type(views.unslice_primitive): _unslice,
}

__all__ = ["RULES"]
