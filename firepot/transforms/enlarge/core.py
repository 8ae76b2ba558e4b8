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
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Composite, Elementwise, Node, apply, barrier, barrier_primitive, data, grad_mode
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.graph.primitives.gather import take

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


@dataclass(frozen=True)
class Packed(Value):
    """A value of which `digits` do not say what is valid. Only the rule for `Packed` takes it."""


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


Rule = Callable[["Enlargement", Node, Node, list[Value]], Value]


class Enlargement:
    """The rewriting of one pair of recordings.

    rules: by type of primitive, for operations that are no element-wise ones: from a pair of nodes and the values of
        their inputs to the value of the pair
    leaf: the enlarged graph's value for a pair of leaves; raises Unsupported where they are not the same thing.

    `numbers` holds, in the order of the inputs `number_nodes`, the values that depend on the true sizes.
    """

    def __init__(self, leaf: Callable[[Node, Node], Value], rules: Mapping[type, Rule]) -> None:
        self._leaf = leaf
        self._rules = rules
        self._values: dict[tuple[Node, Node], Value] = {}
        self._expanded: dict[Node, Node] = {}
        self._names: dict[tuple[int, int], Hashable] = {}
        self.remembered: dict[Hashable, Any] = {}  # by rules
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

    def within(self, leaf: Callable[[Node, Node], Value]) -> Enlargement:
        """The rewriting of bodies that this graph has: what varies is called the same, numbers are inputs of their own."""
        inner = Enlargement(leaf, self._rules)
        inner._names = self._names
        return inner

    def value(self, a: Node, b: Node) -> Value | None:
        """What is known of a pair."""
        return self._values.get(self._seen((a, b)))

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
            found = [self._walk(*self._seen((a, b))) for a, b in zip(outputs, padded, strict=True)]
        finally:
            grad_mode.enabled = before
        if any(isinstance(v, Packed) for v in found):
            raise Unsupported("the rows of a loop as a result")
        return found

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
            if x.primitive is views.reshape_primitive:
                ((i, j),) = inputs
                inputs = [(_in_rows(i, j), _in_rows(j, i))]
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
        if any(isinstance(v, Packed) for v in inputs):
            return self._rules[Packed](self, a, b, inputs)
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
        rule = self._rules.get(type(primitive))
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
                if sizes(found[n]) != sizes(target):
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
        return Value(views.reshape(take(line, [clipped(found, value.node.size)], (0,)), shape), digits)

    def _spread(self, value: int, fixed_size: bool, size: int) -> Node:
        """A number as a vector: an input where it depends on a true size."""
        one = ew.constant(value, dtypes.int64) if fixed_size else self.number(value, dtypes.int64)
        return views.expand(one, (size,))


def _in_rows(x: Node, y: Node) -> Node:
    """What is reshaped, as rows where the other one is a part of rows: of a loop's rows without room behind them there
    is no part to take."""
    if y.primitive not in _LEFT_OUT or len(y.shape) != 2 or len(x.shape) != 1 or ew.is_leaf(x) or not y.size:
        return x
    rows = y.shape[0]
    return x if x.size % rows else apply(views.reshape_primitive, (x,), ((rows, x.size // rows),))


def _whole(x: Node, y: Node) -> tuple[Node, Node]:
    """Both as slices (or their transposes, or padding): where one that takes everything was left out, it is put back."""
    primitive = x.primitive if x.primitive in _LEFT_OUT else y.primitive

    def restored(node: Node) -> Node:
        if node.primitive is primitive:
            return node
        none, ones = (0,) * len(node.shape), (1,) * len(node.shape)
        if primitive is views.pad_primitive:
            return apply(primitive, (node,), (none, none, other.params[2]))
        params = (none, node.shape, ones) if primitive is views.slice_primitive else (node.shape, none, ones)
        return apply(primitive, (node,), params)

    other = x if x.primitive is primitive else y
    return restored(x), restored(y)


_LEFT_OUT = {views.slice_primitive, views.unslice_primitive, views.pad_primitive}


def _repeats(node: Node, dim: int) -> bool:
    """Whether all along a dimension is the same by its making."""
    if node.primitive is not views.expand_primitive:
        return False
    inner = node.inputs[0].shape
    place = dim - (len(node.shape) - len(inner))
    return place < 0 or inner[place] == 1


def sizes(dimension: Dimension) -> list[tuple[int, int]]:
    return [(d.true, d.padded) for d in dimension]


def _number_of(node: Node) -> Number | None:
    """What a 0-d node is as a number, if that is known."""
    if node.primitive is ew.cast_primitive and node.inputs and node.inputs[0].dtype.kind == "i":
        value = _number_of(node.inputs[0])
        return value if node.dtype.kind == "f" or node.dtype is dtypes.int64 else None
    return node.params[0] if node.primitive is ew.constant_primitive else None


def clipped(index: Node, size: int) -> Node:
    low = ew.binary("maximum", index, ew.like(index, 0))
    return ew.binary("minimum", low, ew.like(index, max(size - 1, 0)))
