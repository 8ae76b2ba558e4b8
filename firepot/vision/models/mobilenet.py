"""MobileNetV2: M. Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018."""

from __future__ import annotations

from typing import Any

from firepot import nn

_SMALL_IMAGE = 64
# Expansion, output channels, blocks, stride of the first: table 2 of the paper.
_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than a tenth below `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class ConvNormActivation(nn.Sequential):
    """Convolution, batch normalisation and ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; with a shortcut where the shape stays."""

    def __init__(self, inp: int, oup: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        hidden = inp * expand_ratio
        layers: list[nn.Module] = [] if expand_ratio == 1 else [ConvNormActivation(inp, hidden, 1)]
        layers += [
            ConvNormActivation(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, oup, 1, bias=False),
            nn.BatchNorm2d(oup),
        ]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and inp == oup

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """(N, in_channels, H, W) to (N, num_classes).

    Images of at most 64 x 64 keep their size in the first two strides.
    """

    def __init__(
        self, num_classes: int = 1000, width_mult: float = 1.0, dropout: float = 0.2, in_channels: int = 3,
        image_size: int = 224,
    ) -> None:  # fmt: skip
        super().__init__()
        small = image_size <= _SMALL_IMAGE
        channels = _divisible(32 * width_mult)
        self.last_channel = _divisible(1280 * max(1.0, width_mult))
        features: list[nn.Module] = [ConvNormActivation(in_channels, channels, 3, 1 if small else 2)]
        for stage, (expansion, width, blocks, stride) in enumerate(_STAGES):
            outputs = _divisible(width * width_mult)
            for block in range(blocks):
                step = stride if block == 0 and not (small and stage == 1) else 1
                features.append(InvertedResidual(channels, outputs, step, expansion))
                channels = outputs
        features.append(ConvNormActivation(channels, self.last_channel, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.last_channel, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> MobileNetV2:
    """MobileNetV2: 3.5 million parameters."""
    return MobileNetV2(num_classes, in_channels=in_channels, image_size=image_size)
