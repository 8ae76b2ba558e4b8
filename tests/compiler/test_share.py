"""What several kernels make of one value, made once: results are those without it, and no kernel sees old panels."""

from __future__ import annotations

import numpy as np
import pytest

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.emit import Storage
from firepot.compiler.execute import Executor
from firepot.compiler.lower import Step
from firepot.compiler.plan import from_bytes, to_bytes
from firepot.compiler.program import Passes, build
from firepot.compiler.share import shared
from firepot.compiler.subprogram import InnerStep, Repeat
from firepot.graph.dtypes import float32
from firepot.graph.node import data
from firepot.kernels.kernel import Kernel

STEPS = 6


def chain(dtype, rows, transposed, width=72):
    """The last state of a small recurrent network and the gradient of its weights, as a graph."""
    random = np.random.default_rng(0)
    w, x = (fp.tensor(random.standard_normal((n, width)).astype(np.float32) / 8).to(getattr(fp, dtype))
            for n in (width, rows))  # fmt: skip
    fp.eval(w, x)
    w.requires_grad_()
    h = x
    for _ in range(STEPS):
        h = fp.tanh(h @ (w.T if transposed else w))
    (gradient,) = fp.autograd.grad(h.float().square().sum(), [w])
    return h, gradient


def recorded(*results):
    nodes = [r._node for r in results]
    _, leaves, order = simplify.structure(nodes)
    return leaves, *simplify.simplify(order, leaves, nodes)


def values(executor, leaves):
    return [bytes(b.view(np.dtype(np.uint8), (b.nbytes,))) for b in executor([leaf.buffer for leaf in leaves])]


@pytest.mark.parametrize(
    "dtype, rows, transposed", [("float32", 40, True), ("float32", 9, False), ("bfloat16", 40, False)]
)
def test_results_are_those_without(dtype, rows, transposed):
    leaves, placeholders, copies = recorded(*chain(dtype, rows, transposed))
    for leaf in leaves:
        assert leaf.buffer is not None
    with_it, without = (
        build(placeholders, copies, passes=Passes(share_preparations=on)) for on in (True, False)
    )  # fmt: skip
    assert len(with_it.shared) >= 2 * (STEPS - 2)  # forward and backward
    assert not without.shared
    plan = Executor(with_it).plan
    assert sum(s.begun for s in plan.steps) == len(with_it.shared)
    assert from_bytes(to_bytes(plan)) == plan
    assert values(Executor(with_it), leaves) == values(Executor(without), leaves)


def test_an_update_between_uses_is_seen():
    random = np.random.default_rng(1)
    start, x = (random.standard_normal(s) for s in ((64, 64), (32, 64)))
    w = fp.tensor(start)

    @fp.jit
    def run(x):
        first = (x @ w.T) @ w.T
        w.mul_(0.5)
        second = ((x @ w.T) @ w.T) @ w.T
        w[3:5] = 1.0
        return first, second, (x @ w.T) @ w.T

    expected = start
    for _ in range(3):
        results = [r.numpy() for r in run(fp.tensor(x))]
        powers = [(expected, 2), (expected * 0.5, 3)]
        expected = expected * 0.5
        expected[3:5] = 1.0
        powers.append((expected, 2))
        for found, (matrix, count) in zip(results, powers, strict=True):
            assert np.allclose(found, x @ np.linalg.matrix_power(matrix.T, count))
        assert np.array_equal(w.numpy(), expected)


def test_what_is_shared():
    """By hand: kernels 0 … n over a block that is packed, with a writer and long pauses between."""
    packed, other = (Storage(n, float32, 64, (1,)) for n in range(2))
    nodes = [data((64,), float32) for _ in range(2)]
    storage = dict(zip(nodes, (packed, other), strict=True))

    def kernel(key, prepares):
        return Kernel(key, str, ("a", "b"), key, workspace=128, prepares=prepares)

    use = Step(kernel("use", (0, "panels")), ((packed, 0), (other, 0)), (nodes[1],))
    elsewhere = Step(kernel("use", (0, "panels")), ((packed, 64), (other, 0)), (nodes[1],))
    differently = Step(kernel("else", (0, "other panels")), ((packed, 0), (other, 0)), (nodes[1],))
    write = Step(kernel("write", None), ((other, 0), (packed, 0)), (nodes[0],))
    pause = Step(kernel("pause", None), ((other, 0), (other, 0)), (nodes[1],))
    assert shared([use, use, elsewhere, differently, use, elsewhere], storage, set()) == {1: 0, 4: 0, 5: 2}
    assert shared([use, use, write, use, use], storage, set()) == {1: 0, 4: 3}
    assert shared([use, *[pause] * 10, use, *[pause] * 100, use, use], storage, set()) == {11: 0, 113: 112}
    assert shared([use, use, use], storage, {0, 1, 2}) == {}


def test_a_loop_prepares_before_its_first_step():
    random = np.random.default_rng(2)
    w, x = (fp.tensor(random.standard_normal(s).astype(np.float32)) for s in ((48, 48), (5, 64, 48)))

    def step(h, a):
        h = fp.tanh(h @ w.T + a)
        return h, h

    start = fp.zeros(64, 48)
    scanned = fp.jit(lambda x: fp.scan(step, start, x)[1])
    found = [scanned(x * k).numpy() for k in (1, 2, 2)]
    h, states = start, []
    for a in x * 2:
        h, _ = step(h, a)
        states.append(h)
    assert np.allclose(found[1], fp.stack(states).numpy(), atol=1e-6)
    assert np.array_equal(found[1], found[2])
    *_, (trace,) = scanned._traces.values()
    (loop,) = [s.loop for s in trace.executor.plan.steps if s.loop is not None]
    first = [s for s in loop if isinstance(s, InnerStep)]
    (body,) = [s.body for s in loop if isinstance(s, Repeat)]
    assert sum(s.last == 1 for s in first) == 1  # the packing alone
    assert sum(s.first == 1 for s in body) == 1  # the rest
