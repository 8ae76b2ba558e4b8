"""Procedures: statement-level code of a kernel that a person writes as a loop (`fp.kernel`).

Everything has a dtype and every array a shape. float16 and bfloat16 elements are float32 once read. An index must lie
in 0 … size − 1; `Element` and `Store` check that, and end the kernel where it does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from firepot.graph.dtypes import DType, int64


@dataclass(frozen=True)
class Constant:
    value: bool | int | float
    dtype: DType


@dataclass(frozen=True)
class Local:
    """A variable's present value."""

    name: str
    dtype: DType


@dataclass(frozen=True)
class Element:
    """An array's element. checks: for each index the number of its message in Procedure.checks."""

    array: int
    indices: tuple[Code, ...]
    checks: tuple[int, ...]
    dtype: DType


@dataclass(frozen=True)
class Operation:
    """An operation of kernels.loops.OPERATIONS on arguments of one dtype (but for 'cast')."""

    name: str
    args: tuple[Code, ...]
    dtype: DType


@dataclass(frozen=True)
class Choice:
    """`then` where the condition holds, else `otherwise`; the other one is not computed."""

    condition: Code
    then: Code
    otherwise: Code
    dtype: DType


Code = Constant | Local | Element | Operation | Choice


@dataclass(frozen=True)
class Assign:
    name: str
    value: Code


@dataclass(frozen=True)
class Store:
    array: int
    indices: tuple[Code, ...]
    checks: tuple[int, ...]
    value: Code


@dataclass(frozen=True)
class Range:
    """for name in range(start, stop, step), a non-zero step."""

    name: str
    start: Code
    stop: Code
    step: int
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Parallel:
    """The body for every combination of the variables below their sizes, shared among the threads."""

    names: tuple[str, ...]
    sizes: tuple[Code, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class While:
    condition: Code
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class If:
    condition: Code
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@dataclass(frozen=True)
class Leave:
    """Of the innermost Range or While: 'break' or 'continue'."""

    word: str


@dataclass(frozen=True)
class Lanes:
    """A loop whose turns run in the lanes of vectors, those of its last variable where it has several. Made by
    kernels.lanes, not part of a Procedure.

    varying: variables that differ from lane to lane
    slopes:  those that grow evenly from lane to lane, and by how much
    folds:   variables that gather something over the turns, and by what operation
    """

    loop: Range | Parallel
    lanes: int
    varying: tuple[str, ...]
    slopes: tuple[tuple[str, int], ...]
    folds: tuple[tuple[str, str], ...]


Statement = Assign | Store | Range | Parallel | While | If | Leave | Lanes


@dataclass(frozen=True)
class Array:
    """dtype: of its elements in memory."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    output: bool


class Procedure:
    """A kernel's code. Equal where the text of it is equal.

    arrays:  the inputs, then the outputs, which are zero before it runs
    locals:  variables with their dtypes
    checks:  of indices: params of graph.primitives.elementwise.check_index
    """

    def __init__(
        self, name: str, arrays: tuple[Array, ...], locals: tuple[tuple[str, DType], ...],
        checks: tuple[tuple[int, str, bool], ...], body: tuple[Statement, ...],
    ) -> None:  # fmt: skip
        self.name = name
        self.arrays = arrays
        self.locals = locals
        self.checks = checks
        self.body = body
        self.text = f"{name} {arrays} {locals} {checks} {body}"
        self._hash = hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Procedure) and other.text == self.text

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return self.name

    @property
    def inputs(self) -> tuple[Array, ...]:
        return tuple(a for a in self.arrays if not a.output)

    @property
    def outputs(self) -> tuple[Array, ...]:
        return tuple(a for a in self.arrays if a.output)


def batched(procedure: Procedure, size: int, inputs: tuple[bool, ...]) -> Procedure:
    """The procedure for `size` examples, shared among the threads: the marked inputs and all outputs have a leading
    dimension over them."""
    depth = sum(name.startswith("example ") for name, _ in procedure.locals)
    name = f"example {depth}"  # no name of Python's
    example = Local(name, int64)
    marked = (*inputs, *(True for _ in procedure.outputs))
    checks = (*procedure.checks, (size, "example {index} of {size}", True))
    own = len(procedure.checks)

    def code(c: Code) -> Code:
        if isinstance(c, Element):
            where, numbers = place(c.array, c.indices, c.checks)
            return Element(c.array, where, numbers, c.dtype)
        if isinstance(c, Operation):
            return replace(c, args=tuple(map(code, c.args)))
        if isinstance(c, Choice):
            return Choice(code(c.condition), code(c.then), code(c.otherwise), c.dtype)
        return c

    def place(
        array: int, indices: tuple[Code, ...], numbers: tuple[int, ...]
    ) -> tuple[tuple[Code, ...], tuple[int, ...]]:
        inner = tuple(map(code, indices))
        return ((example, *inner), (own, *numbers)) if marked[array] else (inner, numbers)

    def statement(s: Statement) -> Statement:
        if isinstance(s, Assign):
            return Assign(s.name, code(s.value))
        if isinstance(s, Store):
            return Store(s.array, *place(s.array, s.indices, s.checks), code(s.value))
        if isinstance(s, Range):
            return Range(s.name, code(s.start), code(s.stop), s.step, block(s.body))
        if isinstance(s, Parallel):  # one after another within an example
            inner = block(s.body)
            for variable, limit in reversed(list(zip(s.names, s.sizes, strict=True))):
                inner = (Range(variable, Constant(0, int64), code(limit), 1, inner),)
            return inner[0]
        if isinstance(s, While):
            return While(code(s.condition), block(s.body))
        if isinstance(s, If):
            return If(code(s.condition), block(s.then), block(s.otherwise))
        return s

    def block(statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
        return tuple(map(statement, statements))

    arrays = tuple(
        replace(a, shape=(size, *a.shape)) if m else a for a, m in zip(procedure.arrays, marked, strict=True)
    )
    body = (Parallel((name,), (Constant(size, int64),), block(procedure.body)),)
    return Procedure(procedure.name, arrays, (*procedure.locals, (name, int64)), checks, body)
