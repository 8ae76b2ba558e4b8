"""Nodes: the graph that operations record and transforms rewrite.

A `Node` is one immutable application of a `Primitive` to other nodes. Nodes are hash-consed: recording the same
operation on the same inputs twice gives the same object, so common subexpressions cost nothing. A node may hold a
value (`buffer`); what has one is an input to whatever is compiled next.
"""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import ref

from firepot.graph.dtypes import DType
from firepot.graph.index import Index

if TYPE_CHECKING:
    from firepot.kernels.loops import Expr

Shape = tuple[int, ...]


class Primitive:
    """The contract of an operation; everything that Firepot knows of it stands in one class.

    name       what `FIREPOT_DEBUG` and error messages call it
    infer      shape and dtype of the result; the public operation has checked the inputs already
    vjp        gradient of the inputs given the gradient of the result, as nodes; None where there is none
    batch      the same on many examples at once: inputs and result with a leading dimension over them
    identity   whether the result is the first input, once derivatives have been taken
    parts      a result that is complex, or is made of complex inputs, out of real and imaginary parts

    and one of the ways to lower it, told by the subclass: Elementwise.scalar (an expression on one element), View.index
    (index arithmetic), Reduce (a fold over axes), Opaque.lower (a kernel of its own), Composite.expand (other nodes).
    """

    name: str = ""
    differentiable: bool = True
    identity: bool = False
    # Whether `vjp` is written as for real numbers. Of a function that is differentiable in the complex sense, it holds
    # for complex numbers between two conjugations.
    holomorphic: bool = False
    # Whether a complex result is the same operation on the real parts beside that on the imaginary parts.
    partwise: bool = False

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        raise NotImplementedError

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        raise NotImplementedError(f"{self.name} has no derivative")

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        """`node` computed for every example: the inputs marked in `batched` have a leading dimension of
        `batching.size`, as the result must have. At least one input has it."""
        raise NotImplementedError(f"{self.name} has no batching rule")

    def checks(self, node: Node) -> Sequence[tuple[Any, ...]]:
        """What the kernel checks of indices, each as the params of a check_index: a bad one ends the program."""
        return ()

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        """Whether `parts` is there for these params."""
        return self.partwise

    def parts(self, node: Node, inputs: Sequence[Node | Parts]) -> Node | Parts:
        """`node` over real numbers: the compiler knows no others.

        Args:
            inputs: in the place of complex inputs, their parts.
        """
        if not self.partwise:
            raise NotImplementedError(f"{self.name} is not defined for complex numbers")
        return Parts(*(self.part(node, inputs, which) for which in (0, 1)))

    def part(self, node: Node, inputs: Sequence[Node | Parts], which: int) -> Node:
        """The real (0) or imaginary (1) part of the result of an operation on parts."""
        return apply(self, tuple(i[which] if isinstance(i, Parts) else i for i in inputs), node.params)

    def __call__(self, *inputs: Node, params: tuple[Hashable, ...] = ()) -> Node:
        return apply(self, inputs, params)

    def __repr__(self) -> str:
        return self.name


class Parts(NamedTuple):
    """A complex value as two real ones."""

    real: Node
    imag: Node


class Elementwise(Primitive):
    """An operation on corresponding elements of inputs that all have the same shape."""

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, inputs[0].dtype

    def scalar(self, args: tuple[Expr, ...], node: Node) -> Expr:
        """The loop-level expression of one element."""
        raise NotImplementedError

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return apply(self, batching.spread(inputs, batched), node.params)


class View(Primitive):
    """A result whose every element is an element of the input, or a constant: nothing but index arithmetic.

    filling: which of the params is the constant, where there is one
    """

    partwise = True
    filling: int | None = None

    def index(self, index: tuple[Index, ...], node: Node) -> tuple[tuple[Index, ...], tuple[tuple[Index, int], ...]]:
        """(position in the input, conditions) for a position in the result.

        Where a condition (value, size) fails to satisfy 0 ≤ value < size, the element is `fill(node)`.
        """
        raise NotImplementedError

    def fill(self, node: Node) -> bool | int | float:
        value: bool | int | float = 0 if self.filling is None else node.params[self.filling]
        return value

    def part(self, node: Node, inputs: Sequence[Node | Parts], which: int) -> Node:
        params = list(node.params)
        if self.filling is not None:
            value = complex(params[self.filling])
            params[self.filling] = value.imag if which else value.real
        return apply(self, tuple(i[which] if isinstance(i, Parts) else i for i in inputs), tuple(params))


class Identity(View):
    """The input itself, marked for a transform. The compiler never sees it."""

    identity = True

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, inputs[0].dtype

    def index(self, index: tuple[Index, ...], node: Node) -> tuple[tuple[Index, ...], tuple[tuple[Index, int], ...]]:
        return index, ()

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return inputs[0]


class Batching(Protocol):
    """What a batching rule may ask: transforms.batch.Batch."""

    size: int

    def spread(self, inputs: Sequence[Node], batched: Sequence[bool]) -> tuple[Node, ...]:
        """All inputs with the leading dimension; those without are repeated."""
        ...


class Composite(Primitive):
    """An operation made of other primitives, kept as one node because its derivative is known in a better form.

    The compiler sees only what `expand` gives.
    """

    def expand(self, inputs: tuple[Node, ...], node: Node) -> Node:
        """The same value out of other primitives; `inputs` stand for the node's own."""
        raise NotImplementedError


class Opaque(Primitive):
    """An operation with a kernel generator of its own; `lower` asks the compiler's context for it.

    dense: it reads its operands only where the elements of the last dimension lie one after another
    """

    dense = False

    def lower(self, context: Any, node: Node) -> None:
        raise NotImplementedError


_sequence = itertools.count()


# Constants that live on though nobody holds them, for the next operation that takes one: by names that say what they
# are, and those names. One that gets a value leaves, as do all together when they are many.
_kept: dict[Hashable, Node] = {}
_kept_as: dict[Node, list[Hashable]] = {}
_KEPT_AT_MOST = 1024
find_kept = _kept.get


def keep(node: Node, name: Hashable) -> Node:
    """Keep a node, which has no inputs but constants, to be found by `find_kept(name)`."""
    if len(_kept) >= _KEPT_AT_MOST:
        _kept.clear()
        _kept_as.clear()
    if node.buffer is None:
        _kept[name] = node
        _kept_as.setdefault(node, []).append(name)
    return node


class _Entry(ref["Node"]):
    """A weak reference in the table of nodes, with its key. (WeakValueDictionary does the same more slowly.)"""

    __slots__ = ("key",)
    key: tuple[Any, ...]


_interned: dict[tuple[Any, ...], _Entry] = {}


def _discard(entry: _Entry) -> None:
    """The node of this entry has died."""
    found = _interned.pop(entry.key, None)
    if found is not None and found is not entry:  # the same was recorded again since
        _interned.setdefault(entry.key, found)


class Node:
    """One application of a primitive. Compare by identity.

    requires_grad is part of what a node is, as in PyTorch: an operation recorded under no_grad is another node
    than the same operation recorded outside. `sequence` grows with every node, so inputs come before users.
    """

    __slots__ = (
        "__weakref__", "buffer", "dtype", "inputs", "owner", "params", "primitive", "requires_grad", "sequence",
        "shape", "spent",
    )  # fmt: skip

    primitive: Primitive
    inputs: tuple[Node, ...]
    params: tuple[Any, ...]
    shape: Shape
    dtype: DType
    requires_grad: bool
    buffer: Any  # runtime.buffer.Buffer once the value is computed
    owner: Any  # weak reference to the Tensor of a leaf that collects gradients
    spent: bool  # backward() went through without retain_graph

    def __init__(
        self, primitive: Primitive, inputs: tuple[Node, ...], params: tuple[Any, ...], shape: Shape, dtype: DType,
        requires_grad: bool = False,
    ) -> None:  # fmt: skip
        self.primitive = primitive
        self.inputs = inputs
        self.params = params
        self.shape = shape
        self.dtype = dtype
        self.requires_grad = requires_grad
        self.buffer = None
        self.owner = None
        self.spent = False
        self.sequence = next(_sequence)

    @property
    def size(self) -> int:
        total = 1
        for s in self.shape:
            total *= s
        return total

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def realise(self, buffer: Any) -> None:
        """Attach the value. History that no derivative can ask for is let go."""
        self.buffer = buffer
        for name in _kept_as.pop(self, ()):
            _kept.pop(name, None)
        if self.inputs and (not self.requires_grad or self.spent or self.primitive is variable):
            for flag in (False, True):  # the table's key would keep the inputs alive
                _interned.pop((self.primitive, self.inputs, self.params, flag), None)
            self.inputs = ()

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        return f"{self.primitive.name}: {self.dtype.name}[{shape}]"


class _GradMode(threading.local):
    """Whether operations of this thread record that their results require gradients (torch.no_grad and enable_grad
    set it)."""

    enabled = True


grad_mode = _GradMode()


def sequence_number() -> int:
    """A number between those of the nodes made before and after."""
    return next(_sequence)


def apply(primitive: Primitive, inputs: tuple[Node, ...], params: tuple[Hashable, ...] = ()) -> Node:
    """The node of `primitive` on `inputs`: an existing one where the same was recorded before."""
    requires_grad = False
    if grad_mode.enabled and primitive.differentiable:
        for i in inputs:
            if i.requires_grad:
                requires_grad = True
                break
    key = (primitive, inputs, params, requires_grad)
    entry = _interned.get(key)
    found = entry() if entry is not None else None
    if found is not None and (found.inputs or not inputs or not requires_grad):
        return found
    shape, dtype = primitive.infer(inputs, params)
    for i in inputs:
        if i.dtype.kind == "c" and not primitive.takes_complex(params):
            raise RuntimeError(f"{primitive.name}: not defined for complex numbers, got {i.dtype.name}{list(i.shape)}")
    node = Node(primitive, inputs, params, shape, dtype, requires_grad and dtype.kind in "fc")
    entry = _Entry(node, _discard)
    entry.key = key
    _interned[key] = entry
    return node


class _Data(Primitive):
    """A value that exists: the leaf of every graph. Never interned."""

    name = "data"
    differentiable = False

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        raise TypeError("data nodes are made by graph.node.data")


class _Variable(Identity):
    """The identity that marks a leaf of differentiation: gradients collect here and go no further."""

    name = "variable"


class _Detach(Identity):
    """The identity through which no gradient flows."""

    name = "detach"
    differentiable = False

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return detach(inputs[0])


class _Mark(Identity):
    """The identity that a functional transform differentiates by: gradients are collected here and also go on, to
    what an outer transform differentiates by. Never interned, so that two transforms never share one."""

    name = "mark"

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        return (g,)

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return mark(inputs[0], node.requires_grad)


class _Barrier(View):
    """The first input once more, computed anew after the second: what is computed from it meets nothing that was
    computed before. The second input only has to exist first."""

    name = "barrier"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, inputs[0].dtype

    def vjp(self, g: Node, node: Node) -> Sequence[Node | None]:
        return (g, None)

    def index(self, index: tuple[Index, ...], node: Node) -> tuple[tuple[Index, ...], tuple[tuple[Index, int], ...]]:
        return index, ()

    def batch(self, node: Node, inputs: tuple[Node, ...], batched: tuple[bool, ...], batching: Batching) -> Node:
        return barrier(batching.spread(inputs[:1], batched[:1])[0], inputs[1])


class _Severed(Primitive):
    """A value that depends on leaves of differentiation in a way that is no longer known."""

    name = "severed"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        raise TypeError("severed nodes are made by graph.node.severed")


data_primitive = _Data()
severed_primitive = _Severed()
variable = _Variable()
detach_primitive = _Detach()
mark_primitive = _Mark()
barrier_primitive = _Barrier()


def data(shape: Shape, dtype: DType, buffer: Any = None) -> Node:
    """A leaf with a value; without one, a placeholder that the compiler binds (a traced argument)."""
    node = Node(data_primitive, (), (), shape, dtype)
    node.buffer = buffer
    return node


def severed(shape: Shape, dtype: DType, buffer: Any) -> Node:
    """A value (a placeholder, without buffer) that requires grad but cannot be differentiated: derivatives are refused, not silently missing."""
    node = Node(severed_primitive, (), (), shape, dtype, True)
    node.buffer = buffer
    return node


def leaf(value: Node) -> Node:
    """A new leaf of differentiation with the value of another node."""
    node = Node(variable, (value,), (), value.shape, value.dtype, True)
    if value.buffer is not None:
        node.realise(value.buffer)
    return node


def example(like: Node, shape: Shape) -> Node:
    """A placeholder for one example of `like`, of the shape given, in a function that vmap runs once for all."""
    return Node(data_primitive, (), (), shape, like.dtype, like.requires_grad)


def mark(value: Node, requires_grad: bool = True) -> Node:
    """A new node with the value of another: a place to differentiate by, or where a recomputed part begins."""
    node = Node(mark_primitive, (value,), (), value.shape, value.dtype, requires_grad)
    node.buffer = value.buffer
    return node


def barrier(value: Node, after: Node) -> Node:
    """`value`, not to be identified with what was computed before `after`."""
    return apply(barrier_primitive, (value, after))


def viewed(node: Node) -> Node | None:
    """The one node that a view shows; None where there is none, or several."""
    if not isinstance(node.primitive, View) or not node.inputs:
        return None
    return node.inputs[0] if len(node.inputs) == 1 or node.primitive is barrier_primitive else None


def detach(value: Node) -> Node:
    """The same value, out of reach of derivatives."""
    if not value.requires_grad:
        return value
    node = apply(detach_primitive, (value,))
    if value.buffer is not None and node.buffer is None:
        node.realise(value.buffer)
    return node


def unchanged(value: Node) -> Node:
    """The input of an operation that changes nothing, as its result: under no_grad without history."""
    return value if grad_mode.enabled or not value.requires_grad else detach(value)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Without Python's collector of cyclic garbage: while a graph is made, it would walk thousands of nodes that live,
    over and over."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def checks_an_index(roots: Iterable[Node], known: Container[Node]) -> bool:
    """Whether computing the roots may find an index out of range. `known`: nodes whose values are there already, but
    for the roots themselves."""
    waiting = list(roots)
    seen: set[Node] = set()
    wanted = set(waiting)
    while waiting:
        node = waiting.pop()
        if node in seen or (node in known and node not in wanted):
            continue
        seen.add(node)
        if node.primitive.checks(node):
            return True
        waiting.extend(node.inputs)
    return False


def topological(outputs: Iterable[Node], stop: Callable[[Node], bool]) -> list[Node]:
    """Every node that the outputs need, inputs first; where `stop` holds, a node's inputs are not entered."""
    order: list[Node] = []
    seen: set[Node] = set()
    for output in outputs:
        if output in seen:
            continue
        stack: list[tuple[Node, bool]] = [(output, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
                continue
            if node in seen:
                continue
            seen.add(node)
            stack.append((node, True))
            if not stop(node):
                stack.extend((i, False) for i in node.inputs if i not in seen)
    return order
