"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

_PACKAGES = ("numpy", "llvmlite", "torch", "jax", "onnxruntime", "openvino")


def describe(threads: int) -> dict[str, Any]:
    """Processor, memory, versions, and the measured peaks (10⁹ operations or bytes a second)."""
    from firepot.runtime import doctor, pool

    pool.set_num_threads(threads)
    found = doctor.examine()
    host = found.processor
    return {
        "processor": _processor_name(), "llvm_name": host.name, "cores": host.cores, "threads": threads,
        "vector_bits": 8 * host.vector_bytes, "l1_kib": host.l1 >> 10, "l2_kib": host.l2 >> 10, "l3_kib": host.l3 >> 10,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
        "versions": versions(),
        "peak_one_thread": found.gflops_one_thread, "peak": found.gflops_all_threads,
        "copy": found.copy_gb_per_second,
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def sentence(machine: dict[str, Any]) -> str:
    """The description as a person reads it."""
    libraries = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    return (
        f"{machine['processor']} ({machine['llvm_name']}, {machine['vector_bits']}-bit vectors), {machine['threads']} "
        f"threads on {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; multiply-add peak "
        f"{machine['peak']:.0f} GFLOP/s float32, copy {machine['copy']:.0f} GB/s. Python {machine['python']}, {libraries}."
    )


class Watch:
    """How much of the processors other processes take while the caller and its children work.

    >>> watch = Watch()
    >>> ...                # start processes, and wait for their end
    >>> watch.others()     # their share of all processor time since then
    """

    def __init__(self) -> None:
        self.start, self.busy, self.own = time.monotonic(), _busy_seconds(), _own_seconds()

    def others(self) -> float:
        """A share; 0 where the system does not tell."""
        available = (time.monotonic() - self.start) * (os.cpu_count() or 1)
        busy = _busy_seconds() - self.busy
        return max(0.0, busy - (_own_seconds() - self.own)) / max(available, 1e-9)


def _busy_seconds() -> float:
    """Processor time of all processes since the system started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return _own_seconds()
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts = map(int, fields[:7])
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def warning(others: dict[str, float]) -> str:
    """A sentence where other work took more than 3 % of the machine; `others` is {what was measured: share}."""
    found = ", ".join(f"{100 * share:.0f} % during {name}" for name, share in others.items() if share > 0.03)
    return f"**The machine was not quiet**: other processes took {found}." if found else ""


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
