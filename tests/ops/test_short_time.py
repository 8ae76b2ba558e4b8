"""Short-time Fourier transforms and windows against PyTorch, and back to the signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp

CASES: list[dict[str, Any]] = [
    {}, {"hop_length": 5, "normalized": True}, {"onesided": False}, {"win_length": 12}, {"pad_mode": "circular"},
    {"center": False, "hop_length": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", CASES, ids=str)
def test_there_and_back(options: dict[str, Any]) -> None:
    compared = Comparison()
    x, r = both(draw((2, 50), 1), requires_grad=True)
    width = options.get("win_length", 16)
    w, rw = fp.hamming_window(width, dtype=fp.float64), torch.hamming_window(width, dtype=torch.float64)
    spectra = fp.stft(x, 16, window=w, return_complex=True, **options)
    expected = torch.stft(r, 16, window=rw, return_complex=True, **options)
    compared.add("stft", spectra, expected)
    back = {k: v for k, v in options.items() if k != "pad_mode"}
    signal = fp.istft(spectra, 16, window=w, **back)
    compared.add("istft", signal, torch.istft(expected, 16, window=rw, **back))
    compare_gradients(compared, "istft", signal.square().sum(), torch.istft(expected, 16, window=rw, **back).square().sum(),
                      [(x, r)])  # fmt: skip
    compared.check()
    assert np.allclose(signal.detach().numpy(), x.detach().numpy()[:, : signal.shape[1]])


def test_transforms_and_real_results() -> None:
    x = fp.tensor(draw((3, 40), 2))
    w = fp.hann_window(8, dtype=fp.float64)

    def round_trip(row: fp.Tensor) -> fp.Tensor:
        return fp.istft(fp.stft(row, 8, 2, window=w, return_complex=True), 8, 2, window=w)

    assert fp.allclose(fp.vmap(round_trip)(x), x)
    assert fp.allclose(fp.jit(round_trip)(x[0]), x[0])
    pairs = fp.stft(x, 8, return_complex=False)
    assert pairs.shape[-1] == 2
    assert fp.allclose(fp.view_as_complex(pairs), x.stft(8, return_complex=True))


@pytest.mark.parametrize("name", ["hann", "hamming", "blackman", "bartlett", "kaiser"])
def test_windows(name: str) -> None:
    for length in (0, 1, 2, 9):
        for periodic in (True, False):
            found = getattr(fp, name + "_window")(length, periodic).numpy()
            expected = getattr(torch, name + "_window")(length, periodic).numpy()
            assert found.shape == expected.shape
            assert np.allclose(found, expected, atol=1e-6)
    assert fp.hann_window(4, dtype=fp.float16).dtype is fp.float16


def test_errors() -> None:
    x = fp.ones(20)
    for call, text in (
        (lambda: fp.stft(x, 8), "return_complex must be given"),
        (lambda: fp.stft(x, 64, center=False, return_complex=True), "at most the 20 samples"),
        (lambda: fp.stft(x, 8, window=fp.ones(5), return_complex=True), r"window of shape \[8\]"),
        (lambda: fp.stft(x, 8, 0, return_complex=True), "hop_length must be above 0"),
        (lambda: fp.istft(x, 8), "expected complex"),
        (lambda: fp.istft(fp.ones(4, 3, dtype=fp.complex64), 16, onesided=True), "expected 9 frequencies"),
        (lambda: fp.istft(fp.ones(5, 3, dtype=fp.complex64), 8, window=fp.zeros(8)), "without weight"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()
