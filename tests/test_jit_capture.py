"""fp.jit: what is captured, when a trace is used again, and what a person is told."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import firepot as fp


def test_state_is_read_and_written_at_each_call():
    total = fp.zeros(3)

    @fp.jit
    def step(x):
        total.add_(x)
        return total * 2

    assert step(fp.ones(3)).tolist() == [2, 2, 2]
    assert step(fp.ones(3)).tolist() == [4, 4, 4]
    total.copy_(fp.tensor([10.0, 20.0, 30.0]))
    assert step(fp.ones(3)).tolist() == [22, 42, 62]
    assert total.tolist() == [11, 21, 31]
    assert step.traces == 1


def test_what_aliases_the_state_keeps_its_value():
    total = fp.zeros(4)

    @fp.jit
    def step(x):
        before = total.clone()
        total.add_(x)
        return before

    step(fp.ones(4))
    fp.eval(total)
    same_node, view, array = total.detach(), total.clone(), total.numpy()
    fp.eval(view)
    returned = step(fp.ones(4))
    assert total.tolist() == [2] * 4
    for kept in (same_node, view, returned):
        assert kept.tolist() == [1] * 4
    assert array.tolist() == [1] * 4


def test_state_passed_as_an_argument_too():
    total = fp.zeros(2)
    fp.eval(total)

    @fp.jit
    def step(x):
        total.add_(1)
        return x + total

    assert step(total).tolist() == [1, 1]
    assert step(total).tolist() == [3, 3]


def test_two_states_that_share_a_value():
    a = fp.ones(3)
    fp.eval(a)
    b = a.detach()

    @fp.jit
    def step():
        a.add_(1)
        b.mul_(3)

    step()
    assert (a.tolist(), b.tolist()) == ([2] * 3, [3] * 3)
    step()
    assert (a.tolist(), b.tolist()) == ([3] * 3, [9] * 3)


def test_swapped_states():
    a, b = fp.tensor([1.0, 2.0]), fp.tensor([3.0, 4.0])

    @fp.jit
    def swap():
        old = a.clone()
        a.copy_(b)
        b.copy_(old)

    swap()
    assert (a.tolist(), b.tolist()) == ([3, 4], [1, 2])
    swap()
    assert (a.tolist(), b.tolist()) == ([1, 2], [3, 4])


def test_traces_are_keyed_by_shapes_dtypes_and_values():
    @fp.jit
    def f(x, *, scale=1, parts=()):
        return x.sum() * scale + sum(parts)

    x = fp.arange(4, dtype=fp.float32)
    assert f(x).item() == 6
    assert f(x, scale=3).item() == 18
    assert f(x, scale=3).item() == 18
    assert f.traces == 2
    assert f(x[:2], scale=3).item() == 3
    assert f(x.long()).item() == 6
    assert f(x, scale=True).item() == 6  # True == 1, but is another value
    assert f(x, parts=[fp.tensor(1.0), fp.tensor(2.0)]).item() == 9
    assert f(x, parts=(fp.tensor(1.0), fp.tensor(5.0))).item() == 12
    assert f(x, scale=-0.0).item() == 0


def test_containers_come_back_as_they_were():
    @fp.jit
    def f(batch):
        return {"sum": batch["x"] + batch["y"][0], "same": batch["x"], "list": [batch["y"], 7, None], "text": "a"}

    x, y = fp.ones(2), fp.zeros(2)
    for _ in range(2):
        out = f({"x": x, "y": (y,)})
        assert out["sum"].tolist() == [1, 1]
        assert out["same"].tolist() == [1, 1]
        assert out["list"][0][0].tolist() == [0, 0]
        assert out["list"][1:] == [7, None]
        assert out["text"] == "a"


def test_mode_and_grad_mode_are_conditions():
    model = fp.nn.Dropout(0.5) if hasattr(fp, "nn") else __import__("firepot.nn", fromlist=["nn"]).Dropout(0.5)
    f = fp.jit(lambda x: model(x))
    x = fp.ones(200)
    assert 0 < (f(x) == 0).sum().item() < 200
    model.eval()
    assert f(x).tolist() == [1.0] * 200
    model.train()
    first, second = f(x), f(x)
    assert not fp.equal(first, second)  # the random state moves on
    assert f.traces == 2


def test_random_state_follows_the_seed():
    f = fp.jit(lambda: fp.rand(5))
    fp.manual_seed(3)
    first = f().tolist(), f().tolist()
    fp.manual_seed(3)
    assert (f().tolist(), f().tolist()) == first
    fp.manual_seed(3)
    assert (fp.rand(5).tolist(), fp.rand(5).tolist()) == first


def test_gradients_inside():
    w = fp.tensor([1.0, -2.0, 3.0], requires_grad=True)

    @fp.jit
    def step(x):
        w.grad = None
        loss = ((w * x) ** 2).sum()
        loss.backward()
        with fp.no_grad():
            w.sub_(w.grad * 0.1)
        return loss.detach()

    reference = np.array([1.0, -2.0, 3.0])
    x = np.array([1.0, 0.5, -1.0])
    for _ in range(3):
        loss = step(fp.tensor(x, dtype=fp.float32))
        assert loss.item() == pytest.approx(((reference * x) ** 2).sum(), rel=1e-5)
        gradient = 2 * reference * x * x
        np.testing.assert_allclose(w.grad.numpy(), gradient, rtol=1e-5)
        reference = reference - 0.1 * gradient
        np.testing.assert_allclose(w.detach().numpy(), reference, rtol=1e-5)
    assert w.requires_grad
    assert w.is_leaf


def test_gradients_accumulate_across_calls():
    w = fp.tensor(2.0, requires_grad=True)

    @fp.jit
    def accumulate(x):
        (w * x).backward()

    for n in range(1, 5):
        accumulate(fp.tensor(3.0))
        assert w.grad.item() == 3 * n
    w.grad = None
    accumulate(fp.tensor(3.0))
    assert w.grad.item() == 3
    assert accumulate.traces == 2


def test_a_result_that_requires_grad_says_so_at_backward():
    w = fp.tensor(2.0, requires_grad=True)
    f = fp.jit(lambda x: w * x)
    y = f(fp.tensor(3.0))
    assert y.item() == 6
    with pytest.raises(RuntimeError, match=r"fp\.jit"):
        y.backward()
    with pytest.raises(RuntimeError, match=r"fp\.jit"):
        (y * 2).sum().backward()
    with fp.no_grad():
        assert not f(fp.tensor(3.0)).requires_grad
    f(fp.tensor(3.0)).detach().numpy()


@pytest.mark.parametrize(
    "look",
    [lambda x: x.item(), lambda x: bool(x > 0), lambda x: x.numpy(), lambda x: float(x), lambda x: x.tolist(), fp.eval],
)
def test_looking_at_a_value_names_the_line(look):
    def f(x):
        return look(x * 2)

    with pytest.raises(fp.TraceError, match=r"test_jit_capture\.py:\d+"):
        fp.jit(f)(fp.tensor(1.0))
    assert (fp.tensor(1.0) * 2).item() == 2  # tracing is over


def test_an_exception_restores_the_state():
    total, w = fp.ones(2), fp.tensor([1.0], requires_grad=True)
    fail = [True]

    @fp.jit
    def step(x):
        total.add_(x)
        (w * 3).sum().backward()
        if fail[0]:
            raise ValueError("mine")
        return total.clone()

    with pytest.raises(ValueError, match="mine"):
        step(fp.ones(2))
    assert total.tolist() == [1, 1]
    assert w.grad is None
    assert w.requires_grad
    assert w.is_leaf
    fail[0] = False
    assert step(fp.ones(2)).tolist() == [2, 2]
    assert w.grad.tolist() == [3]


def test_a_value_that_leaks_out_of_a_trace():
    kept = []

    @fp.jit
    def f(x):
        kept.append(x * 2)
        return x

    f(fp.ones(2))
    with pytest.raises(RuntimeError, match="jit"):
        kept[0].numpy()


def test_a_bad_index_leaves_the_state():
    total = fp.zeros(3)

    @fp.jit
    def step(i):
        total.add_(fp.tensor([1.0, 2.0, 3.0])[i])
        return total.clone()

    assert step(fp.tensor(1)).tolist() == [2, 2, 2]
    with pytest.raises(IndexError, match="index 7"):
        step(fp.tensor(7))
    assert total.tolist() == [2, 2, 2]
    assert step(fp.tensor(0)).tolist() == [3, 3, 3]


def test_methods_nesting_and_wrapping():
    class Counter:
        def __init__(self):
            self.count = fp.zeros((), dtype=fp.int64)

        @fp.jit
        def step(self, x):
            self.count.add_(1)
            return inner(x) * self.count

    inner = fp.jit(lambda x: x + 1)
    a, b = Counter(), Counter()
    assert [a.step(fp.ones(1)).item(), a.step(fp.ones(1)).item(), b.step(fp.ones(1)).item()] == [2, 4, 2]
    assert a.count.item() == 2


def test_constants_and_numpy_results_of_closures():
    table = fp.tensor([1.0, 2.0])
    f = fp.jit(lambda: (table, table * 1, fp.arange(3), 5))
    for _ in range(2):
        same, product, numbers, five = f()
        assert (same.tolist(), product.tolist(), numbers.tolist(), five) == ([1, 2], [1, 2], [0, 1, 2], 5)


def test_gradients_take_the_place_of_the_last_ones():
    weight = fp.nn.Parameter(fp.randn(64, 64))
    optimizer = fp.optim.SGD([weight], lr=0.1)

    @fp.jit
    def step(x):
        optimizer.zero_grad()
        loss = (x @ weight).square().sum()
        loss.backward()
        optimizer.step()
        return loss

    x = fp.randn(8, 64)
    step(x)
    first = weight.grad._value.buffer.address
    step(x)
    assert weight.grad._value.buffer.address == first
    held = weight.grad.detach()
    before = held.numpy().copy()
    step(x)
    np.testing.assert_array_equal(held.numpy(), before)
    assert not np.array_equal(weight.grad.numpy(), before)


def test_a_capture_lets_go_of_the_first_state():
    state = fp.randn(100, 100)
    fp.eval(state)
    first = weakref.ref(state._value.buffer)

    @fp.jit
    def step():
        state.add_(1.0)
        return state.sum()

    for _ in range(2):
        step()
    gc.collect()
    assert first() is None or first() is state._value.buffer
