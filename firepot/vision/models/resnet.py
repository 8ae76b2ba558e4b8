"""ResNet: K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image recognition", CVPR 2016."""

from __future__ import annotations

from typing import Any

from firepot import nn

_SMALL_IMAGE = 64  # up to this side, images get the CIFAR stem


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Any) -> Any:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions and a shortcut; the stride is in the 3 x 3, as in torchvision."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Any) -> Any:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + shortcut)


class ResNet(nn.Module):
    """A stem, four stages of `layers` blocks, an average and a linear layer: (N, in_channels, H, W) to (N,
    num_classes).

    Images of at most 64 x 64 get the stem that the paper has for CIFAR: a 3 x 3 convolution of stride 1 and
    no pooling; its weight is conv1.weight all the same. `zero_init_residual` starts every block as its
    shortcut (P. Goyal et al., "Accurate, large minibatch SGD", 2017).
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], layers: list[int], num_classes: int = 1000,
        zero_init_residual: bool = False, in_channels: int = 3, image_size: int = 224,
    ) -> None:  # fmt: skip
        super().__init__()
        small = image_size <= _SMALL_IMAGE
        self.inplanes = 64
        self.conv1 = (
            nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
            if small
            else nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._stage(block, 64, layers[0], 1)
        self.layer2 = self._stage(block, 128, layers[1], 2)
        self.layer3 = self._stage(block, 256, layers[2], 2)
        self.layer4 = self._stage(block, 512, layers[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (BasicBlock, Bottleneck)) and zero_init_residual:
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                nn.init.zeros_(last.weight)

    def _stage(self, block: type[BasicBlock] | type[Bottleneck], planes: int, blocks: int, stride: int) -> nn.Module:
        width = planes * block.expansion
        downsample = None
        if stride != 1 or self.inplanes != width:
            downsample = nn.Sequential(nn.Conv2d(self.inplanes, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        first = block(self.inplanes, planes, stride, downsample)
        self.inplanes = width
        return nn.Sequential(first, *(block(width, planes) for _ in range(1, blocks)))

    def forward(self, x: Any) -> Any:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> ResNet:
    """ResNet-18: 11.7 million parameters."""
    return ResNet(BasicBlock, [2, 2, 2, 2], num_classes, in_channels=in_channels, image_size=image_size)


def resnet34(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> ResNet:
    """ResNet-34: 21.8 million parameters."""
    return ResNet(BasicBlock, [3, 4, 6, 3], num_classes, in_channels=in_channels, image_size=image_size)


def resnet50(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> ResNet:
    """ResNet-50: 25.6 million parameters."""
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, in_channels=in_channels, image_size=image_size)


def resnet101(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> ResNet:
    """ResNet-101: 44.5 million parameters."""
    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes, in_channels=in_channels, image_size=image_size)


def resnet152(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> ResNet:
    """ResNet-152: 60.2 million parameters."""
    return ResNet(Bottleneck, [3, 8, 36, 3], num_classes, in_channels=in_channels, image_size=image_size)
