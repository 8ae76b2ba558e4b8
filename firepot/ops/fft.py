"""`fp.fft`: what of torch.fft works on real numbers. The transforms themselves need complex numbers."""

from __future__ import annotations

from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.primitives import elementwise as ew
from firepot.ops import shape
from firepot.ops.broadcast import axis_of
from firepot.ops.creation import placed
from firepot.tensor import Tensor, default_dtype

__all__ = ["fftfreq", "fftshift", "ifftshift", "rfftfreq"]


def _shifted(what: str, input: Tensor, dim: Any, back: bool) -> Tensor:
    axes = range(input.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    chosen = [axis_of(d, input.ndim, what) for d in axes] if input.shape else []
    halves = [-(input.shape[d] // 2) if back else input.shape[d] // 2 for d in chosen]
    return shape.roll(input, halves, chosen) if chosen else input


def fftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The zero frequency moved to the middle of dimensions (default all)."""
    return _shifted("fft.fftshift", input, dim, False)


def ifftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The inverse of fftshift."""
    return _shifted("fft.ifftshift", input, dim, True)


def fftfreq(
    n: int, d: float = 1.0, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any
) -> Tensor:
    """The frequencies of a transform of n samples at distance d: 0, 1, …, then the negative ones, over n·d."""
    place = ew.iota(n, dtypes.int64)
    wrapped = ew.where(ew.ge(place, ew.like(place, (n + 1) // 2)), ew.sub(place, ew.like(place, n)), place)
    target = dtype or default_dtype()
    scaled = ew.mul(ew.cast(wrapped, target), ew.full((n,), 1.0 / (n * d), target))
    return placed(scaled, requires_grad, placement)


def rfftfreq(
    n: int, d: float = 1.0, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any
) -> Tensor:
    """The frequencies of a transform of n real samples at distance d."""
    target = dtype or default_dtype()
    count = n // 2 + 1
    scaled = ew.mul(ew.cast(ew.iota(count, dtypes.int64), target), ew.full((count,), 1.0 / (n * d), target))
    return placed(scaled, requires_grad, placement)
