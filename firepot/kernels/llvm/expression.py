"""Loop-level expressions as LLVM instructions: one lane, or a vector of lanes along one axis.

float16 and bfloat16 values live in registers as float32, rounded to their own precision after every operation, which
is what PyTorch computes on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.index import Axis, Computed, Index, Quotient, Remainder
from firepot.kernels.llvm import arithmetic
from firepot.kernels.llvm.builder import Builder, Value, scalar_type, vector
from firepot.kernels.loops import CheckedIndex, Const, Expr, Guard, Load, Op, Position, Reduce, Reduced


def register_type(dtype: DType) -> str:
    """The LLVM type of a value in a register."""
    return "float" if dtype in (dtypes.float16, dtypes.bfloat16) else scalar_type(dtype)


def memory_type(dtype: DType) -> str:
    """The LLVM type of a value in memory."""
    return "i8" if dtype is dtypes.bool_ else scalar_type(dtype)


def load_element(b: Builder, pointer: Value, dtype: DType, lanes: int, mask: Value | None) -> Value:
    """`lanes` consecutive elements, in register form."""
    type = vector(memory_type(dtype), lanes)
    raw = b.load(pointer, type) if mask is None else b.masked_load(pointer, type, mask)
    return from_memory(b, raw, dtype)


def load_as(b: Builder, pointer: Value, dtype: DType, wide: DType, lanes: int, mask: Value | None) -> Value:
    """`lanes` consecutive elements, integers widened to the integers that their products are summed in."""
    value = load_element(b, pointer, dtype, lanes, mask)
    if dtype.is_integer and dtype.size < wide.size:
        value = b.convert("sext" if dtype.is_signed else "zext", value, vector(register_type(wide), lanes))
    return value


def from_memory(b: Builder, raw: Value, dtype: DType) -> Value:
    if dtype is dtypes.bool_:
        return b.compare("ne", raw, 0)
    if dtype in (dtypes.float16, dtypes.bfloat16):
        return b.convert("fpext", raw, vector("float", raw.lanes))
    return raw


def to_memory(b: Builder, value: Value, dtype: DType) -> Value:
    if dtype is dtypes.bool_:
        return b.convert("zext", value, vector("i8", value.lanes))
    if dtype in (dtypes.float16, dtypes.bfloat16):
        return b.convert("fptrunc", value, vector(scalar_type(dtype), value.lanes))
    return value


@dataclass
class Scope:
    """Where in the loops code is being written: the axes' present values, and what is computed there already."""

    coordinates: dict[Axis, Value]
    values: dict[tuple[Expr, bool], Value] = field(default_factory=dict)
    indices: dict[Index, Value] = field(default_factory=dict)

    def inside(self, coordinates: dict[Axis, Value]) -> Scope:
        """A scope within this one, for the body of a further loop."""
        return Scope({**self.coordinates, **coordinates}, dict(self.values), dict(self.indices))


class Evaluator:
    """Writes expressions for `lanes` consecutive positions of `along` (or for one position where lanes is 1).

    `tail`: which lanes exist, or None for all. Values that do not vary along the axis are scalars until a vector
    needs them.
    """

    def __init__(
        self, b: Builder, pointers: list[Value], along: Axis | None, lanes: int, tail: Value | None, scope: Scope,
        folds: dict[Reduce, Value],
    ) -> None:  # fmt: skip
        self.b = b
        self.pointers = pointers
        self.along = along
        self.lanes = lanes
        self.tail = tail
        self.scope = scope
        self.folds = folds
        self._scalar_guard: Value | None = None
        self._lane_guard: Value | None = None

    # -- positions ---------------------------------------------------------------------------------------------------

    def varies(self, axes: set[Axis]) -> bool:
        return self.along in axes

    def index(self, index: Index) -> Value:
        """The i64 at this position: a scalar, or a vector where it varies from lane to lane."""
        guarded = self._scalar_guard is not None or self._lane_guard is not None
        found = None if guarded else self.scope.indices.get(index)
        if found is not None:
            return found
        total: Value | None = None
        for atom, coefficient in index.terms:
            value = self._atom(atom)
            if coefficient != 1:
                value = self.b.mul(value, coefficient)
            total = value if total is None else self._add(total, value)
        result = self.b.index(index.constant) if total is None else total
        if total is not None and index.constant:
            result = self.b.add(total, index.constant)
        if not guarded:
            self.scope.indices[index] = result
        return result

    def _add(self, a: Value, b: Value) -> Value:
        lanes = max(a.lanes, b.lanes)
        return self.b.add(self.b.splat(a, lanes), self.b.splat(b, lanes))

    def _atom(self, atom: Axis | Quotient | Remainder | Computed) -> Value:
        b = self.b
        if isinstance(atom, Axis):
            base = self.scope.coordinates[atom]
            if atom is self.along or atom == self.along:
                if self.lanes == 1:
                    return base
                return b.add(b.splat(base, self.lanes), b.lane_numbers(self.lanes))
            return base
        if isinstance(atom, Computed):
            value: Value = self.expr(atom.value)
            return value
        # Shifted to be non-negative, so that unsigned division by a constant does.
        low = atom.value.range[0]
        shift = -(low // atom.divisor) if low < 0 else 0
        value = self.index(atom.value + shift * atom.divisor)
        if isinstance(atom, Quotient):
            quotient = b.udiv(value, atom.divisor)
            return b.sub(quotient, shift) if shift else quotient
        return b.urem(value, atom.divisor)

    def _uniform_stride(self, index: Index) -> int | None:
        """The step from lane to lane, or None where no single step says it."""
        stride = 0
        for atom, coefficient in index.terms:
            if atom == self.along:
                stride += coefficient
            elif not isinstance(atom, Axis) and self.varies(atom.value.axes()):
                return None
        return stride

    def _base(self, index: Index) -> Value:
        """The position of lane 0."""
        lanes, self.lanes = self.lanes, 1
        saved, self.scope = self.scope, Scope(self.scope.coordinates, {}, {})
        try:
            return self.index(index)
        finally:
            self.lanes, self.scope = lanes, saved

    # -- values ------------------------------------------------------------------------------------------------------

    def vector(self, expr: Expr) -> Value:
        """The value of every lane."""
        return self.b.splat(self.expr(expr), self.lanes)

    def expr(self, expr: Expr) -> Value:
        key = (expr, self.lanes > 1)
        guarded = self._scalar_guard is not None or self._lane_guard is not None
        found = self.scope.values.get(key)
        if found is not None:
            return found
        value = self._expr(expr)
        if not guarded:
            self.scope.values[key] = value
        return value

    def _expr(self, expr: Expr) -> Value:
        b = self.b
        if isinstance(expr, Const):
            return b.constant(expr.value, register_type(expr.dtype))
        if isinstance(expr, Reduced):
            return self.folds[expr.stage]
        if isinstance(expr, Load):
            return self._load(expr)
        if isinstance(expr, Position):
            return self._position(expr)
        if isinstance(expr, Guard):
            return self._guard(expr)
        if isinstance(expr, CheckedIndex):
            return self._checked(expr)
        assert isinstance(expr, Op)
        args = [self.expr(a) for a in expr.args]
        lanes = max(a.lanes for a in args)
        args = [b.splat(a, lanes) for a in args]
        value = arithmetic.emit(b, expr.name, args, [a.dtype for a in expr.args], expr.dtype)
        if expr.dtype in (dtypes.float16, dtypes.bfloat16):
            short = b.convert("fptrunc", value, vector(scalar_type(expr.dtype), lanes))
            value = b.convert("fpext", short, vector("float", lanes))
        return value

    def _mask(self) -> Value | None:
        """Lanes for which memory may be touched."""
        mask = self.tail
        for guard in (self._scalar_guard, self._lane_guard):
            if guard is not None:
                wide = self.b.splat(guard, self.lanes)
                mask = wide if mask is None else self.b.and_(mask, wide)
        return mask

    def _scalar_mask(self) -> Value | None:
        """Whether a value that all lanes share is needed: some lane's guard holds."""
        guard, wide = self._scalar_guard, self._lane_guard
        if wide is None:
            return guard
        if wide.lanes > 1:
            wide = self.b.intrinsic("llvm.vector.reduce.or", "i1", wide, suffix=f"v{wide.lanes}i1")
        return wide if guard is None else self.b.and_(guard, wide)

    def _load(self, expr: Load) -> Value:
        b = self.b
        element = memory_type(expr.dtype)
        pointer = self.pointers[expr.operand]
        stride = self._uniform_stride(expr.offset) if self.lanes > 1 else 0
        if stride == 0:
            index = self._base(expr.offset) if self.lanes > 1 else self.index(expr.offset)
            guard = self._scalar_mask() if self.lanes == 1 else self._scalar_guard
            if guard is not None:  # element 0 always exists
                index = b.select(guard, index, b.index(0))
            return load_element(b, b.element(pointer, element, index), expr.dtype, 1, None)
        if stride == 1:
            index = self._base(expr.offset)
            return load_element(b, b.element(pointer, element, index), expr.dtype, self.lanes, self._mask())
        if stride == 2 and expr.dtype.size >= 4 and self._mask() is None:
            return self._load_every_second(b.element(pointer, element, self._base(expr.offset)), expr.dtype)
        positions = self.index(expr.offset)
        addresses = b.emit(vector("ptr", self.lanes), f"getelementptr inbounds {element}, {pointer!r}, {positions!r}")
        mask = self._mask()
        if mask is None:
            mask = b.constant(True, vector("i1", self.lanes))
        type = vector(element, self.lanes)
        size = expr.dtype.size
        raw = b.intrinsic(
            "llvm.masked.gather", type, addresses, b.constant(size, "i32"), mask, Value("zeroinitializer", type),
            suffix=f"{_short(type)}.v{self.lanes}p0",
        )  # fmt: skip
        return from_memory(b, raw, expr.dtype)

    def _load_every_second(self, address: Value, dtype: DType) -> Value:
        """Elements 0, 2, 4, … from an address: two vectors, of which nothing behind the last element is touched. (The
        parts of complex numbers lie so; gathering them takes four times as long.)"""
        b, lanes, element = self.b, self.lanes, memory_type(dtype)
        low = load_element(b, address, dtype, lanes, None)
        inside = b.compare("ult", b.lane_numbers(lanes), lanes - 1)
        high = load_element(b, b.element(address, element, lanes), dtype, lanes, inside)
        return b.shuffle(low, high, [2 * lane for lane in range(lanes)])

    def _store_every_second(self, value: Value, address: Value, element: str) -> None:
        """Write the lanes to elements 0, 2, 4, … from an address."""
        b, lanes = self.b, self.lanes
        even = b.compare("eq", b.and_(b.lane_numbers(lanes), 1), 0)
        for half in (0, 1):
            spread = b.shuffle(value, None, [half * lanes // 2 + lane // 2 for lane in range(lanes)])
            b.masked_store(spread, b.element(address, element, half * lanes), even)

    def _position(self, expr: Position) -> Value:
        b = self.b
        value = self.index(expr.index)
        if expr.dtype.kind == "f":
            return b.convert("sitofp", value, vector(register_type(expr.dtype), value.lanes))
        target = vector(register_type(expr.dtype), value.lanes)
        if expr.dtype is dtypes.bool_:
            return b.compare("ne", value, 0)
        return value if target == value.type else b.convert("trunc", value, target)

    def _guard(self, expr: Guard) -> Value:
        b = self.b
        fill = self.expr(expr.fill)
        saved = (self._scalar_guard, self._lane_guard)
        total: Value | None = None
        for index, size in expr.conditions:
            value = self.index(index)
            holds = b.compare("ult", value, size)
            if holds.lanes == 1:
                guard = self._scalar_guard
                self._scalar_guard = holds if guard is None else b.and_(guard, holds)
            else:
                guard = self._lane_guard
                self._lane_guard = holds if guard is None else b.and_(guard, holds)
            if total is None:
                total = holds
            else:
                lanes = max(total.lanes, holds.lanes)
                total = b.and_(b.splat(total, lanes), b.splat(holds, lanes))
        assert total is not None
        value = self.expr(expr.value)
        self._scalar_guard, self._lane_guard = saved
        lanes = max(total.lanes, value.lanes, fill.lanes)
        return b.select(b.splat(total, lanes), b.splat(value, lanes), b.splat(fill, lanes))

    def _checked(self, expr: CheckedIndex) -> Value:
        b = self.b
        raw = self.expr(expr.value)
        lanes = raw.lanes
        low = b.compare("slt", raw, -expr.size)
        high = b.compare("sge", raw, expr.size)
        bad = b.or_(low, high)
        active = bad
        mask = self._mask() if lanes > 1 else self._scalar_mask()
        if mask is not None and mask.lanes == lanes:
            active = b.and_(bad, mask)
        if lanes > 1:
            some = b.intrinsic("llvm.vector.reduce.or", "i1", active, suffix=f"v{lanes}i1")
            least = b.constant(-(2**63), raw.type)
            worst = b.intrinsic("llvm.vector.reduce.smax", "i64", b.select(active, raw, least), suffix=f"v{lanes}i64")
        else:
            some, worst = active, raw
        with b.when(some):
            error = b.arg("error")
            b.store(b.index(expr.site + 1), error)
            b.store(worst, b.element(error, "i64", 1))
        wrapped = b.select(b.compare("slt", raw, 0), b.add(raw, expr.size), raw)
        return b.select(bad, b.constant(0, raw.type), wrapped)

    def prefetch(self, operand: int, offset: Index, dtype: DType, write: bool) -> None:
        """Have the line of lane 0 fetched, where the lanes lie side by side and the axes alone say where."""
        if self._uniform_stride(offset) == 1 and all(isinstance(atom, Axis) for atom, _ in offset.terms):
            place = self.b.element(self.pointers[operand], memory_type(dtype), self._base(offset))
            self.b.prefetch(place, write=write)

    def store(self, operand: int, offset: Index, expr: Expr, dtype: DType) -> None:
        """Write the expression's lanes to the operand."""
        b = self.b
        element = memory_type(dtype)
        pointer = self.pointers[operand]
        if self.lanes == 1:
            value = to_memory(b, self.expr(expr), dtype)
            b.store(value, b.element(pointer, element, self.index(offset)))
            return
        value = to_memory(b, self.vector(expr), dtype)
        if self._uniform_stride(offset) == 1:
            address = b.element(pointer, element, self._base(offset))
            if self.tail is None:
                b.store(value, address)
            else:
                b.masked_store(value, address, self.tail)
            return
        if self._uniform_stride(offset) == 2 and dtype.size >= 4 and self.tail is None:
            self._store_every_second(value, b.element(pointer, element, self._base(offset)), element)
            return
        positions = self.b.splat(self.index(offset), self.lanes)
        addresses = b.emit(vector("ptr", self.lanes), f"getelementptr inbounds {element}, {pointer!r}, {positions!r}")
        mask = self.tail if self.tail is not None else b.constant(True, vector("i1", self.lanes))
        b.intrinsic(
            "llvm.masked.scatter", "void", value, addresses, b.constant(dtype.size, "i32"), mask,
            suffix=f"{_short(value.type)}.v{self.lanes}p0",
        )  # fmt: skip


def _short(type: str) -> str:
    from firepot.kernels.llvm.builder import overload

    return overload(type)
