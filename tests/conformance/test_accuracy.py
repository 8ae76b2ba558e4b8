"""How errors in ulp are counted, and the errors of some functions over a thin sample of the float32 line."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import firepot as fp
from conformance import accuracy


def test_units_of_the_last_place():
    exact = np.array([1.0, 1.0, -3.0, 0.0, 1e-45, 3.5e38, math.inf, math.nan, 1.0, 0.0])
    found = np.array([1.0, 1 + 2.0**-23, -3 - 2.0**-21, 2.0**-149, 0.0, math.inf, math.inf, math.nan, math.nan, -0.0], np.float32)
    error = accuracy.units(found, exact)
    np.testing.assert_allclose(error, [0, 1, 2, 1, 1e-45 / 2.0**-149, 0, 0, 0, math.inf, 0], rtol=1e-6)
    terms = np.full(10, 4.0)  # larger than all results but those that overflow
    np.testing.assert_allclose(accuracy.units(found, exact, terms)[:3], [0, 0.25, 1])


@pytest.mark.parametrize(
    "name",
    ["exp", "log", "log1p", "sin", "tanh", "sigmoid", "erf", "rsqrt", "digamma", "sinc", "logit", "ndtr", "i0", "silu", "gelu", "pow",
     "logaddexp"],
)
def test_errors_are_within_the_limit(name):
    function = accuracy.FUNCTIONS[name]
    result = accuracy.measure(function, 20_000_003)
    assert result.count > 50_000 or function.arguments == 2
    assert result.units <= function.limit, result


def test_an_error_is_found():
    wrong = accuracy.Function(lambda x: fp.exp(x) * (1 + 2.0**-20), torch.exp, 2)
    assert 8 <= accuracy.measure(wrong, 20_000_003).units < 20


def test_the_page_tells_over_how_many_numbers():
    results = {
        "exp": accuracy.Result(0.9, (1.0,), 1 << 32, 1), "log": accuracy.Result(2.5, (2.0,), 9, 1009),
        "pow": accuracy.Result(0.5, (1.0, 2.0), 4_000_000, 1009),
    }  # fmt: skip
    text = accuracy.section(results)
    assert "1 functions over every float32, 1 functions over every 1009th and all around special points" in text
    assert "2 of 3 functions are within" in text
    assert "| exp | 0.90 | 1 | 2 | every float |  |" in text
    assert "| log | **2.5** | 2 | 2 | every 1009th float |  |" in text
    assert "| pow | 0.50 | 1, 2 | 2 | 4 million pairs |  |" in text
