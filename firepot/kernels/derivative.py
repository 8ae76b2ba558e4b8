"""The derivative of a procedure by one of its inputs, as a procedure.

The gradient of an output goes backwards through the statements that lead to it, and is added up where the input was read.
What the backward pass needs of the variables is computed again, under a name for each assignment, so that nothing is
overwritten. Loops may sum things up; other values that go from turn to turn would have to be kept for every turn, and are
not derived. The result is of the same kind, so it has a derivative itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.kernels import procedure as ir
from firepot.kernels.lanes import straightened
from firepot.kernels.liveness import assigned, expressions, live, reads, rewritten, statements_of, walk


class NotDerived(Exception):
    """Why, and at which line."""


def derivative(procedure: ir.Procedure, output: int, input: int) -> ir.Procedure:
    """The gradient by input number `input`, of which it gives the sum over all reads.

    Its inputs are those of the procedure and the gradient of output number `output`. Gradients of 16-bit inputs are
    float32. Raises NotDerived.
    """
    return _Reverse(procedure, output, input).procedure()


Env = dict[str, str]


def _add(x: ir.Code, y: ir.Code) -> ir.Code:
    return ir.Operation("add", (x, y), x.dtype)


def _mul(x: ir.Code, y: ir.Code) -> ir.Code:
    return ir.Operation("mul", (x, y), x.dtype)


class _Reverse:
    def __init__(self, p: ir.Procedure, output: int, input: int) -> None:
        self.p = p
        self.input = input
        self.output = len(p.inputs) + output
        self.gradient = len(p.inputs)  # number of the output's gradient among the new arrays
        self.result = len(p.inputs) + 1
        self.types = dict(p.locals)
        self.sums: set[str] = set()  # versions that the loop being gone through adds to
        self.reads = {p.arrays[self.output].name}
        self.count = 0
        self.dependent = self.find_dependent()
        self.check_stores()

    def procedure(self) -> ir.Procedure:
        p = self.p
        given, made = p.arrays[self.output], p.arrays[self.input]
        wide = dtypes.float32 if made.dtype.size < 4 else made.dtype
        arrays = (
            *p.inputs, replace(given, name=f"gradient of {given.name}", output=False),
            ir.Array(f"gradient by {made.name}", wide, made.shape, True),
        )  # fmt: skip
        forward, backward, own = self.block(p.body, {})
        body = (*forward, *self.zeros(own), *backward)
        locals = tuple(sorted(self.types.items()))
        return ir.Procedure(f"{p.name}, derivative", arrays, locals, p.checks, body)

    def fail(self, s: ir.Statement | None, why: str) -> NotDerived:
        place = f" (at {s.place})" if s is not None and s.place else ""
        return NotDerived(f"{why}{place}")

    # -- what depends on the input ----------------------------------------------------------------------------------

    def find_dependent(self) -> set[str]:
        """Floating-point variables whose values the input's elements go into."""
        found: set[str] = set()
        assigns = [s for s in statements_of(self.p.body) if isinstance(s, ir.Assign) and s.value.dtype.kind == "f"]
        while True:
            more = {s.name for s in assigns if self.leads(s.value, found)} - found
            if not more:
                return found
            found |= more

    def leads(self, c: ir.Code, names: set[str]) -> bool:
        """Whether a value changes with the input."""
        if c.dtype.kind != "f":
            return False
        if isinstance(c, ir.Local):
            return c.name in names
        if isinstance(c, ir.Element):
            return c.array == self.input
        if isinstance(c, ir.Operation):
            return any(self.leads(a, names) for a in c.args)
        return isinstance(c, ir.Choice) and (self.leads(c.then, names) or self.leads(c.otherwise, names))

    def check_stores(self) -> None:
        """No element of the output is written twice, unless to add to it; and none is read otherwise."""
        plain: list[tuple[ir.Store, tuple[tuple[int, int], ...]]] = []
        added = False

        def visit(body: Sequence[ir.Statement], loops: tuple[str, ...], path: tuple[tuple[int, int], ...]) -> None:
            nonlocal added
            for s in body:
                own = isinstance(s, ir.Store) and s.array == self.output
                for c in expressions(s):
                    for part in walk(c):
                        if not isinstance(part, ir.Element) or not self.p.arrays[part.array].output:
                            continue
                        if not (isinstance(s, ir.Store) and self.adds(s) and part.array == s.array):
                            raise self.fail(s, f"it reads its output {self.p.arrays[part.array].name}")
                if isinstance(s, ir.Store) and own:
                    if self.adds(s):
                        added = True
                    else:
                        names = {i.name for i in s.indices if isinstance(i, ir.Local)}
                        if not set(loops) <= names:
                            raise self.fail(s, "several turns may write one element")
                        plain.append((s, path))
                if isinstance(s, ir.If):
                    visit(s.then, loops, (*path, (id(s), 0)))
                    visit(s.otherwise, loops, (*path, (id(s), 1)))
                elif isinstance(s, (ir.Range, ir.Parallel)):
                    names_of = (s.name,) if isinstance(s, ir.Range) else s.names
                    visit(s.body, (*loops, *names_of), path)
                elif isinstance(s, ir.While):
                    raise self.fail(s, "it has a while loop")

        visit(self.p.body, (), ())
        for n, (s, path) in enumerate(plain):
            for other, second in plain[:n]:
                apart = any(a in path and (a[0], 1 - a[1]) in second for a in path)
                if not apart or other.indices != s.indices:
                    raise self.fail(s, "an element may be written twice")
        if added and plain:
            raise self.fail(plain[0][0], "elements are written and added to")

    def adds(self, s: ir.Store) -> bool:
        """Whether the statement is y[i] += …."""
        own = [p for p in walk(s.value) if isinstance(p, ir.Element) and p.array == s.array]
        if len(own) != 1 or own[0].indices != s.indices:
            return False
        return _linear(s.value, own[0])

    # -- statements --------------------------------------------------------------------------------------------------

    def fresh(self, hint: str, dtype: DType) -> str:
        self.count += 1
        name = f"{hint} {self.count}"
        while name in self.types:
            self.count += 1
            name = f"{hint} {self.count}"
        self.types[name] = dtype
        return name

    def adjoint(self, version: str) -> str:
        name = f"d {version}"
        self.types[name] = self.types[version]
        return name

    def zeros(self, versions: Sequence[str]) -> list[ir.Statement]:
        found = [v for v in versions if v in self.dependent]
        return [ir.Assign(self.adjoint(v), ir.Constant(0.0, self.types[v])) for v in found]

    def now(self, c: ir.Code, env: Env) -> ir.Code:
        """The expression with variables by their present versions."""

        def change(part: ir.Code) -> ir.Code:
            return ir.Local(env.get(part.name, part.name), part.dtype) if isinstance(part, ir.Local) else part

        (s,) = rewritten([ir.Assign("", c)], change)
        assert isinstance(s, ir.Assign)
        return s.value

    def version(self, name: str) -> str:
        found = self.fresh(name, self.types[name])
        if name in self.dependent:
            self.dependent.add(found)
        return found

    def block(
        self, body: Sequence[ir.Statement], env: Env
    ) -> tuple[list[ir.Statement], list[ir.Statement], list[str]]:
        """Statements that compute the variables, those that go back, and the versions that the block defines; env gets
        the versions at its end."""
        forward: list[ir.Statement] = []
        backward: list[list[ir.Statement]] = []
        own: list[str] = []
        for n, s in enumerate(body):
            if isinstance(s, ir.Assign):
                self.assign(s, env, forward, backward, own)
            elif isinstance(s, ir.Store):
                if s.array == self.output:
                    indices = tuple(self.now(i, env) for i in s.indices)
                    dtype = s.value.dtype
                    g = ir.Element(self.gradient, indices, s.checks, dtype)
                    name = self.fresh("g", dtype)
                    back: list[ir.Statement] = [ir.Assign(name, g)]
                    back += self.pull(self.now(s.value, env), ir.Local(name, dtype), s)
                    backward.append(back)
            elif isinstance(s, ir.If):
                self.branch(s, env, forward, backward, own)
            elif isinstance(s, (ir.Range, ir.Parallel)):
                self.loop(s, list(body[n + 1 :]), env, forward, backward, own)
            else:
                raise self.fail(s, "it leaves a loop early")
        return forward, [s for piece in reversed(backward) for s in piece], own

    def assign(
        self, s: ir.Assign, env: Env, forward: list[ir.Statement], backward: list[list[ir.Statement]], own: list[str]
    ) -> None:
        value = self.now(s.value, env)
        current = env.get(s.name)
        if current in self.sums:
            assert current is not None
            forward.append(ir.Assign(current, value))
            if current in self.dependent:
                backward.append(self.pull(value, ir.Local(self.adjoint(current), value.dtype), s))
            return
        found = env[s.name] = self.version(s.name)
        own.append(found)
        forward.append(ir.Assign(found, value))
        if found in self.dependent:
            backward.append(self.pull(value, ir.Local(self.adjoint(found), value.dtype), s))

    def branch(
        self, s: ir.If, env: Env, forward: list[ir.Statement], backward: list[list[ir.Statement]], own: list[str]
    ) -> None:
        condition = self.now(s.condition, env)
        ends = [dict(env), dict(env)]
        arms = [self.block(arm, end) for arm, end in zip((s.then, s.otherwise), ends, strict=True)]
        merged = {n: self.version(n) for n in sorted(ends[0]) if n in ends[1] and ends[0][n] != ends[1][n]}
        own += merged.values()
        for n in set(env) - set(merged):
            env[n] = ends[0].get(n, env[n])
        done: list[tuple[ir.Statement, ...]] = []
        back: list[tuple[ir.Statement, ...]] = []
        for (inner, reverse, versions), end in zip(arms, ends, strict=True):
            done.append((*inner, *(ir.Assign(v, ir.Local(end[n], self.types[n])) for n, v in merged.items())))
            taken = [
                self.accumulate(end[n], ir.Local(self.adjoint(v), self.types[n]))
                for n, v in merged.items() if v in self.dependent and end[n] in self.dependent
            ]  # fmt: skip
            back.append((*inner, *self.zeros(versions), *taken, *reverse) if taken or reverse else ())
        env.update(merged)
        forward.append(ir.If(condition, done[0], done[1]))
        if any(back):
            backward.append([ir.If(condition, back[0], back[1])])

    def loop(
        self, s: ir.Range | ir.Parallel, rest: Sequence[ir.Statement], env: Env, forward: list[ir.Statement],
        backward: list[list[ir.Statement]], own: list[str],
    ) -> None:  # fmt: skip
        body = straightened(s.body)
        names = (s.name,) if isinstance(s, ir.Range) else s.names
        changed = assigned(body)
        gathered = sorted(live(body, frozenset(), {}) & changed)
        for name in gathered:
            self.check_sum(name, body)
        left = (live(rest, frozenset(), {}) & changed) - set(gathered) - set(names)
        if any(n in env for n in left):
            raise self.fail(s, f"{', '.join(sorted(left))} goes on with what the last turn of a loop gave it")
        before = {n: env[n] for n in gathered}
        for n in gathered:
            env[n] = self.version(n)
            own.append(env[n])
            forward.append(ir.Assign(env[n], ir.Local(before[n], self.types[n])))
        outside = self.sums
        self.sums = outside | {env[n] for n in gathered}
        inner_env = dict(env) | {n: n for n in names}
        inner, reverse, versions = self.block(body, inner_env)
        self.sums = outside
        again = (*inner, *self.zeros(versions), *reverse)
        kept = {env[n] for n in gathered}  # the sums are complete already
        again = tuple(_without_sums(again, kept))
        bounds = [self.now(c, env) for c in expressions(s)]
        if isinstance(s, ir.Range):
            forward.append(ir.Range(s.name, bounds[0], bounds[1], s.step, tuple(inner)))
            turned: ir.Statement = ir.Range(s.name, bounds[0], bounds[1], s.step, again)
        else:
            turned = self.shared(s.names, bounds, again)
        back = [turned] if reverse else []
        for n in gathered:
            if env[n] in self.dependent and before[n] in self.dependent:
                back.append(self.accumulate(before[n], ir.Local(self.adjoint(env[n]), self.types[n])))
        backward.append(back)

    def check_sum(self, name: str, body: Sequence[ir.Statement]) -> None:
        """A variable that goes from turn to turn only has things added to it."""
        for s in statements_of(body):
            for c in expressions(s):
                if name not in reads([c]):
                    continue
                if not isinstance(s, ir.Assign) or s.name != name or not _linear(s.value, ir.Local(name, c.dtype)):
                    raise self.fail(s, f"{name} goes from one turn of a loop to the next, and not as a sum")
            if isinstance(s, ir.Assign) and s.name == name and name not in reads([s.value]):
                raise self.fail(s, f"{name} goes from one turn of a loop to the next, and not as a sum")

    def shared(self, names: Sequence[str], sizes: Sequence[ir.Code], body: tuple[ir.Statement, ...]) -> ir.Statement:
        """The turns among the threads by those variables at which alone the gradient is written, the others within."""
        places = [s.indices for s in statements_of(body) if isinstance(s, ir.Store)]
        outer = {s.name for s in statements_of(body) if isinstance(s, ir.Assign)}
        local = not (live(body, frozenset(), {}) & outer)  # gradients of what was computed before are summed up in order
        own = [
            n for n in names
            if local and any(all(p[d] == ir.Local(n, dtypes.int64) for p in places)
                             for d in range(len(places[0]) if places else 0))
        ]  # fmt: skip
        limits = dict(zip(names, sizes, strict=True))
        for n in reversed([n for n in names if n not in own]):
            body = (ir.Range(n, ir.Constant(0, dtypes.int64), limits[n], 1, body),)
        return ir.Parallel(tuple(own), tuple(limits[n] for n in own), body) if own else body[0]

    # -- expressions -------------------------------------------------------------------------------------------------

    def accumulate(self, version: str, g: ir.Code) -> ir.Statement:
        name = self.adjoint(version)
        return ir.Assign(name, _add(ir.Local(name, g.dtype), g))

    def pull(self, c: ir.Code, g: ir.Code, s: ir.Statement) -> list[ir.Statement]:
        """Add g times the derivative of a value to the gradients of what it is made of."""
        if not self.leads(c, self.dependent):
            return []
        if isinstance(c, ir.Local):
            return [] if c.name in self.sums else [self.accumulate(c.name, g)]
        if isinstance(c, ir.Element):
            dtype = dtypes.float32 if g.dtype.size < 4 else g.dtype
            total = _add(ir.Element(self.result, c.indices, c.checks, dtype), g)
            return [ir.Store(self.result, c.indices, c.checks, total)]
        if isinstance(c, ir.Choice):
            then, otherwise = (tuple(self.pull(arm, g, s)) for arm in (c.then, c.otherwise))
            return [ir.If(c.condition, then, otherwise)] if then or otherwise else []
        assert isinstance(c, ir.Operation)
        result: list[ir.Statement] = []
        for position, a in enumerate(c.args):
            if not self.leads(a, self.dependent):
                continue
            partial = self.partial(c, position, g, s)
            if partial is None:
                continue
            name = self.fresh("g", a.dtype)
            result += [ir.Assign(name, partial), *self.pull(a, ir.Local(name, a.dtype), s)]
        return result

    def partial(self, c: ir.Operation, position: int, g: ir.Code, s: ir.Statement) -> ir.Code | None:
        """g times the derivative by an argument; None where that is zero."""
        if c.name == "cast":
            return ir.Operation("cast", (g,), c.args[0].dtype)
        if c.name in ("floor", "ceil", "trunc", "round", "sign", "floordiv"):
            return None
        rule = _RULES.get(c.name)
        if rule is None:
            raise self.fail(s, f"no derivative of {c.name} in a kernel is known")
        return rule[position](g, c, *c.args)


def _without_sums(body: Sequence[ir.Statement], sums: set[str]) -> list[ir.Statement]:
    result: list[ir.Statement] = []
    for s in body:
        if isinstance(s, ir.Assign) and s.name in sums:
            continue
        if isinstance(s, ir.If):
            s = replace(s, then=tuple(_without_sums(s.then, sums)), otherwise=tuple(_without_sums(s.otherwise, sums)))
        elif isinstance(s, (ir.Range, ir.Parallel)):
            s = replace(s, body=tuple(_without_sums(s.body, sums)))
        result.append(s)
    return result


def _linear(c: ir.Code, own: ir.Code) -> bool:
    """Whether the value is `own` plus or minus something that does not contain it."""
    if c == own:
        return True
    if isinstance(c, ir.Choice):
        return own not in walk(c.condition) and _linear(c.then, own) and _linear(c.otherwise, own)
    if not isinstance(c, ir.Operation) or c.name not in ("add", "sub"):
        return False
    x, y = c.args
    if c.name == "add" and own in walk(y):
        x, y = y, x
    return own not in walk(y) and _linear(x, own)


# -- derivatives of operations: of each argument a function of (gradient, the operation, its arguments) --------------------

Rule = Callable[..., ir.Code]


def _op(name: str, *args: ir.Code) -> ir.Code:
    return ir.Operation(name, args, args[0].dtype)


def _c(value: float, like: ir.Code) -> ir.Code:
    return ir.Constant(value, like.dtype)


def _sub(x: ir.Code, y: ir.Code) -> ir.Code:
    return _op("sub", x, y)


def _div(x: ir.Code, y: ir.Code) -> ir.Code:
    return _op("div", x, y)


def _where(condition: ir.Code, x: ir.Code, y: ir.Code) -> ir.Code:
    return ir.Choice(condition, x, y, x.dtype)


def _test(name: str, x: ir.Code, y: ir.Code) -> ir.Code:
    return ir.Operation(name, (x, y), dtypes.bool_)


def _extreme(word: str) -> tuple[Rule, Rule]:
    """The larger (or smaller) one takes all, equal ones half each, as in PyTorch."""

    def rule(g: ir.Code, x: ir.Code, y: ir.Code) -> ir.Code:
        half = _where(_test("eq", x, y), _mul(g, _c(0.5, g)), _c(0.0, g))
        return _where(_test(word, x, y), g, half)

    return lambda g, c, x, y: rule(g, x, y), lambda g, c, x, y: rule(g, y, x)


def _square(x: ir.Code) -> ir.Code:
    return _mul(x, x)


_RULES: dict[str, tuple[Rule, ...]] = {
    "add": (lambda g, c, x, y: g, lambda g, c, x, y: g),
    "sub": (lambda g, c, x, y: g, lambda g, c, x, y: _op("neg", g)),
    "mul": (lambda g, c, x, y: _mul(g, y), lambda g, c, x, y: _mul(g, x)),
    "div": (lambda g, c, x, y: _div(g, y), lambda g, c, x, y: _op("neg", _div(_mul(g, c), y))),
    "pow": (
        lambda g, c, x, y: _where(_test("eq", y, _c(0.0, y)), _c(0.0, g),
                                  _mul(g, _mul(y, _op("pow", x, _sub(y, _c(1.0, y)))))),
        lambda g, c, x, y: _where(_test("gt", x, _c(0.0, x)), _mul(_mul(g, c), _op("log", x)), _c(0.0, g)),
    ),
    "maximum": _extreme("gt"), "minimum": _extreme("lt"),
    "remainder": (lambda g, c, x, y: g, lambda g, c, x, y: _op("neg", _mul(g, _op("floor", _div(x, y))))),
    "fmod": (lambda g, c, x, y: g, lambda g, c, x, y: _op("neg", _mul(g, _op("trunc", _div(x, y))))),
    "atan2": (lambda g, c, x, y: _div(_mul(g, y), _add(_square(x), _square(y))),
              lambda g, c, x, y: _op("neg", _div(_mul(g, x), _add(_square(x), _square(y))))),
    "hypot": (lambda g, c, x, y: _div(_mul(g, x), c), lambda g, c, x, y: _div(_mul(g, y), c)),
    "neg": (lambda g, c, x: _op("neg", g),),
    "abs": (lambda g, c, x: _mul(g, _op("sign", x)),),
    "relu": (lambda g, c, x: _where(_test("gt", x, _c(0.0, x)), g, _c(0.0, g)),),
    "sqrt": (lambda g, c, x: _div(_mul(g, _c(0.5, g)), c),),
    "rsqrt": (lambda g, c, x: _div(_mul(_mul(g, _c(-0.5, g)), c), x),),
    "reciprocal": (lambda g, c, x: _op("neg", _mul(g, _square(c))),),
    "exp": (lambda g, c, x: _mul(g, c),),
    "exp2": (lambda g, c, x: _mul(_mul(g, c), _c(0.6931471805599453, g)),),
    "expm1": (lambda g, c, x: _mul(g, _add(c, _c(1.0, c))),),
    "log": (lambda g, c, x: _div(g, x),),
    "log2": (lambda g, c, x: _div(g, _mul(x, _c(0.6931471805599453, x))),),
    "log10": (lambda g, c, x: _div(g, _mul(x, _c(2.302585092994046, x))),),
    "log1p": (lambda g, c, x: _div(g, _add(x, _c(1.0, x))),),
    "sin": (lambda g, c, x: _mul(g, _op("cos", x)),),
    "cos": (lambda g, c, x: _op("neg", _mul(g, _op("sin", x))),),
    "tan": (lambda g, c, x: _mul(g, _add(_c(1.0, c), _square(c))),),
    "asin": (lambda g, c, x: _div(g, _op("sqrt", _sub(_c(1.0, x), _square(x)))),),
    "acos": (lambda g, c, x: _op("neg", _div(g, _op("sqrt", _sub(_c(1.0, x), _square(x))))),),
    "atan": (lambda g, c, x: _div(g, _add(_c(1.0, x), _square(x))),),
    "sinh": (lambda g, c, x: _mul(g, _op("cosh", x)),),
    "cosh": (lambda g, c, x: _mul(g, _op("sinh", x)),),
    "tanh": (lambda g, c, x: _mul(g, _sub(_c(1.0, c), _square(c))),),
    "sigmoid": (lambda g, c, x: _mul(g, _mul(c, _sub(_c(1.0, c), c))),),
    "erf": (lambda g, c, x: _mul(_mul(g, _c(1.1283791670955126, g)), _op("exp", _op("neg", _square(x)))),),
    "erfc": (lambda g, c, x: _mul(_mul(g, _c(-1.1283791670955126, g)), _op("exp", _op("neg", _square(x)))),),
}  # fmt: skip
