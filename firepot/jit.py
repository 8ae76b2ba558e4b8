"""fp.jit: Python functions as native programs.

A function is captured (see `capture.py`) once for each combination of argument structure, shapes, dtypes, Python
values and declared Python state that it is called with. Later calls that meet a capture's conditions are one native
call.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, overload

from firepot.capture import Capture, Trace, TraceError, record
from firepot.compiler.statistics import Compilation, log
from firepot.graph.node import grad_mode
from firepot.padding import Pad, Padding
from firepot.runtime import pool
from firepot.tensor import Tensor
from firepot.tracing import depend_on, state
from firepot.varying import Dynamic, SharedExecutor, Varying, VaryingSizes

_WARN_AT = 16  # captures of one function
_REMEMBERED = 1024  # keys of dropped traces, compilations


def _static_key(value: Any, tensors: list[Tensor]) -> Hashable:
    """What of the arguments decides the trace: structure, kinds of tensors, and every value that is no tensor."""
    if isinstance(value, Tensor):
        tensors.append(value)
        node = value._value
        owner = node.owner  # the last: whether it is a result, and no leaf that collects gradients
        return (node.shape, node.dtype, node.requires_grad, owner is None or owner() is not value)
    if isinstance(value, dict):
        return (dict, *[(k, _static_key(v, tensors)) for k, v in value.items()])
    if isinstance(value, (list, tuple)):
        return (value.__class__, *[_static_key(v, tensors) for v in value])
    if isinstance(value, float):
        return (float, value.hex())  # −0.0 is not 0.0 here, and nan is nan
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"fp.jit: an argument of type {type(value).__name__} is neither a tensor, a container of tensors nor hashable; "
            "convert it with fp.tensor, or close over it"
        ) from None
    return (value.__class__, value)


class Jitted:
    """A function under fp.jit.

    traces:       how often it was captured
    programs:     how many programs were compiled: one a capture, but for sizes that vary (`dynamic`), which share
    compilations: each capture (the latest 1024), with the reason why no program made before would do
    memory_budget: bytes that a call may take, if a bound was given
    """

    def __init__(
        self, function: Callable[..., Any], pad: Sequence[Pad] = (), max_traces: int = 64, dynamic: Dynamic = (),
        memory_budget: int | str | None = None,
    ) -> None:  # fmt: skip
        if pad and dynamic:
            raise ValueError("fp.jit: give pad= or dynamic=, not both")
        if memory_budget is not None and dynamic:
            raise ValueError("fp.jit: give memory_budget= or dynamic=, not both; pad= goes with a budget")
        if max_traces < 1:
            raise ValueError(f"fp.jit: max_traces must be at least 1, got {max_traces}")
        functools.update_wrapper(self, function)
        self.function = function
        self.max_traces = max_traces
        self.memory_budget = None if memory_budget is None else _bytes(memory_budget)
        self.traces = 0
        self.programs = 0
        self.compilations: list[Compilation] = []
        self._padding = Padding(function, pad) if pad else None
        self._varying = VaryingSizes(function, dynamic) if dynamic else None
        self._traces: OrderedDict[Hashable, list[Trace]] = OrderedDict()  # the least recently used first
        self._dropped: OrderedDict[Hashable, None] = OrderedDict()
        self._watched = _watched(function)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._padding is not None:
            args, kwargs = self._padding.apply(args, kwargs)
        # Part of another capture or of what transforms the caller, or to be run step by step.
        if state.trace is not None or state.transforms or state.eager is not None:
            for read, what in self._watched:
                depend_on(read, what)
            return self.function(*args, **kwargs)
        tensors: list[Tensor] = []
        modes = (grad_mode.enabled, state.autocast)
        key: Any = (_static_key(args, tensors), _static_key(kwargs, tensors) if kwargs else None, modes)
        with pool.lock:  # one thread captures, or runs, at a time
            found = self._traces.get(key)
            if found is not None:
                for trace in found:
                    if trace.holds():
                        if len(self._traces) > 1:
                            self._traces.move_to_end(key)
                        return trace.run(tensors)
            return self._capture(key, args, kwargs)

    def prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that the function itself gets: padded, where that was asked for."""
        return self._padding.apply(args, kwargs) if self._padding is not None else (args, kwargs)

    def _capture(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        compile = self._varying.compiler(args, kwargs, self._new_capture) if self._varying is not None else None
        trace, arguments = record(
            self.function, args, kwargs, self._new_capture(), self._reason(key), compile, self.memory_budget
        )
        self.traces += 1
        self._traces.setdefault(key, []).append(trace)
        self._traces.move_to_end(key)
        if not (isinstance(trace.executor, SharedExecutor) and trace.executor.reused):
            self.programs += 1
            self.compilations.append(log.recent[-1])
            del self.compilations[:-_REMEMBERED]
            if self.programs == _WARN_AT:
                self._warn()
        while self._too_many():
            self._drop_one()
        return trace.run(arguments)

    def _new_capture(self) -> Capture:
        capture = Capture()
        for read, what in self._watched:
            capture.depend(read, what, announced=False)
        return capture

    def _too_many(self) -> bool:
        """Whether more programs are kept than may be. Traces of sizes that share one hold little else."""
        traces = [trace for found in self._traces.values() for trace in found]
        if len(traces) <= self.max_traces:
            return False
        return len(traces) > _REMEMBERED or len({id(trace.executor.plan) for trace in traces}) > self.max_traces

    def _drop_one(self) -> None:
        key, traces = next(iter(self._traces.items()))
        del traces[0]
        if not traces:
            del self._traces[key]
        self._dropped[key] = None
        if len(self._dropped) > _REMEMBERED:
            self._dropped.popitem(last=False)

    def _warn(self) -> None:
        seconds = sum(c.seconds for c in self.compilations)
        warnings.warn(
            f"fp.jit: {self._name()} was captured {self.traces} times, which took {seconds:.1f} s; the latest time "
            f"because {self.compilations[-1].reason}. Declare sizes that vary (fp.jit(dynamic={{argument: dimension}})) "
            f"and pass numbers that change as tensors. All reasons are in .compilations; the {self.max_traces} programs "
            "used last are kept",
            RuntimeWarning,
            stacklevel=_outside(),
        )

    def _reason(self, key: Any) -> str:
        """Why no trace that there is will do."""
        if not self.traces:
            return "first call"
        if key in self._traces:
            changes = [trace.broken() for trace in self._traces[key]]
            return next((c for c in reversed(changes) if c), "a condition changed")
        if key in self._dropped:
            return f"its program was dropped: more than {self.max_traces} were captured"
        nearest = min(reversed(self._traces), key=lambda known: _distance(known, key))
        return self._difference(nearest, key)

    def _difference(self, old: Any, new: Any) -> str:
        (old_args, old_kwargs, (old_grad, old_cast)), (args, kwargs, (grad, lower)) = old, new
        if len(old_args) == len(args):
            for number, (before, now) in enumerate(zip(old_args[1:], args[1:], strict=True)):
                if before != now:
                    return f"argument {self._parameter(number)}{_change(before, now)}"
        else:
            return f"there are {len(args) - 1} positional arguments and were {len(old_args) - 1}"
        if old_kwargs != kwargs:
            old_named, named = dict((old_kwargs or (dict,))[1:]), dict((kwargs or (dict,))[1:])
            if old_named.keys() != named.keys():
                return f"the keyword arguments are {list(named)} and were {list(old_named)}"
            changed = next(k for k in named if named[k] != old_named[k])
            return f"argument {changed!r}{_change(old_named[changed], named[changed])}"
        if old_cast is not lower:
            now, before = ("off" if d is None else f"on with {d.name}" for d in (lower, old_cast))
            return f"autocast is {now} and was {before}"
        return f"grad mode is {'on' if grad else 'off'} and was {'on' if old_grad else 'off'}"

    def _parameter(self, number: int) -> str:
        try:
            names = list(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):
            names = []
        return repr(names[number]) if number < len(names) else str(number)

    def _name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


def _distance(old: Any, new: Any) -> int:
    """How unlike two keys are: the nearest one tells best what changed."""
    if len(old[0]) != len(new[0]):
        return 1000
    unlike = sum(1 + (_is_tensor(a) != _is_tensor(b)) for a, b in zip(old[0][1:], new[0][1:], strict=True) if a != b)
    return unlike + 2 * (old[1] != new[1]) + (old[2] != new[2])


def _is_tensor(part: Any) -> bool:
    """Whether a part of a key is that of a tensor; all others begin with a type."""
    return isinstance(part[0], tuple)


def _change(before: Any, now: Any) -> str:
    """How a part of the key differs, in words."""
    if _is_tensor(before) and _is_tensor(now):
        if before[2:] != now[2:] and before[:2] == now[:2]:
            if before[2] == now[2]:
                return " is a result and was a leaf" if now[3] else " is a leaf and was a result"
            return " requires grad and did not" if now[2] else " does not require grad and did"
        return f" is {now[1].name}{list(now[0])} and was {before[1].name}{list(before[0])}"
    if _is_tensor(before) or _is_tensor(now):
        return " is a tensor and was none" if _is_tensor(now) else " is no tensor and was one"
    if len(before) == len(now):
        if len(now) == 2 and isinstance(now[1], (bool, int, float, str)):
            shown = [float.fromhex(k[1]) if k[0] is float else k[1] for k in (now, before)]
            return f" is {shown[0]!r} and was {shown[1]!r}"
        for b, n in zip(before[1:], now[1:], strict=True):
            if b != n and isinstance(n, tuple) and isinstance(b, tuple):
                if now[0] is dict and b[0] == n[0]:
                    return f"[{n[0]!r}]{_change(b[1], n[1])}"
                if now[0] is not dict:
                    return f"[{now[1:].index(n)}]{_change(b, n)}"
    return " has another structure or value"


_PLAIN = (bool, int, float, str, type(None))


def _watched(function: Callable[..., Any]) -> list[tuple[Callable[[], Hashable], str]]:
    """Readers of the Python numbers and strings that the function itself closes over or takes from its module."""
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return []
    watched: list[tuple[Callable[[], Hashable], str]] = []
    for name, cell in zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=False):
        watched.append((functools.partial(_plain_of_cell, cell), f"the closed-over {name!r}"))
    names = function.__globals__
    for name in code.co_names:
        if isinstance(names.get(name, ...), _PLAIN):
            watched.append((functools.partial(_plain_of_module, names, name), f"the global {name!r}"))
    return watched


def _plain_of_cell(cell: Any) -> Hashable:
    try:
        value = cell.cell_contents
    except ValueError:  # not yet assigned
        return None
    return (value.__class__, value) if isinstance(value, _PLAIN) else None


def _plain_of_module(names: dict[str, Any], name: str) -> Hashable:
    value = names.get(name)
    return (value.__class__, value) if isinstance(value, _PLAIN) else None


def _outside() -> int:
    """The stack level of the caller outside of this module, for a warning."""
    level = 1
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
        level += 1
    return level - 1


_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def _bytes(amount: int | str) -> int:
    """An amount of memory as a number of bytes."""
    if isinstance(amount, bool) or not isinstance(amount, (int, str)):
        raise TypeError(f"fp.jit: memory_budget must be a number of bytes or a string like '2GB', not {amount!r}")
    if isinstance(amount, str):
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)([KMGT]?)(I?B)?", amount.replace(" ", "").upper())
        if found is None:
            raise ValueError(f"fp.jit: memory_budget={amount!r} is no amount of memory; write '500MB', '1.5GB' or bytes")
        amount = int(float(found[1]) * _UNITS[found[2] + "B"])
    if amount < 1:
        raise ValueError(f"fp.jit: memory_budget must be positive, got {amount}")
    return amount


@overload
def jit(
    function: Callable[..., Any], *, dynamic: Dynamic = (), pad: Sequence[Pad] = (), max_traces: int = 64,
    memory_budget: int | str | None = None,
) -> Jitted: ...  # fmt: skip
@overload
def jit(
    *, dynamic: Dynamic = (), pad: Sequence[Pad] = (), max_traces: int = 64, memory_budget: int | str | None = None
) -> Callable[[Callable[..., Any]], Jitted]: ...


def jit(
    function: Callable[..., Any] | None = None, *, dynamic: Dynamic = (), pad: Sequence[Pad] = (), max_traces: int = 64,
    memory_budget: int | str | None = None,
) -> Any:  # fmt: skip
    """Capture `function` as one native program for each combination of argument shapes, dtypes and Python values.

    Tensors passed in are inputs; tensors that it closes over (parameters, momenta, running statistics, the random
    key) are state: their present values are read at each call, and in-place updates take effect. Reading a value
    inside (`.item()`, `if tensor:`) raises TraceError, naming the line. Results are tensors, or containers of tensors
    and plain values.

    The function is captured anew when what it depends on has changed: arguments that are no tensors, grad mode,
    autocast, train or eval mode, attributes of modules, settings of optimisers, which parameters require or have gradients,
    numbers and strings that it closes over or takes from its module. What Python objects hold beyond that (lists,
    attributes of other classes, what functions that it calls close over) cannot be seen: it is as it was at the
    capture. Python side effects (printing, counting) happen at captures only.

    State that the function does not change is packed for products and convolutions once and again whenever its value
    changes. The packed copies take memory while the program is kept: as much as the weights, four times that for
    filters of 3×3 convolutions that are transformed.

    Args:
        dynamic: dimensions whose size varies from call to call, such as {"x": 0, "y": 0} for the batch of two arguments;
            a list of such for several independent sizes (see `fp.Varying`). Programs are shared between sizes; results
            are those of exact shapes. Without it, each size gets a program of its own.
        pad: the same with the surplus left to the function to mask, which is told the true size (see `fp.Pad`).
        max_traces: programs kept; beyond, the one not used for longest is dropped.
        memory_budget: the most memory that a call may take beyond what exists already (arguments, parameters,
            optimiser state): intermediate values, workspaces, packed weights, and results, among them the gradients
            that it leaves in `.grad`. Bytes, or a string in powers of 1024: "500MB", "2GB". What would not fit is not
            kept for the backward pass but computed again there, with equal results, as little of it as will do. Not together with `dynamic`.

    Returns: a Jitted; its `traces` counts captures, its `compilations` tells why each was made.
    Raises (the Jitted): TypeError for arguments that are neither tensors, containers of them nor hashable; MemoryError
        before anything runs where memory_budget cannot be met, with the smallest one that works.

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
    if function is None:
        return functools.partial(
            Jitted, pad=pad, max_traces=max_traces, dynamic=dynamic, memory_budget=memory_budget
        )
    return Jitted(function, pad, max_traces, dynamic, memory_budget)


__all__ = ["Jitted", "TraceError", "Varying", "jit"]
