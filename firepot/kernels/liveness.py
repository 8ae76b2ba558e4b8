"""Walks over procedures, and which of their variables are read later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
