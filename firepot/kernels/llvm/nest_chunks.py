"""Folds cut into chunks: partial results in the workspace, combined in the order of the chunks."""

from __future__ import annotations

import math
from typing import Any

from firepot.graph.index import Axis
from firepot.kernels.llvm.builder import Builder, Value, vector
from firepot.kernels.llvm.expression import Scope, from_memory, memory_type, register_type, to_memory
from firepot.kernels.llvm.nest_fold import combine_values, fold_identity, operand_pointers, outer_stage
from firepot.kernels.llvm.nest_plan import Plan, stage_groups
from firepot.kernels.loops import Reduce


def partial_layout(plan: Plan) -> tuple[list[Reduce], list[int], int]:
    """(folds, byte offset of each one's partial results, bytes in all)."""
    reduces = [s for s in stage_groups(plan.nest)[0] if isinstance(s, Reduce)]
    points = math.prod(a.size for a in plan.nest.axes)
    offsets = []
    total = 0
    for r in reduces:
        offsets.append(total)
        total += -(-points * plan.chunks * r.dtype.size // 64) * 64
    return reduces, offsets, total


def workspace_bytes(plan: Plan) -> int:
    return partial_layout(plan)[2] if plan.chunks > 1 else 0


def _point_number(b: Builder, plan: Plan, coordinates: dict[Axis, Value], base: Value | None) -> Value:
    """The row-major number of an outer point, the vectorised axis last."""
    number = b.index(0)
    for axis in plan.others:
        number = b.add(b.mul(number, axis.size), coordinates[axis])
    if base is not None and plan.along is not None:
        number = b.add(b.mul(number, plan.along.size), base)
    return number


def store_partials(
    b: Builder, plan: Plan, coordinates: dict[Axis, Value], vectors: list[tuple[Value, Value | None]] | None,
    chunk: Value, group: list[Any], folds: list[dict[Reduce, Value]],
) -> None:  # fmt: skip
    reduces, offsets, _ = partial_layout(plan)
    points = math.prod(a.size for a in plan.nest.axes)
    workspace = b.operand(len(plan.nest.operands))
    for u, found in enumerate(folds):
        base, mask = vectors[u] if vectors is not None else (None, None)
        number = b.add(b.mul(chunk, points), _point_number(b, plan, coordinates, base))
        for r, offset in zip(reduces, offsets, strict=True):
            value = to_memory(b, found[r], r.dtype)
            address = b.element(b.offset(workspace, offset), memory_type(r.dtype), number)
            if mask is None:
                b.store(value, address)
            else:
                b.masked_store(value, address, mask)


def combine_chunks(
    b: Builder, plan: Plan, coordinates: dict[Axis, Value], vectors: list[tuple[Value, Value | None]] | None
) -> None:
    """Second phase: fold the partial results in the order of the chunks, then run the stages that follow."""
    reduces, offsets, _ = partial_layout(plan)
    points = math.prod(a.size for a in plan.nest.axes)
    pointers = operand_pointers(b, plan)
    workspace = b.operand(len(plan.nest.operands))
    lanes = 1 if vectors is None else plan.lanes
    places = vectors if vectors is not None else [(None, None)]
    for base, mask in places:
        number = _point_number(b, plan, coordinates, base)
        found: dict[Reduce, Value] = {}
        slots = {}
        for r in reduces:
            type = vector(register_type(r.dtype), lanes)
            slots[r] = b.variable(type, b.constant(fold_identity(r.combine, r.dtype), type))
        with b.loop(0, plan.chunks) as chunk:
            place = b.add(b.mul(chunk, points), number)
            for r, offset in zip(reduces, offsets, strict=True):
                address = b.element(b.offset(workspace, offset), memory_type(r.dtype), place)
                type = vector(memory_type(r.dtype), lanes)
                raw = b.load(address, type) if mask is None else b.masked_load(address, type, mask)
                value = from_memory(b, raw, r.dtype)
                b.set(slots[r], combine_values(b, r.combine, r.dtype, b.get(slots[r], value.type), value))
        for r in reduces:
            found[r] = b.get(slots[r], vector(register_type(r.dtype), lanes))
        scope = Scope(coordinates if base is None or plan.along is None else {**coordinates, plan.along: base})
        for group in stage_groups(plan.nest)[1:]:
            outer_stage(b, pointers, plan, group, [(scope, mask)], [found], vectors is None)
