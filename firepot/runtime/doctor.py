"""What the machine offers, measured: for `firepot doctor`, and to judge a kernel by."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firepot.kernels.kernel import Kernel
from firepot.runtime import engine, pool
from firepot.runtime.buffer import Buffer
from firepot.runtime.processor import Processor, processor
from firepot.runtime.program import FIRST, Executable, Operand, Step

_COPY_BYTES = 64 << 20
_ROUNDS = 400_000  # about a millisecond, beside which waking the threads is nothing

# Independent accumulators: enough to hide the latency of multiply-add on any processor.
_ACCUMULATORS = 12


@dataclass(frozen=True)
class Report:
    """Facts about this machine.

    threads:                  that parallel kernels run on
    memory_bytes:             that the machine has; 0: the system does not tell
    cache_folder, cache_bytes: where compiled code is kept, and how much of it there is
    cache_problem:            why nothing can be kept there; None if it can
    compile_seconds:          to compile the measuring kernels (from the disk cache: next to nothing)
    compiled_correctly:       a compiled kernel gave the right sums
    gflops_one_thread:        multiply-add peak in float32, in 10⁹ operations a second
    gflops_all_threads:       the same with all threads at once
    copy_gb_per_second:       bytes read plus written by a copy with all threads, in 10⁹ a second
    """

    python: str
    llvm: str
    processor: Processor
    threads: int
    memory_bytes: int
    cache_folder: Path
    cache_bytes: int
    cache_problem: str | None
    compile_seconds: float
    compiled_correctly: bool
    gflops_one_thread: float
    gflops_all_threads: float
    copy_gb_per_second: float


def examine() -> Report:
    """Measure this machine. Takes about a quarter of a second."""
    import llvmlite.binding as llvm

    host = processor()
    lanes = host.vector_bytes // 4
    start = time.perf_counter()
    kernels = [_peak_kernel(lanes, parallel=False), _peak_kernel(lanes, parallel=True), _copy_kernel(lanes)]
    engine.load(kernels)
    compile_seconds = time.perf_counter() - start

    threads = pool.get_num_threads()
    sums = Buffer.empty(4 * lanes * max(threads, 1))
    one, every = (Executable([Step(kernel, (Operand(FIRST),))], bases=1) for kernel in kernels[:2])
    flops = 2.0 * lanes * _ACCUMULATORS * _ROUNDS
    one_seconds = _fastest(one, [sums.address])
    every_seconds = _fastest(every, [sums.address])
    # 1 + 1 + … is exact in float32 up to 2²⁴.
    values = sums.view(np.dtype(np.float32), (threads * lanes,))
    correct = bool((values == _ACCUMULATORS * _ROUNDS).all())

    copy_seconds = _fastest_copy(kernels[2])

    cache = engine.code_cache()
    return Report(
        python=sys.version.split()[0],
        llvm=".".join(str(part) for part in llvm.llvm_version_info),
        processor=host,
        threads=threads,
        memory_bytes=_memory_bytes(),
        cache_folder=cache.folder,
        cache_bytes=cache.size(),
        cache_problem=cache.problem(),
        compile_seconds=compile_seconds,
        compiled_correctly=correct,
        gflops_one_thread=flops / one_seconds / 1e9,
        gflops_all_threads=flops * threads / every_seconds / 1e9,
        copy_gb_per_second=2 * _COPY_BYTES / copy_seconds / 1e9,
    )


@dataclass(frozen=True)
class Peaks:
    """The roofline of this machine with the present number of threads: the most it was ever seen to do.

    flops:     float32 multiplications and additions a second
    bandwidth: bytes a second that a copy reads and writes
    """

    flops: float
    bandwidth: float


_peaks: dict[int, Peaks] = {}
_FORMAT = struct.Struct("=dd")


def peaks() -> Peaks:
    """Measured once a process by generated kernels, which takes about a tenth of a second.

    A measurement can only be too low (the machine was busy), so the best of all processes is kept on disk.
    """
    threads = pool.get_num_threads()
    if threads not in _peaks:
        host = processor()
        name = hashlib.sha256(f"peaks {host.name} {host.features} {threads}".encode()).hexdigest()
        found = _measure_peaks()
        kept = engine.code_cache().load(name)
        if kept is not None and len(kept) == _FORMAT.size:
            before = Peaks(*_FORMAT.unpack(kept))
            found = Peaks(max(before.flops, found.flops), max(before.bandwidth, found.bandwidth))
        engine.code_cache().store(name, _FORMAT.pack(found.flops, found.bandwidth))
        _peaks[threads] = found
    return _peaks[threads]


def _measure_peaks() -> Peaks:
    lanes = processor().vector_bytes // 4
    threads = pool.get_num_threads()
    sums = Buffer.empty(4 * lanes * threads)
    compute = Executable([Step(_peak_kernel(lanes, parallel=True), (Operand(FIRST),))], bases=1)
    flops = 2.0 * lanes * _ACCUMULATORS * _ROUNDS * threads / _fastest(compute, [sums.address], repeats=20)
    return Peaks(flops, 2 * _COPY_BYTES / _fastest_copy(_copy_kernel(lanes)))


def _fastest_copy(kernel: Kernel) -> float:
    """Seconds in which the copy kernel moves its bytes."""
    source, target = Buffer.empty(_COPY_BYTES), Buffer.empty(_COPY_BYTES)
    for buffer in (source, target):
        buffer.view(np.dtype(np.uint8), (_COPY_BYTES,)).fill(1)
    copy = Executable([Step(kernel, (Operand(FIRST), Operand(FIRST + 1)))], bases=2)
    return _fastest(copy, [source.address, target.address])
def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _fastest(program: Executable, addresses: list[int], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        program.run(addresses)
        times.append(time.perf_counter() - start)
    return min(times)


def _peak_kernel(lanes: int, parallel: bool) -> Kernel:
    """Adds 1 × 1 to each lane of each accumulator `_ROUNDS` times; thread t stores the accumulators' sum."""
    vector = f"<{lanes} x float>"
    names = range(_ACCUMULATORS)
    zeros = [f"  %a{n} = phi {vector} [ zeroinitializer, %entry ], [ %b{n}, %loop ]" for n in names]
    # The factor is loaded, or LLVM would compute the whole loop itself.
    adds = [
        f"  %b{n} = call {vector} @llvm.fma.v{lanes}f32({vector} %one, {vector} %one, {vector} %a{n})" for n in names
    ]
    total = [f"  %s1 = fadd {vector} %b0, %b1"]
    total += [f"  %s{n} = fadd {vector} %s{n - 1}, %b{n}" for n in range(2, _ACCUMULATORS)]
    text = f"""
@one = internal global {vector} splat (float 1.0), align 64
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
define void @peak(ptr %operands, i64 %thread, i64 %threads, ptr %scratch, ptr %error) {{
entry:
  %one = load volatile {vector}, ptr @one, align 64
  %sums = load ptr, ptr %operands
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{chr(10).join(zeros)}
{chr(10).join(adds)}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, {_ROUNDS}
  br i1 %more, label %loop, label %end
end:
{chr(10).join(total)}
  %place = getelementptr {vector}, ptr %sums, i64 %thread
  store {vector} %s{_ACCUMULATORS - 1}, ptr %place, align {lanes * 4}
  ret void
}}
"""
    return Kernel(f"doctor {text}", lambda: text, ("peak",), "multiply-add peak", parallel=parallel)


def _copy_kernel(lanes: int) -> Kernel:
    """Copies operand 0 to operand 1, each thread one stretch, storing past the caches."""
    vector = f"<{lanes} x float>"
    text = f"""
define void @copy(ptr %operands, i64 %thread, i64 %threads, ptr %scratch, ptr %error) {{
entry:
  %target.p = getelementptr ptr, ptr %operands, i64 1
  %source = load ptr, ptr %operands
  %target = load ptr, ptr %target.p
  %after = add i64 %thread, 1
  %first.n = mul i64 %thread, {_COPY_BYTES // 64}
  %last.n = mul i64 %after, {_COPY_BYTES // 64}
  %first.b = udiv i64 %first.n, %threads
  %last.b = udiv i64 %last.n, %threads
  %first = mul i64 %first.b, 64
  %last = mul i64 %last.b, 64
  br label %loop
loop:
  %i = phi i64 [ %first, %entry ], [ %next, %loop ]
  %p = getelementptr i8, ptr %source, i64 %i
  %q = getelementptr i8, ptr %target, i64 %i
  %x = load {vector}, ptr %p, align {lanes * 4}
  store {vector} %x, ptr %q, align {lanes * 4}, !nontemporal !0
  %next = add i64 %i, {lanes * 4}
  %more = icmp slt i64 %next, %last
  br i1 %more, label %loop, label %end
end:
  ret void
}}
!0 = !{{i32 1}}
"""
    return Kernel(f"doctor {text}", lambda: text, ("copy",), "copy")
