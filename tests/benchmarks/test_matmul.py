from typing import Any

import numpy as np
import pytest

from benchmarks import matmul
from firepot.runtime import pool


@pytest.mark.parametrize("transposes", matmul.TRANSPOSES)
@pytest.mark.parametrize("peer", list(matmul.PEERS))
def test_every_peer_computes_the_product(peer: str, transposes: str) -> None:
    shape = (24, 40, 33)
    x, y = matmul.operands(shape, transposes)
    expected = (x.T if transposes[0] == "t" else x) @ (y.T if transposes[1] == "t" else y)
    found = matmul._product(peer, pool.get_num_threads(), shape, transposes)()
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", matmul.NARROW)
@pytest.mark.parametrize("peer", ["firepot", "mkl"])
def test_narrow_products(peer: str, dtype: str) -> None:
    x, y = matmul.operands((24, 40, 33), "nt", dtype)
    found = matmul._product(peer, pool.get_num_threads(), (24, 40, 33), "nt", dtype)()
    found = found.float().numpy() if dtype == "bfloat16" else np.asarray(found)
    np.testing.assert_allclose(found, x.astype(np.float64) @ y.T, rtol=0, atol=0.1 if dtype == "bfloat16" else 0)


def test_narrow_table_names_both_ratios() -> None:
    def row(dtype: str, firepot: float, mkl: float) -> dict[str, Any]:
        times = {"firepot": [[firepot]], "mkl": [[mkl]]}
        return {"shape": [100, 100, 100], "transposes": "nt", "threads": 1, "dtype": dtype, "times": times}

    results = {"narrow": [row("float32", 2e-3, 2e-3), row("int8", 5e-4, 1e-3)]}
    assert matmul.narrow_table(results)[1:] == [["(100, 100, 100)", "1", "int8", "4", "4.00", "2.00"]]


def test_summary_is_over_the_transpositions() -> None:
    def row(transposes: str, firepot: float) -> dict[str, Any]:
        times = {"firepot": [[firepot]], "openblas": [[2e-3]], "mkl": [[1e-3]]}
        return {"shape": [100, 100, 100], "transposes": transposes, "threads": 1, "times": times}

    results = {"rows": [row("nn", 1e-3), row("tt", 4e-3)], "peak": {"1": 4.0}}
    line = matmul.summary_table(results)[1]
    # 2 and 0.5 GFLOP/s.
    assert line == ["(100, 100, 100)", "1", "1", "25 %", "12 %", "1.00 (0.50)", "0.50 (0.25)", "–"]
