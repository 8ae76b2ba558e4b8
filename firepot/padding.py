"""Sizes that vary from call to call, rounded up to a few, with the true size told to the function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from firepot.capture import fill, strip
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import data
from firepot.runtime.buffer import Buffer
from firepot.tensor import Tensor, compute, wrap


@dataclass(frozen=True)
class Pad:
    """A dimension of some arguments of a function under `fp.jit` that varies, such as the last batch's size.

    The arguments are lengthened to the next of a few sizes, so that a few programs serve all lengths. What to do
    with the surplus elements only the function can know (a mean must not count them), so it must have a parameter
    called `name`, in which it is given the true size as a 0-d int64 tensor. Results have the padded size; take
    `result[:n]` outside.

    Args:
        name: of the function's parameter for the true size.
        dims: argument name -> the dimension that varies. All of them must have the same size at a call. In a list,
            tuple or dict of tensors each tensor is padded.
        sizes: what to round up to; None: powers of two.
        fill: argument name -> value of the surplus elements, where it is not 0.

    >>> model = nn.Linear(3, 2)
    >>> @fp.jit(pad=[fp.Pad("count", {"x": 0, "y": 0}, sizes=(64, 128))])
    ... def loss(x, y, count):
    ...     each = F.cross_entropy(model(x), y, reduction="none")
    ...     return fp.where(fp.arange(len(x)) < count, each, 0.0).sum() / count
    >>> for n in (64, 50, 7):
    ...     x, y = fp.ones(n, 3), fp.zeros(n).long()
    ...     print(fp.allclose(loss(x, y), F.cross_entropy(model(x), y)), loss.traces)
    True 1
    True 1
    True 1
    """

    name: str
    dims: Mapping[str, int]
    sizes: Sequence[int] | None = None
    fill: Mapping[str, bool | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.dims:
            raise ValueError(f"Pad {self.name!r}: dims must name an argument")
        if self.sizes is not None and (not self.sizes or any(s < 1 for s in self.sizes)):
            raise ValueError(f"Pad {self.name!r}: sizes must be positive, got {list(self.sizes)}")
        unknown = set(self.fill) - set(self.dims)
        if unknown:
            raise ValueError(f"Pad {self.name!r}: fill names {sorted(unknown)}, which dims does not")

    def padded_size(self, size: int) -> int:
        """The least size to round up to. Raises ValueError where none is large enough."""
        found = rounded_up(size, self.sizes)
        if found is None:
            most = max(self.sizes or ())
            raise ValueError(f"fp.jit: Pad {self.name!r} has sizes up to {most}, but an argument has {size}")
        return found


def rounded_up(size: int, sizes: Sequence[int] | None) -> int | None:
    """The least of `sizes` (None: powers of two) that is not below `size`; None where there is none."""
    if sizes is None:
        return 1 << max(size - 1, 0).bit_length()
    return min((s for s in sizes if s >= size), default=None)


class Padding:
    """All the Pads of one function.

    Raises: TypeError where the function lacks a parameter that a Pad names.
    """

    def __init__(self, function: Callable[..., Any], pads: Sequence[Pad]) -> None:
        self.pads = tuple(pads)
        self.signature = inspect.signature(function)
        known = self.signature.parameters
        for pad in self.pads:
            for name in (pad.name, *pad.dims):
                if name not in known:
                    raise TypeError(
                        f"fp.jit: Pad {pad.name!r} names the parameter {name!r}, which "
                        f"{getattr(function, '__name__', 'the function')}{self.signature} does not have"
                    )

    def apply(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments, padded, with the true sizes."""
        given = {p.name for p in self.pads} & set(kwargs)
        if given:
            raise TypeError(f"fp.jit: {sorted(given)[0]!r} is set by Pad and cannot be passed")
        bound = self.signature.bind_partial(*args, **kwargs)
        values = bound.arguments
        for pad in self.pads:
            sizes: dict[int, str] = {}
            for name, dim in pad.dims.items():
                if name not in values:
                    continue
                tensors: list[Tensor] = []
                template = strip(values[name], tensors)
                for t in tensors:
                    sizes[_size(t, dim, name)] = name
                if len(sizes) > 1:
                    told = " and ".join(f"{n} has {s}" for s, n in sizes.items())
                    raise ValueError(f"fp.jit: Pad {pad.name!r} needs equal sizes, but {told}")
                target = pad.padded_size(next(iter(sizes))) if sizes else 0
                surplus = pad.fill.get(name, 0)
                values[name] = fill(template, [_padded(t, dim, target, surplus, name) for t in tensors])
            if not sizes:
                raise TypeError(f"fp.jit: none of the arguments of Pad {pad.name!r} is a tensor")
            length = np.array(next(iter(sizes)), np.int64)
            values[pad.name] = wrap(data((), dtypes.int64, Buffer.from_numpy(length)))
        return bound.args, bound.kwargs


def _size(tensor: Tensor, dim: int, name: str) -> int:
    if not -tensor.ndim <= dim < tensor.ndim:
        raise ValueError(f"fp.jit: Pad says dimension {dim} of {name}, which has shape {list(tensor.shape)}")
    return tensor.shape[dim]


def _padded(tensor: Tensor, dim: int, size: int, surplus: bool | int | float, name: str) -> Tensor:
    """The tensor, longer. Copied and not computed, so that a new length needs no new program."""
    before = tensor.shape[dim]
    if before == size:
        return tensor
    if tensor.requires_grad:
        raise TypeError(f"fp.jit: {name} requires grad and cannot be padded; pad it yourself with F.pad")
    node = tensor._value
    if node.buffer is None:
        compute([node])
    dim %= tensor.ndim
    shape = (*tensor.shape[:dim], size, *tensor.shape[dim + 1 :])
    return wrap(data(shape, tensor.dtype, lengthened(node.buffer, tensor.dtype, tensor.shape, shape, surplus)))


def lengthened(
    buffer: Buffer, dtype: DType, shape: tuple[int, ...], target: tuple[int, ...], surplus: bool | int | float = 0
) -> Buffer:
    """A copy of values of `shape` at the beginning of a larger shape of as many dimensions, `surplus` elsewhere."""
    value: Any = surplus
    if dtype is dtypes.bfloat16:  # NumPy has it as its bits
        value = np.float32(surplus).view(np.uint32) >> 16
    result = Buffer.empty(dtype.size * int(np.prod(target)))
    array = result.view(dtype.numpy, target)
    array[tuple(slice(s) for s in shape)] = buffer.view(dtype.numpy, shape)
    for d, size in enumerate(shape):
        if size != target[d]:
            array[(*(slice(s) for s in shape[:d]), slice(size, None))] = value
    return result


__all__ = ["Pad", "Padding"]
