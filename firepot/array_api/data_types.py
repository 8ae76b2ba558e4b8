"""Data types: conversion, limits, kinds, promotion."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

from firepot import ops
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.tensor import Device, Tensor, default_dtype

__all__ = ["astype", "can_cast", "finfo", "iinfo", "isdtype", "result_type"]

_BOOL = (dtypes.bool_,)
_SIGNED = (dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64)
_UNSIGNED = (dtypes.uint8, dtypes.uint16, dtypes.uint32, dtypes.uint64)
_REAL = (dtypes.float32, dtypes.float64)
_COMPLEX = (dtypes.complex64, dtypes.complex128)
KINDS: dict[str, tuple[DType, ...]] = {
    "bool": _BOOL,
    "signed integer": _SIGNED,
    "unsigned integer": _UNSIGNED,
    "integral": _SIGNED + _UNSIGNED,
    "real floating": _REAL,
    "complex floating": _COMPLEX,
    "numeric": _SIGNED + _UNSIGNED + _REAL + _COMPLEX,
}


def astype(x: Tensor, dtype: DType, /, *, copy: builtins.bool = True, device: Any = None) -> Tensor:
    """`x` as another dtype. Tensors never share memory that can be written, so `copy` changes nothing that is seen."""
    if device is not None:
        Device(device)
    return x.to(dtype)


def can_cast(from_: DType | Tensor, to: DType, /) -> builtins.bool:
    """Whether promotion leads from one dtype to the other, within a kind: integers do not promote to floating."""
    source = from_.dtype if isinstance(from_, Tensor) else from_
    kinds = {"integer" if d.is_integer else "floating" if d.is_inexact else d.kind for d in (source, to)}
    if len(kinds) > 1 or (dtypes.uint64 in (source, to) and "i" in (source.kind, to.kind)):
        return False
    return dtypes.promote(source, to) is to


@dataclass(frozen=True)
class FloatingLimits:
    """What `finfo` tells."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class IntegerLimits:
    """What `iinfo` tells."""

    bits: int
    max: int
    min: int
    dtype: DType


def finfo(type: DType | Tensor, /) -> FloatingLimits:
    """The limits of a floating dtype, or of the parts of a complex one. Raises TypeError for others."""
    dtype = (type.dtype if isinstance(type, Tensor) else type).to_real()
    found = ops.finfo(dtype)
    return FloatingLimits(found.bits, found.eps, found.max, found.min, found.smallest_normal, dtype)


def iinfo(type: DType | Tensor, /) -> IntegerLimits:
    """The limits of an integer dtype. Raises TypeError for others."""
    dtype = type.dtype if isinstance(type, Tensor) else type
    found = ops.iinfo(dtype)
    return IntegerLimits(found.bits, found.max, found.min, dtype)


def isdtype(dtype: DType, kind: DType | str | tuple[DType | str, ...]) -> builtins.bool:
    """Whether a dtype is, or is of, one of the kinds.

    Raises ValueError for a kind that the standard does not name.
    """
    if isinstance(kind, tuple):
        return builtins.any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, DType):
        return dtype is kind
    if kind not in KINDS:
        raise ValueError(f"isdtype: there is no kind {kind!r}; there are {', '.join(map(repr, KINDS))}")
    return dtype in KINDS[kind]


def result_type(*arrays_and_dtypes: Tensor | DType | builtins.bool | int | float | complex) -> DType:
    """The dtype that an operation on all of them has. Python numbers count only by their kind.

    Unlike PyTorch's, an array without dimensions counts as any other.

    Raises TypeError for uint64 with a signed integer, whose values no integer dtype holds; ValueError without
    an array or dtype.
    """
    strong: list[DType] = []
    weak: list[Any] = []
    for given in arrays_and_dtypes:
        if isinstance(given, Tensor):
            strong.append(given.dtype)
        elif isinstance(given, DType):
            strong.append(given)
        else:
            weak.append(given)
    if not strong:
        raise ValueError("result_type: give at least one array or dtype")
    result = strong[0]
    for other in strong[1:]:
        result = dtypes.promote(result, other)
    for number in weak:
        result = _with_number(result, number)
    return result


def _with_number(dtype: DType, number: builtins.bool | int | float | complex) -> DType:
    if not isinstance(number, (int, float, complex)):
        raise TypeError(f"result_type: {type(number).__name__} is no array, dtype or number")
    if isinstance(number, complex):
        return dtype.to_complex() if dtype.is_inexact else default_dtype().to_complex()
    if isinstance(number, builtins.bool) or dtype.is_inexact or (isinstance(number, int) and dtype.is_integer):
        return dtype
    return default_dtype() if isinstance(number, float) else dtypes.int64


def common(*arrays: Tensor | builtins.bool | int | float | complex) -> list[Tensor]:
    """Arrays and numbers as arrays of their common dtype."""
    dtype = result_type(*arrays)
    return [a.to(dtype) if isinstance(a, Tensor) else ops.full((), a, dtype=dtype) for a in arrays]
