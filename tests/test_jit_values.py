"""What depends on values: works in plain code; under fp.jit one error at the person's line, with what to do instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot.nn import functional as F

_X = [[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]


def _put(x: fp.Tensor) -> fp.Tensor:
    y = x * 1
    y[y > 1] = fp.tensor([7.0, 8.0])
    return y


def _asserted(x: fp.Tensor) -> fp.Tensor:
    assert x.max() > 0
    return x


# name: (function, its result in plain code, what the error under fp.jit names, the alternative it gives)
_CASES: dict[str, tuple[Callable[[fp.Tensor], Any], Any, str, str]] = {
    "nonzero": (lambda x: x.nonzero(), [[0, 0], [0, 2], [1, 1]], "nonzero", "fp.nonzero_static"),
    "argwhere": (lambda x: fp.argwhere(x), [[0, 0], [0, 2], [1, 1]], "nonzero", "fp.nonzero_static"),
    "where": (lambda x: fp.where(x > 1)[0], [0, 1], "nonzero", "fp.nonzero_static"),
    "mask": (lambda x: x[x > 1], [2, 3], "indexing with a boolean mask", "fp.where"),
    "mask of rows": (lambda x: x[x[:, 0] > 0], [[1, 0, 2]], "indexing with a boolean mask", "fp.where"),
    "masked values": (_put, [[1, 0, 7], [0, 8, 0]], "indexing with a boolean mask", "fp.where"),
    "masked_select": (lambda x: x.masked_select(x > 1), [2, 3], "indexing with a boolean mask", "fp.where"),
    "unique": (lambda x: x.unique(), [0, 1, 2, 3], "unique", "fp.sort"),
    "unique_consecutive": (
        lambda x: fp.unique_consecutive(x), [1, 0, 2, 0, 3, 0], "unique_consecutive", "fp.sort",
    ),
    "repeat_interleave": (
        lambda x: x.repeat_interleave(x[0].long(), 1), [[1, 2, 2], [0, 0, 0]], "repeat_interleave", "output_size",
    ),
    "bincount": (lambda x: fp.bincount(x.flatten().long()), [3, 1, 1, 1], "bincount", "scatter_add"),
    "one_hot": (lambda x: F.one_hot(x[1].long())[1], [0, 0, 0, 1], "one_hot", "num_classes"),
    "histc": (lambda x: x.histc(3), [3, 1, 2], "histc", "min and max"),
    "item": (lambda x: x.sum().item(), 6, "item()", "fp.where"),
    "float": (lambda x: float(x.sum()), 6, "item()", "fp.where"),
    "int": (lambda x: int(x.sum()), 6, "item()", "fp.where"),
    "index of a list": (lambda x: [5, 6, 7][x[0, 2].long()], 7, "item()", "keep the number as a tensor"),
    "range": (lambda x: len(range(x.sum().long())), 6, "item()", "keep the number as a tensor"),
    "size": (lambda x: fp.zeros(x[0, 2].long()), [0, 0], "item()", "keep the number as a tensor"),
    "slice": (lambda x: x[0, : x[0, 2].long()], [1, 0], "item()", "keep the number as a tensor"),
    "if": (lambda x: 1 if x.sum() > 5 else 2, 1, "bool()", "fp.cond"),
    "and": (lambda x: x.sum() and 3, 3, "bool()", "fp.cond"),
    "assert": (_asserted, _X, "bool()", "fp.where"),
    "max": (lambda x: max(x[0, 0], x[0, 2]), 2, "bool()", "fp.where"),
    "equal": (lambda x: fp.equal(x, x), True, "bool()", "fp.where"),
    "allclose": (lambda x: fp.allclose(x, x * 2), False, "bool()", "fp.where"),
    "format": (lambda x: f"{x.sum():.1f}", "6.0", "item()", "outside the jitted function"),
    "tolist": (lambda x: x[0].tolist(), [1, 0, 2], "tolist()", "outside the jitted function"),
    "numpy": (lambda x: np.asarray(x[0]), [1, 0, 2], "numpy()", "outside the jitted function"),
}  # fmt: skip


@pytest.mark.parametrize("name", _CASES)
def test_values_are_there_in_plain_code_and_not_under_jit(name: str) -> None:
    function, expected, what, instead = _CASES[name]
    x = fp.tensor(_X)
    found = function(x)
    assert (found.tolist() if isinstance(found, (fp.Tensor, np.ndarray)) else found) == expected
    with pytest.raises(fp.TraceError) as error:
        fp.jit(function)(x)
    message = str(error.value)
    assert re.match(rf"{re.escape(what)}.* at \S*test_jit_values\.py:\d+: ", message)
    assert instead in message
    assert x.tolist() == _X  # a capture that failed leaves everything as it was


def test_the_alternatives_work_under_jit() -> None:
    x = fp.tensor(_X)
    assert fp.jit(lambda x: fp.nonzero_static(x, size=4))(x).tolist() == [[0, 0], [0, 2], [1, 1], [-1, -1]]
    assert fp.jit(lambda x: fp.where(x > 1, x, 0.0).sum())(x).item() == 5
    assert fp.jit(lambda x: F.one_hot(x[1].long(), 4)[1])(x).tolist() == [0, 0, 0, 1]
    assert fp.jit(lambda x: x.histc(3, 0, 3))(x).tolist() == [3, 1, 2]
    counts = fp.jit(lambda x: fp.zeros(4).scatter_add(0, x.flatten().long(), fp.ones(6)))
    assert counts(x).tolist() == [3, 1, 1, 1]

    repeated = fp.jit(lambda x, n: x.repeat_interleave(n, 1, output_size=3))
    assert repeated(x, fp.tensor([1, 0, 2])).tolist() == [[1, 2, 2], [0, 0, 0]]
    assert repeated(x, fp.tensor([1])).tolist() == _X
    for wrong in ([1, 0, 1], [1, 1, 2], [-1, 2, 2]):
        with pytest.raises(IndexError, match=r"do not add up to output_size = 3 \(at .*test_jit_values\.py:\d+\)"):
            repeated(x, fp.tensor(wrong))
