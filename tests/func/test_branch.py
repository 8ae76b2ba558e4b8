"""fp.cond and fp.while_loop as branches and loops of the native program, against the branch taken in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import draw

import firepot as fp
from firepot import nn


def same(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    for a, b in zip(fp.tree.leaves(found), fp.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=rtol, atol=rtol)


def taken(pred: Any, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
    """fp.cond by a plain `if`, for conditions that are known."""
    return (yes if bool(pred.detach()) else no)(*operands)


def network(cond: Callable[..., Any]) -> Callable[..., Any]:
    """Results of several shapes and dtypes, what is shared, what only one branch reads, a branch in a branch."""

    def run(w: fp.Tensor, x: fp.Tensor) -> Any:
        shared = (x @ w).tanh()

        def yes(x: fp.Tensor, n: fp.Tensor) -> Any:
            inner = cond(n > 3, lambda v: v.exp(), lambda v: v * shared, x)
            return {"a": inner @ w, "n": n + 1, "f": x.sum().float(), "b": n > 0}

        def no(x: fp.Tensor, n: fp.Tensor) -> Any:
            return {"a": shared.sin(), "n": n * 2, "f": fp.tensor(2.0), "b": n > 5}

        return cond(x[0, 0] > 0, yes, no, x, (x[0, 1] * 10).long())

    return run


def cases() -> list[tuple[fp.Tensor, fp.Tensor]]:
    w, x = fp.tensor(draw((3, 3))), draw((2, 3), 1)
    found = []
    for first, second in [(1.0, 1.0), (1.0, -1.0), (-1.0, 0.0)]:
        x[0, :2] = first, second
        found.append((w, fp.tensor(x.copy())))
    return found


def loss(cond: Callable[..., Any]) -> Callable[..., Any]:
    return lambda w, x: (network(cond)(w, x)["a"] ** 2).sum() + network(cond)(w, x)["f"].double()


def test_values_and_derivatives_are_those_of_the_branch_taken() -> None:
    run, gradient = fp.jit(network(fp.cond)), fp.jit(fp.grad(loss(fp.cond), (0, 1)))
    for w, x in cases():
        same(run(w, x), network(taken)(w, x))
        same(gradient(w, x), fp.grad(loss(taken), (0, 1))(w, x))
    assert len(run.compilations) == len(gradient.compilations) == 1


def test_further_derivatives() -> None:
    def small(cond: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: cond(x.sum() > 0, lambda x: x.sin() * x, lambda x: x**3, x).sum()

    def second(cond: Callable[..., Any]) -> Callable[..., Any]:
        return fp.grad(lambda x: (fp.grad(small(cond))(x) ** 2).sum())

    both = fp.jit(lambda x: (second(fp.cond)(x), fp.jvp(small(fp.cond), (x,), (fp.ones_like(x),))))
    for x in (fp.tensor([0.5, 0.7], dtype=fp.float64), fp.tensor([0.3, -0.9], dtype=fp.float64)):
        same(both(x), (second(taken)(x), fp.jvp(small(taken), (x,), (fp.ones_like(x),))))


def test_mapped() -> None:
    w = cases()[0][0]
    xs = fp.stack([x for _, x in cases()])
    gradient = fp.grad(loss(taken), (0, 1))
    each = [gradient(w, x) for _, x in cases()]
    expected = tuple(fp.stack([e[i] for e in each]) for i in range(2))
    same(fp.jit(fp.vmap(fp.grad(loss(fp.cond), (0, 1)), (None, 0)))(w, xs), expected)  # conditions that differ
    ws = fp.stack([w, w * 2])
    for _, x in cases():  # one condition for all
        found = fp.jit(fp.vmap(fp.grad(loss(fp.cond), (0, 1)), (0, None)))(ws, x)
        each = [gradient(v, x) for v in ws]
        same(found, tuple(fp.stack([e[i] for e in each]) for i in range(2)))


def test_one_branch_is_computed() -> None:
    """Of the other, even a bad index is not found, and an undefined derivative does not spread."""
    table = fp.arange(4.0)
    pick = fp.jit(lambda i: fp.cond(i < 4, lambda i: table[i], lambda i: i.float(), i))
    assert [pick(fp.tensor(i)).item() for i in (3, 9, 1)] == [3, 9, 1]
    with pytest.raises(IndexError, match="index -7 is out of"):
        pick(fp.tensor(-7))
    root = fp.jit(fp.grad(lambda x: fp.cond(x > 0, fp.sqrt, lambda x: x * 3, x)))
    assert (root(fp.tensor(0.0)).item(), root(fp.tensor(4.0)).item()) == (3, 0.25)


def test_in_place_changes_happen_in_the_branch_taken() -> None:
    def run(cond: Callable[..., Any], jit: bool) -> Any:
        fp.manual_seed(3)
        norm = nn.BatchNorm1d(3)
        model = nn.Sequential(nn.Linear(3, 3), norm, nn.Dropout(0.5))
        count = fp.tensor(0)
        optimizer = fp.optim.SGD(model.parameters(), lr=0.1)

        def call(x: fp.Tensor) -> Any:
            optimizer.zero_grad()
            value = cond(x[0, 0] > 0, model, lambda x: (count.add_(1), x * fp.rand(1))[1], x)
            (value.sum() + (model[0](x) ** 2).sum()).backward()
            cond(x[0, 1] > 0, lambda: (optimizer.step(), count.add_(10))[1], lambda: count * 1)
            return value

        step = fp.jit(call) if jit else call
        found = [step(x.float()) for _, x in cases()]
        return found, norm.running_mean, norm.num_batches_tracked, count, model[0].weight, fp.rand(2)

    same(run(fp.cond, True), run(taken, False), 1e-5)


@pytest.mark.parametrize(("kind", "settings"), [("SGD", {"momentum": 0.9, "dampening": 0.3}), ("Adam", {"amsgrad": True})])
@pytest.mark.parametrize("flags", [(True, False, True), (False, True, True)])
def test_an_optimiser_begins_in_a_branch(kind: str, settings: Any, flags: tuple[bool, ...]) -> None:
    """Its state is made at the first step that the program takes, whichever branch the recording saw first."""
    x = draw((4, 3))
    ours, theirs = nn.Parameter(fp.tensor(x[0])), torch.nn.Parameter(torch.from_numpy(x[0].copy()))
    opt = getattr(fp.optim, kind)([ours], lr=0.1, **settings)
    reference = getattr(torch.optim, kind)([theirs], lr=0.1, **settings)

    @fp.jit
    def step(flag: fp.Tensor) -> None:
        opt.zero_grad()
        ((fp.tensor(x) @ ours - 1) ** 2).mean().backward()
        fp.cond(flag, opt.step, lambda: None)

    for flag in flags:
        step(fp.tensor(flag))
        reference.zero_grad()
        ((torch.from_numpy(x) @ theirs - 1) ** 2).mean().backward()
        if flag:
            reference.step()
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-6)
    assert step.traces == 1


def test_inside_a_scan() -> None:
    def run(cond: Callable[..., Any], scan: Callable[..., Any]) -> Callable[..., Any]:
        def total(w: fp.Tensor, xs: fp.Tensor) -> fp.Tensor:
            def step(c: fp.Tensor, x: fp.Tensor) -> Any:
                c = cond(x.sum() > 0, lambda c, x: (c * w + x).sin(), lambda c, x: c - w, c, x)
                return c, c * 2

            last, ys = scan(step, w * 0, xs)
            return (last * ys).sum()

        return total

    def written_out(f: Callable[..., Any], carry: Any, xs: fp.Tensor) -> Any:
        ys = []
        for x in xs:
            carry, y = f(carry, x)
            ys.append(y)
        return carry, fp.stack(ys)

    given = fp.tensor(draw((3,))), fp.tensor(draw((6, 3), 1))
    expected = fp.grad(run(taken, written_out), (0, 1))(*given)
    same(fp.grad(run(fp.cond, fp.scan), (0, 1))(*given), expected)
    same(fp.jit(fp.grad(run(fp.cond, fp.scan), (0, 1)))(*given), expected)


def test_a_loop_ends_when_the_values_say_so() -> None:
    def power(w: fp.Tensor, limit: fp.Tensor) -> Any:
        """Until the norm is over the limit; carries of several dtypes, one that never changes, a constant."""

        def body(v: Any) -> Any:
            return {"x": v["x"] @ w + w.sum(0), "n": v["n"] + 1, "stays": v["stays"], "none": v["none"]}

        start = {"x": w[0] * 0 + 1, "n": fp.tensor(0), "stays": w[1], "none": fp.zeros(0)}
        return fp.while_loop(lambda v: (v["x"] ** 2).sum() < limit, body, start)

    w = fp.tensor(draw((3, 3))) + 1
    compiled = fp.jit(power)
    for limit in (0.0, 10.0, 1e4, 1e9):
        bound = fp.tensor(limit, dtype=fp.float64)
        same(compiled(w, bound), power(w, bound))
    assert len(compiled.compilations) == 1
    last = compiled(w, fp.tensor(1e9, dtype=fp.float64))["n"]
    assert last.item() > 3
    ws = fp.stack([w, w * 2, w * 0.7])
    bounds = fp.tensor([1e4, 10.0, 0.0], dtype=fp.float64)
    rows = [power(w, b) for w, b in zip(ws, bounds, strict=True)]
    expected = fp.tree.map(lambda *r: fp.stack(r), *rows)
    same(fp.jit(fp.vmap(power))(ws, bounds), expected)
    same(fp.vmap(power, (None, 0))(w, bounds), fp.tree.map(lambda *r: fp.stack(r), *[power(w, b) for b in bounds]))


def test_the_derivative_of_a_loop_in_forward_mode() -> None:
    def solve(a: fp.Tensor, x: fp.Tensor) -> fp.Tensor:
        """a cos(y) = y by iteration; the tangent of y comes only through the constant."""
        return fp.while_loop(lambda v: (v[0] - v[1]).abs().max() > 1e-10, lambda v: (a * v[0].cos(), v[0]), (x, x + 1))[0]

    a, x = fp.tensor([0.3, 0.5], dtype=fp.float64), fp.zeros(2, dtype=fp.float64)
    y, tangent = fp.jit(lambda a, x: fp.jvp(lambda a: solve(a, x), (a,), (fp.ones_like(a),)))(a, x)
    expected = np.cos(y.numpy()) / (1 + a.numpy() * np.sin(y.numpy()))
    np.testing.assert_allclose(tangent.numpy(), expected, rtol=1e-8)
    with pytest.raises(RuntimeError, match=r"no derivative in reverse mode .* Use fp\.scan .* fp\.jvp"):
        fp.jit(fp.grad(lambda a, x: solve(a, x).sum()))(a, x)
    bounded = fp.jit(fp.grad(lambda a, x: fp.while_loop(lambda y: y.sum() < 9, lambda y: y + a * y, x, maximum=30).sum()))
    np.testing.assert_allclose(
        bounded(a, x + 1).numpy(), fp.grad(lambda a: sum(((1 + a) ** n).sum() for n in [5]))(a).numpy()
    )


def test_random_numbers_and_bad_indices_in_a_loop() -> None:
    def draws(limit: fp.Tensor) -> Any:
        return fp.while_loop(lambda v: v[0] < limit, lambda v: (v[0] + fp.rand(()), v[1] + 1), (fp.tensor(0.0), fp.tensor(0)))

    found = []
    for function in (draws, fp.jit(draws)):
        fp.manual_seed(5)
        found.append((function(fp.tensor(4.0)), function(fp.tensor(7.0)), fp.rand(2)))
    same(found[1], found[0], 1e-6)
    table = fp.tensor([1, 2, 3, 9])
    follow = fp.jit(lambda i: fp.while_loop(lambda i: i != 3, lambda i: table[i], i))
    assert follow(fp.tensor(0)).item() == 3
    for _ in range(2):  # a walk that never ends, but for the index
        with pytest.raises(IndexError, match="index 9 is out of"):
            fp.jit(lambda i: fp.while_loop(lambda i: i >= 0, lambda i: table[i], i))(fp.tensor(0))


def test_complex_numbers_are_selected() -> None:
    run = fp.jit(lambda z: fp.cond(z.real.sum() > 0, lambda z: z * 1j, lambda z: z.conj(), z))
    assert (run(fp.tensor([1 + 2j])).tolist(), run(fp.tensor([-1 + 2j])).tolist()) == ([-2 + 1j], [-1 - 2j])


def test_errors() -> None:
    x = fp.ones(2)
    with pytest.raises(TypeError, match="cond: the results have different structures"):
        fp.jit(lambda x: fp.cond(x.sum() > 0, lambda: (x, x), lambda: x))(x)
    with pytest.raises(fp.TraceError, match=r"item\(\) at .*test_branch\.py:\d+: inside fp\.cond a tensor has no value"):
        fp.jit(lambda x: fp.cond(x.sum() > 0, lambda: x * x.sum().item(), lambda: x))(x)
    with pytest.raises(TypeError, match=r"while_loop: what is carried: .* got float32\[2\] and int64\[2\]"):
        fp.jit(lambda x: fp.while_loop(lambda x: x.sum() < 9, lambda x: x.long(), x))(x)
    with pytest.raises(fp.TraceError, match="the condition changes a tensor"):
        fp.jit(lambda x: fp.while_loop(lambda x: x.sum() < fp.rand(()), lambda x: x, x))(x)
    weight = fp.ones(2, requires_grad=True)
    with pytest.raises(fp.TraceError, match=r"cond at .*test_branch.*cannot collect gradients"):
        fp.jit(lambda x: fp.cond(x.sum() > 0, lambda: (weight * x).sum().backward(), lambda: None))(x)
