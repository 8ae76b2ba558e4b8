"""Tensor: the handle that people hold, rebind and print.

A Tensor points to a Node. Operations make new nodes and new handles; in-place operations point the same handle to
a new node, so there is no aliasing between tensors: a view never sees a later change of what it was taken from.
Values are computed when somebody looks.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node, data, detach, grad_mode, leaf, topological
from firepot.graph.primitives import elementwise as ew
from firepot.printing import text
from firepot.runtime import dlpack
from firepot.runtime.buffer import Buffer
from firepot.tracing import state, state_changed
from firepot.transforms.differentiate import gradients

__all__ = ["Device", "Tensor", "backward", "device", "eval"]

_PACKAGE = str(Path(__file__).parent)
_MAXIMAL_DEPTH = 20_000  # pending operations one behind the other before they are computed unasked


# Nodes without a value that a living Tensor stands for, each with the number of such tensors.
_pending: dict[Node, int] = {}
# What tensors stood for before they were changed in place, and which gradients they had, since that last had values: to
# go back to where the new values turn out not to exist (an index was out of range).
_rebound: dict[int, tuple[ref[Tensor], Node]] = {}
_regraded: dict[int, tuple[ref[Tensor], Tensor | None]] = {}
_hooks: WeakKeyDictionary[Node, list[Callable[[Tensor], Tensor | None]]] = WeakKeyDictionary()


class Device:
    """Where a tensor's memory is. Firepot computes on the CPU so far."""

    def __init__(self, type: str | Device = "cpu", index: int | None = None) -> None:
        name = type.type if isinstance(type, Device) else str(type)
        kind, _, number = name.partition(":")
        self.type: str = kind
        if self.type != "cpu":
            raise RuntimeError(f"device: this build of Firepot computes on 'cpu' only, not on '{name}'")
        self.index = int(number) if number else index

    def __repr__(self) -> str:
        return f"device(type='{self.type}')"

    def __str__(self) -> str:
        return self.type

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return other.partition(":")[0] == self.type
        return isinstance(other, Device) and other.type == self.type

    def __hash__(self) -> int:
        return hash(self.type)


device = Device
CPU = Device("cpu")


def caller_site() -> str:
    """'file:line' of the innermost frame outside Firepot: the user's own line."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class Tensor:
    """A multi-dimensional array of one dtype, and its place in the graph.

    Made by `fp.tensor`, `fp.zeros` and their like, not by this constructor. Methods and operators are PyTorch's.

    >>> x = fp.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """

    __slots__ = ("__dict__", "__weakref__", "_grad", "_value")
    __array_priority__ = 1000
    __hash__ = object.__hash__

    _value: Node
    _grad: Tensor | None

    if TYPE_CHECKING:
        # What firepot.ops.methods attaches, as the type checker needs to know it.
        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        def __contains__(self, value: Any) -> bool: ...
        def __neg__(self) -> Tensor: ...
        def __pos__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __eq__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __rfloordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __rmod__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __rand__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __ror__(self, other: Any) -> Tensor: ...
        def __xor__(self, other: Any) -> Tensor: ...
        def __rxor__(self, other: Any) -> Tensor: ...
        def __lshift__(self, other: Any) -> Tensor: ...
        def __rlshift__(self, other: Any) -> Tensor: ...
        def __rshift__(self, other: Any) -> Tensor: ...
        def __rrshift__(self, other: Any) -> Tensor: ...
        def __iadd__(self, other: Any) -> Tensor: ...
        def __isub__(self, other: Any) -> Tensor: ...
        def __imul__(self, other: Any) -> Tensor: ...
        def __itruediv__(self, other: Any) -> Tensor: ...
        def __ipow__(self, other: Any) -> Tensor: ...
        def __iand__(self, other: Any) -> Tensor: ...
        def __ior__(self, other: Any) -> Tensor: ...
        def __ixor__(self, other: Any) -> Tensor: ...

    def __init__(self, node: Node) -> None:
        self._grad = None
        self._value = node
        trace = state.trace
        if trace is not None:
            trace.created(self)
            if not trace.lasting:
                return
        if node.buffer is None:
            _pending[node] = _pending.get(node, 0) + 1
            if trace is None and state.eager is not None:
                state.eager(node)

    def __del__(self) -> None:
        value = getattr(self, "_value", None)
        if value is not None and value.buffer is None and forget is not None:  # it may be gone at interpreter exit
            forget(value)

    def _point(self, node: Node) -> None:
        """Stand for another node."""
        old = self._value
        if old is node:
            return
        self._value = node
        if node.buffer is None and (state.trace is None or state.trace.lasting):
            _pending[node] = _pending.get(node, 0) + 1
            if old.buffer is not None or id(self) not in _rebound:
                _rebound[id(self)] = (ref(self), old)
        if old.buffer is None:
            forget(old)
        if old.requires_grad != node.requires_grad or old.dtype is not node.dtype or old.shape != node.shape:
            state.announce()

    @property
    def _node(self) -> Node:
        if state.trace is not None:
            state.trace.read(self)
        return self._value

    def _rebind(self, node: Node) -> Tensor:
        """Change the value in place: stand for `node`, of the same shape and dtype, from now on."""
        own = self._node
        if node.shape != own.shape or node.dtype is not own.dtype:
            raise RuntimeError(
                f"in-place operation: the result {node.dtype.name}{list(node.shape)} cannot be stored in a tensor "
                f"of {own.dtype.name}{list(own.shape)}; use the out-of-place form"
            )
        if own.requires_grad and self.is_leaf:
            if grad_mode.enabled:
                raise RuntimeError(
                    "a leaf Variable that requires grad is being used in an in-place operation; "
                    "do it under fp.no_grad()"
                )
            node = leaf(detach(node))
            node.owner = ref(self)
        self._point(node)
        if state.eager is not None and state.trace is None and node.buffer is None:
            state.eager(node)
        return self

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self._value.shape

    @property
    def dtype(self) -> DType:
        return self._value.dtype

    @property
    def device(self) -> Device:
        return CPU

    @property
    def ndim(self) -> int:
        return len(self._value.shape)

    @property
    def requires_grad(self) -> bool:
        return self._value.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        value = self._value
        return not value.requires_grad or (value.owner is not None and value.owner() is self)

    @property
    def grad(self) -> Tensor | None:
        """The gradient collected by backward(), or None."""
        if state.trace is not None:
            state.trace.grad_read(self)
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and (value.shape != self.shape or value.dtype is not self.dtype):
            raise RuntimeError(
                f"assigned grad has {value.dtype.name}{list(value.shape)}, the tensor is "
                f"{self.dtype.name}{list(self.shape)}"
            )
        if state.trace is not None:
            state.trace.grad_written(self)
        elif value is not None and value._value.buffer is None:
            _regraded.setdefault(id(self), (ref(self), self._grad))
        before = self._grad
        if (value is None) != (before is None) or (
            value is not None and before is not None and value.requires_grad != before.requires_grad
        ):
            state.announce()
        self._grad = value

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Make this a leaf that collects gradients (or an ordinary tensor again). Floating point only."""
        value = self._node
        if requires_grad == value.requires_grad:
            return self
        if not requires_grad:
            if not self.is_leaf:
                raise RuntimeError("you can only change requires_grad flags of leaf variables; use detach()")
            self._point(detach(value))
            return self
        if not value.dtype.is_inexact:
            raise RuntimeError(
                f"only Tensors of floating point and complex dtype can require gradients, not {value.dtype.name}"
            )
        node = leaf(value)
        node.owner = ref(self)
        self._point(node)
        return self

    def detach(self) -> Tensor:
        """The same value without history."""
        return wrap(detach(self._node))

    # -- looking at values -------------------------------------------------------------------------------------------

    def _realised(self, what: str, instead: str = "") -> Buffer:
        if state.trace is not None:
            state.trace.refuse(what, self._value, instead)
        value = self._value
        if value.buffer is None:
            compute([value])
        buffer: Buffer = value.buffer
        return buffer

    def _array(self, what: str, instead: str = "") -> np.ndarray[Any, Any]:
        """A read-only NumPy view of the value (bfloat16 as its bits). Where values do not exist yet, the error names
        `what` is asked for and what to do `instead`."""
        buffer = self._realised(what, instead)
        return buffer.view(self.dtype.numpy, self.shape)

    def numpy(self, *, force: bool = False) -> np.ndarray[Any, Any]:
        """A NumPy copy of the value. bfloat16, which NumPy lacks, comes as float32."""
        if self._value.requires_grad and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return _to_numpy(self, "numpy()")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """The value for NumPy's functions, always a copy. Raises ValueError for copy=False."""
        if copy is False:
            raise ValueError("__array__: an array of a tensor is always a copy; leave copy=False out")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def item(self) -> Any:
        """The value of a tensor of one element, as a Python number."""
        if self._value.size != 1:
            raise RuntimeError(
                f"a Tensor with {self._value.size} elements cannot be converted to Scalar; "
                f"its shape is {list(self.shape)}"
            )
        return _to_numpy(self, "item()").reshape(()).item()

    def tolist(self) -> Any:
        return _to_numpy(self, "tolist()").tolist()

    def __bool__(self) -> bool:
        if self._value.size != 1:
            raise RuntimeError(
                "Boolean value of Tensor with more than one value is ambiguous; use .any() or .all()"
                if self._value.size
                else "Boolean value of Tensor with no values is ambiguous"
            )
        return bool(_to_numpy(self, "bool()").reshape(()).item())

    def __int__(self) -> int:
        return int(self._real_number("int"))

    def __float__(self) -> float:
        return float(self._real_number("float"))

    def __complex__(self) -> complex:
        return complex(self.item())

    def _real_number(self, kind: str) -> Any:
        value = self.item()
        if isinstance(value, complex):
            if value.imag:
                raise RuntimeError(f"value cannot be converted to type {kind} without overflow: its imaginary part is {value.imag}")
            return value.real
        return value

    def __index__(self) -> int:
        if self.dtype.is_inexact or self._value.size != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __repr__(self) -> str:
        if state.trace is not None:
            return f"Tensor({self.dtype.name}{list(self.shape)}, traced)"
        return text(self, _to_numpy(self, "print"), default_dtype())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and self._value.size == 1 else str(self)

    # -- exchange ----------------------------------------------------------------------------------------------------

    def __dlpack__(
        self, *, stream: Any = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None, copy: bool | None = None,
    ) -> Any:  # fmt: skip
        """The value as a DLPack capsule (a copy: a Tensor's memory is never written by others).

        Args:
            stream: none: the CPU has no streams.
            max_version: the newest version of capsules that the consumer reads; none for those before versions.
            dl_device: the CPU, (1, 0), or none.
            copy: False raises BufferError.
        """
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        if copy is False:
            raise BufferError("__dlpack__: what a tensor exports is always a copy; leave copy=False out")
        array = np.array(self._array("__dlpack__"))
        return dlpack.export(array, self.dtype.name, stream=stream, max_version=max_version, dl_device=dl_device)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The module of functions that the Python array API standard asks for: `firepot.array_api`.

        Raises ValueError for a revision of the standard that it does not follow.
        """
        if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
            raise ValueError(f"__array_namespace__: there is no {api_version!r} here; it follows 2024.12")
        # By name: the namespace stands above the operators, which stand above this module.
        return importlib.import_module("firepot.array_api")

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """This tensor on a device, which is the CPU. Raises RuntimeError for others."""
        if stream is not None:
            raise ValueError("to_device: the CPU has no streams")
        Device(device)
        return self

    # -- differentiation ---------------------------------------------------------------------------------------------

    def backward(
        self, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False,
        inputs: Sequence[Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Add the gradients of this tensor to `.grad` of the leaves it depends on.

        Args:
            gradient: what to weight the elements with, of this shape; may be left out for one element.
            retain_graph: keep the history for another backward() (default: as create_graph).
            create_graph: make the gradients differentiable.
            inputs: collect in these tensors only.
        """
        backward([self], None if gradient is None else [gradient], retain_graph, create_graph, inputs)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> _HookHandle:
        """Call `hook(gradient)` when this tensor's gradient is complete; what it returns replaces it."""
        node = self._node
        if not node.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        key = ref(self) if self.is_leaf else None
        if key is not None:
            self.__dict__.setdefault("_leaf_hooks", []).append(hook)
            state.announce()
            return _HookHandle(self.__dict__["_leaf_hooks"], hook)
        _hooks.setdefault(node, []).append(hook)
        return _HookHandle(_hooks[node], hook)

    def retain_grad(self) -> None:
        """Have backward() store this intermediate result's gradient in `.grad` too."""
        if self.is_leaf:
            return
        handle = ref(self)

        def keep(gradient: Tensor) -> None:
            tensor = handle()
            if tensor is not None:
                tensor.grad = gradient.detach()

        self.register_hook(keep)

    # Copies share the value: nodes are immutable.

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user support the deepcopy protocol; detach() first"
            )
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        Tensor.__init__(copy, detach(self._node))
        if self.requires_grad:
            Tensor.requires_grad_(copy)
        if self._grad is not None:
            copy._grad = self._grad.__deepcopy__(memo)
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        array = np.array(self.detach()._array("pickle"))
        return _unpickle, (type(self), array, self.dtype.name, self.shape, self.requires_grad)


def _unpickle(kind: type[Tensor], array: Any, dtype: str, shape: tuple[int, ...], requires_grad: bool) -> Tensor:
    node = data(shape, dtypes.by_name(dtype), Buffer.from_numpy(array))
    tensor = kind.__new__(kind)
    Tensor.__init__(tensor, node)
    return tensor.requires_grad_(requires_grad) if requires_grad else tensor


class _HookHandle:
    """Returned by register_hook; `remove()` takes the hook off again."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)
            state.announce()


def forget(node: Node) -> None:
    count = _pending.get(node, 0)
    if count <= 1:
        _pending.pop(node, None)
    else:
        _pending[node] = count - 1


def wrap(node: Node) -> Tensor:
    """A new handle on a node."""
    return Tensor(node)


def node_of(value: Any, dtype: DType | None = None) -> Node:
    """The node of a tensor, number, array or nested list; Python numbers get PyTorch's default dtypes."""
    if isinstance(value, Tensor):
        node = value._node
        return node if dtype is None else ew.cast(node, dtype)
    if isinstance(value, (bool, int, float, complex)):
        if dtype is None:
            dtype = dtypes.bool_ if isinstance(value, bool) else dtypes.int64 if isinstance(value, int) else None
            dtype = default_dtype().to_complex() if isinstance(value, complex) else dtype
        return ew.constant(value, dtype or default_dtype())
    if hasattr(value, "as_tensor"):  # a symbolic position
        return node_of(value.as_tensor(), dtype)
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        value = [v.detach().numpy() if isinstance(v, Tensor) else v for v in value]
    array = np.asarray(value)
    if array.dtype == object:
        raise TypeError(f"a tensor cannot be made of {type(value).__name__} with ragged or non-numeric elements")
    if dtype is None:
        dtype = dtypes.from_numpy(array.dtype)
        if dtype in (dtypes.float64, dtypes.complex128) and not _holds_double(value):
            dtype = default_dtype().to_complex() if dtype.is_complex else default_dtype()
    if array.dtype.kind == "c" and not dtype.is_complex:
        if np.any(array.imag):
            raise RuntimeError(f"a tensor of {dtype.name} cannot hold complex values; take their .real")
        array = array.real
    if dtype is dtypes.bfloat16:
        node = data(array.shape, dtypes.float32, Buffer.from_numpy(array.astype(np.float32)))
        return ew.cast(node, dtype)
    return data(array.shape, dtype, Buffer.from_numpy(array.astype(dtype.numpy)))


def _holds_double(value: Any) -> bool:
    """Whether among nested numbers are NumPy's of double precision, which keep it; those of Python have none of their own."""
    if isinstance(value, (list, tuple)):
        if set(map(type, value)) <= {bool, int, float, complex}:
            return False
        return any(map(_holds_double, value))
    return type(value) not in (bool, int, float, complex) and np.asarray(value).dtype in (np.float64, np.complex128)


class _Default:
    dtype = dtypes.float32


def default_dtype() -> DType:
    """The dtype that Python floats get."""
    return _Default.dtype


def set_default_dtype(dtype: DType) -> None:
    """Set the dtype that Python floats get; floating dtypes only (TypeError else)."""
    if not dtype.is_floating_point:
        raise TypeError(f"set_default_dtype: only floating-point dtypes are supported, not {dtype.name}")
    _Default.dtype = dtype
    state_changed()


def _to_numpy(tensor: Tensor, what: str) -> np.ndarray[Any, Any]:
    buffer = tensor._realised(what)
    value = tensor._value
    array = buffer.to_numpy(value.dtype.numpy, value.shape)
    if value.dtype is dtypes.bfloat16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


# -- computing -------------------------------------------------------------------------------------------------------


def compute(nodes: Iterable[Node], also: Iterable[Node] = ()) -> None:
    """Give every node its value, in one program; `also` further ones, in another if they have nothing to do with them."""
    from firepot.compiler.driver import evaluate

    wanted, further = ([n for n in given if n.buffer is None] for given in (nodes, also))
    if wanted or further:
        try:
            evaluate(wanted, further)
        except ew.BadIndex as error:
            _take_back(error.check)
            raise IndexError(*error.args) from None
        finally:
            for n in (*wanted, *further):
                if n.buffer is not None:
                    _pending.pop(n, None)
        if _rebound:
            _settle(_rebound, lambda tensor: tensor._value)
        if _regraded:
            _settle(_regraded, lambda tensor: None if tensor._grad is None else tensor._grad._value)


def _settle(earlier: dict[int, Any], value: Callable[[Tensor], Node | None]) -> None:
    """Forget what tensors were before, where they now have values."""
    for number, (handle, _) in list(earlier.items()):
        tensor = handle()
        node = None if tensor is None else value(tensor)
        if node is None or node.buffer is not None:
            earlier.pop(number, None)


def _take_back(check: tuple[Any, ...]) -> None:
    """After a bad index: undo what was changed in place with values that depend on it, and wait for them no more."""
    bad: set[Node] = set()
    waiting = list(_pending)
    waiting += [t._value for handle, _ in _rebound.values() if (t := handle()) is not None]
    for node in topological(waiting, ew.is_leaf):
        if check in node.primitive.checks(node) or any(i in bad for i in node.inputs):
            bad.add(node)
    for number, (handle, before) in list(_rebound.items()):
        tensor = handle()
        if tensor is not None and tensor._value in bad:
            tensor._value = before
            del _rebound[number]
    for number, (handle, grad) in list(_regraded.items()):
        tensor = handle()
        if tensor is not None and tensor._grad is not None and tensor._grad._value in bad:
            tensor._grad = grad
            del _regraded[number]
    for node in bad:
        _pending.pop(node, None)
    state.announce()


def eval(*tensors: Any) -> None:
    """Compute tensors (or lists, tuples and dicts of them) now, all in one program.

    TraceError inside fp.jit; IndexError where an index that they depend on is out of range.

    >>> y = fp.exp(fp.zeros(3))
    >>> fp.eval(y)
    """
    if state.trace is not None:
        state.trace.refuse("fp.eval")
    compute([t._value for t in _flatten(tensors)])


def _flatten(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _flatten(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _flatten(v)


def commit(tensors: Iterable[Tensor]) -> None:
    """End a step: compute these tensors and every other live pending one.

    What is left pending would hold on to the old parameters and be computed again later. Does nothing while jit
    captures the step.
    """
    if state.trace is not None:
        return
    changed = [t._value for handle, _ in _rebound.values() if (t := handle()) is not None]
    nodes = dict.fromkeys([*(t._value for t in tensors), *changed])
    compute(nodes, [n for n in _pending if n not in nodes])


# -- gradients -------------------------------------------------------------------------------------------------------


def backward(
    tensors: Sequence[Tensor], grad_tensors: Sequence[Tensor | None] | None = None, retain_graph: bool | None = None,
    create_graph: bool = False, inputs: Sequence[Tensor] | None = None,
) -> None:  # fmt: skip
    """torch.autograd.backward: add the gradients of Σ tensors · grad_tensors to the leaves' `.grad`."""
    found = _gradients("backward", tensors, grad_tensors, create_graph, inputs)
    for node, g in found.items():
        owner = node.owner() if node.owner is not None else None
        if owner is None and inputs is not None:
            owner = next((t for t in inputs if t._value is node), None)
        if owner is None:
            continue
        known = owner.grad
        if known is None:
            owner.grad = wrap(g)
        else:
            known._point(ew.add(known._node, g) if create_graph else detach(ew.add(detach(known._node), g)))
    if not (create_graph if retain_graph is None else retain_graph):
        for t in tensors:
            _spend(t._value)


def _spend(node: Node) -> None:
    """Let the history go once the value is known, as torch does after backward() without retain_graph."""
    node.spent = True
    if node.buffer is not None:
        node.realise(node.buffer)


def grad(
    outputs: Tensor | Sequence[Tensor], inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None, retain_graph: bool | None = None,
    create_graph: bool = False, allow_unused: bool | None = None, materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """torch.autograd.grad: gradients of Σ outputs · grad_outputs with respect to `inputs`, as a tuple.

    Raises: RuntimeError where an input is not used, unless allow_unused (None then) or materialize_grads (zeros).
    """
    outs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    ins = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    weights = [grad_outputs] if isinstance(grad_outputs, Tensor) else grad_outputs
    for i in ins:
        if not i.requires_grad:
            raise RuntimeError("grad: one of the input tensors does not require grad")
    found = _gradients("grad", outs, weights, create_graph, ins)
    result: list[Tensor | None] = []
    for i in ins:
        g = found.get(i._node)
        if g is None and materialize_grads:
            g = ew.like(i._node, 0)
        if g is None and not allow_unused:
            raise RuntimeError(
                "grad: one of the differentiated Tensors appears to not have been used in the graph; "
                "set allow_unused=True if this is the desired behavior"
            )
        result.append(None if g is None else wrap(g))
    return tuple(result)


def _gradients(
    what: str, tensors: Sequence[Tensor], weights: Sequence[Tensor | None] | None, create_graph: bool,
    inputs: Sequence[Tensor] | None,
) -> dict[Node, Node]:  # fmt: skip
    cotangents: dict[Node, Node] = {}
    weights = weights or [None] * len(tensors)
    for t, w in zip(tensors, weights, strict=True):
        node = t._node
        if not node.requires_grad:
            raise RuntimeError(
                f"{what}: the tensor does not require grad and does not have a grad_fn; no input of it was made with "
                "requires_grad=True, or it was computed under no_grad"
            )
        if w is None:
            if node.size != 1:
                raise RuntimeError(
                    f"{what}: grad can be implicitly created only for scalar outputs, not for shape {list(node.shape)}; "
                    "give gradient= or reduce with .sum() or .mean()"
                )
            if node.dtype.is_complex:
                raise RuntimeError(
                    f"{what}: grad can be implicitly created only for real scalar outputs, not for {node.dtype.name}; "
                    "give gradient= or take .abs() or .real"
                )
            g = ew.like(node, 1)
        else:
            g = w._node
            if g.shape != node.shape:
                raise RuntimeError(f"{what}: gradient has shape {list(g.shape)}, the tensor {list(node.shape)}")
        cotangents[node] = ew.add(cotangents[node], g) if node in cotangents else g
    wrt = None if inputs is None else [i._node for i in inputs]
    found = gradients(cotangents, wrt, create_graph, _run_hooks)
    # A rule may give a node of the forward pass as it is (the gradient of exp is its result), history included.
    return found if create_graph else {n: detach(g) for n, g in found.items()}


def _run_hooks(node: Node, g: Node) -> Node:
    if state.trace is not None:
        state.trace.differentiating(node)
    owner = node.owner() if node.owner is not None else None
    hooks = list(_hooks.get(node, ()))  # another handle may stand for a leaf too: its clone
    if owner is not None:
        hooks += owner.__dict__.get("_leaf_hooks", ())
        if state.trace is not None:
            state.trace.depend(lambda: tuple(owner.__dict__.get("_leaf_hooks", ())), "the hooks of a tensor", True)
    for hook in hooks:
        replaced = hook(wrap(g if grad_mode.enabled else detach(g)))
        if replaced is not None:
            g = replaced._node
    if state.gradient is not None:
        state.gradient(node, g)
    return g
