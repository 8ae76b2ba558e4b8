"""Symbolic integers: how an element's position in one tensor is said in terms of positions in another.

An `Index` is an affine sum, constant + Σ coefficient × atom, kept in canonical form, where an atom is a loop
axis, the quotient or remainder of another Index by a positive constant, or an integer that the kernel computes
at run time (a gather's index). Every atom knows its range, so quotients and remainders that the ranges make
trivial vanish: reshape(reshape(x)) costs nothing.

>>> i, j = Axis("i", 6), Axis("j", 4)
>>> flat = Index.of(i) * 4 + Index.of(j)
>>> (flat // 4, flat % 4)
(i, j)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Union


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop variable that runs over 0 … size − 1. Two axes are the same when name and size are."""

    name: str
    size: int

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Quotient:
    """floor(value / divisor), divisor > 0."""

    value: Index
    divisor: int

    def __repr__(self) -> str:
        return f"({self.value})//{self.divisor}"


@dataclass(frozen=True, slots=True)
class Remainder:
    """value − divisor · floor(value / divisor), in 0 … divisor − 1."""

    value: Index
    divisor: int

    def __repr__(self) -> str:
        return f"({self.value})%{self.divisor}"


@dataclass(frozen=True, slots=True)
class Computed:
    """An integer known only at run time, within 0 … size − 1. `value` is a loop-level expression."""

    value: Any
    size: int

    def __repr__(self) -> str:
        return f"[{self.value}]"


Atom = Union[Axis, Quotient, Remainder, Computed]


def _atom_range(atom: Atom) -> tuple[int, int]:
    if isinstance(atom, (Axis, Computed)):
        return 0, max(atom.size - 1, 0)
    low, high = atom.value.range
    if isinstance(atom, Quotient):
        return low // atom.divisor, high // atom.divisor
    return 0, atom.divisor - 1


class Index:
    """An affine symbolic integer. Immutable and hashable; arithmetic with ints and other Indices simplifies."""

    __slots__ = ("_hash", "_range", "constant", "terms")

    terms: tuple[tuple[Atom, int], ...]
    constant: int

    def __init__(self, terms: Iterable[tuple[Atom, int]] = (), constant: int = 0) -> None:
        self.terms = tuple(terms)
        self.constant = constant
        # Equality must not depend on the order in which a sum was written.
        self._hash = hash((frozenset(self.terms), constant))
        self._range: tuple[int, int] | None = None

    @staticmethod
    def of(value: Index | Atom | int) -> Index:
        """The Index that equals an atom or an int. An axis of size 1 is the constant 0."""
        if isinstance(value, Index):
            return value
        if isinstance(value, int):
            return Index((), value)
        if isinstance(value, Axis) and value.size == 1:
            return Index()
        return Index(((value, 1),))

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and largest value, by interval arithmetic (never too narrow)."""
        if self._range is None:
            low = high = self.constant
            for atom, coefficient in self.terms:
                a, b = _atom_range(atom)
                low += coefficient * (a if coefficient > 0 else b)
                high += coefficient * (b if coefficient > 0 else a)
            self._range = (low, high)
        return self._range

    @property
    def is_constant(self) -> bool:
        return not self.terms

    def coefficient(self, atom: Atom) -> int:
        """The factor of an atom that stands in the sum itself (not inside a quotient or remainder)."""
        for candidate, coefficient in self.terms:
            if candidate == atom:
                return coefficient
        return 0

    def axes(self) -> set[Axis]:
        """Every axis that the value depends on, inside quotients and run-time integers too."""
        found: set[Axis] = set()
        for atom, _ in self.terms:
            if isinstance(atom, Axis):
                found.add(atom)
            elif isinstance(atom, Computed):
                found |= atom.value.axes()
            else:
                found |= atom.value.axes()
        return found

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.constant + other) if other else self
        if not other.terms:
            return self + other.constant
        if not self.terms:
            return other + self.constant
        sums = dict(self.terms)
        for atom, coefficient in other.terms:
            total = sums.get(atom, 0) + coefficient
            if total:
                sums[atom] = total
            else:
                del sums[atom]
        return Index(sums.items(), self.constant + other.constant)

    __radd__ = __add__

    def __neg__(self) -> Index:
        return self * -1

    def __sub__(self, other: Index | int) -> Index:
        return self + (-other)

    def __rsub__(self, other: int) -> Index:
        return (-self) + other

    def __mul__(self, factor: int) -> Index:
        if factor == 0:
            return Index()
        if factor == 1:
            return self
        return Index(((a, c * factor) for a, c in self.terms), self.constant * factor)

    __rmul__ = __mul__

    def _split(self, divisor: int) -> tuple[Index, Index]:
        """(q, r) with self = divisor·q + r, where q takes every term that the divisor divides."""
        whole = [(a, c // divisor) for a, c in self.terms if c % divisor == 0]
        rest = [(a, c) for a, c in self.terms if c % divisor != 0]
        quotient, remainder = divmod(self.constant, divisor)
        return Index(whole, quotient), Index(rest, remainder)

    def __floordiv__(self, divisor: int) -> Index:
        if divisor == 1:
            return self
        whole, rest = self._split(divisor)
        low, high = rest.range
        if low // divisor == high // divisor:
            return whole + low // divisor
        common = divisor
        for _, c in rest.terms:
            common = gcd(common, c)
        if common > 1:  # the part of the constant below the common factor cannot carry
            reduced = Index(((a, c // common) for a, c in rest.terms), rest.constant // common)
            if common == divisor:
                return whole + reduced
            return whole + reduced // (divisor // common)
        if len(rest.terms) == 1 and rest.constant == 0 and rest.terms[0][1] == 1:
            atom = rest.terms[0][0]
            if isinstance(atom, Quotient):  # (x // a) // b = x // (a·b)
                return whole + atom.value // (atom.divisor * divisor)
        return whole + Index(((Quotient(rest, divisor), 1),))

    def __mod__(self, divisor: int) -> Index:
        if divisor == 1:
            return Index()
        _, rest = self._split(divisor)
        low, high = rest.range
        if low >= 0 and high < divisor:
            return rest
        if low // divisor == high // divisor:
            return rest - divisor * (low // divisor)
        common = divisor
        for _, c in rest.terms:
            common = gcd(common, c)
        if 1 < common < divisor:
            reduced = Index(((a, c // common) for a, c in rest.terms), rest.constant // common)
            return (reduced % (divisor // common)) * common + rest.constant % common
        return Index(((Remainder(rest, divisor), 1),))

    def substitute(self, replace: Callable[[Atom], Index | None]) -> Index:
        """The same value with atoms replaced; `replace` returns None for an atom that stays."""
        result = Index((), self.constant)
        for atom, coefficient in self.terms:
            new = replace(atom)
            if new is None:
                if isinstance(atom, Quotient):
                    new = atom.value.substitute(replace) // atom.divisor
                elif isinstance(atom, Remainder):
                    new = atom.value.substitute(replace) % atom.divisor
                else:
                    new = Index.of(atom)
            result = result + new * coefficient
        return result

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Index):
            return NotImplemented
        return (
            self._hash == other._hash
            and self.constant == other.constant
            and frozenset(self.terms) == frozenset(other.terms)
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        parts = [f"{c}*{a!r}" if c != 1 else repr(a) for a, c in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return " + ".join(parts)


def flatten(index: Sequence[Index], strides: Sequence[int], offset: int = 0) -> Index:
    """Σ index × stride + offset."""
    total = Index((), offset)
    for i, s in zip(index, strides, strict=True):
        total = total + i * s
    return _rejoined(total)


def _rejoined(index: Index) -> Index:
    """The same sum with d·c·(x // d) + c·(x mod d) written as c·x, which no loop needs to divide for."""
    for atom, coefficient in index.terms:
        if isinstance(atom, Remainder):
            quotient = atom.value // atom.divisor
            if len(quotient.terms) == 1 and not quotient.constant and quotient.terms[0][1] == 1:
                partner = quotient.terms[0][0]
                if index.coefficient(partner) == coefficient * atom.divisor:
                    pair = Index(((partner, coefficient * atom.divisor), (atom, coefficient)))
                    return _rejoined(index - pair + atom.value * coefficient)
    return index


def unflatten(flat: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The row-major coordinates of a flat position within `shape`."""
    result: list[Index] = []
    for size in reversed(shape[1:]):
        result.append(flat % size if size else Index())
        flat = flat // size if size else Index()
    if shape:
        result.append(flat)
    return tuple(reversed(result))


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
