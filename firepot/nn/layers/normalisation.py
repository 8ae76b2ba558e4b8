"""Normalisation layers."""

from __future__ import annotations

from typing import Any

from firepot import ops
from firepot.grad_mode import no_grad
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.nn import functional as F
from firepot.nn import init
from firepot.nn.module import Module, Parameter
from firepot.tensor import Tensor

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "CrossMapLRN2d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
    "SyncBatchNorm",
]  # fmt: skip


class _StatisticsNorm(Module):
    """Affine parameters and running statistics of C channels."""

    dimensions: tuple[int, ...]

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool,
        dtype: DType | None, bias: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(ops.ones(num_features, dtype=dtype)) if affine else None
        self.bias = Parameter(ops.zeros(num_features, dtype=dtype)) if affine and bias else None
        tracked = track_running_stats
        self.register_buffer("running_mean", ops.zeros(num_features, dtype=dtype) if tracked else None)
        self.register_buffer("running_var", ops.ones(num_features, dtype=dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", ops.tensor(0, dtype=dtypes.int64) if tracked else None)

    def reset_running_stats(self) -> None:
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1.0)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        if self.affine:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check(self, input: Tensor) -> None:
        if input.ndim not in self.dimensions:
            wanted = " or ".join(f"{d}D" for d in self.dimensions)
            raise ValueError(f"{type(self).__name__}: expected {wanted} input, got {list(input.shape)}")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_StatisticsNorm):
    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: DType | None = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        momentum: Any = self.momentum if self.momentum is not None else 0.0
        if self.training and self.track_running_stats:
            with no_grad():
                self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the average over all batches so far
                momentum = 1.0 / self.num_batches_tracked.to(dtypes.float32)
        by_batch = self.training or self.running_mean is None
        tracks = not self.training or self.track_running_stats
        return F.batch_norm(
            input, self.running_mean if tracks else None, self.running_var if tracks else None, self.weight, self.bias,
            by_batch, momentum, self.eps,
        )  # fmt: skip


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L); see BatchNorm2d.

    >>> nn.BatchNorm1d(4)(fp.randn(8, 4)).shape
    (8, 4)
    """

    dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Each channel of (N, C, H, W) centred and scaled: weight · (x − mean) / √(var + eps) + bias.

    In training by the batch's mean and variance, which move the running ones by `momentum` (None: their average over
    all batches); after `eval()` by the running ones. State: weight, bias, running_mean, running_var (C,) and
    num_batches_tracked. ValueError for another number of dimensions. Ioffe and Szegedy (2015).

    >>> layer = nn.BatchNorm2d(3)
    >>> layer(fp.randn(8, 3, 4, 4)).shape, layer.num_batches_tracked
    ((8, 3, 4, 4), tensor(1))
    """

    dimensions = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of (N, C, D, H, W); see BatchNorm2d."""

    dimensions = (5,)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation of (N, C, *) over all processes of a group; in one process, of its own batch."""

    dimensions = (2, 3, 4, 5)

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, process_group: Any = None, device: Any = None, dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """The module with its batch normalisations as SyncBatchNorm, which take over parameters and statistics."""
        if isinstance(module, _BatchNorm) and not isinstance(module, cls):
            made = cls(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
            made._parameters.update(module._parameters)
            made._buffers.update(module._buffers)
            made.train(module._training)
            return made
        for name, child in list(module.named_children()):
            module.register_module(name, cls.convert_sync_batchnorm(child, process_group))
        return module


class _InstanceNorm(_StatisticsNorm):
    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
        track_running_stats: bool = False, device: Any = None, dtype: DType | None = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        batched = input if input.ndim == self.dimensions[-1] else input.unsqueeze(0)
        result = F.instance_norm(
            batched, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, self.momentum or 0.0, self.eps,
        )  # fmt: skip
        return result if batched is input else result.squeeze(0)


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (N, C, L)."""

    dimensions = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (N, C, H, W)."""

    dimensions = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of (N, C, D, H, W)."""

    dimensions = (4, 5)


class LayerNorm(Module):
    """The last dimensions, of shape normalized_shape, centred and scaled together, sample by sample.

    State: weight and bias of that shape, unless elementwise_affine (or bias) is False. RuntimeError where the input's
    last sizes differ. Ba et al. (2016).

    >>> nn.LayerNorm(64)(fp.randn(8, 10, 64)).shape
    (8, 10, 64)
    """

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True,
        device: Any = None, dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = Parameter(ops.ones(self.normalized_shape, dtype=dtype)) if elementwise_affine else None
        self.bias = Parameter(ops.zeros(self.normalized_shape, dtype=dtype)) if elementwise_affine and bias else None

    def reset_parameters(self) -> None:
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Module):
    """The last dimensions, of shape normalized_shape, divided by their root mean square. State: weight of that shape.

    eps None is the epsilon of the input's dtype. Zhang and Sennrich (2019).

    >>> nn.RMSNorm(2, eps=0.0)(fp.tensor([[3.0, 3.0]]))
    tensor([[1., 1.]], grad_fn=<MulBackward>)
    """

    def __init__(
        self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True, device: Any = None,
        dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = Parameter(ops.ones(self.normalized_shape, dtype=dtype)) if elementwise_affine else None

    def reset_parameters(self) -> None:
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """num_groups groups of channels of each sample of (N, C, *) centred and scaled. State: weight, bias (C,).

    ValueError where num_groups does not divide the channels. Wu and He (2018).

    >>> nn.GroupNorm(2, 6)(fp.randn(4, 6, 5, 5)).shape
    (4, 6, 5, 5)
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device: Any = None,
        dtype: DType | None = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_channels {num_channels} must be divisible by num_groups {num_groups}")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.weight = Parameter(ops.ones(num_channels, dtype=dtype)) if affine else None
        self.bias = Parameter(ops.zeros(num_channels, dtype=dtype)) if affine and bias else None

    def reset_parameters(self) -> None:
        if self.affine:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class LocalResponseNorm(Module):
    """x / (k + alpha · mean of neighbouring channels' squares)^beta. Krizhevsky et al. (2012)."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class CrossMapLRN2d(LocalResponseNorm):
    """LocalResponseNorm of (N, C, H, W), by its older name."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__(size, alpha, beta, k)
