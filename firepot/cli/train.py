"""`firepot train`: from arguments to a configuration, a training and a report."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firepot.cli.errors import UserError

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop", "adagrad", "lion", "lamb")
SCHEDULES = ("onecycle", "cosine", "step", "constant")
AUGMENTATIONS = ("none", "basic", "randaugment", "mixup", "cutmix")
# Learning rates that suit each optimiser at batch sizes around 64.
_RATES = {"adamw": 3e-3, "adam": 2e-3, "sgd": 0.1, "rmsprop": 1e-3, "adagrad": 2e-2, "lion": 3e-4, "lamb": 5e-3}


@dataclass
class Configuration:
    """Everything that decides the numbers of a training; stored in the output folder and in every checkpoint."""

    data: str
    model: str
    epochs: int
    batch_size: int
    lr: float
    optimizer: str
    schedule: str
    augment: str
    weight_decay: float
    label_smoothing: float
    seed: int
    workers: int
    image_size: int | None
    threads: int | None


def add_arguments(commands: Any) -> None:
    from firepot.vision.models import list_models

    parser = commands.add_parser(
        "train", help="train an image classifier",
        description="Trains an image classifier. With no arguments: a small convolution network on the handwritten "
        "digits that come with Firepot, to 98 % and more in under a minute.",
        epilog="Examples:\n  firepot train\n  firepot train --data fashion-mnist --model resnet18 --epochs 5\n"
        "  firepot train --data photos.zip --model mobilenet_v2 --augment randaugment\n"
        "  firepot train --resume runs/digits-lenet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--data", default="digits", metavar="NAME|PATH",
        help="digits, fashion-mnist, a folder of IDX files, a folder of class folders with JPEG or PNG images, or a zip "
        "archive of one (default: digits)")  # fmt: skip
    add("--model", choices=list_models(), metavar="MODEL",
        help=f"one of {', '.join(list_models())} (default: lenet for small grey images, else resnet18)")  # fmt: skip
    add("--epochs", type=_positive, metavar="N", help="times through the data (default: 15 for digits, else 10)")
    add("--batch-size", type=_positive, default=64, metavar="N", help="images in a step (default: 64)")
    add("--lr", type=float, metavar="RATE", help="highest learning rate (default: what suits the optimiser)")
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="default: adamw")
    add("--schedule", choices=SCHEDULES, default="onecycle", help="course of the learning rate (default: onecycle)")
    add("--augment", choices=AUGMENTATIONS, default="basic",
        help="how training images are varied; basic shifts them, and mirrors all but digits (default: basic)")  # fmt: skip
    add("--weight-decay", type=float, default=0.01, metavar="X", help="default: 0.01")
    add("--label-smoothing", type=float, default=0.1, metavar="X", help="default: 0.1")
    add(
        "--image-size", type=_positive, metavar="N", help="side that images are brought to (default: their own, or 224)"
    )
    add("--seed", type=int, default=0, metavar="N", help="of weights, order and augmentation (default: 0)")
    add("--workers", type=int, default=0, metavar="N", help="processes that prepare batches (default: 0)")
    add("--threads", type=_positive, metavar="N", help="threads that compute (default: one a core)")
    add("--output", type=Path, metavar="FOLDER", help="where results go (default: a new runs/DATA-MODEL)")
    add("--resume", type=Path, metavar="FOLDER|FILE", help="go on with an interrupted training; its settings are kept")
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def run(arguments: argparse.Namespace) -> int:
    import firepot as fp
    from firepot.cli.trainer import Trainer
    from firepot.vision import datasets

    checkpoint: dict[str, Any] | None = None
    if arguments.resume is not None:
        path = arguments.resume / "checkpoint.safetensors" if arguments.resume.is_dir() else arguments.resume
        if not path.exists():
            raise UserError(f"there is no checkpoint {path}")
        checkpoint = load_checkpoint(path)
        configuration = Configuration(**checkpoint["configuration"])
        output = arguments.output or path.parent
    else:
        configuration = Configuration(
            data=arguments.data, model=arguments.model or "", epochs=arguments.epochs or 0,
            batch_size=arguments.batch_size, lr=arguments.lr or _RATES[arguments.optimizer],
            optimizer=arguments.optimizer, schedule=arguments.schedule, augment=arguments.augment,
            weight_decay=arguments.weight_decay, label_smoothing=arguments.label_smoothing, seed=arguments.seed,
            workers=arguments.workers, image_size=arguments.image_size, threads=arguments.threads,
        )  # fmt: skip
        output = arguments.output
    threads: int | None = arguments.threads or configuration.threads
    if threads is not None:
        fp.set_num_threads(threads)
    with decoding_bar() as progress:
        data = datasets.open_dataset(configuration.data, configuration.image_size, progress=progress)
    if checkpoint is None:
        small_grey = data.channels == 1 and data.image_size <= 32
        configuration.model = configuration.model or ("lenet" if small_grey else "resnet18")
        configuration.epochs = configuration.epochs or (15 if configuration.data == "digits" else 10)
        output = output or _fresh_folder(Path("runs") / f"{data.name}-{configuration.model}")
    output.mkdir(parents=True, exist_ok=True)
    (output / "configuration.json").write_text(json.dumps(asdict(configuration), indent=2) + "\n")
    trainer = Trainer(configuration, data, output)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    return trainer.run()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What a Trainer saved. Raises UserError if it is something else."""
    import firepot as fp

    state = fp.load(path)
    if not isinstance(state, dict) or "configuration" not in state:
        raise UserError(f"{path}: a safetensors file, but no checkpoint of `firepot train`")
    return state


def _fresh_folder(wanted: Path) -> Path:
    """The folder, or the first of FOLDER-2, FOLDER-3, … that does not exist."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


class decoding_bar:
    """A progress bar that appears when images are decoded."""

    def __enter__(self) -> Any:
        self._bar: Any = None
        return self._report

    def _report(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = extra("tqdm").tqdm(total=total, desc="decoding", unit=" images", leave=False)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()


def extra(name: str) -> Any:
    """A module of the `train` extra. Raises UserError that says how to install it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"needs the package {name.split('.')[0]}: pip install 'firepot[train]'") from None
