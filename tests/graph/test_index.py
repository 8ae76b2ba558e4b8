"""Symbolic positions: what the algebra simplifies has the value of what was written."""

from itertools import product

from firepot.graph.index import Axis, Index, Quotient, Remainder, contiguous_strides, flatten, unflatten


def value(index: Index, at: dict[Axis, int]) -> int:
    total = index.constant
    for atom, coefficient in index.terms:
        if isinstance(atom, Axis):
            total += coefficient * at[atom]
        else:
            assert isinstance(atom, (Quotient, Remainder))
            inner = value(atom.value, at)
            total += coefficient * (inner // atom.divisor if isinstance(atom, Quotient) else inner % atom.divisor)
    return total


def test_a_reshape_there_and_back_is_the_position_itself():
    rows, columns = Axis("m", 1576), Axis("k", 192)
    flat = Index.of(rows) * 192 + Index.of(columns)
    for shape in [(8, 197, 192), (1576, 192), (8, 197, 3, 64), (4, 2, 197, 192), (1576 * 192,)]:
        assert flatten(unflatten(flat, shape), contiguous_strides(shape)) == flat


def test_flattened_positions_have_the_value_of_their_sum():
    axes = (Axis("a", 6), Axis("b", 10))
    flat = Index.of(axes[0]) * 10 + Index.of(axes[1])
    for shape, strides in product([(3, 4, 5), (5, 12), (2, 15, 2)], [(60, 5, 1), (1, 7, 40), (20, 20, 3)]):
        strides = strides[-len(shape) :]
        index = flatten(unflatten(flat, shape), strides)
        for a, b in product(range(6), range(10)):
            rest, wanted = 10 * a + b, 0
            for size, stride in zip(reversed(shape), reversed(strides), strict=True):
                wanted += rest % size * stride
                rest //= size
            assert value(index, dict(zip(axes, (a, b), strict=True))) == wanted, (shape, strides, a, b)
