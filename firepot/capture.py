"""Capture: a Python function run once on placeholders, and the program that comes of it.

What the function reads from tensors made before becomes captured state, what it rebinds becomes new state, and what
it learns from Python (train or eval mode, hyper-parameters that switch structure) is remembered as conditions.
`fp.jit` keeps traces and runs them; `fp.explain` makes one to look at.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from sys import getrefcount
from typing import TYPE_CHECKING, Any
from weakref import ref

from firepot.compiler import simplify
from firepot.graph import node as graph
from firepot.graph.dtypes import DType
from firepot.graph.node import (
    Node,
    collection_paused,
    data,
    data_primitive,
    grad_mode,
    leaf,
    severed,
    severed_primitive,
)
from firepot.graph.primitives.elementwise import BadIndex, add
from firepot.runtime import pool
from firepot.tensor import Tensor, caller_site, compute, default_dtype, forget, wrap
from firepot.tracing import Same, state

if TYPE_CHECKING:
    from firepot.compiler.execute import Executor


class TraceError(RuntimeError):
    """A captured function did what has no meaning before its values exist."""


@dataclass
class _Captured:
    tensor: Tensor
    before: Node  # what it stood for when the trace began
    placeholder: Node
    leaf: Node  # the placeholder itself, or the differentiable leaf on it


def _stand_in(value: Node, is_leaf: bool) -> tuple[Node, Node]:
    """(a placeholder for a tensor's value, the node that stands for the tensor in a trace).

    The history of a tensor that is no leaf is outside of the trace, where no derivative can go: it is refused.
    """
    if value.requires_grad and not is_leaf:
        placeholder = severed(value.shape, value.dtype, None)
        return placeholder, placeholder
    placeholder = data(value.shape, value.dtype)
    return placeholder, leaf(placeholder) if value.requires_grad else placeholder


@dataclass(frozen=True)
class Condition:
    """Python state that a trace was made for: `read()` gave `value`. `what` names it to a person."""

    read: Callable[[], Hashable]
    value: Hashable
    what: str

    def holds(self) -> bool:
        return bool(self.read() == self.value)

    def change(self) -> str:
        now: Any = self.read()
        before: Any = self.value
        if isinstance(now, dict) and isinstance(before, dict):
            name = next((k for k in now.keys() | before.keys() if now.get(k) != before.get(k)), None)
            told = self.what.replace("an attribute", f"'{name}'")
            return self._change(told, now.get(name), before.get(name))
        return self._change(self.what, now, before)

    def _change(self, what: str, now: Any, before: Any) -> str:
        if isinstance(now, tuple) and isinstance(before, tuple) and len(now) == len(before) == 2:
            now, before = now[1], before[1]  # a type and a value of it
        if isinstance(now, (bool, int, float, str)) and isinstance(before, (bool, int, float, str)):
            return f"{what} is {now!r} and was {before!r}"
        return f"{what} changed"


class Capture:
    """The trace of one function call: the tensor module's window on what the function touches.

    locate: where asked for, gives the place in the person's code that is running; then `origin` tells it of a node.
    """

    def __init__(self, locate: Callable[[], Any] | None = None) -> None:
        self.captured: dict[int, _Captured] = {}
        self.own: set[int] = set()
        self.made: list[ref[Tensor]] = []
        self.announced: list[Condition] = []
        self.watched: list[Condition] = []
        self.grads: dict[int, tuple[Tensor, Tensor | None]] = {}
        self.gradients: dict[int, _Gradient] = {}  # tensors that were read as the gradient of another
        self._seen: list[Tensor] = []  # those tensors, so that no other gets the number of one
        self.undoing: list[Callable[[], object]] = []
        self.effects: list[Callable[[], object]] = []
        self._written: set[Hashable] = set()
        self._owners: dict[int, tuple[object, Callable[[], dict[Any, Hashable]], dict[Any, Hashable]]] = {}
        self._locate = locate
        self._starts: list[int] = []  # node sequence numbers, ascending: each begins a stretch of nodes of one origin
        self._origins: list[tuple[Any, bool]] = []
        self._next = graph.sequence_number()
        self._differentiated: tuple[Any, bool] | None = None

    lasting = False

    # -- what the tensor module tells ----------------------------------------------------------------------------------

    def read(self, tensor: Tensor) -> None:
        if id(tensor) in self.own or id(tensor) in self.captured:
            return
        running, state.trace = state.trace, None  # a transform within this capture, or it
        try:
            self._adopt(tensor)
        finally:
            state.trace = running

    def _adopt(self, tensor: Tensor) -> None:
        """Put a placeholder into a tensor that existed before the trace."""
        value = tensor._value  # if it is still to be computed, that happens before the first run, for all at once
        placeholder, node = _stand_in(value, value.owner is not None)
        if node.primitive is graph.variable:
            node.owner = value.owner
        self.captured[id(tensor)] = _Captured(tensor, value, placeholder, node)
        tensor._value = node
        kind = (value.shape, value.dtype, value.requires_grad)
        place = self.gradients.get(id(tensor), tensor)

        def kind_of() -> Hashable:
            now = place._value
            return None if now is None else (now.shape, now.dtype, now.requires_grad)

        self.announced.append(Condition(kind_of, kind, f"a tensor that is read, {value.dtype.name}{list(value.shape)},"))

    def created(self, tensor: Tensor) -> None:
        number, own = id(tensor), self.own
        own.add(number)
        self.made.append(ref(tensor, lambda _: own.discard(number)))
        if self._locate is not None:
            self._mark((self._locate(), False))

    def depend(self, read: Callable[[], Hashable], what: str, announced: bool) -> None:
        (self.announced if announced else self.watched).append(Condition(read, read(), what))

    def grad_read(self, tensor: Tensor) -> None:
        if id(tensor) in self.own or id(tensor) in self.grads:
            return
        handle = ref(tensor)

        def has_grad() -> bool | None:
            found = handle()
            return None if found is None else found._grad is not None

        shape = f"{tensor.dtype.name}{list(tensor.shape)}"
        self.depend(has_grad, f"whether a tensor {shape} has a gradient", announced=True)
        grad = tensor._grad
        if grad is not None and id(grad) not in self.own and id(grad) not in self.captured:
            self.gradients.setdefault(id(grad), _Gradient(tensor))
            self._seen.append(grad)

    def place(self, tensor: Tensor) -> Tensor | _Gradient:
        """Where a later run finds what this tensor is to the captured function."""
        return self.gradients.get(id(tensor), tensor)

    def grad_written(self, tensor: Tensor) -> None:
        if id(tensor) not in self.grads and id(tensor) not in self.own:
            self.grads[id(tensor)] = (tensor, tensor._grad)

    def undo(self, action: Callable[[], object]) -> None:
        self.undoing.append(action)

    def effect(self, keys: Sequence[Hashable], redo: Callable[[], object], undo: Callable[[], object]) -> None:
        self._written.update(keys)
        self.effects.append(redo)
        self.undoing.append(undo)

    def wrote(self, key: Hashable) -> bool:
        return key in self._written

    def attributes(self, owner: object, read: Callable[[], dict[Any, Hashable]]) -> None:
        if id(owner) not in self._owners:
            self._owners[id(owner)] = (owner, read, read())

    def _depend_on_attributes(self) -> None:
        """Conditions on the attributes as they were before the function ran.

        Objects that the function itself put there (a cached result, say) are left out: they are new at every capture.
        """
        for owner, read, before in self._owners.values():
            now = read()
            own = {k for k in now.keys() | before.keys() if isinstance(now.get(k), Same) and now[k] != before.get(k)}

            def rest(read: Callable[[], dict[Any, Hashable]] = read, own: set[Any] = own) -> Any:
                found = read()
                return found if not own else {k: v for k, v in found.items() if k not in own}

            kept: Any = {k: v for k, v in before.items() if k not in own}
            self.announced.append(Condition(rest, kept, f"an attribute of {type(owner).__name__}"))

    def differentiating(self, node: Node) -> None:
        """The nodes from now on are the derivative of `node`."""
        if self._locate is not None:
            self._mark(self._differentiated or (self._locate(), True))
            self._differentiated = (self.origin(node)[0], True)

    def on_host(self, call: Callable[..., Any], tensors: Sequence[Tensor], core: Sequence[int]) -> None:
        """Nothing: `refuse` tells that there are no values yet."""

    def refuse(self, what: str, value: Node | None = None, instead: str = "") -> None:
        instead = instead or "Use fp.where or fp.cond for a choice, keep the number as a tensor"
        raise TraceError(
            f"{what} at {caller_site()}: inside fp.jit a tensor has no value yet. {instead}, or do this outside the "
            "jitted function"
        )

    # -- where nodes come from -----------------------------------------------------------------------------------------

    def _mark(self, origin: tuple[Any, bool]) -> None:
        """The nodes made since the last mark are of this origin."""
        if self._differentiated is not None:
            origin, self._differentiated = self._differentiated, None
        self._starts.append(self._next)
        self._origins.append(origin)
        self._next = graph.sequence_number()

    def origin(self, node: Node) -> tuple[Any, bool]:
        """(what `locate` gave when the node was made, whether it is part of a derivative)."""
        place = bisect.bisect_right(self._starts, node.sequence) - 1
        return self._origins[place] if place >= 0 else (None, False)

    # -- the end -------------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Put every tensor and gradient back as it was before the call."""
        for c in self.captured.values():
            if c.tensor._value is not c.leaf:
                forget(c.tensor._value)
            c.tensor._value = c.before
        for tensor, grad in self.grads.values():
            tensor._grad = grad

    def abandon(self) -> None:
        """After `restore`: undo what was made outside of tensors, such as an optimiser's new state."""
        for action in reversed(self.undoing):
            action()


@dataclass(frozen=True)
class _Kind:
    """What a result is, but for its value."""

    shape: tuple[int, ...]
    dtype: DType
    requires_grad: bool

    @staticmethod
    def of(node: Node) -> _Kind:
        # What backward() went through inside has no history to ask for afterwards, like a loss in PyTorch.
        return _Kind(node.shape, node.dtype, node.requires_grad and not node.spent)

    def fresh(self, buffer: Any) -> Tensor:
        # What went into a result is inside the program: its derivative is refused, not silently missing.
        primitive = severed_primitive if self.requires_grad else data_primitive
        node = Node(primitive, (), (), self.shape, self.dtype, self.requires_grad)
        node.buffer = buffer
        return wrap(node)

    def update(self, tensor: Tensor | _Gradient, buffer: Any) -> None:
        """Give a tensor that exists this value; a leaf stays one."""
        old = tensor._value
        if old.owner is not None:
            node = Node(graph.variable, (), (), self.shape, self.dtype, True)
            node.owner = old.owner
        else:
            node = Node(severed_primitive if self.requires_grad else data_primitive, (), (), self.shape, self.dtype,
                        self.requires_grad)  # fmt: skip
        node.buffer = buffer
        tensor._point(node)


class _Gradient:
    """The gradient that a tensor has at the time: backward() outside of the captured function makes another each time.
    To the trace it is a tensor."""

    __slots__ = ("owner",)

    def __init__(self, owner: Tensor) -> None:
        self.owner = owner

    @property
    def tensor(self) -> Tensor | None:
        return self.owner._grad

    @property
    def _value(self) -> Any:
        return None if self.owner._grad is None else self.owner._grad._value

    def _point(self, node: Node) -> None:
        assert self.owner._grad is not None, "a condition of the trace"
        self.owner._grad._point(node)


class Trace:
    """One captured program with what it needs to run again.

    arguments: the numbers of the argument tensors that the program reads; they are its first inputs
    state:     the tensors whose values are its other inputs
    updates:   (output number, tensor or number of an argument): what the function rebinds
    grads:     (tensor, its gradient afterwards: a tensor that existed before, an output number, or None)
    argument_grads: (number of an argument, output number): what to add to its gradient
    kinds:     what the outputs behind these numbers are
    origins:   of the program's nodes (see `simplify`), where that was asked for
    """

    executor: Executor
    template: Any
    results: list[_Kind]
    arguments: list[int]
    state: list[Tensor | _Gradient]
    updates: list[tuple[int, Tensor | _Gradient | int]]
    grads: list[tuple[Tensor, Tensor | _Gradient | int | None]]
    argument_grads: list[tuple[int, int]]
    kinds: dict[int, _Kind]
    origins: list[tuple[int, Node | None]]
    _single: _Kind | None  # of a result that is one tensor
    _pure: bool  # it changes nothing: runs leave results alone

    def __init__(self, capture: Capture) -> None:
        capture._depend_on_attributes()
        self._effects = capture.effects
        self._announced = [(c.read, c.value) for c in capture.announced]
        self._watched = [(c.read, c.value) for c in capture.watched]
        self._conditions = [*capture.announced, *capture.watched]
        self._epoch = state.epoch
        self._pure = False

    def holds(self) -> bool:
        """Whether everything the captured function depended on is as it was."""
        epoch = state.epoch
        if self._epoch != epoch:
            for read, value in self._announced:
                if read() != value:
                    return False
            self._epoch = epoch
        for read, value in self._watched:  # noqa: SIM110 (all() of a generator takes twice as long)
            if read() != value:
                return False
        return True

    def broken(self) -> str:
        """The first condition that does not hold, for a person."""
        return next((c.change() for c in self._conditions if not c.holds()), "")

    def values(self, arguments: Sequence[Tensor]) -> tuple[list[Node], list[Any]]:
        """The program's inputs, computed: (nodes, buffers)."""
        nodes = [arguments[i]._value for i in self.arguments]
        nodes += [t._value for t in self.state]
        buffers = [n.buffer for n in nodes]
        if not all(buffers):
            compute([n for n in nodes if n.buffer is None])
            buffers = [n.buffer for n in nodes]
        return nodes, buffers

    def _outputs(self, inputs: Sequence[Any]) -> list[Any]:
        """Run the program. Gradients that it replaces and that nobody else holds give their memory to the new ones."""
        spent: dict[int, Any] = {}
        for tensor, number in self.grads:
            grad = tensor._grad
            if grad is None or not isinstance(number, int):
                continue
            node = grad._value
            buffer = node.buffer
            # Each is held by its owner, by the name here and by the call that counts.
            if buffer is not None and getrefcount(grad) <= 3 and getrefcount(node) <= 3 and getrefcount(buffer) <= 3:
                spent[number] = buffer
        try:
            return self.executor(inputs, spent)
        except BadIndex as error:
            for tensor, number in self.grads:
                if number in spent:  # overwritten with what does not exist
                    tensor._grad = None
                    state.announce()
            raise IndexError(*error.args) from None

    def run(self, arguments: Sequence[Tensor]) -> Any:
        with pool.lock:  # nobody else may overwrite the state between reading and writing it
            if self._pure:
                return self._results(self._run_pure(arguments))
            nodes, inputs = self.values(arguments)
            for i in self.executor.donated:
                # Held once by its tensor and its node, and by the lists here: else somebody would see the change.
                if getrefcount(nodes[i]) > 3 or getrefcount(inputs[i]) > 3:
                    inputs[i] = inputs[i].copy()
                    place = i - len(self.arguments)
                    if place >= 0:
                        # The tensor has the copy from here on: of several that share zeros, the last keeps those.
                        _Kind.of(nodes[i]).update(self.state[place], inputs[i])
                        nodes[i] = self.state[place]._value
            outputs = self._outputs(inputs)
            for number, target in self.updates:
                tensor = arguments[target] if isinstance(target, int) else target
                if tensor._value.buffer is not outputs[number]:  # else it was overwritten in place
                    self.kinds[number].update(tensor, outputs[number])
            afterwards = [(t, g.tensor if isinstance(g, _Gradient) else g) for t, g in self.grads]
            for tensor, grad in afterwards:
                if isinstance(grad, int):
                    grad = self.kinds[grad].fresh(outputs[grad])
                if (grad is None) != (tensor._grad is None):
                    state.announce()
                tensor._grad = grad
            for i, number in self.argument_grads:
                grad = self.kinds[number].fresh(outputs[number])
                known = arguments[i]._grad
                arguments[i].grad = grad if known is None else wrap(add(known._value, grad._value))
            for redo in self._effects:
                redo()
        return self._results(outputs)

    def _run_pure(self, arguments: Sequence[Tensor]) -> list[Any]:
        """The outputs of a function that changes no state: all that is left of `run` there."""
        inputs = [arguments[i]._value.buffer for i in self.arguments]
        inputs += [t._value.buffer for t in self.state]
        if not all(inputs):  # some are still to be computed
            _, inputs = self.values(arguments)
        try:
            return self.executor(inputs)
        except BadIndex as error:
            raise IndexError(*error.args) from None

    def _results(self, outputs: list[Any]) -> Any:
        if self._single is not None:
            return self._single.fresh(outputs[0])
        return fill(self.template, [kind.fresh(b) for b, kind in zip(outputs, self.results, strict=False)])


@dataclass(frozen=True)
class Recorded(simplify.Recorded):
    """The graph that a captured function became, before it is compiled. Its leaves are arguments first, then state.

    roles:       what each leaf is, the same for every capture: ('argument', its number), ('state' or 'gradient', the
                 identity of a tensor) or ('own', a count) for data that the function made
    donations:   output number -> number of the leaf that it replaces
    constants:   leaves that are not replaced
    """

    roles: list[tuple[str, int]]
    donations: dict[int, int]
    constants: list[int]
    name: str
    reason: str


def compile_exactly(
    recorded: Recorded, origins: list[tuple[int, Node | None]] | None = None, memory_budget: int | None = None
) -> Executor:
    """The program for the very sizes of the recording."""
    from firepot.compiler.driver import compiled  # here, because the compiler is much of `import firepot`'s time

    return compiled(recorded, recorded.donations, recorded.name, recorded.reason, recorded.constants, origins, memory_budget)


def record(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], capture: Capture, reason: str,
    compile: Callable[[Recorded], Any] | None = None, memory_budget: int | None = None,
) -> tuple[Trace, list[Tensor]]:  # fmt: skip
    """(the function's trace, the argument tensors that it is to be run on). All tensors are as before afterwards.

    `compile` makes what runs of the graph; left out, a program for the very sizes.

    Raises: TraceError where the function looks at a value; MemoryError where its program needs more than the budget;
    and whatever the function raises.
    """
    arguments: list[Tensor] = []
    template = strip((args, kwargs), arguments)
    waiting = [a._value for a in arguments if a._value.buffer is None]
    if waiting:
        compute(waiting)
    stand_ins = [_stand_in(a._value, a.is_leaf) for a in arguments]
    modes = grad_mode.enabled, state.autocast
    state.trace = capture
    try:
        capture.depend(default_dtype, "the default dtype", announced=True)
        proxies = []
        for _, node in stand_ins:
            proxy = wrap(node)
            if node.primitive is graph.variable:
                node.owner = ref(proxy)
            proxies.append(proxy)
        filled_args, filled_kwargs = fill(template, proxies)
        name = getattr(function, "__name__", type(function).__name__)
        with collection_paused():
            result = function(*filled_args, **filled_kwargs)
            trace, recorded = _finish(capture, result, stand_ins, proxies, name, reason)
    except BaseException:
        capture.restore()
        capture.abandon()
        raise
    finally:
        state.trace = None
        grad_mode.enabled, state.autocast = modes
    capture.restore()
    capture.captured.clear()  # the state's present values: whoever holds them keeps them from being overwritten
    try:
        if compile is not None:
            trace.executor = compile(recorded)
        else:
            trace.executor = compile_exactly(
                recorded, trace.origins if capture._locate is not None else None, memory_budget
            )
    except BaseException:
        capture.abandon()
        raise
    return trace, arguments


def _finish(
    capture: Capture, result: Any, stand_ins: list[tuple[Node, Node]], proxies: list[Tensor], name: str, reason: str
) -> tuple[Trace, Recorded]:  # fmt: skip
    """What was recorded, and all but the program of the trace."""
    returned: list[Tensor] = []
    trace = Trace(capture)
    trace.template = strip(result, returned)
    outputs = [t._node for t in returned]
    trace.results = [_Kind.of(n) for n in outputs]
    trace._single = trace.results[0] if isinstance(trace.template, _Slot) else None
    trace.kinds = {}

    def further_output(node: Node) -> int:
        trace.kinds[len(outputs)] = _Kind.of(node)
        outputs.append(node)
        return len(outputs) - 1

    trace.updates = []
    rebound: dict[Node, int] = {}  # placeholder of the state -> number of the output that replaces it
    for c in capture.captured.values():
        if c.tensor._value is not c.leaf:
            rebound[c.placeholder] = number = further_output(c.tensor._value)
            trace.updates.append((number, capture.place(c.tensor)))
    for i, ((placeholder, node), proxy) in enumerate(zip(stand_ins, proxies, strict=True)):
        if proxy._value is not node:
            rebound[placeholder] = number = further_output(proxy._value)
            trace.updates.append((number, i))
    trace.grads = []
    for tensor, _ in capture.grads.values():
        grad = tensor._grad
        made = grad is not None and id(grad) in capture.own
        kept = None if grad is None else capture.place(grad)
        trace.grads.append((tensor, further_output(grad._value) if grad is not None and made else kept))
    trace.argument_grads = [
        (i, further_output(proxy._grad._value)) for i, proxy in enumerate(proxies) if proxy._grad is not None
    ]
    trace._pure = not (trace.updates or trace.grads or trace.argument_grads or trace._effects)
    key, leaves, order = simplify.structure(outputs)
    numbers = {p: i for i, (p, _) in enumerate(stand_ins)}
    tensors = {c.placeholder: capture.place(c.tensor) for c in capture.captured.values()}
    arguments = [n for n in leaves if n in numbers]
    others = [n for n in leaves if n not in numbers]
    if any(n.buffer is None and n not in tensors for n in others):
        raise TraceError("fp.jit: a tensor of another trace was used; return it from the function that made it")
    trace.arguments = [numbers[n] for n in arguments]
    state.trace = None
    trace.state = [tensors[n] if n in tensors else wrap(n) for n in others]
    leaves = arguments + others
    trace.origins = []
    position = {n: i for i, n in enumerate(leaves)}
    donations = {o: position[p] for p, o in rebound.items() if p in position}
    overwritten = set(donations.values())
    constants = [i for i in range(len(arguments), len(leaves)) if i not in overwritten]
    own = iter(range(len(others)))
    roles = [("argument", i) for i in trace.arguments]
    roles += [_role(tensors[n]) if n in tensors else ("own", next(own)) for n in others]
    return trace, Recorded(key, leaves, order, outputs, roles, donations, constants, name, reason)


def _role(place: Tensor | _Gradient) -> tuple[str, int]:
    return ("gradient", id(place.owner)) if isinstance(place, _Gradient) else ("state", id(place))


# -- structures of arguments and results -------------------------------------------------------------------------------


class _Slot:
    """The place of a tensor in a structure of arguments or results."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def strip(value: Any, found: list[Tensor]) -> Any:
    """The structure with tensors replaced by slots; the tensors are appended to `found`."""
    if isinstance(value, Tensor):
        found.append(value)
        return _Slot(len(found) - 1)
    if isinstance(value, dict):
        return {k: strip(v, found) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(strip(v, found) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(strip(v, found) for v in value)
    return value


def fill(template: Any, tensors: Sequence[Any]) -> Any:
    """The structure with tensors in the places of the slots."""
    if isinstance(template, _Slot):
        return tensors[template.number]
    if isinstance(template, dict):
        return {k: fill(v, tensors) for k, v in template.items()}
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*(fill(v, tensors) for v in template))
    if isinstance(template, (list, tuple)):
        return type(template)(fill(v, tensors) for v in template)
    return template
