"""Folds over columns that are swept in memory order, against NumPy in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import firepot as fp
from firepot.runtime import pool


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = pool.get_num_threads()
    yield
    pool.set_num_threads(before)


@pytest.mark.parametrize(("rows", "columns"), [(700, 256), (2100, 128), (9000, 48), (40, 4096), (513, 272), (601, 250)])
def test_sums_of_columns(rows, columns):
    random = np.random.default_rng(rows)
    x, y = random.standard_normal((2, rows, columns)).astype(np.float32)
    scale, shift = random.standard_normal((2, columns)).astype(np.float32)
    x[3, 5] = np.nan
    x[4, 6] = np.inf
    results = []
    for threads in (1, 3):
        pool.set_num_threads(threads)
        a, b, s, t = (fp.tensor(v) for v in (x, y, scale, shift))
        inverse = fp.rsqrt(s * s + 1.0) * t  # the same for every row, and not free
        z = fp.where(a * inverse + t > 0, b, 0.0)
        values = [z.sum(0), (z * (a - s)).sum(0), z + b, (b * b).amax(0), (a > 3).any(0)]
        fp.eval(*values)
        results.append([v.numpy() for v in values])
    wide, inverse = x.astype(np.float64), 1 / np.sqrt(scale.astype(np.float64) ** 2 + 1) * shift
    z = np.where(x * inverse.astype(np.float32) + shift > 0, y, 0)
    with np.errstate(invalid="ignore"):
        expected = [z.sum(0), (z * (wide - scale)).sum(0), z + y, (y * y).max(0), (x > 3).any(0)]
    for got, want in zip(results[0], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-3)
    for got, other in zip(*results, strict=True):
        np.testing.assert_array_equal(got, other)


def test_statistics_of_channels():
    random = np.random.default_rng(1)
    x = (random.standard_normal((4, 64, 23, 17)) * 3 + 40).astype(np.float32)
    bn = fp.nn.BatchNorm2d(64)
    out = bn(fp.tensor(x).permute(0, 1, 2, 3))
    wide = x.astype(np.float64)
    mean, var = wide.mean((0, 2, 3), keepdims=True), wide.var((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(out.detach().numpy(), (wide - mean) / np.sqrt(var + 1e-5), atol=2e-5)
