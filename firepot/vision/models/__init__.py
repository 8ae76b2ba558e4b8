"""Networks for images. Module names and state_dict keys are torchvision's, so its weights load."""

from collections.abc import Callable
from typing import Any

from firepot.vision.models.lenet import LeNet as LeNet
from firepot.vision.models.lenet import lenet as lenet
from firepot.vision.models.mobilenet import MobileNetV2 as MobileNetV2
from firepot.vision.models.mobilenet import mobilenet_v2 as mobilenet_v2
from firepot.vision.models.resnet import ResNet as ResNet
from firepot.vision.models.resnet import resnet18 as resnet18
from firepot.vision.models.resnet import resnet34 as resnet34
from firepot.vision.models.resnet import resnet50 as resnet50
from firepot.vision.models.resnet import resnet101 as resnet101
from firepot.vision.models.resnet import resnet152 as resnet152
from firepot.vision.models.vit import VisionTransformer as VisionTransformer
from firepot.vision.models.vit import vit_base as vit_base
from firepot.vision.models.vit import vit_small as vit_small
from firepot.vision.models.vit import vit_tiny as vit_tiny

_MODELS: dict[str, Callable[..., Any]] = {
    model.__name__: model
    for model in (
        lenet, mobilenet_v2, resnet18, resnet34, resnet50, resnet101, resnet152, vit_base, vit_small,
        vit_tiny,
    )
}  # fmt: skip


def list_models() -> list[str]:
    """The names that `get_model` knows."""
    return sorted(_MODELS)


def get_model(name: str, num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> Any:
    """The model of this name, untrained. Raises ValueError that lists the names there are.

    >>> model = get_model("resnet18", num_classes=10, image_size=32)
    """
    if name not in _MODELS:
        raise ValueError(f"there is no model '{name}'; there are {', '.join(list_models())}")
    return _MODELS[name](num_classes=num_classes, in_channels=in_channels, image_size=image_size)
