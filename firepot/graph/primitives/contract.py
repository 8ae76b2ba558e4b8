"""Contractions: batched matrix products and convolutions. Both families are closed under differentiation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import Batching, Node, Opaque, Parts, Shape, apply
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views

Gradients = Sequence[Node | None]


class _Bilinear(Opaque):
    """A sum of products of the elements of two inputs. Of complex ones it is four such sums of their parts."""

    holomorphic = True

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        return True

    def parts(self, node: Node, inputs: Sequence[Node | Parts]) -> Node | Parts:
        x, y = inputs
        assert isinstance(x, Parts) and isinstance(y, Parts)
        params = tuple(p.to_real() if isinstance(p, DType) else p for p in node.params)

        def product(a: Node, b: Node) -> Node:
            return apply(self, (a, b), params)

        return Parts(
            ew.sub(product(x.real, y.real), product(x.imag, y.imag)),
            ew.add(product(x.real, y.imag), product(x.imag, y.real)),
        )


class _Contract(_Bilinear):
    """out[b, m, n] = Σ_k x[b, m, k] · y[b, k, n]. Every einsum is this between permutations and reshapes.

    params: () for a result of the operands' dtype, or (dtype,) for a wider one: int32 of int8.
    """

    name = "contract"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        (batch, m, _), (_, _, n) = inputs[0].shape, inputs[1].shape
        return (batch, m, n), params[0] if params else inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        x, y = node.inputs
        return contract(g, views.permute(y, (0, 2, 1))), contract(views.permute(x, (0, 2, 1)), g)

    def lower(self, context: Any, node: Node) -> None:
        context.contract(node)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        (x, y), size = inputs, batching.size
        batch, m, n = node.shape
        k = node.inputs[0].shape[2]
        if all(batched):
            product = apply(self, (views.reshape(x, (size * batch, m, k)), views.reshape(y, (size * batch, k, n))), node.params)
            return views.reshape(product, (size, batch, m, n))
        # With one factor common to the examples, they are further rows or columns of one product.
        if batched[0]:
            rows = views.reshape(views.permute(x, (1, 0, 2, 3)), (batch, size * m, k))
            return views.permute(views.reshape(apply(self, (rows, y), node.params), (batch, size, m, n)), (1, 0, 2, 3))
        columns = views.reshape(views.permute(y, (1, 2, 0, 3)), (batch, k, size * n))
        return views.permute(views.reshape(apply(self, (x, columns), node.params), (batch, m, size, n)), (2, 0, 1, 3))


contract_primitive = _Contract()


def contract(x: Node, y: Node, dtype: DType | None = None) -> Node:
    """The contraction of (batch, m, k) and (batch, k, n) of one dtype. dtype: of integers, a wider one for the result."""
    return apply(contract_primitive, (x, y), () if dtype is None else (dtype,))


class Convolve(_Bilinear):
    """The trilinear form Σ g[n,o,t] · w[o,c,k] · x[n,c,t·stride + k·dilation − padding], one factor left open.

    mode 'forward':     x (N, C, *S), w (O, C/groups, *K) -> (N, O, *T)
    mode 'input_grad':  g (N, O, *T), w (O, C/groups, *K) -> (N, C, *S); the transposed convolution too
    mode 'weight_grad': x (N, C, *S), g (N, O, *T)        -> (O, C/groups, *K)
    params: (mode, S, K, T, stride, padding, dilation, groups, dtype of the result). Differentiating any mode gives the
    other two. The result's dtype is the operands', or int32 of int8 in mode 'forward'.
    """

    name = "convolve"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        mode, size, kernel, out, _, _, _, groups, dtype = params
        a, b = inputs
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

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        mode, *rest, groups, dtype = node.params
        (a, b), size = inputs, batching.size
        if all(batched):  # each example is a group of its own
            axis_a, axis_b, axis = _GROUPED[mode]
            result = apply(self, (_join(a, axis_a, 1), _join(b, axis_b, 1)), (mode, *rest, groups * size, dtype))
            return _split(result, axis, size, 1)
        which = 0 if batched[0] else 1
        axis_in, within_in, axis, within = _OPEN[mode][which]
        joined = _join(inputs[which], axis_in, groups if within_in else 1)
        result = apply(self, (joined, b) if which == 0 else (a, joined), node.params)
        return _split(result, axis, size, groups if within else 1)


# How the examples of a batched convolution enter the form: by mode, the dimension of each operand and of the result
# that the groups divide, and for either operand alone a dimension that it shares with the result but not with the
# other operand, as (its number, whether the groups divide it there, its number in the result, and likewise).
_GROUPED = {"forward": (1, 0, 1), "input_grad": (1, 0, 1), "weight_grad": (1, 1, 0)}
_OPEN = {
    "forward": ((0, False, 0, False), (0, True, 1, True)),  # N of x; O of w
    "input_grad": ((0, False, 0, False), (1, False, 1, True)),  # N of g; C of w
    "weight_grad": ((1, True, 1, False), (1, True, 0, True)),  # C of x; O of g
}


def _join(x: Node, axis: int, groups: int) -> Node:
    """(examples, …) with the examples made part of dimension `axis` of one of them, within each of its groups."""
    size, *shape = x.shape
    x = views.reshape(x, (size, *shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]))
    rank = len(x.shape)
    x = views.permute(x, (*range(1, axis + 2), 0, *range(axis + 2, rank)))
    return views.reshape(x, (*shape[:axis], size * shape[axis], *shape[axis + 1 :]))


def _split(x: Node, axis: int, size: int, groups: int) -> Node:
    """The inverse of _join."""
    shape = x.shape
    each = shape[axis] // size // groups
    x = views.reshape(x, (*shape[:axis], groups, size, each, *shape[axis + 1 :]))
    rank = len(x.shape)
    x = views.permute(x, (axis + 1, *range(axis + 1), *range(axis + 2, rank)))
    return views.reshape(x, (size, *shape[:axis], groups * each, *shape[axis + 1 :]))


convolve_primitive = Convolve()


def convolve(
    mode: str, a: Node, b: Node, size: Shape, kernel: Shape, out: Shape, stride: Shape, padding: Shape,
    dilation: Shape, groups: int, dtype: DType | None = None,
) -> Node:  # fmt: skip
    """One mode of the form above; sizes are those of the form, whichever factor is open."""
    params = (mode, size, kernel, out, stride, padding, dilation, groups, dtype or a.dtype)
    return apply(convolve_primitive, (a, b), params)
