"""`firepot train`: from arguments to a configuration, a training and a report."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firepot.cli.errors import UserError

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop", "adagrad", "lion", "lamb")
SCHEDULES = ("onecycle", "cosine", "step", "constant")
PRECISIONS = ("float32", "bfloat16")
AUGMENTATIONS = ("none", "basic", "randaugment", "mixup", "cutmix")
# Learning rates that suit each optimiser at batch sizes around 64.
_RATES = {"adamw": 3e-3, "adam": 2e-3, "sgd": 0.1, "rmsprop": 1e-3, "adagrad": 2e-2, "lion": 3e-4, "lamb": 5e-3}
_NAMED_DATA = ("digits", "fashion-mnist")
CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"

_EPILOG = """\
The output folder gets
  configuration.json        what this training was
  metrics.jsonl, events.*   loss, accuracy and learning rate: for programs, and for `tensorboard --logdir runs`
  checkpoint.safetensors    the newest state, after every epoch and once a minute; best.safetensors the most accurate
  report.html               curves, confusion matrix and the images it got wrong; curves.png, confusion.png

Ctrl-C stops after the running step and keeps a checkpoint; --resume goes on to the same numbers as a training
that was never stopped. The numbers depend on the seed, not on --workers or --threads.

Examples
  firepot train
  firepot train --data fashion-mnist --model resnet18 --epochs 5
  firepot train --data photos.zip --model mobilenet_v2 --augment randaugment --workers 2
  firepot train --resume runs/digits-lenet"""


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
    precision: str
    seed: int
    workers: int
    image_size: int | None
    threads: int | None


def add_arguments(commands: Any) -> None:
    from firepot.vision.models import list_models

    parser = commands.add_parser(
        "train", help="train an image classifier",
        description="Trains an image classifier. With no arguments: a small convolution network on the handwritten "
        "digits that\ncome with Firepot, to 98 % and more in under a minute.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    # No defaults here: so --resume can tell what was asked for.
    what = parser.add_argument_group("what to learn").add_argument
    what("--data", metavar="NAME|PATH",
        help="digits, fashion-mnist, a folder of IDX files, a folder of class folders with JPEG or PNG images, or a zip "
        "archive of one (default: digits)")  # fmt: skip
    what("--image-size", type=_positive, metavar="N",
        help="side that images are brought to (default: their own if all have the same, else 224)")  # fmt: skip
    what("--augment", choices=AUGMENTATIONS, metavar="HOW",
        help="how training images are varied: none; basic (shifted, and mirrored except for writing); randaugment; "
        "mixup; cutmix (default: basic)")  # fmt: skip
    how = parser.add_argument_group("how to learn").add_argument
    how("--model", choices=list_models(), metavar="MODEL",
        help=f"one of {', '.join(list_models())} (default: lenet for small grey images, else resnet18)")  # fmt: skip
    how("--epochs", type=_positive, metavar="N", help="times through the data (default: 15 for digits, else 10)")
    how("--batch-size", type=_positive, metavar="N", help="images in a step (default: 64)")
    how("--optimizer", choices=OPTIMIZERS, metavar="NAME", help=f"one of {', '.join(OPTIMIZERS)} (default: adamw)")
    how("--lr", type=_above_zero, metavar="RATE", help="highest learning rate (default: what suits the optimiser)")
    how("--schedule", choices=SCHEDULES, metavar="NAME",
        help="course of the learning rate: onecycle (up, then down to zero), cosine (down to zero), step (a tenth after "
        "each third), constant (default: onecycle)")  # fmt: skip
    how("--weight-decay", type=_not_negative, metavar="X", help="default: 0.01, for sgd 0.0005")
    how("--label-smoothing", type=_share, metavar="X", help="from 0 to below 1 (default: 0.1)")
    how("--precision", choices=PRECISIONS, metavar="DTYPE",
        help="float32, or bfloat16: convolutions and products in half the bytes, weights in float32 (fp.autocast; "
        "default: float32)")  # fmt: skip
    how("--seed", type=_natural, metavar="N", help="of weights, order and augmentation (default: 0)")
    where = parser.add_argument_group("where and with what").add_argument
    where("--workers", type=_natural, metavar="N", help="processes that prepare batches (default: 0)")
    where("--threads", type=_positive, metavar="N", help="threads that compute (default: one a core)")
    where("--output", type=Path, metavar="FOLDER", help="where results go (default: a new runs/DATA-MODEL)")
    where("--resume", type=Path, metavar="FOLDER|FILE",
        help="go on with an interrupted training, with its settings; --workers and --threads may change")  # fmt: skip
    parser.set_defaults(run=run)


def _number(text: str, kind: Any, least: float, above: bool = False, below: float | None = None) -> Any:
    value = kind(text)
    if not (value > least if above else value >= least) or (below is not None and not value < below):
        limits = f"above {least}" if above else f"{least} or more"
        raise argparse.ArgumentTypeError(f"must be {limits}{'' if below is None else f', below {below}'}, got {text}")
    return value


def _positive(text: str) -> int:
    return _number(text, int, 1)


def _natural(text: str) -> int:
    return _number(text, int, 0)


def _above_zero(text: str) -> float:
    return _number(text, float, 0, above=True)


def _not_negative(text: str) -> float:
    return _number(text, float, 0)


def _share(text: str) -> float:
    return _number(text, float, 0, below=1)


def run(arguments: argparse.Namespace) -> int:
    from firepot.cli.extras import require_extras

    require_extras()
    if arguments.resume is not None:
        configuration, checkpoint, output = _resumed(arguments)
    else:
        configuration, checkpoint, output = _configured(arguments), None, arguments.output
        if output is not None and (output / CHECKPOINT).exists():
            raise UserError(
                f"{output} holds a training: go on with it by --resume {output}, or name another folder by --output"
            )
    _check_writable(output or Path("runs"))

    import firepot as fp
    from firepot.cli.progress import Decoding
    from firepot.cli.trainer import Trainer
    from firepot.vision import datasets

    if configuration.threads is not None:
        fp.set_num_threads(configuration.threads)
    with Decoding() as progress:
        data = datasets.open_dataset(configuration.data, configuration.image_size, progress=progress)
    if len(data.classes) < 2:
        raise UserError(f"{configuration.data}: one class, '{data.classes[0]}'; there must be two to tell apart")
    if not configuration.model:
        small_and_grey = data.channels == 1 and data.image_size <= 32
        configuration.model = "lenet" if small_and_grey else "resnet18"
    if output is None:
        output = _fresh_folder(Path("runs") / f"{data.name}-{configuration.model}")
    output.mkdir(parents=True, exist_ok=True)
    (output / "configuration.json").write_text(json.dumps(asdict(configuration), indent=2) + "\n")
    trainer = Trainer(configuration, data, output)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    try:
        return trainer.run()
    except BaseException:
        if trainer.saved_step is not None:
            print(
                f"the newest checkpoint is of step {trainer.saved_step:,}; go on with: firepot train --resume {output}",
                file=sys.stderr,
            )
        raise


def _configured(arguments: argparse.Namespace) -> Configuration:
    """The arguments, with defaults for what was left out. An empty model is chosen when the images are known."""
    data = arguments.data or "digits"
    if data not in _NAMED_DATA and Path(data).expanduser().exists():
        data = str(Path(data).expanduser().absolute())  # so that --resume finds it from any folder
    optimizer = arguments.optimizer or "adamw"
    defaults: dict[str, Any] = {
        "model": "", "epochs": 15 if data == "digits" else 10, "batch_size": 64, "lr": _RATES[optimizer],
        "schedule": "onecycle", "augment": "basic", "weight_decay": 5e-4 if optimizer == "sgd" else 0.01,
        "label_smoothing": 0.1, "precision": "float32", "seed": 0, "workers": 0, "image_size": None, "threads": None,
    }  # fmt: skip
    given = {name: getattr(arguments, name) for name in defaults if getattr(arguments, name) is not None}
    return Configuration(data=data, optimizer=optimizer, **defaults | given)


def _resumed(arguments: argparse.Namespace) -> tuple[Configuration, dict[str, Any], Path]:
    """(configuration, checkpoint, output folder) of the training that --resume names."""
    path = arguments.resume / CHECKPOINT if arguments.resume.is_dir() else arguments.resume
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    checkpoint = load_checkpoint(path)
    kept = checkpoint["configuration"]
    for name, value in kept.items():
        given = getattr(arguments, name)
        if given is None or given == value:
            continue
        if name not in ("workers", "threads"):
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} {given} does not fit --resume: that training has {option} {value}, and keeps it")
        kept[name] = given
    return Configuration(**kept), checkpoint, arguments.output or path.parent


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What a Trainer saved. Raises UserError if it is something else."""
    import firepot as fp

    state = fp.load(path)
    if not isinstance(state, dict) or not {"configuration", "data", "model"} <= state.keys():
        raise UserError(f"{path}: a safetensors file, but no checkpoint of `firepot train`")
    fields, found = set(Configuration.__dataclass_fields__), set(state["configuration"])
    if fields != found:
        raise UserError(
            f"{path}: a checkpoint of another version of Firepot; its configuration differs in "
            f"{', '.join(sorted(fields ^ found))}"
        )
    return state


def _check_writable(folder: Path) -> None:
    """Raises OSError if files cannot be made there: now, and not after the data was read."""
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    try:
        handle, name = tempfile.mkstemp(prefix=".writable.", dir=nearest)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    os.close(handle)
    os.unlink(name)


def _fresh_folder(wanted: Path) -> Path:
    """The folder, or the first of FOLDER-2, FOLDER-3, … that does not exist."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
