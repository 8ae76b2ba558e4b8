"""The register tile: the innermost loop of every contraction.

R rows by V vectors of accumulators stay in registers while k runs; each step loads V vectors of one operand and
broadcasts R numbers of the other. On 32 registers 14 × 2 asks the cache for the least per multiply-add.

Panels that do not stay in a core's own caches come from the last-level cache, which may take long to answer. So while
tiles are multiplied by one panel, the next is asked for, a few lines in each group of steps (`NextPanel`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from firepot.graph.dtypes import DType
from firepot.kernels.llvm.builder import Builder, Operand, Value, vector
from firepot.kernels.llvm.dots import WORD, dot
from firepot.kernels.llvm.expression import register_type

GROUP = 4  # steps along k that stand in the code one after the other
_LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class TileShape:
    """rows × (vectors · lanes) accumulators."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


def choose_tile(
    rows: int, columns: int, lanes: int, registers: int, row_limit: int = 64, inexact_limit: int = 64
) -> TileShape:
    """The tile that wastes least on a rows × columns result: fewest steps in all, counted in register operations.

    row_limit, inexact_limit: the most rows of a tile, and of one whose rows do not divide the result's
    """
    best: tuple[float, TileShape] | None = None
    for vectors in (2, 4, 3, 1):
        if vectors > 1 and (vectors - 1) * lanes >= columns:
            continue
        most = min((registers - 1 - vectors) // vectors, row_limit)
        column_tiles = math.ceil(columns / (vectors * lanes))
        for tile_rows in range(min(most, rows), 0, -1):
            if tile_rows > inexact_limit and rows % tile_rows:
                continue
            row_tiles = math.ceil(rows / tile_rows)
            # Multiply-adds, plus what each tile costs besides: loads that are not hidden by few accumulators.
            step = max(tile_rows * vectors, tile_rows + vectors, 4)
            cost = row_tiles * column_tiles * (step + 0.5)
            if best is None or cost < best[0] * 0.999:
                best = (cost, TileShape(tile_rows, vectors, lanes))
    assert best is not None
    return best[1]


class Accumulators:
    """The tile's accumulators, as variables that LLVM keeps in registers.

    `numbers`: how many numbers along k each step takes: more than one come in words (dots.py).
    """

    def __init__(self, b: Builder, shape: TileShape, dtype: DType, numbers: int = 1) -> None:
        self.shape = shape
        self.dtype = dtype
        self.numbers = numbers
        self.operand = register_type(dtype) if numbers == 1 else WORD  # what a step multiplies
        self.type = vector(register_type(dtype), shape.lanes)
        self._slots = [[b.variable(self.type) for _ in range(shape.vectors)] for _ in range(shape.rows)]

    def clear(self, b: Builder) -> None:
        zero = b.constant(0, self.type)
        for row in self._slots:
            for slot in row:
                b.set(slot, zero)

    def begin(self, b: Builder, row: Value | None) -> None:
        """Set every row to the one at an address; to zero without any."""
        if row is None:
            self.clear(b)
            return
        for v in range(self.shape.vectors):
            value = b.load(b.element(row, register_type(self.dtype), v * self.shape.lanes), self.type)
            for r in range(self.shape.rows):
                self.set(b, r, v, value)

    def get(self, b: Builder, row: int, vector: int) -> Value:
        return b.get(self._slots[row][vector], self.type)

    def set(self, b: Builder, row: int, vector: int, value: Value) -> None:
        b.set(self._slots[row][vector], value)

    def step(self, b: Builder, row_values: Sequence[Callable[[], Value]], vectors: Sequence[Value]) -> None:
        """Add the outer product of `rows` numbers and `vectors`."""
        for r, number in enumerate(row_values):
            wide = b.splat(number(), self.shape.lanes)
            for v, value in enumerate(vectors):
                before = self.get(b, r, v)
                if self.numbers > 1:
                    after = dot(b, wide, value, before)
                elif self.dtype.kind == "f":
                    after = b.fma(wide, value, before)
                else:
                    after = b.add(b.mul(wide, value), before)
                self.set(b, r, v, after)


@dataclass(frozen=True)
class NextPanel:
    """Which lines of the panel after the present one a group of steps has fetched into the second-level cache.

    lines: of one group
    tiles: that fetch, so that together they have fetched all of the panel
    """

    lines: int
    tiles: int

    @staticmethod
    def of(row_bytes: int, tiles: int) -> NextPanel:
        """For panels with rows of so many bytes, each multiplied by at least so many tiles."""
        whole = math.ceil(GROUP * row_bytes / _LINE)  # lines of a group of rows
        lines = math.ceil(whole / max(1, tiles))
        return NextPanel(lines, math.ceil(whole / lines))

    def fetch(self, b: Builder, panel: Value, tile: Value, group: Operand, groups: int) -> None:
        """The lines of one of a tile's `groups` groups. Tiles beyond those that fetch ask for the last one's again."""
        share = b.intrinsic("llvm.umin", "i64", tile, b.index(self.tiles - 1))
        first = b.mul(b.add(b.mul(share, groups), group), self.lines * _LINE)
        for line in range(self.lines):
            b.prefetch(b.offset(panel, b.add(first, line * _LINE)), level=2)


def grouped_steps(
    b: Builder, count: int, step: Callable[[Operand], None], before: Callable[[Value], None] | None = None,
    early: int = 0, before_early: Callable[[Value], None] | None = None,
) -> None:  # fmt: skip
    """`step` for each number below `count`, in groups; `before` each group, and `before_early` the first `early` ones."""
    groups = count // GROUP
    early = min(groups, early)
    for start, stop in ((0, early), (early, groups)):
        if start == stop:
            continue
        with b.loop(start, stop) as group:
            if before is not None:
                before(group)
            if before_early is not None and stop == early:
                before_early(group)
            for u in range(GROUP):
                step(b.add(b.mul(group, GROUP), u))
    for k in range(groups * GROUP, count):
        step(k)


def lane_mask(b: Builder, first: Operand, total: int, lanes: int) -> Value | None:
    """The lanes first … first + lanes − 1 that lie below `total`; None where all always do."""
    if total % lanes == 0 or lanes == 1:
        return None
    return b.tail_mask(b.sub(b.index(total), b.index(first)), lanes)


def load_lanes(b: Builder, place: Value, type: str, mask: Value | None) -> Value:
    """A vector of memory; zero where the mask is off."""
    return b.load(place, type) if mask is None else b.masked_load(place, type, mask)


def transpose(b: Builder, rows: Sequence[Value]) -> list[Value]:
    """The transpose of a square of vectors (a power of two of them), by interleaving halves."""
    count = len(rows)
    current = list(rows)
    width = 1
    while width < count:
        following: list[Value] = [current[0]] * count
        low = [i if (i // width) % 2 == 0 else count + i - width for i in range(count)]
        high = [i + width if (i // width) % 2 == 0 else count + i for i in range(count)]
        for i in range(count):
            if (i // width) % 2 == 0:
                following[i] = b.shuffle(current[i], current[i + width], low)
                following[i + width] = b.shuffle(current[i], current[i + width], high)
        current = following
        width *= 2
    return current
