"""Derivatives of functions: grad, value_and_grad, vjp, jvp, linearize.

All follow torch.func in names and results. Each runs the function on fresh marks and differentiates the recorded
graph, so the result is an ordinary graph again: transforms nest in any order and compile with what surrounds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from firepot import tree
from firepot.func._arguments import (
    Argnums,
    Marked,
    chosen,
    marked,
    reached_from_outside,
    release,
    released,
    result_nodes,
    split_aux,
    transforming,
)  # fmt: skip
from firepot.graph.node import Node, data, detach, grad_mode, mark, topological
from firepot.graph.primitives import elementwise as ew
from firepot.tensor import Tensor, compute, wrap
from firepot.tracing import state
from firepot.transforms.differentiate import gradients, transposing


def grad(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The function that computes the gradient of `func`.

    Args:
        func: returns a floating-point tensor of shape (); with has_aux, a pair of it and anything else.
        argnums: the positional argument to differentiate by, a tree of tensors; or a tuple of such numbers.
        has_aux: return (gradient, auxiliary).

    Returns: a function of the same arguments; its result has the structure of the argument (a tuple of them for a
        tuple of argnums). Zeros where the result does not depend on a tensor.
    Raises: RuntimeError where the result is no scalar; TypeError for arguments that are not floating point.

    >>> fp.grad(lambda x: (x**3).sum())(fp.tensor([1.0, 2.0]))
    tensor([ 3., 12.])
    >>> fp.grad(fp.grad(fp.sin))(fp.tensor(1.0))  # the second derivative
    tensor(-0.8415)
    """
    both = _value_and_grad(func, argnums, has_aux, "grad")

    @functools.wraps(func, updated=())
    def gradient(*args: Any, **kwargs: Any) -> Any:
        found, value = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return gradient


def value_and_grad(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The function that computes `(value, gradient)`, as JAX; with has_aux `((value, auxiliary), gradient)`.

    Arguments as for `grad`. (torch.func.grad_and_value has the pair the other way round; fp.func has it too.)

    >>> fp.value_and_grad(lambda x: (x * x).sum())(fp.tensor([3.0]))
    (tensor(9.), tensor([6.]))
    """
    both = _value_and_grad(func, argnums, has_aux, "value_and_grad")

    @functools.wraps(func, updated=())
    def value_gradient(*args: Any, **kwargs: Any) -> Any:
        found, value = both(*args, **kwargs)
        return value, found

    return value_gradient


def grad_and_value(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """torch.func.grad_and_value: `(gradient, value)`; with has_aux `(gradient, (value, auxiliary))`."""
    return _value_and_grad(func, argnums, has_aux, "grad_and_value")


def _value_and_grad(func: Callable[..., Any], argnums: Argnums, has_aux: bool, what: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        numbers = chosen(args, argnums, what)
        by = marked(tuple(args[n] for n in numbers), what)
        changed = list(args)
        for n, value in zip(numbers, by.values, strict=True):
            changed[n] = value
        with transforming():
            result = func(*changed, **kwargs)
        value, aux = split_aux(result, has_aux, what)
        _require_scalar(value, what)
        node = value._node
        found = _pull_back(by.marks, [node], [ew.constant(1, node.dtype)], by.marks)
        gradient = by.tree(found)
        value = release((value, aux) if has_aux else value, by.marks)
        return (gradient if isinstance(argnums, tuple) else gradient[0]), value

    return functools.wraps(func, updated=())(run)


def _require_scalar(value: Any, what: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{what}: the function must return a tensor of shape (), got {type(value).__name__}")
    if value.shape != () or value.dtype.kind != "f":
        raise RuntimeError(
            f"{what}: the function must return a floating-point tensor of shape (), got "
            f"{value.dtype.name}{list(value.shape)}; reduce it with .sum() or .mean(), or use fp.vjp or fp.jacrev"
        )


def _pull_back(
    marks: Sequence[Node], outputs: Sequence[Node], cotangents: Sequence[Node], wrt: Sequence[Node]
) -> list[Node]:
    """Gradients by `wrt`, zeros where there are none, with history where something outside `marks` can ask for it."""
    weights: dict[Node, Node] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if output.requires_grad:
            weights[output] = ew.add(weights[output], cotangent) if output in weights else cotangent
    again = grad_mode.enabled and any(reached_from_outside([*weights, *weights.values()], marks))
    found = gradients(weights, wrt, again)
    nodes = [found[w] if w in found else ew.like(w, 0) for w in wrt]
    # Even without history of its own, a gradient can be a value of the forward pass, such as exp's.
    return released(nodes, marks) if again else [detach(n) for n in nodes]


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """`(result, pull_back)`, with has_aux `(result, pull_back, auxiliary)`: torch.func.vjp.

    pull_back(cotangents), of the result's structure, gives the gradient of Σ ⟨result, cotangents⟩ by the primals:
    a tuple, or with one primal the gradient itself. It can be called many times, and under vmap.

    >>> y, pull_back = fp.vjp(fp.exp, fp.tensor([0.0, 1.0]))
    >>> pull_back(fp.ones(2))
    tensor([1.0000, 2.7183])
    """
    if not primals:
        raise TypeError("vjp: expected at least one argument to differentiate by")
    by = marked(primals, "vjp")
    with transforming():
        result = func(*by.values)
    value, aux = split_aux(result, has_aux, "vjp")
    outputs, structure = result_nodes(value, "vjp")

    def pull_back(*cotangents: Any) -> Any:
        given = cotangents[0] if len(cotangents) == 1 else cotangents
        weights = _matching(given, structure, outputs, "vjp", "cotangent")
        found = by.tree(_pull_back(by.marks, outputs, weights, by.marks))
        return found[0] if len(primals) == 1 else found

    value = release(value, by.marks)
    return (value, pull_back, release(aux, by.marks)) if has_aux else (value, pull_back)


def _matching(given: Any, structure: tree.Structure, like: Sequence[Node], what: str, noun: str) -> list[Node]:
    """The nodes of a tree that must correspond to `like`."""
    nodes, its = result_nodes(given, what)
    if its != structure:
        raise RuntimeError(f"{what}: the {noun}s have the structure {its}, expected {structure}")
    for n, expected in zip(nodes, like, strict=True):
        if n.shape != expected.shape or n.dtype is not expected.dtype:
            raise RuntimeError(
                f"{what}: a {noun} is {n.dtype.name}{list(n.shape)}, expected "
                f"{expected.dtype.name}{list(expected.shape)}"
            )
    return nodes


class _Linear:
    """The derivative of a function at a point, as a map from tangents to tangents.

    The transpose of the transpose: the pulled-back gradients are linear in their cotangents, and differentiating
    them by those gives the pushed-forward tangents, in a graph that no longer holds the cotangents.
    """

    def __init__(self, by: Marked, outputs: Sequence[Node]) -> None:
        self.by = by
        self.outputs = outputs
        self._weights: dict[Node, Node] = {o: mark(ew.like(o, 0)) for o in outputs if o.requires_grad}
        self._marks = [*by.marks, *self._weights.values()]
        before, grad_mode.enabled = grad_mode.enabled, True
        try:
            with transposing():
                found = gradients(self._weights, by.marks, True)
        finally:
            grad_mode.enabled = before
        self._pulled = [found.get(m) for m in by.marks]

    def push_forward(self, tangents: Sequence[Node]) -> list[Node]:
        pairs = [(p, t) for p, t in zip(self._pulled, tangents, strict=True) if p is not None]
        with transposing():
            found = _pull_back(
                self._marks, [p for p, _ in pairs], [t for _, t in pairs], list(self._weights.values())
            )
        by_weight = dict(zip(self._weights.values(), found, strict=True))
        return [by_weight[self._weights[o]] if o in self._weights else ew.like(o, 0) for o in self.outputs]


    def residuals(self) -> list[Node]:
        """The values that push_forward needs, whatever the tangents are."""
        tangents = [data(m.shape, m.dtype) for m in self.by.marks]
        dependent = set(tangents)
        found: dict[Node, None] = {}
        for node in topological(self.push_forward(tangents), lambda n: n in dependent):
            if any(i in dependent for i in node.inputs):
                dependent.add(node)
                found.update(dict.fromkeys(node.inputs))
        return [n for n in found if n not in dependent and n.inputs]


def jvp(
    func: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], *, strict: bool = False,
    has_aux: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """`(result, tangent of the result)`, with has_aux `(result, tangent, auxiliary)`: torch.func.jvp.

    The directional derivative of `func` at `primals` along `tangents`, both tuples of trees. The cost is a small
    multiple of the function's, whatever the number of inputs.

    Raises: RuntimeError where a tangent does not match its primal; with strict, where a result does not depend on
        the primals (its tangent is zeros otherwise).

    >>> fp.jvp(fp.sin, (fp.tensor(0.0),), (fp.tensor(2.0),))
    (tensor(0.), tensor(2.))
    """
    primals, tangents = _tuples(primals, tangents)
    by = marked(primals, "jvp")
    nodes = _matching(tangents, by.structure, by.marks, "jvp", "tangent")
    with transforming():
        result = func(*by.values)
    value, aux = split_aux(result, has_aux, "jvp")
    outputs, structure = result_nodes(value, "jvp")
    if strict and not all(o.requires_grad for o in outputs):
        raise RuntimeError("jvp: a result does not depend on the primals (strict=True)")
    pushed = _Linear(by, outputs).push_forward(nodes)
    tangent = tree.unflatten(structure, [wrap(n) for n in pushed])
    value = release(value, by.marks)
    return (value, tangent, release(aux, by.marks)) if has_aux else (value, tangent)


def _tuples(primals: Any, tangents: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple) or len(primals) != len(tangents):
        raise TypeError(
            "jvp: primals and tangents must be tuples with one entry for each argument of the function, got "
            f"{type(primals).__name__} and {type(tangents).__name__}"
        )
    if not primals:
        raise TypeError("jvp: expected at least one argument to differentiate by")
    return primals, tangents


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """`(result, push_forward)`: the function is run once, its derivative applied to any number of tangents.

    push_forward(*tangents), one for each primal, gives the tangent of the result. What it needs of the function's
    values is computed now, unless inside another transform or fp.jit.

    >>> y, push_forward = fp.linearize(fp.sin, fp.tensor(0.0))
    >>> push_forward(fp.tensor(3.0))
    tensor(3.)
    """
    if not primals:
        raise TypeError("linearize: expected at least one argument to differentiate by")
    value, push_forward, _ = linearize_at(func, primals, False, "linearize")
    return value, push_forward


def linearize_at(
    func: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool, what: str
) -> tuple[Any, Callable[..., Any], Any]:
    """(result, push_forward, auxiliary)."""
    by = marked(primals, what)
    with transforming():
        result = func(*by.values)
    value, aux = split_aux(result, has_aux, what)
    outputs, structure = result_nodes(value, what)
    linear = _Linear(by, outputs)
    if what == "linearize" and state.trace is None and not state.transforms:
        compute([*outputs, *linear.residuals()])

    def push_forward(*tangents: Any) -> Any:
        nodes = _matching(tangents, by.structure, by.marks, what, "tangent")
        return tree.unflatten(structure, [wrap(n) for n in linear.push_forward(nodes)])

    return release(value, by.marks), push_forward, release(aux, by.marks)
