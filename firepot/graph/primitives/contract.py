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


class _Attention(Opaque):
    """softmax(scale · q kᵀ + mask) v without storing the scores, and the logarithm of the softmax's denominator.

    q (B, H, Lq, D), k (B, H, Lk, D), v (B, H, Lk, Dv), optional float mask broadcast to (B, H, Lq, Lk).
    params: (scale, causal). The result packs out (B, H, Lq, Dv) and the log-sum-exp (B, H, Lq) as one vector of
    float32, which `part` takes apart.
    """

    name = "attention"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        b, h, lq, _ = inputs[0].shape
        return (b * h * lq * (inputs[2].shape[3] + 1),), inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        q, k, v, *mask = node.inputs
        b, h, lq, d = q.shape
        lk, dv = k.shape[2], v.shape[3]
        size = b * h * lq * dv
        gradient = views.reshape(views.slice_(g, (0,), (size,)), (b, h, lq, dv))
        packed = apply(attention_backward, (q, k, v, node, gradient, *mask), node.params)
        dq = part(packed, 0, (b, h, lq, d))
        dk = part(packed, b * h * lq * d, (b, h, lk, d))
        dv_ = part(packed, b * h * (lq + lk) * d, (b, h, lk, dv))
        return [dq, dk, dv_, *[None] * len(mask)]

    def lower(self, context: Any, node: Node) -> None:
        context.attention(node)


class _AttentionBackward(Opaque):
    """dq, dk, dv of attention, packed one after another. Inputs: q, k, v, packed forward result, dout, mask."""

    name = "attention_backward"
    differentiable = False

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return (sum(views.size_of(i.shape) for i in inputs[:3]),), inputs[0].dtype

    def lower(self, context: Any, node: Node) -> None:
        context.attention_backward(node)


attention_primitive = _Attention()
attention_backward = _AttentionBackward()


def part(packed: Node, start: int, shape: Shape) -> Node:
    """A tensor out of a packed vector."""
    return views.reshape(views.slice_(packed, (start,), (views.size_of(shape),)), shape)


def attention(q: Node, k: Node, v: Node, mask: Node | None, scale: float, causal: bool) -> Node:
    inputs = (q, k, v) if mask is None else (q, k, v, mask)
    packed = apply(attention_primitive, inputs, (scale, causal))
    return part(packed, 0, (*q.shape[:3], v.shape[3]))
