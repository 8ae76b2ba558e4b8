"""Operations that move elements without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather, views
from firepot.graph.primitives.reduce import reduce
from firepot.ops.broadcast import axes_of, axis_of, promoted
from firepot.tensor import Tensor, caller_site, node_of, wrap
from firepot.tracing import state

__all__ = [
    "broadcast_to", "cat", "chunk", "concat", "concatenate", "constant_pad", "diag", "diag_embed",
    "diagonal", "expand", "expand_as", "flatten", "flip", "fliplr", "flipud", "hstack", "moveaxis",
    "movedim", "narrow", "numel", "permute", "ravel", "repeat", "repeat_interleave", "reshape",
    "reshape_as", "roll", "select", "split", "squeeze", "stack", "swapaxes", "swapdims", "t", "tile",
    "transpose", "tril", "triu", "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as", "vstack",
]  # fmt: skip


def _sizes(size: Sequence[Any]) -> list[int]:
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = size[0]
    return [int(s) for s in size]


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The elements in row-major order under another shape; one size may be −1."""
    sizes = _sizes(shape)
    total = input._value.size
    if sizes.count(-1) > 1:
        raise RuntimeError("reshape: only one dimension can be inferred (−1)")
    if -1 in sizes:
        rest = math.prod(s for s in sizes if s != -1)
        if rest == 0 or total % rest:
            raise RuntimeError(
                f"reshape: shape {sizes} is invalid for input of size {total} (shape {list(input.shape)})"
            )
        sizes[sizes.index(-1)] = total // rest
    if math.prod(sizes) != total or any(s < 0 for s in sizes):
        raise RuntimeError(f"reshape: shape {sizes} is invalid for input of size {total} (shape {list(input.shape)})")
    return wrap(views.reshape(input._node, tuple(sizes)))


view = reshape


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """The elements under the shape of `other`."""
    return reshape(input, other.shape)


reshape_as = view_as


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim … end_dim joined into one."""
    if not input.shape:
        return reshape(input, 1)
    rank = input.ndim
    first, last = axis_of(start_dim, rank, "flatten"), axis_of(end_dim, rank, "flatten")
    if first > last:
        raise RuntimeError("flatten: start_dim cannot come after end_dim")
    shape = input.shape
    return reshape(input, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension."""
    return reshape(input, -1) if input._value.size else reshape(input, 0)


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dimension split into several."""
    d = axis_of(dim, input.ndim, "unflatten")
    sizes = list(sizes)
    if -1 in sizes:
        rest = math.prod(s for s in sizes if s != -1)
        sizes[sizes.index(-1)] = input.shape[d] // max(rest, 1)
    if math.prod(sizes) != input.shape[d]:
        raise RuntimeError(f"unflatten: sizes {sizes} do not multiply to {input.shape[d]}, the size of dimension {d}")
    return reshape(input, (*input.shape[:d], *sizes, *input.shape[d + 1 :]))


def permute(input: Tensor, *dims: Any) -> Tensor:
    """Dimensions in another order."""
    rank = input.ndim
    order = [axis_of(d, rank, "permute") for d in _sizes(dims)]
    if sorted(order) != list(range(rank)):
        raise RuntimeError(f"permute: {order} is not an order of the {input.ndim} dimensions of {list(input.shape)}")
    return wrap(views.permute(input._node, order))


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    if not input.shape:
        return input
    a, b = axis_of(dim0, input.ndim, "transpose"), axis_of(dim1, input.ndim, "transpose")
    order = list(range(input.ndim))
    order[a], order[b] = order[b], order[a]
    return wrap(views.permute(input._node, order))


swapaxes = swapdims = transpose


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix (a vector or number as it is)."""
    if input.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with at most 2 dimensions, got {input.ndim}")
    return transpose(input, 0, 1) if input.ndim == 2 else input


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved to other places, the others keeping their order."""
    sources = [axis_of(d, input.ndim, "movedim") for d in ([source] if isinstance(source, int) else source)]
    targets = [
        axis_of(d, input.ndim, "movedim") for d in ([destination] if isinstance(destination, int) else destination)
    ]
    if len(set(sources)) != len(sources) or len(set(targets)) != len(targets) or len(sources) != len(targets):
        raise RuntimeError(f"movedim: source {sources} and destination {targets} must be as many different dimensions")
    rest = iter(d for d in range(input.ndim) if d not in sources)
    where = dict(zip(targets, sources, strict=True))
    return permute(input, [where[d] if d in where else next(rest) for d in range(input.ndim)])


moveaxis = movedim


def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Dimensions of size 1 taken away."""
    chosen: Sequence[int] = range(input.ndim)
    if dim is not None:
        chosen = axes_of(dim, input.ndim, "squeeze") if isinstance(dim, int) or dim else ()
    return wrap(views.reshape(input._node, tuple(s for d, s in enumerate(input.shape) if s != 1 or d not in chosen)))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """A dimension of size 1 put in."""
    d = axis_of(dim, input.ndim + 1, "unsqueeze")
    return wrap(views.reshape(input._node, (*input.shape[:d], 1, *input.shape[d:])))


def expand(input: Tensor, *size: Any) -> Tensor:
    """Dimensions of size 1 repeated; −1 keeps a size."""
    sizes = _sizes(size)
    extra = len(sizes) - input.ndim
    if extra < 0:
        raise RuntimeError(f"expand: {sizes} has fewer dimensions than the tensor's {list(input.shape)}")
    for i, have in enumerate(input.shape, extra):
        if sizes[i] == -1:
            sizes[i] = have
        elif have not in (1, sizes[i]):
            raise RuntimeError(f"expand: size {have} of dimension {i - extra} cannot become {sizes[i]}; it must be 1")
    return wrap(views.expand(input._node, tuple(sizes)))


broadcast_to = expand


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """Repeated along dimensions of size 1 to the shape of `other`."""
    return expand(input, other.shape)


def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """The tensor repeated along each dimension."""
    times = _sizes(repeats)
    shape = (1,) * (len(times) - input.ndim) + input.shape
    if len(times) < input.ndim:
        raise RuntimeError(f"repeat: {len(times)} repeats for a tensor of {input.ndim} dimensions")
    node = views.reshape(input._node, tuple(x for s in shape for x in (1, s)))
    node = views.expand(node, tuple(x for r, s in zip(times, shape, strict=True) for x in (r, s)))
    return wrap(views.reshape(node, tuple(r * s for r, s in zip(times, shape, strict=True))))


def tile(input: Tensor, *dims: Any) -> Tensor:
    """Repeated `dims` times along each dimension; missing numbers are 1."""
    times = _sizes(dims)
    return repeat(input, [1] * (input.ndim - len(times)) + times)


def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element repeated in place, `repeats` times or as often as a tensor says.

    A tensor of repeats makes a result whose size depends on values, unless output_size gives it: not inside fp.jit.
    With one argument, the positions 0, 1, 2, … each repeated as the argument says.
    """
    if repeats is None:
        return repeat_interleave(wrap(ew.iota(input.numel(), dtypes.int64)), input, 0, output_size=output_size)
    if dim is None:
        input, dim = ravel(input), 0
    d = axis_of(dim, input.ndim, "repeat_interleave")
    if not input.shape:
        input = reshape(input, 1)
    shape = input.shape
    if isinstance(repeats, Tensor):
        return _repeated_as_told(input, repeats, d, output_size)
    if repeats < 0:
        raise RuntimeError(f"repeat_interleave: repeats must not be negative, got {repeats}")
    node = views.reshape(input._node, (*shape[: d + 1], 1, *shape[d + 1 :]))
    node = views.expand(node, (*shape[: d + 1], repeats, *shape[d + 1 :]))
    return wrap(views.reshape(node, (*shape[:d], shape[d] * repeats, *shape[d + 1 :])))


def _repeated_as_told(input: Tensor, repeats: Tensor, d: int, output_size: int | None) -> Tensor:
    size = input.shape[d]
    if repeats.dtype not in (dtypes.int32, dtypes.int64) or repeats.ndim > 1:
        raise RuntimeError(
            f"repeat_interleave: repeats must be int32 or int64 of at most one dimension, got {repeats.dtype.name}"
            f"{list(repeats.shape)}"
        )
    if repeats.numel() not in (1, size):
        raise RuntimeError(f"repeat_interleave: expected 1 or {size} repeats, got {repeats.numel()}")
    if output_size is not None and state.trace is not None:
        index = _repeated_positions(repeats._node, size, output_size)
        taken = gather.take(input._node, [index], [d])
        return wrap(views.permute(taken, [*range(1, d + 1), 0, *range(d + 1, input.ndim)]))
    counts = repeats.detach()._array("repeat_interleave with a tensor (a size that depends on values)", "Give output_size").reshape(-1)
    if (counts < 0).any():
        raise RuntimeError("repeat_interleave: repeats must not be negative")
    places = np.repeat(np.arange(size), counts if counts.size == size else int(counts[0]))
    if output_size is not None and output_size != places.size:
        raise RuntimeError(f"repeat_interleave: output_size is {output_size}, the repeats add up to {places.size}")
    taken = gather.take(input._node, [node_of(places.astype(np.int64))], [d])
    return wrap(views.permute(taken, [*range(1, d + 1), 0, *range(d + 1, input.ndim)]))


def _repeated_positions(repeats: Node, size: int, output_size: int) -> Node:
    """For each of output_size positions of the result that of the input, `repeats` having no values yet. Where they do
    not add up, the program raises IndexError."""
    counts = views.expand(ew.cast(views.reshape(repeats, (repeats.size,)), dtypes.int64), (size,))
    ends = gather.scan(counts, "sum")
    grid = (output_size, size)
    rows = views.expand(views.reshape(ew.iota(output_size, dtypes.int64), (output_size, 1)), grid)
    index = reduce("sum", ew.cast(ew.compare("le", views.expand(ends, grid), rows), dtypes.int64), (1,))
    total = views.expand(reduce("sum", counts, (0,)), (output_size,))
    lowest = views.expand(reduce("min", counts, (0,)), (output_size,))
    fits = ew.and_(ew.eq(total, ew.like(total, output_size)), ew.ge(lowest, ew.like(lowest, 0)))
    message = (
        f"repeat_interleave: the repeats are negative or do not add up to output_size = {output_size} (at "
        f"{caller_site()})"
    )
    return ew.check_index(ew.where(fits, index, ew.like(index, size)), size, message, negative=False)


@autocasts
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after another along a dimension; the other sizes must agree."""
    tensors = [x for x in tensors if x.shape != (0,)] or list(tensors)[:1]
    if not tensors:
        raise RuntimeError("cat: expected a non-empty list of tensors")
    first = tensors[0]
    d = axis_of(dim, first.ndim, "cat")
    if not first.shape:
        raise RuntimeError("cat: zero-dimensional tensors cannot be concatenated; use stack")
    before, after = first.shape[:d], first.shape[d + 1 :]
    for i, x in enumerate(tensors):
        if x.ndim != first.ndim or x.shape[:d] != before or x.shape[d + 1 :] != after:
            raise RuntimeError(
                f"cat: sizes must match except in dimension {d}; tensor 0 has {list(first.shape)}, tensor {i} has {list(x.shape)}"
            )
    nodes = [x._node for x in tensors]
    if any(n.dtype is not nodes[0].dtype for n in nodes):
        dtype = promoted(tensors)
        nodes = [ew.cast(n, dtype) for n in nodes]
    return wrap(views.concatenate(nodes, d))


concat = concatenate = cat


@autocasts
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension."""
    if not tensors:
        raise RuntimeError("stack: expected a non-empty list of tensors")
    for x in tensors:
        if x.shape != tensors[0].shape:
            raise RuntimeError(
                f"stack: expects tensors of equal size, got {list(tensors[0].shape)} and {list(x.shape)}"
            )
    return cat([unsqueeze(x, dim) for x in tensors], dim if dim >= 0 else dim + tensors[0].ndim + 1)


def _at_least(tensors: Sequence[Tensor], rank: int) -> list[Tensor]:
    return [reshape(x, (1,) * (rank - x.ndim) + x.shape) if x.ndim < rank else x for x in tensors]


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the second dimension (the first, of vectors)."""
    if not tensors:
        raise RuntimeError("hstack: expected a non-empty list of tensors")
    rows = _at_least(tensors, 1)
    return cat(rows, 0 if rows[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the first dimension; vectors are rows."""
    if not tensors:
        raise RuntimeError("vstack: expected a non-empty list of tensors")
    return cat(_at_least(tensors, 2), 0)


def split(input: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces of a size (the last may be smaller), or of the sizes given."""
    d = axis_of(dim, input.ndim, "split")
    total = input.shape[d]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        if step <= 0:
            raise RuntimeError(f"split: the size of a piece must be positive, not {step}")
        sizes = [min(step, total - i) for i in range(0, total, step)] or [0]
    else:
        sizes = list(split_size_or_sections)
        if sum(sizes) != total:
            raise RuntimeError(f"split: the sizes {sizes} do not add up to {total}, the size of dimension {d}")
    result, start = [], 0
    for size in sizes:
        result.append(narrow(input, d, start, size))
        start += size
    return tuple(result)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` parts of one size along `dim`, the last perhaps smaller."""
    d = axis_of(dim, input.ndim, "chunk")
    return split(input, max(1, -(-input.shape[d] // chunks)), d)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along `dim`, which vanishes."""
    d = axis_of(dim, input.ndim, "unbind")
    return tuple(select(input, d, i) for i in range(input.shape[d]))


def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """Elements start … start + length − 1 along a dimension."""
    d = axis_of(dim, input.ndim, "narrow")
    if not input.shape:
        raise RuntimeError("narrow: cannot be applied to a 0-d tensor")
    if isinstance(start, Tensor):
        if start.shape or start.dtype.kind not in "iu":
            raise RuntimeError(f"narrow: start must be a 0-d integer, got {start.dtype.name}{list(start.shape)}")
        start = int(start)
    start = start + input.shape[d] if start < 0 else start
    if not 0 <= start <= start + length <= input.shape[d]:
        raise RuntimeError(f"narrow: start {start} and length {length} exceed size {input.shape[d]} of dimension {d}")
    begin = [0] * input.ndim
    begin[d] = start
    return wrap(views.slice_(input._node, begin, (*input.shape[:d], length, *input.shape[d + 1 :])))


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """One position along a dimension, which vanishes."""
    d = axis_of(dim, input.ndim, "select")
    size = input.shape[d]
    if not -size <= index < size:
        raise IndexError(f"select: index {index} is out of bounds for dimension {d} with size {size}")
    return squeeze(narrow(input, d, index % size, 1), d)


def flip(input: Tensor, *axes: Any, dims: Any = None) -> Tensor:
    """Order reversed along dimensions."""
    given = _sizes(axes if dims is None else (dims,))
    return wrap(views.flip(input._node, axes_of(given, input.ndim, "flip") if given else ()))


def fliplr(input: Tensor) -> Tensor:
    """The second dimension backwards."""
    if input.ndim < 2:
        raise RuntimeError(f"fliplr: expected at least 2 dimensions, got shape {list(input.shape)}")
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """The first dimension backwards."""
    if not input.ndim:
        raise RuntimeError("flipud: expected at least 1 dimension, got a 0-d tensor")
    return flip(input, 0)


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements shifted round along dimensions."""
    if dims is None:
        return reshape(roll(ravel(input), shifts, 0), input.shape)
    pairs = zip([shifts] if isinstance(shifts, int) else shifts, [dims] if isinstance(dims, int) else dims, strict=True)
    for shift, dim in pairs:
        d = axis_of(dim, input.ndim, "roll")
        size = input.shape[d]
        if size and shift % size:
            cut = size - shift % size
            input = cat([narrow(input, d, cut, size - cut), narrow(input, d, 0, cut)], d)
    return input


def _diagonal_mask(rows: int, columns: int, diagonal: int, upper: bool) -> Any:
    i = views.expand(views.reshape(ew.iota(rows, dtypes.int64), (rows, 1)), (rows, columns))
    j = views.expand(ew.iota(columns, dtypes.int64), (rows, columns))
    away = ew.sub(j, i)
    return ew.compare("ge" if upper else "le", away, ew.like(away, diagonal))


def _triangle(input: Tensor, diagonal: int, upper: bool) -> Tensor:
    if input.ndim < 2:
        raise RuntimeError(f"{'triu' if upper else 'tril'}: expected at least 2 dimensions, got {input.ndim}")
    rows, columns = input.shape[-2:]
    mask = views.expand(_diagonal_mask(rows, columns, diagonal, upper), input.shape)
    return wrap(ew.where(mask, input._node, ew.like(input._node, 0)))


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle, zeros above it."""
    return _triangle(input, diagonal, False)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle, zeros below it."""
    return _triangle(input, diagonal, True)


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dimensions, as the last dimension."""
    a, b = axis_of(dim1, input.ndim, "diagonal"), axis_of(dim2, input.ndim, "diagonal")
    x = movedim(input, (a, b), (-2, -1))
    rows, columns = x.shape[-2:]
    length = max(0, min(rows - max(-offset, 0), columns - max(offset, 0)))
    flat = reshape(x, (*x.shape[:-2], rows * columns))
    start = max(offset, 0) + max(-offset, 0) * columns
    begin = [0] * (flat.ndim - 1) + [start if length else 0]
    return wrap(views.slice_(flat._node, begin, (*flat.shape[:-1], length), [1] * (flat.ndim - 1) + [columns + 1]))


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix, or the matrix with this diagonal."""
    if input.ndim == 2:
        return globals()["diagonal"](input, diagonal)
    if input.ndim != 1:
        raise RuntimeError(f"diag: expected a vector or a matrix, got shape {list(input.shape)}")
    return diag_embed(input, diagonal)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices with the last dimension on a diagonal; the matrices' dimensions stand at dim1 and dim2."""
    a, b = axis_of(dim1, input.ndim + 1, "diag_embed"), axis_of(dim2, input.ndim + 1, "diag_embed")
    if a == b:
        raise RuntimeError(f"diag_embed: dim1 and dim2 must differ, got {dim1} and {dim2}")
    n = input.shape[-1] + abs_(offset)
    x = pad_last(input, max(offset, 0), max(-offset, 0)) if offset else input
    wide = views.expand(views.reshape(x._node, (*x.shape[:-1], 1, n)), (*x.shape[:-1], n, n))
    i = views.expand(views.reshape(ew.iota(n, dtypes.int64), (n, 1)), (n, n))
    j = views.expand(ew.iota(n, dtypes.int64), (n, n))
    on = ew.eq(ew.sub(j, i), ew.like(i, offset))
    made = wrap(ew.where(views.expand(on, wide.shape), wide, ew.like(wide, 0)))
    return movedim(made, (-2, -1), (a, b))


def abs_(value: int) -> int:
    return value if value >= 0 else -value


def pad_last(input: Tensor, low: int, high: int) -> Tensor:
    zeros = [0] * (input.ndim - 1)
    return wrap(views.pad(input._node, [*zeros, low], [*zeros, high]))


def constant_pad(input: Tensor, pad: Sequence[int], value: Any = 0) -> Tensor:
    """torch.nn.functional.pad's layout: (low, high) of the last dimension first."""
    low, high = [0] * input.ndim, [0] * input.ndim
    if len(pad) % 2 or len(pad) // 2 > input.ndim:
        raise RuntimeError(f"pad: {list(pad)} does not fit a tensor of {input.ndim} dimensions")
    for i in range(len(pad) // 2):
        low[-1 - i], high[-1 - i] = pad[2 * i], pad[2 * i + 1]
    if any(s + a + b < 0 for s, a, b in zip(input.shape, low, high, strict=True)):
        raise RuntimeError(f"pad: {list(pad)} makes a size of {list(input.shape)} negative")
    if not input.dtype.is_inexact:
        value = int(value)
    return wrap(views.pad(input._node, low, high, value))


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of a dimension, as a new last dimension."""
    d = axis_of(dimension, input.ndim, "unfold")
    if size < 0 or step <= 0:
        raise RuntimeError(f"unfold: size must not be negative and step must be positive, got {size} and {step}")
    if not input.shape:
        if size > 1:
            raise RuntimeError(f"unfold: size {size} exceeds 1, the size of a 0-d tensor")
        return reshape(input, size) if size else reshape(slice_empty(input), 0)
    x = movedim(input, d, -1)
    count = (x.shape[-1] - size) // step + 1
    if size > x.shape[-1]:
        raise RuntimeError(f"unfold: size {size} exceeds {x.shape[-1]}, the size of dimension {d}")
    node = views.windows(x._node, (count,), (size,), (step,), (1,), (0,), 0)
    return movedim(wrap(node), -2, d)


def slice_empty(input: Tensor) -> Tensor:
    """No elements, of the input's dtype and history."""
    return narrow(reshape(input, -1), 0, 0, 0)


def numel(input: Tensor) -> int:
    """The number of elements, as a Python int."""
    return input._value.size
