"""`firepot doctor`: what this machine offers, and whether compilation works."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firepot.runtime.processor import Processor


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="show what this machine offers and check that compilation works",
        description="Prints processor features, caches, threads, measured speed, the code cache and devices; compiles "
        "a network, trains it for a few steps, and says whether that works (exit code 0) or fails (1). Takes a second.",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import firepot
    from firepot.runtime.doctor import examine

    report = examine()
    host = report.processor
    rows = {
        "Firepot": f"{firepot.__version__}, Python {report.python}, LLVM {report.llvm}",
        "processor": f"{host.name}, vectors of {host.vector_bytes} bytes, {host.vector_registers} registers",
        "features": _features(host),
        "caches": f"L1 {_size(host.l1)} and L2 {_size(host.l2)} a core, L3 {_size(host.l3)}",
        "threads": f"{report.threads} on {host.cores} cores",
        "peak": f"{report.gflops_one_thread:.0f} GFLOP/s float32 on one thread, {report.gflops_all_threads:.0f} on all",
        "memory": f"{_size(report.memory_bytes) if report.memory_bytes else 'size unknown'}, "
        f"{report.copy_gb_per_second:.0f} GB/s copied",
        "code cache": f"{report.cache_folder}, {_size(report.cache_bytes)}{_cache_problem(report.cache_problem)}",
        "devices": "cpu",
    }
    for name, value in rows.items():
        print(f"{name:12} {value}")
    seconds, first, last = _train_a_little()
    works = report.compiled_correctly and last < first
    verdict = "works" if works else "FAILS"
    print(f"{'compilation':12} {verdict}: a network's loss went from {first:.3f} to {last:.3f} in {seconds:.2f} s")
    return 0 if works else 1


# Extensions worth knowing of, as LLVM names them.
_EXTENSIONS = (
    "sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512bf16", "avx512fp16", "avx512vnni",
    "avxvnni", "amx-bf16", "amx-int8", "neon", "fp16", "fullfp16", "bf16", "i8mm", "dotprod", "sve", "sve2",
)  # fmt: skip


def _features(host: Processor) -> str:
    """The extensions that this processor has, of those that matter to kernels."""
    there = set(host.features.split(","))
    return " ".join(name for name in _EXTENSIONS if f"+{name}" in there) or "none beyond the baseline"


def _size(count: int) -> str:
    """Bytes in the unit that gives a short number."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size >= 1024:
            size, unit = size / 1024, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"


def _cache_problem(problem: str | None) -> str:
    return "" if problem is None else f"; nothing can be kept there ({problem}), so each process compiles anew"


def _train_a_little() -> tuple[float, float, float]:
    """(seconds, first loss, last loss) of a few steps on fixed numbers."""
    import firepot as fp
    from firepot import nn

    start = time.perf_counter()
    fp.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10))
    optimizer = fp.optim.SGD(model.parameters(), lr=0.1)
    images, labels = fp.randn(32, 1, 8, 8), fp.arange(32) % 10

    @fp.jit
    def step() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    losses = [step().item() for _ in range(20)]
    return time.perf_counter() - start, losses[0], losses[-1]
