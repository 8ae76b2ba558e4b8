"""Convolutions and their gradients through the whole framework, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import firepot as fp
from firepot.ops.convolution import convolution

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-2}

# Input shape, weight shape, arguments.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((2, 16, 9, 8), (24, 16, 3, 3), {"padding": 1}),
    "3x3 by minimal filtering": ((2, 64, 16, 16), (64, 64, 3, 3), {"padding": 1}),
    "stride 2": ((2, 8, 12, 11), (20, 8, 3, 3), {"padding": 1, "stride": 2}),
    "1x1 stride 2": ((2, 16, 8, 8), (32, 16, 1, 1), {"stride": 2}),
    "stem": ((2, 3, 20, 20), (16, 3, 7, 7), {"padding": 3, "stride": 2}),
    "uneven": ((1, 6, 9, 10), (5, 6, 3, 2), {"padding": (2, 0), "stride": (1, 2), "dilation": (2, 1)}),
    "groups": ((2, 12, 7, 7), (18, 4, 3, 3), {"padding": 1, "groups": 3}),
    "depthwise": ((2, 20, 9, 9), (20, 1, 3, 3), {"padding": 1, "groups": 20}),
    "depthwise stride 2": ((2, 32, 10, 9), (32, 1, 3, 3), {"padding": 1, "stride": 2, "groups": 32}),
    "one dimension": ((2, 5, 30), (7, 5, 4), {"padding": 2, "stride": 3}),
    "three dimensions": ((1, 4, 5, 6, 7), (8, 4, 3, 3, 3), {"padding": 1, "stride": (1, 2, 1)}),
    "transposed": ((2, 8, 5, 6), (8, 4, 3, 3), {"padding": 1, "stride": 2, "output_padding": 1, "transposed": True}),
}


def torch_convolution(x: torch.Tensor, w: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    options = dict(arguments)
    kind = "conv_transpose" if options.pop("transposed", False) else "conv"
    function = getattr(torch.nn.functional, f"{kind}{x.ndim - 2}d")
    result: torch.Tensor = function(x, w, **options)
    return result


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str, dtype: str) -> None:
    shape, weight_shape, arguments = CASES[name]
    rng = np.random.default_rng(0)
    kind, oracle = getattr(fp, dtype), torch.float64
    values = [rng.standard_normal(s).astype(np.float32) for s in (shape, weight_shape)]
    ours = [fp.tensor(v).to(kind).requires_grad_(True) for v in values]
    # The oracle computes in float64 from the numbers as the dtype holds them.
    theirs = [torch.tensor(v).to(getattr(torch, dtype)).to(oracle).requires_grad_(True) for v in values]
    y = convolution(ours[0], ours[1], **arguments)
    expected = torch_convolution(theirs[0], theirs[1], arguments)
    slope = torch.tensor(rng.standard_normal(tuple(expected.shape)).astype(np.float32)).to(getattr(torch, dtype))
    y.backward(fp.tensor(slope.float().numpy()).to(kind))
    expected.backward(slope.to(oracle))
    pairs = [(y, expected), (ours[0].grad, theirs[0].grad), (ours[1].grad, theirs[1].grad)]
    for mine, right in pairs:
        assert mine is not None and right is not None
        assert mine.dtype is kind and mine.shape == tuple(right.shape)
        wanted = right.detach().numpy()
        scale = float(np.sqrt((wanted**2).mean())) * 6
        np.testing.assert_allclose(mine.detach().to(fp.float64).numpy(), wanted, rtol=0, atol=TOLERANCE[dtype] * scale)
