"""A stale trace never runs: whatever Python state of Firepot's own a captured function depends on may change."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.nn import functional as F


def agree(function: Callable[..., Any], *changes: Callable[[], object], args: tuple[Any, ...] = ()) -> fp.jit:
    """The jitted function gives what the plain one gives, before and after each change, with at most one capture each.

    (None where an earlier trace holds again.)"""
    run = fp.jit(function)
    for number, change in enumerate((lambda: None, *changes)):
        change()
        for _ in range(2):
            np.testing.assert_allclose(run(*args).detach().numpy(), function(*args).detach().numpy(), rtol=1e-6)
        assert run.traces <= number + 1, [str(c) for c in run.compilations]
    return run


X = fp.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3)])
        self.norm = nn.LayerNorm(3)
        self.scale = 2.0
        self.powers = (1, 2)

    def forward(self, x: fp.Tensor) -> fp.Tensor:
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x) * self.scale
        return sum(x**p for p in self.powers)


def test_modules_change() -> None:
    net = Net()
    net.norm.weight.requires_grad_(False)

    def weight() -> None:
        net.layers[0].weight = nn.Parameter(fp.ones(3, 3))

    def twice() -> None:
        net.layers[0].register_forward_hook(lambda m, args, result: result * 2 + 1)

    agree(
        lambda x: net(x),
        lambda: setattr(net, "scale", 3.0),
        lambda: setattr(net, "powers", (1, 2, 3)),
        lambda: setattr(net.norm, "eps", 0.5),
        lambda: net.layers.append(nn.Linear(3, 3)),
        lambda: setattr(net, "norm", nn.Identity()),
        weight,
        twice,
        lambda: net.layers[0]._forward_hooks.clear(),
        lambda: net.layers.__setitem__(1, nn.Tanh()),
        lambda: setattr(net.layers[0], "bias", None),
        args=(X,),
    )


def test_modules_that_are_used_without_being_called() -> None:
    net = Net()
    run = agree(
        lambda x: x @ net.layers[0].weight,
        lambda: net.layers.__setitem__(0, nn.Linear(3, 3)),
        lambda: setattr(net.layers[0], "weight", nn.Parameter(fp.ones(3, 3))),
        args=(X,),
    )
    with fp.no_grad():
        net.layers[0].weight.fill_(7.0)  # a value is no reason
    assert run(X)[0, 0].item() == 42
    assert run.traces == 3


def test_equal_values_and_unused_state_are_no_reason() -> None:
    net = Net()
    run = fp.jit(lambda x: net(x))
    run(X)
    net.scale = 2.0
    net.powers = (1, 2)
    net.train()
    nn.Linear(2, 2).eval()
    other = fp.zeros(2, requires_grad=True)
    other.grad = fp.ones(2)
    run(X)
    assert run.traces == 1


def test_precision_of_a_model_and_default_dtype() -> None:
    net = nn.Linear(3, 2)

    def matching(x: fp.Tensor) -> fp.Tensor:
        return net(x.to(net.weight.dtype)) * fp.ones(2)

    before = fp.get_default_dtype()
    try:
        agree(matching, net.double, lambda: fp.set_default_dtype(fp.float64), net.float, args=(X,))
    finally:
        fp.set_default_dtype(before)


def test_which_parameters_require_grad() -> None:
    net = nn.Linear(3, 2)

    @fp.jit
    def step(x: fp.Tensor) -> None:
        net.zero_grad()
        net(x).sum().backward()

    step(X)
    assert net.weight.grad is not None
    net.weight.requires_grad_(False)
    step(X)
    assert net.weight.grad is None
    assert net.bias.grad.tolist() == [2, 2]
    assert step.traces == 2
    assert "tensor that is read" in step.compilations[-1].reason


def test_dropout_and_modes_set_inside() -> None:
    net = nn.Sequential(nn.Dropout(0.5))
    x = fp.ones(1000)

    @fp.jit
    def both(x: fp.Tensor) -> tuple[fp.Tensor, fp.Tensor]:
        net.eval()
        plain = net(x)
        net.train()
        return plain, net(x)

    for start in (True, False, False):
        net.train(start)
        plain, dropped = both(x)
        assert (plain == 1).all().item()
        assert 300 < (dropped == 0).sum().item() < 700
        assert net.training  # as the function leaves it
        assert net[0].training
    assert both.traces == 1
    net[0].p = 0.0
    assert (both(x)[1] == 1).all().item()
    assert both.traces == 2


def trained(optimizer_of: Callable[[Any], fp.optim.Optimizer], changes: list[Callable[..., object]], capture: bool) -> Any:
    fp.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = optimizer_of(model.parameters())

    def step() -> fp.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), fp.tensor([0, 1]))
        loss.backward()
        optimizer.step()
        return loss

    run = fp.jit(step) if capture else step
    losses = []
    for change in [lambda *_: None, *changes]:
        change(optimizer, model)
        losses += [run().item() for _ in range(2)]
    return losses, [p.detach().numpy() for p in model.parameters()], run.traces if capture else 0


def assert_same_training(optimizer_of: Any, changes: list[Any], traces: int) -> None:
    losses, parameters, captured = trained(optimizer_of, changes, True)
    plain_losses, plain_parameters, _ = trained(optimizer_of, changes, False)
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-5)
    for p, q in zip(parameters, plain_parameters, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6)
    assert captured == traces


def setting(name: str, value: Any) -> Callable[..., object]:
    return lambda optimizer, model: optimizer.param_groups[0].__setitem__(name, value)


def test_numbers_of_an_optimizer_need_no_capture_and_switches_do() -> None:
    changes = [
        setting("lr", 0.5), setting("lr", 0.25), setting("momentum", 0.5), setting("weight_decay", 0.1),
        setting("nesterov", True), setting("weight_decay", 0.2), setting("maximize", True), setting("lr", 0.0),
    ]  # fmt: skip
    assert_same_training(lambda p: fp.optim.SGD(p, lr=0.1, momentum=0.9), changes, 1 + 4)


def test_settings_changed_by_the_dicts_other_methods() -> None:
    changes = [
        lambda o, m: o.param_groups[0].update(lr=0.3, maximize=True),
        lambda o, m: o.param_groups[0].__ior__({"eps": 0.1}),
    ]
    assert_same_training(lambda p: fp.optim.Adam(p, lr=0.1), changes, 3)


def test_state_of_an_optimizer_is_replaced() -> None:
    saved: dict[str, Any] = {}

    def save(optimizer: fp.optim.Optimizer, model: nn.Module) -> None:
        saved.update(optimizer.state_dict())

    changes = [
        save,
        lambda o, m: o.load_state_dict(saved),
        lambda o, m: o.state.clear(),
        lambda o, m: setattr(o, "state", defaultdict(dict)) or o.state.update({}),
        lambda o, m: o.state[m[0].weight].__setitem__("exp_avg", fp.ones(4, 3)),
    ]

    # After clear() the state is made anew, as if the optimizer were.
    def adam(parameters: Any) -> fp.optim.Optimizer:
        return fp.optim.Adam(parameters, lr=0.1)

    losses, parameters, _ = trained(adam, changes[:3] + changes[4:], True)
    plain, plain_parameters, _ = trained(adam, changes[:3] + changes[4:], False)
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    for p, q in zip(parameters, plain_parameters, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6)


def test_parameter_groups_change() -> None:
    extra = nn.Parameter(fp.ones(2))

    def add(optimizer: fp.optim.Optimizer, model: nn.Module) -> None:
        optimizer.add_param_group({"params": [extra], "lr": 0.9})

    def freeze(optimizer: fp.optim.Optimizer, model: nn.Module) -> None:
        del optimizer.param_groups[0]["params"][0]

    assert_same_training(lambda p: fp.optim.SGD(p, lr=0.1), [add, freeze], 3)


def test_a_scheduler_inside_is_refused_and_outside_is_followed() -> None:
    w = nn.Parameter(fp.ones(1))
    optimizer = fp.optim.SGD([w], lr=1.0)
    scheduler = fp.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def step() -> None:
        optimizer.zero_grad()
        w.sum().backward()
        optimizer.step()

    def wrong() -> None:
        step()
        scheduler.step()

    with pytest.raises(fp.TraceError, match=r"'lr' was changed.*test_jit_stale\.py:\d+"):
        fp.jit(wrong)()
    assert w.item() == 1.0
    run = fp.jit(step)
    for expected in (0.0, -0.5, -0.75):
        run()
        scheduler.step()
        assert w.item() == expected
    assert run.traces == 1


def test_hooks_of_tensors() -> None:
    w = fp.tensor([1.0, 2.0], requires_grad=True)

    @fp.jit
    def step() -> None:
        w.grad = None
        (w * 3).sum().backward()

    step()
    hook = w.register_hook(lambda g: g * 10)
    step()
    assert w.grad.tolist() == [30, 30]
    hook.remove()
    step()
    assert w.grad.tolist() == [3, 3]


def test_numbers_closed_over_and_of_the_module() -> None:
    scale, flag = 2.0, True

    def change() -> None:
        nonlocal scale
        scale = 5.0

    def switch() -> None:
        nonlocal flag
        flag = False

    agree(lambda x: x * scale if flag else x, change, switch, args=(X,))

    names = {"fp": fp, "factor": 1}
    exec("def times(x):\n    return x * factor", names)
    agree(names["times"], lambda: names.update(factor=True), lambda: names.update(factor=4), args=(X,))

    inner = fp.jit(lambda x: x + scale)
    outer = fp.jit(lambda x: inner(x) * 2)
    assert outer(fp.ones(1)).item() == 12
    scale = 7.0
    assert outer(fp.ones(1)).item() == 16


def test_threads_and_number_of_threads() -> None:
    x = fp.randn(64, 1000)
    before = fp.get_num_threads()
    try:
        f = fp.jit(lambda x: x.exp().sum(1))
        first = f(x).tolist()
        fp.set_num_threads(1)
        assert f(x).tolist() == first
    finally:
        fp.set_num_threads(before)
    assert f.traces == 1

    total, count = fp.zeros(100), 40

    @fp.jit
    def add(x: fp.Tensor) -> fp.Tensor:
        total.add_(x)
        return total.sum()

    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with fp.no_grad():
                for _ in range(count):
                    add(fp.ones(100))
                    assert (fp.ones(3) * seed).sum().item() == 3 * seed
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert total.tolist() == [4.0 * count] * 100
    assert add.traces == 1
    assert fp.is_grad_enabled()


def test_who_looks_at_the_state_sees_no_later_change() -> None:
    total = fp.zeros(1000)

    @fp.jit
    def advance() -> None:
        total.add_(1.0)

    advance()
    array = total._array("a view")  # what __array__ and DLPack copy from
    same = total.detach()
    pending = total * 2
    advance()
    assert (array == 1).all()
    assert (same.numpy() == 1).all()
    assert (pending.numpy() == 2).all()
    assert (total.numpy() == 2).all()


def test_gradients_are_new_tensors_at_each_call() -> None:
    w = fp.tensor([2.0], requires_grad=True)

    @fp.jit
    def step(x: fp.Tensor) -> fp.Tensor:
        w.grad = None
        (w * x).sum().backward()
        return w.grad

    returned = step(fp.tensor([3.0]))
    kept = w.grad
    step(fp.tensor([5.0]))
    assert (kept.tolist(), w.grad.tolist(), returned.tolist()) == ([3], [5], [3])


def test_arguments_changed_in_place() -> None:
    @fp.jit
    def double(x: fp.Tensor, y: fp.Tensor) -> fp.Tensor:
        x.mul_(2)
        return x + y

    a, b, y = fp.ones(3), fp.full((3,), 5.0), fp.ones(3)
    before = a.detach()
    assert double(a, y).tolist() == [3, 3, 3]
    assert double(b, y).tolist() == [11, 11, 11]
    assert (a.tolist(), b.tolist(), y.tolist(), before.tolist()) == ([2] * 3, [10] * 3, [1] * 3, [1] * 3)
    assert double.traces == 1


def test_gradients_of_arguments() -> None:
    @fp.jit
    def f(x: fp.Tensor) -> None:
        (x * x).sum().backward()

    a, b = fp.tensor([3.0], requires_grad=True), fp.tensor([4.0], requires_grad=True)
    f(a)
    f(b)
    f(b)
    assert (a.grad.tolist(), b.grad.tolist()) == ([6], [16])


def test_exceptions_leave_modes_state_and_later_calls_whole() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.3))
    optimizer = fp.optim.Adam(net.parameters())
    fail = [True]

    @fp.jit
    def step(x: fp.Tensor) -> fp.Tensor:
        net.eval()
        net.train()
        optimizer.zero_grad()
        loss = net(x).sum()
        loss.backward()
        optimizer.step()
        net.eval()
        if fail[0]:
            raise KeyError("mine")
        return loss

    net.train()
    fp.manual_seed(5)
    before = fp.get_rng_state().tolist()
    with pytest.raises(KeyError, match="mine"):
        step(fp.ones(4, 2))
    assert net.training
    assert not optimizer.state
    assert fp.get_rng_state().tolist() == before
    assert net[0].num_batches_tracked.item() == 0
    fail[0] = False
    step(fp.ones(4, 2))
    assert not net.training
    assert len(optimizer.state) == 2
    assert net[0].num_batches_tracked.item() == 1


def test_histories_do_not_end_silently_at_a_program() -> None:
    w = fp.tensor([2.0], requires_grad=True)
    hidden = fp.zeros(1)

    @fp.jit
    def remember(x: fp.Tensor) -> None:
        hidden.copy_(x * w)

    remember(fp.ones(1))
    assert hidden.requires_grad
    with pytest.raises(RuntimeError, match=r"fp\.jit"):
        hidden.sum().backward()

    @fp.jit
    def through(x: fp.Tensor) -> fp.Tensor:
        loss = (x * x).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="history"):
        through(w * 3)  # would have to reach w
    through(w)
    assert w.grad.tolist() == [4]

    @fp.jit
    def penalty(x: fp.Tensor) -> fp.Tensor:
        return fp.autograd.grad((x * x).sum(), x)[0]

    assert penalty(w * 3).tolist() == [12]


def test_a_gradient_is_the_one_of_the_time_of_the_call() -> None:
    p = nn.Parameter(fp.zeros(2))
    opt = fp.optim.SGD([p], lr=1.0)
    update = fp.jit(lambda: opt.step())
    read = fp.jit(lambda: p.grad * 1)
    halve = fp.jit(lambda: p.grad.mul_(0.5))

    @fp.jit
    def backward(scale: fp.Tensor) -> None:
        opt.zero_grad()
        (p * scale).sum().backward()

    sums = 0.0
    for step, scale in enumerate((1.0, 2.0, 4.0, 8.0)):
        if step % 2:
            backward(fp.tensor(scale))
        else:
            opt.zero_grad()
            (p * scale).sum().backward()
        assert read().tolist() == [scale, scale]
        halve()
        assert p.grad is not None and p.grad.tolist() == [scale / 2, scale / 2]
        update()
        sums += scale / 2
        assert p.tolist() == [-sums, -sums]
    assert (update.traces, read.traces, halve.traces, backward.traces) == (1, 1, 1, 1)


def test_a_gradient_put_in_by_hand_is_added_to() -> None:
    p = nn.Parameter(fp.zeros(2))
    p.grad = fp.ones(2)

    @fp.jit
    def add(scale: fp.Tensor) -> None:
        (p * scale).sum().backward()

    for scale in (1.0, 2.0, 3.0):
        p.grad = fp.full((2,), 10 * scale)
        add(fp.tensor(scale))
        assert p.grad.tolist() == [11 * scale, 11 * scale]
    assert add.traces == 1
