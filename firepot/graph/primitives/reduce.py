"""Folds over axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Node, Parts, Primitive, Shape, apply, grad_mode, unchanged
from firepot.graph.primitives import complex, views
from firepot.graph.primitives import elementwise as ew

Gradients = Sequence[Node | None]


class Reduce(Primitive):
    """`combine` (sum, prod, max, min, any, all) over some axes, which vanish. params: (axes,).

    Over no elements the result is the fold's identity. float16 and bfloat16 are folded in float32.
    """

    def __init__(self, combine: str) -> None:
        self.name = combine
        self.combine = combine
        self.differentiable = combine in ("sum", "prod", "max", "min")
        self.partwise = combine == "sum"
        self.holomorphic = combine == "prod"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        axes = params[0]
        return tuple(s for d, s in enumerate(inputs[0].shape) if d not in axes), inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        x, axes = node.inputs[0], node.params[0]
        spread = restore(g, x.shape, axes)
        if self.combine == "sum":
            return (spread,)
        if self.combine == "prod":
            return (ew.mul(spread, _product_of_others(x, axes)),)
        hit = ew.eq(x, restore(node, x.shape, axes))
        count = reduce("sum", ew.cast(hit, x.dtype), axes)  # ties share the gradient, as torch.amax
        return (ew.where(hit, ew.div(spread, restore(count, x.shape, axes)), ew.like(x, 0)),)

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        return self.combine in ("sum", "prod")

    def parts(self, node: Node, inputs: Sequence[Node | Parts]) -> Node | Parts:
        if self.combine == "sum":
            return super().parts(node, inputs)
        (x,) = inputs
        assert isinstance(x, Parts)
        return _product(Parts(*(_rows(part, node.params[0]) for part in x)))

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return reduce(self.combine, inputs[0], tuple(d + 1 for d in node.params[0]))


def _rows(x: Node, axes: tuple[int, ...]) -> Node:
    """`axes` as one dimension, the last."""
    order = [d for d in range(len(x.shape)) if d not in axes] + list(axes)
    moved = views.permute(x, order)
    kept = moved.shape[: len(order) - len(axes)]
    return views.reshape(moved, (*kept, views.size_of(moved.shape[len(kept) :])))


def _product(x: Parts) -> Parts:
    """The product of complex numbers along the last dimension, halves with halves."""
    shape = x.real.shape[:-1]

    def piece(start: int, length: int) -> Parts:
        return Parts(*(views.slice_(p, (*(0 for _ in shape), start), (*shape, length)) for p in x))

    while (n := x.real.shape[-1]) > 1:
        a, b, rest = piece(0, n // 2), piece(n // 2, n // 2), piece(n // 2 * 2, n % 2)
        both = complex.product(a, b)
        x = Parts(*(views.concatenate(p, len(shape)) for p in zip(both, rest, strict=True))) if n % 2 else both
    if n == 0:
        return Parts(ew.full(shape, 1, x.real.dtype), ew.full(shape, 0, x.real.dtype))
    return Parts(views.reshape(x.real, shape), views.reshape(x.imag, shape))


def _product_of_others(x: Node, axes: tuple[int, ...]) -> Node:
    """The product over `axes` without the element itself, exact where elements are zero."""
    if grad_mode.enabled:
        return _differentiable_product_of_others(x, axes)
    zero = ew.eq(x, ew.like(x, 0))
    count = restore(reduce("sum", ew.cast(zero, x.dtype), axes), x.shape, axes)
    nonzero = ew.where(zero, ew.like(x, 1), x)
    product = restore(reduce("prod", nonzero, axes), x.shape, axes)
    alone = ew.and_(zero, ew.eq(count, ew.like(x, 1)))  # the only zero: the others' product is what is left
    none = ew.eq(count, ew.like(x, 0))
    return ew.where(none, ew.div(product, nonzero), ew.where(alone, product, ew.like(x, 0)))


def _differentiable_product_of_others(x: Node, axes: tuple[int, ...]) -> Node:
    """The same in a form that has derivatives of its own also at zeros: the product before times that behind."""
    from firepot.graph.primitives.gather import scan

    rows = _rows(x, axes)
    kept, n, last = rows.shape[:-1], rows.shape[-1], len(rows.shape) - 1

    def before(row: Node) -> Node:
        part = views.slice_(scan(row, "prod"), (0,) * (last + 1), (*kept, max(n - 1, 0)))
        return views.concatenate([ew.full((*kept, min(n, 1)), 1, row.dtype), part], last)

    behind = views.flip(before(views.flip(rows, (last,))), (last,))
    order = [d for d in range(len(x.shape)) if d not in axes] + list(axes)
    moved = tuple(x.shape[d] for d in order)
    return views.permute(views.reshape(ew.mul(before(rows), behind), moved), views.inverse(order))


def restore(x: Node, shape: Shape, axes: Sequence[int]) -> Node:
    """A result of reducing `shape` over `axes`, repeated back to `shape`."""
    kept = tuple(1 if d in axes else s for d, s in enumerate(shape))
    return views.expand(views.reshape(x, kept), shape)


PRIMITIVES = {name: Reduce(name) for name in ("sum", "prod", "max", "min", "any", "all")}


def reduce(combine: str, x: Node, axes: Sequence[int]) -> Node:
    axes = tuple(sorted(axes))
    if not axes:
        return unchanged(x)
    if combine in ("sum", "max", "min") and all(x.shape[d] == 1 for d in axes):
        return views.reshape(x, tuple(s for d, s in enumerate(x.shape) if d not in axes))
    return apply(PRIMITIVES[combine], (x,), (axes,))


def accumulator(dtype: DType) -> DType:
    """The dtype that a fold of this dtype runs in."""
    return dtypes.float32 if dtype in (dtypes.float16, dtypes.bfloat16) else dtype
