"""Execution: a Program bound to native code, called with buffers."""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Mapping, Sequence

from firepot.compiler.program import Program
from firepot.graph.primitives.elementwise import check_sites
from firepot.runtime import pool
from firepot.runtime import program as runtime
from firepot.runtime.buffer import Buffer


class Executor:
    """A program ready to be called.

    The output buffers are made anew at each call, except those that take over the memory of a donated input.
    What kernels make of constant inputs alone is made again when one of those has another buffer or new contents.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        inputs = program.input_count
        self._fresh = program.fresh()
        base_of_output = {o: runtime.FIRST + i for o, i in program.donated.items()}
        base_of_output.update((o, runtime.FIRST + inputs + k) for k, (o, _) in enumerate(self._fresh))
        steps = []
        kept = {key: Buffer.empty(size) for key, size in program.kept().items()}
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
            if t in program.prepared:
                operands.append(runtime.Operand(kept[program.preparation(t)[0]]))
            elif program.workspaces[t] >= 0:
                operands.append(runtime.Operand(runtime.ARENA, program.workspaces[t]))
            guard = t == program.guard_step
            steps.append(runtime.Step(step.kernel, tuple(operands), guard, prepared=t in program.prepared))
        self.executable = runtime.Executable(
            steps, inputs + len(self._fresh), program.arena, repeatable=not program.donated,
            frugal=program.budget is not None,
        )  # fmt: skip
        self.donated = sorted(set(program.donated.values()))
        self._constants = sorted(set(program.prepared.values()))
        self._prepared_for: list[tuple[weakref.ref[Buffer], int]] | None = None
        self._only_fresh = len(self._fresh) == len(program.outputs)

    def __call__(self, inputs: Sequence[Buffer], spent: Mapping[int, Buffer] | None = None) -> list[Buffer]:
        """Run on the inputs' values; the outputs' values, in order. Donated inputs are overwritten.

        Args:
            spent: by output number, memory of at least the output's size that it may take.

        Raises: IndexError where a checked index was out of range; state that would be overwritten is as before then.
        """
        if spent:
            fresh = [spent[number] if number in spent else Buffer.empty(size) for number, size in self._fresh]
            for buffer in spent.values():
                buffer.edition += 1
        else:
            fresh = [Buffer.empty(size) for _, size in self._fresh]
        for i in self.donated:
            inputs[i].edition += 1
        addresses = [b.address for b in inputs]
        addresses += [b.address for b in fresh]
        if self._constants:
            error = self._run_prepared(inputs, addresses)
        else:
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

    def _run_prepared(self, inputs: Sequence[Buffer], addresses: Sequence[int]) -> runtime.Error | None:
        """Run, with the preparation where the constant inputs are not those of the last one."""
        with pool.lock:  # nobody else may prepare in between
            known = self._prepared_for
            if known is not None:
                for i, (buffer, edition) in zip(self._constants, known, strict=True):
                    if buffer() is not inputs[i] or inputs[i].edition != edition:
                        break
                else:
                    return self.executable.run(addresses, prepared=True)
            self._prepared_for = None  # until it has ended well
            error = self.executable.run(addresses)
            if error is None:
                self._prepared_for = [(weakref.ref(inputs[i]), inputs[i].edition) for i in self._constants]
            return error

    def rehearsal(self, inputs: Sequence[Buffer]) -> Rehearsal:
        """The program on these inputs to be run for measuring: it writes to copies, and its results are dropped."""
        return Rehearsal(self, inputs, [size for _, size in self._fresh])


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
            raise check_sites.error(error.site - 1, error.value)
        self._ready = True

    def time(self) -> float:
        """Seconds of one run."""
        addresses = self._addresses()
        start = time.perf_counter()
        self._executable.run(addresses, self._ready)
        return time.perf_counter() - start

    def profile(self) -> list[float]:
        """Seconds of each step in one run, with a barrier after each."""
        return self._executable.profile(self._addresses(), self._ready)

    def _addresses(self) -> list[int]:
        for i, copy in self._copies.items():
            ctypes.memmove(copy.address, self._inputs[i].address, copy.nbytes)
        return [b.address for b in self._buffers]
