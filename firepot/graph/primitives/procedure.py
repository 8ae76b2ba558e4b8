"""Procedures in the graph: kernels that people write as loops (`fp.kernel`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Node, Opaque, Shape, apply
from firepot.graph.primitives import elementwise as ew
from firepot.kernels.liveness import open_checks
from firepot.kernels.procedure import Procedure, batched


@functools.lru_cache(maxsize=256)
def _derivative(procedure: Procedure, output: int, input: int) -> Procedure:
    from firepot.kernels.derivative import derivative

    return derivative(procedure, output, input)


@functools.lru_cache(maxsize=256)
def _open_checks(procedure: Procedure) -> tuple[tuple[int, str, bool], ...]:
    return open_checks(procedure)


class Run(Opaque):
    """An output of a procedure. params: (procedure, number of the output). One kernel makes those of equal inputs."""

    name = "kernel"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        procedure, number = params
        array = procedure.outputs[number]
        return array.shape, array.dtype

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        from firepot.kernels.derivative import NotDerived

        procedure, number = node.params
        result: list[Node | None] = []
        for position, x in enumerate(node.inputs):
            if x.dtype.kind != "f" or not x.requires_grad:
                result.append(None)
                continue
            try:
                backward = _derivative(procedure, number, position)
            except NotDerived as why:
                raise RuntimeError(
                    f"the kernel {procedure.name} has no derivative by {procedure.inputs[position].name}, since {why}; "
                    f"give it one with @fp.kernel(..., vjp=...)"
                ) from None
            result.append(ew.cast(apply(self, (*node.inputs, g), (backward, 0)), x.dtype))
        return result

    def batch(self, node: Node, inputs: tuple[Node, ...], marked: tuple[bool, ...], batching: Batching) -> Node:
        procedure, number = node.params
        return apply(self, inputs, (batched(procedure, batching.size, marked), number))

    def checks(self, node: Node) -> Sequence[tuple[Any, ...]]:
        return _open_checks(node.params[0])

    def lower(self, context: Any, node: Node) -> None:
        context.procedure(node)


run_primitive = Run()


def run(procedure: Procedure, inputs: Sequence[Node]) -> list[Node]:
    """The outputs of a procedure, in order."""
    return [apply(run_primitive, tuple(inputs), (procedure, n)) for n in range(len(procedure.outputs))]


def sites(procedure: Procedure) -> tuple[int, ...]:
    """The numbers by which the kernel reports a bad index."""
    return tuple(ew.check_sites.number(c) for c in procedure.checks)
