"""What is being recorded in this thread, and what the running code tells of itself to who records it.

`fp.jit` and `fp.vmap` put a Trace here while they run a person's function. Tensors report to it; modules, optimisers
and random generators declare the Python state that the function depends on or changes, so that no stale program runs.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from firepot.graph.dtypes import DType
from firepot.graph.node import Node

if TYPE_CHECKING:
    from firepot.tensor import Tensor


class Trace(Protocol):
    """What `fp.jit` and `fp.vmap` see of the tensors that a function touches while it is recorded.

    lasting: what is recorded is to be computed like anything else; it is no mere description of later runs
    on_host: the results of a call that needs its arguments' values, made for all examples at once; None where no
        argument differs between examples
    """

    @property
    def lasting(self) -> bool: ...
    def read(self, tensor: Tensor) -> None: ...
    def created(self, tensor: Tensor) -> None: ...
    def depend(self, read: Callable[[], Hashable], what: str, announced: bool) -> None: ...
    def grad_read(self, tensor: Tensor) -> None: ...
    def grad_written(self, tensor: Tensor) -> None: ...
    def undo(self, action: Callable[[], object]) -> None: ...
    def effect(self, keys: Sequence[Hashable], redo: Callable[[], object], undo: Callable[[], object]) -> None: ...
    def wrote(self, key: Hashable) -> bool: ...
    def attributes(self, owner: object, read: Callable[[], dict[Any, Hashable]]) -> None: ...
    def differentiating(self, node: Node) -> None: ...
    def refuse(self, what: str, value: Node | None = None, instead: str = "") -> None: ...
    def on_host(self, call: Callable[..., Any], tensors: Sequence[Tensor], core: Sequence[int]) -> Any: ...


class Mapping(Protocol):
    """A function that `fp.vmap` records once for many examples, as random numbers see it."""

    size: int
    randomness: str  # 'error', 'same' or 'different'
    index: Node  # the number of the example, 0-d uint64


class _State(threading.local):
    """The handles' state: what is being captured or watched in this thread, and one number for the process.

    eager: what to do with each operation's node at its call (`fp.debug` sets it); None: nothing, it waits.
    gradient: what to do with each node and its complete gradient in a backward pass.
    autocast: what products compute in under `fp.autocast`; None where it is off.
    """

    trace: Trace | None = None
    transforms = 0  # how many functional transforms are running a function: jitted functions are part of it then
    mappings: tuple[Mapping, ...] = ()  # the outermost first
    eager: Callable[[Node], None] | None = None
    gradient: Callable[[Node, Node], None] | None = None
    autocast: DType | None = None

    @property
    def epoch(self) -> int:
        """Another number after every change of declared Python state."""
        return _epoch[0]

    def announce(self) -> None:
        """Tell that declared state changed: captured functions look at their conditions again."""
        _epoch[0] = next(_epochs)


_epochs = itertools.count(1)
_epoch = [0]
state = _State()


def depend_on(read: Callable[[], Hashable], what: str = "Python state", announced: bool = False) -> None:
    """Declare that the running code depends on what `read()` returns; a captured function is captured anew when
    that changes. Costs nothing outside a capture.

    Args:
        what: names it to a person who asks why a function was captured anew.
        announced: every change is told by `state_changed`, so that nobody need look before each call.
    """
    if state.trace is not None:
        state.trace.depend(read, what, announced)


def on_abandon(action: Callable[[], object]) -> None:
    """What to do if the running capture comes to nothing: undo what was made outside of tensors."""
    if state.trace is not None:
        state.trace.undo(action)


def depend_on_attributes(owner: object, read: Callable[[], dict[Any, Hashable]]) -> None:
    """Declare that the running code depends on attributes of `owner`: `read()` gives each one's value or identity
    (`Same`) by name. Their changes must be told by `state_changed`."""
    if state.trace is not None:
        state.trace.attributes(owner, read)


def effect(keys: Sequence[Hashable], redo: Callable[[], object], undo: Callable[[], object]) -> None:
    """Tell that the running code changed the declared states `keys`: a captured function repeats it by `redo` at
    each call; `undo` puts things back if the capture comes to nothing."""
    if state.trace is not None:
        state.trace.effect(keys, redo, undo)


def written_here(key: Hashable) -> bool:
    """Whether the function being captured itself changed this declared state, so that it depends on it no more."""
    return state.trace is not None and state.trace.wrote(key)


class Same:
    """An object by identity, as the value of a condition. Holding it keeps its identity from being used again."""

    __slots__ = ("object",)

    def __init__(self, object: object) -> None:
        self.object = object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.object is other.object

    def __hash__(self) -> int:
        return id(self.object)


def state_changed() -> None:
    """Tell that state declared by `depend_on` may have changed."""
    state.announce()


@contextmanager
def outside_trace() -> Iterator[None]:
    """Suspend a capture: what is made inside exists before the captured function starts, as lasting state."""
    trace, state.trace = state.trace, None
    try:
        yield
    finally:
        state.trace = trace
