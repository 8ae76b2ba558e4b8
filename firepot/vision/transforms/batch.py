"""Transforms of a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from firepot.data.collate import to_tensors
from firepot.data.randomness import generator_of

Array = np.ndarray[Any, Any]


class Augment:
    """Random shifts and flips, and normalisation, of uint8 images (N, H, W, C) to float32 (N, C, H, W).

    Each image is padded by `padding` pixels, a random part of the old size is cut out, and it is mirrored
    with probability one half if `flip`; then (x / 255 - mean) / std. With padding=0 and flip=False it only
    normalises, as for testing. Meant for `ImageArrays(..., batch_transform=Augment(...))`: for a batch of
    small images it is some fifty times faster than transforms of single images.

    >>> from firepot.vision.datasets import Digits
    >>> train = Digits()
    >>> mean, std = channel_statistics(train.images)
    >>> train.batch_transform = Augment(mean, std, padding=2)
    >>> images, labels = next(iter(fp.data.DataLoader(train, batch_size=64, shuffle=True)))
    >>> images.shape, images.dtype
    ((64, 1, 28, 28), firepot.float32)
    """

    def __init__(
        self, mean: Sequence[float] | float, std: Sequence[float] | float, padding: int = 0,
        flip: bool = False,
        padding_mode: str = "constant",
    ) -> None:  # fmt: skip
        if padding < 0:
            raise ValueError(f"Augment: padding must be 0 or more, got {padding}")
        if padding_mode not in ("constant", "edge", "reflect"):
            raise ValueError(f"Augment: padding_mode must be constant, edge or reflect, got '{padding_mode}'")
        self.mean = np.atleast_1d(np.asarray(mean, np.float32))
        self.std = np.atleast_1d(np.asarray(std, np.float32))
        if not (self.std > 0).all():
            raise ValueError(f"Augment: std must be above zero, got {self.std.tolist()}")
        self.padding, self.flip, self.padding_mode = padding, flip, padding_mode

    def __call__(self, images: Array, random: Any = None) -> Array:
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"Augment: expected images uint8 (N, H, W, C), got {images.dtype} {images.shape}")
        count, height, width, _ = images.shape
        moved = images.transpose(0, 3, 1, 2)
        if self.padding or self.flip:
            random = generator_of(random)
        if self.padding:
            border, mode = (self.padding, self.padding), self.padding_mode
            padded = np.pad(images, ((0, 0), border, border, (0, 0)), mode)  # type: ignore[call-overload]
            windows = sliding_window_view(padded, (height, width), (1, 2))  # (N, rows, columns, C, H, W)
            top, left = random.integers(0, 2 * self.padding + 1, (2, count))
            moved = windows[np.arange(count), top, left]
        result = np.empty(moved.shape, np.float32)
        np.multiply(moved, (1 / (255 * self.std))[:, None, None], out=result, casting="unsafe")
        result -= (self.mean / self.std)[:, None, None]
        if self.flip:
            mirrored = random.random(count) < 0.5
            result[mirrored] = result[mirrored][..., ::-1]
        return result


def channel_statistics(images: Array) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 images (N, H, W, C), on the scale from 0 to 1."""
    count = images[..., 0].size
    mean, std = [], []
    for channel in range(images.shape[3]):
        # From a histogram: exact, and without a float copy of the whole data set.
        share = np.bincount(images[..., channel].ravel(), minlength=256) / count
        levels = np.arange(256) / 255
        centre = float(share @ levels)
        mean.append(centre)
        std.append(math.sqrt(float(share @ (levels - centre) ** 2)) or 1.0)
    return mean, std


class MixUp:
    """Every image of a batch mixed with another, and their labels with them.

    Takes images (N, C, H, W) and labels (N,), as tensors or arrays, and returns images and label shares
    (N, num_classes), for `cross_entropy` with probabilities. The share of the first is drawn from Beta(alpha,
    alpha). H. Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018.
    """

    def __init__(self, *, alpha: float = 1.0, num_classes: int) -> None:
        if alpha <= 0 or num_classes < 1:
            raise ValueError(
                f"{type(self).__name__}: alpha and num_classes must be positive, got {alpha}, {num_classes}"
            )
        self.alpha, self.num_classes = alpha, num_classes

    def __call__(self, images: Any, labels: Any, random: Any = None) -> tuple[Any, Any]:
        pictures, numbers = _array(images), _array(labels)
        if pictures.ndim != 4 or numbers.shape != pictures.shape[:1]:
            raise ValueError(
                f"{type(self).__name__}: expected images (N, C, H, W) and labels (N,), "
                f"got {pictures.shape} and {numbers.shape}"
            )
        if numbers.min() < 0 or numbers.max() >= self.num_classes:
            raise ValueError(f"{type(self).__name__}: labels must lie between 0 and {self.num_classes - 1}")
        random = generator_of(random)
        mixed, share = self._mix(pictures.astype(np.float32), float(random.beta(self.alpha, self.alpha)), random)
        shares = np.eye(self.num_classes, dtype=np.float32)[numbers]
        shares = np.float32(share) * shares + np.float32(1 - share) * np.roll(shares, 1, 0)
        return (mixed, shares) if isinstance(images, np.ndarray) else (to_tensors(mixed), to_tensors(shares))

    def _mix(self, images: Array, share: float, random: np.random.Generator) -> tuple[Array, float]:
        # The other of each image is the one before it: batches are in random order already.
        return np.float32(share) * images + np.float32(1 - share) * np.roll(images, 1, 0), share


class CutMix(MixUp):
    """A rectangle of every image replaced by another's, and the labels mixed by area. Arguments as MixUp's.

    S. Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features",
    ICCV 2019.
    """

    def _mix(self, images: Array, share: float, random: np.random.Generator) -> tuple[Array, float]:
        height, width = images.shape[2:]
        y, x = int(random.integers(height)), int(random.integers(width))
        half = 0.5 * math.sqrt(1 - share)
        top, bottom = max(0, y - int(half * height)), min(height, y + int(half * height))
        left, right = max(0, x - int(half * width)), min(width, x + int(half * width))
        mixed = images.copy()
        mixed[:, :, top:bottom, left:right] = np.roll(images, 1, 0)[:, :, top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _array(value: Any) -> Array:
    return value if isinstance(value, np.ndarray) else np.asarray(value.detach().numpy())
