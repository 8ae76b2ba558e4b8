"""The report of a training: curves, confusion matrix, and the images it got wrong."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firepot.cli.train import Configuration, extra
from firepot.vision.datasets import ImageArrays, ImageData

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

_SHOWN = 60  # wrong images in the report
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
img.figure{max-width:100%} table{border-collapse:collapse} td{padding:.1rem .8rem .1rem 0}
.wrong{display:flex;flex-wrap:wrap;gap:.6rem} .wrong figure{margin:0;text-align:center;font-size:13px}
.wrong img{width:84px;height:84px;image-rendering:pixelated;object-fit:contain}"""


def write_report(
    output: Path, configuration: Configuration, data: ImageData, history: list[dict[str, float]], predictions: Array
) -> None:
    """Write curves.png, confusion.png and report.html."""
    labels = np.asarray(data.test.labels)
    matrix = np.zeros((len(data.classes),) * 2, np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    _curves(output / "curves.png", history)
    _confusion(output / "confusion.png", matrix, data.classes)
    wrong = np.flatnonzero(labels != predictions)
    accuracy = 1 - len(wrong) / len(labels)
    settings = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in asdict(configuration).items()
    )
    figures = "".join(_figure(data, int(i), int(predictions[i])) for i in wrong[:_SHOWN])
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(data.name)}</title>
<style>{_STYLE}</style>
<h1>{html.escape(configuration.model)} on {html.escape(data.name)}</h1>
<p>{100 * accuracy:.2f} % of {len(labels):,} test images right after {len(history)} epochs.</p>
<h2>Curves</h2><img class="figure" alt="loss and accuracy by epoch" src="{_embedded(output / "curves.png")}">
<h2>Confusion</h2><img class="figure" alt="confusion matrix" src="{_embedded(output / "confusion.png")}">
<h2>Wrong: {min(len(wrong), _SHOWN)} of {len(wrong)}</h2><div class="wrong">{figures}</div>
<h2>Configuration</h2><table>{settings}</table></html>
"""
    (output / "report.html").write_text(page)


def _figure(data: ImageData, index: int, prediction: int) -> str:
    from PIL import Image

    test = data.test
    image = test.images[index] if isinstance(test, ImageArrays) else test.load(index)
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "PNG")
    source = base64.b64encode(file.getvalue()).decode()
    true, found = data.classes[int(test.labels[index])], data.classes[prediction]
    caption = f"{html.escape(true)} taken for {html.escape(found)}"
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{source}"><figcaption>{caption}</figcaption></figure>'
    )


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A Matplotlib figure without the global state of pyplot."""
    extra("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, FigureCanvasAgg(figure)


def _curves(path: Path, history: list[dict[str, float]]) -> None:
    figure, canvas = _new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axes, quantity, scale in ((left, "loss", 1.0), (right, "accuracy", 100.0)):
        for part in ("train", "test"):
            axes.plot(epochs, [scale * row[f"{part}_{quantity}"] for row in history], marker="o", ms=3, label=part)
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity if scale == 1.0 else "accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend()
    canvas.print_png(str(path))


def _confusion(path: Path, matrix: Array, classes: tuple[str, ...]) -> None:
    count = len(classes)
    side = min(12.0, 3.0 + 0.4 * count)
    figure, canvas = _new_figure(side, side)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= 30:
        axes.set_xticks(range(count), classes, rotation=90 if count > 12 else 45)
        axes.set_yticks(range(count), classes)
        for i, j in zip(*np.nonzero(matrix), strict=True):
            axes.text(
                j,
                i,
                str(matrix[i, j]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[i, j] > 0.5 else "black",
            )
    canvas.print_png(str(path))
