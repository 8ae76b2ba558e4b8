"""Buffers: alignment, views that keep them alive, reuse, accounting, and running out of memory."""

from __future__ import annotations

import ctypes
import gc
import mmap
import threading
from pathlib import Path

import numpy as np
import pytest

from firepot.runtime import buffer as buffers
from firepot.runtime.buffer import Allocator, Buffer, size_class

SIZES = [0, 1, 63, 64, 65, 4096, 5000, 128 << 10, (128 << 10) + 1, 1 << 20, 3 << 20, (16 << 20) + 7]


@pytest.mark.parametrize("nbytes", SIZES)
def test_buffers_are_aligned_and_writable_to_the_last_byte(nbytes: int) -> None:
    buffer = Buffer.empty(nbytes)
    assert buffer.nbytes == nbytes
    assert buffer.address % 64 == 0
    if nbytes >= 2 << 20:
        assert buffer.address % (2 << 20) == 0
    view = buffer.view(np.dtype(np.uint8), (nbytes,))
    view[:] = 7
    assert int(view.sum(dtype=np.int64)) == 7 * nbytes


def test_size_classes_waste_at_most_a_quarter() -> None:
    for nbytes in [*range(1, 5000), *(int(1.37**k) for k in range(20, 90))]:
        size = size_class(nbytes)
        assert nbytes <= size
        assert size % 64 == 0
        assert size <= nbytes * 1.25 + (4096 if nbytes > 128 << 10 else 64)
        assert size_class(size) == size


def test_live_buffers_do_not_overlap() -> None:
    random = np.random.default_rng(0)
    live: list[tuple[Buffer, int]] = []
    for turn in range(600):
        buffer = Buffer.empty(int(random.choice([8, 64, 200, 4000, 70_000, 300_000])))
        buffer.view(np.dtype(np.uint8), (buffer.nbytes,)).fill(turn % 251)
        live.append((buffer, turn % 251))
        if len(live) > 60:
            kept, value = live.pop(int(random.integers(60)))
            assert (kept.view(np.dtype(np.uint8), (kept.nbytes,)) == value).all()


def test_a_view_is_the_memory_and_keeps_it_alive() -> None:
    buffer = Buffer.empty(24)
    first = buffer.view(np.dtype(np.float32), (2, 3))
    second = buffer.view(np.dtype(np.int32), (6,))
    first[:] = 1.0
    assert second.tolist() == [0x3F800000] * 6
    assert first.ctypes.data == buffer.address
    address = buffer.address
    del buffer, second
    gc.collect()
    others = [Buffer.empty(24) for _ in range(100)]
    assert all(other.address != address for other in others)
    assert (first == 1.0).all()


def test_a_view_larger_than_the_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes cannot be viewed as float64 of shape \\(3,\\)"):
        Buffer.empty(16).view(np.dtype(np.float64), (3,))


def test_from_numpy_copies_in_row_major_order() -> None:
    transposed = np.arange(12.0).reshape(3, 4).T
    for array in (transposed, np.arange(20)[::-3], np.array(5, np.int16), np.zeros((0, 3))):
        buffer = Buffer.from_numpy(array)
        assert buffer.nbytes == array.nbytes
        np.testing.assert_array_equal(buffer.view(array.dtype, array.shape), array)
    array = np.arange(4)
    copied = Buffer.from_numpy(array)
    array[:] = -1
    assert copied.view(array.dtype, (4,)).tolist() == [0, 1, 2, 3]


def test_a_copy_has_the_bytes_and_its_own_memory() -> None:
    buffer = Buffer.from_numpy(np.arange(1000))
    copied = buffer.copy()
    buffer.view(np.dtype(np.int64), (1000,)).fill(-1)
    np.testing.assert_array_equal(copied.view(np.dtype(np.int64), (1000,)), np.arange(1000))
    assert Buffer.empty(0).copy().nbytes == 0


def test_from_numpy_adopts_aligned_memory_only() -> None:
    owner = Buffer.empty(64 * 8)
    aligned = owner.view(np.dtype(np.float64), (64,))
    assert Buffer.from_numpy(aligned, copy=False).address == aligned.ctypes.data
    assert Buffer.from_numpy(aligned[1:], copy=False).address != aligned[1:].ctypes.data
    assert Buffer.from_numpy(aligned[::2], copy=False).address != aligned.ctypes.data
    adopted = Buffer.from_numpy(aligned, copy=False)
    aligned[3] = 42.0
    del aligned, owner
    gc.collect()
    assert adopted.view(np.dtype(np.float64), (64,))[3] == 42.0


def test_freed_memory_is_reused_and_counted() -> None:
    allocator = Allocator()
    blocks = [allocator.allocate(1 << 20) for _ in range(3)]
    assert allocator.current_bytes == 3 << 20
    addresses = {block.address for block in blocks}
    for block in blocks:
        allocator.release(block)
    assert (allocator.current_bytes, allocator.peak_bytes, allocator.cached_bytes) == (0, 3 << 20, 3 << 20)
    assert allocator.allocate(1 << 20).address in addresses
    allocator.reset_peak()
    assert allocator.peak_bytes == 1 << 20
    allocator.release_cached()
    assert allocator.cached_bytes == 0


def test_large_blocks_go_back_to_the_system_beyond_the_limit() -> None:
    allocator = Allocator(cache_limit=8 << 20)
    for block in [allocator.allocate(1 << 20) for _ in range(20)]:
        allocator.release(block)
    assert allocator.cached_bytes <= 8 << 20
    assert allocator.current_bytes == 0


def test_running_out_of_memory_says_how_much() -> None:
    kept = Buffer.empty(1 << 20)
    with pytest.raises(MemoryError, match=r"no memory for a buffer of 1048576\.0 GB: live ones hold \d"):
        Buffer.empty(1 << 50)
    with pytest.raises(MemoryError):
        Buffer.empty(1 << 70)
    assert Buffer.empty(kept.nbytes).address != kept.address


def test_threads_may_allocate_and_free_at_once() -> None:
    before = buffers.allocator().current_bytes
    wrong: list[int] = []

    def work(value: int) -> None:
        for turn in range(400):
            buffer = Buffer.empty(64 + 512 * (turn % 9))
            view = buffer.view(np.dtype(np.uint8), (buffer.nbytes,))
            view.fill(value)
            if not (view == value).all():
                wrong.append(value)

    workers = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    gc.collect()
    assert not wrong
    assert buffers.allocator().current_bytes == before


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell what is resident")
def test_touching_large_buffers_takes_no_more_than_their_size() -> None:
    """Huge pages that reach beyond a buffer would be resident as a whole."""
    size, count = (2 << 20) + (256 << 10), 24

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    allocator = Allocator()
    before = resident()
    blocks = [allocator.allocate(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block.address, 1, size)
    assert resident() - before <= 1.1 * size * count


@pytest.mark.parametrize("nbytes", [40, 100_000, 3 << 20])
def test_a_copy_for_numpy_is_the_bytes_and_the_array_s_own(nbytes: int) -> None:
    buffer = Buffer.empty(nbytes)
    view = buffer.view(np.dtype("float32"), (2, nbytes // 8))
    view[...] = np.arange(nbytes // 4).reshape(view.shape)
    copy = buffer.to_numpy(np.dtype("float32"), view.shape)
    np.testing.assert_array_equal(copy, view)
    view[...] = -1
    np.testing.assert_array_equal(copy, np.arange(nbytes // 4).reshape(view.shape))
    assert buffer.to_numpy(np.dtype("float32"), ()) == -1
    with pytest.raises(ValueError, match="cannot be viewed"):
        buffer.to_numpy(np.dtype("float64"), view.shape)


def test_a_copy_for_numpy_of_memory_that_was_adopted() -> None:
    memory = np.zeros(32, np.float32)
    array = memory[(-memory.ctypes.data % 64) // 4 :][:8]
    array[:] = range(8)
    buffer = Buffer.from_numpy(array, copy=False)
    assert buffer.address == array.ctypes.data
    np.testing.assert_array_equal(buffer.to_numpy(np.dtype("float32"), (2, 4)), array.reshape(2, 4))


def test_no_two_contents_have_one_edition() -> None:
    first = Buffer.empty(64)
    seen = [first.edition]
    first.overwritten()
    seen += [first.edition, first.copy().edition, Buffer.from_numpy(np.zeros(3)).edition]
    assert len(set(seen)) == 4
