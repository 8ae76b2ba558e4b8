"""What all transforms of one image share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from firepot.data.collate import to_tensors
from firepot.data.randomness import generator_of
from firepot.vision.files import channels_of, eight_bit

Random = np.random.Generator


class Transform:
    """A function of one image. Subclasses define `apply`.

    Takes a Pillow image or an array uint8 (H, W, C) and returns the same kind, until ToTensor makes a tensor
    of it. `random` is a numpy.random.Generator or a seed. By default it is the loader's generator for this
    sample (`firepot.data.sample_random`), so the same run gives the same images with any number of workers.
    """

    def apply(self, image: Any, random: Random) -> Any:
        """The result for a Pillow image, or a float32 array (C, H, W) after ToTensor."""
        raise NotImplementedError(f"{type(self).__name__} needs a method apply(image, random)")

    def __call__(self, image: Any, random: Any = None) -> Any:
        result = self.apply(_taken(type(self).__name__, image), generator_of(random))
        if isinstance(result, np.ndarray):
            return to_tensors(result)
        return pixels(result) if isinstance(image, np.ndarray) else result

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({values})"


class Compose(Transform):
    """One transform after the other.

    >>> from firepot.vision import transforms as T
    >>> transform = T.Compose([T.RandomCrop(32, padding=4), T.ToTensor(), T.Normalize([0.5] * 3, [0.25] * 3)])
    >>> transform(np.zeros((32, 32, 3), np.uint8)).shape
    (3, 32, 32)
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]]) -> None:
        self.transforms = list(transforms)

    def apply(self, image: Any, random: Random) -> Any:
        for transform in self.transforms:
            if isinstance(transform, Transform):
                image = transform.apply(image, random)
            else:
                image = _taken(getattr(transform, "__name__", type(transform).__name__), transform(image))
        return image


class Lambda(Transform):
    """A function of one's own, of a Pillow image, or of a float32 array (C, H, W) after ToTensor."""

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        self.lambd = lambd

    def apply(self, image: Any, random: Random) -> Any:
        return _taken("Lambda", self.lambd(image))


class RandomApply(Transform):
    """All of `transforms` with probability p, else none."""

    def __init__(self, transforms: Sequence[Transform], p: float = 0.5) -> None:
        self.transforms, self.p = list(transforms), probability("RandomApply", p)

    def apply(self, image: Any, random: Random) -> Any:
        return Compose(self.transforms).apply(image, random) if random.random() < self.p else image


class ToTensor(Transform):
    """float32 (C, H, W) from 0 to 1."""

    def apply(self, image: Any, random: Random) -> Any:
        if isinstance(image, np.ndarray):
            return image
        return pixels(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


class Normalize(Transform):
    """(image - mean) / std, one mean and one std a channel; after ToTensor."""

    def __init__(self, mean: Sequence[float] | float, std: Sequence[float] | float, inplace: bool = False) -> None:
        self.mean = np.atleast_1d(np.asarray(mean, np.float32))
        self.std = np.atleast_1d(np.asarray(std, np.float32))
        if not (self.std > 0).all():
            raise ValueError(f"Normalize: std must be above zero, got {self.std.tolist()}")

    def apply(self, image: Any, random: Random) -> Any:
        after_tensor("Normalize", image)
        if len(self.mean) not in (1, len(image)) or len(self.std) not in (1, len(image)):
            raise ValueError(
                f"Normalize: {len(self.mean)} means and {len(self.std)} stds do not fit an image of "
                f"{len(image)} channels"
            )
        return (image - self.mean[:, None, None]) / self.std[:, None, None]


def pixels(image: Any) -> np.ndarray[Any, Any]:
    """A Pillow image as uint8 (H, W, C)."""
    if image.mode not in ("L", "RGB", "RGBA"):
        image = eight_bit(image, "L" if channels_of(image) == 1 else "RGB")
    array = np.array(image, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def picture(array: np.ndarray[Any, Any]) -> Any:
    """uint8 (H, W, C) as a Pillow image."""
    from PIL import Image

    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def before_tensor(name: str, image: Any) -> Any:
    if isinstance(image, np.ndarray):
        raise TypeError(f"{name}: works on pictures; put it before ToTensor")
    return image


def after_tensor(name: str, image: Any) -> Any:
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name}: works on tensors; put it after ToTensor")
    return image


def pair(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of one number or two."""
    height, width = (size, size) if isinstance(size, int) else tuple(size) if len(size) == 2 else (size[0], size[0])
    if height <= 0 or width <= 0:
        raise ValueError(f"{name}: the size must be positive, got {size}")
    return int(height), int(width)


def probability(name: str, p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must lie between 0 and 1, got {p}")
    return p


def resampling(interpolation: Any) -> Any:
    """A Pillow filter from its name, such as "bilinear", or the filter itself."""
    from PIL import Image

    if not isinstance(interpolation, str):
        return interpolation
    names = {filter.name.lower(): filter for filter in Image.Resampling}
    if interpolation.lower() not in names:
        raise ValueError(f"interpolation '{interpolation}' is not one of {', '.join(names)}")
    return names[interpolation.lower()]


def _taken(name: str, image: Any) -> Any:
    """A Pillow image, or a float32 array (C, H, W)."""
    module = sys.modules.get("firepot.tensor")
    if module is not None and isinstance(image, module.Tensor):
        image = image.detach().numpy()
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
            return picture(image)
        if image.dtype.kind == "f" and image.ndim == 3:
            return image.astype(np.float32, copy=False)
        raise TypeError(
            f"{name}: expected an image uint8 (H, W, C) with 1, 3 or 4 channels or float (C, H, W), "
            f"got {image.dtype} {image.shape}"
        )
    if not hasattr(image, "convert"):
        raise TypeError(f"{name}: expected a Pillow image, an array or a tensor, got {type(image).__name__}")
    return image
