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


def test_summary_is_over_the_transpositions() -> None:
    def row(transposes: str, firepot: float) -> dict[str, Any]:
        times = {"firepot": [[firepot]], "openblas": [[2e-3]], "mkl": [[1e-3]]}
        return {"shape": [100, 100, 100], "transposes": transposes, "threads": 1, "times": times}

    results = {"rows": [row("nn", 1e-3), row("tt", 4e-3)], "peak": {"1": 4.0}}
    line = matmul.summary_table(results)[1]
    # 2 and 0.5 GFLOP/s.
    assert line == ["(100, 100, 100)", "1", "1", "25 %", "12 %", "1.00 (0.50)", "0.50 (0.25)", "–"]
