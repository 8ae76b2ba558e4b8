"""GradScaler against PyTorch's, captured and step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import firepot as fp
from firepot import nn

SETTINGS = {"init_scale": 8.0, "growth_interval": 2, "growth_factor": 4.0, "backoff_factor": 0.25}
STEPS = [1.0, 2.0, float("inf"), 3.0, 4.0, float("nan"), 1.0]  # what the loss is multiplied with at each step


def _run(library, make, jit=lambda f: f, clip=False):
    w = library.tensor([1.0, -2.0], requires_grad=True)
    optimizer = make(library.optim, w)
    scaler = library.amp.GradScaler("cpu", **SETTINGS)

    def step(factor):
        optimizer.zero_grad()
        loss = (w * w).sum() * factor
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            library.nn.utils.clip_grad_norm_([w], 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    step = jit(step)
    seen = []
    for factor in STEPS:
        step(library.tensor(factor))
        seen.append((*w.detach().tolist(), scaler.get_scale(), *(w.grad.tolist() if np.isfinite(factor) else ())))
    return seen, scaler.state_dict(), step


OPTIMISERS = {
    "SGD": lambda optim, w: optim.SGD([w], lr=0.1, momentum=0.9),
    "Adam": lambda optim, w: optim.Adam([w], lr=0.1, foreach=False) if optim is torch.optim else optim.Adam([w], lr=0.1),
}


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_scale_and_parameters_are_pytorchs(name):
    theirs, their_state, _ = _run(torch, OPTIMISERS[name], clip=name == "Adam")
    ours, state, _ = _run(fp, OPTIMISERS[name], clip=name == "Adam")
    captured, captured_state, step = _run(fp, OPTIMISERS[name], fp.jit, clip=name == "Adam")
    assert step.traces == 1
    assert state == their_state == captured_state
    for a, b, c in zip(theirs, ours, captured, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)
        np.testing.assert_allclose(c, a, rtol=1e-5)


def test_float16_training_with_a_scaler():
    fp.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer, scaler = fp.optim.SGD(net.parameters(), lr=0.5), fp.amp.GradScaler()
    x = fp.randn(32, 4)
    y = x.sum(1, keepdim=True).tanh()

    @fp.jit
    def step():
        optimizer.zero_grad()
        with fp.autocast("cpu", dtype=fp.float16):
            loss = nn.functional.mse_loss(net(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    losses = [step().item() for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def test_misuse_is_refused_as_in_pytorch():
    for library in (fp, torch):
        w = library.tensor([1.0], requires_grad=True)
        optimizer = library.optim.SGD([w], lr=0.1)
        scaler = library.amp.GradScaler("cpu")
        scaler.scale(w.sum()).backward()
        scaler.unscale_(optimizer)
        with pytest.raises(RuntimeError, match="already been called on this optimizer since the last update"):
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="being called after step"):
            scaler.unscale_(optimizer)
        with pytest.raises(RuntimeError, match=r"step\(\) has already been called"):
            scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
            scaler.step(optimizer, closure=lambda: 0)
        scaler.update()
        with pytest.raises((RuntimeError, AssertionError), match=r"[Nn]o inf checks were recorded"):
            scaler.update()
        with pytest.raises(RuntimeError, match="source state dict is empty"):
            scaler.load_state_dict({})
        half = library.tensor([1.0], dtype=library.float16, requires_grad=True)
        scaler.scale(half.sum()).backward()
        with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
            scaler.unscale_(library.optim.SGD([half], lr=0.1))
    with pytest.raises(ValueError, match="growth factor"):
        fp.amp.GradScaler(growth_factor=1.0)


def test_off_it_does_nothing():
    w = fp.tensor([1.0], requires_grad=True)
    optimizer, scaler = fp.optim.SGD([w], lr=0.5), fp.amp.GradScaler("cuda", enabled=False)
    loss = w.sum()
    assert scaler.scale(loss) is loss and not scaler.is_enabled() and scaler.state_dict() == {}
    loss.backward()
    scaler.step(optimizer)
    scaler.update()
    assert w.tolist() == [0.5] and scaler.get_scale() == 1.0


def test_state_and_settings_survive():
    scaler = fp.amp.GradScaler(**SETTINGS)
    scaler.update(32.0)
    scaler.set_growth_interval(7)
    scaler.set_growth_factor(3.0)
    scaler.set_backoff_factor(0.125)
    other = fp.amp.GradScaler()
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()
    assert (other.get_scale(), other.get_growth_interval(), other.get_growth_factor(), other.get_backoff_factor()) == (
        32.0, 7, 3.0, 0.125,
    )  # fmt: skip
    pair = scaler.scale([fp.ones(1), (fp.ones(2),)])
    assert pair[0].tolist() == [32.0] and pair[1][0].tolist() == [32.0, 32.0]
