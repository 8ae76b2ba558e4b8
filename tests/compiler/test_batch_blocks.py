"""Batches in blocks: results are those of the whole batch, and what joins examples is left whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.compiler import batch_blocks, simplify
from firepot.compiler.execute import Executor
from firepot.compiler.plan import from_bytes, to_bytes
from firepot.compiler.program import Passes, Program, build
from firepot.nn import functional as F
from firepot.runtime.processor import processor

BATCH = 8


def images(channels=8, size=6):
    return fp.tensor(np.random.default_rng(0).standard_normal((BATCH, channels, size, size)).astype(np.float32))


def recorded(y, x):
    """(placeholders, outputs, buffers, number of the input that is x) of a pending result."""
    found = simplify.recorded([y._node])
    placeholders, copies = simplify.simplify(found.order, found.leaves, found.outputs)
    return placeholders, copies, [leaf.buffer for leaf in found.leaves], found.leaves.index(x._node)


def run(program, buffers, shape):
    (buffer,) = Executor(program)(buffers)
    return buffer.view(np.dtype(np.float32), shape).copy()


@pytest.fixture
def small_cache(monkeypatch):
    small = dataclasses.replace(processor(), l3=1 << 13)
    monkeypatch.setattr(batch_blocks, "processor", lambda: small)
    monkeypatch.setattr(batch_blocks, "_OPERATIONS_PER_BYTE", 1e9)


def network():
    fp.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, 2, 1, groups=16),
        nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(8, 16),
    ).eval()  # fmt: skip
    for value in (*net.parameters(), *net.buffers()):
        value.numpy(force=True)  # computed, so that it is an input
    return net


@pytest.mark.parametrize("prepare", [True, False])
def test_network_is_that_of_the_whole_batch(small_cache, prepare):
    net, x = network(), images()
    with fp.no_grad():
        y = net(x)
    inputs, outputs, buffers, number = recorded(y, x)
    constants = [i for i in range(len(inputs)) if i != number]
    programs = [
        build(inputs, outputs, passes=Passes(blocks=b, prepare=prepare), constants=constants) for b in (True, False)
    ]
    assert programs[0].blocks == BATCH and programs[1].blocks == 1
    assert programs[0].fresh() == programs[1].fresh() and programs[0].arena < programs[1].arena
    found = [run(p, buffers, (BATCH, 16)) for p in programs]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
    executor = Executor(programs[0])
    plan = from_bytes(to_bytes(executor.plan))
    assert plan == executor.plan
    for _ in range(2):  # again with what was kept
        (buffer,) = executor(buffers)
        np.testing.assert_array_equal(buffer.view(np.dtype(np.float32), (BATCH, 16)), found[0])


def test_jit_and_explain(small_cache):
    net, x = network(), images()

    @fp.jit
    def infer(x):
        with fp.no_grad():
            return net(x)

    with fp.no_grad():
        expected = net(x).numpy()
    for _ in range(3):
        np.testing.assert_allclose(infer(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    net[0].weight.data.mul_(2)
    with fp.no_grad():
        expected = net(x).numpy()
    np.testing.assert_allclose(infer(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    found = fp.explain(infer, x)
    assert f"{BATCH} blocks" in str(found)
    assert found.flops > 2 * BATCH * (8 * 16 * 36 + 16 * 8 * 9 * 9)
    assert any("test_batch_blocks" in k.line for k in found.kernels)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(0),
        lambda x: x.flip(0) * 2,
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: x.permute(1, 0, 2, 3).reshape(BATCH, -1).cumsum(1),
        lambda x: fp.cat([x, x + 1], 0),
        lambda x: x * fp.arange(float(BATCH)).reshape(BATCH, 1, 1, 1),
        lambda x: x + fp.rand(BATCH, 8, 6, 6),
        lambda x: x.reshape(BATCH, -1) @ x.reshape(BATCH, -1).T,
        lambda x: x[1:],
        lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1)),
    ],
)
def test_joined_examples_are_left_whole(function):
    x = images()
    inputs, outputs, _, number = recorded(function(x), x)
    assert batch_blocks.divided(inputs, outputs, [number], 2) is None


def drawn(random, x, weights):
    """A random function of x, a step at a time; most steps keep examples apart."""
    for _ in range(7):
        step, d = random.integers(13), int(random.integers(x.ndim))
        if step == 0:
            x = x.exp().clamp(max=2.0) + x
        elif step == 1 and x.ndim > 1:
            x = x * x.mean(-1, keepdim=True)
        elif step == 2:
            x = x.sum(d) if x.ndim > 2 else x
        elif step == 3:
            x = x.permute(*(int(i) for i in random.permutation(x.ndim)))
        elif step == 4 and x.ndim > 2:
            x = x.flatten(d, d + 1) if d + 1 < x.ndim else x.flatten(d - 1, d)
        elif step == 5:
            x = x.unsqueeze(d)
        elif step == 6:
            x = fp.cat([x, x * 2], d)
        elif step == 7:
            x = F.pad(x, (1, 0)) if random.integers(2) else x.flip(d)
        elif step == 8:
            x = x[..., ::2]
        elif step == 9:
            x = x + x.new_ones(x.shape[-1])
        elif step == 10 and x.ndim > 1:
            x = x @ weights[: x.shape[-1]] if x.shape[-1] <= len(weights) else x.softmax(-1)
        elif step == 11 and x.ndim == 4 and x.shape[1] <= 8:
            x = F.conv2d(x, weights[: 4 * x.shape[1]].reshape(-1, x.shape[1], 1, 1))
        elif step == 12:
            x = x.reshape(x.shape[0], -1)
    return x


def test_random_functions():
    random = np.random.default_rng(1)
    outcomes = []
    for _ in range(60):
        x = fp.tensor(random.uniform(-1, 1, (4, 2, 3, 4)).astype(np.float32))
        weights = fp.tensor(random.uniform(-1, 1, (32, 4)).astype(np.float32))
        y = drawn(random, x * 1.5, weights)
        inputs, outputs, buffers, number = recorded(y, x)
        blocks = batch_blocks.divided(inputs, outputs, [number], 2)
        outcomes.append(blocks is not None)
        if blocks is None:
            continue
        whole = build(inputs, outputs)
        program = build(blocks.inputs, blocks.outputs)
        program.blocks, program.moved = 2, {number: x.numel() * 2}
        assert isinstance(program, Program)
        np.testing.assert_allclose(run(program, buffers, y.shape), run(whole, buffers, y.shape), rtol=1e-4, atol=1e-5)
    assert 20 < sum(outcomes) < 55
