"""The plan of a program: all that running it takes, as plain values without the graph, so that it can lie on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firepot.compiler import subprogram
from firepot.compiler.program import Program
from firepot.kernels.kernel import Kernel
from firepot.runtime import engine
from firepot.runtime.program import ARENA, FIRST, Operand


@dataclass(frozen=True)
class PlannedStep:
    """One kernel and its operands.

    code:     where the engine finds its object code; None: the kernels are those of `loop`
    scratch, parallel: as of `Kernel`
    operands: (base, byte offset) as of `runtime.program.Operand`, without the workspace
    workspace: byte offset in the arena, or −1
    begun:    an earlier step has run its first phase, in the same workspace
    kept:     number of the memory, among the plan's `kept`, that is its workspace from run to run; −1: none
    loop:     for a loop over other kernels or a branch, those
    """

    code: engine.Code | None
    scratch: int
    parallel: bool
    operands: tuple[tuple[int, int], ...]
    workspace: int
    kept: int
    begun: bool = False
    loop: subprogram.Plan | None = None

    def kernel(self) -> Kernel:
        """What the runtime wants to know of the kernel."""
        assert self.code is not None
        return _kernel(self.code, self.scratch, self.parallel)


def _kernel(code: engine.Code, scratch: int, parallel: bool) -> Kernel:
    """What is left of a kernel in a plan: its key is the digest of its code."""
    return Kernel(
        key=code.digest, generate=_nothing, phases=tuple(code.exports()), label=code.label, scratch=scratch,
        parallel=parallel,
    )  # fmt: skip


def code_of(kernel: Kernel) -> engine.Code:
    return engine.Code(engine.digest(kernel), len(kernel.phases), kernel.label)


def _nothing() -> str:
    raise RuntimeError("a planned kernel has its object code, and no text")


@dataclass(frozen=True)
class Plan:
    """What an Executor runs.

    steps:     in order
    inputs:    how many values are given to each run
    arena:     bytes of memory for intermediate values and workspaces
    guard:     the step before which errors end the run; len(steps): none
    fresh:     (output number, bytes) of the outputs with memory of their own
    outputs:   for each output where it is found: ('fresh', index), ('input', number), or ('output', number) of an
               earlier one that is the same
    donated:   numbers of the inputs that are overwritten
    constants: numbers of the inputs that prepared steps depend on
    kept:      bytes of each workspace that is kept from run to run
    checks:    number by which a kernel reports a bad index -> params of the check_index nodes that it stands for
    blocks, moved: how often the steps run, and by how many bytes a base moves on each time, as (base, bytes)
    frugal:    whether an arena is let go that is larger than needed: there is a memory budget
    """

    steps: tuple[PlannedStep, ...]
    inputs: int
    arena: int
    guard: int
    fresh: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[str, int], ...]
    donated: tuple[int, ...]
    constants: tuple[int, ...]
    kept: tuple[int, ...]
    checks: Mapping[int, tuple[int, str, bool]]
    frugal: bool
    blocks: int = 1
    moved: tuple[tuple[int, int], ...] = ()

    def operands(self, step: PlannedStep, block: int) -> list[Operand]:
        """Those of a step, without the workspace, when a block of the examples is its turn."""
        moved = dict(self.moved)
        return [Operand(base, offset + block * moved.get(base, 0)) for base, offset in step.operands]

    def codes(self) -> list[engine.Code]:
        """Of all kernels."""
        found = [s.code for s in self.steps if s.code is not None]
        inner = [k for s in self.steps if s.loop is not None for k in subprogram.kernels(s.loop)]
        return list(dict.fromkeys([*found, *map(_code, inner)]))


def _code(kernel: Kernel) -> engine.Code:
    """Of a kernel in a plan."""
    return engine.Code(kernel.key, len(kernel.phases), kernel.label)


def _planned(plan: subprogram.Plan) -> subprogram.Plan:
    """The plan with what is left of its kernels."""

    def kernel(k: Kernel) -> Kernel:
        return _kernel(code_of(k), k.scratch, k.parallel)

    return subprogram.with_kernels(plan, kernel)


def plan_of(program: Program) -> Plan:
    """The plan of a program that was built."""
    fresh: list[tuple[int, int]] = []
    base_of_output: dict[int, int] = {}
    outputs: list[tuple[str, int]] = []
    moved = [(FIRST + i, size) for i, size in program.moved.items()]
    for number, (where, storage) in enumerate(program.outputs):
        if storage is None:
            outputs.append(("output", where) if where >= 0 else ("input", -1 - where))
        elif number in program.donated:
            base_of_output[number] = FIRST + program.donated[number]
            outputs.append(("input", program.donated[number]))
        else:
            base_of_output[number] = FIRST + program.input_count + len(fresh)
            outputs.append(("fresh", len(fresh)))
            fresh.append((number, max(storage.size * storage.dtype.size * program.blocks, 1)))
            if program.blocks > 1:
                moved.append((base_of_output[number], storage.size * storage.dtype.size))
    kept: list[int] = []
    kept_numbers: dict[tuple[int, int, str, int], int] = {}
    steps = []
    for t, step in enumerate(program.steps):
        operands = []
        for storage, offset in step.operands:
            kind, where = program.places[storage.number]
            if kind == "input":
                operands.append((FIRST + where, offset))
            elif kind == "output":
                operands.append((base_of_output[where], offset))
            else:
                operands.append((ARENA, where + offset))
        kernel = step.kernel
        own = -1
        if t in program.prepared:
            # One workspace for all steps that put the same there, as they run one after another.
            own = kept_numbers.setdefault(program.preparation(t)[0], len(kept))
            if own == len(kept):
                kept.append(kernel.workspace)
        steps.append(
            PlannedStep(
                code_of(kernel) if step.plan is None else None, kernel.scratch, kernel.parallel,
                tuple(operands), -1 if own >= 0 else program.workspaces[t], own,
                t in program.shared, None if step.plan is None else _planned(step.plan),
            )
        )  # fmt: skip
    return Plan(
        steps=tuple(steps),
        inputs=program.input_count,
        arena=program.arena,
        guard=program.guard_step,
        fresh=tuple(fresh),
        outputs=tuple(outputs),
        donated=tuple(sorted(set(program.donated.values()))),
        constants=tuple(sorted(set(program.prepared.values()))),
        kept=tuple(kept),
        checks=program.checks,
        frugal=program.budget is not None,
        blocks=program.blocks,
        moved=tuple(moved),
    )


def to_bytes(plan: Plan) -> bytes:
    """The plan as JSON. Codes that several steps share are written once."""
    codes = {code: number for number, code in enumerate(plan.codes())}

    def kernel(k: Kernel) -> Any:
        return codes[_code(k)], k.scratch, k.parallel

    steps = [
        (
            -1 if s.code is None else codes[s.code], s.scratch, s.parallel, s.operands, s.workspace,
            s.kept, s.begun, None if s.loop is None else subprogram.to_plain(s.loop, kernel),
        )
        for s in plan.steps
    ]  # fmt: skip
    content = {
        "codes": list(codes), "steps": steps, "inputs": plan.inputs, "arena": plan.arena, "guard": plan.guard,
        "fresh": plan.fresh, "outputs": plan.outputs, "donated": plan.donated, "constants": plan.constants,
        "kept": plan.kept, "checks": list(plan.checks.items()), "frugal": plan.frugal,
        "blocks": plan.blocks, "moved": plan.moved,
    }  # fmt: skip
    return json.dumps(content, separators=(",", ":")).encode()


def from_bytes(data: bytes) -> Plan:
    """What `to_bytes` was given."""
    content = json.loads(data)
    codes = [engine.Code(*c) for c in content["codes"]]

    def kernel(number: int, scratch: int, parallel: bool) -> Kernel:
        return _kernel(codes[number], scratch, parallel)

    return Plan(
        steps=tuple(
            PlannedStep(
                codes[code] if code >= 0 else None, scratch, parallel, _pairs(operands), workspace, kept, begun,
                None if loop is None else subprogram.from_plain(loop, kernel),
            )
            for code, scratch, parallel, operands, workspace, kept, begun, loop in content["steps"]
        ),
        inputs=content["inputs"],
        arena=content["arena"],
        guard=content["guard"],
        fresh=_pairs(content["fresh"]),
        outputs=_pairs(content["outputs"]),
        donated=tuple(content["donated"]),
        constants=tuple(content["constants"]),
        kept=tuple(content["kept"]),
        checks={site: (size, message, negative) for site, (size, message, negative) in content["checks"]},
        frugal=content["frugal"],
        blocks=content["blocks"],
        moved=_pairs(content["moved"]),
    )


def _pairs(values: Sequence[Sequence[Any]]) -> tuple[tuple[Any, Any], ...]:
    return tuple((a, b) for a, b in values)
