"""Sharing of preparations: what several kernels make of one value, packed panels of a matrix above all, made once.

The steps of a recurrent network multiply by the same weights one after another, and so do layers with tied weights.
The first phase of such a kernel depends on that operand alone (`Kernel.prepares`); the kernels that follow get its
workspace, in which the result still lies, and leave the phase out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from firepot.compiler.emit import Storage
from firepot.compiler.lower import Step
from firepot.graph.node import Node

_REACH = 32  # kernels from one use to the next: what lies about for longer takes memory that others want


def shared(steps: Sequence[Step], storage: Mapping[Node, Storage], kept: Set[int]) -> dict[int, int]:
    """Step -> the earlier one that has made what its first phase would make.

    Args:
        steps: in order.
        kept: numbers of steps whose preparation is kept from run to run, elsewhere.
    """
    found: dict[int, int] = {}
    latest: dict[tuple[int, int, str, int], tuple[int, int]] = {}  # preparation -> (step that made it, last use)
    for t, step in enumerate(steps):
        kernel = step.kernel
        if kernel.prepares is not None and t not in kept:
            operand, what = kernel.prepares
            block, offset = step.operands[operand]
            key = (block.number, offset, what, kernel.workspace)
            maker, use = latest.get(key, (t, t))
            if t - use > _REACH:
                maker = t
            if maker != t:
                found[t] = maker
            latest[key] = (maker, t)
        written = {storage[n].number for n in step.nodes if n in storage}
        for key in [k for k in latest if k[0] in written]:
            del latest[key]
    return found
