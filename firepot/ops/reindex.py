"""Meta-operators: operations written as index expressions, for what no named operation does.

>>> x = fp.randn(8, 3, 32, 32)
>>> every_second = fp.reindex((8, 3, 16, 16), lambda n, c, i, j: x[n, c, 2 * i, 2 * j])
>>> w = fp.randn(5, 3, 3, 3)
>>> y = fp.reindex_reduce(                                                        # a convolution
...     (8, 5, 32, 32), (3, 3, 3),
...     lambda n, o, i, j, c, di, dj: x[n, c, i + di - 1, j + dj - 1] * w[o, c, di, dj],
... )

The function is called once, with symbolic positions. A tensor read at positions gives its values over all of them, as
an ordinary tensor; whatever is done with it is done element by element. So derivatives of any order, vmap, jit and
fusion with the surroundings are those of the operations it is made of, and sums of products of two reads become matrix
products and convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.index import Index
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather, views
from firepot.graph.primitives import reindex as ri
from firepot.graph.primitives.reads import axis
from firepot.graph.primitives.reduce import reduce as fold
from firepot.ops.broadcast import Number, expand
from firepot.ops.product_sum import product_sum
from firepot.tensor import Tensor, node_of, wrap

__all__ = ["reindex", "reindex_reduce", "reindex_scatter"]

_FOLDS = ("sum", "mean", "prod", "max", "min", "any", "all")


class Domain:
    """The positions that one meta-operator goes over, and what was read at them."""

    def __init__(self, shape: Sequence[int], folded: int, fill: Number, what: str) -> None:
        self.shape = _sizes(shape, what)
        self.folded = folded  # number of the first axis that is folded
        self.fill = fill
        self.what = what
        self.reads: dict[Node, tuple[Node, tuple[Index, ...]]] = {}

    def run(self, function: Callable[..., Any]) -> Any:
        """What the function gives for all positions."""
        _running.append(self)
        try:
            return function(*(Position(self, Index.of(axis(d, s))) for d, s in enumerate(self.shape)))
        finally:
            _running.pop()

    def values(self, result: Any) -> Node:
        """A result over all positions."""
        node = node_of(result)
        extra = len(self.shape) - len(node.shape)
        if extra < 0 or any(s not in (1, t) for s, t in zip(node.shape, self.shape[extra:], strict=True)):
            raise RuntimeError(
                f"{self.what}: the function gave a value of shape {list(node.shape)}, which does not fit the positions "
                f"{list(self.shape)}"
            )
        return expand(node, self.shape)


_running: list[Domain] = []  # the innermost last


def _sizes(shape: Any, what: str) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(s, int) and s >= 0 for s in sizes):
        raise TypeError(f"{what}: a shape must be non-negative integers, got {sizes}")
    return sizes


class Position:
    """A symbolic position: an axis, or a sum, multiple, quotient or remainder of axes with whole numbers.

    Other arithmetic, and comparisons, give int64 and bool tensors over all positions.
    """

    __slots__ = ("_domain", "_index")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, domain: Domain, index: Index) -> None:
        self._domain, self._index = domain, index

    def as_tensor(self) -> Tensor:
        """The positions as int64 values."""
        return wrap(ri.position_values(self._index, self._domain.shape))

    def __repr__(self) -> str:
        return f"Position({self._index})"

    def __bool__(self) -> bool:
        raise TypeError("a position has no truth value; use fp.where for a choice between values")

    def __index__(self) -> int:
        raise TypeError("a position is symbolic and cannot be used as a Python integer")

    def _sum(self, other: Any, sign: int) -> Any:
        if isinstance(other, Position):
            return Position(self._domain, self._index + other._index * sign)
        if isinstance(other, int):
            return Position(self._domain, self._index + other * sign)
        return self.as_tensor() + other if sign > 0 else self.as_tensor() - other

    def __add__(self, other: Any) -> Any:
        return self._sum(other, 1)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._sum(other, -1)

    def __rsub__(self, other: Any) -> Any:
        return (-self) + other

    def __neg__(self) -> Position:
        return Position(self._domain, -self._index)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, int):
            return Position(self._domain, self._index * other)
        return self.as_tensor() * other

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, int) and other > 0:
            return Position(self._domain, self._index // other)
        return self.as_tensor() // other

    def __mod__(self, other: Any) -> Any:
        if isinstance(other, int) and other > 0:
            return Position(self._domain, self._index % other)
        return self.as_tensor() % other

    def __truediv__(self, other: Any) -> Tensor:
        return self.as_tensor() / other

    def __rtruediv__(self, other: Any) -> Tensor:
        return other / self.as_tensor()

    def __pow__(self, other: Any) -> Tensor:
        return self.as_tensor() ** other

    def __lt__(self, other: Any) -> Tensor:
        return self.as_tensor() < other

    def __le__(self, other: Any) -> Tensor:
        return self.as_tensor() <= other

    def __gt__(self, other: Any) -> Tensor:
        return self.as_tensor() > other

    def __ge__(self, other: Any) -> Tensor:
        return self.as_tensor() >= other

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return self.as_tensor() == other

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return self.as_tensor() != other


def domain_of(input: Tensor, index: Any) -> Domain | None:
    """The domain over which input[index] reads: where positions occur, or only integer tensors with a value for every
    position of the running meta-operator."""
    items = index if type(index) is tuple else (index,)
    for item in items:
        if type(item) is Position:
            return item._domain
    if not _running or len(items) != input.ndim or not all(isinstance(i, (Tensor, int)) for i in items):
        return None
    tensors = [i for i in items if isinstance(i, Tensor)]
    whole = any(t.shape == _running[-1].shape for t in tensors) and all(t.dtype.kind in "iu" for t in tensors)
    return _running[-1] if whole else None


def read(input: Tensor, index: Any, domain: Domain) -> Tensor:
    """input[positions]: its values over all positions, the domain's fill value outside of the tensor."""
    items = index if isinstance(index, tuple) else (index,)
    x = input._node
    if len(items) != len(x.shape):
        raise IndexError(
            f"{domain.what}: a tensor of shape {list(x.shape)} must be read at {len(x.shape)} positions, got {len(items)}"
        )
    for item in items:
        if isinstance(item, Position) and item._domain is not domain:
            raise IndexError(f"{domain.what}: a position of another meta-operator was used")
        if not isinstance(item, (Position, int, Tensor)):
            raise IndexError(
                f"{domain.what}: a tensor is read at positions, whole numbers and integer tensors, got "
                f"{type(item).__name__}"
            )
    if any(isinstance(i, Tensor) for i in items):
        return wrap(_gathered(x, [_values(i, domain) for i in items], domain))
    positions = tuple(i._index if isinstance(i, Position) else Index((), i) for i in items)
    node = ri.reindex(x, domain.shape, positions, domain.fill, domain.folded)
    domain.reads[node] = (x, positions)
    return wrap(node)


def _values(item: Any, domain: Domain) -> Node:
    """A position as int64 values over the domain."""
    if isinstance(item, Position):
        return ri.position_values(item._index, domain.shape)
    node = node_of(item)
    if node.dtype.kind not in "iu":
        raise IndexError(f"{domain.what}: a position must be of an integer dtype, not {node.dtype.name}")
    return ew.cast(domain.values(item), dtypes.int64)


def _gathered(x: Node, values: Sequence[Node], domain: Domain) -> Node:
    if not x.size:
        return ew.full(domain.shape, domain.fill, x.dtype)
    inside = ri.within(values, x.shape)
    safe = [ew.where(inside, v, ew.like(v, 0)) for v in values]
    taken = gather.take(x, safe, tuple(range(len(x.shape))))
    return ew.where(inside, taken, ew.like(taken, domain.fill))


def reindex(shape: Sequence[int], function: Callable[..., Any], *, fill: Number = 0) -> Tensor:
    """result[i, j, …] = function(i, j, …).

    Args:
        shape: of the result; the function gets a position for each dimension.
        function: reads tensors at positions, x[i, 2 * j + 1], and computes with what it reads. Positions add up with
            one another and with whole numbers, and have whole multiples, // and %. A position can also be an integer
            tensor: x[i, idx[j]].
        fill: the value of reads outside of a tensor, on either side.

    Reads cost no memory: they become index arithmetic of the kernel that uses them.

    >>> x = fp.arange(4)
    >>> fp.reindex((4, 4), lambda i, j: x[i - j])  # a Toeplitz matrix
    tensor([[0, 0, 0, 0],
            [1, 0, 0, 0],
            [2, 1, 0, 0],
            [3, 2, 1, 0]])
    """
    domain = Domain(shape, len(_sizes(shape, "reindex")), fill, "reindex")
    return wrap(domain.values(domain.run(function)))


def reindex_reduce(
    shape: Sequence[int], over: Sequence[int], function: Callable[..., Any], reduce: str = "sum", *, fill: Number = 0
) -> Tensor:
    """result[i, …] = Σ over k, … of function(i, …, k, …).

    Args:
        shape: of the result.
        over: how far each of the folded positions runs, 0 … size − 1.
        function: of the positions of the result, then the folded ones; as for `reindex`.
        reduce: 'sum', 'mean', 'prod', 'max', 'min', 'any' or 'all'.
        fill: the value of reads outside of a tensor.

    The sum (or mean) of a product of two reads is computed as a matrix product or a convolution wherever it is one.

    >>> fp.reindex_reduce((2,), (3,), lambda i, k: fp.ones(2, 3)[i, k])
    tensor([3., 3.])
    """
    what = "reindex_reduce"
    if reduce not in _FOLDS:
        raise ValueError(f"{what}: reduce must be one of {', '.join(_FOLDS)}, not {reduce!r}")
    kept, folded = _sizes(shape, what), _sizes(over, what)
    domain = Domain((*kept, *folded), len(kept), fill, what)
    node = domain.values(domain.run(function))
    axes = tuple(range(len(kept), len(domain.shape)))
    count = math.prod(folded)
    if reduce in ("sum", "mean"):
        if node.dtype.kind == "b" or (reduce == "mean" and node.dtype.kind != "f"):
            node = ew.cast(node, dtypes.int64 if reduce == "sum" else dtypes.float32)
        total = product_sum(node, domain.reads, domain.shape, len(kept), fill)
        total = fold("sum", node, axes) if total is None else total
        return wrap(total if reduce == "sum" else ew.div(total, ew.like(total, count)))
    if reduce in ("any", "all"):
        node = ew.cast(node, dtypes.bool_) if node.dtype.kind == "b" else ew.ne(node, ew.like(node, 0))
    elif reduce in ("max", "min") and not count:
        raise RuntimeError(f"{what}: {reduce} over no positions, {list(folded)}, has no value")
    return wrap(fold(reduce, node, axes))


def reindex_scatter(
    shape: Sequence[int], over: Sequence[int], function: Callable[..., Any], reduce: str = "sum"
) -> Tensor:
    """The transpose of reading: function(k, …) gives (position, value), and values that meet at one are folded.

    Args:
        shape: of the result. Where nothing is written it is 0 for 'sum', 1 for 'prod', the lowest or highest value
            of the dtype for 'max' and 'min'.
        over: how far each position that the function gets runs.
        function: returns (a position or a tuple with one for each dimension of the result, the value); what lies
            outside of the result is dropped.
        reduce: 'sum', 'prod', 'max' or 'min'.

    >>> x = fp.tensor([1.0, 2.0, 3.0, 4.0])
    >>> fp.reindex_scatter((2,), (4,), lambda i: (i // 2, x[i]))
    tensor([3., 7.])
    """
    what = "reindex_scatter"
    modes = {"sum": "add", "prod": "prod", "max": "max", "min": "min"}
    if reduce not in modes:
        raise ValueError(f"{what}: reduce must be one of {', '.join(modes)}, not {reduce!r}")
    target = _sizes(shape, what)
    domain = Domain(over, len(_sizes(over, what)), 0, what)
    made = domain.run(function)
    if not isinstance(made, tuple) or len(made) != 2:
        raise TypeError(f"{what}: the function must return (position, value), got {type(made).__name__}")
    places = made[0] if isinstance(made[0], tuple) else (made[0],)
    if len(places) != len(target) or not target:
        raise IndexError(f"{what}: {len(places)} positions for a result of shape {list(target)}")
    value = domain.values(made[1])
    neutral = _neutral(reduce, value.dtype)
    base = ew.full(target, neutral, value.dtype)
    if not base.size or not value.size:
        return wrap(base)
    if reduce == "sum" and all(isinstance(p, (Position, int)) for p in places):
        indices = [p._index if isinstance(p, Position) else Index((), p) for p in places]
        return wrap(ri.gathered(value, indices, target))
    values = [_values(p, domain) for p in places]
    inside = ri.within(values, target)
    value = ew.where(inside, value, ew.like(value, neutral))
    values = [ew.where(inside, v, ew.like(v, 0)) for v in values]
    flat = [views.reshape(v, (v.size,)) for v in values]
    return wrap(
        gather.scatter(base, views.reshape(value, (value.size,)), flat, tuple(range(len(target))), modes[reduce])
    )


def _neutral(reduce: str, dtype: DType) -> Number:
    if reduce in ("sum", "prod"):
        return 0 if reduce == "sum" else 1
    if dtype.kind == "f":
        return -math.inf if reduce == "max" else math.inf
    bits = dtype.size * 8 - (dtype.kind == "i")
    lowest, highest = (-(2**bits) if dtype.kind == "i" else 0), 2**bits - 1
    return lowest if reduce == "max" else highest
