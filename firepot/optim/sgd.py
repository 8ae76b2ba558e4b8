"""Stochastic gradient descent."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.optim.optimizer import Group, Optimizer, check
from firepot.tensor import Tensor


class SGD(Optimizer):
    """Gradient descent with momentum: b ← momentum · b + g, θ ← θ − lr · b. Nesterov's form after Sutskever et al.
    (2013).

    weight_decay adds that multiple of θ to g. ValueError for settings out of range.

    >>> model = nn.Linear(3, 1)
    >>> opt = fp.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    >>> model(fp.ones(2, 3)).sum().backward()
    >>> opt.step()
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, momentum: float = 0, dampening: float = 0, weight_decay: float = 0,
        nesterov: bool = False, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        check("SGD", lr=(lr, 0, math.inf), momentum=(momentum, 0, math.inf), weight_decay=(weight_decay, 0, math.inf))
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        settings = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, settings | {"nesterov": nesterov, "maximize": maximize})

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        if not group["momentum"]:
            return {}
        # The first momentum is the gradient itself: zeros behind a flag, so that one program serves all steps.
        return {"momentum_buffer": ops.zeros_like(parameter.detach()), "started": ops.tensor(0.0)}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = -gradient if group["maximize"] else gradient
        if group["weight_decay"]:
            g = g + parameter * group.tensor("weight_decay")
        if group["momentum"]:
            momentum, kept = group.tensor("momentum"), 1 - group.tensor("dampening")
            buffer = state["momentum_buffer"]
            if group["dampening"]:
                started = state["started"]
                buffer.copy_(buffer * momentum + g * ops.where(started > 0, kept, 1.0))
                started.copy_(ops.ones_like(started))
            else:
                buffer.copy_(buffer * momentum + g)
            g = g + buffer * momentum if group["nesterov"] else buffer
        parameter.copy_(parameter - g * group.tensor("lr"))
