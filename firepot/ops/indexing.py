"""Indexing, gathering and scattering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather as ga
from firepot.graph.primitives import views
from firepot.ops.broadcast import axis_of, broadcast_shapes, expand
from firepot.ops.reindex import domain_of, read
from firepot.tensor import Tensor, caller_site, node_of, wrap

__all__ = [
    "argwhere", "bincount", "gather", "getitem", "index_add", "index_copy", "index_fill", "index_put", "index_reduce",
    "index_select", "masked_fill", "masked_scatter", "masked_select", "nonzero", "nonzero_static", "one_hot", "put", "scatter", "scatter_add", "scatter_reduce",
    "setitem", "take", "take_along_dim",
]  # fmt: skip


_SIZE = "a size that depends on values"
_BY_MASK = f"indexing with a boolean mask ({_SIZE})"
_MASKED = "Use fp.where to keep all elements and choose among values, fp.nonzero_static for a given number of positions"


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Positions of non-zero elements, (n, dimensions) or one vector for each dimension.

    The result's size depends on the values, so they are computed now; not possible inside fp.jit.
    """
    return _positions(input, as_tuple, f"nonzero ({_SIZE})")


def _positions(input: Tensor, as_tuple: bool, what: str) -> Any:
    if input.dtype is dtypes.bfloat16:  # whose bits are not its truth: −0.0 is zero
        input = wrap(ew.cast(input._node, dtypes.bool_))
    places = np.nonzero(np.atleast_1d(input.detach()._array(what, _MASKED)))
    if as_tuple:
        return tuple(wrap(node_of(p.astype(np.int64))) for p in places)
    return wrap(node_of(np.stack(places, -1)[:, : input.ndim].astype(np.int64)))


def _checked(index: Node, size: int, what: str, dim: int) -> Node:
    if index.dtype.kind not in "iu":
        raise TypeError(f"{what}: the index must hold integers, not {index.dtype.name}; convert it with .long()")
    message = f"{what}: index {{index}} is out of bounds for dimension {dim} with size {size} (at {caller_site()})"
    return ew.check_index(index, size, message)


class _Plan:
    """An index expression taken apart: a basic part done by views, then computed positions along some axes."""

    def __init__(self, x: Node, index: Any) -> None:
        items = list(index) if isinstance(index, tuple) else [index]
        items = [self._normal(i) for i in items]
        used = sum(len(i.shape) if i.dtype is dtypes.bool_ else 1 for i in items if isinstance(i, Node))
        used += sum(1 for i in items if isinstance(i, (int, slice)))
        ellipses = sum(1 for i in items if i is Ellipsis)
        if ellipses > 1:
            raise IndexError("an index can only have a single ellipsis ('...')")
        if used > len(x.shape):
            raise IndexError(f"too many indices for tensor of dimension {len(x.shape)}: {used} were given")
        rest = [slice(None)] * (len(x.shape) - used)
        if ellipses:
            at = next(k for k, i in enumerate(items) if i is Ellipsis)
            items[at : at + 1] = rest
        else:
            items += rest
        self.start: list[int] = []
        self.length: list[int] = []
        self.step: list[int] = []
        self.shape: list[int] = []  # after views: kept sizes and new axes
        self.arrays: list[tuple[int, Node]] = []  # (axis of `shape`, index)
        self._read(x, items)

    @staticmethod
    def _normal(item: Any) -> Any:
        if item is None or item is Ellipsis or isinstance(item, slice):
            return item
        if isinstance(item, (bool, np.bool_)):
            return node_of(np.asarray(item))
        if isinstance(item, (int, np.integer)):
            return int(item)
        if isinstance(item, Tensor):
            node = item._node
            if node.dtype.is_inexact:
                raise IndexError(f"tensors used as indices must be integers or bools, not {node.dtype.name}")
            return node
        array = np.asarray(
            [i.item() if isinstance(i, Tensor) else i for i in item] if isinstance(item, (list, tuple)) else item
        )
        if array.size == 0:
            array = array.astype(np.int64)
        if array.dtype.kind not in "iub":
            raise IndexError(
                f"only integers, slices, ..., None and integer or bool arrays index a tensor, not {item!r}"
            )
        return node_of(array)

    def _read(self, x: Node, items: list[Any]) -> None:
        d = 0
        for item in items:
            if item is None:
                self.shape.append(1)
            elif isinstance(item, slice):
                start, stop, step = (None if v is None else int(v) for v in (item.start, item.stop, item.step))
                if step == 0:
                    raise ValueError(f"slice step must not be 0, as it is for dimension {d}")
                begin, end, by = slice(start, stop, step).indices(x.shape[d])
                count = max(0, -(-(end - begin) // by))
                self._view(begin if count else 0, count, by)
                self.shape.append(count)
                d += 1
            elif isinstance(item, int):
                size = x.shape[d]
                if not -size <= item < size:
                    raise IndexError(f"index {item} is out of bounds for dimension {d} with size {size}")
                self._view(item % size, 1, 1)
                d += 1
            elif item.dtype is dtypes.bool_:
                rank = len(item.shape)
                if item.shape != x.shape[d : d + rank]:
                    raise IndexError(
                        f"the shape of the mask {list(item.shape)} does not match the indexed dimensions "
                        f"{list(x.shape[d : d + rank])}"
                    )
                if rank == 0:
                    self.shape.append(1)
                    places = _positions(wrap(views.reshape(item, (1,))), True, _BY_MASK)
                    self.arrays.append((len(self.shape) - 1, places[0]._node))
                for place in _positions(wrap(item), True, _BY_MASK) if rank else ():
                    self._view(0, x.shape[d], 1)
                    self.shape.append(x.shape[d])
                    self.arrays.append((len(self.shape) - 1, place._node))
                    d += 1
            else:
                self._view(0, x.shape[d], 1)
                self.shape.append(x.shape[d])
                self.arrays.append((len(self.shape) - 1, _checked(item, x.shape[d], "index", d)))
                d += 1

    def _view(self, start: int, length: int, step: int) -> None:
        self.start.append(start)
        self.length.append(length)
        self.step.append(step)

    def viewed(self, x: Node) -> Node:
        return views.reshape(views.slice_(x, self.start, self.length, self.step), tuple(self.shape))

    def positions(self) -> tuple[list[Node], list[int], int]:
        """(index nodes of one shape, their axes, where the indexed dimensions stand in the result)."""
        shape = broadcast_shapes(*(n.shape for _, n in self.arrays), what="index")
        nodes = [expand(ew.cast(n, dtypes.int64), shape) for _, n in self.arrays]
        axes = [a for a, _ in self.arrays]
        together = axes == list(range(axes[0], axes[0] + len(axes)))
        return nodes, axes, axes[0] if together else 0


def getitem(input: Tensor, index: Any) -> Tensor:
    """input[index], with NumPy's and PyTorch's rules for slices, None, …, integers, masks and integer tensors.

    Slices may go backwards, as the array API standard has it (PyTorch refuses them).

    >>> fp.arange(5)[::-2]
    tensor([4, 2, 0])
    """
    domain = domain_of(input, index)
    if domain is not None:
        return read(input, index, domain)
    x = input._node
    if type(index) is int and x.shape and -x.shape[0] <= index < x.shape[0]:  # the short way of what loops do most
        size, *rest = x.shape
        view = views.slice_(x, (index % size, *[0] * len(rest)), (1, *rest), (1,) * len(x.shape))
        return wrap(views.reshape(view, tuple(rest)))
    plan = _Plan(x, index)
    view = plan.viewed(x)
    if not plan.arrays:
        return wrap(view)
    nodes, axes, place = plan.positions()
    taken = ga.take(view, nodes, axes)
    count = len(nodes[0].shape)
    order = [*range(count, count + place), *range(count), *range(count + place, len(taken.shape))]
    return wrap(views.permute(taken, order))


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """input[index] = value: the handle stands for the changed tensor from now on."""
    x = input._node
    input._rebind(_assigned(x, index, node_of(value, x.dtype)))


def _assigned(x: Node, index: Any, value: Node, mode: str = "set") -> Node:
    if isinstance(index, Tensor) and index.dtype is dtypes.bool_ and value.size == 1 and mode == "set":
        mask = index._node
        wide = views.expand(views.reshape(mask, mask.shape + (1,) * (len(x.shape) - len(mask.shape))), x.shape)
        return ew.where(wide, views.expand(views.reshape(value, ()), x.shape), x)
    plan = _Plan(x, index)
    if not plan.arrays:
        target = tuple(plan.shape)
        extra = len(value.shape) - len(target)
        if extra > 0 and all(s == 1 for s in value.shape[:extra]):
            value = views.reshape(value, value.shape[extra:])
        if broadcast_shapes(value.shape, target, what="index assignment") != target:
            raise RuntimeError(f"index assignment: a value of shape {list(value.shape)} does not fit {list(target)}")
        value = views.reshape(views.expand(value, target), tuple(plan.length))
        inside = views.unslice(ew.like(ew.cast(value, dtypes.bool_), True), x.shape, plan.start, plan.step)
        return ew.where(inside, views.unslice(value, x.shape, plan.start, plan.step), x)
    view = plan.viewed(x)
    nodes, axes, place = plan.positions()
    rest = [s for d, s in enumerate(view.shape) if d not in axes]
    shape = nodes[0].shape
    result = (*rest[:place], *shape, *rest[place:])
    extra = len(value.shape) - len(result)
    if extra > 0 and all(s == 1 for s in value.shape[:extra]):
        value = views.reshape(value, value.shape[extra:])
    if broadcast_shapes(value.shape, result, what="index assignment") != result:
        raise RuntimeError(f"index assignment: a value of shape {list(value.shape)} does not fit {list(result)}")
    updates = views.expand(value, result)
    count = len(shape)
    updates = views.permute(updates, [*range(place, place + count), *range(place), *range(place + count, len(result))])
    changed = ga.scatter(view, updates, nodes, axes, mode)
    changed = views.reshape(changed, tuple(plan.length))
    if tuple(plan.length) == x.shape:
        return changed
    inside = views.unslice(ew.like(ew.cast(changed, dtypes.bool_), True), x.shape, plan.start, plan.step)
    return ew.where(inside, views.unslice(changed, x.shape, plan.start, plan.step), x)


def index_put(input: Tensor, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Tensor:
    """input with values written (or added) at the positions given by index tensors."""
    value = node_of(values, input.dtype)
    return wrap(_assigned(input._node, tuple(indices), value, "add" if accumulate else "set"))


def _along(x: Node, dim: int, index: Node, what: str) -> tuple[list[Node], list[int]]:
    """Positions for every axis: `index` along dim, its own coordinates along the others."""
    nodes = []
    for d, size in enumerate(index.shape):
        if d == dim:
            nodes.append(_checked(index, x.shape[d], what, d))
        else:
            column = tuple(size if k == d else 1 for k in range(len(index.shape)))
            nodes.append(views.expand(views.reshape(ew.iota(size, dtypes.int64), column), index.shape))
    return nodes, list(range(len(index.shape)))


def _fits(what: str, x: Node, dim: int, index: Node) -> None:
    if len(index.shape) != len(x.shape) or any(
        i > s for d, (i, s) in enumerate(zip(index.shape, x.shape, strict=True)) if d != dim
    ):
        raise RuntimeError(
            f"{what}: index of shape {list(index.shape)} does not fit input {list(x.shape)} outside dimension {dim}"
        )


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0, and likewise for the others."""
    x, i = input._node, index._node
    if i.dtype.kind not in "iu":
        raise RuntimeError(f"gather: the index must hold integers, not {i.dtype.name}; convert it with .long()")
    if not i.size:  # PyTorch asks nothing of an empty index
        return wrap(views.reshape(views.slice_(views.reshape(x, (x.size,)), (0,), (0,)), i.shape))
    if not x.shape or not i.shape:
        return _as_vectors(gather, input, dim, index)
    d = axis_of(dim, len(x.shape), "gather")
    _fits("gather", x, d, i)
    return wrap(ga.take(x, *_along(x, d, i, "gather")))


def _as_vectors(function: Any, input: Tensor, dim: int, index: Tensor, *others: Any) -> Tensor:
    """A function of 0-d tensors by way of vectors of one element."""
    axis_of(dim, len(input.shape), function.__name__)
    if input.ndim > 1 or index.ndim > 1:
        raise RuntimeError(
            f"{function.__name__}: index of shape {list(index.shape)} does not fit input {list(input.shape)}"
        )

    def vector(x: Any) -> Any:
        return wrap(views.reshape(x._node, (x.numel(),))) if isinstance(x, Tensor) and x.ndim < 2 else x

    result: Tensor = function(vector(input), 0, vector(index), *(vector(o) for o in others))
    shape = index.shape if function is gather or function is index_select else input.shape
    return wrap(views.reshape(result._node, () if function is index_select else shape))


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """gather with the other dimensions broadcast; with dim None, of flattened tensors."""
    if dim is None:
        return gather(
            wrap(views.reshape(input._node, (input._value.size,))),
            0,
            wrap(views.reshape(indices._node, (indices._value.size,))),
        )
    d = axis_of(dim, input.ndim, "take_along_dim")
    if input.ndim != indices.ndim:
        raise RuntimeError(
            f"take_along_dim: input and indices need equal dimensions, got {list(input.shape)} and {list(indices.shape)}"
        )
    rest = broadcast_shapes(
        [1 if k == d else s for k, s in enumerate(input.shape)],
        [1 if k == d else s for k, s in enumerate(indices.shape)], what="take_along_dim",
    )  # fmt: skip
    wide = [
        wrap(expand(t._node, tuple(t.shape[k] if k == d else s for k, s in enumerate(rest)))) for t in (input, indices)
    ]
    return gather(wide[0], d, wide[1])


def _scatter(input: Tensor, dim: int, index: Tensor, source: Any, mode: str, what: str) -> Tensor:
    x, i = input._node, index._node
    if isinstance(source, Tensor) and source.dtype is not x.dtype:
        raise RuntimeError(f"{what}: expected src of the input's dtype {x.dtype.name}, got {source.dtype.name}")
    if not i.size:
        axis_of(dim, len(x.shape), what)
        return wrap(x)
    if not x.shape or not i.shape:
        wide, places, values = _vectors(input, index, source)
        result = _scatter(wide, 0, places, values, mode, what)
        return wrap(views.reshape(result._node, x.shape))
    d = axis_of(dim, len(x.shape), what)
    _fits(what, x, d, i)
    value = node_of(source, x.dtype)
    if not value.shape:
        value = views.expand(value, i.shape)
    elif value.shape != i.shape:
        if len(value.shape) != len(i.shape) or any(a > b for a, b in zip(i.shape, value.shape, strict=True)):
            raise RuntimeError(f"{what}: index of shape {list(i.shape)} does not fit in src {list(value.shape)}")
        value = views.slice_(value, (0,) * len(i.shape), i.shape)
    return wrap(ga.scatter(x, value, *_along(x, d, i, what), mode))


def _vectors(*given: Any) -> list[Any]:
    return [wrap(views.reshape(g._node, (g.numel(),))) if isinstance(g, Tensor) and g.ndim == 0 else g for g in given]


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Tensor:
    """input with src written at out[index[i][j]][j] for dim 0, and likewise for the others."""
    modes = {"add": "add", "multiply": "prod", None: "set"}
    if reduce not in modes:
        raise RuntimeError(f"scatter: reduce must be 'add' or 'multiply', not {reduce!r}")
    mode = modes[reduce]
    return _scatter(input, dim, index, src if src is not None else value, mode, "scatter")


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """input with src added at the positions given by index."""
    return _scatter(input, dim, index, src, "add", "scatter_add")


def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Fold src into input at the positions of index: 'sum', 'prod', 'amax', 'amin' or 'mean'."""
    neutral = {"sum": 0.0, "prod": 1.0, "amax": -math.inf, "amin": math.inf, "mean": 0.0}
    if reduce not in neutral:
        raise RuntimeError(f"scatter_reduce: reduce must be one of {', '.join(neutral)}, not {reduce!r}")
    mode = {"sum": "add", "mean": "add", "prod": "prod", "amax": "max", "amin": "min"}[reduce]
    base = input
    touched = _scatter(wrap(ew.full(input.shape, 0, dtypes.int64)), dim, index, 1, "add", "scatter_reduce")._node
    hit = ew.ne(touched, ew.like(touched, 0))
    if not include_self:
        start = neutral[reduce]
        if input.dtype is dtypes.bool_:
            start = start > 0
        elif input.dtype.kind != "f" and math.isinf(start):
            from firepot.ops.arithmetic import iinfo

            start = iinfo(input.dtype).min if start < 0 else iinfo(input.dtype).max
        base = wrap(ew.where(hit, ew.like(input._node, start), input._node))
    result = _scatter(base, dim, index, src, mode, "scatter_reduce")._node
    if reduce == "mean":
        count = ew.cast(touched, input.dtype)
        if include_self:
            count = ew.add(count, ew.like(count, 1))
        divided = ew.binary(
            "div" if input.dtype.kind == "f" else "floordiv", result, ew.binary("maximum", count, ew.like(count, 1))
        )
        result = ew.where(hit, divided, result)
    return wrap(result)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The positions of a vector of indices along a dimension."""
    d = axis_of(dim, input.ndim, "index_select")
    if index.ndim > 1:
        raise IndexError(f"index_select: expected a vector of indices, got shape {list(index.shape)}")
    if not input.shape:
        return _as_vectors(index_select, input, dim, index)
    x = input._node
    taken = ga.take(x, [_checked(views.reshape(index._node, (index._value.size,)), x.shape[d], "index_select", d)], [d])
    return wrap(views.permute(taken, [*range(1, d + 1), 0, *range(d + 1, len(x.shape))]))


def _index_update(input: Tensor, dim: int, index: Tensor, source: Node, mode: str, what: str) -> Tensor:
    d = axis_of(dim, input.ndim, what)
    x = input._node
    if index.ndim > 1:
        raise IndexError(f"{what}: expected a vector of indices, got shape {list(index.shape)}")
    if not x.shape or not index.shape:
        wide = [wrap(views.reshape(n, n.shape or (1,))) for n in (x, index._node)]
        source = views.reshape(source, source.shape or (1,)) if len(source.shape) == len(x.shape) else (
            views.reshape(source, (*source.shape[:d], 1, *source.shape[d:])))  # fmt: skip
        return wrap(views.reshape(_index_update(wide[0], d, wide[1], source, mode, what)._node, x.shape))
    fitting = (*x.shape[:d], index.numel(), *x.shape[d + 1 :])
    if source.shape != fitting:
        raise IndexError(f"{what}: expected a source of shape {list(fitting)}, got {list(source.shape)}")
    updates = views.permute(source, [d, *(k for k in range(len(x.shape)) if k != d)])
    return wrap(ga.scatter(x, updates, [_checked(index._node, x.shape[d], what, d)], [d], mode))


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """input with alpha · source added at the indices of a dimension."""
    if source.dtype is not input.dtype:
        raise RuntimeError(f"index_add: self is {input.dtype.name} and source is {source.dtype.name}; they must be equal")
    node = source._node if alpha == 1 else ew.mul(source._node, ew.like(source._node, alpha))
    return _index_update(input, dim, index, node, "add", "index_add")


@autocasts
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """input with source written at the indices of a dimension."""
    if source.dtype is not input.dtype:
        raise RuntimeError(f"index_copy: self is {input.dtype.name} and source is {source.dtype.name}; they must be equal")
    return _index_update(input, dim, index, source._node, "set", "index_copy")


def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """input with one value at the indices of a dimension."""
    d = axis_of(dim, input.ndim, "index_fill")
    if isinstance(value, Tensor) and value.shape:
        raise RuntimeError(f"index_fill: value must be a number or a 0-d tensor, got shape {list(value.shape)}")
    if not input.shape:
        axis_of(dim, 0, "index_fill")
        wide, places = _vectors(input, index)
        return wrap(views.reshape(index_fill(wide, 0, places, value)._node, ()))
    if index.ndim > 1:
        raise IndexError(f"index_fill: expected a vector of indices, got shape {list(index.shape)}")
    size = input.shape[d]
    places = views.reshape(index._node, (index.numel(),))
    nothing, everything = ew.full((size,), False, dtypes.bool_), ew.full(places.shape, True, dtypes.bool_)
    hit = ga.scatter(nothing, everything, [_checked(places, size, "index_fill", d)], [0], "set")
    wide = views.expand(views.reshape(hit, tuple(size if k == d else 1 for k in range(input.ndim))), input.shape)
    return wrap(ew.where(wide, expand(node_of(value, input.dtype), input.shape), input._node))


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """input with `value` where the mask holds."""
    if mask.dtype is not dtypes.bool_:
        raise RuntimeError(f"masked_fill: the mask must be bool, not {mask.dtype.name}")
    if isinstance(value, Tensor) and value.shape:
        raise RuntimeError(f"masked_fill: value must be a number or a 0-d tensor, got shape {list(value.shape)}")
    shape = broadcast_shapes(input.shape, mask.shape, what="masked_fill")
    fill = node_of(value, input.dtype)
    return wrap(ew.where(expand(mask._node, shape), expand(fill, shape), expand(input._node, shape)))


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask holds, as a vector. Its size depends on values: not inside fp.jit."""
    shape = broadcast_shapes(input.shape, mask.shape, what="masked_select")
    return getitem(wrap(expand(input._node, shape)), wrap(expand(mask._node, shape)))


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened input."""
    if index.dtype.kind not in "iu":
        raise IndexError(f"take: the index must hold integers, not {index.dtype.name}")
    flat = wrap(views.reshape(input._node, (input._value.size,)))
    return getitem(flat, index)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 (…, classes): 1 at each index. The number of classes is looked up in the values unless given."""
    if num_classes < 0:
        values = tensor.detach()._array(f"one_hot without num_classes ({_SIZE})", "Give num_classes")
        num_classes = int(values.max()) + 1 if tensor.numel() else 0
    message = f"one_hot: class {{index}} is out of range for {num_classes} classes (at {caller_site()})"
    index = ew.check_index(tensor._node, num_classes, message, negative=False)
    wide = views.expand(views.reshape(index, (*tensor.shape, 1)), (*tensor.shape, num_classes))
    classes = views.expand(ew.iota(num_classes, dtypes.int64), wide.shape)
    return wrap(ew.cast(ew.eq(wide, classes), dtypes.int64))


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, 2, … occurs, or the sum of its weights. Size by values: not inside fp.jit."""
    if input.ndim != 1 or input.dtype.kind not in "iu":
        raise RuntimeError(f"bincount: expected a vector of integers, got {input.dtype.name}{list(input.shape)}")
    if minlength < 0:
        raise RuntimeError(f"bincount: minlength must not be negative, got {minlength}")
    if weights is not None and weights.shape != input.shape:
        raise RuntimeError(f"bincount: weights {list(weights.shape)} must be shaped as the input {list(input.shape)}")
    values = input.detach()._array(f"bincount ({_SIZE})", "Use fp.zeros(size).scatter_add(0, index, fp.ones(...))")
    if values.size and values.min() < 0:
        raise RuntimeError("bincount: the elements must not be negative")
    size = max(int(values.max(initial=-1)) + 1, minlength)
    updates = ew.full(input.shape, 1, dtypes.int64)
    if weights is not None:
        updates = weights._node if weights.dtype is dtypes.float32 else ew.cast(weights._node, dtypes.float64)
    places = [_checked(input._node, size, "bincount", 0)]
    return wrap(ga.scatter(ew.full((size,), 0, updates.dtype), updates, places, [0], "add"))


def argwhere(input: Tensor) -> Tensor:
    """(n, dimensions): the positions of non-zero elements."""
    return nonzero(input)


def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """(size, dimensions): the first positions of non-zero elements, then fill_value. The size is known: jit may hold it.

    The running count of non-zero elements says where each position goes; what does not fit is dropped.
    """
    if size < 0:
        raise RuntimeError(f"nonzero_static: size must not be negative, got {size}")
    x = input._node
    flat = views.reshape(ew.cast(x, dtypes.bool_), (x.size,))
    count = ga.scan(ew.cast(flat, dtypes.int64), "sum")
    place = ew.where(ew.and_(flat, ew.compare("le", count, ew.like(count, size))), count, ew.like(count, 0))
    columns: list[Node] = []
    stride = x.size
    for s in x.shape:
        stride = stride // s if s else 1
        index = ew.binary("floordiv", ew.iota(x.size, dtypes.int64), ew.full((x.size,), stride, dtypes.int64))
        index = ew.binary("remainder", index, ew.like(index, max(s, 1)))
        start = ew.full((size + 1,), fill_value, dtypes.int64)
        changed = ga.scatter(start, index, [_checked(place, size + 1, "nonzero_static", 0)], [0], "set")
        columns.append(views.reshape(views.slice_(changed, (1,), (size,)), (size, 1)))
    if not columns:
        return wrap(ew.full((size, 0), fill_value, dtypes.int64))
    return wrap(views.concatenate(columns, 1))


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """input with the elements of source, one after another, where the mask holds.

    Raises: IndexError, when computed, where source has too few elements.
    """
    if mask.dtype is not dtypes.bool_:
        raise RuntimeError(f"masked_scatter: the mask must be bool, not {mask.dtype.name}")
    if source.dtype is not input.dtype:
        raise RuntimeError(f"masked_scatter: expected source of dtype {input.dtype.name}, got {source.dtype.name}")
    shape = broadcast_shapes(input.shape, mask.shape, what="masked_scatter")
    x, m = expand(input._node, shape), expand(mask._node, shape)
    if not x.size:
        return wrap(x)
    flat = views.reshape(m, (x.size,))
    place = ew.sub(ga.scan(ew.cast(flat, dtypes.int64), "sum"), ew.full((x.size,), 1, dtypes.int64))
    place = ew.where(flat, place, ew.like(place, 0))
    values = views.reshape(source._node, (source.numel(),))
    if not source.numel():
        values = ew.full((1,), 0, x.dtype)  # looked up only where the mask does not hold
        place = ew.where(flat, ew.like(place, 1), place)
    taken = ga.take(values, [_checked(place, values.size, "masked_scatter (number of elements of source)", 0)], [0])
    return wrap(ew.where(m, views.reshape(taken, shape), x))


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """input with source written (or added) at positions of the flattened input."""
    if source.dtype is not input.dtype or index.numel() != source.numel():
        raise RuntimeError(
            f"put: source {source.dtype.name}{list(source.shape)} must have the input's dtype {input.dtype.name} and as "
            f"many elements as the index {list(index.shape)}"
        )
    size = input.numel()
    flat = views.reshape(input._node, (size,))
    places = views.reshape(index._node, (index.numel(),))
    updates = views.reshape(source._node, (source.numel(),))
    changed = ga.scatter(flat, updates, [_checked(places, size, "put", 0)], [0], "add" if accumulate else "set")
    return wrap(views.reshape(changed, input.shape))


def index_reduce(
    input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Fold source into input at the indices of a dimension: 'prod', 'mean', 'amax' or 'amin'."""
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise RuntimeError(f"index_reduce: reduce must be prod, mean, amax or amin, not {reduce!r}")
    d = axis_of(dim, input.ndim, "index_reduce")
    if not input.shape:
        return _as_vectors(
            lambda x, k, i, s: index_reduce(x, k, i, s, reduce, include_self=include_self), input, dim, index, source
        )
    if index.ndim > 1 or source.shape != (*input.shape[:d], index.numel(), *input.shape[d + 1 :]):
        raise RuntimeError(
            f"index_reduce: index {list(index.shape)} and source {list(source.shape)} do not fit {list(input.shape)}"
        )
    column = views.reshape(index._node, tuple(index.numel() if k == d else 1 for k in range(input.ndim)))
    wide = wrap(views.expand(column, source.shape))
    return scatter_reduce(input, d, wide, source, reduce, include_self=include_self)
