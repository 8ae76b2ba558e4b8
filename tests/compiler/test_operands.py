"""What is stored for convolutions to read where views lie between: the gradient of max pooling."""

import numpy as np
import pytest
import torch
from oracle import draw

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.layout import channels_last, strides_of
from firepot.compiler.program import Passes, Program, build
from firepot.nn import functional as F

VARIANTS = {"all": Passes(), "no layout": Passes(layout=False), "no recomputing": Passes(recompute=False)}


def gradients(size: int, passes: Passes) -> tuple[Program, list[np.ndarray], list[np.ndarray]]:
    """Of a convolution before 2 × 2 pooling, for its input and weight: the program, found, and PyTorch's in float64."""
    arrays = [draw((2, 16, size, size), 0), draw((24, 16, 3, 3), 1), draw((2, 24, size // 2, size // 2), 2)]
    x, w, g = (fp.tensor(a.astype(np.float32)) for a in arrays)
    fp.eval(x, w, g)
    for t in (x, w):
        t.requires_grad_()
    loss = (F.max_pool2d(F.conv2d(x, w, padding=1), 2) * g).sum()
    results = [t._node for t in fp.autograd.grad(loss, (x, w))]
    _, leaves, order = simplify.structure(results)
    inputs, copies = simplify.simplify(order, leaves, results)
    program = build(inputs, copies, passes=passes)
    buffers = Executor(program)([leaf.buffer for leaf in leaves])
    found = [b.view(np.dtype(np.float32), r.shape).copy() for b, r in zip(buffers, results, strict=True)]
    tx, tw, tg = (torch.tensor(a.astype(np.float32)).double() for a in arrays)
    for t in (tx, tw):
        t.requires_grad_()
    (torch.nn.functional.max_pool2d(torch.conv2d(tx, tw, padding=1), 2) * tg).sum().backward()
    return program, found, [tx.grad.numpy(), tw.grad.numpy()]


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("size", [8, 9])  # with 9 the last row and column belong to no window
def test_gradient_of_a_convolution_before_pooling(size, variant):
    program, found, expected = gradients(size, VARIANTS[variant])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())
    if variant == "all":
        labels = [s.kernel.label for s in program.steps]
        assert "map(copy)" not in labels
        step = program.steps[labels.index("convolve_weight_grad 16→24 3×3 @" + str(size))]
        storage = step.operands[1][0]
        assert storage.strides == strides_of((2, 24, size, size), channels_last(4))
