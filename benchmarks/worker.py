"""One library in a process of its own: reads a command a line, answers a line of JSON."""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import models


def _library(peer: str, threads: int) -> Any:
    library = importlib.import_module("firepot" if peer.startswith("firepot") else "torch")
    library.set_num_threads(threads)
    library.manual_seed(0)
    return library


def prepare(peer: str, name: str, threads: int) -> tuple[Callable[[], float], Callable[[], Any]]:
    """(a training step that returns its loss, a one-image inference)."""
    fp = _library(peer, threads)
    functional = fp.nn.functional
    model = models.build(name, fp)
    images, target = (fp.from_numpy(a) for a in models.batch(name))
    one = fp.from_numpy(models.batch(name, 1)[0])
    if peer == "torch-channels-last" and images.ndim == 4:
        model = model.to(memory_format=fp.channels_last)
        images, one = (x.contiguous(memory_format=fp.channels_last) for x in (images, one))
    kind = fp.optim.AdamW if name in models.ADAPTIVE else fp.optim.SGD
    options = {"lr": 1e-4} if name in models.ADAPTIVE else {"lr": 1e-3, "momentum": 0.9}
    optimizer = kind(model.parameters(), **options)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        logits = model(x)
        loss = functional.cross_entropy(logits.flatten(0, 1) if logits.ndim == 3 else logits, y.flatten())
        loss.backward()
        optimizer.step()
        return loss

    def infer(x: Any) -> Any:
        with fp.no_grad():
            return model(x)

    if peer == "firepot":
        step, infer = fp.jit(step), fp.jit(infer)
    if peer == "torch-compile":
        model = fp.compile(model)

    def training() -> float:
        model.train()
        return float(step(images, target).item())

    def inference() -> Any:
        model.eval()
        return infer(one).numpy()

    return training, inference


def timed(run: Callable[[], Any], seconds: float) -> list[float]:
    """Times of single calls for about so many seconds, three at least."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    peer, threads = sys.argv[1], int(sys.argv[2])
    ready: dict[str, tuple[Callable[[], float], Callable[[], Any]]] = {}
    for line in sys.stdin:
        command = json.loads(line)
        name, answer = command["model"], {}
        if name not in ready:
            ready.clear()
            start = time.perf_counter()
            ready[name] = prepare(peer, name, threads)
            answer["loss"] = ready[name][0]()
            answer["first"] = time.perf_counter() - start
        training, inference = ready[name]
        training()
        answer["train"] = statistics.median(timed(training, command["seconds"]))
        inference()
        answer["infer"] = statistics.median(timed(inference, command["seconds"] / 4))
        answer["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
