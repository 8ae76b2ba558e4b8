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


@pytest.mark.parametrize(
    "name",
    ["exp", "log", "log1p", "sin", "tanh", "sigmoid", "erf", "rsqrt", "digamma", "sinc", "logit", "ndtr", "i0", "silu", "pow"],
)
def test_errors_are_within_the_limit(name):
    function = accuracy.FUNCTIONS[name]
    result = accuracy.measure(function, 20_000_003)
    assert result.count > 50_000 or function.arguments == 2
    assert result.units <= function.limit, result


def test_an_error_is_found():
    wrong = accuracy.Function(lambda x: fp.exp(x) * (1 + 2.0**-20), torch.exp, 2)
    assert 8 <= accuracy.measure(wrong, 20_000_003).units < 20
