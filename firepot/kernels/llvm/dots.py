"""Dot-product instructions: a multiply-add of several narrow numbers for each lane.

Numbers that follow each other along k, the dimension that is summed over, lie together in words of 32 bits: two of
bfloat16 (AVX512_BF16, sums in float32) or four of int8 (AVX512_VNNI, sums in int32). The instruction multiplies the
numbers of two words and adds all their products to one lane of the sum. To the register tile a word is what a float32
is elsewhere, so panels and loops are those of float32 with k divided by the numbers of a word.

The bfloat16 instruction reads and makes subnormal numbers as zero. The int8 instruction takes its first factor
unsigned: 128 is added to those numbers as they are packed, and 128 · Σ_k y is taken off the sums, all modulo 2³², which
is exact.
"""

from __future__ import annotations

from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.kernels.llvm.builder import Builder, Value, vector
from firepot.kernels.llvm.expression import memory_type

WORD = "i32"
WORD_BYTES = 4
LANES = 16  # words of a vector register; the instructions are used in this width alone


def numbers_of_a_word(dtype: DType, accumulate: DType, processor: Any) -> int:
    """How many numbers the processor multiplies and adds for each lane at once; 1: it has no such instruction."""
    if processor.vector_bytes != LANES * WORD_BYTES:
        return 1
    if dtype is dtypes.bfloat16 and accumulate is dtypes.float32 and processor.bf16_dot:
        return 2
    if dtype is dtypes.int8 and accumulate is dtypes.int32 and processor.int8_dot:
        return 4
    return 1


def dot(b: Builder, x: Value, y: Value, total: Value) -> Value:
    """total + Σ x · y over the numbers of each word. Four numbers of x are unsigned."""
    if total.element == "float":
        halves = vector("bfloat", 2 * LANES)
        x, y = b.convert("bitcast", x, halves), b.convert("bitcast", y, halves)
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
    else:
        octets = vector("i8", 4 * LANES)
        x, y = b.convert("bitcast", x, octets), b.convert("bitcast", y, octets)
        name = "llvm.x86.avx512.vpdpbusd.512"
    b.module.declare(name, total.type, [total.type, x.type, y.type])
    return b.call(name, total.type, total, x, y)


def number_sum(b: Builder, y: Value, total: Value) -> Value:
    """total + the sum of each word's four numbers."""
    return dot(b, b.constant(0x01010101, y.type), y, total)


def unsigned(b: Builder, x: Value) -> Value:
    """Words of four signed numbers with 128 added to each."""
    return b.xor(x, b.constant(0x80808080 - (1 << 32), x.type))


def join(b: Builder, numbers: list[Value]) -> Value:
    """Words of numbers given as integers, the first lowest; those that are not given are zero."""
    bits = 32 // (2 if numbers[0].element == "i16" else 4)
    wide = vector(WORD, numbers[0].lanes)
    total = b.convert("zext", numbers[0], wide)
    for i, number in enumerate(numbers[1:], 1):
        total = b.or_(total, b.mul(b.convert("zext", number, wide), b.constant(1 << bits * i, wide)))
    return total


def integer_type(dtype: DType) -> str:
    """The integer that holds a number's bits."""
    return f"i{8 * dtype.size}"


def load_numbers(b: Builder, source: Value, dtype: DType, place: Value, lanes: int, mask: Value | None) -> Value:
    """The bits of neighbouring numbers, zero where the mask is off."""
    address = b.element(source, memory_type(dtype), place)
    type = vector(integer_type(dtype), lanes)
    return b.load(address, type) if mask is None else b.masked_load(address, type, mask)
