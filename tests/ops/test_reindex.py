"""Meta-operators against NumPy loops over every position, and against the named operations that they can express."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import draw, kinds

import firepot as fp
from firepot.nn import functional as F


class Padded:
    """A NumPy array that is `fill` outside of its bounds, read at one position."""

    def __init__(self, array: np.ndarray[Any, Any], fill: float) -> None:
        self.array, self.fill = array, fill

    def __getitem__(self, index: Any) -> Any:
        index = index if isinstance(index, tuple) else (index,)
        if all(0 <= i < s for i, s in zip(index, self.array.shape, strict=True)):
            return self.array[tuple(int(i) for i in index)]
        return self.fill


FOLDS: dict[str, Callable[..., Any]] = {"sum": np.sum, "mean": np.mean, "prod": np.prod, "max": np.max, "min": np.min}


def looped(shape: Any, over: Any, function: Any, arrays: Any, reduce: str = "sum", fill: float = 0) -> Any:
    result = np.zeros(shape)
    padded = [Padded(a, fill) for a in arrays]
    for place in itertools.product(*map(range, shape)):
        result[place] = FOLDS[reduce]([function(*padded, *place, *k) for k in itertools.product(*map(range, over))])
    return result


READS: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "transposed": ((4, 5), lambda x, i, j: x[j, i]),
    "repeated": ((2, 5, 3, 4), lambda x, a, i, b, j: x[i, j]),
    "strided": ((3, 2), lambda x, i, j: x[2 * i, 2 * j + 1]),
    "reversed": ((5, 4), lambda x, i, j: x[4 - i, 3 - j]),
    "shifted out of bounds": ((7, 6), lambda x, i, j: x[i - 1, j - 2]),
    "constant position": ((6,), lambda x, i: x[i - 1, 2]),
    "constant out of bounds": ((6,), lambda x, i: x[i - 1, 9]),
    "windows": ((3, 3, 2, 2), lambda x, i, j, a, b: x[2 * i + a - 1, j + 2 * b]),
    "windows apart": ((2, 2, 2, 2), lambda x, i, j, a, b: x[2 * i + a, 2 * j + b]),
    "backward windows": ((3, 2, 4), lambda x, i, k, j: x[i - k + 1, j]),
    "diagonal": ((6,), lambda x, i: x[i, i]),
    "one axis twice": ((5, 4), lambda x, i, j: x[i, i + j]),
    "quotients": ((10, 12), lambda x, i, j: x[i // 2, j // 3]),
    "remainders": ((10, 9), lambda x, i, j: x[i % 5, (i + j) % 4]),
    "parts of an axis": ((10, 12), lambda x, i, j: x[i % 5, i // 5 + j // 6 * 2]),
    "parts of parts": ((12, 4), lambda x, i, j: x[i // 2 % 3, 3 - j]),
    "uneven quotients": ((11, 7), lambda x, i, j: x[(i + 1) // 3, j // 2]),
    "stretches of a dimension": ((2, 5, 3), lambda x, a, i, b: x[i, 2 * a + b % 2]),
    "stretches out of bounds": ((3, 5, 2), lambda x, a, i, b: x[i, 2 * a + b - 2]),
    "skewed": ((4, 4), lambda x, i, j: x[2 * i - j, j]),
    "twice the diagonal": ((3, 2), lambda x, i, j: x[i + j, i]),
    "around": ((5, 4, 3), lambda x, i, j, k: x[(i + j + k) % 5, (j - k) % 4]),
    "three axes": ((2, 2, 2, 4), lambda x, a, b, c, j: x[a + b + c, j]),
    "two reads": ((5, 4), lambda x, i, j: x[i, j] * x[i, j - 1] + 2 * x[i - 1, j]),
    "a number": ((2, 3), lambda x, i, j: 4.0),
    "size one": ((1, 4), lambda x, i, j: x[i + 2, j]),
}


@pytest.mark.parametrize("fill", [0, 7])
def test_reads(fill: float):
    x = draw((5, 4))
    ours, checks = [], []
    for name, (shape, function) in READS.items():
        tensor = fp.tensor(x)

        def read(t: fp.Tensor, shape: Any = shape, function: Any = function) -> fp.Tensor:
            return fp.reindex(shape, lambda *place: function(t, *place), fill=fill)

        weights = draw(shape, 3)
        gradient = fp.grad(lambda t, read=read, w=weights: (read(t) * fp.tensor(w)).sum())(tensor)
        mapped = fp.vmap(read)(fp.stack([tensor, tensor * 2]))
        ours += [read(tensor), gradient, mapped]
        expected = looped(shape, (), function, [x], "sum", fill)
        double = looped(shape, (), function, [x * 2], "sum", fill)
        numerical = np.zeros_like(x)
        for p in itertools.product(*map(range, x.shape)):
            step = np.zeros_like(x)
            step[p] = 0.5  # central differences of polynomials of degree two are exact
            up, down = (looped(shape, (), function, [x + s], "sum", fill) for s in (step, -step))
            numerical[p] = ((up - down) * weights).sum()
        checks += [(name, expected), (f"gradient of {name}", numerical), (f"mapped {name}", np.stack([expected, double]))]
    fp.eval(ours)
    for found, (name, expected) in zip(ours, checks, strict=True):
        assert found.shape == expected.shape, name
        assert np.allclose(found.numpy().astype(float), expected, rtol=1e-9, atol=1e-9), name


def test_folds():
    x, y = draw((5, 4)), draw((4, 3), 1)
    cases: dict[str, Any] = {
        "rows": ((5,), (4,), lambda x, y, i, k: x[i, k]),
        "pool": ((2, 2), (2, 2), lambda x, y, i, j, a, b: x[2 * i + a, 2 * j + b]),
        "three factors": ((5, 3), (4,), lambda x, y, i, j, k: x[i, k] * y[k, j] * y[k, j]),
        "product": ((5, 3), (4,), lambda x, y, i, j, k: x[i, k] * y[k, j]),
        "expression": ((5, 3), (4,), lambda x, y, i, j, k: x[i, k] * 2 + y[k, j] * k),
        "unread": ((5,), (4, 2), lambda x, y, i, k, l: x[i, k] * y[k, 0]),
        "everything": ((), (5, 4), lambda x, y, i, j: x[i, j]),
    }
    ours, expected = [], []
    for name, (shape, over, function) in cases.items():
        for how in FOLDS:
            a, b = fp.tensor(x), fp.tensor(y)
            ours.append(fp.reindex_reduce(shape, over, lambda *p, f=function, a=a, b=b: f(a, b, *p), how))
            expected.append((f"{name} {how}", looped(shape, over, function, [x, y], how)))
    fp.eval(ours)
    for found, (name, value) in zip(ours, expected, strict=True):
        assert np.allclose(found.numpy(), value), name
    flags = fp.reindex_reduce((5,), (4,), lambda i, k: fp.tensor(x)[i, k] > 1.5, "any")
    assert np.array_equal(flags.numpy(), (x > 1.5).any(1))


def test_products_become_matrix_products():
    a, b, c = fp.tensor(draw((2, 3, 4))), fp.tensor(draw((2, 4, 5), 1)), fp.tensor(draw((4,), 2))
    cases = {
        "bik,bkj->bij": ((2, 3, 5), (4,), lambda n, i, j, k: a[n, i, k] * b[n, k, j]),
        "bik,bkj->ijb": ((3, 5, 2), (4,), lambda i, j, n, k: a[n, i, k] * b[n, k, j]),
        "bik,bkj->ij": ((3, 5), (2, 4), lambda i, j, n, k: a[n, i, k] * b[n, k, j]),
        "bik,bkj->i": ((3,), (2, 5, 4), lambda i, n, j, k: a[n, i, k] * b[n, k, j]),
        "bkj,bik->b": ((2,), (3, 5, 4), lambda n, i, j, k: b[n, k, j] * a[n, i, k]),
    }
    for equation, (shape, over, function) in cases.items():
        first, second = (b, a) if equation.startswith("bkj") else (a, b)
        found = fp.reindex_reduce(shape, over, function)
        assert "contract" in kinds(found), equation
        assert np.allclose(found.numpy(), np.einsum(equation, first.numpy(), second.numpy())), equation
    vector = fp.reindex_reduce((2, 3), (4,), lambda n, i, k: a[n, i, k] * c[k])
    assert "contract" in kinds(vector) and np.allclose(vector.numpy(), a.numpy() @ c.numpy())
    part = fp.reindex_reduce((2, 5), (2,), lambda i, j, k: a[1, i + 1, 2 * k + 1] * b[0, 3 - k, j])
    expected = a.numpy()[1, 1:3, 1::2] @ b.numpy()[0, :1:-1]
    assert "contract" in kinds(part) and np.allclose(part.numpy(), expected)


def convolved(x: fp.Tensor, w: fp.Tensor, size: tuple[int, int], stride: int, padding: int, dilation: int) -> fp.Tensor:
    n, c = x.shape[:2]
    return fp.reindex_reduce(
        (n, w.shape[0], *size), (c, *w.shape[2:]),
        lambda n, o, i, j, c, di, dj: x[n, c, i * stride + di * dilation - padding, j * stride + dj * dilation - padding]
        * w[o, c, di, dj],
    )  # fmt: skip


def test_products_around_channels_become_convolutions_of_size_one():
    x, w = draw((2, 3, 5, 4)), draw((6, 3), 1)
    cases = {
        "ncij,oc->noij": lambda x, w: fp.reindex_reduce((2, 6, 5, 4), (3,), lambda n, o, i, j, c: x[n, c, i, j] * w[o, c]),
        "ncij,oc->noij, the other way": lambda x, w: fp.reindex_reduce(
            (2, 6, 5, 4), (3,), lambda n, o, i, j, c: w[o, c] * x[n, c, i, j]
        ),
        "nci,oc->noi, of one column": lambda x, w: fp.reindex_reduce(
            (2, 6, 5), (3,), lambda n, o, i, c: x[n, c, i, 1] * w[o, c]
        ),
    }
    for name, function in cases.items():
        value, pull_back = fp.vjp(function, fp.tensor(x), fp.tensor(w))
        assert "convolve" in kinds(value), name
        tx, tw = (torch.from_numpy(v).requires_grad_() for v in (x, w))
        expected = torch.einsum("ncij,oc->noij", tx, tw)
        expected = expected[..., 1] if "column" in name else expected
        (expected**3).sum().backward()
        gradients = pull_back(3 * value**2)
        assert np.allclose(value.numpy(), expected.detach().numpy()), name
        assert np.allclose(gradients[0].numpy(), tx.grad.numpy()) and np.allclose(gradients[1].numpy(), tw.grad.numpy())
    # Rows that are not on both sides stay a matrix product.
    linear = fp.reindex_reduce((2, 5, 4, 6), (3,), lambda n, i, j, o, c: fp.tensor(x)[n, c, i, j] * fp.tensor(w)[o, c])
    assert "contract" in kinds(linear)
    assert np.allclose(linear.numpy(), np.einsum("ncij,oc->nijo", x, w))


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 0, 2), (2, 2, 2), (3, 0, 1)])
def test_windows_become_convolutions(stride: int, padding: int, dilation: int):
    x, w = draw((2, 3, 9, 8)), draw((4, 3, 3, 2), 1)
    tx, tw = (torch.from_numpy(v).requires_grad_() for v in (x, w))
    expected = torch.nn.functional.conv2d(tx, tw, stride=stride, padding=padding, dilation=dilation)
    size = (expected.shape[2], expected.shape[3])
    (expected**3).sum().backward()
    a, b = fp.tensor(x), fp.tensor(w)
    value, pull_back = fp.vjp(lambda x, w: convolved(x, w, size, stride, padding, dilation), a, b)
    assert "convolve" in kinds(value)
    gradients = pull_back(3 * value**2)
    assert np.allclose(value.numpy(), expected.detach().numpy())
    assert np.allclose(gradients[0].numpy(), tx.grad.numpy()) and np.allclose(gradients[1].numpy(), tw.grad.numpy())


def test_unusual_convolutions():
    x, w = draw((2, 3, 9)), draw((4, 3, 3), 1)
    a, b = fp.tensor(x), fp.tensor(w)
    cases: dict[str, tuple[tuple[int, ...], tuple[int, ...], Callable[..., Any], str]] = {
        "further in": ((2, 4, 4), (3, 3), lambda x, w, n, o, i, c, k: x[n, c, i + k + 2] * w[o, c, k], "convolve"),
        "fewer": ((2, 4, 3), (3, 3), lambda x, w, n, o, i, c, k: x[n, c, i + k] * w[o, c, k], "convolve"),
        "further out": ((2, 4, 14), (3, 3), lambda x, w, n, o, i, c, k: x[n, c, i + k - 1] * w[o, c, k], "convolve"),
        "depthwise": ((2, 3, 7), (3,), lambda x, w, n, c, i, k: x[n, c, i + k] * w[1, c, k], "convolve"),
        "other order": ((7, 4, 2), (3, 3), lambda x, w, i, o, n, k, c: w[o, c, k] * x[n, c, i + k], "convolve"),
        "true convolution": ((2, 4, 7), (3, 3), lambda x, w, n, o, i, c, k: x[n, c, i + k] * w[o, c, 2 - k], "convolve"),
        "backward": ((2, 4, 11), (3, 3), lambda x, w, n, o, i, c, k: x[n, c, i - k] * w[o, c, k], "convolve"),
        "weights of places": ((2, 4, 3), (3, 3), lambda x, w, n, o, i, c, k: x[n, c, i + k] * w[o, i, k], "sum"),
    }
    ours, expected = [], []
    for name, (shape, over, function, kind) in cases.items():
        found = fp.reindex_reduce(shape, over, lambda *p, f=function: f(a, b, *p))
        assert kind in kinds(found), f"{name}: {kinds(found)}"
        ours.append(found)
        expected.append((name, looped(shape, over, function, [x, w])))
    fp.eval(ours)
    for found, (name, value) in zip(ours, expected, strict=True):
        assert np.allclose(found.numpy(), value), name
    filled = fp.reindex_reduce((2, 4, 9), (3, 3), lambda n, o, i, c, k: a[n, c, i + k - 1] * b[o, c, k], fill=1)
    assert np.allclose(filled.numpy(), F.conv1d(F.pad(a, (1, 1), value=1.0), b).numpy())


def test_computed_positions():
    x = draw((6, 7))
    t = fp.tensor(x)
    idx = fp.tensor([5, 0, -1, 9])
    rows = fp.reindex((4, 7), lambda i, j: t[idx[i], j])
    assert np.allclose(rows.numpy(), np.stack([x[5], x[0], np.zeros(7), np.zeros(7)]))  # outside there is nothing

    # Bilinear sampling at points (r, c), differentiable in the picture and in the points.
    def sampled(picture: fp.Tensor, r: fp.Tensor, c: fp.Tensor) -> fp.Tensor:
        top, left = r.floor(), c.floor()

        def at(k: Any) -> fp.Tensor:
            i, j, u, v = top[k].long(), left[k].long(), (r - top)[k], (c - left)[k]
            return (
                picture[i, j] * (1 - u) * (1 - v) + picture[i + 1, j] * u * (1 - v)
                + picture[i, j + 1] * (1 - u) * v + picture[i + 1, j + 1] * u * v
            )  # fmt: skip

        return fp.reindex(r.shape, at)

    r, c = draw((9,), 1, -1, 6), draw((9,), 2, -1, 7)
    grid = np.stack([2 * c / 6 - 1, 2 * r / 5 - 1], -1)[None, None]
    tx, tg = torch.from_numpy(x[None, None]).requires_grad_(), torch.from_numpy(grid)
    expected = torch.nn.functional.grid_sample(tx, tg, align_corners=True)[0, 0, 0]
    (expected**2).sum().backward()
    value, pull_back = fp.vjp(sampled, t, fp.tensor(r), fp.tensor(c))
    assert np.allclose(value.numpy(), expected.detach().numpy())
    by_picture, by_r, _ = pull_back(2 * value)
    assert np.allclose(by_picture.numpy(), tx.grad[0, 0].numpy())
    up, down = (float((sampled(t, fp.tensor(r + s), fp.tensor(c)) ** 2).sum().item()) for s in (1e-6, -1e-6))
    assert np.isclose(by_r.sum().item(), (up - down) / 2e-6, rtol=1e-5)


def test_scatters():
    x = draw((4, 6))
    t = fp.tensor(x)
    pooled = fp.reindex_scatter((4, 3), (4, 6), lambda i, j: ((i, j // 2), t[i, j]))
    assert np.allclose(pooled.numpy(), x.reshape(4, 3, 2).sum(-1))
    dropped = fp.reindex_scatter((3,), (4, 6), lambda i, j: (i + j - 2, t[i, j]), "max")
    expected = [max(x[i, j] for i in range(4) for j in range(6) if i + j - 2 == k) for k in range(3)]
    assert np.allclose(dropped.numpy(), expected)
    labels = fp.tensor([1, 0, 1, 5])
    sums = fp.reindex_scatter((2, 6), (4, 6), lambda i, j: ((labels[i], j), t[i, j]))
    assert np.allclose(sums.numpy(), np.stack([x[1], x[0] + x[2]]))
    gradient = fp.grad(lambda t: (fp.reindex_scatter((4, 3), (4, 6), lambda i, j: ((i, j // 2), t[i, j])) ** 2).sum())(t)
    assert np.allclose(gradient.numpy(), 2 * np.repeat(x.reshape(4, 3, 2).sum(-1), 2, 1))
    counts = fp.reindex_scatter((2,), (5,), lambda i: (i % 2, 1), "prod")
    assert counts.tolist() == [1, 1]


def test_transposed_reads_gather():
    """No read at index expressions needs a scatter, one element after the other, for its gradient."""
    for name, (shape, function) in READS.items():
        x = fp.tensor(draw((5, 4)))
        gradient = fp.grad(lambda x, s=shape, f=function: (fp.reindex(s, lambda *p: f(x, *p)) ** 2).sum())(x)
        assert "scatter" not in kinds(gradient), name
    # Unless many more places would have to be looked at than there are elements.
    x = fp.tensor(draw((40,)))
    sparse = fp.grad(lambda x: (fp.reindex((8, 2), lambda i, j: x[(i * 5 + j) // 3 % 17]) ** 2).sum())(x)
    value = np.bincount([(i * 5 + j) // 3 % 17 for i in range(8) for j in range(2)], minlength=40)
    assert np.allclose(sparse.numpy(), 2 * x.numpy() * value)


def test_under_jit_and_in_one_kernel():
    x = fp.randn(6, 8)
    rotate = fp.jit(lambda x: fp.reindex((6, 8), lambda i, j: x[i, (j + 4) % 8] * fp.where(j < 4, -1.0, 1.0)) + x)
    for _ in range(2):
        a = x.numpy()
        assert np.allclose(rotate(x).numpy(), np.concatenate([-a[:, 4:], a[:, :4]], 1) + a, atol=1e-6)
    (traces,) = rotate._traces.values()
    assert len(traces[0].executor.executable.steps) == 1


def test_errors():
    x = fp.ones(3, 4)
    with pytest.raises(IndexError, match=r"shape \[3, 4\] must be read at 2 positions, got 1"):
        fp.reindex((3,), lambda i: x[i])
    with pytest.raises(IndexError, match="got slice"):
        fp.reindex((3,), lambda i: x[i, :])
    with pytest.raises(IndexError, match="must be of an integer dtype, not float32"):
        fp.reindex((3,), lambda i: x[i, fp.ones(3)])
    with pytest.raises(RuntimeError, match=r"gave a value of shape \[4\], which does not fit the positions \[3\]"):
        fp.reindex((3,), lambda i: fp.ones(4))
    with pytest.raises(TypeError, match=r"non-negative integers, got \(3, -1\)"):
        fp.reindex((3, -1), lambda i, j: 0)
    with pytest.raises(ValueError, match=r"reduce must be one of .*, not 'avg'"):
        fp.reindex_reduce((3,), (4,), lambda i, j: x[i, j], "avg")
    with pytest.raises(TypeError, match=r"use fp\.where"):
        fp.reindex((3, 4), lambda i, j: x[i, j] if i else 0)
    with pytest.raises(IndexError, match="position of another meta-operator"):
        fp.reindex((3,), lambda i: fp.reindex((4,), lambda j: x[i, j]).sum())
    with pytest.raises(TypeError, match=r"must return \(position, value\)"):
        fp.reindex_scatter((3,), (4,), lambda i: i)
