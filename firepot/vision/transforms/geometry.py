"""Transforms that move pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from firepot.vision.transforms.base import (
    Random,
    Transform,
    after_tensor,
    before_tensor,
    pair,
    picture,
    pixels,
    probability,
    resampling,
)

_PAD_MODES = ("constant", "edge", "reflect", "symmetric")


class Resize(Transform):
    """To `size`: (height, width), or the length of the shorter side, up to `max_size` of the longer."""

    def __init__(self, size: int | Sequence[int], interpolation: Any = "bilinear", max_size: int | None = None) -> None:
        pair("Resize", size)
        shorter = size if isinstance(size, int) else size[0] if len(size) == 1 else None
        if max_size is not None and (shorter is None or max_size <= shorter):
            raise ValueError(f"Resize: max_size needs a size of one number below it, got {max_size} and {size}")
        self.size, self.interpolation, self.max_size = size, interpolation, max_size

    def apply(self, image: Any, random: Random) -> Any:
        width, height = before_tensor("Resize", image).size
        if isinstance(self.size, int) or len(self.size) == 1:
            side = self.size if isinstance(self.size, int) else self.size[0]
            short, long = side, int(side * max(width, height) / min(width, height))
            if self.max_size is not None and long > self.max_size:
                short, long = max(1, int(self.max_size * short / long)), self.max_size
            new = (short, long) if width <= height else (long, short)
        else:
            new = int(self.size[1]), int(self.size[0])
        return image if new == image.size else image.resize(new, resampling(self.interpolation))


class Pad(Transform):
    """A border of `padding`: one width, (left and right, top and bottom), or (left, top, right, bottom)."""

    def __init__(
        self, padding: int | Sequence[int], fill: int | Sequence[int] = 0, padding_mode: str = "constant"
    ) -> None:
        if padding_mode not in _PAD_MODES:
            raise ValueError(f"Pad: padding_mode must be one of {', '.join(_PAD_MODES)}, got '{padding_mode}'")
        sides = [padding] * 4 if isinstance(padding, int) else list(padding)
        if len(sides) not in (2, 4) or min(sides) < 0:
            raise ValueError(f"Pad: padding must be one, two or four numbers of 0 or more, got {padding}")
        self.padding = tuple(sides * 2 if len(sides) == 2 else sides)
        self.fill, self.padding_mode = fill, padding_mode

    def apply(self, image: Any, random: Random) -> Any:
        left, top, right, bottom = self.padding
        array = pixels(before_tensor("Pad", image))
        if self.padding_mode == "constant":
            height, width, channels = array.shape
            result = np.empty((height + top + bottom, width + left + right, channels), np.uint8)
            result[:] = self.fill
            result[top : top + height, left : left + width] = array
        else:
            border = ((top, bottom), (left, right), (0, 0))
            result = np.pad(array, border, self.padding_mode)  # type: ignore[call-overload]
        return picture(result)


class CenterCrop(Transform):
    """The centre of `size`; an image that is smaller is padded with zeros."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = pair("CenterCrop", size)

    def apply(self, image: Any, random: Random) -> Any:
        height, width = self.size
        missing = max(0, width - before_tensor("CenterCrop", image).width), max(0, height - image.height)
        # Of an odd border the larger half is on the right and below, as in torchvision. Pillow fills what lies
        # outside of the image with zeros.
        left = -(missing[0] // 2) if missing[0] else round((image.width - width) / 2)
        top = -(missing[1] // 2) if missing[1] else round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


class RandomCrop(Transform):
    """A random part of `size`, after padding the image by `padding`.

    Raises ValueError if the image is smaller, unless `pad_if_needed`.
    """

    def __init__(
        self, size: int | Sequence[int], padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: int | Sequence[int] = 0, padding_mode: str = "constant",
    ) -> None:  # fmt: skip
        self.size, self.pad_if_needed = pair("RandomCrop", size), pad_if_needed
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode
        self._pad = None if padding is None else Pad(padding, fill, padding_mode)

    def apply(self, image: Any, random: Random) -> Any:
        image = before_tensor("RandomCrop", image) if self._pad is None else self._pad.apply(image, random)
        height, width = self.size
        if self.pad_if_needed and (image.height < height or image.width < width):
            missing = max(0, width - image.width), max(0, height - image.height)
            image = Pad(missing, self.fill, self.padding_mode).apply(image, random)
        if image.height < height or image.width < width:
            raise ValueError(
                f"RandomCrop: a part of {height} x {width} does not fit an image of {image.height} x "
                f"{image.width}; "
                "use padding, or pad_if_needed=True"
            )
        top = int(random.integers(image.height - height + 1))
        left = int(random.integers(image.width - width + 1))
        return image.crop((left, top, left + width, top + height))


class RandomResizedCrop(Transform):
    """A random part with an area of `scale` and a width over height of `ratio`, brought to `size`.

    C. Szegedy et al., "Going deeper with convolutions", CVPR 2015.
    """

    def __init__(
        self, size: int | Sequence[int], scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3), interpolation: Any = "bilinear",
    ) -> None:  # fmt: skip
        if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"RandomResizedCrop: scale {scale} and ratio {ratio} must be (low, high), above zero")
        self.size, self.scale, self.ratio = pair("RandomResizedCrop", size), scale, ratio
        self.interpolation = interpolation

    def _box(self, width: int, height: int, random: Random) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * random.uniform(*self.scale)
            aspect = math.exp(random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
                return left, top, left + w, top + h
        # The image is too narrow for such a part: the largest in the middle with the nearest ratio.
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def apply(self, image: Any, random: Random) -> Any:
        width, height = before_tensor("RandomResizedCrop", image).size
        box = self._box(width, height, random)
        return image.crop(box).resize((self.size[1], self.size[0]), resampling(self.interpolation))


class RandomHorizontalFlip(Transform):
    """Left and right exchanged, with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability("RandomHorizontalFlip", p)

    def apply(self, image: Any, random: Random) -> Any:
        if random.random() >= self.p:
            return image
        return np.ascontiguousarray(image[:, :, ::-1]) if isinstance(image, np.ndarray) else image.transpose(0)


class RandomVerticalFlip(Transform):
    """Top and bottom exchanged, with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability("RandomVerticalFlip", p)

    def apply(self, image: Any, random: Random) -> Any:
        if random.random() >= self.p:
            return image
        return np.ascontiguousarray(image[:, ::-1]) if isinstance(image, np.ndarray) else image.transpose(1)


class RandomRotation(Transform):
    """Turned counter-clockwise by up to `degrees` either way, or by an angle between the two given."""

    def __init__(
        self, degrees: float | tuple[float, float], interpolation: Any = "nearest", expand: bool = False,
        center: tuple[float, float] | None = None, fill: Any = 0,
    ) -> None:  # fmt: skip
        self.degrees = _range("RandomRotation", degrees)
        self.interpolation, self.expand, self.center, self.fill = interpolation, expand, center, fill

    def apply(self, image: Any, random: Random) -> Any:
        angle = random.uniform(*self.degrees)
        before_tensor("RandomRotation", image)
        return image.rotate(
            angle, resampling(self.interpolation), self.expand, self.center, fillcolor=_fill(image, self.fill)
        )


class RandomAffine(Transform):
    """Turned (clockwise), shifted, scaled and sheared at random about its centre.

    `translate` is the greatest shift as a part of width and height, `scale` a range of factors, `shear` an
    angle, a range of angles, or two ranges (x from, x to, y from, y to), in degrees.
    """

    def __init__(
        self, degrees: float | tuple[float, float], translate: tuple[float, float] | None = None,
        scale: tuple[float, float] | None = None, shear: float | Sequence[float] | None = None,
        interpolation: Any = "nearest", fill: Any = 0, center: tuple[float, float] | None = None,
    ) -> None:  # fmt: skip
        self.degrees = _range("RandomAffine", degrees)
        if translate is not None and not all(0 <= t <= 1 for t in translate):
            raise ValueError(f"RandomAffine: translate must lie between 0 and 1, got {translate}")
        if scale is not None and not 0 < scale[0] <= scale[1]:
            raise ValueError(f"RandomAffine: scale must be (low, high), above zero, got {scale}")
        self.translate, self.scale, self.interpolation = translate, scale, interpolation
        self.fill, self.center = fill, center
        if isinstance(shear, (int, float)):
            shear = (-shear, shear)
        self.shear = None if shear is None else (*shear, 0.0, 0.0)[:4]

    def apply(self, image: Any, random: Random) -> Any:
        width, height = before_tensor("RandomAffine", image).size
        angle = random.uniform(*self.degrees)
        shift = (0, 0)
        if self.translate is not None:
            reach = self.translate[0] * width, self.translate[1] * height
            shift = round(random.uniform(-reach[0], reach[0])), round(random.uniform(-reach[1], reach[1]))
        scale = 1.0 if self.scale is None else random.uniform(*self.scale)
        shear = (0.0, 0.0)
        if self.shear is not None:
            low_x, high_x, low_y, high_y = self.shear
            shear = random.uniform(low_x, high_x), random.uniform(low_y, high_y)
        return affine(image, angle, shift, scale, shear, self.interpolation, self.fill, self.center)


class RandomErasing(Transform):
    """Covers a random rectangle with `value` (one, one a channel, or "random"), with probability p; after
    ToTensor.

    Z. Zhong et al., "Random erasing data augmentation", AAAI 2020.
    """

    def __init__(
        self, p: float = 0.5, scale: tuple[float, float] = (0.02, 0.33), 
        ratio: tuple[float, float] = (0.3, 3.3), value: float | Sequence[float] | str = 0, inplace: bool = False,
    ) -> None:  # fmt: skip
        if isinstance(value, str) and value != "random":
            raise ValueError(f"RandomErasing: value must be a number, one a channel, or 'random', got '{value}'")
        self.p, self.scale, self.ratio, self.value = probability("RandomErasing", p), scale, ratio, value

    def apply(self, image: Any, random: Random) -> Any:
        height, width = after_tensor("RandomErasing", image).shape[1:]
        if random.random() >= self.p:
            return image
        for _ in range(10):
            area = height * width * random.uniform(*self.scale)
            aspect = math.exp(random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
                image = image.copy()
                part = image[:, top : top + h, left : left + w]
                noise = isinstance(self.value, str)
                part[:] = random.standard_normal(part.shape) if noise else np.reshape(self.value, (-1, 1, 1))
                return image
        return image


def affine(
    image: Any, angle: float, translate: tuple[float, float], scale: float, shear: tuple[float, float],
    interpolation: Any = "nearest", fill: Any = 0, center: tuple[float, float] | None = None,
) -> Any:  # fmt: skip
    """Turns clockwise by `angle` degrees, shears and scales about `center` (x, y), then shifts."""
    from PIL import Image

    x, y = center if center is not None else (image.width / 2, image.height / 2)
    turn, shear_x, shear_y = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    rotation = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    slant_y = np.array([[1, 0, 0], [-math.tan(shear_y), 1, 0], [0, 0, 1]])
    slant_x = np.array([[1, -math.tan(shear_x), 0], [0, 1, 0], [0, 0, 1]])
    there = np.array([[1, 0, x + translate[0]], [0, 1, y + translate[1]], [0, 0, 1]])
    back = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    forward = there @ rotation @ slant_y @ slant_x @ np.diag([scale, scale, 1]) @ back
    coefficients = tuple(np.linalg.inv(forward)[:2].ravel().tolist())  # Pillow asks where each pixel comes from
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        coefficients,
        resampling(interpolation),
        fillcolor=_fill(image, fill),
    )


def _fill(image: Any, fill: Any) -> Any:
    """A colour for each band of the image."""
    bands = len(image.getbands())
    if isinstance(fill, (int, float)):
        return int(fill) if bands == 1 else (int(fill),) * bands
    return tuple(int(f) for f in fill)


def _range(name: str, degrees: float | tuple[float, float]) -> tuple[float, float]:
    if isinstance(degrees, (int, float)):
        if degrees < 0:
            raise ValueError(f"{name}: one number of degrees must be 0 or more, got {degrees}")
        return -degrees, degrees
    return degrees
