"""Programs inside a program: what a loop repeats, what a branch chooses.

The kernels of a body are those of a program of its own, planned and compiled once. Its operands lie in the operands of
the step that it is part of: in what is the same at every turn, in one row of each stacked value, which moves on from
turn to turn, or in the step's workspace, which holds the body's arena.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from firepot.compiler import simplify
from firepot.compiler.memory import ALIGNMENT
from firepot.graph.node import Node, barrier, data
from firepot.kernels.kernel import Kernel
from firepot.runtime import program as runtime

if TYPE_CHECKING:
    from firepot.compiler.lower import Access
    from firepot.compiler.program import Program


@dataclass(frozen=True)
class Place:
    """Bytes from the start of one of the step's operands (−1: its workspace), at the first turn, and by how much
    further with each turn."""

    operand: int
    offset: int
    stride: int = 0

    def moved(self, offset: int) -> Place:
        return Place(self.operand, self.offset + offset, self.stride)


@dataclass(frozen=True)
class InnerStep:
    """Phases `first` up to `last` of a kernel (−1: the end)."""

    kernel: Kernel
    operands: tuple[Place, ...]
    first: int = 0
    last: int = -1


@dataclass(frozen=True)
class InnerPlan:
    """A loop or branch inside, whose workspace is the last operand."""

    plan: Plan
    operands: tuple[Place, ...]


@dataclass(frozen=True)
class Repeat:
    """Runs `count` times, with what its places move."""

    count: int
    body: Plan


@dataclass(frozen=True)
class Branch:
    condition: Place
    then: Plan
    otherwise: Plan


@dataclass(frozen=True)
class While:
    test: Plan
    condition: Place
    body: Plan


Composed = InnerPlan | Repeat | Branch | While
Plan = tuple[InnerStep | Composed, ...]
_NAMES = {InnerPlan: "plan", Repeat: "repeat", Branch: "branch", While: "while"}


def steps(plan: Plan, operands: Sequence[runtime.Operand], moving: bool = False) -> tuple[runtime.AnyStep, ...]:
    """A plan for the runtime, with the operands of the step, the workspace last."""

    def at(p: Place) -> runtime.Operand:
        base, offset, strides = operands[p.operand]
        return runtime.Operand(base, offset + p.offset, (*strides, p.stride) if moving else strides)

    found: list[runtime.AnyStep] = []
    for inner in plan:
        if isinstance(inner, InnerStep):
            phases = (inner.first, None if inner.last < 0 else inner.last)
            found.append(runtime.Step(inner.kernel, tuple(map(at, inner.operands)), phases=phases))
        elif isinstance(inner, InnerPlan):
            found.extend(steps(inner.plan, tuple(map(at, inner.operands))))
        elif isinstance(inner, Repeat):
            found.append(runtime.Loop(inner.count, steps(inner.body, operands, True)))
        elif isinstance(inner, Branch):
            branches = (steps(b, operands, moving) for b in (inner.then, inner.otherwise))
            found.append(runtime.Branch(at(inner.condition), *branches))
        else:
            test, body = (steps(b, operands, moving) for b in (inner.test, inner.body))
            found.append(runtime.While(test, at(inner.condition), body))
    return tuple(found)


def kernels(plan: Plan) -> list[Kernel]:
    """The kernels of a plan, in order."""
    found: list[Kernel] = []
    for inner in plan:
        if isinstance(inner, InnerStep):
            found.append(inner.kernel)
        else:
            for part in parts(inner):
                found.extend(kernels(part))
    return found


def parts(inner: Composed) -> tuple[Plan, ...]:
    """The plans that a step of a plan consists of."""
    if isinstance(inner, InnerPlan):
        return (inner.plan,)
    if isinstance(inner, Repeat):
        return (inner.body,)
    return (inner.then, inner.otherwise) if isinstance(inner, Branch) else (inner.test, inner.body)


def with_kernels(plan: Plan, change: Callable[[Kernel], Kernel]) -> Plan:
    """The plan with other kernels."""
    return tuple(
        replace(inner, kernel=change(inner.kernel))
        if isinstance(inner, InnerStep)
        else _with_parts(inner, [with_kernels(p, change) for p in parts(inner)])
        for inner in plan
    )


def _with_parts(inner: Composed, new: Sequence[Plan]) -> Composed:
    if isinstance(inner, InnerPlan):
        return replace(inner, plan=new[0])
    if isinstance(inner, Repeat):
        return replace(inner, body=new[0])
    if isinstance(inner, Branch):
        return replace(inner, then=new[0], otherwise=new[1])
    return replace(inner, test=new[0], body=new[1])


def to_plain(plan: Plan, kernel: Callable[[Kernel], Any]) -> list[Any]:
    """The plan as numbers, strings and lists; `kernel` says how a kernel is written."""
    found: list[Any] = []
    for inner in plan:
        if isinstance(inner, InnerStep):
            found.append(["step", kernel(inner.kernel), _places(inner.operands), inner.first, inner.last])
            continue
        own: Any = None
        if isinstance(inner, InnerPlan):
            own = _places(inner.operands)
        elif isinstance(inner, Repeat):
            own = inner.count
        else:
            own = _places([inner.condition])
        found.append([_NAMES[type(inner)], own, *(to_plain(p, kernel) for p in parts(inner))])
    return found


def from_plain(content: Sequence[Any], kernel: Callable[..., Kernel]) -> Plan:
    """What `to_plain` was given; `kernel` makes one of what was written of it."""
    found: list[InnerStep | Composed] = []
    for name, own, *rest in content:
        if name == "step":
            operands, first, last = rest
            found.append(InnerStep(kernel(*own), _read_places(operands), first, last))
            continue
        inner = [from_plain(p, kernel) for p in rest]
        if name == "plan":
            found.append(InnerPlan(inner[0], _read_places(own)))
        elif name == "repeat":
            found.append(Repeat(own, inner[0]))
        elif name == "branch":
            found.append(Branch(_read_places(own)[0], *inner))
        else:
            found.append(While(inner[0], _read_places(own)[0], inner[1]))
    return tuple(found)


def _places(places: Sequence[Place]) -> list[tuple[int, int, int]]:
    return [(p.operand, p.offset, p.stride) for p in places]


def _read_places(content: Sequence[Any]) -> tuple[Place, ...]:
    return tuple(Place(*p) for p in content)


class Workspace:
    """Memory of a step for what its body keeps, handed out once and for all."""

    def __init__(self) -> None:
        self.size = ALIGNMENT

    def reserve(self, size: int) -> Place:
        place = Place(-1, self.size)
        self.size += -(-size // ALIGNMENT) * ALIGNMENT
        return place


class Body:
    """A graph on placeholders, planned.

    Args:
        results: what it computes.
        own: placeholder -> the result that is its next value, by number: may be written over it.
        lasting: placeholders whose values are the same at every turn, so that what kernels make of those alone
            (packed weights) is made once.

    inputs:  the placeholders that it reads
    written_over: numbers of the results that take the place of the placeholder whose next value they are
    """

    def __init__(
        self, results: Sequence[Node], own: Mapping[Node, int] | None = None, lasting: Collection[Node] = ()
    ) -> None:
        from firepot.compiler.program import ALL_PASSES, build

        _, self.inputs, order = simplify.structure(results)
        inputs, outputs = simplify.simplify(order, self.inputs, results)
        seen = set(inputs)
        for n, o in enumerate(outputs):
            while o in seen:  # an argument as it is, or the same result twice: a copy
                o = barrier(o, o)
            seen.add(o)
            outputs[n] = o
        places = {p: i for i, p in enumerate(self.inputs)}
        donations = {r: places[p] for p, r in (own or {}).items() if p in places}
        constants = [places[p] for p in lasting if p in places]
        passes = replace(ALL_PASSES, blocks=False)  # which is for programs that run by themselves
        self.program: Program = build(inputs, outputs, donations, passes, constants)
        unread = {r for p, r in (own or {}).items() if p not in places}
        self.written_over = unread | self.program.donated.keys()

    def plan(
        self, read: Mapping[Node, Place], written: Sequence[Place], workspace: Workspace, arena: Place | None = None
    ) -> tuple[Plan, Plan]:
        """(what runs once before, what runs at every turn). arena: where to keep intermediate values."""
        arena = workspace.reserve(self.program.arena) if arena is None else arena
        return _plan(self.program, [read[p] for p in self.inputs], written, arena, workspace)


def copies(values: Sequence[tuple[Node, Place, Place]]) -> Plan:
    """Kernels that copy values shaped like nodes from place to place."""
    from firepot.compiler.program import build

    values = [(node, source, target) for node, source, target in values if node.size]
    if not values:
        return ()
    inputs = [data((node.size,), node.dtype) for node, _, _ in values]
    program = build(inputs, [barrier(i, i) for i in inputs])
    return _plan(program, [s for _, s, _ in values], [t for _, _, t in values], Place(-1, 0), Workspace())[1]


def _plan(
    program: Program, inputs: Sequence[Place], outputs: Sequence[Place], arena: Place, workspace: Workspace
) -> tuple[Plan, Plan]:
    """The kernels of a program with its inputs, outputs and arena at these places: what runs once, and the rest."""
    once: list[InnerStep | Composed] = []
    found: list[InnerStep | Composed] = []
    kept: dict[tuple[int, int, str, int], Place] = {}
    for t, step in enumerate(program.steps):
        places = []
        for storage, offset in step.operands:
            kind, where = program.places[storage.number]
            if kind == "arena":
                places.append(arena.moved(where + offset))
            else:
                places.append((inputs if kind == "input" else outputs)[where].moved(offset))
        if t in program.prepared:
            what, size = program.preparation(t)
            new = what not in kept
            if new:
                kept[what] = workspace.reserve(size)
            operands = (*places, kept[what])
            if new:
                once.append(InnerStep(step.kernel, operands, 0, 1))
            found.append(InnerStep(step.kernel, operands, 1))
            continue
        if program.workspaces[t] >= 0:
            places.append(arena.moved(program.workspaces[t]))
        if step.plan is not None:
            found.append(InnerPlan(step.plan, tuple(places)))
        else:
            found.append(InnerStep(step.kernel, tuple(places), 1 if t in program.shared else 0))
    return tuple(once), tuple(found)


def composite(name: str, turns: int, bodies: Sequence[Plan], cost: Callable[[Sequence[int]], int], size: int) -> Kernel:
    """The description of a step that runs other kernels.

    Args:
        bodies: the plans that one turn chooses from, or runs one after another.
        cost: from what each of them takes to what one turn takes.
        size: bytes of its workspace.
    """
    inner = [kernels(b) for b in bodies]
    every = [k for found in inner for k in found]
    return Kernel(
        key=f"{name} {[k.key for k in every]}",
        generate=lambda: "\n".join(k.generate() for k in every),
        phases=(), workspace=size, parallel=any(k.parallel for k in every),
        label=f"{name}({len(every)} kernels: {every[0].label if every else ''})",
        flops=turns * cost([sum(k.flops for k in found) for found in inner]),
        bytes=turns * cost([sum(k.bytes for k in found) for found in inner]),
    )  # fmt: skip


def dense(found: Access, shape: tuple[int, ...]) -> bool:
    """Whether a body can read its operand there: rows one after another, each at an aligned address."""
    if shape and shape[-1] > 1 and found.strides[-1] != 1:
        return False
    return len(shape) < 2 or shape[0] <= 1 or found.strides[0] * found.storage.dtype.size % ALIGNMENT == 0
