"""Time to an accuracy on CIFAR-10 (93 % unless told): the same recipe in Firepot and in PyTorch, from image files to the result.

Each library runs in its own process and counts its own seconds: decoding, compiling, and training with augmentation.
Testing after each epoch is counted apart.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from benchmarks import machine, plots, report
from benchmarks.cifar10_recipe import Images, Recipe, Training
from benchmarks.process import Answer, Peer

PEERS = {"firepot": "firepot", "torch": "torch", "torch-compile": "torch"}
TARGET = 0.93
ORDERS = ("alternate", "after")
_NAMES = {"firepot": "Firepot", "torch": "PyTorch, channels-last", "torch-compile": "torch.compile"}
_COLOURS = {"firepot": "#e76f00", "torch": "#8c2f39", "torch-compile": "#dd8aa0"}
_ROOM = "cifar10"
_WARM_STEPS, _TIMED_EPOCHS = 3, 2

Results = dict[str, Any]


@dataclass
class Options:
    """What to run.

    data:        folder or zip archive with train/CLASS/*.jpg and test/CLASS/*.jpg
    order:       "alternate": an epoch of each in turn; "after": one training after the other
    timing_only: two epochs of each after some steps, without testing
    images:      use only so many training images (and a fifth of it to test); None: all
    target:      the share of test images found to which seconds are counted
    """

    data: Path
    recipe: Recipe
    peers: list[str] = field(default_factory=lambda: ["firepot", "torch"])
    threads: int = 2
    order: str = "alternate"
    timing_only: bool = False
    images: int | None = None
    target: float = TARGET


def measure(options: Options, results: Results, save: Callable[[], None]) -> None:
    """Fill `results["runs"]`, keeping what it holds of other precisions and peers; save after every epoch."""
    results["machine"] = machine.describe(options.threads)
    key = options.recipe.precision + (", timing" if options.timing_only else "")
    run = results.setdefault("runs", {}).setdefault(key, {})
    described = options.recipe.described() | {"images": options.images}
    if run.get("recipe") != described:
        run.clear()
    run["recipe"], run["target"] = described, options.target
    run.setdefault("peers", {}).update({p: {"epochs": []} for p in options.peers})
    turns = _TIMED_EPOCHS if options.timing_only else options.recipe.epochs
    watch = machine.Watch()
    if options.order == "alternate":
        with ExitStack() as stack:
            running = {p: _start(p, options, run, stack) for p in options.peers}
            for epoch in range(turns):
                for p in options.peers:
                    _epoch(running[p], p, epoch, options, run, save)
    else:
        for p in options.peers:
            with ExitStack() as stack:
                peer = _start(p, options, run, stack)
                for epoch in range(turns):
                    _epoch(peer, p, epoch, options, run, save)
    run["others"] = watch.others()
    save()


def _start(name: str, options: Options, run: dict[str, Any], stack: ExitStack) -> Peer:
    peer = stack.enter_context(Peer(_ROOM, name, options.threads))
    answer = peer.ask(
        do="prepare", data=str(options.data.resolve()), recipe=options.recipe.described(), images=options.images,
        warm=options.timing_only,
    )  # fmt: skip
    run["peers"][name].update(answer)
    said = f"failed: {answer['error']}" if "error" in answer else f"decoded in {answer['decode']:.1f} s"
    print(f"{_NAMES[name]}: {said}", file=sys.stderr, flush=True)
    return peer


def _epoch(
    peer: Peer, name: str, epoch: int, options: Options, run: dict[str, Any], save: Callable[[], None]
) -> None:  # fmt: skip
    found = run["peers"][name]
    if "error" in found:
        return
    answer = peer.ask(do="epoch", test=not options.timing_only)
    if "error" in answer:
        found["error"] = answer["error"]
        print(f"{_NAMES[name]}: failed: {answer['error']}", file=sys.stderr, flush=True)
    else:
        found["epochs"].append(answer)
        said = "" if "accuracy" not in answer else f", accuracy {100 * answer['accuracy']:.2f} %"
        print(
            f"{_NAMES[name]}: epoch {epoch + 1}, {answer['seconds']:.1f} s, loss {answer['loss']:.4f}{said}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    save()


def open_peer(name: str, threads: int) -> Callable[[Answer], Answer]:
    """What runs in the peer's process: answers `prepare`, `epoch` and `losses`."""
    library = importlib.import_module(PEERS[name])
    library.set_num_threads(threads)
    training: Training | None = None

    def prepare(question: Answer) -> Answer:
        nonlocal training
        start = time.perf_counter()
        decode = _decode_by_firepot if name == "firepot" else _decode_by_torch
        images = _some(decode(Path(question["data"]), threads), question["images"])
        decoded = time.perf_counter()
        values = question["recipe"] | {"widths": tuple(question["recipe"]["widths"])}
        training = Training(library, Recipe(**values), images, compiled=name == "torch-compile")
        if question["warm"]:
            first_steps(training, _WARM_STEPS)
        return {"decode": decoded - start, "initialise": time.perf_counter() - decoded}

    def answer(question: Answer) -> Answer:
        if question["do"] == "prepare":
            return prepare(question)
        assert training is not None
        if question["do"] == "losses":
            return {"losses": first_steps(training, question["steps"])}
        start = time.perf_counter()
        loss = training.epoch()
        trained = time.perf_counter()
        found = {"seconds": trained - start, "loss": loss}
        if question["test"]:
            found |= {"accuracy": training.accuracy(), "test seconds": time.perf_counter() - trained}
        return found

    return answer


def first_steps(training: Training, steps: int) -> list[float]:
    """Losses of steps on the first images of the set, not moved."""
    size = training.recipe.batch
    places = np.arange(len(training.mirrored_first))
    unmoved = np.full((2, len(places)), 2)
    return [training.step(np.roll(places, -size * number)[:size], unmoved) for number in range(steps)]


# The files.


def _decode_by_firepot(data: Path, threads: int) -> Images:
    from firepot.vision.datasets import ImageArrays, open_dataset

    found = open_dataset(data, in_memory=True)
    assert isinstance(found.train, ImageArrays)
    assert isinstance(found.test, ImageArrays)
    return Images(found.train.images, found.train.labels, found.test.images, found.test.labels)


class _Files:
    """A map-style set for PyTorch's loader: the files of a folder or a zip archive in sorted order."""

    def __init__(self, data: Path, part: str) -> None:
        self.data, self.process, self.archive = data, -1, None
        if data.is_dir():
            every = [p.relative_to(data).as_posix() for p in data.glob("*/*/*") if p.is_file()]
        else:
            with zipfile.ZipFile(data) as archive:
                every = [n for n in archive.namelist() if not n.endswith("/")]
        self.names = sorted(n for n in every if PurePosixPath(n).parts[-3] == part)
        classes = sorted({PurePosixPath(n).parts[-2] for n in self.names})
        self.labels = np.array([classes.index(PurePosixPath(n).parts[-2]) for n in self.names], np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        import torch
        from PIL import Image

        with Image.open(io.BytesIO(self._read(self.names[index]))) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))

    def _read(self, name: str) -> bytes:
        if self.data.is_dir():
            return (self.data / name).read_bytes()
        if self.process != os.getpid():  # a worker must not share the file position of the others
            self.process, self.archive = os.getpid(), zipfile.ZipFile(self.data)
        return self.archive.read(name)  # type: ignore[union-attr]


def _decode_by_torch(data: Path, threads: int) -> Images:
    import torch

    found = []
    for part in ("train", "test"):
        files = _Files(data, part)
        workers = threads if len(files) > 1000 else 0
        loader = torch.utils.data.DataLoader(files, batch_size=500, num_workers=workers)  # type: ignore[arg-type,var-annotated]
        found += [torch.cat(list(loader)).numpy(), files.labels]
    return Images(*found)


def _some(images: Images, count: int | None) -> Images:
    """Every so manieth image; all where `count` is None. Files come class by class, so the first would be of one."""
    if count is None:
        return images
    train = np.linspace(0, len(images.train) - 1, count).astype(int)
    test = np.linspace(0, len(images.test) - 1, max(1, count // 5)).astype(int)
    return Images(images.train[train], images.train_labels[train], images.test[test], images.test_labels[test])


# What it says.


def seconds_to(peer: dict[str, Any], target: float) -> tuple[float, int] | None:
    """Seconds of decoding, compiling and training until the test accuracy was `target`, and the epochs of it."""
    total = peer.get("decode", 0.0) + peer.get("initialise", 0.0)
    for number, epoch in enumerate(peer["epochs"]):
        total += epoch["seconds"]
        if epoch.get("accuracy", 0.0) >= target:
            return total, number + 1
    return None


def table(run: dict[str, Any]) -> report.Table:
    """A row a library: the parts of its time, its accuracy, and its share of PyTorch's time."""
    goal = f"{100 * run['target']:.0f} %"
    result = [
        ["", "decoding, s", "epoch, s", "epochs", "loss", "accuracy", f"s to {goal}", f"s in all to {goal} ÷ PyTorch"]
    ]
    whole = {p: seconds_to(found, run["target"]) for p, found in run["peers"].items()}
    for p, found in run["peers"].items():
        epochs = found["epochs"]
        if not epochs:
            result.append([_NAMES[p], found.get("error", "–")[:60], *["–"] * 6])
            continue
        accuracy = f"{100 * epochs[-1]['accuracy']:.2f} %" if "accuracy" in epochs[-1] else "–"
        reached, theirs = whole[p], whole.get("torch")
        result.append([
            _NAMES[p], f"{found['decode']:.1f}", f"{_median([e['seconds'] for e in epochs]):.1f}", str(len(epochs)),
            f"{epochs[-1]['loss']:.4f}", accuracy, f"{reached[0]:.0f} ({reached[1]} epochs)" if reached else "–",
            f"{reached[0] / theirs[0]:.2f}" if reached and theirs else "–",
        ])  # fmt: skip
    return result


def document(results: Results) -> str:
    parts = [
        "## Time to an accuracy on CIFAR-10",
        machine.sentence(results["machine"]),
        "The same recipe, initial weights and batches in both libraries, each in its own process; seconds hold decoding "
        "the JPEG files, compiling, augmentation and training, and not the test after each epoch.",
    ]
    if any("accuracy" in e for run in results["runs"].values() for p in run["peers"].values() for e in p["epochs"]):
        parts.append("![Accuracy over time](cifar10.png)")
    for key, run in results["runs"].items():
        parts += [f"### {key}", machine.warning({"it": run.get("others", 0.0)}), markdown_of(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_of(run: dict[str, Any]) -> str:
    """The table, what an epoch takes beside PyTorch's, and the recipe."""
    medians = {p: _median([e["seconds"] for e in f["epochs"]]) for p, f in run["peers"].items() if f["epochs"]}
    parts = [report.markdown(table(run))]
    if "firepot" in medians and len(medians) > 1:
        best = min((p for p in medians if p != "firepot"), key=medians.__getitem__)
        parts.append(f"An epoch takes {medians['firepot'] / medians[best]:.2f} of the time of {_NAMES[best]}.")
    recipe = ", ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in run["recipe"].items() if v is not None)
    return "\n\n".join([*parts, f"Recipe: {recipe}."])


def plot(results: Results, path: Path) -> None:
    """Test accuracy over seconds, a panel a precision."""
    runs = {
        k: r
        for k, r in results["runs"].items()
        if any("accuracy" in e for p in r["peers"].values() for e in p["epochs"])
    }
    if not runs:
        return
    figure, axes = plots.new_figure(6.4 * len(runs), 4.2, len(runs))
    for panel, (key, run) in zip(axes, runs.items(), strict=True):
        for p, found in run["peers"].items():
            start = found.get("decode", 0.0) + found.get("initialise", 0.0)
            times = start + np.cumsum([e["seconds"] for e in found["epochs"]])
            accuracies = [100 * e.get("accuracy", math.nan) for e in found["epochs"]]
            panel.plot(times / 60, accuracies, "o-", ms=4, color=_COLOURS[p], label=_NAMES[p])
        panel.axhline(100 * run["target"], color="#999999", lw=1, ls="--")
        panel.set_title(f"{key}: test accuracy, %", fontsize=11, loc="left")
        panel.set_xlabel("minutes of decoding, compiling and training", fontsize=9)
        panel.grid(axis="y", color="#e4e4e4", lw=0.8)
        panel.legend(frameon=False, loc="lower right")
    plots.save(figure, path)


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _plain(value: Any) -> str:
    return (
        "/".join(map(str, value))
        if isinstance(value, (list, tuple))
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )
