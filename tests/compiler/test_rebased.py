"""Kernels that do the same at other places are one, and read and write what they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, Program, build


def program(*outputs: fp.Tensor, donations: dict[int, int] | None = None) -> tuple[Program, list[Any]]:
    """(the program of the outputs without merging, their leaves)."""
    nodes = [t._node for t in outputs]
    _, leaves, order = simplify.structure(nodes)
    placeholders, copies = simplify.simplify(order, leaves, nodes)
    return build(placeholders, copies, donations, Passes(merge=False)), leaves


def values(made: Program, leaves: list[Any], outputs: tuple[fp.Tensor, ...]) -> list[Any]:
    buffers = Executor(made)([leaf.buffer.copy() for leaf in leaves])
    return [b.view(t.dtype.numpy, t.shape) for b, t in zip(buffers, outputs, strict=True)]


@pytest.mark.parametrize("width", [1, 7, 16, 48])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_parts_of_a_value(width: int, dtype: str) -> None:
    x = np.random.default_rng(0).integers(-50, 50, (6, 5, width)).astype(dtype)
    t = fp.tensor(x)
    outputs = (
        *(t[i] * 2 + t[i, 0] for i in range(6)), *(t[:, i].sum(0) for i in range(5)), t[4].flip(0) + t[1], t[3:, 2:] - t[2, 1],
        t[fp.tensor([5, 1])][:, 3] + 1, fp.cat([t[3], t[5] + 1, t[0]], 1),
    )  # fmt: skip
    expected = [
        *(x[i] * 2 + x[i, 0] for i in range(6)), *(x[:, i].sum(0) for i in range(5)), x[4][::-1] + x[1], x[3:, 2:] - x[2, 1],
        x[[5, 1]][:, 3] + 1, np.concatenate([x[3], x[5] + 1, x[0]], 1),
    ]  # fmt: skip
    made, leaves = program(*outputs)
    for found, right in zip(values(made, leaves, outputs), expected, strict=True):
        assert np.allclose(found, right)


def test_places_are_no_part_of_a_kernel() -> None:
    t = fp.ones(8, 64)
    fp.eval(t)
    made, _ = program(*(fp.exp(t[i]) for i in range(8)))
    assert len(made.steps) == 8
    assert len({s.kernel.key for s in made.steps}) == 1
    made, _ = program(*(fp.rand(100) for _ in range(6)))
    draws = [s for s in made.steps if s.nodes[0].shape == (100,)]
    assert len(draws) == 6
    assert len({s.kernel.key for s in draws}) <= 2  # the first may begin at a number that is known
    # Not by less than the alignment of operands.
    made, _ = program(*(fp.exp(t.reshape(-1)[i : i + 64]) for i in (0, 4, 16)))
    assert len({s.kernel.key for s in made.steps}) == 2


def test_the_steps_of_a_sequence_share_kernels() -> None:
    def kernels(length: int) -> int:
        net = nn.LSTM(32, 32, batch_first=True)
        x = fp.ones(4, length, 32)
        fp.eval(x, *net.parameters())
        made, _ = program(net(x)[0])
        return len({s.kernel.key for s in made.steps})

    assert kernels(12) <= kernels(6) + 1


def test_a_shifted_copy_is_not_made_in_the_memory_that_it_reads() -> None:
    x = fp.arange(4096.0)
    y = fp.arange(4096.0) * 3
    fp.eval(x, y)
    up, down = fp.cat([x[64:], x[:64]]) + 1, fp.cat([y[-64:], y[:-64]]) * 2
    made, leaves = program(up, down, donations={0: 0, 1: 1})
    assert not made.donated
    assert np.array_equal(values(made, leaves, (up, down))[0], np.roll(np.arange(4096), -64) + 1)
    assert np.array_equal(values(made, leaves, (up, down))[1], np.roll(np.arange(4096) * 3, 64) * 2)
