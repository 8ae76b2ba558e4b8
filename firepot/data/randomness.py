"""The random generator of the sample that is being made.

A loader keys it by its seed, the epoch and the sample's place in the epoch, not by the process that happens
to make the sample. So a data set that draws from `sample_random()` gives the same samples with any number of
workers, and after a restart in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class _Current:
    key: tuple[int, ...] | None = None
    generator: np.random.Generator | None = None


_current = _Current()


def sample_random() -> np.random.Generator:
    """The generator to draw this sample's randomness from.

    >>> class Noisy(fp.data.Dataset):
    ...     def __getitem__(self, index):
    ...         return index + fp.data.sample_random().normal(size=2)
    ...     def __len__(self):
    ...         return 10
    >>> (a,), (b,) = (list(fp.data.DataLoader(Noisy(), 10, num_workers=n, generator=3)) for n in (0, 1))
    >>> fp.equal(a, b)
    True

    Outside a DataLoader it is one generator a process, seeded by the operating system.
    """
    if _current.generator is None:
        # Made at the first use: seeding costs some 20 microseconds, and many data sets draw nothing.
        _current.generator = np.random.default_rng(_current.key)
    return _current.generator


@contextmanager
def keyed(*key: int) -> Iterator[None]:
    """Inside, sample_random() is the generator of these numbers."""
    outer = _current.key, _current.generator
    _current.key, _current.generator = key, None
    try:
        yield
    finally:
        _current.key, _current.generator = outer


@contextmanager
def using(generator: np.random.Generator) -> Iterator[None]:
    """Inside, sample_random() is this generator, which goes on from where it was left."""
    outer = _current.key, _current.generator
    _current.key, _current.generator = None, generator
    try:
        yield
    finally:
        _current.key, _current.generator = outer


def generator_of(source: Any) -> np.random.Generator:
    """A NumPy generator from None (the current one), a seed, a NumPy generator or a firepot.Generator."""
    if source is None:
        return sample_random()
    if isinstance(source, np.random.Generator):
        return source
    return np.random.default_rng(seed_of(source))


def seed_of(source: Any) -> int:
    """The seed in an integer, a NumPy generator (drawn from it) or a firepot.Generator; None: the default."""
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        seed = int(source)
    elif isinstance(source, np.random.Generator):
        seed = int(source.integers(2**63))
    else:
        from firepot.ops.random import Generator, default_generator

        if source is not None and not isinstance(source, Generator):
            raise TypeError(
                f"generator: expected a firepot.Generator, a numpy.random.Generator, a seed or None, "
                f"got {type(source).__name__}"
            )
        seed = (source or default_generator).initial_seed()
    return seed & (2**63 - 1)  # NumPy takes no negative seeds
