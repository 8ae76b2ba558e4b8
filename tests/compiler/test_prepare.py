"""What is made of constant inputs once and kept: results are those without it, and new values are always seen."""

from __future__ import annotations

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, build
from firepot.nn import functional as F


def model(kernel=3, channels=32):
    fp.manual_seed(0)
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(16, channels, kernel, padding=kernel // 2), nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride=2, groups=2), nn.Conv2d(channels, 8, 1),
    )  # fmt: skip


def images(size=16):
    return fp.tensor(np.random.default_rng(0).standard_normal((2, 16, size, size)).astype(np.float32))


def prepared(jitted):
    """How many steps of the program captured last keep something."""
    *_, traces = jitted._traces.values()
    return sum(s.prepared for s in traces[-1].executor.executable.steps)


def plain(net, x):
    with fp.no_grad():
        return net(x).numpy()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_result_is_that_without(kernel, dtype):
    net = model(kernel).to(getattr(fp, dtype))
    x = images().to(getattr(fp, dtype))
    for p in net.parameters():
        p.numpy(force=True)  # computed, so that it is a constant below
    y = net(x).detach()
    _, leaves, order = simplify.structure([y._node])
    placeholders, copies = simplify.simplify(order, leaves, [y._node])
    found = []
    for passes in (Passes(), Passes(prepare=False)):
        program = build(placeholders, copies, passes=passes, constants=range(len(leaves)))
        assert bool(program.prepared) == passes.prepare
        executor = Executor(program)
        for _ in range(3):
            (buffer,) = executor([leaf.buffer for leaf in leaves])
            found.append(buffer.view(np.dtype(dtype), y.shape).copy())
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("k", [70, 2100])  # in one block and in several
def test_products(dtype, k):
    random = np.random.default_rng(1)
    w, b, x = (fp.tensor(random.standard_normal(s).astype(np.float32)).to(getattr(fp, dtype))
               for s in ((90, k), (90,), (9, k)))  # fmt: skip
    linear = fp.jit(lambda x: F.relu(F.linear(x, w, b)))
    for scale in (1.0, 1.0, 3.0):
        w.mul_(scale)
        first, again = (linear(x).to(fp.float64).numpy() for _ in range(2))
        a, c, d = (t.to(fp.float64).numpy() for t in (x, w, b))
        bound = (2e-2 if dtype == "bfloat16" else 1e-5) * (np.abs(a) @ np.abs(c).T + 1)
        assert np.all(np.abs(first - np.maximum(a @ c.T + d, 0)) <= bound)
        assert np.array_equal(first, again)
    assert prepared(linear) == 1


def test_steps_of_a_sequence_share_what_they_keep():
    fp.manual_seed(0)
    net = nn.LSTM(64, 64, batch_first=True)
    x = fp.randn(8, 6, 64)
    infer = fp.jit(lambda x: net(x)[0])
    with fp.no_grad():
        for _ in range(2):
            for p in net.parameters():
                p.mul_(1.1)
            found = [infer(x).numpy() for _ in range(2)]
            assert np.array_equal(*found)
            assert np.allclose(found[0], net(x)[0].numpy(), rtol=1e-4, atol=1e-5)
    *_, traces = infer._traces.values()
    executor = traces[-1].executor
    steps = [s for s in executor.executable.steps if s.prepared]
    assert len(steps) >= 6
    assert len({s.operands[-1].base for s in steps}) <= 2  # of the input and of the state


def test_arguments_are_no_constants():
    w = fp.randn(32, 16, 3, 3)
    by_argument = fp.jit(lambda x, w: F.conv2d(fp.relu(x), w, padding=1))
    by_argument(images(), w)
    assert prepared(by_argument) == 0
    closed_over = fp.jit(lambda x: F.conv2d(fp.relu(x), w, padding=1))
    closed_over(images())
    assert prepared(closed_over) == 1


def test_training_between_calls_is_seen():
    net = model()
    x, opt = images(), fp.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    infer = fp.jit(lambda x: net(x))

    @fp.jit
    def step(x):
        opt.zero_grad()
        loss = (net(x) ** 2).mean()
        loss.backward()
        opt.step()
        return loss

    with fp.no_grad():
        infer(x)
        before = infer(x).numpy()
    assert prepared(infer) == 3
    for _ in range(3):
        address = net[1].weight._value.buffer.address
        step(x)
        with fp.no_grad():
            now = infer(x).numpy()
            assert not np.allclose(now, before)
            assert np.allclose(now, plain(net, x), rtol=1e-4, atol=1e-5)
        before = now
    assert net[1].weight._value.buffer.address == address, "the step was to overwrite the weights where they lie"


def test_in_place_and_loading_are_seen():
    net, other = model(), model()
    x = images()
    with fp.no_grad():
        infer = fp.jit(lambda x: net(x))
        infer(x)
        net[1].weight.mul_(2.0)
        assert np.allclose(infer(x).numpy(), plain(net, x), rtol=1e-4, atol=1e-5)
        other[4].weight.add_(1.0)
        net.load_state_dict(other.state_dict())
        assert np.allclose(infer(x).numpy(), plain(other, x), rtol=1e-4, atol=1e-5)
        shown = fp.explain(infer, x)
        assert sum(k.prepared for k in shown.kernels) == 3
        assert "* keeps what it makes of constant weights" in str(shown)
        net[1].weight.mul_(0.5)
        assert np.allclose(infer(x).numpy(), plain(net, x), rtol=1e-4, atol=1e-5)


def built(result):
    """(executor of a result, its leaves), all leaves constant."""
    _, leaves, order = simplify.structure([result._node])
    placeholders, copies = simplify.simplify(order, leaves, [result._node])
    return Executor(build(placeholders, copies, constants=range(len(leaves)))), leaves


def test_memory_given_to_another_program_is_seen():
    w, x, other = fp.randn(32, 16, 3, 3), images(), fp.randn(32, 16, 3, 3)
    for tensor in (w, other):
        tensor.numpy()
    y = F.conv2d(fp.relu(x), w, padding=1)
    use, leaves = built(y)
    fill, (leaf,) = built(other * 2.0)
    run = [n.buffer for n in leaves]
    (before,) = use(run)
    assert use.program.prepared
    memory = w._value.buffer
    assert fill([leaf.buffer], {0: memory}) == [memory]
    (after,) = use(run)
    expected = F.conv2d(fp.relu(x), other * 2.0, padding=1).numpy()
    found = after.view(np.dtype("float32"), y.shape)
    assert not np.allclose(found, before.view(np.dtype("float32"), y.shape))
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-3)
