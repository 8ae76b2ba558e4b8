"""`fp.fft`: discrete Fourier transforms by the names of torch.fft, out of the graph's own operations.

A transform of n = r · m numbers is m transforms of r, a product with powers of the root of unity, and r transforms of m
(Gentleman and Sande, Fast Fourier transforms: for fun and profit, 1966); those of up to 64 numbers, and of primes up to
512, are products with the matrix of the transform, which are what this machine does fastest. Larger primes become
convolutions whose length is a power of two (Bluestein, A linear filtering approach to the computation of discrete Fourier
transform, 1970). So transforms are recorded, fused, differentiated, mapped and captured as everything else is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node, data
from firepot.graph.primitives import contract as cn
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.ops import shape
from firepot.ops.broadcast import axis_of, floating
from firepot.ops.creation import placed
from firepot.runtime.buffer import Buffer
from firepot.tensor import Tensor, default_dtype, wrap

__all__ = [
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "hfft2", "hfftn", "ifft", "ifft2", "ifftn", "ifftshift", "ihfft",
    "ihfft2", "ihfftn", "irfft", "irfft2", "irfftn", "rfft", "rfft2", "rfftfreq", "rfftn",
]  # fmt: skip

_SMALL = 64  # up to this many numbers by one product with a matrix
_PRIME = 512  # likewise where the number has no divisors

# -- the transform along the last dimension ----------------------------------------------------------------------------


def _roots(exponents: Any, n: int, dtype: DType) -> tuple[Node, Node]:
    """(cos, sin) of −2π · exponents / n as nodes that hold values."""
    angles = -2 * np.pi * ((np.asarray(exponents, np.int64) % n) / n)
    parts = (np.ascontiguousarray(f(angles).astype(dtype.numpy)) for f in (np.cos, np.sin))
    real, imag = (data(p.shape, dtype, Buffer.from_numpy(p)) for p in parts)
    return real, imag


@functools.lru_cache(64)
def _matrix(n: int, dtype: DType) -> tuple[Node, Node]:
    """The matrix of the transform of n numbers, symmetric, as (real, imaginary)."""
    return _roots(np.outer(np.arange(n), np.arange(n)), n, dtype)


@functools.lru_cache(64)
def _twiddles(rows: int, columns: int, dtype: DType) -> tuple[Node, Node]:
    """Powers j · k of the (rows · columns)-th root for j < rows and k < columns."""
    return _roots(np.outer(np.arange(rows), np.arange(columns)), rows * columns, dtype)


@functools.lru_cache(16)
def _chirp(n: int, dtype: DType) -> tuple[Node, Node]:
    """The roots of unity to the powers k² / 2, k < n."""
    k = np.arange(n, dtype=np.int64)
    return _roots(k * k % (2 * n), 2 * n, dtype)


def _radix(n: int) -> int:
    """The first factor of a transform of n numbers: its divisor nearest √n up to 64; a prime above that; n itself."""
    if n <= _SMALL:
        return n
    divisors = [d for d in range(2, _SMALL + 1) if n % d == 0]
    if not divisors:
        return next((d for d in range(_SMALL + 1, math.isqrt(n) + 1) if n % d == 0), n)
    enough = [d for d in divisors if d * d >= n]
    return min(enough) if enough else max(divisors)


def _transform(x: Node) -> Node:
    """Σ_j x[…, j] exp(−2πi jk / n) of floating or complex numbers, complex."""
    *batch, n = x.shape
    part = x.dtype.to_real()
    if x.size == 0 or n == 1:
        return ew.cast(x, part.to_complex())
    r = _radix(n)
    if r == n:
        return _by_matrix(x) if n <= _PRIME else _by_convolution(x)
    m, rows = n // r, math.prod(batch)
    # j = j₁ m + j₂ and k = k₁ + r k₂
    columns = views.permute(views.reshape(x, (rows, r, m)), (0, 2, 1))
    first = views.permute(_transform(columns), (0, 2, 1))  # rows, k₁, j₂
    turned = ew.mul(first, _spread(_twiddles(r, m, part), first.shape))
    second = _transform(turned)  # rows, k₁, k₂
    return views.reshape(views.permute(second, (0, 2, 1)), x.shape)


def _spread(parts: tuple[Node, Node], target: Sequence[int]) -> Node:
    real, imag = (views.expand(p, tuple(target)) for p in parts)
    return ew.complex_(real, imag)


def _by_matrix(x: Node) -> Node:
    n = x.shape[-1]
    real, imag = (views.reshape(p, (1, n, n)) for p in _matrix(n, x.dtype.to_real()))
    flat = views.reshape(x, (1, x.size // n, n))
    if x.dtype.is_complex:
        return views.reshape(cn.contract(flat, ew.complex_(real, imag)), x.shape)
    return views.reshape(ew.complex_(cn.contract(flat, real), cn.contract(flat, imag)), x.shape)


def _by_convolution(x: Node) -> Node:
    """jk = (j² + k² − (k − j)²) / 2: the chirp times the convolution of (x times the chirp) with its conjugate."""
    n = x.shape[-1]
    size = 1 << (2 * n - 1).bit_length()
    part = x.dtype.to_real()
    chirp = _chirp(n, part)
    turned = ew.mul(ew.cast(x, part.to_complex()), _spread(chirp, x.shape))
    rank = len(x.shape)
    before, after = (0,) * rank, (*(0,) * (rank - 1), size - n)
    conjugate = ew.conj(ew.complex_(*chirp))
    mirrored = views.flip(views.slice_(conjugate, (1,), (n - 1,)), (0,))
    gap = ew.full((size - 2 * n + 1,), 0, conjugate.dtype)
    kernel = _transform(views.concatenate([conjugate, gap, mirrored], 0))
    product = _transform(views.pad(turned, before, after))
    product = ew.mul(product, views.expand(kernel, product.shape))
    # The inverse transform, as the conjugate of that of the conjugate.
    convolved = ew.conj(_transform(ew.conj(product)))
    kept = views.slice_(convolved, before, x.shape)
    scaled = ew.complex_(*(ew.mul(p, ew.like(p, 1 / size)) for p in (ew.real(kept), ew.imag(kept))))
    return ew.mul(scaled, _spread(chirp, x.shape))


def _scaled(x: Node, factor: float) -> Node:
    if factor == 1:
        return x
    if not x.dtype.is_complex:
        return ew.mul(x, ew.like(x, factor))
    return ew.complex_(*(ew.mul(p, ew.like(p, factor)) for p in (ew.real(x), ew.imag(x))))


def _factor(what: str, n: int, norm: str | None, inverse: bool) -> float:
    if norm not in (None, "backward", "ortho", "forward"):
        raise RuntimeError(f"{what}: norm must be None, 'backward', 'ortho' or 'forward', not {norm!r}")
    if norm == "ortho":
        return 1 / math.sqrt(n)
    return 1 / n if inverse == (norm in (None, "backward")) else 1.0


def _along(x: Node, axis: int, function: Callable[[Node], Node]) -> Node:
    """The function of the last dimension, along another one."""
    order = [d for d in range(len(x.shape)) if d != axis] + [axis]
    return views.permute(function(views.permute(x, order)), views.inverse(order))


def _resized(x: Node, axis: int, n: int) -> Node:
    """Cut off, or filled up with zeros, to n along an axis."""
    high = tuple(n - s if d == axis else 0 for d, s in enumerate(x.shape))
    return views.pad(x, (0,) * len(x.shape), high)


def _complex_transform(what: str, x: Node, axis: int, norm: str | None, inverse: bool) -> Node:
    n = x.shape[axis]
    factor = _factor(what, n, norm, inverse)
    if not inverse:
        return _scaled(_along(x, axis, _transform), factor)
    return _scaled(ew.conj(_along(ew.conj(x), axis, _transform)), factor)


def _half(what: str, x: Node, axis: int, norm: str | None, inverse: bool) -> Node:
    """The first n // 2 + 1 of the transform of n real numbers, whose others are their conjugates."""
    whole = _complex_transform(what, x, axis, norm, inverse)
    count = tuple(s // 2 + 1 if d == axis else s for d, s in enumerate(x.shape))
    return views.slice_(whole, (0,) * len(count), count)


def _whole(what: str, x: Node, axis: int, n: int, norm: str | None, inverse: bool) -> Node:
    """The n real numbers whose transform begins with x."""
    half = _resized(ew.cast(x, x.dtype.to_complex()), axis, n // 2 + 1)
    rest = (n - 1) // 2
    start = tuple(1 if d == axis else 0 for d in range(len(x.shape)))
    others = views.slice_(half, start, tuple(rest if d == axis else s for d, s in enumerate(half.shape)))
    whole = views.concatenate([half, ew.conj(views.flip(others, (axis,)))], axis)
    return ew.real(_complex_transform(what, whole, axis, norm, inverse))


# -- arguments -------------------------------------------------------------------------------------------------------


def _input(what: str, input: Tensor, real: bool = False) -> Node:
    x = input._node
    if real and x.dtype.is_complex:
        raise RuntimeError(f"{what}: expected a real tensor, got {x.dtype.name}")
    if x.dtype in (dtypes.float16, dtypes.bfloat16):
        raise RuntimeError(f"{what}: {x.dtype.name} is not supported; convert to float32")
    return floating(x)


def _sizes(
    what: str, x: Node, s: Sequence[int] | None, dim: Sequence[int] | int | None, half: bool = False
) -> tuple[list[int], list[int]]:
    """(axes, sizes); `half`: the last size is that of the real side, where x has n // 2 + 1."""
    rank = len(x.shape)
    if isinstance(dim, int):
        dim = (dim,)
    if dim is None:
        axes = list(range(rank)) if s is None else list(range(rank - len(s), rank))
    else:
        axes = [axis_of(d, rank, what) for d in dim]
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"{what}: dimensions must be different, got {list(dim or ())}")
    if s is not None and (len(s) != len(axes) or any(a < 0 for a in axes)):
        raise RuntimeError(f"{what}: {len(s)} sizes do not go with {len(axes)} dimensions of the shape {list(x.shape)}")
    if not rank or (half and not axes):
        raise RuntimeError(f"{what}: expected at least one dimension to transform, the shape is {list(x.shape)}")
    sizes = [x.shape[a] if s is None or s[i] == -1 else s[i] for i, a in enumerate(axes)]
    if half and (s is None or s[-1] == -1):
        sizes[-1] = 2 * (x.shape[axes[-1]] - 1)
    for size in sizes:
        if size < 1:
            raise RuntimeError(f"{what}: invalid number of data points ({size}) specified")
    return axes, sizes


def _many(what: str, input: Tensor, s: Any, dim: Any, norm: str | None, inverse: bool) -> Tensor:
    x = _input(what, input)
    if not x.shape and s is None and dim is None:
        return wrap(ew.cast(x, x.dtype.to_complex()))
    axes, sizes = _sizes(what, x, s, dim)
    for axis, size in zip(axes, sizes, strict=True):
        x = _resized(x, axis, size)
    for axis in reversed(axes):
        x = _complex_transform(what, x, axis, norm, inverse)
    return wrap(ew.cast(x, x.dtype.to_complex()))


def _many_half(what: str, input: Tensor, s: Any, dim: Any, norm: str | None, inverse: bool) -> Tensor:
    x = _input(what, input, real=True)
    axes, sizes = _sizes(what, x, s, dim)
    if not axes:
        raise RuntimeError(f"{what}: expected at least one dimension to transform")
    for axis, size in zip(axes, sizes, strict=True):
        x = _resized(x, axis, size)
    x = _half(what, x, axes[-1], norm, inverse)
    for axis in reversed(axes[:-1]):
        x = _complex_transform(what, x, axis, norm, inverse)
    return wrap(x)


def _many_whole(what: str, input: Tensor, s: Any, dim: Any, norm: str | None, inverse: bool) -> Tensor:
    x = _input(what, input)
    axes, sizes = _sizes(what, x, s, dim, half=True)
    for axis, size in zip(axes[:-1], sizes[:-1], strict=True):
        x = _complex_transform(what, _resized(x, axis, size), axis, norm, inverse)
    if not inverse:  # hfft: what irfft does with the conjugate, the other way
        return wrap(_whole(what, ew.conj(x), axes[-1], sizes[-1], _OPPOSITE[norm], True))
    return wrap(_whole(what, x, axes[-1], sizes[-1], norm, True))


# The scale of an inverse transform under this norm is that of the forward one under the other.
_OPPOSITE = {None: "forward", "backward": "forward", "forward": "backward", "ortho": "ortho"}

# -- torch.fft -------------------------------------------------------------------------------------------------------


def _one(dim: int, n: int | None) -> dict[str, Any]:
    return {"s": None if n is None else [n], "dim": (dim,)}


@autocasts
def fft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Σ_j x_j exp(−2πi jk / n) along a dimension, cut off or filled up with zeros to n: complex.

    norm: 'backward' (None) leaves it so, 'forward' divides by n, 'ortho' by √n. RuntimeError for half precision and n < 1.

    >>> fp.fft.fft(fp.tensor([1.0, 0.0, 0.0, 0.0]))
    tensor([1.+0.j, 1.+0.j, 1.+0.j, 1.+0.j])
    """
    return _many("fft.fft", input, **_one(dim, n), norm=norm, inverse=False)


@autocasts
def ifft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of fft: Σ_k x_k exp(2πi jk / n), divided by n for the norm 'backward', by √n for 'ortho'."""
    return _many("fft.ifft", input, **_one(dim, n), norm=norm, inverse=True)


@autocasts
def rfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The first n // 2 + 1 of fft of real numbers; the others are their conjugates. RuntimeError for complex input."""
    return _many_half("fft.rfft", input, **_one(dim, n), norm=norm, inverse=False)


@autocasts
def irfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of rfft: n real numbers (default: 2 · (size − 1))."""
    return _many_whole("fft.irfft", input, **_one(dim, n), norm=norm, inverse=True)


@autocasts
def hfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """fft of numbers of which x_{n − j} is the conjugate of x_j and the first half is given: n real numbers (default:
    2 · (size − 1))."""
    return _many_whole("fft.hfft", input, **_one(dim, n), norm=norm, inverse=False)


@autocasts
def ihfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of hfft: the first n // 2 + 1 of ifft of real numbers. RuntimeError for complex input."""
    return _many_half("fft.ihfft", input, **_one(dim, n), norm=norm, inverse=True)


@autocasts
def fftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """fft along several dimensions (default all, or the last of as many as there are sizes `s`; −1 leaves a size)."""
    return _many("fft.fftn", input, s, dim, norm, False)


@autocasts
def ifftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """ifft along several dimensions; arguments as fftn's."""
    return _many("fft.ifftn", input, s, dim, norm, True)


@autocasts
def rfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """rfft along the last of several dimensions, then fft along the others; arguments as fftn's."""
    return _many_half("fft.rfftn", input, s, dim, norm, False)


@autocasts
def irfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of rfftn; arguments as fftn's, the last size that of the real side."""
    return _many_whole("fft.irfftn", input, s, dim, norm, True)


def hfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """fft along all of several dimensions but the last, along which it is hfft; arguments as irfftn's."""
    return _many_whole("fft.hfftn", input, s, dim, norm, False)


def ihfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of hfftn; arguments as fftn's."""
    return _many_half("fft.ihfftn", input, s, dim, norm, True)


def _two(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    name = function.__name__.removesuffix("n") + "2"

    def transform(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
        return function(input, s, dim, norm)

    transform.__name__ = transform.__qualname__ = name
    transform.__doc__ = f"{function.__name__} along two dimensions, the last two unless others are given."
    return transform


fft2, ifft2, rfft2, irfft2 = _two(fftn), _two(ifftn), _two(rfftn), _two(irfftn)
hfft2, ihfft2 = _two(hfftn), _two(ihfftn)


# -- frequencies and their order ---------------------------------------------------------------------------------------


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
