"""The order of kernels: less is kept at once, and nothing is overwritten early."""

from __future__ import annotations

import numpy as np
import pytest

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, Program, build


def compiled(outputs: list[fp.Tensor], passes: Passes) -> tuple[Program, list[fp.graph.node.Node]]:
    nodes = [t._value for t in outputs]
    _, leaves, order = simplify.structure(nodes)
    placeholders, copies = simplify.simplify(order, leaves, nodes)
    return build(placeholders, copies, passes=passes), leaves


def chain(depth: int) -> tuple[fp.Tensor, list[fp.Tensor]]:
    """The loss of a deep network and its weights."""
    x = fp.randn(64, 128)
    weights = [fp.randn(128, 128) * 0.1 for _ in range(depth)]
    fp.eval(x, weights)
    for w in weights:
        w.requires_grad = True
        x = fp.tanh(x @ w)
    return x.square().sum(), weights


def test_gradients_do_not_wait_for_each_other():
    loss, weights = chain(12)
    loss.backward()
    gradients = [w.grad for w in weights]
    recorded, leaves = compiled(gradients, Passes(schedule=False))
    scheduled, _ = compiled(gradients, Passes())
    assert scheduled.arena < 0.8 * recorded.arena
    values = [Executor(p)([n.buffer for n in leaves]) for p in (recorded, scheduled)]
    for a, b in zip(*values, strict=True):
        np.testing.assert_array_equal(a.view(np.dtype("f4"), (128, 128)), b.view(np.dtype("f4"), (128, 128)))


def test_state_is_as_before_when_an_index_is_wrong():
    parameter = fp.zeros(64, 64)
    table = fp.randn(10, 64)
    fp.eval(parameter, table)

    @fp.jit
    def step(index):
        parameter.add_(1.0)
        return table[index].sum()

    step(fp.tensor([1, 2]))
    with pytest.raises(IndexError):
        step(fp.tensor([1, 12]))
    assert parameter.numpy().max() == 1.0


def test_activations_between_normalisations_are_not_kept():
    layers = []
    for _ in range(8):
        layers += [fp.nn.Conv2d(32, 32, 1, bias=False), fp.nn.BatchNorm2d(32), fp.nn.ReLU()]
    model = fp.nn.Sequential(*layers)
    x = fp.randn(8, 32, 32, 32)
    fp.eval(x, list(model.parameters()))
    model(x).square().mean().backward()
    program, _ = compiled([p.grad for p in model.parameters()], Passes())
    one = x.numel() * 4
    # What the eight convolutions gave, gradients and workspaces of one layer; not eight activations more.
    assert program.arena < 14 * one


def test_work_behind_a_product_under_a_further_dimension_of_size_one():
    a, b, c = fp.ones(3, 4), fp.ones(4, 5), fp.ones(1, 3, 5)
    fp.eval(a, b, c)
    assert ((a @ b).expand(1, 3, 5) * 2 + c).tolist() == [[[9.0] * 5] * 3]
