"""Dropout. Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting (2014)."""

from __future__ import annotations

import math

from firepot import ops
from firepot.tensor import Tensor

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 − p), in training only.

    The mask is recomputed from the random counter in the backward pass, never stored. ValueError for p outside 0 … 1.

    >>> F.dropout(fp.ones(3), 0.5, training=False)
    tensor([1., 1., 1.])
    """
    return _dropped(input, input.shape, p, training, inplace)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of (N, C, L) or (C, L)."""
    return _dropped(input, (*input.shape[:-1], 1), p, training, inplace)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of (N, C, H, W) or (C, H, W)."""
    return _dropped(input, (*input.shape[:-2], 1, 1), p, training, inplace)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    return _dropped(input, (*input.shape[:-3], 1, 1, 1), p, training, inplace)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps the mean and variance of selu's results. Klambauer et al. (2017)."""
    return _alpha(input, input.shape, p, training, inplace)


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """alpha_dropout of whole channels of (N, C, *)."""
    if input.ndim < 2 and training:
        raise RuntimeError(f"feature_alpha_dropout: expected an input (N, C, …), got {list(input.shape)}")
    return _alpha(input, (*input.shape[:2], *[1] * max(input.ndim - 2, 0)), p, training, inplace)


def _alpha(input: Tensor, mask_shape: tuple[int, ...], p: float, training: bool, inplace: bool) -> Tensor:
    _check(p)
    if not training or p == 0:
        return input
    saturation = -1.7580993408473766
    scale = 1 / math.sqrt((1 - p) * (1 + p * saturation**2)) if p < 1 else 0.0
    kept = ops.where(ops.dropout_mask(mask_shape, p), input, saturation)
    result = kept * scale - scale * p * saturation
    return input._rebind(result._node) if inplace else result


def _dropped(input: Tensor, mask_shape: tuple[int, ...], p: float, training: bool, inplace: bool) -> Tensor:
    _check(p)
    if not training or p == 0:
        return input
    if p == 1:
        result = input * 0
    else:
        result = ops.where(ops.dropout_mask(mask_shape, p), input * (1 / (1 - p)), 0.0)
    return input._rebind(result._node) if inplace else result


def _check(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: the probability must lie between 0 and 1, got {p}")
