"""Decompositions and solvers: values, derivatives, batches and errors, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp


def square(*batch: int, seed: int = 0):
    """Well conditioned matrices."""
    return draw((*batch, 4, 4), seed) + 4 * np.eye(4)


@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_systems_and_their_derivatives(batch):
    compared = Comparison()
    a, ra = both(square(*batch), requires_grad=True)
    b, rb = both(draw((*batch, 4, 2), 1), requires_grad=True)
    for name, arguments in [("solve", 2), ("inv", 1), ("det", 1)]:
        ours = getattr(fp.linalg, name)(*(a, b)[:arguments])
        theirs = getattr(torch.linalg, name)(*(ra, rb)[:arguments])
        compared.add(name, ours, theirs)
        compare_gradients(compared, name, ours, theirs, [(a, ra), (b, rb)][:arguments])
    compared.check()


def test_decompositions_and_their_derivatives():
    compared = Comparison()
    a, ra = both(draw((2, 5, 3)), requires_grad=True)
    for i, (x, y) in enumerate(zip(fp.linalg.qr(a), torch.linalg.qr(ra), strict=True)):
        compared.add(f"qr {i}", x, y)
        compare_gradients(compared, f"qr {i}", x, y, [(a, ra)])
    u, s, vh = fp.linalg.svd(a, full_matrices=False)
    ru, rs, rvh = torch.linalg.svd(ra, full_matrices=False)
    compared.add("values", s, rs)
    compared.add("product", (u * s.unsqueeze(-2)) @ vh, ra)
    compare_gradients(compared, "vectors", (u @ vh).abs(), (ru @ rvh).abs(), [(a, ra)])
    spd, rspd = both(square(2) @ square(2).swapaxes(-1, -2), requires_grad=True)
    lower, rlower = fp.linalg.cholesky(spd), torch.linalg.cholesky(rspd)
    compared.add("cholesky", lower, rlower)
    compare_gradients(compared, "cholesky", lower, rlower, [(spd, rspd)])
    values, rvalues = fp.linalg.eigvalsh(spd), torch.linalg.eigvalsh(rspd)
    compared.add("eigvalsh", values, rvalues)
    compare_gradients(compared, "eigvalsh", values, rvalues, [(spd, rspd)])
    compared.check()


def test_second_derivative_of_a_solution():
    a, ra = both(square(), requires_grad=True)
    b, rb = both(draw((4,), 1), requires_grad=True)
    compared = Comparison()
    (g,) = fp.autograd.grad(fp.linalg.solve(a, b).square().sum(), [a], create_graph=True)
    (rg,) = torch.autograd.grad(torch.linalg.solve(ra, rb).square().sum(), [ra], create_graph=True)
    compared.add("first", g, rg)
    found = fp.autograd.grad((g * g).sum(), [a, b])
    expected = torch.autograd.grad((rg * rg).sum(), [ra, rb])
    compared.add("second", found, expected, (1e-7, 1e-9))
    compared.check()


def test_errors_name_the_matter():
    with pytest.raises(fp.linalg.LinAlgError, match="inv: Singular"):
        fp.linalg.inv(fp.zeros(2, 2))
    with pytest.raises(RuntimeError, match=r"square matrices, got shape \[2, 3\]"):
        fp.linalg.inv(fp.zeros(2, 3))
    with pytest.raises(RuntimeError, match="expected float32, float64 or complex, got float16"):
        fp.linalg.inv(fp.eye(2, dtype=fp.float16))
    with pytest.raises(fp.TraceError):
        fp.jit(lambda x: fp.linalg.inv(x))(fp.eye(2))
