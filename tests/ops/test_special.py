"""Special functions against PyTorch, in value and derivative, at ordinary and at singular points."""

from __future__ import annotations

import numpy as np
import torch
from oracle import Comparison, both, compare_gradients

import firepot as fp

LINE = np.concatenate([np.linspace(-12.3, 12.4, 41), [0.0, np.inf, -np.inf, np.nan, 1e-7, 30.0, 300.0]])
ONE = ["i0e", "i1e", "erfcx", "ndtr", "log_ndtr", "entr", "bessel_j0", "bessel_j1"]
TWO = ["zeta", "xlog1py", "gammainc", "gammaincc"]
DEGREES = ["chebyshev_polynomial_t", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p"]


def test_values_over_the_line():
    compared = Comparison()
    x, rx = both(LINE)
    for name in ONE:
        finite = np.isfinite(LINE) if name.startswith(("bessel", "i1")) else slice(None)
        given, reference = both(LINE[finite])
        compared.add(name, getattr(fp.special, name)(given), getattr(torch.special, name)(reference), (1e-11, 1e-13))
    compared.add("y0", fp.special.bessel_y0(x[:41]), torch.special.bessel_y0(rx[:41]), (1e-11, 1e-13))
    compared.add("k1", fp.special.modified_bessel_k1(x[:41]), torch.special.modified_bessel_k1(rx[:41]), (1e-11, 1e-13))
    compared.add("airy", fp.special.airy_ai(x[:41]), torch.special.airy_ai(rx[:41]), (1e-9, 1e-12))
    p, rp = both(np.concatenate([np.linspace(0, 1, 33), [1e-20, 1 - 1e-15, -0.1, 1.1, np.nan]]))
    compared.add("ndtri", fp.special.ndtri(p), torch.special.ndtri(rp), (1e-11, 1e-12))
    compared.check()


def test_two_arguments():
    compared = Comparison()
    grid = np.array(np.meshgrid([0.0, 0.3, 1.0, 2.5, 7.0, 30.0], [0.0, 0.1, 1.0, 5.0, 29.0, 80.0])).reshape(2, -1)
    (a, ra), (b, rb) = both(grid[0]), both(grid[1])
    for name in TWO:
        # PyTorch's series for a near x divides by the root of a π rounded to float32: P(30, 29) is right to 1e-9 only.
        compared.add(name, getattr(fp.special, name)(a, b), getattr(torch.special, name)(ra, rb), (1e-9, 1e-14))
    x, rx = both(np.linspace(-1.4, 1.3, 16))
    n, rn = both(np.arange(16.0) - 2)
    for name in DEGREES:
        compared.add(name, getattr(fp.special, name)(x, n), getattr(torch.special, name)(rx, rn), (1e-11, 1e-12))
    i, ri = both(np.array([0, 0, 12, -18, 2**62, 7]), "int64")
    j, rj = both(np.array([0, 5, -18, 27, 2**40 * 3, 0]), "int64")
    compared.add("gcd", fp.gcd(i, j), torch.gcd(ri, rj))
    compared.check()


def test_derivatives():
    compared = Comparison()
    x, rx = both(np.array([0.2, 0.7, 1.5, 3.0]), requires_grad=True)
    for name in ["i0", "i1", "i0e", "i1e", "erfcx", "ndtr", "log_ndtr", "entr", "digamma", "gammaln"]:
        ours, theirs = getattr(fp.special, name)(x), getattr(torch.special, name)(rx)
        compare_gradients(compared, name, ours, theirs, [(x, rx)], (1e-9, 1e-12))
    for n in (1, 2):
        ours, theirs = fp.special.polygamma(n, x), torch.special.polygamma(n, rx)
        compare_gradients(compared, f"polygamma {n}", ours, theirs, [(x, rx)], (1e-9, 1e-12))
    a, ra = both(np.array([0.5, 1.0, 2.0, 4.0]))
    ours, theirs = fp.special.gammainc(a, x), torch.special.gammainc(ra, rx)
    compare_gradients(compared, "gammainc", ours, theirs, [(x, rx)], (1e-9, 1e-12))
    compared.check()
