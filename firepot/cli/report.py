"""The report of a training: curves, confusion matrix, and the images it got wrong."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from firepot.cli.train import Configuration
from firepot.vision.datasets import ImageArrays, ImageData

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

_SHOWN = 60  # wrong images in the report
_THUMBNAIL = 168  # pixels, twice what is shown
_NUMBERED = 30  # classes up to which a confusion matrix has room for names and counts
_STYLE = """
:root{--ink:#1d2330;--soft:#667085;--line:#e4e7ec;--card:#fff;--back:#f6f7f9;--accent:#2563a8}
*{box-sizing:border-box} body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;margin:0;color:var(--ink);
background:var(--back)} main{max-width:64rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.7rem;margin:0 0 1.2rem} h2{font-size:1.1rem;margin:0 0 .9rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1.2rem 1.4rem;margin-top:1.2rem}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.5rem,1fr));gap:.8rem}
.numbers div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem 1rem}
.numbers b{display:block;font-size:1.5rem;font-weight:650;color:var(--accent)} .numbers span,p.note{color:var(--soft);
font-size:.85rem} p.note{margin:.8rem 0 0} img.figure{display:block;max-width:100%;max-height:36rem;margin:0 auto}
table{border-collapse:collapse;font-size:.92rem} td{padding:.15rem 1.6rem .15rem 0} td:first-child{color:var(--soft)}
.wrong{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.6rem,1fr));gap:1rem .8rem}
.wrong figure{margin:0;text-align:center;font-size:.8rem;line-height:1.3;overflow-wrap:anywhere}
.wrong img{width:84px;height:84px;object-fit:contain;border-radius:6px;border:1px solid var(--line)}
.wrong img.small{image-rendering:pixelated} .wrong small{color:var(--soft)}"""


class Evaluation(NamedTuple):
    """A model's answers on the test set, one entry an image, in the order of the set.

    losses: cross-entropy; predictions: the likeliest class; confidences: its probability; labels: the true class
    """

    losses: Array
    predictions: Array
    confidences: Array
    labels: Array

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        return float((self.predictions == self.labels).mean())


def write_report(
    output: Path, configuration: Configuration, data: ImageData, history: list[dict[str, float]],
    evaluation: Evaluation, parameters: int,
) -> None:  # fmt: skip
    """Write curves.png, confusion.png and report.html, which holds everything that it shows."""
    matrix = np.zeros((len(data.classes),) * 2, np.int64)
    np.add.at(matrix, (evaluation.labels, evaluation.predictions), 1)
    _curves(output / "curves.png", history)
    _confusion(output / "confusion.png", matrix, data.classes)
    wrong = np.flatnonzero(evaluation.labels != evaluation.predictions)
    wrong = wrong[np.argsort(-evaluation.confidences[wrong], kind="stable")]
    figures = "".join(_figure(data, evaluation, int(index)) for index in wrong[:_SHOWN])
    shown = f"the {_SHOWN} it was surest of" if len(wrong) > _SHOWN else "surest first"
    numbers = {
        "test accuracy": f"{100 * evaluation.accuracy:.2f} %",
        "wrong images": f"{len(wrong):,}",
        "test loss": f"{evaluation.loss:.4f}",
        "images to train": f"{len(data.train):,}",
        "images to test": f"{len(data.test):,}",
        "epochs": str(len(history)),
        "parameters": f"{parameters:,}",
    }
    cards = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in numbers.items())
    settings = "".join(
        f"<tr><td>{name.replace('_', ' ')}</td><td>{html.escape('default' if value is None else str(value))}</td></tr>"
        for name, value in asdict(configuration).items()
    )
    title = html.escape(f"{configuration.model} on {data.name}")
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style><main>
<h1>{title}</h1><div class="numbers">{cards}</div>
<section><h2>Curves</h2><img class="figure" alt="loss and accuracy by epoch" src="{_embedded(output / "curves.png")}">
<p class="note">Training figures are means over the epoch, while the model was learning, on varied images and with
smoothed labels; test figures are of the model after the epoch, on the images as they are.</p></section>
<section><h2>Confusion</h2><img class="figure" alt="confusion matrix" src="{_embedded(output / "confusion.png")}">
<p class="note">Each row is a true class, each column what the model took it for; shades are shares of the row.</p>
</section>
<section><h2>What it got wrong: {len(wrong):,} images{", " + shown if len(wrong) else ""}</h2>
<div class="wrong">{figures}</div></section>
<section><h2>Configuration</h2><table>{settings}</table></section></main></html>
"""
    (output / "report.html").write_text(page, encoding="utf-8")


def _figure(data: ImageData, evaluation: Evaluation, index: int) -> str:
    """One image with what it is and what it was taken for."""
    from PIL import Image

    test = data.test
    pixels = test.images[index] if isinstance(test, ImageArrays) else test.load(index)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    small = max(image.size) <= _THUMBNAIL // 2  # shown enlarged, pixel by pixel
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "PNG")
    source = base64.b64encode(file.getvalue()).decode()
    true = html.escape(data.classes[int(evaluation.labels[index])])
    found = html.escape(data.classes[int(evaluation.predictions[index])])
    share = f"{100 * evaluation.confidences[index]:.0f} %"
    return (
        f'<figure><img{" class=small" if small else ""} alt="{true} taken for {found}" '
        f'src="data:image/png;base64,{source}">'
        f"<figcaption>{true}, taken for <b>{found}</b><br><small>{share} sure</small></figcaption></figure>"
    )


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A Matplotlib figure without the global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    return figure, FigureCanvasAgg(figure)


def _curves(path: Path, history: list[dict[str, float]]) -> None:
    from matplotlib.ticker import MaxNLocator

    figure, canvas = _new_figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axes, quantity, scale in ((left, "loss", 1.0), (right, "accuracy", 100.0)):
        for part in ("train", "test"):
            axes.plot(epochs, [scale * row[f"{part}_{quantity}"] for row in history], marker="o", ms=3, label=part)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss" if quantity == "loss" else "accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    canvas.print_png(str(path))


def _confusion(path: Path, matrix: Array, classes: tuple[str, ...]) -> None:
    count = len(classes)
    named = count <= _NUMBERED
    side = 3.0 + 0.36 * count if named else 8.0
    figure, canvas = _new_figure(side, side)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("taken for")
    axes.set_ylabel("true class")
    if named:
        upright = max(map(len, classes)) <= 2
        axes.set_xticks(range(count), classes, rotation=0 if upright else 90)
        axes.set_yticks(range(count), classes)
        for true, found in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[true, found] > 0.5 else "black"
            axes.text(found, true, str(matrix[true, found]), ha="center", va="center", fontsize=8, color=colour)
    canvas.print_png(str(path))
