"""The `fft` extension: `firepot.fft` by the standard's argument names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from firepot.graph.dtypes import DType
from firepot.ops import fft as _fft
from firepot.tensor import Device, Tensor

__all__ = [
    "fft", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifftn", "ifftshift", "ihfft", "irfft", "irfftn", "rfft",
    "rfftfreq", "rfftn",
]  # fmt: skip


def _one(transform: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def function(x: Tensor, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
        return transform(x, n, axis, norm)

    function.__name__ = function.__qualname__ = transform.__name__
    function.__doc__ = transform.__doc__
    return function


def _several(transform: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def function(
        x: Tensor, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
    ) -> Tensor:
        return transform(x, s, axes, norm)

    function.__name__ = function.__qualname__ = transform.__name__
    function.__doc__ = transform.__doc__
    return function


fft, ifft, rfft, irfft = _one(_fft.fft), _one(_fft.ifft), _one(_fft.rfft), _one(_fft.irfft)
hfft, ihfft = _one(_fft.hfft), _one(_fft.ihfft)
fftn, ifftn, rfftn, irfftn = _several(_fft.fftn), _several(_fft.ifftn), _several(_fft.rfftn), _several(_fft.irfftn)


def fftfreq(n: int, /, *, d: float = 1.0, dtype: DType | None = None, device: Device | str | None = None) -> Tensor:
    return _fft.fftfreq(n, d, dtype=dtype, device=device)


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: DType | None = None, device: Device | str | None = None) -> Tensor:
    return _fft.rfftfreq(n, d, dtype=dtype, device=device)


def fftshift(x: Tensor, /, *, axes: int | tuple[int, ...] | None = None) -> Tensor:
    return _fft.fftshift(x, axes)


def ifftshift(x: Tensor, /, *, axes: int | tuple[int, ...] | None = None) -> Tensor:
    return _fft.ifftshift(x, axes)
