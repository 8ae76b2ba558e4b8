"""Layers of int8 against the same sums in int64 and float64, with dot-product instructions and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, build
from firepot.nn import functional as F
from firepot.runtime import pool

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(11)
PASSES = {"dots": Passes(), "no dots": Passes(dots=False)}
# (N, C, O, H, W, R, S, stride, padding, dilation, groups)
CONVOLUTIONS = [
    (2, 16, 40, 9, 7, 3, 3, 1, 1, 1, 1), (1, 3, 20, 17, 16, 7, 7, 2, 3, 1, 1), (2, 17, 33, 6, 5, 3, 2, 1, 2, 2, 1),
    (2, 24, 36, 8, 8, 3, 3, (2, 1), (1, 0), 1, 3), (1, 6, 6, 5, 5, 3, 3, 1, 1, 1, 6), (2, 66, 40, 7, 7, 1, 1, 1, 0, 1, 1),
    (2, 8, 12, 9, 9, 1, 1, 2, 0, 1, 2), (3, 1, 1, 4, 4, 2, 2, 1, 0, 1, 1), (1, 20, 16, 3, 3, 3, 3, 1, 4, 1, 1),
]  # fmt: skip


def run(outputs: list[fp.Tensor], passes: str) -> list[Array]:
    nodes = [t._value for t in outputs]
    _, leaves, order = simplify.structure(nodes)
    executor = Executor(build(*simplify.simplify(order, leaves, nodes, True), passes=PASSES[passes]))
    buffers = executor([leaf.buffer.copy() for leaf in leaves])
    return [b.view(n.dtype.numpy, n.shape) for b, n in zip(buffers, nodes, strict=True)]


def int8(*shape: int) -> tuple[fp.Tensor, Array]:
    array = RANDOM.integers(-128, 128, shape).astype(np.int8)
    return fp.tensor(array), array.astype(np.int64)


@pytest.mark.parametrize("passes", PASSES)
def test_int_mm_is_exact(passes: str) -> None:
    outputs, expected = [], []
    sizes = [(1, 1, 1), (1, 64, 20), (3, 66, 5), (2, 101, 37), (5, 3, 33), (64, 64, 64), (30, 33, 70), (14, 8999, 40)]
    for i, (m, k, n) in enumerate(sizes):
        for turned in range(4) if i == 6 else (i % 4,):
            left, right = turned & 1, turned >> 1
            batch = (2,) if i % 3 == 1 else ()
            x, a = int8(*batch, *((k, m) if left else (m, k)))
            y, b = int8(*batch, *((n, k) if right else (k, n)))
            outputs.append(fp.int_mm(x.mT if left else x, y.mT if right else y))
            expected.append((a.swapaxes(-1, -2) if left else a) @ (b.swapaxes(-1, -2) if right else b))
    x, a = int8(40, 90)
    y, b = int8(90, 50)
    outputs += [fp.int_mm(x[::2, 3:64], y[3:64, ::3]), fp.int_mm(x[0], y), fp.int_mm(x, y) * 3 - 1]
    expected += [a[::2, 3:64] @ b[3:64, ::3], a[0] @ b, (a @ b) * 3 - 1]
    low = fp.full((20, 4000), -128, dtype=fp.int8)
    outputs += [fp.int_mm(low, low.T), fp.int_mm(low[:1], low.T), fp.int_mm(low, -(low + 1).T)]
    expected += [np.full((20, 20), 4000 << 14), np.full((1, 20), 4000 << 14), np.full((20, 20), -4000 * 128 * 127)]
    for got, exact in zip(run(outputs, passes), expected, strict=True):
        assert got.dtype == np.int32
        assert np.array_equal(got, exact)


def test_int_mm_under_vmap_and_without_elements() -> None:
    (x, a), (y, b) = int8(3, 4, 5), int8(3, 5, 6)
    assert np.array_equal(fp.func.vmap(fp.int_mm)(x, y).numpy(), a @ b)
    assert np.array_equal(fp.func.vmap(fp.int_mm, in_dims=(0, None))(x, y[0]).numpy(), a @ b[0])
    assert np.array_equal(fp.int_mm(x[0][:, :0], y[0][:0]).numpy(), np.zeros((4, 6)))
    assert fp.int_mm(x[0][:0], y[0]).shape == (0, 6)


def test_errors_name_the_operation_and_what_was_given() -> None:
    x, y = fp.ones(2, 3, dtype=fp.int8), fp.ones(3, 2)
    with pytest.raises(RuntimeError, match=r"int_mm: expected two int8 tensors, got int8 and float32"):
        fp.int_mm(x, y)
    with pytest.raises(RuntimeError, match=r"int_mm: shapes \[2, 3\] and \[2, 3\]"):
        fp.int_mm(x, x)
    with pytest.raises(RuntimeError, match=r"quantized_linear: expected input \(\*, in\)"):
        F.quantized_linear(x, x[:, :2], 1, 1)
    with pytest.raises(RuntimeError, match=r"quantized_linear: expected bias of shape \[2\], got \[3\]"):
        F.quantized_linear(x, x, 1, 1, fp.ones(3))
    with pytest.raises(RuntimeError, match=r"quantized_conv2d: expected int8 input and weight, got int8 and float32"):
        F.quantized_conv2d(fp.ones(1, 1, 3, 3, dtype=fp.int8), fp.ones(1, 1, 3, 3), 1, 1)
    with pytest.raises(RuntimeError, match=r"conv: given groups=1 and weight of size \[1, 1, 3, 3\]"):
        F.quantized_conv2d(fp.ones(1, 2, 3, 3, dtype=fp.int8), fp.ones(1, 1, 3, 3, dtype=fp.int8), 1, 1)
    with pytest.raises(RuntimeError, match="quantize: expected a floating-point tensor, got int64"):
        F.quantize(fp.tensor([1]), 1.0)


@pytest.mark.parametrize("passes", PASSES)
def test_convolutions(passes: str) -> None:
    outputs, expected = [], []
    for n, c, o, h, w, r, s, stride, padding, dilation, groups in CONVOLUTIONS:
        (x, a), (f, b) = int8(n, c, h, w), int8(o, c // groups, r, s)
        scale, bias = RANDOM.uniform(0.5, 2, o).astype(np.float32), RANDOM.standard_normal(o).astype(np.float32)
        place = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        exact = torch.nn.functional.conv2d(torch.from_numpy(a).double(), torch.from_numpy(b).double(), **place).numpy()
        plain = F.quantized_conv2d(x, f, 1, 1, **place)
        y = F.relu(F.quantized_conv2d(x, f, 1 / 1024, fp.tensor(scale), fp.tensor(bias), **place))
        outputs += [plain, y, F.quantize(y, 0.25)]
        real = np.maximum(exact / 1024 * scale[:, None, None] + bias[:, None, None], 0)
        expected += [(exact, 0), (real, 4e-7 * (np.abs(exact / 1024 * scale[:, None, None]) + 3)), (real / 0.25, None)]
    for got, (exact, error) in zip(run(outputs, passes), expected, strict=True):
        assert got.shape == exact.shape
        if error is None:
            assert got.dtype == np.int8
            assert (np.abs(got - np.clip(exact, -128, 127)) <= 0.5 + 1e-3).all()
        else:
            assert got.dtype == np.float32
            assert (np.abs(got - exact) <= error).all()


def test_linear_with_scales_of_rows_and_columns() -> None:
    (x, a), (w, b) = int8(2, 9, 70), int8(33, 70)
    rows, columns, bias = (RANDOM.uniform(0.1, 1, s).astype(np.float32) for s in ((2, 9, 1), 33, 33))
    found = F.quantized_linear(x, w, fp.tensor(rows), fp.tensor(columns), fp.tensor(bias)).numpy()
    expected = (a @ b.T) * (rows.astype(np.float64) * columns) + bias
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-2)
    assert np.allclose(F.quantized_linear(x, w, 0.5, 0.25).numpy(), (a @ b.T) / 8, rtol=1e-7, atol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch moves these functions elsewhere
def test_quantize_is_what_pytorch_stores() -> None:
    x = RANDOM.standard_normal((40, 30)).astype(np.float32) * 3
    x[0, :4] = np.inf, -np.inf, 1e30, -1e30
    expected = torch.quantize_per_tensor(torch.from_numpy(x), 0.03125, 0, torch.qint8).int_repr().numpy()
    assert np.array_equal(F.quantize(fp.tensor(x), 0.03125).numpy(), expected)
    assert F.quantize(fp.tensor([np.nan]), 0.1).tolist() == [0]
    scales = np.abs(x).max(1, keepdims=True) / 127
    assert np.array_equal(F.quantize(fp.tensor(x[1:]), fp.tensor(scales[1:])).numpy(), np.rint(x[1:] / scales[1:]))


def test_same_result_with_any_number_of_threads() -> None:
    (x, _), (w, _), (image, _), (kernel, _) = int8(90, 300), int8(70, 300), int8(3, 20, 9, 9), int8(33, 20, 3, 3)
    before, found = pool.get_num_threads(), []
    try:
        for threads in (1, 3):
            pool.set_num_threads(threads)
            outputs = [F.quantized_linear(x, w, 0.1, 0.3), F.quantized_conv2d(image, kernel, 0.1, 0.3, padding=1)]
            found.append(run(outputs, "dots"))
    finally:
        pool.set_num_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
