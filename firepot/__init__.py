"""Firepot: a deep-learning framework that reads like PyTorch and compiles the whole training step."""

from typing import TYPE_CHECKING as _CHECKING
from typing import Any as _Any

from firepot import amp as amp
from firepot import autograd as autograd
from firepot import data as data
from firepot import func as func
from firepot import nn as nn
from firepot import optim as optim
from firepot import tree as tree
from firepot import vision as vision
from firepot.autocast_mode import autocast as autocast
from firepot.autocast_mode import get_autocast_dtype as get_autocast_dtype
from firepot.autocast_mode import is_autocast_cache_enabled as is_autocast_cache_enabled
from firepot.autocast_mode import is_autocast_enabled as is_autocast_enabled
from firepot.autocast_mode import set_autocast_dtype as set_autocast_dtype
from firepot.autocast_mode import set_autocast_enabled as set_autocast_enabled
from firepot.autograd import Function as Function
from firepot.capture import TraceError as TraceError
from firepot.func import checkpoint as checkpoint
from firepot.func import cond as cond
from firepot.func import custom_vjp as custom_vjp
from firepot.func import grad as grad
from firepot.func import hessian as hessian
from firepot.func import jacfwd as jacfwd
from firepot.func import jacobian as jacobian
from firepot.func import jacrev as jacrev
from firepot.func import jvp as jvp
from firepot.func import linearize as linearize
from firepot.func import map as map
from firepot.func import scan as scan
from firepot.func import value_and_grad as value_and_grad
from firepot.func import vjp as vjp
from firepot.func import vmap as vmap
from firepot.func import while_loop as while_loop
from firepot.grad_mode import enable_grad as enable_grad
from firepot.grad_mode import inference_mode as inference_mode
from firepot.grad_mode import is_grad_enabled as is_grad_enabled
from firepot.grad_mode import no_grad as no_grad
from firepot.grad_mode import set_grad_enabled as set_grad_enabled
from firepot.graph.dtypes import DType as dtype
from firepot.graph.dtypes import bfloat16 as bfloat16
from firepot.graph.dtypes import bool_ as bool
from firepot.graph.dtypes import complex64 as complex64
from firepot.graph.dtypes import complex128 as complex128
from firepot.graph.dtypes import float16 as float16
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
from firepot.jit import Varying as Varying
from firepot.jit import jit as jit
from firepot.ops import *  # noqa: F403
from firepot.ops import fft as fft
from firepot.ops import linalg as linalg
from firepot.ops import masked as masked
from firepot.ops import signal as signal
from firepot.ops import special as special
from firepot.ops.random import Generator as Generator
from firepot.padding import Pad as Pad
from firepot.runtime.pool import get_num_threads as get_num_threads
from firepot.runtime.pool import set_num_threads as set_num_threads
from firepot.serialization import load as load
from firepot.serialization import save as save
from firepot.tensor import Device as device
from firepot.tensor import Tensor as Tensor
from firepot.tensor import default_dtype as get_default_dtype
from firepot.tensor import eval as eval
from firepot.tensor import set_default_dtype as set_default_dtype

if _CHECKING:
    from firepot import array_api as array_api
    from firepot import debug as debug
    from firepot.custom_kernel import kernel as kernel
    from firepot.explanation import Explanation as Explanation
    from firepot.explanation import explain as explain

__version__ = "0.1.0"

# Loaded when first asked for: they bring the compiler, which makes up much of what an import would take.
_LATER = {
    "array_api": ("firepot.array_api", None),
    "debug": ("firepot.debug", None),
    "explain": ("firepot.explanation", "explain"),
    "Explanation": ("firepot.explanation", "Explanation"),
    "kernel": ("firepot.custom_kernel", "kernel"),
}


def __getattr__(name: str) -> _Any:
    if name not in _LATER:
        raise AttributeError(f"module 'firepot' has no attribute {name!r}")
    import importlib

    module, attribute = _LATER[name]
    found = importlib.import_module(module)
    globals()[name] = found if attribute is None else getattr(found, attribute)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])


float = float32
double = float64
half = float16
cfloat = complex64
cdouble = complex128
long = int64
int = int32
short = int16
