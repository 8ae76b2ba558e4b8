"""Folds, running folds and what is made of them, against PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]
FOLDS = {
    "sum": lambda m, x, d, k: m.sum(x, d, keepdim=k), "mean": lambda m, x, d, k: m.mean(x, d, keepdim=k),
    "amax": lambda m, x, d, k: m.amax(x, d, keepdim=k), "amin": lambda m, x, d, k: m.amin(x, d, keepdim=k),
    "var": lambda m, x, d, k: m.var(x, d, keepdim=k), "var 0": lambda m, x, d, k: m.var(x, d, correction=0, keepdim=k),
    "std": lambda m, x, d, k: m.std(x, d, keepdim=k), "logsumexp": lambda m, x, d, k: m.logsumexp(x, d, keepdim=k),
    "nansum": lambda m, x, d, k: m.nansum(x, d, keepdim=k), "nanmean": lambda m, x, d, k: m.nanmean(x, d, keepdim=k),
    "norm": lambda m, x, d, k: m.norm(x, 2, d, k), "norm 1": lambda m, x, d, k: m.norm(x, 1, d, k),
    "norm 3": lambda m, x, d, k: m.norm(x, 3, d, k), "norm inf": lambda m, x, d, k: m.norm(x, math.inf, d, k),
    "norm 0": lambda m, x, d, k: m.norm(x, 0, d, k), "any": lambda m, x, d, k: m.any(x, d, keepdim=k),
    "all": lambda m, x, d, k: m.all(x, d, keepdim=k), "count_nonzero": lambda m, x, d, k: m.count_nonzero(x, d),
}  # fmt: skip
SINGLE = {
    "prod": lambda m, x, d, k: m.prod(x, d, keepdim=k), "max": lambda m, x, d, k: m.max(x, d, keepdim=k),
    "min": lambda m, x, d, k: m.min(x, d, keepdim=k), "argmax": lambda m, x, d, k: m.argmax(x, d, keepdim=k),
    "argmin": lambda m, x, d, k: m.argmin(x, d, keepdim=k), "softmax": lambda m, x, d, k: m.softmax(x, d),
    "log_softmax": lambda m, x, d, k: m.log_softmax(x, d), "cumsum": lambda m, x, d, k: m.cumsum(x, d),
    "cumprod": lambda m, x, d, k: m.cumprod(x, d), "cummax": lambda m, x, d, k: m.cummax(x, d),
    "cummin": lambda m, x, d, k: m.cummin(x, d), "logcumsumexp": lambda m, x, d, k: m.logcumsumexp(x, d),
}  # fmt: skip


def record(compared, label, function, x, rx, *arguments):
    """Compare one call; where PyTorch refuses the input, nothing is asked of Firepot."""
    try:
        expected = function(torch, rx, *arguments)
    except (RuntimeError, IndexError, TypeError):
        return
    compared.add(label, function(fp, x, *arguments), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    compared = Comparison()
    values = draw((3, 5)) if dtype.startswith(("float", "bfloat")) else np.arange(15).reshape(3, 5) * 7 % 4
    x, rx = both(values, dtype)
    for name, fold in {**FOLDS, **SINGLE}.items():
        if (name, dtype) not in (("any", "uint8"), ("all", "uint8")):
            record(compared, f"{name} {dtype}", fold, x, rx, 1, False)
    for name in ("sum", "prod", "amax", "amin", "max", "min", "mean", "var", "argmax", "argmin", "count_nonzero"):
        record(compared, f"{name} of all {dtype}", lambda m, v, name=name: getattr(m, name)(v), x, rx)
    compared.check()


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 1, 5), (2, 3, 4, 2), (0,), (0, 3), (3, 0, 2)])
def test_shapes_and_dimensions(shape):
    compared = Comparison()
    x, rx = both(draw(shape), "float64")
    rank = len(shape)
    groups = [None, *range(-rank, rank), *(((0, rank - 1), (0, -2)) if rank > 1 else ())]
    for name, fold in {**FOLDS, **SINGLE}.items():
        for dim in groups:
            if dim is None and name not in ("argmax", "argmin"):
                continue
            if name in SINGLE and isinstance(dim, tuple):
                continue
            if 0 in shape and name.startswith(("var", "std")):  # PyTorch warns about the degrees of freedom
                continue
            if (name.startswith(("var", "std")) and x.numel() <= 1) or (isinstance(dim, int) and shape[dim] == 1):
                continue
            record(compared, f"{name} {shape} {dim}", fold, x, rx, dim, bool(rank % 2))
    compared.check()


def test_special_values():
    compared = Comparison()
    rows = [
        [1.0, math.nan, 3.0],
        [math.inf, 1.0, -math.inf],
        [math.inf, math.inf, 0.0],
        [-math.inf] * 3,
        [-0.0, 0.0, -0.0],
    ]
    for dtype in ("float64", "float32", "float16"):
        x, rx = both(rows, dtype)
        for name, fold in {**FOLDS, **SINGLE}.items():
            if name == "logcumsumexp":
                continue
            record(compared, f"{name} {dtype}", lambda m, v, f=fold: _positive_zero(f(m, v, 1, False)), x, rx)
    compared.check()


def _positive_zero(result):
    values = result if not isinstance(result, tuple) else tuple(result)
    if isinstance(values, tuple):
        return tuple(v + 0 for v in values)
    return values if values.dtype in (fp.bool, torch.bool) else values + 0


def test_large_and_strided():
    """Sizes beyond one vector and one thread's share; folds over views."""
    compared = Comparison()
    for shape in ((1000,), (3, 1031), (257, 33), (33, 65, 17)):
        x, rx = both(draw(shape), "float32")
        for dim in range(len(shape)):
            for name in ("sum", "amax", "max", "softmax", "cumsum", "var", "argmin"):
                fold = {**FOLDS, **SINGLE}[name]
                compared.add(f"{name} {shape} {dim}", *(_plain(fold(m, v, dim, False)) for m, v in ((fp, x), (torch, rx))),
                             tolerance=(1e-4, 1e-4))  # fmt: skip
    x, rx = both(draw((64, 48)), "float32")
    compared.add("transposed", x.T.sum(0), rx.T.sum(0), (1e-4, 1e-5))
    compared.add("strided", x[::3, 1::2].sum(1), rx[::3, 1::2].sum(1), (1e-4, 1e-5))
    compared.add("flipped", x.flip(0).cumsum(0), rx.flip(0).cumsum(0), (1e-4, 1e-5))
    compared.add("expanded", x[:1].expand(5, 48).sum((0, 1)), rx[:1].expand(5, 48).sum((0, 1)), (1e-4, 1e-5))
    compared.add("half in float32", fp.ones(5000, dtype=fp.float16).sum(), torch.ones(5000, dtype=torch.float16).sum())
    compared.check()


def _plain(result):
    return tuple(result) if isinstance(result, tuple) else result


def test_gradients():
    compared = Comparison()
    smooth = {"sum", "mean", "var", "var 0", "std", "logsumexp", "norm", "norm 3", "prod", "softmax", "log_softmax",
              "cumsum", "cumprod", "logcumsumexp"}  # fmt: skip
    piecewise = {"amax", "amin", "nansum", "nanmean", "norm 1", "norm inf", "max", "min", "cummax", "cummin"}
    for name in sorted(smooth | piecewise):
        for dim in (0, 1):
            x, rx = both(draw((4, 5), dim), requires_grad=True)
            fold = {**FOLDS, **SINGLE}[name]
            y, ry = fold(fp, x, dim, False), fold(torch, rx, dim, False)
            if isinstance(ry, tuple):
                y, ry = y[0], ry[0]
            compare_gradients(compared, f"{name} {dim}", y, ry, [(x, rx)])
            if name in smooth:
                (g,) = fp.autograd.grad((y * y).sum(), x, create_graph=True)
                (rg,) = torch.autograd.grad((ry * ry).sum(), rx, create_graph=True)
                compare_gradients(compared, f"{name} {dim} second", g * x, rg * rx, [(x, rx)], (1e-6, 1e-8))
    compared.check()


def test_gradients_of_ties_and_zeros():
    compared = Comparison()
    cases = {
        "amax tie": (lambda m, x: m.amax(x, 1), [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]),
        "max tie": (lambda m, x: m.max(x, 1)[0], [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]),
        "max of all": (lambda m, x: m.max(x), [[1.0, 3.0], [3.0, 2.0]]),
        "prod of a zero": (lambda m, x: m.prod(x, 1), [[2.0, 0.0, 3.0], [0.0, 0.0, 3.0], [2.0, 4.0, 3.0]]),
        "prod of all": (lambda m, x: m.prod(x), [[2.0, 0.0], [5.0, 3.0]]),
        "cumprod of zeros": (lambda m, x: m.cumprod(x, 1), [[2.0, 0.0, 3.0], [0.0, 4.0, 0.0], [2.0, 4.0, 3.0]]),
        "norm of zeros": (lambda m, x: m.norm(x, 2, 1), [[0.0, 0.0], [3.0, 4.0]]),
        "cummax tie": (lambda m, x: m.cummax(x, 1)[0], [[1.0, 3.0, 3.0, 2.0]]),
        "cummin tie": (lambda m, x: m.cummin(x, 1)[0], [[3.0, 1.0, 1.0, 2.0]]),
    }
    for name, (function, values) in cases.items():
        x, rx = both(values, requires_grad=True)
        y, ry = function(fp, x), function(torch, rx)
        compared.add(name, y, ry)
        compare_gradients(compared, name, y, ry, [(x, rx)])
    compared.check()


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda x: x.sum(3), IndexError, "sum: dimension 3"),
        (lambda x: x.sum((0, 0)), RuntimeError, "sum: .*more than once"),
        (lambda x: x.long().mean(), RuntimeError, "mean: .*int64"),
        (lambda x: x.long().var(), RuntimeError, "var: .*int64"),
        (lambda x: x[:0].max(), RuntimeError, r"max: .*\[0, 3\]"),
        (lambda x: x[:0].argmax(0), RuntimeError, r"argmax: .*\[0, 3\]"),
        (lambda x: x[:0].amin(0), RuntimeError, r"amin: .*\[0, 3\]"),
        (lambda x: x.softmax(2), IndexError, "softmax: dimension 2"),
        (lambda x: x.cumsum(-3), IndexError, "cumsum: dimension -3"),
    ],
)
def test_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call(fp.zeros(2, 3))
