"""Indexing, assignment, gathers and scatters against PyTorch, with gradients and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp


def integers(m, values):
    return m.tensor(values, dtype=m.int64)


def mask(m, values):
    return m.tensor(values, dtype=m.bool)


INDICES = {  # into (4, 3, 5)
    "integer": lambda m: 2, "negative": lambda m: -1, "slice": lambda m: slice(1, None), "step": lambda m: slice(None, None, 3),
    "empty slice": lambda m: slice(3, 1), "out of range slice": lambda m: slice(-9, 99), "none": lambda m: (None, 1, None),
    "ellipsis": lambda m: (..., 0), "ellipsis middle": lambda m: (1, ..., slice(0, 2)), "all": lambda m: ..., "tuple": lambda m: (1, 2, 3),
    "list": lambda m: [0, 2], "tensor": lambda m: integers(m, [3, 0, -1]), "tensor 2d": lambda m: integers(m, [[3, 0], [1, 1]]),
    "tensor 0d": lambda m: integers(m, 2), "pair": lambda m: (integers(m, [0, 1]), integers(m, [2, 0])),
    "pair broadcast": lambda m: (integers(m, [[0], [1]]), integers(m, [2, 0])), "split pair": lambda m: (integers(m, [0, 1]), slice(None), integers(m, [2, 4])),
    "middle": lambda m: (slice(None), integers(m, [2, 0])), "last": lambda m: (..., integers(m, [2, 0, 0])), "int and tensor": lambda m: (1, integers(m, [2, 0])),
    "tensor and int": lambda m: (integers(m, [2, 0]), 1), "tensor, slice, int": lambda m: (integers(m, [2, 0]), slice(None), 1), "slice and tensor": lambda m: (slice(1, 3), integers(m, [2, 0]), slice(None, None, 2)),
    "none and tensor": lambda m: (None, integers(m, [2, 0])), "mask": lambda m: mask(m, [True, False, True, True]), "mask 2d": lambda m: mask(m, np.arange(12).reshape(4, 3) % 2 == 0),
    "mask full": lambda m: mask(m, np.arange(60).reshape(4, 3, 5) % 7 == 0), "mask second": lambda m: (slice(None), mask(m, [True, False, True])),
    "mask and tensor": lambda m: (mask(m, [True, False, True, False]), integers(m, [0, 2])), "empty mask": lambda m: mask(m, [False] * 4),
    "empty tensor": lambda m: integers(m, []), "true": lambda m: True, "int32": lambda m: m.tensor([1, 0], dtype=m.int32),
    "uneven none": lambda m: (integers(m, [0, 1]), None, integers(m, [2, 0])),
}  # fmt: skip


def test_reading():
    compared = Comparison()
    x, rx = both(draw((4, 3, 5)), requires_grad=True)
    for name, index in INDICES.items():
        y, ry = x[index(fp)], rx[index(torch)]
        compared.add(name, y, ry)
        compare_gradients(compared, name, y * y, ry * ry, [(x, rx)])
    compared.check()


def test_reading_other_dtypes_and_views():
    compared = Comparison()
    for dtype in ("float16", "int8", "bool"):
        x, rx = both(np.arange(60).reshape(4, 3, 5) % 3, dtype)
        for name, index in INDICES.items():
            compared.add(f"{name} {dtype}", x.transpose(0, 2)[..., 1][index(fp)] if name == "integer" else x[index(fp)],
                         rx.transpose(0, 2)[..., 1][index(torch)] if name == "integer" else rx[index(torch)])  # fmt: skip
    compared.check()


@pytest.mark.parametrize("form", ["number", "tensor", "broadcast"])
def test_assignment(form):
    compared = Comparison()
    for name, index in INDICES.items():
        x, rx = both(draw((4, 3, 5)))
        shape = tuple(rx[index(torch)].shape)
        if form == "number":
            value, reference = 7.0, 7.0
        else:
            value, reference = both(draw(shape if form == "tensor" else shape[-1:], 3))
        repeated = name in ("tensor 2d", "last")  # which of several values stays is not said
        if repeated and form != "number":
            continue
        x[index(fp)] = value
        rx[index(torch)] = reference
        compared.add(name, x, rx)
    compared.check()


def test_assignment_converts_and_differentiates():
    compared = Comparison()
    x, rx = both(draw((4, 3)), requires_grad=True)
    v, rv = both(draw((3,), 2), requires_grad=True)
    y, ry = x * 2, rx * 2
    y[1] = v * v
    ry[1] = rv * rv
    y[integers(fp, [0, 3]), 1:] = v[:2]
    ry[integers(torch, [0, 3]), 1:] = rv[:2]
    y[y > 0.5] = 0.0
    ry[ry > 0.5] = 0.0
    y[2, 0] += 3
    ry[2, 0] += 3
    compare_gradients(compared, "assignment", y, ry, [(x, rx), (v, rv)])
    i, ri = both(np.arange(4), "int64")
    i[1:3] = fp.tensor([2.7, -2.7])
    ri[1:3] = torch.tensor([2.7, -2.7])
    compared.add("to integers", i, ri)
    compared.check()


OPERATIONS = {
    "gather": lambda m, x, i, s: m.gather(x, 1, i), "take_along_dim": lambda m, x, i, s: m.take_along_dim(x, i, 1),
    "scatter": lambda m, x, i, s: m.scatter(x, 1, i[:, :1], s[:, :1]), "scatter value": lambda m, x, i, s: m.scatter(x, 1, i, 2.5),
    "scatter_add": lambda m, x, i, s: m.scatter_add(x, 1, i, s), "scatter add smaller": lambda m, x, i, s: m.scatter_add(x, 0, i[:2, :2], s[:2, :2]),
    "scatter_reduce sum": lambda m, x, i, s: m.scatter_reduce(x, 1, i, s, "sum"), "scatter_reduce mean": lambda m, x, i, s: m.scatter_reduce(x, 1, i, s, "mean"),
    "scatter_reduce amax": lambda m, x, i, s: m.scatter_reduce(x, 1, i, s, "amax"), "scatter_reduce amin": lambda m, x, i, s: m.scatter_reduce(x, 1, i, s, "amin", include_self=False),
    "scatter_reduce prod": lambda m, x, i, s: m.scatter_reduce(x, 1, i, s, "prod"), "scatter_reduce mean new": lambda m, x, i, s: m.scatter_reduce(x, 1, i, s, "mean", include_self=False),
    "index_select": lambda m, x, i, s: m.index_select(x, 0, i[0]), "index_select last": lambda m, x, i, s: m.index_select(x, -1, i[0]),
    "index_add": lambda m, x, i, s: m.index_add(x, 0, i[0], s, alpha=2), "index_copy": lambda m, x, i, s: m.index_copy(x, 1, integers(m, [2, 0, 1]), s),
    "index_fill": lambda m, x, i, s: m.index_fill(x, 1, i[0], -1.0), "index_put": lambda m, x, i, s: m.index_put(x, (i[0], i[1]), s[0], accumulate=True),
    "masked_fill": lambda m, x, i, s: m.masked_fill(x, s > 0, 9.0), "masked_select": lambda m, x, i, s: m.masked_select(x, s > 0),
    "masked_fill broadcast": lambda m, x, i, s: m.masked_fill(x, s[0] > 0, 9.0), "take": lambda m, x, i, s: m.take(x, i),
    "gather empty": lambda m, x, i, s: m.gather(x, 0, i[:0]), "where": lambda m, x, i, s: m.where(i > 1, x, s),
}  # fmt: skip


def test_gathers_and_scatters():
    compared = Comparison()
    index = np.array([[0, 2, 1], [2, 2, 0], [1, 1, 1]])
    for name, operation in OPERATIONS.items():
        x, rx = both(draw((3, 3)), requires_grad=True)
        s, rs = both(draw((3, 3), 4), requires_grad=True)
        i, ri = both(index, "int64")
        y, ry = operation(fp, x, i, s), operation(torch, rx, ri, rs)
        compared.add(name, y, ry)
        compare_gradients(compared, name, y, ry, [(x, rx), (s, rs)])
    for dtype in ("float32", "float16", "int64", "uint8", "bool"):
        x, rx = both(np.arange(9).reshape(3, 3) % 5, dtype)
        i, ri = both(index, "int64")
        for name in ("gather", "index_select", "take", "scatter_add", "scatter_reduce amax"):
            if dtype == "bool" and name.startswith("scatter"):
                continue
            compared.add(f"{name} {dtype}", OPERATIONS[name](fp, x, i, x), OPERATIONS[name](torch, rx, ri, rx))
    compared.check()


def test_second_derivatives_of_gather_and_scatter():
    compared = Comparison()
    for name in ("gather", "scatter_add", "index_select", "index_add", "take"):
        x, rx = both(draw((3, 3)), requires_grad=True)
        i, ri = both(np.array([[0, 2, 1], [2, 2, 0], [1, 1, 1]]), "int64")
        y, ry = OPERATIONS[name](fp, x, i, x * x), OPERATIONS[name](torch, rx, ri, rx * rx)
        (g,) = fp.autograd.grad((y**3).sum(), x, create_graph=True)
        (rg,) = torch.autograd.grad((ry**3).sum(), rx, create_graph=True)
        compare_gradients(compared, name, g, rg, [(x, rx)])
    compared.check()


def test_counting():
    compared = Comparison()
    x, rx = both([[0, 3, 0], [1, 0, 2]], "int64")
    compared.add("nonzero", fp.nonzero(x), torch.nonzero(rx))
    compared.add("nonzero tuple", fp.nonzero(x, as_tuple=True), torch.nonzero(rx, as_tuple=True))
    compared.add("where", fp.where(x > 0), torch.where(rx > 0))
    compared.add("nonzero of a number", fp.nonzero(fp.tensor(3)), torch.nonzero(torch.tensor(3)))
    compared.add("one_hot", fp.one_hot(x, 5), torch.nn.functional.one_hot(rx, 5))
    compared.add("one_hot found", fp.one_hot(x), torch.nn.functional.one_hot(rx))
    compared.add("bincount", fp.bincount(x.flatten(), minlength=6), torch.bincount(rx.flatten(), minlength=6))
    compared.check()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: x[3], "index 3 .*size 2"),
        (lambda x: x[0, 0, 0], "too many indices"),
        (lambda x: x[..., ...], "single ellipsis"),
        (lambda x: x[1.5], "only integers"),
        (lambda x: x["a"], "only integers"),
        (lambda x: x[fp.tensor([0.5])], "float32"),
        (lambda x: x[fp.tensor([True, False, True])], "mask"),
        (lambda x: x[fp.tensor([0, 2])].numpy(), r"index 2 .*size 2.*test_indexing\.py"),
        (lambda x: x[fp.tensor([-3])].numpy(), "index -3 .*size 2"),
        (lambda x: fp.index_select(x, 1, fp.tensor([7])).numpy(), "index_select: index 7"),
        (lambda x: fp.gather(x, 1, fp.tensor([[3]])).numpy(), "gather: index 3"),
        (lambda x: fp.gather(x, 2, fp.tensor([[0]])), "gather: dimension 2"),
    ],
)
def test_index_errors(call, text):
    with pytest.raises(IndexError, match=text):
        call(fp.zeros(2, 3))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: fp.gather(x, 0, fp.zeros(2, 3)), "gather: .*float32"),
        (lambda x: fp.gather(x, 0, fp.tensor([0])), "gather: index of shape"),
        (lambda x: x.masked_fill(x, 0.0), "masked_fill: .*bool"),
        (lambda x: x.__setitem__(0, fp.zeros(4)), "shape"),
        (lambda x: fp.scatter_reduce(x, 0, fp.zeros(2, 3, dtype=fp.int64), x, "median"), "scatter_reduce"),
        (lambda x: fp.index_select(x, 0, fp.tensor([0.5])), "index_select: .*float32"),
        (lambda x: fp.scatter(x, 0, fp.zeros(2, 3, dtype=fp.int64), fp.zeros(1, 3)), "scatter"),
    ],
)
def test_shape_and_dtype_errors(call, text):
    with pytest.raises((RuntimeError, TypeError), match=text):
        call(fp.zeros(2, 3))


def test_assignment_out_of_range_changes_nothing():
    x = fp.arange(4)
    fp.eval(x)
    y = x.clone()
    y[fp.tensor([9])] = 1
    with pytest.raises(IndexError, match="index 9"):
        y.numpy()
    assert x.tolist() == [0, 1, 2, 3]


BACKWARD = [
    (slice(None, None, -1),), (slice(2, None, -2), slice(None, None, -1)), (..., slice(-2, 0, -3)), (slice(0, 3, -1),),
    (1, slice(None, None, -1)), (slice(None, None, -3), None, [2, 0]), ([3, 1], slice(None, None, -1), slice(1, 4)),
    (slice(9, -9, -1), slice(None), slice(None, None, -4)),
]  # fmt: skip


@pytest.mark.parametrize("index", BACKWARD)
def test_slices_backward_as_numpy_has_them(index):
    array = np.arange(60.0).reshape(4, 3, 5)
    x = fp.tensor(array, requires_grad=True)
    read = x[index]
    np.testing.assert_array_equal(read.detach().numpy(), array[index])
    weight = np.arange(1.0, array[index].size + 1).reshape(array[index].shape)
    (gradient,) = fp.autograd.grad((read * fp.tensor(weight)).sum(), x)
    expected = np.zeros_like(array)
    np.add.at(expected, index, weight)
    np.testing.assert_array_equal(gradient.numpy(), expected)
    written, theirs = fp.tensor(array), array.copy()
    written[index] = fp.tensor(-weight)
    theirs[index] = -weight
    np.testing.assert_array_equal(written.numpy(), theirs)
    written[index] += 1
    theirs[index] += 1
    np.testing.assert_array_equal(written.numpy(), theirs)


def test_derivatives_of_a_scattered_product_with_zeros():
    """Positions with no zero, one and two among their factors: the second derivative is not zero where one is."""
    compared = Comparison()
    values, index = np.array([2.0, 0.0, 0.0, 3.0]), [0, 1, 1, 2, 2, 2]
    factors = np.array([1.5, 4.0, -2.0, 0.0, 5.0, 0.5])
    pairs = [both(v, "float64") for v in (values, factors)]
    for v in pairs:
        v[0].requires_grad_(), v[1].requires_grad_()
    (x, rx), (s, rs) = pairs
    for first in (True, False):
        ours = fp.scatter_reduce(x, 0, fp.tensor(index), s, "prod", include_self=first)
        # PyTorch has no second derivative here; the same products, written out
        rows = [torch.stack([rx[k] if first or k not in index else torch.ones_like(rx[k]),
                             *(rs[j] for j, i in enumerate(index) if i == k)]) for k in range(4)]  # fmt: skip
        theirs = torch.stack([torch.prod(row) for row in rows])
        weights = np.array([1.0, 2.0, 3.0, 4.0])
        g = fp.autograd.grad((ours * fp.tensor(weights)).sum(), (x, s), create_graph=True)
        rg = torch.autograd.grad((theirs * torch.tensor(weights)).sum(), (rx, rs), create_graph=True)
        h = fp.autograd.grad((g[0] * 2 + g[0].sin()).sum() + (g[1] * g[1]).sum() + g[1].sum(), (x, s))
        rh = torch.autograd.grad((rg[0] * 2 + rg[0].sin()).sum() + (rg[1] * rg[1]).sum() + rg[1].sum(), (rx, rs))
        for k in range(2):
            compared.add(f"first {first} {k}", g[k] + 0, rg[k] + 0)  # not the sign of a zero
            compared.add(f"second {first} {k}", h[k] + 0, rh[k] + 0)
    compared.check()
