"""Runs PyTorch's databases of operators, modules and optimisers against Firepot and writes docs/conformance.md.

    python -m conformance                     # everything that has no result yet
    python -m conformance --fresh             # everything
    python -m conformance --only linalg.qr    # some entries, with every reason shown
    python -m conformance einops              # einops' own tests
    python -m conformance accuracy            # float32 functions against float64
    python -m conformance random --seconds 60 --seed 0    # random programs

Each entry runs in a worker process with a time limit, so that a crash or an endless loop names its entry. Results are
kept in build/conformance/results.jsonl; a run that was stopped goes on where it was, and a database's section of the page
is written when all of its entries have results, or with --page, which lists the others as not checked.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from conformance import modules, operators, optimizers, random, report

SUITES = {"operator": operators, "module": modules, "optimizer": optimizers}
_LIFE = 150  # entries that a worker checks before a fresh one takes its place


class Worker:
    """A process that checks entries, replaced where it fails."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.done = 0

    def ask(self, suite: str, entry: str, samples: int | None, seconds: float) -> dict[str, Any]:
        if self.process is None or self.done >= _LIFE:
            self.close()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "conformance.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
            self.done = 0
            seconds += 60  # to import everything
        assert self.process.stdin is not None and self.process.stdout is not None
        self.done += 1
        self.process.stdin.write(json.dumps({"suite": suite, "entry": entry, "samples": samples}) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self.process.poll() if ready else None
        self.process.kill()
        self.process.wait()
        self.process = None
        why = f"the process died ({code})" if ready else f"took more than {seconds:.0f} seconds"
        return {"entry": entry, "broken": why}

    def close(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait()
            self.process = None


def _tree() -> str:
    """The commit that is checked."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--only", nargs="+", metavar="ENTRY", help="entries to check (again); * stands for anything")
    parser.add_argument("--failed", action="store_true", help="check again what failed or was missing")
    parser.add_argument("--page", action="store_true", help="check nothing: write the page from the results at hand")
    parser.add_argument("--renew", action="store_true", help="check again what has a result of another tree")
    parser.add_argument("--suite", choices=SUITES, help="one of the databases")
    parser.add_argument("--samples", type=int, help="at most so many samples a check (default: all)")
    parser.add_argument("--seconds", type=float, default=240, help="time limit an entry (default: 240)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("build/conformance/results.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("docs/conformance.md"))
    given = parser.parse_args()

    tree = _tree()
    results: dict[tuple[str, str], dict[str, Any]] = {}
    if given.results.exists() and not given.fresh:
        for line in given.results.read_text().splitlines():
            answer = json.loads(line)
            if given.page or "missing" not in answer:  # which may be there by now, and is told at once
                results[answer["suite"], answer["entry"]] = answer
    names = [(s, n) for s, suite in SUITES.items() if given.suite in (None, s) for n in suite.entries()]
    if given.page:
        work = []
    elif given.only:
        work = [(s, n) for s, n in names if any(fnmatch.fnmatchcase(n, o) for o in given.only)]
    elif given.renew:
        work = [k for k in names if k not in results or results[k].get("tree") != tree]
    elif given.failed:
        work = [k for k in names if k not in results or not report.passes(results[k])]
    else:
        work = [k for k in names if k not in results]
    given.results.parent.mkdir(parents=True, exist_ok=True)
    waiting = iter(work)
    lock = threading.Lock()

    def serve() -> None:
        worker = Worker()
        while True:
            with lock:
                found = next(waiting, None)
            if found is None:
                worker.close()
                return
            answer = {"suite": found[0], **worker.ask(*found, given.samples, given.seconds)}
            answer |= {"tree": tree, "samples": given.samples}
            with lock:
                results[found] = answer
                with given.results.open("a") as file:
                    file.write(json.dumps(answer) + "\n")
                show(answer, bool(given.only))

    done = 0

    def show(answer: dict[str, Any], everything: bool) -> None:
        nonlocal done
        done += 1
        lines = report.lines(answer)
        if everything or lines:
            print(f"[{done}/{len(work)}] {answer['entry']}: {'ok' if not lines else ''}", flush=True)
            for line in lines if everything else lines[:3]:
                print("    " + line, flush=True)

    threads = [threading.Thread(target=serve) for _ in range(min(given.processes, max(len(work), 1)))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if work:
        given.results.write_text("".join(json.dumps(r) + "\n" for r in results.values()))
    absent = {s for s, n in names if (s, n) not in results}
    if given.page:
        begun = {s for s, _ in results}  # the sections of others stay as they are
        shown = {(s, n): results.get((s, n), {"entry": n, "waiting": True}) for s, n in names if s in begun}
        report.write(given.output, report.databases(shown))
    elif given.only is None:
        report.write(given.output, report.databases({k: results[k] for k in names if k[0] not in absent}))
    print(report.summary(results))


_PAGE = Path("docs/conformance.md")


def _einops() -> int:
    from conformance import einops

    answer = einops.run()
    name = answer["entry"]
    report.write(_PAGE, {"einops": einops.section(answer)})
    print("\n".join([name, *report.lines(answer)]))
    return not report.passes(answer)


def _accuracy(arguments: list[str]) -> int:
    from conformance import accuracy

    text = accuracy.main(arguments)
    if text is not None:
        report.write(_PAGE, {"Accuracy": text})
    return 0


if sys.argv[1:2] == ["random"]:
    sys.exit(random.main(sys.argv[2:]))
if sys.argv[1:2] == ["einops"]:
    sys.exit(_einops())
if sys.argv[1:2] == ["accuracy"]:
    sys.exit(_accuracy(sys.argv[2:]))
main()
