"""Convolutions, windows and attention against PyTorch."""

from __future__ import annotations

import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp

F = torch.nn.functional
# input, weight, arguments
FORWARD = [
    ((2, 3, 9), (4, 3, 3), {}), ((1, 4, 8), (6, 2, 3), {"stride": 2, "padding": 1, "groups": 2}), ((2, 3, 8, 7), (5, 3, 3, 3), {"padding": 1}),
    ((2, 3, 8, 8), (5, 3, 3, 3), {"stride": 2, "padding": 1}), ((1, 2, 9, 9), (3, 2, 3, 2), {"dilation": (2, 3), "padding": (2, 0)}),
    ((2, 8, 6, 6), (8, 1, 3, 3), {"groups": 8, "padding": 1}), ((2, 8, 5, 5), (16, 8, 1, 1), {}), ((1, 16, 6, 6), (16, 8, 3, 3), {"groups": 2, "stride": (2, 1)}),
    ((1, 2, 4, 5, 4), (3, 2, 2, 3, 2), {"padding": 1, "stride": 2}), ((1, 1, 1, 1), (1, 1, 1, 1), {}), ((2, 4, 6, 6), (8, 1, 3, 3), {"groups": 4, "stride": 2, "padding": 1}),
    ((1, 9, 7, 7), (17, 9, 3, 3), {"padding": 2, "dilation": 2}), ((1, 3, 5, 5), (2, 3, 2, 2), {"stride": 3}), ((0, 3, 5, 5), (2, 3, 2, 2), {}),
]  # fmt: skip
TRANSPOSED = [
    ((2, 3, 5), (3, 4, 3), {}), ((1, 4, 5), (4, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    ((2, 3, 4, 5), (3, 2, 3, 3), {"stride": 2, "padding": 1}), ((1, 2, 4, 4), (2, 3, 3, 2), {"dilation": 2}), ((1, 8, 3, 3), (8, 1, 2, 2), {"groups": 8, "stride": 2}),
]  # fmt: skip


def convolve_torch(x, w, transposed, **arguments):
    name = f"conv{'_transpose' if transposed else ''}{w.ndim - 2}d"
    return getattr(F, name)(x, w, **arguments)


@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients(transposed):
    compared = Comparison()
    for x_shape, w_shape, arguments in TRANSPOSED if transposed else FORWARD:
        label = f"{x_shape} {w_shape} {arguments}"
        for dtype in ("float64", "float32"):
            x, rx = both(draw(x_shape), dtype, requires_grad=True)
            w, rw = both(draw(w_shape, 1), dtype, requires_grad=True)
            y = fp.ops.convolution(x, w, transposed=transposed, **arguments)
            ry = convolve_torch(rx, rw, transposed, **arguments)
            compared.add(label, y, ry, (1e-4, 1e-4) if dtype == "float32" else None)
            if ry.numel():
                compare_gradients(
                    compared, label, y, ry, [(x, rx), (w, rw)], (1e-4, 1e-4) if dtype == "float32" else None
                )
    compared.check()


@pytest.mark.parametrize("transposed", [False, True])
def test_second_derivatives(transposed):
    compared = Comparison()
    for x_shape, w_shape, arguments in (TRANSPOSED if transposed else FORWARD)[:5]:
        x, rx = both(draw(x_shape), requires_grad=True)
        w, rw = both(draw(w_shape, 1), requires_grad=True)
        y = fp.ops.convolution(x, w, transposed=transposed, **arguments)
        ry = convolve_torch(rx, rw, transposed, **arguments)
        g = fp.autograd.grad((y * y).sum(), [x, w], create_graph=True)
        rg = torch.autograd.grad((ry * ry).sum(), [rx, rw], create_graph=True)
        for i in range(2):
            compare_gradients(compared, f"{x_shape} {i}", g[i], rg[i], [(x, rx), (w, rw)], (1e-7, 1e-7))
    compared.check()


def test_what_surrounds_a_convolution():
    """Epilogues that fuse with it, channels-last values inside, views of its operands."""
    compared = Comparison()
    x, rx = both(draw((2, 8, 6, 6)), "float32", requires_grad=True)
    w, rw = both(draw((16, 8, 3, 3), 1, -0.3, 0.3), "float32", requires_grad=True)
    v, rv = both(draw((8, 16, 1, 1), 2, -0.3, 0.3), "float32", requires_grad=True)
    b, rb = both(draw((16,), 3), "float32", requires_grad=True)

    def block(m, x, w, v, b, convolve):
        y = (convolve(x, w, padding=1) + b.reshape(16, 1, 1)).relu()
        z = convolve(y, v) + x
        pooled = m.cat([z.mean((2, 3)), y.amax((2, 3)), z.permute(0, 2, 3, 1).reshape(2, -1)], 1)
        return m.softmax(pooled, 1) + convolve(m.flip(z, (3,))[:, :, ::2], w, padding=1).sum()

    y = block(fp, x, w, v, b, fp.ops.convolution)
    ry = block(torch, rx, rw, rv, rb, F.conv2d)
    compared.add("block", y, ry, (1e-4, 1e-4))
    compare_gradients(compared, "block", y, ry, [(x, rx), (w, rw), (v, rv), (b, rb)], (1e-3, 1e-2))
    compared.check()


def test_windows():
    """Maxima over windows are F.max_pool; sums of their transposes are F.fold."""
    compared = Comparison()
    for kernel, stride, padding, dilation in ((2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 2), (2, 3, 0, 1)):
        x, rx = both(draw((2, 3, 9, 8)), requires_grad=True)
        y = fp.ops.windows(x, (kernel, kernel), stride, padding, dilation, fill=-1e9).amax((-2, -1))
        ry = F.max_pool2d(rx, kernel, stride, padding, dilation)
        compared.add(f"{kernel} {stride}", y, ry)
        compare_gradients(compared, f"{kernel} {stride}", y, ry, [(x, rx)])
        windows = fp.ops.windows(x, (kernel, kernel), stride, padding, dilation)
        columns = windows.permute(0, 1, 4, 5, 2, 3).reshape(2, 3 * kernel * kernel, -1)
        unfolded = F.unfold(rx, kernel, dilation, padding, stride)
        compared.add(f"unfold {kernel} {stride}", columns, unfolded)
        compare_gradients(compared, f"unfold {kernel} {stride}", columns * columns, unfolded * unfolded, [(x, rx)])
    compared.check()


def test_attention():
    compared = Comparison()
    for causal in (False, True):
        q, rq = both(draw((2, 2, 5, 4)), requires_grad=True)
        k, rk = both(draw((2, 2, 5, 4), 1), requires_grad=True)
        v, rv = both(draw((2, 2, 5, 3), 2), requires_grad=True)
        y = fp.ops.scaled_dot_product_attention(q, k, v, is_causal=causal)
        ry = F.scaled_dot_product_attention(rq, rk, rv, is_causal=causal)
        compared.add(f"causal {causal}", y, ry)
        compare_gradients(compared, f"causal {causal}", y, ry, [(q, rq), (k, rk), (v, rv)])
    compared.check()


@pytest.mark.parametrize(
    ("x", "w", "arguments", "text"),
    [
        ((2, 3, 8, 8), (4, 2, 3, 3), {}, r"conv: .*\[4, 2, 3, 3\].*3 channels"),
        ((2, 3, 8), (4, 3, 3, 3), {}, r"conv: .*\[2, 3, 8\]"),
        ((2, 3, 2, 2), (4, 3, 3, 3), {}, "greater than the padded input"),
        ((2, 4, 8, 8), (3, 2, 3, 3), {"groups": 2}, "divisible by groups=2"),
        ((2, 3, 8, 8), (4, 3, 3, 3), {"stride": 0}, "stride"),
        ((2, 3, 8, 8), (4, 3, 3, 3), {"padding": (1, 2, 3)}, "expected one number or 2"),
        ((2, 3, 8, 8), (4, 3, 3, 3), {"transposed": True}, "conv_transpose"),
    ],
)
def test_errors(x, w, arguments, text):
    with pytest.raises(RuntimeError, match=text):
        fp.ops.convolution(fp.zeros(x), fp.zeros(w), **arguments)


def test_dtypes_must_agree():
    with pytest.raises(RuntimeError, match="float32 and weight is float64"):
        fp.ops.convolution(fp.zeros(1, 1, 4), fp.zeros(1, 1, 3, dtype=fp.float64))
