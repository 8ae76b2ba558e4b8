"""Values and dtypes against NumPy, whose main namespace follows the same standard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot import array_api as xp

from .test_namespace import BINARY, UNARY

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATING_ONLY = {
    *["acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "log2", "reciprocal", "signbit", "sin", "sinh", "sqrt"],
    *["tan", "tanh", "atan2", "copysign", "divide", "hypot", "logaddexp", "nextafter"],
}
SHIFTS = {"bitwise_left_shift", "bitwise_right_shift"}


def draw(dtype: str, shape: tuple[int, ...] = (3, 4), seed: int = 0) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    if dtype == "bool":
        return random.random(shape) < 0.5
    if dtype in FLOATS:
        values = random.uniform(-3, 3, shape).astype(dtype)
        if values.size > 5:
            values.reshape(-1)[:5] = [np.nan, np.inf, -np.inf, 0.0, -0.0]
        return values
    return random.integers(1 if dtype[0] == "u" else -6, 7, shape).astype(dtype)


def dtypes_of(name: str) -> tuple[str, ...]:
    if name.startswith("logical"):
        return ("bool",)
    if name.startswith("bitwise"):
        return INTEGERS if name in SHIFTS else (*INTEGERS, "bool")
    if name in FLOATING_ONLY:
        return FLOATS
    return (*INTEGERS, *FLOATS, "bool") if name in ("equal", "not_equal") else (*INTEGERS, *FLOATS)


class Results:
    """Pairs of Firepot's and NumPy's results, computed in one program."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, Any, Any]] = []

    def call(self, name: str, *args: Any, **keywords: Any) -> None:
        """The function of that name on both libraries, arrays given as NumPy's."""
        ours, theirs = xp, np
        for part in name.split("."):
            ours, theirs = getattr(ours, part), getattr(theirs, part)
        with np.errstate(all="ignore"):
            expected = theirs(*args, **keywords)
        shown = f"{name}({', '.join(str(getattr(a, 'dtype', a)) for a in args)}, {keywords})"
        self.add(shown, ours(*map(to_firepot, args), **keywords), expected)

    def add(self, label: str, ours: Any, expected: Any) -> None:
        if isinstance(expected, (tuple, list)):
            assert len(ours) == len(expected), label
            for n, (a, b) in enumerate(zip(ours, expected, strict=True)):
                self.add(f"{label}[{n}]", a, b)
            return
        self.pairs.append((label, ours, np.asarray(expected)))

    def check(self, rtol: float = 3e-6) -> None:
        fp.eval(*[ours for _, ours, _ in self.pairs])
        wrong = []
        for label, ours, expected in self.pairs:
            values = ours.numpy()
            if (values.dtype, values.shape) != (expected.dtype, expected.shape):
                wrong.append(f"{label}: {values.dtype}{values.shape}, NumPy {expected.dtype}{expected.shape}")
            elif not np.allclose(values, expected, rtol=rtol, atol=1e-7, equal_nan=True):
                wrong.append(f"{label}:\n{values}\nNumPy:\n{expected}")
        assert self.pairs and not wrong, "\n".join(wrong)


def to_firepot(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return fp.tensor(np.asarray(value))
    if isinstance(value, list):
        return [to_firepot(v) for v in value]
    return value


def test_unary() -> None:
    results = Results()
    for name in UNARY:
        if name == "imag":  # of complex arrays only
            continue
        for dtype in dtypes_of(name):
            for shape in ((3, 4), (), (0, 2)):
                if name == "round" and dtype in INTEGERS and shape != (3, 4):
                    continue
                x = draw(dtype, shape)
                if name in ("acos", "asin", "atanh"):
                    x = x / np.asarray(4, x.dtype)
                if name in ("ceil", "floor", "trunc", "round", "conj", "real", "square", "abs", "sign"):
                    expected = np.asarray(getattr(np, name)(x), x.dtype)
                    results.add(f"{name} {dtype}", getattr(xp, name)(fp.tensor(x)), expected)
                else:
                    results.call(name, x)
    results.check()


def test_binary() -> None:
    results = Results()
    for name in BINARY:
        for dtype in dtypes_of(name):
            a, b = draw(dtype), draw(dtype, (4,), 1)
            if name in ("floor_divide", "remainder") and dtype in INTEGERS:
                b[b == 0] = 2
            if name in SHIFTS or (name == "pow" and dtype in INTEGERS):
                b = np.abs(b) % np.asarray(3, b.dtype)
            results.call(name, a, b)
    results.check()


def test_promotion_counts_arrays_without_dimensions() -> None:
    results = Results()
    one = np.asarray(1.5)
    for dtype in ("float32", "int16"):
        a = draw(dtype)
        if dtype == "float32":
            results.add("0-d", xp.add(fp.tensor(a), fp.asarray(one, dtype=fp.float64)), a + one)
            results.add("number", xp.multiply(fp.tensor(a), 2.5), a * np.float32(2.5))
        results.add("int", xp.add(3, fp.tensor(a)), 3 + a)
    results.check()
    assert xp.result_type(fp.int8, fp.uint8) is fp.int16
    assert xp.result_type(fp.ones(2), 1, 2.0) is fp.float32
    assert xp.result_type(fp.uint8, 3) is fp.uint8
    with pytest.raises(TypeError, match="uint64"):
        xp.result_type(fp.uint64, fp.int8)
    with pytest.raises(ValueError, match="at least one"):
        xp.result_type(1, 2.0)
    with pytest.raises(TypeError, match="str"):
        xp.result_type(fp.int8, "x")  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [xp.sin, xp.logical_not, xp.bitwise_invert])
def test_kinds_that_a_function_does_not_take(function: Any) -> None:
    with pytest.raises(TypeError, match=function.__name__):
        function(fp.ones(2, dtype=fp.int32 if function is not xp.bitwise_invert else fp.float32))


def test_data_types() -> None:
    assert xp.can_cast(fp.int8, fp.int16) and not xp.can_cast(fp.int16, fp.int8)
    assert xp.can_cast(fp.uint8, fp.int16) and not xp.can_cast(fp.int64, fp.float64)
    assert not xp.can_cast(fp.uint64, fp.int64) and xp.can_cast(fp.ones(1), fp.float64)
    assert xp.isdtype(fp.float32, "numeric") and xp.isdtype(fp.uint8, ("bool", "unsigned integer"))
    assert not xp.isdtype(fp.bool, "numeric") and xp.isdtype(fp.int8, fp.int8)
    with pytest.raises(ValueError, match="complex floating"):
        xp.isdtype(fp.int8, "integer")
    for name in FLOATS:
        ours, theirs = xp.finfo(getattr(fp, name)), np.finfo(name)
        assert (ours.bits, ours.dtype) == (theirs.bits, getattr(fp, name))
        for field in ("eps", "max", "min", "smallest_normal"):
            assert getattr(ours, field) == float(getattr(theirs, field))
    for name in INTEGERS:
        limits = xp.iinfo(fp.zeros(1, dtype=getattr(fp, name)))
        assert (limits.bits, limits.min, limits.max) == (
            np.iinfo(name).bits, np.iinfo(name).min, np.iinfo(name).max,
        )  # fmt: skip
    assert xp.astype(fp.ones(2), fp.int8).dtype is fp.int8


def test_creation() -> None:
    results = Results()
    for args in ((5,), (2, 9), (2, 9, 3), (9, 2), (0,), (1, 2, -1), (9, 2, -2)):
        results.call("arange", *args)
    results.call("eye", 3, 5, k=1, dtype=None)
    results.pairs[-1] = (results.pairs[-1][0], results.pairs[-1][1], np.eye(3, 5, k=1, dtype="float32"))
    results.add("linspace", xp.linspace(0, 1, 5, endpoint=False, dtype=fp.float64), np.linspace(0, 1, 5, endpoint=False))
    results.add("linspace", xp.linspace(0, 3, 1, dtype=fp.float64), np.linspace(0, 3, 1))
    results.call("meshgrid", np.arange(3), np.arange(4))
    results.call("tril", draw("int32"), k=1)
    results.call("triu", draw("int32"), k=-1)
    results.call("asarray", [[1, 2], [3, 4]])
    results.add("buffer", xp.asarray(b"abc"), np.frombuffer(b"abc", np.uint8))
    results.add("zeros", xp.zeros(3, dtype=fp.int8), np.zeros(3, np.int8))
    results.add("full", xp.full((2, 1), 7), np.full((2, 1), 7))
    results.add("like", xp.full_like(fp.ones(2), 7), np.full(2, 7, np.float32))
    results.add("dlpack", xp.from_dlpack(np.arange(3), copy=True), np.arange(3))
    results.check()
    with pytest.raises(ValueError, match="copy"):
        xp.asarray([1], copy=False)
    with pytest.raises(ValueError, match="step"):
        xp.arange(1, 2, 0)


def test_manipulation() -> None:
    results = Results()
    x = draw("int32", (2, 3, 4))
    results.call("concat", [x, x.astype("int64")], axis=1)
    results.call("concat", [x, x[0]], axis=None)
    results.call("expand_dims", x, axis=-2)
    results.call("flip", x)
    results.call("flip", x, axis=(0, -1))
    results.call("moveaxis", x, 0, -1)
    results.add("permute_dims", xp.permute_dims(fp.tensor(x), (2, 0, 1)), np.transpose(x, (2, 0, 1)))
    results.call("repeat", x, 2)
    results.call("repeat", x, np.array([1, 0, 2]), axis=1)
    results.call("reshape", x, (4, -1))
    results.call("roll", x, 2)
    results.call("roll", x, (1, -1), axis=(0, 2))
    results.call("roll", x, 1, axis=(0, 2))
    results.call("squeeze", x[:1], axis=0)
    results.call("stack", [x[0], x[1].astype("int8")], axis=-1)
    results.call("tile", x, (2, 1, 1, 2))
    results.call("unstack", x, axis=1)
    results.call("broadcast_to", x[:, :1], (2, 3, 4))
    results.call("broadcast_arrays", x, x[0, :, :1])
    results.check()
    with pytest.raises(ValueError, match="size 3"):
        xp.squeeze(fp.tensor(x), 1)
    with pytest.raises(IndexError, match="axis 5"):
        xp.expand_dims(fp.tensor(x), axis=5)


def test_statistics() -> None:
    results = Results()
    for dtype in (*INTEGERS, "float64"):
        x = np.nan_to_num(draw(dtype, (2, 3, 4)), posinf=1, neginf=-1)
        for axis in (None, 1, (0, -1), ()):
            for name in ("sum", "prod", "max", "min", "all", "any", "count_nonzero"):
                for keepdims in (False, True):
                    if name == "count_nonzero" and axis == ():
                        continue
                    results.call(name, x, axis=axis, keepdims=keepdims)
    for dtype in FLOATS:
        x = np.nan_to_num(draw(dtype, (2, 3, 4)), posinf=1, neginf=-1)
        for axis in (None, 1, (0, -1)):
            results.call("mean", x, axis=axis)
            results.call("std", x, axis=axis, correction=1)
            results.call("var", x, axis=axis, keepdims=True)
    results.call("cumulative_sum", draw("uint8", (5,)))
    results.call("cumulative_sum", draw("int16"), axis=1, include_initial=True)
    results.call("cumulative_prod", draw("int64"), axis=-1, include_initial=True)
    results.call("diff", draw("int64"), axis=0, n=2)
    results.call("sum", draw("int8"), dtype=None)
    results.check()
    with pytest.raises(ValueError, match="needs an axis"):
        xp.cumulative_sum(fp.ones(2, 2))


def test_searching_and_sets() -> None:
    results = Results()
    x = draw("int32", (3, 4))
    for axis in (None, 0, -1):
        results.call("argmax", x, axis=axis, keepdims=True)
        results.call("argmin", x, axis=axis)
    results.call("argsort", x, axis=0, stable=True)
    results.add("descending", xp.sort(fp.tensor(x), descending=True), -np.sort(-x))
    results.call("nonzero", x > 1)
    results.call("searchsorted", np.array([1.0, 2, 2, 5]), np.array([2.0, 0, 9]), side="right")
    results.call("where", x > 1, x, x.astype("int64"))
    results.call("take", x, np.array([2, -1]), axis=1)
    results.call("take_along_axis", x, np.array([[0], [-1], [2]]), axis=1)
    for values in (x, np.array([2.0, np.nan, 1.0, np.nan, 2.0]), np.zeros((0,)), np.array(3)):
        results.add("unique_counts", tuple(xp.unique_counts(fp.tensor(values))), unique(values, "counts"))
        results.add("unique_inverse", tuple(xp.unique_inverse(fp.tensor(values))), unique(values, "inverse"))
        found = xp.unique_all(fp.tensor(values))
        results.add("unique_all", found.indices, unique(values, "index")[1])
    results.check()
    with pytest.raises(ValueError, match="dimensions"):
        xp.nonzero(fp.tensor(1))
    with pytest.raises(TypeError, match="bool"):
        xp.where(fp.ones(1), fp.ones(1), fp.ones(1))
    with pytest.raises(TypeError, match="float32"):
        xp.take(fp.ones(2), fp.ones(1))


def unique(values: np.ndarray[Any, Any], what: str) -> tuple[Any, Any]:
    found = np.unique(values, equal_nan=False, **{f"return_{what}": True})
    return found[0], found[1].reshape(values.shape) if what == "inverse" else found[1]


def test_clip() -> None:
    results = Results()
    results.call("clip", draw("float32"), -1.0, 2.0)
    results.call("clip", draw("int8"), 0, None)
    results.add("array", xp.clip(fp.tensor(draw("int8")), max=fp.tensor(2)), np.minimum(draw("int8"), np.int8(2)))
    results.add("none", xp.clip(fp.tensor(draw("int8"))), draw("int8"))
    results.check()
    with pytest.raises(TypeError, match="integer limits"):
        xp.clip(fp.ones(2, dtype=fp.int8), 0.5)


def test_linear_algebra() -> None:
    results = Results()
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 4, 4)), random.standard_normal((2, 4, 3))
    definite = a @ np.swapaxes(a, -1, -2) + np.eye(4)
    results.call("matmul", a, b)
    results.call("matrix_transpose", b)
    results.call("tensordot", a, b, axes=((0, 2), (0, 1)))
    results.call("vecdot", a, b[..., :1].swapaxes(-1, -2))
    results.call("linalg.cholesky", definite, upper=True)
    results.call("linalg.cross", a[..., :3], b[..., :1, :], axis=-1)
    for name in ("det", "inv", "svdvals", "matrix_transpose"):
        results.call(f"linalg.{name}", a)
    results.call("linalg.eigvalsh", definite)
    results.call("linalg.diagonal", a, offset=1)
    results.call("linalg.matrix_norm", a, keepdims=True, ord=1)
    results.call("linalg.matrix_power", a, 3)
    results.call("linalg.outer", a[0, 0], b[0, 0])
    results.call("linalg.pinv", b)
    results.call("linalg.slogdet", a)
    results.call("linalg.solve", a, b)
    results.call("linalg.solve", a[0], b[0, :, 0])
    results.call("linalg.trace", a, offset=-1)
    results.call("linalg.vector_norm", a, axis=(0, 1), ord=3)
    results.call("linalg.vector_norm", a, keepdims=True)
    results.add("matrix_rank", xp.linalg.matrix_rank(fp.tensor(definite)), np.array([4, 4]))
    u, s, vh = xp.linalg.svd(fp.tensor(b), full_matrices=False)
    results.add("svd", (u * s.unsqueeze(-2)) @ vh, b)
    q, r = xp.linalg.qr(fp.tensor(b))
    results.add("qr", q @ r, b)
    w, v = xp.linalg.eigh(fp.tensor(definite))
    results.add("eigh", v @ (w.unsqueeze(-1) * v.mT), definite)
    results.call("fft.fftfreq", 5, d=0.5)
    results.pairs[-1] = ("fftfreq", results.pairs[-1][1].to(fp.float64), results.pairs[-1][2])
    results.call("fft.fftshift", a, axes=(0, 2))
    results.check(1e-6)
    with pytest.raises(ValueError, match="axis 1"):
        xp.vecdot(fp.ones(2), fp.ones(2), axis=1)


def test_gradients_pass_through() -> None:
    x = fp.tensor([1.0, -2.0, 3.0], requires_grad=True)
    xp.sum(xp.multiply(xp.maximum(x, 0.0), x)).backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 0.0, 6.0]
