"""Runs Firepot and its peers alternately, each in its own process, and writes a table and a plot.

    python -m benchmarks --quick

Peers that are not installed are shown as such. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import models, report

PEERS = ("firepot", "firepot-eager", "torch", "torch-channels-last", "torch-compile")


class Peer:
    """A library's process."""

    def __init__(self, name: str, threads: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def measure(self, model: str, seconds: float) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"model": model, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            return {"missing": "failed"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--quick", action="store_true", help="under five minutes: fewer rounds, no torch.compile")
    parser.add_argument("--models", nargs="+", choices=models.NAMES, default=list(models.NAMES))
    parser.add_argument("--peers", nargs="+", choices=PEERS)
    parser.add_argument("--rounds", type=int, help="turns that each peer gets on a model (default: 5, quick: 2)")
    parser.add_argument("--seconds", type=float, help="of steps in a turn (default: 3, quick: 1)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    peers = given.peers or [p for p in PEERS if not (given.quick and p == "torch-compile")]
    rounds, seconds = given.rounds or (2 if given.quick else 5), given.seconds or (1.0 if given.quick else 3.0)
    results: report.Results = {}
    for model in given.models:
        results[model] = {p: {} for p in peers}
        running = {}
        for p in peers:
            library = "firepot" if p.startswith("firepot") else "torch"
            if importlib.util.find_spec(library) is None:
                results[model][p] = {"missing": "not installed"}
            else:
                running[p] = Peer(p, given.threads)
        for _ in range(rounds):
            for p, peer in running.items():
                found = results[model][p]
                answer = peer.measure(model, seconds)
                for key, value in answer.items():
                    if key in ("train", "infer"):
                        found.setdefault(key, []).append(value)
                    else:
                        found[key] = value
        for peer in running.values():
            peer.close()
        print(report.table({model: results[model]}, peers).splitlines()[4], flush=True)
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.output / "README.md").write_text(report.table(results, peers))
    report.plot(results, peers, given.output / "training.png")
    print(report.table(results, peers))


if __name__ == "__main__":
    main()
