"""Mixed precision: `autocast`, and which operations compute in which dtype under it.

Inside `with fp.autocast("cpu"):` products and convolutions convert their float32 operands to bfloat16, what needs the
digits converts its operands to float32, and every other operation takes what it is given. The lists are PyTorch's for
the CPU: torch 2.13, aten/src/ATen/autocast_mode.cpp, what it registers for the key AutocastCPU.

A conversion is an ordinary `cast` node. Nodes are hash-consed, so that a weight used twice is converted once, and a
gradient comes back through the cast in the dtype of the parameter. A derivative is made of the dtypes of the forward
pass, wherever `backward()` is called.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.tensor import Tensor, wrap
from firepot.tracing import depend_on, state, state_changed

# What computes in the lower precision. Of torch's list `_addmm_activation`, `_native_multi_head_attention` and
# `conv_tbc` are names that Firepot does not have; `mkldnn_rnn_layer` is nn.LSTM, whose results it lowers. einsum,
# tensordot and the products of several matrices are not on the list, but made of what is (einsum asks by itself).
LOWER_PRECISION = frozenset((
    "addbmm", "addmm", "baddbmm", "bmm", "chain_matmul", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "linear", "matmul", "mm", "multi_dot", "prelu",
    "scaled_dot_product_attention", "tensordot", "vecdot",
))  # fmt: skip

# What computes in float32. Padding by reflection or replication and max_pool3d ask by themselves, as it depends on their
# arguments; fft2 and its like are fftn.
FLOAT32 = frozenset((
    "adaptive_avg_pool3d", "adaptive_max_pool3d", "avg_pool3d", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "cdist", "cholesky", "cholesky_ex", "cholesky_inverse", "cholesky_solve",
    "cond", "cosine_embedding_loss", "cross_entropy", "ctc_loss", "eig", "eigh", "eigvals", "eigvalsh", "fft",
    "fftn", "fractional_max_pool2d", "fractional_max_pool3d", "geqrf", "grid_sample", "hfft", "hinge_embedding_loss",
    "householder_product", "huber_loss", "ifft", "ifftn", "ihfft", "inv", "inv_ex", "irfft",
    "irfftn", "kl_div", "l1_loss", "lstsq", "lu_legacy", "lu_solve", "margin_ranking_loss", "matrix_rank",
    "max_unpool1d", "max_unpool2d", "max_unpool3d", "mse_loss", "multi_margin_loss", "multilabel_margin_loss",
    "nanquantile", "nll_loss", "ormqr", "pinverse", "poisson_nll_loss", "polar", "prod", "qr", "quantile", "rfft",
    "rfftn", "smooth_l1_loss", "soft_margin_loss", "solve", "stft", "svd", "svdvals", "tensorinv", "tensorsolve",
    "trace", "triangular_solve", "triplet_margin_loss", "view_as_complex",
))  # fmt: skip

# What computes in the widest dtype of its operands, which then need not be one.
WIDEST = frozenset(("cat", "index_copy", "stack"))

# What takes its operands as they are, although it is made of operations above.
AS_GIVEN = frozenset(("addmv", "bilinear", "dot", "interpolate", "matrix_exp", "mv"))


class _Settings(threading.local):
    """dtype: what `autocast` without a dtype lowers to in this thread. Whether it is on is `tracing.state.autocast`."""

    dtype = dtypes.bfloat16
    cache = True


_settings = _Settings()

Function = TypeVar("Function", bound=Callable[..., Any])


def _converted(value: Any, dtype: DType) -> Any:
    """The value with the floating tensors in it converted. float64 stays: who asks for it means it."""
    if isinstance(value, Tensor):
        own = value._value.dtype
        return value if own is dtype or own.kind != "f" or own.size == 8 else wrap(ew.cast(value._node, dtype))
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)([_converted(v, dtype) for v in value])
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)


def _widest(values: Any, lower: DType) -> DType:
    """`lower` where all floating tensors have it, else float32."""
    found = {t.dtype for t in _tensors(values) if t.dtype.kind == "f" and t.dtype.size != 8}
    return lower if found <= {lower} else dtypes.float32


def autocasts(operation: Function) -> Function:
    """Make a function of one of the tables above do what its table says, where autocast is on. What it calls in turn
    takes its operands as they are."""
    name = operation.__name__
    lowers, widens, as_given = name in LOWER_PRECISION, name in WIDEST, name in AS_GIVEN
    if not (lowers or widens or as_given or name in FLOAT32):
        raise ValueError(f"autocasts: {name} is in none of the tables")

    @functools.wraps(operation)
    def call(*args: Any, **kwargs: Any) -> Any:
        lower = state.autocast
        if lower is None:
            return operation(*args, **kwargs)
        state.autocast = None
        try:
            if as_given:
                return operation(*args, **kwargs)
            dtype = lower if lowers else _widest((args, *kwargs.values()), lower) if widens else dtypes.float32
            named = {k: _converted(v, dtype) for k, v in kwargs.items()}
            return operation(*[_converted(a, dtype) for a in args], **named)
        finally:
            state.autocast = lower

    return cast(Function, call)


def lowered(node: Node) -> Node:
    """An operand of what is part of an operation only: in the lower precision, where autocast is on."""
    lower = state.autocast
    return node if lower is None or node.dtype.kind != "f" or node.dtype.size == 8 else ew.cast(node, lower)


def in_float32(tensor: Tensor) -> Tensor:
    """The operand of an operation that computes in float32 for some of its arguments only."""
    converted: Tensor = tensor if state.autocast is None else _converted(tensor, dtypes.float32)
    return converted


def exempt(operation: Function) -> Function:
    """The operation as autocast does not touch it: in-place forms give what they were given."""
    if operation.__name__ not in LOWER_PRECISION | FLOAT32 | WIDEST | AS_GIVEN:
        return operation

    @functools.wraps(operation)
    def call(*args: Any, **kwargs: Any) -> Any:
        before, state.autocast = state.autocast, None
        try:
            return operation(*args, **kwargs)
        finally:
            state.autocast = before

    return cast(Function, call)


class autocast:
    """Compute products and convolutions in half precision inside: a context manager and a decorator.

    Weights stay float32, and so do their gradients and what an optimiser holds; losses are computed in float32, and
    normalisations take their statistics in float32. Wrap the forward pass and the loss; `backward()` and the
    optimiser's step belong outside. Regions nest; each thread has a state of its own.

    Args:
        device_type: "cpu". Others that PyTorch knows are not there: autocast warns and does nothing.
        dtype: fp.bfloat16 or fp.float16; by default what `fp.get_autocast_dtype` says.
        enabled: False switches autocast off inside.
        cache_enabled: accepted; a weight is converted once anyway, where it is used several times.

    Raises: RuntimeError for a device type that is none; ValueError where it is no string.

    >>> layer = nn.Linear(3, 2)
    >>> with fp.autocast("cpu", dtype=fp.bfloat16):
    ...     y = layer(fp.ones(1, 3))
    ...     loss = F.mse_loss(y, fp.zeros(1, 2))
    >>> loss.backward()
    >>> y.dtype, loss.dtype, layer.weight.grad.dtype
    (firepot.bfloat16, firepot.float32, firepot.float32)

    Micikevicius et al., Mixed precision training (2018); Kalamkar et al., A study of bfloat16 for deep learning
    training (2019).
    """

    def __init__(
        self, device_type: str = "cpu", dtype: DType | None = None, enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:  # fmt: skip
        available = is_autocast_available(device_type)
        self.device = device_type
        self.fast_dtype = (get_autocast_dtype(device_type) if available else dtypes.float16) if dtype is None else dtype
        if enabled and not available:
            warnings.warn(f"autocast: there is no device '{device_type}'; autocast does nothing", UserWarning, stacklevel=2)
            enabled = False
        if enabled and self.fast_dtype not in (dtypes.bfloat16, dtypes.float16):
            warnings.warn(
                f"autocast: only bfloat16 and float16 are supported, not {self.fast_dtype.name}; autocast does nothing",
                UserWarning,
                stacklevel=2,
            )
            enabled = False
        self._available = available
        self._enabled = enabled
        self._cache_enabled = _settings.cache if cache_enabled is None else cache_enabled
        self._before: list[tuple[DType | None, DType, bool]] = []

    def __enter__(self) -> autocast:
        self._before.append((state.autocast, _settings.dtype, _settings.cache))
        if self._available:
            state.autocast = self.fast_dtype if self._enabled else None
            _settings.dtype, _settings.cache = self.fast_dtype, self._cache_enabled
        return self

    def __exit__(self, *exception: object) -> None:
        state.autocast, _settings.dtype, _settings.cache = self._before.pop()

    def __call__(self, function: Function) -> Function:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            # Another one each time: threads, and calls from inside, must not share what to go back to.
            with autocast(self.device, self.fast_dtype, self._enabled, self._cache_enabled):
                return function(*args, **kwargs)

        return cast(Function, wrapped)


_OTHER_DEVICES = frozenset(("cuda", "hip", "hpu", "ipu", "maia", "meta", "mps", "mtia", "privateuseone", "xla", "xpu"))


def is_autocast_available(device_type: str) -> bool:
    """Whether autocast works on a type of device: on "cpu". RuntimeError for what is no type of device.

    >>> fp.amp.is_autocast_available("cpu"), fp.amp.is_autocast_available("cuda")
    (True, False)
    """
    if not isinstance(device_type, str):
        raise ValueError(f"autocast: expected a device type as a string, such as 'cpu', got {type(device_type).__name__}")
    if device_type != "cpu" and device_type not in _OTHER_DEVICES:
        raise RuntimeError(f"autocast: '{device_type}' is not a device type; Firepot computes on 'cpu'")
    return device_type == "cpu"


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether autocast is on in this thread.

    >>> with fp.autocast("cpu"):
    ...     fp.is_autocast_enabled("cpu")
    True
    """
    return is_autocast_available(device_type) and state.autocast is not None


def set_autocast_enabled(device_type: str, enabled: bool) -> None:
    """Switch autocast on or off in this thread. `fp.autocast` does it for a region."""
    if not is_autocast_available(device_type):
        raise RuntimeError(f"set_autocast_enabled: there is no device '{device_type}'")
    state.autocast = _settings.dtype if enabled else None


def get_autocast_dtype(device_type: str = "cpu") -> DType:
    """The dtype that autocast lowers to in this thread: bfloat16, if nobody chose another."""
    if not is_autocast_available(device_type):
        raise RuntimeError(f"get_autocast_dtype: there is no device '{device_type}'")
    depend_on(lambda: _settings.dtype, "the dtype of autocast")
    return _settings.dtype


def set_autocast_dtype(device_type: str, dtype: DType) -> None:
    """Choose bfloat16 or float16 as the dtype of autocast in this thread; TypeError for others."""
    if not is_autocast_available(device_type):
        raise RuntimeError(f"set_autocast_dtype: there is no device '{device_type}'")
    if dtype not in (dtypes.bfloat16, dtypes.float16):
        raise TypeError(f"set_autocast_dtype: only bfloat16 and float16 are supported, not {dtype.name}")
    _settings.dtype = dtype
    if state.autocast is not None:
        state.autocast = dtype
    state_changed()


def is_autocast_cache_enabled() -> bool:
    """What `cache_enabled` is in this thread. It changes nothing: what is recorded twice is one node."""
    return _settings.cache
