"""Loops: the body's program as part of the program around it.

The kernels of the body are those of a program of its own, planned and compiled once. Its operands lie in the operands
of the loop: in the constants, in one row of each stacked value, which moves on from step to step, or in the loop's
workspace, which holds the body's arena.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firepot.compiler import simplify
from firepot.compiler.memory import ALIGNMENT
from firepot.graph.dtypes import DType
from firepot.graph.node import Node, barrier, data
from firepot.graph.primitives.loop import pieces
from firepot.kernels.kernel import Kernel
from firepot.runtime import program as runtime

if TYPE_CHECKING:
    from firepot.compiler.lower import Access, Lowering
    from firepot.compiler.program import Program


@dataclass(frozen=True)
class Place:
    """Bytes from the start of one of the loop's operands (−1: its workspace), at the first step, and by how much
    further with each step."""

    operand: int
    offset: int
    stride: int = 0

    def moved(self, offset: int) -> Place:
        return Place(self.operand, self.offset + offset, self.stride)


@dataclass(frozen=True)
class InnerStep:
    """A kernel of the body, or a part of its phases; or, with `plan`, a loop in it, whose workspace is the last operand."""

    kernel: Kernel
    operands: tuple[Place, ...]
    plan: Plan | None = None
    part: runtime.Part = runtime.Part.ALL


@dataclass(frozen=True)
class Plan:
    """first: what runs once before; body: what runs `count` times."""

    count: int
    first: tuple[InnerStep, ...]
    body: tuple[InnerStep, ...]

    def steps(self, operands: Sequence[runtime.Operand]) -> tuple[runtime.Step | runtime.Loop, ...]:
        """For the runtime, with the loop's operands, the workspace last."""
        first = tuple(s for inner in self.first for s in _expanded(inner, operands, ()))
        body = tuple(s for inner in self.body for s in _expanded(inner, operands, (1,)))
        return (*first, runtime.Loop(self.count, body))


def _expanded(
    inner: InnerStep, operands: Sequence[runtime.Operand], moving: tuple[int, ...]
) -> tuple[runtime.Step | runtime.Loop, ...]:
    found = tuple(
        runtime.Operand(
            operands[p.operand].base,
            operands[p.operand].offset + p.offset,
            (*operands[p.operand].strides, *(p.stride for _ in moving)),
        )
        for p in inner.operands
    )
    return inner.plan.steps(found) if inner.plan is not None else (runtime.Step(inner.kernel, found, part=inner.part),)


def lower(context: Lowering, node: Node) -> None:
    """Make one step of all the loops that differ in the dtype of the results only."""
    from firepot.compiler.lower import Step

    body, length, reverse, saved, _ = node.params
    family = [
        n
        for n in context.opaque
        if n.primitive is node.primitive and n.inputs == node.inputs and n.params[:4] == node.params[:4]
    ]
    if any(n in context.made for n in family):
        return
    context.made.update(family)
    reads = [context.access(i) for i in node.inputs]
    operands = [(a.storage, a.offset * a.storage.dtype.size) for a in reads]
    blocks: dict[DType, int] = {}
    for n in family:
        out = context.storage[n]
        blocks[n.dtype] = len(operands)
        operands.append((out, out.offset * out.dtype.size))

    count, given = len(body.carries), len(body.slices)
    way = -1 if reverse else 1
    workspace = 0

    def reserve(size: int) -> Place:
        nonlocal workspace
        place = Place(-1, workspace)
        workspace += -(-size // ALIGNMENT) * ALIGNMENT
        return place

    read: dict[Node, Place] = {}
    written: dict[int, Place] = {}
    copied: list[tuple[Node, Place, Place]] = []
    for p in [p for n in family for p in pieces(*n.params)]:
        size = body.results[p.result].dtype.size
        operand = blocks[body.results[p.result].dtype]
        step = way * p.pitch * size
        if p.result >= count:
            written[p.result] = Place(operand, (p.start + (length - 1) * p.pitch * reverse) * size, step)
        elif saved:
            here = Place(operand, (p.start + length * p.pitch * reverse) * size, step)
            read[body.carries[p.result]], written[p.result] = here, here.moved(step)
        else:
            read[body.carries[p.result]] = Place(operand, p.start * size)
    for c, carry in enumerate(body.carries):
        size = carry.size * carry.dtype.size
        if carry not in read:  # nobody asks for its last value
            read[carry] = reserve(size)
        if c not in written:
            written[c] = reserve(size)
            copied.append((carry, written[c], read[carry]))
    for number, (placeholder, found) in enumerate(zip(body.placeholders, reads, strict=True)):
        if number >= count + given:
            read[placeholder] = Place(number, 0)
        elif number >= count:
            step = found.strides[0] * found.storage.dtype.size if length > 1 else 0
            read[placeholder] = Place(number, (length - 1) * step * reverse, way * step)
    results = [r for r in range(len(body.results)) if r in written]
    constants = {p for p in body.placeholders[count + given :] if length > 1}
    inner, placeholders = _program([body.results[r] for r in results], constants)
    at = reserve(inner.arena).offset
    kept = {key: reserve(size) for key, size in inner.kept().items()}
    steps = _steps(inner, [read[p] for p in placeholders], [written[r] for r in results], at, kept)
    firsts = [(p, Place(c, 0), Place(read[p].operand, read[p].offset)) for c, p in enumerate(body.carries)]
    first = _copies(firsts) + _preparations(inner, steps)
    steps += _copies(copied)
    label = f"loop {length}x({len(steps)} kernels: {steps[0].kernel.label if steps else ''})"
    kernel = Kernel(
        key=f"loop {length} {reverse} {[s.kernel.key for s in steps]}",
        generate=lambda: "\n".join(s.kernel.generate() for s in steps),
        phases=(), label=label, workspace=max(workspace, ALIGNMENT),
        parallel=any(s.kernel.parallel for s in steps),
        flops=length * sum(s.kernel.flops for s in steps), bytes=length * sum(s.kernel.bytes for s in steps),
    )  # fmt: skip
    plan = Plan(length, tuple(first), tuple(steps))
    context.steps.append(Step(kernel, tuple(operands), tuple(family), plan=plan))


def _program(results: Sequence[Node], constants: Set[Node]) -> tuple[Program, list[Node]]:
    """(a program that writes every result to a place of its own, the placeholders that it reads), of which `constants`
    are the same at every step."""
    from firepot.compiler.program import build

    _, leaves, order = simplify.structure(results)
    inputs, outputs = simplify.simplify(order, leaves, results)
    seen = set(inputs)
    for n, o in enumerate(outputs):
        while o in seen:  # an argument as it is, or the same result twice: a copy
            o = barrier(o, o)
        seen.add(o)
        outputs[n] = o
    return build(inputs, outputs, constants=[i for i, leaf in enumerate(leaves) if leaf in constants]), leaves


def _copies(values: Sequence[tuple[Node, Place, Place]]) -> list[InnerStep]:
    """Kernels that copy values shaped like nodes from place to place."""
    from firepot.compiler.program import build

    values = [(node, source, target) for node, source, target in values if node.size]
    if not values:
        return []
    inputs = [data((node.size,), node.dtype) for node, _, _ in values]
    program = build(inputs, [barrier(i, i) for i in inputs])
    return _steps(program, [s for _, s, _ in values], [t for _, _, t in values], 0)


def _preparations(program: Program, steps: Sequence[InnerStep]) -> list[InnerStep]:
    """What the body's kernels make of constants, made before the first step."""
    makers = {program.preparation(t)[0]: t for t in reversed(program.prepared)}
    return [replace(steps[t], part=runtime.Part.FIRST) for t in sorted(makers.values())]


def _steps(
    program: Program, inputs: Sequence[Place], outputs: Sequence[Place], arena: int,
    kept: Mapping[tuple[int, int, str, int], Place] = {},
) -> list[InnerStep]:  # fmt: skip
    """A program's kernels with its inputs, outputs, arena (bytes into the workspace) and what it keeps at these places."""
    found = []
    for t, step in enumerate(program.steps):
        places = []
        for storage, offset in step.operands:
            kind, where = program.places[storage.number]
            if kind == "arena":
                places.append(Place(-1, arena + where + offset))
            else:
                places.append((inputs if kind == "input" else outputs)[where].moved(offset))
        if t in program.prepared:
            places.append(kept[program.preparation(t)[0]])
        elif program.workspaces[t] >= 0:
            places.append(Place(-1, arena + program.workspaces[t]))
        begun = t in program.prepared or t in program.shared
        found.append(InnerStep(step.kernel, tuple(places), step.plan, runtime.Part.REST if begun else runtime.Part.ALL))
    return found


def dense(found: Access, shape: tuple[int, ...]) -> bool:
    """Whether a loop can read its operand there: rows one after another, each at an aligned address."""
    if shape and shape[-1] > 1 and found.strides[-1] != 1:
        return False
    return len(shape) < 2 or shape[0] <= 1 or found.strides[0] * found.storage.dtype.size % ALIGNMENT == 0
