"""Transforms of images, named and called as torchvision's.

Those of one image take Pillow images or arrays uint8 (H, W, C); `Augment`, `MixUp` and `CutMix` take a whole
batch.
"""

from firepot.vision.transforms.base import Compose as Compose
from firepot.vision.transforms.base import Lambda as Lambda
from firepot.vision.transforms.base import Normalize as Normalize
from firepot.vision.transforms.base import RandomApply as RandomApply
from firepot.vision.transforms.base import ToTensor as ToTensor
from firepot.vision.transforms.base import Transform as Transform
from firepot.vision.transforms.batch import Augment as Augment
from firepot.vision.transforms.batch import CutMix as CutMix
from firepot.vision.transforms.batch import MixUp as MixUp
from firepot.vision.transforms.batch import channel_statistics as channel_statistics
from firepot.vision.transforms.colour import ColorJitter as ColorJitter
from firepot.vision.transforms.colour import Grayscale as Grayscale
from firepot.vision.transforms.colour import RandAugment as RandAugment
from firepot.vision.transforms.colour import RandomGrayscale as RandomGrayscale
from firepot.vision.transforms.geometry import CenterCrop as CenterCrop
from firepot.vision.transforms.geometry import Pad as Pad
from firepot.vision.transforms.geometry import RandomAffine as RandomAffine
from firepot.vision.transforms.geometry import RandomCrop as RandomCrop
from firepot.vision.transforms.geometry import RandomErasing as RandomErasing
from firepot.vision.transforms.geometry import RandomHorizontalFlip as RandomHorizontalFlip
from firepot.vision.transforms.geometry import RandomResizedCrop as RandomResizedCrop
from firepot.vision.transforms.geometry import RandomRotation as RandomRotation
from firepot.vision.transforms.geometry import RandomVerticalFlip as RandomVerticalFlip
from firepot.vision.transforms.geometry import Resize as Resize
