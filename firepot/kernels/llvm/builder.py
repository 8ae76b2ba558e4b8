"""Printing LLVM IR: a function at a time, as text.

Text is the fastest way from Python to LLVM's parser, and what `FIREPOT_DEBUG` shows a person. Mutable variables
are stack slots that LLVM promotes to registers, so generators need no phi nodes.

>>> m = Module("example")
>>> with m.function("double", [("ptr", "x"), ("i64", "n")]) as b:
...     with b.loop(0, b.arg("n")) as i:
...         p = b.element(b.arg("x"), "float", i)
...         b.store(b.add(b.load(p, "float"), b.load(p, "float")), p)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Union

from firepot.graph.dtypes import DType

SCALARS = {
    "bool": "i1", "int8": "i8", "uint8": "i8", "int16": "i16", "uint16": "i16", "int32": "i32", "uint32": "i32",
    "int64": "i64", "uint64": "i64", "float16": "half", "bfloat16": "bfloat", "float32": "float",
    "float64": "double",
}  # fmt: skip
_BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "half": 2, "bfloat": 2, "float": 4, "double": 8, "ptr": 8}
_FLOATS = ("half", "bfloat", "float", "double")
# The native calling convention (kernels/kernel.py).
KERNEL_PARAMETERS = [
    ("ptr noalias nocapture readonly", "operands"), ("i64", "thread"), ("i64", "threads"),
    ("ptr noalias", "scratch"), ("ptr noalias", "error"),
]  # fmt: skip
_OVERLOADS = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64"}


class Value:
    """An SSA value or a constant: its text and its LLVM type."""

    __slots__ = ("text", "type")

    def __init__(self, text: str, type: str) -> None:
        self.text = text
        self.type = type

    def __repr__(self) -> str:
        return f"{self.type} {self.text}"

    @property
    def lanes(self) -> int:
        """Number of vector lanes; 1 for a scalar."""
        return lanes_of(self.type)

    @property
    def element(self) -> str:
        """The scalar type of a lane."""
        return element_of(self.type)


Operand = Union[Value, int]


def lanes_of(type: str) -> int:
    return int(type[1 : type.index(" ")]) if type[0] == "<" else 1


def element_of(type: str) -> str:
    return type[type.rindex(" ") + 1 : -1] if type[0] == "<" else type


def vector(element: str, lanes: int) -> str:
    """The type of `lanes` elements; the scalar type itself for one lane."""
    return element if lanes == 1 else f"<{lanes} x {element}>"


def scalar_type(dtype: DType) -> str:
    """The LLVM type of one element in a register (bool is i1 there and one byte in memory)."""
    return SCALARS[dtype.name]


def overload(type: str) -> str:
    """The suffix that an intrinsic's name carries for a type, as v16f32."""
    element, lanes = element_of(type), lanes_of(type)
    short = _OVERLOADS.get(element, element)
    return short if lanes == 1 else f"v{lanes}{short}"


def literal(value: bool | int | float, type: str) -> str:
    """A scalar constant's text. Floating constants are printed as exact bit patterns."""
    if type == "float":
        value = _round_to_float(float(value))
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    if type == "double":
        return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"
    if type == "half":
        return f"0xH{_half_bits(float(value)):04X}"
    if type == "bfloat":
        return f"0xR{_bfloat_bits(float(value)):04X}"
    if type == "i1":
        return "true" if value else "false"
    return str(int(value))


def _round_to_float(value: float) -> float:
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return rounded


def _half_bits(value: float) -> int:
    try:
        bits: int = struct.unpack("<H", struct.pack("<e", value))[0]
    except OverflowError:
        return 0x7C00 if value > 0 else 0xFC00
    return bits


def _bfloat_bits(value: float) -> int:
    bits: int = struct.unpack("<I", struct.pack("<f", _round_to_float(value)))[0]
    if bits & 0x7FFFFFFF > 0x7F800000:  # NaN stays NaN when its low bits are cut
        return (bits >> 16) | 0x40
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


class Module:
    """An LLVM module in the making: functions, constants and the intrinsics they call."""

    def __init__(self, name: str, workspace_operand: int = 0) -> None:
        self.name = name
        self.workspace_operand = workspace_operand  # number of the kernel's last operand, where it has a workspace
        self._functions: list[str] = []
        self._declarations: dict[str, str] = {}
        self._globals: list[str] = []
        self._metadata: list[str] = []

    def unroll_hint(self, count: int) -> str:
        """The suffix of a loop's back edge that asks LLVM to unroll it `count` times (1 forbids unrolling)."""
        flag = '!"llvm.loop.unroll.disable"' if count == 1 else f'!"llvm.loop.unroll.count", i32 {count}'
        number = len(self._metadata)
        self._metadata += [f"!{number} = distinct !{{!{number}, !{number + 1}}}", f"!{number + 1} = !{{{flag}}}"]
        return f", !llvm.loop !{number}"

    def declare(self, name: str, result: str, parameters: Sequence[str]) -> None:
        """Declare an external function or an intrinsic (its name without the @); repeating is harmless."""
        self._declarations[name] = f"declare {result} @{name}({', '.join(parameters)})"

    def constant_array(self, name: str, element: str, values: Sequence[int | float]) -> Value:
        """A private constant table; the value is its address. Repeating it is harmless."""
        items = ", ".join(f"{element} {literal(v, element)}" for v in values)
        text = f"@{name} = private unnamed_addr constant [{len(values)} x {element}] [{items}], align 64"
        if text not in self._globals:
            self._globals.append(text)
        return Value(f"@{name}", "ptr")

    @contextmanager
    def function(
        self, name: str, parameters: Sequence[tuple[str, str]], result: str = "void", internal: bool = False
    ) -> Iterator[Builder]:
        """Define a function: `parameters` are (type with attributes, name). A missing `ret` returns void.

        `internal` functions are private to the module.
        """
        builder = Builder(self, parameters)
        yield builder
        if not builder.terminated:
            builder.line("ret void")
        head = ", ".join(f"{t} %{n}" for t, n in parameters)
        linkage = "internal " if internal else ""
        body = "\n".join([*builder.entry_lines, "  br label %start", "start:", *builder.lines])
        self._functions.append(f"define {linkage}{result} @{name}({head}) nounwind {{\nentry:\n{body}\n}}")

    def kernel(self, name: str) -> AbstractContextManager[Builder]:
        """Define a phase function of the native calling convention (kernels/kernel.py).

        Arguments: operands, thread, threads, scratch, error.
        """
        return self.function(name, KERNEL_PARAMETERS)

    def __str__(self) -> str:
        parts = [f"; {self.name}", *self._globals, *self._functions, *self._declarations.values(), *self._metadata]
        return "\n".join(parts) + "\n"


class Builder:
    """The body of one function. Methods append an instruction and return its value."""

    def __init__(self, module: Module, parameters: Sequence[tuple[str, str]]) -> None:
        self.module = module
        self.lines: list[str] = []
        self.entry_lines: list[str] = []
        self.terminated = False
        self._arguments = {n: Value(f"%{n}", t.split()[0]) for t, n in parameters}
        self._counter = 0

    # -- names and raw text ------------------------------------------------------------------------------------

    def arg(self, name: str) -> Value:
        return self._arguments[name]

    def line(self, text: str) -> None:
        """Append raw text; for terminators and metadata."""
        self.lines.append("  " + text)

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")
        self.terminated = False

    def fresh(self, hint: str = "v") -> str:
        self._counter += 1
        return f"{hint}{self._counter}"

    def emit(self, type: str, text: str) -> Value:
        """Append `%new = text` and return the new value of the given type."""
        self._counter += 1
        name = f"%v{self._counter}"
        self.lines.append(f"  {name} = {text}")
        return Value(name, type)

    # -- constants ---------------------------------------------------------------------------------------------

    def constant(self, value: bool | int | float, type: str) -> Value:
        """A constant of a scalar type, or of a vector type with all lanes equal."""
        if type[0] != "<":
            return Value(literal(value, type), type)
        text = literal(value, element_of(type))
        return Value(f"splat ({element_of(type)} {text})", type)

    def constants(self, values: Sequence[int | float], element: str) -> Value:
        """A constant vector of these."""
        items = ", ".join(f"{element} {literal(v, element)}" for v in values)
        return Value(f"<{items}>", vector(element, len(values)))

    def lane_numbers(self, lanes: int, element: str = "i64") -> Value:
        """<0, 1, 2, …>."""
        items = ", ".join(f"{element} {i}" for i in range(lanes))
        return Value(f"<{items}>" if lanes > 1 else "0", vector(element, lanes))

    def index(self, value: Operand) -> Value:
        """An int as an i64 constant; a Value as it is."""
        return Value(str(value), "i64") if isinstance(value, int) else value

    # -- arithmetic --------------------------------------------------------------------------------------------

    def _binary(self, integer: str, floating: str, a: Operand, b: Operand) -> Value:
        if isinstance(a, int):
            assert isinstance(b, Value)
            a = self.constant(a, b.type)
        if isinstance(b, int):
            b = self.constant(b, a.type)
        assert a.type == b.type, f"{integer}: {a!r} and {b!r}"
        return self.emit(a.type, f"{floating if a.element in _FLOATS else integer} {a.type} {a.text}, {b.text}")

    def add(self, a: Operand, b: Operand) -> Value:
        return self._binary("add", "fadd", a, b)

    def sub(self, a: Operand, b: Operand) -> Value:
        return self._binary("sub", "fsub", a, b)

    def mul(self, a: Operand, b: Operand) -> Value:
        return self._binary("mul", "fmul", a, b)

    def fdiv(self, a: Value, b: Value) -> Value:
        return self._binary("fdiv", "fdiv", a, b)

    def udiv(self, a: Operand, b: Operand) -> Value:
        return self._binary("udiv", "udiv", a, b)

    def urem(self, a: Operand, b: Operand) -> Value:
        return self._binary("urem", "urem", a, b)

    def and_(self, a: Operand, b: Operand) -> Value:
        return self._binary("and", "and", a, b)

    def or_(self, a: Operand, b: Operand) -> Value:
        return self._binary("or", "or", a, b)

    def xor(self, a: Operand, b: Operand) -> Value:
        return self._binary("xor", "xor", a, b)

    def fneg(self, a: Value) -> Value:
        return self.emit(a.type, f"fneg {a.type} {a.text}")

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a·b + c with one rounding."""
        return self.intrinsic("llvm.fma", a.type, a, b, c)

    def compare(self, predicate: str, a: Operand, b: Operand) -> Value:
        """LLVM's predicates: eq ne slt sle sgt sge ult ule … for integers, oeq olt une uno … for floats."""
        if isinstance(a, int):
            assert isinstance(b, Value)
            a = self.constant(a, b.type)
        if isinstance(b, int):
            b = self.constant(b, a.type)
        word = "fcmp" if a.element in _FLOATS else "icmp"
        return self.emit(vector("i1", a.lanes), f"{word} {predicate} {a.type} {a.text}, {b.text}")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.emit(a.type, f"select {condition!r}, {a!r}, {b!r}")

    def convert(self, instruction: str, a: Value, type: str) -> Value:
        """sext zext trunc fpext fptrunc sitofp uitofp fptosi bitcast … to `type`."""
        return self.emit(type, f"{instruction} {a!r} to {type}")

    def intrinsic(self, name: str, result: str, *args: Value, suffix: str | None = None) -> Value:
        """Call an overloaded intrinsic, as llvm.fma; the suffix defaults to the result type's."""
        full = f"{name}.{suffix if suffix is not None else overload(result)}"
        self.module.declare(full, result, [a.type for a in args])
        return self.call(full, result, *args)

    def call(self, name: str, result: str, *args: Value) -> Value:
        """Call a function that the module declares or defines."""
        text = f"call {result} @{name}({', '.join(map(repr, args))})"
        if result == "void":
            self.line(text)
            return Value("undef", "void")
        return self.emit(result, text)

    # -- vectors -----------------------------------------------------------------------------------------------

    def splat(self, a: Value, lanes: int) -> Value:
        """A scalar in every lane."""
        if lanes == 1 or a.lanes > 1:
            return a
        type = vector(a.type, lanes)
        one = self.emit(type, f"insertelement {type} poison, {a!r}, i64 0")
        return self.emit(type, f"shufflevector {one!r}, {type} poison, <{lanes} x i32> zeroinitializer")

    def extract(self, a: Value, lane: Operand) -> Value:
        return self.emit(a.element, f"extractelement {a!r}, {self.index(lane)!r}")

    def insert(self, a: Value, item: Value, lane: Operand) -> Value:
        return self.emit(a.type, f"insertelement {a!r}, {item!r}, {self.index(lane)!r}")

    def shuffle(self, a: Value, b: Value | None, mask: Sequence[int]) -> Value:
        """Lanes of a then b chosen by number (−1: any)."""
        other = repr(b) if b is not None else f"{a.type} poison"
        lanes = ", ".join(f"i32 {m}" if m >= 0 else "i32 poison" for m in mask)
        return self.emit(vector(a.element, len(mask)), f"shufflevector {a!r}, {other}, <{len(mask)} x i32> <{lanes}>")

    # -- memory ------------------------------------------------------------------------------------------------

    def operand(self, number: int) -> Value:
        """The data pointer of a kernel's operand."""
        slot = self.element(self.arg("operands"), "ptr", number)
        return self.emit("ptr", f"load ptr, {slot!r}, align 8, !invariant.load !{{}}")

    def element(self, pointer: Value, type: str, index: Operand) -> Value:
        """The address of element `index` of an array of `type`."""
        return self.emit("ptr", f"getelementptr inbounds {type}, {pointer!r}, {self.index(index)!r}")

    def offset(self, pointer: Value, bytes: Operand) -> Value:
        """The address some bytes further."""
        return self.emit("ptr", f"getelementptr inbounds i8, {pointer!r}, {self.index(bytes)!r}")

    def load(self, pointer: Value, type: str, align: int | None = None) -> Value:
        """Load; alignment defaults to the element's own (any element boundary)."""
        return self.emit(type, f"load {type}, {pointer!r}, align {align or _BYTES[element_of(type)]}")

    def store(self, value: Value, pointer: Value, align: int | None = None) -> None:
        self.line(f"store {value!r}, {pointer!r}, align {align or _BYTES[value.element]}")

    def masked_load(self, pointer: Value, type: str, mask: Value, otherwise: Value | None = None) -> Value:
        """Lanes whose mask is off are not read and take `otherwise` (default: zero)."""
        if otherwise is None:
            otherwise = Value("zeroinitializer", type)
        align = Value(str(_BYTES[element_of(type)]), "i32")
        return self.intrinsic("llvm.masked.load", type, pointer, align, mask, otherwise, suffix=f"{overload(type)}.p0")

    def masked_store(self, value: Value, pointer: Value, mask: Value) -> None:
        align = Value(str(_BYTES[value.element]), "i32")
        self.intrinsic("llvm.masked.store", "void", value, pointer, align, mask, suffix=f"{overload(value.type)}.p0")

    def prefetch(self, pointer: Value, level: int = 1, write: bool = False) -> None:
        """Have the line at `pointer`, which need not be readable, fetched into the cache of a level, to be written or not."""
        access, locality, data = (Value(str(n), "i32") for n in (int(write), 4 - level, 1))
        self.intrinsic("llvm.prefetch", "void", pointer, access, locality, data, suffix="p0")

    def tail_mask(self, remaining: Value, lanes: int) -> Value:
        """True in the first `remaining` lanes."""
        return self.compare("ult", self.lane_numbers(lanes), self.splat(remaining, lanes))

    # -- control -----------------------------------------------------------------------------------------------

    def variable(self, type: str, initial: Value | None = None, align: int | None = None) -> Value:
        """A mutable variable (a stack slot in the entry block); use `get` and `set`."""
        self._counter += 1
        name = f"%slot{self._counter}"
        suffix = f", align {align}" if align else ""
        self.entry_lines.append(f"  {name} = alloca {type}{suffix}")
        slot = Value(name, "ptr")
        if initial is not None:
            self.line(f"store {initial!r}, {slot!r}")
        return slot

    def get(self, slot: Value, type: str) -> Value:
        return self.emit(type, f"load {type}, {slot!r}")

    def set(self, slot: Value, value: Value) -> None:
        self.line(f"store {value!r}, {slot!r}")

    @contextmanager
    def loop(self, start: Operand, stop: Operand, step: Operand = 1, unroll: int | None = None) -> Iterator[Value]:
        """for i in range(start, stop, step) over i64, step > 0. `unroll`: a hint for LLVM (1 forbids)."""
        start, stop, step = self.index(start), self.index(stop), self.index(step)
        head, body, exit = self.fresh("head"), self.fresh("body"), self.fresh("exit")
        slot = self.variable("i64")
        self.set(slot, start)
        self.line(f"br label %{head}")
        self.label(head)
        i = self.get(slot, "i64")
        inside = self.compare("slt", i, stop)
        self.line(f"br {inside!r}, label %{body}, label %{exit}")
        self.label(body)
        yield i
        self.set(slot, self.emit("i64", f"add nsw i64 {i.text}, {step.text}"))
        hint = self.module.unroll_hint(unroll) if unroll is not None else ""
        self.line(f"br label %{head}{hint}")
        self.label(exit)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Run the body only where a scalar i1 holds."""
        then, done = self.fresh("then"), self.fresh("done")
        self.line(f"br {condition!r}, label %{then}, label %{done}")
        self.label(then)
        yield
        self.line(f"br label %{done}")
        self.label(done)

    def share(self, total: Operand, grain: int = 1) -> tuple[Value, Value]:
        """This thread's part [start, stop) of 0 … total, in multiples of `grain` (kernel functions only)."""
        total = self.index(total)
        grains = self.udiv(self.add(total, grain - 1), grain)
        thread, threads = self.arg("thread"), self.arg("threads")
        start = self.mul(self.udiv(self.mul(grains, thread), threads), grain)
        stop = self.mul(self.udiv(self.mul(grains, self.add(thread, 1)), threads), grain)
        return start, self.intrinsic("llvm.umin", "i64", stop, total)
