"""fp.jit: state is captured, no stale trace runs, errors name the line."""

from __future__ import annotations

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.runtime.buffer import allocator


def test_state_is_read_and_written_at_each_call() -> None:
    total = fp.zeros(3)

    @fp.jit
    def add(x: fp.Tensor) -> fp.Tensor:
        total.add_(x)
        return total * 2

    for i in range(1, 4):
        assert add(fp.ones(3)).tolist() == [2.0 * i] * 3
    assert add.traces == 1
    assert total.tolist() == [3.0] * 3
    total.zero_()
    assert add(fp.ones(3)).tolist() == [2.0] * 3


def test_of_states_that_share_their_zeros_the_last_takes_them() -> None:
    """Each of the others gets a copy before it is overwritten, and nothing else lives beside them."""
    count, size = 4, 1 << 18
    states = [fp.zeros(size) for _ in range(count)]
    fp.eval(states)
    assert len({s._node.buffer.address for s in states}) == 1

    @fp.jit
    def step(x: fp.Tensor) -> None:
        for number, state in enumerate(states):
            state.add_(x + number)

    one = fp.tensor(1.0)
    memory = allocator()
    memory.reset_peak()
    before = memory.current_bytes
    step(one)
    assert memory.peak_bytes - before <= (count - 1) * 4 * size + (64 << 10)
    assert [s.mean().item() for s in states] == [1, 2, 3, 4]
    step(one)
    assert [s.mean().item() for s in states] == [2, 4, 6, 8]


def test_a_value_taken_before_keeps_its_numbers_when_the_state_is_overwritten() -> None:
    state = fp.zeros(1000)
    before = state.detach()

    @fp.jit
    def advance() -> None:
        state.add_(1.0)

    advance()
    middle = state.detach()
    advance()
    assert (before.numpy() == 0).all()
    assert (middle.numpy() == 1).all()
    assert (state.numpy() == 2).all()


def test_train_and_eval_are_different_programs() -> None:
    layer = nn.Dropout(0.5)
    run = fp.jit(lambda x: layer(x))
    x = fp.ones(1000)
    assert (run(x) == 0).any().item()
    layer.eval()
    assert (run(x) == 1).all().item()
    layer.train()
    assert (run(x) == 0).any().item()
    assert run.traces == 2


def test_random_numbers_differ_from_call_to_call_and_repeat_with_the_seed() -> None:
    draw = fp.jit(lambda: fp.rand(5))
    fp.manual_seed(3)
    first, second = draw().tolist(), draw().tolist()
    assert first != second
    fp.manual_seed(3)
    assert draw().tolist() == first


def test_reading_a_value_names_the_line_and_leaves_all_as_it_was() -> None:
    state = fp.zeros(2)

    @fp.jit
    def wrong(x: fp.Tensor) -> fp.Tensor:
        state.add_(1.0)
        if x.sum() > 0:
            return x
        return -x

    with pytest.raises(fp.TraceError, match=r"test_jit\.py:\d+.*fp\.where"):
        wrong(fp.ones(2))
    assert state.tolist() == [0.0, 0.0]


def test_an_index_out_of_range_leaves_the_state_whole() -> None:
    weight = nn.Parameter(fp.ones(4, 2))
    optimizer = fp.optim.SGD([weight], lr=1.0)

    @fp.jit
    def step(i: fp.Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.embedding(i, weight).sum().backward()
        optimizer.step()

    with pytest.raises(IndexError, match="index 9 is out of range for 4 rows"):
        step(fp.tensor([0, 9]))
    np.testing.assert_array_equal(weight.detach().numpy(), 1.0)
    step(fp.tensor([0, 1]))
    assert weight.detach().tolist() == [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]


def test_containers_and_keywords() -> None:
    run = fp.jit(lambda pair, scale=1.0: {"sum": (pair[0] + pair[1]) * scale})
    assert run((fp.ones(2), fp.ones(2)))["sum"].tolist() == [2.0, 2.0]
    assert run((fp.ones(2), fp.ones(2)), scale=3.0)["sum"].tolist() == [6.0, 6.0]
    assert run.traces == 2


def test_plain_and_captured_training_agree() -> None:
    def trained(capture: bool) -> list[float]:
        fp.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        optimizer = fp.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        x, y = fp.randn(8, 1, 8, 8), fp.arange(8) % 3

        def step() -> fp.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run = fp.jit(step) if capture else step
        return [run().item() for _ in range(5)]

    np.testing.assert_allclose(trained(True), trained(False), rtol=1e-4)
