"""The loop-level IR: what one fused kernel computes, before any target is chosen.

A `Nest` is a loop over `axes` (the outer axes; every iteration is independent of the others) whose body is a
list of stages in order. A stage loops over inner axes of its own and either folds an expression into one value
for each outer point (`Reduce`) or writes an expression to memory (`Store`). Expressions are trees (shared
subtrees are the same object) of loads, element-wise operations and the values of earlier reductions, so a
softmax over rows is one Nest: Reduce max, Reduce sum of exp, Store the quotient.

All sizes are static. Positions are `Index` sums over axes, in elements from the start of an operand. `print(nest)`
shows a nest as a person would write it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Union

from firepot.graph.dtypes import DType
from firepot.graph.index import Atom, Axis, Computed, Index, Quotient, Remainder


class Expr:
    """A value at one point of the iteration space. Identity is meaning: share an object to share the work."""

    __slots__ = ()
    dtype: DType

    def axes(self) -> set[Axis]:
        """The axes that the value varies over (not those only summed inside an earlier Reduce)."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Const(Expr):
    """A number known when the kernel is compiled. `value` is a Python bool, int or float (inf and nan too)."""

    value: bool | int | float
    dtype: DType

    def axes(self) -> set[Axis]:
        return set()


@dataclass(frozen=True, eq=False)
class Load(Expr):
    """The element of operand number `operand` at `offset`. Inside a failing Guard it is not performed."""

    operand: int
    offset: Index
    dtype: DType

    def axes(self) -> set[Axis]:
        return self.offset.axes()


@dataclass(frozen=True, eq=False)
class Position(Expr):
    """An Index as a number (the integers of `arange`)."""

    index: Index
    dtype: DType

    def axes(self) -> set[Axis]:
        return self.index.axes()


@dataclass(frozen=True, eq=False)
class Op(Expr):
    """An element-wise operation; `name` is one of OPERATIONS. Operand dtypes are as the table there says."""

    name: str
    args: tuple[Expr, ...]
    dtype: DType
    _axes: list[set[Axis]] = field(default_factory=list)

    def axes(self) -> set[Axis]:
        if not self._axes:
            self._axes.append(set().union(*(a.axes() for a in self.args)))
        return self._axes[0]


@dataclass(frozen=True, eq=False)
class Guard(Expr):
    """`value` where 0 ≤ index < size for every (index, size) in `conditions`, else `fill`.

    Loads inside `value` are performed only where the conditions hold: this is how padding, concatenation and
    out-of-range reads stay inside their buffers.
    """

    conditions: tuple[tuple[Index, int], ...]
    value: Expr
    fill: Expr
    dtype: DType
    _axes: list[set[Axis]] = field(default_factory=list)

    def axes(self) -> set[Axis]:
        if not self._axes:
            found = self.value.axes() | self.fill.axes()
            for index, _ in self.conditions:
                found |= index.axes()
            self._axes.append(found)
        return self._axes[0]


@dataclass(frozen=True, eq=False)
class CheckedIndex(Expr):
    """An integer that must lie within −size … size − 1; negative ones count from the end.

    A value out of range makes the kernel write (site + 1, value) into the program's error record, and 0 is used
    in its place, so that memory stays safe; the runtime raises IndexError from the record. dtype is int64.
    """

    value: Expr
    size: int
    site: int
    dtype: DType

    def axes(self) -> set[Axis]:
        return self.value.axes()


@dataclass(frozen=True, eq=False)
class Reduced(Expr):
    """The result of an earlier Reduce stage of the same Nest, at the current outer point."""

    stage: Reduce
    dtype: DType

    def axes(self) -> set[Axis]:
        return self.stage.value.axes() - set(self.stage.axes)


@dataclass(frozen=True, eq=False)
class Finished(Expr):
    """The element that a contraction has just finished; only in the nest that follows one, whose axes `loops` are."""

    loops: tuple[Axis, ...]
    dtype: DType

    def axes(self) -> set[Axis]:
        return set(self.loops)


@dataclass(frozen=True, eq=False)
class Reduce:
    """Fold `value` over the inner `axes` with `combine`: 'sum', 'prod', 'max', 'min' (NaN wins), 'any', 'all'.

    A nest that follows a convolution also knows 'deviations': the sum of squared differences from the mean.
    The accumulator has `dtype`; the result over no elements is the fold's identity. float16 and bfloat16 values
    are accumulated in float32 by the caller's choice of dtype.
    """

    combine: str
    value: Expr
    axes: tuple[Axis, ...]
    dtype: DType


@dataclass(frozen=True, eq=False)
class Store:
    """Write `value` to operand number `operand` at `offset`, for every point of the inner `axes`."""

    operand: int
    offset: Index
    value: Expr
    axes: tuple[Axis, ...] = ()


Stage = Union[Reduce, Store]


@dataclass(frozen=True, eq=False)
class Nest:
    """One fused kernel. `axes` are outermost first, in the order chosen for locality; `operands` gives each
    operand's dtype and length in elements. Every Store covers each position at most once."""

    axes: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    operands: tuple[tuple[DType, int], ...]

    def __str__(self) -> str:
        return _Listing(self).text()


def children(expr: Expr) -> list[Expr]:
    """Sub-expressions, those inside computed positions included."""
    result: list[Expr] = []
    places: list[Index] = []
    if isinstance(expr, Op):
        result += expr.args
    elif isinstance(expr, Guard):
        result += [expr.value, expr.fill]
        places = [i for i, _ in expr.conditions]
    elif isinstance(expr, CheckedIndex):
        result.append(expr.value)
    elif isinstance(expr, Load):
        places = [expr.offset]
    elif isinstance(expr, Position):
        places = [expr.index]
    while places:
        for atom, _ in places.pop().terms:
            if isinstance(atom, Computed):
                result.append(atom.value)
            elif not isinstance(atom, Axis):
                places.append(atom.value)
    return result


# name -> (operands, what it computes). Unless said otherwise all operands and the result share one dtype.
# Floating point follows IEEE 754 and C99 Annex F: no fast-math assumption about NaN, infinity or signed zero.
OPERATIONS: dict[str, tuple[int, str]] = {
    "add": (2, "x + y (bool: or); integers wrap"),
    "sub": (2, "x − y; integers wrap"),
    "mul": (2, "x · y (bool: and); integers wrap"),
    "div": (2, "x / y, floating point only"),
    "floordiv": (2, "floor(x / y); integer division by zero gives 0 (the process must not trap)"),
    "truncdiv": (2, "x / y rounded toward zero, integers; by zero gives 0"),
    "remainder": (2, "x − y·floor(x / y): the sign of y, as Python's %; integers by zero give 0"),
    "fmod": (2, "C's fmod: the sign of x"),
    "pow": (2, "x ** y; integers by repeated squaring, negative exponents give 0 (or ±1 for x = ±1)"),
    "atan2": (2, "the angle of (y=first, x=second)"),
    "maximum": (2, "the larger; NaN if either is NaN"),
    "minimum": (2, "the smaller; NaN if either is NaN"),
    "neg": (1, "−x"), "abs": (1, "|x|"), "sign": (1, "−1, 0, 1; NaN stays NaN"),
    "sqrt": (1, ""), "rsqrt": (1, "1/sqrt(x), full precision"), "reciprocal": (1, "1/x"),
    "exp": (1, ""), "exp2": (1, ""), "expm1": (1, ""), "log": (1, ""), "log2": (1, ""), "log10": (1, ""),
    "log1p": (1, ""), "sin": (1, ""), "cos": (1, ""), "tan": (1, ""), "asin": (1, ""), "acos": (1, ""),
    "atan": (1, ""), "sinh": (1, ""), "cosh": (1, ""), "tanh": (1, ""), "asinh": (1, ""), "acosh": (1, ""),
    "atanh": (1, ""), "erf": (1, ""), "erfc": (1, ""), "erfinv": (1, ""), "lgamma": (1, ""), "digamma": (1, ""),
    "sigmoid": (1, "1 / (1 + exp(−x)) without overflow"),
    "relu": (1, "the larger of x and 0; NaN stays"),
    "floor": (1, ""), "ceil": (1, ""), "trunc": (1, ""), "round": (1, "half to even"),
    "isnan": (1, "bool"), "isinf": (1, "bool"), "isfinite": (1, "bool"), "signbit": (1, "bool"),
    "not": (1, "bitwise not; logical for bool"),
    "and": (2, "bitwise"), "or": (2, "bitwise"), "xor": (2, "bitwise"),
    "shl": (2, "x << y; 0 where y is out of range"), "shr": (2, "x >> y, arithmetic for signed"),
    "eq": (2, "bool"), "ne": (2, "bool"), "lt": (2, "bool"), "le": (2, "bool"), "gt": (2, "bool"), "ge": (2, "bool"),
    "where": (3, "second where the first (bool) holds, else third"),
    "cast": (1, "to the Op's dtype: float → integer truncates and saturates with NaN → 0; to bool is != 0"),
    "bitcast": (1, "the same bits under another dtype of the same size"),
    "nextafter": (2, ""), "copysign": (2, ""), "hypot": (2, ""),
    "zeta": (2, "Hurwitz's zeta(s, q)"), "gcd": (2, "the greatest common divisor of integers, not negative"),
    "igamma": (2, "the regularised lower incomplete gamma function P(a, x)"), "igammac": (2, "1 − P(a, x)"),
    # Orthogonal polynomials: (x, degree), both floating.
    "chebyshev_polynomial_t": (2, ""), "chebyshev_polynomial_u": (2, ""), "chebyshev_polynomial_v": (2, ""),
    "chebyshev_polynomial_w": (2, ""), "hermite_polynomial_h": (2, ""), "hermite_polynomial_he": (2, ""),
    "laguerre_polynomial_l": (2, ""), "legendre_polynomial_p": (2, ""),
    # (key: uint64, counter: uint64) -> uint32: one word of Philox 4x32-10. Word counter % 4 of the block
    # whose 128-bit counter is (counter // 4, 0) under the 64-bit key.
    # Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    "philox": (2, "uint32"),
}  # fmt: skip


def arguments(expr: Expr) -> Sequence[Expr]:
    """The direct sub-expressions of an expression (a Computed index inside an offset is not one)."""
    if isinstance(expr, Op):
        return expr.args
    if isinstance(expr, Guard):
        return (expr.value, expr.fill)
    if isinstance(expr, CheckedIndex):
        return (expr.value,)
    return ()


# -- nests as text ---------------------------------------------------------------------------------------------------

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
          "ge": ">="}  # fmt: skip


def _indices(expr: Expr) -> Iterator[Index]:
    """The positions that stand in an expression itself."""
    if isinstance(expr, Load):
        yield expr.offset
    elif isinstance(expr, Position):
        yield expr.index
    elif isinstance(expr, Guard):
        for index, _ in expr.conditions:
            yield index


def _computed(index: Index) -> Iterator[Expr]:
    """The expressions that a position is computed from."""
    for atom, _ in index.terms:
        if isinstance(atom, Computed):
            yield atom.value
        elif isinstance(atom, (Quotient, Remainder)):
            yield from _computed(atom.value)


class _Listing:
    """A nest as lines of text.

    p0, p1, … are the operands, r0, r1, … the folds, e0, e1, … the expressions that are used more than once; each is
    written where it is first used.
    """

    def __init__(self, nest: Nest) -> None:
        self.nest = nest
        self.lines: list[str] = []
        self.names: dict[int, str] = {}
        self.uses: dict[int, int] = {}
        for stage in nest.stages:
            self._count(stage.value)
            if isinstance(stage, Store):
                for expr in _computed(stage.offset):
                    self._count(expr)

    def text(self) -> str:
        operands = ", ".join(f"p{i}: {dtype.name}[{length}]" for i, (dtype, length) in enumerate(self.nest.operands))
        indent = "  "
        for axis in self.nest.axes:
            self.lines.append(f"{indent}for {axis} < {axis.size}:")
            indent += "  "
        body, self.lines = self.lines, []
        for stage in self.nest.stages:
            over = ", ".join(f"{axis} < {axis.size}" for axis in stage.axes)
            value = _bare(self._shown(stage.value))
            if isinstance(stage, Reduce):
                name = self.names[id(stage)] = f"r{sum(n[0] == 'r' for n in self.names.values())}"
                self.lines.append(f"{name} = {stage.combine}[{over}] {value}")
            else:
                target = f"p{stage.operand}[{self._index(stage.offset)}] = {value}"
                self.lines.append(f"for {over}: {target}" if over else target)
        return "\n".join([f"nest({operands})", *body, *(indent + line for line in self.lines)])

    def _count(self, expr: Expr) -> None:
        self.uses[id(expr)] = self.uses.get(id(expr), 0) + 1
        if self.uses[id(expr)] > 1:
            return
        for part in arguments(expr):
            self._count(part)
        for index in _indices(expr):
            for part in _computed(index):
                self._count(part)

    def _shown(self, expr: Expr) -> str:
        """The expression, by its name if it is used more than once."""
        found = self.names.get(id(expr))
        if found is not None:
            return found
        written = self._written(expr)
        if self.uses[id(expr)] < 2 or not isinstance(expr, (Op, Guard, CheckedIndex)):
            return written
        name = self.names[id(expr)] = f"e{sum(n[0] == 'e' for n in self.names.values())}"
        self.lines.append(f"{name} = {_bare(written)}")
        return name

    def _written(self, expr: Expr) -> str:
        if isinstance(expr, Const):
            return str(expr.value)
        if isinstance(expr, Load):
            return f"p{expr.operand}[{self._index(expr.offset)}]"
        if isinstance(expr, Position):
            return f"{expr.dtype.name}({self._index(expr.index)})"
        if isinstance(expr, Reduced):
            return self.names[id(expr.stage)]
        if isinstance(expr, Finished):
            return "product"
        if isinstance(expr, CheckedIndex):
            return f"check({_bare(self._shown(expr.value))}, {expr.size})"
        if isinstance(expr, Guard):
            inside = " and ".join(f"0 <= {self._index(index)} < {size}" for index, size in expr.conditions)
            return f"({self._shown(expr.value)} if {inside} else {self._shown(expr.fill)})"
        assert isinstance(expr, Op)
        parts = [self._shown(a) for a in expr.args]
        if expr.name in _INFIX:
            return f"({parts[0]} {_INFIX[expr.name]} {parts[1]})"
        name = {"cast": expr.dtype.name, "bitcast": f"bits_as_{expr.dtype.name}"}.get(expr.name, expr.name)
        return f"{name}({', '.join(map(_bare, parts))})"

    def _index(self, index: Index) -> str:
        parts = [self._atom(atom) if c == 1 else f"{c}*{self._atom(atom)}" for atom, c in index.terms]
        if index.constant or not parts:
            parts.append(str(index.constant))
        return " + ".join(parts).replace("+ -", "- ")

    def _atom(self, atom: Atom) -> str:
        if isinstance(atom, Computed):
            return self._shown(atom.value)
        if isinstance(atom, (Quotient, Remainder)):
            value = self._index(atom.value)
            sign = "//" if isinstance(atom, Quotient) else "%"
            return f"({value if ' ' not in value else f'({value})'} {sign} {atom.divisor})"
        return str(atom)


def _bare(text: str) -> str:
    """Without the parentheses around the whole."""
    return text[1:-1] if text.startswith("(") else text
