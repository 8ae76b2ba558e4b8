"""custom_vjp: a function with a derivative given by hand, as jax.custom_vjp."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from firepot import tree
from firepot.func._arguments import named, result_nodes
from firepot.grad_mode import no_grad
from firepot.graph.node import Node, detach
from firepot.graph.primitives import elementwise as ew
from firepot.tensor import Tensor, wrap
from firepot.transforms.custom import customised


class custom_vjp:
    """A function whose derivative is given by `defvjp(forward, backward)`.

    forward(*args) returns (result, residuals); backward(residuals, g) gets the gradient of the result, of its
    structure, and returns a tuple with a gradient for each argument (None where there is none). It must be linear in
    g; then jvp works too. It can itself be differentiated, mapped and jitted.

    Args:
        func: from trees of tensors to trees of tensors.
        nondiff_argnums: positional arguments without derivative, of any type; backward gets them first.

    >>> @fp.custom_vjp
    ... def clipped(x):
    ...     return x
    >>> clipped.defvjp(lambda x: (x, None), lambda _, g: (g.clamp(-1, 1),))
    """

    def __init__(self, func: Callable[..., Any], nondiff_argnums: tuple[int, ...] = ()) -> None:
        functools.update_wrapper(self, func, updated=())
        self.func = func
        self.nondiff_argnums = nondiff_argnums
        self._rules: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Give the derivative."""
        self._rules = (forward, backward)

    def __call__(self, *args: Any) -> Any:
        if self._rules is None:
            raise TypeError(f"custom_vjp: {named(self.func)} has no derivative; give one with defvjp(forward, backward)")
        forward, backward = self._rules
        plain = [args[n] for n in self.nondiff_argnums]
        others = [n for n in range(len(args)) if n not in self.nondiff_argnums]
        leaves, structure = tree.flatten([args[n] for n in others])
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        inputs = [leaves[i]._node for i in places]
        if not any(i.requires_grad for i in inputs):
            return self.func(*args)
        with no_grad():
            made = forward(*args)
        if not isinstance(made, tuple) or len(made) != 2:
            raise TypeError(f"custom_vjp: the forward rule of {named(self.func)} must return (result, residuals)")
        result, residuals = made
        outputs, form = result_nodes(result, "custom_vjp")

        def derivative(gradients: Sequence[Node]) -> list[Node | None]:
            given = tree.unflatten(form, [wrap(g) for g in gradients])
            found = backward(*plain, residuals, given)
            if not isinstance(found, tuple) or len(found) != len(others):
                raise TypeError(
                    f"custom_vjp: the backward rule of {named(self.func)} must return a tuple of {len(others)} "
                    f"gradients, one for each argument, got {type(found).__name__}"
                    + (f" of {len(found)}" if isinstance(found, tuple) else "")
                )
            chosen: list[Node | None] = []
            for n, given_leaves in zip(range(len(others)), _by_argument(structure, leaves), strict=True):
                chosen += self._checked(found[n], given_leaves)
            return [chosen[i] for i in places]

        nodes = customised([detach(o) for o in outputs], inputs, derivative)
        return tree.unflatten(form, [wrap(n) for n in nodes])

    def _checked(self, gradient: Any, leaves: list[Any]) -> list[Node | None]:
        """A gradient for each leaf of one argument."""
        if gradient is None:
            return [None] * len(leaves)
        found = tree.leaves(gradient)
        if len(found) != len(leaves):
            raise TypeError(
                f"custom_vjp: the backward rule of {named(self.func)} returned {len(found)} gradients for an argument "
                f"of {len(leaves)} tensors"
            )
        result: list[Node | None] = []
        for g, leaf in zip(found, leaves, strict=True):
            if not isinstance(leaf, Tensor) or g is None:
                result.append(None)
                continue
            if not isinstance(g, Tensor) or g.shape != leaf.shape:
                said = list(g.shape) if isinstance(g, Tensor) else type(g).__name__
                raise RuntimeError(
                    f"custom_vjp: the backward rule of {named(self.func)} returned a gradient of shape {said} for an "
                    f"argument of shape {list(leaf.shape)}"
                )
            result.append(ew.as_gradient(g._node, leaf.dtype))
        return result


def _by_argument(structure: tree.Structure, leaves: list[Any]) -> list[list[Any]]:
    return [tree.leaves(a) for a in tree.unflatten(structure, leaves)]
