"""Constants that are kept for the next operation: one for each value, sign and dtype, until it is computed."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest

import firepot as fp
from firepot.graph import dtypes, node
from firepot.graph.primitives import elementwise as ew


def test_a_constant_is_made_once() -> None:
    first = id(ew.full((3,), 2.5, dtypes.float32))
    gc.collect()
    assert id(ew.full((3,), 2.5, dtypes.float32)) == first


@pytest.mark.parametrize(("value", "other"), [(0.0, -0.0), (1.0, 2.0), (math.nan, 0.0), (math.inf, -math.inf)])
def test_different_values_are_different_constants(value: float, other: float) -> None:
    for v in (value, other, value, other):
        found = fp.zeros(2) + fp.Tensor(ew.full((2,), v, dtypes.float32))
        np.testing.assert_array_equal(found.numpy(), np.float32(0.0) + np.full(2, v, np.float32))
        signs = np.signbit(fp.Tensor(ew.full((2,), v, dtypes.float32)).numpy())
        assert math.isnan(v) or signs.tolist() == [math.copysign(1, v) < 0] * 2


def test_equal_numbers_of_different_types_and_dtypes() -> None:
    for dtype in (dtypes.bool_, dtypes.int64, dtypes.float32):
        for value in (True, 1, 1.0):
            found = ew.full((), value, dtype)
            assert (found.dtype, type(ew.constant_value(found))) == (dtype, {"b": bool, "i": int, "f": float}[dtype.kind])


def test_signs_of_complex_zeros_are_kept() -> None:
    for value in (complex(1, 0.0), complex(1, -0.0), complex(1, 0.0)):
        found = fp.Tensor(ew.full((1,), value, dtypes.complex64)).numpy()
        assert math.copysign(1, found.imag[0]) == math.copysign(1, value.imag)


def test_a_constant_that_was_computed_is_kept_no_longer() -> None:
    tensor = fp.Tensor(ew.full((1000,), 7.25, dtypes.float32))
    also = ew.full((1000,), np.float64(7.25), dtypes.float32)  # the same constant under another name
    assert also is tensor._value
    del also
    assert tensor.numpy().sum() == 7250
    assert tensor._value not in node._kept_as
    again = ew.full((1000,), 7.25, dtypes.float32)
    assert again is not tensor._value
    assert ew.constant_value(again) == 7.25


def test_few_are_kept() -> None:
    for value in range(3000):
        ew.full((2,), value, dtypes.int64)
    assert len(node._kept) <= 1024
    assert len(node._kept_as) <= 1024
