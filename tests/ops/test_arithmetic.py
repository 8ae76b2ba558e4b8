"""Element-wise operations against PyTorch: values, dtypes, special values, broadcasting, derivatives, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp

UNARY = [
    "abs",
    "neg",
    "sign",
    "floor",
    "ceil",
    "trunc",
    "round",
    "frac",
    "square",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "erf",
    "erfc",
    "erfinv",
    "lgamma",
    "digamma",
    "sigmoid",
    "isnan",
    "isinf",
    "isfinite",
    "signbit",
    "logical_not",
    "deg2rad",
    "rad2deg",
    "sinc",
    "nan_to_num",
    "logit",
    "positive",
]
BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "floor_divide",
    "remainder",
    "fmod",
    "pow",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "atan2",
    "hypot",
    "copysign",
    "nextafter",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_xor",
    "logaddexp",
    "xlogy",
    "float_power",
]
NUMBERS = [0.0, -0.0, 0.3, -0.7, 1.0, -1.0, 0.5, 2.5, -3.5, 7.25, -12.0, 88.0, -104.0]
SPECIAL = [*NUMBERS, math.inf, -math.inf, math.nan]
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
NO_HALF = {"nextafter", "copysign"}  # missing on PyTorch's CPU; the sign of a NaN, which conversions lose
# Firepot differs on purpose: sign keeps NaN. Which of two zeros maximum and minimum take is not promised.
# sinc is zero at whole numbers, and not what is left of rounding π.
ZERO_SIGN_FREE = {"sinc", "sign", "maximum", "minimum", "fmax", "fmin"}


def apply_both(name, ours, reference):
    """(Firepot's result, PyTorch's), None where PyTorch refuses the dtype."""
    try:
        expected = getattr(torch, name)(*reference)
    except (RuntimeError, TypeError):
        return None
    return getattr(fp, name)(*ours), expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_unary(dtype):
    compared = Comparison()
    values = SPECIAL if dtype.startswith(("float", "bfloat")) else [0, 1, 2, 3, 5, 100]
    x, rx = both(np.array(values), dtype)
    for name in UNARY:
        if name == "signbit" and dtype == "bfloat16":  # the sign of a NaN is lost in conversions
            continue
        numbers, reference = (x[:-1], rx[:-1]) if name == "sign" and len(values) == len(SPECIAL) else (x, rx)
        found = apply_both(name, [numbers], [reference])
        if found:
            compared.add(f"{name} {dtype}", *signless(name, *found))
    compared.check()


def test_sign_keeps_nan():
    assert math.isnan(fp.sign(fp.tensor(math.nan)).item())


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary(dtype):
    compared = Comparison()
    values = SPECIAL if dtype.startswith(("float", "bfloat")) else [0, 1, 2, 3, 5, 7, 9]
    if dtype in ("int64", "int32", "int16", "int8"):
        values = [-7, -2, -1, *values]
    a, b = np.meshgrid(np.array(values), np.array(values))
    if not dtype.startswith(("float", "bfloat")):  # division by zero raises in PyTorch
        a, b = a[b != 0], b[b != 0]
    x, rx = both(a, dtype)
    y, ry = both(b, dtype)
    for name in BINARY:
        if name in NO_HALF and dtype in ("float16", "bfloat16"):
            continue
        if name == "pow" and dtype.startswith("int"):
            found = fp.pow(x, y.abs()), torch.pow(rx, ry.abs())
        else:
            found = apply_both(name, [x, y], [rx, ry])
        if found:
            compared.add(f"{name} {dtype}", *signless(name, *found))
    compared.check()


@pytest.mark.parametrize("name", ["add", "mul", "div", "maximum", "pow", "bitwise_xor", "where"])
def test_promotion(name):
    """Every pair of dtypes, with and without dimensions, and Python numbers."""
    compared = Comparison()
    kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]
    if name == "bitwise_xor":
        kinds = ["int64", "int32", "int8", "uint8", "bool"]
    for a in kinds:
        for shape in ((3,), ()):
            x, rx = both(np.ones(shape), a)
            for b in kinds:
                y, ry = both(np.ones((3,)), b)
                mask, reference_mask = both([True, False, True], "bool")
                head, reference_head = ([mask], [reference_mask]) if name == "where" else ([], [])
                found = apply_both(name, [*head, x, y], [*reference_head, rx, ry])
                if found:
                    compared.add(f"{name} {a}{list(shape)} {b}", *found)
            for number in (True, 2, 2.5):
                if name in ("add", "mul", "div", "pow", "bitwise_xor"):
                    found = apply_both(name, [x, number], [rx, number])
                    if found:
                        compared.add(f"{name} {a}{list(shape)} {number}", *found)
    compared.check()


SHAPES = [((), ()), ((), (3,)), ((4, 1, 3), (5, 1)), ((0, 3), (3,)), ((1, 0), (4, 1)), ((17,), (17,)), ((2, 3), (2, 3))]
VIEWS = {
    "transposed": lambda x: x.transpose(0, 1), "sliced": lambda x: x[1:, ::2], "flipped": lambda x: x.flip(1),
    "expanded": lambda x: x[:1].expand(4, 6), "picked": lambda x: x[2].reshape(2, 3),
}  # fmt: skip


def test_broadcasting_and_views():
    compared = Comparison()
    for a, b in SHAPES:
        x, rx = both(draw(a), "float32")
        y, ry = both(draw(b, 1), "float32")
        compared.add(f"{a} − {b}", x - y, rx - ry)
        compared.add(f"where {a} {b}", fp.where(x > y, x, y), torch.where(rx > ry, rx, ry))
    x, rx = both(draw((4, 6)), "float64")
    for name, view in VIEWS.items():
        a = rx.flip(1) if name == "flipped" else view(rx)
        compared.add(name, fp.exp(view(x)) * view(x), torch.exp(a) * a)
        compared.add(f"{name}, then summed", (view(x) * 2).sum(0), (view(rx) * 2).sum(0))
    compared.check()


SMOOTH_UNARY = {  # name -> interval that keeps away from kinks and poles
    "abs": (-2, 2), "sqrt": (0.2, 3), "rsqrt": (0.2, 3), "reciprocal": (0.3, 2), "exp": (-2, 2), "exp2": (-2, 2),
    "expm1": (-2, 2), "log": (0.2, 3), "log2": (0.2, 3), "log10": (0.2, 3), "log1p": (-0.7, 3), "sin": (-4, 4),
    "cos": (-4, 4), "tan": (-1.3, 1.3), "asin": (-0.9, 0.9), "acos": (-0.9, 0.9), "atan": (-3, 3), "sinh": (-2, 2),
    "cosh": (-2, 2), "tanh": (-2, 2), "asinh": (-3, 3), "acosh": (1.1, 4), "atanh": (-0.9, 0.9), "erf": (-2, 2),
    "erfc": (-2, 2), "erfinv": (-0.9, 0.9), "sigmoid": (-4, 4), "square": (-2, 2), "frac": (0.1, 0.9),
    "sinc": (-2, 2), "logit": (0.1, 0.9), "neg": (-2, 2),
}  # fmt: skip
FIRST_ORDER_UNARY = {"lgamma": (0.2, 4), "floor": (0.1, 3), "round": (0.1, 0.4), "sign": (-2, 2)}
SMOOTH_BINARY = {
    "add": 1, "sub": 1, "mul": 1, "div": 1, "pow": 1, "maximum": 1, "minimum": 1, "fmax": 1, "fmin": 1, "atan2": 2,
    "hypot": 2, "remainder": 1, "fmod": 1, "copysign": 1, "logaddexp": 2, "xlogy": 2,
}  # fmt: skip


def test_unary_gradients():
    compared = Comparison()
    for name, (low, high) in {**SMOOTH_UNARY, **FIRST_ORDER_UNARY}.items():
        x, rx = both(draw((3, 4), 5, low, high), requires_grad=True)
        y, ry = getattr(fp, name)(x), getattr(torch, name)(rx)
        compare_gradients(compared, name, y, ry, [(x, rx)])
        if name in SMOOTH_UNARY:
            (g,) = fp.autograd.grad(y.sum(), x, create_graph=True)
            (rg,) = torch.autograd.grad(ry.sum(), rx, create_graph=True)
            if rg.requires_grad:
                compare_gradients(compared, f"{name} second", g * x, rg * rx, [(x, rx)])
    compared.check()


def test_binary_gradients():
    compared = Comparison()
    for name in SMOOTH_BINARY:
        x, rx = both(draw((3, 4), 7, 0.3, 2.0), requires_grad=True)
        y, ry = both(draw((3, 1), 8, 0.4, 1.5), requires_grad=True)
        z, rz = getattr(fp, name)(x, y), getattr(torch, name)(rx, ry)
        compare_gradients(compared, name, z, rz, [(x, rx), (y, ry)])
        (g,) = fp.autograd.grad(z.sum(), x, create_graph=True)
        (rg,) = torch.autograd.grad(rz.sum(), rx, create_graph=True)
        if rg.requires_grad:
            compare_gradients(compared, f"{name} second", g * x, rg * rx, [(x, rx), (y, ry)])
    compared.check()


def test_gradients_at_kinks_and_edges():
    """Where a derivative is a convention, it is PyTorch's."""
    cases = {
        "abs": (lambda m, x: m.abs(x), [0.0, -1.0]),
        "relu": (lambda m, x: x.relu(), [0.0, -1.0, 1.0]),
        "clamp": (lambda m, x: m.clamp(x, -1.0, 1.0), [-1.0, 1.0, 0.0, 3.0, -3.0]),
        "clamp_min": (lambda m, x: m.clamp(x, min=0.0), [0.0, -1.0, 1.0]),
        "maximum tie": (lambda m, x: m.maximum(x, x * 1.0), [1.0]),
        "square root at 0": (lambda m, x: m.sqrt(x), [0.0, 4.0]),
        "power 0": (lambda m, x: m.pow(x, 0), [0.0, 2.0]),
        "power 1.5": (lambda m, x: m.pow(x, 1.5), [0.0, 2.0]),
        "power 3": (lambda m, x: m.pow(x, 3), [0.0, -2.0]),
        "power 4": (lambda m, x: m.pow(x, 4), [0.0, -2.0]),
        "power of 2": (lambda m, x: m.pow(2.0, x), [0.0, -2.0, 3.0]),
        "power of 0": (lambda m, x: m.pow(0.0, x), [0.0, 2.0]),
        "self power": (lambda m, x: m.pow(x, x), [0.5, 2.0]),
        "where hides nan": (lambda m, x: m.where(x > 0, x, x * 0), [-1.0, 1.0]),
        "hypot at 0": (lambda m, x: m.hypot(x, m.ones_like(x)), [0.0]),
        "xlogy at 0": (lambda m, x: m.xlogy(m.zeros_like(x), x), [0.5, 2.0]),
        "nan_to_num": (lambda m, x: m.nan_to_num(x), [math.nan, math.inf, 1.0]),
        "lerp": (lambda m, x: m.lerp(x, x * x, 0.3), [0.5, 2.0]),
        "addcmul": (lambda m, x: m.addcmul(x, x, x, value=0.5), [0.5, 2.0]),
        "addcdiv": (lambda m, x: m.addcdiv(x, x, x + 1, value=0.5), [0.5, 2.0]),
        "div floor": (lambda m, x: x * m.div(x, 0.3, rounding_mode="floor"), [0.5, -2.0]),
        "div trunc": (lambda m, x: x * m.div(x, 0.3, rounding_mode="trunc"), [0.5, -2.0]),
    }  # fmt: skip
    compared = Comparison()
    for name, (function, points) in cases.items():
        x, rx = both(points, requires_grad=True)
        y, ry = function(fp, x), function(torch, rx)
        compared.add(name, y, ry)
        compare_gradients(compared, name, y, ry, [(x, rx)])
    compared.check()


def test_scalar_forms():
    """Python numbers on either side, alpha, decimals, rounding modes and the shifts."""
    compared = Comparison()
    for dtype in ("float32", "int64", "uint8"):
        x, rx = both([1, 2, 3, 5], dtype)
        cases = [
            lambda m, x: 2 - x, lambda m, x: 2.5 * x, lambda m, x: 7 // x, lambda m, x: 7 % x, lambda m, x: 2**x,
            lambda m, x: x / 2, lambda m, x: 1 / x, lambda m, x: m.add(x, x, alpha=3), lambda m, x: m.sub(x, 1, alpha=2),
            lambda m, x: x > 2.5, lambda m, x: x == 2, lambda m, x: m.clamp(x, 2, 3), lambda m, x: m.clamp(x, min=2.5),
            lambda m, x: m.maximum(x, m.full_like(x, 2)), lambda m, x: m.where(x > 2, x, 0), lambda m, x: m.rsub(x, 9),
            lambda m, x: m.where(x > 2, 1.0, 0.0), lambda m, x: m.isclose(x, x + 0), lambda m, x: x**2, lambda m, x: x**0.5,
            lambda m, x: m.div(x, 2, rounding_mode="floor"), lambda m, x: m.div(x, 2, rounding_mode="trunc"),
        ]  # fmt: skip
        if dtype != "float32":
            cases += [
                lambda m, x: x << 2, lambda m, x: x >> 1, lambda m, x: ~x, lambda m, x: x & 3, lambda m, x: 1 | x,
                lambda m, x: x ^ x,
            ]  # fmt: skip
        for i, case in enumerate(cases):
            compared.add(f"case {i} {dtype}", case(fp, x), case(torch, rx))
    x, rx = both([1.2345, -2.5, 0.5, 1.5, 123.456])
    for decimals in (0, 2, -1):
        compared.add(f"round {decimals}", fp.round(x, decimals=decimals), torch.round(rx, decimals=decimals))
    compared.check()


def signless(name, ours, reference):
    """Results with −0 as +0 where the sign of a zero is not promised."""
    return (ours + 0, reference + 0) if name in ZERO_SIGN_FREE and ours.dtype.kind == "f" else (ours, reference)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: fp.zeros(2, 3) + fp.zeros(4), RuntimeError, r"add: shapes \[2, 3\] and \[4\]"),
        (lambda: fp.where(fp.ones(2) > 0, fp.zeros(3), 1.0), RuntimeError, "where: shapes"),
        (lambda: -fp.ones(2, dtype=fp.bool), RuntimeError, "neg: .*bool"),
        (lambda: fp.ones(2, dtype=fp.bool) - fp.ones(2, dtype=fp.bool), RuntimeError, "sub: .*bool"),
        (lambda: fp.ones(2) & fp.ones(2), TypeError, "bitwise_and: .*float32"),
        (lambda: fp.ones(2) << 1, TypeError, "bitwise_left_shift: .*float32"),
        (lambda: ~fp.ones(2), TypeError, "bitwise_not.*float32"),
        (lambda: fp.hypot(fp.arange(3), 1), TypeError, "hypot: .*int64"),
        (lambda: fp.pow(fp.arange(3), -1), RuntimeError, "negative integer powers"),
        (lambda: fp.clamp(fp.zeros(2)), ValueError, "clamp"),
        (lambda: fp.div(fp.ones(2), 1, rounding_mode="up"), RuntimeError, "rounding_mode"),
        (lambda: fp.add(fp.arange(3), fp.arange(3), alpha=0.5), RuntimeError, "alpha"),
        (lambda: fp.sub(fp.arange(3), fp.arange(3), alpha=0.5), RuntimeError, "alpha"),
    ],
)
def test_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
