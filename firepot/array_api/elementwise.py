"""Element-wise functions."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from firepot import ops
from firepot.array_api.data_types import common
from firepot.graph import dtypes
from firepot.tensor import Tensor

__all__ = [
    "abs",
    "acos",
    "acosh",
    "add",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "ceil",
    "clip",
    "conj",
    "copysign",
    "cos",
    "cosh",
    "divide",
    "equal",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "hypot",
    "imag",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "nextafter",
    "not_equal",
    "positive",
    "pow",
    "real",
    "reciprocal",
    "remainder",
    "round",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "trunc",
]  # fmt: skip

Operand = Tensor | builtins.bool | int | float | complex


def _kind(name: str, dtype: dtypes.DType, kinds: str) -> None:
    if dtype.kind not in kinds:
        words = {
            "f": "real floating", "c": "complex", "fc": "floating", "b": "bool", "iub": "integer or bool",
            "iuf": "real", "iufc": "numeric", "iufbc": "any",
        }[kinds]  # fmt: skip
        raise TypeError(f"{name}: takes arrays of {words} dtype, not {dtype.name}")


def _unary(name: str, operator: Callable[..., Any], kinds: str) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor, /) -> Tensor:
        _kind(name, x.dtype, kinds)
        return operator(x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{name}` of every element of x."
    return function


def _binary(name: str, operator: Callable[..., Any], kinds: str) -> Callable[[Operand, Operand], Tensor]:
    def function(x1: Operand, x2: Operand, /) -> Tensor:
        a, b = common(x1, x2)
        _kind(name, a.dtype, kinds)
        return operator(a, b)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{name}` of the elements of x1 and x2, broadcast, in their common dtype."
    return function


def _rounded(x: Tensor) -> Tensor:
    return ops.complex(ops.round(x.real), ops.round(x.imag)) if x.dtype.is_complex else ops.round(x)


acos = _unary("acos", ops.acos, "fc")
acosh = _unary("acosh", ops.acosh, "fc")
asin = _unary("asin", ops.asin, "fc")
asinh = _unary("asinh", ops.asinh, "fc")
atan = _unary("atan", ops.atan, "fc")
atanh = _unary("atanh", ops.atanh, "fc")
cos = _unary("cos", ops.cos, "fc")
cosh = _unary("cosh", ops.cosh, "fc")
exp = _unary("exp", ops.exp, "fc")
expm1 = _unary("expm1", ops.expm1, "fc")
log = _unary("log", ops.log, "fc")
log10 = _unary("log10", ops.log10, "fc")
log1p = _unary("log1p", ops.log1p, "fc")
log2 = _unary("log2", ops.log2, "fc")
reciprocal = _unary("reciprocal", ops.reciprocal, "fc")
signbit = _unary("signbit", ops.signbit, "f")
sin = _unary("sin", ops.sin, "fc")
sinh = _unary("sinh", ops.sinh, "fc")
sqrt = _unary("sqrt", ops.sqrt, "fc")
tan = _unary("tan", ops.tan, "fc")
tanh = _unary("tanh", ops.tanh, "fc")

abs = _unary("abs", ops.abs, "iufc")
ceil = _unary("ceil", ops.ceil, "iuf")
conj = _unary("conj", ops.conj, "iufc")
floor = _unary("floor", ops.floor, "iuf")
isfinite = _unary("isfinite", ops.isfinite, "iufc")
isinf = _unary("isinf", ops.isinf, "iufc")
isnan = _unary("isnan", ops.isnan, "iufc")
negative = _unary("negative", ops.negative, "iufc")
positive = _unary("positive", ops.positive, "iufc")
imag = _unary("imag", ops.imag, "c")
real = _unary("real", ops.real, "iufc")
round = _unary("round", _rounded, "iufc")
square = _unary("square", ops.square, "iufc")
trunc = _unary("trunc", ops.trunc, "iuf")

bitwise_invert = _unary("bitwise_invert", ops.bitwise_not, "iub")
logical_not = _unary("logical_not", ops.logical_not, "b")

atan2 = _binary("atan2", ops.atan2, "f")
copysign = _binary("copysign", ops.copysign, "f")
divide = _binary("divide", ops.divide, "fc")
hypot = _binary("hypot", ops.hypot, "f")
logaddexp = _binary("logaddexp", ops.logaddexp, "f")
nextafter = _binary("nextafter", ops.nextafter, "f")

add = _binary("add", ops.add, "iufc")
floor_divide = _binary("floor_divide", ops.floor_divide, "iuf")
greater = _binary("greater", ops.greater, "iuf")
greater_equal = _binary("greater_equal", ops.greater_equal, "iuf")
less = _binary("less", ops.less, "iuf")
less_equal = _binary("less_equal", ops.less_equal, "iuf")
maximum = _binary("maximum", ops.maximum, "iuf")
minimum = _binary("minimum", ops.minimum, "iuf")
multiply = _binary("multiply", ops.multiply, "iufc")
pow = _binary("pow", ops.pow, "iufc")
remainder = _binary("remainder", ops.remainder, "iuf")
subtract = _binary("subtract", ops.subtract, "iufc")

bitwise_and = _binary("bitwise_and", ops.bitwise_and, "iub")
bitwise_left_shift = _binary("bitwise_left_shift", ops.bitwise_left_shift, "iub")
bitwise_or = _binary("bitwise_or", ops.bitwise_or, "iub")
bitwise_right_shift = _binary("bitwise_right_shift", ops.bitwise_right_shift, "iub")
bitwise_xor = _binary("bitwise_xor", ops.bitwise_xor, "iub")

equal = _binary("equal", ops.eq, "iufbc")
not_equal = _binary("not_equal", ops.not_equal, "iufbc")

logical_and = _binary("logical_and", ops.logical_and, "b")
logical_or = _binary("logical_or", ops.logical_or, "b")
logical_xor = _binary("logical_xor", ops.logical_xor, "b")


def clip(x: Tensor, /, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """x, elements below `min` or above `max` replaced by them; of the dtype of x.

    Raises TypeError for limits of another kind than that of x.
    """
    _kind("clip", x.dtype, "iuf")
    limits = []
    for limit in (min, max):
        floating = isinstance(limit, float) or (isinstance(limit, Tensor) and limit.dtype.kind == "f")
        if floating and x.dtype.kind != "f":
            raise TypeError(f"clip: an array of {x.dtype.name} takes integer limits, not floating ones")
        limits.append(limit.to(x.dtype) if isinstance(limit, Tensor) else limit)
    if limits == [None, None]:
        return ops.positive(x)
    return ops.clip(x, *limits)


def sign(x: Tensor, /) -> Tensor:
    """−1, 0 or 1 of every element, of complex ones x / |x|; NaN of NaN (where PyTorch's gives 0)."""
    _kind("sign", x.dtype, "iufc")
    if x.dtype.is_complex:
        return ops.sgn(x)
    signs = ops.sign(x)
    return ops.where(ops.isnan(x), x, signs) if x.dtype.kind == "f" else signs
