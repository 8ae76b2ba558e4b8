"""Sizes that vary under fp.jit(dynamic=...): the results of exact shapes from programs that sizes share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.nn import functional as F


def _written(x: fp.Tensor) -> fp.Tensor:
    y = x * 1
    y[-1] = 5.0
    y[fp.tensor([0, 1]), 2] = 7.0
    return y


# Over x (n, 5). What fits in one graph is tested as one function: a program for all of a group.
_OVER_ROWS: dict[str, list[Callable[[fp.Tensor], Any]]] = {
    "folds": [
        lambda x: x.sum(), lambda x: x.mean(0), lambda x: x.var(0), lambda x: x.std(), lambda x: x.prod(0),
        lambda x: x.max(0), lambda x: x.amin(0), lambda x: x.argmax(0), lambda x: x.argmin(), lambda x: (x > -9).all(0),
        lambda x: (x > 1).any(), lambda x: x.norm(), lambda x: x.logsumexp(0), lambda x: x.softmax(0),
        lambda x: F.log_softmax(x, 1), lambda x: F.normalize(x, dim=0), lambda x: fp.cov(x.T),
        lambda x: F.layer_norm(x, (5,)), lambda x: F.batch_norm(x, None, None, training=True),
    ],
    "losses": [
        lambda x: F.mse_loss(x, x * x), lambda x: F.cross_entropy(x, x.argmax(1)), lambda x: F.l1_loss(x, 2 * x),
        lambda x: F.binary_cross_entropy_with_logits(x, (x > 0).float()), lambda x: F.huber_loss(x, x + 1),
        lambda x: F.kl_div(F.log_softmax(x, 1), x.softmax(1), reduction="batchmean"),
        lambda x: F.nll_loss(F.log_softmax(x, 1), x.argmin(1), fp.arange(5.0)),
        lambda x: fp.grad(lambda z: (z**3).mean())(x), lambda x: fp.vmap(lambda r: (r * r).sum())(x),
    ],
    "positions": [
        lambda x: x.cumsum(0), lambda x: x.flip(0).cumprod(0), lambda x: x.cummax(0)[0], lambda x: x.sort(0)[0],
        lambda x: x.argsort(0, descending=True), lambda x: x.topk(2, 0)[0], lambda x: x.median(0)[0],
        lambda x: fp.quantile(x, 0.3, 0), lambda x: x[-1], lambda x: x[1:] - x[:-1], lambda x: x.roll(2, 0),
        lambda x: x[fp.tensor([0, -1])], lambda x: x.gather(1, (x > 0).long()), _written,
        lambda x: fp.zeros(3, 5).index_add(0, fp.arange(len(x)) % 3, x), lambda x: x.diff(dim=0),
        lambda x: F.embedding((x[:, 0] > 0).long(), fp.arange(6.0).reshape(3, 2)),
    ],
    "arrangement": [
        lambda x: fp.cat([x, fp.ones(1, 5), 2 * x]), lambda x: fp.stack([x, 2 * x], 1), lambda x: x.repeat(2, 1),
        lambda x: x.repeat_interleave(2, 0), lambda x: x.reshape(-1).softmax(0), lambda x: x.T.reshape(-1).cumsum(0),
        lambda x: (x.reshape(-1) * fp.arange(x.numel())).sum(), lambda x: x.T.reshape(-1) + fp.arange(5 * len(x)),
        lambda x: F.pad(x, (0, 1, 2, 3), value=3.0), lambda x: x.unfold(0, 2, 1), lambda x: x * len(x),
        lambda x: x + fp.linspace(0, 1, len(x))[:, None], lambda x: x - x.mean(1, keepdim=True),
    ],
    "products": [
        lambda x: x.T @ x, lambda x: (x @ x.T).tril(), lambda x: (x @ x.T).diagonal(), lambda x: (x @ x.T).trace(),
        lambda x: fp.einsum("ij,kj->ik", x, x * x), lambda x: fp.bmm(x[:, :, None], x[:, None, :]).sum(0),
        lambda x: (x[:, :4] / 4).T @ F.softmax(x @ x.T, 1), lambda x: F.cosine_similarity(x, x.flip(0)),
    ],
}  # fmt: skip

# Over x (2, n, 4).
_OVER_SEQUENCES: list[Callable[[fp.Tensor], Any]] = [
    lambda x: F.scaled_dot_product_attention(x, x, x * x),
    lambda x: F.scaled_dot_product_attention(x, x, x * x, is_causal=True),
    lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=fp.ones(x.shape[1], x.shape[1]).tril(1).bool()),
    lambda x: F.conv1d(x.mT, fp.arange(36.0).reshape(3, 4, 3) / 9, padding=1),
    lambda x: F.conv_transpose1d(x.mT, fp.arange(24.0).reshape(4, 3, 2) / 9, stride=2),
    lambda x: F.avg_pool1d(x.mT, 3, 1, 1),
    lambda x: F.max_pool1d(x.mT, 3, 1, 1),
    lambda x: F.batch_norm(x.mT, None, None, training=True),
    lambda x: F.group_norm(x.mT, 2),
    lambda x: F.cross_entropy(x.flatten(0, 1), x.argmin(-1).flatten()),
    lambda x: x.transpose(0, 1).reshape(-1, 4).cumsum(0),
    lambda x: F.mse_loss(x[:, :-1], x[:, 1:]),
    lambda x: x + fp.arange(x.shape[1])[:, None],
    lambda x: x.mean(1),
    lambda x: x.max(1)[0],
    lambda x: F.interpolate(x.mT, scale_factor=2),
]


def _results(functions: list[Callable[[fp.Tensor], Any]]) -> Callable[[fp.Tensor], Any]:
    def step(x: fp.Tensor) -> Any:
        found = [t for f in functions for t in fp.tree.leaves(f(x))]
        smooth = sum((fp.cos(t) * t).sum() for t in found if t.requires_grad)
        gradient, *_ = fp.autograd.grad(smooth, x)
        return [t.detach() for t in found], gradient

    return step


def _same(found: Any, expected: Any) -> None:
    for a, b in zip(fp.tree.leaves(found), fp.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("group", [*_OVER_ROWS, "sequences"])
def test_results_and_gradients_are_those_of_exact_shapes(group: str) -> None:
    functions = _OVER_ROWS.get(group, _OVER_SEQUENCES)
    step = _results(functions)
    shared = fp.jit(step, dynamic={"x": 1 if group == "sequences" else 0})
    random = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (11, 13):
            x = random.standard_normal((2, n, 4) if group == "sequences" else (n, 5)).astype(np.float32)
            _same(shared(fp.tensor(x, requires_grad=True)), fp.jit(step)(fp.tensor(x, requires_grad=True)))
    assert (shared.traces, shared.programs) == (2, 1)


def test_values_beyond_the_size_never_matter() -> None:
    """Infinities and NaN made of the zeros that fill up stay outside, also behind products with zero."""
    def step(x: fp.Tensor, w: fp.Tensor) -> Any:
        inverse = 1 / x
        loss = (inverse @ w).log().mean() + (inverse / inverse).sum() + inverse.T.matmul(inverse).mean()
        return loss, *fp.autograd.grad(loss, (x, w))

    shared = fp.jit(step, dynamic={"x": 0})
    w = fp.ones(3, 2, requires_grad=True)
    for n in (5, 7):
        x = fp.tensor(np.random.default_rng(n).uniform(1, 2, (n, 3)).astype(np.float32), requires_grad=True)
        _same(shared(x, w), step(x, w))
    assert shared.programs == 1


def test_training_with_a_ragged_last_batch() -> None:
    def trained(dynamic: Any) -> tuple[list[float], list[np.ndarray], Any]:
        fp.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4))
        optimizer = fp.optim.Adam(model.parameters(), lr=0.03)

        def step(x: fp.Tensor, y: fp.Tensor) -> fp.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run = fp.jit(step, dynamic=dynamic)
        random = np.random.default_rng(0)
        losses = []
        for n in (16, 16, 11, 16, 9, 11, 13):
            x = fp.tensor(random.standard_normal((n, 3)), dtype=fp.float32)
            losses.append(run(x, fp.tensor(random.integers(0, 4, n))).item())
        return losses, [p.detach().numpy() for p in model.state_dict().values()], run

    losses, parameters, run = trained({"x": 0, "y": 0})
    exact_losses, exact_parameters, exact = trained(())
    assert (run.traces, run.programs, exact.programs) == (4, 2, 4)  # one for 16, one for all that is less
    np.testing.assert_allclose(losses, exact_losses, rtol=1e-5)
    for p, e in zip(parameters, exact_parameters, strict=True):
        np.testing.assert_allclose(p, e, rtol=1e-4, atol=1e-6)
    assert run.compilations[-1].reason.endswith("and was float32[16, 3] (padded to 16 for 11)")


_WEIGHT = np.random.default_rng(3).standard_normal((4, 4)) * 0.4


def _scanned(x: fp.Tensor) -> Any:
    """Loops over the second dimension of x, in both directions, in one another, with what each of them gives."""
    w = fp.tensor(_WEIGHT, dtype=fp.float32)
    steps = x.permute(1, 0, 2)

    def step(h: fp.Tensor, row: fp.Tensor) -> Any:
        h = (h @ w + row - row.mean(0)).tanh()
        again, _ = fp.scan(lambda v, _: (v * 0.9 + h.softmax(0), None), h, length=2)
        return again, {"sum": h.sum(1), "mean": h.mean(), "whole": h, "norm": (h * h).sum(0)}

    last, kept = fp.scan(step, x[:, 0] * 0, steps)
    back, sums = fp.scan(lambda h, row: (h + row.cumsum(0), h.sum(1)), kept["whole"][-1], kept["whole"] * 2, reverse=True)
    mapped = fp.map(lambda row: row.softmax(0) @ w, steps)
    return last, kept, back, sums, mapped


def test_loops_over_a_batch_that_varies() -> None:
    """Values and gradients; in rows with and without room behind them, which need not share a program."""

    def step(x: fp.Tensor) -> Any:
        found = fp.tree.leaves(_scanned(x))
        return [t.detach() for t in found], fp.autograd.grad(sum((t.sin() * t).mean() for t in found), x)

    shared = fp.jit(step, dynamic={"x": 0})
    random = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (11, 13, 12):
            x = random.standard_normal((n, 6, 4)).astype(np.float32)
            _same(shared(fp.tensor(x, requires_grad=True)), fp.jit(step)(fp.tensor(x, requires_grad=True)))
    assert shared.traces == 3


@pytest.mark.parametrize(("kind", "hidden"), [(nn.LSTM, 11), (nn.GRU, 16)])
def test_recurrent_networks_of_many_steps_with_a_batch_that_varies(kind: Any, hidden: int) -> None:
    fp.manual_seed(0)
    net = kind(4, hidden, batch_first=True)

    def step(x: fp.Tensor) -> Any:
        net.zero_grad()
        y = net(x)[0]
        loss = (y[:, -1] ** 2).mean() + y.mean()
        loss.backward()
        return loss.detach(), y.detach(), [p.grad for p in net.parameters()]

    shared = fp.jit(step, dynamic={"x": 0})
    random = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (7, 5):
            x = fp.tensor(random.standard_normal((n, 70, 4)), dtype=fp.float32)
            _same(shared(x), fp.jit(step)(x))
    assert (shared.traces, shared.programs) == (2, 1)


def test_loops_whose_number_of_steps_varies_get_exact_programs() -> None:
    total = fp.jit(lambda x: fp.scan(lambda h, row: (h * 0.5 + row, h), fp.zeros(3), x), dynamic={"x": 0})
    with pytest.warns(RuntimeWarning, match="a loop whose number of steps varies"):
        for n in (5, 7):
            x = fp.tensor(np.random.default_rng(n).standard_normal((n, 3)), dtype=fp.float32)
            _same(total(x), fp.scan(lambda h, row: (h * 0.5 + row, h), fp.zeros(3), x))
    assert total.programs == 2


def test_two_sizes_that_vary() -> None:
    table = fp.randn(11, 4, requires_grad=True)

    def step(tokens: fp.Tensor, *, targets: fp.Tensor) -> tuple[fp.Tensor, ...]:
        x = F.embedding(tokens, table)
        x = x + F.scaled_dot_product_attention(x, x, x, is_causal=True)
        logits = x @ table.T
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
        return loss, logits, *fp.autograd.grad(loss, table)

    batch, length = fp.Varying({"tokens": 0, "targets": 0}, sizes=(2, 4)), {"tokens": 1, "targets": -1}
    shared = fp.jit(step, dynamic=[batch, length])
    for n, t in [(3, 9), (4, 11), (3, 13), (1, 16), (2, 10)]:
        tokens, targets = fp.randint(0, 11, (n, t)), fp.randint(0, 11, (n, t))
        _same(shared(tokens, targets=targets), step(tokens, targets=targets))
    assert shared.programs == 4  # (4, 16) for smaller ones of both, of the length alone; (1, 16); (2, 16)
    with pytest.raises(ValueError, match="up to 4, but tokens has 5"):
        shared(fp.zeros(5, 3).long(), targets=fp.zeros(5, 3).long())
    with pytest.raises(ValueError, match="must be equal, but tokens has 3 and targets has 2"):
        shared(fp.zeros(3, 9).long(), targets=fp.zeros(2, 9).long())


def test_updates_of_arguments_and_their_gradients() -> None:
    @fp.jit(dynamic={"x": 0, "y": 0})
    def step(x: fp.Tensor, y: fp.Tensor) -> fp.Tensor:
        (x * x).mean().backward()
        y += x.detach().sum(0)
        return y[1:]

    for n in (5, 6, 7):
        x, y = fp.arange(3.0 * n).reshape(n, 3).requires_grad_(), fp.ones(n, 3)
        result = step(x, y)
        total = np.arange(3.0 * n).reshape(n, 3).sum(0)
        np.testing.assert_allclose(result.numpy(), np.broadcast_to(1 + total, (n - 1, 3)))
        np.testing.assert_allclose(y.numpy(), np.broadcast_to(1 + total, (n, 3)))
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), 2 * x.detach().numpy() / (3 * n), rtol=1e-6)
    assert step.programs == 1


def test_an_index_beyond_the_true_size_is_refused() -> None:
    pick = fp.jit(lambda x, i: x[i], dynamic={"x": 0})
    x = fp.arange(5.0)
    assert pick(x, fp.tensor([4, -5])).tolist() == [4, 0]
    for bad in (5, 7, 100, -6):
        with pytest.raises(IndexError, match="out of range of a dimension whose size varies"):
            pick(x, fp.tensor([0, bad]))
    assert pick.programs == 1


def test_what_padding_cannot_do_gets_exact_programs_and_a_warning() -> None:
    @fp.jit(dynamic={"x": 0})
    def by_size(x: fp.Tensor) -> fp.Tensor:
        return x.sum() if len(x) < 4 else x.mean()

    with pytest.warns(RuntimeWarning, match=r"by_size gets a program for each exact size.*: what is sum") as caught:
        assert by_size(fp.ones(3)).item() == 3
        assert by_size(fp.ones(7)).item() == by_size(fp.ones(5)).item() == 1
        assert by_size(fp.ones(6)).item() == 1
    assert [w.filename for w in caught] == [__file__]
    assert by_size.programs == 2  # for 3, and padded to 8
    positions = fp.arange(6.0)
    limited = fp.jit(lambda x: x + positions[: len(x)], dynamic={"x": 0})
    with pytest.warns(RuntimeWarning, match="at the padded size the function raises RuntimeError"):
        assert limited(fp.ones(6)).tolist() == [1, 2, 3, 4, 5, 6]
    unrolled = fp.jit(lambda x: sum(row * i for i, row in enumerate(x)), dynamic={"x": 0})
    with pytest.warns(RuntimeWarning, match="exact size"):
        assert unrolled(fp.ones(3)).item() == 3


def test_misuse_is_told() -> None:
    with pytest.raises(TypeError, match="parameter 'y'"):
        fp.jit(lambda x: x, dynamic={"y": 0})
    with pytest.raises(ValueError, match="pad= or dynamic="):
        fp.jit(lambda x, n: x, dynamic={"x": 0}, pad=[fp.Pad("n", {"x": 0})])
    with pytest.raises(ValueError, match="sizes must be positive"):
        fp.Varying({"x": 0}, sizes=())
    with pytest.raises(ValueError, match="must name an argument"):
        fp.Varying({})
    with pytest.raises(ValueError, match=r"dimension 1 of x, which has shape \[3\]"):
        fp.jit(lambda x: x, dynamic={"x": 1})(fp.ones(3))


def test_few_programs_are_kept() -> None:
    f = fp.jit(lambda x: x.mean(), dynamic={"x": 0}, max_traces=2)
    for n in (3, 5, 6, 7, 9, 11, 13, 5, 3):
        assert f(fp.ones(n)).item() == 1
    assert f.programs == 4  # for up to 4, 8, 16; that of 4 was dropped
    assert len({id(t.executor.plan) for found in f._traces.values() for t in found}) == 2
