"""What every operation shares: turning arguments into nodes of one dtype and one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType, result_type
from firepot.graph.node import Node, Shape
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.tensor import Tensor, default_dtype, node_of

Number = bool | int | float
NUMBERS = (bool, int, float, complex)


def number_dtype(value: Number | complex) -> DType:
    """The dtype that a Python number brings to a promotion."""
    if isinstance(value, bool):
        return dtypes.bool_
    if isinstance(value, complex):
        return default_dtype().to_complex()
    return dtypes.int64 if isinstance(value, int) else default_dtype()


def promoted(values: Sequence[Any]) -> DType:
    """PyTorch's result dtype of tensors and Python numbers."""
    tensors, scalars = [], []
    for v in values:
        if isinstance(v, NUMBERS):
            scalars.append(number_dtype(v))
        else:
            node = v._node if isinstance(v, Tensor) else node_of(v)
            tensors.append((node.dtype, len(node.shape)))
    return result_type(tensors, scalars)


def broadcast_shapes(*given: Sequence[int] | int, what: str = "broadcast_shapes") -> Shape:
    """The common shape of operands: sizes are equal or 1, aligned at the last dimension. Raises RuntimeError."""
    shapes = [(s,) if isinstance(s, int) else s for s in given]
    if any(size < 0 for s in shapes for size in s):
        raise RuntimeError(f"{what}: trying to create a tensor with a negative dimension: {[list(s) for s in shapes]}")
    rank = max((len(s) for s in shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, rank - len(shape)):
            if size != 1:
                if result[i] not in (1, size):
                    text = " and ".join(str(list(s)) for s in shapes)
                    raise RuntimeError(
                        f"{what}: shapes {text} cannot be broadcast together; dimension {i} has sizes {result[i]} "
                        f"and {size}, which must be equal or 1"
                    )
                result[i] = size
    return tuple(result)


def common_shape(a: Shape, b: Shape, what: str) -> Shape:
    """broadcast_shapes of two nodes' shapes; at once where one is the end of the other, as it nearly always is."""
    if a == b or not b:
        return a
    if not a:
        return b
    if a[-len(b) :] == b:
        return a
    return b if b[-len(a) :] == a else broadcast_shapes(a, b, what=what)


def expand(node: Node, shape: Shape) -> Node:
    return node if node.shape == shape else views.expand(node, shape)


# The Python numbers that do not change the dtype of a tensor of a kind.
_FITTING: dict[str, frozenset[type]] = {
    "c": frozenset((complex, float, int, bool)),
    "f": frozenset((float, int, bool)), "i": frozenset((int, bool)), "u": frozenset((int, bool)),
    "b": frozenset((bool,)),
}  # fmt: skip


def plain_pair(what: str, a: Any, b: Any) -> list[Node] | None:
    """Nodes of the common shape of two operands that need no promotion: tensors of one dtype, or a tensor and a
    number of its kind; None for all others. The short way of what people write most."""
    if isinstance(a, Tensor):
        x = a._node
        if isinstance(b, Tensor):
            y = b._node
            if x.dtype is not y.dtype:
                return None
        elif type(b) in _FITTING[x.dtype.kind]:
            return [x, ew.full(x.shape, b, x.dtype)]
        else:
            return None
    elif isinstance(b, Tensor):
        y = b._node
        if type(a) not in _FITTING[y.dtype.kind]:
            return None
        return [ew.full(y.shape, a, y.dtype), y]
    else:
        return None
    if x.shape == y.shape:
        return [x, y]
    shape = common_shape(x.shape, y.shape, what)
    return [expand(x, shape), expand(y, shape)]


def operands(what: str, *values: Any, dtype: DType | None = None) -> list[Node]:
    """Nodes of the promoted (or given) dtype and the common shape.

    Raises: TypeError where all of them are Python numbers, RuntimeError where shapes do not fit.
    """
    if dtype is None and len(values) == 2:
        pair = plain_pair(what, *values)
        if pair is not None:
            return pair
    elif dtype is None and isinstance(values[0], Tensor):
        x = values[0]._node
        fitting = _FITTING[x.dtype.kind]
        if fitting.issuperset(map(type, values[1:])):
            return [x, *[ew.full(x.shape, v, x.dtype) for v in values[1:]]]
    if all(isinstance(v, NUMBERS) for v in values):
        raise TypeError(f"{what}: at least one operand must be a tensor, got {', '.join(map(repr, values))}")
    target = dtype if dtype is not None else promoted(values)
    nodes = [ew.cast(node_of(v), target) if not isinstance(v, NUMBERS) else ew.constant(v, target)
             for v in values]  # fmt: skip
    first = nodes[0].shape
    if all(n.shape == first for n in nodes):
        return nodes
    shape = broadcast_shapes(*(n.shape for n in nodes), what=what)
    return [expand(n, shape) for n in nodes]


def floating(node: Node) -> Node:
    """Integers and bools as the default floating dtype."""
    return node if node.dtype.is_inexact else ew.cast(node, default_dtype())


def axis_of(dim: int, rank: int, what: str) -> int:
    """A dimension number, negative ones counted from the end. Raises IndexError."""
    limit = max(rank, 1)
    if not -limit <= dim < limit:
        raise IndexError(
            f"{what}: dimension {dim} is out of range for a tensor with {rank} dimensions; "
            f"expected {-limit} to {limit - 1}"
        )
    return dim % limit


def axes_of(dim: Any, rank: int, what: str) -> tuple[int, ...]:
    """None: all dimensions; a number or a sequence: those. Raises on repetition."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(rank))
    if isinstance(dim, int):
        return (axis_of(dim, rank, what),) if rank else ()
    found = tuple(axis_of(int(d), rank, what) for d in dim)
    if len(set(found)) != len(found):
        raise RuntimeError(f"{what}: a dimension appears more than once in {list(dim)}")
    return tuple(sorted(found)) if rank else ()
