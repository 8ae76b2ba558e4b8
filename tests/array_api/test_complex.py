"""Complex arrays by the array API standard, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot import array_api as xp

NUMERIC = str.split(
    "abs acos acosh asin asinh atan atanh conj cos cosh exp expm1 imag isfinite isinf isnan log log10 log1p log2 negative "
    "positive real reciprocal round sign sin sinh sqrt square tan tanh"
)
RELATIVE = {"complex64": 2e-5, "complex128": 1e-11}


def drawn(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    return random.normal(size=shape) + 1j * random.normal(size=shape)


def same(found: dict[str, Any], expected: dict[str, Any], relative: float) -> None:
    fp.eval(found)
    for name, value in found.items():
        reference = np.asarray(expected[name])
        assert value.dtype.name == reference.dtype.name and value.shape == reference.shape, name
        np.testing.assert_allclose(value.numpy(), reference, rtol=relative, atol=relative, err_msg=name)


@pytest.mark.parametrize("dtype", list(RELATIVE))
def test_elementwise_and_folds(dtype: str) -> None:
    a, b = drawn(4, 5).astype(dtype), drawn(5, seed=1).astype(dtype)
    x, y = xp.asarray(a), xp.asarray(b)
    found: dict[str, Any] = {name: getattr(xp, name)(x) for name in NUMERIC}
    expected: dict[str, Any] = {name: getattr(np, name)(a) for name in NUMERIC}
    for name in ("add", "divide", "equal", "multiply", "not_equal", "pow", "subtract"):
        found[name], expected[name] = getattr(xp, name)(x, y), getattr(np, name)(a, b)
    for name in ("sum", "prod", "mean", "cumulative_sum", "cumulative_prod"):
        found[name], expected[name] = getattr(xp, name)(x, axis=1), getattr(np, name)(a, axis=1)
    found["number"], expected["number"] = xp.multiply(xp.real(x), 2j), a.real * 2j
    found["linspace"], expected["linspace"] = xp.linspace(0, 1 + 2j, 5, dtype=x.dtype), np.linspace(0, 1 + 2j, 5).astype(dtype)
    found["vecdot"], expected["vecdot"] = xp.vecdot(x, y), np.linalg.vecdot(a, b)
    found["matmul"], expected["matmul"] = x @ xp.matrix_transpose(x), a @ a.mT
    same(found, expected, RELATIVE[dtype])


@pytest.mark.parametrize("dtype", list(RELATIVE))
def test_transforms(dtype: str) -> None:
    a = drawn(3, 6, 5).astype(dtype)
    real = np.ascontiguousarray(a.real)
    found: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for norm in ("backward", "ortho") if dtype == "complex64" else ("forward",):
        for name in ("fft", "ifft", "irfft", "hfft", "rfft", "ihfft"):
            given = real if name in ("rfft", "ihfft") else a
            for n in (None, 9):
                key = f"{name} {n} {norm}"
                found[key] = getattr(xp.fft, name)(xp.asarray(given), n=n, axis=1, norm=norm)
                expected[key] = getattr(np.fft, name)(given, n=n, axis=1, norm=norm)
        for name in ("fftn", "rfftn", "irfftn") if norm == "ortho" else ("ifftn",):
            given = real if name == "rfftn" else a
            found[f"{name} {norm}"] = getattr(xp.fft, name)(xp.asarray(given), s=[4, 7], axes=[0, 2], norm=norm)
            expected[f"{name} {norm}"] = getattr(np.fft, name)(given, s=[4, 7], axes=[0, 2], norm=norm)
    same(found, expected, RELATIVE[dtype])


def test_kinds_and_limits() -> None:
    assert xp.isdtype(xp.complex64, "complex floating") and xp.isdtype(xp.complex128, "numeric")
    assert xp.result_type(xp.float64, xp.complex64) is xp.complex128 and xp.result_type(xp.float32, 1j) is xp.complex64
    assert xp.can_cast(xp.float32, xp.complex64) and not xp.can_cast(xp.complex64, xp.float64)
    assert xp.finfo(xp.complex128).dtype is xp.float64
    information = xp.__array_namespace_info__()
    assert information.dtypes(kind="complex floating") == {"complex64": xp.complex64, "complex128": xp.complex128}
    assert information.default_dtypes()["complex floating"] is xp.complex64
    for name in ("floor", "signbit", "trunc", "ceil"):
        with pytest.raises(TypeError, match=name):
            getattr(xp, name)(xp.asarray([1j]))
    with pytest.raises(TypeError, match="imag"):
        xp.imag(xp.ones(2))
