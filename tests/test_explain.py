"""fp.explain: the figures against hand counts, and nothing changed by looking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.nn import functional as F


def kernels_of(function: Callable[..., Any], *args: Any) -> list[tuple[int, int]]:
    """(flops, bytes) of each kernel."""
    return [(k.flops, k.bytes) for k in fp.explain(function, *args).kernels]


def test_a_map_counts_each_operation_and_each_element_once() -> None:
    x, y = fp.randn(6, 10), fp.randn(10)
    assert kernels_of(lambda x, y: (x * y + 1).exp(), x, y) == [(3 * 60, 4 * (60 + 10 + 60))]
    doubles = x.double()
    assert kernels_of(lambda x: x + x * x, doubles) == [(2 * 60, 8 * 2 * 60)]
    assert kernels_of(lambda x: x + x, fp.arange(60)) == [(0, 8 * 2 * 60)]


def test_a_slice_and_a_gather_move_what_they_touch() -> None:
    x = fp.randn(100, 8)
    assert kernels_of(lambda x: x[10:20] * 2, x) == [(80, 4 * (80 + 80))]
    rows = fp.tensor([1, 5, 99])
    assert kernels_of(lambda x, i: x[i] * 2, x, rows) == [(24, 4 * (24 + 24) + 8 * 3)]


def test_folds() -> None:
    x = fp.randn(20, 30)
    assert kernels_of(lambda x: x.sum(1), x) == [(600, 4 * (600 + 20))]
    # softmax over rows: the maximum; the differences, their exponentials and the sum; the quotients.
    flops = sum(k[0] for k in kernels_of(lambda x: x.softmax(1), x))
    assert 5 * 600 <= flops <= 7 * 600
    # The sum of a row is a number of the row: dividing it takes 20 operations, not 600.
    assert kernels_of(lambda x: x.sum(1, keepdim=True) / 7 + x, x)[-1][0] in (600 + 20, 600 + 600 + 20)


def test_matrix_products() -> None:
    x, y = fp.randn(5, 7), fp.randn(7, 11)
    assert kernels_of(lambda x, y: x @ y, x, y) == [(2 * 5 * 7 * 11, 4 * (35 + 77 + 55))]
    many = fp.randn(3, 5, 7)
    assert kernels_of(lambda x, y: x.bmm(y.expand(3, 7, 11)), many, y) == [(2 * 3 * 5 * 7 * 11, 4 * (105 + 77 + 165))]


@pytest.mark.parametrize("groups", [1, 8])
def test_convolutions_and_their_derivatives(groups: int) -> None:
    x, w = fp.randn(2, 8, 12, 12), fp.randn(16, 8 // groups, 3, 3)
    products = 2 * 16 * 10 * 10 * (8 // groups) * 9
    moved = 4 * (x.numel() + w.numel() + 2 * 16 * 100)
    found = fp.explain(lambda x, w: F.conv2d(x, w, groups=groups), x, w)
    assert [(k.flops, k.bytes) for k in found.kernels if "convolve" in k.label] == [(2 * products, moved)]

    x.requires_grad_(), w.requires_grad_()

    def derivatives(x: fp.Tensor, w: fp.Tensor) -> Any:
        return fp.autograd.grad(F.conv2d(x, w, groups=groups).sum(), (x, w))

    found = fp.explain(derivatives, x, w)
    assert [(k.flops, k.bytes) for k in found.kernels if "convolve" in k.label] == [(2 * products, moved)] * 2


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal: bool) -> None:
    q, k, v = fp.randn(2, 3, 40, 16), fp.randn(2, 3, 24, 16), fp.randn(2, 3, 24, 8)
    pairs = 6 * (sum(min(t + 1, 24) for t in range(40)) if causal else 40 * 24)
    found = fp.explain(lambda *a: F.scaled_dot_product_attention(*a, is_causal=causal), q, k, v)
    got = [(k.flops, k.bytes) for k in found.kernels if k.label.startswith("attention")]
    assert got == [(2 * pairs * (16 + 8), 4 * 6 * (40 * 16 + 24 * 16 + 24 * 8 + 40 * 8))]


def test_scatters_scans_and_sorts() -> None:
    x, i = fp.zeros(50, 4), fp.tensor([3, 3, 7])
    updates = fp.ones(3, 4)
    found = fp.explain(lambda x: x.index_add(0, i, updates), x)
    got = [(k.flops, k.bytes) for k in found.kernels if k.label.startswith("scatter")]
    assert got == [(12, 4 * (200 + 200 + 12) + 8 * 3)]
    rows = fp.randn(10, 20)
    found = fp.explain(lambda x: x.cumsum(1), rows)
    assert [(k.flops, k.bytes) for k in found.kernels if k.label.startswith("scan")] == [(200, 4 * 400)]
    found = fp.explain(lambda x: x.argsort(1), rows)
    assert [(k.flops, k.bytes) for k in found.kernels if k.label == "argsort"] == [(0, (4 + 8) * 200)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x: fp.Tensor) -> fp.Tensor:
        return self.head(self.body(x).relu())


def everything(model: nn.Module, optimizer: fp.optim.Optimizer) -> list[Any]:
    state = optimizer.state_dict()["state"]
    return [
        *(t.numpy() for t in model.state_dict().values()),
        *(None if p.grad is None else p.grad.numpy() for p in model.parameters()),
        *(v.numpy() for s in state.values() for v in s.values() if isinstance(v, fp.Tensor)),
        fp.get_rng_state().numpy(),
        list(state),
    ]


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_nothing_is_changed_by_looking(jitted: bool, trained: bool) -> None:
    model = Net()
    optimizer = fp.optim.Adam(model.parameters())
    x, y = fp.randn(5, 6), fp.arange(5) % 3

    def step(x: fp.Tensor, y: fp.Tensor) -> fp.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    function: Any = fp.jit(step) if jitted else step
    if trained:
        function(x, y)
    before = everything(model, optimizer)
    found = fp.explain(function, x, y)
    after = everything(model, optimizer)
    assert len(before) == len(after)
    for b, a in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(p.is_leaf and p.requires_grad for p in model.parameters())
    assert len(found.compilations) == (1 if trained or not jitted else 0)
    function(x, y)  # and it goes on as ever
    assert not np.array_equal(everything(model, optimizer)[0], before[0])


def test_the_report_says_where_a_kernel_comes_from_and_adds_up() -> None:
    model = Net()
    x = fp.randn(5, 6)
    weight = model.head.weight

    def step(x: fp.Tensor) -> fp.Tensor:
        weight.grad = None
        loss = model(x).exp().sum()
        loss.backward()
        return loss

    found = fp.explain(step, x)
    products = [k for k in found.kernels if k.label.startswith("matmul")]
    assert {(k.module, k.derivative) for k in products} >= {("body.0", False), ("head", False), ("head", True)}
    assert all("test_explain.py:" in k.line for k in found.kernels)
    assert found.total_seconds == pytest.approx(sum(k.seconds for k in found.kernels))
    assert all(k.seconds > 0 and k.floor_seconds > 0 for k in found.kernels)
    assert found.flops == sum(k.flops for k in found.kernels)
    assert found.arena_bytes > 0
    for k in found.kernels:
        roof = max(k.flops / found.peaks.flops, k.bytes / found.peaks.bandwidth)
        assert k.floor_seconds == pytest.approx(roof)
        assert k.reached == pytest.approx(roof / k.seconds)

    text = str(found)
    assert text.startswith("step: ")
    assert all(k.label[:40] in found.table("order") for k in found.kernels)
    times = [found.kernels[int(line.split()[0])].seconds for line in found.table().splitlines()[1:-1]]
    assert times == sorted(times, reverse=True)
    assert "more, " in found.table(limit=2)
    assert "matmul" in found.schedule()
    assert "contract" in found.graph()
    assert "define void" in found.llvm(0)
    assert "define void" in found.llvm(0, optimised=True)
    assert any("for " in found.loops(k.number) for k in found.kernels)
    with pytest.raises(IndexError, match="no kernel 99"):
        found.llvm(99)
    with pytest.raises(ValueError, match="sort"):
        found.table("size")


def test_methods_modules_and_errors() -> None:
    class Scale:
        factor = fp.tensor(2.0)

        @fp.jit
        def double(self, x: fp.Tensor) -> fp.Tensor:
            return x * self.factor

    assert kernels_of(Scale().double, fp.ones(8)) == [(8, 4 * (8 + 1 + 8))]
    assert kernels_of(nn.ReLU(), fp.ones(8)) == [(8, 4 * 16)]
    with pytest.raises(fp.TraceError, match=r"test_explain\.py:\d+"):
        fp.explain(lambda x: x.item(), fp.ones(1))
    with pytest.raises(IndexError, match="index 9"):
        fp.explain(lambda x, i: x[i], fp.ones(3), fp.tensor(9))
    with pytest.raises(fp.TraceError, match=r"fp\.explain"):
        fp.jit(lambda: fp.explain(nn.ReLU(), fp.ones(2)))()


def test_products_of_integers_have_a_floor() -> None:
    x = fp.ones(64, 128, dtype=fp.int8)
    fp.eval(x)
    kernels = fp.explain(fp.jit(lambda x: fp.int_mm(x, x.T)), x).kernels
    assert kernels[0].flops == 2 * 64 * 64 * 128 and kernels[0].floor_seconds > 0
