"""Products and convolutions of bfloat16 by tile instructions, against float64. Nothing to test where there are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import firepot as fp
from firepot.compiler.program import ALL_PASSES, build
from firepot.nn import functional as F
from firepot.runtime.processor import processor

pytestmark = pytest.mark.skipif(not processor().bf16_tile, reason="the processor has no tiles, or the system forbids them")

BFLOAT16_ERROR = 5e-3  # of the largest result: it is rounded to eight bits


def halves(shape: tuple[int, ...], seed: int) -> tuple[fp.Tensor, torch.Tensor]:
    """The same bfloat16 numbers here, and in float64 in PyTorch."""
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).bfloat16()
    return fp.tensor(values.float().numpy()).to(fp.bfloat16), values.double()


def close(ours: fp.Tensor, exact: torch.Tensor) -> None:
    assert ours.dtype is fp.bfloat16
    assert ours.shape == tuple(exact.shape)
    difference = np.abs(ours.detach().to(fp.float32).numpy() - exact.detach().numpy()).max(initial=0)
    assert difference <= BFLOAT16_ERROR * exact.abs().max().item()


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("m", "k", "n"), [(16, 16, 16), (33, 40, 50), (100, 65, 130), (40, 5000, 48)])
def test_matrix_product(m: int, k: int, n: int, transposed: tuple[bool, bool]) -> None:
    x, exact_x = halves((k, m) if transposed[0] else (m, k), 0)
    y, exact_y = halves((n, k) if transposed[1] else (k, n), 1)
    x, exact_x = (x.T, exact_x.T) if transposed[0] else (x, exact_x)
    y, exact_y = (y.T, exact_y.T) if transposed[1] else (y, exact_y)
    close(x @ y, exact_x @ exact_y)


def test_batches_and_what_follows_a_product() -> None:
    x, exact_x = halves((3, 20, 70), 0)
    y, exact_y = halves((3, 70, 36), 1)
    bias, exact_bias = halves((36,), 2)
    close(F.relu(x @ y + bias), torch.relu(exact_x @ exact_y + exact_bias))


def test_infinity_and_nan_pass_through() -> None:
    x = fp.ones(32, 64).to(fp.bfloat16)
    x[1, 2], x[3, 4] = float("inf"), float("nan")
    found = (x @ fp.ones(64, 32).to(fp.bfloat16)).to(fp.float32).numpy()
    assert np.isinf(found[1]).all()
    assert np.isnan(found[3]).all()
    assert (np.delete(found, [1, 3], 0) == 64).all()


CASES: list[tuple[int, int, int, int, int, int, int]] = [  # batch, channels, size, result channels, kernel, stride, padding
    (2, 32, 14, 64, 1, 1, 0),
    (1, 32, 7, 32, 3, 1, 1),  # rows shorter than a tile, and images
    (5, 32, 4, 48, 3, 1, 1),
    (2, 64, 15, 40, 3, 2, 1),
    (1, 64, 33, 64, 3, 1, 1),  # rows that tiles do not divide
    (2, 32, 23, 17, 1, 2, 0),
    (1, 32, 5, 64, 5, 1, 2),
    (2, 128, 14, 160, 1, 1, 0),  # the weight gradient by tiles too
    (2, 144, 13, 130, 1, 1, 0),
    (3, 192, 16, 128, 1, 2, 0),
]


@pytest.mark.parametrize("case", CASES)
def test_convolution_and_its_derivatives(case: tuple[int, ...]) -> None:
    n, c, size, o, kernel, stride, padding = case
    (x, exact_x), (w, exact_w) = halves((n, c, size, size), 0), halves((o, c, kernel, kernel), 1)
    for tensor in (x, w, exact_x, exact_w):
        tensor.requires_grad_()
    y = F.conv2d(x, w, stride=stride, padding=padding)
    exact_y = torch.nn.functional.conv2d(exact_x, exact_w, stride=stride, padding=padding)
    weight, exact_weight = halves(tuple(exact_y.shape), 2)
    y.backward(weight)
    exact_y.backward(exact_weight)
    assert x.grad is not None
    assert w.grad is not None
    for ours, exact in ((y, exact_y), (x.grad, exact_x.grad), (w.grad, exact_w.grad)):
        close(ours, exact)


def test_statistics_of_small_images_count_no_border() -> None:
    """Batch norm's sums are made in the convolution's kernel, whose tiles hold places of the border too."""
    x, exact_x = halves((6, 32, 5, 5), 0)
    w, exact_w = halves((64, 32, 3, 3), 1)
    with fp.autocast("cpu", dtype=fp.bfloat16):
        ours = F.batch_norm(F.conv2d(x, w, padding=1), None, None, training=True)
    exact = torch.nn.functional.batch_norm(torch.nn.functional.conv2d(exact_x, exact_w, padding=1), None, None, training=True)
    np.testing.assert_allclose(ours.to(fp.float32).numpy(), exact.numpy(), atol=0.05)


def test_they_can_be_left_out() -> None:
    x, y = fp.ones(64, 64).to(fp.bfloat16), fp.ones(64, 64).to(fp.bfloat16)
    fp.eval(x, y)

    def keys(**left_out: Any) -> list[str]:
        node = (x @ y)._node
        program = build([x._node, y._node], [node], passes=replace(ALL_PASSES, **left_out))
        return [step.kernel.key for step in program.steps]

    assert keys() != keys(tiles=False)
    assert keys(tiles=False) != keys(dots=False)
