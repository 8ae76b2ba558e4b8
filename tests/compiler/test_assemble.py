"""Assembled concatenations: parts in place, parts inside parts, arguments and shared parts; against NumPy."""

import numpy as np
import pytest

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, build


def run(outputs, passes):
    nodes = [o._node for o in outputs]
    _, leaves, order = simplify.structure(nodes)
    placeholders, copies = simplify.simplify(order, leaves, nodes)
    executor = Executor(build(placeholders, copies, passes=passes))
    buffers = executor([leaf.buffer for leaf in leaves])
    values = [b.view(o.dtype.numpy, o.shape) for b, o in zip(buffers, outputs, strict=True)]
    return values, executor.program


@pytest.fixture
def inputs():
    x = fp.from_numpy(np.arange(24, dtype=np.float32).reshape(4, 6) / 7)
    y = fp.from_numpy(np.arange(24, dtype=np.float32).reshape(4, 6)[::-1].copy() / 5)
    fp.eval(x, y)
    return x, y


@pytest.mark.parametrize("assemble", [True, False])
def test_results_are_the_same(inputs, assemble):
    x, y = inputs
    a, b = x.numpy(), y.numpy()
    exp, row = fp.exp(x), (x * y).sum(1, keepdim=True)
    inner = fp.cat([x + y, exp, fp.sin(y)], 1)
    total = (a * b).sum(1, keepdims=True)
    cases = [
        (fp.cat([x, y, x], 0), [a, b, a], 0),  # arguments, one of them twice
        (fp.cat([exp, x + y, exp * 2], 1), [np.exp(a), a + b, 2 * np.exp(a)], 1),
        (fp.stack([exp, y, exp], 2), [p[:, :, None] for p in (np.exp(a), b, np.exp(a))], 2),
        (fp.cat([row, row + 1, x], 1), [total, total + 1, a], 1),
        (fp.cat([inner, inner, y], 1), [a + b, np.exp(a), np.sin(b)] * 2 + [b], 1),
        (fp.cat([x @ y.t(), x @ x.t(), y @ x.t()], 0), [a @ b.T, a @ a.T, b @ a.T], 0),
        (fp.cat([x.t(), y.t(), exp.t()], 0), [a.T, b.T, np.exp(a).T], 0),
        (fp.cat([x[:, :0], x, x[:, :1], exp], 1), [a, a[:, :1], np.exp(a)], 1),
    ]
    values, _ = run([c for c, _, _ in cases], Passes(assemble=assemble))
    for got, (_, pieces, axis) in zip(values, cases, strict=True):
        np.testing.assert_allclose(got, np.concatenate(pieces, axis), rtol=2e-6)


def test_parts_that_are_made_anyway_are_not_copied():
    x = fp.randn(64, 32)
    w = fp.randn(32, 32)
    fp.eval(x, w)
    states = [x]
    for _ in range(5):
        states.append(fp.tanh(states[-1] @ w))
    _, program = run([fp.stack(states[1:])], Passes())
    assert len(program.steps) == 5  # a product with its tanh for each step


def test_results_in_another_shape_are_made_in_place():
    x = fp.randn(16, 32)
    fp.eval(x)
    for result in (x @ x.t(), fp.exp(x).reshape(8, 64), fp.exp(x).t()):
        values, program = run([result], Passes())
        assert len(program.steps) == 1
        np.testing.assert_allclose(values[0], result.numpy(), rtol=1e-6)


def test_equal_steps_are_one_kernel():
    x = fp.randn(64, 32)
    fp.eval(x)
    _, program = run([fp.cat([fp.exp(x * 2) @ x.t(), fp.exp(x) @ x.t(), x @ x.t(), x @ x.t() + 1])], Passes(follow=False))
    keys = [step.kernel.key for step in program.steps if "matmul" in step.kernel.label]
    assert len(keys) == 3
    assert len(set(keys)) == 1
