"""Optimisers that scale each element's step by the gradients seen so far."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.graph import dtypes
from firepot.optim.optimizer import Group, Optimizer, check, counter, zeros_for
from firepot.tensor import Tensor

_MOST = 1.0 - 1e-12


def _beta_check(what: str, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    if isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
        raise ValueError(f"{what}: betas must be either both floats or both Tensors, got {betas}")
    check(
        what, lr=(lr, 0, math.inf), eps=(eps, 0, math.inf), beta1=(betas[0], 0, _MOST), beta2=(betas[1], 0, _MOST),
        weight_decay=(weight_decay, 0, math.inf),
    )  # fmt: skip


def _decayed(parameter: Tensor, gradient: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """(parameter, gradient) after weight decay, which goes to one of them; the gradient's sign by `maximize`."""
    g = -gradient if group["maximize"] else gradient
    if not group["weight_decay"]:
        return parameter, g
    if group.get("decoupled_weight_decay"):
        return parameter * (1 - group.tensor("lr") * group.tensor("weight_decay")), g
    return parameter, g + parameter * group.tensor("weight_decay")


class Adam(Optimizer):
    """m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − lr · m̂ / (√v̂ + eps), with m̂ and v̂ corrected for their
    start at zero.

    weight_decay adds that multiple of θ to g; amsgrad divides by the largest v so far. ValueError for settings out of
    range. Kingma and Ba, Adam: a method for stochastic optimization (2014); amsgrad: Reddi et al. (2018).

    >>> model = nn.Linear(3, 1)
    >>> opt = fp.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.999))
    >>> model(fp.ones(2, 3)).sum().backward()
    >>> opt.step()
    """

    decoupled = False

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, amsgrad: bool = False, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        _beta_check(type(self).__name__, lr, betas, eps, weight_decay)
        settings = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings | {"amsgrad": amsgrad, "maximize": maximize})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        names = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if group["amsgrad"] else [])
        return {"step": counter(), **zeros_for(parameter, names)}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = -gradient if group["maximize"] else gradient
        value: Tensor = parameter
        lr = group.tensor("lr")
        if group["weight_decay"]:
            if self.decoupled:
                value = value * (1 - lr * group.tensor("weight_decay"))
            else:
                g = g + value * group.tensor("weight_decay")
        beta1, beta2 = group.tensor("betas.0"), group.tensor("betas.1")
        step = state["step"]
        step.add_(1)
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.copy_(first + (g - first) * (1 - beta1))
        second.copy_(second * beta2 + g * g * (1 - beta2))
        # The corrections are 0-d: a few instructions for each parameter, not for each element.
        correction1 = 1 - ops.pow(beta1, step)
        correction2 = ops.sqrt(1 - ops.pow(beta2, step))
        if group["amsgrad"]:
            largest = state["max_exp_avg_sq"]
            largest.copy_(ops.maximum(largest, second))
            second = largest
        denominator = ops.sqrt(second) / correction2 + group["eps"]
        parameter.copy_(value - first * (lr / correction1) / denominator)


class AdamW(Adam):
    """Adam with decoupled weight decay: θ shrinks by lr · weight_decay, beside Adam's step. Loshchilov and Hutter
    (2017).

    >>> opt = fp.optim.AdamW([nn.Parameter(fp.ones(3))], lr=3e-4, weight_decay=0.05)
    """

    decoupled = True

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class NAdam(Optimizer):
    """Adam with Nesterov momentum. Dozat (2016)."""

    def __init__(
        self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *,
        maximize: bool = False,
    ) -> None:  # fmt: skip
        _beta_check("NAdam", lr, betas, eps, weight_decay)
        check("NAdam", momentum_decay=(momentum_decay, 0, math.inf))
        settings = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        settings |= {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, settings | {"maximize": maximize})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), "mu_product": ops.tensor(1.0), **zeros_for(parameter, ["exp_avg", "exp_avg_sq"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        value, g = _decayed(parameter, gradient, group)
        beta1, beta2 = group.tensor("betas.0"), group.tensor("betas.1")
        lr, decay = group.tensor("lr"), group["momentum_decay"]
        step, product = state["step"], state["mu_product"]
        step.add_(1)
        mu = (1 - ops.pow(0.96, step * decay) * 0.5) * beta1
        following = (1 - ops.pow(0.96, (step + 1) * decay) * 0.5) * beta1
        product.mul_(mu)
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.copy_(first + (g - first) * (1 - beta1))
        second.copy_(second * beta2 + g * g * (1 - beta2))
        denominator = ops.sqrt(second / (1 - ops.pow(beta2, step))) + group["eps"]
        own = g * (lr * (1 - mu) / (1 - product))
        ahead = first * (lr * following / (1 - product * following))
        parameter.copy_(value - (own + ahead) / denominator)


class Adamax(Optimizer):
    """Adam by the infinity norm. Kingma and Ba (2014)."""

    def __init__(
        self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        _beta_check("Adamax", lr, betas, eps, weight_decay)
        settings = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings | {"maximize": maximize})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), **zeros_for(parameter, ["exp_avg", "exp_inf"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        _, g = _decayed(parameter, gradient, group)
        beta1, beta2 = group.tensor("betas.0"), group.tensor("betas.1")
        step, first, largest = state["step"], state["exp_avg"], state["exp_inf"]
        step.add_(1)
        first.copy_(first + (g - first) * (1 - beta1))
        largest.copy_(ops.maximum(largest * beta2, ops.abs(g) + group["eps"]))
        parameter.copy_(parameter - first * (group.tensor("lr") / (1 - ops.pow(beta1, step))) / largest)


class RMSprop(Optimizer):
    """v ← αv + (1 − α)g², θ ← θ − lr · g / (√v + eps), with momentum on the step if wanted. Tieleman and Hinton (2012).

    centered subtracts the running mean's square from v: Graves (2013).

    >>> opt = fp.optim.RMSprop([nn.Parameter(fp.ones(3))], lr=1e-2)
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0,
        momentum: float = 0, centered: bool = False, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        check(
            "RMSprop", lr=(lr, 0, math.inf), eps=(eps, 0, math.inf), alpha=(alpha, 0, math.inf),
            momentum=(momentum, 0, math.inf), weight_decay=(weight_decay, 0, math.inf),
        )  # fmt: skip
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, settings | {"centered": centered, "maximize": maximize})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        names = ["square_avg"]
        names += ["momentum_buffer"] if group["momentum"] else []
        names += ["grad_avg"] if group["centered"] else []
        return {"step": counter(), **zeros_for(parameter, names)}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = -gradient if group["maximize"] else gradient
        if group["weight_decay"]:
            g = g + parameter * group.tensor("weight_decay")
        alpha, square = group["alpha"], state["square_avg"]
        state["step"].add_(1)
        square.copy_(square * alpha + g * g * (1 - alpha))
        spread = square
        if group["centered"]:
            mean = state["grad_avg"]
            mean.copy_(mean + (g - mean) * (1 - alpha))
            spread = square - mean * mean
        move = g / (ops.sqrt(spread) + group["eps"])
        if group["momentum"]:
            buffer = state["momentum_buffer"]
            buffer.copy_(buffer * group.tensor("momentum") + move)
            move = buffer
        parameter.copy_(parameter - move * group.tensor("lr"))


class Adagrad(Optimizer):
    """s ← s + g², θ ← θ − lr · g / (√s + eps); lr falls with lr_decay. Duchi et al. (2011).

    >>> opt = fp.optim.Adagrad([nn.Parameter(fp.ones(3))], lr=1e-2)
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        check(
            "Adagrad", lr=(lr, 0, math.inf), lr_decay=(lr_decay, 0, math.inf), eps=(eps, 0, math.inf),
            weight_decay=(weight_decay, 0, math.inf), initial_accumulator_value=(initial_accumulator_value, 0, math.inf),
        )  # fmt: skip
        settings = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay}
        super().__init__(
            params, settings | {"initial_accumulator_value": initial_accumulator_value, "maximize": maximize}
        )

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), "sum": ops.full_like(parameter.detach(), group["initial_accumulator_value"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = -gradient if group["maximize"] else gradient
        if group["weight_decay"]:
            g = g + parameter * group.tensor("weight_decay")
        step, total = state["step"], state["sum"]
        step.add_(1)
        total.copy_(total + g * g)
        lr = group.tensor("lr") / ((step - 1) * group["lr_decay"] + 1)
        parameter.copy_(parameter - g * lr / (ops.sqrt(total) + group["eps"]))


class Adadelta(Optimizer):
    """Zeiler, ADADELTA: an adaptive learning rate method (2012)."""

    def __init__(
        self, params: Any, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0, *,
        maximize: bool = False,
    ) -> None:  # fmt: skip
        check(
            "Adadelta",
            lr=(lr, 0, math.inf),
            rho=(rho, 0, 1),
            eps=(eps, 0, math.inf),
            weight_decay=(weight_decay, 0, math.inf),
        )
        settings = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings | {"maximize": maximize})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), **zeros_for(parameter, ["square_avg", "acc_delta"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        _, g = _decayed(parameter, gradient, group)
        rho, eps, square, moved = group["rho"], group["eps"], state["square_avg"], state["acc_delta"]
        state["step"].add_(1)
        square.copy_(square * rho + g * g * (1 - rho))
        delta = ops.sqrt(moved + eps) / ops.sqrt(square + eps) * g
        moved.copy_(moved * rho + delta * delta * (1 - rho))
        parameter.copy_(parameter - delta * group.tensor("lr"))


class RAdam(Optimizer):
    """Adam whose step is adaptive once the variance of its scale is known. Liu et al. (2019)."""

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, decoupled_weight_decay: bool = False, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        _beta_check("RAdam", lr, betas, eps, weight_decay)
        settings = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings | {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), **zeros_for(parameter, ["exp_avg", "exp_avg_sq"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        value, g = _decayed(parameter, gradient, group)
        beta1, beta2 = group.tensor("betas.0"), group.tensor("betas.1")
        step, first, second = state["step"], state["exp_avg"], state["exp_avg_sq"]
        step.add_(1)
        first.copy_(first + (g - first) * (1 - beta1))
        second.copy_(second * beta2 + g * g * (1 - beta2))
        power = ops.pow(beta2, step)
        most = 2 / (1 - beta2) - 1
        length = most - 2 * step * power / (1 - power)  # of the approximated average
        known = length > 5.0
        safe = ops.where(known, length, 6.0)
        rectified = ops.sqrt((safe - 4) * (safe - 2) * most / ((most - 4) * (most - 2) * safe))
        adaptive = ops.sqrt(1 - power) / (ops.sqrt(second) + group["eps"]) * rectified
        move = first / (1 - ops.pow(beta1, step)) * group.tensor("lr")
        parameter.copy_(value - move * ops.where(known, adaptive, 1.0))


class ASGD(Optimizer):
    """Averaged stochastic gradient descent; the average is state["ax"]. Polyak and Juditsky (1992)."""

    def __init__(
        self, params: Any, lr: float = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
        weight_decay: float = 0, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        check("ASGD", lr=(lr, 0, math.inf), weight_decay=(weight_decay, 0, math.inf))
        settings = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay}
        super().__init__(params, settings | {"maximize": maximize})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        fresh = {"step": counter(), "eta": ops.tensor(float(group["lr"]), dtype=dtypes.float64), "mu": ops.tensor(1.0)}
        return {**fresh, **zeros_for(parameter, ["ax"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        _, g = _decayed(parameter, gradient, group)
        step, eta, mu, average = state["step"], state["eta"], state["mu"], state["ax"]
        step.add_(1)
        lambd, lr = group["lambd"], group.tensor("lr")
        parameter.copy_(parameter * (1 - eta * lambd) - g * eta)
        average.copy_(average + (parameter - average) * mu)
        eta.copy_(lr / ops.pow(1 + lr * lambd * step, group["alpha"]))
        mu.copy_(1 / ops.clamp(step - group["t0"], min=1.0))


class Rprop(Optimizer):
    """Steps whose size grows while the gradient keeps its sign and shrinks where it turns. Riedmiller, Braun (1993)."""

    def __init__(
        self, params: Any, lr: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50), *, maximize: bool = False,
    ) -> None:  # fmt: skip
        check("Rprop", lr=(lr, 0, math.inf))
        if not 0 < etas[0] < 1 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        settings: dict[str, Any] = {"lr": lr, "etas": tuple(etas), "step_sizes": tuple(step_sizes)}
        settings["maximize"] = maximize
        super().__init__(params, settings)

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        sizes = ops.full_like(parameter.detach(), float(group["lr"]))
        return {"step": counter(), "step_size": sizes, **zeros_for(parameter, ["prev"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = -gradient if group["maximize"] else gradient
        size, before = state["step_size"], state["prev"]
        group.tensor("lr")  # the first step size only: a schedule that changes it calls for no new capture
        state["step"].add_(1)
        (shrink, grow), (least, most) = group["etas"], group["step_sizes"]
        agreement = g * before
        turned = agreement < 0
        factor = ops.where(agreement > 0, grow, ops.where(turned, shrink, 1.0))
        size.copy_(ops.clamp(size * factor.to(size.dtype), least, most))
        g = ops.where(turned, 0.0, g)  # a turn costs a step, and the sign starts anew
        parameter.copy_(parameter - ops.sign(g) * size)
        before.copy_(g)


class Adafactor(Optimizer):
    """Adam with second moments kept as rows and columns. Shazeer and Stern (2018)."""

    def __init__(
        self, params: Any, lr: float = 1e-2, beta2_decay: float = -0.8, eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0, weight_decay: float = 0.0, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        check(
            "Adafactor", lr=(lr, 0, math.inf), beta2_decay=(beta2_decay, -math.inf, 0), eps1=(eps[0] or 0.0, 0, math.inf),
            eps2=(eps[1], 0, math.inf), d=(d, 1, math.inf), weight_decay=(weight_decay, 0, math.inf),
        )  # fmt: skip
        settings = {"lr": lr, "beta2_decay": beta2_decay, "eps": tuple(eps), "d": d, "weight_decay": weight_decay}
        super().__init__(params, settings | {"maximize": maximize})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        if parameter.ndim < 2:
            return {"step": counter(), **zeros_for(parameter, ["variance"])}
        rows, columns = (*parameter.shape[:-1], 1), (*parameter.shape[:-2], 1, parameter.shape[-1])
        sizes = {"row_var": rows, "col_var": columns}
        return {"step": counter(), **{k: ops.zeros(s, dtype=parameter.dtype) for k, s in sizes.items()}}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = -gradient if group["maximize"] else gradient
        step, lr = state["step"], group.tensor("lr")
        step.add_(1)
        least = ops.finfo(parameter.dtype).eps if group["eps"][0] is None else group["eps"][0]
        fresh = ops.pow(step.to(dtypes.float64), group["beta2_decay"])
        root = math.sqrt(parameter.numel())
        rate = ops.clamp(ops.norm(parameter) / root, min=group["eps"][1]) * ops.minimum(lr, 1 / ops.sqrt(step))
        value = parameter * (1 - lr * group.tensor("weight_decay")) if group["weight_decay"] else parameter
        squares = g * g
        if parameter.ndim > 1:
            row, column = state["row_var"], state["col_var"]
            row.copy_(row + (ops.mean(squares, -1, keepdim=True) - row) * fresh)
            column.copy_(column + (ops.mean(squares, -2, keepdim=True) - column) * fresh)
            estimate = ops.matmul(row, column) / ops.clamp(ops.mean(row, -2, keepdim=True), min=least)
        else:
            variance = state["variance"]
            variance.copy_(variance + (squares - variance) * fresh)
            estimate = variance
        move = g * ops.rsqrt(ops.clamp(estimate, min=least * least))
        size = ops.clamp(ops.norm(move) / (root * group["d"]), min=1.0)
        parameter.copy_(value - move * (rate / size))


class Muon(Optimizer):
    """Momentum made orthogonal by Newton and Schulz's iteration, for matrices only. Jordan et al. (2024).

    The iteration runs in bfloat16, as PyTorch's does.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315), eps: float = 1e-7, ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:  # fmt: skip
        check("Muon", lr=(lr, 0, math.inf), momentum=(momentum, 0, math.inf), weight_decay=(weight_decay, 0, math.inf))
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Muon: adjust_lr_fn {adjust_lr_fn!r} is not supported")
        if len(ns_coefficients) != 3 or not 0 <= ns_steps < 100:
            raise ValueError("Muon: expected 3 ns_coefficients and fewer than 100 ns_steps")
        settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        settings |= {"ns_coefficients": tuple(ns_coefficients), "eps": eps, "ns_steps": ns_steps}
        super().__init__(params, settings | {"adjust_lr_fn": adjust_lr_fn})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"Muon only supports 2D parameters whereas we found a parameter with size: {p.shape}")

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return zeros_for(parameter, ["momentum_buffer"])

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        lr, momentum, buffer = group.tensor("lr"), group.tensor("momentum"), state["momentum_buffer"]
        buffer.copy_(buffer + (gradient - buffer) * (1 - momentum))
        move = gradient + (buffer - gradient) * momentum if group["nesterov"] else buffer
        move = _orthogonal(move, group["ns_coefficients"], group["ns_steps"], group["eps"]).to(parameter.dtype)
        rows, columns = parameter.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            ratio = 0.2 * math.sqrt(max(rows, columns))
        else:
            ratio = math.sqrt(max(1, rows / columns))
        parameter.copy_(parameter * (1 - lr * group.tensor("weight_decay")) - move * (lr * ratio))


def _orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """About U Vᵀ of the singular value decomposition."""
    a, b, c = coefficients
    high = x.shape[0] > x.shape[1]
    y = x.to(dtypes.bfloat16)
    y = y.T if high else y
    y = y / ops.clamp(ops.norm(y), min=eps)
    for _ in range(steps):
        gram = ops.matmul(y, y.T)
        y = ops.addmm(y, ops.addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.T if high else y


class Lion(Optimizer):
    """Steps by the sign of an interpolated momentum, with decoupled weight decay; wants about a tenth of Adam's rate.
    Chen et al., Symbolic discovery of optimization algorithms (2023).

    >>> opt = fp.optim.Lion([nn.Parameter(fp.ones(3))], lr=1e-4)
    """

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0
    ) -> None:
        _beta_check("Lion", lr, betas, 0, weight_decay)
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return zeros_for(parameter, ["exp_avg"])

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        beta1, beta2 = group.tensor("betas.0"), group.tensor("betas.1")
        lr, average = group.tensor("lr"), state["exp_avg"]
        value = parameter * (1 - lr * group.tensor("weight_decay")) if group["weight_decay"] else parameter
        parameter.copy_(value - ops.sign(average * beta1 + gradient * (1 - beta1)) * lr)
        average.copy_(average * beta2 + gradient * (1 - beta2))


class LAMB(Optimizer):
    """Adam whose step is scaled, for each parameter, by ‖θ‖ over the step's norm. You et al., Large batch optimization
    for deep learning (2019).

    >>> opt = fp.optim.LAMB([nn.Parameter(fp.ones(3))], lr=1e-3)
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0,
    ) -> None:  # fmt: skip
        _beta_check("LAMB", lr, betas, eps, weight_decay)
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), **zeros_for(parameter, ["exp_avg", "exp_avg_sq"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        beta1, beta2 = group.tensor("betas.0"), group.tensor("betas.1")
        step, first, second = state["step"], state["exp_avg"], state["exp_avg_sq"]
        step.add_(1)
        first.copy_(first + (gradient - first) * (1 - beta1))
        second.copy_(second * beta2 + gradient * gradient * (1 - beta2))
        corrected = ops.sqrt(second / (1 - ops.pow(beta2, step))) + group["eps"]
        move = first / (1 - ops.pow(beta1, step)) / corrected
        if group["weight_decay"]:
            move = move + parameter * group.tensor("weight_decay")
        size, length = ops.norm(parameter), ops.norm(move)
        ratio = ops.where(ops.logical_and(size > 0, length > 0), size / ops.clamp(length, min=1e-38), 1.0)
        parameter.copy_(parameter - move * (ratio * group.tensor("lr")))
