"""Element-wise operations on registers: a scalar or a vector of lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from firepot.graph.dtypes import DType
from firepot.kernels.llvm import math, special
from firepot.kernels.llvm.builder import Builder, Value, vector

_FLOAT_COMPARE = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_ROUNDING = {"floor": "llvm.floor", "ceil": "llvm.ceil", "trunc": "llvm.trunc", "round": "llvm.roundeven"}


def emit(b: Builder, name: str, args: Sequence[Value], dtypes: Sequence[DType], result: DType) -> Value:
    """The operation `name` of kernels.loops.OPERATIONS on arguments of equal lane counts."""
    dtype = dtypes[-1] if name == "where" else dtypes[0]
    if name == "cast":
        return _cast(b, args[0], dtype, result)
    if name == "bitcast":
        return _bitcast(b, args[0], result)
    if name == "where":
        return b.select(args[0], args[1], args[2])
    if name == "philox":
        return math.philox(b, args[0], args[1])
    if name in _FLOAT_COMPARE:
        return _compare(b, name, args, dtype)
    if dtype.kind == "f":
        return _floating(b, name, args)
    return _integer(b, name, args, dtype)


def _compare(b: Builder, name: str, args: Sequence[Value], dtype: DType) -> Value:
    if dtype.kind == "f":
        return b.compare(_FLOAT_COMPARE[name], args[0], args[1])
    if name in ("eq", "ne"):
        return b.compare(name, args[0], args[1])
    return b.compare(("s" if dtype.kind == "i" else "u") + name, args[0], args[1])


def _floating(b: Builder, name: str, args: Sequence[Value]) -> Value:
    x = args[0]
    type = x.type
    one = b.constant(1.0, type)
    zero = b.constant(0.0, type)
    if name in ("add", "sub", "mul"):
        table: dict[str, Callable[[Value, Value], Value]] = {"add": b.add, "sub": b.sub, "mul": b.mul}
        return table[name](x, args[1])
    if name == "div":
        return b.fdiv(x, args[1])
    if name == "neg":
        return b.fneg(x)
    if name == "abs":
        return b.intrinsic("llvm.fabs", type, x)
    if name == "sqrt":
        return b.intrinsic("llvm.sqrt", type, x)
    if name == "rsqrt":
        return b.fdiv(one, b.intrinsic("llvm.sqrt", type, x))
    if name == "reciprocal":
        return b.fdiv(one, x)
    if name in ("maximum", "minimum"):
        return (math.maximum if name == "maximum" else math.minimum)(b, x, args[1])
    if name == "relu":  # this form is one instruction on x86, whose max returns its second operand for NaN
        return b.select(b.compare("ogt", zero, x), zero, x)
    if name in _ROUNDING:
        return b.intrinsic(_ROUNDING[name], type, x)
    if name == "sign":
        unit = b.intrinsic("llvm.copysign", type, one, x)
        zero_or_nan = b.compare("ueq", x, zero)  # 0 gives 0 and NaN gives NaN: the argument itself
        return b.select(zero_or_nan, x, unit)
    if name == "copysign":
        return b.intrinsic("llvm.copysign", type, x, args[1])
    if name == "floordiv":
        return _floor_divide(b, x, args[1])
    if name == "truncdiv":
        return b.intrinsic("llvm.trunc", type, b.fdiv(x, args[1]))
    if name == "remainder":
        rest = b.emit(type, f"frem {x!r}, {args[1].text}")
        different = b.xor(b.compare("olt", rest, zero), b.compare("olt", args[1], zero))
        adjust = b.and_(different, b.compare("une", rest, zero))
        return b.select(adjust, b.add(rest, args[1]), rest)
    if name == "fmod":
        return b.emit(type, f"frem {x!r}, {args[1].text}")
    if name == "isnan":
        return b.compare("uno", x, x)
    if name == "isinf":
        return b.compare("oeq", b.intrinsic("llvm.fabs", type, x), b.constant(float("inf"), type))
    if name == "isfinite":
        return b.compare("olt", b.intrinsic("llvm.fabs", type, x), b.constant(float("inf"), type))
    if name == "signbit":
        integer = vector("i32" if x.element == "float" else "i64", x.lanes)
        return b.compare("slt", b.convert("bitcast", x, integer), 0)
    return math.emit(b, name, args)


def _floor_divide(b: Builder, x: Value, y: Value) -> Value:
    """floor(x / y) without the error of rounding the quotient up across an integer (as Python's //)."""
    zero = b.constant(0.0, x.type)
    rest = b.emit(x.type, f"frem {x!r}, {y.text}")
    exact = b.fdiv(b.sub(x, rest), y)
    different = b.xor(b.compare("olt", rest, zero), b.compare("olt", y, zero))
    adjust = b.and_(different, b.compare("une", rest, zero))
    lowered = b.select(adjust, b.sub(exact, b.constant(1.0, x.type)), exact)
    nearest = b.intrinsic("llvm.floor", x.type, lowered)
    step = b.compare("ogt", b.sub(lowered, nearest), b.constant(0.5, x.type))
    rounded = b.select(step, b.add(nearest, b.constant(1.0, x.type)), nearest)
    # x − rest cancels to +0 whatever the signs: a zero takes the sign of the true quotient.
    signed_zero = b.intrinsic("llvm.copysign", x.type, zero, b.fdiv(x, y))
    rounded = b.select(b.compare("oeq", rounded, zero), signed_zero, rounded)
    return b.select(b.compare("oeq", y, zero), b.fdiv(x, y), rounded)


def _integer(b: Builder, name: str, args: Sequence[Value], dtype: DType) -> Value:
    x = args[0]
    type = x.type
    signed = dtype.kind == "i"
    if dtype.kind == "b":
        if name == "add" or name == "maximum":
            return b.or_(x, args[1])
        if name == "mul" or name == "minimum":
            return b.and_(x, args[1])
        if name == "sub":
            return b.xor(x, args[1])
    if name in ("add", "sub", "mul"):
        table: dict[str, Callable[[Value, Value], Value]] = {"add": b.add, "sub": b.sub, "mul": b.mul}
        return table[name](x, args[1])
    if name == "neg":
        return b.sub(b.constant(0, type), x)
    if name == "abs":
        if not signed:
            return x
        return b.select(b.compare("slt", x, 0), b.sub(b.constant(0, type), x), x)
    if name == "sign":
        positive = b.convert("zext", b.compare("ne", x, 0), type) if dtype.kind != "b" else x
        return b.select(b.compare("slt", x, 0), b.constant(-1, type), positive) if signed else positive
    if name == "relu":
        return b.intrinsic("llvm.smax", type, x, b.constant(0, type)) if signed else x
    if name in ("maximum", "minimum"):
        word = ("s" if signed else "u") + name[:3]
        return b.intrinsic(f"llvm.{word}", type, x, args[1])
    if name in ("floordiv", "truncdiv", "remainder", "fmod"):
        return _divide(b, name, x, args[1], signed)
    if name == "not":
        return b.xor(x, b.constant(True if dtype.kind == "b" else -1, type))
    if name in ("and", "or", "xor"):
        return b._binary(name, name, x, args[1])
    if name in ("shl", "shr"):
        return _shift(b, name, x, args[1], dtype)
    if name == "gcd":
        return special.gcd(b, args, signed)
    if name == "pow":
        return math.integer_power(b, x, args[1], signed)
    if name in ("floor", "ceil", "trunc", "round"):
        return x
    if name in ("isnan", "isinf"):
        return b.constant(False, vector("i1", x.lanes))
    if name == "isfinite":
        return b.constant(True, vector("i1", x.lanes))
    if name == "signbit":
        return b.compare("slt", x, 0) if signed else b.constant(False, vector("i1", x.lanes))
    raise NotImplementedError(f"the operation {name} is not defined for {dtype.name}")


def _divide(b: Builder, name: str, x: Value, y: Value, signed: bool) -> Value:
    """Division that never traps: by zero gives 0, and the least integer by −1 wraps."""
    zero, one = b.constant(0, x.type), b.constant(1, x.type)
    by_zero = b.compare("eq", y, 0)
    if not signed:
        safe = b.select(by_zero, one, y)
        value = b.udiv(x, safe) if name in ("floordiv", "truncdiv") else b.urem(x, safe)
        return b.select(by_zero, zero, value)
    by_minus_one = b.compare("eq", y, -1)
    safe = b.select(b.or_(by_zero, by_minus_one), one, y)
    quotient = b.emit(x.type, f"sdiv {x!r}, {safe.text}")
    rest = b.sub(x, b.mul(quotient, safe))
    if name in ("floordiv", "remainder"):
        different = b.compare("slt", b.xor(rest, safe), 0)
        adjust = b.and_(different, b.compare("ne", rest, 0))
        quotient = b.select(adjust, b.sub(quotient, one), quotient)
        rest = b.select(adjust, b.add(rest, safe), rest)
    if name in ("floordiv", "truncdiv"):
        quotient = b.select(by_minus_one, b.sub(zero, x), quotient)
        return b.select(by_zero, zero, quotient)
    return b.select(b.or_(by_zero, by_minus_one), zero, rest)


def _shift(b: Builder, name: str, x: Value, y: Value, dtype: DType) -> Value:
    bits = dtype.size * 8
    inside = b.compare("ult", y, bits)
    amount = b.select(inside, y, b.constant(0, y.type))
    if name == "shl":
        return b.select(inside, b.emit(x.type, f"shl {x!r}, {amount.text}"), b.constant(0, x.type))
    if dtype.kind == "i":
        amount = b.select(inside, y, b.constant(bits - 1, y.type))
        return b.emit(x.type, f"ashr {x!r}, {amount.text}")
    return b.select(inside, b.emit(x.type, f"lshr {x!r}, {amount.text}"), b.constant(0, x.type))


def _cast(b: Builder, x: Value, source: DType, target: DType) -> Value:
    from firepot.kernels.llvm.expression import register_type

    type = vector(register_type(target), x.lanes)
    if target.kind == "b":
        if source.kind == "f":
            return b.compare("une", x, b.constant(0.0, x.type))
        return x if source.kind == "b" else b.compare("ne", x, 0)
    if source.kind == "f":
        if target.kind == "f":
            if x.type == type:
                return x
            return b.convert("fpext" if x.element == "float" else "fptrunc", x, type)
        word = "llvm.fptosi.sat" if target.kind == "i" else "llvm.fptoui.sat"
        from firepot.kernels.llvm.builder import overload

        return b.intrinsic(word, type, x, suffix=f"{overload(type)}.{overload(x.type)}")
    if target.kind == "f":
        return b.convert("sitofp" if source.kind == "i" else "uitofp", x, type)
    if source.size == target.size and source.kind != "b":
        return x
    if target.size < source.size:
        return b.convert("trunc", x, type)
    return b.convert("sext" if source.kind == "i" else "zext", x, type)


def _bitcast(b: Builder, x: Value, target: DType) -> Value:
    from firepot.kernels.llvm.expression import register_type

    type = vector(register_type(target), x.lanes)
    return x if type == x.type else b.convert("bitcast", x, type)
