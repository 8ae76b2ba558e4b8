"""The worker process: makes batches and hands them over in shared memory."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from firepot.data.dataset import IterableDataset, batch_function
from firepot.data.randomness import keyed

if TYPE_CHECKING:  # the import takes a twentieth of `import firepot`, and is needed only with workers
    from multiprocessing.connection import Connection
    from multiprocessing.shared_memory import SharedMemory

_ALIGNMENT = 64
# How the keys of the order, of a sample and of a whole batch stay apart: the third number of each.
ORDER_STREAM, SAMPLE_STREAM, BATCH_STREAM = 0, 1, 2


@dataclass(frozen=True)
class WorkerInfo:
    """What `get_worker_info()` returns: the worker's number, their count, its seed and data set."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


class _Process:
    info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """In a DataLoader's worker process, which one it is; None elsewhere.

    >>> def __iter__(self):
    ...     worker = get_worker_info()
    ...     first, step = (worker.id, worker.num_workers) if worker else (0, 1)
    ...     yield from range(first, 1000, step)
    """
    return _Process.info


@dataclass(frozen=True)
class Order:
    """One batch to make: `indices` for a data set with indices, the number of samples for a stream."""

    number: int
    indices: Any
    seed: int
    epoch: int
    free_segments: tuple[str, ...] = ()  # whose batches the loader has taken over


@dataclass(frozen=True)
class Parcel:
    """One batch made: where in which shared segment its parts lie.
    The first part is the pickled structure.
    """

    number: int
    segment: str
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Failure:
    """What went wrong in making a batch."""

    number: int
    error: bytes | None  # the pickled exception, if it can be pickled
    kind: str
    text: str


class Maker:
    """Makes batches of a data set, in a worker or in the loader's own process."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], whole_batches: bool) -> None:
        self.dataset, self.collate = dataset, collate
        self._batch = batch_function(dataset) if whole_batches else None
        self._many = getattr(dataset, "__getitems__", None)
        self._stream: Iterator[Any] | None = None
        self._epoch: tuple[int, int] | None = None
        self._taken = 0

    def make(self, indices: Any, seed: int, epoch: int, number: int) -> Any:
        """The batch. Raises StopIteration at the end of a stream."""
        if isinstance(self.dataset, IterableDataset):
            return self._from_stream(indices, seed, epoch)
        if not isinstance(indices, (list, tuple)):  # batch_size=None: one sample, not collated
            with keyed(seed, epoch, SAMPLE_STREAM, number, 0):
                return self.collate(self.dataset[indices])
        if self._batch is not None:
            with keyed(seed, epoch, BATCH_STREAM, number):
                return self._batch(indices)
        if self._many is not None:
            with keyed(seed, epoch, BATCH_STREAM, number):
                return self.collate(self._many(indices))
        samples = []
        for position, index in enumerate(indices):
            with keyed(seed, epoch, SAMPLE_STREAM, number, position):
                samples.append(self.dataset[index])
        return self.collate(samples)

    def _from_stream(self, count: int | None, seed: int, epoch: int) -> Any:
        if self._stream is None or self._epoch != (seed, epoch):
            self._stream, self._epoch, self._taken = iter(self.dataset), (seed, epoch), 0
        worker = 0 if _Process.info is None else _Process.info.id
        samples = []
        for _ in range(1 if count is None else abs(count)):
            with keyed(seed, epoch, SAMPLE_STREAM, worker, self._taken):
                try:
                    samples.append(next(self._stream))
                except StopIteration:
                    break
            self._taken += 1
        # A negative count is drop_last: only a full batch counts.
        if not samples or (count is not None and len(samples) < -count):
            raise StopIteration
        return self.collate(samples[0] if count is None else samples)


class Segments:
    """A worker's shared memory: segments, used again once the loader has taken over what is in them."""

    def __init__(self) -> None:
        self._all: dict[str, SharedMemory] = {}
        self._free: list[str] = []

    def pack(self, number: int, batch: Any) -> Parcel:
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(batch, protocol=5, buffer_callback=buffers.append)
        contents = [memoryview(head), *(b.raw() for b in buffers)]
        parts, end = [], 0
        for content in contents:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + content.nbytes
            parts.append((start, content.nbytes))
        segment = self._take(end)
        assert segment.buf is not None  # only after it was closed
        for (start, size), content in zip(parts, contents, strict=True):
            segment.buf[start : start + size] = content
        return Parcel(number, segment.name, tuple(parts))

    def give_back(self, names: tuple[str, ...]) -> None:
        self._free += names

    def _take(self, size: int) -> SharedMemory:
        fitting = [name for name in self._free if self._all[name].size >= size]
        if fitting:
            self._free.remove(fitting[0])
            return self._all[fitting[0]]
        if self._free:  # too small: batches have grown
            self._release(self._free.pop())
        from multiprocessing.shared_memory import SharedMemory

        _check_room(size)
        segment = SharedMemory(create=True, size=size)
        self._all[segment.name] = segment
        return segment

    def _release(self, name: str) -> None:
        segment = self._all.pop(name)
        segment.close()
        segment.unlink()

    def close(self) -> None:
        for name in list(self._all):
            self._release(name)


def _check_room(size: int) -> None:
    # Writing to shared memory that is not there kills a process without a word.
    if os.path.isdir("/dev/shm"):
        free = shutil.disk_usage("/dev/shm").free
        if free < size:
            raise OSError(
                errno.ENOSPC,
                f"a batch of {size:,} bytes does not fit into /dev/shm with {free:,} bytes free; use smaller "
                "batches, fewer workers or a smaller prefetch_factor, or give it more shared memory",
            )


def run_worker(
    connection: Connection, dataset: Any, collate: Callable[[Any], Any], whole_batches: bool,
    init: Callable[[int], None] | None, number: int, count: int, seed: int,
) -> None:  # fmt: skip
    """The whole life of a worker: ends when the loader says so, or is gone."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    from firepot.ops.random import manual_seed

    # Ctrl-C reaches the whole group of processes; the loader ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    seed = (seed + number) & (2**63 - 1)
    _Process.info = WorkerInfo(number, count, seed, dataset)
    random.seed(seed)
    np.random.seed(seed & (2**32 - 1))
    manual_seed(seed)  # or all forks would draw the same numbers
    segments = Segments()
    parent = parent_process()
    watched: list[Any] = [connection] if parent is None else [connection, parent.sentinel]
    try:
        failed: Exception | None = None
        try:
            if init is not None:
                init(number)
            maker = Maker(dataset, collate, whole_batches)
        except Exception as error:
            failed = error
        while True:
            if connection not in wait(watched):
                return  # only the loader's process has ended
            order = connection.recv()
            if order is None:
                return
            segments.give_back(order.free_segments)
            try:
                if failed is not None:
                    raise failed
                answer: Any = segments.pack(
                    order.number, maker.make(order.indices, order.seed, order.epoch, order.number)
                )
            except StopIteration:
                answer = order.number
            except Exception as error:
                answer = _failure(order.number, error)
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the loader has gone
    finally:
        segments.close()
        connection.close()


def _failure(number: int, error: Exception) -> Failure:
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # whatever the exception's own code raises: its text is enough
        pickled = None
    return Failure(number, pickled, type(error).__name__, traceback.format_exc())
