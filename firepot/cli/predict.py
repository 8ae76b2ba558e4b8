"""`firepot predict CHECKPOINT IMAGE...`: the likeliest classes of images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from firepot.cli.errors import UserError

_EPILOG = """\
Of an output folder, best.safetensors is taken, the most accurate state. Images of any size, grey or coloured, are
brought to what the model was trained on. One that cannot be read is told on stderr, the others are still named, and
the exit code is 1.

Example
  firepot predict runs/digits-lenet 7.png photo.jpg --top 5"""


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser(
        "predict", help="name what is on images",
        description="Prints the likeliest classes of each image, by a checkpoint of `firepot train`.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("checkpoint", type=Path, help="a checkpoint file, or the output folder of a training")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG, PNG and other image files")
    parser.add_argument("--top", type=_count, default=3, metavar="N", help="classes to print for each (default: 3)")
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def run(arguments: argparse.Namespace) -> int:
    import firepot as fp
    from firepot.cli.train import BEST, CHECKPOINT, load_checkpoint
    from firepot.vision import models, transforms
    from firepot.vision.files import decode

    path = arguments.checkpoint
    if path.is_dir():
        path = path / (BEST if (path / BEST).exists() else CHECKPOINT)
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    state = load_checkpoint(path)
    data = state["data"]
    classes, size = data["classes"], data["image_size"]
    model = models.get_model(state["configuration"]["model"], len(classes), data["channels"], size)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit the model: {' '.join(str(error).split())}") from None
    model.eval()
    normalise = transforms.Augment(data["mean"], data["std"])
    failures = 0
    for image in arguments.images:
        try:
            pixels = decode(image.read_bytes(), str(image), data["channels"], size)
        except (OSError, ValueError) as error:
            reason = f"{image}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
            print(f"firepot predict: {reason}", file=sys.stderr)
            failures += 1
            continue
        with fp.no_grad():
            shares = fp.softmax(model(fp.from_numpy(normalise(pixels[None]))), 1)[0]
        values, indices = shares.topk(min(arguments.top, len(classes)))
        found = [
            f"{classes[i]} {100 * share:.1f} %"
            for share, i in zip(values.tolist(), indices.tolist(), strict=True)
        ]  # fmt: skip
        print(f"{image}: {', '.join(found)}")
    return 1 if failures else 0
