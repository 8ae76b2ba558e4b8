"""A library in a process of its own, asked one question a line.

    with Peer("training", "firepot", threads=2) as peer:
        times = peer.ask(do="train", model="mlp", seconds=1.0)["times"]

The process imports `benchmarks.<room>`, calls its `open_peer(name, threads)` and passes every question to what that
returns. What a library prints goes to standard error, so that it cannot be taken for an answer.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
_ROOT = Path(__file__).resolve().parent.parent


class Peer:
    """A running process of one library. `ask` answers {"error": ...} where the library failed."""

    def __init__(self, room: str, name: str, threads: int, caches: Path | None = None) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.process", room, name, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT,
            env=environment(os.environ, threads, caches),
        )  # fmt: skip

    def ask(self, **question: Any) -> Answer:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            return {"error": f"the process ended with status {self.process.wait()}"}
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(given: Mapping[str, str], threads: int, caches: Path | None) -> dict[str, str]:
    """The variables of a peer's process.

    Thread counts are the same for all, and compiled code is kept only under `caches`. Variables that force
    another processor's kernels on OpenBLAS are taken away: every library is measured as it would choose.
    """
    result = {k: v for k, v in given.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    result |= {f"{k}_NUM_THREADS": str(threads) for k in ("FIREPOT", "OMP", "MKL", "OPENBLAS")}
    result["TF_CPP_MIN_LOG_LEVEL"] = "2"
    if caches is not None:
        result["FIREPOT_CACHE_DIR"] = str(caches / "firepot")
        result["TORCHINDUCTOR_CACHE_DIR"] = str(caches / "inductor")
        result["JAX_COMPILATION_CACHE_DIR"] = str(caches / "jax")
        result["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        result["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    return result


def main() -> None:
    room, name, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    handle: Callable[[Answer], Answer] | None = None
    for line in sys.stdin:
        try:
            if handle is None:
                handle = importlib.import_module(f"benchmarks.{room}").open_peer(name, threads)
            answer = handle(json.loads(line))
        except Exception as error:  # a peer that fails is a row of the table, not the end of the run
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
