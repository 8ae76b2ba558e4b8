"""Convolutions in groups written as sums of products of reads: recognised, and equal to PyTorch's, derivatives too."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import draw, kinds

import firepot as fp

Function = Callable[..., Any]


def grouped(n: int, groups: int, channels: int, filters: int, size: tuple[int, ...], kernel: tuple[int, ...]) -> Function:
    """Σ over c and the taps of x[n, group of o · channels + c, …] · w[o, c, …] with padding 1."""

    def convolution(x: fp.Tensor, w: fp.Tensor) -> fp.Tensor:
        def term(n: Any, o: Any, *places: Any) -> fp.Tensor:
            outer, c, inner = places[: len(size)], places[len(size)], places[len(size) + 1 :]
            windows = [i + k - 1 for i, k in zip(outer, inner, strict=True)]
            return x[n, o // filters * channels + c, *windows] * w[o, c, *inner]

        return fp.reindex_reduce((n, groups * filters, *size), (channels, *kernel), term)

    return convolution


Case = tuple[tuple[int, ...], tuple[int, ...], Function, Function]
CASES: dict[str, Case] = {
    "grouped, 1-d": (
        (2, 6, 9), (4, 3, 3), grouped(2, 2, 3, 2, (9,), (3,)),
        lambda x, w: torch.nn.functional.conv1d(x, w, padding=1, groups=2),
    ),
    "grouped, 2-d": (
        (2, 6, 7, 5), (9, 2, 3, 3), grouped(2, 3, 2, 3, (7, 5), (3, 3)),
        lambda x, w: torch.nn.functional.conv2d(x, w, padding=1, groups=3),
    ),
    "grouped, 3-d": (
        (1, 4, 4, 5, 3), (4, 2, 3, 3, 3), grouped(1, 2, 2, 2, (4, 5, 3), (3, 3, 3)),
        lambda x, w: torch.nn.functional.conv3d(x, w, padding=1, groups=2),
    ),
    "as many groups as channels": (
        (2, 4, 6, 6), (4, 1, 3, 3), grouped(2, 4, 1, 1, (6, 6), (3, 3)),
        lambda x, w: torch.nn.functional.conv2d(x, w, padding=1, groups=4),
    ),
    "depthwise": (
        (2, 4, 7, 8), (4, 3, 2),
        lambda x, w: fp.reindex_reduce((2, 4, 5, 7), (3, 2), lambda n, c, i, j, a, b: x[n, c, i + a, j + b] * w[c, a, b]),
        lambda x, w: torch.nn.functional.conv2d(x, w[:, None], groups=4),
    ),
    "depthwise, strided and dilated": (
        (2, 4, 9, 9), (4, 3, 3),
        lambda x, w: fp.reindex_reduce(
            (2, 4, 4, 4), (3, 3), lambda n, c, i, j, a, b: x[n, c, 2 * i + 2 * a - 1, 2 * j + 2 * b - 1] * w[c, a, b]
        ),
        lambda x, w: torch.nn.functional.conv2d(x, w[:, None], stride=2, dilation=2, padding=1, groups=4),
    ),
    "depthwise, several filters each": (
        (2, 4, 6), (12, 3),
        lambda x, w: fp.reindex_reduce((2, 12, 4), (3,), lambda n, o, i, a: x[n, o // 3, i + a] * w[o, a]),
        lambda x, w: torch.nn.functional.conv1d(x, w[:, None], groups=4),
    ),
    "groups as an axis of their own": (
        (2, 6, 8), (3, 4, 2, 3),
        lambda x, w: fp.reindex_reduce(
            (2, 3, 4, 6), (2, 3), lambda n, g, o, i, c, a: x[n, 2 * g + c, i + a] * w[g, o, c, a]
        ),
        lambda x, w: torch.nn.functional.conv1d(x, w.reshape(12, 2, 3), groups=3).reshape(2, 3, 4, 6),
    ),
    "groups by remainder": (
        (2, 6, 8), (4, 3, 3),
        lambda x, w: fp.reindex_reduce((2, 4, 6), (3, 3), lambda n, o, i, c, a: x[n, o % 2 * 3 + c, i + a] * w[o, c, a]),
        lambda x, w: torch.nn.functional.conv1d(x, w[[0, 2, 1, 3]], groups=2)[:, [0, 2, 1, 3]],
    ),
    "pointwise groups": (
        (2, 6, 4, 5), (4, 3),
        lambda x, w: fp.reindex_reduce(
            (2, 4, 4, 5), (3,), lambda n, o, i, j, c: x[n, o // 2 * 3 + c, i, j] * w[o, c]
        ),
        lambda x, w: torch.nn.functional.conv2d(x, w[:, :, None, None], groups=2),
    ),
    "channels last": (
        (2, 7, 6, 4), (3, 3, 4),
        lambda x, w: fp.reindex_reduce((2, 5, 4, 4), (3, 3), lambda n, i, j, c, a, b: x[n, i + a, j + b, c] * w[a, b, c]),
        lambda x, w: torch.nn.functional.conv2d(
            x.permute(0, 3, 1, 2), w.permute(2, 0, 1)[:, None], groups=4
        ).permute(0, 2, 3, 1),
    ),
    "along one of two dimensions": (
        (2, 3, 7, 5), (4, 3, 3),
        lambda x, w: fp.reindex_reduce((2, 4, 5, 5), (3, 3), lambda n, o, i, j, c, a: x[n, c, i + a, j] * w[o, c, a]),
        lambda x, w: torch.nn.functional.conv2d(x, w[..., None]),
    ),
    "true convolution": (
        (2, 4, 9), (6, 2, 3),
        lambda x, w: fp.reindex_reduce((2, 6, 7), (2, 3), lambda n, o, i, c, a: x[n, o // 3 * 2 + c, i - a + 2] * w[o, c, a]),
        lambda x, w: torch.nn.functional.conv1d(x, w.flip(2), groups=2),
    ),
    "backward along the result": (
        (2, 4, 9), (4, 3),
        lambda x, w: fp.reindex_reduce((2, 4, 7), (3,), lambda n, c, i, a: x[n, c, 6 - i + a] * w[c, a]),
        lambda x, w: torch.nn.functional.conv1d(x, w[:, None], groups=4).flip(2),
    ),
    "the gradient of a weight": (
        (3, 4, 9, 8), (3, 4, 7, 6),
        lambda x, g: fp.reindex_reduce(
            (4, 3, 3), (3, 7, 6), lambda c, a, b, n, i, j: x[n, c, i + a, j + b] * g[n, c, i, j]
        ),
        lambda x, g: torch.nn.functional.conv2d(x.reshape(1, 12, 9, 8), g.reshape(12, 1, 7, 6), groups=12)
        .reshape(3, 4, 3, 3).sum(0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_groups(name: str) -> None:
    x_shape, w_shape, ours, theirs = CASES[name]
    x, w = draw(x_shape), draw(w_shape, 1)
    tx, tw = (torch.from_numpy(v).requires_grad_() for v in (x, w))
    expected = theirs(tx, tw)
    first = torch.autograd.grad((expected**3).sum(), (tx, tw), create_graph=True)
    second = torch.autograd.grad((first[0] ** 2).sum() + (first[1] ** 2).sum(), (tx, tw))

    value = ours(fp.tensor(x), fp.tensor(w))
    assert "convolve" in kinds(value), kinds(value)
    gradient = fp.grad(lambda x, w: (ours(x, w) ** 3).sum(), argnums=(0, 1))

    def again(x: fp.Tensor, w: fp.Tensor) -> fp.Tensor:
        a, b = gradient(x, w)
        return (a**2).sum() + (b**2).sum()

    arguments = fp.tensor(x), fp.tensor(w)
    found = [value, *gradient(*arguments), *fp.grad(again, argnums=(0, 1))(*arguments)]
    assert not {"scatter", "reindex"} & set().union(*map(kinds, found))
    mapped = fp.vmap(ours)(fp.stack([arguments[0], arguments[0] * 2]), fp.stack([arguments[1], arguments[1] + 1]))
    fp.eval(*found, mapped)
    for a, b in zip(found, [expected, *first, *second], strict=True):
        assert np.allclose(a.numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-9)
    shifted = theirs(2 * tx, tw + 1)
    assert np.allclose(mapped.numpy(), torch.stack([expected, shifted]).detach().numpy(), rtol=1e-9, atol=1e-9)


def test_scales_go_where_they_cost_least() -> None:
    x, w, s, t, m = draw((2, 4, 7)), draw((6, 2, 3), 1), draw((6,), 2), draw((4,), 3), draw((2, 6, 5), 4)
    a, b, by_filter, by_channel, by_place = map(fp.tensor, (x, w, s, t, m))
    value = fp.reindex_reduce(
        (2, 6, 5), (2, 3),
        lambda n, o, i, c, k: a[n, o // 3 * 2 + c, i + k] * b[o, c, k] * by_filter[o] * by_channel[o // 3 * 2 + c] * 0.5,
    )  # fmt: skip
    assert "convolve" in kinds(value)
    scaled = torch.from_numpy(x * t[:, None])
    expected = 0.5 * torch.nn.functional.conv1d(scaled, torch.from_numpy(w), groups=2).numpy() * s[:, None]
    assert np.allclose(value.numpy(), expected)
    masked = fp.reindex_reduce(
        (2, 6, 5), (2, 3), lambda n, o, i, c, k: by_place[n, o, i] * (a[n, o // 3 * 2 + c, i + k] * b[o, c, k])
    )
    assert "convolve" in kinds(masked)
    plain = torch.nn.functional.conv1d(torch.from_numpy(x), torch.from_numpy(w), groups=2).numpy()
    assert np.allclose(masked.numpy(), plain * m)


def test_what_is_no_convolution_stays_a_sum() -> None:
    x, w, v = fp.tensor(draw((2, 4, 9))), fp.tensor(draw((4, 3), 1)), fp.tensor(draw((4, 3, 7), 2))
    weighted = fp.reindex_reduce((2, 4, 7), (3,), lambda n, c, i, k: x[n, c, i + k] * v[c, k, i])
    assert "convolve" not in kinds(weighted)
    windows = np.lib.stride_tricks.sliding_window_view(x.numpy(), 3, 2)
    assert np.allclose(weighted.numpy(), np.einsum("ncik,cki->nci", windows, v.numpy()))
    three = fp.reindex_reduce((2, 4, 7), (3,), lambda n, c, i, k: x[n, c, i + k] * v[c, k, i] * w[c, k])
    assert np.allclose(three.numpy(), np.einsum("ncik,cki,ck->nci", windows, v.numpy(), w.numpy()))
