"""Transforms that change colours, and RandAugment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from firepot.vision.transforms.base import Random, Transform, before_tensor, probability
from firepot.vision.transforms.geometry import affine

Strength = float | tuple[float, float]


class Grayscale(Transform):
    """Grey, in one channel or in three that are the same."""

    def __init__(self, num_output_channels: int = 1) -> None:
        if num_output_channels not in (1, 3):
            raise ValueError(f"Grayscale: num_output_channels must be 1 or 3, got {num_output_channels}")
        self.num_output_channels = num_output_channels

    def apply(self, image: Any, random: Random) -> Any:
        grey = before_tensor("Grayscale", image).convert("L")
        return grey if self.num_output_channels == 1 else grey.convert("RGB")


class RandomGrayscale(Transform):
    """Grey with probability p; the number of channels stays."""

    def __init__(self, p: float = 0.1) -> None:
        self.p = probability("RandomGrayscale", p)

    def apply(self, image: Any, random: Random) -> Any:
        before_tensor("RandomGrayscale", image)
        return image.convert("L").convert(image.mode) if random.random() < self.p else image


class ColorJitter(Transform):
    """Brightness, contrast, saturation and hue changed at random, in random order.

    A number b means a factor between max(0, 1 - b) and 1 + b; a pair is the range itself. Hue is a shift of
    at most 0.5, half the colour circle. Grey images keep saturation and hue.
    """

    def __init__(
        self, brightness: Strength = 0, contrast: Strength = 0, saturation: Strength = 0, hue: Strength = 0
    ) -> None:
        self.brightness, self.contrast = _factors("brightness", brightness), _factors("contrast", contrast)
        self.saturation = _factors("saturation", saturation)
        self.hue = (-hue, hue) if isinstance(hue, (int, float)) else hue
        if not -0.5 <= self.hue[0] <= self.hue[1] <= 0.5:
            raise ValueError(f"ColorJitter: hue must lie between 0 and 0.5, or be a range within ±0.5, got {hue}")

    def apply(self, image: Any, random: Random) -> Any:
        from PIL import ImageEnhance

        before_tensor("ColorJitter", image)
        # All is drawn in a fixed order, so that grey images use as many numbers as coloured ones.
        order = random.permutation(4).tolist()
        brightness, contrast = random.uniform(*self.brightness), random.uniform(*self.contrast)
        saturation, hue = random.uniform(*self.saturation), random.uniform(*self.hue)
        steps: list[tuple[Callable[[Any], Any], bool]] = [
            (lambda i: ImageEnhance.Brightness(i).enhance(brightness), brightness != 1),
            (lambda i: ImageEnhance.Contrast(i).enhance(contrast), contrast != 1),
            (lambda i: ImageEnhance.Color(i).enhance(saturation), saturation != 1 and image.mode != "L"),
            (lambda i: _turn_hue(i, hue), hue != 0 and image.mode != "L"),
        ]
        for number in order:
            step, needed = steps[number]
            image = step(image) if needed else image
        return image


class RandAugment(Transform):
    """`num_ops` operations drawn from 14, each of strength `magnitude` out of `num_magnitude_bins`.

    E. D. Cubuk, B. Zoph, J. Shlens and Q. V. Le, "RandAugment", NeurIPS 2020; strengths as in torchvision.
    """

    def __init__(
        self, num_ops: int = 2, magnitude: int = 9, num_magnitude_bins: int = 31,
        interpolation: Any = "nearest",
        fill: Any = 0,
    ) -> None:  # fmt: skip
        if not 0 <= magnitude < num_magnitude_bins:
            raise ValueError(
                f"RandAugment: magnitude must lie below num_magnitude_bins {num_magnitude_bins}, got {magnitude}"
            )
        self.num_ops, self.magnitude, self.num_magnitude_bins = num_ops, magnitude, num_magnitude_bins
        self.interpolation, self.fill = interpolation, fill

    def apply(self, image: Any, random: Random) -> Any:
        before_tensor("RandAugment", image)
        for _ in range(self.num_ops):
            name = _OPERATIONS[int(random.integers(len(_OPERATIONS)))]
            sign = 1.0 if random.random() < 0.5 else -1.0
            image = self._operate(image, name, self.magnitude / (self.num_magnitude_bins - 1), sign)
        return image

    def _operate(self, image: Any, name: str, strength: float, sign: float) -> Any:
        from PIL import ImageEnhance, ImageOps

        if name in _ENHANCERS:
            return getattr(ImageEnhance, name)(image).enhance(1 + sign * 0.9 * strength)
        if name == "Posterize":
            return ImageOps.posterize(image, 8 - round(4 * strength))
        if name == "Solarize":
            return ImageOps.solarize(image, round(255 * (1 - strength)))
        if name == "AutoContrast":
            return ImageOps.autocontrast(image)
        if name == "Equalize":
            return ImageOps.equalize(image)
        if name == "Identity":
            return image
        angle, shift, shear = 0.0, (0.0, 0.0), (0.0, 0.0)
        slant = float(np.degrees(np.arctan(sign * 0.3 * strength)))
        reach = sign * strength * 150 / 331
        if name == "Rotate":
            angle = sign * 30 * strength
        elif name == "ShearX":
            shear = (slant, 0.0)
        elif name == "ShearY":
            shear = (0.0, slant)
        elif name == "TranslateX":
            shift = (int(reach * image.width), 0.0)
        else:
            shift = (0.0, int(reach * image.height))
        corner = (0.0, 0.0) if name.startswith("Shear") else None  # sheared about the upper left, as in the paper's code
        return affine(image, angle, shift, 1.0, shear, self.interpolation, self.fill, corner)


_ENHANCERS = ("Brightness", "Color", "Contrast", "Sharpness")
_OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", *_ENHANCERS, "Posterize",
    "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip


def _factors(name: str, value: float | Sequence[float]) -> tuple[float, float]:
    low, high = (max(0.0, 1 - value), 1 + value) if isinstance(value, (int, float)) else (value[0], value[1])
    if not 0 <= low <= high:
        raise ValueError(f"ColorJitter: {name} must be a number or a range of 0 or more, got {value}")
    return low, high


def _turn_hue(image: Any, shift: float) -> Any:
    from PIL import Image

    hue, saturation, value = image.convert("HSV").split()
    turned = np.array(hue, np.uint8) + np.uint8(int(shift * 255) % 256)  # wraps around, as the colour circle does
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert(image.mode)
