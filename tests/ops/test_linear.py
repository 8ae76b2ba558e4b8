"""Products of matrices and tensors against PyTorch."""

from __future__ import annotations

import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp

SHAPES = [
    ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 4)), ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (6, 3, 4)), ((1, 1), (1, 1)), ((0, 3), (3, 4)), ((2, 0), (0, 4)),
    ((2, 3), (3, 0)), ((0, 2, 3), (3, 4)), ((17, 33), (33, 19)), ((1, 65), (65, 1)), ((2, 31, 7), (2, 7, 18)),
]  # fmt: skip
PRODUCTS = {
    "mm": (lambda m, a, b: m.mm(a, b), (2, 3), (3, 4)), "bmm": (lambda m, a, b: m.bmm(a, b), (5, 2, 3), (5, 3, 4)),
    "mv": (lambda m, a, b: m.mv(a, b), (2, 3), (3,)), "dot": (lambda m, a, b: m.dot(a, b), (3,), (3,)),
    "outer": (lambda m, a, b: m.outer(a, b), (2,), (3,)), "inner": (lambda m, a, b: m.inner(a, b), (2, 3), (4, 3)),
    "inner vectors": (lambda m, a, b: m.inner(a, b), (3,), (3,)),
    "addmm": (lambda m, a, b: m.addmm(a[0, :1], a, b, beta=0.5, alpha=2), (2, 3), (3, 4)),
    "baddbmm": (lambda m, a, b: m.baddbmm(a[:, :1, :1], a, b, beta=0.5, alpha=2), (5, 2, 3), (5, 3, 4)),
    "tensordot": (lambda m, a, b: m.tensordot(a, b, 1), (2, 3), (3, 4)),
    "tensordot lists": (lambda m, a, b: m.tensordot(a, b, ([0, 2], [1, 0])), (2, 3, 4), (4, 2, 5)),
    "transposed": (lambda m, a, b: a.T @ b.T, (3, 2), (4, 3)), "sliced": (lambda m, a, b: a[:, ::2] @ b[1:], (2, 6), (4, 5)),
    "expanded": (lambda m, a, b: a[:1].expand(4, 3) @ b, (2, 3), (3, 4)), "square": (lambda m, a, b: (a @ b) ** 2 + 1, (2, 3), (3, 4)),
    "flipped": (lambda m, a, b: m.flip(a, (1,)) @ m.flip(b, (0, 1)), (2, 3), (3, 4)),
}  # fmt: skip
EQUATIONS = {
    "ij,jk->ik": ((2, 3), (3, 4)), "ij,jk": ((2, 3), (3, 4)), "bij,bjk->bik": ((5, 2, 3), (5, 3, 4)), "ij->ji": ((2, 3),), "ij->": ((2, 3),),
    "ii->i": ((3, 3),), "ii": ((3, 3),), "i,j->ij": ((2,), (3,)), "i,i->": ((3,), (3,)), "ij,j->i": ((2, 3), (3,)), "...ij,...jk->...ik": ((2, 5, 2, 3), (5, 3, 4)),
    "bhid,bhjd->bhij": ((2, 2, 3, 4), (2, 2, 5, 4)), "ij,jk,kl->il": ((2, 3), (3, 4), (4, 2)), "ij,ij->ij": ((2, 3), (2, 3)), "ijk->ki": ((2, 3, 4),),
    "ab,cb,b->ac": ((2, 3), (4, 3), (3,)), "...->...": ((2, 3),), "b...,b->...": ((2, 3, 4), (2,)), "ij,k->i": ((2, 3), (4,)),
    "iij->j": ((3, 3, 2),), "ij,jk->": ((2, 3), (3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "int64"])
def test_matmul(dtype):
    compared = Comparison()
    for a, b in SHAPES:
        x, rx = both((draw(a) * 4).round() if dtype == "int64" else draw(a), dtype)
        y, ry = both((draw(b, 1) * 4).round() if dtype == "int64" else draw(b, 1), dtype)
        tolerance = {"bfloat16": (3e-2, 5e-2), "float16": (1e-2, 1e-2), "float32": (2e-5, 1e-5)}.get(dtype)
        compared.add(f"{a} @ {b}", x @ y, rx @ ry, tolerance)
    compared.check()


def test_matmul_gradients():
    compared = Comparison()
    for a, b in SHAPES:
        x, rx = both(draw(a), requires_grad=True)
        y, ry = both(draw(b, 1), requires_grad=True)
        compare_gradients(compared, f"{a} @ {b}", x @ y, rx @ ry, [(x, rx), (y, ry)])
    compared.check()


def test_products():
    compared = Comparison()
    for name, (product, a, b) in PRODUCTS.items():
        x, rx = both(draw(a), requires_grad=True)
        y, ry = both(draw(b, 1), requires_grad=True)
        z, rz = product(fp, x, y), product(torch, rx, ry)
        compared.add(name, z, rz)
        compare_gradients(compared, name, z, rz, [(x, rx), (y, ry)])
        (g,) = fp.autograd.grad((z * z).sum(), x, create_graph=True)
        (rg,) = torch.autograd.grad((rz * rz).sum(), rx, create_graph=True)
        compare_gradients(compared, f"{name} second", g, rg, [(x, rx), (y, ry)])
    compared.check()


def test_einsum():
    compared = Comparison()
    for equation, shapes in EQUATIONS.items():
        pairs = [both(draw(s, i), requires_grad=True) for i, s in enumerate(shapes)]
        z = fp.einsum(equation, *(a for a, _ in pairs))
        rz = torch.einsum(equation, *(b for _, b in pairs))
        compared.add(equation, z, rz)
        compare_gradients(compared, equation, z, rz, pairs)
    compared.check()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: fp.zeros(2, 3) @ fp.zeros(2, 3), r"matmul: shapes \[2, 3\] and \[2, 3\]"),
        (lambda: fp.zeros(2, 3) @ fp.zeros(2), r"matmul: .*\[2\]"),
        (lambda: fp.zeros(2, 3) @ fp.tensor(1.0), "matmul: .*dimension"),
        (lambda: fp.zeros(2, 3) @ fp.zeros(3, 2, dtype=fp.float64), "matmul: .*float32 and float64"),
        (lambda: fp.zeros(2, 2, 3) @ fp.zeros(3, 3, 2), "matmul: shapes"),
        (lambda: fp.mm(fp.zeros(3), fp.zeros(3, 2)), r"mm: .*\[3\]"),
        (lambda: fp.bmm(fp.zeros(2, 2, 3), fp.zeros(3, 3, 2)), "bmm"),
        (lambda: fp.mv(fp.zeros(2, 3), fp.zeros(3, 1)), "mv"),
        (lambda: fp.dot(fp.zeros(2), fp.zeros(2, 1)), "dot"),
        (lambda: fp.einsum("ij,jk", fp.zeros(2, 3)), "einsum: .*2 operands"),
        (lambda: fp.einsum("ij,jk", fp.zeros(2, 3), fp.zeros(4, 2)), "einsum: 'j' has sizes 3 and 4"),
        (lambda: fp.einsum("ijk", fp.zeros(2, 3)), "einsum: operand 0"),
        (lambda: fp.einsum("ij->ik", fp.zeros(2, 3)), "einsum: .*k"),
    ],
)
def test_errors(call, text):
    with pytest.raises(RuntimeError, match=text):
        call()
