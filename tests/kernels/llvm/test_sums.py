"""How accurate long floating sums, and sums of products, are, whatever way the kernel takes through them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import firepot as fp

EPSILON = 2.0**-24


def error(ours: fp.Tensor, values: np.ndarray[Any, Any], axis: Any) -> float:
    """The largest error in units of rounding of the sum of absolute values."""
    exact = values.sum(axis, dtype=np.float64)
    return float(np.max(np.abs(ours.numpy() - exact) / np.abs(values).sum(axis, dtype=np.float64))) / EPSILON


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((1 << 20,), 0),  # cut into parts, rows of vectors
        ((200_001,), 0),
        ((40_000, 64), 0),  # columns in one sweep
        ((5_000, 600), 0),  # columns a few at a time
        ((300, 9_999), 1),  # a row for each sum
        ((8, 40, 40, 96), (0, 1, 2)),
        ((8, 24, 40, 40), (0, 2, 3)),
        ((20, 3, 7000), (0, 2)),
        ((50_000, 3), 0),
    ],
)
def test_error_grows_slowly_with_the_number_of_terms(shape: tuple[int, ...], axis: Any) -> None:
    # Terms of one sign: one after the other they would lose hundreds of roundings, all in the same direction.
    values = np.random.default_rng(0).random(shape, np.float32) + np.float32(0.3)
    assert error(fp.tensor(values).sum(axis), values, axis) < 24
    mean = fp.tensor(values).mean(axis)
    assert np.allclose(mean.numpy(), values.mean(axis, dtype=np.float64), rtol=24 * EPSILON)


def test_beside_other_folds_and_stores() -> None:
    values = np.random.default_rng(1).random((3000, 40), np.float32)
    x = fp.tensor(values)
    total, largest, product = x.sum(0), x.amax(0), (x * 2 - x).sum(0)
    row = x.sum(1)
    fp.eval(total, largest, product, row)
    assert error(total, values, 0) < 24 and error(product, values, 0) < 24 and error(row, values, 1) < 8
    assert np.array_equal(largest.numpy(), values.max(0))
    whole = fp.tensor(np.arange(100_000)).sum()
    assert whole.item() == 4999950000


@pytest.mark.parametrize("place", [0, 1, 127, 128, 4_000, 69_999])
def test_infinity_and_nan_come_through(place: int) -> None:
    values = np.ones(70_000, np.float32)
    values[place] = np.inf
    assert fp.tensor(values).sum().item() == np.inf
    values[-1 - place] = -np.inf if place != 69_999 - place else np.nan
    assert np.isnan(fp.tensor(values).sum().item())


def test_sums_over_nothing_in_one_kernel():
    """Found by a random program: the fold of an empty axis was cut into no parts."""
    x = fp.zeros(0, 1)
    assert x.logsumexp(0).tolist() == [-np.inf]
    assert (x * 2).exp().sum(0).tolist() == [0.0]
    assert fp.grad(lambda v: (v.sum(0) * fp.ones(3, 1)).sum())(x).shape == (0, 1)
    assert fp.softmax(fp.zeros(3, 0), 1).sum(1).tolist() == [0.0] * 3


@pytest.mark.parametrize("count", [1, 3])
def test_dot_products_of_millions_of_terms(count: int) -> None:
    values = np.random.default_rng(2).random((count, 3_000_017), np.float32)
    x = fp.tensor(values)
    exact = values.astype(np.float64) @ values.astype(np.float64).T
    assert np.max(np.abs((x @ x.T).numpy() / exact - 1)) < 24 * EPSILON
