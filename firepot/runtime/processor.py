"""What the processor offers: cores, caches, vector registers, and how LLVM names it.

Nothing here imports llvmlite before `processor()` is first called.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

_CPU_FOLDER = Path("/sys/devices/system/cpu")

# Linux on x86-64: a system call, what is asked of it, and the number of the processor's state component.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18

# Taken where the system tells nothing: right or cautious on any machine of the last decade.
_DEFAULT_CACHES = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}


@dataclass(frozen=True)
class Processor:
    """Facts that generators choose by.

    triple, name, features: LLVM's target triple, CPU name and feature string
    cores:                  physical cores that this process may use (affinity and container quota counted)
    l1, l2, l3:             data cache sizes in bytes; l1 and l2 of one core, l3 shared
    vector_bytes:           width of a vector register (64 AVX-512, 32 AVX2, 16 SSE and NEON)
    vector_registers:       how many of them there are
    fma:                    fused multiply-add of float32 and float64 vectors
    bf16_dot:               multiply-add of bfloat16 pairs into float32 (AVX512_BF16)
    int8_dot:               multiply-add of int8 quadruples into int32 (AVX512_VNNI)
    bf16_tile:              products of bfloat16 matrices of 16 rows of 64 bytes into float32 (AMX), and the system's leave
                            to this process to use them
    """

    triple: str
    name: str
    features: str
    cores: int
    l1: int
    l2: int
    l3: int
    vector_bytes: int
    vector_registers: int
    fma: bool
    bf16_dot: bool
    int8_dot: bool
    bf16_tile: bool = False


@functools.cache
def processor() -> Processor:
    """The processor this process runs on."""
    import llvmlite.binding as llvm

    features = dict(llvm.get_host_cpu_features())
    caches = _cache_sizes()
    width, registers = _vector_unit(features)
    return Processor(
        triple=llvm.get_process_triple(),
        name=llvm.get_host_cpu_name(),
        features=_feature_string(features),
        cores=usable_cores(),
        l1=caches[1],
        l2=caches[2],
        l3=caches[3],
        vector_bytes=width,
        vector_registers=registers,
        fma=features.get("fma", False) or _is_arm(),
        bf16_dot=features.get("avx512bf16", False),
        int8_dot=features.get("avx512vnni", False),
        bf16_tile=features.get("amx-bf16", False) and width == 64 and _may_use_tiles(),
    )


def usable_cores() -> int:
    """Physical cores that this process may use, by its affinity and its container's CPU quota."""
    cpus = _allowed_cpus()
    cores = {_core_of(cpu) for cpu in cpus}
    count = len(cores)
    quota = _container_quota()
    if quota is not None:
        count = min(count, max(1, math.ceil(quota)))
    return max(1, count)


def _may_use_tiles() -> bool:
    """Ask Linux to let this process use tile registers, whose 8 KB it saves for threads that do.

    It may refuse (an old kernel, a sandbox). Leave once given holds for all threads, present and future.
    Source: Documentation/arch/x86/xstate.rst of the Linux kernel.
    """
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    system_call = ctypes.CDLL(None, use_errno=True).syscall
    system_call.argtypes = [ctypes.c_long] * 3
    return bool(system_call(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


def _is_arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def _vector_unit(features: dict[str, bool]) -> tuple[int, int]:
    """(bytes in a vector register, number of vector registers)."""
    if features.get("avx512f") and features.get("avx512vl"):
        return 64, 32
    if features.get("avx2"):
        return 32, 16
    if _is_arm():
        return 16, 32
    return 16, 16


def _feature_string(features: dict[str, bool]) -> str:
    """LLVM's feature string of the host.

    On several Intel processors LLVM prefers 256-bit vectors and would split our 512-bit ones in two; kernels
    are written in the width they want, so that preference is switched off. Arithmetic of float16 is left out: kernels
    compute in float32 and only convert, and with it LLVM 22 aborts on some vectors of bfloat16.
    """
    chosen = dict(features)
    if chosen.get("avx512f"):
        chosen["prefer-256-bit"] = False
        chosen["avx512fp16"] = False
    return ",".join(("+" if present else "-") + name for name, present in sorted(chosen.items()))


def _allowed_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _core_of(cpu: int) -> str:
    """A name that hardware threads of one core share."""
    siblings = _read(_CPU_FOLDER / f"cpu{cpu}" / "topology" / "thread_siblings_list")
    return siblings if siblings is not None else f"cpu{cpu}"


def _container_quota() -> float | None:
    """CPUs that the control group (version 2, then 1) grants this process; None: no limit."""
    text = _read(Path("/sys/fs/cgroup/cpu.max"))
    if text is not None:
        quota, _, period = text.partition(" ")
        return int(quota) / int(period) if quota != "max" and period else None
    quota_text = _read(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
    period_text = _read(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    if quota_text is None or period_text is None or int(quota_text) <= 0:
        return None
    return int(quota_text) / int(period_text)


def _cache_sizes() -> dict[int, int]:
    """Data cache bytes by level, as the first allowed CPU sees them."""
    sizes = dict(_DEFAULT_CACHES)
    folder = _CPU_FOLDER / f"cpu{_allowed_cpus()[0]}" / "cache"
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        match = re.fullmatch(r"(\d+)([KMG]?)", size or "")
        if level is None or kind == "Instruction" or match is None:
            continue
        sizes[int(level)] = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return sizes


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
