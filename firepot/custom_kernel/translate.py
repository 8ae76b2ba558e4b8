"""From a kernel's Python to a procedure: every value gets a dtype, every construct is checked.

Python numbers are weak, as with tensors: they take the dtype of what they meet. A variable has one dtype, that to which
all values assigned to it promote; found by translating until no variable's dtype changes any more.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from firepot import ops
from firepot.custom_kernel.source import ALLOWED, Source
from firepot.graph import dtypes
from firepot.graph.dtypes import DType, promote
from firepot.kernels import procedure as ir
from firepot.kernels.liveness import with_constants

_BINARY = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.FloorDiv: "floordiv", ast.Mod: "remainder",
    ast.Pow: "pow", ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor", ast.LShift: "shl", ast.RShift: "shr",
}  # fmt: skip
_COMPARE = {ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}
_FLOAT_FUNCTIONS = (
    "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos",
    "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "sigmoid", "reciprocal",
)  # fmt: skip
_SAME_FUNCTIONS = ("abs", "sign", "floor", "ceil", "trunc", "round", "relu", "neg")
_TESTS = ("isnan", "isinf", "isfinite")
_PAIRS = ("maximum", "minimum", "atan2", "hypot", "copysign", "fmod", "pow")


def parallel(*sizes: int) -> range:
    """The positions below the sizes, their loop shared among the threads; inside of an `fp.kernel` only."""
    raise RuntimeError("fp.kernel.parallel stands for the loop of a kernel and can only be used inside of one")


def _functions() -> dict[Any, str]:
    """Python's and Firepot's functions by what they are in a kernel."""
    found: dict[Any, str] = {}
    for name in (*_FLOAT_FUNCTIONS, *_SAME_FUNCTIONS, *_TESTS, *_PAIRS):
        for home in (math, ops):
            function = getattr(home, name, None)
            if function is not None:
                found[function] = name
    for name in ("floor", "ceil", "trunc"):  # which give an int in Python
        found[getattr(math, name)] = "math." + name
    return found | {math.fabs: "abs", abs: "abs", min: "minimum", max: "maximum"}


FUNCTIONS = _functions()


@dataclass(frozen=True)
class Typed:
    """weak: of Python numbers alone."""

    code: ir.Code
    weak: bool = False

    @property
    def dtype(self) -> DType:
        return self.code.dtype


Kind = tuple[DType, bool]  # a dtype and whether it is weak
_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2}


def joined(a: Kind, b: Kind) -> Kind:
    """The dtype of two values together."""
    (x, weak_x), (y, weak_y) = a, b
    if weak_x == weak_y:
        return promote(x, y), weak_x
    strong, weak = (y, x) if weak_x else (x, y)
    if _CATEGORY[weak.kind] > _CATEGORY[strong.kind]:
        return weak, True
    return strong, False


def register(dtype: DType) -> DType:
    """The dtype that elements have once they are read."""
    return dtypes.float32 if dtype in (dtypes.float16, dtypes.bfloat16) else dtype


class Translation:
    """One kernel for arguments of known dtypes and shapes.

    arrays:  the inputs, then the outputs
    numbers: parameters that are Python numbers
    """

    def __init__(self, source: Source, arrays: Sequence[ir.Array], numbers: dict[str, bool | int | float]) -> None:
        self.source = source
        self.arrays = tuple(arrays)
        self.position = {a.name: n for n, a in enumerate(arrays)}
        self.numbers = numbers
        self.kinds: dict[str, Kind] = {}
        self.checks: dict[tuple[int, str, bool], int] = {}

    def procedure(self) -> ir.Procedure:
        top = self.source.body
        self.shared = any(isinstance(s, ast.For) and self._callee(s.iter) is parallel for s in top)
        before: dict[str, Kind] | None = None
        while before != self.kinds:
            before = dict(self.kinds)
            self.defined: set[str] = set()
            self.frozen: dict[str, str] = {}  # names that may not be assigned, and why
            self.depth = 0  # of loops that break and continue may leave
            self.within: tuple[str, ...] | None = None  # the variables of the parallel loop
            self.accesses: list[tuple[int, tuple[ir.Code, ...], bool, ast.AST]] = []
            body = self.block(top, top=True)
        locals = tuple(sorted((n, k[0]) for n, k in self.kinds.items()))
        return ir.Procedure(self.source.name, self.arrays, locals, tuple(self.checks), with_constants(body))

    # -- statements --------------------------------------------------------------------------------------------------

    def block(self, statements: Sequence[ast.stmt], top: bool = False) -> tuple[ir.Statement, ...]:
        result: list[ir.Statement] = []
        for s in statements:
            result += self.statement(s, top)
        return tuple(result)

    def statement(self, s: ast.stmt, top: bool) -> list[ir.Statement]:
        if isinstance(s, ast.Assign):
            if len(s.targets) != 1:
                raise self.source.error(s, "a = b = … is not allowed; assign one by one")
            return self.assignment(s, s.targets[0], s.value)
        if isinstance(s, ast.AugAssign):
            name = _BINARY.get(type(s.op))
            before = self.expression(s.target)
            if name is None:
                raise self.source.error(s, f"the operator {type(s.op).__name__} is not allowed; {ALLOWED}")
            return self.assign(s, s.target, self.binary(s, name, before, self.expression(s.value)))
        if isinstance(s, ast.For):
            return [self.loop(s, top)]
        if isinstance(s, ast.While):
            if s.orelse:
                raise self.source.error(s, "while … else is not allowed")
            condition = self.truth(s, self.expression(s.test))
            return [ir.While(condition, self.inner(s.body))]
        if isinstance(s, ast.If):
            return [self.branch(s)]
        if isinstance(s, (ast.Break, ast.Continue)):
            word = "break" if isinstance(s, ast.Break) else "continue"
            if not self.depth:
                raise self.source.error(s, f"{word} is not allowed here: it leaves a for over range or a while")
            return [ir.Leave(word)]
        if isinstance(s, ast.Pass):
            return []
        raise self.source.error(s, f"an expression that is not assigned has no effect; {ALLOWED}")

    def inner(self, body: Sequence[ast.stmt]) -> tuple[ir.Statement, ...]:
        """The body of a loop, which may not run at all: what it defines is not known after it."""
        before = set(self.defined)
        self.depth += 1
        result = self.block(body)
        self.depth -= 1
        self.defined = before
        return result

    def branch(self, s: ast.If) -> ir.Statement:
        condition = self.truth(s, self.expression(s.test))
        before = set(self.defined)
        then = self.block(s.body)
        first, self.defined = self.defined, set(before)
        otherwise = self.block(s.orelse)
        left = [bool(b) and isinstance(b[-1], ir.Leave) for b in (then, otherwise)]
        if left[0] and not left[1]:
            pass  # only the other one goes on
        elif left[1] and not left[0]:
            self.defined = first
        else:
            self.defined &= first
        return ir.If(condition, then, otherwise)

    def loop(self, s: ast.For, top: bool) -> ir.Statement:
        call = s.iter
        callee = self._callee(call)
        if s.orelse or not isinstance(call, ast.Call) or callee not in (range, parallel) or call.keywords:
            raise self.source.error(s, "for goes over range(...) or fp.kernel.parallel(...), without else")
        targets = s.target.elts if isinstance(s.target, ast.Tuple) else [s.target]
        names = [t.id for t in targets if isinstance(t, ast.Name)]
        bounds = [self.whole(a, self.expression(a)) for a in call.args]
        for t, name in zip(targets, names, strict=False):
            self._assignable(t, name)
        if callee is parallel:
            return self.parallel(s, top, names, bounds)
        if len(names) != 1 or isinstance(s.target, ast.Tuple) or not 1 <= len(bounds) <= 3:
            raise self.source.error(
                s, "for i in range(stop), range(start, stop) or range(start, stop, step) has one variable"
            )
        step = 1
        if len(bounds) == 3:
            if not isinstance(bounds[2], ir.Constant) or not bounds[2].value:
                raise self.source.error(call.args[2], "the step of range must be a constant other than zero")
            step = int(bounds[2].value)
        start = bounds[0] if len(bounds) > 1 else ir.Constant(0, dtypes.int64)
        stop = bounds[1] if len(bounds) > 1 else bounds[0]
        with_variable = self._enter(names)
        body = self.inner(s.body)
        self._exit(with_variable, names)
        return ir.Range(names[0], start, stop, step, body)

    def parallel(self, s: ast.For, top: bool, names: list[str], sizes: list[ir.Code]) -> ir.Statement:
        if not top:
            raise self.source.error(
                s, "fp.kernel.parallel must be an outermost loop, at the top of the kernel; use range here"
            )
        if len(names) != len(sizes) or not names or len(set(names)) != len(names):
            raise self.source.error(s, f"{len(names)} variables for the {len(sizes)} sizes of fp.kernel.parallel")
        outside, depth = dict(self.frozen), self.depth
        self.frozen |= dict.fromkeys(self.defined, "belongs to all turns of the parallel loop, which run at once")
        before = self._enter(names)
        self.within, self.accesses = tuple(names), []
        body = self.inner(s.body)
        self._disjoint(names)
        self.within = None
        self._exit(before, names)
        self.frozen, self.depth = outside, depth
        return ir.Parallel(tuple(names), tuple(sizes), body)

    def _disjoint(self, names: Sequence[str]) -> None:
        """An output that the loop writes is written and read at the turn's own positions only."""
        written = {array for array, _, store, _ in self.accesses if store}
        known: dict[int, tuple[int, ...]] = {}
        for array, indices, _, node in self.accesses:
            if array not in written:
                continue
            plain = [i.name if isinstance(i, ir.Local) else "" for i in indices]
            name = self.arrays[array].name
            if not all(n in plain for n in names):
                raise self.source.error(
                    node, f"{name} is written by a parallel loop, so it must be indexed by the loop's own "
                    f"{', '.join(names)} everywhere in it; turns that share elements need range",
                )  # fmt: skip
            places = tuple(plain.index(n) for n in names)
            if known.setdefault(array, places) != places:
                raise self.source.error(
                    node, f"{name} is indexed by {', '.join(names)} in other dimensions than before"
                )

    def _enter(self, names: Sequence[str]) -> tuple[set[str], dict[str, str]]:
        before = set(self.defined), dict(self.frozen)
        for name in names:
            self.kinds[name] = joined(self.kinds[name], (dtypes.int64, False)) if name in self.kinds else (
                dtypes.int64, False)  # fmt: skip
            if self.kinds[name][0] is not dtypes.int64:
                raise TypeError(f"kernel {self.source.name}: the variable {name} counts a loop, and is a "
                                f"{self.kinds[name][0].name} elsewhere; give it another name")  # fmt: skip
            self.defined.add(name)
            self.frozen[name] = "counts a loop"
        return before

    def _exit(self, before: tuple[set[str], dict[str, str]], names: Sequence[str]) -> None:
        self.defined, self.frozen = before
        self.defined -= set(names)

    def assignment(self, s: ast.stmt, target: ast.expr, value: ast.expr) -> list[ir.Statement]:
        if not isinstance(target, ast.Tuple):
            return self.assign(s, target, self.expression(value))
        if isinstance(value, ast.Tuple):
            values = [self.expression(v) for v in value.elts]
        else:
            shape = self._shape(value)
            if shape is None:
                raise self.source.error(value, "several variables are assigned from as many values, or from x.shape")
            values = [Typed(ir.Constant(n, dtypes.int64)) for n in shape]
        if len(values) != len(target.elts):
            raise self.source.error(s, f"{len(target.elts)} variables for {len(values)} values")
        result: list[ir.Statement] = []
        held = []
        for n, v in enumerate(values):  # all are computed before the first is assigned
            if not isinstance(v.code, ir.Constant):
                name = f"value {self.source.line(s)} {n}"
                self._join(name, v)
                result.append(ir.Assign(name, self.cast(v, self.kinds[name][0])))
                v = Typed(ir.Local(name, self.kinds[name][0]), v.weak)
            held.append(v)
        for t, v in zip(target.elts, held, strict=True):
            result += self.assign(s, t, v)
        return result

    def assign(self, s: ast.stmt, target: ast.expr, value: Typed) -> list[ir.Statement]:
        if isinstance(target, ast.Name):
            name = target.id
            self._assignable(target, name)
            self._join(name, value)
            self.defined.add(name)
            return [ir.Assign(name, self.cast(value, self.kinds[name][0]))]
        if not isinstance(target, ast.Subscript):
            raise self.source.error(target, "only variables and elements of outputs are assigned")
        number, indices, checks = self.element(target, store=True)
        array = self.arrays[number]
        if not array.output:
            raise self.source.error(
                target, f"{array.name} is an input and cannot be written; outputs are the last parameters"
            )
        if _CATEGORY[value.dtype.kind] > _CATEGORY[array.dtype.kind] and array.dtype.kind != "b":
            raise self.source.error(
                s, f"{array.name} is of dtype {array.dtype.name} and cannot hold a {value.dtype.name}; convert it, as "
                f"with int(...)",
            )  # fmt: skip
        if array.dtype.kind == "b" and value.dtype.kind != "b":
            raise self.source.error(
                s, f"{array.name} is of dtype bool and cannot hold a {value.dtype.name}; use a comparison"
            )
        return [ir.Store(number, indices, checks, self.cast(value, register(array.dtype)))]

    def _assignable(self, node: ast.AST, name: str) -> None:
        if name in self.position or name in self.numbers:
            raise self.source.error(
                node, f"{name} is a parameter and cannot be assigned; assign to its elements if an output"
            )
        if name in self.frozen:
            raise self.source.error(node, f"{name} {self.frozen[name]} and cannot be assigned here")

    def _join(self, name: str, value: Typed) -> None:
        kind = (value.dtype, value.weak)
        self.kinds[name] = joined(self.kinds[name], kind) if name in self.kinds else kind

    # -- expressions -------------------------------------------------------------------------------------------------

    def expression(self, e: ast.expr) -> Typed:
        if isinstance(e, ast.Constant):
            return self.number(e, e.value)
        if isinstance(e, ast.Name):
            return self.name(e)
        if isinstance(e, ast.Subscript):
            shape = self._shape(e.value)
            if shape is not None:
                return self._size(e, shape)
            number, indices, checks = self.element(e, store=False)
            return Typed(ir.Element(number, indices, checks, register(self.arrays[number].dtype)))
        if isinstance(e, ast.BinOp):
            name = _BINARY.get(type(e.op))
            if name is None:
                raise self.source.error(e, f"the operator {type(e.op).__name__} is not allowed; {ALLOWED}")
            return self.binary(e, name, self.expression(e.left), self.expression(e.right))
        if isinstance(e, ast.UnaryOp):
            return self.unary(e)
        if isinstance(e, ast.Compare):
            return self.comparison(e)
        if isinstance(e, ast.BoolOp):
            result = self.truth(e, self.expression(e.values[-1]))
            for v in reversed(e.values[:-1]):
                first = self.truth(v, self.expression(v))
                fixed = ir.Constant(isinstance(e.op, ast.Or), dtypes.bool_)
                pair = (result, fixed) if isinstance(e.op, ast.And) else (fixed, result)
                result = ir.Choice(first, pair[0], pair[1], dtypes.bool_)
            return Typed(result)
        if isinstance(e, ast.IfExp):
            condition = self.truth(e, self.expression(e.test))
            then, otherwise = self.expression(e.body), self.expression(e.orelse)
            dtype, weak = joined((then.dtype, then.weak), (otherwise.dtype, otherwise.weak))
            return Typed(ir.Choice(condition, self.cast(then, dtype), self.cast(otherwise, dtype), dtype), weak)
        if isinstance(e, ast.Call):
            return self.call(e)
        if isinstance(e, ast.Attribute):
            if isinstance(e.value, ast.Name) and e.value.id in self.position and e.attr == "ndim":
                return Typed(ir.Constant(len(self.arrays[self.position[e.value.id]].shape), dtypes.int64))
            return self.number(e, self.source.resolve(e))
        raise self.source.error(e, f"{type(e).__name__} is not allowed here; {ALLOWED}")

    def number(self, e: ast.AST, value: Any) -> Typed:
        if isinstance(value, bool):
            return Typed(ir.Constant(value, dtypes.bool_), True)
        if isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise self.source.error(e, f"{value} does not fit in int64")
            return Typed(ir.Constant(value, dtypes.int64), True)
        if isinstance(value, float):
            return Typed(ir.Constant(value, dtypes.float64), True)
        raise self.source.error(e, f"{ast.unparse(e)} is no number and no variable of the kernel; {ALLOWED}")

    def name(self, e: ast.Name) -> Typed:
        name = e.id
        if name in self.numbers:
            return self.number(e, self.numbers[name])
        if name in self.position:
            array = self.arrays[self.position[name]]
            if array.shape or array.output:
                raise self.source.error(
                    e, f"{name} is an array of shape {list(array.shape)}; read its elements, as {name}[i]"
                )
            return Typed(ir.Element(self.position[name], (), (), register(array.dtype)))
        if name in self.defined:
            dtype, weak = self.kinds[name]
            return Typed(ir.Local(name, dtype), weak)
        if name not in self.source.function.__code__.co_varnames:
            return self.number(e, self.source.resolve(e))
        raise self.source.error(
            e, f"the variable {name} may have no value here: it is not assigned on every way to this line"
        )

    def element(self, e: ast.Subscript, store: bool) -> tuple[int, tuple[ir.Code, ...], tuple[int, ...]]:
        if not isinstance(e.value, ast.Name) or e.value.id not in self.position:
            raise self.source.error(e, "only parameters that are tensors have elements")
        number = self.position[e.value.id]
        array = self.arrays[number]
        items = e.slice.elts if isinstance(e.slice, ast.Tuple) else [e.slice]
        if len(items) != len(array.shape):
            raise self.source.error(
                e, f"{array.name} has shape {list(array.shape)} and needs {len(array.shape)} indices, got {len(items)}"
            )
        indices = tuple(self.whole(i, self.expression(i)) for i in items)
        checks = []
        for d, size in enumerate(array.shape):
            line = self.source.text(e).strip().replace("{", "{{").replace("}", "}}")
            place = self.source.place(e).replace("{", "{{").replace("}", "}}")
            message = (
                f"kernel {self.source.name}: index {{index}} is out of bounds for dimension {d} of {array.name} with "
                f"size {size} (at {place}: {line})"
            )
            checks.append(self.checks.setdefault((size, message, True), len(self.checks)))
        if array.output:
            if self.shared and self.within is None:
                raise self.source.error(
                    e, f"{array.name} is an output: in a kernel with parallel loops, outputs are read and written "
                    "inside of them only",
                )  # fmt: skip
            self.accesses.append((number, indices, store, e))
        return number, indices, tuple(checks)

    def whole(self, e: ast.AST, value: Typed) -> ir.Code:
        if value.dtype.kind not in "iu":
            raise self.source.error(
                e, f"an index or a bound must be an integer, not {value.dtype.name}; convert it with int(...)"
            )
        return self.cast(value, dtypes.int64)

    def truth(self, e: ast.AST, value: Typed) -> ir.Code:
        return self.cast(value, dtypes.bool_)

    def cast(self, value: Typed, dtype: DType) -> ir.Code:
        code = value.code
        if code.dtype is dtype:
            return code
        if isinstance(code, ir.Constant):
            if dtype.kind == "f":
                return ir.Constant(float(code.value), dtype)
            if code.dtype.kind in "biu":
                kept = bool(code.value) if dtype.kind == "b" else int(code.value)
                return ir.Constant(kept, dtype)
        return ir.Operation("cast", (code,), dtype)

    def binary(self, e: ast.AST, name: str, x: Typed, y: Typed) -> Typed:
        dtype, weak = joined((x.dtype, x.weak), (y.dtype, y.weak))
        if name in ("and", "or", "xor", "shl", "shr"):
            if dtype.kind == "f" or (dtype.kind == "b" and name in ("shl", "shr")):
                raise self.source.error(e, f"bits of {x.dtype.name} and {y.dtype.name} cannot be combined")
        elif dtype.kind == "b":
            dtype, weak = dtypes.int64, True
        if dtype.kind != "f" and name in ("div", "atan2", "hypot", "copysign"):
            dtype, weak = dtypes.float64, True
        args = (self.cast(x, dtype), self.cast(y, dtype))
        if all(isinstance(a, ir.Constant) for a in args) and dtype.kind != "f" and name in ("add", "sub", "mul"):
            a, b = (int(c.value) for c in args if isinstance(c, ir.Constant))
            folded = {"add": a + b, "sub": a - b, "mul": a * b}[name]
            if -(2**63) <= folded < 2**63 and dtype is dtypes.int64:
                return Typed(ir.Constant(folded, dtype), weak)
        return Typed(ir.Operation(name, args, dtype), weak)

    def unary(self, e: ast.UnaryOp) -> Typed:
        value = self.expression(e.operand)
        if isinstance(e.op, ast.Not):
            return Typed(ir.Operation("not", (self.truth(e, value),), dtypes.bool_))
        if isinstance(e.op, ast.Invert):
            if value.dtype.kind == "f":
                raise self.source.error(e, f"~ of a {value.dtype.name} does not exist")
            return Typed(ir.Operation("not", (value.code,), value.dtype), value.weak)
        if value.dtype.kind == "b":
            value = Typed(self.cast(value, dtypes.int64), True)
        if isinstance(e.op, ast.UAdd):
            return value
        if isinstance(value.code, ir.Constant):
            return Typed(ir.Constant(-value.code.value, value.dtype), value.weak)
        return Typed(ir.Operation("neg", (value.code,), value.dtype), value.weak)

    def comparison(self, e: ast.Compare) -> Typed:
        parts = [self.expression(v) for v in (e.left, *e.comparators)]
        result: ir.Code | None = None
        for x, op, y in reversed(list(zip(parts, e.ops, parts[1:], strict=False))):
            name = _COMPARE.get(type(op))
            if name is None:
                raise self.source.error(e, f"the comparison {type(op).__name__} is not allowed; {ALLOWED}")
            dtype, _ = joined((x.dtype, x.weak), (y.dtype, y.weak))
            one = ir.Operation(name, (self.cast(x, dtype), self.cast(y, dtype)), dtypes.bool_)
            result = one if result is None else ir.Choice(one, result, ir.Constant(False, dtypes.bool_), dtypes.bool_)
        assert result is not None
        return Typed(result)

    def _callee(self, e: ast.expr) -> Any:
        return self.source.resolve(e.func) if isinstance(e, ast.Call) else None

    def call(self, e: ast.Call) -> Typed:
        function = self._callee(e)
        if function is len and len(e.args) == 1 and isinstance(e.args[0], ast.Name) and e.args[0].id in self.position:
            shape = self.arrays[self.position[e.args[0].id]].shape
            if shape:
                return Typed(ir.Constant(shape[0], dtypes.int64))
        args = [self.expression(a) for a in e.args]
        if e.keywords:
            raise self.source.error(e, "keyword arguments are not allowed")
        if isinstance(function, DType) and len(args) == 1:
            return Typed(self.cast(Typed(self.cast(args[0], function)), register(function)))
        if function in (int, float, bool) and len(args) == 1:
            target = {int: dtypes.int64, float: dtypes.float64, bool: dtypes.bool_}[function]
            code = ir.Operation("cast", (args[0].code,), target) if args[0].dtype is not target else args[0].code
            return Typed(code, function is float)
        name = FUNCTIONS.get(function) if getattr(function, "__hash__", None) else None
        if name is None:
            raise self.source.error(e, f"{ast.unparse(e.func)} cannot be called in a kernel; {ALLOWED}")
        if name in _PAIRS:
            return self._pair(e, name, args)
        if len(args) != 1:
            raise self.source.error(e, f"{ast.unparse(e.func)} takes one argument, got {len(args)}")
        return self._function(name, args[0])

    def _pair(self, e: ast.Call, name: str, args: list[Typed]) -> Typed:
        many = name in ("maximum", "minimum")
        if len(args) < 2 or (len(args) > 2 and not many):
            raise self.source.error(e, f"{ast.unparse(e.func)} takes two arguments, got {len(args)}")
        result = args[0]
        for a in args[1:]:
            result = self.binary(e, name, result, a)
        return result

    def _function(self, name: str, x: Typed) -> Typed:
        if name in _TESTS:
            return Typed(ir.Operation(name, (x.code,), dtypes.bool_))
        if x.dtype.kind == "b":
            x = Typed(self.cast(x, dtypes.int64), True)
        if name in _FLOAT_FUNCTIONS and x.dtype.kind != "f":
            x = Typed(self.cast(x, dtypes.float64), True)
        result = Typed(ir.Operation(name.removeprefix("math."), (x.code,), x.dtype), x.weak)
        if name.startswith("math."):
            return Typed(self.cast(result, dtypes.int64))
        return result

    def _shape(self, e: ast.expr) -> tuple[int, ...] | None:
        """The shape that `x.shape` means."""
        if isinstance(e, ast.Attribute) and e.attr == "shape" and isinstance(e.value, ast.Name):
            number = self.position.get(e.value.id)
            return None if number is None else self.arrays[number].shape
        return None

    def _size(self, e: ast.Subscript, shape: tuple[int, ...]) -> Typed:
        d = self.expression(e.slice).code
        if not isinstance(d, ir.Constant) or not -len(shape) <= d.value < len(shape):
            raise self.source.error(e, f"a shape of {len(shape)} sizes is read at a constant position within it")
        return Typed(ir.Constant(shape[int(d.value)], dtypes.int64))
