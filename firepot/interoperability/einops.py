"""einops over Firepot's tensors, and its layers as modules.

Importing this module makes `einops.rearrange`, `reduce`, `repeat`, `einsum`, `pack`, `unpack` and `parse_shape` take
tensors: differentiable, and under the transforms and `fp.jit` like any other operation. `Rearrange`, `Reduce` and
`EinMix` are what `einops.layers.torch` has.

    import einops
    import firepot.interoperability.einops

    einops.rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=16, q=16)

einops has to be installed (`pip install einops`); nothing else of Firepot needs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import layers
from einops._backends import AbstractBackend
from einops.layers._einmix import _EinmixMixin

from firepot import ops
from firepot.graph import dtypes
from firepot.nn.module import Module, Parameter
from firepot.tensor import Tensor

__all__ = ["Backend", "EinMix", "Rearrange", "Reduce"]


class Backend(AbstractBackend):
    """Firepot as einops asks for it. einops finds it among the subclasses."""

    framework_name = "firepot"

    def is_appropriate_type(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor)

    def from_numpy(self, x: np.ndarray[Any, Any]) -> Tensor:
        """A tensor that requires grad where it is floating point, as einops' backend of PyTorch gives."""
        tensor = ops.from_numpy(x)
        return tensor.requires_grad_() if self.is_float_type(tensor) else tensor

    def to_numpy(self, x: Tensor) -> np.ndarray[Any, Any]:
        return x.detach().numpy()

    def arange(self, start: int, stop: int) -> Tensor:
        return ops.arange(start, stop, dtype=dtypes.int64)

    def transpose(self, x: Tensor, axes: Any) -> Tensor:
        return ops.permute(x, axes)

    def reduce(self, x: Tensor, operation: str, axes: Any) -> Tensor:
        axes = tuple(axes)
        if operation == "prod":
            for axis in sorted(axes, reverse=True):
                x = ops.prod(x, axis)
            return x
        named = {"min": ops.amin, "max": ops.amax, "sum": ops.sum, "mean": ops.mean, "any": ops.any, "all": ops.all}
        if operation not in named:
            raise NotImplementedError(f"Unknown reduction {operation!r}; there are prod, {', '.join(named)}")
        return named[operation](x, axes) if axes else x

    def stack_on_zeroth_dimension(self, tensors: list[Tensor]) -> Tensor:
        return ops.stack(tensors)

    def add_axis(self, x: Tensor, new_position: int) -> Tensor:
        return ops.unsqueeze(x, new_position)

    def add_axes(self, x: Tensor, n_axes: int, pos2len: dict[int, int]) -> Tensor:
        sizes = [-1] * n_axes
        for position, length in pos2len.items():
            x = ops.unsqueeze(x, position)
            sizes[position] = length
        return ops.expand(x, sizes)

    def tile(self, x: Tensor, repeats: Any) -> Tensor:
        return ops.tile(x, repeats)

    def concat(self, tensors: list[Tensor], axis: int) -> Tensor:
        return ops.cat(tensors, axis)

    def is_float_type(self, x: Tensor) -> bool:
        return x.dtype.is_floating_point

    def einsum(self, pattern: str, *x: Tensor) -> Tensor:
        return ops.einsum(pattern, *x)

    def layers(self) -> Any:
        import firepot.interoperability.einops as module

        return module


class Rearrange(layers.RearrangeMixin, Module):
    """einops.rearrange as a module.

    Args:
        pattern: of einops.
        axes_lengths: sizes of axes that the input's shape does not decide.

    Raises einops.EinopsError for a bad pattern, when made, and for an input that it does not fit.

    >>> Rearrange("b c h w -> b (c h w)")(fp.zeros(2, 3, 4, 5)).shape
    (2, 60)
    """

    def forward(self, input: Tensor) -> Tensor:
        return self._apply_recipe(input)


class Reduce(layers.ReduceMixin, Module):
    """einops.reduce as a module.

    Args:
        pattern: of einops.
        reduction: 'min', 'max', 'sum', 'mean', 'prod', 'any' or 'all'.
        axes_lengths: sizes of axes that the input's shape does not decide.

    Raises einops.EinopsError for a bad pattern, when made, and for an input that it does not fit.

    >>> Reduce("b c (h 2) (w 2) -> b c h w", "max")(fp.zeros(2, 3, 4, 6)).shape
    (2, 3, 2, 3)
    """

    def forward(self, input: Tensor) -> Tensor:
        return self._apply_recipe(input)


class EinMix(_EinmixMixin, Module):
    """A linear layer over any axes, written as einops writes products: einops.layers.torch.EinMix.

    Args:
        pattern: from the input's axes to the result's; axes in parentheses are taken apart and put together.
        weight_shape: the axes of the weight.
        bias_shape: the axes of the bias; None for no bias.
        axes_lengths: the sizes of the weight's axes.

    State: weight, bias. Both start uniform within bounds that keep the variance (He et al., 2015).

    Raises einops.EinopsError for a bad pattern.

    >>> EinMix("b t (head c) -> b t head d", "head c d", head=2, c=4, d=5)(fp.zeros(1, 3, 8)).shape
    (1, 3, 2, 5)
    """

    def _create_parameters(self, weight_shape: Any, weight_bound: float, bias_shape: Any, bias_bound: float) -> None:
        self.weight = Parameter(ops.zeros(*weight_shape).uniform_(-weight_bound, weight_bound))
        self.bias = None
        if bias_shape is not None:
            self.bias = Parameter(ops.zeros(*bias_shape).uniform_(-bias_bound, bias_bound))

    def _create_rearrange_layers(
        self, pre_reshape_pattern: str | None, pre_reshape_lengths: dict[str, int] | None,
        post_reshape_pattern: str | None, post_reshape_lengths: dict[str, int] | None,
    ) -> None:  # fmt: skip
        self.pre_rearrange = _rearranged(pre_reshape_pattern, pre_reshape_lengths)
        self.post_rearrange = _rearranged(post_reshape_pattern, post_reshape_lengths)

    def forward(self, input: Tensor) -> Tensor:
        x = input if self.pre_rearrange is None else self.pre_rearrange(input)
        x = ops.einsum(self.einsum_pattern, x, self.weight)
        if self.bias is not None:
            x = x + self.bias
        return x if self.post_rearrange is None else self.post_rearrange(x)


def _rearranged(pattern: str | None, lengths: dict[str, int] | None) -> Rearrange | None:
    return None if pattern is None else Rearrange(pattern, **(lengths or {}))  # type: ignore[call-arg, unused-ignore]
