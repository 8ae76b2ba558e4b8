"""torch.autograd's surface: grad, backward and custom rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.compiler.simplify import identities
from firepot.graph.dtypes import DType
from firepot.graph.index import Index
from firepot.graph.node import Node, Shape, View, apply, detach, grad_mode
from firepot.graph.primitives import elementwise as ew
from firepot.tensor import Tensor, backward, enable_grad, grad, no_grad, set_grad_enabled, wrap

__all__ = ["Function", "backward", "enable_grad", "grad", "no_grad", "set_grad_enabled"]


class _Custom(View):
    """Output `number` of a Function: the first input, with a derivative of its own for the others."""

    name = "custom"

    def __init__(self, function: type[Function], context: Context, number: int, outputs: tuple[Node, ...]) -> None:
        self.function, self.context, self.number, self.outputs = function, context, number, outputs
        identities.add(self)

    def __del__(self) -> None:
        if identities is not None:  # at interpreter exit the name may be gone first
            identities.discard(self)

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, inputs[0].dtype

    def index(self, index: tuple[Index, ...], node: Node) -> tuple[tuple[Index, ...], tuple[tuple[Index, int], ...]]:
        return index, ()

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        # Backward is linear in the gradients of the outputs, so each output can contribute on its own.
        given = [wrap(g if i == self.number else ew.like(o, 0)) for i, o in enumerate(self.outputs)]
        result = self.function.backward(self.context, *given)
        found = result if isinstance(result, tuple) else (result,)
        tensors = self.context._tensor_positions
        if len(found) < self.context._argument_count:
            raise RuntimeError(
                f"{self.function.__name__}.backward returned {len(found)} gradients, expected {self.context._argument_count}: "
                "one for each argument of forward (None where there is none)"
            )
        chosen = [found[i] for i in tensors]
        for t, i in zip(chosen, node.inputs[1:], strict=True):
            if t is not None and t.shape != i.shape:
                raise RuntimeError(
                    f"{self.function.__name__}.backward returned a gradient of shape {list(t.shape)} for an argument of "
                    f"shape {list(i.shape)}"
                )
        return [None, *(None if t is None else t._node for t in chosen)]


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
        nodes = tuple(detach(t._node) for t in outputs)
        inputs = tuple(args[i]._node for i in context._tensor_positions)
        plain: set[int] = getattr(context, "_plain", set())
        made = tuple(
            t
            if id(t) in plain or t.dtype.kind != "f"
            else wrap(apply(_Custom(cls, context, n, nodes), (nodes[n], *inputs)))
            for n, t in enumerate(outputs)
        )
        return made if isinstance(result, tuple) else made[0]
