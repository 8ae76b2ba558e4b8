"""Vector functions lane by lane against float64, in every width."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from conformance import accuracy
from firepot.kernels.llvm import math as vector_math
from firepot.kernels.llvm.builder import Module, vector
from firepot.runtime import engine


def evaluate(name, x, lanes):
    """The function `name` of a float32 array, computed `lanes` at a time."""
    module = Module(name)
    type = vector("float", lanes)
    with module.function(f"{name}{lanes}", [("ptr", "x"), ("ptr", "y"), ("i64", "n")]) as b:
        with b.loop(0, b.arg("n"), lanes) as i:
            value = b.load(b.element(b.arg("x"), "float", i), type)
            b.store(vector_math.emit(b, name, [value]), b.element(b.arg("y"), "float", i))
    (address,) = engine.load_module(f"test {name} {lanes}", str(module), (f"{name}{lanes}",))
    padded = np.resize(x, -(-x.size // lanes) * lanes)
    y = np.empty_like(padded)
    pointer = ctypes.c_void_p
    ctypes.CFUNCTYPE(None, pointer, pointer, ctypes.c_int64)(address)(padded.ctypes.data, y.ctypes.data, padded.size)
    return y[: x.size]


@pytest.mark.parametrize("lanes", [1, 4, 8, 16])
def test_erf(lanes):
    borders = np.arange(1, 32, dtype=np.float32) / 8
    near = (borders.view(np.int32)[:, None] + np.arange(-4, 5, dtype=np.int32)).view(np.float32).ravel()
    small = np.logspace(-44, -1, 2000)
    x = np.concatenate([np.linspace(0, 5, 20001), near, small]).astype(np.float32)
    x = np.concatenate([x, -x])
    exact = np.array([math.erf(v) for v in x])
    found = evaluate("erf", x, lanes)
    assert accuracy.units(found, exact).max() < 1.3
    special = evaluate("erf", np.array([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 100, -3e38], np.float32), lanes)
    np.testing.assert_array_equal(special, np.array([0, -0.0, 1, -1, math.nan, 1e-45, 1, -1], np.float32))
    assert np.signbit(special[1])
