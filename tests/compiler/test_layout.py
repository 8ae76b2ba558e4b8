"""Layouts through reshapes: what lies in memory stays where it lies."""

import numpy as np
import pytest

from firepot.compiler.layout import reshaped, row_major, strides_of

CASES = [  # layout, shape, new shape, expected (None: nothing but row-major)
    ((0, 2, 3, 1), (8, 192, 14, 14), (8, 192, 196), (0, 2, 1)),
    ((0, 2, 3, 1), (2, 6, 4, 4), (2, 2, 3, 4, 4), (0, 3, 4, 1, 2)),
    ((0, 2, 1), (8, 192, 196), (8, 192, 14, 14), (0, 2, 3, 1)),
    ((0, 2, 1, 3), (8, 3, 197, 64), (24, 197, 64), None),
    ((1, 0), (3, 4), (12,), None),
    ((0, 2, 3, 1), (8, 192, 1, 1), (8, 192), (0, 1)),
    ((), (), (1, 1), (0, 1)),
    ((1, 0), (0, 3), (3, 0), None),
]


@pytest.mark.parametrize("layout, before, after, expected", CASES)
def test_reshaped(layout, before, after, expected):
    found = reshaped(layout, before, after)
    assert found == (row_major(len(after)) if expected is None else expected)
    if expected is not None:  # the same element at the same place of memory under both shapes
        numbers = np.arange(int(np.prod(before))).reshape(before)

        def in_memory(x, layout):
            strides = tuple(s * x.itemsize for s in strides_of(x.shape, layout))
            out = np.zeros(x.size, x.dtype)
            np.lib.stride_tricks.as_strided(out, x.shape, strides)[...] = x
            return out

        np.testing.assert_array_equal(in_memory(numbers, layout), in_memory(numbers.reshape(after), found))
