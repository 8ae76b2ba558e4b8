"""Sizes and numbers that vary: bounded captures, reasons, padding."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.nn import functional as F


def test_the_programs_used_last_are_kept() -> None:
    f = fp.jit(lambda x: x + 1, max_traces=3)
    for n in (1, 2, 3):
        f(fp.zeros(n))
    f(fp.zeros(1))
    f(fp.zeros(4))  # drops the one for 2
    assert f.traces == 4
    for n in (1, 3, 4):
        assert f(fp.zeros(n)).tolist() == [1] * n
    assert f.traces == 4
    assert f(fp.zeros(2)).tolist() == [1, 1]
    assert f.traces == 5
    assert "dropped: more than 3" in f.compilations[-1].reason
    with pytest.raises(ValueError, match="max_traces"):
        fp.jit(lambda: None, max_traces=0)


def test_one_warning_tells_what_keeps_changing() -> None:
    f = fp.jit(lambda rows, scale: rows * scale)
    x = fp.ones(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in range(20):
            assert f(x, n).tolist() == [n, n]
    assert f.traces == 20
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert warning.filename == __file__
    for part in ("captured 16 times", "argument 'scale' is 15 and was 14", "dynamic=", ".compilations"):
        assert part in str(warning.message)


def test_every_capture_has_its_reason() -> None:
    model = nn.Dropout(0.5)
    scale = 2.0

    @fp.jit
    def f(x: fp.Tensor, *, keep: bool = True, parts: tuple[fp.Tensor, ...] = ()) -> fp.Tensor:
        return model(x) * scale

    f(fp.ones(3))
    f(fp.ones(4))
    f(fp.ones(4).double())
    f(fp.ones(4).double(), keep=False)
    f(fp.ones(4).double(), keep=True)
    f(fp.ones(4), parts=(fp.ones(1), fp.ones(2)))
    f(fp.ones(4), parts=(fp.ones(1), fp.ones(3)))
    model.eval()
    f(fp.ones(3))
    with fp.no_grad():
        f(fp.ones(3))
    scale = 3.0
    f(fp.ones(3))
    reasons = [c.reason for c in f.compilations]
    assert reasons[0] == "first call"
    assert reasons[1] == "argument 'x' is float32[4] and was float32[3]"
    assert reasons[2] == "argument 'x' is float64[4] and was float32[4]"
    assert "keyword arguments are ['keep']" in reasons[3]
    assert reasons[4] == "argument 'keep' is True and was False"
    assert reasons[6] == "argument 'parts'[1] is float32[3] and was float32[2]"
    assert "training" in reasons[7]
    assert reasons[7].endswith("False and was True")
    assert reasons[8] == "grad mode is off and was on"
    assert reasons[9] == "the closed-over 'scale' is 3.0 and was 2.0"
    assert [c.reason for c in fp.explain(f, fp.ones(3)).compilations] == reasons



def test_padded_training_equals_exact_shapes() -> None:
    def trained(padded: bool) -> tuple[list[float], list[np.ndarray], int]:
        fp.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
        optimizer = fp.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)

        def step(x: fp.Tensor, y: fp.Tensor, count: fp.Tensor | None = None) -> fp.Tensor:
            optimizer.zero_grad()
            each = F.cross_entropy(model(x), y, reduction="none")
            if count is not None:
                loss = fp.where(fp.arange(len(x)) < count, each, 0.0).sum() / count
            else:
                loss = each.mean()
            loss.backward()
            optimizer.step()
            return loss

        pads = [fp.Pad("count", {"x": 0, "y": 0}, sizes=(16, 4), fill={"x": 7.0, "y": 3})] if padded else []
        run = fp.jit(step, pad=pads)
        random = np.random.default_rng(0)
        losses = []
        for n in (16, 16, 3, 9, 4, 1, 13):
            x = fp.tensor(random.standard_normal((n, 3)), dtype=fp.float32)
            losses.append(run(x, fp.tensor(random.integers(0, 4, n))).item())
        return losses, [p.detach().numpy() for p in model.parameters()], run.traces

    losses, parameters, traces = trained(True)
    exact_losses, exact_parameters, exact_traces = trained(False)
    assert (traces, exact_traces) == (2, 6)
    np.testing.assert_allclose(losses, exact_losses, rtol=1e-5)
    for p, e in zip(parameters, exact_parameters, strict=True):
        np.testing.assert_allclose(p, e, rtol=1e-4, atol=1e-6)


def test_two_dimensions_powers_of_two_and_ignored_targets() -> None:
    pads = [
        fp.Pad("batch", {"tokens": 0, "targets": 0}, fill={"targets": -100}),
        fp.Pad("length", {"tokens": -1, "targets": 1}, fill={"targets": -100}),
    ]
    table = fp.randn(11, 5)
    seen = []

    @fp.jit(pad=pads)
    def loss(tokens: fp.Tensor, targets: fp.Tensor, batch: fp.Tensor, length: fp.Tensor) -> tuple[fp.Tensor, ...]:
        seen.append(tokens.shape)
        logits = F.embedding(tokens, table) @ table.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), batch, length

    for batch, length in [(3, 5), (4, 8), (4, 7), (1, 2)]:
        tokens = fp.randint(0, 11, (batch, length))
        targets = fp.randint(0, 11, (batch, length))
        value, b, n = loss(tokens, targets)
        exact = F.cross_entropy((F.embedding(tokens, table) @ table.T).flatten(0, 1), targets.flatten())
        np.testing.assert_allclose(value.item(), exact.item(), rtol=1e-5)
        assert (b.item(), n.item(), b.dtype) == (batch, length, fp.int64)
    assert seen == [(4, 8), (1, 2)]


@pytest.mark.parametrize("dtype", [fp.float32, fp.bfloat16, fp.float16, fp.int8, fp.bool, fp.float64])
def test_padded_values(dtype: fp.dtype) -> None:
    f = fp.jit(lambda x, n: x + x if x.dtype is not fp.bool else x, pad=[fp.Pad("n", {"x": 1}, (8,), {"x": 1})])
    x = fp.tensor([[0, 1, 0], [1, 1, 0]], dtype=dtype)
    result = f(x)
    assert result.shape == (2, 8)
    double = 1 if dtype is fp.bool else 2
    assert result.to(fp.float32).tolist() == [
        [double * v for v in row] + [double] * 5 for row in ([0, 1, 0], [1, 1, 0])
    ]
    assert f(fp.zeros(2, 0, dtype=dtype)).shape == (2, 8)


def test_misuse_of_padding_is_told() -> None:
    with pytest.raises(TypeError, match="parameter 'n'"):
        fp.jit(lambda x: x, pad=[fp.Pad("n", {"x": 0})])
    with pytest.raises(TypeError, match="parameter 'y'"):
        fp.jit(lambda x, n: x, pad=[fp.Pad("n", {"y": 0})])
    f = fp.jit(lambda x, y, n: x, pad=[fp.Pad("n", {"x": 0, "y": 0}, sizes=(4,))])
    with pytest.raises(ValueError, match="up to 4, but an argument has 5"):
        f(fp.ones(5), fp.ones(5))
    with pytest.raises(ValueError, match="x has 2 and y has 3"):
        f(fp.ones(2), fp.ones(3))
    with pytest.raises(ValueError, match=r"dimension 0 of x, which has shape \[\]"):
        f(fp.tensor(1.0), fp.ones(3))
    with pytest.raises(TypeError, match="'n' is set by Pad"):
        f(fp.ones(2), fp.ones(2), n=3)
    with pytest.raises(TypeError, match="x requires grad"):
        f(fp.ones(2, requires_grad=True), fp.ones(2))
    with pytest.raises(ValueError, match="sizes must be positive"):
        fp.Pad("n", {"x": 0}, sizes=())
    with pytest.raises(ValueError, match="fill names"):
        fp.Pad("n", {"x": 0}, fill={"z": 1})


def test_plain_code_says_why_it_compiles() -> None:
    from firepot.compiler.statistics import log

    x = fp.ones(3, 5)
    fp.eval(x)
    (x * 0.125).numpy()
    (x * 0.375).numpy()
    assert "the Python number 0.375 was 0.125" in log.recent[-1].reason
    fp.eval(x[:2])
    (x[:2] * 3.0 + 1.5).numpy()
    y = fp.ones(7, 5)
    fp.eval(y)
    (y * 0.375).numpy()
    assert "an input is float32[7, 5] and was float32[3, 5]" in log.recent[-1].reason
