"""Layers that learn their input's size from the first input, or from a state that is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from firepot.graph.dtypes import DType
from firepot.nn.layers import convolution, linear, normalisation
from firepot.nn.module import Module
from firepot.tensor import Tensor

__all__ = [
    "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d", "LazyConv1d", "LazyConv2d", "LazyConv3d",
    "LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d", "LazyInstanceNorm1d", "LazyInstanceNorm2d",
    "LazyInstanceNorm3d", "LazyLinear",
]  # fmt: skip


class _Lazy(Module):
    """Holds the constructor's arguments until the size is known; then becomes an ordinary layer."""

    becomes: Any  # the class of the ordinary layer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._arguments = args, dict(kwargs)

    def _become(self, size: int) -> None:
        args, kwargs = self._arguments
        made = self.becomes(size, *args, **kwargs)
        state = {k: v for k, v in made.__dict__.items() if k not in ("_forward_hooks", "_forward_pre_hooks", "_training")}
        self.__dict__.pop("_arguments")
        self.__dict__.update(state)
        self.__class__ = self.becomes

    def _size_of(self, input: Tensor) -> int:
        raise NotImplementedError

    def _size_in(self, state: Mapping[str, Any], prefix: str) -> int | None:
        """The size that a state has, or None."""
        found = state.get(prefix + "weight")
        return None if found is None else int(found.shape[1])

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._become(self._size_of(input))
        return self.forward(input, *args, **kwargs)

    def _before_loading(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        size = self._size_in(state_dict, prefix)
        if size is not None:
            self._become(size)

    def _dtype_asked(self, dtype: DType) -> None:
        self._arguments[1]["dtype"] = dtype


class LazyLinear(_Lazy):
    """Linear with in_features from the first input's last size."""

    becomes = linear.Linear

    def _size_of(self, input: Tensor) -> int:
        return input.shape[-1]


class _LazyConv(_Lazy):
    becomes: type[convolution._Conv]

    def _size_of(self, input: Tensor) -> int:
        rank = self.becomes.rank
        if input.ndim not in (rank + 1, rank + 2):
            raise RuntimeError(
                f"{type(self).__name__}: expected an input of {rank + 1} or {rank + 2} dimensions, got {list(input.shape)}"
            )
        return input.shape[-rank - 1]

    def _size_in(self, state: Mapping[str, Any], prefix: str) -> int | None:
        found = state.get(prefix + "weight")
        if found is None:
            return None
        if self.becomes.transposed:
            return int(found.shape[0])
        args, kwargs = self._arguments
        return int(found.shape[1]) * int(kwargs.get("groups", args[5] if len(args) > 5 else 1))


class LazyConv1d(_LazyConv):
    """Conv1d with in_channels from the first input."""

    becomes = convolution.Conv1d


class LazyConv2d(_LazyConv):
    """Conv2d with in_channels from the first input."""

    becomes = convolution.Conv2d


class LazyConv3d(_LazyConv):
    """Conv3d with in_channels from the first input."""

    becomes = convolution.Conv3d


class LazyConvTranspose1d(_LazyConv):
    """ConvTranspose1d with in_channels from the first input."""

    becomes = convolution.ConvTranspose1d


class LazyConvTranspose2d(_LazyConv):
    """ConvTranspose2d with in_channels from the first input."""

    becomes = convolution.ConvTranspose2d


class LazyConvTranspose3d(_LazyConv):
    """ConvTranspose3d with in_channels from the first input."""

    becomes = convolution.ConvTranspose3d


class _LazyNorm(_Lazy):
    becomes: type[normalisation._StatisticsNorm]

    def _size_of(self, input: Tensor) -> int:
        # Instance normalisation takes an input without a batch too: its channels come first then.
        dimensions = self.becomes.dimensions
        batched = input.ndim == max(dimensions) or issubclass(self.becomes, normalisation._BatchNorm)
        return input.shape[1 if batched else 0]

    def _size_in(self, state: Mapping[str, Any], prefix: str) -> int | None:
        for name in ("weight", "running_mean"):
            if prefix + name in state:
                return int(state[prefix + name].shape[0])
        return None


class LazyBatchNorm1d(_LazyNorm):
    """BatchNorm1d with num_features from the first input."""

    becomes = normalisation.BatchNorm1d


class LazyBatchNorm2d(_LazyNorm):
    """BatchNorm2d with num_features from the first input."""

    becomes = normalisation.BatchNorm2d


class LazyBatchNorm3d(_LazyNorm):
    """BatchNorm3d with num_features from the first input."""

    becomes = normalisation.BatchNorm3d


class LazyInstanceNorm1d(_LazyNorm):
    """InstanceNorm1d with num_features from the first input."""

    becomes = normalisation.InstanceNorm1d


class LazyInstanceNorm2d(_LazyNorm):
    """InstanceNorm2d with num_features from the first input."""

    becomes = normalisation.InstanceNorm2d


class LazyInstanceNorm3d(_LazyNorm):
    """InstanceNorm3d with num_features from the first input."""

    becomes = normalisation.InstanceNorm3d
