"""cond, scan, while_loop and map: eagerly, under jit and vmap, with derivatives; against JAX and plain Python."""

from typing import Any

import numpy as np
import pytest
from oracle import draw

import firepot as fp


def test_cond():
    x = fp.tensor([4.0, 9.0])

    def f(x: fp.Tensor) -> Any:
        return fp.cond(x.sum() > 5, lambda x: {"r": fp.sqrt(x)}, lambda x: {"r": x * 3}, x)["r"]

    for function in (f, fp.jit(f)):
        assert np.allclose(function(x).numpy(), [2, 3]) and np.allclose(function(-x).numpy(), [-12, -27])
        assert np.allclose(fp.grad(lambda x, f=function: f(x).sum())(x).numpy(), [0.25, 1 / 6])
    rows = fp.vmap(f)(fp.stack([x, x * 0]))
    assert np.allclose(rows.numpy(), [[2, 3], [0, 0]])
    assert fp.cond(True, lambda: fp.ones(1), lambda: 1 / 0).item() == 1
    with pytest.raises(RuntimeError, match=r"must have one element, its shape is \[2\]"):
        fp.cond(x > 5, fp.sqrt, fp.sqrt, x)
    with pytest.raises(TypeError, match=r"agree in shape and dtype, got float32\[2\] and int64\[2\]"):
        fp.jit(lambda x: fp.cond(x.sum() > 5, lambda x: x, lambda x: x.long(), x))(x)


def test_scan():
    jax = pytest.importorskip("jax")
    w, xs, start = draw((3, 3)), draw((5, 2, 3), 1), draw((2, 3), 2)

    def network(m: Any, scan: Any, reverse: bool) -> Any:
        def run(w: Any, xs: Any, start: Any) -> Any:
            def step(carry: Any, x: Any) -> Any:
                h = m.tanh(carry["h"] @ w + x["x"])
                return {"h": h, "n": carry["n"] + 1}, (h * 2, h.sum())

            last, (hs, sums) = scan(step, {"h": start, "n": 0 * start[0, 0]}, {"x": xs}, reverse=reverse)
            return (last["h"] * hs).sum() + (sums * sums[0]).sum() + last["n"]

        return run

    for reverse in (False, True):
        with jax.enable_x64(True):
            value, expected = jax.value_and_grad(network(jax.numpy, jax.lax.scan, reverse), (0, 1, 2))(w, xs, start)
            expected = [np.asarray(e) for e in expected]
        ours = network(fp, fp.scan, reverse)
        arguments = (fp.tensor(w), fp.tensor(xs), fp.tensor(start))
        for function in (ours, fp.jit(ours)):
            assert np.isclose(function(*arguments).item(), float(value))
        found_value, found = fp.jit(fp.value_and_grad(ours, (0, 1, 2)))(*arguments)
        assert np.isclose(found_value.item(), float(value))
        for a, b in zip(found, expected, strict=True):
            assert np.allclose(a.numpy(), b, rtol=1e-9)
    mapped = fp.vmap(lambda s: network(fp, fp.scan, False)(fp.tensor(w), fp.tensor(xs), s))(fp.tensor(np.stack([start, start * 2])))
    assert np.isclose(mapped[0].item(), network(fp, fp.scan, False)(*arguments).item())


def test_every_step_of_a_scan_is_the_same_program():

    fp.eval(fp.scan(lambda c, x: (fp.sin(c) + x, None), fp.zeros(7), fp.ones(200, 7)[:3]))
    before = fp.debug.statistics().programs
    carry, nothing = fp.scan(lambda c, x: (fp.sin(c) + x, None), fp.zeros(7), fp.ones(200, 7))
    fp.eval(carry)
    assert nothing is None
    assert fp.debug.statistics().programs <= before + 2  # the arguments, the step
    last, ys = fp.scan(lambda c, _: (c * 2, c), fp.tensor(1.0), length=4)
    assert last.item() == 16 and ys.tolist() == [1, 2, 4, 8]


def test_while_loop():
    def collatz(limit: int | None) -> Any:
        def body(v: Any) -> Any:
            n, steps = v
            return fp.where(n % 2 == 0, n // 2, 3 * n + 1), steps + 1

        return lambda n: fp.while_loop(lambda v: v[0] != 1, body, (n, n * 0), maximum=limit)[1]

    assert collatz(None)(fp.tensor(27)).item() == 111
    assert fp.jit(collatz(120))(fp.tensor(27)).item() == 111
    assert fp.vmap(collatz(20))(fp.tensor([1, 2, 3, 7])).tolist() == [0, 1, 7, 16]
    assert fp.jit(collatz(None))(fp.tensor(27)).item() == 111
    assert fp.vmap(collatz(None))(fp.tensor([1, 2, 3, 7])).tolist() == [0, 1, 7, 16]

    def newton(x: fp.Tensor) -> fp.Tensor:  # the square root, to be differentiated through the iterations
        return fp.while_loop(lambda y: (y * y - x).abs() > 1e-12, lambda y: (y + x / y) / 2, x, maximum=60)

    x = fp.tensor(3.0, dtype=fp.float64)
    for function in (newton, fp.jit(newton)):
        assert np.isclose(fp.grad(function)(x).item(), 0.5 / np.sqrt(3.0))


def test_map():
    x = fp.tensor(draw((4, 3)))
    assert np.allclose(fp.map(lambda r: (r * r).sum(), x).numpy(), (x.numpy() ** 2).sum(1))
    pairs = fp.map(lambda d: {"s": d["a"] + d["b"]}, {"a": x, "b": x}, chunk_size=3)
    assert np.allclose(pairs["s"].numpy(), 2 * x.numpy())


def test_errors():
    with pytest.raises(TypeError, match=r"what is carried: .* got float32\[2\] and float32\[3\]"):
        fp.scan(lambda c, x: (fp.ones(3), x), fp.ones(2), fp.ones(4))
    with pytest.raises(TypeError, match=r"must return \(carry, y\), got Tensor"):
        fp.scan(lambda c, x: c, fp.ones(2), fp.ones(4))
    with pytest.raises(ValueError, match="give xs or length"):
        fp.scan(lambda c, x: (c, c), fp.ones(2))
    with pytest.raises(ValueError, match=r"agree in their first size, got \[3, 4\]"):
        fp.scan(lambda c, x: (c, c), fp.ones(2), (fp.ones(3), fp.ones(4)))
