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
        description="Prints processor features, threads, measured speed, the code cache and devices, compiles a network "
        "and trains it for a few steps.",
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
        "threads": str(report.threads),
        "peak": f"{report.gflops_one_thread:.0f} GFLOP/s float32 on one thread, {report.gflops_all_threads:.0f} on all",
        "memory": f"{report.copy_gb_per_second:.0f} GB/s copied",
        "code cache": f"{report.cache_folder} ({report.cache_bytes / 2**20:.1f} MiB)",
        "devices": "cpu",
    }
    for name, value in rows.items():
        print(f"{name:12} {value}")
    seconds, first, last = _train_a_little()
    works = report.compiled_correctly and last < first
    verdict = "works" if works else "FAILS"
    print(f"{'compilation':12} {verdict}: a network's loss went from {first:.3f} to {last:.3f} in {seconds:.2f} s")
    return 0 if works else 1


def _features(host: Processor) -> str:
    """The extensions that kernels are chosen by."""
    found = {"multiply-add": host.fma, "bfloat16 dot products": host.bf16_dot, "int8 dot products": host.int8_dot}
    return ", ".join(name for name, there in found.items() if there) or "none beyond the baseline"


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
