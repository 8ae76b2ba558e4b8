"""The tiles of images that minimal filtering transforms, and its products (convolution_filtering.py has the transforms)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from firepot.graph.dtypes import DType
from firepot.kernels.llvm.builder import Builder, Operand, Value, vector
from firepot.kernels.llvm.convolution_filtering import (
    RESULTS,
    Matrix,
    both_ways,
    to_points,
)
from firepot.kernels.llvm.convolution_form import Convolution, Five, Triple
from firepot.kernels.llvm.expression import load_element, memory_type
from firepot.kernels.llvm.tile import (
    Accumulators,
    TileShape,
    lane_mask,
)


@dataclass(frozen=True)
class Tiling:
    """4×4 tiles of the positions that are filled, or summed over."""

    size: Triple
    batch: int
    high: int
    wide: int

    @staticmethod
    def of(c: Convolution) -> Tiling:
        size = c.output_size if c.mode == "weight_grad" else c.result_size
        return Tiling(size, c.batch * size[0], math.ceil(size[1] / RESULTS), math.ceil(size[2] / RESULTS))

    @property
    def tiles(self) -> int:
        return self.batch * self.high * self.wide

    def place(self, b: Builder, tile: Value) -> tuple[Value, Value, Value, Value]:
        """(n, z, first y, first x) of a tile's results."""
        x, rest = b.urem(tile, self.wide), b.udiv(tile, self.wide)
        y, rest = b.urem(rest, self.high), b.udiv(rest, self.high)
        z, n = b.urem(rest, self.size[0]), b.udiv(rest, self.size[0])
        return n, z, b.mul(y, RESULTS), b.mul(x, RESULTS)


def row_width(channels: int, lanes: int) -> int:
    """Elements from one tile's transformed channels to the next's: not where neighbours share a cache set."""
    width = -(-channels // lanes) * lanes
    return width + lanes if width % 512 == 0 else width


def transform_tile(
    b: Builder, matrix: Matrix, source: Value, dtype: DType, strides: Five, size: Triple,
    place: tuple[Value, Value, Value, Value], channels: int, zeros: Value, target: Value, spacing: int, lanes: int,
) -> None:  # fmt: skip
    """Transform all channels of one tile, whose first position is `place`: target[point · spacing + channel]."""
    element = memory_type(dtype)
    count = len(matrix[0])
    n, z, first_y, first_x = place
    plane = b.add(b.mul(n, strides[0]), b.mul(z, strides[2]))

    def line_of_positions(first: Value, stride: int, length: int) -> list[tuple[Value, Value]]:
        positions = [b.add(first, i) for i in range(count)]
        return [(b.mul(position, stride), b.compare("ult", position, length)) for position in positions]

    rows = line_of_positions(first_y, strides[3], size[1])
    columns = line_of_positions(first_x, strides[4], size[2])
    places = []
    for row, row_exists in rows:
        line = b.add(plane, row)
        for column, column_exists in columns:
            there = b.element(source, element, b.add(line, column))
            places.append(b.select(b.and_(row_exists, column_exists), there, zeros))
    with b.loop(0, channels, lanes) as channel:
        mask = lane_mask(b, channel, channels, lanes)
        values = [load_element(b, b.element(p, element, channel), dtype, lanes, mask) for p in places]
        square = [values[i * count : (i + 1) * count] for i in range(count)]
        points = both_ways(b, to_points, matrix, square)
        own = b.element(target, "float", channel)
        for k, value in enumerate(v for line in points for v in line):
            b.store(value, b.element(own, "float", k * spacing))


def product_step(
    b: Builder, accumulators: Accumulators, left: Value, left_row: int, left_step: int, right: Value, right_step: int,
) -> Callable[[Operand], None]:  # fmt: skip
    """What adds to accumulators[r] for a k: left[r · left_row + k · left_step] · right[k · right_step …]."""
    tile = accumulators.shape

    def step(k: Operand) -> None:
        line = b.element(right, "float", b.mul(b.index(k), right_step))
        vectors = [b.load(b.element(line, "float", v * tile.lanes), accumulators.type) for v in range(tile.vectors)]
        numbers = b.element(left, "float", b.mul(b.index(k), left_step))
        places = [b.element(numbers, "float", r * left_row) for r in range(tile.rows)]
        accumulators.step(b, [functools.partial(b.load, place, "float") for place in places], vectors)

    return step


def accumulator_places(b: Builder, tile: TileShape, target: Value, row: int) -> list[tuple[int, int, Value]]:
    return [
        (r, v, b.element(target, "float", r * row + v * tile.lanes))
        for r in range(tile.rows) for v in range(tile.vectors)
    ]  # fmt: skip


def clear_zeros(b: Builder, place: Value, count: int, lanes: int) -> None:
    with b.when(b.compare("eq", b.arg("thread"), 0)), b.loop(0, count, lanes) as i:
        b.store(b.constant(0, vector("float", lanes)), b.element(place, "float", i))
