"""Fourier transforms against PyTorch and NumPy: values, arguments, derivatives, capture, mapping, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp

REAL = ("rfft", "ihfft")


def numbers(*shape: int) -> np.ndarray[Any, Any]:
    return draw(shape, 1) + 1j * draw(shape, 2)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_lengths(dtype: str) -> None:
    """Small, composite, prime and large prime ones."""
    found, expected = {}, {}
    for n in (1, 2, 15, 64, 96, 127, 521, 2 * 67):
        x = numbers(2, n).astype(dtype)
        for name in ("fft", "ifft"):
            found[name, n], expected[name, n] = getattr(fp.fft, name)(fp.tensor(x)), getattr(np.fft, name)(x.astype("complex128"))
        found["irfft", n], expected["irfft", n] = fp.fft.irfft(fp.fft.rfft(fp.tensor(x).real), n), x.real
    fp.eval(list(found.values()))
    relative = 1e-6 if dtype == "complex64" else 3e-15
    for key, value in found.items():
        assert np.abs(value.numpy() - expected[key]).max() <= relative * np.abs(expected[key]).max(), key
        assert value.dtype.to_complex().name == dtype


def test_arguments() -> None:
    compared = Comparison()
    (x, r), (a, b) = both(numbers(3, 6, 5), "complex128"), both(draw((3, 6, 5)), "float64")
    for norm in (None, "backward", "ortho", "forward"):
        for name in ("fft", "ifft", "irfft", "hfft", "rfft", "ihfft"):
            ours, theirs = (a, b) if name in REAL else (x, r)
            for n, dim in ((None, -1), (9, 0)) if norm else ((4, 1),):
                compared.add(f"{name} {n} {dim} {norm}", getattr(fp.fft, name)(ours, n, dim, norm), getattr(torch.fft, name)(theirs, n, dim, norm))
        if norm == "backward":
            continue
        for name in ("fftn", "ifftn", "irfftn", "hfftn", "rfftn", "ihfftn"):
            ours, theirs = (a, b) if name.removesuffix("n") in REAL else (x, r)
            for s, dim in ((None, (0, 2)), ((4, -1), (2, 1))) if norm else ((None, None), ((4, 7), None)):
                compared.add(f"{name} {s} {dim} {norm}", getattr(fp.fft, name)(ours, s, dim, norm), getattr(torch.fft, name)(theirs, s, dim, norm))
            two = name.removesuffix("n") + "2"
            compared.add(f"{two} {norm}", getattr(fp.fft, two)(ours, norm=norm), getattr(torch.fft, two)(theirs, norm=norm))
    compared.add("integers", fp.fft.fft(fp.arange(4)), torch.fft.fft(torch.arange(4)))
    assert fp.fft.fft(x[:0]).shape == (0, 6, 5)
    compared.add("0-d", fp.fft.fftn(x[0, 0, 0]), torch.fft.fftn(r[0, 0, 0]))
    compared.add("strided", fp.fft.fft(x.mT[:, ::2]), torch.fft.fft(r.mT[:, ::2]))
    compared.check()


def test_derivatives() -> None:
    compared = Comparison()
    for name in ("fft", "ifft", "irfft", "hfft", "rfft", "ihfft", "fftn", "irfftn", "rfft2"):
        values = draw((3, 5)) if name in (*REAL, "rfft2") else numbers(3, 5)
        pair = both(values, "complex128" if np.iscomplexobj(values) else "float64", requires_grad=True)
        ours, theirs = getattr(fp.fft, name)(pair[0]), getattr(torch.fft, name)(pair[1])
        compare_gradients(compared, name, ours, theirs, [pair])
        second = []
        for m, x, y in ((fp, pair[0], ours), (torch, pair[1], theirs)):
            (g,) = m.autograd.grad((y.abs() ** 4).sum(), x, create_graph=True)
            second.append(m.autograd.grad((g.abs() ** 2).sum(), x))
        compared.add(f"{name} twice", *second)
    compared.check()


def test_captured_and_mapped() -> None:
    x = fp.tensor(numbers(4, 12))
    whole = fp.fft.fft(x)
    assert fp.allclose(fp.jit(fp.fft.fft)(x), whole)
    assert fp.allclose(fp.vmap(fp.fft.fft)(x), whole)
    assert fp.allclose(fp.vmap(fp.grad(lambda v: (fp.fft.ifft(v).abs() ** 2).sum()))(x), 2 * x / 12)


def test_frequencies_and_shifts() -> None:
    compared = Comparison()
    for n in (1, 4, 7):
        compared.add(f"frequencies {n}", [fp.fft.fftfreq(n, 0.5), fp.fft.rfftfreq(n)], [torch.fft.fftfreq(n, 0.5), torch.fft.rfftfreq(n)])
        x, r = both(numbers(n, 3), "complex64")
        compared.add(f"shift {n}", [fp.fft.fftshift(x), fp.fft.ifftshift(x, 0)], [torch.fft.fftshift(r), torch.fft.ifftshift(r, 0)])
    compared.check()


def test_errors() -> None:
    z = fp.ones(3, dtype=fp.complex64)
    for call, text in (
        (lambda: fp.fft.rfft(z), "rfft: expected a real tensor, got complex64"),
        (lambda: fp.fft.fft(z, 0), r"invalid number of data points \(0\)"),
        (lambda: fp.fft.fft(fp.ones(3, dtype=fp.float16)), "float16 is not supported"),
        (lambda: fp.fft.fft(z, norm="other"), "norm must be"),
        (lambda: fp.fft.fftn(z, s=(2, 2)), "2 sizes do not go"),
        (lambda: fp.fft.fft2(fp.ones(3, 3), dim=(0, 0)), "must be different"),
        (lambda: fp.fft.irfft(fp.ones(1)), r"\(0\)"),
        (lambda: fp.fft.fft(fp.ones(())), "at least one dimension"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()
    with pytest.raises(IndexError):
        fp.fft.fft(z, dim=1)
