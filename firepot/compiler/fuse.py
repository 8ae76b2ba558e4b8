"""Fusion: which values are stored, and which of them one kernel makes.

A *root* is a value that is stored, or made in registers where a kernel needs it more than once. Everything else is
recomputed inside the kernels that use it. Kernels start as one root each and merge while that saves memory traffic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from firepot.compiler.emit import Emitter, Misaligned, Storage
from firepot.compiler.layout import Layout, natural_layouts, row_major
from firepot.compiler.simplify import is_again
from firepot.graph.index import Axis, Index
from firepot.graph.node import Elementwise, Node, Opaque, View, checks_an_index, viewed
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.gather import Take
from firepot.graph.primitives.reduce import Reduce as ReducePrimitive
from firepot.kernels.loops import Expr, Nest, Stage, Store, children

# Costs in vector instructions, for the choice between recomputing and storing.
_COSTLY = {
    "exp": 14, "log": 16, "tanh": 22, "sigmoid": 20, "erf": 24, "sin": 20, "cos": 20, "pow": 40, "div": 6, "sqrt": 6,
    "rsqrt": 8, "philox": 12, "expm1": 20, "log1p": 20, "exp2": 12, "log2": 16, "erfc": 30, "remainder": 8,
}  # fmt: skip
# A number used at more than so many elements is computed once if it takes so many instructions: the bias corrections
# of Adam, whose powers would take longer than the rest of the update.
_SCALAR_COST, _MANY = 12, 1 << 12
_MAXIMAL_LEAVES = 14  # stored values that one expression loads
_MAXIMAL_COST = 400  # instructions of one expression
_MAXIMAL_DEPTH = 80  # operations one inside the other: what walks an expression calls itself as deeply
_MAXIMAL_ROW = 1 << 16  # elements of a row that several stages of a kernel go over
_MAXIMAL_OPERANDS = 28
_REACH = 60  # groups between two that are joined


@dataclass(eq=False)
class Group:
    """A kernel to be: roots that share an iteration space, or one opaque node."""

    roots: list[Node]
    domain: tuple[int, ...]
    folded: tuple[int, ...] = ()  # axes of the domain that its Reduce roots fold
    opaque: bool = False
    inputs: set[Node] = field(default_factory=set)  # stored values it loads

    @property
    def order(self) -> int:
        return max(r.sequence for r in self.roots)

    def checks_an_index(self) -> bool:
        """Whether the kernel may find an index out of range, which ends the program before state is overwritten."""
        return checks_an_index(self.roots, self.inputs)


def choose_roots(order: Sequence[Node], outputs: Sequence[Node]) -> set[Node]:
    """The values to store: outputs, folds, operands of opaque kernels, and what is dearer to recompute than to load."""
    roots: set[Node] = {o for o in outputs if not ew.is_leaf(o)}
    leaves: dict[Node, frozenset[Node]] = {}  # stored values under a node, as far as seen
    cost: dict[Node, int] = {}
    depth: dict[Node, int] = {}
    users: dict[Node, list[Node]] = {n: [] for n in order}

    def trivial(node: Node, wanted: int = 0) -> bool:
        """Whether to compute `node` again at each of `wanted` elements."""
        return cost[node] <= 1 or (node.size == 1 and (cost[node] < _SCALAR_COST or wanted < _MANY))

    def base(node: Node) -> Node:
        while (below := viewed(node)) is not None:
            node = below
        return node

    def store(node: Node) -> None:
        if not ew.is_leaf(node) and node.primitive is not ew.constant_primitive:
            roots.add(node)

    for node in order:
        primitive = node.primitive
        for i in node.inputs:
            users[i].append(node)
        if ew.is_leaf(node):
            leaves[node], cost[node] = frozenset((node,)), 0
            continue
        if isinstance(primitive, Opaque):
            for i in node.inputs:
                store(base(i))
            roots.add(node)
        elif isinstance(primitive, ReducePrimitive):
            roots.add(node)
        elif primitive is ew.philox_primitive:
            for start in _places_in_the_stream(node):
                store(start)
        elif isinstance(primitive, Take):
            if not trivial(base(node.inputs[0])):
                store(base(node.inputs[0]))
        elif isinstance(primitive, View) and node.inputs:
            source = base(node.inputs[0])
            once = primitive is views.spread_windows  # mostly zeros: every element is read once all the same
            if not once and node.size >= 2 * source.size and isinstance(source.primitive, Elementwise) and not trivial(source, node.size):
                store(source)
        under: frozenset[Node] = frozenset()
        price = _COSTLY.get(primitive.name, 1) if isinstance(primitive, Elementwise) else 0
        depth[node] = 1 + max((0 if i in roots else depth.get(i, 0) for i in node.inputs), default=0)
        for i in node.inputs:
            under |= frozenset((i,)) if i in roots else leaves[i]
            price += 0 if i in roots else cost[i]
        leaves[node], cost[node] = under, price
        heavy = len(under) > _MAXIMAL_LEAVES or price > _MAXIMAL_COST or depth[node] > _MAXIMAL_DEPTH
        if heavy and isinstance(primitive, Elementwise):
            roots.add(node)
    _store_shared(order, roots, users, cost)
    return roots


def _places_in_the_stream(node: Node) -> list[Node]:
    """The single numbers from which a philox counts. Stored, they are no part of the kernels, so that the same draw
    at other places of the stream (the dropout of every layer, weights of one shape) is the same kernel."""
    found, waiting, seen = [], [node.inputs[1]], set()
    while waiting:
        n = waiting.pop()
        if n in seen:
            continue
        seen.add(n)
        if n.size == 1 and n.ndim == 0:
            if isinstance(n.primitive, Elementwise):
                found.append(n)
        elif isinstance(n.primitive, (Elementwise, View)):
            waiting.extend(n.inputs)
    return found


def _store_shared(
    order: Sequence[Node], roots: set[Node], users: dict[Node, list[Node]], cost: dict[Node, int]
) -> None:
    """Add as roots the values that several kernels would recompute from three or more large stored values, or with
    much arithmetic; recomputing from two costs no more traffic than storing and loading the result."""
    leaves: dict[Node, frozenset[Node]] = {}
    reach: dict[Node, frozenset[Node]] = {}
    for node in reversed(order):
        found: frozenset[Node] = frozenset()
        for user in users[node]:
            found |= frozenset((user,)) if user in roots else reach[user]
        reach[node] = found if len(found) <= 2 else frozenset(itertools.islice(found, 2))  # one or several, no more
    for node in order:
        under: frozenset[Node] = frozenset()
        for i in node.inputs:
            under |= frozenset((i,)) if i in roots or ew.is_leaf(i) else leaves[i]
        leaves[node] = under
        if node in roots or not isinstance(node.primitive, Elementwise) or len(reach[node]) < 2:
            continue
        large = sum(1 for n in under if 2 * n.size >= node.size)
        if large >= 3 or (cost[node] >= 60 and node.size >= 1024):
            roots.add(node)


def form_groups(order: Sequence[Node], roots: set[Node], assembled: dict[Node, list[Node]]) -> list[Group]:
    """One group a root, with the stored values that it loads, in an order that can run.

    assembled: by concatenation that gets no kernel, the stored values that are its parts.
    """
    groups: list[Group] = []
    under: dict[Node, frozenset[Node]] = {}
    for node in order:
        loads: frozenset[Node] = frozenset()
        for i in node.inputs:
            loads |= frozenset((i,)) if i in roots or ew.is_leaf(i) else under[i]
        under[node] = loads
        if node not in roots or ew.is_leaf(node):
            continue
        if node in assembled:
            groups.append(Group([node], node.shape, opaque=True, inputs=set(assembled[node])))
        elif isinstance(node.primitive, Opaque):
            groups.append(Group([node], node.shape, opaque=True, inputs=set(loads)))
        elif isinstance(node.primitive, ReducePrimitive):
            groups.append(Group([node], node.inputs[0].shape, node.params[0], inputs=set(loads)))
        else:
            groups.append(Group([node], node.shape, inputs=set(loads)))
    return groups


def _kept(domain: tuple[int, ...], folded: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s for d, s in enumerate(domain) if d not in folded)


def _fits_kept(shape: tuple[int, ...], domain: tuple[int, ...], folded: tuple[int, ...]) -> bool:
    """Whether a map of this shape can run once for each outer point of a folding kernel."""
    return shape == _kept(domain, folded) or shape == tuple(1 if d in folded else s for d, s in enumerate(domain))


def _joined(a: Group, b: Group) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(domain, folded) of the merged kernel, or None where the iteration spaces differ."""
    if a.opaque or b.opaque:
        return None
    if a.folded and b.folded:
        return (a.domain, a.folded) if a.domain == b.domain and a.folded == b.folded else None
    folding, mapping = (a, b) if a.folded else (b, a)
    if not folding.folded:
        return (a.domain, ()) if a.domain == b.domain else None
    if all(r.shape == folding.domain or _fits_kept(r.shape, folding.domain, folding.folded) for r in mapping.roots):
        return folding.domain, folding.folded
    return None


def merge_groups(groups: list[Group], storage: dict[Node, Storage], needed: set[Node]) -> list[Group]:
    """Join groups that share an iteration space and either feed each other or load the same large values."""
    maker: dict[Node, Group] = {r: g for g in groups for r in g.roots}
    # Positions in `groups` are a valid order of execution; a merged group takes the later one's place as a rule.
    i = 0
    while i < len(groups):
        b = groups[i]
        if not b.opaque:
            # What is computed again is recorded with its reader, far from what loads the same at about that time.
            reach = i + 1 if any(map(is_again, b.roots)) else _REACH
            for j in range(i - 1, max(-1, i - reach), -1):
                a = groups[j]
                if _joined(a, b) is None or not _worth_merging(a, b):
                    continue
                between = groups[j + 1 : i]
                if _path_between(a, b, between, maker):
                    continue
                merged = _merge(a, b, storage, needed)
                if merged is None:
                    continue
                for r in merged.roots:
                    maker[r] = merged
                if reach > _REACH and not any(maker.get(n) in between for n in b.inputs):
                    # In the earlier place, before what it reads is updated (the scale of a normalisation).
                    groups[j] = merged
                    del groups[i]
                    i, b = j, merged
                    break
                # Groups between that need `a` now follow the merged one; they do not lead to b.
                after = _dependents(a, between, maker, merged)
                before = [g for g in between if g not in after]
                groups[j : i + 1] = [*before, merged, *after]
                i = j + len(before)
                b = merged
                break
            else:
                i += 1
                continue
            continue
        i += 1
    return groups


def _worth_merging(a: Group, b: Group) -> bool:
    if len(a.inputs | b.inputs) + len(a.roots) + len(b.roots) > _MAXIMAL_OPERANDS or _same_twice(a, b):
        return False
    if any(r in b.inputs for r in a.roots):
        return True
    threshold = max(math.prod(a.domain), 1)
    return any(2 * n.size >= threshold for n in a.inputs & b.inputs)


def _same_twice(a: Group, b: Group) -> bool:
    """Whether one of them computes again what the other computes: both values would be kept."""
    made = {(r.primitive, r.inputs) for g in (a, b) for r in g.roots if not is_again(r)}
    return any(is_again(r) and (r.primitive, r.inputs) in made for g in (a, b) for r in g.roots)


def _path_between(a: Group, b: Group, between: Sequence[Group], maker: dict[Node, Group]) -> bool:
    """Whether b needs a through one of the groups between them."""
    reached = {a}
    for g in between:
        if any(maker.get(n) in reached for n in g.inputs):
            reached.add(g)
    reached.discard(a)
    return any(maker.get(n) in reached for n in b.inputs)


def _dependents(a: Group, between: Sequence[Group], maker: dict[Node, Group], merged: Group) -> list[Group]:
    reached = {a, merged}
    result = []
    for g in between:
        if any(maker.get(n) in reached for n in g.inputs):
            reached.add(g)
            result.append(g)
    return result


def _merge(a: Group, b: Group, storage: dict[Node, Storage], needed: set[Node]) -> Group | None:
    joined = _joined(a, b)
    assert joined is not None
    domain, folded = joined
    roots = [*a.roots, *b.roots]
    merged = Group(roots, domain, folded, inputs=(a.inputs | b.inputs) - set(roots))
    if folded and not _rows_fit(merged):
        return None
    try:
        nest, _ = build_nest(merged, storage, set(roots), {})
    except Misaligned:
        return None
    # A root that is used in its own kernel is an expression there, so that depths add up in a chain of merges.
    return merged if _depth(nest) <= 2 * _MAXIMAL_DEPTH else None


def _depth(nest: Nest) -> int:
    """Operations one inside the other in the deepest expression of a nest."""
    known: dict[int, int] = {}

    def depth(expr: Expr) -> int:
        found = known.get(id(expr))
        if found is None:
            found = known[id(expr)] = 1 + max((depth(part) for part in children(expr)), default=0)
        return found

    return max(depth(stage.value) for stage in nest.stages)


def _rows_fit(group: Group) -> bool:
    """Whether a folding kernel whose later stages use its folds runs well as rows: the folded axes are the last
    ones, a row stays in the cache, and there are rows enough for the threads."""
    reductions = {r for r in group.roots if isinstance(r.primitive, ReducePrimitive)}
    full = [r for r in group.roots if r.shape == group.domain or r in reductions]
    chained = any(_uses(r, reductions - {r}, group) for r in full)
    if not chained:
        return True
    rank = len(group.domain)
    trailing = group.folded == tuple(range(rank - len(group.folded), rank))
    row = math.prod(group.domain[d] for d in group.folded)
    rows = math.prod(_kept(group.domain, group.folded))
    return trailing and row <= _MAXIMAL_ROW and (rows >= 8 or rows * row <= 1 << 14)


def _uses(node: Node, targets: set[Node], group: Group) -> bool:
    """Whether the expression of `node` reaches one of the targets without passing a value stored elsewhere."""
    stack, seen = list(node.inputs), set()
    while stack:
        n = stack.pop()
        if n in targets:
            return True
        if n in seen or n in group.inputs or ew.is_leaf(n):
            continue
        seen.add(n)
        stack.extend(n.inputs)
    return False


def build_nest(
    group: Group, storage: dict[Node, Storage], stored: set[Node], layouts: dict[Node, Layout]
) -> tuple[Nest, list[Storage]]:
    """(the loop-level kernel of a group, the stored values that are its operands).

    `stored`: those of its roots that other kernels or the caller need. Raises Misaligned where roots that depend on
    each other do not meet at the same points.
    """
    own = set(group.roots)
    emitter = Emitter(storage, own)
    axes = tuple(Axis(f"a{d}", s) for d, s in enumerate(group.domain))
    everywhere = tuple(Index.of(a) for a in axes)
    outer = tuple(a for d, a in enumerate(axes) if d not in group.folded)
    inner = tuple(axes[d] for d in group.folded)
    kept = tuple(i for d, i in enumerate(everywhere) if d not in group.folded)
    kept_ones = tuple(Index() if d in group.folded else i for d, i in enumerate(everywhere))
    stages: list[Stage] = []
    leading = _loop_order(group, layouts)

    def sort(subset: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(axes[d] for d in leading if axes[d] in subset)

    for root in sorted(group.roots, key=lambda r: r.sequence):
        store_axes: tuple[Axis, ...] = ()
        if isinstance(root.primitive, ReducePrimitive):
            stage, expr = emitter.fold(root, kept, inner, sort(inner))
            stages.append(stage)
            position = kept
        else:
            if root.shape == group.domain:
                position, store_axes = everywhere, sort(inner)
            else:
                position = kept if root.shape == tuple(a.size for a in outer) else kept_ones
            expr = emitter.compute(root, position)
        emitter.local[root] = (position, giver(expr))
        if root in stored:
            own_storage = storage[root]
            stages.append(Store(emitter.operand(own_storage), own_storage.locate(position), expr, store_axes))
    operands = tuple((s.dtype, s.size - s.base) for s in emitter.operands)
    return Nest(sort(outer), tuple(stages), operands), emitter.operands


def giver(expr: Expr) -> Callable[[], Expr]:
    """What an Emitter calls for a value that the kernel has made."""
    return lambda: expr


def _loop_order(group: Group, layouts: dict[Node, Layout]) -> Layout:
    """Domain axes, outermost first, as the largest value that the kernel goes through lies in memory."""
    for root in group.roots:
        if isinstance(root.primitive, ReducePrimitive):
            layout = layouts.get(root.inputs[0])
            if layout is not None:
                return layout
    for root in group.roots:
        if root.shape == group.domain and root in layouts:
            return layouts[root]
    return row_major(len(group.domain))


def layouts_of(order: Sequence[Node], outputs: Sequence[Node]) -> dict[Node, Layout]:
    """Natural layouts, with row-major outputs."""
    layouts = natural_layouts(order)
    for o in outputs:
        layouts[o] = row_major(len(o.shape))
    return layouts
