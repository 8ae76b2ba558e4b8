"""What people call on tensors, composed from the primitives. `from firepot import ops` has it all by PyTorch's names."""

from firepot.ops import fft as fft
from firepot.ops import linalg as linalg
from firepot.ops import masked as masked
from firepot.ops import methods as _methods
from firepot.ops import signal as signal
from firepot.ops import special as special
from firepot.ops.arithmetic import *  # noqa: F403
from firepot.ops.attention import attention_probabilities as attention_probabilities
from firepot.ops.attention import scaled_dot_product_attention as scaled_dot_product_attention
from firepot.ops.broadcast import broadcast_shapes
from firepot.ops.complex import *  # noqa: F403
from firepot.ops.convolution import check_index as check_index
from firepot.ops.convolution import convolution as convolution
from firepot.ops.convolution import gather_rows as gather_rows
from firepot.ops.convolution import overlap_add as overlap_add
from firepot.ops.convolution import windows as windows
from firepot.ops.creation import *  # noqa: F403
from firepot.ops.indexing import *  # noqa: F403
from firepot.ops.linalg.legacy import *  # noqa: F403
from firepot.ops.linear import *  # noqa: F403
from firepot.ops.numbers import *  # noqa: F403
from firepot.ops.random import *  # noqa: F403
from firepot.ops.rearrange import *  # noqa: F403
from firepot.ops.reduction import *  # noqa: F403
from firepot.ops.reindex import *  # noqa: F403
from firepot.ops.shape import *  # noqa: F403
from firepot.ops.short_time import *  # noqa: F403
from firepot.ops.sorting import *  # noqa: F403
from firepot.ops.special import i0 as i0
from firepot.ops.special import igamma as igamma
from firepot.ops.special import igammac as igammac
from firepot.ops.special import mvlgamma as mvlgamma
from firepot.ops.special import polygamma as polygamma
from firepot.ops.statistics import *  # noqa: F403
