"""Numbers taken apart and put together: exponents, divisors, signs, parts; and the dtypes that they get."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from firepot.graph import dtypes
from firepot.graph.dtypes import CATEGORY, DType, promote
from firepot.graph.primitives import elementwise as ew
from firepot.ops import arithmetic, reduction, shape
from firepot.ops.broadcast import NUMBERS, axis_of, number_dtype, operands, promoted
from firepot.tensor import Tensor, node_of, wrap

__all__ = [
    "MantissaExponent", "can_cast", "dist", "frexp", "gcd", "heaviside", "is_floating_point", "is_nonzero", "is_signed",
    "isneginf", "isposinf", "lcm", "ldexp", "logaddexp2", "promote_types", "renorm", "result_type",
]  # fmt: skip

# -- exponents -------------------------------------------------------------------------------------------------------


class MantissaExponent(NamedTuple):
    """What frexp returns."""

    mantissa: Tensor
    exponent: Tensor


def frexp(input: Tensor) -> MantissaExponent:
    """(m, e) with input = m · 2ᵉ and ½ ≤ |m| < 1; m = input and e = 0 for zeros, infinities and NaN."""
    x = input._node
    if x.dtype.kind != "f":
        raise RuntimeError(f"frexp: expected a floating-point tensor, got {x.dtype.name}")
    wide = ew.cast(x, dtypes.float64)
    tiny = ew.compare("lt", ew.unary("abs", wide), ew.like(wide, 2.0**-1022))
    scaled = ew.where(tiny, ew.mul(wide, ew.like(wide, 2.0**54)), wide)
    bits = ew.bitcast(scaled, dtypes.int64)
    biased = ew.binary("and", ew.binary("shr", bits, ew.like(bits, 52)), ew.like(bits, 0x7FF))
    exponent = ew.sub(biased, ew.where(tiny, ew.like(bits, 1022 + 54), ew.like(bits, 1022)))
    kept = ew.binary("and", bits, ew.like(bits, -(0x7FF << 52) - 1))
    mantissa = ew.bitcast(ew.or_(kept, ew.like(bits, 1022 << 52)), dtypes.float64)
    plain = ew.or_(ew.eq(wide, ew.like(wide, 0)), ew.unary("not", ew.predicate("isfinite", wide)))
    exponent = ew.cast(ew.where(plain, ew.like(exponent, 0), exponent), dtypes.int32)
    if x.requires_grad:  # the exponent is constant between powers of two
        scale = ew.power(ew.full(x.shape, 2.0, dtypes.float64), ew.cast(ew.neg(exponent), dtypes.float64))
        return MantissaExponent(wrap(ew.mul(x, ew.cast(scale, x.dtype))), wrap(exponent))
    return MantissaExponent(wrap(ew.cast(ew.where(plain, wide, mantissa), x.dtype)), wrap(exponent))


def ldexp(input: Any, other: Any) -> Tensor:
    """input · 2^other."""
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        raise TypeError(f"ldexp: at least one operand must be a tensor, got {input!r} and {other!r}")
    two = wrap(ew.full((), 2.0, promoted((input, 1.0))))
    return arithmetic.mul(input, arithmetic.pow(two, other))


def logaddexp2(input: Any, other: Any) -> Tensor:
    """log₂(2^input + 2^other) without overflow."""
    a, b = operands("logaddexp2", input, other)
    if a.dtype.kind != "f":
        raise TypeError(f"logaddexp2: expected floating-point tensors, the operands promote to {a.dtype.name}")
    top = ew.binary("maximum", a, b)
    power = ew.unary("exp2", ew.neg(ew.unary("abs", ew.sub(a, b))))
    smooth = ew.add(top, ew.mul(ew.unary("log1p", power), ew.like(a, 1 / math.log(2))))
    return wrap(ew.where(ew.eq(a, b), ew.add(a, ew.like(a, 1)), smooth))


# -- divisors --------------------------------------------------------------------------------------------------------


def gcd(input: Tensor, other: Tensor) -> Tensor:
    """The greatest common divisor of integers, never negative; gcd(0, 0) = 0."""
    a, b = operands("gcd", input, other)
    if a.dtype.kind not in "iu":
        raise TypeError(f"gcd: expected integers, the operands promote to {a.dtype.name}")
    return wrap(ew.binary("gcd", a, b))


def lcm(input: Tensor, other: Tensor) -> Tensor:
    """The least common multiple of integers, never negative; 0 where one of them is 0."""
    a, b = operands("lcm", input, other)
    if a.dtype.kind not in "iu":
        raise TypeError(f"lcm: expected integers, the operands promote to {a.dtype.name}")
    divisor = ew.binary("gcd", a, b)
    safe = ew.binary("maximum", divisor, ew.like(divisor, 1))
    return wrap(ew.unary("abs", ew.mul(ew.binary("truncdiv", a, safe), b)))


# -- signs -----------------------------------------------------------------------------------------------------------


def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below zero, 1 above, `values` at zero."""
    if isinstance(values, Tensor) and isinstance(input, Tensor) and values.dtype is not input.dtype:
        raise RuntimeError(f"heaviside: input is {input.dtype.name} and values is {values.dtype.name}; they must be equal")
    a, b = operands("heaviside", input, values)
    zero, one = ew.like(a, 0), ew.like(a, 1)
    step = ew.where(ew.compare("lt", a, zero), zero, one)
    if a.dtype.kind == "f":
        step = ew.where(ew.predicate("isnan", a), a, step)
    return wrap(ew.where(ew.eq(a, zero), b, step))


def isposinf(input: Tensor) -> Tensor:
    """Whether an element is +∞."""
    return _is_infinity(input, math.inf)


def isneginf(input: Tensor) -> Tensor:
    """Whether an element is −∞."""
    return _is_infinity(input, -math.inf)


def _is_infinity(input: Tensor, value: float) -> Tensor:
    x = input._node
    if x.dtype.is_complex:
        raise RuntimeError(f"isposinf, isneginf: not defined for complex numbers, got {x.dtype.name}")
    return wrap(ew.eq(x, ew.like(x, value)) if x.dtype.kind == "f" else ew.full(x.shape, False, dtypes.bool_))


def is_floating_point(input: Tensor) -> bool:
    return input.dtype.kind == "f"


def is_signed(input: Tensor) -> bool:
    return input.dtype.is_signed


def is_nonzero(input: Tensor) -> bool:
    """The truth of a tensor of one element."""
    return bool(input)


# -- sizes -----------------------------------------------------------------------------------------------------------


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of input − other."""
    return reduction.norm(arithmetic.sub(input, other), p)


def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Slices along a dimension scaled down to a p-norm of at most maxnorm."""
    if not input.dtype.is_inexact:
        raise RuntimeError(f"renorm: expected a floating-point or complex tensor, got {input.dtype.name}")
    if input.ndim < 2:
        raise RuntimeError(f"renorm: expected at least 2 dimensions, got shape {list(input.shape)}")
    if p <= 0 or maxnorm < 0:
        raise RuntimeError(f"renorm: expected p > 0 and maxnorm ≥ 0, got {p} and {maxnorm}")
    d = axis_of(dim, input.ndim, "renorm")
    axes = [k for k in range(input.ndim) if k != d]
    half = input.dtype in (dtypes.float16, dtypes.bfloat16)
    x = wrap(ew.cast(input._node, dtypes.float32)) if half else input
    norms = reduction.norm(x, p, axes, keepdim=True)
    factor = arithmetic.where(arithmetic.gt(norms, maxnorm), arithmetic.div(maxnorm, arithmetic.add(norms, 1e-7)), 1.0)
    return arithmetic.mul(input, shape.expand(wrap(ew.cast(factor._node, input.dtype)), input.shape))


# -- dtypes ----------------------------------------------------------------------------------------------------------


def promote_types(type1: DType, type2: DType) -> DType:
    """The smallest dtype that holds both kinds of values."""
    return promote(type1, type2)


def result_type(tensor1: Any, tensor2: Any) -> DType:
    """The dtype of an operation on two tensors or numbers."""
    given = [v if isinstance(v, (Tensor, *NUMBERS)) else wrap(node_of(v)) for v in (tensor1, tensor2)]
    numbers = [v for v in given if not isinstance(v, Tensor)]
    if len(numbers) == 2:
        return promote(number_dtype(numbers[0]), number_dtype(numbers[1]))
    return promoted(given)


def can_cast(from_: DType, to: DType) -> bool:
    """Whether PyTorch's rules let values of one dtype go to another: never to a lower category."""
    if CATEGORY[from_.kind] > CATEGORY[to.kind]:
        return False
    return not (from_.kind == "i" and to.kind == "u")
