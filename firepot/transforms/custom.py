"""Derivatives given by hand: results that differentiation takes by a function of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from firepot.graph.node import Batching, Identity, Node, apply, detach, example, grad_mode
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives.reduce import reduce
from firepot.transforms.batch import Batch

Derivative = Callable[[Sequence[Node]], Sequence[Node | None]]


def customised(outputs: Sequence[Node], inputs: Sequence[Node], derivative: Derivative) -> list[Node]:
    """The outputs, with a derivative of their own.

    Args:
        outputs: the values; how they were computed is of no account to differentiation.
        inputs: what they depend on.
        derivative: from the gradient of every output to the gradient of every input (None where there is none);
            linear in its arguments.

    Outputs that are neither floating point nor complex are returned as they are, without history.
    """
    values = tuple(detach(o) for o in outputs)
    if not grad_mode.enabled or not any(i.requires_grad for i in inputs):
        return list(values)
    return [
        apply(_Custom(derivative, n, values), (v, *inputs)) if v.dtype.is_inexact else v for n, v in enumerate(values)
    ]


class _Custom(Identity):
    """Output `number`: the first input, with a derivative by the others."""

    name = "custom"

    def __init__(self, derivative: Derivative, number: int, outputs: tuple[Node, ...]) -> None:
        self.derivative, self.number, self.outputs = derivative, number, outputs

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        # The derivative is linear in the gradients of the outputs, so each output can contribute on its own.
        return [None, *self.derivative([g if n == self.number else ew.like(o, 0) for n, o in enumerate(self.outputs)])]

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        if not node.requires_grad:
            return batching.spread(inputs[:1], batched[:1])[0]
        assert isinstance(batching, Batch)
        outputs = [(o, b) for o, b in zip(self.outputs, batching.rewrite(self.outputs), strict=True)]
        whole = tuple(b if b is not None else batching.spread([o], [False])[0] for o, b in outputs)

        def derivative(gradients: Sequence[Node]) -> list[Node | None]:
            again = batching.extended()
            examples = [example(g, g.shape[1:]) for g in gradients]
            for e, g in zip(examples, gradients, strict=True):
                again.bind(e, g)
            found = list(self.derivative(examples))
            present = [f for f in found if f is not None]
            rewritten = iter(zip(present, again.rewrite(present), strict=True))
            result: list[Node | None] = []
            for f, b in zip(found, batched[1:], strict=True):
                if f is None:
                    result.append(None)
                    continue
                one, many = next(rewritten)
                many = again.spread([one], [False])[0] if many is None else many
                result.append(many if b else reduce("sum", many, (0,)))
            return result

        value = batching.spread(inputs[:1], batched[:1])[0]
        return apply(_Custom(derivative, self.number, whole), (value, *inputs[1:]))
