"""Tensors as text, in PyTorch's manner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from firepot.graph import dtypes
from firepot.graph.dtypes import DType

if TYPE_CHECKING:
    from firepot.tensor import Tensor


def _number_format(array: np.ndarray[Any, Any]) -> Callable[[float], str]:
    """How PyTorch writes the numbers of a tensor: whole, with four decimals, or with exponents where sizes differ."""
    if array.size > 1000:  # what is shown decides, which is the edges
        for axis, size in enumerate(array.shape):
            if size > 6:
                array = np.concatenate(
                    [np.take(array, range(3), axis), np.take(array, range(size - 3, size), axis)], axis
                )
    numbers = np.abs(array[np.isfinite(array) & (array != 0)])
    whole = bool(np.all(numbers == np.ceil(numbers)))
    low, high = numbers.min(initial=np.inf), numbers.max(initial=0.0)
    exponents = numbers.size and (high / low > 1000 or high > 1e8 or (not whole and low < 1e-4))
    spec = ".4e" if exponents else ".0f" if whole else ".4f"
    end = "." if whole and not exponents else ""
    shown = array[np.isfinite(array) & (array != 0)]
    width = max((len(format(v, spec) + end) for v in shown.ravel()), default=2 if end else 1)

    def write(value: float) -> str:
        return (format(value, spec) + (end if np.isfinite(value) else "")).rjust(width)

    return write


def text(tensor: Tensor, array: np.ndarray[Any, Any], default: DType) -> str:
    """A tensor with these values as PyTorch prints it; the dtypes that go without saying are `default`, int64 and bool."""
    options: dict[str, Any] = {
        "separator": ", ", "prefix": "tensor(", "threshold": 1000, "edgeitems": 3, "max_line_width": 80,
    }  # fmt: skip
    if array.dtype.kind == "c":
        default = default.to_complex()
        real, imag = (_number_format(part.astype(np.float64)) for part in (array.real, array.imag))

        def write(value: complex) -> str:
            second = imag(value.imag).lstrip() + "j"
            return real(value.real) + ("" if second[0] in "+-" else "+") + second

        options["formatter"] = {"complex_kind": write}
    if array.dtype.kind == "f":
        options["formatter"] = {"float_kind": _number_format(array.astype(np.float64))}
    body = np.array2string(array, **options).replace(", ...,", ",  ...,")
    notes = []
    if array.size == 0 and array.ndim != 1:
        notes.append(f"size={tuple(tensor.shape)}")
    if tensor.dtype not in (default, dtypes.int64, dtypes.bool_) or (
        array.size == 0 and tensor.dtype is dtypes.int64
    ):
        notes.append(f"dtype={tensor.dtype!r}")
    if tensor.requires_grad:
        if tensor.is_leaf:
            notes.append("requires_grad=True")
        else:
            notes.append(f"grad_fn=<{tensor._value.primitive.name.title().replace('_', '')}Backward>")
    return f"tensor({', '.join([body, *notes])})"
