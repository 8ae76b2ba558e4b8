"""Data sets: samples by their index, or as a stream."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar

import numpy as np

from firepot.data.randomness import seed_of

Sample_co = TypeVar("Sample_co", covariant=True)


class Dataset(Generic[Sample_co]):
    """Samples by index. Subclasses define __getitem__ and __len__.

    Two optional methods make batches faster: `__getitems__(indices)` returns a list of samples, as in
    PyTorch; `batch(indices)` returns a whole batch as NumPy arrays, in place of samples that are then
    collated.

    >>> class Squares(Dataset[int]):
    ...     def __getitem__(self, index):
    ...         return index * index
    ...     def __len__(self):
    ...         return 100
    """

    def __getitem__(self, index: Any) -> Sample_co:
        raise NotImplementedError(f"{type(self).__name__} needs a method __getitem__(index)")

    def __add__(self, other: Dataset[Any]) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[Sample_co]):
    """Samples as a stream. Subclasses define __iter__, and __len__ where it is known.

    With worker processes each one iterates over its own copy: divide the stream by `get_worker_info()`.
    """

    def __iter__(self) -> Iterator[Sample_co]:
        raise NotImplementedError(f"{type(self).__name__} needs a method __iter__()")

    def __add__(self, other: Dataset[Any]) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Any, ...]]):
    """Slices of tensors (or NumPy arrays) along their first axis: sample i is (a[i], b[i], ...).

    ValueError where the first axes differ.

    >>> dataset = TensorDataset(fp.zeros(5, 28, 28), fp.arange(5))
    >>> image, label = dataset[3]
    >>> image.shape, label
    ((28, 28), tensor(3))
    """

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            raise ValueError("TensorDataset: give at least one tensor")
        lengths = [len(t) for t in tensors]
        if len(set(lengths)) != 1:
            raise ValueError(f"TensorDataset: the tensors must have the same first axis, got lengths {lengths}")
        self.tensors = tensors
        self._arrays: list[Any] | None = None

    def _as_arrays(self) -> list[Any]:
        # Read out once: indexing a tensor compiles and runs a program, indexing an array does not.
        if self._arrays is None:
            self._arrays = [t if isinstance(t, np.ndarray) else t.detach().numpy() for t in self.tensors]
        return self._arrays

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple(t[index] for t in self.tensors)

    def batch(self, indices: Sequence[int]) -> list[Any]:
        return [array[list(indices)] for array in self._as_arrays()]

    def __len__(self) -> int:
        return len(self.tensors[0])


class Subset(Dataset[Sample_co]):
    """The samples of `dataset` at `indices`."""

    def __init__(self, dataset: Dataset[Sample_co], indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: Any) -> Sample_co:
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample_co]:
        inner = [self.indices[i] for i in indices]
        many = getattr(self.dataset, "__getitems__", None)
        return list(many(inner)) if many is not None else [self.dataset[i] for i in inner]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset[Any]):
    """Several data sets one after the other."""

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: give at least one data set")
        if any(isinstance(d, IterableDataset) for d in self.datasets):
            raise TypeError("ConcatDataset: an IterableDataset has no indices; use ChainDataset")
        self.cumulative_sizes = list(accumulate(len(d) for d in self.datasets))  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"ConcatDataset: index {index} is out of range for {size} samples")
        index %= size
        number = bisect_right(self.cumulative_sizes, index)
        return self.datasets[number][index - (self.cumulative_sizes[number - 1] if number else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


class ChainDataset(IterableDataset[Any]):
    """Several streams one after the other; the same as `first + second`.

    >>> class Count(IterableDataset):
    ...     def __iter__(self):
    ...         return iter(range(2))
    >>> list(ChainDataset([Count(), Count()]))
    [0, 1, 0, 1]
    """

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = list(datasets)
        for dataset in self.datasets:
            if not isinstance(dataset, IterableDataset):
                raise TypeError(f"ChainDataset: chains IterableDatasets, got a {type(dataset).__name__}")

    def __iter__(self) -> Iterator[Any]:
        for dataset in self.datasets:
            yield from dataset  # type: ignore[misc]

    def __len__(self) -> int:
        lengths: list[int] = [len(dataset) for dataset in self.datasets]  # type: ignore[arg-type]
        return sum(lengths)


def random_split(dataset: Dataset[Any], lengths: Sequence[int | float], generator: Any = None) -> list[Subset[Any]]:
    """Divides a data set at random into parts of the given lengths, or the given fractions, which sum to one.

    `generator` is a firepot.Generator, a seed, or None for the default generator. The same seed gives the
    same parts. Raises ValueError if the lengths do not sum to the length of the data set.

    >>> train, test = random_split(TensorDataset(fp.arange(10)), [0.8, 0.2], generator=0)
    >>> len(train), len(test)
    (8, 2)
    """
    size = len(dataset)  # type: ignore[arg-type]
    if not lengths or min(lengths) < 0:
        raise ValueError(f"random_split: lengths must be numbers of 0 or more, got {list(lengths)}")
    counts = [int(n) for n in lengths]
    if math.isclose(sum(lengths), 1) and any(isinstance(n, float) for n in lengths):
        counts = [math.floor(size * fraction) for fraction in lengths]
        for part in range(size - sum(counts)):  # what rounding down left goes to the first parts, one each
            counts[part % len(counts)] += 1
    if sum(counts) != size:
        raise ValueError(
            f"random_split: the lengths {list(lengths)} sum to {sum(lengths)}; expected {size}, the samples of the "
            "data set, or fractions that sum to 1"
        )
    order = np.random.default_rng(seed_of(generator)).permutation(size).tolist()
    ends = list(accumulate(counts))
    return [Subset(dataset, order[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def batch_function(dataset: Any) -> Callable[[Sequence[int]], Any] | None:
    """What makes a whole batch of `dataset` at once, through subsets; None if only samples can be made."""
    if type(dataset) is Subset:
        inner, chosen = batch_function(dataset.dataset), dataset.indices
        return None if inner is None else lambda positions: inner([chosen[p] for p in positions])
    found: Callable[[Sequence[int]], Any] | None = getattr(dataset, "batch", None)
    return found if callable(found) else None
