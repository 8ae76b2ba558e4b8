"""`firepot predict CHECKPOINT IMAGE...`: the likeliest classes of images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser(
        "predict", help="name what is on images",
        description="Prints the likeliest classes of each image, by a checkpoint of `firepot train`.",
    )  # fmt: skip
    parser.add_argument("checkpoint", type=Path, help="a checkpoint file, or the output folder of a training")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG or PNG files")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes to print for each image (default: 3)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import firepot as fp
    from firepot.cli.errors import UserError
    from firepot.cli.train import load_checkpoint
    from firepot.vision import models, transforms
    from firepot.vision.files import decode

    path = arguments.checkpoint
    if path.is_dir():
        path = path / "best.safetensors" if (path / "best.safetensors").exists() else path / "checkpoint.safetensors"
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    state = load_checkpoint(path)
    data = state["data"]
    classes, size = data["classes"], data["image_size"]
    model = models.get_model(state["configuration"]["model"], len(classes), data["channels"], size)
    model.load_state_dict(state["model"])
    model.eval()
    normalise = transforms.Augment(data["mean"], data["std"])
    failures = 0
    for image in arguments.images:
        try:
            pixels = decode(image.read_bytes(), str(image), data["channels"], size)
        except (OSError, ValueError) as error:
            print(f"{image}: {error}" if str(image) not in str(error) else str(error))
            failures += 1
            continue
        with fp.no_grad():
            shares = fp.softmax(model(fp.from_numpy(normalise(pixels[None]))), 1)[0]
        best = shares.topk(min(arguments.top, len(classes)))
        found = ", ".join(
            f"{classes[i]} {100 * share:.1f} %" for share, i in zip(best[0].tolist(), best[1].tolist(), strict=True)
        )
        print(f"{image}: {found}")
    return 1 if failures else 0
