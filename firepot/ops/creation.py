"""Making tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node, data
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.ops.broadcast import NUMBERS, Number, broadcast_shapes, number_dtype
from firepot.runtime import dlpack
from firepot.runtime.buffer import Buffer
from firepot.tensor import Device, Tensor, default_dtype, node_of, wrap
from firepot.tracing import state

__all__ = [
    "arange", "as_tensor", "asarray", "broadcast_tensors", "clone", "empty", "empty_like", "empty_permuted",
    "empty_strided", "eye", "fill", "from_dlpack", "from_numpy", "full", "full_like", "is_tensor", "linspace", "logspace", "meshgrid",
    "ones", "ones_like", "scalar_tensor", "tensor", "zeros", "zeros_like",
]  # fmt: skip


# Where and how PyTorch would lay a tensor out. The device is checked; layouts are the compiler's business.
_PLACEMENT = frozenset(("device", "layout", "memory_format", "pin_memory", "out"))


def placed(node: Node, requires_grad: bool = False, placement: Mapping[str, Any] = MappingProxyType({})) -> Tensor:
    """The tensor of a node, after a look at the placement that was asked for (device, layout, memory_format, …).

    Raises: TypeError for other names, RuntimeError for a device that is not there.
    """
    for name, value in placement.items():
        if name not in _PLACEMENT or (name == "out" and value is not None):
            raise TypeError(f"unexpected keyword argument '{name}'")
    if placement.get("device") is not None:
        Device(placement["device"])
    result = wrap(node)
    return result.requires_grad_() if requires_grad else result


_finish = placed


def shape_of(size: Sequence[Any]) -> tuple[int, ...]:
    """A shape given as numbers or as one sequence. Raises on negative sizes."""
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = size[0]
    shape = tuple(int(s) for s in size)
    if any(s < 0 for s in shape):
        raise RuntimeError(f"a tensor cannot have a negative dimension: {list(shape)}")
    return shape


def tensor(data: Any, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any) -> Tensor:
    """A tensor with a copy of numbers, nested lists, a NumPy array or another tensor.

    Whole numbers give int64 and other numbers the default dtype (float32), unless `dtype` says otherwise; arrays keep
    theirs. TypeError for ragged lists and dtypes that Firepot lacks, RuntimeError for a number that `dtype` cannot
    hold.

    >>> fp.tensor([[1, 2], [3, 4]], dtype=fp.float32)
    tensor([[1., 2.],
            [3., 4.]])
    """
    if isinstance(data, Tensor):
        data = data.detach()
    if isinstance(data, NUMBERS):  # NumPy's float64 and complex128 are such too, and keep their dtype as arrays do
        known = dtypes.from_numpy(data.dtype) if isinstance(data, np.generic) else number_dtype(data)
        return _finish(_number(data, dtype or known), requires_grad, placement)
    return _finish(node_of(data, dtype), requires_grad, placement)


def _number(value: Number | complex, dtype: DType) -> Node:
    """A 0-d node that holds a number. It is a value, not a constant, so that the program that uses it serves other
    numbers too; in a captured function, where it can only ever be this one, it is a constant."""
    if isinstance(value, complex) and not dtype.is_complex:
        if value.imag:
            raise RuntimeError(f"tensor: {value} cannot be converted to {dtype.name} without overflow")
        value = value.real
    if dtype.is_integer:
        assert not isinstance(value, complex)
        if not math.isfinite(value):
            raise RuntimeError(f"tensor: {value} cannot be converted to {dtype.name}")
        value, high = int(value), 2 ** (8 * dtype.size - dtype.is_signed) - 1
        if not -high - dtype.is_signed <= value <= high:
            raise RuntimeError(f"tensor: {value} cannot be converted to {dtype.name} without overflow")
        if value < 0 and not dtype.is_signed:  # as in two's complement, which PyTorch allows
            value += high + 1
    if state.trace is not None:
        return ew.constant(value, dtype)
    with np.errstate(over="ignore"):
        if dtype is dtypes.bfloat16:
            return node_of(np.asarray(value, np.float32), dtype)
        return node_of(np.asarray(value, dtype.numpy), dtype)


def as_tensor(data: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
    """A tensor as it is, anything else as by `tensor` (a copy).

    >>> fp.as_tensor([1, 2])
    tensor([1, 2])
    """
    if isinstance(data, Tensor):
        return data if dtype is None or dtype is data.dtype else wrap(ew.cast(data._node, dtype))
    return tensor(data, dtype=dtype, device=device)


asarray = as_tensor


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor with a copy of the array (later changes of the array do not show, unlike in PyTorch).

    TypeError for what is no array, or of a dtype that Firepot lacks. The bfloat16 of ml_dtypes (JAX's) is known.

    >>> fp.from_numpy(np.eye(2))
    tensor([[1., 0.],
            [0., 1.]], dtype=firepot.float64)
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    dtype = dtypes.from_numpy(array.dtype)
    if dtype is dtypes.bfloat16:
        bits = np.ascontiguousarray(array).view(np.uint16)
        return wrap(data(array.shape, dtype, Buffer.from_numpy(bits)))
    return wrap(data(array.shape, dtype, Buffer.from_numpy(array.astype(dtype.numpy, copy=False))))


def from_dlpack(source: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor with a copy of what another library exports through DLPack, bfloat16 included.

    Args:
        source: an object with `__dlpack__` and `__dlpack_device__`, or a capsule.
        device: the CPU, which is the only one.
        copy: False raises BufferError: it is always a copy.

    Raises TypeError for other objects and element types that Firepot lacks, BufferError for memory of other devices.

    >>> fp.from_dlpack(np.arange(3))
    tensor([0, 1, 2])
    """
    if device is not None:
        Device(device)
    if copy is False:
        raise BufferError("from_dlpack: the elements are always copied; leave copy=False out")
    array, name = dlpack.take(source)
    dtype = dtypes.from_numpy(array.dtype) if name is None else dtypes.by_name(name)
    return wrap(data(array.shape, dtype, Buffer.from_numpy(array)))


def full(
    size: Sequence[int], fill_value: Any, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any
) -> Tensor:  # fmt: skip
    """A tensor of one value, a number or a 0-d tensor; its dtype is the value's, unless given.

    >>> fp.full((2, 2), 7)
    tensor([[7, 7],
            [7, 7]])
    """
    return _finish(_filled(shape_of((size,)), fill_value, dtype), requires_grad, placement)


def _filled(shape: tuple[int, ...], value: Any, dtype: DType | None) -> Node:
    if isinstance(value, Tensor):
        if value.shape:
            raise RuntimeError(f"full: fill_value must be a number or a 0-d tensor, got shape {list(value.shape)}")
        return views.expand(ew.cast(value._node, dtype or value.dtype), shape)
    return ew.full(shape, value, dtype or number_dtype(value))


def zeros(*size: Any, dtype: DType | None = None, requires_grad: bool = False, **placement: Any) -> Tensor:
    """Zeros of a shape, given as numbers or as one tuple; float32 unless `dtype` says otherwise.

    >>> fp.zeros(2, 3).shape
    (2, 3)
    """
    return _finish(ew.full(_shape_given(size, placement), 0, dtype or default_dtype()), requires_grad, placement)


def ones(*size: Any, dtype: DType | None = None, requires_grad: bool = False, **placement: Any) -> Tensor:
    """Ones of a shape, given as numbers or as one tuple; float32 unless `dtype` says otherwise.

    >>> fp.ones(2, dtype=fp.int64)
    tensor([1, 1])
    """
    return _finish(ew.full(_shape_given(size, placement), 1, dtype or default_dtype()), requires_grad, placement)


def _shape_given(size: Sequence[Any], placement: dict[str, Any]) -> tuple[int, ...]:
    return shape_of((placement.pop("size"),) if "size" in placement and not size else size)


def empty(*size: Any, dtype: DType | None = None, requires_grad: bool = False, **placement: Any) -> Tensor:
    """Zeros: Firepot never shows uninitialised memory."""
    return zeros(*size, dtype=dtype, requires_grad=requires_grad, **placement)


def empty_strided(size: Sequence[int], stride: Sequence[int], **options: Any) -> Tensor:
    """empty: where elements lie is the compiler's business, so the strides only have to be possible."""
    if len(size) != len(stride):
        raise RuntimeError(f"empty_strided: size {list(size)} and stride {list(stride)} must have equal lengths")
    return empty(size, **options)


def empty_permuted(size: Sequence[int], physical_layout: Sequence[int], **options: Any) -> Tensor:
    """empty: where elements lie is the compiler's business, so the order of dimensions only has to be one."""
    if sorted(physical_layout) != list(range(len(size))):
        raise RuntimeError(f"empty_permuted: {list(physical_layout)} is not an order of {len(size)} dimensions")
    return empty(size, **options)


def fill(input: Tensor, value: Any) -> Tensor:
    """A tensor shaped as the input with one value, a number or a 0-d tensor."""
    if isinstance(value, Tensor) and value.shape:
        raise RuntimeError(f"fill: value must be a number or a 0-d tensor, got shape {list(value.shape)}")
    filled = views.expand(node_of(value, input.dtype), input.shape)
    # The derivative by the input is zero, and is there: the input is chosen nowhere.
    return wrap(ew.where(ew.full(input.shape, False, dtypes.bool_), input._node, filled))


def zeros_like(
    input: Tensor, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any
) -> Tensor:
    """Zeros with the shape of `input`, and its dtype unless one is given."""
    return _finish(ew.full(input.shape, 0, dtype or input.dtype), requires_grad, placement)


def ones_like(
    input: Tensor, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any
) -> Tensor:
    """Ones with the shape of `input`, and its dtype unless one is given."""
    return _finish(ew.full(input.shape, 1, dtype or input.dtype), requires_grad, placement)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any
) -> Tensor:
    """One value with the shape of `input`, and its dtype unless one is given."""
    return _finish(_filled(input.shape, fill_value, dtype or input.dtype), requires_grad, placement)


def scalar_tensor(
    value: Number, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any
) -> Tensor:
    """A 0-d tensor of the default floating dtype."""
    return _finish(ew.full((), value, dtype or default_dtype()), requires_grad, placement)


empty_like = zeros_like


def _plain(value: Any) -> Number:
    return value.item() if isinstance(value, Tensor) else value


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """start, start + step, … below end (above, for a negative step). One number is the end. RuntimeError for step 0.

    Whole numbers give int64, others the default dtype.

    >>> fp.arange(5), fp.arange(1.0, 0.0, -0.25)
    (tensor([0, 1, 2, 3, 4]), tensor([1.0000, 0.7500, 0.5000, 0.2500]))
    """
    if end is None:
        start, end = 0, start
    start, end, step = _plain(start), _plain(end), _plain(step)
    if step == 0:
        raise RuntimeError("arange: step must not be zero")
    whole = all(isinstance(v, int) for v in (start, end, step))
    target = dtype or (dtypes.int64 if whole else default_dtype())
    if not target.is_inexact and not whole:
        start, end, step = int(start), int(end), int(step)
    if step == 0 or (end - start) * step < 0 or not all(map(math.isfinite, (start, end))):
        raise RuntimeError(f"arange: from {start} to {end} does not go with the step {step}")
    length = max(0, math.ceil((end - start) / step))
    if target.is_inexact and not whole:
        position = ew.cast(ew.iota(length, dtypes.float64), dtypes.float64)
        values = ew.add(ew.mul(position, ew.like(position, step)), ew.like(position, start))
    else:
        position = ew.iota(length, dtypes.int64)
        values = ew.add(ew.mul(position, ew.like(position, int(step))), ew.like(position, int(start)))
    return _finish(ew.cast(values, target), requires_grad, placement)


def _steps(what: str, start: Any, end: Any, steps: Any, target: DType) -> Node:
    """`steps` float64 numbers from start to end, which for whole-numbered targets are whole themselves."""
    for value in (start, end):
        if isinstance(value, Tensor) and value.shape:
            raise RuntimeError(f"{what}: start and end must be numbers or 0-d tensors, got {list(value.shape)}")
    if not isinstance(steps, int):
        raise TypeError(f"{what}: the number of steps must be an int, not {type(steps).__name__}")
    if steps < 0:
        raise RuntimeError(f"{what}: the number of steps must not be negative, got {steps}")
    if target.is_complex:
        first, last = (node_of(v, dtypes.complex128) for v in (start, end))
        return ew.complex_(
            *(_steps(what, wrap(part(first)), wrap(part(last)), steps, dtypes.float64) for part in (ew.real, ew.imag))
        )
    position = ew.iota(steps, dtypes.float64)
    ends = [node_of(v, target if target.kind != "f" else dtypes.float64) for v in (start, end)]
    first, last = (views.expand(ew.cast(v, dtypes.float64), (steps,)) for v in ends)
    step = ew.div(ew.sub(last, first), ew.like(position, max(steps - 1, 1)))
    low = ew.add(ew.mul(position, step), first)
    high = ew.sub(last, ew.mul(ew.sub(ew.like(position, steps - 1), position), step))
    return ew.where(ew.compare("lt", position, ew.like(position, steps / 2)), low, high)


def _steps_dtype(start: Any, end: Any) -> DType:
    some = any(v.dtype.is_complex if isinstance(v, Tensor) else isinstance(v, complex) for v in (start, end))
    return default_dtype().to_complex() if some else default_dtype()


def linspace(
    start: Any, end: Any, steps: int, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any
) -> Tensor:
    """`steps` numbers from start to end, both included.

    >>> fp.linspace(0, 1, 5)
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """
    target = dtype or _steps_dtype(start, end)
    return _finish(ew.cast(_steps("linspace", start, end, steps, target), target), requires_grad, placement)


def logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """base to the powers of linspace."""
    target = dtype or _steps_dtype(start, end)
    exponents = _steps("logspace", start, end, steps, target)
    return _finish(ew.cast(ew.power(ew.like(exponents, base), exponents), target), requires_grad, placement)


def eye(
    n: int, m: int | None = None, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any
) -> Tensor:
    """Ones on the diagonal of an n × m matrix (m defaults to n), zeros elsewhere.

    >>> fp.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    m = n if m is None else m
    if n < 0 or m < 0:
        raise RuntimeError(f"eye: sizes must not be negative, got {n} and {m}")
    rows = views.expand(views.reshape(ew.iota(n, dtypes.int64), (n, 1)), (n, m))
    columns = views.expand(ew.iota(m, dtypes.int64), (n, m))
    return _finish(ew.cast(ew.eq(rows, columns), dtype or default_dtype()), requires_grad, placement)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinate grids of 1-d tensors."""

    vectors = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    shape = tuple(v.numel() for v in vectors)
    result = []
    for d, v in enumerate(vectors):
        column = views.reshape(v._node, tuple(shape[d] if i == d else 1 for i in range(len(shape))))
        result.append(wrap(views.expand(column, shape)))
    if indexing == "xy" and len(result) > 1:
        swapped = meshgrid(vectors[1], vectors[0], *vectors[2:])
        return (swapped[1], swapped[0], *swapped[2:])
    return tuple(result)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors expanded to their common shape. RuntimeError where there is none."""
    shape = broadcast_shapes(*(t.shape for t in tensors))
    return tuple(wrap(views.expand(t._node, shape)) for t in tensors)


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """The same value under a new handle; differentiable. Tensors share no memory that can change, so this is free."""
    return wrap(views.reshape(input._node, input.shape))


def is_tensor(value: Any) -> bool:
    """Whether `value` is a Tensor."""
    return isinstance(value, Tensor)
