"""The order in which a data set is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from firepot.data.randomness import generator_of

Index_co = TypeVar("Index_co", covariant=True)


class Sampler(Generic[Index_co]):
    """An order of indices. Subclasses define __iter__, and __len__ where it is known.

    One that draws its randomness from `firepot.data.sample_random()` follows the loader's seed and epoch, so
    its order is repeated exactly when a run is resumed in the middle of an epoch.
    """

    def __iter__(self) -> Iterator[Index_co]:
        raise NotImplementedError(f"{type(self).__name__} needs a method __iter__()")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, ..."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """A random order; with `replacement`, `num_samples` independent draws.

    `generator` is a seed, a NumPy or a Firepot generator; None follows the loader's seed and epoch.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Any = None,
    ) -> None:
        if num_samples is not None and num_samples <= 0:
            raise ValueError(f"RandomSampler: num_samples must be positive, got {num_samples}")
        self.data_source, self.replacement, self.generator = data_source, replacement, _kept(generator)
        self._num_samples = num_samples

    @property
    def num_samples(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        size, random = len(self.data_source), generator_of(self.generator)
        if not size:
            return
        if self.replacement:
            yield from random.integers(size, size=self.num_samples).tolist()
            return
        left = self.num_samples
        while left > 0:
            yield from random.permutation(size)[:left].tolist()
            left -= size

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given indices in random order."""

    def __init__(self, indices: Sequence[int], generator: Any = None) -> None:
        self.indices, self.generator = indices, _kept(generator)

    def __iter__(self) -> Iterator[int]:
        order = generator_of(self.generator).permutation(len(self.indices))
        return iter([self.indices[i] for i in order.tolist()])

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """`num_samples` draws, index i with a probability in proportion to `weights[i]`."""

    def __init__(
        self, weights: Sequence[float], num_samples: int, replacement: bool = True, generator: Any = None
    ) -> None:
        array = np.asarray(weights.numpy() if hasattr(weights, "numpy") else weights, np.float64)
        if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or array.min() < 0 or not array.sum():
            raise ValueError("WeightedRandomSampler: weights must be one row of numbers >= 0, not all zero")
        if num_samples <= 0:
            raise ValueError(f"WeightedRandomSampler: num_samples must be positive, got {num_samples}")
        if not replacement and num_samples > np.count_nonzero(array):
            raise ValueError(
                f"WeightedRandomSampler: {num_samples} draws without replacement need as many weights "
                "above zero, "
                f"got {np.count_nonzero(array)}"
            )
        self.weights, self.num_samples = array / array.sum(), num_samples
        self.replacement, self.generator = replacement, _kept(generator)

    def __iter__(self) -> Iterator[int]:
        random = generator_of(self.generator)
        return iter(random.choice(len(self.weights), self.num_samples, self.replacement, self.weights).tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """The indices of `sampler` in lists of `batch_size`; `drop_last` leaves out a last one that is shorter."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool = False) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(f"BatchSampler: batch_size must be a positive integer, got {batch_size!r}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        size = len(self.sampler)  # type: ignore[arg-type]
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)


def _kept(generator: Any) -> np.random.Generator | None:
    """A sampler's own stream: it goes on from one epoch to the next."""
    return None if generator is None else generator_of(generator)
