"""Layers as functions, by PyTorch's names: `from firepot.nn import functional as F`."""

from firepot.nn.functional.activation import *  # noqa: F403
from firepot.nn.functional.attention import *  # noqa: F403
from firepot.nn.functional.convolution import *  # noqa: F403
from firepot.nn.functional.ctc import *  # noqa: F403
from firepot.nn.functional.dropout import *  # noqa: F403
from firepot.nn.functional.linear import *  # noqa: F403
from firepot.nn.functional.loss import *  # noqa: F403
from firepot.nn.functional.normalisation import *  # noqa: F403
from firepot.nn.functional.pooling import *  # noqa: F403
from firepot.nn.functional.quantized import *  # noqa: F403
from firepot.nn.functional.resize import *  # noqa: F403
from firepot.nn.functional.unpooling import *  # noqa: F403
from firepot.ops import one_hot as one_hot
