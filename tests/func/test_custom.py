"""custom_vjp: derivatives given by hand, seen under the other transforms."""

from typing import Any

import numpy as np
import pytest

import firepot as fp


@fp.custom_vjp
def scaled_square(x: fp.Tensor, p: dict[str, fp.Tensor]) -> fp.Tensor:
    return x * x * p["s"]


def _forward(x: fp.Tensor, p: dict[str, fp.Tensor]) -> Any:
    return x * x * p["s"], (x, p["s"])


def _backward(residuals: Any, g: fp.Tensor) -> Any:
    x, s = residuals
    return 10 * g * x * s, {"s": (g * x).sum()}  # not the true derivative, so that its use can be seen


scaled_square.defvjp(_forward, _backward)
X, S = np.array([1.0, 2.0, 3.0]), 0.5


def test_derivative_is_the_given_one():
    x, p = fp.tensor(X), {"s": fp.tensor(S, dtype=fp.float64)}

    def f(x: fp.Tensor, p: Any) -> fp.Tensor:
        return scaled_square(x, p).sum()

    by_x, by_p = fp.grad(f, (0, 1))(x, p)
    assert np.allclose(by_x.numpy(), 10 * X * S) and np.isclose(by_p["s"].item(), X.sum())
    assert np.allclose(scaled_square(x, p).numpy(), X * X * S)
    second = fp.hessian(f)(x, p)
    assert np.allclose(second.numpy(), np.eye(3) * 10 * S)  # through the operations of the given derivative
    value, tangent = fp.jvp(lambda x: scaled_square(x, p), (x,), (fp.ones(3, dtype=fp.float64),))
    assert np.allclose(tangent.numpy(), 10 * X * S) and np.allclose(value.numpy(), X * X * S)
    mapped = fp.vmap(fp.grad(lambda x: scaled_square(x, p)))(x)
    outer = fp.grad(lambda x: fp.vmap(lambda x: scaled_square(x, p))(x).sum())(x)
    assert np.allclose(mapped.numpy(), 10 * X * S) and np.allclose(outer.numpy(), 10 * X * S)
    assert np.allclose(fp.jit(fp.grad(f))(x, p).numpy(), 10 * X * S)
    leaf = fp.tensor(X, requires_grad=True)
    f(leaf, p).backward()
    assert np.allclose(leaf.grad.numpy(), 10 * X * S)


def test_static_arguments_and_several_results():
    def forward(x: fp.Tensor, name: str) -> Any:
        return [x + 1, (x * 2,)], None

    def backward(name: str, _: None, g: Any) -> Any:
        first, (second,) = g
        return (first * 3 + second * 5 if name == "a" else None,)

    f = fp.custom_vjp(lambda x, name: forward(x, name)[0], nondiff_argnums=(1,))
    f.defvjp(forward, backward)

    def total(x: fp.Tensor, name: str) -> fp.Tensor:
        a, (b,) = f(x, name)
        return (a + 2 * b).sum()

    assert np.allclose(fp.grad(total)(fp.tensor(X), "a").numpy(), 13)
    assert np.allclose(fp.grad(total)(fp.tensor(X), "b").numpy(), 0)


def test_errors():
    f = fp.custom_vjp(lambda x: x)
    with pytest.raises(TypeError, match="has no derivative; give one with defvjp"):
        f(fp.ones(2))
    f.defvjp(lambda x: (x, None), lambda _, g: g)
    with pytest.raises(TypeError, match="must return a tuple of 1 gradients, one for each argument, got Tensor"):
        fp.grad(lambda x: f(x).sum())(fp.ones(2))
    f.defvjp(lambda x: (x, None), lambda _, g: (g.sum(),))
    with pytest.raises(RuntimeError, match=r"gradient of shape \[\] for an argument of shape \[2\]"):
        fp.grad(lambda x: f(x).sum())(fp.ones(2))
