"""Index maps: results whose elements are elements of the input, so that they cost nothing once compiled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.index import Index, contiguous_strides, flatten, unflatten
from firepot.graph.node import Batching, Node, Shape, View, apply, unchanged

Gradients = Sequence[Node | None]
Mapped = tuple[tuple[Index, ...], tuple[tuple[Index, int], ...]]


class _Reshape(View):
    """The elements in row-major order under another shape. params: (shape,)."""

    name = "reshape"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return params[0], inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        return (reshape(g, node.inputs[0].shape),)

    def index(self, index: tuple[Index, ...], node: Node) -> Mapped:
        return reindex_shape(index, node.shape, node.inputs[0].shape), ()

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return reshape(inputs[0], (batching.size, *node.shape))


def reindex_shape(index: Sequence[Index], shape: Shape, target: Shape) -> tuple[Index, ...]:
    """The position under `target` of the element at `index` under `shape`, both row-major."""
    if 0 in shape:  # no element is ever read
        return tuple(Index() for _ in target)
    # Runs of dimensions with equal products are converted on their own: the sums stay short and simplify well.
    result: list[Index] = []
    for run, target_run in equal_runs(shape, target):
        flat = flatten(index[run], contiguous_strides(shape[run]))
        result.extend(unflatten(flat, target[target_run]))
    return tuple(result)


def equal_runs(shape: Shape, target: Shape) -> Iterator[tuple[slice, slice]]:
    """The shortest runs of dimensions of two shapes, of one size and not empty, that have equal products."""
    i = j = 0
    while i < len(shape) or j < len(target):
        start_i, start_j = i, j
        left = right = 1
        if i < len(shape):
            left, i = shape[i], i + 1
        if j < len(target):
            right, j = target[j], j + 1
        while left != right:
            if left < right:
                left, i = left * shape[i], i + 1
            else:
                right, j = right * target[j], j + 1
        while i < len(shape) and shape[i] == 1 and (j >= len(target) or target[j] != 1):
            i += 1
        yield slice(start_i, i), slice(start_j, j)


reshape_primitive = _Reshape()


def reshape(x: Node, shape: Shape) -> Node:
    if x.shape == shape:
        return unchanged(x)
    if x.primitive is reshape_primitive and x.inputs and x.inputs[0].requires_grad == x.requires_grad:
        return reshape(x.inputs[0], shape)
    return apply(reshape_primitive, (x,), (shape,))


class _Permute(View):
    """Dimensions in another order. params: (order,): result dimension i is input dimension order[i]."""

    name = "permute"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return tuple(inputs[0].shape[d] for d in params[0]), inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        return (permute(g, inverse(node.params[0])),)

    def index(self, index: tuple[Index, ...], node: Node) -> Mapped:
        return tuple(index[d] for d in inverse(node.params[0])), ()

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return permute(inputs[0], (0, *(d + 1 for d in node.params[0])))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `order`."""
    result = [0] * len(order)
    for i, d in enumerate(order):
        result[d] = i
    return tuple(result)


permute_primitive = _Permute()


def permute(x: Node, order: Sequence[int]) -> Node:
    order = tuple(order)
    if order == tuple(range(len(order))):
        return unchanged(x)
    if x.primitive is permute_primitive and x.inputs and x.inputs[0].requires_grad == x.requires_grad:
        return permute(x.inputs[0], tuple(x.params[0][d] for d in order))
    return apply(permute_primitive, (x,), (order,))


class _Expand(View):
    """Repetition along dimensions of size 1 and along new leading dimensions. params: (shape,)."""

    name = "expand"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return params[0], inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        from firepot.graph.primitives.reduce import reduce

        shape = node.inputs[0].shape
        extra = len(node.shape) - len(shape)
        axes = tuple(range(extra)) + tuple(
            extra + d for d, s in enumerate(shape) if s == 1 and node.shape[extra + d] != 1
        )
        return (reshape(reduce("sum", g, axes), shape),)

    def index(self, index: tuple[Index, ...], node: Node) -> Mapped:
        shape = node.inputs[0].shape
        inner = index[len(index) - len(shape) :]
        return tuple(Index() if s == 1 else i for i, s in zip(inner, shape, strict=True)), ()

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        inner = node.inputs[0].shape
        aligned = (batching.size, *(1,) * (len(node.shape) - len(inner)), *inner)
        return expand(reshape(inputs[0], aligned), (batching.size, *node.shape))


expand_primitive = _Expand()


def expand(x: Node, shape: Shape) -> Node:
    if x.shape == shape:
        return unchanged(x)
    if x.primitive is expand_primitive and x.inputs and x.inputs[0].requires_grad == x.requires_grad:
        return expand(x.inputs[0], shape)
    return apply(expand_primitive, (x,), (shape,))


class _Pad(View):
    """A border of one value; negative widths crop. params: (low, high, value) with a width for each dimension."""

    name = "pad"
    filling = 2

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        low, high, _ = params
        return tuple(s + a + b for s, a, b in zip(inputs[0].shape, low, high, strict=True)), inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        low, high, _ = node.params
        return (pad(g, tuple(-a for a in low), tuple(-b for b in high), 0),)

    def index(self, index: tuple[Index, ...], node: Node) -> Mapped:
        low, high, _ = node.params
        inner = tuple(i - a for i, a in zip(index, low, strict=True))
        conditions = tuple(
            (i, s) for i, s, a, b in zip(inner, node.inputs[0].shape, low, high, strict=True) if a > 0 or b > 0
        )
        return inner, conditions

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        low, high, value = node.params
        return pad(inputs[0], (0, *low), (0, *high), value)


pad_primitive = _Pad()


def pad(x: Node, low: Sequence[int], high: Sequence[int], value: complex = 0) -> Node:
    if not any(low) and not any(high):
        return unchanged(x)
    return apply(pad_primitive, (x,), (tuple(low), tuple(high), value))


class _Slice(View):
    """Every step-th element from start on. params: (start, length, step) with an entry for each dimension.

    A negative step walks backward, so that flip is a slice too.
    """

    name = "slice"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return params[1], inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        start, _, step = node.params
        return (unslice(g, node.inputs[0].shape, start, step),)

    def index(self, index: tuple[Index, ...], node: Node) -> Mapped:
        start, _, step = node.params
        return tuple(i * t + s for i, s, t in zip(index, start, step, strict=True)), ()

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        start, length, step = node.params
        return slice_(inputs[0], (0, *start), (batching.size, *length), (1, *step))


class _Unslice(View):
    """The transpose of slice: elements put back at their places among zeros. params: (shape, start, step)."""

    name = "unslice"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return params[0], inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        _, start, step = node.params
        return (slice_(g, start, node.inputs[0].shape, step),)

    def index(self, index: tuple[Index, ...], node: Node) -> Mapped:
        shape, start, step = node.params
        inner: list[Index] = []
        conditions: list[tuple[Index, int]] = []
        sizes = zip(index, shape, start, step, node.inputs[0].shape, strict=True)
        for i, full, s, t, size in sizes:
            away = (i - s) if t > 0 else (s - i)
            t = abs(t)
            inner.append(away // t)
            if t > 1:
                conditions.append((away % t, 1))
            if size != full or t > 1:
                conditions.append((away // t, size))
        return tuple(inner), tuple(conditions)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        shape, start, step = node.params
        return unslice(inputs[0], (batching.size, *shape), (0, *start), (1, *step))


slice_primitive = _Slice()
unslice_primitive = _Unslice()


def slice_(x: Node, start: Sequence[int], length: Sequence[int], step: Sequence[int] | None = None) -> Node:
    step = tuple(step) if step is not None else (1,) * len(x.shape)
    if tuple(length) == x.shape and not any(start) and all(t == 1 for t in step):
        return unchanged(x)
    return apply(slice_primitive, (x,), (tuple(start), tuple(length), step))


def unslice(x: Node, shape: Shape, start: Sequence[int], step: Sequence[int]) -> Node:
    return apply(unslice_primitive, (x,), (shape, tuple(start), tuple(step)))


def flip(x: Node, axes: Sequence[int]) -> Node:
    start = tuple(s - 1 if d in axes else 0 for d, s in enumerate(x.shape))
    step = tuple(-1 if d in axes else 1 for d in range(len(x.shape)))
    if 0 in x.shape:
        return unchanged(x)
    return slice_(x, start, x.shape, step)


class Concatenate(View):
    """Inputs one after another along an axis. params: (axis,). The compiler selects the input by position."""

    name = "concatenate"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        axis = params[0]
        shape = list(inputs[0].shape)
        shape[axis] = sum(i.shape[axis] for i in inputs)
        return tuple(shape), inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        axis = node.params[0]
        result = []
        start = [0] * len(node.shape)
        for i in node.inputs:
            result.append(slice_(g, start, i.shape))
            start[axis] += i.shape[axis]
        return result

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return concatenate(batching.spread(inputs, batched), node.params[0] + 1)


concatenate_primitive = Concatenate()


def concatenate(inputs: Sequence[Node], axis: int) -> Node:
    """Nodes that agree in all other sizes one after another. Equal sequences of elements become one node."""
    if len(inputs) == 1:
        return inputs[0]
    first = inputs[0]
    if all(i.primitive is permute_primitive and i.params == first.params and i.inputs for i in inputs):
        order = first.params[0]
        return permute(concatenate([i.inputs[0] for i in inputs], order[axis]), order)
    rank = len(first.shape)
    if 1 < rank <= 3 and all(s == 1 for s in first.shape[:axis]):  # with more, they may not lie in row-major order
        shape = list(first.shape)
        shape[axis] = sum(i.shape[axis] for i in inputs)
        flat = concatenate([reshape(i, (i.size,)) for i in inputs], 0)
        return reshape(flat, tuple(shape))
    return apply(concatenate_primitive, tuple(inputs), (axis,))


# -- sliding windows -------------------------------------------------------------------------------------------------
#
# x (N, C, *S) -> windows (N, C, *T, *K): element (t, k) is x at s = t·stride + k·dilation − padding. Each of the
# three maps below is the transpose or the inverse of another, so the family is closed under differentiation.


class _Windows(View):
    """params: (out, kernel, stride, dilation, padding, value)."""

    name = "windows"
    filling = 5

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape[: -len(params[0])] + params[0] + params[1], inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        from firepot.graph.primitives.reduce import reduce

        out, kernel, stride, dilation, padding, _ = node.params
        x = node.inputs[0]
        rank = len(out)
        spread = apply(spread_windows, (g,), (x.shape[-rank:], out, kernel, stride, dilation, padding))
        axes = tuple(range(len(x.shape), len(x.shape) + rank))
        return (reduce("sum", spread, axes),)

    def index(self, index: tuple[Index, ...], node: Node) -> Mapped:
        out, _kernel, stride, dilation, padding, _ = node.params
        rank = len(out)
        batch = len(index) - 2 * rank
        inner = list(index[:batch])
        conditions = []
        for d in range(rank):
            t, k = index[batch + d], index[batch + rank + d]
            s = t * stride[d] + k * dilation[d] - padding[d]
            inner.append(s)
            low, high = s.range
            if low < 0 or high >= node.inputs[0].shape[batch + d]:
                conditions.append((s, node.inputs[0].shape[batch + d]))
        return tuple(inner), tuple(conditions)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return apply(self, inputs, node.params)


class _SpreadWindows(View):
    """Windows (…, *T, *K) seen from the positions (…, *S, *K) they were read at, 0 elsewhere.

    params: (size, out, kernel, stride, dilation, padding).
    """

    name = "spread_windows"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape[: -2 * len(params[0])] + params[0] + params[2], inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        return (apply(pick_windows, (g,), node.params),)

    def index(self, index: tuple[Index, ...], node: Node) -> Mapped:
        _, out, _, stride, dilation, padding = node.params
        rank = len(out)
        batch = len(index) - 2 * rank
        inner = list(index[:batch])
        conditions = []
        for d in range(rank):
            s, k = index[batch + d], index[batch + rank + d]
            away = s + padding[d] - k * dilation[d]
            if stride[d] > 1:
                conditions.append((away % stride[d], 1))
            conditions.append((away // stride[d], out[d]))
            inner.append(away // stride[d])
        return tuple(inner) + tuple(index[batch + rank :]), tuple(conditions)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return apply(self, inputs, node.params)


class _PickWindows(View):
    """The inverse of spread_windows; same params."""

    name = "pick_windows"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape[: -2 * len(params[0])] + params[1] + params[2], inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        return (apply(spread_windows, (g,), node.params),)

    def index(self, index: tuple[Index, ...], node: Node) -> Mapped:
        size, out, _, stride, dilation, padding = node.params
        rank = len(out)
        batch = len(index) - 2 * rank
        inner = list(index[:batch])
        conditions = []
        for d in range(rank):
            s = index[batch + d] * stride[d] + index[batch + rank + d] * dilation[d] - padding[d]
            inner.append(s)
            conditions.append((s, size[d]))
        return tuple(inner) + tuple(index[batch + rank :]), tuple(conditions)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return apply(self, inputs, node.params)


windows_primitive = _Windows()
spread_windows = _SpreadWindows()
pick_windows = _PickWindows()


def windows(
    x: Node, out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int],
    padding: Sequence[int], value: bool | int | float,
) -> Node:  # fmt: skip
    """Sliding windows over the last len(kernel) dimensions; positions outside the input hold `value`."""
    batch = len(x.shape) - len(kernel)
    reach = tuple(t * k for t, k in zip(out, kernel, strict=True))
    apart = tuple(stride) == tuple(kernel) and not any(padding) and all(d == 1 for d in dilation)
    if apart and all(r <= s for r, s in zip(reach, x.shape[batch:], strict=True)):
        # Windows that do not overlap are another way to number the elements, whose gradient is a view too.
        within = slice_(x, (0,) * len(x.shape), x.shape[:batch] + reach)
        pairs = [size for pair in zip(out, kernel, strict=True) for size in pair]
        places = range(batch, batch + 2 * len(kernel), 2)
        return permute(reshape(within, (*x.shape[:batch], *pairs)), [*range(batch), *places, *(p + 1 for p in places)])
    return apply(
        windows_primitive,
        (x,),
        (tuple(out), tuple(kernel), tuple(stride), tuple(dilation), tuple(padding), value),
    )


def size_of(shape: Shape) -> int:
    return math.prod(shape)
