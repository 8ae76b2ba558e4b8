"""fp.jit: a Python function captured as one Program.

The function runs once on placeholders. What it reads from tensors made before becomes captured state, what it
rebinds becomes new state, and what it learns from Python (train or eval mode, grad mode, hyper-parameters that switch
structure) is remembered as conditions. Later calls that meet the conditions are one native call.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

from firepot.compiler import simplify
from firepot.graph.dtypes import DType
from firepot.graph.node import Node, data, grad_mode, leaf, severed
from firepot.tensor import Tensor, _pending, caller_site, compute, state, wrap

if TYPE_CHECKING:
    from firepot.compiler.execute import Executor

_MAXIMAL_TRACES = 64


class TraceError(RuntimeError):
    """A captured function did what has no meaning before its values exist."""


@dataclass
class _Captured:
    tensor: Tensor
    before: Node  # what it stood for when the trace began
    placeholder: Node
    leaf: Node  # the placeholder itself, or the differentiable leaf on it


class _Capture:
    """The trace of one function call: the tensor module's window on what the function touches."""

    def __init__(self) -> None:
        self.captured: dict[int, _Captured] = {}
        self.own: set[int] = set()
        self.made: list[ref[Tensor]] = []
        self.conditions: list[tuple[Callable[[], Hashable], Hashable]] = []
        self.grads: dict[int, tuple[Tensor, Tensor | None]] = {}
        self.busy = False

    def adopt(self, tensor: Tensor) -> Node:
        """Put a placeholder into a tensor that existed before the trace."""
        value = tensor._value  # if it is still to be computed, that happens before the first run, for all at once
        placeholder = data(value.shape, value.dtype)
        node = placeholder
        if value.requires_grad:
            node = leaf(placeholder)
            node.owner = value.owner or ref(tensor)
        self.captured[id(tensor)] = _Captured(tensor, value, placeholder, node)
        tensor._value = node
        return placeholder

    def read(self, tensor: Tensor) -> None:
        if id(tensor) in self.own or id(tensor) in self.captured:
            return
        before, state.trace = state.trace, None
        try:
            self.adopt(tensor)
        finally:
            state.trace = before

    def created(self, tensor: Tensor) -> None:
        number, own = id(tensor), self.own
        own.add(number)
        # The callback holds the set only: a trace keeps some of these references, and must not keep the capture.
        self.made.append(ref(tensor, lambda _: own.discard(number)))

    def depend(self, read: Callable[[], Hashable]) -> None:
        self.conditions.append((read, read()))

    def grad_read(self, tensor: Tensor) -> None:
        if id(tensor) in self.own or id(tensor) in self.grads:
            return
        handle = ref(tensor)

        def has_grad() -> bool | None:
            found = handle()
            return None if found is None else found._grad is not None

        self.depend(has_grad)

    def grad_written(self, tensor: Tensor) -> None:
        if id(tensor) not in self.grads and id(tensor) not in self.own:
            self.grads[id(tensor)] = (tensor, tensor._grad)

    def refuse(self, what: str, value: Node | None = None) -> None:
        raise TraceError(
            f"{what} at {caller_site()}: inside fp.jit a tensor has no value yet. Use fp.where for a choice between "
            "values, keep the number as a tensor, or do this outside the jitted function"
        )


class _Trace:
    """One captured program with what it needs to run again."""

    def __init__(
        self, executor: Executor, sources: list[Any], targets: list[Any], template: Any, results: list[_Result],
        conditions: list[tuple[Callable[[], Hashable], Hashable]], grads: list[tuple[Tensor, Tensor | None]],
    ) -> None:  # fmt: skip
        self.executor = executor
        self.sources = sources  # for each program input: argument number, or the Tensor whose value it is
        self.targets = targets  # for each further output: the tensor (or a weak reference) that it becomes
        self.template = template
        self.results = results  # of each tensor that the function returns
        self.conditions = conditions
        self.grads = grads
        self.epoch = state.epoch

    def holds(self) -> bool:
        """Whether everything the captured function depended on is as it was."""
        return all(read() == value for read, value in self.conditions)

    def run(self, arguments: list[Tensor]) -> Any:
        nodes = [arguments[s]._value if isinstance(s, int) else s._value for s in self.sources]
        waiting = [n for n in nodes if n.buffer is None]
        if waiting:
            compute(waiting)
        del waiting
        values = [n.buffer for n in nodes]
        for i in self.executor.donated:
            # Held once by its tensor and its node, and by the lists here: else somebody else would see the change.
            if sys.getrefcount(nodes[i]) > 3 or sys.getrefcount(values[i]) > 3:
                values[i] = values[i].copy()
        buffers = self.executor(values, self._spent(values))
        results = buffers[: len(self.results)]
        for target, buffer in zip(self.targets, buffers[len(self.results) :], strict=True):
            tensor = target() if isinstance(target, ref) else target
            if tensor is not None:
                _set_value(tensor, buffer)
        for tensor, grad in self.grads:
            tensor._grad = grad
        return _fill(self.template, [_fresh(b, n) for b, n in zip(results, self.results, strict=True)])


    def _spent(self, values: list[Any]) -> dict[int, Any]:
        """Output number -> memory of the value that it replaces, where nobody else holds that: last step's gradients."""
        found: dict[int, Any] = {}
        for number, target in enumerate(self.targets, len(self.results)):
            tensor = target() if isinstance(target, ref) else None
            if tensor is None:
                continue
            node = tensor._value
            buffer = node.buffer
            # Each is held by its owner, by the name here and by the call that counts.
            if buffer is not None and sys.getrefcount(node) <= 3 and sys.getrefcount(buffer) <= 3:
                found[number] = buffer
        return found


@dataclass(frozen=True)
class _Result:
    shape: tuple[int, ...]
    dtype: DType
    requires_grad: bool


def _fresh(buffer: Any, kind: _Result) -> Tensor:
    return wrap((severed if kind.requires_grad else data)(kind.shape, kind.dtype, buffer))


def _set_value(tensor: Tensor, buffer: Any) -> None:
    old = tensor._value
    node = data(old.shape, old.dtype, buffer)
    if old.requires_grad:
        node = leaf(node)
        node.owner = ref(tensor)
    tensor._point(node)


class _Slot:
    """The place of a tensor in a structure of arguments or results."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def _strip(value: Any, found: list[Tensor]) -> Any:
    """The structure with tensors replaced by slots; the tensors are appended to `found`."""
    if isinstance(value, Tensor):
        found.append(value)
        return _Slot(len(found) - 1)
    if isinstance(value, dict):
        return {k: _strip(v, found) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_strip(v, found) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_strip(v, found) for v in value)
    return value


def _fill(template: Any, tensors: Sequence[Any]) -> Any:
    if isinstance(template, _Slot):
        return tensors[template.number]
    if isinstance(template, dict):
        return {k: _fill(v, tensors) for k, v in template.items()}
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*(_fill(v, tensors) for v in template))
    if isinstance(template, (list, tuple)):
        return type(template)(_fill(v, tensors) for v in template)
    return template


def _static_key(value: Any, tensors: list[Tensor]) -> Hashable:
    """What of the arguments decides the trace: structure, shapes, dtypes, and every value that is no tensor."""
    if isinstance(value, Tensor):
        tensors.append(value)
        node = value._value
        return (node.shape, node.dtype.name, node.requires_grad)
    if isinstance(value, dict):
        return ("dict", *((k, _static_key(v, tensors)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return (type(value), *(_static_key(v, tensors) for v in value))
    if isinstance(value, float):
        return (float, value.hex())  # −0.0 is not 0.0 here, and nan is nan
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"fp.jit: an argument of type {type(value).__name__} is neither a tensor, a container of tensors nor hashable; "
            "convert it with fp.tensor, or close over it"
        ) from None
    return (type(value), value)


class Jitted:
    """A function under fp.jit. `traces` counts the programs captured so far."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._traces: dict[Hashable, list[_Trace]] = {}
        self.traces = 0

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.trace is not None or state.transforms:  # part of what captures or transforms the caller
            return self.function(*args, **kwargs)
        tensors: list[Tensor] = []
        key = (_static_key(args, tensors), _static_key(kwargs, tensors), grad_mode.enabled)
        for trace in self._traces.get(key, ()):
            if trace.holds():
                return trace.run(tensors)
        return self._capture(key, args, kwargs)

    def _capture(self, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.traces >= _MAXIMAL_TRACES:
            raise TraceError(
                f"fp.jit: {getattr(self.function, '__name__', 'the function')} was captured {self.traces} times; its "
                "arguments' shapes or Python values differ from call to call. Pad the shapes to a few sizes, or pass "
                "changing numbers as tensors"
            )
        arguments: list[Tensor] = []
        template = _strip((args, kwargs), arguments)
        capture = _Capture()
        stand_ins = []
        for a in arguments:
            if a._value.buffer is None:
                compute([a._value])
            placeholder = data(a.shape, a.dtype)
            stand_ins.append(placeholder)
        state.trace = capture
        switch = grad_mode.enabled
        try:
            proxies = []
            for a, p in zip(arguments, stand_ins, strict=True):
                proxy = wrap(leaf(p) if a.requires_grad else p)
                if a.requires_grad:
                    proxy._value.owner = ref(proxy)
                proxies.append(proxy)
            filled_args, filled_kwargs = _fill(template, proxies)
            result = self.function(*filled_args, **filled_kwargs)
            trace = self._finish(capture, result, arguments, stand_ins)
        except BaseException:
            for c in capture.captured.values():
                if c.tensor._value is not c.leaf:
                    _drop(c.tensor._value)
                c.tensor._value = c.before
            for tensor, grad in capture.grads.values():
                tensor._grad = grad
            raise
        finally:
            state.trace = None
            grad_mode.enabled = switch
            for handle in capture.made:  # whoever still holds one of these: it will never have a value
                made = handle()
                if made is not None:
                    _drop(made._value)
        self.traces += 1
        self._traces.setdefault(key, []).append(trace)
        capture.captured.clear()  # the state's present values: whoever holds them keeps them from being overwritten
        return trace.run(arguments)

    def _finish(self, capture: _Capture, result: Any, arguments: list[Tensor], stand_ins: list[Node]) -> _Trace:
        """Compile what was recorded, and put the captured tensors back as they were before the call."""
        out_tensors: list[Tensor] = []
        template = _strip(result, out_tensors)
        outputs = [t._node for t in out_tensors]
        targets: list[Any] = []
        rebound: dict[Node, int] = {}  # placeholder of the state -> number of the output that replaces it
        for c in capture.captured.values():
            now = c.tensor._value
            if now is not c.leaf:
                rebound[c.placeholder] = len(outputs)
                outputs.append(now)
                targets.append(c.tensor)
        returned = {id(t) for t in out_tensors}
        for handle in capture.made:
            tensor = handle()
            if tensor is None or id(tensor) in returned or tensor._value.buffer is not None:
                continue
            if any(tensor is g[0]._grad for g in capture.grads.values()):
                outputs.append(tensor._value)
                targets.append(handle)
        inputs: dict[Node, Any] = {p: i for i, p in enumerate(stand_ins)}
        inputs.update({c.placeholder: c.tensor for c in capture.captured.values()})
        _, leaves, order = simplify.structure(outputs)
        unknown = [n for n in leaves if n not in inputs and n.buffer is None]
        if unknown:
            raise TraceError("fp.jit: a tensor of another trace was used; return it from the function that made it")
        sources: list[Any] = [inputs.get(n) if n in inputs else wrap(n) for n in leaves]
        placeholders, copies = simplify.simplify(order, leaves, outputs)
        position = {n: i for i, n in enumerate(leaves)}
        donations = {o: position[p] for p, o in rebound.items() if p in position}
        # Here, because the compiler takes a fifth of the time of `import firepot`.
        from firepot.compiler.execute import Executor
        from firepot.compiler.program import build

        executor = Executor(build(placeholders, copies, donations))
        grads = [(t, t._grad) for t, _ in capture.grads.values()]
        for c in capture.captured.values():
            if c.tensor._value is not c.leaf:
                _drop(c.tensor._value)
            c.tensor._value = c.before
        # What backward() went through inside has no history to ask for afterwards, like a loss in PyTorch.
        results = [_Result(n.shape, n.dtype, n.requires_grad and not n.spent) for n in outputs[: len(out_tensors)]]
        return _Trace(executor, sources, targets, template, results, capture.conditions, grads)


def _drop(node: Node) -> None:
    _pending.pop(node, None)


def jit(function: Callable[..., Any]) -> Jitted:
    """Capture `function` as one native program for each combination of argument shapes, dtypes and Python values.

    Tensors passed in are inputs; tensors that it closes over (parameters, momenta, running statistics, the random key)
    are state: their present values are read at each call, and in-place updates take effect. `train()`, `eval()` and
    grad mode are watched; other Python values that the function closes over are read once, at the capture. Results are
    tensors, or containers of tensors and plain values.

    TraceError, naming the line, where the function reads a value (`.item()`, `if tensor:`) or was captured too often;
    TypeError for arguments that are neither tensors, containers of them nor hashable. `.traces` counts the captures.

    >>> model = nn.Linear(3, 1)
    >>> opt = fp.optim.SGD(model.parameters(), lr=0.1)
    >>> @fp.jit
    ... def step(x, y):
    ...     opt.zero_grad()
    ...     loss = F.mse_loss(model(x), y)
    ...     loss.backward()
    ...     opt.step()
    ...     return loss
    >>> losses = [step(fp.ones(4, 3), fp.zeros(4, 1)).item() for _ in range(3)]
    >>> losses == sorted(losses, reverse=True), step.traces
    (True, 1)
    """
    return Jitted(function)


__all__ = ["Jitted", "TraceError", "jit"]
