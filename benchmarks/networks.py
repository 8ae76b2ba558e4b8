"""Seven networks on every library: first step, training step in float32 and under autocast, inference, memory.

The peers of a model run alternately, each in its own process, a turn of some seconds at a time, so that what else
happens on the machine meets all of them alike.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import installation, libraries, machine, models
from benchmarks.process import Answer, Peer
from benchmarks.timing import timed

PARTS = ("first", "train", "autocast", "infer", "install")
BATCHES = (1, 32)
_ROOM = "networks"
# Libraries that compile have a first step cold and one from their cache; for the others one is all.
_COMPILING = ("firepot", "firepot-eager", "torch-compile", "jax")


@dataclass
class Options:
    """What to measure.

    peers, models, parts: names
    rounds:               turns that each peer gets on a model
    seconds:              of training in a turn; inference gets a quarter of it for each batch size
    caches:               folder where the peers keep compiled code; None: a temporary one for each model
    """

    threads: int = 2
    peers: list[str] = field(default_factory=lambda: list(libraries.PEERS))
    models: list[str] = field(default_factory=lambda: list(models.NAMES))
    parts: list[str] = field(default_factory=lambda: list(PARTS))
    batches: tuple[int, ...] = BATCHES
    rounds: int = 4
    seconds: float = 2.0
    caches: Path | None = None


def measure(options: Options, results: dict[str, Any], save: Callable[[], None]) -> None:
    """Put the measurements into `results`, beside those of other models and parts that it holds; save after each."""
    if options.parts != ["install"] or "machine" not in results:  # else the description stays that of the times kept
        results["machine"] = machine.describe(options.threads)
    installed = [p for p in options.peers if importlib.util.find_spec(libraries.PEERS[p]) is not None]
    if "install" in options.parts:
        _note("import and installed size")
        found = results.setdefault("install", {})
        for library in installation.LIBRARIES:
            if any(libraries.PEERS[p] == library for p in installed):
                seconds = installation.import_seconds(library, options.rounds + 1)
                found[library] = {"import": seconds, "megabytes": installation.installed_megabytes(library)}
        save()
    for model in options.models:
        if set(options.parts) == {"install"}:
            break
        rows = results.setdefault("models", {}).setdefault(model, {})
        peers = [p for p in options.peers if libraries.applies(p, model)]
        for p in options.peers:
            rows.get(p, {}).pop("error", None)
            if p not in installed:
                rows[p] = {"error": "not installed"}
        watch = machine.Watch()
        with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
            folder = Path(temporary) if options.caches is None else options.caches.resolve() / model
            comparison = _Comparison(options, model, [p for p in peers if p in installed], rows, folder, stack)
            for part in PARTS[:4]:
                if part in options.parts:
                    getattr(comparison, part)()
                    save()
        measured = [part for part in PARTS[:4] if part in options.parts]
        name = model if len(measured) == 4 else " ".join([model, *measured])
        results.setdefault("others", {})[name] = watch.others()
        save()


@dataclass
class _Comparison:
    options: Options
    model: str
    peers: list[str]
    rows: dict[str, dict[str, Any]]
    folder: Path  # the peers' caches, empty at first, and the ONNX files
    stack: ExitStack  # closes the processes
    running: dict[str, Peer] = field(default_factory=dict)

    def first(self) -> None:
        """The first step in a fresh process: cold, then with what the cold one left on disk; and its memory."""
        for p in self.peers:
            if p in libraries.TRAINERS and p != "torch-channels-last":  # as PyTorch's other layout
                shutil.rmtree(self.folder / p, ignore_errors=True)
                for temperature in ("cold", "warm") if p in _COMPILING else ("cold",):
                    with self._open(p) as peer:
                        answer = peer.ask(do="first", model=self.model)
                    row = self._row(p, answer)
                    row.setdefault("first", {})[temperature] = answer.get("seconds")
                    row["memory"] = answer.get("memory")

    def train(self) -> None:
        for p, answer in self._turns([p for p in self.peers if p in libraries.TRAINERS], do="train"):
            if "times" in answer:
                self._row(p, answer).setdefault("train", []).append(answer["times"])

    def autocast(self) -> None:
        """The training step with `autocast` to bfloat16 around the forward pass."""
        for p, answer in self._turns([p for p in self.peers if p in libraries.AUTOCASTING], do="autocast"):
            if "times" in answer:
                self._row(p, answer).setdefault("autocast", []).append(answer["times"])

    def infer(self) -> None:
        if any(p in libraries.RUNTIMES for p in self.peers):
            self.folder.mkdir(parents=True, exist_ok=True)
            with Peer(_ROOM, "torch", self.options.threads, self.folder) as peer:
                peer.ask(do="export", model=self.model, batches=self.options.batches, folder=str(self.folder))
        for batch in self.options.batches:
            for p, answer in self._turns(self.peers, do="infer", batch=batch, folder=str(self.folder)):
                if "times" in answer:
                    self._row(p, answer).setdefault(f"infer{batch}", []).append(answer["times"])

    def _turns(self, peers: list[str], do: str, **question: Any) -> Iterator[tuple[str, Answer]]:
        """Answers of all peers, round by round. A peer that fails is asked no more."""
        seconds = self.options.seconds / (4 if do == "infer" else 1)
        key = f"{do}{question.get('batch', '')}"
        asked = list(peers)
        for p in peers:
            self.rows.get(p, {}).pop(key, None)
            if p not in self.running:
                self.running[p] = self.stack.enter_context(self._open(p))
        for turn in range(self.options.rounds):
            for p in list(asked):
                _note(f"{self.model} {key} {turn + 1}/{self.options.rounds} {p}")
                answer = self.running[p].ask(do=do, model=self.model, seconds=seconds, **question)
                if "error" in answer:
                    self._row(p, answer)
                    asked.remove(p)
                yield p, answer

    def _open(self, peer: str) -> Peer:
        # Each peer has a cache of its own: firepot's modes would else warm each other.
        return Peer(_ROOM, peer, self.options.threads, self.folder / peer)

    def _row(self, peer: str, answer: Answer) -> dict[str, Any]:
        row = self.rows.setdefault(peer, {})
        if "error" in answer:
            row["error"] = answer["error"]
        return row


def open_peer(name: str, threads: int) -> Callable[[Answer], Answer]:
    """What runs in the peer's process: answers `first`, `train`, `autocast`, `infer` and `export`."""
    libraries.load(name, threads)
    prepared: dict[Any, Callable[[], Any]] = {}
    works: dict[str, libraries.Work] = {}

    def prepare(question: Answer) -> Callable[[], Any]:
        model, do = question["model"], question["do"]
        if model not in works:
            works[model] = libraries.open_work(name, model, threads, Path(question.get("folder", ".")))
        work = works[model]
        work.mode(do != "infer")
        key = (model, do, question.get("batch"))
        if key not in prepared:
            if do == "infer":
                prepared[key] = work.inference(question["batch"])
            elif do == "autocast":
                assert isinstance(work, libraries.Torchlike)
                prepared[key] = work.training(autocast=True)
            else:
                prepared[key] = work.training()
            for _ in range(2):  # the second call may still find memory that is new
                prepared[key]()
        return prepared[key]

    def answer(question: Answer) -> Answer:
        if question["do"] == "export":
            libraries.export(question["model"], tuple(question["batches"]), Path(question["folder"]))
            return {}
        if question["do"] == "first":
            return _first_step(name, question["model"], threads)
        return {"times": timed(prepare(question), question["seconds"])}

    return answer


def _first_step(name: str, model: str, threads: int) -> Answer:
    """Seconds from building the model to the first loss, and the process's largest memory after two more steps."""
    start = time.perf_counter()
    work = libraries.open_work(name, model, threads)
    work.mode(training=True)
    step = work.training()
    loss = step()
    seconds = time.perf_counter() - start
    for _ in range(2):
        step()
    return {"seconds": seconds, "loss": loss, "memory": _largest_memory()}


def _largest_memory() -> float:
    """MiB that the process held at most. (getrusage would count what the parent held when it forked.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status tells no VmHWM")


def load(path: Path) -> dict[str, Any]:
    """Earlier results, or none."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _note(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
