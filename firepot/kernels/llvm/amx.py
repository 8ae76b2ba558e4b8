"""Tile instructions (Intel AMX): products of small matrices of bfloat16, summed in float32.

A tile register holds up to 16 rows of 64 bytes. One instruction multiplies 16 rows of 16 words by 16 words of 16
columns, a word being two numbers that follow each other along k (dots.py), and adds the 16 × 16 sums to a third tile:
16 times the products of an instruction on vectors. Of the eight tiles most hold sums (`Blocking`).

The right operand's panels are those of the dot-product instructions: [word of k][columns]. The left one's words of a row
lie together; in packed panels of matrix products a tile is one stretch of memory: [16 words of k][32 rows][16 words].

Like those instructions, these read and make subnormal numbers as zero.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from firepot.graph.dtypes import DType
from firepot.kernels.llvm.builder import Builder, Operand, Value, vector
from firepot.kernels.llvm.dots import LANES, WORD, WORD_BYTES, join, load_numbers
from firepot.kernels.llvm.expression import memory_type
from firepot.kernels.llvm.tile import TileShape, transpose

ROWS = 16  # of a tile, at most
WORDS = 16  # of a tile's row
ROW_BYTES = WORDS * WORD_BYTES
NUMBERS = 2  # of a word
RATE = 16  # products in the time of one of float32
_TILES = 8


@dataclass(frozen=True)
class Blocking:
    """Which tiles hold what: left × right of them sums, the others what is multiplied.

    left, right: tiles of the left operand's rows, and of the right one's columns
    rows:        of a tile of the left operand and of sums
    """

    left: int
    right: int
    rows: int = ROWS

    @property
    def shape(self) -> TileShape:
        return TileShape(self.left * self.rows, self.right, WORDS)

    def configure(self, b: Builder) -> None:
        """Give this thread's tiles their sizes. Needed before anything else; `release` ends it."""
        palette = [1] + [0] * 15
        row_bytes = [byte for _ in range(_TILES) for byte in (ROW_BYTES, 0)] + [0] * 16
        first_right = self.left * self.right + self.left
        rows = [self.rows if tile < first_right else ROWS for tile in range(_TILES)] + [0] * 8
        name = f"tile_configuration_{self.left}_{self.right}_{self.rows}"
        _call(b, "ldtilecfg", b.module.constant_array(name, "i8", palette + row_bytes + rows))

    def clear(self, b: Builder) -> None:
        """All sums to zero."""
        for tile in range(self.left * self.right):
            _call(b, "tilezero", _number(tile))

    def load(self, b: Builder, source: Value) -> None:
        """The sums from where `store` put them."""
        self._move(b, "tileloadd64", source)

    def step(self, b: Builder, left: Sequence[Value], left_bytes: int, right: Value, right_bytes: int) -> None:
        """Add the products over 16 words of k.

        left:        the first row's words, of each tile; further rows lie `left_bytes` apart
        right:       the first word of all columns; further words lie `right_bytes` apart
        """
        sums = self.left * self.right
        for i, place in enumerate(left):
            _call(b, "tileloadd64", _number(sums + i), place, b.index(left_bytes))
        free = _TILES - sums - self.left
        for j in range(self.right):
            tile = sums + self.left + j % free
            _call(b, "tileloadd64", _number(tile), b.offset(right, j * ROW_BYTES), b.index(right_bytes))
            for i in range(self.left):
                _call(b, "tdpbf16ps", _number(i * self.right + j), _number(sums + i), _number(tile))

    def store(self, b: Builder, target: Value) -> None:
        """The sums into memory, row after row."""
        self._move(b, "tilestored64", target)

    def _move(self, b: Builder, name: str, memory: Value) -> None:
        row_bytes = self.right * ROW_BYTES
        for i in range(self.left):
            for j in range(self.right):
                place = b.offset(memory, i * self.rows * row_bytes + j * ROW_BYTES)
                _call(b, name, _number(i * self.right + j), place, b.index(row_bytes))


SQUARE = Blocking(2, 2)  # loads least for its products


def release(b: Builder) -> None:
    """Let the processor forget the tiles, which the system then need not save."""
    _call(b, "tilerelease")


def pack_rows(
    b: Builder, source: Value, dtype: DType, origin: Value, target: Value, depth: int, across: int, along: int,
    first: Value, total: int,
) -> None:  # fmt: skip
    """A panel of x: number j of target[16 words of k][row][word] = source[origin + row · across + k · along].

    Numbers beyond `depth` are zero. Where first + row ≥ total they are unspecified, but finite if the source is. One of
    `across` and `along` must be 1.
    """
    steps, rest = divmod(depth, WORDS * NUMBERS)
    step_words = SQUARE.shape.rows * WORDS
    if along == 1:
        with b.loop(0, SQUARE.shape.rows) as row:
            existing = b.intrinsic("llvm.umin", "i64", b.add(first, row), b.index(total - 1))
            line = b.add(origin, b.mul(b.sub(existing, first), across))
            own = b.element(target, WORD, b.mul(row, WORDS))
            with b.loop(0, steps) as k:
                place = b.element(source, memory_type(dtype), b.add(line, b.mul(k, WORDS * NUMBERS)))
                b.store(b.load(place, vector(WORD, WORDS), align=dtype.size), b.element(own, WORD, b.mul(k, step_words)))
            if rest:
                mask = b.tail_mask(b.index(rest), WORDS * NUMBERS)
                numbers = load_numbers(b, source, dtype, b.add(line, steps * WORDS * NUMBERS), WORDS * NUMBERS, mask)
                words = b.convert("bitcast", numbers, vector(WORD, WORDS))
                b.store(words, b.element(own, WORD, steps * step_words))
        return

    def square(k: Operand, half: Operand, count: int) -> None:
        """`count` numbers along k from 32 · k on, for 16 rows."""
        row = b.mul(b.index(half), ROWS)
        mask = b.tail_mask(b.sub(b.index(total), b.add(first, row)), LANES)
        here = b.add(b.add(origin, row), b.mul(b.index(k), WORDS * NUMBERS * along))

        def numbers(at: int) -> Value:
            return load_numbers(b, source, dtype, b.add(here, at * along), LANES, mask)

        columns = [
            join(b, [numbers(at) for at in range(NUMBERS * w, min(NUMBERS * w + NUMBERS, count))])
            if NUMBERS * w < count else b.constant(0, vector(WORD, LANES))
            for w in range(WORDS)
        ]  # fmt: skip
        own = b.element(target, WORD, b.add(b.mul(b.index(k), step_words), b.mul(row, WORDS)))
        for r, words in enumerate(transpose(b, columns)):
            b.store(words, b.element(own, WORD, r * WORDS))

    with b.loop(0, steps) as k, b.loop(0, 2) as half:
        square(k, half, WORDS * NUMBERS)
    if rest:
        with b.loop(0, 2) as half:
            square(steps, half, rest)


def _call(b: Builder, name: str, *arguments: Value) -> None:
    b.module.declare(f"llvm.x86.{name}", "void", [a.type for a in arguments])
    b.call(f"llvm.x86.{name}", "void", *arguments)


def _number(tile: int) -> Value:
    return Value(str(tile), "i8")
