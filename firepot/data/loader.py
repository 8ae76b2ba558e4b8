"""DataLoader: batches of a data set, in order, made by worker processes ahead of time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from firepot.data.collate import collate_arrays, to_tensors
from firepot.data.dataset import IterableDataset
from firepot.data.randomness import seed_of, using
from firepot.data.sampler import BatchSampler, RandomSampler, SequentialSampler
from firepot.data.worker import ORDER_STREAM, Maker

if TYPE_CHECKING:
    from firepot.data.pool import WorkerPool


def _as_it_is(sample: Any) -> Any:
    return sample


class DataLoader:
    """Batches of `dataset`: an iterable, one epoch an iteration.

    >>> dataset = fp.data.TensorDataset(fp.arange(6.0).reshape(6, 1), fp.arange(6))
    >>> loader = fp.data.DataLoader(dataset, batch_size=4)
    >>> for x, label in loader:
    ...     print(x.shape, label)
    (4, 1) tensor([0, 1, 2, 3])
    (2, 1) tensor([4, 5])

    Arguments as PyTorch's, with its defaults:

    - batch_size: samples in a batch; None gives single samples.
    - shuffle: a new random order every epoch.
    - sampler: an iterable of indices. batch_sampler: an iterable of lists of them, in place of the batching
      here.
    - num_workers: processes that make batches; 0 makes them in this one.
    - collate_fn: makes a batch of a list of samples (default: `default_collate`); runs in the workers.
    - drop_last: leave out a last batch that is shorter.
    - timeout: seconds to wait for a worker's batch; 0 waits for ever.
    - worker_init_fn: called in each worker with its number.
    - generator: a firepot.Generator or a seed for the order and the samples' randomness; default: the default
      generator's seed, `firepot.manual_seed`.
    - prefetch_factor: batches made ahead by each worker (2).
    - persistent_workers: keep the processes from one epoch to the next.

    `pin_memory` and `pin_memory_device` are accepted and have nothing to do on a CPU; batches always come in
    order, whatever `in_order` says.

    The order, and what data sets draw from `sample_random()`, depend on the seed and the epoch only, not on
    the number of workers. `state_dict()` in the middle of an epoch and `load_state_dict()` in another process
    go on with the very next batch. For that, a data set with indices makes nothing twice; an IterableDataset
    is read again from its start.

    Raises ValueError for settings that do not go together and for an empty data set. An exception in a worker is raised
    here, with the worker's traceback.
    """

    def __init__(
        self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None, batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0, collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False, drop_last: bool = False, timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None, multiprocessing_context: Any = None,
        generator: Any = None,
        *, prefetch_factor: int | None = None, persistent_workers: bool = False, pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:  # fmt: skip
        if num_workers < 0:
            raise ValueError(f"DataLoader: num_workers must be 0 or more, got {num_workers}")
        if timeout < 0:
            raise ValueError(f"DataLoader: timeout must be 0 or more, got {timeout}")
        if not num_workers and (prefetch_factor is not None or persistent_workers):
            raise ValueError("DataLoader: prefetch_factor and persistent_workers need num_workers above 0")
        if prefetch_factor is not None and prefetch_factor < 1:
            raise ValueError(f"DataLoader: prefetch_factor must be 1 or more, got {prefetch_factor}")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("DataLoader: batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: give sampler or shuffle, not both")
        if batch_size is None and drop_last:
            raise ValueError("DataLoader: batch_size=None excludes drop_last")
        self._stream = isinstance(dataset, IterableDataset)
        if self._stream and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError(
                "DataLoader: an IterableDataset has an order of its own: no shuffle, sampler or batch_sampler"
            )
        if not self._stream and sampler is None and batch_sampler is None:
            if not hasattr(dataset, "__len__"):
                raise TypeError(
                    f"DataLoader: {type(dataset).__name__} has no __len__; define it, or pass a sampler, or make it "
                    "an IterableDataset"
                )
            if not len(dataset):
                raise ValueError("DataLoader: the data set is empty")
        if batch_size is not None and batch_sampler is None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"DataLoader: batch_size must be a positive integer or None, got {batch_size!r}")

        self.dataset, self.num_workers, self.timeout = dataset, num_workers, timeout
        self.batch_size, self.drop_last = (None if batch_sampler is not None else batch_size), drop_last
        self.collate_fn, self.worker_init_fn, self.generator = collate_fn, worker_init_fn, generator
        self.pin_memory, self.persistent_workers = pin_memory, persistent_workers
        self.prefetch_factor = prefetch_factor or 2
        self.multiprocessing_context = multiprocessing_context
        self.sampler, self.batch_sampler = sampler, batch_sampler
        if not self._stream and batch_sampler is None:
            if sampler is None:
                self.sampler = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
            if batch_size is not None:
                self.batch_sampler = BatchSampler(self.sampler or (), batch_size, drop_last)

        self._epoch = 0
        self._pool: WorkerPool | None = None
        self._running: _Epoch | None = None
        self._resume: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._running is not None:
            self._running.close()
        self._running = _Epoch(self, self._resume)
        self._resume = None
        self._epoch = self._running.epoch + 1
        return self._running

    def __len__(self) -> int:
        if not self._stream:
            return len(self.batch_sampler if self.batch_sampler is not None else self.sampler)  # type: ignore[arg-type]
        if not hasattr(self.dataset, "__len__"):
            raise TypeError(
                f"DataLoader: {type(self.dataset).__name__} has no __len__, so the batches cannot be counted"
            )
        size, batch = len(self.dataset), self.batch_size or 1
        return size // batch if self.drop_last else -(-size // batch)

    def set_epoch(self, epoch: int) -> None:
        """The number of the next epoch to start, which its order and randomness depend on."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: plain numbers, fit for JSON. Counts the batches that were handed out."""
        if self._resume is not None:
            return dict(self._resume)
        if self._running is not None and not self._running.complete:
            return self._running.state()  # also of an epoch that an error or an interrupt has ended
        return {"seed": None, "epoch": self._epoch, "batches": 0, "sampler": None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on where `state` was taken."""
        missing = {"seed", "epoch", "batches", "sampler"} - set(state)
        if missing:
            raise ValueError(f"DataLoader.load_state_dict: the state lacks {sorted(missing)}")
        if self._running is not None:
            self._running.close()
            self._running = None
        self._resume = dict(state)
        self._epoch = int(state["epoch"])

    def _requests(self) -> Iterator[Any]:
        """What to make, batch by batch."""
        if self._stream:
            size = self.batch_size
            while True:
                yield -size if size is not None and self.drop_last else size
        yield from self.batch_sampler if self.batch_sampler is not None else self.sampler or ()

    def _own_generator(self) -> np.random.Generator | None:
        """The stream that the user gave to the sampler, whose position belongs to the loader's state."""
        for holder in (self.batch_sampler, getattr(self.batch_sampler, "sampler", None), self.sampler):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, np.random.Generator):
                return generator
        return None

    def _collate(self) -> Callable[[Any], Any]:
        if self.collate_fn is not None:
            return self.collate_fn
        return _as_it_is if self.batch_size is None and self.batch_sampler is None else collate_arrays

    def _workers(self, seed: int) -> WorkerPool:
        from firepot.data.pool import WorkerPool, default_context

        if self._pool is not None and not self._pool.closed:
            return self._pool
        context = self.multiprocessing_context
        if context is None:
            context = default_context()
        elif isinstance(context, str):
            from multiprocessing import get_context

            context = get_context(context)
        default = self.collate_fn is None
        pool = WorkerPool(
            self.dataset, self._collate(), default, self.worker_init_fn, self.num_workers, seed, context, default
        )
        if self.persistent_workers:
            self._pool = pool
        return pool


class _Epoch:
    """One pass over the data set."""

    def __init__(self, loader: DataLoader, resume: dict[str, Any] | None) -> None:
        # A copy of the settings: with a reference both ways, the workers of an epoch that was left early would
        # stay until Python's cycle collector comes by.
        self._loader = copy(loader)
        self._loader._running = None
        resume = resume or {}
        given = resume.get("seed")
        self._seed = seed_of(loader.generator) if given is None else int(given)
        self.epoch = loader._epoch
        self.finished = False  # nothing more will come
        self.complete = False  # everything came
        own = loader._own_generator()
        if own is not None and resume.get("sampler") is not None:
            own.bit_generator.state = resume["sampler"]
        self._sampler_state = None if own is None else own.bit_generator.state
        self._order_random = np.random.default_rng((self._seed, self.epoch, ORDER_STREAM))
        self._requests = self._loader._requests()
        self._asked = 0  # number of the next batch to ask for
        self._delivered = 0
        self._pool: WorkerPool | None = None
        self._maker: Maker | None = None
        self._expected: deque[int] = deque()  # the workers, in the order of the batches asked for
        self._exhausted = False
        self._ended_streams: set[int] = set()
        self._next_worker = 0
        if loader.num_workers:
            self._pool = loader._workers(self._seed + self.epoch)
            self._pool.drain()
        else:
            self._maker = Maker(loader.dataset, loader._collate(), loader.collate_fn is None)
        self._skip(int(resume.get("batches", 0)))

    def _skip(self, batches: int) -> None:
        if self._loader._stream:
            for _ in range(batches):
                next(self, None)
            return
        for _ in range(batches):
            self._request()
        self._delivered = self._asked

    def state(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "epoch": self.epoch,
            "batches": self._delivered,
            "sampler": self._sampler_state,
        }

    def __iter__(self) -> _Epoch:
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> Any:
        if self.finished:
            raise StopIteration
        try:
            batch = self._made_here() if self._pool is None else self._from_workers(self._pool)
        except BaseException as error:  # also the end, and Ctrl-C: in each case the workers have nothing left to do
            self.complete = isinstance(error, StopIteration)
            self.close()
            raise
        self._delivered += 1
        return batch

    def close(self) -> None:
        """End the epoch early. Idle persistent workers stay; all others end."""
        self.finished = True
        if self._pool is not None and not self._loader.persistent_workers:
            self._pool.close()

    def _request(self) -> Any:
        """What the next batch is to hold. Raises StopIteration after the last."""
        with using(self._order_random):
            request = next(self._requests)
        self._asked += 1
        return request

    def _made_here(self) -> Any:
        assert self._maker is not None
        request = self._request()
        batch = self._maker.make(request, self._seed, self.epoch, self._asked - 1)
        return to_tensors(batch) if self._loader.collate_fn is None else batch

    def _from_workers(self, pool: WorkerPool) -> Any:
        while True:
            self._fill(pool)
            if not self._expected:
                raise StopIteration
            worker = self._expected.popleft()
            more, batch = pool.receive(worker, self._loader.timeout)
            if more:
                self._fill(pool)  # before the user's own work, so that workers go on meanwhile
                return batch
            self._ended_streams.add(worker)

    def _fill(self, pool: WorkerPool) -> None:
        """Ask for batches until every worker has enough to do."""
        while not self._exhausted and len(self._ended_streams) < pool.count:
            worker = self._next_worker
            if worker not in self._ended_streams:
                if pool.outstanding[worker] >= self._loader.prefetch_factor:
                    return
                try:
                    request = self._request()
                except StopIteration:
                    self._exhausted = True
                    return
                pool.ask(worker, self._asked - 1, request, self._seed, self.epoch)
                self._expected.append(worker)
            self._next_worker = (worker + 1) % pool.count
