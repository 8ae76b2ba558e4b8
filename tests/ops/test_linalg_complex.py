"""Matrix functions of complex numbers against PyTorch: values and derivatives of what does not depend on phases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp


def numbers(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return draw(shape, seed) + 1j * draw(shape, seed + 50)


def hermitian(m: Any, a: Any) -> Any:
    return a @ a.mH + m.eye(a.shape[-1], dtype=a.dtype)


def columns(m: Any, v: Any) -> Any:
    """What of vectors does not depend on their phases."""
    return m.view_as_real(v[..., :, None, :] * v[..., None, :, :].conj())


SQUARE = {
    "det": lambda m, a, b: m.linalg.det(a), "slogdet": lambda m, a, b: m.linalg.slogdet(a)[0] * m.linalg.slogdet(a)[1],
    "logdet": lambda m, a, b: m.logdet(a), "inv": lambda m, a, b: m.linalg.inv(a), "solve": lambda m, a, b: m.linalg.solve(a, b),
    "solve right": lambda m, a, b: m.linalg.solve(a, b.mT, left=False),
    "triangular": lambda m, a, b: m.linalg.solve_triangular(a, b, upper=True),
    "cholesky": lambda m, a, b: m.linalg.cholesky(hermitian(m, a)), "upper": lambda m, a, b: m.linalg.cholesky(hermitian(m, a), upper=True),
    "cholesky_solve": lambda m, a, b: m.cholesky_solve(b, a.tril()), "matrix_exp": lambda m, a, b: m.matrix_exp(a / 4),
    "eigvalsh": lambda m, a, b: m.linalg.eigvalsh(hermitian(m, a)), "eigh": lambda m, a, b: columns(m, m.linalg.eigh(hermitian(m, a))[1]),
    "lu": lambda m, a, b: m.linalg.lu(a)[1] @ m.linalg.lu(a)[2] ** 2, "lu_solve": lambda m, a, b: m.linalg.lu_solve(*m.linalg.lu_factor(a), b, adjoint=True),
    "matrix_power": lambda m, a, b: m.linalg.matrix_power(a, -2), "nuclear": lambda m, a, b: m.linalg.matrix_norm(a, "nuc"),
}  # fmt: skip
WIDE = {
    "svdvals": lambda m, b: m.linalg.svdvals(b), "svd": lambda m, b: columns(m, m.linalg.svd(b, full_matrices=False)[0]),
    "svd product": lambda m, b: (lambda u, s, v: (u * s**2) @ v)(*m.linalg.svd(b, full_matrices=False)),
    "qr": lambda m, b: columns(m, m.linalg.qr(b)[0]), "qr of wide": lambda m, b: columns(m, m.linalg.qr(b.mT)[1].mT),
    "pinv": lambda m, b: m.linalg.pinv(b), "norm": lambda m, b: m.linalg.norm(b) + m.linalg.matrix_norm(b, 1) + m.linalg.matrix_norm(b, 2),
    "vecdot": lambda m, b: m.linalg.vecdot(b, b * 2j), "lstsq": lambda m, b: m.linalg.lstsq(b, b[:, :1] * 1j + 1, driver="gelsd")[0],
}  # fmt: skip


def test_values_and_derivatives() -> None:
    compared = Comparison()
    for name, f in SQUARE.items():
        pairs = [both(numbers(2, 3, 3, seed=3), "complex128", True), both(numbers(2, 3, 2, seed=4), "complex128", True)]
        ours, theirs = f(fp, *(a for a, _ in pairs)), f(torch, *(b for _, b in pairs))
        compared.add(name, ours, theirs, (1e-8, 1e-9))
        compare_gradients(compared, name, ours, theirs, pairs, (1e-7, 1e-8))
    for name, g in WIDE.items():
        pairs = [both(numbers(4, 3, seed=5), "complex128", True)]
        ours, theirs = g(fp, pairs[0][0]), g(torch, pairs[0][1])
        compared.add(name, ours, theirs, (1e-8, 1e-9))
        if name != "lstsq":
            compare_gradients(compared, name, ours, theirs, pairs, (1e-7, 1e-8))
    compared.check()


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_eigenvalues_of_any_matrices(dtype: str) -> None:
    compared = Comparison()
    values = draw((3, 4, 4), 9) if dtype == "float64" else numbers(3, 4, 4, seed=9)
    x, r = both(values, dtype, True)
    power = [m.linalg.eigvals(v) ** 3 for m, v in ((fp, x), (torch, r))]
    compared.add("sums of powers", power[0].sum(-1), power[1].sum(-1))
    compare_gradients(compared, "sums of powers", power[0].sum(-1), power[1].sum(-1), [(x, r)])
    outer = []
    for m, v in ((fp, x), (torch, r)):
        found = m.linalg.eig(v)
        outer.append((columns(m, found[1]) * found[0].real[..., None, None, :, None]).sum(-2))
    compared.add("vectors", *outer)
    compare_gradients(compared, "vectors", *outer, [(x, r)], (1e-7, 1e-8))
    compared.check()
    assert fp.linalg.eigvals(fp.ones(2, 2)).dtype is fp.complex64
    w, v = fp.linalg.eig(x)
    assert fp.allclose(x.to(v.dtype) @ v, v * w.unsqueeze(-2))


def test_single_precision_stays() -> None:
    a = fp.tensor(numbers(3, 3)).to(fp.complex64)
    u, s, vh = fp.linalg.svd(a)
    assert (u.dtype, s.dtype, vh.dtype) == (fp.complex64, fp.float32, fp.complex64)
    assert fp.linalg.inv(a).dtype is fp.complex64 and fp.linalg.slogdet(a)[1].dtype is fp.float32
    q, r = fp.linalg.qr(a)
    assert fp.allclose(q @ r, a, atol=1e-5) and fp.allclose(q.mH @ q, fp.eye(3, dtype=a.dtype), atol=1e-5)
    with pytest.raises(RuntimeError, match="must be equal"):
        fp.linalg.solve(a, fp.ones(3))


def test_norms_keep_dimensions_and_one_triangle_counts() -> None:
    compared = Comparison()
    x, r = both(numbers(3, 4), "complex128", True)
    for dim in (None, 0, (0, 1)):
        found, expected = (m.linalg.norm(v, dim=dim, keepdim=True) for m, v in ((fp, x), (torch, r)))
        compared.add(f"norm {dim}", found, expected)
        compare_gradients(compared, f"norm {dim}", found.sum(), expected.sum(), [(x, r)])
    y, s = both(numbers(3, 3), "complex128")
    compared.add("pinv", fp.linalg.pinv(y, hermitian=True), torch.linalg.pinv(s, hermitian=True))
    compared.check()
