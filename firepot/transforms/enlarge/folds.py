"""Enlargement of folds, products, gathers and sorting: the surplus is masked before it could reach a result."""

from __future__ import annotations

import math
from collections.abc import Sequence

from firepot.graph.dtypes import DType
from firepot.graph.node import Node, apply
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.attention import Attention, AttentionGradient, attention_gradient, attention_primitive
from firepot.graph.primitives.contract import Convolve, contract, contract_primitive
from firepot.graph.primitives.gather import Scatter, Take, argsort, argsort_primitive, scan_primitive, scatter, take
from firepot.graph.primitives.reduce import Reduce, reduce
from firepot.transforms.enlarge.core import Enlargement, Number, Rule, Unsupported, Value


def _lowest(dtype: DType) -> Number:
    if dtype.kind == "f":
        return -math.inf
    return False if dtype.kind == "b" else (0 if dtype.kind == "u" else -(2 ** (8 * dtype.size - 1)))


def _highest(dtype: DType) -> Number:
    if dtype.kind == "f":
        return math.inf
    return True if dtype.kind == "b" else 2 ** (8 * dtype.size - (0 if dtype.kind == "u" else 1)) - 1


def _neutral(combine: str, dtype: DType) -> Number:
    if combine == "max":
        return _lowest(dtype)
    if combine == "min":
        return _highest(dtype)
    return {"sum": 0, "add": 0, "prod": 1, "any": False, "all": True}[combine]


def _reduce(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    axes, primitive = b.params[0], b.primitive
    assert isinstance(primitive, Reduce)
    if a.params != b.params:
        raise Unsupported(f"{primitive.name} over axes that depend on a size")
    node = e.masked(x, axes, _neutral(primitive.combine, b.dtype))
    digits = tuple(g for d, g in enumerate(x.digits) if d not in axes)
    return Value(reduce(primitive.combine, node, axes), digits, x.clean and primitive.combine == "sum")


def _contract(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    x, y = e.agreed(inputs, [(0, 2), (0, 1)])
    product = contract(e.masked(x, (2,)), e.masked(y, (1,)))
    return Value(product, (x.digits[0], x.digits[1], y.digits[2]))


def _convolve(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    mode, *_ = b.params
    if any(p != q for n, (p, q) in enumerate(zip(a.params, b.params, strict=True)) if n not in (1, 3)):
        raise Unsupported("a convolution whose filter or stride depends on a size")
    rank = len(b.shape)
    spatial = range(2, rank)
    x, y = (e.single(v, range(1, rank)) for v in inputs)
    if x.varying([1]) or (mode != "weight_grad" and y.varies) or (mode == "weight_grad" and y.varying([1])):
        raise Unsupported("a convolution whose number of channels varies")
    if mode == "weight_grad":
        x, y = e.agreed((x, y), [(0,), (0,)])
        nodes = (e.masked(x), e.masked(y))
        return Value(apply(b.primitive, nodes, b.params), e.dimensions(a, b))
    node = apply(b.primitive, (e.masked(x, spatial), y.node), b.params)
    return Value(node, (x.digits[0], *e.dimensions(a, b)[1:]))


def _attention(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    gradient = b.primitive is attention_gradient
    inputs = [e.single(v, (0, 1, 2, 3)) for v in inputs]
    query, key, value = inputs[:3]
    masks, given = (inputs[3:-1], inputs[-1:]) if gradient else (inputs[3:], [])
    if any(v.varying([3]) for v in (query, key, value)):
        raise Unsupported("attention with a width that varies")
    causal = b.params[1]
    shape = (*query.node.shape[:3], key.node.shape[2])
    mask = e.masked(masks[0], (2,)) if masks else None
    # Causal attention of a sequence to itself never looks from within at what is behind.
    if key.varying([2]) and not (causal and query.digits[2] == key.digits[2]):
        seen = views.expand(e.valid(key.digits[2]), shape)
        base = mask if mask is not None else ew.full(shape, 0, b.dtype)
        mask = ew.where(seen, base, ew.like(base, -math.inf))
    cleaned = [e.masked(v, (2,)) for v in (query, key, value, *given)]
    nodes = (*cleaned[:3], *([mask] if mask is not None else []), *cleaned[3:])
    node = apply(attention_gradient if gradient else attention_primitive, nodes, b.params)
    source = (query, key, value)[b.params[2]] if gradient else query
    return Value(node, (*source.digits[:3], (query, key, value)[b.params[2] if gradient else 2].digits[3]))


def _indices(e: Enlargement, indices: Sequence[Value]) -> list[Node]:
    return [e.masked(i) for i in indices]


def _take(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    x, *indices = inputs
    axes = b.params[0]
    if a.params != b.params:
        raise Unsupported("a gather along axes that depend on a size")
    x, indices = e.single(x, axes), e.agreed(indices)
    digits = (*indices[0].digits, *(g for d, g in enumerate(x.digits) if d not in axes))
    return Value(take(x.node, _indices(e, indices), axes), digits)


def _scatter(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    x, updates, *indices = inputs
    axes, mode = b.params
    if a.params != b.params:
        raise Unsupported("a scatter along axes that depend on a size")
    x, indices = e.single(x, axes), e.agreed(indices)
    rank = len(indices[0].digits)
    rest = [d for d in range(len(x.digits)) if d not in axes]
    x, updates = e.agreed((x, updates), [rest, range(rank, rank + len(rest))])
    (updates, *indices) = e.agreed((updates, *indices), [range(rank)] * (1 + len(indices)))
    nodes = _indices(e, indices)
    if mode == "set":
        mask = e.mask(indices[0], range(rank))
        if mask is None:
            return Value(scatter(x.node, updates.node, nodes, axes, mode), x.digits)
        # The surplus is written to a place behind the others.
        shape = x.node.shape
        one = [int(d == axes[0]) for d in range(len(shape))]
        longer = views.pad(x.node, [0] * len(shape), one, 0)
        nodes[0] = ew.where(mask, nodes[0], ew.like(nodes[0], shape[axes[0]]))
        node = scatter(longer, updates.node, nodes, axes, mode)
        return Value(views.slice_(node, [0] * len(shape), shape), x.digits)
    new = e.masked(updates, range(rank), _neutral(mode, b.dtype))
    return Value(scatter(x.node, new, nodes, axes, mode), x.digits)


def _argsort(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    last = len(b.shape) - 1
    (x,), descending = inputs, b.params[0]
    x = e.single(x, (last,))
    # Sorting is stable, so that the surplus comes behind what is equal to it.
    fill = _lowest(x.node.dtype) if descending else (math.nan if x.node.dtype.kind == "f" else _highest(x.node.dtype))
    return Value(argsort(e.masked(x, (last,), fill), descending), x.digits)


def _running(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    x = e.single(inputs[0], (len(b.shape) - 1,))
    return Value(apply(b.primitive, (x.node,), b.params), x.digits)


RULES: dict[type, Rule] = {
    Reduce: _reduce,
    type(contract_primitive): _contract,
    Convolve: _convolve,
    Attention: _attention,
    AttentionGradient: _attention,
    Take: _take,
    Scatter: _scatter,
    type(argsort_primitive): _argsort,
    type(scan_primitive): _running,
}
