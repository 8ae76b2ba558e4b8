"""Which loops of a procedure run in the lanes of vectors.

A loop may, if its turns do not depend on one another: what a turn reads of an array that the loop writes, it has
written itself; a variable is assigned before it is read in a turn, or only gathers a sum, product, maximum … over
the turns, which each lane then does for its own turns. Of a nest of loops that one is taken which costs least by a
rough count of cycles, since lanes that read far apart are slow; none, where one element at a time costs less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from firepot.graph import dtypes
from firepot.kernels import procedure as ir
from firepot.kernels.liveness import assigned, expressions, live, statements_of, walk

_SLOW = {"div": 4, "sqrt": 4, "rsqrt": 6, "reciprocal": 4}
_QUICK = (
    "add", "sub", "mul", "neg", "abs", "maximum", "minimum", "and", "or", "xor", "not", "eq", "ne", "lt", "le", "gt",
    "ge", "cast", "relu", "floor", "ceil", "trunc", "round", "shl", "shr",
)  # fmt: skip
_POLYNOMIALS = ("exp", "log", "tanh", "sigmoid", "erf")  # of float32: vector code; other functions go lane by lane
_FAR = 1.6  # cycles for each lane that is read or written at a place of its own
_UNKNOWN_TURNS = 16
_FOLDS = {"add": "add", "sub": "add", "mul": "mul", "maximum": "maximum", "minimum": "minimum", "and": "and",
          "or": "or", "xor": "xor"}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """vector_bytes: of a register; strides: of each array, in elements."""

    vector_bytes: int
    strides: tuple[tuple[int, ...], ...]


def vectorised(procedure: ir.Procedure, target: Target) -> tuple[ir.Statement, ...]:
    """The procedure's body with loops marked (`Lanes`) that run in lanes."""
    return _Planner(procedure, target).block(procedure.body)[0]


class _Planner:
    def __init__(self, procedure: ir.Procedure, target: Target) -> None:
        self.procedure = procedure
        self.target = target
        self.after: dict[int, frozenset[str]] = {}  # of loops, by identity: the variables that are read after them
        live(procedure.body, frozenset(), self.after)

    def block(self, statements: Sequence[ir.Statement]) -> tuple[tuple[ir.Statement, ...], float]:
        """The statements with their loops planned, and their cost."""
        result, total = [], 0.0
        for s in statements:
            planned, cost = self.statement(s)
            result.append(planned)
            total += cost
        return tuple(result), total

    def statement(self, s: ir.Statement) -> tuple[ir.Statement, float]:
        if isinstance(s, (ir.Range, ir.Parallel)):
            return self.loop(s)
        if isinstance(s, ir.While):
            body, cost = self.block(s.body)
            return replace(s, body=body), _UNKNOWN_TURNS * (cost + self.scalar(s.condition))
        if isinstance(s, ir.If):
            then, first = self.block(s.then)
            otherwise, second = self.block(s.otherwise)
            return ir.If(s.condition, then, otherwise), self.scalar(s.condition) + 1 + (first + second) / 2
        return s, sum(map(self.scalar, expressions(s))) + isinstance(s, ir.Store)

    def loop(self, s: ir.Range | ir.Parallel) -> tuple[ir.Statement, float]:
        body, cost = self.block(s.body)
        whole = turns(s)
        one = replace(s, body=body), whole * (cost + 1)
        found = _lanes(s, self)
        if found is None:
            return one
        lanes, each = found
        last = innermost(s) if isinstance(s, ir.Parallel) else whole
        vectors = whole / last * -(-last // lanes.lanes)
        cost = vectors * (each + 1) + (4 if lanes.folds else 0) * whole / last
        return (lanes, cost) if cost < 0.8 * one[1] else one

    def scalar(self, c: ir.Code) -> float:
        if isinstance(c, (ir.Constant, ir.Local)):
            return 0
        if isinstance(c, ir.Element):
            return 1 + sum(map(self.scalar, c.indices)) / 2
        if isinstance(c, ir.Choice):
            return 1 + sum(map(self.scalar, (c.condition, c.then, c.otherwise)))
        return _cycles(c) + sum(map(self.scalar, c.args))


def _cycles(c: ir.Operation) -> float:
    if c.name in ("floordiv", "remainder") and c.dtype.kind in "iu" and isinstance(c.args[1], ir.Constant):
        return 4  # a multiplication
    return _SLOW.get(c.name, 1 if c.name in _QUICK else 16)


def turns(s: ir.Range | ir.Parallel) -> int:
    """How often the body runs; a guess where that is not known."""
    if isinstance(s, ir.Parallel):
        return math.prod(int(c.value) if isinstance(c, ir.Constant) else _UNKNOWN_TURNS for c in s.sizes)
    if isinstance(s.start, ir.Constant) and isinstance(s.stop, ir.Constant):
        return len(range(int(s.start.value), int(s.stop.value), s.step))
    return _UNKNOWN_TURNS


def innermost(s: ir.Parallel) -> int:
    last = s.sizes[-1]
    return max(int(last.value), 1) if isinstance(last, ir.Constant) else _UNKNOWN_TURNS


def straightened(body: Sequence[ir.Statement]) -> tuple[ir.Statement, ...]:
    """A loop's body with every `continue` within branches turned into a condition of what follows."""
    result: list[ir.Statement] = []
    for n, s in enumerate(body):
        if s == ir.Leave("continue"):
            break
        if isinstance(s, ir.If) and _continues(s):
            rest = tuple(body[n + 1 :])
            arms = [straightened(arm + rest) for arm in (s.then, s.otherwise)]
            result.append(replace(s, then=arms[0], otherwise=arms[1]))
            break
        result.append(s)
    return tuple(result)


def _continues(s: ir.If) -> bool:
    arms = (*s.then, *s.otherwise)
    return ir.Leave("continue") in arms or any(isinstance(a, ir.If) and _continues(a) for a in arms)


def slope(c: ir.Code, slopes: dict[str, int], varying: frozenset[str]) -> int | None:
    """By how much an integer grows from lane to lane; None where that is not one number."""
    if isinstance(c, ir.Local) and c.name in slopes:
        return slopes[c.name]
    if not varies(c, varying):
        return 0
    if not isinstance(c, ir.Operation) or c.dtype is not dtypes.int64 or c.name not in ("add", "sub", "mul"):
        return None
    x, y = (slope(a, slopes, varying) for a in c.args)
    if x is None or y is None:
        return None
    if c.name != "mul":
        return x + y if c.name == "add" else x - y
    for own, other in ((x, c.args[1]), (y, c.args[0])):
        if isinstance(other, ir.Constant):
            return own * int(other.value)
    return None


def varies(c: ir.Code, varying: frozenset[str]) -> bool:
    """Whether a value differs from lane to lane."""
    return any(isinstance(part, ir.Local) and part.name in varying for part in walk(c))


class _Dependent(Exception):
    """The turns of a loop depend on one another, or part ways."""


def _lanes(s: ir.Range | ir.Parallel, planner: _Planner) -> tuple[ir.Lanes, float] | None:
    """The loop in lanes and the cost of one vector of turns; None where it cannot be."""
    try:
        return _Loop(s, planner).plan()
    except _Dependent:
        return None


class _Loop:
    """A loop that is to run in lanes. Raises _Dependent where it cannot."""

    def __init__(self, s: ir.Range | ir.Parallel, planner: _Planner) -> None:
        self.planner = planner
        self.loop = s
        self.name, self.step = (s.names[-1], 1) if isinstance(s, ir.Parallel) else (s.name, s.step)
        self.body = straightened(s.body)
        self.assigned = assigned(self.body)
        self.slopes = {self.name: self.step}
        arrays = [planner.procedure.arrays[n] for n in self.used()]
        sizes = [a.dtype.size for a in arrays if a.dtype.kind == "f"] or [a.dtype.size for a in arrays] or [4]
        self.lanes = max(planner.target.vector_bytes // max(*sizes, 4), 1)

    def used(self) -> set[int]:
        return {n for n, _, _ in self.accesses()}

    def plan(self) -> tuple[ir.Lanes, float]:
        if self.lanes == 1 or self.name in self.assigned:
            raise _Dependent
        folds = self.folds()
        self.varying = frozenset({self.name, *folds})
        while True:
            before = self.varying
            self.spread(self.body, False, None)
            if self.varying == before:
                break
        self.find_slopes()
        if isinstance(self.loop, ir.Range):
            self.check_arrays()
        cost = self.cost(self.body)
        marked = replace(self.loop, body=self.body)
        names = tuple(sorted(self.varying))
        return ir.Lanes(marked, self.lanes, names, tuple(sorted(self.slopes.items())), tuple(folds.items())), cost

    # -- variables ---------------------------------------------------------------------------------------------------

    def folds(self) -> dict[str, str]:
        """Variables that gather something over the turns, and by what operation."""
        carried = live(self.body, frozenset(), {}) & self.assigned
        found = {name: self.fold(name) for name in sorted(carried)}
        if isinstance(self.loop, ir.Parallel):
            if found:
                raise _Dependent
        elif (self.planner.after[id(self.loop)] & self.assigned) - set(found):
            raise _Dependent  # the last turn's value is read after the loop
        return found

    def fold(self, name: str) -> str:
        """The operation by which each assignment adds to the variable, which is read nowhere else."""
        operations: set[str] = set()
        for s in statements_of(self.body):
            own = isinstance(s, ir.Assign) and s.name == name
            for c in expressions(s):
                if own:
                    operations.add(_gathers(c, name))
                elif _reads(c, name):
                    raise _Dependent
        if len(operations) != 1:
            raise _Dependent
        return operations.pop()

    def spread(self, body: Sequence[ir.Statement], masked: bool, parted: bool | None) -> None:
        """Find what varies. masked: only some lanes come here; parted: the same, of the innermost loop within this
        one (None outside of one)."""
        for s in body:
            if isinstance(s, ir.Assign):
                if masked or varies(s.value, self.varying):
                    self.varying |= {s.name}
            elif isinstance(s, ir.If):
                own = varies(s.condition, self.varying)
                for arm in (s.then, s.otherwise):
                    self.spread(arm, masked or own, None if parted is None else parted or own)
            elif isinstance(s, ir.Range):
                if varies(s.start, self.varying) or varies(s.stop, self.varying):
                    raise _Dependent
                self.spread(s.body, masked, False)
            elif isinstance(s, ir.While):
                if varies(s.condition, self.varying):
                    raise _Dependent
                self.spread(s.body, masked, False)
            elif isinstance(s, ir.Leave):
                if parted is None or parted:
                    raise _Dependent
            elif not isinstance(s, ir.Store):
                raise _Dependent

    def find_slopes(self) -> None:
        """Variables assigned once in a turn, whatever the data, to what grows evenly from lane to lane."""
        every = [s.name for s in statements_of(self.body) if isinstance(s, ir.Assign)]
        for s in self.body:
            if isinstance(s, ir.Assign) and every.count(s.name) == 1 and s.name in self.varying:
                found = slope(s.value, self.slopes, self.varying)
                if found is not None:
                    self.slopes[s.name] = found

    # -- arrays ------------------------------------------------------------------------------------------------------

    def accesses(self) -> Iterator[tuple[int, tuple[ir.Code, ...], ir.Code | None]]:
        """(array, indices, the value that is written or None) of every access in a turn."""
        for s in statements_of(self.body):
            for c in expressions(s):
                for part in walk(c):
                    if isinstance(part, ir.Element):
                        yield part.array, part.indices, None
            if isinstance(s, ir.Store):
                yield s.array, s.indices, s.value

    def check_arrays(self) -> None:
        """In some dimension, every access to an array that is written is at one place of the turn's own; or all that is
        written is one number, and it is not read."""
        fixed = self.varying | self.assigned
        accesses = list(self.accesses())
        for array in {n for n, _, value in accesses if value is not None}:
            places = [indices for n, indices, _ in accesses if n == array]
            written = {value for n, _, value in accesses if n == array}
            if all(isinstance(v, ir.Constant) for v in written) and len(written) == 1:
                continue
            for index in zip(*places, strict=True):
                own = {p.name for p in walk(index[0]) if isinstance(p, ir.Local)} & fixed
                alike = own == {self.name} and all(i == index[0] for i in index) and not _loads(index[0])
                if alike and slope(index[0], self.slopes, self.varying):
                    break
            else:
                raise _Dependent

    # -- cost --------------------------------------------------------------------------------------------------------

    def cost(self, body: Sequence[ir.Statement]) -> float:
        total = 0.0
        for s in body:
            total += sum(map(self.code_cost, expressions(s)))
            if isinstance(s, ir.Store):
                total += self.place_cost(s.array, s.indices)
            elif isinstance(s, ir.If):
                total += self.cost(s.then) + self.cost(s.otherwise) + 2
            elif isinstance(s, ir.Range):
                total += turns(s) * (self.cost(s.body) + 1)
            elif isinstance(s, ir.While):
                total += _UNKNOWN_TURNS * (self.cost(s.body) + 1)
        return total

    def code_cost(self, c: ir.Code) -> float:
        if isinstance(c, (ir.Constant, ir.Local)):
            return 0
        if isinstance(c, ir.Element):
            return self.place_cost(c.array, c.indices) + sum(map(self.code_cost, c.indices)) / 2
        if isinstance(c, ir.Choice):
            return 2 + sum(map(self.code_cost, (c.condition, c.then, c.otherwise)))
        own = _cycles(c)
        if varies(c, self.varying):
            size = max(a.dtype.size for a in c.args)
            own *= max(size * self.lanes / self.planner.target.vector_bytes, 1)
            if own >= 16 and not (c.name in _POLYNOMIALS and c.dtype is dtypes.float32):
                own *= self.lanes
        return own + sum(map(self.code_cost, c.args))

    def place_cost(self, array: int, indices: tuple[ir.Code, ...]) -> float:
        if not any(varies(i, self.varying) for i in indices):
            return 1
        step = place_slope(indices, self.planner.target.strides[array], self.slopes, self.varying)
        return 1.5 if step == 1 else 2 + _FAR * self.lanes


def place_slope(
    indices: tuple[ir.Code, ...], strides: tuple[int, ...], slopes: dict[str, int], varying: frozenset[str]
) -> int | None:
    """The distance in memory, in elements, from lane to lane."""
    total = 0
    for index, stride in zip(indices, strides, strict=True):
        one = slope(index, slopes, varying)
        if one is None:
            return None
        total += one * stride
    return total


def _reads(c: ir.Code, name: str) -> bool:
    return any(isinstance(part, ir.Local) and part.name == name for part in walk(c))


def _loads(c: ir.Code) -> bool:
    return any(isinstance(part, ir.Element) for part in walk(c))


def _gathers(c: ir.Code, name: str) -> str:
    """The operation by which the value adds something to the variable. Raises _Dependent."""
    if isinstance(c, ir.Choice) and not _reads(c.condition, name):  # a turn that adds nothing gives the variable itself
        found = {_gathers(arm, name) for arm in (c.then, c.otherwise) if arm != ir.Local(name, c.dtype)}
        if len(found) == 1:
            return found.pop()
    if not isinstance(c, ir.Operation) or c.name not in _FOLDS or c.dtype.kind == "b":
        raise _Dependent
    x, y = c.args
    if c.name != "sub" and _reads(y, name):
        x, y = y, x
    if _reads(y, name):
        raise _Dependent
    operation = _FOLDS[c.name]
    if not isinstance(x, ir.Local) and _gathers(x, name) != operation:
        raise _Dependent
    if isinstance(x, ir.Local) and x.name != name:
        raise _Dependent
    return operation


def covered(procedure: ir.Procedure) -> set[int]:
    """Numbers of the outputs that are written in full before they are read: they need not be zero at the start."""
    found: set[int] = set()
    seen: set[int] = set()  # read, or written in part
    arrays = procedure.arrays

    def visit(body: Sequence[ir.Statement], loops: dict[str, int]) -> None:
        for s in body:
            if ir.Leave("break") in statements_of([s]):  # turns before it may write, those after it do not
                seen.update(range(len(arrays)))
            for c in expressions(s):
                seen.update(p.array for p in walk(c) if isinstance(p, ir.Element))
            if isinstance(s, ir.Store):
                names = [i.name if isinstance(i, ir.Local) else "" for i in s.indices]
                whole = all(loops.get(n) == size for n, size in zip(names, arrays[s.array].shape, strict=True))
                if s.array not in seen and whole and sorted(names) == sorted(loops):
                    found.add(s.array)
                seen.add(s.array)
            elif isinstance(s, ir.Parallel) and not loops and all(isinstance(c, ir.Constant) for c in s.sizes):
                limits = [int(c.value) for c in s.sizes if isinstance(c, ir.Constant)]
                visit(s.body, dict(zip(s.names, limits, strict=True)))
            elif isinstance(s, ir.Range) and s.start == ir.Constant(0, dtypes.int64) and s.step == 1 and _constant(s.stop):
                size = int(s.stop.value) if isinstance(s.stop, ir.Constant) else 0
                visit(s.body, {**loops, s.name: size})
            elif isinstance(s, (ir.Parallel, ir.Range, ir.While, ir.If)):
                seen.update(_touched(s))
            elif isinstance(s, ir.Leave):  # what follows may not run
                seen.update(range(len(arrays)))
            if any(isinstance(p, ir.Leave) for p in statements_of([s])):
                seen.update(range(len(arrays)))

    visit(procedure.body, {})
    return found


def replaceable(procedure: ir.Procedure) -> set[tuple[int, int]]:
    """(input, output) by number: what may be the same memory. Every turn of the one parallel loop reads and writes
    those two at its own place only, and the input no more once it has written."""
    parallel = [s for s in procedure.body if isinstance(s, ir.Parallel)]
    if len(parallel) != 1:
        return set()
    (loop,) = parallel
    own = tuple(ir.Local(name, dtypes.int64) for name in loop.names)
    elsewhere = set[int]().union(*(_touched(s) for s in procedure.body if s is not loop))
    for s in statements_of(loop.body):
        places = [(p.array, p.indices) for c in expressions(s) for p in walk(c) if isinstance(p, ir.Element)]
        if isinstance(s, ir.Store):
            places.append((s.array, s.indices))
        elsewhere |= {array for array, indices in places if indices != own}
    whole = covered(procedure)
    count = len(procedure.inputs)
    found = set()
    for written in whole - elsewhere:
        target = procedure.arrays[written]
        first = next((n for n, s in enumerate(loop.body) if written in _touched(s)), None)
        if first is None:
            continue
        later = set[int]().union(*map(_touched, loop.body[first + 1 :]))
        if not isinstance(loop.body[first], ir.Store):
            later |= _touched(loop.body[first])
        for read in set(range(count)) - later - elsewhere:
            source = procedure.arrays[read]
            if (source.shape, source.dtype) == (target.shape, target.dtype):
                found.add((read, written))
    return found


def _constant(c: ir.Code) -> bool:
    return isinstance(c, ir.Constant)


def _touched(s: ir.Statement) -> set[int]:
    result = set()
    for one in statements_of([s]):
        result |= {p.array for c in expressions(one) for p in walk(c) if isinstance(p, ir.Element)}
        if isinstance(one, ir.Store):
            result.add(one.array)
    return result
