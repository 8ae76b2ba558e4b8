"""Procedures in the graph: kernels that people write as loops (`fp.kernel`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Node, Opaque, Shape, apply
from firepot.graph.primitives import elementwise as ew
from firepot.kernels.procedure import Procedure, batched


class Run(Opaque):
    """An output of a procedure. params: (procedure, number of the output). One kernel makes those of equal inputs."""

    name = "kernel"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        procedure, number = params
        array = procedure.outputs[number]
        return array.shape, array.dtype

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        name = node.params[0].name
        raise RuntimeError(f"the kernel {name} has no derivative; give it one with @fp.kernel(..., vjp=...)")

    def batch(self, node: Node, inputs: tuple[Node, ...], marked: tuple[bool, ...], batching: Batching) -> Node:
        procedure, number = node.params
        return apply(self, inputs, (batched(procedure, batching.size, marked), number))

    def checks(self, node: Node) -> Sequence[tuple[Any, ...]]:
        found: tuple[tuple[Any, ...], ...] = node.params[0].checks
        return found

    def lower(self, context: Any, node: Node) -> None:
        context.procedure(node)


run_primitive = Run()


def run(procedure: Procedure, inputs: Sequence[Node]) -> list[Node]:
    """The outputs of a procedure, in order."""
    return [apply(run_primitive, tuple(inputs), (procedure, n)) for n in range(len(procedure.outputs))]


def sites(procedure: Procedure) -> tuple[int, ...]:
    """The numbers by which the kernel reports a bad index."""
    return tuple(ew.check_sites.number(c) for c in procedure.checks)
