"""Epilogues: element-wise work on a contraction's result, done while its elements are still in registers.

A kernel that only maps, and whose points are the elements of one matrix product or convolution, is joined to it: bias
and activation, the residual sum, or the optimiser's update of the weights whose gradient the product is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from firepot.compiler.emit import Emitter, Misaligned, Position, Storage
from firepot.compiler.fuse import Group, giver
from firepot.graph.index import Axis, Index, contiguous_strides, flatten, unflatten
from firepot.graph.node import Elementwise, Node, View
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.contract import contract_primitive, convolve_primitive
from firepot.graph.primitives.reduce import Reduce as ReducePrimitive
from firepot.graph.primitives.reduce import accumulator
from firepot.kernels.llvm.nest_plan import reads_fold
from firepot.kernels.llvm.normalise import indices
from firepot.kernels.loops import Const, Expr, Finished, Nest, Op, Reduce, Reduced, Stage, Store

_REACH = 16  # kernels by which a product may be put off until what follows it can run


@dataclass(frozen=True)
class Following:
    """What is done with every element of a contraction: stores over the axes (batch, row, column) or, of a convolution,
    over those of its result."""

    nest: Nest
    finished: Finished
    operands: list[Storage]
    lane: int  # the axis along which neighbours lie together in memory: 2 or 1, of a convolution always 1


def follow(
    groups: list[Group], storage: dict[Node, Storage], needed: set[Node], overwritten: dict[Node, Node],
    statistics: bool,
) -> list[Group]:  # fmt: skip
    """Join map groups to the matrix products that feed them.

    Args:
        needed: the program's outputs.
        overwritten: of outputs that may take the place of an input, that input.
        statistics: whether folds over each channel are joined to the convolutions that make what is folded.
    """
    result = list(groups)
    readers: dict[Node, int] = {}  # how many kernels load a value
    for g in result:
        for n in g.inputs:
            readers[n] = readers.get(n, 0) + 1
    check = max((k for k, g in enumerate(result) if g.checks_an_index()), default=-1)
    at = 0
    while at < len(result):
        group = result[at]
        joined = None
        if not group.opaque and (statistics or not group.folded):
            joined = _join(result, at, storage, needed, readers, overwritten, check)
        if joined is None:
            at += 1
            continue
        place, source, merged = joined
        for n in [*result[source].inputs, *group.inputs]:
            readers[n] -= 1
        for n in merged.inputs:
            readers[n] += 1
        result[place] = merged if place == source else result[place]
        if place != source:
            result.insert(place + 1, merged)
            del result[source]
        del result[at]
    return result


def _join(
    groups: Sequence[Group], at: int, storage: dict[Node, Storage], needed: set[Node], readers: dict[Node, int],
    overwritten: dict[Node, Node], check: int,
) -> tuple[int, int, Group] | None:  # fmt: skip
    """(the position after which the joined group runs, that of the product, the joined group)."""
    group = groups[at]
    products = {n for n in group.inputs if _followed(n) and n.size == math.prod(group.domain) != 0}
    if group.folded:
        products = {n for n in products if _by_channel(n, group)}
    for source in range(at - 1, -1, -1):
        if not products:
            break
        first = groups[source].roots[0]
        if first not in products:
            continue
        products.discard(first)
        others = group.inputs - {first}
        replaced = {overwritten[r] for r in group.roots if r in overwritten}
        place = source
        for k in range(source + 1, at):
            between = groups[k]
            if others.intersection(between.roots) or replaced & between.inputs:
                place = k
        if replaced:  # what is overwritten cannot be restored after a check fails
            place = max(place, check)
        if place > source + _REACH or place >= at:
            continue
        if any(between.inputs.intersection(groups[source].roots) for between in groups[source + 1 : place + 1]):
            continue
        roots = [*groups[source].roots, *group.roots]
        inputs = (groups[source].inputs | others).difference(roots)
        merged = Group(roots, first.shape, opaque=True, inputs=inputs)
        parts = (groups[source], group)
        kept = {r for r in roots if r in needed or readers.get(r, 0) > sum(r in g.inputs for g in parts)}
        if following(merged, storage, kept) is not None:
            return place, source, merged
    return None


def _followed(node: Node) -> bool:
    """Whether a kernel can do element-wise work on this value: not on gradients of convolution weights, of which most
    kernels hand over single elements."""
    if node.primitive is convolve_primitive:
        return bool(node.params[0] != "weight_grad")
    return node.primitive is contract_primitive


def _by_channel(node: Node, group: Group) -> bool:
    """Whether a group folds a convolution's result over all but the channels, and loads nothing else as large: to wait
    for that between two tiles takes longer than a pass of its own."""
    if any(2 * n.size >= node.size for n in group.inputs if n is not node):
        return False
    rank = len(node.shape)
    others = (0, *range(2, rank))
    return node.primitive is convolve_primitive and group.domain == node.shape and group.folded == others and (
        node.size > node.shape[1] > 0
    )  # fmt: skip


def following(group: Group, storage: dict[Node, Storage], stored: set[Node]) -> Following | None:
    """The epilogue of a joined group; None where its roots do not go over the product element by element, or would
    be scattered in memory."""
    contraction, *roots = group.roots
    convolution = contraction.primitive is convolve_primitive
    names = "nczyx"[: len(contraction.shape)] if convolution else "bmn"
    axes = tuple(Axis(name, s) for name, s in zip(names, contraction.shape, strict=True))
    position: Position = tuple(Index.of(a) for a in axes)
    finished = Finished(axes, contraction.dtype)
    emitter = Emitter(storage, set(group.roots))
    emitter.local[contraction] = (position, giver(finished))
    places: dict[Node, Position] = {contraction: position}
    stages: list[Stage] = []
    outer, inner = axes[1:2], (axes[0], *axes[2:])
    folds: dict[int, Reduce] = {}
    full = inner if any(isinstance(r.primitive, ReducePrimitive) for r in roots) else ()
    if contraction in stored:
        own = storage[contraction]
        stages.append(Store(emitter.operand(own), own.locate(position), finished, full))
    try:
        for root in sorted(roots, key=lambda r: r.sequence):
            if isinstance(root.primitive, ReducePrimitive):
                stage = _one_pass(emitter.fold(root, (position[1],), inner, inner)[0], folds)
                if stage is None or stage.dtype is not root.dtype or stage.dtype is not accumulator(contraction.dtype):
                    return None
                folds[id(stage)] = stage
                stages.append(stage)
                made = Reduced(stage, stage.dtype)
                emitter.local[root] = ((position[1],), giver(made))
                if root in stored:
                    own = storage[root]
                    stages.append(Store(emitter.operand(own), own.locate((position[1],)), made))
                continue
            if full and root.size == contraction.shape[1]:
                one = Index()
                place = (position[1],) if root.shape == (root.size,) else (one, position[1], *(one for _ in axes[2:]))
                if root.shape != tuple(1 if p is one else root.size for p in place):
                    return None
                expr = emitter.compute(root, place)
                emitter.local[root] = (place, giver(expr))
                if root in stored:
                    own = storage[root]
                    stages.append(Store(emitter.operand(own), own.locate(place), expr))
                continue
            place = _place(root, places, emitter)
            if place is None:
                return None
            expr = emitter.compute(root, place)
            emitter.local[root] = (place, giver(expr))
            if reads_fold(expr, set(folds), set()):
                return None
            if root in stored:
                own = storage[root]
                stages.append(Store(emitter.operand(own), own.locate(place), expr, full))
    except Misaligned:
        return None
    operands = tuple((s.dtype, s.size - s.base) for s in emitter.operands)
    nest = Nest(outer if full else axes, tuple(stages), operands)
    for lane in (1,) if convolution else (2, 1):
        if axes[lane].size > 1 and all(_neighbours(index, axes[lane]) for index in indices(nest)):
            return Following(nest, finished, emitter.operands, lane)
    return None


def _one_pass(fold: Reduce, folds: Mapping[int, Reduce]) -> Reduce | None:
    """The fold as it can be made beside those before it: the squares of what is less its mean in the same pass as the
    mean itself. None where it needs another fold in any other way."""
    if not reads_fold(fold.value, set(folds), set()):
        return fold
    x = _less_its_mean(fold)
    return None if x is None else replace(fold, combine="deviations", value=x)


def _less_its_mean(fold: Reduce) -> Expr | None:
    """x where the fold is the sum of (x - mean of x)²."""
    square = fold.value
    if fold.combine != "sum" or not isinstance(square, Op) or square.name not in ("mul", "square"):
        return None
    centred = square.args[0]
    if any(a is not centred for a in square.args) or not isinstance(centred, Op) or centred.name != "sub":
        return None
    x, mean = centred.args
    if not isinstance(mean, Op) or mean.name != "div":
        return None
    total, count = mean.args
    if not isinstance(total, Reduced) or not isinstance(count, Const) or total.stage.combine != "sum":
        return None
    same = total.stage.value is x and set(total.stage.axes) == set(fold.axes)
    return x if same and count.value == math.prod(a.size for a in fold.axes) else None


def _place(node: Node, places: dict[Node, Position], emitter: Emitter) -> Position | None:
    """The position of `node` that belongs to the product's position, found along one path between them."""
    found = places.get(node)
    if found is not None:
        return found
    primitive = node.primitive
    if (node in emitter.storage and node not in emitter.own) or ew.is_leaf(node):
        return None
    if isinstance(primitive, Elementwise):
        for i in node.inputs:
            inner = _place(i, places, emitter)
            if inner is not None:
                places[node] = inner
                return inner
        return None
    if not isinstance(primitive, View) or len(node.inputs) != 1:
        return None
    source = node.inputs[0]
    inner = _place(source, places, emitter)
    if inner is None:
        return None
    if primitive is views.permute_primitive:
        result = tuple(inner[d] for d in node.params[0])
    elif primitive is views.reshape_primitive:
        result = unflatten(flatten(inner, contiguous_strides(source.shape)), node.shape)
    elif node.shape == source.shape and primitive.index(inner, node) == (inner, ()):
        result = inner
    else:
        return None
    places[node] = result
    return result


def _neighbours(index: Index, axis: Axis) -> bool:
    """Whether neighbours along the axis lie side by side, or are the same element."""
    return index.coefficient(axis) in (0, 1) and all(
        isinstance(atom, Axis) or axis not in Index.of(atom).axes() for atom, _ in index.terms
    )
