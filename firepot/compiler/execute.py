"""Execution: a Program bound to native code, called with buffers."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence

from firepot.compiler.program import Program
from firepot.graph.primitives.elementwise import check_sites
from firepot.runtime import program as runtime
from firepot.runtime.buffer import Buffer


class Executor:
    """A program ready to be called.

    The output buffers are made anew at each call, except those that take over the memory of a donated input.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        inputs = program.input_count
        self._fresh: list[tuple[int, int]] = []  # (output number, bytes) of outputs with memory of their own
        base_of_output: dict[int, int] = {}
        for number, storage in program.outputs_stored():
            if number in program.donated:
                base_of_output[number] = runtime.FIRST + program.donated[number]
            else:
                base_of_output[number] = runtime.FIRST + inputs + len(self._fresh)
                self._fresh.append((number, max(storage.size * storage.dtype.size, 1)))
        steps = []
        for t, step in enumerate(program.steps):
            operands = []
            for storage, offset in step.operands:
                kind, where = program.places[storage.number]
                if kind == "input":
                    operands.append(runtime.Operand(runtime.FIRST + where, offset))
                elif kind == "output":
                    operands.append(runtime.Operand(base_of_output[where], offset))
                else:
                    operands.append(runtime.Operand(runtime.ARENA, where + offset))
            if program.workspaces[t] >= 0:
                operands.append(runtime.Operand(runtime.ARENA, program.workspaces[t]))
            steps.append(runtime.Step(step.kernel, tuple(operands), guard=t == program.guard_step))
        self.executable = runtime.Executable(
            steps, inputs + len(self._fresh), program.arena, repeatable=not program.donated
        )
        self.donated = sorted(set(program.donated.values()))
        self._only_fresh = len(self._fresh) == len(program.outputs)

    def __call__(self, inputs: Sequence[Buffer], spent: Mapping[int, Buffer] | None = None) -> list[Buffer]:
        """Run on the inputs' values; the outputs' values, in order. Donated inputs are overwritten.

        Args:
            spent: by output number, memory of at least the output's size that it may take.

        Raises: IndexError where a checked index was out of range; state that would be overwritten is as before then.
        """
        if spent:
            fresh = [spent[number] if number in spent else Buffer.empty(size) for number, size in self._fresh]
        else:
            fresh = [Buffer.empty(size) for _, size in self._fresh]
        addresses = [b.address for b in inputs]
        addresses += [b.address for b in fresh]
        error = self.executable.run(addresses)
        if error is not None:
            raise check_sites.error(error.site - 1, error.value)
        if self._only_fresh:
            return fresh
        own = {number: buffer for (number, _), buffer in zip(self._fresh, fresh, strict=True)}
        results: list[Buffer] = []
        for number, (where, storage) in enumerate(self.program.outputs):
            if storage is not None:
                donated = self.program.donated.get(number)
                results.append(own[number] if donated is None else inputs[donated])
            elif where >= 0:
                results.append(results[where])
            else:
                results.append(inputs[-1 - where])
        return results

    def rehearsal(self, inputs: Sequence[Buffer]) -> Rehearsal:
        """The program on these inputs to be run for measuring: it writes to copies, and its results are dropped."""
        return Rehearsal(self.executable, inputs, self.donated, [size for _, size in self._fresh])


class Rehearsal:
    """A program bound to inputs whose values it leaves alone."""

    def __init__(
        self, executable: runtime.Executable, inputs: Sequence[Buffer], donated: Sequence[int], fresh: Sequence[int]
    ) -> None:
        self._executable = executable
        self._inputs = inputs
        self._copies = {i: inputs[i].copy() for i in donated}
        self._buffers = [self._copies.get(i, b) for i, b in enumerate(inputs)] + [Buffer.empty(size) for size in fresh]

    def run(self) -> None:
        """Raises: IndexError where a checked index was out of range."""
        error = self._executable.run(self._addresses())
        if error is not None:
            raise check_sites.error(error.site - 1, error.value)

    def time(self) -> float:
        """Seconds of one run."""
        addresses = self._addresses()
        start = time.perf_counter()
        self._executable.run(addresses)
        return time.perf_counter() - start

    def profile(self) -> list[float]:
        """Seconds of each step in one run, with a barrier after each."""
        return self._executable.profile(self._addresses())

    def _addresses(self) -> list[int]:
        for i, copy in self._copies.items():
            ctypes.memmove(copy.address, self._inputs[i].address, copy.nbytes)
        return [b.address for b in self._buffers]
