"""Schedule: the order of kernels, so that values are needed for a short time.

Kernels come in the order of a walk from the program's outputs, which puts what a later output needs late: gradients of
weights would all wait, with the activations and gradients that they read, until the backward pass has gone through the
whole network. A kernel whose result takes no more room than what it is the last to read runs as soon as it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from firepot.compiler.emit import Storage
from firepot.compiler.follow import last_check
from firepot.compiler.fuse import Group
from firepot.graph.node import Node


def schedule(
    groups: Sequence[Group], storage: dict[Node, Storage], held: set[Node], overwritten: Mapping[Node, Node]
) -> list[Group]:
    """The groups in an order that can run and holds less at a time.

    Args:
        groups: in an order that can run.
        held: values that take no room of the program's own, or take it throughout: its inputs and outputs.
        overwritten: output -> input in whose memory it is to be stored, once nothing reads the input any more.
    """
    maker: dict[Node, int] = {}
    readers: dict[Node, list[int]] = {}
    for number, group in enumerate(groups):
        maker.update(dict.fromkeys(group.roots, number))
        for node in group.inputs:
            readers.setdefault(node, []).append(number)
    check = last_check(groups, storage)
    keys: list[tuple[int, ...]] = []
    for number, group in enumerate(groups):
        taken = sum(_bytes(r) for r in group.roots if r not in held)
        freed = sum(_bytes(i) for i in group.inputs if i not in held and i in maker and readers[i][-1] == number)
        keys.append((number,))
        if taken > freed or not freed:
            continue
        before = [maker[i] for i in group.inputs if i in maker]
        for root in group.roots:
            if root in overwritten:
                # What is overwritten cannot be restored after a check fails.
                before += [r for r in (*readers.get(overwritten[root], ()), check) if 0 <= r < number]
        latest = max((keys[b] for b in before), default=None)
        if latest is not None:
            keys[number] = (*latest, number)  # behind what it waits for, before what came next there
    return [groups[n] for n in sorted(range(len(groups)), key=keys.__getitem__)]


def _bytes(node: Node) -> int:
    return node.size * node.dtype.size
