"""What a contraction does with a finished piece of its result, still in registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from firepot.graph.dtypes import DType
from firepot.kernels.llvm.builder import Builder, Operand, Value, overload, vector
from firepot.kernels.llvm.expression import memory_type, to_memory


class Epilogue(Protocol):
    """The fusion interface of matrix products and convolutions."""

    @property
    def key(self) -> str:
        """Everything the code depends on; part of the kernel's key."""

    @property
    def operands(self) -> int:
        """How many operands of the kernel are the epilogue's; they follow the contraction's own two."""

    def emit(self, b: Builder, index: tuple[Operand, ...], value: Value, mask: Value | None) -> None:
        """Take `value.lanes` finished elements, in the accumulator's dtype.

        Args:
            index: logical coordinates of lane 0 as i64; lane i lies i further along the last coordinate.
            mask: the lanes that exist, or None for all.
        """


@dataclass(frozen=True)
class StoreEpilogue:
    """Convert to `dtype` and store by element strides in one operand. `lane`: the coordinate that lanes run along."""

    operand: int
    strides: tuple[int, ...]
    dtype: DType
    lane: int = -1

    @property
    def key(self) -> str:
        return f"store {self.operand} {self.strides} {self.dtype.name} {self.lane}"

    @property
    def operands(self) -> int:
        return 1

    def emit(self, b: Builder, index: tuple[Operand, ...], value: Value, mask: Value | None) -> None:
        place = b.index(0)
        for i, stride in zip(index, self.strides, strict=True):
            if stride and not (isinstance(i, int) and i == 0):
                place = b.add(place, b.mul(b.index(i), stride))
        store_lanes(b, b.operand(self.operand), place, self.strides[self.lane], self.dtype, value, mask)


def store_lanes(
    b: Builder, pointer: Value, place: Value, stride: int, dtype: DType, value: Value, mask: Value | None
) -> None:
    """Store a vector whose lanes lie `stride` elements apart, the first at `place`."""
    raw = to_memory(b, value, dtype)
    element = memory_type(dtype)
    address = b.element(pointer, element, place)
    lanes = value.lanes
    if lanes == 1:
        b.store(raw, address)
    elif stride == 1:
        if mask is None:
            b.store(raw, address)
        else:
            b.masked_store(raw, address, mask)
    else:
        steps = b.mul(b.lane_numbers(lanes), b.constant(stride, vector("i64", lanes)))
        addresses = b.emit(vector("ptr", lanes), f"getelementptr inbounds {element}, {address!r}, {steps!r}")
        mask = mask if mask is not None else b.constant(True, vector("i1", lanes))
        b.intrinsic(
            "llvm.masked.scatter", "void", raw, addresses, b.constant(dtype.size, "i32"), mask,
            suffix=f"{overload(raw.type)}.v{lanes}p0",
        )  # fmt: skip
