"""Products with few rows against float64, with and without element-wise work after them."""

from __future__ import annotations

import numpy as np
import pytest

import firepot as fp
from firepot.graph import dtypes
from firepot.kernels.llvm import matmul_rows
from firepot.kernels.llvm.matmul import Matmul
from firepot.runtime import pool
from firepot.runtime.processor import processor

RANDOM = np.random.default_rng(0)
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2e-2, "float16": 2e-3}


def product(m, n, k, x_strides=None, y_strides=None, batch=1):
    return Matmul(
        batch, m, n, k, x_strides or (m * k, k, 1), y_strides or (n * k, 1, k), dtypes.float32, dtypes.float32
    )  # fmt: skip


def test_where_it_applies():
    cpu = processor()
    assert matmul_rows.applies(product(1, 512, 784), cpu)
    assert matmul_rows.applies(product(4, 10, 64, batch=3), cpu)
    assert not matmul_rows.applies(product(5, 512, 784), cpu)
    assert not matmul_rows.applies(product(1, 10, 64, y_strides=(0, 1, 64), batch=8), cpu)  # eight rows in effect
    assert not matmul_rows.applies(product(1, 512, 784, y_strides=(0, 512, 1)), cpu)
    assert not matmul_rows.applies(product(1, 512, 784, x_strides=(0, 1, 2)), cpu)
    assert not matmul_rows.applies(product(1, 512, 1), cpu)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m, n, k", [(1, 1, 64), (1, 37, 65), (2, 16, 100), (3, 33, 64), (4, 10, 79), (1, 200, 333)])
def test_linear(dtype, m, n, k):
    x, w, bias = (fp.tensor(RANDOM.standard_normal(s).astype(np.float32)).to(getattr(fp, dtype))
                  for s in ((m, k), (n, k), (n,)))  # fmt: skip
    a, b, c = (t.to(fp.float64).numpy() for t in (x, w, bias))
    scale = np.abs(a) @ np.abs(b).T + 1
    found = fp.jit(lambda: (x @ w.T, fp.relu(x @ w.T + bias)))()
    for value, expected in zip(found, (a @ b.T, np.maximum(a @ b.T + c, 0)), strict=True):
        assert value.shape == (m, n)
        assert np.all(np.abs(value.to(fp.float64).numpy() - expected) <= TOLERANCE[dtype] * scale)


def test_integers_are_exact():
    x, w = (RANDOM.integers(-50, 50, s) for s in ((2, 70), (19, 70)))
    assert np.array_equal((fp.tensor(x) @ fp.tensor(w).T).numpy(), x @ w.T)


def test_batches_and_offsets():
    x, w = (RANDOM.standard_normal(s) for s in ((3, 2, 90), (3, 21, 90)))
    a, b = fp.tensor(x), fp.tensor(w)
    assert np.allclose((a @ b.transpose(1, 2)).numpy(), x @ w.transpose(0, 2, 1), rtol=1e-12, atol=1e-12)
    part = (a[:, :, 8:85] @ b[:, :, 8:85].transpose(1, 2)).numpy()
    assert np.allclose(part, x[:, :, 8:85] @ w[:, :, 8:85].transpose(0, 2, 1), rtol=1e-12, atol=1e-12)


def test_nan_and_infinity_stay_in_their_column():
    x, w = np.ones((1, 50), np.float32), np.ones((20, 50), np.float32)
    w[3, 49], w[19, 0] = np.nan, np.inf
    found = (fp.tensor(x) @ fp.tensor(w).T).numpy()[0]
    assert np.isnan(found[3]) and found[19] == np.inf
    assert np.array_equal(np.delete(found, [3, 19]), np.full(18, 50, np.float32))


def test_same_result_with_any_number_of_threads():
    x, w = (fp.tensor(RANDOM.standard_normal(s).astype(np.float32)) for s in ((1, 300), (400, 300)))
    before = pool.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            pool.set_num_threads(threads)
            found.append((x @ w.T).numpy())
    finally:
        pool.set_num_threads(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
