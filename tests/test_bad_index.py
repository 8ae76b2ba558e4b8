"""An index out of range, met by a kernel: told with the operation, the index, the bounds and the line; nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.nn import functional as F

ROWS = fp.ones(4, 5)


def assigned(i: fp.Tensor) -> fp.Tensor:
    rows = ROWS.clone()
    rows[i] = 1.0
    return rows


CASES: dict[str, tuple[Callable[[fp.Tensor], fp.Tensor], str]] = {
    "indexing": (lambda i: ROWS[i], "index 77 .* dimension 0 with size 4"),
    "assignment": (assigned, "index 77 .* dimension 0 with size 4"),
    "gather": (lambda i: ROWS.gather(1, i.expand(4, 1)), "gather: index 77 .* dimension 1 with size 5"),
    "take": (lambda i: ROWS.take(i), "index 77 .* size 20"),
    "index_select": (lambda i: ROWS.index_select(0, i.reshape(1)), "index_select: index 77 .* size 4"),
    "scatter": (lambda i: ROWS.scatter(1, i.expand(1, 1), 1.0), "scatter: index 77 .* size 5"),
    "index_add": (lambda i: ROWS.index_add(0, i.reshape(1), fp.ones(1, 5)), "index_add: index 77 .* size 4"),
    "embedding": (lambda i: F.embedding(i, ROWS), "embedding: index 77 .* 4 rows"),
    "cross_entropy": (lambda i: F.cross_entropy(ROWS, i.expand(4)), "cross_entropy: target 77 .* 5 classes"),
    "nll_loss": (lambda i: F.nll_loss(ROWS, i.expand(4)), "nll_loss: target 77 .* 5 classes"),
    "one_hot": (lambda i: F.one_hot(i, 5), "one_hot: class 77 .* 5 classes"),
}


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_operation_index_bounds_and_line(name: str, jitted: bool) -> None:
    function, message = CASES[name]
    run: Any = fp.jit(function) if jitted else function
    with pytest.raises(IndexError, match=rf"{message}.*test_bad_index\.py:\d+"):
        run(fp.tensor(77)).numpy()
    run(fp.tensor(2)).numpy()


@pytest.mark.parametrize("jitted", [False, True])
def test_training_goes_on_after_a_bad_batch(jitted: bool) -> None:
    def trained(batches: list[list[int]]) -> tuple[list[Any], int]:
        fp.manual_seed(0)
        # What the layers before the loss remember of the batch stays in eager style, as in PyTorch; a captured step is
        # done whole or not at all.
        model = nn.Sequential(nn.Linear(3, 4), *([nn.BatchNorm1d(4), nn.Dropout(0.1)] if jitted else [nn.Tanh()]))
        optimizer = fp.optim.Adam(model.parameters())
        counter = fp.zeros(())
        kept = []

        def step(y: fp.Tensor) -> fp.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(fp.ones(2, 3)), y)
            loss.backward()
            optimizer.step()
            return loss

        run: Any = fp.jit(step) if jitted else step
        errors = 0
        for targets in batches:
            counter += 1  # has nothing to do with the bad value
            try:
                kept.append(run(fp.tensor(targets)))
            except IndexError as error:
                assert "target 9 is out of bounds for 4 classes" in str(error)
                errors += 1
        assert counter.item() == len(batches)
        return [t.numpy() for t in model.state_dict().values()] + [loss.item() for loss in kept], errors

    with_bad, errors = trained([[0, 1], [0, 9], [1, 2], [9, 9], [3, 3]])
    without, none = trained([[0, 1], [1, 2], [3, 3]])
    assert (errors, none) == (2, 0)
    for a, b in zip(with_bad, without, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_bad_value_that_is_kept_does_not_stop_others() -> None:
    w = nn.Parameter(fp.ones(2))
    optimizer = fp.optim.SGD([w], lr=1.0)
    bad = fp.ones(3)[fp.tensor([5])] * 2
    total = fp.zeros(1)
    total += bad
    with pytest.raises(IndexError, match="index 5"):
        bad.item()
    assert total.tolist() == [0]
    w.sum().backward()
    optimizer.step()  # computes all that waits
    assert w.tolist() == [0, 0]
    with pytest.raises(IndexError, match="index 5"):
        bad.item()


def test_gradients_of_a_bad_batch_are_not_kept() -> None:
    w = fp.tensor([1.0, 2.0], requires_grad=True)
    (w[fp.tensor([7])] * 2).sum().backward()
    with pytest.raises(IndexError, match="index 7"):
        w.grad.numpy()
    assert w.grad is None
    (w * 3).sum().backward()
    assert w.grad.tolist() == [3, 3]
    (w[fp.tensor([-8])] * 2).sum().backward()
    with pytest.raises(IndexError, match="index -8"):
        w.grad.numpy()
    assert w.grad.tolist() == [3, 3]


def test_a_kernel_that_checks_does_not_overwrite_state() -> None:
    total, table = fp.tensor([0.0, 0.0, 0.0]) * 1, fp.tensor([1.0, 2.0, 3.0]) * 1
    fp.eval(total, table)

    @fp.jit
    def add(i: fp.Tensor) -> None:
        total.add_(table[i])

    for _ in range(2):
        with pytest.raises(IndexError):
            add(fp.tensor(7))
        assert total.tolist() == [0, 0, 0]
    add(fp.tensor(1))
    assert total.tolist() == [2, 2, 2]
