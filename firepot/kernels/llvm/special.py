"""Functions that take a loop: zeta, incomplete gamma, greatest common divisor, orthogonal polynomials.

All lanes go round together until the last of them is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from firepot.kernels.llvm.builder import Builder, Value, vector

_EPSILON = 2.0**-53


@contextmanager
def _while(b: Builder, condition: Callable[[], Value], most: int) -> Iterator[None]:
    """Repeat the body while the condition holds in any lane, at most so many times."""
    head, body, done = b.fresh("head"), b.fresh("body"), b.fresh("done")
    count = b.variable("i64", b.index(0))
    b.line(f"br label %{head}")
    b.label(head)
    wanted = condition()
    if wanted.lanes > 1:
        wanted = b.intrinsic("llvm.vector.reduce.or", "i1", wanted, suffix=f"v{wanted.lanes}i1")
    rounds = b.get(count, "i64")
    again = b.and_(wanted, b.compare("slt", rounds, most))
    b.line(f"br {again!r}, label %{body}, label %{done}")
    b.label(body)
    yield
    b.set(count, b.add(rounds, 1))
    b.line(f"br label %{head}")
    b.label(done)


class _Double:
    """Arguments as float64, and short names for what is done with them."""

    def __init__(self, b: Builder, like: Value) -> None:
        self.b = b
        self.type = vector("double", like.lanes)

    def c(self, value: float) -> Value:
        return self.b.constant(value, self.type)

    def take(self, x: Value) -> Value:
        return x if x.element == "double" else self.b.convert("fpext", x, self.type)

    def give(self, y: Value, like: Value) -> Value:
        return y if like.element == "double" else self.b.convert("fptrunc", y, like.type)

    def var(self, initial: Value) -> Value:
        return self.b.variable(self.type, initial)

    def get(self, slot: Value) -> Value:
        return self.b.get(slot, self.type)

    def abs(self, x: Value) -> Value:
        return self.b.intrinsic("llvm.fabs", self.type, x)

    def floor(self, x: Value) -> Value:
        return self.b.intrinsic("llvm.floor", self.type, x)

    def library(self, name: str, *args: Value) -> Value:
        from firepot.kernels.llvm.math import _by_lane

        return _by_lane(self.b, name, args)


def zeta(b: Builder, args: Sequence[Value]) -> Value:
    """Hurwitz's ζ(s, q) = Σ 1 / (q + k)ˢ: the first terms one by one, the rest by Euler and Maclaurin."""
    d = _Double(b, args[0])
    s, q = d.take(args[0]), d.take(args[1])
    minus = b.fneg(s)
    total, place, least = d.var(d.c(0.0)), d.var(q), d.var(d.c(0.0))

    def more() -> Value:
        return b.or_(b.compare("olt", d.get(place), d.c(10.0)), b.compare("olt", d.get(least), d.c(9.0)))

    with _while(b, more, 5000):
        active = more()
        at = d.get(place)
        term = d.library("pow", at, minus)
        b.set(total, b.select(active, b.add(d.get(total), term), d.get(total)))
        b.set(place, b.select(active, b.add(at, d.c(1.0)), at))
        b.set(least, b.add(d.get(least), d.c(1.0)))
    w = d.get(place)
    power = d.library("pow", w, minus)
    rest = b.fdiv(b.mul(power, w), b.sub(s, d.c(1.0)))
    value = b.add(b.add(d.get(total), rest), b.mul(power, d.c(0.5)))
    # B₂ₖ / (2k)! · s (s + 1) … (s + 2k − 2) / w^(s + 2k − 1)
    factor, k = b.mul(s, b.fdiv(power, w)), 0
    for number in (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000,
                   1 / 74724249600, -3617 / 10670622842880000):  # fmt: skip
        value = b.fma(factor, d.c(number), value)
        factor = b.mul(factor, b.mul(b.add(s, d.c(k + 1.0)), b.add(s, d.c(k + 2.0))))
        factor = b.fdiv(factor, b.mul(w, w))
        k += 2
    whole = b.compare("oeq", q, d.floor(q))
    pole = b.and_(b.compare("ole", q, d.c(0.0)), whole)
    odd = b.and_(b.compare("ole", q, d.c(0.0)), b.compare("une", s, d.floor(s)))
    value = b.select(odd, d.c(math.nan), value)
    value = b.select(pole, d.c(math.inf), value)
    value = b.select(b.compare("oeq", s, d.c(1.0)), d.c(math.inf), value)
    value = b.select(b.compare("olt", s, d.c(1.0)), d.c(math.nan), value)
    return d.give(value, args[0])


def _incomplete_gamma(b: Builder, args: Sequence[Value], upper: bool) -> Value:
    """P(a, x), or Q = 1 − P: a power series below a + 1, a continued fraction above (DLMF 8.11.4 and 8.9.2)."""
    d = _Double(b, args[0])
    a, x = d.take(args[0]), d.take(args[1])
    one, zero = d.c(1.0), d.c(0.0)
    valid = b.and_(b.compare("ogt", a, zero), b.compare("ogt", x, zero))
    a_, x_ = b.select(valid, a, one), b.select(valid, x, one)
    log_front = b.sub(b.sub(b.mul(a_, d.library("log", x_)), x_), d.library("lgamma", a_))
    front = d.library("exp", log_front)
    low = b.compare("olt", x_, b.add(a_, one))
    # Series: Σ xⁿ / (a (a + 1) … (a + n)).
    r, term, total = d.var(a_), d.var(b.fdiv(one, a_)), d.var(b.fdiv(one, a_))

    def going() -> Value:
        small = b.compare("ogt", d.get(term), b.mul(d.get(total), d.c(_EPSILON)))
        return b.and_(low, small)

    with _while(b, going, 20000):
        b.set(r, b.add(d.get(r), one))
        b.set(term, b.fdiv(b.mul(d.get(term), x_), d.get(r)))
        b.set(total, b.add(d.get(total), b.select(low, d.get(term), zero)))
    below = b.mul(front, d.get(total))
    # Continued fraction by Lentz's method.
    tiny = d.c(1e-300)
    start = b.sub(b.add(x_, one), a_)
    safe = b.select(b.compare("oeq", start, zero), tiny, start)
    bb, cc, dd = d.var(start), d.var(d.c(1e300)), d.var(b.fdiv(one, safe))
    h, change, n = d.var(b.fdiv(one, safe)), d.var(zero), d.var(zero)

    def moving() -> Value:
        away = b.compare("ogt", d.abs(b.sub(d.get(change), one)), d.c(2 * _EPSILON))
        return b.and_(b.xor(low, b.constant(True, vector("i1", low.lanes))), away)

    with _while(b, moving, 20000):
        active = moving()
        step = b.add(d.get(n), one)
        b.set(n, step)
        an = b.fneg(b.mul(step, b.sub(step, a_)))
        b.set(bb, b.add(d.get(bb), d.c(2.0)))
        down = b.add(b.mul(an, d.get(dd)), d.get(bb))
        down = b.select(b.compare("olt", d.abs(down), tiny), tiny, down)
        up = b.add(d.get(bb), b.fdiv(an, d.get(cc)))
        up = b.select(b.compare("olt", d.abs(up), tiny), tiny, up)
        inverse = b.fdiv(one, down)
        ratio = b.mul(inverse, up)
        b.set(dd, b.select(active, inverse, d.get(dd)))
        b.set(cc, b.select(active, up, d.get(cc)))
        b.set(h, b.select(active, b.mul(d.get(h), ratio), d.get(h)))
        b.set(change, b.select(active, ratio, d.get(change)))
    above = b.mul(front, d.get(h))
    value = b.select(low, b.sub(one, below), above) if upper else b.select(low, below, b.sub(one, above))
    infinite_x, infinite_a = b.compare("oeq", x, d.c(math.inf)), b.compare("oeq", a, d.c(math.inf))
    at_zero, at_infinity = (one, zero) if upper else (zero, one)
    value = b.select(infinite_x, at_infinity, value)
    value = b.select(infinite_a, b.select(infinite_x, d.c(math.nan), at_zero), value)
    x_zero, a_zero = b.compare("oeq", x, zero), b.compare("oeq", a, zero)
    value = b.select(x_zero, at_zero, value)
    value = b.select(a_zero, b.select(b.compare("ogt", x, zero), at_infinity, d.c(math.nan)), value)
    outside = b.or_(b.compare("ult", x, zero), b.compare("ult", a, zero))
    return d.give(b.select(outside, d.c(math.nan), value), args[0])


def gcd(b: Builder, args: Sequence[Value], signed: bool) -> Value:
    """Euclid's algorithm on the absolute values."""
    type = args[0].type
    zero, one = b.constant(0, type), b.constant(1, type)

    def size(v: Value) -> Value:
        return b.select(b.compare("slt", v, 0), b.sub(zero, v), v) if signed else v

    x, y = b.variable(type, size(args[0])), b.variable(type, size(args[1]))
    with _while(b, lambda: b.compare("ne", b.get(y, type), zero), 200):
        low = b.get(y, type)
        done = b.compare("eq", low, zero)
        rest = b.urem(b.get(x, type), b.select(done, one, low))
        b.set(x, b.select(done, b.get(x, type), low))
        b.set(y, b.select(done, zero, rest))
    return b.get(x, type)


# family -> (the polynomial of degree 1, the next from k, x, the last and the one before)
_Step = Callable[[_Double, Value, Value, Value, Value], Value]


def _chebyshev(d: _Double, k: Value, x: Value, last: Value, before: Value) -> Value:
    return d.b.sub(d.b.mul(d.b.add(x, x), last), before)


def _hermite(d: _Double, k: Value, x: Value, last: Value, before: Value) -> Value:
    b = d.b
    return b.mul(d.c(2.0), b.sub(b.mul(x, last), b.mul(k, before)))


def _hermite_e(d: _Double, k: Value, x: Value, last: Value, before: Value) -> Value:
    return d.b.sub(d.b.mul(x, last), d.b.mul(k, before))


def _laguerre(d: _Double, k: Value, x: Value, last: Value, before: Value) -> Value:
    b = d.b
    head = b.mul(b.sub(b.add(b.add(k, k), d.c(1.0)), x), last)
    return b.fdiv(b.sub(head, b.mul(k, before)), b.add(k, d.c(1.0)))


def _legendre(d: _Double, k: Value, x: Value, last: Value, before: Value) -> Value:
    b = d.b
    head = b.mul(b.mul(b.add(b.add(k, k), d.c(1.0)), x), last)
    return b.fdiv(b.sub(head, b.mul(k, before)), b.add(k, d.c(1.0)))


_POLYNOMIALS: dict[str, tuple[tuple[float, float], _Step]] = {  # name -> ((c, d): degree 1 is c x + d), step)
    "chebyshev_polynomial_t": ((1.0, 0.0), _chebyshev),
    "chebyshev_polynomial_u": ((2.0, 0.0), _chebyshev),
    "chebyshev_polynomial_v": ((2.0, -1.0), _chebyshev),
    "chebyshev_polynomial_w": ((2.0, 1.0), _chebyshev),
    "hermite_polynomial_h": ((2.0, 0.0), _hermite),
    "hermite_polynomial_he": ((1.0, 0.0), _hermite_e),
    "laguerre_polynomial_l": ((-1.0, 1.0), _laguerre),
    "legendre_polynomial_p": ((1.0, 0.0), _legendre),
}


def _polynomial(b: Builder, name: str, args: Sequence[Value]) -> Value:
    """The polynomial of degree n (truncated to a whole number; 0 for negative ones) by its recurrence."""
    d = _Double(b, args[0])
    x, n = d.take(args[0]), b.intrinsic("llvm.trunc", d.type, d.take(args[1]))
    (slope, offset), step = _POLYNOMIALS[name]
    last, before, k = d.var(b.fma(x, d.c(slope), d.c(offset))), d.var(d.c(1.0)), d.var(d.c(1.0))
    with _while(b, lambda: b.compare("olt", d.get(k), n), 100_000):
        active = b.compare("olt", d.get(k), n)
        value, old = d.get(last), d.get(before)
        following = step(d, d.get(k), x, value, old)
        b.set(last, b.select(active, following, value))
        b.set(before, b.select(active, value, old))
        b.set(k, b.add(d.get(k), d.c(1.0)))
    result = b.select(b.compare("olt", n, d.c(1.0)), d.c(1.0), d.get(last))
    return d.give(b.select(b.compare("olt", n, d.c(0.0)), d.c(0.0), result), args[0])


def emit(b: Builder, name: str, args: Sequence[Value]) -> Value | None:
    """The function of floating arguments, or None where there is none of that name here."""
    if name == "zeta":
        return zeta(b, args)
    if name in ("igamma", "igammac"):
        return _incomplete_gamma(b, args, name == "igammac")
    return _polynomial(b, name, args) if name in _POLYNOMIALS else None
