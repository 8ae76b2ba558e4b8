"""The loader's worker processes, seen from the loader."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from firepot.data.collate import to_tensors
from firepot.data.worker import Failure, Order, Parcel, run_worker

_PATIENCE = 2.0  # seconds that a worker gets to end by itself


class WorkerPool:
    """`count` worker processes, each with a pipe of its own.

    So a worker's batches arrive in the order they were asked for.

    `convert`: arrays in batches are to become tensors. If not, they are copied out of the shared memory as
    they are.
    """

    def __init__(
        self, dataset: Any, collate: Callable[[Any], Any], whole_batches: bool,
        init: Callable[[int], None] | None,
        count: int, seed: int, context: Any, convert: bool,
    ) -> None:  # fmt: skip
        self.count, self._convert = count, convert
        self._processes: list[Any] = []
        self._connections: list[Connection] = []
        self._segments: dict[str, SharedMemory] = {}
        self._free: list[list[str]] = [[] for _ in range(count)]
        self.outstanding = [0] * count
        self._close = weakref.finalize(
            self, _end, os.getpid(), self._processes, self._connections, self._segments
        )  # at the latest when Python ends
        resource_tracker.ensure_running()  # before the workers start, so that all share one
        with warnings.catch_warnings():
            # Python 3.12 warns of any fork beside threads. Firepot's own threads are taken down before a
            # fork.
            warnings.filterwarnings("ignore", message=".*multi-threaded.*", category=DeprecationWarning)
            for number in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=run_worker,
                    args=(theirs, dataset, collate, whole_batches, init, number, count, seed),
                    daemon=True,
                    name=f"firepot data worker {number}",
                )
                process.start()
                theirs.close()
                self._processes.append(process)
                self._connections.append(ours)

    def ask(self, worker: int, number: int, indices: Any, seed: int, epoch: int) -> None:
        """Let a worker make a batch."""
        order = Order(number, indices, seed, epoch, tuple(self._free[worker]))
        self._free[worker].clear()
        try:
            self._connections[worker].send(order)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death(worker) from None
        self.outstanding[worker] += 1

    def receive(self, worker: int, timeout: float) -> tuple[bool, Any]:
        """(True, batch), or (False, None) at the end of a stream. Raises what the worker raised."""
        answer = self._answer(worker, timeout)
        if isinstance(answer, Parcel):
            return True, self._unpack(worker, answer)
        if isinstance(answer, Failure):
            raise _error(worker, answer)
        return False, None

    def drain(self) -> None:
        """Throw away the batches that were asked for and not received."""
        for worker in range(self.count):
            while self.outstanding[worker]:
                answer = self._answer(worker, 0)
                if isinstance(answer, Parcel):
                    self._free[worker].append(answer.segment)

    def close(self) -> None:
        self._close()

    @property
    def closed(self) -> bool:
        return not self._close.alive

    def _answer(self, worker: int, timeout: float) -> Any:
        connection, process = self._connections[worker], self._processes[worker]
        ready = wait([connection, process.sentinel], timeout or None)
        if not ready:
            raise RuntimeError(f"DataLoader: worker process {worker} made no batch within the timeout of {timeout} s")
        if connection not in ready and not connection.poll():
            raise self._death(worker)
        try:
            answer = connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._death(worker) from None
        self.outstanding[worker] -= 1
        return answer

    def _unpack(self, worker: int, parcel: Parcel) -> Any:
        segment = self._segments.get(parcel.segment)
        if segment is None:
            segment = self._segments[parcel.segment] = SharedMemory(parcel.segment)
        assert segment.buf is not None  # only after it was closed
        views = [segment.buf[start : start + size] for start, size in parcel.parts]
        # Tensors copy; arrays that the user will hold must not change with the worker's next batch.
        buffers: list[Any] = views[1:] if self._convert else [bytearray(view) for view in views[1:]]
        batch = pickle.loads(views[0], buffers=buffers)
        if self._convert:
            batch = to_tensors(batch)
        self._free[worker].append(parcel.segment)
        return batch

    def _death(self, worker: int) -> RuntimeError:
        process = self._processes[worker]
        process.join(_PATIENCE)
        code = process.exitcode
        how = f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by signal {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += " (often: the system ran out of memory)"
        return RuntimeError(f"DataLoader: worker process {worker} (pid {process.pid}) ended unexpectedly {how}")


def default_context() -> Any:
    """Fork on Linux, which shares the data set's memory with the workers; elsewhere the system's own way."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else None)


def _error(worker: int, failure: Failure) -> BaseException:
    where = f"Raised in worker process {worker} of the DataLoader:\n{failure.text}"
    if failure.error is None:
        return RuntimeError(f"{failure.kind}. {where}")
    error: BaseException = pickle.loads(failure.error)
    error.add_note(where)
    return error


def _end(process: int, processes: list[Any], connections: list[Connection], segments: dict[str, SharedMemory]) -> None:
    """Ask the workers to end; make those end that do not."""
    if process != os.getpid():
        return  # in a forked child, where the pool belongs to the parent
    for connection in connections:
        try:
            connection.send(None)
        except (OSError, ValueError):
            continue  # that worker has ended already
    deadline = time.monotonic() + _PATIENCE
    died = False
    for connection, worker in zip(connections, processes, strict=True):
        while worker.is_alive() and time.monotonic() < deadline:
            # A worker may be about to send: read, so that it gets to the message that ends it.
            ready = wait([connection, worker.sentinel], max(0.0, deadline - time.monotonic()))
            if connection in ready:
                try:
                    connection.recv()
                except (EOFError, OSError):
                    break
        worker.join(max(0.0, deadline - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()
        died = died or worker.exitcode != 0
        connection.close()
    for segment in segments.values():
        try:
            segment.close()
        except BufferError:
            continue  # a batch that is still looked at holds on to it; it goes with the batch
        if died:  # its owner could not remove it
            try:
                segment.unlink()
            except FileNotFoundError:
                continue
    segments.clear()
