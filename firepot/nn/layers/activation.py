"""Activation layers."""

from __future__ import annotations

from typing import Any

from firepot import ops
from firepot.graph.dtypes import DType
from firepot.nn import functional as F
from firepot.nn.module import Module, Parameter
from firepot.tensor import Tensor

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]  # fmt: skip


class _Activation(Module):
    """A module around a function, whose constructor's arguments are the function's."""

    function: Any
    names: tuple[str, ...] = ()
    defaults: tuple[Any, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        name = type(self).__name__
        if len(args) > len(self.names):
            raise TypeError(f"{name} takes at most {len(self.names)} arguments {list(self.names)}, got {len(args)}")
        given = dict(zip(self.names, args, strict=False))
        for key, value in kwargs.items():
            if key not in self.names or key in given:
                raise TypeError(f"{name}: unexpected argument {key!r}; it takes {list(self.names)}")
            given[key] = value
        required = self.names[: len(self.names) - len(self.defaults)]
        if missing := [n for n in required if n not in given]:
            raise TypeError(f"{name}: missing arguments {missing}")
        values = dict(zip(self.names[len(required) :], self.defaults, strict=True)) | given
        self.names = tuple(n for n in self.names if n in values)
        for key in self.names:
            object.__setattr__(self, key, values[key])

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = type(self).function(input, **{n: getattr(self, n) for n in self.names})
        return result

    def extra_repr(self) -> str:
        shown = [n for n in self.names if n != "inplace"]
        parts = [f"{n}={getattr(self, n)!r}" for n in shown]
        return ", ".join(parts + (["inplace=True"] if getattr(self, "inplace", False) else []))


class ReLU(_Activation):
    """max(0, x), element by element.

    >>> nn.ReLU()(fp.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    names, defaults = ("inplace",), (False,)

    def forward(self, input: Tensor) -> Tensor:
        result = F.relu(input)
        return input._rebind(result._node) if self.inplace else result


class ReLU6(_Activation):
    """min(max(0, x), 6)."""

    function, names, defaults = staticmethod(F.relu6), ("inplace",), (False,)


class Hardtanh(_Activation):
    """x limited to min_val … max_val."""

    function, names, defaults = staticmethod(F.hardtanh), ("min_val", "max_val", "inplace"), (-1.0, 1.0, False)


class LeakyReLU(_Activation):
    """x where positive, negative_slope · x elsewhere."""

    function, names, defaults = staticmethod(F.leaky_relu), ("negative_slope", "inplace"), (0.01, False)


class ELU(_Activation):
    """x where positive, alpha · (exp(x) − 1) elsewhere."""

    function, names, defaults = staticmethod(F.elu), ("alpha", "inplace"), (1.0, False)


class SELU(_Activation):
    """Klambauer et al. (2017)."""

    function, names, defaults = staticmethod(F.selu), ("inplace",), (False,)


class CELU(_Activation):
    """max(0, x) + min(0, alpha · (exp(x / alpha) − 1))."""

    function, names, defaults = staticmethod(F.celu), ("alpha", "inplace"), (1.0, False)


class GELU(_Activation):
    """x · Φ(x) with the normal distribution function; approximate="tanh" is the usual approximation. Hendrycks and
    Gimpel (2016).

    >>> nn.GELU()(fp.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1587,  0.0000,  0.8413])
    """

    function, names, defaults = staticmethod(F.gelu), ("approximate",), ("none",)


class SiLU(_Activation):
    """x · sigmoid(x)."""

    function, names, defaults = staticmethod(F.silu), ("inplace",), (False,)


class Mish(_Activation):
    """x · tanh(softplus(x))."""

    function, names, defaults = staticmethod(F.mish), ("inplace",), (False,)


class Sigmoid(_Activation):
    """1 / (1 + exp(−x))."""

    function = staticmethod(F.sigmoid)


class Tanh(_Activation):
    """The hyperbolic tangent."""

    function = staticmethod(F.tanh)


class LogSigmoid(_Activation):
    """log(sigmoid(x))."""

    function = staticmethod(F.logsigmoid)


class Softplus(_Activation):
    """log(1 + exp(beta · x)) / beta."""

    function, names, defaults = staticmethod(F.softplus), ("beta", "threshold"), (1.0, 20.0)


class Softsign(_Activation):
    """x / (1 + |x|)."""

    function = staticmethod(F.softsign)


class Softshrink(_Activation):
    """x moved towards zero by lambd."""

    function, names, defaults = staticmethod(F.softshrink), ("lambd",), (0.5,)


class Hardshrink(_Activation):
    """x outside ±lambd, zero within."""

    function, names, defaults = staticmethod(F.hardshrink), ("lambd",), (0.5,)


class Tanhshrink(_Activation):
    """x − tanh(x)."""

    function = staticmethod(F.tanhshrink)


class Threshold(_Activation):
    """x above the threshold, `value` elsewhere."""

    function, names, defaults = staticmethod(F.threshold), ("threshold", "value", "inplace"), (False,)


class Hardsigmoid(_Activation):
    """x / 6 + 1 / 2, limited to 0 … 1."""

    function, names, defaults = staticmethod(F.hardsigmoid), ("inplace",), (False,)


class Hardswish(_Activation):
    """x · hardsigmoid(x)."""

    function, names, defaults = staticmethod(F.hardswish), ("inplace",), (False,)


class GLU(_Activation):
    """a · sigmoid(b) for the two halves of a dimension."""

    function, names, defaults = staticmethod(F.glu), ("dim",), (-1,)


class Softmax(_Activation):
    """exp(x) / Σ exp(x) along `dim`, without overflow.

    >>> nn.Softmax(dim=1)(fp.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    function, names, defaults = staticmethod(F.softmax), ("dim",), (None,)


class Softmin(_Activation):
    """softmax(−x)."""

    function, names, defaults = staticmethod(F.softmin), ("dim",), (None,)


class LogSoftmax(_Activation):
    """x − log Σ exp(x) along `dim`, without overflow."""

    function, names, defaults = staticmethod(F.log_softmax), ("dim",), (None,)


class Softmax2d(Module):
    """Softmax over the channels of (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected 3D or 4D input, got {list(input.shape)}")
        return F.softmax(input, -3)


class RReLU(Module):
    """leaky_relu whose slope is drawn for each element in training."""

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower, self.upper, self.inplace = lower, upper, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"


class PReLU(Module):
    """leaky_relu with learned slopes. He et al. (2015). State: weight (num_parameters,)."""

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: DType | None = None
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = Parameter(ops.full((num_parameters,), init, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
