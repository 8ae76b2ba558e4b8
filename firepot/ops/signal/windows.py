"""Window functions: M weights that fall towards both ends. `sym=False` gives the periodic form for spectra."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.ops.creation import placed
from firepot.tensor import Tensor, default_dtype, wrap

__all__ = [
    "bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine", "general_hamming", "hamming", "hann",
    "kaiser", "nuttall",
]  # fmt: skip


def _window(
    what: str, M: int, sym: bool, values: Callable[[Node, int], Node], dtype: DType | None, requires_grad: bool,
    placement: dict[str, Any],
) -> Tensor:  # fmt: skip
    """values(positions 0 … M − 1, intervals between the ends) in float64, then the dtype."""
    target = dtype or default_dtype()
    if M < 0:
        raise ValueError(f"signal.windows.{what}: M must not be negative, got {M}")
    if target not in (dtypes.float32, dtypes.float64):
        raise ValueError(f"signal.windows.{what}: expected float32 or float64, got {target.name}")
    if M <= 1:
        return placed(ew.full((M,), 1, target), requires_grad, placement)
    made = values(ew.iota(M, dtypes.float64), M - 1 if sym else M)
    return placed(ew.cast(made, target), requires_grad, placement)


def _cosines(n: Node, intervals: int, weights: Sequence[float]) -> Node:
    total = ew.like(n, 0)
    for i, a in enumerate(weights):
        angle = ew.mul(n, ew.like(n, 2 * math.pi * i / max(intervals, 1)))
        total = ew.add(total, ew.mul(ew.unary("cos", angle), ew.like(n, a * (-1) ** i)))
    return total


def general_cosine(
    M: int, *, a: Sequence[float], sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """Σ (−1)ⁱ aᵢ cos(2π i n / (M − 1))."""
    if not isinstance(a, (list, tuple)):
        raise TypeError(f"signal.windows.general_cosine: coefficients must be a list or tuple, not {type(a).__name__}")
    if not a:
        raise ValueError("signal.windows.general_cosine: coefficients cannot be empty")
    return _window("general_cosine", M, sym, lambda n, k: _cosines(n, k, a), dtype, requires_grad, placement)


def general_hamming(
    M: int, *, alpha: float = 0.54, sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """alpha − (1 − alpha) cos(2π n / (M − 1))."""
    weights = (alpha, 1 - alpha)
    return _window("general_hamming", M, sym, lambda n, k: _cosines(n, k, weights), dtype, requires_grad, placement)


def hamming(M: int, *, sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
            **placement: Any) -> Tensor:  # fmt: skip
    """general_hamming with 0.54."""
    return general_hamming(M, sym=sym, dtype=dtype, requires_grad=requires_grad, **placement)


def hann(M: int, *, sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
         **placement: Any) -> Tensor:  # fmt: skip
    """general_hamming with 0.5."""
    return general_hamming(M, alpha=0.5, sym=sym, dtype=dtype, requires_grad=requires_grad, **placement)


def blackman(M: int, *, sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
             **placement: Any) -> Tensor:  # fmt: skip
    """general_cosine with 0.42, 0.5, 0.08."""
    return general_cosine(M, a=[0.42, 0.5, 0.08], sym=sym, dtype=dtype, requires_grad=requires_grad, **placement)


def nuttall(M: int, *, sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
            **placement: Any) -> Tensor:  # fmt: skip
    """Nuttall's minimum 4-term window."""
    weights = [0.3635819, 0.4891775, 0.1365995, 0.0106411]
    return general_cosine(M, a=weights, sym=sym, dtype=dtype, requires_grad=requires_grad, **placement)


def bartlett(M: int, *, sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
             **placement: Any) -> Tensor:  # fmt: skip
    """A triangle that is zero at both ends."""

    def values(n: Node, k: int) -> Node:
        return ew.sub(ew.like(n, 1), ew.unary("abs", ew.sub(ew.mul(n, ew.like(n, 2 / k)), ew.like(n, 1))))

    return _window("bartlett", M, sym, values, dtype, requires_grad, placement)


def cosine(M: int, *, sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
           **placement: Any) -> Tensor:  # fmt: skip
    """Half a period of the sine."""

    def values(n: Node, k: int) -> Node:
        return ew.unary("sin", ew.mul(ew.add(n, ew.like(n, 0.5)), ew.like(n, math.pi / (k + 1))))

    return _window("cosine", M, sym, values, dtype, requires_grad, placement)


def exponential(
    M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, dtype: DType | None = None,
    requires_grad: bool = False, **placement: Any,
) -> Tensor:  # fmt: skip
    """exp(−|n − center| / tau)."""
    if tau <= 0:
        raise ValueError(f"signal.windows.exponential: tau must be positive, got {tau}")
    if center is not None and sym:
        raise ValueError("signal.windows.exponential: center must be None for symmetric windows")

    def values(n: Node, k: int) -> Node:
        middle = k / 2 if center is None else center
        return ew.unary("exp", ew.mul(ew.unary("abs", ew.sub(n, ew.like(n, middle))), ew.like(n, -1 / tau)))

    return _window("exponential", M, sym, values, dtype, requires_grad, placement)


def gaussian(
    M: int, *, std: float = 1.0, sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """exp(−(n / std)² / 2) about the middle."""
    if std <= 0:
        raise ValueError(f"signal.windows.gaussian: the standard deviation must be positive, got {std}")

    def values(n: Node, k: int) -> Node:
        away = ew.mul(ew.sub(n, ew.like(n, k / 2)), ew.like(n, 1 / (std * math.sqrt(2))))
        return ew.unary("exp", ew.neg(ew.square(away)))

    return _window("gaussian", M, sym, values, dtype, requires_grad, placement)


def kaiser(
    M: int, *, beta: float = 12.0, sym: bool = True, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """i0(beta √(1 − x²)) / i0(beta) for x = −1 … 1."""
    if beta < 0:
        raise ValueError(f"signal.windows.kaiser: beta must not be negative, got {beta}")

    def values(n: Node, k: int) -> Node:
        from firepot.ops.bessel import i0

        x = ew.sub(ew.mul(n, ew.like(n, 2 / k)), ew.like(n, 1))
        inside = ew.binary("maximum", ew.sub(ew.like(n, 1), ew.square(x)), ew.like(n, 0))
        return ew.div(i0(wrap(ew.mul(ew.unary("sqrt", inside), ew.like(n, beta))))._node,
                      i0(wrap(ew.like(n, beta)))._node)  # fmt: skip

    return _window("kaiser", M, sym, values, dtype, requires_grad, placement)
