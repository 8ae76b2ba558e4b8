"""Trees of tensors: flattening, mapping and prefixes."""

from collections import namedtuple

import pytest

from firepot import tree

Pair = namedtuple("Pair", "a b")


def test_round_trip_keeps_containers():
    value = {"x": [1, (2, None)], "y": Pair(3, {}), "z": ()}
    leaves, structure = tree.flatten(value)
    assert leaves == [1, 2, None, 3]
    again = tree.unflatten(structure, leaves)
    assert again == value and isinstance(again["y"], Pair)
    assert structure == tree.structure({"x": [5, (6, 7)], "y": Pair(8, {}), "z": ()})
    assert structure != tree.structure({"x": [5, [6, 7]], "y": Pair(8, {}), "z": ()})
    with pytest.raises(ValueError, match="3 leaves for a structure of 4"):
        tree.unflatten(structure, [1, 2, 3])


def test_map():
    assert tree.map(lambda a, b: a + b, {"k": [1, 2]}, {"k": [10, 20]}) == {"k": [11, 22]}
    with pytest.raises(ValueError, match="different structures"):
        tree.map(max, [1], (1,))


def test_prefixes():
    assert tree.broadcast(0, {"a": [1, 2]}) == [0, 0]
    assert tree.broadcast((0, None), ([1, 2], 3)) == [0, 0, None]
    with pytest.raises(ValueError, match="does not fit"):
        tree.broadcast((0, 1), (1, 2, 3))
