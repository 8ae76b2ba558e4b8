"""Transcendental functions and random bits on vectors of lanes.

float32 exp, log, tanh, sigmoid and erf are polynomials of our own (Chebyshev fits, after the usual reductions of the
argument, or one for each of several intervals). The rest, and float64, go lane by lane through the C library's function of that name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from firepot.kernels.llvm import special
from firepot.kernels.llvm.builder import Builder, Value, overload, vector

# Names in the C library; float32 variants carry an f.
_LIBRARY = {
    "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2", "log10": "log10",
    "log1p": "log1p", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
    "erf": "erf", "erfc": "erfc", "lgamma": "lgamma", "pow": "pow", "atan2": "atan2", "hypot": "hypot",
    "nextafter": "nextafter",
}  # fmt: skip


def emit(b: Builder, name: str, args: Sequence[Value]) -> Value:
    """The function `name` of float32 or float64 arguments."""
    x = args[0]
    if x.element == "float" and name in _FLOAT:
        return _FLOAT[name](b, x)
    if name == "sigmoid":
        return _sigmoid(b, x)
    if name == "erfinv":
        return _erfinv(b, x)
    if name in ("digamma", "lgamma") and x.element == "float":  # near their roots, terms of float32 would cancel
        wide = b.convert("fpext", x, vector("double", x.lanes))
        return b.convert("fptrunc", emit(b, name, [wide]), x.type)
    if name == "digamma":
        return _digamma(b, x)
    looped = special.emit(b, name, args)
    if looped is not None:
        return looped
    return _by_lane(b, name, args)


def _by_lane(b: Builder, name: str, args: Sequence[Value]) -> Value:
    x = args[0]
    function = _LIBRARY[name] + ("f" if x.element == "float" else "")
    b.module.declare(function, x.element, [x.element] * len(args))
    if x.lanes == 1:
        return b.call(function, x.element, *args)
    result = Value("poison", x.type)
    for lane in range(x.lanes):
        value = b.call(function, x.element, *(b.extract(a, lane) for a in args))
        result = b.insert(result, value, lane)
    return result


def polynomial(b: Builder, x: Value, coefficients: Sequence[float]) -> Value:
    """Σ cᵢ xⁱ by Horner's rule with fused multiply-adds."""
    result = b.constant(coefficients[-1], x.type)
    for c in reversed(coefficients[:-1]):
        result = b.fma(result, x, b.constant(c, x.type))
    return result


_EXP = (0.5000000013470307, 0.1666666671903921, 0.04166646489534902, 0.008333298466379882, 0.001393365248825797,
        0.00019899287854262954)  # fmt: skip
_LOG = (0.3333333118522398, -0.2499998899490846, 0.20000708892696215, -0.16668486460503923, 0.14249888890901308,
        -0.12410865688945531, 0.11661834647013276, -0.11572749953780867, 0.07150792723573932)  # fmt: skip
_TANH = (-0.3333333315606361, 0.1333330096828655, -0.05395862445040693, 0.021763635012771725, -0.008326405587705858,
         0.0022727078908256143)  # fmt: skip
# erf around 0, 0.25 … 3.75, a polynomial of the distance from there: by power, the 16 coefficients. Least squares at
# Chebyshev's nodes; without x itself in the first, and in the last so that it ends at 1.
_ERF = (
    (0, 0.276326388, 0.520499885, 0.711155653, 0.842700779, 0.92290014, 0.966105163, 0.986671686,
     0.995322287, 0.998537302, 0.999593019, 0.999899387, 0.999977887, 0.999995708, 0.999999285, 0.999999881),
    (0.128379166, 1.06001413, 0.87878257, 0.642931104, 0.415107518, 0.236521125, 0.118930288, 0.0527749918,
     0.0206669848, 0.00714231888, 0.00217828434, 0.000586277514, 0.000139253214, 2.91890974e-05, 5.39945131e-06, 8.81439064e-07),
    (3.20510736e-07, -0.264997989, -0.43938446, -0.482194632, -0.415108114, -0.295654297, -0.178398073, -0.092357479,
     -0.0413340405, -0.016069822, -0.00544532714, -0.00161203451, -0.000417657342, -9.48278685e-05, -1.88872018e-05, -3.30268676e-06),
    (-0.376142323, -0.309167355, -0.146464899, 0.0267848782, 0.138365939, 0.167535022, 0.138753012, 0.0901585743,
     0.0482236892, 0.0217246991, 0.00834997557, 0.00276025105, 0.000789017125, 0.000195773246, 4.22829908e-05, 7.96610402e-06),
    (0.000287739793, 0.126035005, 0.181911126, 0.150058135, 0.0692906529, -0.00566258421, -0.0441469103, -0.0478918292,
     -0.0344335325, -0.0191510282, -0.00868785288, -0.00329699484, -0.00106175325, -0.000292780693, -6.95546114e-05, -1.42977178e-05),
    (0.11098206, 0.0796125606, 0.00746980123, -0.052740816, -0.0687712282, -0.0470814109, -0.0149950422, 0.00645918353,
     0.0129966727, 0.0106391441, 0.0061320425, 0.00277343439, 0.00102723448, 0.000318459643, 8.37159168e-05, 0.000805251359),
)  # fmt: skip

_LN2_HIGH = 0.693145751953125  # 16 bits of ln 2, so that its product with an exponent is exact
_LN2_LOW = math.log(2) - _LN2_HIGH


def larger(b: Builder, x: Value, y: Value) -> Value:
    """max(x, y); y where either is NaN. One instruction on x86, unlike llvm.maximum."""
    return b.select(b.compare("ogt", x, y), x, y)


def smaller(b: Builder, x: Value, y: Value) -> Value:
    """min(x, y); y where either is NaN."""
    return b.select(b.compare("olt", x, y), x, y)


def maximum(b: Builder, x: Value, y: Value) -> Value:
    """max(x, y), NaN if either is."""
    return b.select(b.compare("uno", y, y), y, larger(b, y, x))


def minimum(b: Builder, x: Value, y: Value) -> Value:
    """min(x, y), NaN if either is."""
    return b.select(b.compare("uno", y, y), y, smaller(b, y, x))


def _power_of_two(b: Builder, n: Value) -> Value:
    """2ⁿ for integers −126 ≤ n ≤ 127 held in float32."""
    integer = vector("i32", n.lanes)
    bits = b.convert("fptosi", n, integer)
    biased = b.add(bits, b.constant(127, integer))
    shifted = b.emit(integer, f"shl {biased!r}, {b.constant(23, integer).text}")
    return b.convert("bitcast", shifted, n.type)


def exp(b: Builder, x: Value) -> Value:
    """eˣ: x = n ln 2 + r, a polynomial in r, and 2ⁿ in two factors so that subnormal results come out right."""
    type = x.type

    def c(v: float) -> Value:
        return b.constant(v, type)

    clamped = smaller(b, c(89.0), larger(b, c(-105.0), x))
    n = b.intrinsic("llvm.rint", type, b.mul(clamped, c(1 / math.log(2))))
    r = b.fma(n, c(-_LN2_HIGH), clamped)
    r = b.fma(n, c(-_LN2_LOW), r)
    y = b.fma(b.mul(r, r), polynomial(b, r, _EXP), r)
    y = b.add(y, c(1.0))
    half = b.intrinsic("llvm.floor", type, b.mul(n, c(0.5)))
    return b.mul(b.mul(y, _power_of_two(b, half)), _power_of_two(b, b.sub(n, half)))


def log(b: Builder, x: Value) -> Value:
    """ln x: x = 2ᵉ (1 + f) with 1 + f in √½ … √2, and f − f²/2 + f³ P(f)."""
    type = x.type
    integer = vector("i32", x.lanes)

    def c(v: float) -> Value:
        return b.constant(v, type)

    small = b.compare("olt", x, c(2.0**-126))
    scaled = b.select(small, b.mul(x, c(2.0**23)), x)
    bits = b.convert("bitcast", scaled, integer)
    # Subtracting the bits of √½ puts the cut between exponents at √2.
    shifted = b.sub(bits, b.constant(0x3F3504F3, integer))
    exponent = b.emit(integer, f"ashr {shifted!r}, {b.constant(23, integer).text}")
    mantissa = b.sub(bits, b.emit(integer, f"shl {exponent!r}, {b.constant(23, integer).text}"))
    f = b.sub(b.convert("bitcast", mantissa, type), c(1.0))
    e = b.convert("sitofp", exponent, type)
    e = b.sub(e, b.select(small, c(23.0), c(0.0)))
    square = b.mul(f, f)
    y = b.mul(b.mul(square, f), polynomial(b, f, _LOG))
    y = b.fma(e, c(_LN2_LOW), y)
    y = b.fma(square, c(-0.5), y)
    y = b.fma(e, c(_LN2_HIGH), b.add(f, y))
    infinity = c(math.inf)
    y = b.select(b.compare("oeq", x, infinity), infinity, y)
    y = b.select(b.compare("oeq", x, c(0.0)), c(-math.inf), y)
    return b.select(b.compare("ult", x, c(0.0)), c(math.nan), y)


def _exp_parts(b: Builder, x: Value, bias: int) -> tuple[Value, Value]:
    """(p, s) with eˣ = (1 + p) s / 2^(bias − 127), where s is a power of two that `bias` keeps in range.

    Added to 3·2²², x / ln 2 is rounded to a whole number, which stands in the lowest bits of the sum; shifted they are
    the exponent of s. Of NaN p is NaN.
    """
    type = x.type
    integer = vector("i32", x.lanes)
    whole = b.constant(1.5 * 2.0**23 + bias, type)
    total = b.fma(x, b.constant(1 / math.log(2), type), whole)
    n = b.sub(total, whole)
    r = b.fma(n, b.constant(-_LN2_HIGH, type), x)
    r = b.fma(n, b.constant(-_LN2_LOW, type), r)
    exponent = b.emit(integer, f"shl {b.convert('bitcast', total, integer)!r}, {b.constant(23, integer).text}")
    return b.fma(b.mul(r, r), polynomial(b, r, _EXP), r), b.convert("bitcast", exponent, type)


def tanh(b: Builder, x: Value) -> Value:
    """x + x³ P(x²) near zero, 1 − 2 / (e²ˣ + 1) elsewhere."""
    type = x.type
    size = b.intrinsic("llvm.fabs", type, x)
    one = b.constant(1.0, type)
    square = b.mul(x, x)
    near = b.fma(b.mul(square, x), polynomial(b, square, _TANH), x)
    clamped = smaller(b, b.constant(10.0, type), size)  # from where on the result is 1
    p, s = _exp_parts(b, b.add(clamped, clamped), 127)
    far = b.sub(one, b.fdiv(b.constant(2.0, type), b.fma(p, s, b.add(s, one))))
    y = b.select(b.compare("olt", size, b.constant(0.625, type)), near, far)
    return b.intrinsic("llvm.copysign", type, y, x)  # of the zero too


def erf(b: Builder, x: Value) -> Value:
    """The polynomial of the interval that |x| lies in: their coefficients are looked up, which takes one instruction."""
    type = x.type
    integer = vector("i32", x.lanes)
    step = b.constant(2.0**21, type)  # at this size numbers lie 0.25 apart, and end in the number of the interval
    size = smaller(b, b.constant(3.8749998, type), b.intrinsic("llvm.fabs", type, x))
    moved = b.add(size, step)
    t = b.sub(size, b.sub(moved, step))
    interval = b.and_(b.convert("bitcast", moved, integer), 15)
    *low, y = (_choose(b, f"erf{power}", table, interval) for power, table in enumerate(_ERF))
    first = b.compare("ole", size, b.constant(0.125, type))  # halfway cases go to the even number
    low[0] = b.select(first, t, low[0])
    for coefficient in reversed(low):
        y = b.fma(y, t, coefficient)
    return b.intrinsic("llvm.copysign", type, y, x)


def _choose(b: Builder, name: str, table: Sequence[float], index: Value) -> Value:
    """table[index] for each lane of index."""
    if index.lanes == len(table):  # code generation makes one permutation of these
        entries = b.constants(table, "float")
        result = Value("poison", entries.type)
        for lane in range(index.lanes):
            result = b.insert(result, b.extract(entries, b.extract(index, lane)), lane)
        return result
    entries = b.module.constant_array(name, "float", table)
    if index.lanes == 1:
        return b.load(b.element(entries, "float", b.convert("zext", index, "i64")), "float")
    type = vector("float", index.lanes)
    wide = b.convert("zext", index, vector("i64", index.lanes))
    places = b.emit(vector("ptr", index.lanes), f"getelementptr inbounds float, {entries!r}, {wide!r}")
    every = b.constant(True, vector("i1", index.lanes))
    return b.intrinsic(
        "llvm.masked.gather", type, places, b.constant(4, "i32"), every, b.constant(0, type),
        suffix=f"{overload(type)}.v{index.lanes}p0",
    )  # fmt: skip


def _sigmoid(b: Builder, x: Value) -> Value:
    """With e = exp(−|x|), which does not overflow, and q = e / (1 + e): 1 − q, and below zero q as e − e q, where the
    rounding of 1 + e hardly counts."""
    type = x.type
    one = b.constant(1.0, type)
    size = b.intrinsic("llvm.fabs", type, x)
    if x.element == "float":
        p, s = _exp_parts(b, b.fneg(smaller(b, b.constant(105.0, type), size)), 127 + 64)
        # In two factors, so that subnormal results come out right.
        e = b.mul(b.mul(b.add(p, one), s), b.constant(2.0**-64, type))
    else:
        e = emit(b, "exp", [b.fneg(size)])
    q = b.fdiv(e, b.add(one, e))
    below = b.compare("olt", x, b.constant(0.0, type))
    return b.select(below, b.fma(b.fneg(e), q, e), b.sub(one, q))


_FLOAT: dict[str, Callable[[Builder, Value], Value]] = {"exp": exp, "log": log, "tanh": tanh, "erf": erf}


def _erfinv(b: Builder, x: Value) -> Value:
    """Giles's starting value (Approximating the erfinv function, 2011) and two Newton steps."""
    type = x.type

    def c(v: float) -> Value:
        return b.constant(v, type)

    one = c(1.0)
    w = b.fneg(emit(b, "log", [b.mul(b.sub(one, x), b.add(one, x))]))
    central = polynomial(b, b.sub(w, c(2.5)), (1.50140941, 0.246640727, -0.00417768164, -0.00125372503,
        0.00021858087, -4.39150654e-06, -3.5233877e-06, 3.43273939e-07, 2.81022636e-08))  # fmt: skip
    tail = polynomial(b, b.sub(b.intrinsic("llvm.sqrt", type, w), c(3.0)), (2.83297682, 1.00167406, 0.00943887047,
        -0.0076224613, 0.00573950773, -0.00367342844, 0.00134934322, 0.000100950558, -0.000200214257))  # fmt: skip
    y = b.mul(x, b.select(b.compare("olt", w, c(5.0)), central, tail))
    for _ in range(2):
        error = b.sub(_by_lane(b, "erf", [y]), x)
        slope = b.mul(c(2 / math.sqrt(math.pi)), emit(b, "exp", [b.fneg(b.mul(y, y))]))
        step = b.fdiv(error, slope)
        usable = b.compare("olt", b.intrinsic("llvm.fabs", type, step), one)
        y = b.select(usable, b.sub(y, step), y)
    size = b.intrinsic("llvm.fabs", type, x)
    infinite = b.intrinsic("llvm.copysign", type, c(math.inf), x)
    y = b.select(b.compare("oeq", size, one), infinite, y)
    return b.select(b.compare("ule", size, one), y, c(math.nan))


def _digamma(b: Builder, x: Value) -> Value:
    """Reflection for negative arguments, recurrence up to 10, then the asymptotic series."""
    type = x.type

    def c(v: float) -> Value:
        return b.constant(v, type)

    negative = b.compare("olt", x, c(0.0))
    y = b.select(negative, b.sub(c(1.0), x), x)
    shift = c(0.0)
    for _ in range(10):
        low = b.compare("olt", y, c(10.0))
        shift = b.sub(shift, b.select(low, b.fdiv(c(1.0), y), c(0.0)))
        y = b.select(low, b.add(y, c(1.0)), y)
    inverse = b.fdiv(c(1.0), y)
    square = b.mul(inverse, inverse)
    series = polynomial(b, square, (0.0, -1 / 12, 1 / 120, -1 / 252, 1 / 240, -1 / 132, 691 / 32760, -1 / 12))
    value = b.add(b.add(emit(b, "log", [y]), b.mul(inverse, c(-0.5))), b.add(series, shift))
    angle = b.mul(c(math.pi), b.sub(x, b.intrinsic("llvm.rint", type, x)))  # exact for tiny x, unlike from the floor
    tangent = _by_lane(b, "tan", [angle])
    value = b.select(negative, b.sub(value, b.fdiv(c(math.pi), tangent)), value)
    pole = b.and_(negative, b.compare("oeq", x, b.intrinsic("llvm.floor", type, x)))
    value = b.select(pole, c(math.nan), value)
    at_zero = b.intrinsic("llvm.copysign", type, c(math.inf), b.fneg(x))
    return b.select(b.compare("oeq", x, c(0.0)), at_zero, value)


def integer_power(b: Builder, x: Value, p: Value, signed: bool) -> Value:
    """xᵖ by repeated squaring; a negative exponent gives 0 but for x = 1 and x = −1."""
    bits = int(x.element[1:])
    one, zero = b.constant(1, x.type), b.constant(0, x.type)
    base, rest, result = x, p, one
    for _ in range(bits):
        odd = b.compare("ne", b.and_(rest, 1), 0)
        result = b.select(odd, b.mul(result, base), result)
        base = b.mul(base, base)
        rest = b.emit(x.type, f"lshr {rest!r}, {one.text}")
    if not signed:
        return result
    odd = b.compare("ne", b.and_(p, 1), 0)
    minus = b.select(odd, b.constant(-1, x.type), one)
    inverse = b.select(b.compare("eq", x, 1), one, b.select(b.compare("eq", x, -1), minus, zero))
    return b.select(b.compare("slt", p, 0), inverse, result)


_PHILOX_M = (0xD2511F53, 0xCD9E8D57)
_PHILOX_W = (0x9E3779B9, 0xBB67AE85)


def philox(b: Builder, key: Value, counter: Value) -> Value:
    """One 32-bit word of Philox 4x32-10, as kernels.loops.OPERATIONS says. Ten rounds in 64-bit lanes."""
    type = counter.type
    low = b.constant(0xFFFFFFFF, type)

    def high(v: Value) -> Value:
        return b.emit(type, f"lshr {v!r}, {b.constant(32, type).text}")

    block = b.emit(type, f"lshr {counter!r}, {b.constant(2, type).text}")
    c = [b.and_(block, low), high(block), b.constant(0, type), b.constant(0, type)]
    k = [b.and_(key, low), high(key)]
    for _ in range(10):
        p0, p1 = b.mul(c[0], _PHILOX_M[0]), b.mul(c[2], _PHILOX_M[1])
        c = [
            b.xor(b.xor(high(p1), c[1]), k[0]), b.and_(p1, low),
            b.xor(b.xor(high(p0), c[3]), k[1]), b.and_(p0, low),
        ]  # fmt: skip
        k = [b.and_(b.add(k[0], _PHILOX_W[0]), low), b.and_(b.add(k[1], _PHILOX_W[1]), low)]
    word = b.and_(counter, 3)
    chosen = c[3]
    for i in (2, 1, 0):
        chosen = b.select(b.compare("eq", word, i), c[i], chosen)
    return b.convert("trunc", chosen, vector("i32", counter.lanes))
