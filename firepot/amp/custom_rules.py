"""How a custom autograd Function meets autocast: decorators for its forward and its backward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from firepot.autocast_mode import autocast, get_autocast_dtype, is_autocast_enabled
from firepot.graph.dtypes import DType
from firepot.tensor import Tensor


def _cast(value: Any, dtype: DType) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype.is_floating_point and value.dtype.size != 8 else value
    if isinstance(value, dict):
        return {_cast(k, dtype): _cast(v, dtype) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_cast(v, dtype) for v in value])
    return value


def custom_fwd(
    fwd: Callable[..., Any] | None = None, *, device_type: str, cast_inputs: DType | None = None
) -> Callable[..., Any]:
    """Decorate `forward` of a `fp.autograd.Function` that is used under autocast.

    cast_inputs: convert floating inputs (but float64) to this dtype where autocast is on, and compute without it.
    Without it, forward runs under the autocast of its caller, and `custom_bwd` makes backward do likewise.

    >>> class Product(fp.autograd.Function):
    ...     @staticmethod
    ...     @fp.amp.custom_fwd(device_type="cpu")
    ...     def forward(ctx, a, b):
    ...         ctx.save_for_backward(a, b)
    ...         return a @ b
    ...     @staticmethod
    ...     @fp.amp.custom_bwd(device_type="cpu")
    ...     def backward(ctx, g):
    ...         a, b = ctx.saved_tensors
    ...         return g @ b.mT, a.mT @ g
    >>> a = fp.ones(2, 2, requires_grad=True)
    >>> with fp.autocast("cpu"):
    ...     y = Product.apply(a, fp.ones(2, 2))
    >>> y.sum().backward()
    >>> y.dtype, a.grad.dtype
    (firepot.bfloat16, firepot.float32)
    """
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        enabled = is_autocast_enabled(device_type)
        ctx._autocast_dtype = get_autocast_dtype(device_type)
        ctx._forward_used_autocast = enabled and cast_inputs is None
        if cast_inputs is None or not enabled:
            return fwd(ctx, *args, **kwargs)
        with autocast(device_type, enabled=False):
            return fwd(ctx, *_cast(args, cast_inputs), **_cast(kwargs, cast_inputs))

    return forward


def custom_bwd(bwd: Callable[..., Any] | None = None, *, device_type: str) -> Callable[..., Any]:
    """Decorate `backward` of a `fp.autograd.Function`: it runs under the autocast that forward ran under.

    Its forward must be decorated with `custom_fwd`.
    """
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def backward(ctx: Any, *gradients: Any) -> Any:
        with autocast(device_type, ctx._autocast_dtype, enabled=ctx._forward_used_autocast):
            return bwd(ctx, *gradients)

    return backward
