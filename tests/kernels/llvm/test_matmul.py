"""How matrix products are shared among threads and cut into blocks, against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import firepot as fp
from firepot.graph import dtypes
from firepot.kernels.llvm import matmul
from firepot.kernels.llvm.epilogue import StoreEpilogue
from firepot.kernels.llvm.matmul import Matmul
from firepot.runtime import pool
from firepot.runtime.processor import processor

RANDOM = np.random.default_rng(0)


@pytest.fixture
def threads():
    before = pool.get_num_threads()
    yield pool.set_num_threads
    pool.set_num_threads(before)


# Tiles are of about 14 rows by 32 columns: threads meet within a row of tiles, and take several blocks of rows.
SHAPES = {
    "within a row of tiles": ((40, 90), (90, 500)),
    "one row of tiles": ((9, 70), (70, 700)),
    "one column of tiles": ((300, 90), (90, 20)),
    "few terms": ((130, 3), (3, 170)),
    "blocks of rows": ((290, 1500), (1500, 70)),
    "blocks of terms": ((200, 4130), (4130, 40)),
    "batches": ((5, 20, 40), (5, 40, 50)),
    "more threads' borders than batches": ((2, 100, 40), (2, 40, 70)),
    "one left operand": ((60, 40), (5, 40, 50)),
    "one right operand": ((5, 60, 40), (40, 50)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("turned", [False, True])
def test_results_are_those_of_one_thread(name, turned, dtype, threads):
    x, y = (fp.tensor(RANDOM.standard_normal(s).astype(np.float32)).to(getattr(fp, dtype)) for s in SHAPES[name])
    a, b = (t.to(fp.float64).numpy() for t in (x, y))
    if turned:
        x, y = (fp.tensor(t.float().numpy().swapaxes(-1, -2)).to(getattr(fp, dtype)).transpose(-1, -2) for t in (x, y))
    product = fp.jit(lambda x, y: (x @ y, (x @ y + 1).float()))
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append([t.to(fp.float64).numpy() for t in product(x, y)])
    bound = 2e-6 * np.sqrt(a.shape[-1]) * (np.abs(a) @ np.abs(b)) + 1e-6
    half = 2.0**-7 if dtype == "bfloat16" else 0
    assert np.all(np.abs(found[0][0] - a @ b) <= bound + half * np.abs(a @ b))
    assert np.all(np.abs(found[0][1] - (a @ b + 1)) <= bound + half * (np.abs(a @ b) + 2))
    for results in found[1:]:
        for result, first in zip(results, found[0], strict=True):
            assert np.array_equal(result, first)


def test_a_thread_holds_a_block_of_rows_only():
    tall = Matmul(1, 100_000, 64, 512, (0, 512, 1), (0, 64, 1), dtypes.float32, dtypes.float32)
    cpu = replace(processor(), vector_bytes=64, vector_registers=32)
    kernel = matmul.lower(tall, StoreEpilogue(2, (0, 64, 1), dtypes.float32), cpu)
    assert kernel.scratch <= 400 << 10
    assert kernel.workspace < 2 * 4 * 64 * 512


def test_sums_of_millions_of_terms_are_accurate():
    """All terms have one sign, so that rounding in one long sum would go one way: to 4e-3 of the result."""
    x = RANDOM.random((2_000_000, 4), np.float32)
    product = fp.tensor(x)
    found = (product.T @ product).numpy()
    expected = x.T.astype(np.float64) @ x.astype(np.float64)
    assert np.all(np.abs(found - expected) <= 1e-5 * expected)
