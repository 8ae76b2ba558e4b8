"""DLPack capsules: arrays handed from library to library in memory, element types included that NumPy lacks.

capsule = export(array, "bfloat16")     # of NumPy's uint16, which holds the bits
array, name = take(source)              # a NumPy array over the memory of another library's tensor

NumPy makes and reads the capsules. It has no bfloat16, whose bits travel as uint16: only the type that the capsule
names is changed. Layouts: https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CPU = (1, 0)  # DLPack's number of the device type, and which of them
_UINT, _BFLOAT = 1, 4  # DLPack's codes of two kinds of elements


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    """DLTensor, and the head of DLManagedTensor, which a capsule named "dltensor" holds."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("dtype", _DataType), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned, which a capsule named "dltensor_versioned" holds."""

    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", _Tensor),
    )  # fmt: skip


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_named = ctypes.pythonapi.PyCapsule_IsValid
_named.restype, _named.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


def _dtype_in(capsule: Any) -> _DataType:
    """The element type that a capsule names, to read and to change. BufferError for a capsule of something else."""
    if _named(capsule, b"dltensor_versioned"):
        return _Versioned.from_address(_pointer(capsule, b"dltensor_versioned")).tensor.dtype
    if _named(capsule, b"dltensor"):
        return _Tensor.from_address(_pointer(capsule, b"dltensor")).dtype
    raise BufferError("from_dlpack: the capsule holds no DLPack tensor; each can be taken only once")


def export(array: np.ndarray[Any, Any], name: str, **options: Any) -> Any:
    """A capsule over the memory of `array`, whose elements are of the dtype `name`.

    Args:
        options: of the protocol's `__dlpack__`: stream, max_version, dl_device, copy.

    Raises BufferError for another device.
    """
    device = options.pop("dl_device", None)
    if device is not None and tuple(device) != CPU:
        raise BufferError(f"__dlpack__: the tensor is on the CPU, DLPack device {CPU}, and cannot be given on {device}")
    capsule = array.__dlpack__(**options)
    if name == "bfloat16":
        _dtype_in(capsule).code = _BFLOAT
    return capsule


class _Holder:
    """A capsule as an object that exports it, which is what NumPy takes."""

    def __init__(self, capsule: Any, device: Any) -> None:
        self.capsule, self.device = capsule, device

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> Any:
        return self.device


def take(source: Any) -> tuple[np.ndarray[Any, Any], str | None]:
    """An array over the memory that `source` exports, and the name of its dtype where NumPy has none.

    Args:
        source: an object with `__dlpack__`, or a capsule.

    Raises TypeError for other objects, BufferError for memory that is not the CPU's and element types without a
    counterpart, and whatever the source raises.
    """
    if type(source).__name__ == "PyCapsule":
        capsule, device = source, CPU
    elif hasattr(source, "__dlpack__") and hasattr(source, "__dlpack_device__"):
        device = source.__dlpack_device__()
        try:
            capsule = source.__dlpack__(max_version=(1, 0))
        except TypeError:  # written before capsules had versions
            capsule = source.__dlpack__()
    else:
        raise TypeError(f"from_dlpack: expected an object with __dlpack__ and __dlpack_device__, got {type(source).__name__}")
    dtype = _dtype_in(capsule)
    name = None
    if dtype.code == _BFLOAT and dtype.bits == 16 and dtype.lanes == 1:
        dtype.code, name = _UINT, "bfloat16"
    try:
        return np.from_dlpack(_Holder(capsule, device)), name
    except RuntimeError as error:
        raise BufferError(f"from_dlpack: {error}") from None
