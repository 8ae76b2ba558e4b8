"""Element-wise primitives: one scalar operation each, with its derivative beside it.

All inputs of a node have the same shape (broadcasting is an explicit `expand`). A derivative reads as in a table
of derivatives: `g` is the gradient of the result, `y` the result itself, then the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.index import Index
from firepot.graph.node import (
    Elementwise,
    Node,
    Parts,
    Primitive,
    Shape,
    View,
    apply,
    data_primitive,
    find_kept,
    keep,
    severed_primitive,
    unchanged,
)
from firepot.graph.primitives import views
from firepot.kernels.loops import CheckedIndex, Const, Expr, Op, Position

Gradients = Sequence[Node | None]
Rule = Callable[..., Gradients]


class Scalar(Elementwise):
    """An element-wise operation that the loop-level IR has under the name `operation`.

    on_parts: for complex operands, from their parts to those of the result (`primitives.complex` gives it)
    """

    holomorphic = True

    def __init__(self, name: str, rule: Rule | None = None, result: DType | None = None) -> None:
        self.name = name
        self.rule = rule
        self.result = result
        self.differentiable = rule is not None
        self.on_parts: Callable[..., Node | Parts] | None = None

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        shape = inputs[0].shape
        for i in inputs:
            if i.shape != shape:
                raise AssertionError(f"{self.name}: {[j.shape for j in inputs]}")
        return shape, self.result or inputs[-1].dtype

    def vjp(self, g: Node, node: Node) -> Gradients:
        assert self.rule is not None
        return self.rule(g, node, *node.inputs)

    def scalar(self, args: tuple[Expr, ...], node: Node) -> Expr:
        return Op(self.name, args, node.dtype)

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        return self.on_parts is not None

    def parts(self, node: Node, inputs: Sequence[Node | Parts]) -> Node | Parts:
        assert self.on_parts is not None
        return self.on_parts(*inputs)


class _Constant(Primitive):
    """A 0-d number. params: (value, dtype)."""

    name = "constant"
    differentiable = False

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return (), params[1]


constant_primitive = _Constant()


def constant(value: bool | int | float | complex, dtype: DType) -> Node:
    """A 0-d node with a value known when the program is compiled."""
    if dtype.kind == "c":
        value = complex(value)
        part = dtype.to_real()
        return complex_(constant(value.real, part), constant(value.imag, part))
    assert not isinstance(value, complex), f"{value} as {dtype.name}"
    if dtype.kind == "f":
        value = float(value)
        # −0.0 == 0.0 and nan != nan would confuse the table of nodes: the sign and nan are said in the key.
        tag: Any = math.copysign(1.0, value) if value == 0 else ("nan" if value != value else None)
        if value != value:
            value = math.nan
        return apply(constant_primitive, (), (value, dtype, tag))
    value = bool(value) if dtype.kind == "b" else int(value)
    return apply(constant_primitive, (), (value, dtype, type(value).__name__))


def constant_value(node: Node) -> bool | int | float | None:
    """The number that every element of a node equals, if that is known."""
    while node.primitive in (views.expand_primitive, views.reshape_primitive):
        if not node.inputs:
            return None
        node = node.inputs[0]
    return node.params[0] if node.primitive is constant_primitive else None


def full(shape: Shape, value: bool | int | float | complex, dtype: DType) -> Node:
    if value.__class__ is complex:
        return views.expand(constant(value, dtype), shape)
    # A zero goes by its text, which tells −0.0 from 0.0; the type tells 1 from 1.0 and True, which are equal too.
    name = (shape, value or repr(value), value.__class__, dtype)
    return find_kept(name) or keep(views.expand(constant(value, dtype), shape), name)


def like(x: Node, value: bool | int | float | complex) -> Node:
    """A constant with the shape and dtype of `x`."""
    return full(x.shape, value, x.dtype)


class _Iota(View):
    """0, 1, 2, … as a vector. params: (length, dtype)."""

    name = "iota"
    differentiable = False

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return (params[0],), params[1]

    def position(self, index: tuple[Index, ...], node: Node) -> Expr:
        return Position(index[0], node.dtype)


iota_primitive = _Iota()


def iota(length: int, dtype: DType) -> Node:
    return apply(iota_primitive, (), (length, dtype))


# -- arithmetic ------------------------------------------------------------------------------------------------------

add_primitive = Scalar("add", lambda g, y, a, b: (g, g))
sub_primitive = Scalar("sub", lambda g, y, a, b: (g, neg(g)))
mul_primitive = Scalar("mul", lambda g, y, a, b: (mul(g, b), mul(g, a)))
div_primitive = Scalar("div", lambda g, y, a, b: (div(g, b), neg(mul(g, div(y, b)))))
neg_primitive = Scalar("neg", lambda g, y, x: (neg(g),))


def add(a: Node, b: Node) -> Node:
    return apply(add_primitive, (a, b))


def sub(a: Node, b: Node) -> Node:
    return apply(sub_primitive, (a, b))


def mul(a: Node, b: Node) -> Node:
    if a.dtype.kind == "f":  # multiplying by one is exact for every float, NaN included
        if constant_value(b) == 1:
            return unchanged(a)
        if constant_value(a) == 1:
            return unchanged(b)
    return apply(mul_primitive, (a, b))


def div(a: Node, b: Node) -> Node:
    if constant_value(b) == 1:
        return unchanged(a)
    return apply(div_primitive, (a, b))


def neg(x: Node) -> Node:
    return apply(neg_primitive, (x,))


def square(x: Node) -> Node:
    return mul(x, x)


def _pow_rule(g: Node, y: Node, x: Node, p: Node) -> Gradients:
    # b·x^(b−1) is nan·0 at b = 0; the exponent's gradient is 0 at x = 0 where the base dominates.
    zero = like(x, 0)
    dx = where(eq(p, zero), zero, mul(g, mul(p, power(x, sub(p, like(p, 1))))))
    growing = ge(real(p), like(real(p), 0))
    dp = where(and_(eq(x, zero), growing), zero, mul(g, mul(y, log(x))))
    return (dx, dp)


pow_primitive = Scalar("pow", _pow_rule)


def power(x: Node, p: Node) -> Node:
    return apply(pow_primitive, (x, p))


def _extremum_rule(g: Node, y: Node, a: Node, b: Node) -> Gradients:
    zero, half = like(g, 0), mul(g, like(g, 0.5))
    tie = eq(a, b)
    takes_a = ne(b, y)  # with NaN in a, y is NaN and b != y
    takes_b = ne(a, y)
    return (where(tie, half, where(takes_a, g, zero)), where(tie, half, where(takes_b, g, zero)))


maximum_primitive = Scalar("maximum", _extremum_rule)
minimum_primitive = Scalar("minimum", _extremum_rule)
floordiv_primitive = Scalar("floordiv", lambda g, y, a, b: (None, None))
truncdiv_primitive = Scalar("truncdiv", lambda g, y, a, b: (None, None))
remainder_primitive = Scalar("remainder", lambda g, y, a, b: (g, neg(mul(g, unary("floor", div(a, b))))))
fmod_primitive = Scalar("fmod", lambda g, y, a, b: (g, neg(mul(g, unary("trunc", div(a, b))))))
atan2_primitive = Scalar(
    "atan2",
    lambda g, y, a, b: (
        mul(g, div(b, add(square(a), square(b)))), neg(mul(g, div(a, add(square(a), square(b))))),
    ),
)  # fmt: skip
hypot_primitive = Scalar("hypot", lambda g, y, a, b: (mul(g, div(a, y)), mul(g, div(b, y))))
copysign_primitive = Scalar(
    "copysign", lambda g, y, a, b: (mul(g, where(eq(a, like(a, 0)), like(a, 0), div(y, a))), None)
)
nextafter_primitive = Scalar("nextafter", lambda g, y, a, b: (g, None))
gcd_primitive = Scalar("gcd")


def _zeta_rule(g: Node, y: Node, s: Node, q: Node) -> Gradients:
    # ∂ζ/∂q = −s ζ(s + 1, q); by s there is no closed form.
    return (None, neg(mul(g, mul(s, binary("zeta", add(s, like(s, 1)), q)))))


def _igamma_rule(sign: float) -> Rule:
    def rule(g: Node, y: Node, a: Node, x: Node) -> Gradients:
        # ∂P/∂x = xᵃ⁻¹ e⁻ˣ / Γ(a); by a there is no closed form.
        log_density = sub(sub(mul(sub(a, like(a, 1)), log(x)), x), unary("lgamma", a))
        return (None, mul(g, mul(like(x, sign), unary("exp", log_density))))

    return rule


zeta_primitive = Scalar("zeta", _zeta_rule)
igamma_primitive = Scalar("igamma", _igamma_rule(1.0))
igammac_primitive = Scalar("igammac", _igamma_rule(-1.0))
_polynomials = [
    Scalar(name)
    for name in (
        "chebyshev_polynomial_t", "chebyshev_polynomial_u", "chebyshev_polynomial_v", "chebyshev_polynomial_w",
        "hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p",
    )
]  # fmt: skip

# -- unary -----------------------------------------------------------------------------------------------------------


def _lift(value: float, x: Node) -> Node:
    return like(x, value)


_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)


def _acosh_slope(x: Node) -> Node:
    if x.dtype.kind == "c":  # on the branch that acosh takes, also left of the imaginary axis
        return mul(unary("rsqrt", add(x, like(x, 1))), unary("rsqrt", sub(x, like(x, 1))))
    return unary("rsqrt", sub(square(x), like(x, 1)))



_UNARY: dict[str, Rule | None] = {
    "abs": lambda g, y, x: (mul(g, unary("sign", x)),),
    "sign": lambda g, y, x: (None,),
    "sqrt": lambda g, y, x: (div(g, mul(y, like(y, 2))),),
    "rsqrt": lambda g, y, x: (mul(g, mul(like(y, -0.5), mul(y, square(y)))),),
    "reciprocal": lambda g, y, x: (neg(mul(g, square(y))),),
    "exp": lambda g, y, x: (mul(g, y),),
    "exp2": lambda g, y, x: (mul(g, mul(y, like(y, math.log(2)))),),
    "expm1": lambda g, y, x: (mul(g, add(y, like(y, 1))),),
    "log": lambda g, y, x: (div(g, x),),
    "log2": lambda g, y, x: (div(g, mul(x, like(x, math.log(2)))),),
    "log10": lambda g, y, x: (div(g, mul(x, like(x, math.log(10)))),),
    "log1p": lambda g, y, x: (div(g, add(x, like(x, 1))),),
    "sin": lambda g, y, x: (mul(g, unary("cos", x)),),
    "cos": lambda g, y, x: (neg(mul(g, unary("sin", x))),),
    "tan": lambda g, y, x: (mul(g, add(square(y), like(y, 1))),),
    "asin": lambda g, y, x: (mul(g, unary("rsqrt", sub(like(x, 1), square(x)))),),
    "acos": lambda g, y, x: (neg(mul(g, unary("rsqrt", sub(like(x, 1), square(x))))),),
    "atan": lambda g, y, x: (div(g, add(square(x), like(x, 1))),),
    "sinh": lambda g, y, x: (mul(g, unary("cosh", x)),),
    "cosh": lambda g, y, x: (mul(g, unary("sinh", x)),),
    "tanh": lambda g, y, x: (mul(g, sub(like(y, 1), square(y))),),
    "asinh": lambda g, y, x: (mul(g, unary("rsqrt", add(square(x), like(x, 1)))),),
    "acosh": lambda g, y, x: (mul(g, _acosh_slope(x)),),
    "atanh": lambda g, y, x: (div(g, sub(like(x, 1), square(x))),),
    "erf": lambda g, y, x: (mul(g, mul(like(x, _TWO_OVER_SQRT_PI), unary("exp", neg(square(x))))),),
    "erfc": lambda g, y, x: (mul(g, mul(like(x, -_TWO_OVER_SQRT_PI), unary("exp", neg(square(x))))),),
    "erfinv": lambda g, y, x: (mul(g, mul(like(y, 1 / _TWO_OVER_SQRT_PI), unary("exp", square(y)))),),
    "lgamma": lambda g, y, x: (mul(g, unary("digamma", x)),),
    "digamma": lambda g, y, x: (mul(g, binary("zeta", like(x, 2), x)),),
    "sigmoid": lambda g, y, x: (mul(g, mul(y, sub(like(y, 1), y))),),
    # By the result, which is what follows a ReLU in memory anyway; zero at zero, as PyTorch has it.
    "relu": lambda g, y, x: (where(compare("le", y, like(y, 0)), like(g, 0), g),),
    "floor": lambda g, y, x: (None,),
    "ceil": lambda g, y, x: (None,),
    "trunc": lambda g, y, x: (None,),
    "round": lambda g, y, x: (None,),
    "not": None,
}
_unary = {name: Scalar(name, rule) for name, rule in _UNARY.items()}


def unary(name: str, x: Node) -> Node:
    """The unary operation of that name."""
    return apply(_unary[name], (x,))


def log(x: Node) -> Node:
    return unary("log", x)


_predicate = {name: Scalar(name, None, dtypes.bool_) for name in ("isnan", "isinf", "isfinite", "signbit")}
_comparison = {name: Scalar(name, None, dtypes.bool_) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_bitwise = {name: Scalar(name) for name in ("and", "or", "xor", "shl", "shr")}
_binary = {
    p.name: p
    for p in (
        add_primitive, sub_primitive, mul_primitive, div_primitive, pow_primitive, maximum_primitive,
        minimum_primitive, floordiv_primitive, truncdiv_primitive, remainder_primitive, fmod_primitive,
        atan2_primitive, hypot_primitive, copysign_primitive, nextafter_primitive, gcd_primitive, zeta_primitive,
        igamma_primitive, igammac_primitive, *_polynomials,
    )
} | _bitwise  # fmt: skip


def predicate(name: str, x: Node) -> Node:
    """isnan, isinf, isfinite, signbit."""
    return apply(_predicate[name], (x,))


def compare(name: str, a: Node, b: Node) -> Node:
    """eq, ne, lt, le, gt, ge: bool."""
    return apply(_comparison[name], (a, b))


def binary(name: str, a: Node, b: Node) -> Node:
    """The binary operation of that name, on equal dtypes."""
    if name == "mul":
        return mul(a, b)
    if name == "div":
        return div(a, b)
    return apply(_binary[name], (a, b))


def eq(a: Node, b: Node) -> Node:
    return compare("eq", a, b)


def ne(a: Node, b: Node) -> Node:
    return compare("ne", a, b)


def ge(a: Node, b: Node) -> Node:
    return compare("ge", a, b)


def gt(a: Node, b: Node) -> Node:
    return compare("gt", a, b)


def and_(a: Node, b: Node) -> Node:
    return apply(_bitwise["and"], (a, b))


def or_(a: Node, b: Node) -> Node:
    return apply(_bitwise["or"], (a, b))


where_primitive = Scalar("where", lambda g, y, c, a, b: (None, where(c, g, like(g, 0)), where(c, like(g, 0), g)))


def where(condition: Node, a: Node, b: Node) -> Node:
    if a is b:
        return unchanged(a)
    return apply(where_primitive, (condition, a, b))


def scalar_primitive(name: str) -> Scalar:
    """The element-wise operation of that name."""
    others = {p.name: p for p in (neg_primitive, where_primitive)}
    return {**_unary, **_binary, **_predicate, **_comparison, **others}[name]


for _primitive in (add_primitive, sub_primitive, neg_primitive, where_primitive):
    _primitive.holomorphic = False  # linear with real coefficients: the rule holds as it stands

# -- dtypes ----------------------------------------------------------------------------------------------------------


class _Cast(Elementwise):
    """Conversion to another dtype. params: (dtype,)."""

    name = "cast"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, params[0]

    def vjp(self, g: Node, node: Node) -> Gradients:
        source = node.inputs[0].dtype
        return (as_gradient(g, source) if source.is_inexact and node.dtype.is_inexact else None,)

    def scalar(self, args: tuple[Expr, ...], node: Node) -> Expr:
        return Op("cast", args, node.dtype)

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        return True

    def parts(self, node: Node, inputs: Sequence[Node | Parts]) -> Node | Parts:
        (x,), dtype = inputs, node.dtype
        if not isinstance(x, Parts):
            return Parts(cast(x, dtype.to_real()), full(x.shape, 0, dtype.to_real()))
        if dtype.kind == "c":
            return Parts(cast(x.real, dtype.to_real()), cast(x.imag, dtype.to_real()))
        if dtype.kind == "b":
            return or_(cast(x.real, dtype), cast(x.imag, dtype))
        return cast(x.real, dtype)


class _Bitcast(_Cast):
    """The same bits under another dtype of the same size. params: (dtype,)."""

    name = "bitcast"
    differentiable = False

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        return False

    def scalar(self, args: tuple[Expr, ...], node: Node) -> Expr:
        return Op("bitcast", args, node.dtype)


cast_primitive = _Cast()
bitcast_primitive = _Bitcast()


def cast(x: Node, dtype: DType) -> Node:
    """The elements under another dtype. RuntimeError where imaginary parts would be lost."""
    if x.dtype is dtype:
        return unchanged(x)
    if x.dtype.kind == "c" and dtype.kind not in "cb":
        raise RuntimeError(f"{x.dtype.name}{list(x.shape)} as {dtype.name} would lose its imaginary part; take .real")
    if x.primitive is constant_primitive:
        value = x.params[0]
        if dtype.is_inexact or (isinstance(value, int) and -128 <= value < 128 and dtype.kind != "u"):
            return constant(value, dtype)
    return apply(cast_primitive, (x,), (dtype,))


def as_gradient(g: Node, dtype: DType) -> Node:
    """A gradient under the dtype of what it belongs to: of real numbers the real part."""
    return cast(g if dtype.kind == "c" else real(g), dtype)


def bitcast(x: Node, dtype: DType) -> Node:
    return x if x.dtype is dtype else apply(bitcast_primitive, (x,), (dtype,))


# -- complex numbers -------------------------------------------------------------------------------------------------
#
# What the operations above do with them stands in `primitives.complex`. A gradient is ∂L/∂re + i ∂L/∂im, as in PyTorch.


class _Complex(Elementwise):
    """The complex number of a real and an imaginary part."""

    name = "complex"

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, inputs[0].dtype.to_complex()

    def vjp(self, g: Node, node: Node) -> Gradients:
        return real(g), imag(g)

    def parts(self, node: Node, inputs: Sequence[Node | Parts]) -> Node | Parts:
        re, im = inputs
        assert isinstance(re, Node) and isinstance(im, Node)
        return Parts(re, im)


class _Part(Elementwise):
    """The real part of a complex number, or the imaginary one."""

    def __init__(self, name: str, which: int) -> None:
        self.name = name
        self.which = which

    def infer(self, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> tuple[Shape, DType]:
        return inputs[0].shape, inputs[0].dtype.to_real()

    def vjp(self, g: Node, node: Node) -> Gradients:
        zero = like(g, 0)
        return (complex_(zero, g) if self.which else complex_(g, zero),)

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        return True

    def parts(self, node: Node, inputs: Sequence[Node | Parts]) -> Node | Parts:
        part: Node = inputs[0][self.which]  # type: ignore[index]
        return part


class _Conjugate(Elementwise):
    """The complex conjugate."""

    name = "conj"

    def vjp(self, g: Node, node: Node) -> Gradients:
        return (conj(g),)

    def takes_complex(self, params: tuple[Any, ...]) -> bool:
        return True

    def parts(self, node: Node, inputs: Sequence[Node | Parts]) -> Node | Parts:
        (x,) = inputs
        assert isinstance(x, Parts)
        return Parts(x.real, neg(x.imag))


complex_primitive = _Complex()
real_primitive = _Part("real", 0)
imag_primitive = _Part("imag", 1)
conj_primitive = _Conjugate()


def complex_(re: Node, im: Node) -> Node:
    """re + i·im, of float32 or float64 parts."""
    return apply(complex_primitive, (re, im))


def real(x: Node) -> Node:
    """The real part; real numbers as they are."""
    return apply(real_primitive, (x,)) if x.dtype.kind == "c" else unchanged(x)


def imag(x: Node) -> Node:
    """The imaginary part; of real numbers 0."""
    return apply(imag_primitive, (x,)) if x.dtype.kind == "c" else like(x, 0)


def conj(x: Node) -> Node:
    """The complex conjugate; real numbers as they are."""
    if x.primitive is conj_primitive and x.inputs and x.inputs[0].requires_grad == x.requires_grad:
        return unchanged(x.inputs[0])
    return apply(conj_primitive, (x,)) if x.dtype.kind == "c" else unchanged(x)


# -- indices and random bits -----------------------------------------------------------------------------------------


class _CheckIndex(Elementwise):
    """An int64 index that must lie within −size … size − 1 (0 … size − 1 where negative is False).

    params: (size, message, negative). The message may use {index}; IndexError is raised with it when the program
    that meets a bad index has run.
    """

    name = "check_index"
    differentiable = False

    def scalar(self, args: tuple[Expr, ...], node: Node) -> Expr:
        size, _, negative = node.params
        value = args[0]
        if not negative:  # a negative index is sent out of range on the far side
            low = Op("lt", (value, Const(0, value.dtype)), dtypes.bool_)
            value = Op("where", (low, Op("sub", (value, Const(size, value.dtype)), value.dtype), value), value.dtype)
        return CheckedIndex(value, size, check_sites.number(node.params), dtypes.int64)

    def checks(self, node: Node) -> Sequence[tuple[Any, ...]]:
        return (node.params,)


class BadIndex(IndexError):
    """A program met an index out of range. `check`: the params of the check_index nodes that tell of it.

    Whoever ran the program raises it on as a plain IndexError.
    """

    def __init__(self, message: str, check: tuple[Any, ...]) -> None:
        super().__init__(message)
        self.check = check


class CheckSites:
    """Numbers for the places where an index is checked; a kernel reports the number, a person reads the message."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}

    def number(self, check: tuple[Any, ...]) -> int:
        """Of the params of a check_index."""
        return self._numbers.setdefault(check, len(self._numbers))


def bad_index(check: tuple[int, str, bool], value: int) -> BadIndex:
    """What to raise for the value that a kernel reported under the number of this check."""
    size, message, negative = check
    if not negative and value < -size:
        value += size
    return BadIndex(message.format(index=value), check)


check_sites = CheckSites()
check_index_primitive = _CheckIndex()


def check_index(x: Node, size: int, message: str, negative: bool = True) -> Node:
    return apply(check_index_primitive, (cast(x, dtypes.int64),), (size, message, negative))


philox_primitive = Scalar("philox", None, dtypes.uint32)


def random_bits(key: Node, shape: Shape, offset: Node) -> Node:
    """uint32 random words: Philox 4x32-10 of (key, offset + 0, 1, 2, …). key and offset are 0-d uint64 nodes."""
    size = math.prod(shape)
    counter = add(iota(size, dtypes.uint64), views.expand(offset, (size,)))
    return views.reshape(apply(philox_primitive, (views.expand(key, (size,)), counter)), shape)


def is_leaf(node: Node) -> bool:
    """Whether the node's value comes from outside the program. A number never does, also where it was looked at once:
    else programs would differ by what was looked at."""
    if node.primitive is data_primitive or node.primitive is severed_primitive:
        return True
    return node.buffer is not None and node.primitive is not constant_primitive
