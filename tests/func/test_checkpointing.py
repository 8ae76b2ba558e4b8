"""checkpoint: equal results and derivatives, less memory, under every other transform."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import firepot as fp
from firepot import nn
from firepot.compiler import simplify
from firepot.compiler.program import Program, build
from firepot.nn import functional as F

WIDTH, ROWS = 32, 64
ACTIVATION = ROWS * WIDTH * 4


def program(results: Sequence[fp.Tensor]) -> Program:
    nodes = [r._node for r in results]
    _, leaves, order = simplify.structure(nodes)
    placeholders, copies = simplify.simplify(order, leaves, nodes)
    return build(placeholders, copies)


def network(depth: int) -> tuple[list[fp.Tensor], fp.Tensor]:
    generator = fp.Generator().manual_seed(3)
    weights = [fp.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for _ in range(depth)]
    x = fp.randn(ROWS, WIDTH, generator=generator)
    fp.eval(weights, x)
    return [w.detach().requires_grad_() for w in weights], x


def layers(weights: list[fp.Tensor]) -> Callable[[fp.Tensor], fp.Tensor]:
    def run(h: fp.Tensor) -> fp.Tensor:
        for w in weights:
            h = fp.tanh(h @ w)
        return h

    return run


def segmented(weights: list[fp.Tensor], x: fp.Tensor, each: int, wrap: Callable[..., Any]) -> fp.Tensor:
    for i in range(0, len(weights), each):
        x = wrap(layers(weights[i : i + each]))(x)
    return (x * x).mean()


def test_memory_shrinks_to_the_root_of_the_depth():
    weights, x = network(36)
    plain, saving = (
        [loss, *fp.autograd.grad(loss, weights)]
        for loss in (segmented(weights, x, 6, lambda f: f), segmented(weights, x, 6, fp.checkpoint))
    )
    before, after = program(plain), program(saving)
    assert before.arena > 36 * ACTIVATION
    assert after.arena < 17 * ACTIVATION  # six between the segments, six within one, and some to work with
    assert len(after.steps) > len(before.steps)
    fp.eval(plain, saving)
    for a, b in zip(plain, saving, strict=True):
        assert np.array_equal(a.detach().numpy(), b.detach().numpy())


def test_nested_segments_save_more():
    weights, x = network(36)

    def outer(part: list[fp.Tensor]) -> Callable[[fp.Tensor], fp.Tensor]:
        def run(h: fp.Tensor) -> fp.Tensor:
            for i in range(0, len(part), 3):
                h = fp.checkpoint(layers(part[i : i + 3]))(h)
            return h

        return run

    h = x
    for i in range(0, 36, 9):
        h = fp.checkpoint(outer(weights[i : i + 9]), h)
    loss = (h * h).mean()
    reference = segmented(weights, x, 6, lambda f: f)
    nested = [loss, *fp.autograd.grad(loss, weights)]
    plain = [reference, *fp.autograd.grad(reference, weights)]
    assert program(nested).arena < 15 * ACTIVATION
    fp.eval(plain, nested)
    for a, b in zip(plain, nested, strict=True):
        assert np.array_equal(a.detach().numpy(), b.detach().numpy())


def test_a_training_step_under_jit():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8)

        def forward(self, x: fp.Tensor) -> fp.Tensor:
            return x + self.b(F.gelu(self.norm(F.dropout(self.a(x), 0.3))))

    losses = []
    for wrap in (lambda f: f, fp.checkpoint):
        fp.manual_seed(5)
        model = nn.ModuleList([Block(), Block(), Block()])
        opt = fp.optim.SGD(model.parameters(), lr=0.1)
        x = fp.randn(4, 8)

        @fp.jit
        def step(x: fp.Tensor, model: Any = model, opt: Any = opt, wrap: Any = wrap) -> fp.Tensor:
            opt.zero_grad()
            h = x
            for block in model:
                h = wrap(block)(h)
            loss = ((h - 1) ** 2).mean()
            loss.backward()
            opt.step()
            return loss

        losses.append([step(x).item() for _ in range(4)])
    assert losses[0] == losses[1] and losses[0][3] < losses[0][0]


def test_transforms():
    weights, x = network(4)
    values = [w.detach() for w in weights]

    def loss(wrap: Callable[..., Any]) -> Callable[..., fp.Tensor]:
        return lambda row, w: (wrap(layers(w[2:]))(wrap(layers(w[:2]))(row)) ** 2).sum()

    plain, saving = loss(lambda f: f), loss(fp.checkpoint)
    pairs = [
        fp.tree.leaves([fp.grad(f, 1)(x, values), fp.vmap(fp.grad(f), (0, None))(x, values),
         fp.grad(lambda w, f=f: fp.vmap(f, (0, None))(x, w).sum())(values),
         fp.jvp(fp.grad(lambda v, f=f: f(v, values)), (x,), (x * 2,))[1],
         fp.hessian(lambda v, f=f: f(v, values))(x[0])])
        for f in (plain, saving)
    ]  # fmt: skip
    fp.eval(pairs)
    for a, b in zip(*pairs, strict=True):
        assert np.allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def test_memory_of_a_mapped_checkpoint():
    weights, x = network(24)
    examples = x.reshape(4, ROWS // 4, WIDTH)

    def loss(wrap: Callable[..., Any]) -> fp.Tensor:
        return fp.vmap(lambda e: segmented(weights, e, 6, wrap))(examples).sum()

    arenas = []
    for wrap in (lambda f: f, fp.checkpoint):
        value = loss(wrap)
        arenas.append(program([value, *fp.autograd.grad(value, weights)]).arena)
    assert arenas[1] < 0.6 * arenas[0]


def test_structures_and_other_arguments():
    def f(d: dict[str, fp.Tensor], n: int, *, scale: float) -> tuple[fp.Tensor, list[fp.Tensor]]:
        return fp.exp(d["x"]) * n * scale, [fp.sin(d["x"]) + d["i"]]

    x = fp.tensor([0.5, 1.0], requires_grad=True)
    a, (b,) = fp.checkpoint(f)({"x": x, "i": fp.tensor([1, 2])}, 3, scale=2.0)
    (a * 2 + b).sum().backward()
    assert np.allclose(x.grad.numpy(), 12 * np.exp([0.5, 1.0]) + np.cos([0.5, 1.0]))
    with fp.no_grad():
        assert not fp.checkpoint(fp.exp)(x).requires_grad
