"""Making tensors, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import Comparison

import firepot as fp

CASES = {
    "zeros": lambda m: m.zeros(2, 3), "zeros tuple": lambda m: m.zeros((2, 3)), "ones 0-d": lambda m: m.ones(()),
    "full": lambda m: m.full((2,), 3), "full float": lambda m: m.full((2,), 3.5), "full bool": lambda m: m.full((2,), True),
    "full dtype": lambda m: m.full((2,), 3, dtype=m.float16), "arange": lambda m: m.arange(5), "arange two": lambda m: m.arange(2, 7),
    "arange step": lambda m: m.arange(7, 0, -3), "arange float": lambda m: m.arange(0, 1, 0.1), "arange negative": lambda m: m.arange(1.0, -1.0, -0.3),
    "arange empty": lambda m: m.arange(2, 2), "arange dtype": lambda m: m.arange(3, dtype=m.float64), "arange float end": lambda m: m.arange(2.5),
    "linspace": lambda m: m.linspace(0, 1, 7), "linspace one": lambda m: m.linspace(3, 4, 1), "linspace none": lambda m: m.linspace(0, 1, 0),
    "linspace down": lambda m: m.linspace(5, -5, 11, dtype=m.float64), "logspace": lambda m: m.logspace(0, 2, 5), "logspace 2": lambda m: m.logspace(0, 3, 4, 2.0),
    "eye": lambda m: m.eye(3), "eye wide": lambda m: m.eye(2, 4, dtype=m.int64), "zeros_like": lambda m: m.zeros_like(m.ones(2, dtype=m.int32)),
    "ones_like": lambda m: m.ones_like(m.ones(2), dtype=m.float64), "full_like": lambda m: m.full_like(m.ones(2), 7), "new_zeros": lambda m: m.ones(2, dtype=m.int8).new_zeros(3),
    "new_full": lambda m: m.ones(2, dtype=m.int8).new_full((3,), 4), "empty shape": lambda m: m.zeros(0, 3), "tensor list": lambda m: m.tensor([[1, 2], [3, 4]]),
    "tensor floats": lambda m: m.tensor([1, 2.5]), "tensor bools": lambda m: m.tensor([True, False]), "tensor number": lambda m: m.tensor(3), "tensor float": lambda m: m.tensor(3.0),
    "tensor empty": lambda m: m.tensor([]), "tensor nested empty": lambda m: m.tensor([[], []]), "tensor numpy": lambda m: m.tensor(np.array([1.5, 2.5])),
    "tensor of tensors": lambda m: m.tensor([m.tensor(1.0), m.tensor(2.0)]), "tensor dtype": lambda m: m.tensor([1.7, -1.7], dtype=m.int64), "as_tensor": lambda m: m.as_tensor(np.arange(3, dtype=np.int16)),
    "from_numpy": lambda m: m.from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3).T), "from_numpy reversed": lambda m: m.as_tensor(np.arange(4)[::-1].copy()),
    "tensor bfloat16": lambda m: m.tensor([1.00390625, 3.14159], dtype=m.bfloat16), "tensor half": lambda m: m.tensor([65519.0, 1e-8], dtype=m.float16), "uint8": lambda m: m.tensor([250, 3], dtype=m.uint8),
}  # fmt: skip


def test_values():
    compared = Comparison()
    for name, make in CASES.items():
        compared.add(name, make(fp), make(torch))
    compared.check()


def test_conversions():
    compared = Comparison()
    values = [0.0, -0.0, 1.5, -1.5, 2.5, 3.99, -3.99, 127.0, 100.25]
    kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "bool"]
    for source in kinds:
        for target in kinds:
            a = fp.tensor(values, dtype=fp.float64).to(getattr(fp, source)).to(getattr(fp, target))
            b = torch.tensor(values, dtype=torch.float64).to(getattr(torch, source)).to(getattr(torch, target))
            compared.add(f"{source} to {target}", a, b)
    compared.check()


def test_default_dtype():
    try:
        fp.set_default_dtype(fp.float64)
        assert fp.ones(2).dtype is fp.float64
        assert (fp.arange(2) / 2).dtype is fp.float64
    finally:
        fp.set_default_dtype(fp.float32)
    with pytest.raises(TypeError, match="int64"):
        fp.set_default_dtype(fp.int64)


def test_a_tensor_does_not_share_memory_with_numpy():
    array = np.ones(3)
    x = fp.from_numpy(array)
    array[0] = 5
    assert x.tolist() == [1, 1, 1]
    y = x.numpy()
    y[0] = 7
    assert x.tolist() == [1, 1, 1]


def test_numbers_at_the_limits_of_their_dtype():
    values = {
        "int64": [-(2**63), 2**63 - 1, 1.7], "uint64": [2**64 - 1], "int8": [-128, 127, True], "uint8": [255, -255],
        "float32": [1e300, -0.0, 2**70, float("nan")], "float16": [65519.0, 1e-8], "bfloat16": [1.5, 3e38], "bool": [2, 0.0],
    }  # fmt: skip
    comparison = Comparison()
    for name, numbers in values.items():
        for v in numbers:
            comparison.add(f"{name} {v}", fp.tensor(v, dtype=getattr(fp, name)), torch.tensor(v, dtype=getattr(torch, name)))
    comparison.check()


def test_programs_serve_every_number():
    x = fp.arange(5, dtype=fp.float32)
    fp.eval(x * fp.tensor(0.5))
    before = fp.debug.statistics().programs
    results = [(x * fp.tensor(0.25 * n)).tolist() for n in range(1, 5)]
    assert fp.debug.statistics().programs == before
    assert results == [[0.25 * n * i for i in range(5)] for n in range(1, 5)]


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: fp.zeros(2, -1), RuntimeError, "negative"),
        (lambda: fp.arange(0, 3, 0), RuntimeError, "arange: step"),
        (lambda: fp.tensor([[1, 2], [3]]), (ValueError, TypeError), "(?i)ragged|inhomogeneous"),
        (lambda: fp.tensor("text"), TypeError, "dtype"),
        (lambda: fp.tensor(np.array(["a"])), TypeError, "no dtype for NumPy's <U1"),
        (lambda: fp.zeros(2, device="cuda"), RuntimeError, "cuda"),
        (lambda: fp.ones(2, dtype=fp.int64, requires_grad=True), RuntimeError, "floating point"),
        (lambda: fp.tensor(2**63), RuntimeError, "9223372036854775808 cannot be converted to int64"),
        (lambda: fp.tensor(300, dtype=fp.uint8), RuntimeError, "300 cannot be converted to uint8"),
        (lambda: fp.tensor(float("nan"), dtype=fp.int32), RuntimeError, "nan cannot be converted to int32"),
        (lambda: fp.linspace(0, 1, -1), RuntimeError, "linspace: .*-1"),
        (lambda: fp.eye(-1), RuntimeError, "eye: .*-1"),
    ],
)
def test_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int32, np.bool_])
def test_numpy_scalar_keeps_its_dtype(kind):
    ours, theirs = fp.tensor(kind(1.5)), torch.tensor(kind(1.5))
    assert f"torch.{ours.dtype.name}" == str(theirs.dtype)
    assert ours.item() == theirs.item()
    assert fp.tensor(kind(1.5), dtype=fp.float32).dtype is fp.float32


@pytest.mark.parametrize(
    "values",
    [[np.float64(1.5)], [np.float32(1), np.float64(2)], [np.float32(1), 2.0], [[1.0, np.float64(2)]],
     (np.complex128(1),), [[np.ones(2)], [np.ones(2, np.float32)]], [1.0, True]],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Creating a tensor")
def test_numpy_numbers_in_lists_keep_their_precision(values):
    ours, theirs = fp.tensor(values), torch.tensor(values)
    assert f"torch.{ours.dtype.name}" == str(theirs.dtype)
    assert (ours.numpy() == theirs.numpy()).all()
