"""Adam for parameters of which a step uses few rows."""

from __future__ import annotations

from typing import Any

from firepot import ops
from firepot.optim.optimizer import Group, Optimizer, check, counter, zeros_for
from firepot.tensor import Tensor


class SparseAdam(Optimizer):
    """Adam that leaves a parameter's rows, and their moments, as they are where a step's gradient is zero.

    For embeddings, of which a batch reads few rows: Adam moves all others too, by their momenta. PyTorch's needs sparse
    gradients; Firepot has none, and takes the rows that have a number other than zero. ValueError for settings out of
    range. Kingma and Ba, Adam: a method for stochastic optimization (2014).

    >>> table = nn.Embedding(1000, 8)
    >>> opt = fp.optim.SparseAdam(table.parameters(), lr=1e-2)
    >>> table(fp.tensor([3, 5])).sum().backward()
    >>> opt.step()  # rows 3 and 5 have changed
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:  # fmt: skip
        check("SparseAdam", lr=(lr, _LEAST, float("inf")), eps=(eps, _LEAST, float("inf")))
        check("SparseAdam", beta1=(betas[0], 0, 1 - 1e-12), beta2=(betas[1], 0, 1 - 1e-12))
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "maximize": maximize})
        if any(p.dtype.is_complex for group in self.param_groups for p in group["params"]):
            raise ValueError("SparseAdam: complex parameters are not supported")

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"step": counter(), **zeros_for(parameter, ["exp_avg", "exp_avg_sq"])}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        g = -gradient if group["maximize"] else gradient
        beta1, beta2 = group.tensor("betas.0"), group.tensor("betas.1")
        step = state["step"]
        step.add_(1)
        used = ops.amax(g != 0, tuple(range(1, g.ndim)), keepdim=True) if g.ndim > 1 else g != 0
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.copy_(ops.where(used, first + (g - first) * (1 - beta1), first))
        second.copy_(ops.where(used, second + (g * g - second) * (1 - beta2), second))
        size = group.tensor("lr") * ops.sqrt(1 - ops.pow(beta2, step)) / (1 - ops.pow(beta1, step))
        parameter.copy_(ops.where(used, parameter - first / (ops.sqrt(second) + group["eps"]) * size, parameter))


_LEAST = 5e-324  # the smallest number above zero
