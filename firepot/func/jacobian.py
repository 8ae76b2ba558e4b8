"""Jacobians and Hessians: the derivative along every basis vector at once, by vmap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from firepot import tree
from firepot.func._arguments import Argnums, chosen, named, result_nodes
from firepot.func.gradient import linearize_at, vjp
from firepot.func.vectorise import vmap
from firepot.graph import dtypes
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.tensor import Tensor, wrap


def jacrev(
    func: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """The function that computes the Jacobian of `func` in reverse mode, one pull-back for each element of the result.

    Returns: a function of the same arguments whose result is a tree over the result's leaves, of trees over the
        argument's (a tuple of them for a tuple of argnums): tensors of shape (*result.shape, *argument.shape). With
        has_aux (Jacobian, auxiliary). chunk_size bounds how many pull-backs are computed at a time.

    Prefer it to jacfwd where the result is smaller than the arguments.

    >>> fp.jacrev(lambda x: x * x)(fp.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """

    @functools.wraps(func, updated=())
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        by_arguments, primals = _function_of(func, args, kwargs, argnums, "jacrev")
        value, pull_back, *aux = vjp(by_arguments, *primals, has_aux=has_aux)
        outputs, structure = result_nodes(value, "jacrev")
        rows = []
        for n, output in enumerate(outputs):
            basis = [_basis(o) if i == n else _none_of(o, output.size) for i, o in enumerate(outputs)]
            found = vmap(pull_back, chunk_size=chunk_size)(tree.unflatten(structure, basis))
            found = tree.map(lambda j, o=output: _shaped(j, (*o.shape, *j.shape[1:])), found)
            rows.append((found,) if isinstance(argnums, tuple) and len(primals) == 1 else found)
        result = tree.unflatten(structure, rows)
        return (result, aux[0]) if has_aux else result

    return jacobian


def jacfwd(
    func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, *, chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:  # fmt: skip
    """The function that computes the Jacobian of `func` in forward mode, one push-forward for each element of the
    argument. Results as of jacrev. The function itself runs once, so that random numbers are the same throughout
    whatever `randomness` says.

    Prefer it to jacrev where the arguments are smaller than the result.
    """

    @functools.wraps(func, updated=())
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        by_arguments, primals = _function_of(func, args, kwargs, argnums, "jacfwd")
        value, push_forward, aux = linearize_at(by_arguments, primals, has_aux, "jacfwd")
        inputs, form = result_nodes(primals, "jacfwd")
        outputs, structure = result_nodes(value, "jacfwd")
        columns: list[list[Tensor]] = []  # by input leaf, by output leaf
        for n, given in enumerate(inputs):
            basis = [_basis(i) if k == n else _none_of(i, given.size) for k, i in enumerate(inputs)]
            tangents = tree.unflatten(form, basis)
            found = tree.leaves(vmap(push_forward, out_dims=-1, chunk_size=chunk_size)(*tangents))
            columns.append([_shaped(j, (*o.shape, *given.shape)) for j, o in zip(found, outputs, strict=True)])
        rows = []
        for o in range(len(outputs)):
            row = tree.unflatten(form, [column[o] for column in columns])
            rows.append(row if isinstance(argnums, tuple) else row[0])
        result = tree.unflatten(structure, rows)
        return (result, aux) if has_aux else result

    return jacobian


def jacobian(
    func: Callable[..., Any], argnums: Argnums = 0, *, mode: str = "reverse", has_aux: bool = False
) -> Callable[..., Any]:
    """jacrev, or with mode='forward' jacfwd.

    >>> fp.jacobian(lambda x: x.sum() * x, mode="forward")(fp.tensor([1.0, 2.0]))
    tensor([[4., 1.],
            [2., 5.]])
    """
    if mode not in ("reverse", "forward"):
        raise ValueError(f"jacobian: mode must be 'reverse' or 'forward', not {mode!r}")
    return jacrev(func, argnums, has_aux=has_aux) if mode == "reverse" else jacfwd(func, argnums, has_aux)


def hessian(func: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The function that computes the matrix of second derivatives: jacfwd of jacrev.

    >>> fp.hessian(lambda x: (x**3).sum())(fp.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    return jacfwd(jacrev(func, argnums), argnums)


def _function_of(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], argnums: Argnums, what: str
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """(`func` as a function of the chosen arguments alone, those arguments)."""
    numbers = chosen(args, argnums, what)

    def by_arguments(*primals: Any) -> Any:
        changed = list(args)
        for n, value in zip(numbers, primals, strict=True):
            changed[n] = value
        return func(*changed, **kwargs)

    by_arguments.__name__ = named(func)
    return by_arguments, tuple(args[n] for n in numbers)


def _basis(node: Node) -> Tensor:
    """(size, *shape): every unit vector of a value."""
    size = node.size
    rows = views.expand(views.reshape(ew.iota(size, dtypes.int64), (size, 1)), (size, size))
    columns = views.expand(ew.iota(size, dtypes.int64), (size, size))
    return wrap(views.reshape(ew.cast(ew.eq(rows, columns), node.dtype), (size, *node.shape)))


def _none_of(node: Node, size: int) -> Tensor:
    return wrap(ew.full((size, *node.shape), 0, node.dtype))


def _shaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return wrap(views.reshape(tensor._node, shape))
