"""L-BFGS: a quasi-Newton method that calls its closure several times a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from firepot import ops
from firepot.grad_mode import enable_grad, no_grad
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.optim.optimizer import Optimizer, check
from firepot.tensor import Tensor
from firepot.tensor import eval as compute_now

_Point = tuple[float, float, Tensor, float]  # step, loss, gradient, slope along the direction


class LBFGS(Optimizer):
    """Nocedal and Wright, Numerical Optimization (2006), algorithm 7.5, with the strong Wolfe line search of 3.5.

    `step(closure)` reads losses and slopes to decide how to go on, so it runs outside fp.jit. One parameter group.

    >>> x = fp.tensor([3.0, -2.0], requires_grad=True)
    >>> opt = fp.optim.LBFGS([x], line_search_fn="strong_wolfe")
    >>> def closure():
    ...     opt.zero_grad()
    ...     loss = ((x - 1) ** 2).sum()
    ...     loss.backward()
    ...     return loss
    >>> _ = opt.step(closure)
    >>> fp.allclose(x.detach(), fp.ones(2), atol=1e-4)
    True
    """

    def __init__(
        self, params: Any, lr: float = 1, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:  # fmt: skip
        check("LBFGS", lr=(lr, 0, math.inf))
        if line_search_fn not in (None, "strong_wolfe"):
            raise ValueError(f"LBFGS: line_search_fn must be None or 'strong_wolfe', not {line_search_fn!r}")
        super().__init__(
            params,
            {
                "lr": lr, "max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change, "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )  # fmt: skip
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        self._params: list[Tensor] = self.param_groups[0]["params"]

    # -- the parameters as one vector --------------------------------------------------------------------------------

    def _gradient(self) -> Tensor:
        parts = [
            ops.zeros(p.numel(), dtype=p.dtype) if p.grad is None else p.grad.detach().reshape(-1) for p in self._params
        ]
        return ops.cat(parts)

    def _place(self, start: list[Tensor], t: float, direction: Tensor) -> None:
        """Set the parameters to start + t · direction."""
        with no_grad():
            at = 0
            for p, s in zip(self._params, start, strict=True):
                p.copy_(s + direction[at : at + p.numel()].reshape(p.shape) * _number(t, direction))
                at += p.numel()
        compute_now(*self._params)

    def _evaluate(self, closure: Callable[[], Any]) -> tuple[Any, float, Tensor]:
        with enable_grad():
            loss = closure()
        gradient = self._gradient()
        compute_now(loss, gradient, [p.grad for p in self._params if p.grad is not None])
        return loss, float(loss), gradient

    # -- a step ------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Up to max_iter moves along quasi-Newton directions. Returns the closure's first loss."""
        if closure is None:
            raise TypeError("LBFGS.step needs a closure that clears the gradients, computes the loss and calls backward()")
        group = self.param_groups[0]
        lr, state = float(group["lr"]), self.state.setdefault(self._params[0], {"func_evals": 0, "n_iter": 0})
        first_loss, loss, gradient = self._evaluate(closure)
        evaluations = 1
        state["func_evals"] += 1
        if _largest(gradient) <= group["tolerance_grad"]:
            return first_loss
        direction, t = state.get("d"), state.get("t")
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            direction = self._direction(state, gradient, direction, t, group["history_size"])
            before = loss
            state["prev_flat_grad"] = gradient
            t = lr
            if state["n_iter"] == 1:
                t = min(1.0, 1.0 / float(ops.sum(ops.abs(gradient)).item())) * lr
            slope = float(ops.dot(gradient, direction).item())
            if slope > -group["tolerance_change"]:
                break
            start = [p.detach().clone() for p in self._params]
            used = 0
            if group["line_search_fn"] is not None:
                loss, gradient, t, used = self._search(
                    closure, start, direction, t, (0.0, loss, gradient, slope), group["max_eval"] - evaluations,
                    group["tolerance_change"],
                )  # fmt: skip
                self._place(start, t, direction)
            else:
                self._place(start, t, direction)
                if iteration != group["max_iter"]:
                    _, loss, gradient = self._evaluate(closure)
                    used = 1
            evaluations += used
            state["func_evals"] += used
            if iteration == group["max_iter"] or evaluations >= group["max_eval"]:
                break
            if _largest(gradient) <= group["tolerance_grad"]:
                break
            if _largest(direction) * t <= group["tolerance_change"] or abs(loss - before) < group["tolerance_change"]:
                break
        state["d"], state["t"], state["prev_loss"] = direction, t, loss
        compute_now(*self._params)
        return first_loss

    def _direction(
        self, state: dict[str, Any], gradient: Tensor, last: Tensor | None, t: float | None, most: int
    ) -> Tensor:
        """−H g for the approximation H of the inverse Hessian."""
        if state["n_iter"] == 1 or last is None or t is None:
            state["memory"] = _Memory(gradient.numel(), gradient.dtype, most)
            return -gradient
        memory: _Memory = state["memory"]
        return memory.direction(last * _number(t, gradient), gradient - state["prev_flat_grad"], gradient)

    def _search(
        self, closure: Callable[[], Any], start: list[Tensor], direction: Tensor, t: float, origin: _Point, most: int,
        tolerance: float, c1: float = 1e-4, c2: float = 0.9,
    ) -> tuple[float, Tensor, float, int]:  # fmt: skip
        """A step length that satisfies the strong Wolfe conditions: (loss, gradient, length, evaluations)."""
        most = min(most, 25)
        _, loss, _, slope = origin
        size = _largest(direction)

        def at(length: float) -> _Point:
            self._place(start, length, direction)
            _, value, gradient = self._evaluate(closure)
            return length, value, gradient, float(ops.dot(gradient, direction).item())

        point, previous = at(t), origin
        used, rounds, done = 1, 0, False
        bracket = [origin, point]
        while rounds < most:
            if point[1] > loss + c1 * point[0] * slope or (rounds > 1 and point[1] >= previous[1]):
                bracket = [previous, point]
                break
            if abs(point[3]) <= -c2 * slope:
                bracket, done = [point], True
                break
            if point[3] >= 0:
                bracket = [previous, point]
                break
            least, greatest = point[0] + 0.01 * (point[0] - previous[0]), point[0] * 10
            length = _cubic(previous, point, (least, greatest))
            previous, point = point, at(length)
            used, rounds = used + 1, rounds + 1
        else:
            bracket = [origin, point]
        stuck = False
        while not done and rounds < most:
            low, high = sorted(bracket, key=lambda p: p[1])
            left, right = sorted((low[0], high[0]))
            if (right - left) * size < tolerance:
                break
            length = _cubic(bracket[0], bracket[1])
            edge = 0.1 * (right - left)
            if min(right - length, length - left) < edge:  # too near an end to make progress
                if stuck or length >= right or length <= left:
                    length = right - edge if abs(length - right) < abs(length - left) else left + edge
                    stuck = False
                else:
                    stuck = True
            else:
                stuck = False
            point = at(length)
            used, rounds = used + 1, rounds + 1
            where_low = 0 if bracket[0] is low else 1
            if point[1] > loss + c1 * length * slope or point[1] >= low[1]:
                bracket[1 - where_low] = point
            else:
                if abs(point[3]) <= -c2 * slope:
                    done = True
                elif point[3] * (high[0] - low[0]) >= 0:
                    bracket[1 - where_low] = low
                bracket[where_low] = point
        best = min(bracket, key=lambda p: p[1])
        return best[1], best[2], best[0], used


class _Memory:
    """The last moves s and changes of the gradient y as rows of one matrix, with their inner products as numbers.

    The two loops run on those numbers, and the direction is one combination of the rows: every step computes the same
    few graphs. Chen et al., Large-scale L-BFGS using MapReduce (2014).
    """

    def __init__(self, size: int, dtype: DType, most: int) -> None:
        self.most = most
        self.capacity = min(most, 4)
        self.rows = ops.zeros(2 * self.capacity, size, dtype=dtype)  # every s, then every y
        self.products = np.zeros((2 * self.capacity, 2 * self.capacity))
        self.order: list[int] = []  # places, the oldest first
        self.scale = 1.0

    def _grow(self) -> None:
        old, new = self.capacity, min(self.most, 2 * self.capacity)
        kept = np.r_[0:old, new : new + old]
        more = ops.zeros(new - old, self.rows.shape[1], dtype=self.rows.dtype)
        self.rows = ops.cat([self.rows[:old], more, self.rows[old:], more])
        products = np.zeros((2 * new, 2 * new))
        products[np.ix_(kept, kept)] = self.products
        self.capacity, self.products = new, products

    def direction(self, move: Tensor, change: Tensor, gradient: Tensor) -> Tensor:
        new = ops.stack([move, change, gradient])
        ends = ops.matmul(new[:2].to(dtypes.float64), change.to(dtypes.float64))
        compute_now(new, ends)
        curvature, length = ends.tolist()
        kept = curvature > 1e-10
        if kept:
            if len(self.order) == self.most:
                place = self.order.pop(0)
            else:
                place = len(self.order)
                if place == self.capacity:
                    self._grow()
            self.order.append(place)
            own = [place, self.capacity + place]
            self.rows = ops.index_copy(self.rows, 0, ops.from_numpy(np.array(own)), new[:2])
            self.scale = curvature / length
        inner = ops.matmul(new.to(dtypes.float64), self.rows.t().to(dtypes.float64))
        compute_now(inner, self.rows)
        found = np.array(inner.tolist())
        if kept:
            self.products[own, :], self.products[:, own] = found[:2], found[:2].T
        weights, of_gradient = np.zeros(2 * self.capacity), -1.0

        def product(row: int) -> float:
            return float(weights @ self.products[row] + of_gradient * found[2, row])

        taken: dict[int, float] = {}
        for i in reversed(self.order):
            y = self.capacity + i
            taken[i] = product(i) / self.products[i, y]
            weights[y] -= taken[i]
        weights *= self.scale
        of_gradient *= self.scale
        for i in self.order:
            y = self.capacity + i
            weights[i] += taken[i] - product(y) / self.products[i, y]
        combination = ops.from_numpy(weights.astype(self.rows.dtype.numpy))
        d = ops.matmul(combination, self.rows) + gradient * _number(of_gradient, gradient)
        compute_now(d)
        return d


def _number(value: float, like: Tensor) -> Tensor:
    """A 0-d tensor that is data to the compiler: another value is no other program."""
    return ops.from_numpy(np.array(value, like.dtype.numpy))


def _largest(x: Tensor) -> float:
    return float(ops.amax(ops.abs(x)).item())


def _cubic(a: _Point, b: _Point, bounds: tuple[float, float] | None = None) -> float:
    """The minimum of the cubic through two points with their slopes, within the bounds (default: between them)."""
    low, high = bounds if bounds is not None else (min(a[0], b[0]), max(a[0], b[0]))
    d1 = a[3] + b[3] - 3 * (a[1] - b[1]) / (a[0] - b[0])
    square = d1 * d1 - a[3] * b[3]
    if square < 0:
        return (low + high) / 2
    d2 = math.sqrt(square)
    if a[0] <= b[0]:
        place = b[0] - (b[0] - a[0]) * ((b[3] + d2 - d1) / (b[3] - a[3] + 2 * d2))
    else:
        place = a[0] - (a[0] - b[0]) * ((a[3] + d2 - d1) / (a[3] - b[3] + 2 * d2))
    return min(max(place, low), high)
