"""Scheduling: in which order the kernels of a program run.

Any order in which values are made before they are read computes the same; what differs is how much has to be kept.
Recording order runs all input gradients before the weight gradients that share their operands, so that every gradient
of the network would live to the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from firepot.compiler.fuse import Group
from firepot.graph.node import Node

_WORTH = 0.98  # of the memory that the order as recorded keeps


def schedule(
    groups: list[Group], kept: Mapping[Node, int], overwritten: Mapping[Node, Node]
) -> list[Group]:  # fmt: skip
    """The groups in an order that keeps less, if one is found: of those that can run, the one that frees most, by itself
    or with what it alone keeps waiting.

    Args:
        groups: in an order that can run.
        kept: bytes of each stored value that lives only inside the program.
        overwritten: result -> argument whose memory it may take over. What reads the argument before it is
            overwritten in the given order still does, and so does what may end the program with an error.
    """
    needs = _needs(groups, overwritten)
    readers: dict[Node, int] = {}
    for g in groups:
        for n in g.inputs:
            readers[n] = readers.get(n, 0) + 1
    order = _greedy(groups, needs, kept, readers)
    if _peak(order, kept, readers) < _WORTH * _peak(groups, kept, readers):
        return order
    return groups


def _needs(groups: Sequence[Group], overwritten: Mapping[Node, Node]) -> list[set[int]]:
    """For each group the numbers of those that must run before; all are smaller than its own."""
    maker = {r: number for number, g in enumerate(groups) for r in g.roots}
    reads: dict[Node, list[int]] = {}
    checking = [number for number, g in enumerate(groups) if g.checks_an_index()]
    needs: list[set[int]] = []
    for number, g in enumerate(groups):
        own = {maker[n] for n in g.inputs if n in maker}
        if g.opaque:  # views of what it reads may hide the value that is stored
            own |= {maker[n] for n in _stored_below(g, maker)}
        for r in g.roots:
            argument = overwritten.get(r)
            if argument is not None:
                own.update(reads.get(argument, ()))
                own.update(c for c in checking if c < number)
        own.discard(number)
        needs.append(own)
        for n in g.inputs:
            reads.setdefault(n, []).append(number)
    return needs


def _stored_below(group: Group, maker: Mapping[Node, int]) -> list[Node]:
    found, waiting, seen = [], list(group.roots[0].inputs), set()
    while waiting:
        n = waiting.pop()
        if n in seen:
            continue
        seen.add(n)
        if n in maker:
            found.append(n)
        else:
            waiting.extend(n.inputs)
    return found


def _greedy(
    groups: Sequence[Group], needs: Sequence[set[int]], kept: Mapping[Node, int], readers: Mapping[Node, int]
) -> list[Group]:
    left = dict(readers)
    waiting_for = [len(n) for n in needs]
    followers: list[list[int]] = [[] for _ in groups]
    for number, before in enumerate(needs):
        for other in before:
            followers[other].append(number)
    made = [sum(kept.get(r, 0) for r in g.roots if readers.get(r)) for g in groups]
    ready = {number for number, count in enumerate(waiting_for) if not count}
    order = []

    def change(k: int, before: Set[Node] = frozenset()) -> int:
        """Bytes that running k adds, `before` having been read once more by then."""
        freed = sum(kept.get(n, 0) for n in groups[k].inputs if left[n] == (2 if n in before else 1))
        return made[k] - freed

    def score(k: int) -> tuple[bool, int, int]:
        own = change(k)
        next_ones = [f for f in followers[k] if waiting_for[f] == 1]
        if own > 0 and not next_ones:  # nobody waits for this alone
            return True, own, k
        after = min((change(f, groups[k].inputs) for f in next_ones), default=0)
        return False, own + min(after, 0), k

    while ready:
        best = min(ready, key=score)
        ready.remove(best)
        order.append(groups[best])
        for n in groups[best].inputs:
            left[n] -= 1
        for follower in followers[best]:
            waiting_for[follower] -= 1
            if not waiting_for[follower]:
                ready.add(follower)
    assert len(order) == len(groups)
    return order


def _peak(order: Sequence[Group], kept: Mapping[Node, int], readers: Mapping[Node, int]) -> int:
    """The most bytes alive at once."""
    left = dict(readers)
    alive = most = 0
    for g in order:
        alive += sum(kept.get(r, 0) for r in g.roots)
        most = max(most, alive)
        alive -= sum(kept.get(r, 0) for r in g.roots if not readers.get(r))
        for n in g.inputs:
            left[n] -= 1
            if not left[n]:
                alive -= kept.get(n, 0)
    return most
