"""Contractions: batched matrix products and convolutions. Both families are closed under differentiation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Node, Opaque, Shape, apply
from firepot.graph.primitives import views

Gradients = Sequence[Node | None]


class _Contract(Opaque):
    """out[b, m, n] = Σ_k x[b, m, k] · y[b, k, n]. Every einsum is this between permutations and reshapes."""

    name = "contract"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        (batch, m, _), (_, _, n) = inputs[0].shape, inputs[1].shape
        return (batch, m, n), inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        x, y = node.inputs
        return contract(g, views.permute(y, (0, 2, 1))), contract(views.permute(x, (0, 2, 1)), g)

    def lower(self, context: Any, node: Node) -> None:
        context.contract(node)


contract_primitive = _Contract()


def contract(x: Node, y: Node) -> Node:
    return apply(contract_primitive, (x, y))


class Convolve(Opaque):
    """The trilinear form Σ g[n,o,t] · w[o,c,k] · x[n,c,t·stride + k·dilation − padding], one factor left open.

    mode 'forward':     x (N, C, *S), w (O, C/groups, *K) -> (N, O, *T)
    mode 'input_grad':  g (N, O, *T), w (O, C/groups, *K) -> (N, C, *S); the transposed convolution too
    mode 'weight_grad': x (N, C, *S), g (N, O, *T)        -> (O, C/groups, *K)
    params: (mode, S, K, T, stride, padding, dilation, groups). Differentiating any mode gives the other two.
    """

    name = "convolve"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        mode, size, kernel, out, _, _, _, groups = params
        a, b = inputs
        dtype = a.dtype
        if mode == "forward":
            return (a.shape[0], b.shape[0], *out), dtype
        if mode == "input_grad":
            return (a.shape[0], b.shape[1] * groups, *size), dtype
        return (b.shape[1], a.shape[1] // groups, *kernel), dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        mode, *rest = node.params
        a, b = node.inputs
        if mode == "forward":
            return self._make("input_grad", g, b, rest), self._make("weight_grad", a, g, rest)
        if mode == "input_grad":
            return self._make("forward", g, b, rest), self._make("weight_grad", g, a, rest)
        return self._make("input_grad", b, g, rest), self._make("forward", a, g, rest)

    def _make(self, mode: str, a: Node, b: Node, rest: list[Any]) -> Node:
        return apply(self, (a, b), (mode, *rest))

    def lower(self, context: Any, node: Node) -> None:
        context.convolve(node)


convolve_primitive = Convolve()


def convolve(
    mode: str, a: Node, b: Node, size: Shape, kernel: Shape, out: Shape, stride: Shape, padding: Shape,
    dilation: Shape, groups: int,
) -> Node:  # fmt: skip
    """One mode of the form above; sizes are those of the form, whichever factor is open."""
    return apply(convolve_primitive, (a, b), (mode, size, kernel, out, stride, padding, dilation, groups))
