"""What of a graph decides its program, and what of it is made again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import firepot as fp
from firepot import nn
from firepot.compiler import simplify
from firepot.compiler.simplify import structure


def test_a_computed_constant_stays_a_constant() -> None:
    x = fp.arange(4, dtype=fp.float32)
    fp.eval(x)
    zero = fp.zeros(())  # shares its node with the 0 in the comparison below

    def key() -> object:
        return structure([(x > 0.0)._node])[0]

    pending = key()
    assert zero.item() == 0
    assert key() == pending
    _, leaves, _ = structure([(x > 0.0)._node])
    assert leaves == [x._node]


class Residual(nn.Module):
    """Blocks that add what they were given, as in residual networks."""

    def __init__(self, blocks: int, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, channels, 1) for _ in range(blocks)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(blocks)])
        self.last = nn.Conv2d(channels, channels, 1)

    def forward(self, x: fp.Tensor) -> fp.Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = (norm(convolution(x)) + x).relu()
        return self.last(x)


def test_residual_activations_are_computed_again_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second one, for the weight gradients, with the same results to the last bit; against PyTorch too."""
    x = np.random.default_rng(0).standard_normal((4, 16, 24, 24)).astype(np.float32)

    def run() -> tuple[list[Any], int]:
        fp.manual_seed(0)
        model = Residual(6, 16)

        def step(x: fp.Tensor) -> fp.Tensor:
            loss = (model(x) ** 2).mean()
            loss.backward()
            return loss

        given = fp.tensor(x).relu()
        memory = fp.explain(step, given).memory_bytes
        fp.jit(step)(given)
        return [p.grad.numpy() for p in model.parameters()], memory

    gradients, memory = run()
    monkeypatch.setattr(simplify._Activations, "made_again", lambda self, x: False)
    kept, most = run()
    activation = x.nbytes
    assert memory <= most - 2 * activation, (memory, most)
    for a, b in zip(gradients, kept, strict=True):
        np.testing.assert_array_equal(a, b)

    fp.manual_seed(0)
    ours = Residual(6, 16)
    parameters = {k: torch.tensor(v.detach().numpy(), dtype=torch.float64, requires_grad=True) for k, v in ours.named_parameters()}
    t = torch.tensor(x, dtype=torch.float64).relu()
    for i in range(6):
        y = torch.nn.functional.conv2d(t, parameters[f"convolutions.{i}.weight"], parameters[f"convolutions.{i}.bias"])
        y = torch.nn.functional.batch_norm(
            y, None, None, parameters[f"norms.{i}.weight"], parameters[f"norms.{i}.bias"], training=True
        )
        t = (y + t).relu()
    (torch.nn.functional.conv2d(t, parameters["last.weight"], parameters["last.bias"]) ** 2).mean().backward()
    for found, (name, p) in zip(gradients, parameters.items(), strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(found, p.grad.numpy(), rtol=2e-4, atol=2e-5, err_msg=name)
