"""Attention, forward and derivatives, against PyTorch."""

import numpy as np
import pytest
import torch
from oracle import Comparison, both, draw

import firepot as fp
from firepot.compiler.simplify import structure
from firepot.nn import functional as F

sdpa = torch.nn.functional.scaled_dot_product_attention
SHAPES = [  # batch, T, S, E, V
    ((2, 3), 64, 64, 16, 16),
    ((1, 2), 33, 33, 5, 7),
    ((2,), 8, 70, 20, 33),
    ((), 50, 9, 64, 64),
    ((2, 1, 2), 40, 40, 8, 1),
    ((1, 1), 130, 257, 32, 48),
]


def compare(comparison, label, shape, dtype="float64", **options):
    batch, t, s, e, v = shape
    ours, theirs = zip(
        *(both(draw((*batch, n, d), i), dtype, True) for i, (n, d) in enumerate([(t, e), (s, e), (s, v)])), strict=True
    )
    mask, torch_mask = options.pop("mask", (None, None))
    got = F.scaled_dot_product_attention(*ours, attn_mask=mask, **options)
    want = sdpa(*theirs, attn_mask=torch_mask, **options)
    weight, torch_weight = both(draw(got.shape, 9), dtype)
    (got * weight).sum().backward()
    (want * torch_weight).sum().backward()
    # Either library's float32 gradients lie up to 3e-6 from those in float64.
    tolerance = (2e-5, 1e-5) if dtype == "float32" else None
    comparison.add(f"{label} {shape}", got, want)
    for name, x, y in zip(("query", "key", "value"), ours, theirs, strict=True):
        comparison.add(f"{label} {shape} {name} gradient", x.grad, y.grad, tolerance)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_plain_and_causal(dtype):
    comparison = Comparison()
    for shape in SHAPES:
        compare(comparison, "plain", shape, dtype)
        compare(comparison, "causal", shape, dtype, is_causal=True)
        compare(comparison, "scaled", shape, dtype, scale=0.3)
    comparison.check()


def test_masks():
    comparison = Comparison()
    for shape in SHAPES:
        batch, t, s, _, _ = shape
        boolean = np.random.default_rng(3).random((t, s)) > 0.4
        boolean[min(3, t - 1)] = False  # a query that sees nothing
        compare(comparison, "boolean", shape, mask=(fp.tensor(boolean), torch.from_numpy(boolean)))
        compare(comparison, "added", shape, mask=both(draw((*batch, t, s), 5)))
        padding = np.where(np.arange(s) < s - 2, 0.0, -np.inf)
        compare(comparison, "padding", shape, mask=both(padding.reshape(*(1 for _ in batch), 1, s)))
    comparison.check()


def test_heads_inside_one_projection():
    """Queries, keys and values as views of one product, the gradients assembled for the next one."""
    x, other = both(draw((2, 40, 96)), requires_grad=True)

    def run(x, attention):
        q, k, v = (p.reshape(2, 40, 4, 8).transpose(1, 2) for p in x.chunk(3, -1))
        return attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 40, 32)

    got, want = run(x, F.scaled_dot_product_attention), run(other, sdpa)
    (got**2).sum().backward()
    (want**2).sum().backward()
    comparison = Comparison()
    comparison.add("result", got, want)
    comparison.add("gradient", x.grad, other.grad)
    comparison.check()


def test_a_mask_that_is_learned_and_second_derivatives():
    comparison = Comparison()
    q, torch_q = both(draw((2, 12, 6)), requires_grad=True)
    bias, torch_bias = both(draw((12, 12), 1), requires_grad=True)
    F.scaled_dot_product_attention(q, q, q, attn_mask=bias).sum().backward()
    sdpa(torch_q, torch_q, torch_q, attn_mask=torch_bias).sum().backward()
    comparison.add("mask gradient", bias.grad, torch_bias.grad)
    x, torch_x = both(draw((2, 12, 6), 2), requires_grad=True)
    (g,) = fp.autograd.grad(
        (F.scaled_dot_product_attention(x, x, x, is_causal=True) ** 2).sum(), [x], create_graph=True
    )
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        y = sdpa(torch_x, torch_x, torch_x, is_causal=True)
        (torch_g,) = torch.autograd.grad((y**2).sum(), [torch_x], create_graph=True)
    (g**2).sum().backward()
    (torch_g**2).sum().backward()
    comparison.add("second derivative", x.grad, torch_x.grad)
    comparison.check()


def test_scores_are_never_stored():
    x = fp.randn(1, 2, 64, 16, requires_grad=True)
    out = F.scaled_dot_product_attention(x, x, x)
    out.sum().backward()
    _, _, order = structure([out._node, x.grad._node])
    assert not [n for n in order if n.shape[-2:] == (64, 64)]


def test_half_precision_few_queries_and_empty():
    comparison = Comparison()
    compare(comparison, "half", ((2,), 16, 16, 8, 8), "bfloat16")
    compare(comparison, "one query", ((2, 2), 1, 30, 8, 8))
    comparison.check()
    assert F.scaled_dot_product_attention(fp.zeros(2, 0, 4), fp.zeros(2, 3, 4), fp.zeros(2, 3, 4)).shape == (2, 0, 4)


def test_errors():
    q = fp.zeros(2, 8, 4)
    with pytest.raises(RuntimeError, match="not both"):
        F.scaled_dot_product_attention(q, q, q, attn_mask=fp.zeros(8, 8), is_causal=True)
    with pytest.raises(RuntimeError, match="one dtype"):
        F.scaled_dot_product_attention(q, q, q.double())
    with pytest.raises(RuntimeError, match="attn_mask"):
        F.scaled_dot_product_attention(q, q, q, attn_mask=fp.zeros(5, 2, 8, 8))
