"""A compiled program ready to run: kernels bound to operands, executed by one native call.

    program = Executable(
        [
            Step(scale, (Operand(2), Operand(ARENA, 0))),     # input 0 → arena
            Step(add, (Operand(ARENA, 0), Operand(3))),       # arena → output 0
        ],
        bases=2,
        arena=arena(), arena_bytes=4096,
    )
    error = program.run([input.address, output.address])

An operand is a base and a byte offset. Bases are the arena and the addresses given to each `run`, in order
from `FIRST` on; a `Buffer` as base is a constant of the program. Operand pointers are computed natively at
each run.
"""

from __future__ import annotations

import ctypes
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from firepot.kernels.kernel import Kernel
from firepot.runtime import engine, pool, walker
from firepot.runtime.buffer import Buffer, size_class

ARENA = walker.ARENA_BASE
FIRST = walker.FIRST_FREE_BASE


class Operand(NamedTuple):
    """Where an operand lies: ARENA, FIRST + i for the i-th address given to `run`, or a constant buffer.

    strides: by how many bytes it moves on with each run of the loops around the step, the outermost first
    """

    base: int | Buffer
    offset: int = 0
    strides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """One kernel of a program.

    operands:    in the order of the kernel's description, the workspace last where there is one
    prepared:    its workspace is kept from run to run, so that runs may leave out its first phase (`Kernel.prepares`)
    guard:       do not start if an earlier kernel recorded an error, and end the run: for kernels that
                 overwrite state in place
    phases:      the first of the kernel's phases that runs here, and the one before which it ends: (1, None) where an
                 earlier step with the same workspace has run the first
    independent: reads and writes nothing that a kernel since the last barrier writes, so needs no barrier
                 before
    """

    kernel: Kernel
    operands: tuple[Operand, ...]
    guard: bool = False
    independent: bool = False
    prepared: bool = False
    phases: tuple[int, int | None] = (0, None)


@dataclass(frozen=True)
class Loop:
    """Steps that run `count` times (at least once), one time after the other."""

    count: int
    body: tuple[AnyStep, ...]


@dataclass(frozen=True)
class Branch:
    """`then` where the byte at the operand is not zero, else `otherwise`. Neither writes that byte."""

    condition: Operand
    then: tuple[AnyStep, ...]
    otherwise: tuple[AnyStep, ...]


@dataclass(frozen=True)
class While:
    """`test`, and as long as the byte at the operand is not zero then, `body` and `test` again.

    Ends with the run where a kernel recorded an error: what it went on with may never let the test fail.
    """

    test: tuple[AnyStep, ...]
    condition: Operand
    body: tuple[AnyStep, ...]


AnyStep = Step | Loop | Branch | While


class Error(NamedTuple):
    """The first bad value that a kernel met, as it recorded it."""

    site: int
    value: int


class Arena:
    """Memory for intermediates, shared among all programs of a device: they run one at a time.

    Grows when a program needs more; contents live during one run only.
    """

    def __init__(self) -> None:
        self._buffer: Buffer | None = None
        self.nbytes = 0
        self.address = 0

    def reserve(self, nbytes: int, frugal: bool = False) -> int:
        """The address of at least `nbytes`, and, where frugal, of no more than a block of this size has. Only with
        `pool.lock` held. Raises MemoryError."""
        if nbytes > self.nbytes or (frugal and size_class(self.nbytes) > size_class(nbytes)):
            # Let the old block go first, so that both need not fit.
            self.clear()
            self._buffer = Buffer.empty(nbytes)
            self.address = self._buffer.address
            self.nbytes = nbytes
        return self.address

    def clear(self) -> None:
        """Free the memory; the next run takes some anew."""
        self._buffer = None
        self.nbytes = 0
        self.address = 0


_arena = Arena()
_main_thread = threading.main_thread().ident  # where Python handles signals
_BRIEF_SECONDS = 1e-3


def arena() -> Arena:
    """The arena of the CPU."""
    return _arena


class Executable:
    """Steps bound to native code.

    steps:       kernels in order; what is a tuple counts as one step when times are taken
    bases:       how many addresses `run` takes
    arena_bytes: memory for intermediates
    repeatable:  no step overwrites what the program was given, so a run may end half-way and begin again
    frugal:      let an arena go that is larger than this program needs
    functions:   the native functions of kernels by their keys; the engine is asked for those of others

    Raises CompileError where LLVM refuses a kernel's text, ValueError where an operand's base does not exist.
    """

    def __init__(
        self, steps: Sequence[AnyStep | tuple[AnyStep, ...]], bases: int, arena_bytes: int = 0,
        arena: Arena = _arena, repeatable: bool = False, functions: Mapping[str, tuple[int, ...]] | None = None,
        frugal: bool = False,
    ) -> None:  # fmt: skip
        self.steps = tuple(steps)
        self.bases = bases
        self.arena_bytes = arena_bytes
        kernels = list(_kernel_steps(self.steps))
        self.scratch_bytes = max((step.kernel.scratch for step in kernels), default=0)
        self.repeatable = repeatable
        self.frugal = frugal
        self._arena = arena
        table = dict(functions or {})
        missing = {step.kernel.key: step.kernel for step in kernels if step.kernel.key not in table}
        table.update(zip(missing, engine.load(list(missing.values())), strict=True))
        self._constants = [
            operand.base for step in kernels for operand in step.operands if isinstance(operand.base, Buffer)
        ]
        self._whole, self._whole_steps = self._lay_out(table, leave_out=False)
        self._short, self._short_steps = self._whole, self._whole_steps
        if any(step.prepared for step in kernels):
            self._short, self._short_steps = self._lay_out(table, leave_out=True)
        words = walker.CALL_BASES + FIRST + bases
        self._call_type: type[ctypes.Array[ctypes.c_int64]] = ctypes.c_int64 * words
        self._call_layout = struct.Struct(f"={words}q")
        self._native = pool.native()
        # The programs whose last run was brief. What runs how often depends on values where there are jumps.
        self._brief: set[int] = set()
        self._steady = not _jumps(self.steps)

    def run(self, addresses: Sequence[int], prepared: bool = False) -> Error | None:
        """Run the program on the given addresses. Returns what a kernel recorded as wrong, or None.

        `prepared`: without the first phases of prepared steps, which an earlier run has done on the same values.
        Blocks until it has ended, without the interpreter lock; several Python threads take turns. Ctrl-C on the
        main thread ends a repeatable program after the running kernels; any other first ends by itself, and so does one
        that took less than a millisecond the last time: to be told of the signal takes a microsecond.
        Raises MemoryError where the arena cannot grow, and what the handler of an interrupt raises.
        """
        call = self._call_block(addresses)
        program = (self._short if prepared else self._whole).address
        interruptible = self.repeatable and program not in self._brief and threading.get_ident() == _main_thread
        run = self._native.run_interruptible if interruptible else self._native.run
        with pool.lock:
            site = walker.INTERRUPTED
            while site == walker.INTERRUPTED:  # Python has called the handler by now: it did not raise, so go on
                call[walker.CALL_ERROR_SITE] = 0
                threads = self._prepare(call)
                start = time.perf_counter()
                site = run(threads.address, program, call, 0)
            brief = time.perf_counter() - start < _BRIEF_SECONDS and self._steady
            (self._brief.add if brief else self._brief.discard)(program)
        return Error(site, call[walker.CALL_ERROR_VALUE]) if site else None

    def profile(self, addresses: Sequence[int], prepared: bool = False) -> list[float]:
        """Run the program and return the seconds that each step took. Steps after a stop took 0."""
        call = self._call_block(addresses)
        program, record_steps = self._whole, self._whole_steps
        if prepared:
            program, record_steps = self._short, self._short_steps
        times = (ctypes.c_int64 * (len(record_steps) + 1))()
        with pool.lock:
            threads = self._prepare(call)
            self._native.run_timed(threads.address, program.address, call, ctypes.addressof(times))
        seconds = [0.0] * len(self.steps)
        before = times[0]
        for number, step in enumerate(record_steps):
            now = times[number + 1]
            if now > before:  # else it did not run, or not in the last turn of the loop that it is in
                seconds[step] += (now - before) * 1e-9
                before = now
        return seconds

    def _call_block(self, addresses: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
        """Error record, zero, arena (filled in later), addresses: one block a call, so none is shared."""
        if len(addresses) != self.bases:
            raise ValueError(f"the program takes {self.bases} addresses, got {len(addresses)}")
        # Packing first is four times as fast as filling a ctypes array item by item.
        return self._call_type.from_buffer_copy(self._call_layout.pack(0, 0, 0, 0, *addresses))

    def _prepare(self, call: Any) -> pool.ThreadPool:
        if self.arena_bytes:
            call[walker.CALL_BASES + ARENA] = self._arena.reserve(self.arena_bytes, self.frugal)
        threads = pool.pool()
        if self.scratch_bytes:
            threads.reserve_scratch(self.scratch_bytes)
        return threads

    def _lay_out(self, functions: dict[str, tuple[int, ...]], leave_out: bool) -> tuple[Buffer, list[int]]:
        """The native program: header, records, slots, operand pointers (see `walker.py`); each record's step.

        `leave_out`: without the first phases of prepared steps.
        """
        plan = _Plan()
        for number, step in enumerate(self.steps):
            self._add(plan, number, step, functions, leave_out)
        records, slots = plan.records, plan.slots
        records_at = 64
        slots_at = records_at + len(records) * walker.RECORD_BYTES
        operands_at = slots_at + len(slots) * walker.SLOT_BYTES
        loops_at = operands_at + 8 * len(slots)
        strides_at = loops_at + walker.LOOP_BYTES * len(plan.loops)
        moved = sum(len(loop.strides) for loop in plan.loops)
        memory = Buffer.empty(strides_at + 8 * moved)
        native = bytearray(strides_at + 8 * moved)
        address = memory.address
        struct.pack_into(
            "=7q",
            native,
            0,
            *(address + records_at, len(records)),
            *(address + slots_at, len(slots)),
            address + operands_at,
            *(address + loops_at, len(plan.loops)),
        )
        for number, (function, first_slot, flags, target) in enumerate(records):
            if flags & walker.LOOP:
                function = address + loops_at + walker.LOOP_BYTES * function
            operands = address + operands_at + 8 * first_slot if first_slot >= 0 else 0
            span = _span_length(records, number)
            at = records_at + number * walker.RECORD_BYTES
            struct.pack_into("=qqiiq", native, at, function, operands, flags, span, target)
        for number, slot in enumerate(slots):
            struct.pack_into("=qq", native, slots_at + number * walker.SLOT_BYTES, *slot)
        for number, loop in enumerate(plan.loops):
            struct.pack_into(
                "=6q",
                native,
                loops_at + walker.LOOP_BYTES * number,
                *(loop.count, 0, loop.first_record),
                *(address + operands_at + 8 * loop.first_slot, len(loop.strides), address + strides_at),
            )
            struct.pack_into(f"={len(loop.strides)}q", native, strides_at, *loop.strides)
            strides_at += 8 * len(loop.strides)
        ctypes.memmove(address, bytes(native), len(native))
        return memory, plan.record_steps

    def _add(
        self, plan: _Plan, number: int, step: AnyStep | tuple[AnyStep, ...],
        functions: dict[str, tuple[int, ...]], leave_out: bool, depth: int = 0,
    ) -> None:  # fmt: skip
        """The records and slots of a step, which is inside `depth` loops."""
        if isinstance(step, tuple):
            for part in step:
                self._add(plan, number, part, functions, leave_out, depth)
            return
        if isinstance(step, Loop):
            first_record, first_slot = len(plan.records), len(plan.slots)
            self._add(plan, number, step.body, functions, leave_out, depth + 1)
            strides = [s[depth] if depth < len(s) else 0 for s in plan.strides[first_slot:]]
            plan.add(number, walker.SERIAL | walker.JOIN | walker.LOOP, len(plan.loops), first_slot)
            plan.loops.append(_LoopPlan(step.count, first_record, first_slot, strides))
            return
        if isinstance(step, Branch):
            unless = self._jump(plan, number, step.condition)
            self._add(plan, number, step.then, functions, leave_out, depth)
            end = self._jump(plan, number)
            plan.aim(unless)
            self._add(plan, number, step.otherwise, functions, leave_out, depth)
            plan.aim(end)
            return
        if isinstance(step, While):
            begin = len(plan.records)
            self._add(plan, number, step.test, functions, leave_out, depth)
            unless = self._jump(plan, number, step.condition)
            self._add(plan, number, step.body, functions, leave_out, depth)
            plan.aim(self._jump(plan, number, guard=True), begin)
            plan.aim(unless)
            return
        phases = functions[step.kernel.key]
        first_slot = len(plan.slots)
        plan.slots.extend(self._slot(f"kernel {step.kernel.label}", operand) for operand in step.operands)
        plan.strides.extend(operand.strides for operand in step.operands)
        left = phases[1:] if leave_out and step.prepared else phases[slice(*step.phases)]
        for phase, function in enumerate(left):
            flags = 0 if step.kernel.parallel else walker.SERIAL
            if phase > 0 or not step.independent or step.guard:
                flags |= walker.JOIN
            if phase == 0 and step.guard:
                flags |= walker.GUARD
            plan.add(number, flags, function, first_slot)

    def _jump(self, plan: _Plan, number: int, condition: Operand | None = None, guard: bool = False) -> int:
        """A record from which the run goes on elsewhere unless the condition holds; its number."""
        first_slot = -1
        if condition is not None:
            first_slot = len(plan.slots)
            plan.slots.append(self._slot("a condition", condition))
            plan.strides.append(condition.strides)
        flags = walker.SERIAL | walker.JOIN | walker.JUMP | (walker.GUARD if guard else 0)
        return plan.add(number, flags, 0, first_slot)

    def _slot(self, label: str, operand: Operand) -> tuple[int, int]:
        base = operand.base
        if isinstance(base, Buffer):
            return walker.ABSOLUTE_BASE, base.address + operand.offset
        if not ARENA <= base < FIRST + self.bases:
            raise ValueError(
                f"{label}: base {base} of an operand does not exist; the program has the "
                f"arena ({ARENA}) and {self.bases} addresses ({FIRST} to {FIRST + self.bases - 1})"
            )
        return base, operand.offset


@dataclass
class _LoopPlan:
    count: int
    first_record: int
    first_slot: int
    strides: list[int]


class _Plan:
    """A native program to be: records (function or number of a loop, first slot, flags, target) with the step of each,
    slots with the strides of each, loops."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int, int, int]] = []
        self.record_steps: list[int] = []
        self.slots: list[tuple[int, int]] = []
        self.strides: list[tuple[int, ...]] = []
        self.loops: list[_LoopPlan] = []

    def add(self, step: int, flags: int, function: int, first_slot: int) -> int:
        """Append a record; its number."""
        self.records.append((function, first_slot, flags, 0))
        self.record_steps.append(step)
        return len(self.records) - 1

    def aim(self, jump: int, target: int | None = None) -> None:
        """Let a jump lead to a record, the next one by default."""
        self.records[jump] = (*self.records[jump][:3], len(self.records) if target is None else target)


def _kernel_steps(steps: Sequence[AnyStep | tuple[AnyStep, ...]]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Step):
            yield step
        elif isinstance(step, tuple):
            yield from _kernel_steps(step)
        elif isinstance(step, Branch):
            yield from _kernel_steps((*step.then, *step.otherwise))
        else:
            yield from _kernel_steps((*step.test, *step.body) if isinstance(step, While) else step.body)


def _jumps(steps: Sequence[AnyStep | tuple[AnyStep, ...]]) -> bool:
    """Whether it depends on values which of the steps run, or how often."""
    for step in steps:
        if isinstance(step, (Branch, While)):
            return True
        if isinstance(step, (tuple, Loop)) and _jumps(step if isinstance(step, tuple) else step.body):
            return True
    return False


def _span_length(records: list[tuple[int, int, int, int]], start: int) -> int:
    """How many parallel records from `start` on can run without a barrier between them."""
    if records[start][2] & walker.SERIAL:
        return 1
    end = start + 1
    while end < len(records) and not records[end][2] & (walker.SERIAL | walker.JOIN):
        end += 1
    return end - start
