"""Folds over all that a convolution makes for each channel, taken while its results are still in registers.

A *run* is a few neighbouring results of one vector of channels: its folds stay in registers. Runs are added up in the
partial results of their *part*, which one task makes from beginning to end; a last phase combines the parts in order.
Neither depends on the number of threads.

Squared deviations from the mean are summed in one pass. Within a part of n results they are taken from its first
result, so that no more than a factor of n is lost to rounding, and almost always far less: where one of n differences
is zero, Σ d² − (Σ d)² / n is at least Σ d² / n. Parts are combined by the formula of Chan, Golub and LeVeque, Updating
formulae and a pairwise algorithm for computing sample variances (1979), the means as differences from those results.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from firepot.kernels.llvm.builder import Builder, Operand, Value, vector
from firepot.kernels.llvm.convolution_source import round_up
from firepot.kernels.llvm.epilogue import Epilogue, NestEpilogue
from firepot.kernels.llvm.expression import Evaluator, Scope, register_type
from firepot.kernels.llvm.matmul import workspace
from firepot.kernels.llvm.nest_fold import combine_values, fold_identity, hoist
from firepot.kernels.llvm.tile import lane_mask
from firepot.kernels.loops import Reduce

DEVIATIONS = "deviations"


@dataclass(frozen=True)
class Folds:
    """Where the folds of an epilogue wait: [part][state][channel], behind the kernel's own workspace.

    A fold has one state, its value so far; squared deviations have four: how many results there are, one of them, the
    sums of the differences from it and of their squares.
    """

    epilogue: NestEpilogue
    offset: int
    parts: int
    channels: int
    lanes: int

    @property
    def reduces(self) -> list[Reduce]:
        return [s for s in self.epilogue.nest.stages if isinstance(s, Reduce)]

    @property
    def width(self) -> int:
        """Channels of a state, whole vectors."""
        return -(-self.channels // self.lanes) * self.lanes

    @property
    def states(self) -> int:
        return sum(_states(r) for r in self.reduces)

    @property
    def bytes(self) -> int:
        return round_up(self.parts * self.states * self.width * self.reduces[0].dtype.size)

    def place(self, b: Builder, part: Operand, channel: Operand) -> Value:
        """The address of a part's first state of a channel."""
        row = b.mul(b.index(part), self.states * self.width)
        return b.element(b.offset(workspace(b), self.offset), register_type(self.reduces[0].dtype), b.add(row, channel))

    def clear(self, b: Builder, part: Value, channel: Value, mask: Value | None = None) -> None:
        """Begin a part of one vector of channels."""
        self._store(b, self.place(b, part, channel), self._neutral(b), mask)

    def begin(self, b: Builder, channel: Value, mask: Value | None) -> Run:
        """A run of results of one vector of channels; what does not vary along it is computed here."""
        epilogue = self.epilogue
        pointers = [b.operand(2 + i) for i in range(len(epilogue.nest.operands))]
        scope = Scope({epilogue.coordinates[epilogue.lane]: channel})
        evaluator = Evaluator(b, pointers, epilogue.coordinates[epilogue.lane], self.lanes, mask, scope, {})
        for stage in epilogue.nest.stages:
            if stage.axes:
                hoist(evaluator, stage.value, set(stage.axes))
        neutral = iter(self._neutral(b))
        slots = {r: [b.variable(v.type, v) for v in itertools.islice(neutral, _states(r))] for r in self.reduces}
        return Run(scope, slots)

    def pivot(
        self, b: Builder, run: Run, part: Value, index: tuple[Operand, ...], value: Value, mask: Value | None
    ) -> None:
        """Name the run's first result, given as to `Epilogue.emit`, before it is: the pivot of a part that it begins."""
        if not any(r.combine == DEVIATIONS for r in self.reduces):
            return
        evaluator = self.epilogue.evaluator(b, index, value, mask, run)
        states = self._load(b, self.place(b, part, index[1]), mask)
        for r, own in self._by_fold(states):
            if r.combine == DEVIATIONS:
                count, pivot, *_ = own
                begins = b.compare("oeq", count, b.constant(0, count.type))
                b.set(run.slots[r][1], b.select(begins, evaluator.vector(r.value), pivot))

    def end(self, b: Builder, run: Run, count: Value, part: Value, channel: Value, mask: Value | None) -> None:
        """Add a run of `count` results to its part."""
        there = self.place(b, part, channel)
        number = b.splat(b.convert("uitofp", count, register_type(self.reduces[0].dtype)), self.lanes)
        result: list[Value] = []
        for r, before in self._by_fold(self._load(b, there, mask)):
            own = [b.get(slot, number.type) for slot in run.slots[r]]
            if r.combine == DEVIATIONS:
                result += [b.add(before[0], number), own[1], b.add(before[2], own[2]), b.add(before[3], own[3])]
            else:
                result.append(combine_values(b, r.combine, r.dtype, before[0], own[0]))
        self._store(b, there, result, mask)

    def finish(self, b: Builder) -> None:
        """The last phase: combine the parts, then do what follows for every channel."""
        epilogue = self.epilogue
        axis = epilogue.coordinates[epilogue.lane]
        type = vector(register_type(self.reduces[0].dtype), self.lanes)
        pointers = [b.operand(2 + i) for i in range(len(epilogue.nest.operands))]
        start, stop = b.share(self.width // self.lanes)
        with b.loop(start, stop) as number:
            channel = b.mul(number, self.lanes)
            mask = lane_mask(b, channel, self.channels, self.lanes)
            first = [_whole(b, r, states) for r, states in self._by_fold(self._load(b, self.place(b, 0, channel), None))]
            slots = [[b.variable(type, value) for value in states] for states in first]
            with b.loop(1, self.parts) as part:
                more = self._by_fold(self._load(b, self.place(b, part, channel), None))
                for (r, states), own in zip(more, slots, strict=True):
                    both = _combined(b, r, [b.get(slot, type) for slot in own], _whole(b, r, states))
                    for slot, value in zip(own, both, strict=True):
                        b.set(slot, value)
            found = {r: b.get(own[-1], type) for r, own in zip(self.reduces, slots, strict=True)}
            evaluator = Evaluator(b, pointers, axis, self.lanes, mask, Scope({axis: channel}), found)
            for stage in epilogue.nest.stages:
                if not stage.axes and not isinstance(stage, Reduce):
                    dtype = epilogue.nest.operands[stage.operand][0]
                    evaluator.store(stage.operand, stage.offset, stage.value, dtype)

    def _neutral(self, b: Builder) -> list[Value]:
        type = vector(register_type(self.reduces[0].dtype), self.lanes)
        values = []
        for r in self.reduces:
            if r.combine == DEVIATIONS:
                values += [b.constant(0, type)] * 4
            else:
                values.append(b.constant(fold_identity(r.combine, r.dtype), type))
        return values

    def _by_fold(self, states: list[Value]) -> list[tuple[Reduce, list[Value]]]:
        rest = iter(states)
        return [(r, list(itertools.islice(rest, _states(r)))) for r in self.reduces]

    def _load(self, b: Builder, there: Value, mask: Value | None) -> list[Value]:
        scalar = register_type(self.reduces[0].dtype)
        type = vector(scalar, self.lanes)
        places = [b.element(there, scalar, i * self.width) for i in range(self.states)]
        return [b.load(p, type) if mask is None else b.masked_load(p, type, mask) for p in places]

    def _store(self, b: Builder, there: Value, values: list[Value], mask: Value | None) -> None:
        scalar = register_type(self.reduces[0].dtype)
        for i, value in enumerate(values):
            place = b.element(there, scalar, i * self.width)
            if mask is None:
                b.store(value, place)
            else:
                b.masked_store(value, place, mask)


@dataclass(frozen=True)
class Run:
    """The folds of a run, in registers.

    scope: what was computed before it
    slots: the variables of each fold's states
    """

    scope: Scope
    slots: dict[Reduce, list[Value]]

    def add(self, b: Builder, reduce: Reduce, value: Value) -> None:
        slots = self.slots[reduce]
        if reduce.combine != DEVIATIONS:
            b.set(slots[0], combine_values(b, reduce.combine, reduce.dtype, b.get(slots[0], value.type), value))
            return
        _, pivot, total, squares = slots
        difference = b.sub(value, b.get(pivot, value.type))
        b.set(total, b.add(b.get(total, value.type), difference))
        b.set(squares, b.fma(difference, difference, b.get(squares, value.type)))


def folds_of(epilogue: Epilogue, offset: int, parts: int, channels: int, lanes: int) -> Folds | None:
    """The folds of an epilogue that has any."""
    if not isinstance(epilogue, NestEpilogue) or not epilogue.folds:
        return None
    return Folds(epilogue, offset, parts, channels, lanes)


def _states(reduce: Reduce) -> int:
    return 4 if reduce.combine == DEVIATIONS else 1


def _whole(b: Builder, reduce: Reduce, states: list[Value]) -> list[Value]:
    """What the fold of a part comes to; of squared deviations (count, pivot, mean less the pivot, sum)."""
    if reduce.combine != DEVIATIONS:
        return states
    count, pivot, total, squares = states
    mean = b.fdiv(total, _at_least_one(b, count))
    least = combine_values(b, "max", reduce.dtype, b.sub(squares, b.mul(total, mean)), b.constant(0, count.type))
    return [count, pivot, mean, least]


def _at_least_one(b: Builder, count: Value) -> Value:
    """A divisor for parts that may be empty, whose sums are zero."""
    return b.intrinsic("llvm.maxnum", count.type, count, b.constant(1, count.type))


def _combined(b: Builder, reduce: Reduce, x: list[Value], y: list[Value]) -> list[Value]:
    """Two parts together."""
    if reduce.combine != DEVIATIONS:
        return [combine_values(b, reduce.combine, reduce.dtype, x[0], y[0])]
    (n, pivot, mean, squares), (m, other_pivot, other_mean, more) = x, y
    both = b.add(n, m)
    share = b.fdiv(m, _at_least_one(b, both))
    apart = b.add(b.sub(other_pivot, pivot), b.sub(other_mean, mean))
    between = b.mul(b.mul(apart, apart), b.mul(n, share))
    return [both, pivot, b.fma(apart, share, mean), b.add(b.add(squares, more), between)]
