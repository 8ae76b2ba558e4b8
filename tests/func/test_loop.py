"""fp.scan as a loop of the native program, against the same steps written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import draw

import firepot as fp
from firepot import nn
from firepot.nn import functional as F


def written_out(f: Callable[..., Any], init: Any, xs: Any = None, length: int = 0, reverse: bool = False) -> Any:
    count = length or fp.tree.leaves(xs)[0].shape[0]
    carry, made = init, []
    for t in reversed(range(count)) if reverse else range(count):
        carry, y = f(carry, fp.tree.map(lambda x, t=t: x[t], xs) if xs is not None else None)
        made.append(y)
    if reverse:
        made.reverse()
    return carry, fp.tree.map(lambda *ys: fp.stack(ys), *made)


def same(found: Any, expected: Any, rtol: float = 1e-6) -> None:
    for a, b in zip(fp.tree.leaves(found), fp.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=rtol, atol=rtol)


def network(scan: Any, reverse: bool = False) -> Callable[..., Any]:
    """Carries and results of several shapes and dtypes, constants, sizes that do not fill a cache line."""

    def run(w: Any, xs: Any, start: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            h = fp.tanh(carry["h"] @ w + x["a"] * x["b"])
            total = carry["f"] + h.sum().float()
            return {"h": h, "n": carry["n"] + 1, "f": total, "seen": carry["seen"] | (h > 0.5)}, (h * 2, h[0], carry["n"])

        first = {"h": start, "n": fp.tensor(0), "f": fp.tensor(0.0), "seen": fp.zeros(2, 3).bool()}
        last, (hs, rows, counts) = scan(step, first, xs, reverse=reverse)
        return last["h"], last["f"], last["n"], last["seen"], hs, rows, counts

    return run


def scalar(run: Callable[..., Any]) -> Callable[..., Any]:
    def loss(*args: Any) -> fp.Tensor:
        h, f, _, _, hs, rows, _ = run(*args)
        return (h * hs).sum() + f.double() * rows.sum() + (hs[1:] * hs[:-1]).sum()

    return loss


def arguments() -> tuple[Any, ...]:
    xs = {"a": fp.tensor(draw((5, 2, 3), 1)), "b": fp.tensor(draw((5, 1), 3))}
    return fp.tensor(draw((3, 3))) * 0.5, xs, fp.tensor(draw((2, 3), 2))


@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_derivatives(reverse: bool) -> None:
    given = arguments()
    ours, theirs = network(fp.scan, reverse), network(written_out, reverse)
    expected = theirs(*given)
    same(ours(*given), expected)
    same(fp.jit(ours)(*given), expected)
    numbers = (0, 1, 2)
    expected = fp.grad(scalar(theirs), numbers)(*given)
    same(fp.grad(scalar(ours), numbers)(*given), expected)
    same(fp.jit(fp.grad(scalar(ours), numbers))(*given), expected)

    def again(run: Any) -> Any:
        return lambda w, xs, start: sum((g * g).sum() for g in fp.tree.leaves(fp.grad(scalar(run), numbers)(w, xs, start)))

    same(fp.jit(fp.grad(again(ours), numbers))(*given), fp.jit(fp.grad(again(theirs), numbers))(*given))
    tangents = fp.tree.map(fp.ones_like, given)
    same(fp.jvp(scalar(ours), given, tangents), fp.jvp(scalar(theirs), given, tangents))


def test_mapped() -> None:
    w, xs, start = arguments()
    starts, ws = fp.stack([start, start * 2, -start]), fp.stack([w, w * 0.3, w.T])
    rows = fp.tree.map(lambda x: fp.stack([x, x + 1, x * 2], 1), xs)
    for dims, given in [((None, None, 0), (w, xs, starts)), ((0, 1, None), (ws, rows, start))]:
        each = [fp.vmap(fp.grad(scalar(network(s)), (0, 2)), dims) for s in (fp.scan, written_out)]
        same(fp.jit(each[0])(*given), each[1](*given))

    def whole(scan: Any) -> Any:
        mapped = fp.vmap(network(scan), (None, None, 0))
        return lambda *a: sum((t * t).sum() for t in mapped(*a) if t.dtype is fp.float64)

    same(fp.grad(whole(fp.scan), 2)(w, xs, starts), fp.grad(whole(written_out), 2)(w, xs, starts))


def test_a_thousand_steps_are_compiled_as_one() -> None:
    w, xs = fp.tensor(draw((4, 4))) * 0.3, fp.tensor(draw((1000, 4), 1))

    def loss(w: fp.Tensor, xs: fp.Tensor) -> fp.Tensor:
        last, ys = fp.scan(lambda h, x: ((h @ w + x).tanh(), h.sum()), xs[0] * 0, xs)
        return last.sum() + ys.mean()

    step = fp.jit(fp.value_and_grad(loss))
    value, gradient = step(w, xs)
    assert sum(c.kernels for c in step.compilations) < 20
    h, ys, a = np.zeros(4), [], w.numpy()
    for x in xs.numpy():
        ys.append(h.sum())
        h = np.tanh(h @ a + x)
    np.testing.assert_allclose(value.item(), h.sum() + np.mean(ys))
    bump = np.zeros((4, 4))
    bump[1, 2] = 1e-6
    ends = [step(fp.tensor(a + s * bump), xs)[0].item() for s in (1, -1)]
    np.testing.assert_allclose(gradient[1, 2].item(), (ends[0] - ends[1]) / 2e-6, rtol=1e-5)
    (kernel,) = [k for k in fp.explain(loss, w, xs).kernels if k.label.startswith("loop 1000x")]
    assert kernel.flops >= 1000 * 2 * 16


def test_loops_in_loops() -> None:
    def run(scan: Any) -> Any:
        def outer(w: fp.Tensor, xs: fp.Tensor) -> fp.Tensor:
            def row(carry: Any, x: Any) -> Any:
                inner, ys = scan(lambda c, v: (fp.sin(c * w + v), c * v), carry, x)
                return inner, ys.sum() + inner

            last, ys = scan(row, w * 0, xs)
            return last * ys.sum()

        return outer

    given = fp.tensor(0.7, dtype=fp.float64), fp.tensor(draw((3, 4)))
    for transform in (lambda f: f, lambda f: fp.grad(fp.grad(f))):
        same(fp.jit(transform(run(fp.scan)))(*given), transform(run(written_out))(*given))
    rows = fp.stack([given[1], given[1] * 2])
    same(fp.vmap(run(fp.scan), (None, 0))(given[0], rows), fp.vmap(run(written_out), (None, 0))(given[0], rows))


def test_random_numbers_and_running_statistics_go_on_from_step_to_step() -> None:
    def run(scan: Any, jit: bool) -> Any:
        fp.manual_seed(3)
        norm = nn.BatchNorm1d(3)
        model = nn.Sequential(nn.Linear(3, 3), norm, nn.Dropout(0.5))

        def call(x: fp.Tensor) -> Any:
            return scan(lambda c, r: (c + model(r), fp.rand(2)), x[0] * 0, x)

        found = (fp.jit(call) if jit else call)(fp.tensor(draw((4, 5, 3)), dtype=fp.float32))
        return found, norm.running_mean, norm.num_batches_tracked, fp.rand(2)

    expected = run(written_out, False)
    for jit in (False, True):
        same(run(fp.scan, jit), expected, 1e-5)


def test_training_through_a_loop() -> None:
    def trained(scan: Any) -> list[float]:
        fp.manual_seed(0)
        cell, head = nn.GRUCell(3, 8), nn.Linear(8, 1)
        optimizer = fp.optim.Adam([*cell.parameters(), *head.parameters()], lr=0.01)

        @fp.jit
        def step(x: fp.Tensor, y: fp.Tensor) -> fp.Tensor:
            optimizer.zero_grad()
            h, _ = scan(lambda h, r: (cell(r, h), h.sum()), fp.zeros(6, 8), x)
            loss = F.mse_loss(head(h), y)
            loss.backward()
            optimizer.step()
            return loss

        x = fp.tensor(draw((7, 6, 3)), dtype=fp.float32)
        return [step(x, x.sum((0, 2))[:, None]).item() for _ in range(4)]

    np.testing.assert_allclose(trained(fp.scan), trained(written_out), rtol=1e-4)


def test_checkpoints_and_own_derivatives_inside() -> None:
    scale = fp.tensor(3.0, dtype=fp.float64)

    @fp.custom_vjp
    def doubled(x: Any) -> Any:
        return x * 2

    doubled.defvjp(lambda x: (x * 2, x), lambda x, g: (g * x * scale,))

    def run(scan: Any) -> Any:
        def loss(x: fp.Tensor, xs: fp.Tensor) -> fp.Tensor:
            def step(c: fp.Tensor, v: fp.Tensor) -> fp.Tensor:
                return fp.checkpoint(lambda c, v: fp.sin(doubled(c) * v), c, v)

            last, ys = scan(lambda c, v: (step(c, v), c), x, xs)
            return last + ys.sum()

        return loss

    given = fp.tensor(0.3, dtype=fp.float64), fp.tensor(draw((4,)))
    same(fp.grad(run(fp.scan), (0, 1))(*given), fp.grad(run(written_out), (0, 1))(*given))


def test_looking_at_values() -> None:
    def step(carry: fp.Tensor, x: fp.Tensor) -> Any:
        return (carry + x if x.item() > 1 else carry), x

    xs = fp.tensor([1.0, 2.0, 3.0])
    assert fp.scan(step, fp.tensor(0.0), xs)[0].item() == 5  # step by step
    with pytest.raises(fp.TraceError, match=r"item\(\) at .*test_loop\.py:\d+: inside fp\.scan a tensor has no value"):
        fp.jit(lambda xs: fp.scan(step, fp.tensor(0.0), xs))(xs)
    seen = fp.tensor(0.0)

    def changing(carry: fp.Tensor, x: fp.Tensor) -> Any:
        carry += x
        seen.add_(carry)
        return carry, carry * 1

    last, ys = fp.scan(changing, fp.tensor(1.0), xs)
    assert (last.item(), ys.tolist(), seen.item(), xs.tolist()) == (7, [2, 4, 7], 13, [1, 2, 3])


def test_a_bad_index_ends_the_loop_and_the_next_run_is_whole() -> None:
    table = fp.arange(4.0)
    run = fp.jit(lambda index: fp.scan(lambda c, i: (c + table[i], c), fp.tensor(0.0), index))
    good = fp.tensor([3, 1, 0, 2, -1])
    assert run(good)[0].item() == 9
    with pytest.raises(IndexError, match="index 7 is out of"):
        run(fp.tensor([0, 7, 1, 1, 1]))
    last, ys = run(good)
    assert (last.item(), ys.tolist()) == (9, [0, 3, 4, 4, 6])


def test_values_that_stay_and_values_twice() -> None:
    x = fp.tensor([1.0, 2.0])
    (a, b), (c, d, e) = fp.scan(lambda v, r: ((v[1], v[0]), (v[0], v[0], fp.zeros(2))), (x, x * 3), length=3)
    assert (a.tolist(), b.tolist()) == ([3, 6], [1, 2])
    assert c.tolist() == d.tolist() == [[1, 2], [3, 6], [1, 2]]
    assert e.tolist() == [[0, 0]] * 3
    empty, nothing = fp.scan(lambda v, r: (v, r * 1), fp.zeros(0), fp.ones(2, 0))
    assert (empty.shape, nothing.shape) == ((0,), (2, 0))
    assert fp.scan(lambda v, r: (v + 1, v), fp.tensor(0, dtype=fp.int8), length=1)[1].tolist() == [0]


def test_a_memory_budget_holds_with_loops() -> None:
    w, xs = fp.tensor(draw((16, 16)).astype("f4")) * 0.3, fp.tensor(draw((24, 8, 16), 1).astype("f4"))

    def loss(w: fp.Tensor, xs: fp.Tensor) -> fp.Tensor:
        wide = (xs * 2).sin()  # made again rather than kept over the loops
        for _ in range(2):
            _, wide = fp.scan(lambda h, x: ((h @ w + x).tanh(), h.exp()), xs[0] * 0, wide)
        return (wide * xs.sin()).sum()

    both = fp.value_and_grad(loss, (0, 1))
    free = fp.explain(both, w, xs).memory_bytes
    with pytest.raises(MemoryError, match="the smallest budget that works is") as refused:
        fp.jit(memory_budget=1000)(both)(w, xs)
    smallest = int(str(refused.value).split("the smallest budget that works is ")[1].split()[0])
    assert smallest < free
    budgeted = fp.jit(memory_budget=smallest)(both)
    same(budgeted(w, xs), both(w, xs))
    explained = fp.explain(budgeted, w, xs)
    assert explained.memory_bytes <= smallest and "loop 24x" in str(explained)


@pytest.mark.parametrize("make", [fp.zeros, fp.ones, fp.randn])
def test_derivatives_by_values_from_outside_that_were_not_computed_yet(make: Any) -> None:
    w, xs = make(3, 3, requires_grad=True), fp.randn(5, 2, 3)
    (g,) = fp.autograd.grad(fp.scan(lambda c, x: ((c @ w + x).sin(), c), fp.ones(2, 3), xs)[1].sum(), [w])
    (h,) = fp.autograd.grad(fp.cond(xs.sum() > 0, lambda x: x @ w, lambda x: x @ w * 2, xs).square().sum(), [w])
    rw, rows, carry, made = torch.tensor(w.detach().numpy(), requires_grad=True), torch.tensor(xs.numpy()), torch.ones(2, 3), []
    for x in rows:
        made.append(carry)
        carry = (carry @ rw + x).sin()
    (rg,) = torch.autograd.grad(torch.stack(made).sum(), [rw])
    np.testing.assert_allclose(g.numpy(), rg.numpy(), rtol=1e-4, atol=1e-4)
    (rh,) = torch.autograd.grad((rows @ rw * (1 if rows.sum() > 0 else 2)).square().sum(), [rw])
    np.testing.assert_allclose(h.numpy(), rh.numpy(), rtol=1e-4, atol=1e-4)
