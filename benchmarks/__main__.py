"""Measures Firepot beside its peers and writes tables and plots.

    python -m benchmarks                  the seven networks: training, inference, first step, memory, installing
    python -m benchmarks --quick          the same in under five minutes, on fewer peers
    python -m benchmarks matmul           matrix products
    python -m benchmarks convolution      the layers of ResNet-50 and MobileNetV2
    python -m benchmarks cifar10 --data X time to an accuracy on CIFAR-10, from the image files
    python -m benchmarks calls            what a call costs
    python -m benchmarks check            whether the peers compute the same
    python -m benchmarks readme README.md puts the tables into a file, between its markers

Peers that are not installed are shown as such. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import calls, cifar10, convolution, libraries, matmul, models, networks, plots, readme, report
from benchmarks.cifar10_recipe import Recipe

_FOLDER = Path(__file__).resolve().parent / "results"
_QUICK_PEERS = ("firepot", "torch", "torch-channels-last", "onnxruntime", "openvino")
_COMMANDS = ("networks", "matmul", "convolution", "cifar10", "calls", "check", "readme")


def main(arguments: list[str]) -> None:
    given = parser().parse_args(arguments if arguments[:1] and arguments[0] in _COMMANDS else _default(arguments))
    given.run(given)


def _default(arguments: list[str]) -> list[str]:
    return arguments if arguments in (["-h"], ["--help"]) else ["networks", *arguments]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = result.add_subparsers(required=True, metavar="{" + ",".join(_COMMANDS) + "}")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--output", type=Path, default=_FOLDER, help="folder of the results (default: %(default)s)")
        return added

    added = command("networks", _networks, "the seven networks on every library; what is run when nothing is named")
    added.add_argument("--quick", action="store_true", help="under five minutes: fewer peers and turns, batch 1 only")
    added.add_argument("--models", nargs="+", choices=models.NAMES, default=list(models.NAMES), metavar="MODEL")
    added.add_argument("--peers", nargs="+", choices=list(libraries.PEERS), metavar="PEER")
    added.add_argument("--parts", nargs="+", choices=networks.PARTS, default=list(networks.PARTS))
    added.add_argument("--rounds", type=int, help="turns that each peer gets (default: 4, quick: 2)")
    added.add_argument("--seconds", type=float, help="of training in a turn (default: 2, quick: 0.5)")
    added.add_argument("--threads", type=int, default=2)
    added.add_argument("--caches", type=Path, help="folder for the peers' compiled code, so that parts can run apart")
    added.add_argument("--keep", action="store_true", help="keep earlier results of other models and parts")

    added = command("matmul", _matmul, "float32 matrix products against OpenBLAS, MKL and oneDNN")
    added.add_argument("--quick", action="store_true", help="sizes up to 1024")
    added.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    added.add_argument("--keep", action="store_true", help="keep earlier results of other numbers of threads")

    added = command("convolution", _convolution, "the layers of two networks against PyTorch's oneDNN")
    added.add_argument("--networks", nargs="+", choices=list(convolution.NETWORKS), default=list(convolution.NETWORKS))
    added.add_argument("--threads", type=int, default=2)
    added.add_argument("--keep", action="store_true", help="keep earlier results of the other network")

    added = command("cifar10", _cifar10, "time to an accuracy on CIFAR-10 beside PyTorch, from the image files")
    default = Recipe()
    added.add_argument("--data", type=Path, required=True, help="folder or zip archive: train/CLASS/*.jpg, test/CLASS/*.jpg")
    added.add_argument("--peer", nargs="+", choices=list(cifar10.PEERS), default=["firepot", "torch"], metavar="PEER",
        help=f"of {', '.join(cifar10.PEERS)} (default: firepot torch)")  # fmt: skip
    added.add_argument("--epochs", type=int, default=default.epochs, help="default: %(default)s")
    added.add_argument("--batch-size", type=int, default=default.batch, help="default: %(default)s")
    added.add_argument("--widths", type=int, nargs=3, default=default.widths, help="channels of the three pairs of layers")
    added.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="bfloat16: under autocast")
    added.add_argument("--seed", type=int, default=0)
    added.add_argument("--order", choices=cifar10.ORDERS, default="alternate",
        help="alternate: an epoch of each in turn; after: one training after the other (default: %(default)s)")  # fmt: skip
    added.add_argument("--seconds-per-epoch", action="store_true", help="only time two epochs of each, without tests")
    added.add_argument("--images", type=int, help="train on only so many images")
    added.add_argument("--target", type=float, default=100 * cifar10.TARGET, help="accuracy in percent; default: %(default)s")
    added.add_argument("--threads", type=int, default=2)
    added.add_argument("--keep", action="store_true", help="keep earlier results of other precisions and peers")

    command("calls", _calls, "what a call costs")
    command("check", _check, "logits and losses of every peer against PyTorch's, for the same weights").add_argument(
        "--models", nargs="+", choices=models.NAMES, default=list(models.NAMES), metavar="MODEL"
    )
    command("readme", _readme, "put the networks' tables into a file, between its markers").add_argument("file", type=Path)
    return result


def _networks(given: argparse.Namespace) -> None:
    path = given.output / "networks.json"
    results = networks.load(path) if given.keep else {}
    options = networks.Options(
        threads=given.threads,
        peers=given.peers or list(_QUICK_PEERS if given.quick else libraries.PEERS),
        models=given.models,
        parts=given.parts,
        batches=(1,) if given.quick else networks.BATCHES,
        rounds=given.rounds or (2 if given.quick else 4),
        seconds=given.seconds or (0.5 if given.quick else 2.0),
        caches=given.caches,
    )

    def save() -> None:
        # In the order of the list, whichever was measured first.
        measured = results.get("models", {})
        if measured:
            results["models"] = {m: measured[m] for m in models.NAMES if m in measured}
        _write(path, results)

    networks.measure(options, results, save)
    if results.get("models"):
        plots.networks(results, given.output / "networks.png")
    _document(given.output)
    print(report.document(results))


def _matmul(given: argparse.Namespace) -> None:
    results = networks.load(given.output / "matmul.json") if given.keep else {}
    matmul.measure(tuple(given.threads), 2 if given.quick else 3, 0.06, results, given.quick)
    _write(given.output / "matmul.json", results)
    (given.output / "matmul.md").write_text(report.markdown(matmul.all_rows(results)) + "\n")
    matmul.plot(results, given.output / "matmul.png")
    _document(given.output)
    print(matmul.document(results))


def _convolution(given: argparse.Namespace) -> None:
    path = given.output / "convolution.json"
    results = networks.load(path) if given.keep else {}
    convolution.measure(given.threads, 3, 0.05, results, given.networks)
    _write(path, results)
    tables = [
        f"## {title}\n\n"
        + report.markdown(
            convolution.table([r for r in results["rows"] if r["network"] == network], results["machine"]["peak"])
        )
        for network, title in convolution.NETWORKS.items()
    ]
    (given.output / "convolution.md").write_text("\n\n".join(tables) + "\n")
    convolution.plot(results, given.output / "convolution.png")
    _document(given.output)
    print(convolution.document(results))


def _cifar10(given: argparse.Namespace) -> None:
    path = given.output / "cifar10.json"
    results = networks.load(path) if given.keep else {}
    recipe = Recipe(
        epochs=given.epochs, batch=given.batch_size, widths=tuple(given.widths), precision=given.precision, seed=given.seed
    )
    options = cifar10.Options(
        given.data, recipe, given.peer, given.threads, given.order, given.seconds_per_epoch, given.images,
        given.target / 100,
    )  # fmt: skip

    def save() -> None:
        # After every epoch, so that a run that is broken off leaves what it found.
        _write(path, results)
        cifar10.plot(results, given.output / "cifar10.png")

    cifar10.measure(options, results, save)
    _document(given.output)
    print(cifar10.document(results))


def _calls(given: argparse.Namespace) -> None:
    results: dict[str, Any] = {}
    calls.measure(5, results)
    _write(given.output / "calls.json", results)
    _document(given.output)
    print(calls.document(results))


def _check(given: argparse.Namespace) -> None:
    from benchmarks import agreement

    table = [["model", "peer", "logits differ by", "losses differ by"]]
    for model in given.models:
        for peer, (logits, losses) in agreement.check(model).items():
            table.append([model, report.NAMES[peer], f"{logits:.1e}", "–" if losses != losses else f"{losses:.1e}"])
    print(report.markdown(table))


def _readme(given: argparse.Namespace) -> None:
    readme.update(given.file, networks.load(given.output / "networks.json"), given.output)


def _document(folder: Path) -> None:
    """README.md of the folder, from all results that lie there."""
    rooms = {"networks": report, "matmul": matmul, "convolution": convolution, "cifar10": cifar10, "calls": calls}
    parts = ["# Benchmarks", "Made by `python -m benchmarks`; raw times in the JSON files beside."]
    for name, room in rooms.items():
        results = networks.load(folder / f"{name}.json")
        if results and (name != "networks" or "models" in results):
            parts.append(room.document(results).strip())
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")


def _write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_shortened(results) + "\n")


def _shortened(results: dict[str, Any]) -> str:
    """JSON, a line an innermost list, with five digits a number."""
    rounded = json.loads(json.dumps(results), parse_float=lambda text: float(f"{float(text):.5g}"))
    return json.dumps(rounded, indent=None, separators=(", ", ": "))


if __name__ == "__main__":
    main(sys.argv[1:])
