"""The threads that run programs, and the lock that lets one program run at a time.

The native side is `walker.py`. The pool is built when first used, rebuilt when the number of threads changes,
and taken down before a fork (a forked child has no threads but its own, and builds its pool anew).
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from firepot.runtime import engine, walker
from firepot.runtime.buffer import Buffer
from firepot.runtime.processor import usable_cores

# Waiting threads spin this long before they sleep. Waking a sleeper costs 5 to 50 microseconds, so that is
# what spinning may cost; with more threads than cores the one waited for probably cannot run before the
# spinner sleeps.
_SPIN_SECONDS = 50e-6
_SPIN_SECONDS_CROWDED = 1e-6

# Offsets in the native pool (see `walker.py`).
_THREADS, _SCRATCH, _SCRATCH_STRIDE, _SPINS = 4, 24, 32, 512

# Held while a program runs. Reentrant: a signal handler may run a program of its own in the middle of a call.
lock = threading.RLock()


class NativeFunctions(NamedTuple):
    """The functions of `walker.py`, callable from Python; the interpreter lock is released while they run.

    run:        (pool, program, call block, null) -> site of an error, or 0
    run_interruptible: the same, and walker.INTERRUPTED after Ctrl-C; on the main thread only
    run_timed:  (pool, program, call block, times) -> as run
    """

    spin: Callable[[int], None]
    worker: int
    dismiss: Callable[[int], None]
    run: Callable[[int, int, Any, int], int]
    run_interruptible: Callable[[int, int, Any, int], int]
    run_timed: Callable[[int, int, Any, int], int]


@functools.cache
def native() -> NativeFunctions:
    machine = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    text = walker.text(sys.platform, machine)
    addresses = engine.load_module(f"walker\n{text}", text, walker.FUNCTIONS)
    spin, worker, dismiss, run, run_interruptible, run_timed = addresses
    run_type = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return NativeFunctions(
        spin=ctypes.CFUNCTYPE(None, ctypes.c_int64)(spin),
        worker=worker,
        dismiss=ctypes.CFUNCTYPE(None, ctypes.c_void_p)(dismiss),
        run=run_type(run),
        run_interruptible=run_type(run_interruptible),
        run_timed=run_type(run_timed),
    )


@functools.cache
def _spins(seconds: float) -> int:
    """How many pauses take `seconds`, about: a pause lasts 10 to 150 cycles, by processor."""
    spin = native().spin
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        spin(500)
        best = min(best, time.perf_counter() - start)
    return max(1, int(500 * seconds / best))


class _Start(ctypes.Structure):
    """What a worker is started with (%start in `walker.py`)."""

    _fields_ = (("pool", ctypes.c_void_p), ("thread", ctypes.c_int64), ("epoch", ctypes.c_int32))


class ThreadPool:
    """Thread 0 (whoever calls `run`) and threads - 1 workers, asleep between programs.

    address: of the native pool
    threads: how many threads run parallel kernels

    Raises RuntimeError where the system does not let the threads start.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._memory = Buffer.empty(walker.POOL_BYTES)
        self.address = self._memory.address
        ctypes.memset(self.address, 0, walker.POOL_BYTES)
        ctypes.c_int32.from_address(self.address + _THREADS).value = threads
        self._scratch: Buffer | None = None
        self._scratch_bytes = 0
        self._handles: list[ctypes.c_size_t] = []
        self._starts = [_Start(self.address, thread, 0) for thread in range(1, threads)]
        if threads > 1:
            crowded = threads > usable_cores()
            spins = _spins(_SPIN_SECONDS_CROWDED if crowded else _SPIN_SECONDS)
            ctypes.c_int32.from_address(self.address + _SPINS).value = spins
            self._start_workers()

    def reserve_scratch(self, nbytes: int) -> None:
        """Let every thread have at least `nbytes` of scratch. Not while a program runs."""
        if nbytes <= self._scratch_bytes:
            return
        # Whole pages, so that no two threads write to one cache line.
        stride = (nbytes + 4095) // 4096 * 4096
        self._scratch = None
        self._scratch = Buffer.empty(stride * self.threads)
        self._scratch_bytes = stride
        ctypes.c_int64.from_address(self.address + _SCRATCH).value = self._scratch.address
        ctypes.c_int64.from_address(self.address + _SCRATCH_STRIDE).value = stride

    def close(self) -> None:
        """End the workers. The pool cannot run anything afterwards."""
        if not self._handles:
            return
        native().dismiss(self.address)
        join = ctypes.CDLL(None).pthread_join
        for handle in self._handles:
            join(handle, None)
        self._handles.clear()

    def _start_workers(self) -> None:
        create = ctypes.CDLL(None).pthread_create
        # Workers inherit the mask: signals such as Ctrl-C go to Python's threads.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for start in self._starts:
                handle = ctypes.c_size_t()
                status = create(ctypes.byref(handle), None, ctypes.c_void_p(native().worker), ctypes.byref(start))
                if status != 0:
                    self.close()
                    raise RuntimeError(
                        f"the system let only {len(self._handles) + 1} of {self.threads} threads start "
                        f"({os.strerror(status)}). Set FIREPOT_NUM_THREADS, or call fp.set_num_threads, "
                        "with less."
                    )
                self._handles.append(handle)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_pool: ThreadPool | None = None
_threads: int | None = None


def pool() -> ThreadPool:
    """The process's thread pool, built if need be. Call it with `lock` held."""
    global _pool
    if _pool is None:
        _pool = ThreadPool(get_num_threads())
    return _pool


def get_num_threads() -> int:
    """Threads that run parallel kernels.

    At first $FIREPOT_NUM_THREADS, else the physical cores this process may use.
    """
    global _threads
    if _threads is None:
        given = os.environ.get("FIREPOT_NUM_THREADS", "").strip()
        if given and not (given.isdecimal() and int(given) > 0):
            raise ValueError(f"FIREPOT_NUM_THREADS must be a positive whole number, not {given!r}")
        _threads = int(given) if given else usable_cores()
    return _threads


def set_num_threads(threads: int) -> None:
    """Let `threads` threads run parallel kernels from the next program on. Results do not depend on it.

    Raises ValueError unless threads ≥ 1.
    """
    global _threads
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"set_num_threads: expected a positive whole number, got {threads!r}")
    with lock:
        if _pool is not None and _pool.threads != threads:
            _close_pool()
        _threads = threads


def _close_pool() -> None:
    global _pool
    if _pool is not None:
        closing, _pool = _pool, None
        closing.close()


def _before_fork() -> None:
    # Waits for a program that another thread runs. A process without workers forks cleanly.
    lock.acquire()
    _close_pool()


@atexit.register
def _at_exit() -> None:
    # If another thread is in the middle of a program, it ends with the process.
    if lock.acquire(timeout=0.5):
        try:
            _close_pool()
        finally:
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=lock.release, after_in_child=lock.release)
