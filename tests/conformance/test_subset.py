"""A few samples of a few entries of PyTorch's operator database; `make conformance` runs all of them."""

from __future__ import annotations

import pytest
import torch

from conformance import operators, report

ENTRIES = [
    "add", "where", "cumprod", "prod", "logcumsumexp", "quantile", "masked_scatter", "index_reduce/mean", "take_along_dim",
    "diagonal_scatter", "kron", "cov", "linalg.solve", "linalg.qr", "linalg.svd", "linalg.lu_factor", "special.i1",
    "special.log_ndtr", "polygamma/polygamma_n_1", "igamma", "gcd", "nn.functional.grid_sample",
    "nn.functional.embedding_bag", "nn.functional.multilabel_margin_loss", "nn.functional.max_unpool2d",
    "stft", "as_strided_scatter", "softmax/with_dtype",
]  # fmt: skip


@pytest.fixture(scope="module")
def database():
    return operators.entries()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENTRIES)
def test_samples_agree_with_pytorch(database, name):
    torch.manual_seed(0)
    result = operators.check(database[name], samples=2, checks=("float32", "int64", "gradient", "second", "errors"))
    assert report.passes(result), "\n".join(report.lines(result))
    assert sum(c["passed"] for c in result["checks"].values()) >= 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["where", "gather", "sort", "cat", "einsum", "index_put", "nn.functional.layer_norm", "nn.functional.conv2d",
             "linalg.lu", "linalg.cholesky_ex"]
)
def test_samples_under_vmap_and_jit(database, name):
    torch.manual_seed(0)
    result = operators.check(database[name], samples=1, checks=("vmap", "jit"))
    assert report.passes(result), "\n".join(report.lines(result))
    assert result["checks"]["vmap"]["passed"] == 3
    captured = result["checks"]["jit"]
    assert (captured["skipped"] if name.startswith("linalg.") else captured["passed"]) == 1  # LAPACK needs values


def test_a_call_that_is_not_mapped_right_is_found_out(database):
    """The comparison can fail: under vmap, the mean of the tensor that a function sees is not that of one example."""
    tally = operators.Tally()
    import firepot as fp

    seen = []

    def strange(x, other, **_):
        seen.append(x)
        return fp.add(x, other) * (2 if len(seen) % 2 else 1)

    operators._transformed(database["add"], strange, "vmap", 1, tally)
    assert tally.failed
    assert "elements differ" in tally.reasons[0]


def test_a_wrong_function_is_found_out(database):
    """The runner can fail: sin held against the samples of cos."""
    tally = operators.Tally()
    import firepot as fp

    operators._values(database["cos"], fp.sin, torch.float32, False, 1, tally)
    assert tally.failed and "elements differ" in tally.reasons[0]
