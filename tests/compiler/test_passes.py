"""Every pass of the compiler against programs made without it, on random graphs, and against PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, build

VARIANTS = {
    "all": Passes(),
    "no layout": Passes(layout=False),
    "no recomputing": Passes(recompute=False),
    "no merging": Passes(merge=False),
    "no following": Passes(follow=False),
    "no statistics": Passes(statistics=False),
    "no assembly": Passes(assemble=False),
    "no scheduling": Passes(schedule=False),
    "no sharing of memory": Passes(share_memory=False),
    "none": Passes(
        layout=False, recompute=False, assemble=False, merge=False, follow=False, schedule=False, share_memory=False,
        share_preparations=False,
    ),
}
OPERATIONS = [
    "add",
    "sub",
    "mul",
    "maximum",
    "where",
    "exp",
    "sin",
    "tanh",
    "square",
    "abs",
    "identity",
    "scale",
    "sum",
    "mean",
    "amax",
    "softmax",
    "max_index",
    "normalise",
    "cumsum",
    "permute",
    "reshape",
    "slice",
    "flip",
    "cat",
    "pad",
    "expand",
    "roll",
    "tril",
    "matmul",
    "gather",
    "scatter",
    "sort",
    "convolution",
    "pool",
    "cast",
    "assign",
]


class Drawn:
    """The same random expression graph in Firepot and in PyTorch (float64)."""

    def __init__(self, seed: int, length: int = 14) -> None:
        self.random = np.random.default_rng(seed)
        self.values: list[tuple[fp.Tensor, torch.Tensor]] = []
        for shape in ((2, 8, 5, 4), (4, 6), (6, 5), (7,), (3, 1, 4)):
            array = self.random.uniform(-1, 1, shape)
            self.values.append((fp.tensor(array), torch.from_numpy(array)))
        fp.eval([v for v, _ in self.values])
        self.leaves = len(self.values)
        for _ in range(length):
            self.step(str(self.random.choice(OPERATIONS)))

    def pick(self, rank: int = 0) -> tuple[fp.Tensor, torch.Tensor]:
        """A value, later ones more often."""
        fitting = [v for v in self.values if v[0].ndim >= rank]
        place = len(fitting) - 1 - int(len(fitting) * self.random.uniform() ** 2)
        return fitting[max(place, 0)]

    def like(self, shape: tuple[int, ...]) -> tuple[fp.Tensor, torch.Tensor]:
        """A value of this shape, cut or repeated out of a drawn one."""
        a, b = self.pick()
        a, b = a.flatten(), b.flatten()
        count = int(np.prod(shape))
        times = -(-count // a.numel())
        return a.repeat(times)[:count].reshape(shape), b.repeat(times)[:count].reshape(shape)

    def step(self, name: str) -> None:
        integer = lambda n: int(self.random.integers(n))  # noqa: E731
        a, b = self.pick(1)
        dim = integer(a.ndim)
        both = None
        if name in ("add", "sub", "mul", "maximum"):
            c, d = self.like(tuple(a.shape[integer(a.ndim) :]))
            both = getattr(fp, name)(a, c), getattr(torch, name)(b, d)
        elif name in ("exp", "sin", "tanh", "square", "abs"):
            both = getattr(fp, name)(a * 0.5), getattr(torch, name)(b * 0.5)
        elif name == "where":
            c, d = self.like(a.shape)
            both = fp.where(a > c, a, c * 2), torch.where(b > d, b, d * 2)
        elif name == "identity":
            both = (a * 1.0 / 1.0).reshape(a.shape) + fp.where(a > 0, a, a), (b * 1.0) + b
        elif name == "scale":
            both = a * a.numel() ** -0.5 - 0.25, b * b.numel() ** -0.5 - 0.25
        elif name in ("sum", "mean", "amax"):
            both = getattr(a, name)(dim, keepdim=True) + a * 0.1, getattr(b, name)(dim, keepdim=True) + b * 0.1
            if a.ndim > 1 and integer(2):
                both = getattr(a, name)(dim), getattr(b, name)(dim)
        elif name == "softmax":
            both = a.softmax(dim), b.softmax(dim)
        elif name == "max_index":
            both = a.argmax(dim).double() + 0 * a.amax(dim), b.argmax(dim).double()
        elif name == "normalise":
            both = [
                (v - v.mean(dim, keepdim=True)) / (v.var(dim, correction=0, keepdim=True) + 1e-2) ** 0.5 for v in (a, b)
            ]
        elif name in ("cumsum", "flip", "roll"):
            both = [
                {"cumsum": lambda v: v.cumsum(dim), "flip": lambda v: v.flip(dim), "roll": lambda v: v.roll(1, dim)}[
                    name
                ](v)
                for v in (a, b)
            ]
        elif name == "permute":
            order = tuple(int(i) for i in self.random.permutation(a.ndim))
            both = a.permute(order), b.permute(order)
        elif name == "reshape":
            sizes = [n for n in range(1, a.numel() + 1) if a.numel() % n == 0]
            rows = sizes[integer(len(sizes))]
            both = a.reshape(rows, -1), b.reshape(rows, -1)
        elif name == "slice":
            start, step = integer(a.shape[dim]), 1 + integer(2)
            index = (*(slice(None),) * dim, slice(start, None, step))
            both = a[index], b[index]
        elif name == "cat":
            c, d = self.like(a.shape)
            both = fp.cat([a, c, a * 2], dim), torch.cat([b, d, b * 2], dim)
        elif name == "pad":
            pad = [1, integer(2), 0, integer(3)][: 2 * min(a.ndim, 2)]
            both = fp.constant_pad(a, pad, 0.5), torch.nn.functional.pad(b, pad, value=0.5)
        elif name == "expand":
            both = (
                a.unsqueeze(dim).expand(*a.shape[:dim], 3, *a.shape[dim:]),
                b.unsqueeze(dim).expand(*b.shape[:dim], 3, *b.shape[dim:]),
            )
        elif name == "tril" and a.ndim > 1:
            both = a.tril(1), b.tril(1)
        elif name == "matmul":
            c, d = self.like((a.shape[-1], 3))
            both = (a @ c).relu() + 0.1, (b @ d).relu() + 0.1
        elif name in ("gather", "scatter"):
            index = self.random.integers(0, a.shape[dim], 3)
            i, j = fp.tensor(index), torch.from_numpy(index)
            both = a.index_select(dim, i) * 2, b.index_select(dim, j) * 2
            if name == "scatter":
                both = a.index_add(dim, i, both[0]), b.index_add(dim, j, both[1])
        elif name == "sort":
            both = a.sort(dim).values, b.sort(dim).values
        elif name in ("convolution", "pool"):
            c, d = self.like((2, 8, 5, 4))
            if name == "pool":
                both = fp.ops.windows(c, (2, 2), 1).amax((-2, -1)), torch.nn.functional.max_pool2d(d, 2, 1)
            else:
                w, v = self.like((16, 8, 3, 3))
                both = (
                    fp.ops.convolution(c, w * 0.1, padding=1).relu(),
                    torch.nn.functional.conv2d(d, v * 0.1, padding=1).relu(),
                )
                both = both[0][:, ::2] + c, both[1][:, ::2] + d
        elif name == "cast":
            both = (a * 3).long().double() + (a > 0).double(), (b * 3).long().double() + (b > 0).double()
        elif name == "assign":
            c, d = a.clone(), b.clone()
            c[0] = c[-1] * 2
            d[0] = d[-1] * 2
            both = c, d
        if both is not None and 0 < both[0].numel() <= 4000 and float(both[1].abs().max()) < 100:
            self.values.append((both[0], both[1]))

    def outputs(self) -> list[tuple[fp.Tensor, torch.Tensor]]:
        """The last values, and some in between, which must be stored then."""
        later = self.values[self.leaves :]
        return later[-4:] + later[: len(later) // 2 : 2]


def run(outputs, rules=True, passes=None, donations=None):
    """(values of the outputs, the program)"""
    nodes = [t._value for t in outputs]
    _, leaves, order = simplify.structure(nodes)
    placeholders, copies = simplify.simplify(order, leaves, nodes, rules)
    executor = Executor(build(placeholders, copies, donations, passes or Passes()))
    buffers = executor([leaf.buffer.copy() for leaf in leaves])
    return [b.view(n.dtype.numpy, n.shape) for b, n in zip(buffers, nodes, strict=True)], executor.program


@pytest.mark.parametrize("seed", range(12))
def test_programs_with_and_without_each_pass(seed):
    outputs = Drawn(seed).outputs()
    ours, reference = [a for a, _ in outputs], [b.numpy() for _, b in outputs]
    for name, passes in VARIANTS.items():
        got, _ = run(ours, passes=passes)
        for i, (a, b) in enumerate(zip(got, reference, strict=True)):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9, err_msg=f"{name}, output {i}")
    got, _ = run(ours, rules=False)
    for i, (a, b) in enumerate(zip(got, reference, strict=True)):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9, err_msg=f"no simplification, output {i}")


@pytest.mark.parametrize("seed", range(100, 106))
def test_gradients_with_and_without_passes(seed):
    drawn = Drawn(seed, 10)
    leaf, weights = drawn.values[0], drawn.values[-1]
    x = leaf[0].detach().requires_grad_()
    loss = ((fp.tanh(x) @ fp.ones(4, 3, dtype=fp.float64)).reshape(-1, 3) ** 2).mean() * weights[0].abs().sum()
    loss = loss + (fp.ops.convolution(x, x[:, :, :3, :3].reshape(2, 8, 3, 3), padding=1).relu().amax(1) ** 2).sum()
    (gradient,) = fp.autograd.grad(loss, x)
    values = [run([gradient, loss], passes=passes)[0] for passes in VARIANTS.values()]
    for other in values[1:]:
        np.testing.assert_allclose(other[0], values[0][0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(200, 210))
def test_donated_inputs(seed):
    """Outputs written over inputs: the results are the same, whatever else reads the input."""
    drawn = Drawn(seed, 10)
    updated = []
    for a, b in drawn.values[: drawn.leaves]:
        c, d = drawn.like(a.shape)
        update = (a - 0.1 * c, b - 0.1 * d) if seed % 3 else ((a * 0.9).flip(0) + c, (b * 0.9).flip(0) + d)
        updated.append(update)
    outputs = updated + drawn.outputs() + drawn.values[: seed % 2]
    ours = [a for a, _ in outputs]
    _, leaves, _ = simplify.structure([t._value for t in ours])
    position = {leaf: i for i, leaf in enumerate(leaves)}
    donations = {
        o: position[drawn.values[o][0]._value] for o in range(len(updated)) if drawn.values[o][0]._value in position
    }
    got, program = run(ours, donations=donations)
    for i, (a, (_, b)) in enumerate(zip(got, outputs, strict=True)):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-8, atol=1e-9, err_msg=f"output {i}, donated {program.donated}")


def test_a_plain_update_is_done_in_place():
    x, y = fp.ones(100), fp.ones(100)
    fp.eval(x, y)
    got, program = run([x - y * 0.5], donations={0: 0})
    assert program.donated == {0: 0}
    assert got[0].tolist() == [0.5] * 100


def test_passes_do_what_they_are_for():
    x = fp.tensor(np.linspace(0, 1, 6000).reshape(100, 60))
    fp.eval(x)
    y = ((x * 2).exp() + 1).sum(1)
    _, fused = run([y])
    _, apart = run([y], passes=Passes(recompute=False, merge=False))
    assert len(fused.steps) == 1 < len(apart.steps)
    z = x
    for _ in range(4):
        z = fp.sort(z @ fp.ones(60, 60, dtype=fp.float64), dim=1).values
    _, shared = run([z])
    _, unshared = run([z], passes=Passes(share_memory=False))
    assert shared.arena < unshared.arena


def test_gradients_of_pooling_follow_the_convolutions_around():
    x, w = fp.randn(2, 16, 12, 12), fp.randn(16, 16, 3, 3)
    fp.eval(x, w)
    w.requires_grad = True
    pooled = fp.nn.functional.max_pool2d(fp.nn.functional.conv2d(x, w, padding=1), 3, 2, 1)
    fp.nn.functional.conv2d(pooled, w.detach(), padding=1).square().sum().backward()
    _, program = run([w.grad], passes=Passes())
    inner = [s for step in program.steps for s, _ in step.operands if program.places[s.number][0] == "arena"]
    assert all(s.strides[1] == 1 for s in inner if len(s.strides) == 4 and s.strides[0])


@pytest.mark.parametrize("length", [400, 3000])
def test_long_chains_of_operations(length):
    y = fp.arange(4, dtype=fp.float64)
    expected = np.arange(4.0)
    for n in range(length):
        y = y * 0.5 + n
        expected = expected * 0.5 + n
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
