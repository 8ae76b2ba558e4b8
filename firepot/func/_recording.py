"""What functional transforms that run a function on stand-ins have in common: they watch which tensors it touches and
pass on to the transform or capture around them what it tells."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

from firepot.graph.node import Node, mark
from firepot.jit import TraceError
from firepot.tensor import Tensor, caller_site
from firepot.tracing import Trace, state


@dataclass
class Touched:
    tensor: Tensor
    before: Node


class Recording:
    """A Trace inside another one, its parent, or inside none.

    touched: tensors from outside that were read, with what they were
    grads:   tensors from outside whose .grad was written, with what it was
    """

    def __init__(self, parent: Trace | None) -> None:
        self.parent = parent
        self.touched: dict[int, Touched] = {}
        self.grads: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._own: set[int] = set()
        self._handles: list[ref[Tensor]] = []

    @property
    def lasting(self) -> bool:
        return False

    def read(self, tensor: Tensor) -> None:
        if self.parent is not None:
            self.parent.read(tensor)
        if id(tensor) not in self._own and id(tensor) not in self.touched:
            self.touched[id(tensor)] = Touched(tensor, tensor._value)

    def created(self, tensor: Tensor) -> None:
        if self.parent is not None:
            self.parent.created(tensor)
        number = id(tensor)
        self._own.add(number)
        self._handles.append(ref(tensor, lambda _: self._own.discard(number)))

    def depend(self, read: Callable[[], Hashable], what: str, announced: bool) -> None:
        if self.parent is not None:
            self.parent.depend(read, what, announced)

    def undo(self, action: Callable[[], object]) -> None:
        if self.parent is not None:
            self.parent.undo(action)

    def effect(self, keys: Sequence[Hashable], redo: Callable[[], object], undo: Callable[[], object]) -> None:
        if self.parent is not None:
            self.parent.effect(keys, redo, undo)

    def wrote(self, key: Hashable) -> bool:
        return self.parent is not None and self.parent.wrote(key)

    def attributes(self, owner: object, read: Callable[[], dict[Hashable, Hashable]]) -> None:
        if self.parent is not None:
            self.parent.attributes(owner, read)

    def differentiating(self, node: Node) -> None:
        if self.parent is not None:
            self.parent.differentiating(node)

    def grad_read(self, tensor: Tensor) -> None:
        if self.parent is not None:
            self.parent.grad_read(tensor)

    def grad_written(self, tensor: Tensor) -> None:
        if self.parent is not None:
            self.parent.grad_written(tensor)
        if id(tensor) not in self._own:
            self.grads.setdefault(id(tensor), (tensor, tensor._grad))

    def on_host(self, call: Callable[..., Any], tensors: Sequence[Tensor], core: Sequence[int]) -> Any:
        """Nothing: there are no values yet."""

    def refuse(self, what: str, value: Node | None = None, instead: str = "") -> None:
        raise NotImplementedError


class NotRecordable(Exception):
    """The function does what has no meaning before its values exist."""


class Step(Recording):
    """What the tensor module tells while the function runs on stand-ins."""

    def __init__(self, name: str) -> None:
        super().__init__(state.trace)
        self.name = name
        self.stand_ins: dict[int, Node] = {}

    def read(self, tensor: Tensor) -> None:
        known = id(tensor) in self._own or id(tensor) in self.touched
        super().read(tensor)
        if not known and tensor._value.owner is None:
            # A node of its own, so that what is made of this tensor is told from what is made of equal values.
            before = tensor._value
            tensor._value = self.stand_ins[id(tensor)] = mark(before, before.requires_grad)

    def record(self, call: Callable[[], Any]) -> tuple[Any, list[tuple[Touched, Node]]]:
        """(what the function returns, the tensors from outside that it changed, with their new values).

        All tensors are as before afterwards.

        Raises: NotRecordable where it collects gradients; with no trace around it, where it looks at values.
        """
        state.trace = self
        try:
            result = call()
            changed = [
                (t, t.tensor._value)
                for number, t in self.touched.items()
                if t.tensor._value is not self.stand_ins.get(number, t.before)
            ]
            if self.grads:
                raise NotRecordable
            return result, changed
        finally:
            for t in self.touched.values():
                t.tensor._value = t.before
            for tensor, grad in self.grads.values():
                tensor._grad = grad
            state.trace = self.parent

    def refuse(self, what: str, value: Node | None = None, instead: str = "") -> None:
        if self.parent is None:
            raise NotRecordable
        instead = instead or "Use fp.where or fp.cond for a choice, keep the number as a tensor"
        raise TraceError(
            f"{what} at {caller_site()}: inside {self.name} a tensor has no value yet. {instead}, or do this outside"
        )
