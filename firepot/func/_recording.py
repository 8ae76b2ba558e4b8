"""What functional transforms that run a function on stand-ins have in common: they watch which tensors it touches and
pass on to the transform or capture around them what it tells."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

from firepot.graph.node import Node
from firepot.tracing import Trace

if TYPE_CHECKING:
    from firepot.tensor import Tensor


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
