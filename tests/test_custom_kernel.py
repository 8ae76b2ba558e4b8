"""fp.kernel: the same Python run by NumPy, errors that name the line, transforms, bad indices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot.runtime.pool import get_num_threads, set_num_threads

SCALE = 2.0


def arithmetic(x: Any, k: Any, y: Any) -> None:
    n, m = x.shape
    for i in range(n):
        total, last = 0.0, 1.0
        for j in range(m - 1, -1, -2):
            if x[i, j] < 0 or (j > 0 and x[i, j - 1] > 1):
                continue
            total, last = total + abs(x[i, j]) ** 2 / (1 + last), x[i, j]
            if total > 4:
                break
        count = 0
        while count < k[i] and not total < 0:
            count += 1
            total = total * 0.75 if count % 2 == 0 else min(total + count // 2, 1e6, total * 3)
        y[i] = SCALE * total - math.floor(total) + math.exp(-last) + (7 & 3) + max(-i % 3, i)


def typed(function: Callable[..., Any], out: Any) -> Any:
    return fp.kernel(out=out)(function)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 9), (1, 1), (0, 3), (3, 0)])
def test_as_python_runs_it(dtype: Any, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    x, k = rng.standard_normal(shape).astype(dtype), rng.integers(0, 6, shape[0])
    expected = np.zeros(shape[0])
    arithmetic(x.astype(np.float64), k, expected)
    run = typed(arithmetic, lambda x, k: ((x.shape[0],), x.dtype))
    found = run(fp.tensor(x), fp.tensor(k))
    assert found.numpy().dtype == dtype
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    turned = run(fp.tensor(np.ascontiguousarray(x.T)).T, fp.tensor(k))  # read through strides
    np.testing.assert_array_equal(turned.numpy(), found.numpy())
    many = fp.vmap(run)(fp.tensor(np.stack([x, x + 1])), fp.tensor(np.stack([k, k])))
    np.testing.assert_array_equal(many.numpy()[0], found.numpy())
    one = fp.vmap(run, in_dims=(0, None))(fp.tensor(np.stack([x, x + 1])), fp.tensor(k))
    np.testing.assert_array_equal(one.numpy(), many.numpy())
    np.testing.assert_array_equal(fp.jit(lambda x, k: run(x, k) + 1)(fp.tensor(x), fp.tensor(k)).numpy(),
                                  found.numpy() + 1)  # fmt: skip


def two(x: fp.Tensor, total: fp.Tensor, where: fp.Tensor, twice: fp.Tensor) -> None:
    n, m = x.shape
    for i, j in fp.kernel.parallel(n, m):
        twice[i, j] = 2 * x[i, j]
    for i in fp.kernel.parallel(n):
        best = -math.inf
        for j in range(m):
            total[i] += twice[i, j]
            if x[i, j] > best:
                best = x[i, j]
                where[i] = j


@pytest.mark.parametrize("dtype", [fp.float32, fp.float16, fp.bfloat16, fp.int64])
def test_several_outputs_and_loops(dtype: Any) -> None:
    rng = np.random.default_rng(4)
    x = rng.permuted(np.tile(np.arange(7), (2, 5, 1)), axis=-1).astype(np.float32)  # sums fit in bfloat16
    run = typed(two, [lambda x: (x.shape[0], x.dtype), lambda x: (x.shape[:1], fp.int32), "x"])
    threads = get_num_threads()
    try:
        for count in (1, threads):
            set_num_threads(count)
            total, where, twice = fp.vmap(run)(fp.tensor(x).to(dtype))
            np.testing.assert_array_equal(total.float().numpy(), 2 * x.sum(-1))
            np.testing.assert_array_equal(where.numpy(), x.argmax(-1))
            np.testing.assert_array_equal(twice.float().numpy(), 2 * x)
    finally:
        set_num_threads(threads)


def backward(g: fp.Tensor, x: fp.Tensor) -> fp.Tensor:
    return g * fp.cos(x)


def sine(x: Any, y: Any) -> None:
    for i in range(len(x)):
        y[i] = math.sin(x[i])


def test_given_derivative() -> None:
    run = fp.kernel(out="x", vjp=backward)(sine)
    x = fp.tensor([0.3, -2.0, 1.0], requires_grad=True)
    run(x).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), np.cos(x.detach().numpy()), rtol=1e-6)
    hessian = fp.hessian(lambda x: run(x).sum())(x.detach())
    np.testing.assert_allclose(hessian.numpy(), np.diag(-np.sin(x.detach().numpy())), atol=1e-6)
    each = fp.vmap(fp.grad(lambda x: run(x).sum()))(fp.stack([x.detach(), x.detach() + 1]))
    np.testing.assert_allclose(each.numpy()[1], np.cos(x.detach().numpy() + 1), rtol=1e-6)
    jitted = fp.jit(fp.grad(lambda x: run(x * 2).sum()))(x.detach())
    np.testing.assert_allclose(jitted.numpy(), 2 * np.cos(2 * x.detach().numpy()), rtol=1e-5)
    _, tangent = fp.jvp(run, (x.detach(),), (fp.ones(3),))
    np.testing.assert_allclose(tangent.numpy(), np.cos(x.detach().numpy()), rtol=1e-6)
    derived = fp.grad(lambda x: fp.kernel(out="x")(sine)(x).sum())(x.detach())
    np.testing.assert_allclose(derived.numpy(), np.cos(x.detach().numpy()), rtol=1e-6)


def read_far(x: Any, at: Any, y: Any) -> None:
    for i in range(len(x)):
        y[i] = x[i + at]


def write_far(x: Any, at: Any, y: Any) -> None:
    for i in range(len(x)):
        y[i + at] = x[i]


@pytest.mark.parametrize("function", [read_far, write_far])
@pytest.mark.parametrize("at", [-1, 2, 2**62])
def test_index_out_of_range(function: Any, at: int) -> None:
    run = typed(function, "x")
    for call in (run, fp.jit(run), lambda x, at: fp.vmap(run, in_dims=(0, None))(x[None], at)):
        with pytest.raises(IndexError, match=rf"kernel {function.__name__}: index -?\d+ .*test_custom_kernel\.py:\d+: y"):
            call(fp.ones(4), fp.tensor(at)).numpy()
        np.testing.assert_array_equal(call(fp.ones(4), fp.tensor(0)).numpy().ravel(), np.ones(4))


def test_state_is_kept_where_an_index_is_bad() -> None:
    run = typed(read_far, "x")
    state = fp.ones(4)

    @fp.jit
    def step(at: fp.Tensor) -> fp.Tensor:
        state.copy_(state + 1)
        return run(state, at)

    with pytest.raises(IndexError, match="kernel read_far"):
        step(fp.tensor(9)).numpy()
    np.testing.assert_array_equal(state.numpy(), np.ones(4))


def test_numbers_outside_are_constants_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(x: Any, y: Any) -> None:
        for i in range(len(x)):
            y[i] = SCALE * x[i]

    run = typed(scaled, "x")
    assert run(fp.ones(2)).numpy().tolist() == [2, 2]
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert run(fp.ones(2)).numpy().tolist() == [3, 3]


def returns(x: Any, y: Any) -> Any:
    return x


def unknown(x: Any, y: Any) -> None:
    y[0] = np.linalg.norm(x[0])


def unassigned(x: Any, y: Any) -> None:
    if x[0] > 0:
        a = 1.0
    y[0] = a


def racing(x: Any, y: Any) -> None:
    for i in fp.kernel.parallel(len(x)):
        y[0] += x[i]


def outer(x: Any, y: Any) -> None:
    total = 0.0
    for i in fp.kernel.parallel(len(x)):
        total += x[i]
        y[i] = total


def inner(x: Any, y: Any) -> None:
    for _ in range(2):
        for i in fp.kernel.parallel(len(x)):
            y[i] = 1.0


def ranks(x: Any, y: Any) -> None:
    y[0, 0] = x[0]


def floats(x: Any, y: Any) -> None:
    y[0] = x[x[0]]


def input_written(x: Any, y: Any) -> None:
    x[0] = y[0]


def keeps(x: Any, y: Any) -> None:
    for i in range(3):
        i = i + 1
        y[i] = x[i]


def left(x: Any, y: Any) -> None:
    for i in fp.kernel.parallel(len(x)):
        if x[i] > 0:
            break
        y[i] = x[i]


@pytest.mark.parametrize(("function", "message"), [
    (left, "break cannot leave a parallel loop, whose turns run at once; use continue or range"),
    (returns, "return .* is not allowed"), (unknown, r"np\.linalg\.norm cannot be called"),
    (unassigned, "variable a may have no value"), (racing, "y is written by a parallel loop"),
    (outer, "total belongs to all turns"), (inner, "parallel must be an outermost loop"),
    (ranks, "needs 1 indices, got 2"), (floats, "must be an integer, not float32"),
    (input_written, "x is an input"), (keeps, "i counts a loop"),
])  # fmt: skip
def test_what_a_kernel_cannot_say(function: Any, message: str) -> None:
    with pytest.raises(SyntaxError, match=message) as caught:
        typed(function, "x")(fp.ones(4))
    first = function.__code__.co_firstlineno
    assert caught.value.filename == __file__
    assert caught.value.lineno is not None and first < caught.value.lineno <= first + 4


def test_wrong_calls() -> None:
    run = typed(sine, "x")
    with pytest.raises(TypeError, match=r"takes the inputs \(x\)"):
        run(fp.ones(2), fp.ones(2))
    with pytest.raises(TypeError, match="x must be a tensor or a number, not object"):
        run(object())
    with pytest.raises(TypeError, match="none of its inputs"):
        typed(sine, "z")
    with pytest.raises(TypeError, match=r"out must return \(shape, dtype\)"):
        typed(sine, lambda x: x.shape)(fp.ones(2))
    with pytest.raises(RuntimeError, match="inside of one"):
        fp.kernel.parallel(3)
