"""What a contraction does with a finished piece of its result, still in registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.index import Axis
from firepot.kernels.llvm import nest_description
from firepot.kernels.llvm.builder import Builder, Operand, Value, overload, scalar_type, vector
from firepot.kernels.llvm.expression import Evaluator, Scope, memory_type, to_memory
from firepot.kernels.llvm.nest_plan import fold_aliases
from firepot.kernels.loops import Finished, Nest, Reduce, Store

if TYPE_CHECKING:
    from firepot.kernels.llvm.convolution_folds import Run


class Epilogue(Protocol):
    """The fusion interface of matrix products and convolutions."""

    @property
    def key(self) -> str:
        """Everything the code depends on; part of the kernel's key."""

    @property
    def operands(self) -> int:
        """How many operands of the kernel are the epilogue's; they follow the contraction's own two."""

    @property
    def large(self) -> bool:
        """Whether its code should stand once in a loop rather than once for each vector of a tile."""

    def emit(
        self, b: Builder, index: tuple[Operand, ...], value: Value, mask: Value | None, run: Run | None = None
    ) -> None:
        """Take `value.lanes` finished elements, in the accumulator's dtype.

        Args:
            index: logical coordinates of lane 0 as i64; lane i lies i further along the last coordinate.
            mask: the lanes that exist, or None for all.
            run: where the elements are folded, the folds of their neighbours.
        """

    def prefetch(self, b: Builder, index: tuple[Operand, ...], lanes: int) -> None:
        """Have the memory fetched that `emit` will read and write for `lanes` elements from `index` on."""


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

    @property
    def large(self) -> bool:
        return False

    def emit(
        self, b: Builder, index: tuple[Operand, ...], value: Value, mask: Value | None, run: Run | None = None
    ) -> None:
        place = self._place(b, index)
        store_lanes(b, b.operand(self.operand), place, self.strides[self.lane], self.dtype, value, mask)

    def prefetch(self, b: Builder, index: tuple[Operand, ...], lanes: int) -> None:
        if self.strides[self.lane] == 1:
            b.prefetch(b.element(b.operand(self.operand), memory_type(self.dtype), self._place(b, index)), write=True)

    def _place(self, b: Builder, index: tuple[Operand, ...]) -> Value:
        place = b.index(0)
        for i, stride in zip(index, self.strides, strict=True):
            if stride and not (isinstance(i, int) and i == 0):
                place = b.add(place, b.mul(b.index(i), stride))
        return place


@dataclass(frozen=True)
class NestEpilogue:
    """The stores of a loop nest over the contraction's axes, which read its elements as `finished`.

    coordinates: axes in the order of those that `emit` is given, the nest's if they are not said; spatial dimensions
    that are lacking have one position. Lanes run along the axis number `lane`. A nest that folds has only that axis;
    its stages over all the others go over the elements, what follows them over the folds (convolution_folds.py).
    """

    nest: Nest
    finished: Finished
    lane: int = -1
    coordinates: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        if not self.coordinates:
            object.__setattr__(self, "coordinates", self.nest.axes)

    @property
    def folds(self) -> bool:
        return any(isinstance(stage, Reduce) for stage in self.nest.stages)

    @property
    def key(self) -> str:
        return f"nest {self.lane} {nest_description.describe(self.nest)}"

    @property
    def operands(self) -> int:
        return len(self.nest.operands)

    @property
    def large(self) -> bool:
        return True

    @property
    def aliases(self) -> frozenset[tuple[int, int]]:
        """(operand read, operand written) of the kernel that may be the same memory."""
        pairs = fold_aliases(self.nest) if self.folds else nest_description.aliases(self.nest)
        return frozenset((2 + read, 2 + written) for read, written in pairs)

    @property
    def flops(self) -> int:
        return nest_description.operations(self.nest)

    @property
    def bytes(self) -> int:
        """Memory traffic of its operands."""
        return nest_description.traffic(self.nest)

    @property
    def label(self) -> str:
        return nest_description.label(self.nest)

    def emit(
        self, b: Builder, index: tuple[Operand, ...], value: Value, mask: Value | None, run: Run | None = None
    ) -> None:
        evaluator = self.evaluator(b, index, value, mask, run)
        stages = [stage for stage in self.nest.stages if stage.axes or run is None]
        for stage in stages:  # all before the first is written: one may lie over what another reads
            evaluator.expr(stage.value)
        for stage in stages:
            if isinstance(stage, Store):
                evaluator.store(stage.operand, stage.offset, stage.value, self.nest.operands[stage.operand][0])
            else:
                assert run is not None
                run.add(b, stage, evaluator.vector(stage.value))

    def prefetch(self, b: Builder, index: tuple[Operand, ...], lanes: int) -> None:
        evaluator = self._evaluator(b, index, lanes, None, None)
        for load in nest_description.loads(self.nest):
            evaluator.prefetch(load.operand, load.offset, load.dtype, write=False)
        for stage in self.nest.stages:
            if isinstance(stage, Store):
                evaluator.prefetch(stage.operand, stage.offset, self.nest.operands[stage.operand][0], write=True)

    def evaluator(
        self, b: Builder, index: tuple[Operand, ...], value: Value, mask: Value | None, run: Run | None
    ) -> Evaluator:
        """What writes expressions of the elements given as to `emit`."""
        if self.finished.dtype in (dtypes.float16, dtypes.bfloat16):  # rounded as if it had been stored
            short = b.convert("fptrunc", value, vector(scalar_type(self.finished.dtype), value.lanes))
            value = b.convert("fpext", short, value.type)
        evaluator = self._evaluator(b, index, value.lanes, mask, run)
        evaluator.scope.values[(self.finished, value.lanes > 1)] = value
        return evaluator

    def _evaluator(
        self, b: Builder, index: tuple[Operand, ...], lanes: int, mask: Value | None, run: Run | None
    ) -> Evaluator:
        """What writes expressions at `lanes` elements from `index` on, but the finished ones'."""
        axes = self.coordinates
        index = (*index[:2], *index[len(index) - len(axes) + 2 :])
        coordinates = {axis: b.index(i) for axis, i in zip(axes, index, strict=True)}
        scope = Scope(coordinates) if run is None else run.scope.inside(coordinates)
        pointers = [b.operand(2 + i) for i in range(len(self.nest.operands))]
        return Evaluator(b, pointers, axes[self.lane], lanes, mask, scope, {})


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
