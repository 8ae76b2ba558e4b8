"""Products of bfloat16 by dot-product instructions against float64, beside the path without them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, build
from firepot.graph import dtypes
from firepot.kernels.llvm import matmul
from firepot.kernels.llvm.epilogue import StoreEpilogue
from firepot.runtime import pool
from firepot.runtime.processor import processor

Array = np.ndarray[Any, Any]
PASSES = {"dots": Passes(), "no dots": Passes(dots=False)}


def run(outputs: list[fp.Tensor], passes: Passes) -> list[Array]:
    """The outputs' values as float64, by a program with those passes."""
    nodes = [t.to(fp.float64)._value for t in outputs]
    _, leaves, order = simplify.structure(nodes)
    executor = Executor(build(*simplify.simplify(order, leaves, nodes, True), passes=passes))
    buffers = executor([leaf.buffer.copy() for leaf in leaves])
    return [b.view(n.dtype.numpy, n.shape) for b, n in zip(buffers, nodes, strict=True)]


def bfloat16(array: Array) -> tuple[fp.Tensor, Array]:
    """A realised bfloat16 tensor and its values."""
    tensor = fp.tensor(array.astype(np.float32)).to(fp.bfloat16)
    fp.eval(tensor)
    return tensor, tensor.to(fp.float64).numpy()


def bound(x: Array, y: Array, rounded: bool = True) -> tuple[Array, Array]:
    """(the exact product, how far from it float32 sums, rounded to bfloat16, may lie)"""
    exact, size = x @ y, np.abs(x) @ np.abs(y)
    error = size * (x.shape[-1] + 2) * 2.0**-24
    return exact, error + (np.abs(exact) + error) * 2.0**-8 * rounded


def test_the_instructions_are_used_where_the_processor_has_them() -> None:
    product = matmul.Matmul(1, 40, 50, 33, (0, 33, 1), (0, 50, 1), dtypes.bfloat16, dtypes.float32)
    rows = replace(product, m=2, y_strides=(0, 1, 33))
    epilogue = StoreEpilogue(2, (0, 50, 1), dtypes.bfloat16)
    wide = replace(processor(), vector_bytes=64, vector_registers=32, bf16_dot=True, bf16_tile=False)
    for d in (product, rows):
        kernels = [
            matmul.lower(d, epilogue, p)
            for p in (wide, replace(wide, bf16_dot=False), replace(wide, vector_bytes=32, vector_registers=16))
        ]
        assert ["dpbf16ps" in k.generate() for k in kernels] == [True, False, False]
        assert len({k.key for k in kernels}) == 3


@pytest.mark.parametrize("passes", PASSES)
def test_drawn_products(passes: str) -> None:
    """Odd and even k, few and many rows, every transposition, batches, parts of larger matrices."""
    random = np.random.default_rng(7)
    outputs, expected = [], []
    sizes = [(1, 2, 1), (1, 1, 1), (3, 31, 40), (4, 64, 16), (5, 1, 33), (70, 97, 45), (14, 4099, 33), (64, 128, 64)]
    sizes += [tuple(random.integers(1, 80, 3)) for _ in range(6)]
    for i, (m, k, n) in enumerate(sizes):
        for turned in range(4) if i == 7 else (i % 4,):
            left, right = turned & 1, turned >> 1
            batch = (2,) if i % 3 == 1 else ()
            x, a = bfloat16(random.standard_normal((*batch, *((k, m) if left else (m, k)))))
            y, b = bfloat16(random.standard_normal((*batch, *((n, k) if right else (k, n)))))
            outputs.append((x.mT if left else x) @ (y.mT if right else y))
            expected.append(bound(a.swapaxes(-1, -2) if left else a, b.swapaxes(-1, -2) if right else b))
    x, a = bfloat16(random.standard_normal((50, 90)))
    y, b = bfloat16(random.standard_normal((90, 70)))
    outputs += [x[::2, 32:61] @ y[32:61, ::3], x[:3, 1::2] @ y[::2], (x[:2] @ y).relu() + 1, x @ y.T[:1].T]
    expected += [bound(a[::2, 32:61], b[32:61, ::3]), bound(a[:3, 1::2], b[::2])]
    exact, error = bound(a[:2], b)
    expected += [(np.maximum(exact, 0) + 1, error + 2.0**-8 * (np.maximum(exact, 0) + 1 + error)), bound(a, b[:, :1])]
    for got, (exact, error) in zip(run(outputs, PASSES[passes]), expected, strict=True):
        assert got.shape == exact.shape
        assert (np.abs(got - exact) <= error).all()


def test_empty_products() -> None:
    zeros = fp.zeros(3, 0, dtype=fp.bfloat16) @ fp.zeros(0, 4, dtype=fp.bfloat16)
    assert np.array_equal(zeros.to(fp.float32).numpy(), np.zeros((3, 4)))
    assert (fp.zeros(0, 5, dtype=fp.bfloat16) @ fp.zeros(5, 4, dtype=fp.bfloat16)).shape == (0, 4)


@pytest.mark.parametrize("m", [2, 20])
@pytest.mark.parametrize("turned", [False, True])
def test_nan_and_infinity_stay_where_they_belong(m: int, turned: bool) -> None:
    x, y = np.ones((m, 33)), np.ones((33, 40))
    x[1, 32], y[0, 7], y[32, 39] = np.nan, np.inf, -np.inf
    a = fp.tensor(x.astype(np.float32)).to(fp.bfloat16)
    b = fp.tensor((y.T if turned else y).astype(np.float32)).to(fp.bfloat16)
    [found] = run([a @ (b.T if turned else b)], Passes())
    with np.errstate(invalid="ignore"):
        assert np.array_equal(found, x @ y, equal_nan=True)


def test_gradients() -> None:
    random = np.random.default_rng(3)
    (x, a), (w, b), (g, c) = (bfloat16(random.standard_normal(s)) for s in ((37, 45), (29, 45), (37, 29)))
    x, w = x.requires_grad_(), w.requires_grad_()
    dx, dw = fp.autograd.grad(((x @ w.T) * g).sum(), [x, w])
    for got, (exact, error) in ((dx, bound(c, b)), (dw, bound(c.T, a))):
        assert got.dtype is fp.bfloat16
        assert (np.abs(got.to(fp.float64).numpy() - exact) <= error).all()


def test_same_result_with_any_number_of_threads() -> None:
    random = np.random.default_rng(5)
    x, y, z = (bfloat16(random.standard_normal(s))[0] for s in ((150, 4100), (4100, 77), (2, 4100)))
    before = pool.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            pool.set_num_threads(threads)
            found.append(run([x @ y, z @ x.T], Passes()))
    finally:
        pool.set_num_threads(before)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))
