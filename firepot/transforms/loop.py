"""Loops in the graph: a body that is compiled once and run many times by the native program (`fp.scan`).

A loop carries values from step to step, reads one row of each stacked input at each step and writes one row of each
stacked result. Its derivative is a loop in the other direction, over the carries that were kept at every step, which
computes the body once more; so loops have derivatives of any order, and batching makes a loop of a batched body.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Node, Opaque, Shape, apply, data, grad_mode, mark, topological
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.contract import contract, contract_primitive, convolve_primitive
from firepot.graph.primitives.loop import Body, Piece, pieces, pitch_of
from firepot.transforms import recompute
from firepot.transforms.accumulate import worth_joining
from firepot.transforms.body import add_to, batched_body, closed, handles_of, nonzero, part_of, row_of
from firepot.transforms.differentiate import gradients, transposing


class Loop(Opaque):
    """The results of one dtype of a loop, in one dimension (see `pieces`).

    inputs: the first carries (size,), the stacked inputs (length, pitch), the constants (size,).
    params: (body, length, reverse, saved, dtype). reverse goes from the last row to the first. saved keeps the carries
    of every step: length + 1 rows, in the order of the stacked inputs, with the last value at the end; without it
    there is one row, the last value. The compiler runs the loop once for all dtypes.
    """

    name = "loop"
    dense = True

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        found = pieces(*params)
        last = found[-1]
        return (last.start + last.rows * last.pitch,), params[4]

    def checks(self, node: Node) -> Sequence[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = node.params[0].checks
        return found

    def lower(self, context: Any, node: Node) -> None:
        context.loop(node)

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        return _gradients(g, node)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return _batched(node, inputs, batched, batching)


loop_primitive = Loop()


def rows_of(x: Node) -> Node:
    """A stacked value as the loop reads it: one row a step, each at an aligned address."""
    length, size = x.shape[0], math.prod(x.shape[1:])
    pitch = pitch_of(x.shape[1:], x.dtype)
    return views.pad(views.reshape(x, (length, size)), (0, 0), (0, pitch - size))


def run(
    body: Body, carries: Sequence[Node], rows: Sequence[Node], constants: Sequence[Node], length: int, reverse: bool
) -> tuple[list[Node], list[Node]]:
    """(the last carries, the stacked results). `rows` are as of `rows_of`; shapes and dtypes are those of the body."""
    inputs = (*map(row_of, carries), *rows, *map(row_of, constants))
    saved = grad_mode.enabled and any(i.requires_grad for i in inputs)
    wanted = len(body.results)
    if saved:
        body = _with_products(body)
    blocks: dict[DType, Node] = {}
    results: dict[int, Node] = {}
    for r in body.results:
        if r.dtype not in blocks:
            params = (body, length, reverse, saved, r.dtype)
            block = blocks[r.dtype] = apply(loop_primitive, inputs, params)
            results.update({p.result: _value(block, p, body, length, reverse) for p in pieces(*params)})
    count = len(body.carries)
    return [results[n] for n in range(count)], [results[n] for n in range(count, wanted)]


def _with_products(body: Body) -> Body:
    """The body with further stacked results: the products and convolutions that its derivative looks at, which are
    better kept than computed again. Those of a checkpoint are not."""
    weights = {r: data(r.shape, r.dtype) for r in body.results if r.requires_grad}
    with transposing():  # nothing of it is computed
        found = gradients(weights, [h for h in body.handles if h.requires_grad])
    read = set(topological(found.values(), ew.is_leaf))
    kept = [
        n
        for n in topological(body.results, ew.is_leaf)
        if n in read and n.primitive in _PRODUCTS and n not in recompute.segments and n not in body.stacked
    ]
    if not kept:
        return body
    return Body(body.carries, body.slices, body.constants, body.handles, [*body.results, *kept])


_PRODUCTS = (contract_primitive, convolve_primitive)


def _value(block: Node, piece: Piece, body: Body, length: int, reverse: bool) -> Node:
    """A result in its shape: the last value of a carry, or the stacked rows."""
    shape = body.results[piece.result].shape
    if piece.result >= len(body.carries):
        rows = views.reshape(part_of(block, piece.start, length * piece.pitch), (length, piece.pitch))
        return views.reshape(views.slice_(rows, (0, 0), (length, piece.size)), (length, *shape))
    row = 0 if reverse or piece.rows == 1 else length
    return views.reshape(part_of(block, piece.start + row * piece.pitch, piece.size), shape)


def _kept(block: Node, piece: Piece, length: int, reverse: bool) -> Node:
    """The values of a carry before each step, as rows."""
    start = piece.start + (piece.pitch if reverse else 0)
    return views.reshape(part_of(block, start, length * piece.pitch), (length, piece.pitch))


# -- the derivative ----------------------------------------------------------------------------------------------------


def _gradients(g: Node, node: Node) -> Sequence[Node | None]:
    """The loop in the other direction: carries are the gradients of the carries and of the constants."""
    body, length, reverse, saved, dtype = node.params
    assert saved, "what requires grad keeps its carries"
    count, given = len(body.carries), len(body.slices)
    rows, constants = node.inputs[count : count + given], node.inputs[count + given :]
    handles = body.handles
    by_constants = [k for k, c in enumerate(constants) if c.requires_grad]
    floating = [c for c in range(count) if body.carries[c].dtype.kind == "f"]
    wanted_rows = [x for x in range(given) if rows[x].requires_grad]
    carried = [data(body.carries[c].shape, body.carries[c].dtype) for c in floating]
    begin = [ew.like(p, 0) for p in carried]
    weights: dict[Node, Node] = {}
    later: dict[int, Node] = {}  # what arrives at a kept carry from outside
    stacks: list[Node] = []
    stand_ins: list[Node] = []

    def received(result: int) -> Node:
        like = body.results[result]
        stand_ins.append(data(like.shape, like.dtype))
        return mark(stand_ins[-1], grad_mode.enabled)

    for c, p in zip(floating, carried, strict=True):
        add_to(weights, body.results[c], mark(p, grad_mode.enabled))
    for piece in pieces(body, length, reverse, saved, dtype):
        if piece.result >= count:
            received_rows = nonzero(g, piece.start, length * piece.pitch)
            if received_rows is not None:
                stacks.append(views.reshape(received_rows, (length, piece.pitch)))
                add_to(weights, body.results[piece.result], received(piece.result))
            continue
        last = piece.start + (0 if reverse else length * piece.pitch)
        end = nonzero(g, last, piece.size)
        if end is not None:
            begin[floating.index(piece.result)] = views.reshape(end, body.carries[piece.result].shape)
        between = nonzero(g, piece.start + (piece.pitch if reverse else 0), length * piece.pitch)
        if between is not None:
            stacks.append(views.reshape(between, (length, piece.pitch)))
            later[piece.result] = received(piece.result)
    weights = {n: w for n, w in weights.items() if n.requires_grad}
    wanted = [*(handles[c] for c in floating), *(handles[count + x] for x in wanted_rows)]
    wanted += [handles[count + given + k] for k in by_constants]
    found_by = gradients(weights, [w for w in wanted if w.requires_grad], grad_mode.enabled) if weights else {}

    def by(handle: Node) -> Node:
        found = found_by.get(handle)
        return ew.like(handle, 0) if found is None else found

    results = [ew.add(by(handles[c]), later[c]) if c in later else by(handles[c]) for c in floating]
    factored: list[tuple[int, Node, list[Node]]] = []  # of a constant's gradient: see _as_products
    summed: list[int] = []  # constants whose gradient is carried
    for k in by_constants:
        found = found_by.get(handles[count + given + k])
        own, rest = _as_products(found) if found is not None else ([], None)
        factored += [(k, product, path) for product, path in own]
        if rest is not None:
            p = data(body.constants[k].shape, body.constants[k].dtype)
            summed.append(k)
            carried.append(p)
            begin.append(ew.like(p, 0))
            results.append(ew.add(mark(p, grad_mode.enabled), rest))
    results += [by(handles[count + x]) for x in wanted_rows]
    results += [i for _, product, _ in factored for i in product.inputs]
    products = {n: data(n.shape, n.dtype) for n in body.stacked if n.primitive in _PRODUCTS}
    known = {n: mark(p, grad_mode.enabled) for n, p in products.items()}
    slices = [*stand_ins, *body.carries, *body.slices, *products.values()]
    # A stack that nothing reads is not read.
    reached = set(topological(results, lambda n: n in known or ew.is_leaf(n)))
    reached.update(products[n] for n in known if n in reached)
    whole = [*stacks, *_kept_rows(node), *rows, *(_stacked_rows(node, n) for n in products)]
    pairs = [(p, r) for p, r in zip(slices, whole, strict=True) if p in reached]
    reverse_body, outside = closed(carried, [p for p, _ in pairs], body.constants, results, known)
    ends, stacked = run(reverse_body, begin, [r for _, r in pairs], [*constants, *outside], length, not reverse)
    gradient: list[Node | None] = [None] * len(node.inputs)
    for c, value in zip(floating, ends, strict=False):
        gradient[c] = row_of(value)
    for x, value in zip(wanted_rows, stacked, strict=False):
        gradient[count + x] = rows_of(value)
    contributions: dict[int, Node] = dict(zip(summed, ends[len(floating) :], strict=True))
    factors = iter(stacked[len(wanted_rows) :])
    for k, _, path in factored:
        value = _product_of_all(next(factors), next(factors), path)
        contributions[k] = ew.add(contributions[k], value) if k in contributions else value
    for k, value in contributions.items():
        gradient[count + given + k] = row_of(value)
    return gradient


def _as_products(gradient: Node) -> tuple[list[tuple[Node, list[Node]]], Node | None]:
    """A gradient as a sum of matrix products, each with the views on it, and the rest.

    The sum of a product over all steps is one product over a longer inner dimension, which is cheaper than adding up
    results where keeping the factors moves less.
    """
    waiting, found, rest = [gradient], [], None
    while waiting:
        node = waiting.pop()
        if node.primitive is ew.add_primitive and node.inputs:
            waiting.extend(node.inputs)
            continue
        path, product = [], node
        while product.primitive in (views.reshape_primitive, views.permute_primitive) and product.inputs:
            path.append(product)
            product = product.inputs[0]
        if product.primitive is contract_primitive and product.inputs and worth_joining(product):
            found.append((product, path))
        else:
            rest = node if rest is None else ew.add(rest, node)
    return found, rest


def _product_of_all(x: Node, y: Node, path: Sequence[Node]) -> Node:
    """Σ x[t] · y[t] of factors (length, batch, m, k) and (length, batch, k, n), seen through views."""
    length, batch, m, k = x.shape
    n = y.shape[3]
    left = views.reshape(views.permute(x, (1, 2, 0, 3)), (batch, m, length * k))
    right = views.reshape(views.permute(y, (1, 0, 2, 3)), (batch, length * k, n))
    value = contract(left, right)
    for view in reversed(path):
        value = apply(view.primitive, (value,), view.params)
    return value


def _kept_rows(node: Node) -> Iterator[Node]:
    """The rows of every carry of a loop, whatever its dtype."""
    body, length, reverse, _, _ = node.params
    for c in range(len(body.carries)):
        yield _kept(*_block_of(node, c), length, reverse)


def _stacked_rows(node: Node, result: Node) -> Node:
    """The rows of a stacked result."""
    body, length, *_ = node.params
    number = len(body.carries) + body.stacked.index(result)
    block, piece = _block_of(node, number)
    return views.reshape(part_of(block, piece.start, length * piece.pitch), (length, piece.pitch))


def _block_of(node: Node, result: int) -> tuple[Node, Piece]:
    """(the block, whatever its dtype, and the place in it) of a result by number."""
    dtype = node.params[0].results[result].dtype
    block = node if dtype is node.dtype else apply(loop_primitive, node.inputs, (*node.params[:4], dtype))
    return block, next(p for p in pieces(*block.params) if p.result == result)


# -- batching ----------------------------------------------------------------------------------------------------------


def _batched(node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
    """The loop of the batched body. A carry is batched where it begins or becomes so."""
    body, length, reverse, saved, dtype = node.params
    size = batching.size
    count, given = len(body.carries), len(body.slices)
    rewriting, new, many, found = batched_body(body, batched, size)
    results = []
    for n, (one, whole) in enumerate(zip(body.results, found, strict=True)):
        if whole is None and (n >= count or many[n]):
            (whole,) = rewriting.spread([one], [False])
        results.append(one if whole is None else whole)
    handles = handles_of(body, rewriting)
    larger = Body(new[:count], new[count : count + given], new[count + given :], handles, results)
    values = []
    for n, (i, p) in enumerate(zip(inputs, body.placeholders, strict=True)):
        stacked = count <= n < count + given
        if not many[n]:
            values.append(i)
        elif stacked:  # (examples, length, pitch) as rows of all examples
            row = views.slice_(i, (0, 0, 0), (size, length, p.size))
            values.append(rows_of(views.permute(row, (1, 0, 2))))
        else:
            whole = i if batched[n] else views.expand(i, (size, *i.shape))
            values.append(row_of(whole))
    params = (larger, length, reverse, saved, dtype)
    block = apply(loop_primitive, tuple(values), params)
    # Back to a block for each example.
    parts = []
    old = {p.result: p for p in pieces(*node.params)}
    for p in pieces(*params):
        before = old[p.result]
        rows = views.reshape(part_of(block, p.start, p.rows * p.pitch), (p.rows, p.pitch))
        rows = views.slice_(rows, (0, 0), (p.rows, p.size))
        if p.size == before.size * size and (p.result >= count or many[p.result]):
            rows = views.permute(views.reshape(rows, (p.rows, size, before.size)), (1, 0, 2))
        else:
            rows = views.expand(rows, (size, p.rows, before.size))
        rows = views.pad(rows, (0, 0, 0), (0, 0, before.pitch - before.size))
        parts.append(views.reshape(rows, (size, before.rows * before.pitch)))
    return views.concatenate(parts, 1)


__all__ = ["Body", "Loop", "Piece", "loop_primitive", "pieces", "pitch_of", "rows_of", "run"]
