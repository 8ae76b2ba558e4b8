"""Loops and branches as steps of a program: where what their bodies read and write lies (see `subprogram`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from firepot.compiler.subprogram import Body, Branch, Place, Plan, Repeat, While, Workspace, composite, copies
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node
from firepot.graph.primitives.loop import pieces

if TYPE_CHECKING:
    from firepot.compiler.emit import Storage
    from firepot.compiler.lower import Access, Lowering


def _family(context: Lowering, node: Node, common: int) -> list[Node]:
    """All nodes of the same loop or branch, one for each dtype of the results that is wanted; none where another of
    them has been lowered. common: how many parameters they have in common."""
    family = [
        n
        for n in context.opaque
        if n.primitive is node.primitive and n.inputs == node.inputs and n.params[:common] == node.params[:common]
    ]
    if any(n in context.made for n in family):
        return []
    context.made.update(family)
    return family


def _operands(
    context: Lowering, family: Sequence[Node]
) -> tuple[list[Access], list[tuple[Storage, int]], dict[DType, int]]:
    """(how to read each input, the operands of the step: inputs and blocks of results, the number of each block)."""
    reads = [context.access(i) for i in family[0].inputs]
    operands = [(a.storage, a.offset * a.storage.dtype.size) for a in reads]
    blocks: dict[DType, int] = {}
    for n in family:
        out = context.storage[n]
        blocks[n.dtype] = len(operands)
        operands.append((out, out.offset * out.dtype.size))
    return reads, operands, blocks


def lower(context: Lowering, node: Node) -> None:
    """`transforms.loop.Loop`: one step for all dtypes of the results."""
    from firepot.compiler.lower import Step

    family = _family(context, node, 4)
    if not family:
        return
    body, length, reverse, saved, _ = node.params
    reads, operands, blocks = _operands(context, family)
    count, given = len(body.carries), len(body.slices)
    way = -1 if reverse else 1
    workspace = Workspace()
    read: dict[Node, Place] = {}
    written: dict[int, Place] = {}
    for p in [p for n in family for p in pieces(*n.params)]:
        size = body.results[p.result].dtype.size
        operand = blocks[body.results[p.result].dtype]
        step = way * p.pitch * size
        if p.result >= count:
            written[p.result] = Place(operand, (p.start + (length - 1) * p.pitch * reverse) * size, step)
        elif saved:
            here = Place(operand, (p.start + length * p.pitch * reverse) * size, step)
            read[body.carries[p.result]], written[p.result] = here, here.moved(step)
        else:
            read[body.carries[p.result]] = Place(operand, p.start * size)
    for number, (placeholder, found) in enumerate(zip(body.placeholders, reads, strict=True)):
        if number >= count + given:
            read[placeholder] = Place(number, 0)
        elif number >= count:
            step = found.strides[0] * found.storage.dtype.size if length > 1 else 0
            read[placeholder] = Place(number, (length - 1) * step * reverse, way * step)
    wanted = [r for r in range(len(body.results)) if r < count or r in written]
    first, turn = _carrying(body.carries, [body.results[r] for r in wanted], wanted, read, written, body.constants, workspace)
    kernel = composite(f"loop {length}x", length, [turn], sum, workspace.size)
    plan = (*first, Repeat(length, turn))
    context.steps.append(Step(kernel, tuple(operands), tuple(family), plan=plan))


def _carrying(
    carries: Sequence[Node], results: Sequence[Node], numbers: Sequence[int], read: dict[Node, Place],
    written: dict[int, Place], constants: Sequence[Node], workspace: Workspace,
) -> tuple[Plan, Plan]:  # fmt: skip
    """(what runs once, one turn) of a body whose result c is the next value of carry c.

    Args:
        numbers: of the results.
        read, written: where placeholders and results lie, as far as that is known. Operand c holds the first value
            of carry c.
    """
    for carry in carries:
        if carry not in read:  # nobody asks for its last value
            read[carry] = workspace.reserve(carry.size * carry.dtype.size)
    own = {p: c for c, p in enumerate(carries) if c not in written}
    body = Body(results, own, constants)
    copied: list[tuple[Node, Place, Place]] = []
    for carry, c in own.items():
        written[c] = read[carry]
        if c not in body.written_over:  # what is read after it must not find the next value
            written[c] = workspace.reserve(carry.size * carry.dtype.size)
            copied.append((carry, written[c], read[carry]))
    once, turn = body.plan(read, [written[r] for r in numbers], workspace)
    firsts = copies([(p, Place(c, 0), Place(read[p].operand, read[p].offset)) for c, p in enumerate(carries)])
    return (*firsts, *once), (*turn, *copies(copied))


def lower_branch(context: Lowering, node: Node) -> None:
    """`transforms.branch.Choice`: one step for all dtypes of the results."""
    from firepot.compiler.lower import Step

    family = _family(context, node, 2)
    if not family:
        return
    bodies = node.params[:2]
    _, operands, blocks = _operands(context, family)
    workspace = Workspace()
    written = {
        p.result: Place(blocks[n.dtype], p.start * n.dtype.size)
        for n in family
        for p in pieces(bodies[0], 1, False, False, n.dtype)
    }
    numbers = sorted(written)
    programs = [Body([b.results[r] for r in numbers]) for b in bodies]
    arena = workspace.reserve(max(p.program.arena for p in programs))
    plans = []
    for body, program in zip(bodies, programs, strict=True):
        read = {p: Place(number, 0) for number, p in enumerate(body.placeholders, 1)}
        plans.append(program.plan(read, [written[r] for r in numbers], workspace, arena)[1])
    kernel = composite("branch ", 1, plans, max, workspace.size)
    plan = (Branch(Place(0, 0), *plans),)
    context.steps.append(Step(kernel, tuple(operands), tuple(family), plan=plan))


def lower_while(context: Lowering, node: Node) -> None:
    """`transforms.while_loop.While`: one step for all dtypes of the results."""
    from firepot.compiler.lower import Step

    family = _family(context, node, 2)
    if not family:
        return
    test, body = node.params[:2]
    _, operands, blocks = _operands(context, family)
    workspace = Workspace()
    read = {
        body.carries[p.result]: Place(blocks[n.dtype], p.start * n.dtype.size)
        for n in family
        for p in pieces(body, 1, False, False, n.dtype)
    }
    read.update({p: Place(number, 0) for number, p in enumerate(body.placeholders) if number >= len(body.carries)})
    numbers = range(len(body.results))
    first, turn = _carrying(body.carries, body.results, numbers, read, {}, body.constants, workspace)
    flag = workspace.reserve(dtypes.bool_.size)
    read.update(zip(test.placeholders, _at(body.placeholders, read), strict=True))
    once, look = Body(test.results, lasting=test.constants).plan(read, [flag], workspace)
    kernel = composite("while ", 1, [look, turn], sum, workspace.size)
    plan = (*first, *once, While(look, flag, turn))
    context.steps.append(Step(kernel, tuple(operands), tuple(family), plan=plan))


def _at(placeholders: Iterable[Node], read: dict[Node, Place]) -> list[Place]:
    return [read[p] for p in placeholders]
