"""Derivatives of fp.kernel that are derived, against finite differences, and what cannot be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import firepot as fp


@fp.kernel(out="x")
def straight(x: Any, w: Any, y: Any) -> None:
    n = len(x)
    for i in range(n):
        a = x[i] * w[i % 2]
        if a > 0:
            a = math.sin(a) * x[(i + 1) % n]
        total = 0.5 * a
        for j in range(3):
            if j == 1:
                continue
            total += a * x[j] ** 2 / (1 + j)
        y[i] = math.exp(-total) + (x[i] if i > 2 else w[0] * total)


@fp.kernel(out="x")
def shared(x: Any, w: Any, y: Any) -> None:
    for i in fp.kernel.parallel(len(x)):
        for j in range(2):
            y[i] += max(x[i], 0.3) * math.tanh(w[j]) - x[(i + j) % len(x)] * w[j]


def differences(function: Any, arrays: list[Any], number: int) -> Any:
    result = np.zeros(arrays[number].shape)
    for place in np.ndindex(result.shape):
        values = []
        for step in (1e-6, -1e-6):
            moved = [a.copy() for a in arrays]
            moved[number][place] += step
            values.append(float(function(*map(fp.tensor, moved))))
        result[place] = (values[0] - values[1]) / 2e-6
    return result


@pytest.mark.parametrize("run", [straight, shared])
def test_against_finite_differences(run: Any) -> None:
    rng = np.random.default_rng(2)
    arrays = [rng.uniform(-1, 1, 5), rng.uniform(-1, 1, 2)]
    weight = fp.tensor(rng.uniform(-1, 1, 5))

    def value(x: fp.Tensor, w: fp.Tensor) -> fp.Tensor:
        return (run(x, w) * weight).sum()

    def slope(x: fp.Tensor, w: fp.Tensor) -> fp.Tensor:
        return (fp.grad(value)(x, w) ** 2).sum()

    x, w = map(fp.tensor, arrays)
    found = fp.grad(value, (0, 1))(x, w)
    for number in range(2):
        np.testing.assert_allclose(found[number].numpy(), differences(value, arrays, number), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fp.grad(slope)(x, w).numpy(), differences(slope, arrays, 0), rtol=1e-4, atol=1e-6)
    many = fp.jit(fp.vmap(fp.grad(value), in_dims=(0, None)))(fp.stack([x, x]), w)
    np.testing.assert_allclose(many.numpy()[1], found[0].numpy(), rtol=1e-12)


@fp.kernel(out="x")
def recurrent(x: Any, y: Any) -> None:
    state = 0.0
    for i in range(len(x)):
        state = state * 0.5 + x[i]
        y[i] = state


@fp.kernel(out="x")
def rewritten(x: Any, y: Any) -> None:
    for i in range(len(x)):
        y[0] = x[i]


def test_what_is_not_derived_says_why_and_where() -> None:
    x = fp.tensor([1.0, 2.0], requires_grad=True)
    for run, why in ((recurrent, "state goes from one turn"), (rewritten, "several turns may write one element")):
        with pytest.raises(RuntimeError, match=rf"no derivative by x, since {why}.*test_derivative\.py:\d+: .*vjp="):
            run(x).sum().backward()
