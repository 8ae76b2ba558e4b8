"""Procedures in the graph: kernels that people write as loops (`fp.kernel`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Node, Opaque, Shape, apply
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.kernels.procedure import Array, Procedure, batched, room


class Run(Opaque):
    """What a procedure writes to its outputs of one dtype. params: (procedure, dtype).

    A single output is the node itself; several lie one after another in one dimension, each at a multiple of 64 bytes.
    """

    name = "kernel"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        procedure, dtype = params
        kept = _kept(procedure, dtype)
        return kept[0].shape if len(kept) == 1 else (sum(_room(a) for a in kept),), dtype

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        name = node.params[0].name
        raise RuntimeError(f"the kernel {name} has no derivative; give it one with @fp.kernel(..., vjp=...)")

    def batch(self, node: Node, inputs: tuple[Node, ...], marked: tuple[bool, ...], batching: Batching) -> Node:
        procedure, dtype = node.params
        many = batched(procedure, batching.size, marked)
        found = apply(self, inputs, (many, dtype))
        kept = _kept(procedure, dtype)
        if len(kept) == 1:
            return found
        pieces = []
        for a, value in zip(kept, split(found), strict=True):
            size = math.prod(a.shape)
            row = views.reshape(value, (batching.size, size))
            pieces.append(views.pad(row, (0, 0), (0, _room(a) - size)))
        return views.concatenate(pieces, 1)

    def checks(self, node: Node) -> Sequence[tuple[Any, ...]]:
        found: tuple[tuple[Any, ...], ...] = node.params[0].checks
        return found

    def lower(self, context: Any, node: Node) -> None:
        context.procedure(node)


def _kept(procedure: Procedure, dtype: DType) -> list[Array]:
    return [a for a in procedure.outputs if a.dtype is dtype]


def _room(a: Array) -> int:
    """Elements between this output's start and the next one's."""
    return room(a) // a.dtype.size


def split(node: Node) -> list[Node]:
    """The outputs that a node of several holds."""
    procedure, dtype = node.params
    kept = _kept(procedure, dtype)
    if len(kept) == 1:
        return [node]
    result, at = [], 0
    for a in kept:
        result.append(views.reshape(views.slice_(node, (at,), (math.prod(a.shape),)), a.shape))
        at += _room(a)
    return result


run_primitive = Run()


def run(procedure: Procedure, inputs: Sequence[Node]) -> list[Node]:
    """The outputs of a procedure, in order; it runs once for each dtype among them."""
    by_dtype: dict[DType, list[Node]] = {}
    for a in procedure.outputs:
        if a.dtype not in by_dtype:
            by_dtype[a.dtype] = split(apply(run_primitive, tuple(inputs), (procedure, a.dtype)))
    return [by_dtype[a.dtype].pop(0) for a in procedure.outputs]


def sites(procedure: Procedure) -> tuple[int, ...]:
    """The numbers by which the kernel reports a bad index."""
    return tuple(ew.check_sites.number(c) for c in procedure.checks)
