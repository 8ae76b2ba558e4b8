"""Layout: in which order the dimensions of a stored value lie in memory.

A layout is a permutation of dimensions, outermost first. Programs take and give row-major values; in between,
convolutions make and want channels-last ones, and what is computed from them element by element follows.
"""

from __future__ import annotations

from collections.abc import Sequence

from firepot.graph.node import Elementwise, Node, Shape, barrier_primitive
from firepot.graph.primitives import views
from firepot.graph.primitives.attention import attention_gradient, attention_primitive
from firepot.graph.primitives.contract import convolve_primitive
from firepot.graph.primitives.elementwise import is_leaf

Layout = tuple[int, ...]


def row_major(rank: int) -> Layout:
    return tuple(range(rank))


def channels_last(rank: int) -> Layout:
    """(N, spatial…, C) for a value of logical shape (N, C, spatial…)."""
    return (0, *range(2, rank), 1)


def strides_of(shape: Shape, layout: Layout) -> tuple[int, ...]:
    """Element strides by logical dimension."""
    strides = [0] * len(shape)
    step = 1
    for d in reversed(layout):
        strides[d] = step
        step *= max(shape[d], 1)
    return tuple(strides)


def natural_layouts(order: Sequence[Node]) -> dict[Node, Layout]:
    """The layout that each node would be computed in most directly."""
    result: dict[Node, Layout] = {}
    for node in order:
        rank = len(node.shape)
        layout = row_major(rank)
        primitive = node.primitive
        if is_leaf(node) or rank < 2:
            pass
        elif primitive is convolve_primitive:
            if node.params[0] != "weight_grad":
                layout = channels_last(rank)
        elif primitive in (attention_primitive, attention_gradient):
            layout = (0, 2, 1, 3)  # the heads of a position together, as the projections around it want them
        elif isinstance(primitive, Elementwise) or primitive is views.concatenate_primitive:
            for i in node.inputs:
                if result[i] != layout and not _is_spread(i):
                    layout = result[i]
                    break
            else:
                if node.inputs and all(_is_spread(i) for i in node.inputs):  # as the largest of what is repeated
                    layout = result[max(node.inputs, key=_spread_size)]
        elif primitive is views.permute_primitive:
            inverse = views.inverse(node.params[0])
            layout = tuple(inverse[d] for d in result[node.inputs[0]])
        elif primitive is views.reshape_primitive:
            layout = reshaped(result[node.inputs[0]], node.inputs[0].shape, node.shape)
        elif (
            primitive in (views.pad_primitive, views.slice_primitive, views.unslice_primitive, barrier_primitive)
            or (primitive is views.expand_primitive and len(node.inputs[0].shape) == rank)
        ):  # fmt: skip
            layout = result[node.inputs[0]]
        elif primitive is views.windows_primitive or primitive is views.spread_windows:
            inner = len(node.params[1])
            if primitive is views.windows_primitive:
                outer = result[node.inputs[0]]
                if outer != row_major(len(outer)):
                    layout = (0, *range(2, rank), 1)
            elif result[node.inputs[0]] == (0, *range(2, rank), 1):
                layout = (0, *range(2, rank), 1)
            assert inner
        elif primitive.name in ("sum", "max", "min", "prod") and result[node.inputs[0]] != row_major(
            len(node.inputs[0].shape)
        ):
            axes = node.params[0]
            kept = [d for d in range(len(node.inputs[0].shape)) if d not in axes]
            layout = tuple(kept.index(d) for d in result[node.inputs[0]] if d not in axes)
        result[node] = layout
    return result


def reshaped(layout: Layout, before: Shape, after: Shape) -> Layout:
    """The layout under which a reshape moves nothing in memory; row-major where there is none.

    Dimensions are cut into the smallest runs with equal products on both sides; a run moves as a whole.
    """
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old: list[int] = []
        new: list[int] = []
        old_size = new_size = 1
        while True:
            if i < len(before) and (old_size < new_size or not old or before[i] == 1):
                old_size *= before[i]
                old.append(i)
                i += 1
            elif j < len(after) and (new_size < old_size or not new or after[j] == 1):
                new_size *= after[j]
                new.append(j)
                j += 1
            else:
                break
        runs.append((old, new))
    places: list[tuple[int, list[int]]] = []
    for old, new in runs:
        wide = [d for d in old if before[d] != 1]  # dimensions of size 1 lie anywhere
        at = [layout.index(d) for d in wide]
        between = [layout[k] for k in range(min(at, default=0), max(at, default=0))]
        if at != sorted(at) or any(before[d] != 1 and d not in wide for d in between):
            return row_major(len(after))
        places.append((at[0] if at else -1, new))
    return tuple(d for _, new in sorted(places, key=lambda p: p[0]) for d in new)


def _spread_size(node: Node) -> int:
    """Elements of what a spread value repeats."""
    while node.primitive in (views.expand_primitive, views.permute_primitive, views.reshape_primitive):
        node = node.inputs[0]
    return node.size


def _is_spread(node: Node) -> bool:
    """Whether the node repeats a smaller value, so that its layout matters little."""
    while node.primitive in (views.expand_primitive, views.permute_primitive, views.reshape_primitive):
        if node.primitive is views.expand_primitive:
            return True
        node = node.inputs[0]
    return False
