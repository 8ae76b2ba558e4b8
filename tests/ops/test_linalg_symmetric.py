"""L D Lᵀ of symmetric and Hermitian matrices, and systems with them, against PyTorch's LAPACK."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import Comparison, both

import firepot as fp


def indefinite(n, dtype, hermitian, zero_diagonal, seed):
    draw = np.random.default_rng(seed)
    a = draw.standard_normal((n, n)) + (1j * draw.standard_normal((n, n)) if dtype.startswith("complex") else 0)
    a = a + (a.conj() if hermitian else a).T
    if zero_diagonal:  # every pivot is a block of two rows
        np.fill_diagonal(a, 0)
    return a.astype(dtype)


@pytest.mark.parametrize("hermitian", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_factors_and_pivots_are_lapacks(dtype, hermitian):
    compared = Comparison()
    widths = set()
    for n in (0, 1, 2, 3, 5, 8):
        for zero_diagonal in (False, True):
            a = indefinite(n, dtype, hermitian, zero_diagonal, n)
            ours = fp.linalg.ldl_factor_ex(fp.from_numpy(a), hermitian=hermitian)
            theirs = torch.linalg.ldl_factor_ex(torch.from_numpy(a), hermitian=hermitian)
            for name, x, y in zip(ours._fields, ours, theirs, strict=True):
                compared.add(f"{name} {n}", x, y)
            widths |= set(np.sign(ours.pivots.numpy()))
    compared.check()
    assert widths == {-1, 1}


def test_only_the_lower_triangle_and_the_real_diagonal_count():
    a = indefinite(5, "complex128", True, False, 1)
    more = a + np.triu(np.full((5, 5), 7), 1) + 1j * np.eye(5)
    for x, y in zip(*(fp.linalg.ldl_factor(fp.from_numpy(m), hermitian=True) for m in (a, more)), strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy())


@pytest.mark.parametrize("hermitian", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_systems_their_batches_and_derivatives(dtype, hermitian):
    a = np.stack([indefinite(6, dtype, hermitian, zero, seed) for seed, zero in enumerate((False, True, False))])
    b = np.random.default_rng(5).standard_normal((2, 1, 6, 2)).astype(dtype)
    x, rx = both(b, dtype, requires_grad=True)
    factors = fp.linalg.ldl_factor(fp.from_numpy(a), hermitian=hermitian)
    found, expected = fp.linalg.ldl_solve(*factors, x, hermitian=hermitian), torch.linalg.solve(torch.from_numpy(a), rx)
    compared = Comparison()
    compared.add("solution", found, expected)
    (g,) = fp.autograd.grad((found * found.conj()).real.sum(), [x], create_graph=True)
    (rg,) = torch.autograd.grad((expected * expected.conj()).real.sum(), [rx], create_graph=True)
    compared.add("gradient", g, rg)
    (h,), (rh,) = fp.autograd.grad(g.abs().sum(), [x]), torch.autograd.grad(rg.abs().sum(), [rx])
    compared.add("second", h, rh)
    each = fp.vmap(lambda a, x: fp.linalg.ldl_solve(*fp.linalg.ldl_factor(a, hermitian=hermitian), x, hermitian=hermitian))
    compared.add("vmap", each(fp.from_numpy(a), fp.from_numpy(b[0].repeat(3, 0))), expected[0])
    compared.check()


def test_errors_name_the_matter():
    zero = fp.zeros(2, 2)
    assert fp.linalg.ldl_factor_ex(zero).info.item() == 1
    for call in (lambda: fp.linalg.ldl_factor(zero), lambda: fp.linalg.ldl_factor_ex(zero, check_errors=True)):
        with pytest.raises(fp.linalg.LinAlgError, match="ldl_factor: pivot 1 is exactly zero"):
            call()
    with pytest.raises(RuntimeError, match=r"square matrices, got shape \[2, 3\]"):
        fp.linalg.ldl_factor(fp.ones(2, 3))
    packed, pivots = fp.linalg.ldl_factor(fp.eye(3, requires_grad=True))
    with pytest.raises(RuntimeError, match=r"pivots must be int32 \[3\], got int64\[3\]"):
        fp.linalg.ldl_solve(packed, pivots.long(), fp.ones(3, 1))
    with pytest.raises(RuntimeError, match="expected float32 with 3 rows"):
        fp.linalg.ldl_solve(packed, pivots, fp.ones(4, 1))
    result = fp.linalg.ldl_solve(packed.detach().requires_grad_(), pivots, fp.ones(3, 1))
    with pytest.raises(RuntimeError, match="no derivative by LD"):
        result.sum().backward()
