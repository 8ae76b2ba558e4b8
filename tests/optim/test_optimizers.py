"""Optimisers in a captured step under a changing learning rate, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import firepot as fp
from firepot import nn

F = nn.functional
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("Adam", {"lr": 1e-3, "weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 1e-3}),
    ("RMSprop", {"lr": 1e-3, "momentum": 0.5, "centered": True}),
    ("Adagrad", {}), ("Adadelta", {}), ("NAdam", {}), ("Adamax", {}), ("RAdam", {}), ("ASGD", {"t0": 3}),
    ("Adafactor", {"weight_decay": 0.1}), ("Rprop", {}),
]  # fmt: skip


def build(n: Any) -> Any:
    return n.Sequential(n.Linear(6, 16), n.Tanh(), n.Linear(16, 3))


@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "plain"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_steps(name: str, options: dict[str, Any], jitted: bool) -> None:
    fp.manual_seed(0)
    ours, theirs = build(nn), build(torch.nn)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    a = getattr(fp.optim, name)(ours.parameters(), **options)
    b = getattr(torch.optim, name)(theirs.parameters(), **options)
    cycles = name in ("SGD", "Adam", "AdamW") and options.get("momentum", 1) and not options.get("dampening")
    settings: dict[str, Any] = {"max_lr": 0.01, "total_steps": 10, "cycle_momentum": bool(cycles)}
    schedule = fp.optim.lr_scheduler.OneCycleLR(a, **settings)
    reference = torch.optim.lr_scheduler.OneCycleLR(b, **settings)
    random = np.random.default_rng(0)
    x, y = random.standard_normal((8, 6)).astype(np.float32), random.integers(0, 3, 8)

    def step(images: fp.Tensor, labels: fp.Tensor) -> fp.Tensor:
        a.zero_grad()
        loss = F.cross_entropy(ours(images), labels)
        loss.backward()
        a.step()
        return loss

    run = fp.jit(step) if jitted else step
    for _ in range(4):
        found = run(fp.tensor(x), fp.tensor(y)).item()
        schedule.step()
        b.zero_grad()
        expected = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        expected.backward()
        b.step()
        reference.step()
        assert found == pytest.approx(expected.item(), rel=1e-4)
    if jitted:
        assert run.traces == 1  # neither the rate nor the momentum asked for a new program
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=2e-3, atol=2e-5)


def test_a_setting_changed_between_steps_is_obeyed() -> None:
    p = nn.Parameter(fp.ones(3))
    optimizer = fp.optim.SGD([p], lr=1.0)

    @fp.jit
    def step() -> None:
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()

    step()
    np.testing.assert_allclose(p.detach().numpy(), 0.0)
    optimizer.param_groups[0]["weight_decay"] = 1.0
    optimizer.param_groups[0]["maximize"] = True
    step()
    np.testing.assert_allclose(p.detach().numpy(), 1.0)
    step()
    np.testing.assert_allclose(p.detach().numpy(), 1.0)  # 1 - lr (-1 + weight_decay 1)


def test_state_dict_goes_on_where_it_was() -> None:
    def trained(steps: int, state: Any = None) -> tuple[Any, Any]:
        p = nn.Parameter(fp.ones(3) if state is None else state[0])
        optimizer = fp.optim.AdamW([p], lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state[1])
        for _ in range(steps):
            optimizer.zero_grad()
            (p * p).sum().backward()
            optimizer.step()
        return p.detach(), optimizer.state_dict()

    whole, _ = trained(4)
    halves, _ = trained(2, trained(2))
    np.testing.assert_array_equal(whole.numpy(), halves.numpy())


SCHEDULES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("StepLR", (3,), {}), ("MultiStepLR", ([2, 5],), {}), ("CosineAnnealingLR", (6,), {"eta_min": 0.01}),
    ("LinearLR", (), {}), ("ConstantLR", (), {}), ("ExponentialLR", (0.9,), {}), ("PolynomialLR", (), {"power": 2.0}),
    ("CosineAnnealingWarmRestarts", (3,), {"T_mult": 2}), ("OneCycleLR", (0.5,), {"total_steps": 14}),
    ("LambdaLR", (lambda e: 0.9**e,), {}), ("MultiplicativeLR", (lambda e: 0.95,), {}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of schedules stepped without their optimiser
@pytest.mark.parametrize(("name", "arguments", "options"), SCHEDULES, ids=lambda v: v if isinstance(v, str) else "")
def test_schedule(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    a = fp.optim.SGD([nn.Parameter(fp.ones(1))], lr=0.1, momentum=0.9)
    b = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    ours = getattr(fp.optim.lr_scheduler, name)(a, *arguments, **options)
    theirs = getattr(torch.optim.lr_scheduler, name)(b, *arguments, **options)
    for _ in range(12):
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-6)
        ours.step()
        theirs.step()


def test_plateau() -> None:
    a = fp.optim.SGD([nn.Parameter(fp.ones(1))], lr=0.1)
    schedule = fp.optim.lr_scheduler.ReduceLROnPlateau(a, patience=1)
    for metric in (1.0, 0.5, 0.5, 0.5, 0.5):
        schedule.step(metric)
    assert a.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_cyclic_rates(mode: str) -> None:
    weight = np.ones(3, np.float32)
    a = fp.optim.SGD([fp.from_numpy(weight).requires_grad_()], lr=0.1, momentum=0.9)
    b = torch.optim.SGD([torch.from_numpy(weight).requires_grad_()], lr=0.1, momentum=0.9)
    settings: dict[str, Any] = {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3, "step_size_down": 5, "mode": mode}
    ours = fp.optim.lr_scheduler.CyclicLR(a, gamma=0.95, **settings)
    theirs = torch.optim.lr_scheduler.CyclicLR(b, gamma=0.95, **settings)
    for _ in range(20):
        assert a.param_groups[0]["lr"] == pytest.approx(b.param_groups[0]["lr"])
        assert a.param_groups[0]["momentum"] == pytest.approx(b.param_groups[0]["momentum"])
        b.step()
        ours.step()
        theirs.step()


def test_a_schedule_needs_no_new_programs_in_a_plain_loop() -> None:
    weight = nn.Parameter(fp.tensor([1.0, -2.0, 3.0]))
    optimizer = fp.optim.Adam([weight], lr=0.1)
    schedule = fp.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    programs = []
    for _ in range(6):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
        schedule.step()
        programs.append(fp.debug.statistics().programs)
    assert programs[2:] == [programs[2]] * 4


def test_sparse_adam_leaves_unused_rows() -> None:
    """Against PyTorch's with sparse gradients; the first step reads rows 1 and 3, the second rows 0 and 1."""
    start = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    ours, theirs = nn.Embedding(5, 3), torch.nn.Embedding(5, 3, sparse=True)
    ours.load_state_dict({"weight": fp.tensor(start)})
    theirs.load_state_dict({"weight": torch.tensor(start)})
    a = fp.optim.SparseAdam(ours.parameters(), lr=0.1)
    b = torch.optim.SparseAdam(theirs.parameters(), lr=0.1)
    for rows in ([1, 3], [0, 1], [1, 1]):
        a.zero_grad()
        b.zero_grad()
        ours(fp.tensor(rows)).square().sum().backward()
        theirs(torch.tensor(rows)).square().sum().backward()
        a.step()
        b.step()
    assert np.allclose(ours.weight.detach().numpy(), theirs.weight.detach().numpy(), atol=1e-6)
    assert (ours.weight.detach().numpy()[[2, 4]] == start[[2, 4]]).all()
    with pytest.raises(ValueError, match="invalid lr"):
        fp.optim.SparseAdam(ours.parameters(), lr=0.0)
