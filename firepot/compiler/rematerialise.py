"""Rematerialisation: kernels run a second time so that what they make need not be kept in between.

The steps of a program are gone through in order, as a machine with little memory would: what a step makes is kept
until memory is full; then the value is let go that frees most for longest and costs least to make again. All later
reads are known, so nothing has to be guessed. A step that reads what was let go is preceded by the steps that make it
once more, from what is still there. They are the same kernels on the same inputs: results are equal to the last bit.

Values known in advance are let go by next use as in Belady, A study of replacement algorithms for virtual-storage
computers (1966); weighed by size and cost as in Kirisame et al., Dynamic tensor rematerialization (2021).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from firepot.compiler.emit import Storage
from firepot.compiler.lower import Step
from firepot.compiler.memory import ALIGNMENT
from firepot.compiler.place import possible_heirs
from firepot.graph.node import Node
from firepot.kernels.kernel import Kernel
from firepot.runtime.buffer import largest_within, size_class

if TYPE_CHECKING:
    from firepot.compiler.program import Program

_FLOPS, _BANDWIDTH, _START = 150e9, 25e9, 2e-6  # of two cores: only the ratios count
_SMALL_SHARE = 0.01  # values so small that all of them together take no more than this of the limit are kept
_SLACK = 0.03  # of the limit, freed beyond what is needed, so that the search is not for every step
_FREELY_READ = 1 << 16  # bytes of state that is not overwritten in place where a step that is run again reads it
_MOST_AGAIN = 2  # steps run again, per step: more is no plan
_MOST_SEARCHES = 1500  # for what to let go: bounds the time that planning takes
_THRIFTS = (1.0, 0.3, 0.1, 0.0)  # tried in turn (see `Rematerialiser.plan`): none is best for all networks
_TRIES = 4  # limits tried for each, as what packing loses is known only afterwards
_HALVINGS = 8  # of the range in which the smallest limit that works is looked for
_PACKED = 3  # of the plans for least memory, those whose arena is laid out to find the best


class NoPlan(Exception):
    """A step alone needs more than the limit, or nothing would get done but making values again."""


class OverBudget(Exception):
    """No program was found that takes so little memory. `smallest`: bytes that would do."""

    def __init__(self, smallest: int) -> None:
        super().__init__(smallest)
        self.smallest = smallest


def within(
    budget: int, program: Program, storage: Mapping[Node, Storage], inputs: Sequence[Node], outputs: Sequence[Node],
    program_of: Callable[[list[Step]], Program],
) -> Program:  # fmt: skip
    """The program, or one that computes the same with at most `budget` bytes of memory.

    Args:
        program_of: makes a program of steps, each of which prepares for itself alone.
    Raises: OverBudget.
    """
    fitting = program
    if program.memory > budget and (program.prepared or program.shared):
        fitting = program_of(program.steps)
    if fitting.memory > budget:
        fitting = _planned(budget, fitting, storage, inputs, outputs, program_of)
    fitting.budget = budget
    return fitting


def _planned(
    budget: int, program: Program, storage: Mapping[Node, Storage], inputs: Sequence[Node], outputs: Sequence[Node],
    program_of: Callable[[list[Step]], Program],
) -> Program:  # fmt: skip
    kept = {storage[n].number for n in [*inputs, *outputs]}
    written: dict[int, int] = {}  # block -> the first step that touches it
    for t, step in enumerate(program.steps):
        for s, _ in step.operands:
            written.setdefault(s.number, t)
    overwritten = {storage[inputs[i]].number: written[storage[outputs[o]].number] for o, i in program.donated.items()}
    known = Rematerialiser(program.steps, storage, kept, overwritten)
    arena = largest_within(budget - program.memory + size_class(program.arena))
    plans = sorted(known.plans(arena, _THRIFTS), key=lambda plan: plan[0])
    best, least = None, math.inf
    for estimate, thrift, steps in plans:
        limit = arena
        for _ in range(_TRIES):
            if estimate >= least:
                break
            found = program_of(steps)
            if found.memory <= budget:
                best, least = found, estimate
                break
            limit = int(limit * min(arena / max(found.arena, 1), 0.99))  # what the packing of the arena loses
            again = known.plans(limit, [thrift])
            if not again:
                break
            estimate, _, steps = again[0]
    if best is not None:
        return best
    smallest = _smallest(known, program, program_of)
    if smallest.memory > budget:
        raise OverBudget(smallest.memory)
    return smallest


def _smallest(known: Rematerialiser, program: Program, program_of: Callable[[list[Step]], Program]) -> Program:
    """The program that takes the least memory, as far as the search sees; whatever the budget is, it is the same."""
    low, high = known.needed - 1, program.arena
    plans: list[list[Step]] = []
    limit = known.needed
    for _ in range(_HALVINGS):
        found = known.plans(limit, _THRIFTS[1:2])
        if found:
            high = limit
            plans += [steps for _, _, steps in found]
        else:
            low = limit
        limit = math.isqrt(low * high)
        if high - low < known.needed * 0.01:
            break
    return min([program, *map(program_of, plans[-_PACKED:])], key=lambda p: p.memory)


class Rematerialiser:
    """What there is to know of a program's steps, for plans under several limits.

    Args:
        steps: in order.
        storage: of every stored value.
        kept: numbers of the blocks that are inputs or outputs: they have memory of their own.
        overwritten: block of an input -> step from which on it holds something else.
    """

    def __init__(
        self, steps: Sequence[Step], storage: Mapping[Node, Storage], kept: Set[int], overwritten: Mapping[int, int]
    ) -> None:
        self.steps = steps
        self.next_number = 1 + max((s.number for s in storage.values()), default=-1)
        self.cost = [_seconds(s.kernel) for s in steps]
        self.clock = list(itertools.accumulate(self.cost, initial=0.0))  # when each step starts
        self.written: list[tuple[bool, ...]] = []  # of each step's operands
        self.reads: list[list[int]] = []  # blocks in the arena, by step
        self.makes: list[list[int]] = []
        self.size: dict[int, int] = {}
        self.makers: dict[int, list[int]] = {}
        self.uses: dict[int, list[int]] = {}
        self.heirs: list[list[tuple[int, int]]] = []  # (block read, block that may be written over it), by step
        expires: list[float] = []  # by step: from when on it cannot run again
        expiry: dict[int, float] = {}  # by block, its ancestors' included
        for t, step in enumerate(steps):
            made = {storage[n] for n in step.nodes if n in storage}
            self.written.append(tuple(s in made for s, _ in step.operands))
            writes = {s.number for s, _ in step.operands if s in made}
            reads = {s.number for s, _ in step.operands if s not in made}
            large = [n for n in reads if n in overwritten]
            sizes = {s.number: s.size * s.dtype.size for s, _ in step.operands}
            end = min((overwritten[n] for n in large if sizes[n] > _FREELY_READ), default=len(steps))
            if reads & writes:  # parts of one block: they are made once
                end = 0
            for n in reads.union(writes) - kept:
                self.size[n] = _aligned(sizes[n])
            self.reads.append(sorted(reads - kept - writes))
            self.makes.append(sorted(writes - kept))
            self.heirs.append([(r, w) for r, w in possible_heirs(step) if r in self.size and w in self.size])
            for n in self.reads[-1]:
                self.uses.setdefault(n, []).append(t)
            for n in self.makes[-1]:
                self.makers.setdefault(n, []).append(t)
            expires.append(min([end, *(expiry[n] for n in self.reads[-1])]))
            for n in self.makes[-1]:
                expiry[n] = min(expires[-1], expiry.get(n, len(steps)))
        self.expiry = expiry
        self.price = {n: sum(self.cost[t] for t in makers) for n, makers in self.makers.items()}
        self.sources = {n: sorted({i for t in makers for i in self.reads[t]}) for n, makers in self.makers.items()}
        self.needed = max((self._operands(t) for t in range(len(steps))), default=0)

    def _operands(self, t: int) -> int:
        shared: dict[int, int] = {}
        for read, written in self.heirs[t]:
            if written not in shared and read not in shared.values() and self.makers[written][0] == t:
                shared[written] = read
        blocks = [n for n in [*self.reads[t], *self.makes[t]] if n not in shared]
        return _aligned(self.steps[t].kernel.workspace) + sum(self.size[n] for n in blocks)

    def plan(self, limit: int, thrift: float) -> list[Step]:
        """The steps with some of them run again, such that at most `limit` bytes of the arena are alive at a time.

        `thrift`: by how much the price of a value counts what else would have to be made again for it, 0 to 1.
        Raises: NoPlan.
        """
        if limit < self.needed:
            raise NoPlan
        return _Run(self, limit, thrift).steps

    def plans(self, limit: int, thrifts: Sequence[float]) -> list[tuple[float, float, list[Step]]]:
        """(seconds, thrift, steps) of those plans that there are."""
        found = []
        for thrift in thrifts:
            try:
                steps = self.plan(limit, thrift)
            except NoPlan:
                continue
            found.append((seconds(steps), thrift, steps))
        return found


class _Run:
    """One pass over the steps with limited memory."""

    def __init__(self, program: Rematerialiser, limit: int, thrift: float) -> None:
        self.program = program
        self.limit = limit
        self.thrift = thrift
        self.steps: list[Step] = []
        self.number = program.next_number
        self.place: dict[int, int] = {}  # blocks that are there -> number under which
        self.live = 0
        self.pending: dict[int, int] = {}  # reads by steps that are about to run again
        self.held: Collection[int] = ()  # what the next recorded step reads
        self.now = 0
        small = 0
        self.evictable: list[int] = []
        for n in sorted(program.size, key=lambda n: (program.size[n], n)):
            small += program.size[n]
            if small > _SMALL_SHARE * limit:
                self.evictable.append(n)
        self.evictable.sort(key=lambda n: program.makers[n][-1])
        self._again = self._searches = 0
        for t in range(len(program.steps)):
            self.now = t
            self.held = program.reads[t]
            missing = [n for n in program.reads[t] if n not in self.place]
            if missing:
                self._make_again(missing)
            self._run(t, again=False)
            self.held = ()
            for n in program.reads[t]:
                if n in self.place and self._next_use(n) is None:
                    self._free(n)

    def _next_use(self, n: int) -> int | None:
        """The next recorded step after this one that reads or goes on making a block."""
        program = self.program
        for steps in (program.makers[n], program.uses.get(n, ())):
            k = bisect_right(steps, self.now)
            if k < len(steps):
                return steps[k]
        return None

    def _free(self, n: int) -> None:
        del self.place[n]
        self.live -= self.program.size[n]

    def _dies(self, n: int, again: bool) -> bool:
        """Whether a block that the running step reads is not needed afterwards."""
        if again and (n in self.held or self.pending.get(n, 0) > 1):
            return False
        return self._next_use(n) is None

    def _run(self, t: int, again: bool) -> None:
        program, step, size = self.program, self.program.steps[t], self.program.size
        aside: dict[int, int] = {}  # what is made once more and not wanted
        if again:
            for n in {s.number for (s, _), w in zip(step.operands, program.written[t], strict=True) if w}:
                if n not in size or (n not in self.pending and (n in self.place or len(program.makers[n]) > 1)):
                    aside[n] = self.number
                    self.number += 1
        fresh = [n for n in program.makes[t] if n not in self.place and n not in aside]
        where = {n: self.place[n] for n in program.reads[t]}
        self._make_room(t, again, fresh, sum(size.get(n, 0) for n in aside))
        for n in fresh:
            self.place[n] = self.number if again else n
            self.number += again
            self.live += size[n]
        operands = []
        for (s, offset), written in zip(step.operands, program.written[t], strict=True):
            if written:
                number = aside[s.number] if s.number in aside else self.place.get(s.number, s.number)
            else:
                number = where.get(s.number, s.number)
            operands.append((s if number == s.number else replace(s, number=number), offset))
        self.steps.append(replace(step, operands=tuple(operands), again=again))
        for n in fresh:
            if n not in self.pending and self._next_use(n) is None:
                self._free(n)

    def _make_again(self, missing: Sequence[int]) -> None:
        """Run the steps again that give the missing blocks, and what they need that is missing too."""
        program = self.program
        chosen: set[int] = set()
        waiting, seen = list(missing), set(missing)
        while waiting:
            for t in program.makers[waiting.pop()]:
                if t in chosen:
                    continue
                chosen.add(t)
                for n in program.reads[t]:
                    if n not in self.place and n not in seen:
                        seen.add(n)
                        waiting.append(n)
        self._again += len(chosen)
        if self._again > _MOST_AGAIN * len(program.steps):
            raise NoPlan
        order = sorted(chosen)
        for n in seen:
            self.pending[n] = len(program.makers[n])
        for t in order:
            for n in program.reads[t]:
                self.pending[n] = self.pending.get(n, 0) + 1
        for t in order:
            self._run(t, again=True)
            for n in [*program.reads[t], *program.makes[t]]:
                if n not in self.pending or (n not in seen and n in program.makes[t]):
                    continue
                self.pending[n] -= 1
                if not self.pending[n]:
                    del self.pending[n]
                    if n in self.place and n not in self.held and self._next_use(n) is None:
                        self._free(n)

    def _make_room(self, t: int, again: bool, fresh: Sequence[int], aside: int) -> None:
        """Let values go until step t can run, which makes `fresh` and `aside` bytes more. Raises NoPlan."""
        program = self.program
        extra = aside + _aligned(program.steps[t].kernel.workspace) + sum(program.size[n] for n in fresh)
        if self.live + extra <= self.limit:
            return
        heirs: dict[int, int] = {}
        lasting = []
        for read, written in program.heirs[t]:
            if written in fresh and written not in heirs and read not in heirs.values() and read in self.place:
                if self._dies(read, again):
                    heirs[written] = read
                    extra -= program.size[read]
                else:
                    lasting.append((read, written))
        excess = self.live + extra - self.limit
        if excess <= 0:
            return
        for n in self._worst_kept({*program.reads[t], *program.makes[t], *self.held}):
            excess -= program.size[n]
            self._free(n)
            if excess + int(_SLACK * self.limit) <= 0:
                return
        for read, written in lasting:  # the step may write over what is read later on, and made again then
            if excess <= 0:
                return
            if written in heirs or read in heirs.values() or (again and (read in self.held or self.pending[read] > 1)):
                continue
            use = self._next_use(read)
            if use is not None and use <= program.expiry[read]:
                heirs[written] = read
                excess -= program.size[read]
                self._free(read)
        if excess > 0:
            raise NoPlan

    def _worst_kept(self, busy: Set[int]) -> list[int]:
        """What could be let go, the best choice first."""
        program, place, now = self.program, self.place, self.now
        self._searches += 1
        if self._searches > _MOST_SEARCHES:
            raise NoPlan
        chain: dict[int, float] = {}  # of what is not there: seconds until it is made again
        choice: list[tuple[float, int]] = []
        clock = program.clock
        for n in self.evictable:
            if program.makers[n][-1] > now:
                break
            behind = 0.0
            for i in program.sources[n]:
                if i in chain and chain[i] > behind:
                    behind = chain[i]
            price = program.price[n]
            if n not in place:
                chain[n] = price + behind
                continue
            if n in busy or n in self.pending:
                continue
            use = self._next_use(n)
            if use is not None and use <= program.expiry[n]:
                gain = program.size[n] * (clock[use] - clock[now])
                choice.append((gain / (price + self.thrift * behind), n))
        choice.sort(reverse=True)
        return [n for _, n in choice]


def seconds(steps: Iterable[Step]) -> float:
    """About how long steps take: good for comparing plans."""
    return sum(_seconds(s.kernel) for s in steps)


def _seconds(kernel: Kernel) -> float:
    return _START + max(kernel.flops / _FLOPS, kernel.bytes / _BANDWIDTH)


def _aligned(size: int) -> int:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
