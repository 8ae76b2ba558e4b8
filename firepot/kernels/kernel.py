"""What a generator hands to the rest of the compiler, and the calling convention of native kernels.

A kernel is one or more native functions (phases), all of the type

    void phase(ptr operands, i64 thread, i64 threads, ptr scratch, ptr error)

`operands` points to an array of data pointers in the order of the kernel's description, outputs included, plus
the workspace last when there is one. Every thread of the pool calls every phase with its own number `thread` in
0 … threads − 1 and takes its share of the work; between phases the pool meets at a barrier. `scratch` is private
to the thread and 64-byte aligned, as is every operand. `error` points to two i64: a kernel that meets a bad value
writes (site + 1, value) there and goes on with a safe one. No kernel allocates, blocks or unwinds.

Results do not depend on the number of threads: work is split so that each output's order of summation is fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """Native code to be, described.

    key:        everything the code depends on besides target and version; equal keys mean equal code
    generate:   prints the LLVM module (called only when the code cache has nothing under the key)
    phases:     the functions' names, in order
    scratch:    bytes of private memory a thread needs
    workspace:  bytes of memory shared by the threads, live only during the kernel
    parallel:   False: too small to share; thread 0 alone runs it
    prepares:   (operand, what is made of it) where the first phase depends on that operand alone and writes to a part
                of the workspace that no other phase writes: it need not run again while the operand's contents are
                the same. Kernels with the same of both, and workspaces of one size, put the same there.
    explicit:   vector code in which nothing is left to hoist or to find twice: a short pipeline of LLVM's passes makes of
                it what O2 makes, in a third of the time
    aliases:    pairs (operand read, operand written) that may be the same memory
    flops, bytes: arithmetic operations and compulsory memory traffic, for `explain`
    rate:       how many of its operations take the time of one of float32: 2 or 4 with dot-product instructions
    """

    key: str
    generate: Callable[[], str]
    phases: tuple[str, ...]
    label: str
    scratch: int = 0
    workspace: int = 0
    prepares: tuple[int, str] | None = None
    parallel: bool = True
    explicit: bool = False
    flops: int = 0
    bytes: int = 0
    rate: int = 1
    aliases: frozenset[tuple[int, int]] = frozenset()
