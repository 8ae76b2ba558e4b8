"""Batch normalisation's derivatives of first and second order, against PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import firepot as fp


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 5, 3, 4)])
def test_derivatives(shape, affine):
    random = np.random.default_rng(0)
    x, direction = random.standard_normal((2, *shape)) * 2 + 1
    weight, bias = random.standard_normal((2, shape[1]))

    def derivatives(library, batch_norm):
        a, w, b, d = (library.tensor(v, dtype=library.float64) for v in (x, weight, bias, direction))
        for t in (a, w, b):
            t.requires_grad = True
        y = batch_norm(a, None, None, *((w, b) if affine else (None, None)), training=True)
        inputs = (a, w, b) if affine else (a,)
        first = library.autograd.grad((y.relu() * y * d).sum(), inputs, create_graph=True)
        second = library.autograd.grad(sum((g * g).sum() for g in first), inputs)
        return [t.detach().numpy() for t in (y, *first, *second)]

    ours = derivatives(fp, fp.nn.functional.batch_norm)
    theirs = derivatives(torch, torch.nn.functional.batch_norm)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
