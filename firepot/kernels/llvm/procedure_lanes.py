"""Loops of procedures in the lanes of vectors.

A variable that differs from lane to lane is a vector, everything else stays a scalar. A branch that some lanes take is
run by all with a mask: masked lanes neither read nor write memory, and keep their variables. Variables that gather a
sum (product, maximum …) hold a part for each lane, of which the whole is made after the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from firepot.graph.dtypes import DType
from firepot.kernels import procedure as ir
from firepot.kernels.lanes import place_slope
from firepot.kernels.liveness import expressions, statements_of, walk
from firepot.kernels.llvm import arithmetic
from firepot.kernels.llvm.builder import Value, overload, vector
from firepot.kernels.llvm.expression import from_memory, load_element, memory_type, register_type, to_memory
from firepot.kernels.llvm.procedure import Writer

_COPIES = 4  # sums go round in so many vectors, since an addition takes four cycles
_SMALL = 40  # expressions in a body that is copied


def in_lanes(outer: Writer, s: ir.Lanes, start: Value, stop: Value) -> None:
    """Write the loop over its last variable, from start to stop."""
    name, step = (s.loop.names[-1], 1) if isinstance(s.loop, ir.Parallel) else (s.loop.name, s.loop.step)
    if isinstance(s.loop, ir.Range):
        with outer.bounded(name, s.loop.start, s.loop.stop, step):
            _Loop(outer, s, name, step).write(start, stop)
    else:
        _Loop(outer, s, name, step).write(start, stop)


class _Loop:
    def __init__(self, outer: Writer, s: ir.Lanes, name: str, step: int) -> None:
        self.outer, self.s, self.name, self.step = outer, s, name, step
        self.b = outer.b
        every = list(statements_of(s.loop.body))
        size = sum(1 for one in every for c in expressions(one) for _ in walk(c))
        plain = all(isinstance(one, (ir.Assign, ir.Store)) for one in every)
        self.copies = _COPIES if s.folds and plain and size <= _SMALL else 1
        # Variables of lanes have slots of their own, those of folds one for each copy.
        self.slots: dict[str, Value] = {}
        self.parts = {n: [self.variable(n) for _ in range(self.copies)] for n, _ in s.folds}

    def variable(self, name: str) -> Value:
        return self.b.variable(vector(register_type(self.outer.types[name]), self.s.lanes))

    def write(self, start: Value, stop: Value) -> None:
        b, lanes = self.b, self.s.lanes
        distance = b.sub(stop, start) if self.step > 0 else b.sub(start, stop)
        count = b.intrinsic("llvm.smax", "i64", distance, b.index(0))
        if abs(self.step) > 1:
            count = b.udiv(b.add(count, abs(self.step) - 1), abs(self.step))
        for name, operation in self.s.folds:
            for slot in self.parts[name]:
                b.set(slot, self.neutral(name, operation))
        chunk = lanes * self.copies
        whole = b.sub(count, b.urem(count, chunk))
        with b.loop(0, whole, chunk) as n:
            for copy in range(self.copies):
                self.turn(b.add(b.mul(b.add(n, copy * lanes), self.step), start), None, copy)
        with b.loop(whole, count, lanes) as n:
            self.turn(b.add(b.mul(n, self.step), start), b.tail_mask(b.sub(count, n), lanes), 0)
        for name, operation in self.s.folds:
            self.finish(name, operation)

    def turn(self, first: Value, mask: Value | None, copy: int) -> None:
        """The body for the turns whose variable starts at `first`."""
        b = self.b
        slots = self.slots | {n: parts[copy] for n, parts in self.parts.items()}
        writer = LaneWriter(
            b, self.outer.d, self.outer.pointers, self.outer.in_lanes, self.outer.slots, self.outer.ranges, [],
            self.outer.failed, self.s, mask, slots,
        )  # fmt: skip
        numbers = b.mul(b.lane_numbers(self.s.lanes), self.step)
        b.set(writer.lane_slot(self.name), b.add(b.splat(first, self.s.lanes), numbers))
        writer.block(self.s.loop.body)
        self.slots = {n: s for n, s in writer.lane_slots.items() if n not in self.parts}

    def neutral(self, name: str, operation: str) -> Value:
        dtype = self.outer.types[name]
        type = vector(register_type(dtype), self.s.lanes)
        if operation in ("add", "mul", "xor"):
            nothing = {"add": -0.0 if dtype.kind == "f" else 0, "mul": 1, "xor": 0}[operation]
            return self.b.constant(nothing, type)
        return self.b.splat(self.b.get(self.outer.slot(name), register_type(dtype)), self.s.lanes)

    def finish(self, name: str, operation: str) -> None:
        """Make one of the copies, then of the lanes, then add what was there before."""
        b, dtype = self.b, self.outer.types[name]
        type = vector(register_type(dtype), self.s.lanes)

        def join(x: Value, y: Value) -> Value:
            return arithmetic.emit(b, operation, [x, y], [dtype, dtype], dtype)

        values = [b.get(slot, type) for slot in self.parts[name]]
        while len(values) > 1:
            values = [join(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
        total = values[0]
        while total.lanes > 2:
            half = total.lanes // 2
            total = join(b.shuffle(total, None, range(half)), b.shuffle(total, None, range(half, 2 * half)))
        total = join(b.extract(total, 0), b.extract(total, 1))
        b.set(self.outer.slot(name), join(b.get(self.outer.slot(name), register_type(dtype)), total))


@dataclass
class LaneWriter(Writer):
    """Writes statements for all lanes. mask: those that run (None: all); lane_slots: of the variables that vary."""

    lanes: ir.Lanes = field(kw_only=False, default=None)  # type: ignore[assignment]
    mask: Value | None = None
    lane_slots: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.count = self.lanes.lanes
        self.varying = frozenset(self.lanes.varying)
        self.slopes = dict(self.lanes.slopes)

    def lane_slot(self, name: str) -> Value:
        if name not in self.lane_slots:
            self.lane_slots[name] = self.b.variable(self.wide(self.types[name]))
        return self.lane_slots[name]

    def wide(self, dtype: DType) -> str:
        return vector(register_type(dtype), self.count)

    # -- values ------------------------------------------------------------------------------------------------------

    def code(self, c: ir.Code) -> Value:
        """A scalar, or a vector where the value varies."""
        b = self.b
        if isinstance(c, ir.Local) and c.name in self.varying:
            return b.get(self.lane_slot(c.name), self.wide(c.dtype))
        if isinstance(c, ir.Element):
            return self.element(c)
        if isinstance(c, ir.Choice):
            return self.choice(c)
        if isinstance(c, ir.Operation):
            args = [self.code(a) for a in c.args]
            most = max(a.lanes for a in args)
            args = [b.splat(a, most) for a in args]
            return arithmetic.emit(b, c.name, args, [a.dtype for a in c.args], c.dtype)
        return super().code(c)

    def element(self, c: ir.Element) -> Value:
        b = self.b
        dtype = self.d.procedure.arrays[c.array].dtype
        type = memory_type(dtype)
        places = self.places(c.array, c.indices, c.checks)
        if all(p.lanes == 1 for p in places):
            return load_element(b, b.element(self.pointers[c.array], type, self.sum(c.array, places)), dtype, 1, None)
        if self.consecutive(c.array, c.indices):
            return load_element(b, self.first(c.array, places), dtype, self.count, self.mask)
        wide = vector(type, self.count)
        raw = b.intrinsic(
            "llvm.masked.gather", wide, self.addresses(c.array, places), b.constant(dtype.size, "i32"), self.all(),
            Value("zeroinitializer", wide), suffix=f"{overload(wide)}.v{self.count}p0",
        )  # fmt: skip
        return from_memory(b, raw, dtype)

    def places(self, array: int, indices: tuple[ir.Code, ...], checks: tuple[int, ...]) -> list[Value]:
        """The indices, checked."""
        result = []
        for index, size, check in zip(indices, self.d.procedure.arrays[array].shape, checks, strict=True):
            value = self.code(index)
            if not self.inside_of(index, size):
                self.check(value, size, self.d.sites[check])
            result.append(value)
        return result

    def inside_of(self, index: ir.Code, size: int) -> bool:
        known = self.interval(index)
        return known is not None and known[0] >= 0 and known[1] < size

    def consecutive(self, array: int, indices: tuple[ir.Code, ...]) -> bool:
        return place_slope(indices, self.strides[array], self.slopes, self.varying) == 1

    def sum(self, array: int, places: list[Value]) -> Value:
        """The position in memory."""
        b = self.b
        most = max((p.lanes for p in places), default=1)
        total = b.index(0)
        for place, stride in zip(places, self.strides[array], strict=True):
            scaled = b.mul(place, stride)
            if total.lanes < scaled.lanes:
                total = b.splat(total, most)
            total = b.add(total, b.splat(scaled, total.lanes))
        return total

    def first(self, array: int, places: list[Value]) -> Value:
        """The address of lane 0, which may lie outside of the array where that lane is masked: no inbounds."""
        b = self.b
        zeros = [b.extract(p, 0) if p.lanes > 1 else p for p in places]
        type = memory_type(self.d.procedure.arrays[array].dtype)
        return b.emit("ptr", f"getelementptr {type}, {self.pointers[array]!r}, {self.sum(array, zeros)!r}")

    def addresses(self, array: int, places: list[Value]) -> Value:
        type = memory_type(self.d.procedure.arrays[array].dtype)
        where = self.b.splat(self.sum(array, places), self.count)
        return self.b.emit(f"<{self.count} x ptr>", f"getelementptr {type}, {self.pointers[array]!r}, {where!r}")

    def all(self) -> Value:
        """The mask, made where there is none."""
        return self.b.constant(True, vector("i1", self.count)) if self.mask is None else self.mask

    def any(self, mask: Value) -> Value:
        return self.b.intrinsic("llvm.vector.reduce.or", "i1", mask, suffix=f"v{mask.lanes}i1")

    def check(self, value: Value, size: int, site: int) -> None:
        """Go on only where every lane that runs has 0 ≤ value < size; the first that has not is reported."""
        b = self.b
        if value.lanes == 1:
            super().check(value, size, site)
            return
        wrong = b.compare("uge", value, size)
        if self.mask is not None:
            wrong = b.and_(wrong, self.mask)
        bad, good = b.fresh("bad"), b.fresh("good")
        b.line(f"br {self.any(wrong)!r}, label %{bad}, label %{good}")
        b.label(bad)
        bits = b.convert("bitcast", wrong, f"i{self.count}")
        lane = b.intrinsic("llvm.cttz", bits.type, bits, Value("true", "i1"))
        lane = b.convert("zext", lane, "i64")
        error = b.arg("error")
        b.store(b.index(site + 1), error)
        b.store(b.extract(value, lane), b.element(error, "i64", 1))
        b.line(f"br label %{self.failed}")
        b.label(good)

    def choice(self, c: ir.Choice) -> Value:
        b = self.b
        condition = self.code(c.condition)
        arms = (c.then, c.otherwise)
        if all(map(self.harmless, arms)):
            values = [self.code(a) for a in arms]
        elif condition.lanes == 1:
            return self.branched(c, condition)
        else:
            values = []
            for arm, mask in zip(arms, (condition, b.xor(condition, 1)), strict=True):
                values.append(self.guarded(arm, mask))
        most = max(condition.lanes, *(v.lanes for v in values))
        return b.select(*(b.splat(v, most) for v in (condition, *values)))

    def branched(self, c: ir.Choice, condition: Value) -> Value:
        """One of two values for all lanes."""
        b = self.b
        result = b.variable(self.wide(c.dtype))
        then, otherwise, done = b.fresh("then"), b.fresh("else"), b.fresh("done")
        b.line(f"br {condition!r}, label %{then}, label %{otherwise}")
        for label, arm in ((then, c.then), (otherwise, c.otherwise)):
            b.label(label)
            b.set(result, b.splat(self.code(arm), self.count))
            b.line(f"br label %{done}")
        b.label(done)
        return b.get(result, self.wide(c.dtype))

    def guarded(self, c: ir.Code, mask: Value) -> Value:
        """A value that only the lanes of the mask need, and may only be computed for them."""
        b = self.b
        if self.harmless(c):
            return self.code(c)
        result = b.variable(self.wide(c.dtype))
        b.set(result, Value("zeroinitializer", self.wide(c.dtype)))

        def run() -> None:
            b.set(result, b.splat(self.code(c), self.count))

        self.masked(mask, False, run)
        return b.get(result, self.wide(c.dtype))

    def harmless(self, c: ir.Code) -> bool:
        """Whether a value can be computed for lanes that do not need it: it reads no memory."""
        return not any(isinstance(part, ir.Element) for part in walk(c))

    def masked(self, condition: Value, always: bool, run: Callable[[], None]) -> None:
        """Run for the lanes where the condition holds; always: even if there are none."""
        b, before = self.b, self.mask
        mask = condition if before is None else b.and_(before, condition)
        done = b.fresh("done")
        if not always:
            some = b.fresh("some")
            b.line(f"br {self.any(mask)!r}, label %{some}, label %{done}")
            b.label(some)
        self.mask = mask
        run()
        self.mask = before
        b.line(f"br label %{done}")
        b.label(done)

    # -- statements --------------------------------------------------------------------------------------------------

    def statement(self, s: ir.Statement) -> None:
        b = self.b
        if isinstance(s, ir.Assign) and s.name in self.varying:
            value, slot = b.splat(self.code(s.value), self.count), self.lane_slot(s.name)
            if self.mask is not None:
                value = b.select(self.mask, value, b.get(slot, value.type))
            b.set(slot, value)
        elif isinstance(s, ir.Store):
            self.store(s)
        else:
            super().statement(s)

    def store(self, s: ir.Store) -> None:
        b = self.b
        dtype = self.d.procedure.arrays[s.array].dtype
        value = self.code(s.value)
        places = self.places(s.array, s.indices, s.checks)
        if all(p.lanes == 1 for p in places):  # one number, whichever lane writes it
            b.store(to_memory(b, value, dtype), b.element(self.pointers[s.array], memory_type(dtype),
                                                          self.sum(s.array, places)))  # fmt: skip
            return
        value = to_memory(b, b.splat(value, self.count), dtype)
        if self.consecutive(s.array, s.indices):
            if self.mask is None:
                b.store(value, self.first(s.array, places))
            else:
                b.masked_store(value, self.first(s.array, places), self.mask)
            return
        b.intrinsic(
            "llvm.masked.scatter", "void", value, self.addresses(s.array, places), b.constant(dtype.size, "i32"),
            self.all(), suffix=f"{overload(value.type)}.v{self.count}p0",
        )  # fmt: skip

    def branch(self, s: ir.If) -> None:
        condition = self.code(s.condition)
        if condition.lanes == 1:
            super().branch(s)
            return
        for arm, mask in ((s.then, condition), (s.otherwise, self.b.xor(condition, 1))):
            if arm:
                self.masked(mask, self.quick(arm), lambda arm=arm: self.block(arm))  # type: ignore[misc]

    def quick(self, body: tuple[ir.Statement, ...]) -> bool:
        """Whether statements may as well run where no lane needs them: they read no memory that might not be there."""
        return all(isinstance(s, ir.Assign) and self.harmless(s.value) for s in body)
