"""fp.debug and FIREPOT_DEBUG."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.compiler import debug as text
from firepot.nn import functional as F


def test_eager_computes_each_operation_at_its_call() -> None:
    x = fp.tensor([1.0, 4.0])
    total = fp.zeros(2)
    step = fp.jit(lambda x: x.sum().item())
    with fp.debug.eager():
        y = x.sqrt()
        assert y._value.buffer is not None
        total += y
        assert total._value.buffer is not None
        assert step(x) == 5  # not captured: values can be looked at
    assert step.traces == 0
    z = y * 2
    assert z._value.buffer is None
    assert z.tolist() == [2, 4]
    assert total.tolist() == [1, 2]


def test_eager_training_is_the_same() -> None:
    def trained() -> list[np.ndarray[Any, Any]]:
        fp.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 2))
        optimizer = fp.optim.Adam(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(fp.ones(4, 3)), fp.arange(4) % 2).backward()
            optimizer.step()
        return [p.detach().numpy() for p in model.parameters()]

    plain = trained()
    with fp.debug.eager():
        stepped = trained()
    for a, b in zip(plain, stepped, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def line_of(marker: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    return f"test_debug.py:{next(i for i, line in enumerate(lines, 1) if line.endswith('# ' + marker))}"


def test_the_first_nan_is_told_with_its_line() -> None:
    x = fp.tensor([[1.0, 2.0], [-3.0, 4.0]])
    with fp.debug.detect_nan():
        (x * 2).exp()
        with pytest.raises(FloatingPointError, match=r"log.*1 nan in float32\[2, 2\], first nan at \[1, 0\], of -3.0") as e:
            (x.log() * 2).sum()  # here
        assert line_of("here") in str(e.value)
        with pytest.raises(FloatingPointError, match="inf"):
            x / fp.zeros(2, 2)
        with pytest.raises(FloatingPointError, match="std: "):
            fp.ones(1).std()
    x.log()
    with fp.debug.detect_nan(inf=False):
        big = x / fp.zeros(2, 2)
        with pytest.raises(FloatingPointError, match="sub"):
            big - big


def test_a_nan_that_was_given_is_no_find() -> None:
    x = fp.tensor([1.0, float("nan"), float("inf")])
    mask = fp.tensor([True, False, True])
    with fp.debug.detect_nan():
        y = (x * 2 + 1).sqrt()
        scores = fp.ones(3).masked_fill(~mask, -float("inf"))
        weights = F.softmax(scores, 0)
        assert fp.isfinite(weights).all()
    assert fp.isnan(y[1])


def test_library_losses_and_layers_raise_no_alarm() -> None:
    fp.manual_seed(0)
    x = fp.randn(4, 8, requires_grad=True)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    with fp.debug.detect_nan():
        loss = F.cross_entropy(x * 50, fp.arange(4))
        loss = loss + F.binary_cross_entropy_with_logits(x * 50, (x.detach() > 0).float())
        loss = loss + F.kl_div(F.log_softmax(x, 1), F.softmax(x.detach(), 1), reduction="batchmean")
        loss = loss + F.gelu(x).sum() + F.softplus(x * 90).mean() + F.log_softmax(x * 60, 1).mean()
        loss = loss + attention(x[None], x[None], x[None], attn_mask=fp.triu(fp.ones(4, 4), 1).bool())[0].sum()
        loss = loss + F.layer_norm(x, (8,)).abs().sum() + x.norm() + (x**2).sum().sqrt()
        loss.backward()
    assert fp.isfinite(x.grad).all()


def test_a_nan_of_a_derivative_names_the_operation() -> None:
    w = fp.tensor([0.0, 4.0], requires_grad=True)
    run = fp.jit(lambda: (w.sqrt() * w.detach()).sum().backward())  # root
    with fp.debug.detect_nan(), pytest.raises(FloatingPointError, match=r"derivative of sqrt.*first nan at \[0\]") as e:
        run()
    assert line_of("root") in str(e.value)


def test_statistics_count() -> None:
    x = fp.ones(3, 17)
    fp.eval(x)
    before = fp.debug.statistics()
    for _ in range(3):
        (x.exp() * 0.4375).numpy()
    f = fp.jit(lambda x: x.exp() * 0.4375)
    f(x)
    after = fp.debug.statistics()
    assert after.programs == before.programs + 2
    assert after.kernels == before.kernels + 2
    assert after.programs_reused == before.programs_reused + 2
    assert after.programs_kept == min(before.programs_kept + 1, 512)
    assert after.compile_seconds > before.compile_seconds
    assert after.native_reused > before.native_reused
    assert [c.name for c in fp.debug.compilations()[-2:]] == ["eager", "<lambda>"]


PROGRAM = """
import firepot as fp
x = fp.ones(4, 6)
fp.eval(x)
print((x.exp() / x.sum(1, keepdim=True) + fp.cat([x, x])[2:6]).sum().item(), (x @ x.T).shape)
fp.eval(x @ x.T)
"""


@pytest.mark.parametrize("level", range(6))
def test_levels(level: int) -> None:
    environment = {**os.environ, "FIREPOT_DEBUG": str(level), "FIREPOT_PLAN_CACHE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith(f"{4 * 6 * (2.718281828 / 6) + 24:.4f}"[:6])
    shown = done.stderr
    assert ("firepot: compiled eager, 1 kernels" in shown) == (level >= 1)
    assert ("matmul 1x4x4x6  (input 0, input 0, output 0" in shown) == (level >= 2)
    assert ("makes contract: float32[1, 4, 4]" in shown) == (level >= 2)
    assert ("contract %" in shown and ": float32[4, 6]\n" in shown and "return %" in shown) == (level >= 3)
    assert (" = sum[" in shown and "for a0 < 4:" in shown) == (level >= 4)
    assert ("define void @pack" in shown) == (level >= 5)
    if level == 0:
        assert not shown


def test_a_level_that_is_no_number() -> None:
    environment = {**os.environ, "FIREPOT_DEBUG": "much", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "FIREPOT_DEBUG must be a number from 0 to 5, not 'much'" in done.stderr


def test_a_graph_as_text() -> None:
    x = fp.ones(3, 5)
    fp.eval(x)
    found = fp.explain(lambda x: x.softmax(1), x)
    loops = "\n".join(found.loops(k.number) for k in found.kernels)
    assert "r0 = max[" in loops
    assert loops.count("exp(") >= 1
    graph = text.graph_text([x._value])
    assert graph == "%0 = input : float32[3, 5]\nreturn %0"
