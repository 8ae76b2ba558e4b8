"""Short-time Fourier transforms: spectra of overlapping frames of a signal, and the windows that PyTorch has for them."""

from __future__ import annotations

from typing import Any

from firepot.autocast_mode import autocasts
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.ops import arithmetic, creation, fft, reduction, shape
from firepot.ops.complex import view_as_real
from firepot.ops.convolution import overlap_add
from firepot.ops.signal import windows
from firepot.tensor import Tensor
from firepot.tracing import state

__all__ = [
    "bartlett_window", "blackman_window", "hamming_window", "hann_window", "istft", "kaiser_window", "stft",
]  # fmt: skip


def _frame_window(
    what: str, input: Tensor, n_fft: int, hop_length: int, win_length: int, window: Tensor | None
) -> Tensor | None:
    """The window filled up with zeros on both sides to n_fft numbers; None where it is one everywhere."""
    if hop_length <= 0:
        raise RuntimeError(f"{what}: hop_length must be above 0, got {hop_length}")
    if not 0 < win_length <= n_fft:
        raise RuntimeError(f"{what}: win_length must lie in 1 … n_fft = {n_fft}, got {win_length}")
    if window is not None and window.shape != (win_length,):
        raise RuntimeError(f"{what}: expected a window of shape [{win_length}], win_length, got {list(window.shape)}")
    if window is None:
        if win_length == n_fft:
            return None
        window = creation.ones(win_length, dtype=input.dtype.to_real())
    left = (n_fft - win_length) // 2
    return shape.constant_pad(window, (left, n_fft - win_length - left))


def _centred(what: str, x: Tensor, pad: int, mode: str) -> Tensor:
    """(B, L) with `pad` more numbers on both sides."""
    size = x.shape[-1]
    if mode == "constant":
        return shape.constant_pad(x, (pad, pad))
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(f"{what}: pad_mode must be 'constant', 'reflect', 'replicate' or 'circular', not {mode!r}")
    if mode == "replicate":
        low, high = (shape.expand(e, (x.shape[0], pad)) for e in (x[:, :1], x[:, size - 1 :]))
    else:
        most = size - 1 if mode == "reflect" else size
        if pad > most:
            raise RuntimeError(f"{what}: {mode} padding by n_fft // 2 = {pad} must be at most {most} for {size} samples")
        if mode == "reflect":
            low, high = (shape.flip(e, (1,)) for e in (x[:, 1 : pad + 1], x[:, size - 1 - pad : size - 1]))
        else:
            low, high = x[:, size - pad :], x[:, :pad]
    return shape.cat([low, x, high], 1)


@autocasts
def stft(
    input: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None,
    window: Tensor | None = None, center: bool = True, pad_mode: str = "reflect", normalized: bool = False,
    onesided: bool | None = None, return_complex: bool | None = None,
) -> Tensor:  # fmt: skip
    """The spectra of the frames of signals (L,) or (B, L): complex (…, frequencies, frames).

    Args:
        n_fft: samples a frame, which begins hop_length (default n_fft // 4) after the one before.
        window: win_length (default n_fft) weights, around which a frame is filled up with zeros; default: ones.
        center: frame t is centred on sample t · hop_length of the signal, which pad_mode continues at both ends.
        normalized: divide by √n_fft.
        onesided: only the first n_fft // 2 + 1 frequencies (default where signal and window are real).
        return_complex: False gives real and imaginary parts along a last dimension. Real signals need the argument.

    RuntimeError for other shapes and dtypes, and for frames longer than the signal.

    >>> fp.stft(fp.ones(400), 64, window=fp.hann_window(64), return_complex=True).shape
    (33, 26)
    """
    if input.ndim not in (1, 2) or not input.dtype.is_inexact:
        raise RuntimeError(f"stft: expected floating or complex (L,) or (B, L), got {input.dtype.name}{list(input.shape)}")
    some_complex = input.dtype.is_complex or (window is not None and window.dtype.is_complex)
    if return_complex is None and not some_complex:
        raise RuntimeError("stft: return_complex must be given for real signals: True for complex numbers")
    onesided = not some_complex if onesided is None else onesided
    if onesided and some_complex:
        raise RuntimeError("stft: a onesided result needs a real signal and a real window")
    hop = n_fft // 4 if hop_length is None else hop_length
    x = input if input.ndim == 2 else shape.unsqueeze(input, 0)
    if n_fft <= 0:
        raise RuntimeError(f"stft: n_fft must be above 0, got {n_fft}")
    weights = _frame_window("stft", input, n_fft, hop, n_fft if win_length is None else win_length, window)
    if center:
        x = _centred("stft", x, n_fft // 2, pad_mode)
    if n_fft > x.shape[1]:
        raise RuntimeError(f"stft: n_fft = {n_fft} must be at most the {x.shape[1]} samples of the signal")
    frames = shape.unfold(x, 1, n_fft, hop)
    if weights is not None:
        frames = arithmetic.mul(frames, weights)
    transform = fft.rfft if onesided else fft.fft
    spectra = shape.transpose(transform(frames, norm="ortho" if normalized else None), 1, 2)
    spectra = spectra if input.ndim == 2 else shape.squeeze(spectra, 0)
    if return_complex is None or return_complex:
        return spectra
    return view_as_real(spectra)


def istft(
    input: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None,
    window: Tensor | None = None, center: bool = True, normalized: bool = False, onesided: bool | None = None,
    length: int | None = None, return_complex: bool = False,
) -> Tensor:  # fmt: skip
    """The signals (L,) or (B, L) whose stft, with the same arguments, is nearest to `input` (…, frequencies, frames).

    length: of the signal; what lies behind the last frame is zero. return_complex: of a complex signal. RuntimeError for
    other shapes and dtypes, and where the windows leave a sample without weight (inside fp.jit and fp.vmap, which have no
    values to look at, that sample is NaN). Griffin and Lim, Signal estimation from
    modified short-time Fourier transform (1984).

    >>> w, x = fp.hann_window(16), fp.randn(100)
    >>> fp.allclose(fp.istft(fp.stft(x, 16, window=w, return_complex=True), 16, window=w, length=100), x, atol=1e-5)
    True
    """
    if not input.dtype.is_complex or input.ndim not in (2, 3) or not input.numel():
        raise RuntimeError(
            "istft: expected complex (frequencies, frames), or a batch of them, with at least one element, got "
            f"{input.dtype.name}{list(input.shape)}"
        )
    hop, width = n_fft // 4 if hop_length is None else hop_length, n_fft if win_length is None else win_length
    onesided = input.shape[-2] != n_fft if onesided is None else onesided
    wanted = n_fft // 2 + 1 if onesided else n_fft
    if input.shape[-2] != wanted:
        raise RuntimeError(f"istft: expected {wanted} frequencies for n_fft = {n_fft}, got the shape {list(input.shape)}")
    weights = _frame_window("istft", input, n_fft, hop, width, window)
    if hop > width:
        raise RuntimeError(f"istft: hop_length {hop} must be at most win_length {width}")
    weights = creation.ones(n_fft, dtype=input.dtype.to_real()) if weights is None else weights
    spectra = shape.transpose(input if input.ndim == 3 else shape.unsqueeze(input, 0), 1, 2)
    norm = "ortho" if normalized else None
    if return_complex:
        if onesided:
            raise RuntimeError("istft: a complex signal needs onesided=False")
        frames = fft.ifft(spectra, norm=norm)
    else:
        if weights.dtype.is_complex:
            raise RuntimeError("istft: a complex window needs return_complex=True")
        frames = fft.irfft(spectra if onesided else spectra[..., : n_fft // 2 + 1], n_fft, norm=norm)
    count = spectra.shape[1]
    total = n_fft + hop * (count - 1)
    added = overlap_add(arithmetic.mul(frames, weights), (total,), (hop,), (0,), (1,))
    squares = shape.expand(arithmetic.mul(weights, weights), (1, count, n_fft))
    envelope = overlap_add(squares, (total,), (hop,), (0,), (1,))
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else total - n_fft // 2 if center else total
    added, envelope = added[:, start:end], envelope[:, start:end]
    if not envelope.numel():
        raise RuntimeError(f"istft: {count} frames of {n_fft} samples leave nothing of a centred signal")
    if state.trace is None and bool(reduction.amin(arithmetic.abs(envelope.detach())) < 1e-11):
        raise RuntimeError("istft: the windows leave samples of the signal without weight (window overlap add min: 1)")
    signal = arithmetic.div(added, envelope)
    if end > total:
        signal = shape.constant_pad(signal, (0, end - total))
    return signal if input.ndim == 3 else shape.squeeze(signal, 0)


def _window(kind: Any, length: int, periodic: bool, dtype: DType | None, rest: dict[str, Any], **more: Any) -> Tensor:
    half = dtype in (dtypes.float16, dtypes.bfloat16)
    made: Tensor = kind(length, sym=not periodic, dtype=dtypes.float32 if half else dtype, **more, **rest)
    return made.to(dtype) if half else made


def hann_window(window_length: int, periodic: bool = True, *, dtype: DType | None = None, **placement: Any) -> Tensor:
    """½ − ½ cos(2π n / N); N is window_length, or window_length − 1 unless periodic.

    >>> fp.hann_window(4)
    tensor([0.0000, 0.5000, 1.0000, 0.5000])
    """
    return _window(windows.hann, window_length, periodic, dtype, placement)


def hamming_window(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, *, dtype: DType | None = None,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """alpha − beta cos(2π n / N), with N as hann_window's."""
    if window_length == 1:
        return creation.ones(1, dtype=dtype, **placement)
    return _window(windows.general_cosine, window_length, periodic, dtype, placement, a=[alpha, beta])


def blackman_window(window_length: int, periodic: bool = True, *, dtype: DType | None = None, **placement: Any) -> Tensor:
    """0.42 − 0.5 cos(2π n / N) + 0.08 cos(4π n / N), with N as hann_window's."""
    return _window(windows.blackman, window_length, periodic, dtype, placement)


def bartlett_window(window_length: int, periodic: bool = True, *, dtype: DType | None = None, **placement: Any) -> Tensor:
    """A triangle from 0 to 1 and back, with N as hann_window's."""
    return _window(windows.bartlett, window_length, periodic, dtype, placement)


def kaiser_window(
    window_length: int, periodic: bool = True, beta: float = 12.0, *, dtype: DType | None = None, **placement: Any
) -> Tensor:
    """I₀(beta √(1 − ((n − N/2) / (N/2))²)) / I₀(beta), with N as hann_window's."""
    return _window(windows.kaiser, window_length, periodic, dtype, placement, beta=beta)
