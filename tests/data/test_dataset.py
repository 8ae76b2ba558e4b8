"""Data sets, samplers and collation against PyTorch's."""

from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.utils.data as theirs

import firepot as fp
import firepot.data as ours

Point = namedtuple("Point", "x y")


def plain(value):
    """Tensors as lists with their dtype, and the containers around them as they are."""
    if isinstance(value, (torch.Tensor, fp.Tensor)):
        return str(value.dtype).split(".")[-1], value.tolist()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [plain(part) for part in value]
    return value


def columns(library):
    if library is theirs:
        return theirs.TensorDataset(torch.arange(10), torch.arange(10) * 2.0)
    return ours.TensorDataset(fp.arange(10), fp.arange(10) * 2.0)


def stream(library, size):
    class Count(library.IterableDataset):
        def __iter__(self):
            return iter(range(size))

        def __len__(self):
            return size

    return Count()


@pytest.mark.parametrize("build", [
    lambda m: m.DataLoader(columns(m), 3),
    lambda m: m.DataLoader(columns(m), None),
    lambda m: m.DataLoader(columns(m), 4, drop_last=True),
    lambda m: m.DataLoader(columns(m), 2, sampler=[3, 1, 0]),
    lambda m: m.DataLoader(m.Subset(columns(m), [3, 4, 5]), 2),
    lambda m: m.DataLoader(columns(m) + columns(m), 7),
    lambda m: m.DataLoader(["a", "b", "c"], 2),
    lambda m: m.DataLoader(stream(m, 3) + stream(m, 4), 2),
    lambda m: m.DataLoader(stream(m, 3), None),
    lambda m: m.DataLoader(stream(m, 5), 2, drop_last=True),
    lambda m: m.DataLoader(columns(m), 5, pin_memory_device="", in_order=True),
    lambda m: m.BatchSampler(range(5), 2, False),
    lambda m: m.BatchSampler(m.SequentialSampler(range(5)), 2, True),
], ids=range(13))  # fmt: skip
def test_batches_are_pytorchs(build):
    a, b = build(ours), build(theirs)
    assert len(a) == len(b)
    assert [plain(x) for x in a] == [plain(x) for x in b]


@pytest.mark.parametrize("batch", [
    [1, 2], [1.0, 2.5], [True, False], ["a", "b"], [b"a", b"b"],
    [(1, 2.0), (2, 3.0)], [[1, 2.0], [3, 4.0]], [{"k": 1, "l": [2]}, {"k": 3, "l": [4]}],
    [Point(1, 2.0), Point(3, 4.0)], [np.float32(1), np.float32(2)], [np.zeros(2, np.int16), np.ones(2, np.int16)],
], ids=str)  # fmt: skip
def test_default_collate_is_pytorchs(batch):
    assert plain(ours.default_collate(batch)) == plain(theirs.default_collate(batch))
    assert plain(ours.default_convert({"a": batch})) == plain(theirs.default_convert({"a": batch}))


@pytest.mark.parametrize("lengths", [[0.5, 0.3, 0.2], [0.25, 0.75], [5, 6], [11]])
def test_random_split_has_pytorchs_lengths(lengths):
    parts = ours.random_split(range(11), lengths, generator=3)
    assert [len(part) for part in parts] == [len(part) for part in theirs.random_split(range(11), lengths)]
    assert sorted(i for part in parts for i in part) == list(range(11))
    assert [p.indices for p in ours.random_split(range(11), lengths, generator=3)] == [p.indices for p in parts]


@pytest.mark.parametrize(("lengths", "message"), [
    ([5, 5], "sum to 10; expected 11"), ([0.5, 0.4], "sum to 0.9; expected 11"), ([1.5, -0.5], "0 or more"), ([], "0 or more"),
])  # fmt: skip
def test_random_split_refuses_lengths_that_do_not_fit(lengths, message):
    with pytest.raises(ValueError, match=message):
        ours.random_split(range(11), lengths)


def test_samplers_draw_what_they_say():
    assert set(ours.WeightedRandomSampler([0, 0, 1.0, 1.0], 50)) == {2, 3}
    assert sorted(ours.WeightedRandomSampler([1, 1, 1.0], 3, replacement=False)) == [0, 1, 2]
    draws = np.bincount(list(ours.WeightedRandomSampler([1.0, 3.0], 4000, generator=0)))
    assert abs(draws[1] / 4000 - 0.75) < 0.03
    assert sorted(ours.SubsetRandomSampler([4, 2, 9])) == [2, 4, 9]
    assert sorted(ours.RandomSampler(range(4), num_samples=6))[:4] != []
    assert len(list(ours.RandomSampler(range(4), replacement=True, num_samples=9))) == 9
    with pytest.raises(ValueError, match="as many weights above zero"):
        ours.WeightedRandomSampler([1.0, 0.0], 2, replacement=False)


def test_what_cannot_be_collated_is_told():
    for batch, message in (
        ([np.zeros(2), np.zeros(3)], "differ in shape"), ([[1], [1, 2]], "differ in length"),
        ([{"a": 1}, {"b": 1}], "differ in keys"), ([], "empty"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ours.default_collate(batch)
    with pytest.raises(TypeError, match="NoneType"):
        ours.default_collate([None, None])
    with pytest.raises(TypeError, match="has no __len__"):
        ours.DataLoader(type("Endless", (ours.Dataset,), {"__getitem__": lambda self, i: i})())
    with pytest.raises(TypeError, match="chains IterableDatasets"):
        ours.ChainDataset([range(3)])
