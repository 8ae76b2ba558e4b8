"""L-BFGS against PyTorch's on Rosenbrock's valley, and what it compiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import firepot as fp


def valley(x: Any) -> Any:
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_moves_as_pytorchs(search: str | None) -> None:
    start = np.array([-1.2, 1.0, 0.5, -0.3])
    mine = fp.tensor(start, dtype=fp.float64).requires_grad_()
    theirs = torch.tensor(start, requires_grad=True)
    lr = 1.0 if search else 1e-3
    a = fp.optim.LBFGS([mine], lr=lr, max_iter=6, line_search_fn=search)
    b = torch.optim.LBFGS([theirs], lr=lr, max_iter=6, line_search_fn=search)

    def ours() -> Any:
        a.zero_grad()
        loss = valley(mine)
        loss.backward()
        return loss

    def reference() -> Any:
        b.zero_grad()
        loss = valley(theirs)
        loss.backward()
        return loss

    for _ in range(3):
        assert a.step(ours).item() == pytest.approx(b.step(reference).item(), rel=1e-8)
        np.testing.assert_allclose(mine.detach().numpy(), theirs.detach().numpy(), rtol=1e-7, atol=1e-9)


def test_finds_the_minimum_with_few_programs() -> None:
    x = fp.tensor([-1.2, 1.0], dtype=fp.float64).requires_grad_()
    optimizer = fp.optim.LBFGS([x], line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = valley(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    before = fp.debug.statistics().programs
    for _ in range(4):
        optimizer.step(closure)
    np.testing.assert_allclose(x.detach().numpy(), [1.0, 1.0], rtol=1e-3)
    assert fp.debug.statistics().programs - before < 25


def test_wants_a_closure_and_one_group() -> None:
    x = fp.ones(2).requires_grad_()
    with pytest.raises(TypeError, match="closure"):
        fp.optim.LBFGS([x]).step()
    with pytest.raises(ValueError, match="parameter groups"):
        fp.optim.LBFGS([{"params": [x]}, {"params": [fp.ones(1).requires_grad_()]}])
