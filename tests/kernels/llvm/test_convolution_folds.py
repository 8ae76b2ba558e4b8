"""Batch statistics and other folds over channels by the kernel of the convolution, against float64 and without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, build
from firepot.runtime import pool

# (channels in, out, groups, kernel, stride, size): the kernels are direct sums, minimal filtering, depthwise.
SHAPES = [
    (16, 40, 1, 1, 1, (9, 7)),
    (5, 24, 1, 3, 2, (15, 11)),
    (6, 20, 2, 3, 1, (8, 9)),
    (32, 48, 1, 3, 1, (10, 13)),
    (48, 48, 48, 3, 1, (12, 9)),
    (20, 20, 20, 3, 2, (11, 16)),
]


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = pool.get_num_threads()
    yield
    pool.set_num_threads(before)


def run(results: list[fp.Tensor], **passes: bool) -> tuple[list[np.ndarray[Any, Any]], list[str]]:
    """(values, labels of the kernels)"""
    nodes = [t._node for t in results]
    _, leaves, order = simplify.structure(nodes)
    inputs, copies = simplify.simplify(order, leaves, nodes)
    executor = Executor(build(inputs, copies, passes=Passes(**passes)))
    buffers = executor([leaf.buffer.copy() for leaf in leaves])
    values = [b.view(n.dtype.numpy, n.shape) for b, n in zip(buffers, nodes, strict=True)]
    assert executor.program is not None
    return values, [s.kernel.label for s in executor.program.steps]


def drawn(shape: tuple[Any, ...], mean: float = 0.0) -> tuple[np.ndarray[Any, Any], ...]:
    channels, outs, groups, kernel, _, size = shape
    random = np.random.default_rng(channels)
    x = (random.standard_normal((3, channels, *size)) + mean).astype(np.float32)
    w = (random.standard_normal((outs, channels // groups, kernel, kernel)) / kernel).astype(np.float32)
    return x, w


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_training_step_of_a_layer(shape, bias):
    groups, kernel, stride = shape[2:5]
    arrays = drawn(shape)
    outs = shape[1]
    shift = np.linspace(-40, 40, outs, dtype=np.float32)

    def step(library: Any, x: Any, w: Any, b: Any, scale: Any) -> list[Any]:
        convolve = library.nn.functional.conv2d
        y = convolve(x, w, b if bias else None, stride, kernel // 2, 1, groups)
        mean, variance = library.zeros(outs), library.ones(outs)
        if library is torch:
            mean, variance = mean.double(), variance.double()
        z = library.nn.functional.batch_norm(y, mean, variance, scale, None, True, 0.1, 1e-5).relu()
        (z * z).sum().backward()
        return [z, mean, variance, x.grad, w.grad, scale.grad]

    ours = [fp.tensor(a, requires_grad=True) for a in (*arrays, shift, np.ones(outs, np.float32))]
    results = step(fp, *ours)
    pool.set_num_threads(1)
    values, labels = run(results)
    pool.set_num_threads(3)
    again, _ = run(results)
    without, others = run(results, statistics=False)
    assert any("deviations" in label for label in labels) and not any("deviations" in label for label in others)
    assert len(labels) < len(others)
    for one, other in zip(values, again, strict=True):
        np.testing.assert_array_equal(one, other)
    wide = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (*arrays, shift, np.ones(outs))]
    for got, plain, want in zip(values, without, step(torch, *wide), strict=True):
        exact = want.detach().numpy()
        size = np.abs(exact).max()
        assert np.abs(got - exact).max() <= max(2 * np.abs(plain - exact).max(), 3e-5 * size)


@pytest.mark.parametrize("shape", SHAPES)
def test_variance_far_from_zero(shape):
    """Mean 1000 and deviation 1: one pass over plain squares would leave nothing of the variance."""
    groups, kernel, stride = shape[2:5]
    x, w = drawn(shape)
    y = fp.nn.functional.conv2d(fp.tensor(x), fp.tensor(w), None, stride, kernel // 2, 1, groups)
    far = y / 2 + 1000
    (variance, mean), labels = run([far.var((0, 2, 3), correction=0), far.mean((0, 2, 3))])
    assert any("deviations" in label for label in labels)
    (value,), _ = run([far])
    exact = value.astype(np.float64)
    np.testing.assert_allclose(variance, exact.var((0, 2, 3)), rtol=2e-5)
    np.testing.assert_allclose(mean, exact.mean((0, 2, 3)), rtol=3e-7)


def test_alike_and_not_finite():
    x, w = (fp.tensor(np.full(s, 3.0, np.float32)) for s in ((2, 16, 8, 8), (32, 16, 1, 1)))
    y = fp.nn.functional.conv2d(x, w)
    (variance, mean), labels = run([y.var((0, 2, 3), correction=0), y.mean((0, 2, 3))])
    assert len(labels) == 1
    assert variance.tolist() == [0.0] * 32 and mean.tolist() == [144.0] * 32
    x[1, 2, 3, 4] = float("inf")
    y = fp.nn.functional.conv2d(x, w)
    (variance, mean), _ = run([y.var((0, 2, 3), correction=0), y.mean((0, 2, 3))])
    assert np.isnan(variance).all() and np.isposinf(mean).all()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes(dtype):
    x, w = (fp.tensor(a).to(getattr(fp, dtype)) for a in drawn(SHAPES[3], 0.5))
    fp.eval(x, w)
    y = fp.nn.functional.conv2d(x, w, padding=1)
    wide = y if dtype == "float64" else y.float()
    results = [wide.var((0, 2, 3), correction=0), wide.amax((0, 2, 3)), (wide * wide).sum((0, 2, 3))]
    values, labels = run(results)
    assert len(labels) == 1
    plain, _ = run(results, statistics=False)
    np.testing.assert_array_equal(values[1], plain[1])
    for got, want in zip(values[::2], plain[::2], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12 if dtype == "float64" else 1e-5)


def test_folds_that_stay_apart():
    """Of other axes, or of what needs the statistics of all."""
    x, w = (fp.tensor(a) for a in drawn(SHAPES[0]))
    y = fp.nn.functional.conv2d(x, w)
    _, labels = run([y.sum((0, 1, 2))])
    assert len(labels) == 2
    centred = y - y.mean((0, 2, 3), keepdim=True)
    values, labels = run([y.sum((0, 2, 3)), centred.abs().sum((0, 2, 3)), centred * 2])
    assert len(labels) >= 2
    exact = values[2].astype(np.float64) / 2
    np.testing.assert_allclose(values[1], np.abs(exact).sum((0, 2, 3)), rtol=1e-5)
