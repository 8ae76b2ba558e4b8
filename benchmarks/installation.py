"""What a library costs before it does anything: seconds to import, megabytes installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import statistics
import subprocess
import sys
from pathlib import Path

LIBRARIES = ("firepot", "torch", "jax", "onnxruntime", "openvino")
_CODE = "import time; s = time.perf_counter(); import {}; print(time.perf_counter() - s)"


def import_seconds(library: str, repeats: int) -> float:
    """Median over fresh processes; the first, which may read the files from disk, does not count."""
    times = []
    for _ in range(repeats + 1):
        done = subprocess.run(
            [sys.executable, "-c", _CODE.format(library)], capture_output=True, text=True, check=True
        )  # fmt: skip
        times.append(float(done.stdout.split()[-1]))
    return statistics.median(times[1:])


def installed_megabytes(library: str) -> dict[str, float]:
    """{package: 10⁶ bytes} of the library and everything it requires, by the files each package lists as its own."""
    sizes: dict[str, float] = {}
    waiting = [library]
    while waiting:
        name = normalised(waiting.pop())
        if name in sizes:
            continue
        distribution = importlib.metadata.distribution(name)
        sizes[name] = _bytes(distribution) / 1e6
        waiting += required(distribution.requires or [])
    return sizes


def normalised(name: str) -> str:
    """A package's name as indexes spell it: lower case, one hyphen between words."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(requirements: list[str]) -> list[str]:
    """Names of the requirements that hold here, leaving out those of extras."""
    from packaging.requirements import Requirement

    parsed = map(Requirement, requirements)
    return [r.name for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def _bytes(distribution: importlib.metadata.Distribution) -> int:
    total = sum(_size(Path(str(distribution.locate_file(f)))) for f in distribution.files or [])
    found = importlib.util.find_spec(normalised(distribution.name).replace("-", "_"))
    # An editable install lists no code: its folder is measured.
    if found is not None and found.submodule_search_locations and "__editable__" in str(distribution.files):
        for folder in found.submodule_search_locations:
            total += sum(_size(f) for f in Path(folder).rglob("*") if "__pycache__" not in f.parts)
    return total


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
