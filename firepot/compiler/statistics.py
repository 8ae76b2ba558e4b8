"""What was compiled in this process, and why: the counters behind `fp.debug.statistics()` and `fp.explain`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_REMEMBERED = 256  # compilations whose reasons are kept


@dataclass(frozen=True)
class Compilation:
    """One program that was compiled.

    name:    the captured function's, or "eager" for what plain code recorded
    reason:  why no program made before would do
    kernels, arena_bytes, seconds: of the program; the seconds go to planning it and to making its native code
    """

    name: str
    reason: str
    kernels: int
    arena_bytes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.name}: {self.kernels} kernels in {self.seconds * 1e3:.0f} ms; {self.reason}"


class _Log:
    """All of the process: the counts are complete, the reasons the most recent ones."""

    def __init__(self) -> None:
        self.recent: deque[Compilation] = deque(maxlen=_REMEMBERED)
        self.programs = 0
        self.kernels = 0
        self.seconds = 0.0
        self.planned = 0  # programs that an earlier process left on disk
        self.reused = 0  # runs of a program that was in memory

    def add(self, compilation: Compilation) -> None:
        self.recent.append(compilation)
        self.programs += 1
        self.kernels += compilation.kernels
        self.seconds += compilation.seconds


log = _Log()
