"""Complex numbers: what the element-wise operations do with the parts of their operands.

The compiler knows only real numbers; `compiler.complex` takes every complex value apart by these rules, and by the
`parts` of the other primitives. Zeros, infinities and NaN are as in C99's Annex G where it says something, else as
NumPy and PyTorch have them; intermediate results neither overflow nor vanish where the result does not.

Kahan: Branch cuts for complex elementary functions, or Much ado about nothing's sign bit (1987).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from firepot.graph import dtypes
from firepot.graph.node import Node, Parts
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives.elementwise import add, and_, div, eq, like, mul, ne, neg, or_, sub, where

_LN2, _LN10 = math.log(2), math.log(10)


Rule = TypeVar("Rule", bound=Callable[..., Node | Parts])


def _on_parts(name: str) -> Callable[[Rule], Rule]:
    """The decorated function says what the operation of that name does with parts."""

    def register(function: Rule) -> Rule:
        ew.scalar_primitive(name).on_parts = function
        return function

    return register


# -- real numbers ----------------------------------------------------------------------------------------------------


def _times(x: Node, factor: float) -> Node:
    return mul(x, like(x, factor))


def _abs(x: Node) -> Node:
    return ew.unary("abs", x)


def _copysign(size: Node, sign: Node) -> Node:
    return ew.binary("copysign", size, sign)


def _less(x: Node, bound: float) -> Node:
    return ew.compare("lt", x, like(x, bound))


def _is_zero(x: Node) -> Node:
    return eq(x, like(x, 0))


def _is_infinite(x: Node) -> Node:
    return ew.predicate("isinf", x)


def _isfinite(x: Node) -> Node:
    return ew.predicate("isfinite", x)


def _isnan(x: Node) -> Node:
    return ew.predicate("isnan", x)


def _larger_first(x: Node, y: Node) -> tuple[Node, Node]:
    """|x| and |y|, the larger first."""
    a, b = _abs(x), _abs(y)
    swapped = ew.compare("lt", a, b)
    return where(swapped, b, a), where(swapped, a, b)


def _limits(x: Node) -> tuple[float, float, float]:
    """(largest number, smallest normal one, distance from 1 to the next) of a floating dtype."""
    if x.dtype is dtypes.float64:
        return 1.7976931348623157e308, 2.0**-1022, 2.0**-52
    return 3.4028234663852886e38, 2.0**-126, 2.0**-23


# -- arithmetic ------------------------------------------------------------------------------------------------------


@_on_parts("add")
def _add(x: Parts, y: Parts) -> Parts:
    return Parts(add(x.real, y.real), add(x.imag, y.imag))


@_on_parts("sub")
def _sub(x: Parts, y: Parts) -> Parts:
    return Parts(sub(x.real, y.real), sub(x.imag, y.imag))


@_on_parts("neg")
def _neg(x: Parts) -> Parts:
    return Parts(neg(x.real), neg(x.imag))


@_on_parts("mul")
def product(x: Parts, y: Parts) -> Parts:
    """x · y."""
    return Parts(
        sub(mul(x.real, y.real), mul(x.imag, y.imag)),
        add(mul(x.real, y.imag), mul(x.imag, y.real)),
    )


@_on_parts("div")
def _div(x: Parts, y: Parts) -> Parts:
    # Smith, Algorithm 116 (1962): by the quotient of the divisor's smaller part by its larger one.
    a, b, c, d = *x, *y
    flat = ew.ge(_abs(c), _abs(d))
    large, small = where(flat, c, d), where(flat, d, c)
    nothing = and_(_is_zero(c), _is_zero(d))
    ratio = where(nothing, like(c, 0), div(small, large))
    # Sums of two numbers near the largest one would overflow.
    near = _limits(a)[0] / 4
    tops = [ew.compare("gt", _abs(v), like(v, near)) for v in (a, b, large)]
    scale = where(or_(tops[0], or_(tops[1], tops[2])), like(a, 0.25), like(a, 1))
    a, b, large, small = (mul(v, scale) for v in (a, b, large, small))
    divisor = where(nothing, _abs(large), add(large, mul(small, ratio)))
    re = where(flat, add(a, mul(b, ratio)), add(mul(a, ratio), b))
    im = where(flat, sub(b, mul(a, ratio)), sub(mul(b, ratio), a))
    return Parts(div(re, divisor), div(im, divisor))


@_on_parts("reciprocal")
def _reciprocal(x: Parts) -> Parts:
    return _div(Parts(like(x.real, 1), like(x.real, 0)), x)


@_on_parts("where")
def _where(condition: Node, x: Parts, y: Parts) -> Parts:
    return Parts(where(condition, x.real, y.real), where(condition, x.imag, y.imag))


@_on_parts("eq")
def _eq(x: Parts, y: Parts) -> Node:
    return and_(eq(x.real, y.real), eq(x.imag, y.imag))


@_on_parts("ne")
def _ne(x: Parts, y: Parts) -> Node:
    return or_(ne(x.real, y.real), ne(x.imag, y.imag))


@_on_parts("isnan")
def _any_nan(x: Parts) -> Node:
    return or_(_isnan(x.real), _isnan(x.imag))


@_on_parts("isinf")
def _isinf(x: Parts) -> Node:
    return or_(_is_infinite(x.real), _is_infinite(x.imag))


@_on_parts("isfinite")
def _all_finite(x: Parts) -> Node:
    return and_(_isfinite(x.real), _isfinite(x.imag))


# -- exponentials, powers, roots -------------------------------------------------------------------------------------


def _scaled_exp(x: Node) -> tuple[Node, Node]:
    """(e, s) with exp(x) = e · s, where e · s · y may be finite though exp(x) is not."""
    shift = 709.0 if x.dtype is dtypes.float64 else 88.0
    beyond = ew.gt(x, like(x, shift))
    scale = math.exp(shift)
    return ew.unary("exp", where(beyond, sub(x, like(x, shift)), x)), where(beyond, like(x, scale), like(x, 1))


def _turned(e: Node, scale: Node, y: Node) -> Parts:
    """e · scale · (cos y, sin y) for e ≥ 0; 0 or ∞ at any angle where e is."""
    some_angle = or_(_isfinite(y), ew.gt(e, like(e, 0)))
    cos = where(some_angle, ew.unary("cos", y), like(y, 1))
    sin = where(some_angle, ew.unary("sin", y), like(y, 0))
    re = mul(mul(e, cos), scale)
    im = where(_is_zero(y), y, mul(mul(e, sin), scale))
    endless = and_(_is_infinite(e), ew.unary("not", _isfinite(y)))
    return Parts(where(endless, e, re), im)


@_on_parts("exp")
def _exp(x: Parts) -> Parts:
    e, scale = _scaled_exp(x.real)
    return _turned(e, scale, x.imag)


@_on_parts("exp2")
def _exp2(x: Parts) -> Parts:
    return _exp(Parts(_times(x.real, _LN2), _times(x.imag, _LN2)))


@_on_parts("expm1")
def _expm1(x: Parts) -> Parts:
    # Re: eˣ cos y − 1 = (eˣ − 1) cos y − 2 sin²(y / 2)
    power = _exp(x)
    half = ew.unary("sin", _times(x.imag, 0.5))
    near = sub(mul(ew.unary("expm1", x.real), ew.unary("cos", x.imag)), _times(ew.square(half), 2))
    close = and_(_less(_abs(x.real), 1), _less(_abs(x.imag), 1))
    return Parts(where(close, near, sub(power.real, like(power.real, 1))), power.imag)


def _log_modulus(x: Node, y: Node) -> Node:
    """log |x + iy|, also near |x + iy| = 1 and where the modulus itself would overflow."""
    a, b = _larger_first(x, y)
    ratio = where(or_(_is_zero(a), _is_infinite(a)), like(a, 0), div(b, a))
    far = add(ew.log(a), _times(ew.unary("log1p", ew.square(ratio)), 0.5))
    one = like(a, 1)
    near = _times(ew.unary("log1p", add(mul(sub(a, one), add(a, one)), ew.square(b))), 0.5)
    found = where(and_(ew.gt(a, like(a, 0.5)), _less(a, 2)), near, far)
    found = where(or_(_isnan(x), _isnan(y)), like(a, math.nan), found)
    return where(or_(_is_infinite(x), _is_infinite(y)), like(a, math.inf), found)


@_on_parts("log")
def _log(x: Parts) -> Parts:
    return Parts(_log_modulus(*x), ew.binary("atan2", x.imag, x.real))


def _log_to_base(base: float) -> Callable[[Parts], Parts]:
    def function(x: Parts) -> Parts:
        found = _log(x)
        return Parts(_times(found.real, 1 / base), _times(found.imag, 1 / base))

    return function


_on_parts("log2")(_log_to_base(_LN2))
_on_parts("log10")(_log_to_base(_LN10))


@_on_parts("log1p")
def _log1p(x: Parts) -> Parts:
    re, im = x
    moved = add(re, like(re, 1))
    # |1 + z|² = 1 + x (2 + x) + y²
    near = _times(ew.unary("log1p", add(mul(re, add(re, like(re, 2))), ew.square(im))), 0.5)
    close = and_(_less(_abs(re), 0.5), _less(_abs(im), 0.5))
    return Parts(where(close, near, _log_modulus(moved, im)), ew.binary("atan2", im, moved))


@_on_parts("sqrt")
def _sqrt(x: Parts) -> Parts:
    re, im = x
    largest, smallest, _ = _limits(re)
    a, _b = _larger_first(re, im)
    high = ew.compare("gt", a, like(a, largest / 4))
    low = _less(a, smallest * 2.0**24)
    one = like(a, 1)
    scale = where(high, like(a, 0.0625), where(low, like(a, 2.0**60), one))
    back = where(high, like(a, 4.0), where(low, like(a, 2.0**-30), one))
    u, v = mul(re, scale), mul(im, scale)
    root = ew.unary("sqrt", _times(add(_abs(u), ew.binary("hypot", u, v)), 0.5))
    other = where(_is_zero(root), _abs(v), div(_abs(v), _times(root, 2)))
    root, other = mul(root, back), mul(other, back)
    left = ew.predicate("signbit", re)
    found = Parts(where(left, other, root), _copysign(where(left, root, other), im))
    # ∞ in the imaginary part wins; else ∞ in the real one.
    endless, zero = like(a, math.inf), like(a, 0)
    rest = where(_isnan(im), im, zero)
    real_endless = _is_infinite(re)
    at_end = Parts(where(left, rest, endless), where(left, _copysign(endless, im), _copysign(rest, im)))
    imag_endless = _is_infinite(im)
    return Parts(
        where(imag_endless, endless, where(real_endless, at_end.real, found.real)),
        where(imag_endless, im, where(real_endless, at_end.imag, found.imag)),
    )


@_on_parts("rsqrt")
def _rsqrt(x: Parts) -> Parts:
    return _reciprocal(_sqrt(x))


@_on_parts("pow")
def _pow(x: Parts, p: Parts) -> Parts:
    """exp(p · log x); x⁰ = 1, and 0ᵖ = 0 for real parts of p above 0."""
    log = _log(x)
    found = _exp(product(p, log))
    zero, one = like(x.real, 0), like(x.real, 1)
    nothing = and_(and_(_is_zero(x.real), _is_zero(x.imag)), ew.gt(p.real, zero))
    unit = and_(_is_zero(p.real), _is_zero(p.imag))
    return Parts(
        where(unit, one, where(nothing, zero, found.real)), where(unit, zero, where(nothing, zero, found.imag))
    )


@_on_parts("sigmoid")
def _sigmoid(x: Parts) -> Parts:
    left = _less(x.real, 0)
    e = _exp(Parts(neg(_abs(x.real)), where(left, x.imag, neg(x.imag))))
    one, zero = like(x.real, 1), like(x.real, 0)
    above = Parts(where(left, e.real, one), where(left, e.imag, zero))
    return _div(above, Parts(add(e.real, one), e.imag))


# -- trigonometric and hyperbolic ------------------------------------------------------------------------------------


def _halves(x: Node) -> tuple[Node, Node, Node]:
    """(cosh |x| / s, sinh |x| / s, s): s is 1 where both can be represented."""
    size = _abs(x)
    shift = 708.0 if x.dtype is dtypes.float64 else 87.0
    beyond = ew.gt(size, like(x, shift))
    half = _times(ew.unary("exp", sub(size, like(x, shift))), 0.5)
    scale = where(beyond, like(x, math.exp(shift)), like(x, 1))
    return where(beyond, half, ew.unary("cosh", size)), where(beyond, half, ew.unary("sinh", size)), scale


def _factors(size: Node, scale: Node, angle: Node, zero: Node) -> Node:
    """size · scale · angle, and `zero` where `size` is 0 or `angle` is, whatever the other."""
    nothing = or_(_is_zero(size), _is_zero(angle))
    return where(nothing, zero, mul(mul(size, angle), scale))


@_on_parts("cosh")
def _cosh(x: Parts) -> Parts:
    re, im = x
    high, low, scale = _halves(re)
    cos, sin = ew.unary("cos", im), ew.unary("sin", im)
    real = mul(mul(high, cos), scale)
    endless = and_(_is_infinite(re), ew.unary("not", _isfinite(im)))
    signed = _copysign(low, re)
    imag = _factors(signed, scale, sin, mul(_copysign(like(re, 0), re), _copysign(like(im, 1), im)))
    return Parts(where(endless, _abs(re), real), imag)


@_on_parts("sinh")
def _sinh(x: Parts) -> Parts:
    re, im = x
    high, low, scale = _halves(re)
    cos, sin = ew.unary("cos", im), ew.unary("sin", im)
    signed = _copysign(low, re)
    real = _factors(signed, scale, cos, where(_isfinite(im), mul(re, cos), re))
    imag = where(_is_zero(im), im, mul(mul(high, sin), scale))
    endless = and_(_is_infinite(re), ew.unary("not", _isfinite(im)))
    return Parts(where(endless, re, real), imag)


def _turned_left(x: Parts) -> Parts:
    """i · x."""
    return Parts(neg(x.imag), x.real)


def _turned_right(x: Parts) -> Parts:
    """−i · x."""
    return Parts(x.imag, neg(x.real))


@_on_parts("sin")
def _sin(x: Parts) -> Parts:
    return _turned_right(_sinh(_turned_left(x)))


@_on_parts("cos")
def _cos(x: Parts) -> Parts:
    return _cosh(_turned_left(x))


@_on_parts("tanh")
def _tanh(x: Parts) -> Parts:
    # tanh z = (β ρ s + i t) / (1 + β s²) with t = tan y, β = 1 + t², s = sinh x, ρ = √(1 + s²).
    re, im = x
    size, one = _abs(re), like(re, 1)
    bound = 22.0 if re.dtype is dtypes.float64 else 11.0
    small = where(_less(size, bound), re, like(re, 0))
    t, s = ew.unary("tan", im), ew.unary("sinh", small)
    beta = add(one, ew.square(t))
    divisor = add(one, mul(beta, ew.square(s)))
    rho = ew.unary("sqrt", add(one, ew.square(s)))
    near = Parts(div(mul(beta, mul(rho, s)), divisor), div(t, divisor))
    far_imag = mul(mul(ew.unary("sin", im), ew.unary("cos", im)), _times(ew.unary("exp", _times(size, -2)), 4))
    far_imag = where(
        and_(_is_infinite(re), ew.unary("not", _isfinite(im))), _copysign(like(im, 0), im), far_imag
    )
    far = ew.ge(size, like(size, bound))
    real = where(far, _copysign(one, re), where(_isnan(re), re, near.real))
    unknown = and_(_isnan(re), ne(im, like(im, 0)))
    imag = where(far, far_imag, where(_is_zero(im), im, where(unknown, like(im, math.nan), near.imag)))
    return Parts(where(_is_zero(re), re, real), imag)


@_on_parts("tan")
def _tan(x: Parts) -> Parts:
    return _turned_right(_tanh(_turned_left(x)))


# -- their inverses --------------------------------------------------------------------------------------------------


def _far(x: Parts) -> tuple[Node, Node]:
    """(where |z| is so large that z² ± 1 = z², log 2|z|)."""
    a, _ = _larger_first(*x)
    far = ew.compare("gt", a, like(a, 1 / _limits(a)[2]))
    far = or_(far, or_(_is_infinite(x.real), _is_infinite(x.imag)))
    return far, add(_log_modulus(*x), like(a, _LN2))


def _beside_one(x: Parts, far: Node) -> tuple[Parts, Parts]:
    """√(1 − z) and √(1 + z), of 0 where z is far."""
    re, im = (where(far, like(p, 0), p) for p in x)
    one = like(re, 1)
    return _sqrt(Parts(sub(one, re), neg(im))), _sqrt(Parts(add(one, re), im))


@_on_parts("asin")
def _asin(x: Parts) -> Parts:
    far, log = _far(x)
    below, above = _beside_one(x, far)
    re = ew.binary("atan2", x.real, product(below, above).real)
    re = where(_is_zero(x.real), x.real, re)
    im = ew.unary("asinh", product(Parts(below.real, neg(below.imag)), above).imag)
    return Parts(
        where(far, ew.binary("atan2", x.real, _abs(x.imag)), re), where(far, _copysign(log, x.imag), _copysign(im, x.imag))
    )


@_on_parts("acos")
def _acos(x: Parts) -> Parts:
    far, log = _far(x)
    below, above = _beside_one(x, far)
    re = _times(ew.binary("atan2", below.real, above.real), 2)
    re = where(_is_zero(x.real), like(re, math.pi / 2), re)
    im = ew.unary("asinh", product(Parts(above.real, neg(above.imag)), below).imag)
    return Parts(
        where(far, ew.binary("atan2", _abs(x.imag), x.real), re),
        where(far, _copysign(log, neg(x.imag)), _copysign(im, neg(x.imag))),
    )


@_on_parts("asinh")
def _asinh(x: Parts) -> Parts:
    return _turned_right(_asin(_turned_left(x)))


@_on_parts("acosh")
def _acosh(x: Parts) -> Parts:
    # ± i acos(z), with a real part that is not negative.
    found = _acos(x)
    return Parts(_abs(found.imag), _copysign(found.real, x.imag))


@_on_parts("atanh")
def _atanh(x: Parts) -> Parts:
    re, im = x
    far, _ = _far(x)
    u, v = (where(far, like(p, 0), p) for p in (_abs(re), im))
    one = like(re, 1)
    away = sub(one, u)
    # ¼ log1p(4x / ((1 − x)² + y²)) and ½ atan2(2y, (1 − x)(1 + x) − y²)
    distance = add(ew.square(away), ew.square(v))
    real = _times(ew.unary("log1p", div(_times(u, 4), distance)), 0.25)
    imag = _times(ew.binary("atan2", _times(v, 2), sub(mul(away, add(one, u)), ew.square(v))), 0.5)
    far_real = _abs(_reciprocal(x).real)
    endless = or_(_is_infinite(re), _is_infinite(im))
    far_real = where(endless, like(re, 0), far_real)
    quarter = where(_isnan(im), im, _copysign(like(im, math.pi / 2), im))
    return Parts(
        _copysign(where(_is_zero(re), re, where(far, far_real, real)), re), where(far, quarter, imag)
    )


@_on_parts("atan")
def _atan(x: Parts) -> Parts:
    return _turned_right(_atanh(_turned_left(x)))
