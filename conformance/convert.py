"""Values of PyTorch as values of Firepot and back."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import firepot as fp


class Untranslatable(Exception):
    """A value that Firepot has no counterpart of; the text says which."""


DTYPES = {
    torch.bool: fp.bool, torch.uint8: fp.uint8, torch.uint16: fp.uint16, torch.uint32: fp.uint32,
    torch.uint64: fp.uint64, torch.int8: fp.int8, torch.int16: fp.int16, torch.int32: fp.int32, torch.int64: fp.int64,
    torch.float16: fp.float16, torch.bfloat16: fp.bfloat16, torch.float32: fp.float32, torch.float64: fp.float64,
    torch.complex64: fp.complex64, torch.complex128: fp.complex128,
}  # fmt: skip
_BACK = {ours: theirs for theirs, ours in DTYPES.items()}


def tensor(value: torch.Tensor) -> fp.Tensor:
    """A Firepot tensor with the same elements, dtype and requires_grad."""
    if value.layout is not torch.strided:
        raise Untranslatable("sparse tensors")
    if value.dtype not in DTYPES:
        raise Untranslatable(str(value.dtype))
    if value.dim() > 64:
        raise Untranslatable("more than the 64 dimensions that NumPy carries")
    if value.device.type != "cpu":
        raise Untranslatable(f"tensors on the device '{value.device.type}'")
    plain = value.detach().resolve_conj().resolve_neg().contiguous()
    if value.dtype is torch.bfloat16:
        result = fp.from_numpy(plain.float().numpy()).to(fp.bfloat16)
    else:
        result = fp.from_numpy(plain.numpy())
    return result.requires_grad_() if value.requires_grad else result


def value(given: Any, known: dict[int, fp.Tensor] | None = None) -> Any:
    """Any argument of a sample, containers included. What was one tensor is one tensor: its derivatives add up."""
    known = {} if known is None else known
    if isinstance(given, torch.Tensor):
        if id(given) not in known:
            known[id(given)] = tensor(given)
        return known[id(given)]
    if isinstance(given, torch.dtype):
        if given not in DTYPES:
            raise Untranslatable(str(given))
        return DTYPES[given]
    if isinstance(given, torch.device):
        return given.type
    if isinstance(given, (torch.memory_format, torch.layout)):
        if "sparse" in str(given):
            raise Untranslatable("sparse tensors")
        return None  # how elements lie is the compiler's business
    if type(given).__name__ == "LinearCrossEntropyOptions":
        return None  # how PyTorch saves memory
    if isinstance(given, torch.Size):
        return tuple(given)
    if isinstance(given, dict):
        return {k: value(v, known) for k, v in given.items()}
    if isinstance(given, (list, tuple)):
        return type(given)(value(v, known) for v in given)
    if isinstance(given, torch.nn.Module):
        kind = getattr(fp.nn, type(given).__name__, None)
        if kind is None or list(given.parameters()):
            raise Untranslatable(f"a {type(given).__name__} as an argument")
        return kind()
    return given


def back(given: fp.Tensor) -> torch.Tensor:
    """A PyTorch tensor with the elements of a Firepot tensor."""
    array = np.array(given.detach()._array("comparison"))
    if given.dtype is fp.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def flatten(given: Any) -> Iterator[Any]:
    """The tensors and plain values of a result, in order."""
    if isinstance(given, dict):
        for v in given.values():
            yield from flatten(v)
    elif isinstance(given, (list, tuple)):
        for v in given:
            yield from flatten(v)
    else:
        yield given


# Relative and absolute tolerance by dtype: PyTorch's own defaults, wider by the factor of sums in another order.
TOLERANCE = {
    torch.float64: (1e-7, 1e-7), torch.float32: (2e-5, 2e-5), torch.float16: (4e-3, 4e-3),
    torch.bfloat16: (3.2e-2, 3.2e-2), torch.complex64: (2e-5, 2e-5), torch.complex128: (1e-7, 1e-7),
}  # fmt: skip


def difference(ours: Any, theirs: Any, exact: torch.Tensor | None = None, shape_only: bool = False) -> str | None:
    """What is wrong with a result, in words; None where it agrees.

    Args:
        exact: PyTorch's result in float64 (complex128). Where the two differ, ours is right if it is as near to that as PyTorch's.
        shape_only: of random results, only shape and dtype can agree.
    """
    if not isinstance(theirs, torch.Tensor):
        if isinstance(theirs, torch.dtype):
            return None if DTYPES.get(theirs) is ours else f"gave {ours}, expected {theirs}"
        plain = ours.item() if isinstance(ours, fp.Tensor) else ours
        if isinstance(theirs, float) and isinstance(plain, (int, float)):
            same = plain == theirs or math.isclose(plain, theirs, rel_tol=1e-5, abs_tol=1e-6)
            return None if same or shape_only or (plain != plain and theirs != theirs) else f"gave {plain}, expected {theirs}"
        if isinstance(theirs, complex) and isinstance(plain, complex) and cmath.isclose(plain, theirs, rel_tol=1e-5):
            return None
        return None if plain == theirs or shape_only else f"gave {plain!r}, expected {theirs!r}"
    if not isinstance(ours, fp.Tensor):
        return f"gave {type(ours).__name__}, expected a tensor"
    if tuple(ours.shape) != tuple(theirs.shape):
        return f"shape {list(ours.shape)}, expected {list(theirs.shape)}"
    if _BACK[ours.dtype] is not theirs.dtype:
        return f"dtype {ours.dtype.name}, expected {str(theirs.dtype).removeprefix('torch.')}"
    if shape_only:
        return None
    mine, theirs = back(ours), theirs.detach().resolve_conj().resolve_neg()
    if not (theirs.is_floating_point() or theirs.is_complex()):
        wrong = int((mine != theirs).sum())
        return f"{wrong} of {theirs.numel()} elements differ" + _first(mine, theirs, mine != theirs) if wrong else None
    relative, absolute = TOLERANCE[theirs.dtype]
    near = torch.isclose(mine, theirs, rtol=relative, atol=absolute, equal_nan=True)
    if exact is not None and not bool(near.all()) and exact.shape == theirs.shape:
        # Sums of terms that nearly cancel are as exact as their largest neighbours.
        size = torch.nan_to_num(exact, 0.0, 0.0, 0.0).abs().max()
        allowed = 2 * (theirs.to(exact.dtype) - exact).abs() + relative * (exact.abs() + size / 10) + absolute
        near = near | ((mine.to(exact.dtype) - exact).abs() <= allowed)
        # Where PyTorch's half precision overflows on the way to a number that it can represent.
        overflown = ~torch.isfinite(theirs) & torch.isfinite(exact)
        size = torch.where(torch.isfinite(exact), exact.abs(), 0)
        near = near | overflown & ((mine.to(exact.dtype) - exact).abs() <= relative * (size + size.max() / 10) + absolute)
    wrong = int((~near).sum())
    return f"{wrong} of {theirs.numel()} elements differ" + _first(mine, theirs, ~near) if wrong else None


def _first(mine: torch.Tensor, theirs: torch.Tensor, wrong: torch.Tensor) -> str:
    return f" ({mine[wrong].flatten()[0].item():.7g} for {theirs[wrong].flatten()[0].item():.7g})"
