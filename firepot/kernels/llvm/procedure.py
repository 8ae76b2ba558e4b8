"""Kernels from procedures: loops as a person wrote them, outer loops shared among the threads.

Which loops run in vector lanes is kernels.lanes' choice; how, procedure_lanes.py's. LLVM keeps variables in registers and
moves what does not change out of loops; its vectoriser is not used. A kernel of one Parallel loop is one phase; of
several, one phase each, with the assignments before it repeated. Outputs are cleared first, but for those that are
written in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from firepot.graph import dtypes
from firepot.graph.index import contiguous_strides
from firepot.kernels import procedure as ir
from firepot.kernels.kernel import Kernel
from firepot.kernels.lanes import Target, covered, replaceable, vectorised
from firepot.kernels.llvm import arithmetic
from firepot.kernels.llvm.builder import Builder, Module, Value
from firepot.kernels.llvm.expression import from_memory, memory_type, register_type, to_memory

_ALIGNMENT = 64
Interval = tuple[int, int]


@dataclass(frozen=True)
class Described:
    """A procedure and where its arrays lie. Operands: the inputs, the outputs that are made, the workspace if any.

    made:          which outputs are; the others lie in the workspace
    input_strides: in elements
    sites:         for each check the number that the kernel reports
    vector_bytes:  of a register that loops may use lanes of; 0 for one element at a time
    """

    procedure: ir.Procedure
    made: tuple[bool, ...]
    input_strides: tuple[tuple[int, ...], ...]
    sites: tuple[int, ...]
    vector_bytes: int = 0

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Of every array, in elements."""
        return (*self.input_strides, *(contiguous_strides(a.shape) for a in self.procedure.outputs))


def _room(a: ir.Array) -> int:
    """Bytes of the workspace that an output takes."""
    return -(-math.prod(a.shape) * a.dtype.size // _ALIGNMENT) * _ALIGNMENT


def lower(d: Described) -> Kernel:
    p = d.procedure
    body = vectorised(p, Target(d.vector_bytes, d.strides)) if d.vector_bytes else p.body
    loops = [s for s in body if _parallel(s)]
    whole = covered(p)
    cleared = [n for n, a in enumerate(p.arrays) if a.output and n not in whole]
    phases = (*(["clear"] if cleared else []), *(f"loop{n}" for n in range(max(len(loops), 1))))
    return Kernel(
        key=f"procedure {p.text} {d.made} {d.input_strides} {d.sites} {d.vector_bytes}",
        generate=lambda: _generate(d, body, cleared),
        phases=phases,
        label=f"kernel[{p.name}]",
        workspace=sum(_room(a) for a, made in zip(p.outputs, d.made, strict=True) if not made),
        parallel=bool(loops),
        bytes=sum(math.prod(a.shape) * a.dtype.size for a in p.arrays),
        aliases=_aliases(d),
    )


def _aliases(d: Described) -> frozenset[tuple[int, int]]:
    """Pairs of operands that may be the same memory: inputs in row-major order, outputs that are made."""
    count = len(d.procedure.inputs)
    operand = {count + n: count + sum(d.made[:n]) for n, made in enumerate(d.made) if made}
    rows = [contiguous_strides(a.shape) for a in d.procedure.inputs]
    return frozenset(
        (read, operand[written])
        for read, written in replaceable(d.procedure)
        if written in operand and d.input_strides[read] == rows[read]
    )


def _parallel(s: ir.Statement) -> bool:
    return isinstance(s.loop if isinstance(s, ir.Lanes) else s, ir.Parallel)


def _generate(d: Described, body: tuple[ir.Statement, ...], cleared: list[int]) -> str:
    from firepot.kernels.llvm.procedure_lanes import in_lanes

    p = d.procedure
    module = Module(p.name.encode("ascii", "replace").decode(), len(p.inputs) + sum(d.made))
    if cleared:
        with module.kernel("clear") as b:
            pointers = _pointers(b, d)
            for number in cleared:
                a = p.arrays[number]
                start, stop = b.share(math.prod(a.shape) * a.dtype.size, _ALIGNMENT)
                size = b.sub(stop, start)
                with b.when(b.compare("sgt", size, 0)):
                    _fill(b, b.offset(pointers[number], start), size)
    loops = [s for s in body if _parallel(s)]
    for number in range(max(len(loops), 1)):
        with module.kernel(f"loop{number}") as b:
            writer = Writer(b, d, _pointers(b, d), in_lanes)
            for s in body:
                if not _parallel(s):
                    writer.statement(s)
                elif s is loops[number]:
                    writer.statement(s)
                    break
            writer.end()
    return str(module)


def _fill(b: Builder, pointer: Value, size: Value) -> None:
    b.module.declare("llvm.memset.p0.i64", "void", ["ptr", "i8", "i64", "i1"])
    b.call("llvm.memset.p0.i64", "void", pointer, Value("0", "i8"), size, Value("false", "i1"))


def _pointers(b: Builder, d: Described) -> list[Value]:
    """Where each array starts."""
    p = d.procedure
    result = [b.operand(n) for n in range(len(p.inputs))]
    number, offset = len(result), 0
    for a, made in zip(p.outputs, d.made, strict=True):
        if made:
            result.append(b.operand(number))
            number += 1
        else:
            result.append(b.offset(b.operand(len(p.inputs) + sum(d.made)), offset))
            offset += _room(a)
    return result


@dataclass
class Loop:
    """Labels that `continue` and `break` go to."""

    again: str
    out: str


@dataclass
class Writer:
    """Writes statements for one element at a time. in_lanes: writes the loops that are marked so."""

    b: Builder
    d: Described
    pointers: list[Value]
    in_lanes: Callable[[Writer, ir.Lanes, Value, Value], None]
    slots: dict[str, Value] = field(default_factory=dict)
    ranges: dict[str, Interval] = field(default_factory=dict)  # of loop variables
    loops: list[Loop] = field(default_factory=list)
    failed: str = ""

    def __post_init__(self) -> None:
        self.types = dict(self.d.procedure.locals)
        self.failed = self.failed or self.b.fresh("failed")
        self.strides = self.d.strides

    def end(self) -> None:
        """The place that a failed check goes to: the kernel's end."""
        self.b.line(f"br label %{self.failed}")
        self.b.label(self.failed)

    # -- values ------------------------------------------------------------------------------------------------------

    def slot(self, name: str) -> Value:
        if name not in self.slots:
            self.slots[name] = self.b.variable(register_type(self.types[name]))
        return self.slots[name]

    def code(self, c: ir.Code) -> Value:
        b = self.b
        if isinstance(c, ir.Constant):
            return b.constant(c.value, register_type(c.dtype))
        if isinstance(c, ir.Local):
            return b.get(self.slot(c.name), register_type(c.dtype))
        if isinstance(c, ir.Element):
            array = self.d.procedure.arrays[c.array]
            address = self.address(c.array, c.indices, c.checks)
            return from_memory(b, b.load(address, memory_type(array.dtype)), array.dtype)
        if isinstance(c, ir.Choice):
            result = b.variable(register_type(c.dtype))
            then, otherwise, done = b.fresh("then"), b.fresh("else"), b.fresh("done")
            b.line(f"br {self.code(c.condition)!r}, label %{then}, label %{otherwise}")
            for label, value in ((then, c.then), (otherwise, c.otherwise)):
                b.label(label)
                b.set(result, self.code(value))
                b.line(f"br label %{done}")
            b.label(done)
            return b.get(result, register_type(c.dtype))
        args = [self.code(a) for a in c.args]
        return arithmetic.emit(b, c.name, args, [a.dtype for a in c.args], c.dtype)

    def address(self, number: int, indices: tuple[ir.Code, ...], checks: tuple[int, ...]) -> Value:
        b = self.b
        array = self.d.procedure.arrays[number]
        place = b.index(0)
        for index, size, stride, check in zip(indices, array.shape, self.strides[number], checks, strict=True):
            value = self.code(index)
            known = self.interval(index)
            if known is None or known[0] < 0 or known[1] >= size:
                self.check(value, size, self.d.sites[check])
            place = b.add(place, b.mul(value, stride))
        return b.element(self.pointers[number], memory_type(array.dtype), place)

    def check(self, value: Value, size: int, site: int) -> None:
        """Go on only where 0 ≤ value < size."""
        b = self.b
        bad, good = b.fresh("bad"), b.fresh("good")
        b.line(f"br {b.compare('ult', value, size)!r}, label %{good}, label %{bad}")
        b.label(bad)
        error = b.arg("error")
        b.store(b.index(site + 1), error)
        b.store(value, b.element(error, "i64", 1))
        b.line(f"br label %{self.failed}")
        b.label(good)

    def interval(self, c: ir.Code) -> Interval | None:
        """Bounds of an index, where loops with constant bounds give some."""
        if isinstance(c, ir.Constant):
            return int(c.value), int(c.value)
        if isinstance(c, ir.Local):
            return self.ranges.get(c.name)
        if not isinstance(c, ir.Operation) or c.name not in ("add", "sub", "mul") or c.dtype is not dtypes.int64:
            return None
        x, y = self.interval(c.args[0]), self.interval(c.args[1])
        if x is None or y is None:
            return None
        if c.name == "add":
            return x[0] + y[0], x[1] + y[1]
        if c.name == "sub":
            return x[0] - y[1], x[1] - y[0]
        corners = [i * j for i in x for j in y]
        return min(corners), max(corners)

    # -- statements --------------------------------------------------------------------------------------------------

    def block(self, statements: tuple[ir.Statement, ...]) -> None:
        for s in statements:
            self.statement(s)

    def statement(self, s: ir.Statement) -> None:
        b = self.b
        if isinstance(s, ir.Assign):
            b.set(self.slot(s.name), self.code(s.value))
        elif isinstance(s, ir.Store):
            value = self.code(s.value)
            dtype = self.d.procedure.arrays[s.array].dtype
            b.store(to_memory(b, value, dtype), self.address(s.array, s.indices, s.checks))
        elif isinstance(s, ir.If):
            self.branch(s)
        elif isinstance(s, ir.Range):
            self.range(s)
        elif isinstance(s, ir.Parallel):
            self.parallel(s, None)
        elif isinstance(s, ir.Lanes):
            if isinstance(s.loop, ir.Parallel):
                self.parallel(s.loop, s)
            else:
                self.in_lanes(self, s, self.code(s.loop.start), self.code(s.loop.stop))
        elif isinstance(s, ir.While):
            loop = Loop(b.fresh("while"), b.fresh("out"))
            body = b.fresh("body")
            b.line(f"br label %{loop.again}")
            b.label(loop.again)
            b.line(f"br {self.code(s.condition)!r}, label %{body}, label %{loop.out}")
            b.label(body)
            self.inside(loop, s.body)
            b.line(f"br label %{loop.again}")
            b.label(loop.out)
        else:
            b.line(f"br label %{self.loops[-1].out if s.word == 'break' else self.loops[-1].again}")
            b.label(b.fresh("unreached"))

    def inside(self, loop: Loop, body: tuple[ir.Statement, ...]) -> None:
        self.loops.append(loop)
        self.block(body)
        self.loops.pop()

    def branch(self, s: ir.If) -> None:
        b = self.b
        then, otherwise, done = b.fresh("then"), b.fresh("else"), b.fresh("done")
        b.line(f"br {self.code(s.condition)!r}, label %{then}, label %{otherwise}")
        for label, statements in ((then, s.then), (otherwise, s.otherwise)):
            b.label(label)
            self.block(statements)
            b.line(f"br label %{done}")
        b.label(done)

    def range(self, s: ir.Range) -> None:
        start, stop = self.code(s.start), self.code(s.stop)
        with self.bounded(s.name, s.start, s.stop, s.step):
            self.counted(s.name, start, stop, s.step, s.body)

    @contextmanager
    def bounded(self, name: str, start: ir.Code, stop: ir.Code, step: int) -> Iterator[None]:
        """While the body of a loop is written: what is known of its variable."""
        low, high = self.interval(start), self.interval(stop)
        before = self.ranges.get(name)
        if low is not None and high is not None:
            self.ranges[name] = (low[0], high[1] - 1) if step > 0 else (high[0] + 1, low[1])
        yield
        self.ranges.pop(name, None)
        if before is not None:
            self.ranges[name] = before

    def counted(self, name: str, start: Value, stop: Value, step: int, body: tuple[ir.Statement, ...]) -> None:
        """The variable counts in a slot of its own, so that it stays within the range after the last turn."""
        b = self.b
        counter = b.variable("i64")
        b.set(counter, start)
        head, inner = b.fresh("head"), b.fresh("body")
        loop = Loop(b.fresh("next"), b.fresh("out"))
        b.line(f"br label %{head}")
        b.label(head)
        i = b.get(counter, "i64")
        inside = b.compare("slt" if step > 0 else "sgt", i, stop)
        b.line(f"br {inside!r}, label %{inner}, label %{loop.out}")
        b.label(inner)
        b.set(self.slot(name), i)
        self.inside(loop, body)
        b.line(f"br label %{loop.again}")
        b.label(loop.again)
        b.set(counter, b.emit("i64", f"add i64 {b.get(counter, 'i64').text}, {step}"))
        b.line(f"br label %{head}")
        b.label(loop.out)

    def parallel(self, s: ir.Parallel, lanes: ir.Lanes | None) -> None:
        """This thread's share of all combinations, a run of the last variable at a time."""
        b = self.b
        zero = ir.Constant(0, dtypes.int64)
        sizes = [b.intrinsic("llvm.smax", "i64", self.code(c), b.index(0)) for c in s.sizes]
        total = sizes[0]
        for size in sizes[1:]:
            total = b.mul(total, size)
        first, end = b.share(total, lanes.lanes if lanes is not None else 1)
        with ExitStack() as known:
            for name, c in zip(s.names, s.sizes, strict=True):
                known.enter_context(self.bounded(name, zero, c, 1))
            if len(s.names) == 1:
                self.turns(s, lanes, first, end)
                return
            at = b.variable("i64", first)
            head, body, out = b.fresh("row"), b.fresh("run"), b.fresh("out")
            b.line(f"br label %{head}")
            b.label(head)
            here = b.get(at, "i64")
            b.line(f"br {b.compare('slt', here, end)!r}, label %{body}, label %{out}")
            b.label(body)
            row = b.udiv(here, sizes[-1])
            start = b.sub(here, b.mul(row, sizes[-1]))
            rest = row
            for name, size in reversed(list(zip(s.names[1:-1], sizes[1:-1], strict=True))):
                b.set(self.slot(name), b.urem(rest, size))
                rest = b.udiv(rest, size)
            b.set(self.slot(s.names[0]), rest)
            stop = b.intrinsic("llvm.umin", "i64", sizes[-1], b.add(start, b.sub(end, here)))
            self.turns(s, lanes, start, stop)
            b.set(at, b.add(here, b.sub(stop, start)))
            b.line(f"br label %{head}")
            b.label(out)

    def turns(self, s: ir.Parallel, lanes: ir.Lanes | None, start: Value, stop: Value) -> None:
        """The turns of the last variable from start to stop."""
        if lanes is None:
            self.counted(s.names[-1], start, stop, 1, s.body)
        else:
            self.in_lanes(self, lanes, start, stop)
