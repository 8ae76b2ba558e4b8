"""Timing a call, and what many timings say."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_KEPT = 24


def timed(run: Callable[[], Any], seconds: float, at_least: int = 1) -> list[float]:
    """Seconds of single calls, for about `seconds` in all. Of many, an even selection is kept."""
    times: list[float] = []
    total = 0.0
    while len(times) < at_least or total < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        total += times[-1]
    step = max(1, len(times) // _KEPT)
    return times[::step][:_KEPT]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile); of one value, three times that value."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def geometric_mean(values: Iterable[float]) -> float:
    """Raises ValueError where there is no value, or one that is not positive."""
    logarithms = [math.log(v) for v in values]
    if not logarithms:
        raise ValueError("the geometric mean of no values")
    return math.exp(sum(logarithms) / len(logarithms))
