"""vmap: a function of one example becomes a function of many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

from firepot import tree
from firepot.capture import TraceError
from firepot.func._arguments import named
from firepot.func._recording import Recording
from firepot.graph import dtypes
from firepot.graph.node import Node, data, example
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.tensor import Tensor, _pending, caller_site, wrap
from firepot.tracing import Trace, state
from firepot.transforms.batch import Batch

_RANDOMNESS = ("error", "different", "same")


def vmap(
    func: Callable[..., Any], in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error", *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """The function that computes `func` for many examples at once: torch.vmap.

    `func` runs once, on a stand-in for one example; what it recorded is rewritten with a dimension more. There is no
    loop over the examples. vmaps nest, and compose with the derivatives and with fp.jit.

    Args:
        func: from trees of tensors to trees of tensors.
        in_dims: the dimension that is mapped over: a number for all arguments, or a tuple with one entry for each.
            An entry may itself be a tree; None stands for what all examples share.
        out_dims: where the dimension stands in the results: a number, or a tree for the result; None for a result
            that is the same for all examples. Tensors given by keyword are mapped over dimension 0.
        randomness: 'error' refuses random numbers, 'different' draws them for each example (as one call with a
            leading dimension would), 'same' draws them once.
        chunk_size: compute at most so many examples at a time, to need less memory.

    Raises: ValueError for dimensions that do not fit the arguments or sizes that differ; TraceError where `func`
        reads a value that differs between the examples (.item(), if tensor:).

    >>> fp.vmap(fp.dot)(fp.ones(5, 3), fp.ones(5, 3))  # five dot products
    tensor([3., 3., 3., 3., 3.])
    """
    if randomness not in _RANDOMNESS:
        raise ValueError(f"vmap: randomness must be one of {', '.join(map(repr, _RANDOMNESS))}, not {randomness!r}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"vmap: chunk_size must be at least 1, not {chunk_size}")

    @functools.wraps(func, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        whole = _Mapped(func, args, kwargs, in_dims)
        size = whole.size
        if chunk_size is None or size <= chunk_size:
            results, structure, dims = whole.run(0, size, randomness, out_dims)
            return tree.unflatten(structure, [wrap(r) for r in results])
        parts = []
        for start in range(0, size, chunk_size):
            found, structure, dims = whole.run(start, min(chunk_size, size - start), randomness, out_dims)
            parts.append(found)
        joined = [
            p[0] if d is None else views.concatenate(p, d) for d, *p in zip(dims, *parts, strict=True)
        ]
        return tree.unflatten(structure, [wrap(r) for r in joined])

    return mapped


class _Mapped:
    """One call of a mapped function: its arguments, with the mapped dimension in front."""

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], in_dims: Any) -> None:
        self.func = func
        self.leaves, self.structure = tree.flatten((args, kwargs))
        dims = _in_dims(in_dims, args, func)
        dims += [0 if isinstance(leaf, Tensor) else None for leaf in tree.leaves(kwargs)]
        self.mapped: list[Node | None] = []
        sizes: dict[int, str] = {}
        for leaf, dim in zip(self.leaves, dims, strict=True):
            if dim is None:
                self.mapped.append(None)
                continue
            node = _in_front(leaf, dim, func)
            sizes.setdefault(node.shape[0], f"{list(leaf.shape)} along dimension {dim}")
            self.mapped.append(node)
        if not sizes:
            raise ValueError(f"vmap({named(func)}): no argument is mapped over; in_dims = {in_dims}")
        if len(sizes) > 1:
            raise ValueError(
                f"vmap({named(func)}): the mapped arguments must agree in size, got "
                + " and ".join(f"{size} ({what})" for size, what in sizes.items())
            )
        self.size = next(iter(sizes))

    def run(
        self, start: int, size: int, randomness: str, out_dims: Any
    ) -> tuple[list[Node], tree.Structure, list[int | None]]:
        """(results for the examples from `start` on, their structure, the place of the mapped dimension in each)."""
        batch = Batch(size)
        leaves = list(self.leaves)
        trace = _Recording(batch, state.trace, randomness, named(self.func))
        for i, node in enumerate(self.mapped):
            if node is None:
                continue
            part = views.slice_(node, (start, *(0,) * (len(node.shape) - 1)), (size, *node.shape[1:]))
            one = example(part, part.shape[1:])
            batch.bind(one, part)
            leaves[i] = one
        result = trace.run(lambda: self._call(leaves))
        found, structure = tree.flatten(result)
        try:
            dims: list[int | None] = tree.broadcast(out_dims, result)
        except ValueError as error:
            raise ValueError(f"vmap({named(self.func)}): out_dims = {out_dims}: {error}") from None
        for value in found:
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"vmap({named(self.func)}): the function must return tensors (in dicts, lists and tuples), got a "
                    f"{type(value).__name__}"
                )
        nodes = [value._value for value in found]
        rewritten = batch.rewrite(nodes)
        results = []
        for n, (one, many) in enumerate(zip(nodes, rewritten, strict=True)):
            results.append(self._placed(one, many, dims[n], batch))
        trace.drop()
        rank = [len(r.shape) for r in results]
        return results, structure, [None if d is None else d % r for d, r in zip(dims, rank, strict=True)]

    def _call(self, leaves: Sequence[Any]) -> Any:
        args, kwargs = tree.unflatten(self.structure, [wrap(v) if isinstance(v, Node) else v for v in leaves])
        return self.func(*args, **kwargs)

    def _placed(self, one: Node, many: Node | None, dim: int | None, batch: Batch) -> Node:
        if dim is None:
            if many is not None:
                raise ValueError(
                    f"vmap({named(self.func)}): a result of shape {list(one.shape)} differs between the examples, so "
                    "its out_dims cannot be None"
                )
            return one
        if many is None:
            (many,) = batch.spread([one], [False])
        rank = len(many.shape)
        if not isinstance(dim, int) or not -rank <= dim < rank:
            raise ValueError(
                f"vmap({named(self.func)}): out_dims has {dim}, out of range for a result with {rank} dimensions "
                f"(one example's shape is {list(one.shape)})"
            )
        order = list(range(1, rank))
        order.insert(dim % rank, 0)
        return views.permute(many, order)


def _in_dims(in_dims: Any, args: tuple[Any, ...], func: Callable[..., Any]) -> list[Any]:
    """The dimension for each leaf of the arguments."""
    if isinstance(in_dims, list):
        in_dims = tuple(in_dims)
    if isinstance(in_dims, tuple) and len(in_dims) != len(args):
        raise ValueError(
            f"vmap({named(func)}): in_dims has {len(in_dims)} entries, the call {len(args)} positional arguments"
        )
    try:
        return tree.broadcast(in_dims, args)
    except ValueError as error:
        raise ValueError(f"vmap({named(func)}): in_dims = {in_dims}: {error}") from None


def _in_front(leaf: Any, dim: Any, func: Callable[..., Any]) -> Node:
    if not isinstance(leaf, Tensor):
        raise ValueError(
            f"vmap({named(func)}): in_dims has {dim} for an argument of type {type(leaf).__name__}; only tensors can be "
            "mapped over, say None for others"
        )
    node = leaf._node
    rank = len(node.shape)
    if not isinstance(dim, int) or not -rank <= dim < rank:
        raise ValueError(
            f"vmap({named(func)}): in_dims has {dim!r}, out of range for an argument of shape {list(node.shape)}"
        )
    dim %= rank
    return views.permute(node, (dim, *(d for d in range(rank) if d != dim)))


class _Recording(Recording):
    """What the tensor module tells while the function runs; passed on to an outer vmap or fp.jit."""

    def __init__(self, batch: Batch, parent: Trace | None, randomness: str, name: str) -> None:
        super().__init__(parent)
        self.batch, self.name = batch, name
        self.size, self.randomness = batch.size, randomness
        self.index = data((), dtypes.uint64)
        batch.bind(self.index, ew.iota(batch.size, dtypes.uint64))
        self._made: list[ref[Tensor]] = []

    def run(self, call: Callable[[], Any]) -> Any:
        mappings = state.mappings
        state.trace, state.mappings = self, (*mappings, self)
        try:
            result = call()
        except BaseException:
            self._restore()
            self.drop()
            raise
        finally:
            state.trace, state.mappings = self.parent, mappings
        changed = self._restore()
        if changed is not None:
            self.drop()
            raise RuntimeError(
                f"vmap({self.name}): {changed}; return the new value instead (a layer's running statistics: pass them "
                "to fp.func.functional_call as mapped buffers, or use eval mode)"
            )
        return result

    def _restore(self) -> str | None:
        """Give back to tensors from outside what they were; what was wrong, if something was."""
        found = None
        for t in self.touched.values():
            now = t.tensor._value
            if now is not t.before and self.batch.depends(now):
                t.tensor._point(t.before)
                found = (
                    f"a tensor of shape {list(now.shape)} from outside was changed in place to a value that differs "
                    "between the examples"
                )
        for tensor, grad in self.grads.values():
            if tensor._grad is not None and self.batch.depends(tensor._grad._value):
                tensor._grad = grad
                found = (
                    f"backward() would collect a gradient that differs between the examples in .grad of a tensor of "
                    f"shape {list(tensor.shape)} from outside (use fp.grad)"
                )
        return found

    def drop(self) -> None:
        """What was made for one example never gets a value, whoever still holds it."""
        for handle in self._made:
            tensor = handle()
            if tensor is not None and self.batch.depends(tensor._value):
                _pending.pop(tensor._value, None)

    def created(self, tensor: Tensor) -> None:
        super().created(tensor)
        self._made.append(ref(tensor))

    @property
    def lasting(self) -> bool:
        return self.parent is None or self.parent.lasting

    def refuse(self, what: str, value: Node | None = None, instead: str = "") -> None:
        if value is not None and self.batch.depends(value):
            instead = instead or "Use fp.where for a choice between values, keep the number as a tensor"
            raise TraceError(
                f"{what} at {caller_site()}: inside fp.vmap this value differs between the examples. {instead}, or do "
                "this outside the mapped function"
            )
        if self.parent is not None:
            self.parent.refuse(what, value, instead)
        elif value is None:
            raise TraceError(f"{what} at {caller_site()}: inside fp.vmap values are not computed one by one")

    def on_host(self, call: Callable[..., Any], tensors: Sequence[Tensor], core: Sequence[int]) -> Any:
        """The call on stacks with the examples in front; its results stand for one example each, like an argument."""
        known = self.batch.rewrite([t._node for t in tensors])
        batched = [k is not None for k in known]
        if not any(batched):
            return None if self.parent is None else self.parent.on_host(call, tensors, core)
        stack = max(t.ndim - c for t, c in zip(tensors, core, strict=True))
        spread = self.batch.spread([t._value if k is None else k for k, t in zip(known, tensors, strict=True)], batched)
        state.trace = self.parent
        try:
            # The stacks' dimensions go to the right of the examples', where they broadcast as they did without.
            result = call(*(
                wrap(views.reshape(n, (self.size, *(1,) * (stack - t.ndim + c), *t.shape)))
                for n, t, c in zip(spread, tensors, core, strict=True)
            ))  # fmt: skip
        finally:
            state.trace = self
        return tree.map(self._one, result)

    def _one(self, many: Tensor) -> Tensor:
        one = example(many._value, many.shape[1:])
        self.batch.bind(one, many._value)
        return wrap(one)
