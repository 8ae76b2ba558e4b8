"""Operations that move elements, against PyTorch, and their gradients."""

from __future__ import annotations

import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp

F = torch.nn.functional
ON_3D = {  # of shape (2, 3, 4)
    "reshape": lambda m, x: m.reshape(x, (4, -1)), "view": lambda m, x: x.contiguous().view(6, 4),
    "flatten": lambda m, x: m.flatten(x), "flatten 1": lambda m, x: m.flatten(x, 1), "ravel": lambda m, x: m.ravel(x),
    "unflatten": lambda m, x: x.unflatten(2, (2, -1)), "permute": lambda m, x: m.permute(x, (2, 0, 1)),
    "transpose": lambda m, x: m.transpose(x, 0, -1), "swapaxes": lambda m, x: m.swapaxes(x, 0, 1),
    "movedim": lambda m, x: m.movedim(x, (0, 1), (2, 0)), "movedim 1": lambda m, x: m.movedim(x, 0, -1),
    "unsqueeze": lambda m, x: m.unsqueeze(x, 1), "unsqueeze -1": lambda m, x: m.unsqueeze(x, -1),
    "squeeze": lambda m, x: m.squeeze(x[:1]), "squeeze 0": lambda m, x: m.squeeze(x[:1], 0),
    "squeeze not 1": lambda m, x: m.squeeze(x, 0), "expand": lambda m, x: x[:, :1].expand(-1, 5, 4),
    "expand new": lambda m, x: x.expand(2, 2, 3, 4), "broadcast_to": lambda m, x: m.broadcast_to(x[:1], (3, 3, 4)),
    "repeat": lambda m, x: x.repeat(2, 1, 3), "repeat new": lambda m, x: x.repeat(2, 1, 1, 2), "tile": lambda m, x: m.tile(x, (2,)),
    "repeat_interleave": lambda m, x: m.repeat_interleave(x, 2, 1), "repeat_interleave all": lambda m, x: m.repeat_interleave(x, 3),
    "flip": lambda m, x: m.flip(x, (0, 2)), "fliplr": lambda m, x: m.fliplr(x), "flipud": lambda m, x: m.flipud(x),
    "roll": lambda m, x: m.roll(x, 3, 2), "roll 2": lambda m, x: m.roll(x, (1, -1), (0, 2)), "roll all": lambda m, x: m.roll(x, 5),
    "tril": lambda m, x: m.tril(x), "triu 1": lambda m, x: m.triu(x, 1), "tril -1": lambda m, x: m.tril(x, -1),
    "diagonal": lambda m, x: m.diagonal(x, 0, 1, 2), "diagonal 1": lambda m, x: m.diagonal(x, 1, 0, 2),
    "diagonal -1": lambda m, x: m.diagonal(x, -1, 1, 2), "diagonal far": lambda m, x: m.diagonal(x, 5, 1, 2),
    "diag": lambda m, x: m.diag(x[0]), "diag of vector": lambda m, x: m.diag(x[0, 0], 1), "diag_embed": lambda m, x: m.diag_embed(x, -1),
    "narrow": lambda m, x: m.narrow(x, 2, 1, 2), "select": lambda m, x: m.select(x, 1, -1), "unfold": lambda m, x: x.unfold(2, 2, 1),
    "unfold 2": lambda m, x: x.unfold(1, 3, 2), "cat": lambda m, x: m.cat([x, x * 2, x[:, :1]], 1), "cat last": lambda m, x: m.cat([x, x[..., :0]], -1),
    "stack": lambda m, x: m.stack([x, -x], 1), "stack -1": lambda m, x: m.stack([x, -x], -1), "hstack": lambda m, x: m.hstack([x, x]),
    "vstack": lambda m, x: m.vstack([x, x]), "clone": lambda m, x: m.clone(x), "mT": lambda m, x: x.mT, "t": lambda m, x: m.t(x[0]),
    "split": lambda m, x: m.split(x, 2, 2), "split uneven": lambda m, x: m.split(x, 3, 2), "split sizes": lambda m, x: m.split(x, [1, 2], 1),
    "chunk": lambda m, x: m.chunk(x, 3, 2), "unbind": lambda m, x: m.unbind(x, 1),
}  # fmt: skip
EDGES = {
    "reshape 0-d": lambda m: m.zeros(()).reshape(1, 1), "reshape to 0-d": lambda m: m.ones(1).reshape(()),
    "reshape empty": lambda m: m.zeros(0, 3).reshape(3, 0, 2), "flatten 0-d": lambda m: m.flatten(m.ones(())),
    "flatten empty": lambda m: m.flatten(m.ones(2, 0, 3), 1), "transpose 0-d": lambda m: m.ones(()).transpose(0, 0),
    "flip empty": lambda m: m.flip(m.ones(0, 2), (0,)), "roll empty": lambda m: m.roll(m.ones(0, 2), 1, 0),
    "expand 0": lambda m: m.ones(1).expand(0), "repeat 0": lambda m: m.ones(2).repeat(0), "cat empty": lambda m: m.cat([m.ones(0), m.ones(2, 3)]),
    "cat dtypes": lambda m: m.cat([m.ones(2), m.ones(2, dtype=m.int64)]), "stack 0-d": lambda m: m.stack([m.ones(()), m.zeros(())]),
    "squeeze all": lambda m: m.squeeze(m.ones(1, 1)), "squeeze dims": lambda m: m.squeeze(m.ones(1, 2, 1), (0, 2)),
    "tril wide": lambda m: m.tril(m.ones(2, 5, dtype=m.int64), 2), "triu bool": lambda m: m.triu(m.ones(3, 3) > 0),
    "diagonal empty": lambda m: m.diagonal(m.ones(0, 3)), "chunk more": lambda m: m.chunk(m.arange(3), 5),
    "split one": lambda m: m.split(m.arange(3), 7), "unbind empty": lambda m: m.unbind(m.ones(0, 2)),
    "hstack vectors": lambda m: m.hstack([m.ones(2), m.zeros(1)]), "vstack vectors": lambda m: m.vstack([m.ones(2), m.zeros(2)]),
    "mesh": lambda m: m.meshgrid(m.arange(2), m.arange(3), indexing="ij"), "mesh xy": lambda m: m.meshgrid(m.arange(2), m.arange(3), indexing="xy"),
    "atleast": lambda m: m.broadcast_tensors(m.ones(3, 1), m.ones(2)), "narrow none": lambda m: m.narrow(m.ones(3), 0, 3, 0),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int64", "uint8", "bool"])
def test_values(dtype):
    compared = Comparison()
    x, rx = both(draw((2, 3, 4)) if dtype != "bool" else draw((2, 3, 4)) > 0, "float64" if dtype != "bool" else "bool")
    x, rx = both(rx.abs().mul(20).numpy() if dtype != "bool" else rx.numpy(), dtype)
    for name, operation in ON_3D.items():
        if dtype == "bool" and name in ("cat", "stack", "stack -1"):  # negate or double
            continue
        compared.add(f"{name} {dtype}", operation(fp, x), operation(torch, rx))
    compared.check()


def test_edges():
    compared = Comparison()
    for name, make in EDGES.items():
        compared.add(name, make(fp), make(torch))
    compared.check()


def test_gradients():
    compared = Comparison()
    for name, operation in ON_3D.items():
        x, rx = both(draw((2, 3, 4)), requires_grad=True)
        y, ry = operation(fp, x * x), operation(torch, rx * rx)
        if isinstance(ry, tuple):
            y, ry = fp.cat([v.flatten() for v in y[1:]]), torch.cat([v.flatten() for v in ry[1:]])
        compare_gradients(compared, name, y, ry, [(x, rx)])
        (g,) = fp.autograd.grad((y * y).sum(), x, create_graph=True)
        (rg,) = torch.autograd.grad((ry * ry).sum(), rx, create_graph=True)
        compare_gradients(compared, f"{name} second", g, rg, [(x, rx)])
    compared.check()


@pytest.mark.parametrize("pad", [(1, 2), (0, 0, 2, 1), (-1, 1), (1, -2, -1, 0, 0, 2), (-1, -1)])
def test_constant_pad(pad):
    compared = Comparison()
    x, rx = both(draw((2, 3, 4)), requires_grad=True)
    y, ry = fp.constant_pad(x, pad, 1.5), F.pad(rx, pad, value=1.5)
    compared.add("pad", y, ry)
    compare_gradients(compared, "pad", y, ry, [(x, rx)])
    compared.check()


def test_chains_of_views():
    """View on view on view: the index arithmetic that the compiler makes of them."""
    compared = Comparison()
    x, rx = both(draw((6, 4, 5)), "float32")

    def chain(m, v, step):
        v = m.flip(v.permute(2, 0, 1)[1:4], (0, 2)).reshape(9, 8)
        v = m.roll(v, (step, 2), (0, 1)).T.reshape(2, 4, 3, 3)
        v = m.cat([v, m.flip(v, (1,))], 3)[:, 1::2].permute(3, 1, 0, 2)
        return v.reshape(-1, 6)[:: step + 1].repeat(2, 1).unfold(0, 3, step + 1)

    for step in (0, 1, 2):
        compared.add(f"chain {step}", chain(fp, x, step), chain(torch, rx, step))
        compared.add(f"sum of chain {step}", chain(fp, x, step).sum(0), chain(torch, rx, step).sum(0))
    compared.check()


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda x: x.reshape(5), RuntimeError, r"reshape: .*\[5\].*\[2, 3\]"),
        (lambda x: x.reshape(-1, -1), RuntimeError, "reshape: only one"),
        (lambda x: x.reshape(-2, -3), RuntimeError, "reshape"),
        (lambda x: x.permute(0, 0), RuntimeError, "permute"),
        (lambda x: x.transpose(0, 2), IndexError, "transpose"),
        (lambda x: x.expand(3, 3), RuntimeError, "expand"),
        (lambda x: fp.cat([x, fp.zeros(3, 2)]), RuntimeError, r"cat: .*\[2, 3\].*\[3, 2\]"),
        (lambda x: fp.stack([x, fp.zeros(3, 2)]), RuntimeError, "stack"),
        (lambda x: fp.stack([]), RuntimeError, "stack"),
        (lambda x: fp.cat([]), RuntimeError, "cat"),
        (lambda x: x.split([1, 3], 1), RuntimeError, "split"),
        (lambda x: x.narrow(1, 2, 2), RuntimeError, "narrow"),
        (lambda x: x.select(0, 2), IndexError, "select"),
        (lambda x: x.unfold(1, 4, 1), RuntimeError, "unfold"),
        (lambda x: x.repeat(2), RuntimeError, "repeat"),
        (lambda x: x.unflatten(1, (2, 2)), RuntimeError, "unflatten"),
        (lambda x: x.flip(0, 0), RuntimeError, "flip"),
        (lambda x: x[0].tril(), RuntimeError, "tril"),
        (lambda x: fp.constant_pad(x, (-2, -2)), RuntimeError, "pad"),
    ],
)
def test_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call(fp.zeros(2, 3))
