"""Element types and their promotion.

The set, the names and the promotion rules are PyTorch's: a category order bool < integer < floating < complex,
in which a Python number or a 0-d tensor only raises the category of the other operand, never its width.
A complex number lies in memory as its real part followed by its imaginary part.
bfloat16 has no NumPy dtype; its values travel through NumPy as uint16 bit patterns or as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class DType:
    """An element type. Instances are singletons, compared by identity."""

    name: str
    size: int  # bytes per element
    kind: str  # 'b' bool, 'i' signed, 'u' unsigned, 'f' floating, 'c' complex
    numpy: Any  # the NumPy dtype that holds the bits

    def __repr__(self) -> str:
        return f"firepot.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (by_name, (self.name,))

    @property
    def is_floating_point(self) -> bool:
        return self.kind == "f"

    @property
    def is_complex(self) -> bool:
        return self.kind == "c"

    @property
    def is_inexact(self) -> bool:
        """Floating point or complex: what can be differentiated."""
        return self.kind in "fc"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_signed(self) -> bool:
        return self.kind in "ifc"

    def to_real(self) -> DType:
        """The dtype of the parts of complex numbers; of other dtypes, the dtype itself."""
        return {complex64: float32, complex128: float64}.get(self, self)

    def to_complex(self) -> DType:
        """The complex dtype whose parts have this floating dtype (complex64 for half precision, whose complex dtype
        Firepot lacks)."""
        if self.kind == "c":
            return self
        return complex128 if self is float64 else complex64

    @property
    def itemsize(self) -> int:
        return self.size


bool_ = DType("bool", 1, "b", np.dtype(np.bool_))
uint8 = DType("uint8", 1, "u", np.dtype(np.uint8))
uint16 = DType("uint16", 2, "u", np.dtype(np.uint16))
uint32 = DType("uint32", 4, "u", np.dtype(np.uint32))
uint64 = DType("uint64", 8, "u", np.dtype(np.uint64))
int8 = DType("int8", 1, "i", np.dtype(np.int8))
int16 = DType("int16", 2, "i", np.dtype(np.int16))
int32 = DType("int32", 4, "i", np.dtype(np.int32))
int64 = DType("int64", 8, "i", np.dtype(np.int64))
float16 = DType("float16", 2, "f", np.dtype(np.float16))
bfloat16 = DType("bfloat16", 2, "f", np.dtype(np.uint16))
float32 = DType("float32", 4, "f", np.dtype(np.float32))
float64 = DType("float64", 8, "f", np.dtype(np.float64))
complex64 = DType("complex64", 8, "c", np.dtype(np.complex64))
complex128 = DType("complex128", 16, "c", np.dtype(np.complex128))

ALL = (
    bool_, uint8, uint16, uint32, uint64, int8, int16, int32, int64,
    float16, bfloat16, float32, float64, complex64, complex128,
)  # fmt: skip
_BY_NAME = {d.name: d for d in ALL}
_BY_NUMPY = {d.numpy: d for d in ALL if d is not bfloat16}


def by_name(name: str) -> DType:
    return _BY_NAME[name]


def from_numpy(dtype: Any) -> DType:
    """The element type that holds a NumPy dtype's values. Raises TypeError where there is none."""
    given = np.dtype(dtype)
    if given.kind == "V" and given.name == "bfloat16":  # registered by ml_dtypes
        return bfloat16
    found = _BY_NUMPY.get(given.newbyteorder("="))
    if found is None:
        raise TypeError(
            f"firepot has no dtype for NumPy's {np.dtype(dtype)}; convert the array first, "
            f"for instance to one of: {', '.join(d.name for d in ALL)}"
        )
    return found


CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}


def promote(a: DType, b: DType) -> DType:
    """The common type of two tensors of equal standing (both with dimensions, or both without)."""
    if a is b:
        return a
    if CATEGORY[a.kind] != CATEGORY[b.kind]:
        higher, lower = (a, b) if CATEGORY[a.kind] > CATEGORY[b.kind] else (b, a)
        if higher.kind == "c" and lower.kind == "f" and lower.to_complex().size > higher.size:
            return lower.to_complex()
        return higher
    if a.is_inexact:
        if a.size == b.size:  # float16 with bfloat16
            return float32
        return a if a.size > b.size else b
    if a.kind == b.kind:
        return a if a.size > b.size else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    if signed.size > unsigned.size:
        return signed
    wider = {1: int16, 2: int32, 4: int64}.get(unsigned.size)
    if wider is None:
        raise TypeError(
            f"Promotion of {a.name} with {b.name} has no integer type wide enough; convert one operand with .to(dtype)"
        )
    return wider


def result_type(tensors: list[tuple[DType, int]], scalars: list[DType]) -> DType:
    """PyTorch's promotion over (dtype, number of dimensions) of tensors and default dtypes of Python numbers.

    Operands with dimensions decide; 0-d tensors and then Python numbers count only if their category
    (bool < integer < floating < complex) is higher than what was found before. A complex number beside floating
    operands makes them complex without changing their precision.
    """
    result: DType | None = None
    groups = ([d for d, n in tensors if n > 0], [d for d, n in tensors if n == 0], scalars)
    for group in groups:
        if not group:
            continue
        common = group[0]
        for d in group[1:]:
            common = promote(common, d)
        if result is not None and result.kind == "f" and common.kind == "c":
            result = result.to_complex()
        elif result is None or CATEGORY[common.kind] > CATEGORY[result.kind]:
            result = common
    assert result is not None
    return result
