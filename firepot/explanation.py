"""fp.explain: which kernels a function became, what each moves and computes, and where the time goes."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firepot.capture import Capture, Trace, record
from firepot.compiler import debug
from firepot.compiler.lower import Step
from firepot.compiler.program import Program
from firepot.compiler.statistics import Compilation, log
from firepot.graph.node import Node
from firepot.jit import Jitted
from firepot.nn.module import Module
from firepot.runtime import doctor, engine, pool
from firepot.tensor import Tensor
from firepot.tracing import state

_PACKAGE = str(Path(__file__).parent)
_LEAST_RUNS, _MOST_RUNS = 3, 30
_SECONDS = 2.0  # spent on runs beyond the least


@dataclass(frozen=True)
class Place:
    """A line of the person's code, and the layer that was running, by its name in the model."""

    line: str
    module: str


@dataclass(frozen=True)
class KernelReport:
    """One kernel of a program.

    number, label: its place in the order of execution, and what it does
    seconds:       median of the runs
    flops:         floating-point operations, one for each addition, multiplication, comparison or function value;
                   a convolution counts as its definition, whichever algorithm computes it
    bytes:         of the elements read and written, each once
    floor_seconds: the least time by the roofline: the larger of flops / peak and bytes / bandwidth
    parallel:      whether all threads share it
    operations:    the graph's operations that it stores results of
    line, module:  where the first of those operations was written, and in which layer; empty where it is not known
    derivative:    whether it computes part of a derivative of what is written there
    prepared:      whether it keeps what it makes of a constant input (packed weights); `seconds` is without making it
    again:         whether it makes once more what was not kept, so that the memory budget is met
    """

    number: int
    label: str
    seconds: float
    flops: int
    bytes: int
    floor_seconds: float
    parallel: bool
    operations: tuple[str, ...]
    line: str
    module: str
    derivative: bool
    prepared: bool = False
    again: bool = False

    @property
    def reached(self) -> float:
        """floor_seconds / seconds. Over 1 where operands lay in a cache, or minimal filtering saved operations."""
        return self.floor_seconds / self.seconds if self.seconds else 0.0


class Explanation:
    """What `fp.explain` found. Printed, it is a table.

    name:          of the function
    kernels:       a KernelReport each, in the order of execution
    step_seconds:  one call of the program as it is run ordinarily, median
    total_seconds: the sum of the kernels' times, taken with a barrier after each kernel
    arena_bytes:   memory for intermediate values
    memory_bytes:  the most that a call takes beyond its arguments and state: the arena, results, packed weights
    memory_budget: what it may take, or None
    flops, bytes, floor_seconds: sums over the kernels
    peaks:         what this machine can do
    compile_seconds: what it took to plan the program and to compile, or load, its kernels
    compilations:  of the function so far, each with its reason
    """

    def __init__(
        self, name: str, program: Program, kernels: Sequence[KernelReport], step_seconds: float, peaks: doctor.Peaks,
        threads: int, compilations: Sequence[Compilation],
    ) -> None:  # fmt: skip
        self.name = name
        self.kernels = tuple(kernels)
        self.step_seconds = step_seconds
        self.total_seconds = sum(k.seconds for k in kernels)
        self.flops = sum(k.flops for k in kernels)
        self.bytes = sum(k.bytes for k in kernels)
        self.floor_seconds = sum(k.floor_seconds for k in kernels)
        self.arena_bytes = program.arena
        self.memory_bytes = program.memory
        self.memory_budget = program.budget
        self.compile_seconds = program.compile_seconds
        self.peaks = peaks
        self.threads = threads
        self.compilations = tuple(compilations)
        self._program = program

    def graph(self) -> str:
        """The simplified graph, one line an operation."""
        return debug.graph_text(self._program.results)

    def schedule(self) -> str:
        """The kernels in order with the places of their operands."""
        return debug.schedule_text(self._program)

    def loops(self, number: int) -> str:
        """The loop nest of a kernel as pseudo-code, for a matrix product that of what is done with its result; empty
        for the generators that start from no loop nest."""
        nest = self._step(number).nest
        return str(nest) if nest is not None else ""

    def llvm(self, number: int, optimised: bool = False) -> str:
        """The LLVM text of a kernel as it was generated, or as LLVM's optimiser left it."""
        kernel = self._step(number).kernel
        return engine.optimised_text(kernel) if optimised else kernel.generate()

    def assembly(self, number: int) -> str:
        """The machine code of a kernel."""
        return engine.assembly(self._step(number).kernel)

    def _step(self, number: int) -> Step:
        if not 0 <= number < len(self._program.steps):
            raise IndexError(f"explain: there is no kernel {number}; the program has {len(self._program.steps)}")
        return self._program.steps[number]

    def table(self, sort: str = "time", limit: int | None = None) -> str:
        """The kernels as a table, sorted by "time" or in "order" of execution; at most `limit` of them.

        Columns: share of the time, time, operations and bytes with the rate reached, the floor of the roofline, and
        how much of it was reached.
        """
        if sort not in ("time", "order"):
            raise ValueError(f"explain: sort must be 'time' or 'order', not {sort!r}")
        kernels = sorted(self.kernels, key=lambda k: -k.seconds) if sort == "time" else list(self.kernels)
        shown = kernels if limit is None else kernels[:limit]
        head = ("#", "kernel", "share", "time", "flops", "/s", "bytes", "/s", "floor", "reached", "from")
        rows = [self._row(k) for k in shown]
        rows.append((
            "", f"{len(kernels)} kernels", "", _seconds(self.total_seconds), _amount(self.flops),
            _amount(self.flops / max(self.total_seconds, 1e-12)), _amount(self.bytes),
            _amount(self.bytes / max(self.total_seconds, 1e-12)), _seconds(self.floor_seconds),
            f"{self.floor_seconds / max(self.total_seconds, 1e-12):.0%}", "",
        ))  # fmt: skip
        left = (1, len(head) - 1)
        widths = [max(len(r[c]) for r in [head, *rows]) for c in range(len(head))]
        lines = [
            "  ".join(t.ljust(w) if c in left else t.rjust(w) for c, (t, w) in enumerate(zip(row, widths, strict=True)))
            for row in [head, *rows]
        ]
        lines = [line.rstrip() for line in lines]
        if len(shown) < len(kernels):
            rest = sum(k.seconds for k in kernels[len(shown) :])
            lines.insert(-1, f"… {len(kernels) - len(shown)} more, {_seconds(rest)} together")
        return "\n".join(lines)

    def _row(self, k: KernelReport) -> tuple[str, ...]:
        origin = " ".join(t for t in (("∂ " if k.derivative else "") + k.module, k.line) if t.strip())
        return (
            str(k.number), (k.label if len(k.label) <= 44 else k.label[:43] + "…") + (" *" if k.prepared else "") + (" ↻" if k.again else ""),
            f"{k.seconds / max(self.total_seconds, 1e-12):.1%}", _seconds(k.seconds),
            _amount(k.flops), _amount(k.flops / max(k.seconds, 1e-12)),
            _amount(k.bytes), _amount(k.bytes / max(k.seconds, 1e-12)),
            _seconds(k.floor_seconds), f"{k.reached:.0%}", origin,
        )  # fmt: skip

    def __str__(self) -> str:
        most = 40
        lines = [
            f"{self.name}: {len(self.kernels)} kernels, {_seconds(self.step_seconds)} a call on {self.threads} "
            f"thread{'s' if self.threads > 1 else ''} ({_seconds(self.total_seconds)} with a barrier after each kernel)",
            self._memory(),
            f"{_amount(self.flops)}flop, {_amount(self.bytes)}B moved; the machine's "
            f"peak is {_amount(self.peaks.flops)}flop/s and {_amount(self.peaks.bandwidth)}B/s",
            *self._blocks(),
            "",
            self.table("time", most),
        ]
        if any(k.again for k in self.kernels):
            lines += ["", "↻ computed again, to keep within the memory budget"]
        if any(k.prepared for k in self.kernels):
            lines += ["", "* keeps what it makes of constant weights; that it was made already is assumed"]
        if self.compilations:
            lines += ["", "compiled:", *(f"  {c}" for c in self.compilations[-10:])]
        return "\n".join(lines)

    __repr__ = __str__

    def _blocks(self) -> list[str]:
        count = self._program.blocks
        return [f"the batch goes through in {count} blocks, each through all kernels"] if count > 1 else []

    def _memory(self) -> str:
        text = f"memory {_amount(self.memory_bytes)}B beside arguments and state, of it arena {_amount(self.arena_bytes)}B"
        if self.memory_budget is None:
            return text
        again = [k for k in self.kernels if k.again]
        share = sum(k.seconds for k in again) / max(self.total_seconds, 1e-12)
        return f"{text}; budget {_amount(self.memory_budget)}B: {len(again)} kernels run again, {share:.1%} of the time"


def explain(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Show which kernels `function(*args, **kwargs)` becomes, what each moves and computes and how long it takes.

    The function, plain or under `fp.jit`, is captured as one program, which is then run a few times on copies of the
    state. Parameters, buffers, gradients, optimisers and random generators are as before afterwards. What the
    function does to other Python objects happens once, as at each capture.

    Raises: TraceError where the function looks at a value, and whatever the function raises.

    >>> found = fp.explain(nn.Linear(784, 10), fp.ones(32, 784))
    >>> len(found.kernels), found.flops >= 2 * 32 * 784 * 10
    (1, True)
    >>> print(found.table())  # doctest: +SKIP
    #  kernel                           share     time  flops      /s  bytes      /s    floor  reached  from
    0  matmul 1x32x10x784 + map(add)   100.0%  23.1 µs  502 k  21.7 G  133 k  5.76 G  2.5 µs       11%  <stdin>:1
    """
    while isinstance(function, functools.partial):  # a method under fp.jit is one
        args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
        function = function.func
    if state.trace is not None:
        state.trace.refuse("fp.explain")
    jitted = function if isinstance(function, Jitted) else None
    plain = function
    if jitted is not None:
        plain = jitted.function
        args, kwargs = jitted.prepared(args, kwargs)
    name = getattr(plain, "__name__", type(plain).__name__)
    eager, state.eager = state.eager, None
    try:
        with pool.lock:
            capture = Capture(_place)
            budget = jitted.memory_budget if jitted is not None else None
            trace, arguments = record(plain, args, kwargs, capture, "asked for by fp.explain", memory_budget=budget)
            capture.abandon()
            history = jitted.compilations if jitted is not None else [log.recent[-1]]
            return _measured(name, trace, capture, arguments, history)
    finally:
        state.eager = eager


def _measured(
    name: str, trace: Trace, capture: Capture, arguments: Sequence[Tensor], compilations: Sequence[Compilation]
) -> Explanation:
    peaks = doctor.peaks()
    _, buffers = trace.values(arguments)
    rehearsal = trace.executor.rehearsal(buffers)
    rehearsal.run()
    whole: list[float] = []
    single: list[list[float]] = []
    start = time.perf_counter()
    while len(whole) < _LEAST_RUNS or (len(whole) < _MOST_RUNS and time.perf_counter() - start < _SECONDS):
        whole.append(rehearsal.time())
        single.append(rehearsal.profile())
    program = trace.executor.program
    assert program is not None, "a capture that locates its nodes is built"
    kernels = []
    for number, step in enumerate(program.steps):
        place, derivative = _origin([program.sources.get(n, n) for n in step.nodes], trace, capture)
        # The peak is of float32: float64 has half as many lanes, dot-product instructions do more at once. Numbers
        # beside the arrays, as a learning rate in float64, do not slow the rest.
        widest = max((s.dtype.size for s, _ in step.operands if s.dtype.kind == "f" and s.size > 1), default=4)
        slower = max(widest / 4, 1) / step.kernel.rate
        flops, moved = program.blocks * step.kernel.flops, program.blocks * step.kernel.bytes
        floor = max(flops / peaks.flops * slower, moved / peaks.bandwidth)
        kernels.append(
            KernelReport(
                number=number,
                label=step.kernel.label,
                seconds=statistics.median(run[number] for run in single),
                flops=flops,
                bytes=moved,
                floor_seconds=floor,
                parallel=step.kernel.parallel,
                operations=tuple(map(repr, step.nodes)),
                line=place.line,
                module=place.module,
                derivative=derivative,
                prepared=number in program.prepared,
                again=step.again,
            )
        )
    return Explanation(name, program, kernels, statistics.median(whole), peaks, pool.get_num_threads(), compilations)


def _origin(roots: Sequence[Node], trace: Trace, capture: Capture) -> tuple[Place, bool]:
    """Where the first of a kernel's results was written; the compiler's own nodes are traced to their inputs."""
    starts = [start for start, _ in trace.origins]
    for root in roots:
        waiting: list[Node] = [root]
        for _ in range(32):
            if not waiting:
                break
            node = waiting.pop(0)
            found = bisect.bisect_right(starts, node.sequence) - 1
            recorded = trace.origins[found][1] if found >= 0 else None
            if recorded is not None:
                place, derivative = capture.origin(recorded)
                if place is not None:
                    return place, derivative
            waiting.extend(node.inputs)
    return Place("", ""), False


def _place() -> Place:
    """The person's line that is running, and the layers around it."""
    line = ""
    modules: list[Module] = []
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not line and not code.co_filename.startswith(_PACKAGE):
            line = f"{_short(code.co_filename)}:{frame.f_lineno}"
        if code is Module.__call__.__code__:
            modules.append(frame.f_locals["self"])
        frame = frame.f_back  # type: ignore[assignment]
    modules.reverse()
    return Place(line, _path(modules))


def _path(modules: Sequence[Module]) -> str:
    """The name of the last module in the first: 'layer1.0.conv2'."""
    names: list[str] = []
    for outer, inner in itertools.pairwise(modules):
        names += [name for name, m in outer.named_modules() if m is inner and name][:1]
    return ".".join(names)


@functools.cache
def _short(filename: str) -> str:
    relative = os.path.relpath(filename)
    return relative if not relative.startswith("..") else os.path.basename(filename)


def _amount(number: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "


def _seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


__all__ = ["Explanation", "KernelReport", "explain"]
