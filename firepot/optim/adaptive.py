"""Optimisers that scale each element's step by the gradients seen so far."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.optim.optimizer import Group, Optimizer, check, counter, zeros_for
from firepot.tensor import Tensor

_MOST = 1.0 - 1e-12


def _beta_check(what: str, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    check(
        what, lr=(lr, 0, math.inf), eps=(eps, 0, math.inf), beta1=(betas[0], 0, _MOST), beta2=(betas[1], 0, _MOST),
        weight_decay=(weight_decay, 0, math.inf),
    )  # fmt: skip


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
        weight_decay: float = 0, momentum_decay: float = 4e-3,
    ) -> None:  # fmt: skip
        _beta_check("NAdam", lr, betas, eps, weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
            },
        )

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), "mu_product": ops.tensor(1.0), **zeros_for(parameter, ["exp_avg", "exp_avg_sq"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = gradient
        if group["weight_decay"]:
            g = g + parameter * group.tensor("weight_decay")
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
        parameter.copy_(parameter - (own + ahead) / denominator)


class Adamax(Optimizer):
    """Adam by the infinity norm. Kingma and Ba (2014)."""

    def __init__(
        self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0,
    ) -> None:  # fmt: skip
        _beta_check("Adamax", lr, betas, eps, weight_decay)
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), **zeros_for(parameter, ["exp_avg", "exp_inf"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = gradient
        if group["weight_decay"]:
            g = g + parameter * group.tensor("weight_decay")
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
        self, params: Any, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0
    ) -> None:
        check(
            "Adadelta",
            lr=(lr, 0, math.inf),
            rho=(rho, 0, 1),
            eps=(eps, 0, math.inf),
            weight_decay=(weight_decay, 0, math.inf),
        )
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), **zeros_for(parameter, ["square_avg", "acc_delta"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = gradient
        if group["weight_decay"]:
            g = g + parameter * group.tensor("weight_decay")
        rho, eps, square, moved = group["rho"], group["eps"], state["square_avg"], state["acc_delta"]
        state["step"].add_(1)
        square.copy_(square * rho + g * g * (1 - rho))
        delta = ops.sqrt(moved + eps) / ops.sqrt(square + eps) * g
        moved.copy_(moved * rho + delta * delta * (1 - rho))
        parameter.copy_(parameter - delta * group.tensor("lr"))


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
