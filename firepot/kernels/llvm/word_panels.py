"""Panels of words, as the register tile reads them where the processor has dot-product instructions (dots.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from firepot.graph.dtypes import DType
from firepot.kernels.llvm.builder import Builder, Operand, Value, vector
from firepot.kernels.llvm.dots import LANES, WORD, integer_type, join, load_numbers, number_sum, unsigned
from firepot.kernels.llvm.expression import memory_type
from firepot.kernels.llvm.tile import transpose


def pack_panel(
    b: Builder, source: Value, dtype: DType, numbers: int, origin: Value, target: Value, count: int, depth: int,
    across: int, along: int, first: Value, total: int, shifted: bool,
) -> None:  # fmt: skip
    """One panel of words: number j of target[w · count + i] = source[origin + i · across + (numbers · w + j) · along].

    Numbers beyond `depth` are zero. Where first + i ≥ total, words are unspecified but finite if the source is.

    Args:
        shifted: add 128 to every number, of whole words.
    """
    whole, rest = divmod(depth, numbers)

    def finish(word: Value) -> Value:
        return unsigned(b, word) if shifted else word

    if across == 1:
        _pack_across(b, source, dtype, numbers, origin, target, count, depth, along, first, total, finish)
        return
    bits = integer_type(dtype)
    element = memory_type(dtype)
    squares = whole // LANES * LANES if along == 1 else 0

    def row_origin(r: int) -> Value:
        row = b.intrinsic("llvm.umin", "i64", b.add(first, r), b.index(total - 1))
        return b.add(origin, b.mul(b.sub(row, first), across))

    def scalar_word(place: Value, there: int) -> Value:
        places = [b.element(source, element, b.add(place, j * along)) for j in range(there)]
        return join(b, [b.load(p, bits) for p in places])

    for i in range(0, count, LANES):
        width = min(LANES, count - i)
        if squares:
            with b.loop(0, squares, LANES) as w:
                rows = []
                for r in range(LANES):
                    if r >= width:
                        rows.append(b.constant(0, vector(WORD, LANES)))
                        continue
                    place = b.element(source, element, b.add(row_origin(i + r), b.mul(w, numbers)))
                    rows.append(b.load(place, vector(WORD, LANES), align=dtype.size))
                for step, column in enumerate(transpose(b, rows)):
                    place = b.element(target, WORD, b.add(b.mul(b.add(w, step), count), i))
                    _store(b, finish(column), place, width)
        with b.loop(squares, whole) as w:
            for r in range(width):
                place = b.add(row_origin(i + r), b.mul(w, numbers * along))
                if along == 1:
                    word = b.load(b.element(source, element, place), WORD, align=dtype.size)
                else:
                    word = scalar_word(place, numbers)
                b.store(finish(word), b.element(target, WORD, b.add(b.mul(w, count), i + r)))
        if rest:
            for r in range(width):
                word = scalar_word(b.add(row_origin(i + r), whole * numbers * along), rest)
                b.store(finish(word), b.element(target, WORD, whole * count + i + r))


def begin_shifted(b: Builder, words: Value, target: Value, count: int, depth: int) -> None:
    """What sums of numbers that are 128 too large, times those of a panel, are to begin with: target[i] = −128 · Σ."""
    for i in range(0, count, LANES):
        total = b.variable(vector(WORD, LANES), b.constant(0, vector(WORD, LANES)))
        with b.loop(0, depth) as w:
            word = b.load(b.element(words, WORD, b.add(b.mul(w, count), i)), vector(WORD, LANES))
            b.set(total, number_sum(b, word, b.get(total, word.type)))
        b.store(b.mul(b.get(total, vector(WORD, LANES)), -128), b.element(target, WORD, i))


def _pack_across(
    b: Builder, source: Value, dtype: DType, numbers: int, origin: Value, target: Value, count: int, depth: int,
    along: int, first: Value, total: int, finish: Callable[[Value], Value],
) -> None:  # fmt: skip
    """A panel whose rows lie side by side: vectors of numbers for one k, of which `numbers` are put into words."""
    whole, rest = divmod(depth, numbers)

    def words(w: Operand, there: int) -> None:
        for i in range(0, count, LANES):
            width = min(LANES, count - i)
            mask = b.tail_mask(b.sub(b.index(min(total, 1 << 62)), b.add(first, i)), LANES)
            if width < LANES:
                mask = b.and_(mask, b.tail_mask(b.index(width), LANES))
            k = b.mul(w, numbers) if isinstance(w, Value) else b.index(w * numbers)
            rows = [
                load_numbers(b, source, dtype, b.add(b.add(origin, i), b.mul(b.add(k, j), along)), LANES, mask)
                for j in range(there)
            ]
            at = b.mul(w, count) if isinstance(w, Value) else b.index(w * count)
            _store(b, finish(join(b, rows)), b.element(target, WORD, b.add(at, i)), width)

    with b.loop(0, whole) as w:
        words(w, numbers)
    if rest:
        words(whole, rest)


def _store(b: Builder, words: Value, place: Value, width: int) -> None:
    if width == LANES:
        b.store(words, place)
    else:
        b.masked_store(words, place, b.tail_mask(b.index(width), LANES))


@dataclass(frozen=True)
class Filter:
    """A vector of result channels of a convolution's weights, to be packed as [tap][word of inner channels][columns].

    source:       the weights; number `channel` of a tap lies at line + channel · inner_stride + the tap's offset
    lines:        of each result channel, those beyond the last anywhere
    contiguous:   whether result channels lie side by side; then `mask` says which there are
    offsets:      of the taps; `table` holds them in memory
    channels:     inner channels
    target:       of the first word
    columns:      of the panel
    """

    source: Value
    dtype: DType
    numbers: int
    lines: Sequence[Value]
    contiguous: bool
    mask: Value | None
    inner_stride: int
    offsets: Sequence[int]
    table: Value
    channels: int
    target: Value
    columns: int

    @property
    def words(self) -> int:
        return -(-self.channels // self.numbers)

    def pack(self, b: Builder) -> None:
        whole, rest = divmod(self.channels, self.numbers)
        begin = 0
        pack = self._number_by_number
        if self.contiguous:
            pack = self._side_by_side
        elif len(self.offsets) == 1 and self.inner_stride == 1:
            begin = whole // LANES * LANES
            with b.loop(0, begin, LANES) as w:
                self._square(b, w)
        elif len(self.offsets) > 1 and max(self.offsets) < LANES:
            pack = self._taps_together
        with b.loop(begin, whole) as w:
            pack(b, w, self.numbers)
        if rest:
            pack(b, b.index(whole), rest)

    def sum(self, b: Builder) -> Value:
        """For each result channel the sum of its numbers."""
        wide = vector(WORD, LANES)
        total = b.variable(wide, b.constant(0, wide))
        with b.loop(0, len(self.offsets) * self.words) as place:
            word = b.load(b.element(self.target, WORD, b.mul(place, self.columns)), wide)
            b.set(total, number_sum(b, word, b.get(total, wide)))
        return b.get(total, wide)

    def _place(self, b: Builder, tap: Operand, word: Value) -> Value:
        first = b.mul(b.index(tap), self.words * self.columns)
        return b.element(self.target, WORD, b.add(first, b.mul(word, self.columns)))

    def _square(self, b: Builder, word: Value) -> None:
        """Words of neighbouring channels, as many as a vector has, for each result channel."""
        at = b.add(b.mul(word, self.numbers), self.offsets[0])
        element = memory_type(self.dtype)
        rows = [
            b.load(b.element(self.source, element, b.add(line, at)), vector(WORD, LANES), align=self.dtype.size)
            for line in self.lines
        ]
        for i, column in enumerate(transpose(b, rows)):
            b.store(column, self._place(b, 0, b.add(word, i)))

    def _taps_together(self, b: Builder, word: Value, count: int) -> None:
        """One word of channels for all taps, which lie within a vector of memory."""
        mask = b.tail_mask(b.index(max(self.offsets) + 1), LANES)
        rows = []
        for line in self.lines:
            at = b.add(line, b.mul(word, self.numbers * self.inner_stride))
            numbers = [
                load_numbers(b, self.source, self.dtype, b.add(at, j * self.inner_stride), LANES, mask)
                for j in range(count)
            ]
            rows.append(join(b, numbers))
        columns = transpose(b, rows)
        for tap, offset in enumerate(self.offsets):
            b.store(columns[offset], self._place(b, tap, word))

    def _side_by_side(self, b: Builder, word: Value, count: int) -> None:
        with b.loop(0, len(self.offsets)) as tap:
            at = b.add(b.load(b.element(self.table, "i64", tap), "i64"), b.mul(word, self.numbers * self.inner_stride))
            at = b.add(at, self.lines[0])
            numbers = [
                load_numbers(b, self.source, self.dtype, b.add(at, j * self.inner_stride), len(self.lines), self.mask)
                for j in range(count)
            ]
            b.store(join(b, numbers), self._place(b, tap, word))

    def _number_by_number(self, b: Builder, word: Value, count: int) -> None:
        with b.loop(0, len(self.offsets)) as tap:
            at = b.add(b.load(b.element(self.table, "i64", tap), "i64"), b.mul(word, self.numbers * self.inner_stride))
            place = self._place(b, tap, word)
            for i, line in enumerate(self.lines):
                numbers = [
                    load_numbers(b, self.source, self.dtype, b.add(b.add(line, at), j * self.inner_stride), 1, None)
                    for j in range(count)
                ]
                b.store(join(b, numbers), b.element(place, WORD, i))
