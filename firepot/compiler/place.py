"""Placing: which memory every stored value of a program gets.

Inputs and outputs have their own. What lives only inside shares one arena by the memory plan. Two kinds of values need
none: an output that is written over the input whose new value it is (donation), and the result of a kernel that reads
one of its operands, for the last time, at the very positions that it then writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from firepot.compiler.emit import Storage
from firepot.compiler.lower import Step
from firepot.compiler.memory import Interval, plan
from firepot.graph.node import Node, checks_an_index
from firepot.kernels.llvm import nest as nest_generator


@dataclass(frozen=True)
class Placement:
    """Where everything lies; the fields are those of a Program."""

    arena: int
    places: dict[int, tuple[str, int]]
    workspaces: list[int]
    outputs: list[tuple[int, Storage | None]]
    guard_step: int
    donated: dict[int, int]


def place(
    steps: Sequence[Step], storage: Mapping[Node, Storage], inputs: Sequence[Node], outputs: Sequence[Node],
    donations: Mapping[int, int], share_memory: bool, prepared: Set[int], shared: Mapping[int, int],
) -> Placement:  # fmt: skip
    """Decide where each stored value lives.

    Args:
        share_memory: whether values that do not live at the same time may lie in the same place.
        prepared: numbers of steps whose workspace is kept from run to run, elsewhere.
        shared: step -> the earlier one whose workspace it takes over, with what is in there.
    """
    places: dict[int, tuple[str, int]] = {storage[node].number: ("input", i) for i, node in enumerate(inputs)}
    program_outputs: list[tuple[int, Storage | None]] = []
    for i, node in enumerate(outputs):
        kind, where = places.setdefault(storage[node].number, ("output", i))
        if (kind, where) == ("output", i):
            program_outputs.append((i, storage[node]))
        else:  # an argument returned as it is, or the same result twice
            program_outputs.append((where if kind == "output" else -1 - where, None))
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    blocks: dict[int, Storage] = {}
    for t, step in enumerate(steps):
        for s, _ in step.operands:
            first.setdefault(s.number, t)
            last[s.number] = t
            blocks[s.number] = s
    donated, guard = _donate(steps, storage, inputs, outputs, donations, places, first, last)
    heirs = _take_over(steps, places, first, last) if share_memory else {}
    inner = [n for n in first if n not in places and n not in heirs]
    for n, heir in reversed(heirs.items()):  # the last of a row of takings over first
        last[heir] = last[n]
    intervals = [Interval(blocks[n].size * blocks[n].dtype.size, first[n], last[n]) for n in inner]
    with_workspace = [t for t, s in enumerate(steps) if s.kernel.workspace and t not in prepared and t not in shared]
    used = {t: t for t in with_workspace} | {maker: t for t, maker in sorted(shared.items())}  # for the last time
    intervals += [Interval(steps[t].kernel.workspace, t, used[t]) for t in with_workspace]
    if not share_memory:
        intervals = [Interval(i.size, 0, len(steps)) for i in intervals]
    offsets, total = plan(intervals)
    for n, offset in zip(inner, offsets, strict=False):
        places[n] = ("arena", offset)
    for n, heir in heirs.items():
        places[n] = places[heir]
    workspaces = [-1] * len(steps)
    for t, offset in zip(with_workspace, offsets[len(inner) :], strict=True):
        workspaces[t] = offset
    for t, maker in shared.items():
        workspaces[t] = workspaces[maker]
    return Placement(total, places, workspaces, program_outputs, guard, donated)


def possible_heirs(step: Step) -> list[tuple[int, int]]:
    """(block read, block written): the kernel may write the second over the first."""
    found = []
    numbers = [s.number for s, _ in step.operands]
    for read, written in sorted(step.kernel.aliases):
        (a, a_start), (b, b_start) = step.operands[read], step.operands[written]
        alike = a_start == b_start and replace(a, number=b.number) == b
        if alike and numbers.count(a.number) == numbers.count(b.number) == 1:
            found.append((a.number, b.number))
    return found


def _take_over(
    steps: Sequence[Step], places: Mapping[int, tuple[str, int]], first: Mapping[int, int], last: Mapping[int, int]
) -> dict[int, int]:
    """Block -> the block that it is written over, which dies there; in the order of the steps."""
    heirs: dict[int, int] = {}
    spent: set[int] = set()
    for t, step in enumerate(steps):
        for read, written in possible_heirs(step):
            if read in places or written in places or read in spent or written in heirs:
                continue
            if last[read] == t and first[written] == t:
                heirs[written] = read
                spent.add(read)
    return heirs


def _donate(
    steps: Sequence[Step], storage: Mapping[Node, Storage], inputs: Sequence[Node], outputs: Sequence[Node],
    donations: Mapping[int, int], places: Mapping[int, tuple[str, int]], first: Mapping[int, int],
    last: Mapping[int, int],
) -> tuple[dict[int, int], int]:  # fmt: skip
    """(output -> input whose memory it takes, first step that overwrites an input).

    An output may lie over an input if nothing reads the input after the step that writes the output, and that step
    reads the input only at the very position it then writes. And whatever may find a bad index must come before, so that
    state is as it was when the error is raised.
    """
    donated: dict[int, int] = {}
    guard = len(steps)
    checked = max((t for t, step in enumerate(steps) if checks_an_index(step.nodes, storage)), default=-1)
    returned = set(outputs)
    assembled = {s.number for s in storage.values() if s.offset}
    for o, i in donations.items():
        if inputs[i] in returned:  # as another output, which must not change
            continue
        source, target = storage[inputs[i]], storage[outputs[o]]
        if places[target.number] != ("output", o) or target.strides != source.strides or target.number in assembled:
            continue
        if target.size != source.size or target.dtype is not source.dtype or target.number not in first:
            continue
        t = first[target.number]
        if last.get(source.number, -1) > t:
            continue
        if last.get(source.number, -1) == t and not _at_same_positions(steps[t], source, target):
            continue
        if t <= checked:
            continue
        donated[o] = i
        guard = min(guard, t)
    return donated, guard


def _at_same_positions(step: Step, source: Storage, target: Storage) -> bool:
    """Whether the kernel reads the source only where it writes the target."""
    written = next(n for n, (s, _) in enumerate(step.operands) if s is target)
    offset = step.operands[written][1] - target.base * target.dtype.size
    return all(
        at - source.base * source.dtype.size == offset and nest_generator.same_positions(step.kernel, read, written)
        for read, (s, at) in enumerate(step.operands)
        if s is source
    )
