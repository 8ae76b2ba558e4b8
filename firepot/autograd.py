"""torch.autograd's surface: grad, backward and custom rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.grad_mode import enable_grad, no_grad, set_grad_enabled
from firepot.graph.node import Node, grad_mode
from firepot.tensor import Tensor, backward, grad, wrap
from firepot.transforms.custom import customised

__all__ = ["Function", "backward", "enable_grad", "grad", "no_grad", "set_grad_enabled"]


class Context:
    """What forward leaves for backward: `save_for_backward` and any attributes."""

    def __init__(self) -> None:
        self.saved_tensors: tuple[Tensor, ...] = ()
        self.needs_input_grad: tuple[bool, ...] = ()
        self._tensor_positions: list[int] = []
        self._argument_count = 0

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        self._plain = {id(t) for t in tensors}

    def set_materialize_grads(self, value: bool) -> None:
        """Accepted for compatibility: gradients are always tensors here."""


class Function:
    """A differentiable function with a backward of its own.

    `forward(ctx, ...)` computes without history, `backward(ctx, *gradients)` gives one gradient for each argument, None
    for what has none. RuntimeError where their number or their shapes do not fit.

    >>> class Cube(fp.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return g * 3 * x * x
    >>> x = fp.tensor([1.0, 2.0], requires_grad=True)
    >>> Cube.apply(x).sum().backward()
    >>> x.grad
    tensor([ 3., 12.])
    """

    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a Function needs a static method forward(ctx, ...)")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise NotImplementedError("a Function needs a static method backward(ctx, *grad_outputs)")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        context = Context()
        context._argument_count = len(args)
        context._tensor_positions = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        context.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        with no_grad():
            result = cls.forward(context, *args, **kwargs)
        if not grad_mode.enabled or not any(context.needs_input_grad):
            return result
        outputs = result if isinstance(result, tuple) else (result,)
        plain: set[int] = getattr(context, "_plain", set())
        inputs = [args[i]._node for i in context._tensor_positions]

        def derivative(gradients: Sequence[Node]) -> Sequence[Node | None]:
            return cls._gradients(context, gradients, inputs)

        nodes = customised([t._node for t in outputs], inputs, derivative)
        made = tuple(t if id(t) in plain else wrap(n) for t, n in zip(outputs, nodes, strict=True))
        return made if isinstance(result, tuple) else made[0]

    @classmethod
    def _gradients(cls, context: Context, gradients: Sequence[Node], inputs: Sequence[Node]) -> Sequence[Node | None]:
        result = cls.backward(context, *(wrap(g) for g in gradients))
        found = result if isinstance(result, tuple) else (result,)
        if len(found) < context._argument_count:
            raise RuntimeError(
                f"{cls.__name__}.backward returned {len(found)} gradients, expected {context._argument_count}: "
                "one for each argument of forward (None where there is none)"
            )
        chosen = [found[i] for i in context._tensor_positions]
        for t, i in zip(chosen, inputs, strict=True):
            if t is not None and t.shape != i.shape:
                raise RuntimeError(
                    f"{cls.__name__}.backward returned a gradient of shape {list(t.shape)} for an argument of "
                    f"shape {list(i.shape)}"
                )
        return [None if t is None else t._node for t in chosen]
