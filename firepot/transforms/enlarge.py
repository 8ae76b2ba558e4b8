"""Enlargement: a graph recorded at one size as the graph of a larger size that computes the same.

The function is recorded twice, at the true sizes and at padded ones. Walking both graphs side by side tells of every
value which dimensions vary, and of every number whether it depends on a size. The result is the larger graph in which

- what lies beyond the true size (the surplus) is masked wherever it could reach what lies within: in folds, products,
  convolutions, sorting, scatters,
- numbers that depend on a size (the count in a mean, say) are inputs, as are the true sizes themselves.

So one program serves all sizes up to the padded one. Nothing is guessed: the numbers come from the recording at the
true size, and what cannot be said this way raises `Unsupported`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Composite, Elementwise, Node, apply, barrier, barrier_primitive, data, grad_mode
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.attention import Attention, AttentionGradient, attention_gradient, attention_primitive
from firepot.graph.primitives.contract import Convolve, contract, contract_primitive
from firepot.graph.primitives.gather import (
    Scatter,
    Take,
    argsort,
    argsort_primitive,
    scan_primitive,
    scatter,
    take,
)
from firepot.graph.primitives.reduce import Reduce, reduce

Number = bool | int | float


class Unsupported(Exception):
    """The graph cannot be enlarged; the message says which operation stands in the way."""


@dataclass(frozen=True)
class Digit:
    """A factor of a dimension, whose positions are written in mixed radix, row-major: positions below `true` are
    valid, there is room for `padded`. `name` tells digits of different origin apart, whatever the sizes are."""

    true: int
    padded: int
    name: Hashable = None

    @property
    def varies(self) -> bool:
        return self.true != self.padded


Dimension = tuple[Digit, ...]


@dataclass(frozen=True)
class Value:
    """A value of the enlarged graph.

    digits: of each dimension; valid is what is valid in every digit
    clean:  the surplus is known to be zero
    """

    node: Node
    digits: tuple[Dimension, ...]
    clean: bool = False

    @property
    def varies(self) -> bool:
        return any(d.varies for dimension in self.digits for d in dimension)

    def varying(self, dims: Sequence[int] | None = None) -> list[int]:
        """Of `dims` (all) those that have a surplus."""
        return [d for d in (range(len(self.digits)) if dims is None else dims) if any(g.varies for g in self.digits[d])]


def canonical(digits: Sequence[Digit]) -> Dimension:
    """The same positions in as few digits as possible: a digit with all that is of fixed size behind it is one."""
    result: list[Digit] = []
    for d in digits:
        if d.padded == 1 and not d.varies:
            continue
        if result and not d.varies:
            last = result[-1]
            name = ("times", last.name, d.padded) if last.varies else None
            result[-1] = Digit(last.true * d.padded, last.padded * d.padded, name)
        else:
            result.append(d)
    return tuple(result)


def fixed(size: int) -> Dimension:
    return canonical((Digit(size, size),))


class Enlargement:
    """The rewriting of one pair of recordings.

    leaf: the enlarged graph's value for a pair of leaves; raises Unsupported where they are not the same thing.

    `numbers` holds, in the order of the inputs `number_nodes`, the values that depend on the true sizes.
    """

    def __init__(self, leaf: Callable[[Node, Node], Value]) -> None:
        self._leaf = leaf
        self._values: dict[tuple[Node, Node], Value] = {}
        self._expanded: dict[Node, Node] = {}
        self._names: dict[tuple[int, int], Hashable] = {}
        self._masks: dict[Hashable, Node] = {}
        self._sizes: dict[Digit, Node] = {}
        self.numbers: list[tuple[Number, DType]] = []
        self.number_nodes: list[Node] = []

    # -- what varies ---------------------------------------------------------------------------------------------------

    def dimension(self, true: int, padded: int) -> Dimension:
        """A dimension of these sizes, in order."""
        if true == padded:
            return fixed(true)
        name = self._names.setdefault((true, padded), ("size", len(self._names)))
        return (Digit(true, padded, name),)

    def dimensions(self, a: Node, b: Node) -> tuple[Dimension, ...]:
        return tuple(self.dimension(t, p) for t, p in zip(a.shape, b.shape, strict=True))

    def number(self, value: Number, dtype: DType) -> Node:
        """A 0-d input of the enlarged graph."""
        node = data((), dtype)
        self.numbers.append((value, dtype))
        self.number_nodes.append(node)
        return node

    def size(self, digit: Digit) -> Node:
        """The true size of a digit, 0-d int64."""
        found = self._sizes.get(digit)
        if found is None:
            found = self._sizes[digit] = self.number(digit.true, dtypes.int64)
        return found

    def valid(self, dimension: Dimension) -> Node:
        """bool: which positions along a dimension lie within its true size."""
        found = self._masks.get(dimension)
        if found is not None:
            return found
        size = math.prod(d.padded for d in dimension)
        position = ew.iota(size, dtypes.int64)
        behind, first, result = size, True, None
        for d in dimension:
            behind //= d.padded
            if d.varies:
                own = position if behind == 1 else ew.binary("floordiv", position, ew.like(position, behind))
                if not first:
                    own = ew.binary("remainder", own, ew.like(own, d.padded))
                below = ew.compare("lt", own, views.expand(self.size(d), (size,)))
                result = below if result is None else ew.and_(result, below)
            first = False
        assert result is not None
        self._masks[dimension] = result
        return result

    def mask(self, value: Value, dims: Sequence[int]) -> Node | None:
        """bool, of the value's shape: what is valid along `dims`; None where everything is."""
        shape, result = value.node.shape, None
        for d in value.varying(dims):
            line = (1,) * d + (shape[d],) + (1,) * (len(shape) - d - 1)
            one = views.expand(views.reshape(self.valid(value.digits[d]), line), shape)
            result = one if result is None else ew.and_(result, one)
        return result

    def masked(self, value: Value, dims: Sequence[int] | None = None, fill: Number = 0) -> Node:
        """The value with `fill` for the surplus along `dims` (all)."""
        dims = range(len(value.digits)) if dims is None else dims
        if value.clean and fill == 0:
            return value.node
        mask = self.mask(value, dims)
        return value.node if mask is None else ew.where(mask, value.node, ew.like(value.node, fill))

    # -- the walk ------------------------------------------------------------------------------------------------------

    def rewrite(self, outputs: Sequence[Node], padded: Sequence[Node]) -> list[Value]:
        """The values of corresponding nodes of the two recordings."""
        if len(outputs) != len(padded):
            raise Unsupported("the function gives other results at another size")
        before, grad_mode.enabled = grad_mode.enabled, False
        try:
            return [self._walk(*self._seen((a, b))) for a, b in zip(outputs, padded, strict=True)]
        finally:
            grad_mode.enabled = before

    def _walk(self, a: Node, b: Node) -> Value:
        values = self._values
        stack = [(a, b)]
        while stack:
            pair = stack[-1]
            if pair in values:
                stack.pop()
                continue
            x, y = pair
            if ew.is_leaf(x) and ew.is_leaf(y):
                values[pair] = self._leaf(x, y)
                continue
            if x.primitive is not y.primitive and {x.primitive, y.primitive} & _LEFT_OUT:
                x, y = _whole(x, y)
            elif ew.is_leaf(x) or ew.is_leaf(y):
                raise Unsupported(f"what is {x} is {y} at the padded size")
            known = _number_of(x), _number_of(y)
            if known[0] is not None and known[1] is not None and x.dtype is y.dtype:
                values[pair] = self._constant(x, y, known[0], known[1])
                continue
            same = x.primitive is y.primitive and len(x.inputs) == len(y.inputs) and len(x.shape) == len(y.shape)
            if not same or x.dtype is not y.dtype:
                raise Unsupported(f"what is {x} is {y} at the padded size")
            inputs = [self._seen(p) for p in zip(x.inputs, y.inputs, strict=True)]
            missing = [p for p in inputs if p not in values]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            found = self._apply(x, y, [values[p] for p in inputs])
            assert found.node.shape == y.shape, f"enlarging {x} to {y} gave {found.node}"
            values[pair] = found
        return values[a, b]

    def _seen(self, pair: tuple[Node, Node]) -> tuple[Node, Node]:
        """The pair without marks for transforms, named compositions as what they are made of."""
        return self._plain(pair[0]), self._plain(pair[1])

    def _plain(self, node: Node) -> Node:
        while not ew.is_leaf(node):
            if node.primitive.identity:
                node = node.inputs[0]
            elif isinstance(node.primitive, Composite):
                made = self._expanded.get(node)
                if made is None:
                    made = self._expanded[node] = node.primitive.expand(node.inputs, node)
                node = made
            else:
                break
        return node

    def _constant(self, x: Node, y: Node, true: Number, padded: Number) -> Value:
        if x is y or (type(true) is type(padded) and repr(true) == repr(padded)):
            return Value(ew.constant(true, x.dtype), ())
        return Value(self.number(true, x.dtype), ())

    def _apply(self, a: Node, b: Node, inputs: list[Value]) -> Value:
        """The value of a pair of nodes from those of its inputs."""
        primitive = a.primitive
        nodes = tuple(v.node for v in inputs)
        if a.params == b.params and a.shape == b.shape and not any(v.varies for v in inputs):
            return Value(apply(primitive, nodes, b.params), self.dimensions(a, b))
        if primitive is ew.iota_primitive:
            return Value(apply(primitive, (), b.params), self.dimensions(a, b))
        if primitive is ew.check_index_primitive:
            return self._checked(a, b, inputs[0])
        if isinstance(primitive, Elementwise):
            if a.params != b.params:
                raise Unsupported(f"{primitive.name} has parameters that depend on a size")
            inputs = self.agreed(inputs)
            return Value(apply(primitive, tuple(v.node for v in inputs), b.params), inputs[0].digits)
        if primitive is barrier_primitive:
            return Value(barrier(*nodes), inputs[0].digits, inputs[0].clean)
        rule = _RULES.get(type(primitive))
        if rule is None:
            raise Unsupported(f"{primitive.name} on a size that varies")
        return rule(self, a, b, inputs)


    def _checked(self, a: Node, b: Node, x: Value) -> Value:
        """Indices; those of the surplus count as 0."""
        index = self.masked(x)
        if a.params == b.params:
            return Value(apply(b.primitive, (index,), b.params), x.digits)
        (true, _, negative), (padded, _, _) = a.params, b.params
        size = views.expand(self.number(true, dtypes.int64), index.shape)
        zero = ew.like(index, 0)
        if negative:
            index = ew.where(ew.compare("lt", index, zero), ew.add(index, size), index)
        inside = ew.and_(ew.ge(index, zero), ew.compare("lt", index, size))
        # The number itself may lie within the padded size: it is sent out of it and cannot be told.
        index = ew.where(inside, index, ew.like(index, padded))
        message = f"index out of range of a dimension whose size varies (padded to {padded} in this program)"
        return Value(ew.check_index(index, padded, message, negative=False), x.digits)

    # -- other ways to count the same positions ------------------------------------------------------------------------

    def agreed(self, values: Sequence[Value], dims: Sequence[Sequence[int]] | None = None) -> list[Value]:
        """The values with the same digits in corresponding dimensions: in all, or in `dims`, a list for each value."""
        lists = dims if dims is not None else [range(len(v.digits)) for v in values]
        result = list(values)
        for places in zip(*lists, strict=True):
            found = [v.digits[d] for v, d in zip(result, places, strict=True)]
            # Joined dimensions are those of data; what counts through them is as a rule a row of positions.
            target = next((f for f in found if len(f) > 1), found[0])
            for n, d in enumerate(places):
                if _sizes(found[n]) != _sizes(target):
                    v = result[n]
                    digits = (*v.digits[:d], target, *v.digits[d + 1 :])
                    result[n] = Value(v.node, digits) if _repeats(v.node, d) else self.regrouped(v, digits)
        return result

    def single(self, value: Value, dims: Sequence[int]) -> Value:
        """The value with what is valid in front along `dims`: one digit each."""
        joined = [d for d in dims if len(value.digits[d]) > 1]
        if not joined:
            return value
        digits = list(value.digits)
        for d in joined:
            digits[d] = self.dimension(math.prod(g.true for g in digits[d]), math.prod(g.padded for g in digits[d]))
        return self.regrouped(value, tuple(digits))

    def regrouped(self, value: Value, digits: tuple[Dimension, ...]) -> Value:
        """The same elements, row-major in the true sizes, in other digits: a gather."""
        shape = tuple(math.prod(g.padded for g in dimension) for dimension in digits)
        source = [g for dimension in value.digits for g in dimension]
        target = [g for dimension in digits for g in dimension]
        size = math.prod(shape)
        if not size or not value.node.size:
            raise Unsupported("a reshape of no elements")
        position = ew.iota(size, dtypes.int64)

        def times(x: Node, factor: int, fixed_size: bool) -> Node:
            return ew.mul(x, self._spread(factor, fixed_size, size))

        flat, behind, tail = ew.like(position, 0), size, math.prod(g.true for g in target)
        for n, g in enumerate(target):
            behind //= g.padded
            tail //= g.true
            varies = any(t.varies for t in target[n + 1 :])
            own = ew.binary("floordiv", position, ew.like(position, behind))
            own = ew.binary("remainder", own, ew.like(own, g.padded))
            flat = ew.add(flat, times(own, tail, not varies))
        found, behind, tail = ew.like(position, 0), value.node.size, math.prod(g.true for g in source)
        for n, g in enumerate(source):
            behind //= g.padded
            tail //= g.true
            varies = any(t.varies for t in source[n + 1 :])
            own = ew.binary("floordiv", flat, self._spread(tail, not varies, size))
            own = ew.binary("remainder", own, self._spread(g.true, not g.varies, size))
            found = ew.add(found, ew.mul(own, ew.like(own, behind)))
        line = views.reshape(value.node, (value.node.size,))
        return Value(views.reshape(take(line, [_clipped(found, value.node.size)], (0,)), shape), digits)

    def _spread(self, value: int, fixed_size: bool, size: int) -> Node:
        """A number as a vector: an input where it depends on a true size."""
        one = ew.constant(value, dtypes.int64) if fixed_size else self.number(value, dtypes.int64)
        return views.expand(one, (size,))


def _whole(x: Node, y: Node) -> tuple[Node, Node]:
    """Both as slices (or their transposes): where one that takes everything was left out, it is put back."""
    primitive = x.primitive if x.primitive in _LEFT_OUT else y.primitive

    def restored(node: Node) -> Node:
        if node.primitive is primitive:
            return node
        none, ones = (0,) * len(node.shape), (1,) * len(node.shape)
        params = (none, node.shape, ones) if primitive is views.slice_primitive else (node.shape, none, ones)
        return apply(primitive, (node,), params)

    return restored(x), restored(y)


_LEFT_OUT = {views.slice_primitive, views.unslice_primitive}


def _repeats(node: Node, dim: int) -> bool:
    """Whether all along a dimension is the same by its making."""
    if node.primitive is not views.expand_primitive:
        return False
    inner = node.inputs[0].shape
    place = dim - (len(node.shape) - len(inner))
    return place < 0 or inner[place] == 1


def _sizes(dimension: Dimension) -> list[tuple[int, int]]:
    return [(d.true, d.padded) for d in dimension]


def _number_of(node: Node) -> Number | None:
    """What a 0-d node is as a number, if that is known."""
    if node.primitive is ew.cast_primitive and node.inputs and node.inputs[0].dtype.kind == "i":
        value = _number_of(node.inputs[0])
        return value if node.dtype.kind == "f" or node.dtype is dtypes.int64 else None
    return node.params[0] if node.primitive is ew.constant_primitive else None


# -- index maps --------------------------------------------------------------------------------------------------------


def _reshape(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    if 0 in a.shape or 0 in b.shape:
        raise Unsupported("a reshape of no elements")
    waiting = [d for dimension in x.digits for d in dimension]
    result: list[Dimension] = []
    for true, padded in zip(a.shape, b.shape, strict=True):
        found: list[Digit] = []
        t = p = 1
        while (t, p) != (true, padded):
            if not waiting or padded % p or true % t:
                return e.regrouped(x, e.dimensions(a, b))
            digit = waiting.pop(0)
            need_true, need_padded = true // t, padded // p
            if digit.padded > need_padded or digit.true > need_true:
                behind = digit.padded // need_padded
                if digit.padded % need_padded or digit.true != behind * need_true:
                    return e.regrouped(x, e.dimensions(a, b))
                name = ("part", digit.name, behind)
                if isinstance(digit.name, tuple) and digit.name[0] == "times" and digit.name[2] == behind:
                    name = digit.name[1]
                waiting.insert(0, Digit(behind, behind))
                digit = Digit(need_true, need_padded, name if need_true != need_padded else None)
            found.append(digit)
            t, p = t * digit.true, p * digit.padded
        result.append(canonical(found))
    if any(d.padded != 1 for d in waiting):
        return e.regrouped(x, e.dimensions(a, b))
    return Value(views.reshape(x.node, b.shape), tuple(result), x.clean)


def _permute(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    order = b.params[0]
    if a.params != b.params:
        raise Unsupported("a permutation that depends on a size")
    return Value(views.permute(x.node, order), tuple(x.digits[d] for d in order), x.clean)


def _expand(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    inner_a, inner_b = a.inputs[0].shape, b.inputs[0].shape
    extra = len(b.shape) - len(inner_b)
    digits = list(e.dimensions(a, b))
    for d, (t, p) in enumerate(zip(inner_a, inner_b, strict=True)):
        if (t == 1) != (p == 1):
            raise Unsupported("broadcasting of a size that is 1 at times")
        if p != 1:
            digits[extra + d] = x.digits[d]
    return Value(views.expand(x.node, b.shape), tuple(digits))


def _pad(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    if a.params != b.params:
        raise Unsupported("padding that depends on a size")
    low, high, value = b.params
    moved = [d for d in range(len(b.shape)) if low[d] or high[d]]
    x = e.single(x, moved)
    digits = list(x.digits)
    for d in moved:
        digits[d] = _resized(e, x.digits[d], a.shape[d], b.shape[d], ("pad", low[d], high[d]))
    node = e.masked(x, [d for d in moved if high[d] > 0 or low[d] > 0], value)
    return Value(views.pad(node, low, high, value), tuple(digits))


def _resized(e: Enlargement, before: Dimension, true: int, padded: int, how: Hashable) -> Dimension:
    """A dimension made of `before` in a way that fixes its size."""
    if true == padded:
        return fixed(true)
    name = (how, before[0].name) if before and before[0].varies else None
    return (Digit(true, padded, name),) if name is not None else e.dimension(true, padded)


def _slice(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    (start_a, length_a, step_a), (start, length, step) = a.params, b.params
    shape_a, shape = a.inputs[0].shape, b.inputs[0].shape
    moved = [
        d
        for d in range(len(length))
        if (start[d], length[d], step[d]) != (0, shape[d], 1) or (start_a[d], length_a[d], step_a[d]) != (0, shape_a[d], 1)
    ]
    x = e.single(x, moved)
    node, digits = x.node, list(x.digits)
    whole_start, whole_length, whole_step = [0] * len(length), list(node.shape), [1] * len(length)
    for d in moved:
        same = start[d] == start_a[d] and step[d] == step_a[d]
        digits[d] = _resized(e, x.digits[d], length_a[d], length[d], ("slice", step[d], same))
        if same and (step[d] > 0 or not any(g.varies for g in x.digits[d] + digits[d])):
            whole_start[d], whole_length[d], whole_step[d] = start[d], length[d], step[d]
            continue
        # From an end that moves, or at a distance that varies: by computed positions.
        index = ew.iota(length[d], dtypes.int64)
        first = views.expand(e.number(start_a[d], dtypes.int64), index.shape)
        index = ew.add(ew.mul(index, e._spread(step_a[d], step[d] == step_a[d], length[d])), first)
        node = _taken_along(node, _clipped(index, node.shape[d]), d)
        whole_length[d] = length[d]
    node = views.slice_(node, whole_start, whole_length, whole_step)
    return Value(node, tuple(digits))


def _clipped(index: Node, size: int) -> Node:
    low = ew.binary("maximum", index, ew.like(index, 0))
    return ew.binary("minimum", low, ew.like(index, max(size - 1, 0)))


def _taken_along(x: Node, index: Node, axis: int) -> Node:
    """x at the positions of a vector along one axis."""
    found = take(x, [index], (axis,))
    rank = len(x.shape)
    return views.permute(found, (*range(1, axis + 1), 0, *range(axis + 1, rank)))


def _unslice(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    (shape_a, start_a, step_a), (shape, start, step) = a.params, b.params
    inner_a, inner = a.inputs[0].shape, b.inputs[0].shape
    moved = [
        d
        for d in range(len(shape))
        if (shape[d], start[d], step[d]) != (inner[d], 0, 1) or (shape_a[d], start_a[d], step_a[d]) != (inner_a[d], 0, 1)
    ]
    x = e.single(x, moved)
    digits = list(x.digits)
    for d in moved:
        digits[d] = _resized(e, x.digits[d], shape_a[d], shape[d], ("unslice", step[d]))
    node = e.masked(x, moved)
    whole_shape, whole_start, whole_step = list(node.shape), [0] * len(shape), [1] * len(shape)
    for d in moved:
        same = start[d] == start_a[d] and step[d] == step_a[d]
        if same and (step[d] > 0 or not any(g.varies for g in digits[d] + x.digits[d])):
            whole_shape[d], whole_start[d], whole_step[d] = shape[d], start[d], step[d]
            continue
        # result[j] = x[(j − start) / step], where that is a position of x.
        position = ew.iota(shape[d], dtypes.int64)
        first = views.expand(e.number(start_a[d], dtypes.int64), position.shape)
        away = ew.sub(position, first) if step[d] > 0 else ew.sub(first, position)
        by = e._spread(abs(step_a[d]), step[d] == step_a[d], shape[d])
        index = ew.binary("floordiv", away, by)
        there = ew.and_(ew.ge(away, ew.like(away, 0)), ew.compare("lt", index, ew.like(index, node.shape[d])))
        there = ew.and_(there, ew.eq(ew.binary("remainder", away, by), ew.like(away, 0)))
        node = _taken_along(node, _clipped(index, node.shape[d]), d)
        line = (1,) * d + (shape[d],) + (1,) * (len(shape) - d - 1)
        node = ew.where(views.expand(views.reshape(there, line), node.shape), node, ew.like(node, 0))
        whole_shape[d] = shape[d]
    if moved:
        node = views.unslice(node, tuple(whole_shape), whole_start, whole_step)
    return Value(node, tuple(digits))


def _concatenate(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    axis = b.params[0]
    if a.params != b.params:
        raise Unsupported("a concatenation along an axis that depends on a size")
    others = [d for d in range(len(b.shape)) if d != axis]
    inputs = e.agreed(inputs, [others] * len(inputs))
    digits = list(inputs[0].digits)
    nodes = [v.node for v in inputs]
    if not any(v.varying([axis]) for v in inputs):
        digits[axis] = fixed(b.shape[axis])
        return Value(views.concatenate(nodes, axis), tuple(digits), all(v.clean for v in inputs))
    if all(_sizes(v.digits[axis]) == _sizes(digits[axis]) for v in inputs) and len(inputs) > 1:  # equal parts, one after another with their surplus
        digits[axis] = canonical((Digit(len(inputs), len(inputs)), *digits[axis]))
        return Value(views.concatenate(nodes, axis), tuple(digits), all(v.clean for v in inputs))
    inputs = [e.single(v, [axis]) for v in inputs]
    digits[axis] = e.dimension(a.shape[axis], b.shape[axis])
    if not any(v.varying([axis]) for v in inputs[:-1]):
        return Value(views.concatenate([v.node for v in inputs], axis), tuple(digits))
    # What follows a part that varies begins where that part truly ends.
    position = ew.iota(b.shape[axis], dtypes.int64)
    line = (1,) * axis + (b.shape[axis],) + (1,) * (len(b.shape) - axis - 1)
    result, end = None, 0
    for v, part in zip(inputs, a.inputs, strict=True):
        if not v.node.shape[axis]:
            continue
        first = views.expand(e.number(end, dtypes.int64), position.shape)
        here = _taken_along(v.node, _clipped(ew.sub(position, first), v.node.shape[axis]), axis)
        begun = views.expand(views.reshape(ew.ge(position, first), line), b.shape)
        result = here if result is None else ew.where(begun, here, result)
        end += part.shape[axis]
    assert result is not None
    return Value(result, tuple(digits))


def _windows(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    """The three maps of sliding windows: outside of what they read lies what the surplus is made to be."""
    (x,) = inputs
    sized = {"windows": (0,), "spread_windows": (0, 1), "pick_windows": (0, 1)}[b.primitive.name]
    if any(p != q for n, (p, q) in enumerate(zip(a.params, b.params, strict=True)) if n not in sized):
        raise Unsupported("sliding windows that depend on a size")
    rank = len(b.params[0])
    lead = len(x.node.shape) - rank * (1 if b.primitive.name == "windows" else 2)
    inner = range(lead, lead + rank)
    x = e.single(x, inner)
    value = b.params[5] if b.primitive.name == "windows" else 0
    digits = [*x.digits[:lead], *e.dimensions(a, b)[lead:]]
    return Value(apply(b.primitive, (e.masked(x, inner, value),), b.params), tuple(digits))


# -- folds, products, positions ----------------------------------------------------------------------------------------


def _lowest(dtype: DType) -> Number:
    if dtype.kind == "f":
        return -math.inf
    return False if dtype.kind == "b" else (0 if dtype.kind == "u" else -(2 ** (8 * dtype.size - 1)))


def _highest(dtype: DType) -> Number:
    if dtype.kind == "f":
        return math.inf
    return True if dtype.kind == "b" else 2 ** (8 * dtype.size - (0 if dtype.kind == "u" else 1)) - 1


def _neutral(combine: str, dtype: DType) -> Number:
    if combine == "max":
        return _lowest(dtype)
    if combine == "min":
        return _highest(dtype)
    return {"sum": 0, "add": 0, "prod": 1, "any": False, "all": True}[combine]


def _reduce(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    (x,) = inputs
    axes, primitive = b.params[0], b.primitive
    assert isinstance(primitive, Reduce)
    if a.params != b.params:
        raise Unsupported(f"{primitive.name} over axes that depend on a size")
    node = e.masked(x, axes, _neutral(primitive.combine, b.dtype))
    digits = tuple(g for d, g in enumerate(x.digits) if d not in axes)
    return Value(reduce(primitive.combine, node, axes), digits, x.clean and primitive.combine == "sum")


def _contract(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    x, y = e.agreed(inputs, [(0, 2), (0, 1)])
    product = contract(e.masked(x, (2,)), e.masked(y, (1,)))
    return Value(product, (x.digits[0], x.digits[1], y.digits[2]))


def _convolve(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    mode, *_ = b.params
    if any(p != q for n, (p, q) in enumerate(zip(a.params, b.params, strict=True)) if n not in (1, 3)):
        raise Unsupported("a convolution whose filter or stride depends on a size")
    rank = len(b.shape)
    spatial = range(2, rank)
    x, y = (e.single(v, range(1, rank)) for v in inputs)
    if x.varying([1]) or (mode != "weight_grad" and y.varies) or (mode == "weight_grad" and y.varying([1])):
        raise Unsupported("a convolution whose number of channels varies")
    if mode == "weight_grad":
        x, y = e.agreed((x, y), [(0,), (0,)])
        nodes = (e.masked(x), e.masked(y))
        return Value(apply(b.primitive, nodes, b.params), e.dimensions(a, b))
    node = apply(b.primitive, (e.masked(x, spatial), y.node), b.params)
    return Value(node, (x.digits[0], *e.dimensions(a, b)[1:]))


def _attention(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    gradient = b.primitive is attention_gradient
    inputs = [e.single(v, (0, 1, 2, 3)) for v in inputs]
    query, key, value = inputs[:3]
    masks, given = (inputs[3:-1], inputs[-1:]) if gradient else (inputs[3:], [])
    if any(v.varying([3]) for v in (query, key, value)):
        raise Unsupported("attention with a width that varies")
    causal = b.params[1]
    shape = (*query.node.shape[:3], key.node.shape[2])
    mask = e.masked(masks[0], (2,)) if masks else None
    # Causal attention of a sequence to itself never looks from within at what is behind.
    if key.varying([2]) and not (causal and query.digits[2] == key.digits[2]):
        seen = views.expand(e.valid(key.digits[2]), shape)
        base = mask if mask is not None else ew.full(shape, 0, b.dtype)
        mask = ew.where(seen, base, ew.like(base, -math.inf))
    cleaned = [e.masked(v, (2,)) for v in (query, key, value, *given)]
    nodes = (*cleaned[:3], *([mask] if mask is not None else []), *cleaned[3:])
    node = apply(attention_gradient if gradient else attention_primitive, nodes, b.params)
    source = (query, key, value)[b.params[2]] if gradient else query
    return Value(node, (*source.digits[:3], (query, key, value)[b.params[2] if gradient else 2].digits[3]))


def _indices(e: Enlargement, indices: Sequence[Value]) -> list[Node]:
    return [e.masked(i) for i in indices]


def _take(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    x, *indices = inputs
    axes = b.params[0]
    if a.params != b.params:
        raise Unsupported("a gather along axes that depend on a size")
    x, indices = e.single(x, axes), e.agreed(indices)
    digits = (*indices[0].digits, *(g for d, g in enumerate(x.digits) if d not in axes))
    return Value(take(x.node, _indices(e, indices), axes), digits)


def _scatter(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    x, updates, *indices = inputs
    axes, mode = b.params
    if a.params != b.params:
        raise Unsupported("a scatter along axes that depend on a size")
    x, indices = e.single(x, axes), e.agreed(indices)
    rank = len(indices[0].digits)
    rest = [d for d in range(len(x.digits)) if d not in axes]
    x, updates = e.agreed((x, updates), [rest, range(rank, rank + len(rest))])
    (updates, *indices) = e.agreed((updates, *indices), [range(rank)] * (1 + len(indices)))
    nodes = _indices(e, indices)
    if mode == "set":
        mask = e.mask(indices[0], range(rank))
        if mask is None:
            return Value(scatter(x.node, updates.node, nodes, axes, mode), x.digits)
        # The surplus is written to a place behind the others.
        shape = x.node.shape
        one = [int(d == axes[0]) for d in range(len(shape))]
        longer = views.pad(x.node, [0] * len(shape), one, 0)
        nodes[0] = ew.where(mask, nodes[0], ew.like(nodes[0], shape[axes[0]]))
        node = scatter(longer, updates.node, nodes, axes, mode)
        return Value(views.slice_(node, [0] * len(shape), shape), x.digits)
    new = e.masked(updates, range(rank), _neutral(mode, b.dtype))
    return Value(scatter(x.node, new, nodes, axes, mode), x.digits)


def _argsort(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    last = len(b.shape) - 1
    (x,), descending = inputs, b.params[0]
    x = e.single(x, (last,))
    # Sorting is stable, so that the surplus comes behind what is equal to it.
    fill = _lowest(x.node.dtype) if descending else (math.nan if x.node.dtype.kind == "f" else _highest(x.node.dtype))
    return Value(argsort(e.masked(x, (last,), fill), descending), x.digits)


def _running(e: Enlargement, a: Node, b: Node, inputs: list[Value]) -> Value:
    x = e.single(inputs[0], (len(b.shape) - 1,))
    return Value(apply(b.primitive, (x.node,), b.params), x.digits)


_RULES: dict[type, Callable[[Enlargement, Node, Node, list[Value]], Value]] = {
    type(views.reshape_primitive): _reshape,
    type(views.permute_primitive): _permute,
    type(views.expand_primitive): _expand,
    type(views.pad_primitive): _pad,
    type(views.slice_primitive): _slice,
    type(views.unslice_primitive): _unslice,
    views.Concatenate: _concatenate,
    type(views.windows_primitive): _windows,
    type(views.spread_windows): _windows,
    type(views.pick_windows): _windows,
    Reduce: _reduce,
    type(contract_primitive): _contract,
    Convolve: _convolve,
    Attention: _attention,
    AttentionGradient: _attention,
    Take: _take,
    Scatter: _scatter,
    type(argsort_primitive): _argsort,
    type(scan_primitive): _running,
}

__all__ = ["Digit", "Dimension", "Enlargement", "Unsupported", "Value", "canonical", "fixed"]
