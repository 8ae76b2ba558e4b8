"""docs/gallery/ against PyTorch's operators, or NumPy loops where PyTorch has none: values and gradients."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as T

import firepot as fp

_PATH = Path(__file__).parents[2] / "docs" / "gallery" / "operators.py"
_SPEC = importlib.util.spec_from_file_location("gallery_operators", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
gallery: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(gallery)
RNG = np.random.default_rng(5)


def draw(*shape: int, scale: float = 1.0) -> Any:
    return RNG.standard_normal(shape) * scale


def turned(x: torch.Tensor) -> torch.Tensor:
    """Rotary embedding by complex multiplication."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] / 10000.0 ** (torch.arange(half) / half).double()
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1)


def deformed(x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Deformable convolution by grid_sample, one tap after another."""
    n, _, h, w = x.shape
    kh, kw = weight.shape[2:]
    oh, ow = h - kh + 1, w - kw + 1
    total = torch.zeros(n, weight.shape[0], oh, ow, dtype=x.dtype)
    for k in range(kh * kw):
        row = offset[:, 2 * k] + torch.arange(oh)[:, None] + k // kw
        column = offset[:, 2 * k + 1] + torch.arange(ow) + k % kw
        grid = torch.stack([(2 * column + 1) / w - 1, (2 * row + 1) / h - 1], -1)
        taken = T.grid_sample(x, grid, align_corners=False)
        total = total + torch.einsum("ncij,oc->noij", taken, weight[:, :, k // kw, k % kw])
    return total


CASES: dict[str, tuple[Any, Any, list[Any]]] = {
    "conv2d": (lambda x, w: gallery.conv2d(x, w, 1), lambda x, w: T.conv2d(x, w, padding=1),
               [draw(2, 3, 6, 7), draw(4, 3, 3, 3)]),
    "grouped_conv2d": (lambda x, w: gallery.grouped_conv2d(x, w, 2, 1), lambda x, w: T.conv2d(x, w, padding=1, groups=2),
                       [draw(2, 6, 6, 7), draw(4, 3, 3, 3)]),
    "depthwise_conv2d": (lambda x, w: gallery.depthwise_conv2d(x, w, 1),
                         lambda x, w: T.conv2d(x, w[:, None], padding=1, groups=3), [draw(2, 3, 6, 7), draw(3, 3, 3)]),
    "max_pool2d": (lambda x: gallery.max_pool2d(x, 2), lambda x: T.max_pool2d(x, 2), [draw(2, 3, 6, 7)]),
    "avg_pool2d": (lambda x: gallery.avg_pool2d(x, 3), lambda x: T.avg_pool2d(x, 3), [draw(2, 3, 6, 7)]),
    "grid_sample": (gallery.grid_sample, lambda x, g: T.grid_sample(x, g, align_corners=False),
                    [draw(2, 3, 5, 6), draw(2, 4, 3, 2, scale=0.8)]),
    "deform_conv2d": (gallery.deform_conv2d, deformed, [draw(2, 3, 6, 7), draw(2, 18, 4, 5), draw(4, 3, 3, 3)]),
    "rotary": (gallery.rotary, turned, [draw(2, 2, 5, 8)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_as_pytorch(name: str) -> None:
    ours, theirs, arrays = CASES[name]
    inputs = [fp.tensor(a, requires_grad=True) for a in arrays]
    expected_inputs = [torch.tensor(a, requires_grad=True) for a in arrays]
    found, expected = ours(*inputs), theirs(*expected_inputs)
    weight = draw(*found.shape)
    (found * fp.tensor(weight)).sum().backward()
    (expected * torch.tensor(weight)).sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    for a, b in zip(inputs, expected_inputs, strict=True):
        assert a.grad is not None and b.grad is not None
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_convolution_is_recognised() -> None:
    from firepot.compiler.simplify import structure

    y = gallery.conv2d(fp.tensor(draw(1, 2, 5, 5)), fp.tensor(draw(3, 2, 3, 3)), 1)
    assert "convolve" in {n.primitive.name for n in structure([y._node])[2]}


def roi_align_loops(x: Any, boxes: Any, size: int, samples: int) -> torch.Tensor:
    """Through grid_sample on each box's own grid; boxes lie well inside of the image."""
    h, w = x.shape[2:]
    rows = []
    for box in boxes:
        bh, bw = max(box[4] - box[2], 1.0), max(box[3] - box[1], 1.0)
        steps = (torch.arange(size * samples, dtype=torch.float64) + 0.5) / (size * samples)
        row, column = (box[2] + steps * bh)[:, None], (box[1] + steps * bw)[None]
        grid = torch.stack(torch.broadcast_tensors((2 * column + 1) / w - 1, (2 * row + 1) / h - 1), -1)
        taken = T.grid_sample(x[int(box[0])][None], grid[None], align_corners=False)
        rows.append(T.avg_pool2d(taken, samples))
    return torch.cat(rows)


def test_roi_align() -> None:
    x, boxes = draw(2, 3, 8, 9), np.array([[0, 1.2, 0.7, 5.9, 6.1], [1, 2.0, 2.5, 2.3, 6.0], [0, 0.1, 0.3, 7.7, 6.4]])
    mine, theirs = fp.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    found = gallery.roi_align(mine, fp.tensor(boxes), 3, 2)
    expected = roi_align_loops(theirs, boxes, 3, 2)
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    weight = draw(*found.shape)
    (found * fp.tensor(weight)).sum().backward()
    (expected * torch.tensor(weight)).sum().backward()
    assert mine.grad is not None and theirs.grad is not None
    np.testing.assert_allclose(mine.grad.numpy(), theirs.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("jitted", [False, True])
def test_fused_optimiser(jitted: bool) -> None:
    parameter = torch.nn.Parameter(torch.tensor(draw(50), dtype=torch.float32))
    optimiser = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.01)
    p, m, v = fp.tensor(parameter.detach().numpy().copy()), fp.zeros(50), fp.zeros(50)
    step = fp.jit(gallery.adamw) if jitted else gallery.adamw
    for n in range(1, 5):
        g = draw(50).astype(np.float32)
        parameter.grad = torch.tensor(g)
        optimiser.step()
        p, m, v = step(p, fp.tensor(g), m, v, fp.tensor(0.1), fp.tensor(float(n)))
    np.testing.assert_allclose(p.numpy(), parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


def nms_loops(boxes: Any, scores: Any, threshold: float) -> list[int]:
    left, kept = list(np.argsort(-scores, kind="stable")), []
    while left:
        i = left.pop(0)
        kept.append(int(i))
        low, high = np.maximum(boxes[i, :2], boxes[left, :2]), np.minimum(boxes[i, 2:], boxes[left, 2:])
        shared = np.prod(np.clip(high - low, 0, None), -1)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
        left = [j for j, s in zip(left, shared, strict=True) if s <= threshold * (area[i] + area[j] - s)]
    return kept


@pytest.mark.parametrize("count", [0, 1, 60])
def test_non_maximum_suppression(count: int) -> None:
    corner = RNG.uniform(0, 5, (count, 2))
    boxes = np.concatenate([corner, corner + RNG.uniform(0.5, 4, (count, 2))], 1)
    scores = RNG.uniform(0, 1, count)
    found = gallery.nms(fp.tensor(boxes), fp.tensor(scores), 0.4)
    assert found.numpy().tolist() == nms_loops(boxes, scores, 0.4)
