"""Special functions: `fp.special`, by the names of torch.special."""

from __future__ import annotations

import math
from typing import Any

from firepot.graph import dtypes
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.ops import arithmetic
from firepot.ops.arithmetic import digamma as digamma
from firepot.ops.arithmetic import erf as erf
from firepot.ops.arithmetic import erfc as erfc
from firepot.ops.arithmetic import erfinv as erfinv
from firepot.ops.arithmetic import exp2 as exp2
from firepot.ops.arithmetic import expm1 as expm1
from firepot.ops.arithmetic import lgamma as gammaln
from firepot.ops.arithmetic import log1p as log1p
from firepot.ops.arithmetic import logit as logit
from firepot.ops.arithmetic import round as round
from firepot.ops.arithmetic import sinc as sinc
from firepot.ops.arithmetic import xlogy as xlogy
from firepot.ops.bessel import *  # noqa: F403
from firepot.ops.bessel import differentiable, polynomial
from firepot.ops.broadcast import floating, operands, promoted
from firepot.ops.reduction import log_softmax as log_softmax
from firepot.ops.reduction import logsumexp as logsumexp
from firepot.ops.reduction import softmax as softmax
from firepot.tensor import Tensor, default_dtype, node_of, wrap

psi, expit = digamma, arithmetic.sigmoid

# (1 + 2x) erfcx(x) in the Chebyshev polynomials of (x − 3.75) / (x + 3.75), after Shepherd and Laframboise (1981).
_ERFCX = (
    1.1775789345674017, -0.004590054580646478, -0.08424913336651792, 0.05920993999819189, -0.026658668435305753,
    0.009074997670705265, -0.002413163540417608, 0.0004907758365258086, -6.916973302501207e-05,
    4.13902798607301e-06, 7.74038306619849e-07, -2.1886401049234397e-07, 1.076499946567091e-08,
    4.521959811218287e-09, -7.754400208831351e-10, -6.318088340886684e-11, 2.86879501093067e-11,
    1.9455868545777347e-13, -9.65469674843344e-13, 3.25254814814874e-14, 3.3478119482868056e-14,
    -1.864562880419313e-15, -1.2507950530688648e-15, 7.418235256624044e-17, 5.068148904796111e-17,
    -2.2370566594359995e-18, -2.187342944303018e-18,
)  # fmt: skip
_NDTRI_P0 = (-59.96335010141079, 98.00107541859997, -56.67628574690703, 13.931260938727968, -1.2391658386738125)
_NDTRI_Q0 = (
    1.0, 1.9544885833814176, 4.676279128988815, 86.36024213908905, -225.46268785411937, 200.26021238006066,
    -82.03722561683334, 15.90562251262117, -1.1833162112133,
)  # fmt: skip
_NDTRI_P1 = (
    4.0554489230596245, 31.525109459989388, 57.16281922464213, 44.08050738932008, 14.684956192885803,
    2.1866330685079025, -0.1402560791713545, -0.03504246268278482, -0.0008574567851546854,
)  # fmt: skip
_NDTRI_Q1 = (
    1.0, 15.779988325646675, 45.39076351288792, 41.3172038254672, 15.04253856929075, 2.504649462083094,
    -0.14218292285478779, -0.03808064076915783, -0.0009332594808954574,
)  # fmt: skip
_NDTRI_P2 = (
    3.2377489177694603, 6.915228890689842, 3.9388102529247444, 1.3330346081580755, 0.20148538954917908,
    0.012371663481782003, 0.00030158155350823543, 2.6580697468673755e-06, 6.239745391849833e-09,
)  # fmt: skip
_NDTRI_Q2 = (
    1.0, 6.02427039364742, 3.6798356385616087, 1.3770209948908132, 0.21623699359449663, 0.013420400608854318,
    0.00032801446468212774, 2.8924786474538068e-06, 6.790194080099813e-09,
)  # fmt: skip

_ROOT_TWO = math.sqrt(2.0)


def _half_safe(what: str, *values: Any) -> tuple[list[Node], Any]:
    """Floating nodes of a common shape and dtype, half precision as float32; and the dtype of the result."""
    dtype = promoted(values)
    dtype = dtype if dtype.kind == "f" else default_dtype()
    nodes = operands(what, *values, dtype=dtype)
    if dtype in (dtypes.float16, dtypes.bfloat16):
        nodes = [ew.cast(n, dtypes.float32) for n in nodes]
    return nodes, dtype


# -- around the error function ---------------------------------------------------------------------------------------


def _erfcx_node(x: Node) -> Node:
    size = ew.unary("abs", x)
    t = ew.div(ew.sub(size, ew.like(x, 3.75)), ew.add(size, ew.like(x, 3.75)))
    twice = ew.add(t, t)
    before = last = ew.like(x, 0)
    for c in reversed(_ERFCX[1:]):
        before, last = last, ew.add(ew.sub(ew.mul(twice, last), before), ew.like(x, c))
    series = ew.add(ew.sub(ew.mul(t, last), before), ew.like(x, _ERFCX[0]))
    positive = ew.div(series, ew.add(ew.add(size, size), ew.like(x, 1)))
    positive = ew.where(ew.predicate("isinf", x), ew.like(x, 0), positive)
    mirrored = ew.sub(ew.mul(ew.like(x, 2), ew.unary("exp", ew.square(x))), positive)
    return ew.where(ew.compare("lt", x, ew.like(x, 0)), mirrored, positive)


_erfcx = differentiable(
    _erfcx_node, lambda x: arithmetic.sub(arithmetic.mul(arithmetic.mul(x, 2), erfcx(x)), 2 / math.sqrt(math.pi))
)


def erfcx(input: Tensor) -> Tensor:
    """exp(x²) erfc(x), without overflow."""
    return _erfcx(input)


def _ndtr_node(x: Node) -> Node:
    t = ew.mul(x, ew.like(x, 1 / _ROOT_TWO))
    low = ew.mul(ew.unary("erfc", ew.neg(t)), ew.like(x, 0.5))
    high = ew.mul(ew.add(ew.unary("erf", t), ew.like(x, 1)), ew.like(x, 0.5))
    return ew.where(ew.compare("lt", x, ew.like(x, -1)), low, high)


def _density(x: Tensor) -> Tensor:
    return arithmetic.mul(arithmetic.exp(arithmetic.mul(arithmetic.square(x), -0.5)), 1 / math.sqrt(2 * math.pi))


_ndtr = differentiable(_ndtr_node, _density)


def ndtr(input: Tensor) -> Tensor:
    """The area under the standard normal density below each element."""
    return _ndtr(input)


def _log_ndtr_node(x: Node) -> Node:
    t = ew.mul(x, ew.like(x, 1 / _ROOT_TWO))
    low = ew.compare("lt", x, ew.like(x, -1))
    far = ew.sub(ew.log(ew.mul(_erfcx_node(ew.neg(ew.where(low, t, ew.like(x, -1)))), ew.like(x, 0.5))), ew.square(t))
    near = ew.unary("log1p", ew.mul(ew.unary("erfc", t), ew.like(x, -0.5)))
    return ew.where(low, far, near)


_log_ndtr = differentiable(
    _log_ndtr_node,
    lambda x: arithmetic.div(math.sqrt(2 / math.pi), erfcx(arithmetic.mul(x, -1 / _ROOT_TWO))),
)


def log_ndtr(input: Tensor) -> Tensor:
    """log(ndtr(x)), without loss for very negative x."""
    return _log_ndtr(input)


def _ndtri_node(x: Node) -> Node:
    def c(value: float) -> Node:
        return ew.like(x, value)

    edge = 0.13533528323661269189  # exp(−2)
    upper = ew.gt(x, c(1 - edge))
    y = ew.where(upper, ew.sub(c(1), x), x)
    central = ew.gt(y, c(edge))
    d = ew.sub(y, c(0.5))
    square = ew.square(d)
    ratio = ew.div(polynomial(square, _NDTRI_P0), polynomial(square, _NDTRI_Q0))
    middle = ew.mul(ew.add(d, ew.mul(d, ew.mul(square, ratio))), c(math.sqrt(2 * math.pi)))
    inside = ew.and_(ew.gt(y, c(0)), ew.unary("not", central))
    root = ew.unary("sqrt", ew.mul(ew.log(ew.where(inside, y, c(0.1))), c(-2)))
    z = ew.unary("reciprocal", root)
    near = ew.mul(z, ew.div(polynomial(z, _NDTRI_P1), polynomial(z, _NDTRI_Q1)))
    far = ew.mul(z, ew.div(polynomial(z, _NDTRI_P2), polynomial(z, _NDTRI_Q2)))
    tail = ew.sub(ew.sub(root, ew.mul(ew.log(root), z)), ew.where(ew.compare("lt", root, c(8)), near, far))
    tail = ew.where(upper, tail, ew.neg(tail))
    result = ew.where(central, middle, tail)
    result = ew.where(ew.eq(x, c(0)), c(-math.inf), ew.where(ew.eq(x, c(1)), c(math.inf), result))
    valid = ew.and_(ew.ge(x, c(0)), ew.compare("le", x, c(1)))
    return ew.where(valid, result, c(math.nan))


_ndtri = differentiable(
    _ndtri_node,
    lambda x: arithmetic.mul(arithmetic.exp(arithmetic.mul(arithmetic.square(ndtri(x)), 0.5)), math.sqrt(2 * math.pi)),
)


def ndtri(input: Tensor) -> Tensor:
    """The inverse of ndtr."""
    return _ndtri(input)


# -- logarithms ------------------------------------------------------------------------------------------------------


def _entr_node(x: Node) -> Node:
    positive = ew.gt(x, ew.like(x, 0))
    value = ew.neg(ew.mul(x, ew.log(ew.where(positive, x, ew.like(x, 1)))))
    rest = ew.where(ew.eq(x, ew.like(x, 0)), ew.like(x, 0), ew.like(x, -math.inf))
    return ew.where(ew.predicate("isnan", x), x, ew.where(positive, value, rest))


_entr = differentiable(_entr_node, lambda x: arithmetic.sub(-1, arithmetic.log(x)))


def entr(input: Tensor) -> Tensor:
    """−x log x: 0 at 0, −∞ below."""
    return _entr(input)


def xlog1py(input: Any, other: Any) -> Tensor:
    """input · log1p(other), 0 where input is 0."""
    (a, b), dtype = _half_safe("xlog1py", input, other)
    zero = ew.like(a, 0)
    nothing = ew.and_(ew.eq(a, zero), ew.unary("not", ew.predicate("isnan", b)))
    safe = ew.where(nothing, zero, b)
    return wrap(ew.cast(ew.where(nothing, zero, ew.mul(a, ew.unary("log1p", safe))), dtype))


# -- around the gamma function ---------------------------------------------------------------------------------------


def zeta(input: Any, other: Any) -> Tensor:
    """Hurwitz's zeta function Σ 1 / (k + other)^input over k ≥ 0."""
    (s, q), dtype = _half_safe("zeta", input, other)
    return wrap(ew.cast(ew.binary("zeta", s, q), dtype))


def polygamma(n: int, input: Tensor) -> Tensor:
    """The n-th derivative of digamma."""
    if n < 0:
        raise RuntimeError(f"polygamma: n must not be negative, got {n}")
    if n == 0:
        return digamma(input)
    (x,), dtype = _half_safe("polygamma", input)
    factor = math.factorial(n) * (1.0 if n % 2 else -1.0)
    return wrap(ew.cast(ew.mul(ew.binary("zeta", ew.like(x, n + 1), x), ew.like(x, factor)), dtype))


def gammainc(input: Any, other: Any) -> Tensor:
    """The regularised lower incomplete gamma function P(input, other). By `input` it has no derivative."""
    return _incomplete("igamma", input, other)


def gammaincc(input: Any, other: Any) -> Tensor:
    """The regularised upper incomplete gamma function Q(input, other) = 1 − P. By `input` it has no derivative."""
    return _incomplete("igammac", input, other)


def _incomplete(name: str, input: Any, other: Any) -> Tensor:
    dtype = promoted((input, other))
    if dtype.kind != "f":
        raise TypeError(f"{name}: expected floating-point tensors, the operands promote to {dtype.name}")
    (a, x), dtype = _half_safe(name, input, other)
    return wrap(ew.cast(ew.binary(name, a, x), dtype))


igamma, igammac = gammainc, gammaincc


def multigammaln(input: Tensor, p: int) -> Tensor:
    """The logarithm of the multivariate gamma function of dimension p."""
    if p < 1:
        raise RuntimeError(f"mvlgamma: p has to be greater than or equal to 1, got {p}")
    x = wrap(floating(node_of(input)))
    total = gammaln(x)
    for j in range(1, p):
        total = arithmetic.add(total, gammaln(arithmetic.sub(x, j / 2)))
    return arithmetic.add(total, p * (p - 1) / 4 * math.log(math.pi))


mvlgamma = multigammaln

# -- orthogonal polynomials ------------------------------------------------------------------------------------------


def _orthogonal(name: str, input: Any, n: Any, shifted: bool = False) -> Tensor:
    (x, degree), dtype = _half_safe(name, input, n)
    if shifted:
        x = ew.sub(ew.add(x, x), ew.like(x, 1))
    return wrap(ew.cast(ew.binary(name, x, degree), dtype))


def chebyshev_polynomial_t(input: Any, n: Any) -> Tensor:
    """Chebyshev's polynomial of the first kind of degree n."""
    return _orthogonal("chebyshev_polynomial_t", input, n)


def chebyshev_polynomial_u(input: Any, n: Any) -> Tensor:
    """Chebyshev's polynomial of the second kind of degree n."""
    return _orthogonal("chebyshev_polynomial_u", input, n)


def chebyshev_polynomial_v(input: Any, n: Any) -> Tensor:
    """Chebyshev's polynomial of the third kind of degree n."""
    return _orthogonal("chebyshev_polynomial_v", input, n)


def chebyshev_polynomial_w(input: Any, n: Any) -> Tensor:
    """Chebyshev's polynomial of the fourth kind of degree n."""
    return _orthogonal("chebyshev_polynomial_w", input, n)


def hermite_polynomial_h(input: Any, n: Any) -> Tensor:
    """The physicists' polynomial of Hermite of degree n."""
    return _orthogonal("hermite_polynomial_h", input, n)


def hermite_polynomial_he(input: Any, n: Any) -> Tensor:
    """The probabilists' polynomial of Hermite of degree n."""
    return _orthogonal("hermite_polynomial_he", input, n)


def laguerre_polynomial_l(input: Any, n: Any) -> Tensor:
    """Laguerre's polynomial of degree n."""
    return _orthogonal("laguerre_polynomial_l", input, n)


def legendre_polynomial_p(input: Any, n: Any) -> Tensor:
    """Legendre's polynomial of degree n."""
    return _orthogonal("legendre_polynomial_p", input, n)


def shifted_chebyshev_polynomial_t(input: Any, n: Any) -> Tensor:
    """Chebyshev's polynomial of the first kind of degree n, of 2 · input − 1."""
    return _orthogonal("chebyshev_polynomial_t", input, n, shifted=True)


def shifted_chebyshev_polynomial_u(input: Any, n: Any) -> Tensor:
    """Chebyshev's polynomial of the second kind of degree n, of 2 · input − 1."""
    return _orthogonal("chebyshev_polynomial_u", input, n, shifted=True)


def shifted_chebyshev_polynomial_v(input: Any, n: Any) -> Tensor:
    """Chebyshev's polynomial of the third kind of degree n, of 2 · input − 1."""
    return _orthogonal("chebyshev_polynomial_v", input, n, shifted=True)


def shifted_chebyshev_polynomial_w(input: Any, n: Any) -> Tensor:
    """Chebyshev's polynomial of the fourth kind of degree n, of 2 · input − 1."""
    return _orthogonal("chebyshev_polynomial_w", input, n, shifted=True)
