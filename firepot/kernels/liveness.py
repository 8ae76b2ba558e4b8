"""Walks over procedures and changes of them, and which of their variables are read later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from firepot.graph.dtypes import int64
from firepot.kernels import procedure as ir

Names = frozenset[str]


def walk(c: ir.Code) -> Iterator[ir.Code]:
    """The expression and all parts of it."""
    yield c
    inner: tuple[ir.Code, ...] = ()
    if isinstance(c, ir.Element):
        inner = c.indices
    elif isinstance(c, ir.Operation):
        inner = c.args
    elif isinstance(c, ir.Choice):
        inner = (c.condition, c.then, c.otherwise)
    for part in inner:
        yield from walk(part)


def expressions(s: ir.Statement) -> tuple[ir.Code, ...]:
    """The expressions of the statement itself, not those of statements within."""
    if isinstance(s, ir.Assign):
        return (s.value,)
    if isinstance(s, ir.Store):
        return (*s.indices, s.value)
    if isinstance(s, ir.Range):
        return (s.start, s.stop)
    if isinstance(s, ir.Parallel):
        return s.sizes
    if isinstance(s, (ir.While, ir.If)):
        return (s.condition,)
    return ()


def bodies(s: ir.Statement) -> tuple[tuple[ir.Statement, ...], ...]:
    """The blocks of statements within a statement."""
    if isinstance(s, ir.If):
        return s.then, s.otherwise
    return (s.body,) if isinstance(s, (ir.Range, ir.Parallel, ir.While)) else ()


def statements_of(body: Sequence[ir.Statement]) -> Iterator[ir.Statement]:
    """The statements and all within them, in order."""
    for s in body:
        yield s
        for block in bodies(s):
            yield from statements_of(block)


def rewritten(body: Sequence[ir.Statement], change: Callable[[ir.Code], ir.Code]) -> tuple[ir.Statement, ...]:
    """The statements with every expression changed, its parts first."""

    def code(c: ir.Code) -> ir.Code:
        if isinstance(c, ir.Element):
            c = replace(c, indices=tuple(map(code, c.indices)))
        elif isinstance(c, ir.Operation):
            c = replace(c, args=tuple(map(code, c.args)))
        elif isinstance(c, ir.Choice):
            c = ir.Choice(code(c.condition), code(c.then), code(c.otherwise), c.dtype)
        return change(c)

    def statement(s: ir.Statement) -> ir.Statement:
        if isinstance(s, ir.Assign):
            return replace(s, value=code(s.value))
        if isinstance(s, ir.Store):
            return replace(s, indices=tuple(map(code, s.indices)), value=code(s.value))
        if isinstance(s, ir.Range):
            return replace(s, start=code(s.start), stop=code(s.stop), body=block(s.body))
        if isinstance(s, ir.Parallel):
            return replace(s, sizes=tuple(map(code, s.sizes)), body=block(s.body))
        if isinstance(s, ir.While):
            return replace(s, condition=code(s.condition), body=block(s.body))
        if isinstance(s, ir.If):
            return replace(s, condition=code(s.condition), then=block(s.then), otherwise=block(s.otherwise))
        return s

    def block(statements: Sequence[ir.Statement]) -> tuple[ir.Statement, ...]:
        return tuple(map(statement, statements))

    return block(body)


def with_constants(body: tuple[ir.Statement, ...]) -> tuple[ir.Statement, ...]:
    """Variables that are assigned once, and a number, replaced by it (every variable is assigned before it is read)."""
    while True:
        every = [s for s in statements_of(body) if isinstance(s, ir.Assign)]
        names = [s.name for s in every]
        counting = assigned([s for s in statements_of(body) if isinstance(s, (ir.Range, ir.Parallel))]) - set(names)
        known = {
            s.name: s.value for s in every
            if isinstance(s.value, ir.Constant) and names.count(s.name) == 1 and s.name not in counting
        }  # fmt: skip
        if not known:
            return body

        def change(c: ir.Code, known: dict[str, ir.Constant] = known) -> ir.Code:
            if isinstance(c, ir.Local):
                return known.get(c.name, c)
            return _folded(c)

        body = _without(rewritten(body, change), set(known))


def _without(body: Sequence[ir.Statement], names: set[str]) -> tuple[ir.Statement, ...]:
    """The statements without assignments to the variables."""
    result: list[ir.Statement] = []
    for s in body:
        if isinstance(s, ir.Assign) and s.name in names:
            continue
        if isinstance(s, ir.If):
            s = replace(s, then=_without(s.then, names), otherwise=_without(s.otherwise, names))
        elif isinstance(s, (ir.Range, ir.Parallel, ir.While)):
            s = replace(s, body=_without(s.body, names))
        result.append(s)
    return tuple(result)


def _folded(c: ir.Code) -> ir.Code:
    """Sums and products of known integers; conversions of known numbers."""
    if not isinstance(c, ir.Operation) or not all(isinstance(a, ir.Constant) for a in c.args):
        return c
    values = [a.value for a in c.args if isinstance(a, ir.Constant)]
    if c.name in ("add", "sub", "mul") and c.dtype is int64:
        x, y = int(values[0]), int(values[1])
        made = x + y if c.name == "add" else x - y if c.name == "sub" else x * y
        return ir.Constant(made, int64) if -(2**63) <= made < 2**63 else c
    if c.name == "cast" and c.dtype.kind == "f" and isinstance(values[0], int):
        return ir.Constant(float(values[0]), c.dtype)
    return c


def assigned(body: Sequence[ir.Statement]) -> Names:
    """Variables that get a value, those of loops included."""
    found: set[str] = set()
    for s in statements_of(body):
        if isinstance(s, (ir.Assign, ir.Range)):
            found.add(s.name)
        elif isinstance(s, ir.Parallel):
            found.update(s.names)
    return frozenset(found)


def reads(codes: Sequence[ir.Code]) -> Names:
    """Variables whose values the expressions use."""
    return frozenset(part.name for c in codes for part in walk(c) if isinstance(part, ir.Local))


def live(
    body: Sequence[ir.Statement], after: Names, loops: dict[int, Names], leave: dict[str, Names] | None = None
) -> Names:
    """The variables whose values at the start of `body` may be read, in it or after it.

    Args:
        after: those that may be read after it.
        loops: gets the same of each loop within, by the identity of the statement.
        leave: those that may be read after `break` and after `continue`.
    """
    now = after
    for s in reversed(body):
        if isinstance(s, ir.Assign):
            now = (now - {s.name}) | reads(expressions(s))
        elif isinstance(s, ir.If):
            now = live(s.then, now, loops, leave) | live(s.otherwise, now, loops, leave) | reads(expressions(s))
        elif isinstance(s, ir.Leave):
            now = leave[s.word] if leave is not None else frozenset()
        elif isinstance(s, (ir.Range, ir.Parallel, ir.While)):
            own = frozenset() if isinstance(s, ir.While) else frozenset([s.name] if isinstance(s, ir.Range) else s.names)
            every = reads(expressions(s)) if isinstance(s, ir.While) else frozenset()  # read before each turn
            head = now | every
            loops[id(s)] = loops.get(id(s), frozenset()) | now
            while True:
                inner = live(s.body, head, loops, {"break": now, "continue": head}) - own
                if inner <= head:
                    break
                head |= inner
            now = head | reads(expressions(s))
        else:
            now |= reads(expressions(s))
    return now


def open_checks(procedure: ir.Procedure) -> tuple[tuple[int, str, bool], ...]:
    """Those of the procedure's checks that an index may fail: not of counters of loops that end within the size."""
    found: set[int] = set()

    def look(array: int, indices: Sequence[ir.Code], checks: Sequence[int], below: dict[str, int]) -> None:
        for index, check, size in zip(indices, checks, procedure.arrays[array].shape, strict=True):
            counter = isinstance(index, ir.Local) and below.get(index.name, size + 1) <= size
            number = isinstance(index, ir.Constant) and 0 <= index.value < size
            if not counter and not number:
                found.add(check)

    def visit(body: Sequence[ir.Statement], below: dict[str, int]) -> None:
        for s in body:
            for c in expressions(s):
                for part in walk(c):
                    if isinstance(part, ir.Element):
                        look(part.array, part.indices, part.checks, below)
            inner = below
            if isinstance(s, ir.Store):
                look(s.array, s.indices, s.checks, below)
            elif isinstance(s, ir.Parallel):
                ends = zip(s.names, s.sizes, strict=True)
                inner = below | {name: int(end.value) for name, end in ends if isinstance(end, ir.Constant)}
            elif isinstance(s, ir.Range):
                inner = {name: end for name, end in below.items() if name != s.name}
                if isinstance(s.start, ir.Constant) and s.start.value >= 0 and s.step > 0 and isinstance(s.stop, ir.Constant):
                    inner[s.name] = int(s.stop.value)
            for block in bodies(s):
                visit(block, inner)

    visit(procedure.body, {})
    return tuple(procedure.checks[n] for n in sorted(found))
