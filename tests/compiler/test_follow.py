"""Element-wise work joined to the matrix products that it follows."""

import numpy as np
import pytest
import torch
from oracle import Comparison, both, draw

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, Program, build
from firepot.nn import functional as F


def compiled(*results: fp.Tensor, passes: Passes | None = None) -> Program:
    nodes = [r._node for r in results]
    _, leaves, order = simplify.structure(nodes)
    inputs, copies = simplify.simplify(order, leaves, nodes)
    return build(inputs, copies, passes=passes or Passes())


def labels(program: Program) -> list[str]:
    return [s.kernel.label for s in program.steps]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_values(dtype):
    comparison = Comparison()
    for m, n, k in [(1, 1, 1), (128, 64, 30), (37, 45, 3), (14, 33, 70), (3, 100, 2500), (200, 16, 5)]:
        (x, tx), (w, tw), (b, tb), (r, tr) = (
            both(draw(s, i) / s[-1], dtype) for i, s in enumerate([(m, k), (n, k), (n,), (m, n)])
        )
        comparison.add(f"bias {m, n, k}", F.relu(F.linear(x, w, b)), torch.relu(torch.nn.functional.linear(tx, tw, tb)))
        comparison.add(f"residual {m, n, k}", x @ w.T * 0.5 + r, tx @ tw.T * 0.5 + tr)
        transposed, other = (x @ w.T).T, (tx @ tw.T).T
        comparison.add(f"transposed {m, n, k}", transposed * r.T, other * tr.T)
        both_kept, other = x @ w.T, tx @ tw.T
        fp.eval(both_kept, both_kept.exp())
        comparison.add(f"kept {m, n, k}", both_kept.exp(), other.exp())
        comparison.add(f"product {m, n, k}", both_kept, other)
    comparison.check()


def test_one_kernel_for_a_layer():
    x, w, b = fp.randn(4, 32, 48), fp.randn(64, 48), fp.randn(64)
    fp.eval(x, w, b)
    y = F.gelu(F.linear(x, w, b))
    assert len(labels(compiled(y))) == 1
    assert len(labels(compiled(y, passes=Passes(follow=False)))) == 2


def test_folds_and_scattered_stores_stay_apart():
    x, w = fp.randn(64, 48), fp.randn(32, 48)
    fp.eval(x, w)
    assert len(labels(compiled((x @ w.T).sum(1)))) == 2
    product = x @ w.T  # no direction in which both results lie side by side in memory
    assert len(labels(compiled((product + 1).contiguous(), product.T * 2))) >= 2


def test_an_update_in_place_waits_for_the_last_reader():
    """The weights are read by the gradient of the input, which comes after their own gradient."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(s) for s in [(40, 24), (32, 24), (16, 32)]]

    def run(library, linear, loops):
        x = library.tensor(arrays[0], requires_grad=True)
        weights = [library.tensor(a, requires_grad=True) for a in arrays[1:]]
        optimizer = library.optim.SGD([x, *weights], lr=0.1, momentum=0.9)

        def step():
            optimizer.zero_grad()
            y = linear(library.tanh(linear(x, weights[0])), weights[1])
            loss = (y * y).mean()
            loss.backward()
            optimizer.step()
            return loss

        step = fp.jit(step) if library is fp else step
        losses = [step() for _ in range(loops)]
        return [*losses, x, *weights]

    comparison = Comparison()
    ours, theirs = run(fp, F.linear, 4), run(torch, torch.nn.functional.linear, 4)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        comparison.add(f"result {i}", a, b)
    comparison.check()


@pytest.mark.parametrize("dtype", [fp.float32, fp.bfloat16])
@pytest.mark.parametrize(
    ("channels", "out", "size", "kernel", "options"),
    [
        (24, 40, (9, 11), 3, dict(padding=1)),  # minimal filtering, channels that fill no vector
        (16, 33, (8, 8), 1, {}),
        (1040, 24, (6, 5), 1, {}),  # gathered
        (3, 20, (15, 14), 7, dict(padding=3, stride=2)),
        (36, 36, (9, 7), 3, dict(padding=1, groups=36)),
        (8, 12, (17,), 3, dict(padding=1, groups=2)),
        (4, 10, (5, 4, 6), 2, {}),
    ],
)
def test_work_after_convolutions(channels, out, size, kernel, options, dtype):
    rank = len(size)
    convolve = getattr(fp.nn.functional, f"conv{rank}d")
    x = fp.randn(2, channels, *size).to(dtype)
    w = (fp.randn(out, channels // options.get("groups", 1), *[kernel] * rank) * 0.1).to(dtype)
    per_channel = [out] + [1] * rank
    scale, shift = fp.randn(*per_channel).to(dtype), fp.randn(*per_channel).to(dtype)
    last = fp.randn(8, out, *[1] * rank).to(dtype)
    fp.eval(x, w, scale, shift, last)

    def values(passes: Passes) -> tuple[list[np.ndarray], list[str]]:
        first = fp.relu(convolve(x, w, **options) * scale + shift)
        nodes = [convolve(first, last)._node]
        _, leaves, order = simplify.structure(nodes)
        inputs, copies = simplify.simplify(order, leaves, nodes)
        program = build(inputs, copies, passes=passes)
        buffers = Executor(program)([leaf.buffer for leaf in leaves])
        raw = np.dtype(f"u{dtype.size}")
        return [b.view(raw, n.shape) for b, n in zip(buffers, nodes, strict=True)], labels(program)

    plain, _ = values(Passes(follow=False))
    joined, kernels = values(Passes())
    assert any("+" in label for label in kernels)
    for a, b in zip(plain, joined, strict=True):
        np.testing.assert_array_equal(a, b)
