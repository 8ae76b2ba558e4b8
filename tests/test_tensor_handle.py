"""Tensor handles: in-place forms, printing, exchange with NumPy and DLPack, copies, conversion to Python."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from oracle import Comparison, both, draw

import firepot as fp

IN_PLACE = {
    "add_": (2.0,), "sub_": (2.0,), "mul_": (2.0,), "div_": (2.0,), "pow_": (2,), "clamp_": (-0.5, 0.5), "exp_": (), "neg_": (),
    "zero_": (), "fill_": (3.0,), "abs_": (), "sqrt_": (), "sigmoid_": (), "tanh_": (), "floor_": (), "tril_": (), "remainder_": (0.7,),
    "lerp_": (1.0, 0.25), "square_": (), "round_": (), "eq_": (0.5,), "cumsum_": (0,),
}  # fmt: skip


def test_in_place_forms():
    compared = Comparison()
    for name, arguments in IN_PLACE.items():
        x, rx = both(abs(draw((3, 4))), "float32")
        if name == "lerp_":
            arguments = (fp.full((3, 4), 1.0), 0.25), (torch.full((3, 4), 1.0), 0.25)
        else:
            arguments = arguments, arguments
        assert getattr(x, name)(*arguments[0]) is x
        getattr(rx, name)(*arguments[1])
        compared.add(name, x, rx)
    x, rx = both(draw((3, 4)), "float32")
    x += 1
    rx += 1
    x *= x
    rx *= rx
    x -= fp.ones(4)
    rx -= torch.ones(4)
    x /= 2
    rx /= 2
    x.copy_(fp.arange(4))
    rx.copy_(torch.arange(4))
    compared.add("operators", x, rx)
    compared.check()


def test_in_place_does_not_change_others():
    x = fp.zeros(3)
    view, same = x[:2], x
    x.add_(1)
    assert view.tolist() == [0, 0]
    assert same.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: fp.ones(2, dtype=fp.int64).add_(0.5),
        lambda: fp.ones(2).add_(fp.ones(3, 2)),
        lambda: fp.ones(2, dtype=fp.int64).div_(2),
        lambda: fp.ones(2, dtype=fp.bool).add_(1),
    ],
)
def test_in_place_errors(call):
    with pytest.raises(RuntimeError, match=r"in-place|cast"):
        call()


PRINTED = [
    [1.0, 2.0, 3.0], [1.5, -2.25], [0.1, 1000.5], [1e-8, 1.0], [1e10, 1.0], [math.nan, 1.0], [math.inf, 1.5], [-math.inf, 1.0], [], 3.0, 2.5,
    [[1.0, 2.0], [3.0, 4.0]], [[[0.5]]], [0.0, -0.0], [123456.0, 0.5], [1e-3, 2e-3], [1e-5, 2e-5], [100000000.0], [0.12345678], [[1.0], [-1.0]],
    [10.0, 0.001], [math.nan], [1.0, math.inf], [99999.5, 1.25], [1.0, 2000.0], [0.0, 5.0], [-1.0, 0.0, 100.0], [0.5, math.nan, -100.25],
]  # fmt: skip


@pytest.mark.parametrize("values", PRINTED, ids=str)
def test_printing_floats(values):
    assert repr(fp.tensor(values)) == repr(torch.tensor(values))


OTHER_PRINTED = {
    "ints": lambda m: m.tensor([1, -20, 300]), "bools": lambda m: m.tensor([True, False]), "int8": lambda m: m.tensor([1], dtype=m.int8),
    "double": lambda m: m.tensor([1.5], dtype=m.float64), "half": lambda m: m.tensor([1.5, 2.25], dtype=m.float16), "bfloat16": lambda m: m.tensor([1.5, 3.0], dtype=m.bfloat16),
    "number": lambda m: m.tensor(7), "empty": lambda m: m.zeros(0), "empty 2d": lambda m: m.zeros(0, 3), "empty ints": lambda m: m.zeros(0, dtype=m.int64),
    "leaf": lambda m: m.ones(2, requires_grad=True), "matrix": lambda m: m.arange(6).reshape(2, 3), "large": lambda m: m.arange(2000), "large 2d": lambda m: m.zeros(50, 50),
    "3d": lambda m: m.arange(8).reshape(2, 2, 2), "long row": lambda m: m.arange(40), "long float row": lambda m: m.arange(30) / 7,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_PRINTED)
def test_printing_others(name):
    ours = repr(OTHER_PRINTED[name](fp)).replace("firepot.", "torch.")
    assert ours == repr(OTHER_PRINTED[name](torch))


def test_numpy_both_ways():
    for dtype in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        array = (np.arange(6).reshape(2, 3) % 3).astype(dtype)
        x = fp.tensor(array)
        assert x.dtype.name == dtype
        assert x.numpy().dtype == array.dtype
        np.testing.assert_array_equal(x.numpy(), array)
        np.testing.assert_array_equal(np.asarray(x.T), array.T)
    assert fp.tensor(np.float32(2.5)).item() == 2.5
    assert fp.tensor(np.arange(3, dtype=">i4")).tolist() == [0, 1, 2]
    half = fp.tensor([1.5, -2.0], dtype=fp.bfloat16)
    assert half.numpy().dtype == np.float32
    assert half.tolist() == [1.5, -2.0]
    np.testing.assert_array_equal(np.ones(2) * np.asarray(fp.ones(2)), np.ones(2))


def test_dlpack_both_ways():
    x = fp.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert torch.from_dlpack(x).tolist() == x.tolist()
    assert np.from_dlpack(x).tolist() == x.tolist()
    assert fp.from_dlpack(torch.arange(4).reshape(2, 2).T).tolist() == [[0, 2], [1, 3]]
    assert fp.from_dlpack(np.arange(3)).dtype is fp.int64
    with pytest.raises(BufferError, match="gradient"):
        fp.ones(2, requires_grad=True).__dlpack__()


def test_copies():
    x = fp.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    for duplicate in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert duplicate.tolist() == [1, 2]
        assert duplicate.requires_grad
        assert duplicate.is_leaf
    assert copy.deepcopy(x).grad.tolist() == [2, 4]
    pair = copy.deepcopy({"a": x, "b": [x]})
    assert pair["a"] is pair["b"][0]
    assert pair["a"] is not x
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(x * 2)
    for dtype in (fp.bfloat16, fp.bool, fp.int8):
        again = pickle.loads(pickle.dumps(fp.tensor([1, 0, 1], dtype=dtype)))
        assert again.dtype is dtype
        assert again.tolist() == [1, 0, 1]
    assert pickle.loads(pickle.dumps(fp.float16)) is fp.float16


def test_conversion_to_python():
    assert fp.tensor([[7]]).item() == 7
    assert isinstance(fp.tensor(7).item(), int)
    assert isinstance(fp.tensor(7.0).item(), float)
    assert fp.tensor(True).item() is True
    assert (int(fp.tensor(2.7)), float(fp.tensor(3)), bool(fp.tensor([0.0]))) == (2, 3.0, False)
    assert [10, 20, 30][fp.tensor(1)] == 20
    assert len(fp.zeros(3, 2)) == 3
    assert [v.item() for v in fp.arange(3)] == [0, 1, 2]
    assert 2 in fp.arange(3)
    assert 5 not in fp.arange(3)
    assert f"{fp.tensor(3.14159):.2f}" == "3.14"


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: fp.ones(2).item(), RuntimeError, "2 elements"),
        (lambda: bool(fp.ones(2)), RuntimeError, "ambiguous"),
        (lambda: bool(fp.ones(0)), RuntimeError, "no values"),
        (lambda: int(fp.ones(2)), RuntimeError, "2 elements"),
        (lambda: [1, 2][fp.tensor(1.0)], TypeError, "integer tensors"),
        (lambda: len(fp.tensor(1)), TypeError, "0-d"),
        (lambda: iter(fp.tensor(1)), TypeError, "0-d"),
        (lambda: fp.ones(2) + "a", TypeError, "unsupported operand"),
        (lambda: fp.ones(2) < None, TypeError, "not supported"),
        (lambda: fp.ones(2).nonsense, AttributeError, "nonsense"),
    ],
)
def test_conversion_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_attributes():
    x = fp.zeros(2, 3, dtype=fp.float16)
    assert (x.shape, x.ndim, x.numel(), x.size(1), x.size(-1), tuple(x.size())) == ((2, 3), 2, 6, 3, 3, (2, 3))
    assert (x.itemsize, x.nbytes, x.element_size(), str(x.device)) == (2, 12, 2, "cpu")
    assert x.device == "cpu"
    assert x.is_floating_point()
    assert x.to("cpu") is x
    assert x.to(fp.float32).dtype is fp.float32
    assert x.type_as(fp.zeros(1)).dtype is fp.float32
    assert (x == None) is False  # noqa: E711 - Python's answer for what has no comparison
    assert {x: 1}[x] == 1


def test_pending_values_are_let_go():
    from firepot.tensor import _pending

    before = len(_pending)
    for _ in range(5):
        x = fp.ones(3) * 2
        x = x + 1
        del x
    assert len(_pending) == before
