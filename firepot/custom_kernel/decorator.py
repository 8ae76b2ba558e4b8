"""`fp.kernel`: the decorator, and calls of what it makes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from firepot.custom_kernel import translate
from firepot.custom_kernel.source import Source
from firepot.grad_mode import no_grad
from firepot.graph.dtypes import DType
from firepot.graph.node import Node, detach
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives.procedure import run
from firepot.kernels.procedure import Array, Procedure
from firepot.tensor import Tensor, node_of, wrap
from firepot.transforms.custom import customised

Rule = str | Callable[..., Any]


class kernel:
    """A kernel written as loops over elements, compiled for the dtypes and shapes of its arguments.

    The decorated function's parameters are its inputs, then its outputs. Inputs are tensors, read at x[i, j], and
    Python numbers, which are constants of the compiled kernel (a number that changes often is better given as a 0-d
    tensor, read by its name). Outputs start as zeros. The call takes the inputs and returns the outputs.

    Args:
        out: for each output (a list for several) the name of an input that it is like, or a function of the inputs
            that returns (shape, dtype).
        vjp: the derivative. It gets the gradient of the output (of several, a tuple), then the inputs, and returns the
            gradient of each input, None where there is none; one input's alone need not be in a tuple. It may call
            kernels and anything else. Without it, backward through the kernel is an error.

    Inside: variables, `for i in range(...)`, `while`, `if`, `break`, `continue`, arithmetic, comparisons, the functions
    of `math` and their namesakes of `fp`, x.shape[d]. `for i, j in fp.kernel.parallel(n, m)` at the top of the function
    shares its turns among the threads; in it, outputs are indexed by i and j themselves. A kernel of other loops runs
    on one thread. Innermost loops compute one element after another, in order.

    Works eagerly, in fp.jit, backward and vmap, like any operation.

    Raises: SyntaxError with file and line for what a kernel cannot say; IndexError with the line for an index outside
    of 0 … size − 1 (negative ones do not count from the end).

    >>> @fp.kernel(out="x", vjp=lambda g, x: running(g.flip(0)).flip(0))
    ... def running(x, y):
    ...     total = 0.0
    ...     for i in range(len(x)):
    ...         total += x[i]
    ...         y[i] = total
    >>> running(fp.tensor([1.0, 2.0, 3.0]))
    tensor([1., 3., 6.])
    """

    parallel = staticmethod(translate.parallel)

    def __init__(self, *, out: Rule | Sequence[Rule], vjp: Callable[..., Any] | None = None) -> None:
        self._rules = [out] if isinstance(out, str) or callable(out) else list(out)
        self._single = isinstance(out, str) or callable(out)
        self._vjp = vjp
        if not self._rules or not all(isinstance(r, str) or callable(r) for r in self._rules):
            raise TypeError("fp.kernel: out must be the name of an input, a function of the inputs, or a list of those")

    def __call__(self, function: Callable[..., Any]) -> Kernel:
        return Kernel(function, self._rules, self._single, self._vjp)


class Kernel:
    """What `fp.kernel` makes of a function."""

    def __init__(
        self, function: Callable[..., Any], rules: list[Rule], single: bool, vjp: Callable[..., Any] | None
    ) -> None:
        functools.update_wrapper(self, function)
        self._source = Source(function)
        self._rules, self._single, self._vjp = rules, single, vjp
        names = self._source.parameters
        if len(names) < len(rules):
            raise TypeError(f"kernel {function.__name__}: {len(rules)} outputs for {len(names)} parameters")
        self.inputs = names[: len(names) - len(rules)]
        self.outputs = names[len(self.inputs) :]
        for rule in rules:
            if isinstance(rule, str) and rule not in self.inputs:
                raise TypeError(f"kernel {function.__name__}: out={rule!r} is none of its inputs {self.inputs}")
        self._procedures: dict[Any, Procedure] = {}

    def __call__(self, *args: Any, **named: Any) -> Any:
        values = self._bound(args, named)
        nodes = [v._node for v in values if isinstance(v, Tensor)]
        if self._vjp is None or not any(n.requires_grad for n in nodes):
            return self._tensors(run(self._procedure(values), nodes))
        with no_grad():
            made = run(self._procedure(values), nodes)

        def derivative(gradients: Sequence[Node]) -> list[Node | None]:
            return self._gradients(gradients, values)

        return self._tensors(customised([detach(n) for n in made], nodes, derivative))

    def _bound(self, args: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
        """The inputs in order, tensors and numbers."""
        what = f"kernel {self._source.name}"
        given = dict(zip(self.inputs, args, strict=False))
        wrong = sorted((set(named) - set(self.inputs)) | (set(named) & set(given)))
        if len(args) > len(self.inputs) or wrong or len(given) + len(named) != len(self.inputs):
            raise TypeError(f"{what} takes the inputs ({', '.join(self.inputs)}), got {len(args)} and {list(named)}")
        given |= named
        values = []
        for name in self.inputs:
            value = given[name]
            if isinstance(value, (bool, int, float, Tensor)):
                values.append(value)
                continue
            try:
                values.append(wrap(node_of(value)))
            except (TypeError, ValueError):
                raise TypeError(f"{what}: {name} must be a tensor or a number, not {type(value).__name__}") from None
        return values

    def _procedure(self, values: list[Any]) -> Procedure:
        shapes = [self._result(rule, values) for rule in self._rules]
        key = (
            tuple((v._node.dtype, v._node.shape) if isinstance(v, Tensor) else (type(v), repr(v)) for v in values),
            tuple(shapes), self._source.numbers(),
        )  # fmt: skip
        found = self._procedures.get(key)
        if found is None:
            arrays, numbers = [], {}
            for name, v in zip(self.inputs, values, strict=True):
                if isinstance(v, Tensor):
                    arrays.append(Array(name, v._node.dtype, v._node.shape, False))
                else:
                    numbers[name] = v
            arrays += [Array(n, d, s, True) for n, (s, d) in zip(self.outputs, shapes, strict=True)]
            found = self._procedures[key] = translate.Translation(self._source, arrays, numbers).procedure()
        return found

    def _result(self, rule: Rule, values: list[Any]) -> tuple[tuple[int, ...], DType]:
        """Shape and dtype of an output."""
        what = f"kernel {self._source.name}"
        if isinstance(rule, str):
            like = values[self.inputs.index(rule)]
            if not isinstance(like, Tensor):
                raise TypeError(f"{what}: out={rule!r} must be a tensor, not the number {like}")
            return like._node.shape, like._node.dtype
        made = rule(*values)
        if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], DType):
            raise TypeError(f"{what}: out must return (shape, dtype), got {made!r}")
        shape = (made[0],) if isinstance(made[0], int) else tuple(made[0])
        if not all(isinstance(s, int) and s >= 0 for s in shape):
            raise TypeError(f"{what}: the shape of an output must be non-negative integers, got {shape}")
        return shape, made[1]

    def _tensors(self, nodes: Sequence[Node]) -> Any:
        found = tuple(wrap(n) for n in nodes)
        return found[0] if self._single else found

    def _gradients(self, gradients: Sequence[Node], values: list[Any]) -> list[Node | None]:
        assert self._vjp is not None
        what = f"kernel {self._source.name}"
        found = self._vjp(self._tensors(gradients), *values)
        if isinstance(found, Tensor) and len(values) == 1:
            found = (found,)
        if not isinstance(found, (tuple, list)) or len(found) != len(values):
            raise TypeError(f"{what}: vjp must return a gradient (or None) for each of {self.inputs}")
        result: list[Node | None] = []
        for name, value, g in zip(self.inputs, values, found, strict=True):
            if not isinstance(value, Tensor):
                continue
            if g is not None and (not isinstance(g, Tensor) or g.shape != value.shape):
                said = list(g.shape) if isinstance(g, Tensor) else type(g).__name__
                raise RuntimeError(f"{what}: vjp returned {said} for {name} of shape {list(value.shape)}")
            result.append(None if g is None else ew.cast(g._node, value.dtype))
        return result
