"""Element-wise operations, with PyTorch's promotion and broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.ops.broadcast import NUMBERS, common_shape, expand, floating, operands, plain_pair, promoted
from firepot.tensor import Tensor, default_dtype, node_of, wrap

__all__ = [
    "abs",
    "absolute",
    "acos",
    "acosh",
    "add",
    "addcdiv",
    "addcmul",
    "allclose",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "cast",
    "ceil",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "copysign",
    "cos",
    "cosh",
    "deg2rad",
    "digamma",
    "div",
    "divide",
    "eq",
    "equal",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "finfo",
    "fix",
    "float_power",
    "floor",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "frac",
    "ge",
    "greater",
    "greater_equal",
    "gt",
    "hypot",
    "iinfo",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "lerp",
    "less",
    "less_equal",
    "lgamma",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logit",
    "logsigmoid",
    "lt",
    "maximum",
    "minimum",
    "mul",
    "multiply",
    "nan_to_num",
    "ne",
    "neg",
    "negative",
    "nextafter",
    "not_equal",
    "positive",
    "pow",
    "rad2deg",
    "reciprocal",
    "relu",
    "remainder",
    "round",
    "rsqrt",
    "rsub",
    "sgn",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinc",
    "sinh",
    "sqrt",
    "square",
    "sub",
    "subtract",
    "tan",
    "tanh",
    "true_divide",
    "trunc",
    "where",
    "xlogy",
]  # fmt: skip


Operand = Any


def _binary(name: str, what: str, doc: str, kinds: str = "biufc") -> Callable[..., Tensor]:
    """A binary operation on promoted dtypes of these kinds; 'F' turns integers into the default floating dtype."""

    def function(input: Operand, other: Operand) -> Tensor:
        pair = plain_pair(what, input, other)
        if pair is not None and pair[0].dtype.kind in kinds:
            return wrap(ew.binary(name, *pair))
        dtype = promoted((input, other))
        if dtype.kind not in kinds:
            if "F" not in kinds or dtype.kind == "c":
                expected = "floating-point tensors" if "f" in kinds else "integers or bools"
                raise TypeError(f"{what}: expected {expected}, the operands promote to {dtype.name}")
            dtype = default_dtype()
        a, b = operands(what, input, other, dtype=dtype)
        return wrap(ew.binary(name, a, b))

    function.__name__ = function.__qualname__ = what
    function.__doc__ = doc
    return function


def _compare(name: str, doc: str) -> Callable[..., Tensor]:
    def function(input: Operand, other: Operand) -> Tensor:
        a, b = plain_pair(name, input, other) or operands(name, input, other)
        return wrap(ew.compare(name, a, b))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _unary(name: str, doc: str, to_float: bool = True) -> Callable[..., Tensor]:
    def function(input: Operand) -> Tensor:
        x = node_of(input)
        return wrap(ew.unary(name, floating(x) if to_float else x))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def add(input: Operand, other: Operand, *, alpha: Operand = 1) -> Tensor:
    """input + alpha · other."""
    a, b = plain_pair("add", input, other) or operands("add", input, other)
    return wrap(ew.add(a, _weighted(b, alpha, "add")))


def _weighted(node: Node, alpha: Operand, what: str) -> Node:
    if isinstance(alpha, NUMBERS) and alpha == 1:
        return node
    if isinstance(alpha, complex) and node.dtype.kind != "c":
        raise RuntimeError(f"{what}: for {node.dtype.name} tensors alpha must not be complex, as {alpha} is")
    if isinstance(alpha, float) and not node.dtype.is_inexact:
        raise RuntimeError(f"{what}: for integral tensors alpha must be an integer, not {alpha}")
    return ew.mul(node, expand(node_of(alpha, node.dtype), node.shape))


def sub(input: Operand, other: Operand, *, alpha: Operand = 1) -> Tensor:
    """input − alpha · other. bool tensors cannot be subtracted."""
    a, b = operands("sub", input, other)
    if a.dtype is dtypes.bool_:
        raise RuntimeError("sub: subtraction of bool tensors is not supported; use logical_xor or ~")
    return wrap(ew.sub(a, _weighted(b, alpha, "sub")))


def rsub(input: Operand, other: Operand, *, alpha: Operand = 1) -> Tensor:
    """other − alpha · input."""
    return sub(other, input, alpha=alpha)


mul = _binary("mul", "mul", "input · other.")
maximum = _binary("maximum", "maximum", "The larger of two elements; NaN if either is.")
minimum = _binary("minimum", "minimum", "The smaller of two elements; NaN if either is.")
fmod = _binary("fmod", "fmod", "The remainder with the sign of the first operand (C's fmod).")
remainder = _binary("remainder", "remainder", "The remainder with the sign of the second operand (Python's %).")
bitwise_and = _binary("and", "bitwise_and", "Bitwise and of integers or bools.", "biu")
bitwise_or = _binary("or", "bitwise_or", "Bitwise or of integers or bools.", "biu")
bitwise_xor = _binary("xor", "bitwise_xor", "Bitwise exclusive or of integers or bools.", "biu")
bitwise_left_shift = _binary("shl", "bitwise_left_shift", "input · 2^other for integers.", "iu")
bitwise_right_shift = _binary("shr", "bitwise_right_shift", "input / 2^other rounded down, for integers.", "iu")
eq = _compare("eq", "input = other, as bool.")
ne = _compare("ne", "input ≠ other, as bool.")
lt = _compare("lt", "input < other, as bool.")
le = _compare("le", "input ≤ other, as bool.")
gt = _compare("gt", "input > other, as bool.")
ge = _compare("ge", "input ≥ other, as bool.")


def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """input / other; integers give floats. rounding_mode: None, 'trunc' or 'floor'."""
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode == "trunc":
        a, b = operands("div", input, other)
        return wrap(ew.binary("truncdiv", a, b))
    if rounding_mode is not None:
        raise RuntimeError(f"div: rounding_mode must be None, 'trunc' or 'floor', not {rounding_mode!r}")
    pair = plain_pair("div", input, other)
    if pair is None or not pair[0].dtype.is_inexact:
        dtype = promoted((input, other))
        pair = operands("div", input, other, dtype=dtype if dtype.is_inexact else default_dtype())
    return wrap(ew.div(*pair))


def floor_divide(input: Operand, other: Operand) -> Tensor:
    """input / other rounded down, in the promoted dtype."""
    a, b = operands("floor_divide", input, other)
    return wrap(ew.binary("floordiv", a, b))


def pow(input: Operand, exponent: Operand) -> Tensor:
    """input raised to a power. A negative whole exponent of an integer tensor is an error, as in PyTorch."""
    if isinstance(exponent, int) and not isinstance(exponent, bool) and exponent < 0:
        base = node_of(input)
        if not base.dtype.is_inexact:
            raise RuntimeError("pow: integers to negative integer powers are not allowed; convert to float first")
    if isinstance(exponent, NUMBERS) and not isinstance(input, NUMBERS):
        x = ew.cast(node_of(input), promoted((input, exponent)))
        if x.dtype.is_inexact and not isinstance(exponent, complex):
            special = _whole_power(x, float(exponent))
            if special is not None:
                return wrap(special)
    a, b = operands("pow", input, exponent)
    return wrap(ew.power(a, b))


def _whole_power(x: Node, exponent: float) -> Node | None:
    """Small powers as products, which is faster and has a better derivative at zero."""
    if exponent == 1:
        return x
    if exponent == 2:
        return ew.square(x)
    if exponent == 3:
        return ew.mul(ew.square(x), x)
    if exponent == 0.5:
        return ew.unary("sqrt", x)
    if exponent == -0.5:
        return ew.unary("rsqrt", x)
    return ew.unary("reciprocal", x) if exponent == -1 else None


def float_power(input: Operand, exponent: Operand) -> Tensor:
    """pow in float64, or complex128."""
    dtype = dtypes.complex128 if promoted((input, exponent)).is_complex else dtypes.float64
    a, b = operands("float_power", input, exponent, dtype=dtype)
    return wrap(ew.power(a, b))


atan2 = _binary("atan2", "atan2", "The angle of the point (x = other, y = input), in −π … π.", "fF")
hypot = _binary("hypot", "hypot", "√(input² + other²) without overflow.", "f")
copysign = _binary("copysign", "copysign", "The size of the first with the sign of the second.", "fF")
nextafter = _binary("nextafter", "nextafter", "The next float from the first toward the second.", "f")

sqrt = _unary("sqrt", "The square root.")
rsqrt = _unary("rsqrt", "1 / √input.")
reciprocal = _unary("reciprocal", "1 / input.")
exp = _unary("exp", "e to the power of each element.")
exp2 = _unary("exp2", "2 to the power of each element.")
expm1 = _unary("expm1", "exp(input) − 1, accurate near zero.")
log = _unary("log", "The natural logarithm.")
log2 = _unary("log2", "The logarithm to base 2.")
log10 = _unary("log10", "The logarithm to base 10.")
log1p = _unary("log1p", "log(1 + input), accurate near zero.")
sin = _unary("sin", "The sine of radians.")
cos = _unary("cos", "The cosine of radians.")
tan = _unary("tan", "The tangent of radians.")
asin = _unary("asin", "The inverse sine, in radians.")
acos = _unary("acos", "The inverse cosine, in radians.")
atan = _unary("atan", "The inverse tangent, in radians.")
sinh = _unary("sinh", "The hyperbolic sine.")
cosh = _unary("cosh", "The hyperbolic cosine.")
tanh = _unary("tanh", "The hyperbolic tangent.")
asinh = _unary("asinh", "The inverse hyperbolic sine.")
acosh = _unary("acosh", "The inverse hyperbolic cosine.")
atanh = _unary("atanh", "The inverse hyperbolic tangent.")
erf = _unary("erf", "The error function.")
erfc = _unary("erfc", "1 − erf(input).")
erfinv = _unary("erfinv", "The inverse of the error function.")
lgamma = _unary("lgamma", "The logarithm of the absolute value of the gamma function.")
digamma = _unary("digamma", "The derivative of lgamma.")


def logsigmoid(input: Operand) -> Tensor:
    """log(sigmoid(x)), without overflow for large negative x."""
    x = input if isinstance(input, Tensor) else wrap(node_of(input))
    return sub(minimum(x, 0.0), log1p(exp(neg(abs(x)))))


relu = _unary("relu", "The larger of input and 0.", to_float=False)
sigmoid = _unary("sigmoid", "1 / (1 + exp(−input)).")


def abs(input: Operand) -> Tensor:
    """The absolute value; the modulus of complex numbers, whose gradient is 0 at 0."""
    x = node_of(input)
    return wrap(_modulus(x) if x.dtype.kind == "c" else ew.unary("abs", x))


def _modulus(z: Node) -> Node:
    zero = ew.eq(z, ew.like(z, 0))
    size = _hypot(ew.where(zero, ew.like(z, 1), z))
    return ew.where(zero, ew.like(size, 0), size)


def _hypot(z: Node) -> Node:
    return ew.binary("hypot", ew.real(z), ew.imag(z))


def sgn(input: Operand) -> Tensor:
    """The sign; of complex numbers z / |z|, 0 at 0."""
    z = node_of(input)
    if z.dtype.kind != "c":
        return sign(input)
    zero = ew.eq(z, ew.like(z, 0))
    safe = ew.where(zero, ew.like(z, 1), z)
    return wrap(ew.where(zero, ew.like(z, 0), ew.div(safe, ew.cast(_hypot(safe), z.dtype))))


sign = _unary("sign", "−1, 0 or 1. NaN stays NaN, as in the array API standard (PyTorch gives 0).", to_float=False)
absolute = abs


def neg(input: Operand) -> Tensor:
    """−input. bool tensors cannot be negated."""
    x = node_of(input)
    if x.dtype is dtypes.bool_:
        raise RuntimeError("neg: negation of a bool tensor is not supported; use ~ or logical_not")
    return wrap(ew.neg(x))


def positive(input: Tensor) -> Tensor:
    """The input as it is."""
    return input


def _rounding(name: str, doc: str) -> Callable[[Operand], Tensor]:
    def function(input: Operand) -> Tensor:
        x = node_of(input)
        return wrap(ew.unary(name, x) if x.dtype.is_inexact else x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


floor = _rounding("floor", "The largest whole number not above.")
ceil = _rounding("ceil", "The smallest whole number not below.")
trunc = _rounding("trunc", "Rounded toward zero.")
fix = trunc


def round(input: Operand, *, decimals: int = 0) -> Tensor:
    """Rounded to `decimals` digits, halves to even."""
    x = node_of(input)
    if not x.dtype.is_inexact:
        return wrap(x)
    if decimals == 0:
        return wrap(ew.unary("round", x))
    scale = 10.0**decimals
    return wrap(ew.div(ew.unary("round", ew.mul(x, ew.like(x, scale))), ew.like(x, scale)))


def frac(input: Tensor) -> Tensor:
    """input − trunc(input)."""
    return sub(input, trunc(input))


def square(input: Operand) -> Tensor:
    """input²."""
    return pow(input, 2)


def isnan(input: Operand) -> Tensor:
    """Whether each element is NaN."""
    return _predicate("isnan", input)


def isinf(input: Operand) -> Tensor:
    """Whether each element is ∞ or −∞."""
    return _predicate("isinf", input)


def isfinite(input: Operand) -> Tensor:
    """Whether each element is neither infinite nor NaN."""
    return _predicate("isfinite", input)


def signbit(input: Operand) -> Tensor:
    """Whether each element's sign is set; −0.0 and negative NaN too."""
    return _predicate("signbit", input)


def _predicate(name: str, input: Operand) -> Tensor:
    return wrap(ew.predicate(name, node_of(input)))


def _truth(node: Node) -> Node:
    return ew.cast(node, dtypes.bool_)


def _truths(what: str, *values: Operand) -> list[Node]:
    if all(isinstance(v, NUMBERS) for v in values):
        raise TypeError(f"{what}: at least one operand must be a tensor, got {', '.join(map(repr, values))}")
    return operands(what, *(wrap(_truth(node_of(v))) for v in values))


def logical_not(input: Operand) -> Tensor:
    """Whether each element is zero."""
    return wrap(ew.unary("not", _truth(node_of(input))))


def logical_and(input: Operand, other: Operand) -> Tensor:
    """Whether both elements are other than zero."""
    a, b = _truths("logical_and", input, other)
    return wrap(ew.and_(a, b))


def logical_or(input: Operand, other: Operand) -> Tensor:
    """Whether one element is other than zero."""
    a, b = _truths("logical_or", input, other)
    return wrap(ew.or_(a, b))


def logical_xor(input: Operand, other: Operand) -> Tensor:
    """Whether exactly one element is other than zero."""
    a, b = _truths("logical_xor", input, other)
    return wrap(ew.binary("xor", a, b))


def bitwise_not(input: Operand) -> Tensor:
    """Each bit turned over, of integers or bools (TypeError else)."""
    x = node_of(input)
    if x.dtype.is_inexact:
        raise TypeError(f"bitwise_not (~): expected integers or bools, got {x.dtype.name}")
    return wrap(ew.unary("not", x))


def where(condition: Operand, input: Operand = None, other: Operand = None) -> Any:
    """Elements of `input` where the condition holds, of `other` elsewhere; with one argument, as nonzero."""
    if input is None and other is None:
        from firepot.ops.indexing import nonzero

        return nonzero(condition, as_tuple=True)
    c = _truth(node_of(condition))
    pair = plain_pair("where", input, other)
    if pair is None:
        dtype = promoted((input, other))
        given = [input if isinstance(input, Tensor) else wrap(node_of(input, dtype)), other]
        pair = operands("where", *given, dtype=dtype)
    a, b = pair
    shape = common_shape(c.shape, a.shape, "where")
    return wrap(ew.where(expand(c, shape), expand(a, shape), expand(b, shape)))


def clamp(input: Operand, min: Operand = None, max: Operand = None) -> Tensor:
    """Limited to min … max; either may be left out. The gradient passes where the element is within the limits."""
    if min is None and max is None:
        raise ValueError("clamp: at least one of 'min' or 'max' must not be None")
    values = [v for v in (input, min, max) if v is not None]
    nodes = operands("clamp", *values)
    result = x = nodes[0]
    if min is not None:
        low = nodes[1]
        result = ew.where(ew.compare("lt", x, low), low, result)
    if max is not None:
        high = nodes[-1]
        result = ew.where(ew.compare("gt", result, high), high, result)
    return wrap(result)


clip = clamp


def clamp_min(input: Operand, min: Operand) -> Tensor:
    """The larger of input and min."""
    return clamp(input, min=min)


def clamp_max(input: Operand, max: Operand) -> Tensor:
    """The smaller of input and max."""
    return clamp(input, max=max)


def lerp(input: Operand, end: Operand, weight: Operand) -> Tensor:
    """input + weight · (end − input)."""
    return add(input, mul(weight, sub(end, input)))


def addcmul(input: Operand, tensor1: Operand, tensor2: Operand, *, value: Operand = 1) -> Tensor:
    """input + value · tensor1 · tensor2."""
    return add(input, mul(mul(tensor1, tensor2), value))


def addcdiv(input: Operand, tensor1: Operand, tensor2: Operand, *, value: Operand = 1) -> Tensor:
    """input + value · tensor1 / tensor2."""
    return add(input, mul(div(tensor1, tensor2), value))


def fmax(input: Operand, other: Operand) -> Tensor:
    """The larger; a NaN gives way to a number."""
    a, b = operands("fmax", input, other)
    best = ew.where(ew.compare("ge", a, b), a, b)
    return wrap(ew.where(ew.predicate("isnan", b), a, best))


def fmin(input: Operand, other: Operand) -> Tensor:
    """The smaller; a NaN gives way to a number."""
    a, b = operands("fmin", input, other)
    best = ew.where(ew.compare("le", a, b), a, b)
    return wrap(ew.where(ew.predicate("isnan", b), a, best))


def nan_to_num(input: Operand, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """NaN and infinities replaced by numbers (default: zero and the largest finite ones)."""
    x = node_of(input)
    if x.dtype.kind == "c":
        parts = [nan_to_num(wrap(p), nan, posinf, neginf)._node for p in (ew.real(x), ew.imag(x))]
        return wrap(ew.complex_(*parts))
    if x.dtype.kind != "f":
        return wrap(x)
    largest = finfo(x.dtype).max
    high = largest if posinf is None else posinf
    low = -largest if neginf is None else neginf
    y = ew.where(ew.predicate("isnan", x), ew.like(x, nan), x)
    y = ew.where(ew.eq(x, ew.like(x, math.inf)), ew.like(x, high), y)
    return wrap(ew.where(ew.eq(x, ew.like(x, -math.inf)), ew.like(x, low), y))


class finfo:
    """Limits of a floating dtype, or of the parts of a complex one: eps, max, min, tiny, smallest_normal, bits."""

    def __init__(self, dtype: DType) -> None:
        dtype = dtype.to_real()
        table = {
            "float16": (2.0**-10, 65504.0, 2.0**-14), "bfloat16": (2.0**-7, 3.3895313892515355e38, 2.0**-126),
            "float32": (2.0**-23, 3.4028234663852886e38, 2.0**-126),
            "float64": (2.0**-52, 1.7976931348623157e308, 2.0**-1022),
        }  # fmt: skip
        if dtype.name not in table:
            raise TypeError(f"finfo: {dtype.name} is not a floating-point dtype")
        self.eps, self.max, self.tiny = table[dtype.name]
        self.min, self.smallest_normal, self.bits, self.dtype = -self.max, self.tiny, dtype.size * 8, dtype.name


class iinfo:
    """Limits of an integer dtype: max, min, bits."""

    def __init__(self, dtype: DType) -> None:
        if dtype.kind not in "iu":
            raise TypeError(f"iinfo: {dtype.name} is not an integer dtype")
        self.bits, self.dtype = dtype.size * 8, dtype.name
        self.min = -(1 << (self.bits - 1)) if dtype.kind == "i" else 0
        self.max = (1 << (self.bits - (dtype.kind == "i"))) - 1


def logaddexp(input: Operand, other: Operand) -> Tensor:
    """log(exp(input) + exp(other)) without overflow."""
    a, b = operands("logaddexp", input, other)
    if a.dtype.is_complex:  # the larger real part first
        first = ew.ge(ew.real(a), ew.real(b))
        high, low = ew.where(first, a, b), ew.where(first, b, a)
        nothing = ew.eq(ew.real(high), ew.like(ew.real(high), -math.inf))  # the sum of two zeros
        away = ew.where(nothing, ew.like(high, 0), ew.sub(low, high))
        return wrap(ew.add(high, ew.unary("log1p", ew.unary("exp", away))))
    top = ew.binary("maximum", a, b)
    away = ew.neg(ew.unary("abs", ew.sub(a, b)))
    smooth = ew.add(top, ew.unary("log1p", ew.unary("exp", away)))
    return wrap(ew.where(ew.eq(a, b), ew.add(a, ew.like(a, math.log(2))), smooth))


def xlogy(input: Operand, other: Operand) -> Tensor:
    """input · log(other), 0 where input is 0."""
    dtype = promoted((input, other))
    a, b = operands("xlogy", input, other, dtype=dtype if dtype.is_inexact else default_dtype())
    zero = ew.like(a, 0)
    nothing = ew.and_(ew.eq(a, zero), ew.unary("not", ew.predicate("isnan", b)))
    safe = ew.where(nothing, ew.like(b, 1), b)
    return wrap(ew.where(nothing, zero, ew.mul(a, ew.log(safe))))


def logit(input: Operand, eps: float | None = None) -> Tensor:
    """log(x / (1 − x))."""
    x: Operand = wrap(floating(node_of(input)))
    if eps is not None:
        x = clamp(x, eps, 1 - eps)
    # Around ½, where the logarithm goes through zero, the quotient's distance from 1 is what counts.
    central = lt(abs(sub(x, 0.5)), 0.25)
    inner, outer = where(central, x, 0.5), where(central, 0.25, x)
    return where(central, log1p(div(sub(mul(inner, 2), 1), sub(1, inner))), log(div(outer, sub(1, outer))))


def deg2rad(input: Operand) -> Tensor:
    """Degrees as radians."""
    return mul(input, math.pi / 180)


def rad2deg(input: Operand) -> Tensor:
    """Radians as degrees."""
    return mul(input, 180 / math.pi)


def sinc(input: Operand) -> Tensor:
    """sin(πx) / (πx), 1 at 0."""
    x = wrap(floating(node_of(input)))
    zero = eq(x, 0)
    safe = where(zero, 1.0, x)
    whole = round(wrap(ew.real(safe._node)))
    # sin(πx) = ± sin(π (x − n)) for the nearest n, odd or even: the angle is exact however large x is.
    odd = sub(whole, mul(floor(mul(whole, 0.5)), 2))
    sine = mul(sin(mul(sub(safe, whole), math.pi)), sub(1, mul(odd, 2)))
    return where(zero, 1.0, div(sine, mul(safe, math.pi)))


def isclose(input: Operand, other: Operand, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """|input − other| ≤ atol + rtol · |other|."""
    if rtol < 0 or atol < 0:
        raise RuntimeError(f"isclose: rtol and atol must not be negative, got {rtol} and {atol}")
    a, b = operands("isclose", input, other)
    same = eq(wrap(a), wrap(b))
    a, b = floating(a), floating(b)
    near = le(abs(wrap(ew.sub(a, b))), add(mul(abs(wrap(b)), rtol), atol))
    near = logical_and(near, isfinite(wrap(b)))
    result = logical_or(same, near)
    return logical_or(result, logical_and(isnan(wrap(a)), isnan(wrap(b)))) if equal_nan else result


def allclose(input: Operand, other: Operand, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether |input − other| ≤ atol + rtol · |other| everywhere, as a Python bool: computes the values."""
    from firepot.ops.reduction import all as all_

    return bool(all_(isclose(input, other, rtol, atol, equal_nan)))


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether shapes and all elements are equal."""
    from firepot.ops.reduction import all as all_

    return input.shape == other.shape and bool(all_(eq(input, other)))


subtract, multiply, divide, true_divide, negative = sub, mul, div, div, neg
greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne
arcsin, arccos, arctan, arctan2, arcsinh, arccosh, arctanh = asin, acos, atan, atan2, asinh, acosh, atanh
bitwise_invert = bitwise_not


def cast(input: Tensor, dtype: DType) -> Tensor:
    """The elements under another dtype; floats to integers round toward zero and saturate."""
    return wrap(ew.cast(input._node, dtype))
