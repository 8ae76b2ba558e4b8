"""Complex numbers: made, taken apart, seen as pairs of real ones.

Arithmetic, elementary functions, sums, products and all rearrangements take complex tensors as any others. The gradient
of a real loss by a complex tensor is ∂L/∂re + i ∂L/∂im, PyTorch's convention.
"""

from __future__ import annotations

import math
from typing import Any

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.ops.broadcast import operands, promoted
from firepot.tensor import Tensor, node_of, wrap

__all__ = [
    "angle", "complex", "conj", "conj_physical", "imag", "is_complex", "is_conj", "is_neg", "isreal", "polar", "real",
    "resolve_conj", "resolve_neg", "view_as_complex", "view_as_real",
]  # fmt: skip


def _pair(what: str, first: Tensor, second: Tensor) -> list[Node]:
    if first.dtype not in (dtypes.float32, dtypes.float64) or second.dtype is not first.dtype:
        raise RuntimeError(
            f"{what}: expected two float32 or two float64 tensors, got {first.dtype.name} and {second.dtype.name}"
        )
    return operands(what, first, second)


def complex(real: Tensor, imag: Tensor) -> Tensor:
    """real + i·imag: complex64 of float32 parts, complex128 of float64 ones. Shapes are broadcast.

    RuntimeError for other dtypes.

    >>> fp.complex(fp.tensor([1.0, 2.0]), fp.tensor([0.0, -1.0]))
    tensor([1.+0.j, 2.-1.j])
    """
    return wrap(ew.complex_(*_pair("complex", real, imag)))


@autocasts
def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """abs · (cos angle + i sin angle). RuntimeError unless both are float32 or both float64."""
    size, turn = _pair("polar", abs, angle)
    return wrap(ew.complex_(ew.mul(size, ew.unary("cos", turn)), ew.mul(size, ew.unary("sin", turn))))


def real(input: Tensor) -> Tensor:
    """The real part; a real tensor as it is."""
    return wrap(ew.real(input._node)) if input.dtype.is_complex else input


def imag(input: Tensor) -> Tensor:
    """The imaginary part. RuntimeError for tensors that are not complex."""
    if not input.dtype.is_complex:
        raise RuntimeError(f"imag: expected a complex tensor, got {input.dtype.name}")
    return wrap(ew.imag(input._node))


def conj(input: Tensor) -> Tensor:
    """The complex conjugate; a real tensor as it is."""
    return wrap(ew.conj(input._node)) if input.dtype.is_complex else input


conj_physical = conj


def resolve_conj(input: Tensor) -> Tensor:
    """The tensor as it is: Firepot has no conjugation that waits in a view."""
    return input


resolve_neg = resolve_conj


def is_conj(input: Tensor) -> bool:
    """False: Firepot has no conjugation that waits in a view."""
    return False


is_neg = is_conj


def is_complex(input: Tensor) -> bool:
    """Whether the dtype is complex64 or complex128."""
    return input.dtype.is_complex


def isreal(input: Tensor) -> Tensor:
    """Whether each element's imaginary part is zero."""
    if not input.dtype.is_complex:
        return wrap(ew.full(input.shape, True, dtypes.bool_))
    part = ew.imag(input._node)
    return wrap(ew.eq(part, ew.like(part, 0)))


def angle(input: Tensor) -> Tensor:
    """The angle in the complex plane, −π … π, whose gradient is 0 at 0. Of real numbers 0, or π for negative ones; NaN
    stays."""
    x = input._node
    if x.dtype.is_complex:
        zero = ew.eq(x, ew.like(x, 0))
        safe = ew.where(zero, ew.like(x, 1), x)
        turned = ew.binary("atan2", ew.imag(safe), ew.real(safe))
        if x.requires_grad:
            return wrap(ew.where(zero, ew.like(turned, 0), turned))
        return wrap(ew.binary("atan2", ew.imag(x), ew.real(x)))
    if x.dtype.kind != "f":
        x = ew.cast(x, promoted((input, 1.0)))
    turned = ew.where(ew.compare("lt", x, ew.like(x, 0)), ew.like(x, math.pi), ew.like(x, 0))
    if x.requires_grad:  # the derivative is zero, and is there
        finite = ew.where(ew.predicate("isfinite", x), x, ew.like(x, 0))
        turned = ew.add(turned, ew.mul(finite, ew.like(x, 0)))
    return wrap(ew.where(ew.predicate("isnan", x), x, turned))


def view_as_real(input: Tensor) -> Tensor:
    """Complex numbers as pairs (real, imaginary) along a new last dimension. RuntimeError for real tensors.

    >>> fp.view_as_real(fp.tensor([1 + 2j]))
    tensor([[1., 2.]])
    """
    if not input.dtype.is_complex:
        raise RuntimeError(f"view_as_real: expected a complex tensor, got {input.dtype.name}")
    x = input._node
    parts = [views.reshape(p, (*x.shape, 1)) for p in (ew.real(x), ew.imag(x))]
    return wrap(views.concatenate(parts, len(x.shape)))


@autocasts
def view_as_complex(input: Tensor) -> Tensor:
    """Pairs along the last dimension as complex numbers: the inverse of view_as_real.

    RuntimeError unless the last size is 2 and the dtype float32 or float64.
    """
    if input.dtype not in (dtypes.float32, dtypes.float64):
        raise RuntimeError(f"view_as_complex: expected float32 or float64, got {input.dtype.name}")
    if not input.shape or input.shape[-1] != 2:
        raise RuntimeError(f"view_as_complex: the last dimension must have size 2, the shape is {list(input.shape)}")
    x = input._node
    shape = x.shape[:-1]
    start = (0,) * len(shape)
    parts = [views.reshape(views.slice_(x, (*start, k), (*shape, 1)), shape) for k in (0, 1)]
    return wrap(ew.complex_(*parts))


def set_real(self: Tensor, value: Any) -> None:
    """Overwrite the real part; of a real tensor, the tensor."""
    _set_part(self, value, 0)


def set_imag(self: Tensor, value: Any) -> None:
    """Overwrite the imaginary part. RuntimeError for real tensors."""
    if not self.dtype.is_complex:
        raise RuntimeError(f"imag: expected a complex tensor, got {self.dtype.name}")
    _set_part(self, value, 1)


def _set_part(self: Tensor, value: Any, which: int) -> None:
    part = views.expand(node_of(value, self.dtype.to_real()), self.shape)
    x = self._node
    if not x.dtype.is_complex:
        self._rebind(part)
    else:
        self._rebind(ew.complex_(ew.real(x), part) if which else ew.complex_(part, ew.imag(x)))
