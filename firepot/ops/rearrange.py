"""Stacks, pieces, blocks and grids: what is composed from the basic moves of elements in `shape`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather as ga
from firepot.graph.primitives import views
from firepot.ops import arithmetic, reduction, shape
from firepot.ops.broadcast import axis_of, broadcast_shapes, expand, operands, promoted
from firepot.ops.creation import meshgrid
from firepot.tensor import Tensor, node_of, wrap

__all__ = [
    "alias_copy", "as_strided", "as_strided_copy", "as_strided_scatter", "atleast_1d", "atleast_2d", "atleast_3d",
    "block_diag", "cartesian_prod", "column_stack", "combinations", "constant_pad_nd", "cross", "diagflat",
    "diagonal_copy", "diagonal_scatter", "diff", "dsplit", "dstack", "expand_copy", "hsplit", "kron", "narrow_copy",
    "permute_copy", "rot90", "row_stack", "select_scatter", "slice_copy", "slice_scatter",
    "split_with_sizes", "split_with_sizes_copy", "squeeze_copy", "sum_to_size", "t_copy", "tensor_split", "trace",
    "transpose_copy", "tril_indices", "triu_indices", "unbind_copy", "unfold_copy", "unravel_index", "unsafe_chunk",
    "unsafe_split", "unsqueeze_copy", "vander", "view_copy", "vsplit",
]  # fmt: skip

# -- stacks ----------------------------------------------------------------------------------------------------------


def _each(tensors: tuple[Any, ...], change: Any) -> Any:
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        return tuple(change(x) for x in tensors[0])
    return change(tensors[0]) if len(tensors) == 1 else tuple(change(x) for x in tensors)


def _raised(input: Tensor, rank: int) -> Tensor:
    if input.ndim >= rank:
        return input
    if rank == 1:
        return shape.reshape(input, 1)
    if rank == 2:
        return shape.reshape(input, (1, input.numel()))
    return shape.unsqueeze(_raised(input, 2), -1)


def atleast_1d(*tensors: Any) -> Any:
    """0-d tensors as vectors of one element."""
    return _each(tensors, lambda x: _raised(x, 1))


def atleast_2d(*tensors: Any) -> Any:
    """Tensors of fewer dimensions as matrices of one row."""
    return _each(tensors, lambda x: _raised(x, 2))


def atleast_3d(*tensors: Any) -> Any:
    """Tensors of fewer dimensions with dimensions of size 1: a vector of n becomes (1, n, 1), a matrix (m, n, 1)."""
    return _each(tensors, lambda x: _raised(x, 3))


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one behind the other along the third dimension."""
    if not tensors:
        raise RuntimeError("dstack: expected a non-empty list of tensors")
    return shape.cat([_raised(x, 3) for x in tensors], 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Vectors as columns, and matrices, side by side."""
    if not tensors:
        raise RuntimeError("column_stack: expected a non-empty list of tensors")
    return shape.hstack([shape.reshape(x, (x.numel(), 1)) if x.ndim < 2 else x for x in tensors])


row_stack = shape.vstack


def block_diag(*tensors: Tensor) -> Tensor:
    """Matrices along the diagonal of one matrix, zeros elsewhere."""
    if not tensors:
        return wrap(ew.full((1, 0), 0, dtypes.float32))
    dtype = promoted(tensors)
    for i, x in enumerate(tensors):
        if x.ndim > 2:
            raise RuntimeError(f"block_diag: expected tensors of at most 2 dimensions, tensor {i} has {x.ndim}")
    blocks = [_raised(x, 2) for x in tensors]
    width = sum(b.shape[1] for b in blocks)
    rows, left = [], 0
    for b in blocks:
        node = ew.cast(b._node, dtype)
        rows.append(wrap(views.pad(node, [0, left], [0, width - left - b.shape[1]])))
        left += b.shape[1]
    return shape.cat(rows, 0)


# -- pieces ----------------------------------------------------------------------------------------------------------


def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces whose sizes differ by at most one, or those between the indices given."""
    if not input.shape:
        raise RuntimeError("tensor_split: expected at least one dimension")
    d = axis_of(dim, input.ndim, "tensor_split")
    size = input.shape[d]
    given = indices_or_sections
    if isinstance(given, Tensor):
        if given.ndim > 1 or given.dtype is not dtypes.int64:
            raise RuntimeError(
                f"tensor_split: expected a number or a vector of int64, got {given.dtype.name}{list(given.shape)}"
            )
        given = given.tolist()
    if isinstance(given, int):
        if given <= 0:
            raise RuntimeError(f"tensor_split: the number of pieces must be positive, not {given}")
        small, larger = divmod(size, given)
        ends = list(itertools.accumulate([small + 1] * larger + [small] * (given - larger)))[:-1]
    else:
        ends = [int(i) for i in given]
    result, start = [], 0
    for end in [*ends, size]:
        low, high, _ = slice(start, end).indices(size)
        result.append(shape.narrow(input, d, min(low, size), max(0, high - low)))
        start = end
    return tuple(result)


def _split_along(input: Tensor, given: Any, dim: int, least: int, what: str) -> tuple[Tensor, ...]:
    if input.ndim < least:
        raise RuntimeError(f"{what}: expected a tensor with at least {least} dimensions, got {list(input.shape)}")
    if isinstance(given, int) and (given <= 0 or input.shape[dim] % given):
        raise RuntimeError(
            f"{what}: dimension {dim} of size {input.shape[dim]} cannot be divided into {given} equal pieces"
        )
    return tensor_split(input, given, dim)


def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal pieces, or those between indices, along the second dimension (the first of a vector)."""
    return _split_along(input, indices_or_sections, 0 if input.ndim == 1 else 1, 1, "hsplit")


def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal pieces, or those between indices, along the first dimension."""
    return _split_along(input, indices_or_sections, 0, 2, "vsplit")


def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal pieces, or those between indices, along the third dimension."""
    return _split_along(input, indices_or_sections, 2, 3, "dsplit")


def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    return shape.split(input, list(split_sizes), dim)


unsafe_chunk, unsafe_split = shape.chunk, shape.split

# -- blocks written into a tensor ------------------------------------------------------------------------------------


def _slice_bounds(input: Tensor, dim: int, start: int | None, end: int | None, step: int) -> tuple[int, int, int]:
    d = axis_of(dim, input.ndim, "slice")
    if step <= 0:
        raise RuntimeError(f"slice: step must be positive, not {step}")
    begin, stop, _ = slice(start, end, step).indices(input.shape[d])
    return d, begin, max(0, -(-(stop - begin) // step))


def slice_copy(
    input: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """input[start:end:step] along a dimension."""
    d, begin, count = _slice_bounds(input, dim, start, end, step)
    low, steps = [0] * input.ndim, [1] * input.ndim
    low[d], steps[d] = begin if count else 0, step
    return wrap(views.slice_(input._node, low, (*input.shape[:d], count, *input.shape[d + 1 :]), steps))


def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """input with src in place of input[start:end:step] along a dimension."""
    d, begin, count = _slice_bounds(input, dim, start, end, step)
    window = (*input.shape[:d], count, *input.shape[d + 1 :])
    if broadcast_shapes(src.shape, window, what="slice_scatter") != window:
        raise RuntimeError(f"slice_scatter: src {list(src.shape)} does not fit the slice {list(window)}")
    return _placed(input._node, expand(ew.cast(src._node, input.dtype), window), d, begin if count else 0, step)


def _placed(x: Node, value: Node, d: int, begin: int, step: int) -> Tensor:
    low, steps = [0] * len(x.shape), [1] * len(x.shape)
    low[d], steps[d] = begin, step
    inside = views.unslice(ew.full(value.shape, True, dtypes.bool_), x.shape, low, steps)
    return wrap(ew.where(inside, views.unslice(value, x.shape, low, steps), x))


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """input with src at one position of a dimension."""
    d = axis_of(dim, input.ndim, "select_scatter")
    size = input.shape[d]
    if not -size <= index < size:
        raise IndexError(f"select_scatter: index {index} is out of bounds for dimension {d} with size {size}")
    window = (*input.shape[:d], *input.shape[d + 1 :])
    if src.shape != window:
        raise RuntimeError(f"select_scatter: expected src of shape {list(window)}, got {list(src.shape)}")
    value = views.reshape(ew.cast(src._node, input.dtype), (*input.shape[:d], 1, *input.shape[d + 1 :]))
    return _placed(input._node, value, d, index % size, 1)


def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """input with src on the diagonal of two dimensions."""
    a, b = axis_of(dim1, input.ndim, "diagonal_scatter"), axis_of(dim2, input.ndim, "diagonal_scatter")
    target = shape.diagonal(input, offset, a, b)
    if src.shape != target.shape:
        raise RuntimeError(f"diagonal_scatter: expected src of shape {list(target.shape)}, got {list(src.shape)}")
    rows, columns = input.shape[a], input.shape[b]
    moved = shape.movedim(input, (a, b), (-2, -1))._node
    node = ew.cast(src._node, input.dtype)
    length = node.shape[-1]
    before = max(-offset, 0)
    # The element of row i stands at place i − before of the diagonal, whatever its column.
    spread = views.pad(node, [0] * (len(node.shape) - 1) + [before], [0] * (len(node.shape) - 1) + [
        rows - before - length])  # fmt: skip
    wide = views.expand(views.reshape(spread, (*spread.shape, 1)), (*spread.shape, columns))
    on = views.expand(_on_diagonal(rows, columns, offset), moved.shape)
    return shape.movedim(wrap(ew.where(on, wide, moved)), (-2, -1), (a, b))


def _on_diagonal(rows: int, columns: int, offset: int) -> Node:
    i = views.expand(views.reshape(ew.iota(rows, dtypes.int64), (rows, 1)), (rows, columns))
    j = views.expand(ew.iota(columns, dtypes.int64), (rows, columns))
    away = ew.sub(j, i)
    return ew.eq(away, ew.like(away, offset))


# -- matrices --------------------------------------------------------------------------------------------------------


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with the flattened elements on a diagonal."""
    return shape.diag_embed(shape.ravel(input), offset)


@autocasts
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if input.ndim != 2:
        raise RuntimeError(f"trace: expected a matrix, got shape {list(input.shape)}")
    return reduction.sum(shape.diagonal(input))


def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: every element of the first times the whole second."""
    rank = max(input.ndim, other.ndim)
    a, b = (1,) * (rank - input.ndim) + input.shape, (1,) * (rank - other.ndim) + other.shape
    left = shape.reshape(input, tuple(x for s in a for x in (s, 1)))
    right = shape.reshape(other, tuple(x for s in b for x in (1, s)))
    return shape.reshape(arithmetic.mul(left, right), tuple(x * y for x, y in zip(a, b, strict=True)))


def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The cross product of vectors of three along a dimension (default: the first of size 3)."""
    a, b = operands("cross", input, other)
    if dim is None:
        dim = next((d for d, s in enumerate(a.shape) if s == 3), None)
        if dim is None:
            raise RuntimeError(f"cross: no dimension of size 3 in {list(a.shape)}")
    d = axis_of(dim, len(a.shape), "cross")
    if any(v.ndim == len(a.shape) and v.shape[d] != 3 for v in (input, other)) or input.ndim != other.ndim:
        raise RuntimeError(
            f"cross: expected equal dimensions and size 3 along dimension {d}, got {list(input.shape)} and "
            f"{list(other.shape)}"
        )
    x, y = wrap(a), wrap(b)
    return arithmetic.sub(
        arithmetic.mul(shape.roll(x, -1, d), shape.roll(y, -2, d)),
        arithmetic.mul(shape.roll(x, -2, d), shape.roll(y, -1, d)),
    )


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """The matrix of powers of a vector's elements, highest first unless increasing."""
    if x.ndim != 1:
        raise RuntimeError(f"vander: expected a vector, got shape {list(x.shape)}")
    count = x.shape[0] if N is None else N
    if count < 0:
        raise RuntimeError(f"vander: N must not be negative, got {count}")
    powers = vandermonde(x, count)
    return powers if increasing else shape.flip(powers, 1)


def vandermonde(x: Tensor, count: int) -> Tensor:
    """(…, n) -> (…, n, count): the powers 0 … count − 1."""
    node = x._node if x.dtype is not dtypes.bool_ else ew.cast(x._node, dtypes.int64)
    rows = views.expand(views.reshape(node, (*node.shape, 1)), (*node.shape, max(count, 1)))
    ones = views.expand(ew.like(views.slice_(rows, (0,) * len(rows.shape), (*node.shape, 1)), 1), (*node.shape, 1))
    if count <= 1:
        return wrap(views.slice_(ones, (0,) * len(ones.shape), (*node.shape, count)))
    rest = ga.scan(views.slice_(rows, (0,) * len(rows.shape), (*node.shape, count - 1)), "prod")
    return wrap(views.concatenate([ones, rest], len(node.shape)))


def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turned by k quarter turns in the plane of two dimensions, from the first towards the second."""
    if len(dims) != 2:
        raise RuntimeError(f"rot90: expected two dimensions, got {list(dims)}")
    if input.ndim < 2:
        raise RuntimeError(f"rot90: expected a tensor with at least 2 dimensions, got {list(input.shape)}")
    a, b = (axis_of(d, input.ndim, "rot90") for d in dims)
    if a == b:
        raise RuntimeError(f"rot90: the two dimensions must differ, got {list(dims)}")
    turns = k % 4
    if turns == 0:
        return input
    if turns == 2:
        return shape.flip(input, a, b)
    return shape.transpose(shape.flip(input, b), a, b) if turns == 1 else shape.flip(shape.transpose(input, a, b), b)


def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Differences of neighbours along a dimension, n times."""
    if not input.shape:
        raise RuntimeError("diff: expected a tensor with at least one dimension")
    if n < 0:
        raise RuntimeError(f"diff: n must not be negative, got {n}")
    d = axis_of(dim, input.ndim, "diff")
    for name, part in (("prepend", prepend), ("append", append)):
        if part is not None and part.ndim != input.ndim:
            raise RuntimeError(f"diff: {name} must have {input.ndim} dimensions, got {list(part.shape)}")
    if n == 0:
        return input
    x = shape.cat([p for p in (prepend, input, append) if p is not None], d)
    for _ in range(min(n, x.shape[d])):
        high, low = shape.narrow(x, d, 1, x.shape[d] - 1), shape.narrow(x, d, 0, x.shape[d] - 1)
        x = arithmetic.logical_xor(high, low) if x.dtype is dtypes.bool_ else arithmetic.sub(high, low)
    return x


# -- grids of positions ----------------------------------------------------------------------------------------------


def _triangle_indices(row: int, col: int, keep: Any, dtype: DType | None) -> Tensor:
    import numpy as np

    if row < 0 or col < 0:
        raise RuntimeError(f"triangle indices: sizes must not be negative, got {row} and {col}")
    i, j = np.indices((row, col))
    return wrap(node_of(np.stack([i[keep(i, j)], j[keep(i, j)]]).astype(np.int64), dtype or dtypes.int64))


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: DType | None = None, device: Any = None,
                 layout: Any = None) -> Tensor:  # fmt: skip
    """(2, n): rows and columns of the lower triangle's elements."""
    return _triangle_indices(row, col, lambda i, j: j - i <= offset, dtype)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: DType | None = None, device: Any = None,
                 layout: Any = None) -> Tensor:  # fmt: skip
    """(2, n): rows and columns of the upper triangle's elements."""
    return _triangle_indices(row, col, lambda i, j: j - i >= offset, dtype)


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Positions in a flattened tensor of this shape as one index for each dimension."""
    if indices.dtype.kind not in "iu":
        raise ValueError(f"unravel_index: expected integers, got {indices.dtype.name}")
    sizes = [int(shape)] if isinstance(shape, (int, Tensor)) and not getattr(shape, "shape", ()) else [
        int(s) for s in (shape.tolist() if isinstance(shape, Tensor) else shape)]  # fmt: skip
    if any(s < 0 for s in sizes):
        raise ValueError(f"unravel_index: sizes must not be negative, got {sizes}")
    result: list[Tensor] = []
    rest: Tensor = indices
    for size in reversed(sizes):
        result.append(arithmetic.remainder(rest, size))
        rest = arithmetic.floor_divide(rest, size)
    return tuple(reversed(result))


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of one element of each vector, as rows."""
    for x in tensors:
        if x.ndim != 1:
            raise RuntimeError(f"cartesian_prod: expected vectors, got shape {list(x.shape)}")
    if len(tensors) == 1:
        return tensors[0]
    return shape.stack([shape.ravel(g) for g in meshgrid(*tensors)], 1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All choices of r elements of a vector in order, as rows."""
    import numpy as np

    if input.ndim != 1:
        raise RuntimeError(f"combinations: expected a vector, got shape {list(input.shape)}")
    if r < 0:
        raise RuntimeError(f"combinations: r must not be negative, got {r}")
    if r == 0:
        return wrap(ew.full((0,), 0, input.dtype))
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = np.array(list(choose(range(input.shape[0]), r)), np.int64).reshape(-1, r)
    return wrap(ga.take(input._node, [node_of(rows)], [0]))


# -- storage seen otherwise ------------------------------------------------------------------------------------------


def _strided_positions(what: str, total: int, size: Sequence[int], stride: Sequence[int], offset: int) -> Node:
    if len(size) != len(stride):
        raise RuntimeError(f"{what}: mismatch in length of size {list(size)} and stride {list(stride)}")
    if any(s < 0 for s in (*size, *stride)) or offset < 0:
        raise RuntimeError(f"{what}: sizes, strides and offset must not be negative")
    reach = offset + sum((s - 1) * t for s, t in zip(size, stride, strict=True)) if math.prod(size) else -1
    if reach >= total:
        raise RuntimeError(
            f"{what}: size {list(size)}, stride {list(stride)} and offset {offset} reach element {reach} of {total}"
        )
    shape = tuple(size)
    node = ew.full(shape, offset, dtypes.int64)
    for d, (s, t) in enumerate(zip(size, stride, strict=True)):
        column = views.reshape(ew.iota(s, dtypes.int64), tuple(s if k == d else 1 for k in range(len(shape))))
        node = ew.add(node, ew.mul(views.expand(column, shape), ew.full(shape, t, dtypes.int64)))
    return node


def as_strided(input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """Elements of the input in row-major order, read with these strides: a gather, not a view."""
    places = _strided_positions("as_strided", input.numel(), size, stride, storage_offset or 0)
    return wrap(ga.take(views.reshape(input._node, (input.numel(),)), [places], [0]))


def as_strided_scatter(
    input: Tensor, src: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """input with src written where as_strided would read."""
    places = _strided_positions("as_strided_scatter", input.numel(), size, stride, storage_offset or 0)
    if src.shape != tuple(size):
        raise RuntimeError(f"as_strided_scatter: expected src of shape {list(size)}, got {list(src.shape)}")
    flat = views.reshape(input._node, (input.numel(),))
    changed = ga.scatter(flat, ew.cast(src._node, input.dtype), [places], [0], "set")
    return wrap(views.reshape(changed, input.shape))


def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """The transpose of a broadcast: summed over what `size` lacks or has as 1."""
    sizes = tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
    extra = input.ndim - len(sizes)
    if extra < 0 or any(t not in (1, s) for s, t in zip(input.shape[extra:], sizes, strict=True)):
        raise RuntimeError(f"sum_to_size: {list(sizes)} is not expandable to {list(input.shape)}")
    axes = [*range(extra), *(d + extra for d, t in enumerate(sizes) if t == 1 and input.shape[d + extra] != 1)]
    if not axes and (input.dtype.is_inexact or input.ndim):
        return shape.reshape(input, sizes)
    return shape.reshape(reduction.sum(input, axes) if axes else reduction.sum(shape.unsqueeze(input, 0), 0), sizes)


def constant_pad_nd(input: Tensor, pad: Sequence[int], value: float = 0) -> Tensor:
    return shape.constant_pad(input, pad, value)


# Nothing aliases in Firepot, so the forms that PyTorch has for copies are the operations themselves.


def alias_copy(input: Tensor) -> Tensor:
    """The same value under a new handle."""
    return wrap(input._node)


as_strided_copy = as_strided
diagonal_copy, expand_copy, narrow_copy, permute_copy = shape.diagonal, shape.expand, shape.narrow, shape.permute
split_with_sizes_copy, squeeze_copy, t_copy, transpose_copy = split_with_sizes, shape.squeeze, shape.t, shape.transpose
unbind_copy, unfold_copy, unsqueeze_copy, view_copy = shape.unbind, shape.unfold, shape.unsqueeze, shape.view
