"""The Python array API standard, revision 2024.12: Firepot's operators under the standard's names and rules.

    xp = x.__array_namespace__()      # what a library that accepts any array calls; it is this module
    xp.sum(xp.asarray([[1, 2], [3, 4]]), axis=0)

`fp` itself keeps PyTorch's meaning where the two differ: `fp.max(x, 0)` gives values and indices, `fp.std` divides by
n − 1, `fp.nonzero` gives one tensor, `x.size()` is a method. Arrays are Firepot's tensors, so all that is called here
is recorded, differentiated and compiled like everything else.

Source: https://data-apis.org/array-api/2024.12/
"""

from __future__ import annotations

from math import e as e
from math import inf as inf
from math import nan as nan
from math import pi as pi

from firepot.array_api import fft as fft
from firepot.array_api import linalg as linalg
from firepot.array_api.creation import *  # noqa: F403
from firepot.array_api.data_types import *  # noqa: F403
from firepot.array_api.elementwise import *  # noqa: F403
from firepot.array_api.inspection import __array_namespace_info__ as __array_namespace_info__
from firepot.array_api.linalg import matmul as matmul
from firepot.array_api.linalg import matrix_transpose as matrix_transpose
from firepot.array_api.linalg import tensordot as tensordot
from firepot.array_api.linalg import vecdot as vecdot
from firepot.array_api.manipulation import *  # noqa: F403
from firepot.array_api.searching import *  # noqa: F403
from firepot.array_api.statistics import *  # noqa: F403
from firepot.graph.dtypes import bool_ as bool
from firepot.graph.dtypes import complex64 as complex64
from firepot.graph.dtypes import complex128 as complex128
from firepot.graph.dtypes import float32 as float32
from firepot.graph.dtypes import float64 as float64
from firepot.graph.dtypes import int8 as int8
from firepot.graph.dtypes import int16 as int16
from firepot.graph.dtypes import int32 as int32
from firepot.graph.dtypes import int64 as int64
from firepot.graph.dtypes import uint8 as uint8
from firepot.graph.dtypes import uint16 as uint16
from firepot.graph.dtypes import uint32 as uint32
from firepot.graph.dtypes import uint64 as uint64

__array_api_version__ = "2024.12"
newaxis = None
