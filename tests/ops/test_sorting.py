"""Sorting and what is made of it, against PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp

OPERATIONS = {
    "sort": lambda m, x, d: m.sort(x, dim=d, stable=True), "sort descending": lambda m, x, d: m.sort(x, dim=d, descending=True, stable=True),
    "argsort": lambda m, x, d: m.argsort(x, dim=d, stable=True), "topk": lambda m, x, d: m.topk(x, 2, d)[0],
    "topk smallest": lambda m, x, d: m.topk(x, 2, d, largest=False)[0], "kthvalue": lambda m, x, d: m.kthvalue(x, 2, d)[0],
    "median": lambda m, x, d: m.median(x, d)[0], "median kept": lambda m, x, d: m.median(x, d, keepdim=True)[0],
    "median of all": lambda m, x, d: m.median(x), "msort": lambda m, x, d: m.msort(x),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int8", "uint8"])
def test_values(dtype):
    compared = Comparison()
    values = np.round(draw((4, 7)) * 3) + (6 if dtype == "uint8" else 0)
    x, rx = both(values, dtype)
    for name, operation in OPERATIONS.items():
        for dim in (0, 1, -1):
            compared.add(f"{name} {dim}", operation(fp, x, dim), operation(torch, rx, dim))
    compared.check()


def test_shapes_and_special_values():
    compared = Comparison()
    for shape in ((), (1,), (2, 0), (0, 3), (1000,), (3, 129), (2, 3, 5)):
        x, rx = both(draw(shape))
        compared.add(f"sort {shape}", fp.sort(x), torch.sort(rx, stable=True))
    x, rx = both([[math.nan, 1.0, -math.inf, math.inf, -0.0, 0.0], [3.0, 1.0, 2.0, 2.0, math.nan, 1.0]])
    for name, operation in OPERATIONS.items():
        if not name.startswith("topk"):  # PyTorch leaves the order of NaN open there
            compared.add(name, operation(fp, x, 1), operation(torch, rx, 1))
    compared.check()


def test_gradients():
    compared = Comparison()
    for name, operation in OPERATIONS.items():
        if name == "argsort":
            continue
        x, rx = both(draw((4, 7)), requires_grad=True)
        y, ry = operation(fp, x * x, 1), operation(torch, rx * rx, 1)
        if isinstance(ry, tuple):
            y, ry = y[0], ry[0]
        compare_gradients(compared, name, y, ry, [(x, rx)])
    compared.check()


def test_quantiles_and_searches():
    compared = Comparison()
    x, rx = both(draw((5, 6)), requires_grad=True)
    q, rq = both([0.1, 0.5, 0.9])
    for dim in (None, 0, 1):
        for keep in (False, True):
            compared.add(f"{dim} {keep}", fp.quantile(x, 0.3, dim, keep), torch.quantile(rx, 0.3, dim, keep))
            compared.add(f"{dim} {keep} of three", fp.quantile(x, q, dim, keep), torch.quantile(rx, rq, dim, keep))
    y, ry = fp.quantile(x, 0.35, 1), torch.quantile(rx, 0.35, 1)
    compare_gradients(compared, "quantile", y, ry, [(x, rx)])
    edges, redges = both([1.0, 2.0, 2.0, 5.0])
    v, rv = both([[0.0, 1.0, 2.0], [3.0, 5.0, 9.0]])
    for right in (False, True):
        compared.add(
            f"searchsorted {right}", fp.searchsorted(edges, v, right=right), torch.searchsorted(redges, rv, right=right)
        )
        compared.add(
            f"bucketize {right}", fp.bucketize(v, edges, right=right), torch.bucketize(rv, redges, right=right)
        )
    rows, rrows = both([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    compared.add("searchsorted rows", fp.searchsorted(rows, v), torch.searchsorted(rrows, rv))
    i, ri = both([[3, 1, 1], [2, 3, 1]], "int64")
    compared.add("unique", fp.unique(i, return_inverse=True, return_counts=True),
                 torch.unique(ri, return_inverse=True, return_counts=True))  # fmt: skip
    compared.add("unique rows", fp.unique(i, dim=0), torch.unique(ri, dim=0))
    compared.check()


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda x: x.topk(4), RuntimeError, "topk: k = 4"),
        (lambda x: x.kthvalue(0), RuntimeError, "kthvalue: k = 0"),
        (lambda x: x.sort(2), IndexError, "sort: dimension 2"),
        (lambda x: fp.quantile(x, 1.5), (RuntimeError, ValueError), "quantile"),
        (lambda x: fp.median(x[:, :0]), (RuntimeError, IndexError), "median"),
    ],
)
def test_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call(fp.zeros(2, 3))
