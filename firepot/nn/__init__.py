"""Layers, losses and what holds them, by PyTorch's names."""

from firepot.nn import functional as functional
from firepot.nn import init as init
from firepot.nn import utils as utils
from firepot.nn.containers import ModuleDict as ModuleDict
from firepot.nn.containers import ModuleList as ModuleList
from firepot.nn.containers import ParameterDict as ParameterDict
from firepot.nn.containers import ParameterList as ParameterList
from firepot.nn.containers import Sequential as Sequential
from firepot.nn.layers.activation import *  # noqa: F403
from firepot.nn.layers.attention import *  # noqa: F403
from firepot.nn.layers.convolution import *  # noqa: F403
from firepot.nn.layers.lazy import *  # noqa: F403
from firepot.nn.layers.linear import *  # noqa: F403
from firepot.nn.layers.loss import *  # noqa: F403
from firepot.nn.layers.normalisation import *  # noqa: F403
from firepot.nn.layers.pooling import *  # noqa: F403
from firepot.nn.layers.recurrent import *  # noqa: F403
from firepot.nn.layers.resize import *  # noqa: F403
from firepot.nn.module import Buffer as Buffer
from firepot.nn.module import Module as Module
from firepot.nn.module import Parameter as Parameter
