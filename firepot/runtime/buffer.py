"""Memory of tensors: aligned bytes from an allocator that keeps freed blocks for the next step.

buffer = Buffer.empty(4096)
buffer.address                                # what kernels get
buffer.view(np.dtype("float32"), (32, 32))    # a NumPy array on the same bytes; it keeps the buffer alive
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import itertools
import math
import mmap
import os
import threading
from typing import Any

import numpy as np

ALIGNMENT = 64
_HUGE = 2 << 20  # from this size on, blocks ask for transparent huge pages
_SLAB = 1 << 20  # small blocks are cut from slabs of this size
_SMALL = 128 << 10  # the largest block cut from a slab
_LARGE = 1 << 20  # beyond this size, classes are finer


class Allocator:
    """Blocks of memory by size class, reused as soon as their buffer dies.

    Sizes are rounded up to a quarter of a power of two, from 1 MB on to a sixteenth (at most as much is wasted; pages
    never touched cost nothing). Freed blocks wait in a free list of their class; when more than `cache_limit` bytes wait, the
    large ones go back to the system. Blocks up to 128 KB are cut from 1 MB slabs, which stay.

    current_bytes, peak_bytes: what live buffers occupy, and the most they did since `reset_peak`.
    """

    def __init__(self, cache_limit: int = 4 << 30) -> None:
        self.cache_limit = cache_limit
        self._lock = threading.Lock()
        self._free: dict[int, list[_Block]] = {}
        self._cached = 0
        self._current = 0
        self._peak = 0
        # Buffers die at any moment, in a garbage collection within `allocate` too: their blocks are put here
        # without a lock (deque.append is atomic) and sorted into the free lists by the next caller.
        self._returned: collections.deque[_Block] = collections.deque()

    def allocate(self, nbytes: int) -> _Block:
        """A block of at least `nbytes`, 64-byte aligned, contents undefined.

        Raises MemoryError, with what was asked for and what is in use, when the system has no more.
        """
        size = size_class(nbytes)
        with self._lock:
            if self._returned:
                self._collect()
            free = self._free.get(size)
            if free:
                block = free.pop()
                self._cached -= size
            else:
                block = self._new_block(size, nbytes)
            self._current += size
            if self._current > self._peak:
                self._peak = self._current
            return block

    def release(self, block: _Block) -> None:
        """Take back a block that nothing uses any more."""
        self._returned.append(block)

    def release_cached(self) -> None:
        """Give all large free blocks back to the system."""
        with self._lock:
            self._collect()
            self._trim(0)

    @property
    def current_bytes(self) -> int:
        with self._lock:
            self._collect()
            return self._current

    @property
    def peak_bytes(self) -> int:
        return self._peak

    @property
    def cached_bytes(self) -> int:
        with self._lock:
            self._collect()
            return self._cached

    def reset_peak(self) -> None:
        with self._lock:
            self._collect()
            self._peak = self._current

    def _collect(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            free = self._free.get(block.size)
            if free is None:
                free = self._free[block.size] = []
            free.append(block)
            self._cached += block.size
            self._current -= block.size
        if self._cached > self.cache_limit:
            self._trim(self.cache_limit // 2)

    def _trim(self, limit: int) -> None:
        """Unmap free large blocks, the largest first, until at most `limit` bytes wait."""
        for size in sorted(self._free, reverse=True):
            free = self._free[size]
            while free and size > _SMALL and self._cached > limit:
                free.pop()  # nothing else refers to it: its mapping ends here
                self._cached -= size

    def _new_block(self, size: int, asked: int) -> _Block:
        if size > _SMALL:
            return _Block(size, self._map(size, asked), 0)
        memory = self._map(_SLAB, asked)
        blocks = [_Block(size, memory, start) for start in range(0, _SLAB - size + 1, size)]
        first, *rest = blocks
        self._free.setdefault(size, []).extend(rest)
        self._cached += size * len(rest)
        return first

    def _map(self, size: int, asked: int) -> _Mapping:
        try:
            return _Mapping(size)
        except (OSError, MemoryError, ValueError, OverflowError):
            self._trim(0)
        try:
            return _Mapping(size)
        except (OSError, MemoryError, ValueError, OverflowError):
            raise MemoryError(
                f"no memory for a buffer of {readable(asked)}: live ones hold {readable(self._current)}, "
                f"the most so far was {readable(self._peak)}. Smaller batches, or fp.jit(memory_budget=...), need less."
            ) from None


@functools.lru_cache(4096)
def size_class(nbytes: int) -> int:
    """`nbytes` rounded up to a quarter of its power of two, and to 64 bytes (large ones to a page); from 1 MB on to a
    sixteenth, as there the classes are few and a budget counts whole blocks."""
    if nbytes <= ALIGNMENT:
        return ALIGNMENT
    part = 1 << max(6, (nbytes - 1).bit_length() - (5 if nbytes > _LARGE else 3))
    if nbytes > _SMALL:
        part = max(part, mmap.PAGESIZE)
    return (nbytes + part - 1) // part * part


def largest_within(nbytes: int) -> int:
    """The largest size of which a block takes no more than `nbytes`; 0 where there is none."""
    size = size_class(nbytes) if nbytes > 0 else 0
    if size <= nbytes:
        return size
    low, high = 0, nbytes  # classes grow with the size
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size_class(middle) <= nbytes else (low, middle)
    return low


class _Mapping:
    """Anonymous private memory, aligned to a page (2 MB if that large), zero until written.

    Unmapped when the object dies.
    """

    __slots__ = ("_anchor", "address", "memory", "start")

    def __init__(self, size: int) -> None:
        huge = size >= _HUGE
        length = size + (_HUGE if huge else 0)
        if os.name == "nt":
            self.memory = mmap.mmap(-1, length)
        else:
            # Private: Python's default is shared with forked children, and never in huge pages.
            self.memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._anchor = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(self._anchor)
        self.start = -self.address % _HUGE if huge else 0  # of the aligned part in `memory`
        self.address += self.start
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a system built without huge pages
                # Whole ones: the last would take up to 2 MB more than is asked for as soon as it is touched.
                self.memory.madvise(mmap.MADV_HUGEPAGE, self.start, size // _HUGE * _HUGE)


class _Block:
    __slots__ = ("address", "mapping", "size", "start")

    def __init__(self, size: int, mapping: _Mapping, start: int) -> None:
        self.size = size
        self.mapping = mapping
        self.start = mapping.start + start  # in the mapping's memory
        self.address = mapping.address + start


_allocator = Allocator()
if hasattr(os, "register_at_fork"):
    # A child must not inherit the lock from a thread that it does not have.
    os.register_at_fork(
        before=_allocator._lock.acquire,
        after_in_parent=_allocator._lock.release,
        after_in_child=_allocator._lock.release,
    )


def allocator() -> Allocator:
    """The allocator of CPU buffers."""
    return _allocator


_editions = itertools.count()


class Buffer:
    """Bytes on a device, without a type. Made by `empty` and `from_numpy`.

    address: where they lie (a multiple of 64)
    nbytes:  how many
    device:  "cpu"
    edition: a number that nothing else had which was ever in a buffer: what has it, has the same contents
    """

    __slots__ = ("__weakref__", "_block", "_owner", "address", "device", "edition", "nbytes")

    address: int
    nbytes: int
    device: str

    def __init__(self, address: int, nbytes: int, block: _Block | None, owner: object) -> None:
        self.address = address
        self.nbytes = nbytes
        self.device = "cpu"
        self.edition = next(_editions)
        self._block = block
        self._owner = owner

    @classmethod
    def empty(cls, nbytes: int) -> Buffer:
        """A buffer of `nbytes` with undefined contents. Raises MemoryError."""
        block = _allocator.allocate(nbytes)
        return cls(block.address, nbytes, block, None)

    @classmethod
    def from_numpy(cls, array: np.ndarray[Any, Any], copy: bool = True) -> Buffer:
        """The elements of `array` in row-major order.

        With copy=False the array's own memory is adopted where it is contiguous and 64-byte aligned (and the
        array kept alive); else it is copied all the same.
        """
        if not copy and array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0 and array.nbytes:
            return cls(array.ctypes.data, array.nbytes, None, array)
        buffer = cls.empty(array.nbytes)
        np.copyto(buffer.view(array.dtype, array.shape), array)
        return buffer

    def view(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """The bytes as a NumPy array, not copied. The array keeps the buffer alive.

        Raises ValueError where the buffer is smaller than the array.
        """
        self._check(dtype, shape)
        return np.asarray(_ArrayInterface(self, dtype, shape))

    def overwritten(self) -> None:
        """Tell that a program has put other contents here."""
        self.edition = next(_editions)

    def to_numpy(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """The bytes as a NumPy array of its own. Raises ValueError as `view` does."""
        block = self._block
        if block is None:
            return np.array(self.view(dtype, shape))
        self._check(dtype, shape)
        # A third of the time that it takes over NumPy's array protocol, as `view` does.
        array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, block.mapping.memory, block.start)
        return array.copy()

    def copy(self) -> Buffer:
        """A new buffer with the same bytes. Raises MemoryError."""
        other = Buffer.empty(self.nbytes)
        ctypes.memmove(other.address, self.address, self.nbytes)
        return other

    def _check(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        needed = dtype.itemsize * math.prod(shape)
        if needed > self.nbytes:
            raise ValueError(
                f"a buffer of {self.nbytes} bytes cannot be viewed as {dtype} of shape {shape}, "
                f"which takes {needed} bytes"
            )

    def __del__(self) -> None:
        # At interpreter exit the module's names may be gone before the last buffers; the system takes all then.
        if self._block is not None and _allocator is not None:
            _allocator.release(self._block)

    def __repr__(self) -> str:
        return f"Buffer({self.nbytes} bytes on {self.device})"


class _ArrayInterface:
    """NumPy's array protocol over a buffer; the array made from it holds this object, and so the buffer."""

    __slots__ = ("__array_interface__", "buffer")

    def __init__(self, buffer: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.buffer = buffer
        self.__array_interface__ = {
            "data": (buffer.address, False),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
        }


def readable(nbytes: int) -> str:
    """As people read it: "1.5 GB", in powers of 1024."""
    amount = float(nbytes)
    for unit in ("bytes", "KB", "MB", "GB"):
        if amount < 1024 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError
