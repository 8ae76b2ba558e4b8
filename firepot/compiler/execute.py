"""Execution: a Program bound to native code, called with buffers."""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Mapping, Sequence

from firepot.compiler import subprogram
from firepot.compiler.plan import Plan, code_of, plan_of
from firepot.compiler.program import Program
from firepot.graph.primitives.elementwise import BadIndex, bad_index
from firepot.kernels.kernel import Kernel
from firepot.runtime import engine, pool
from firepot.runtime import program as runtime
from firepot.runtime.buffer import Buffer


class Executor:
    """A program ready to be called.

    The output buffers are made anew at each call, except those that take over the memory of a donated input.
    What kernels make of constant inputs alone is made again when one of those has another buffer or new contents.

    Args:
        program: built, or the plan of one that was built before.
        functions: of a plan: the native functions of its codes.

    plan: how it is run
    program: what it was built from; None where only the plan was known or is needed any more
    """

    def __init__(self, program: Program | Plan, functions: Sequence[tuple[int, ...]] | None = None) -> None:
        if isinstance(program, Program):
            kernels: list[Kernel] = []
            for step in program.steps:
                kernels += [step.kernel] if step.plan is None else subprogram.kernels(step.plan)
            table = {code_of(k).digest: f for k, f in zip(kernels, engine.load(kernels), strict=True)}
            self.plan = plan = plan_of(program)
            self.program: Program | None = program
        else:
            assert functions is not None
            table = {code.digest: f for code, f in zip(program.codes(), functions, strict=True)}
            self.plan = plan = program
            self.program = None
        kept = [Buffer.empty(size) for size in plan.kept]
        steps: list[runtime.AnyStep | tuple[runtime.AnyStep, ...]] = []
        for block, (number, planned) in itertools.product(range(plan.blocks), enumerate(plan.steps)):
            operands = plan.operands(planned, block)
            if planned.kept >= 0:
                operands.append(runtime.Operand(kept[planned.kept]))
            elif planned.workspace >= 0:
                operands.append(runtime.Operand(runtime.ARENA, planned.workspace))
            if planned.loop is not None:
                steps.append(subprogram.steps(planned.loop, operands))
                continue
            phases = (1 if planned.begun else 0, None)
            guard, kept_too = number == plan.guard, planned.kept >= 0
            steps.append(runtime.Step(planned.kernel(), tuple(operands), guard, prepared=kept_too, phases=phases))
        self.executable = runtime.Executable(
            steps, plan.inputs + len(plan.fresh), plan.arena, repeatable=not plan.donated, functions=table,
            frugal=plan.frugal,
        )  # fmt: skip
        self.donated = plan.donated
        self._prepared_for: list[int] | None = None  # editions of the constant inputs
        self._only_fresh = len(plan.fresh) == len(plan.outputs)
        self._fresh_sizes = [size for _, size in plan.fresh]

    def __call__(self, inputs: Sequence[Buffer], spent: Mapping[int, Buffer] | None = None) -> list[Buffer]:
        """Run on the inputs' values; the outputs' values, in order. Donated inputs are overwritten.

        Args:
            spent: by output number, memory of at least the output's size that it may take.

        Raises: IndexError where a checked index was out of range; state that would be overwritten is as before then.
        """
        plan = self.plan
        if spent:
            fresh = [spent[number] if number in spent else Buffer.empty(size) for number, size in plan.fresh]
            for buffer in spent.values():
                buffer.overwritten()
        else:
            fresh = [Buffer.empty(size) for size in self._fresh_sizes]
        for i in self.donated:
            inputs[i].overwritten()
        addresses = [b.address for b in inputs]
        addresses += [b.address for b in fresh]
        if plan.constants:
            error = self._run_prepared(inputs, addresses)
        else:
            error = self.executable.run(addresses)
        if error is not None:
            raise self.bad_index(error)
        if self._only_fresh:
            return fresh
        results: list[Buffer] = []
        for kind, where in plan.outputs:
            results.append(fresh[where] if kind == "fresh" else inputs[where] if kind == "input" else results[where])
        return results

    def bad_index(self, error: runtime.Error) -> BadIndex:
        """What to raise for the error of a run."""
        return bad_index(self.plan.checks[error.site - 1], error.value)

    def _run_prepared(self, inputs: Sequence[Buffer], addresses: Sequence[int]) -> runtime.Error | None:
        """Run, with the preparation where the constant inputs are not those of the last one."""
        with pool.lock:  # nobody else may prepare in between
            editions = [inputs[i].edition for i in self.plan.constants]
            if editions == self._prepared_for:
                return self.executable.run(addresses, prepared=True)
            self._prepared_for = None  # until it has ended well
            error = self.executable.run(addresses)
            if error is None:
                self._prepared_for = editions
            return error

    def rehearsal(self, inputs: Sequence[Buffer]) -> Rehearsal:
        """The program on these inputs to be run for measuring: it writes to copies, and its results are dropped."""
        return Rehearsal(self, inputs, [size for _, size in self.plan.fresh])


class Rehearsal:
    """A program bound to inputs whose values it leaves alone. The first `run` prepares, what follows does not."""

    def __init__(self, executor: Executor, inputs: Sequence[Buffer], fresh: Sequence[int]) -> None:
        self._executor = executor
        self._executable = executor.executable
        self._ready = False
        self._inputs = inputs
        self._copies = {i: inputs[i].copy() for i in executor.donated}
        self._buffers = [self._copies.get(i, b) for i, b in enumerate(inputs)] + [Buffer.empty(size) for size in fresh]

    def run(self) -> None:
        """Raises: IndexError where a checked index was out of range."""
        with pool.lock:
            self._executor._prepared_for = None  # what is prepared is from these inputs
            error = self._executable.run(self._addresses())
        if error is not None:
            raise self._executor.bad_index(error)
        self._ready = True

    def time(self) -> float:
        """Seconds of one run."""
        addresses = self._addresses()
        start = time.perf_counter()
        self._executable.run(addresses, self._ready)
        return time.perf_counter() - start

    def profile(self) -> list[float]:
        """Seconds of each of the plan's steps in one run, in all blocks together, with a barrier after each."""
        seconds = self._executable.profile(self._addresses(), self._ready)
        count = len(self._executor.plan.steps)
        return [sum(seconds[number::count]) for number in range(count)]

    def _addresses(self) -> list[int]:
        for i, copy in self._copies.items():
            ctypes.memmove(copy.address, self._inputs[i].address, copy.nbytes)
        return [b.address for b in self._buffers]
