"""Convolutions, sliding windows and embedding look-ups: the primitives that layers are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firepot.graph.dtypes import DType
from firepot.graph.node import apply
from firepot.graph.primitives import contract as cn
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather, views
from firepot.graph.primitives.reduce import reduce
from firepot.tensor import Tensor, caller_site, wrap


def spatial(value: Any, rank: int, what: str) -> tuple[int, ...]:
    """A number or a sequence as one number for each spatial dimension."""
    if isinstance(value, int):
        return (value,) * rank
    result = tuple(int(v) for v in value)
    if len(result) == 1:
        return result * rank
    if len(result) != rank:
        raise RuntimeError(f"{what}: expected one number or {rank}, got {list(result)}")
    return result


def convolution(
    input: Tensor, weight: Tensor, stride: Any = 1, padding: Any = 0, dilation: Any = 1, transposed: bool = False,
    output_padding: Any = 0, groups: int = 1, dtype: DType | None = None,
) -> Tensor:  # fmt: skip
    """Convolution over the last one to three dimensions.

    input (N, C, *S); weight (O, C/groups, *K), or (C, O/groups, *K) when transposed. Result (N, O, *T).
    dtype: of the result of integers where it is not to be theirs; not when transposed.
    Raises RuntimeError on shapes, dtypes or groups that do not fit, naming them.
    """
    what = "conv_transpose" if transposed else "conv"
    rank = weight.ndim - 2
    if rank not in (1, 2, 3) or input.ndim != weight.ndim:
        raise RuntimeError(
            f"{what}: expected input (N, C, …) and weight of equal dimensions (3 to 5), got {list(input.shape)} and "
            f"{list(weight.shape)}"
        )
    if input.dtype is not weight.dtype:
        raise RuntimeError(f"{what}: input is {input.dtype.name} and weight is {weight.dtype.name}; they must be equal")
    strides, paddings, dilations = (spatial(v, rank, what) for v in (stride, padding, dilation))
    extra = spatial(output_padding, rank, what)
    channels, kernel, size = input.shape[1], weight.shape[2:], input.shape[2:]
    if any(s <= 0 for s in strides) or any(d <= 0 for d in dilations) or any(p < 0 for p in paddings):
        raise RuntimeError(
            f"{what}: stride and dilation must be positive and padding not negative, got {strides}, {dilations}, {paddings}"
        )
    expected = weight.shape[0] if transposed else weight.shape[1] * groups
    if channels != expected:
        raise RuntimeError(
            f"{what}: given groups={groups} and weight of size {list(weight.shape)}, expected input{list(input.shape)} to "
            f"have {expected} channels, but got {channels} channels instead"
        )
    if weight.shape[0] % groups:
        raise RuntimeError(f"{what}: the weight's first size {weight.shape[0]} is not divisible by groups={groups}")
    if transposed:
        out = tuple(
            (s - 1) * t - 2 * p + d * (k - 1) + e + 1
            for s, t, p, d, k, e in zip(size, strides, paddings, dilations, kernel, extra, strict=True)
        )
        if any(o <= 0 for o in out):
            raise RuntimeError(f"{what}: the output size {list(out)} would not be positive")
        node = cn.convolve(
            "input_grad", input._node, weight._node, out, kernel, size, strides, paddings, dilations, groups
        )
        return wrap(node)
    out = tuple(
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, t, p, d, k in zip(size, strides, paddings, dilations, kernel, strict=True)
    )
    if any(o <= 0 for o in out):
        raise RuntimeError(
            f"{what}: kernel size {list(kernel)} with dilation {list(dilations)} is greater than the padded input "
            f"{[s + 2 * p for s, p in zip(size, paddings, strict=True)]}"
        )
    return wrap(
        cn.convolve("forward", input._node, weight._node, size, kernel, out, strides, paddings, dilations, groups, dtype)
    )


def windows(
    input: Tensor, kernel_size: Any, stride: Any, padding: Any = 0, dilation: Any = 1, fill: float = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Sliding windows: (…, *S) -> (…, *T, *K) over the last dimensions, `fill` outside the input."""
    rank = len(kernel_size)
    kernel = tuple(kernel_size)
    strides, paddings, dilations = (spatial(v, rank, "windows") for v in (stride, padding, dilation))
    size = input.shape[-rank:]
    out = tuple(output_size) if output_size is not None else tuple(
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, t, p, d, k in zip(size, strides, paddings, dilations, kernel, strict=True)
    )  # fmt: skip
    if any(o <= 0 for o in out):
        raise RuntimeError(f"pooling: kernel {list(kernel)} is greater than the padded input {list(size)}")
    return wrap(views.windows(input._node, out, kernel, strides, dilations, paddings, fill))


def overlap_add(
    windows: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """The transpose of `windows`: (…, *T, *K) summed at the positions they were read from, (…, *size)."""
    rank = len(size)
    out, kernel = windows.shape[-2 * rank : -rank], windows.shape[-rank:]
    params = (tuple(size), out, kernel, tuple(stride), tuple(dilation), tuple(padding))
    spread = apply(views.spread_windows, (windows._node,), params)
    axes = tuple(range(len(spread.shape) - rank, len(spread.shape)))
    return wrap(reduce("sum", spread, axes))


def check_index(index: Tensor, size: int, what: str) -> Tensor:
    """The index as int64, checked at run time to lie in 0 … size − 1.

    `what` may use {index}. IndexError is raised when the program that uses the index has run, naming the caller's line.
    """
    message = f"{what} (at {caller_site()})"
    return wrap(ew.check_index(index._node, size, message, negative=False))


def gather_rows(weight: Tensor, index: Tensor) -> Tensor:
    """Rows of a matrix: (V, *R), (*I) -> (*I, *R)."""
    checked = check_index(
        index, weight.shape[0], f"embedding: index {{index}} is out of range for {weight.shape[0]} rows"
    )
    return wrap(gather.take(weight._node, [checked._node], (0,)))
