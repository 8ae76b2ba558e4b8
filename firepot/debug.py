"""fp.debug: run operations one by one, find the first NaN, and see what was compiled.

What the compiler makes is printed at FIREPOT_DEBUG=1 (each compilation with its reason), 2 (and the schedule),
3 (and the graph), 4 (and the loop nests), 5 (and the LLVM text); `fp.explain` shows one function.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from firepot.compiler import driver
from firepot.compiler.statistics import Compilation, log
from firepot.graph import dtypes
from firepot.graph.node import Elementwise, Node, grad_mode, topological
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives.reduce import reduce
from firepot.runtime import engine
from firepot.tensor import caller_site, compute
from firepot.tracing import state

__all__ = ["Statistics", "compilations", "detect_nan", "eager", "statistics"]

_PACKAGE = str(Path(__file__).parent)


@contextmanager
def eager() -> Iterator[None]:
    """Run each operation at its call, those of jitted functions too, in this thread: for stepping in a debugger.

    >>> with fp.debug.eager():
    ...     y = fp.ones(3).exp()  # has its value here
    """
    before, state.eager = state.eager, _compute_now
    try:
        yield
    finally:
        state.eager = before


def _compute_now(node: Node) -> None:
    compute([node])


@contextmanager
def detect_nan(inf: bool = True) -> Iterator[None]:
    """Raise FloatingPointError at the first operation that makes a NaN (or, unless inf=False, an infinity) out of
    inputs that had none, and at the first derivative that does; operations run at their calls (see `eager`).

    The error names the operation, the line that called it and the first bad element. Slow: every result is looked
    at.

    >>> with fp.debug.detect_nan():
    ...     fp.tensor([2.0, -1.0]).log()
    Traceback (most recent call last):
    FloatingPointError: detect_nan: log at ... made 1 nan in float32[2], first nan at [1], of -1.0
    """
    checker = _Checker(inf)
    before, state.eager = state.eager, checker.operation
    gradient_before, state.gradient = state.gradient, checker.gradient
    try:
        yield
    finally:
        state.eager, state.gradient = before, gradient_before


class _Checker:
    """Looks at every result and every gradient.

    lines:     where the operation behind a node was called
    bad:       what the look at a value gave
    consumers: node -> the nodes through whose derivative its gradient came
    """

    def __init__(self, inf: bool) -> None:
        self.inf = inf
        self.lines: WeakKeyDictionary[Node, str] = WeakKeyDictionary()
        self.bad: WeakKeyDictionary[Node, bool] = WeakKeyDictionary()
        self.gradients: WeakKeyDictionary[Node, Node] = WeakKeyDictionary()
        self.consumers: WeakKeyDictionary[Node, list[Node]] = WeakKeyDictionary()

    def operation(self, node: Node) -> None:
        order = topological([node], ew.is_leaf)
        given = [n for n in order if ew.is_leaf(n) or n.primitive is ew.constant_primitive]
        inputs = node.inputs
        compute([node])
        line = caller_site()
        for n in order:
            if n not in given:
                self.lines.setdefault(n, line)
        if node not in given and self.is_bad(node) and not any(self.is_bad(n) for n in given):
            where = f"{_public_name()}{node.primitive.name} at {line}"
            raise FloatingPointError(f"detect_nan: {where} made {self._told(node, inputs)}")

    def gradient(self, node: Node, gradient: Node) -> None:
        compute([n for n in (gradient,) if n.buffer is None])
        self.gradients[node] = gradient
        through = self.consumers.get(node, [])
        for i in node.inputs:
            self.consumers.setdefault(i, []).append(node)
        if not through or not self.is_bad(gradient) or any(self.is_bad(self.gradients[n]) for n in through):
            return
        names = " and ".join(
            dict.fromkeys(f"{n.primitive.name} at {self.lines.get(n, 'an earlier line')}" for n in through)
        )
        raise FloatingPointError(
            f"detect_nan: the derivative of {names} made {self._told(gradient, ())} (the gradient of {node})"
        )

    def is_bad(self, node: Node) -> bool:
        if not node.dtype.is_inexact or not node.size:
            return False
        found = self.bad.get(node)
        if found is None:
            found = self.bad[node] = self._look(node)
        return found

    def _look(self, node: Node) -> bool:
        before, grad_mode.enabled = grad_mode.enabled, False
        try:
            test = ew.predicate("isfinite" if self.inf else "isnan", node)
            folded = reduce("all" if self.inf else "any", test, tuple(range(node.ndim)))
            compute([folded])
        finally:
            grad_mode.enabled = before
        answer = bool(folded.buffer.view(np.dtype(np.bool_), ())[()])
        return not answer if self.inf else answer

    def _told(self, node: Node, inputs: Sequence[Node]) -> str:
        """The bad elements, and what the inputs hold at the first one where they correspond to the result."""
        values = _numbers(node)
        bad = ~np.isfinite(values) if self.inf else np.isnan(values)
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        counts = [
            f"{int(n)} {name}" for name, n in (("nan", np.isnan(values).sum()), ("inf", np.isinf(values).sum())) if n
        ]
        told = f"{' and '.join(counts)} in {node.dtype.name}{list(node.shape)}, first {values[first]} at {list(first)}"
        same = [i for i in inputs if i.shape == node.shape and (i.buffer is not None or _constant(i) is not None)]
        if isinstance(node.primitive, Elementwise) and same and len(same) == len(inputs):
            shown = [_constant(i) if i.buffer is None else _numbers(i)[first] for i in same]
            told += f", of {' and '.join(map(str, shown))}"
        return told


def _constant(node: Node) -> Any:
    return ew.constant_value(node)


def _numbers(node: Node) -> Any:
    array = node.buffer.view(node.dtype.numpy, node.shape)
    if node.dtype is dtypes.bfloat16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array


_MADE = ("function", "method")  # what operations that are made from a table are called inside


def _public_name() -> str:
    """'softmax: ' where the person called a function that is made of several operations."""
    frame = sys._getframe(1)
    name = ""
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        if frame.f_code.co_filename != __file__:
            name = frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]
    return f"{name}: " if name.isidentifier() and not name.startswith("_") and name not in _MADE else ""


@dataclass(frozen=True)
class Statistics:
    """What was compiled since the process started.

    programs, kernels: compiled, and the kernels in them
    programs_from_disk: those among them whose plan an earlier process had left
    compile_seconds:   spent on planning programs and on making or loading their kernels
    programs_reused:   runs of plain code that found their program in memory
    programs_kept:     programs of plain code in memory now
    native_compiled:   kernels that LLVM made
    native_from_disk:  kernels whose code was on disk
    native_reused:     kernels whose code was in memory, from another program
    """

    programs: int
    kernels: int
    programs_from_disk: int
    compile_seconds: float
    programs_reused: int
    programs_kept: int
    native_compiled: int
    native_from_disk: int
    native_reused: int


def statistics() -> Statistics:
    """Counters of compilations and of what was found again."""
    native = engine.statistics()
    return Statistics(
        programs=log.programs, kernels=log.kernels, programs_from_disk=log.planned, compile_seconds=log.seconds,
        programs_reused=log.reused, programs_kept=driver.programs_kept(), native_compiled=native.compiled,
        native_from_disk=native.cache_hits, native_reused=native.reused,
    )  # fmt: skip


def compilations() -> list[Compilation]:
    """The latest programs compiled, of plain code and of jitted functions, each with the reason."""
    return list(log.recent)
