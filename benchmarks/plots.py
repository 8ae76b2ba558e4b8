"""The pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks import report

_COLOURS = {
    "firepot-eager": "#f4a261", "torch": "#c44e52", "torch-channels-last": "#8c2f39", "torch-compile": "#dd8aa0",
    "jax": "#4c72b0", "onnxruntime": "#55a868", "openvino": "#8172b3",
}  # fmt: skip
_FIREPOT = "#e76f00"
_MARKERS = {"firepot-eager": "D", "torch": "o", "torch-channels-last": "s", "torch-compile": "^", "jax": "v"}
_INK = "#333333"
MATMUL_STYLES = ((_FIREPOT, "D"), ("#55a868", "o"), ("#4c72b0", "s"), ("#8172b3", "^"))


def networks(results: dict[str, Any], path: Path) -> None:
    """Time of each peer over Firepot's, a panel a quantity, a line a model."""
    rows = results["models"]
    quantities = [
        q for q in report.TITLES if any(q in row.get("firepot", {}) and report.best_peer(row, q) for row in rows.values())
    ]  # fmt: skip
    if not quantities:
        return
    figure, axes = new_figure(4.4 * len(quantities) + 1.2, 1.9 + 0.46 * len(rows), len(quantities))
    models = list(rows)
    for panel, quantity in zip(axes, quantities, strict=True):
        points = {
            (m, p): report.median(found[quantity]) / report.median(rows[m]["firepot"][quantity])
            for m in models if rows[m].get("firepot", {}).get(quantity)
            for p, found in rows[m].items() if p != "firepot" and found.get(quantity)
        }  # fmt: skip
        low, high = min(0.8, *points.values()) / 1.12, max(2.0, *points.values()) * 1.12
        panel.set_xscale("log")
        panel.set_xlim(low, high)
        panel.axvspan(low, 1, color="#f3f3f3", zorder=0)
        panel.axvline(1, color=_FIREPOT, lw=2.2, zorder=1)
        for y, model in enumerate(models):
            panel.axhline(y, color="#e4e4e4", lw=0.8, zorder=0)
            best = report.best_peer(rows[model], quantity)
            if (model, best) in points:
                panel.plot([1, points[model, best]], [y, y], color=_FIREPOT, lw=2.2, alpha=0.45, zorder=1)
                panel.annotate(
                    f"{points[model, best]:.2f}×", (points[model, best], y), xytext=(0, 7), textcoords="offset points",
                    ha="center", fontsize=8, color=_INK,
                )  # fmt: skip
            for p, colour in _COLOURS.items():
                if (model, p) in points:
                    panel.plot(
                        points[model, p], y, _MARKERS.get(p, "P" if p == "openvino" else "X"), ms=6.5, color=colour,
                        mec="white", mew=0.7, zorder=3, label=report.NAMES[p], clip_on=False,
                    )  # fmt: skip
        ticks = [t for t in (0.25, 0.5, 0.7, 1, 1.5, 2, 3, 5, 8, 12, 20, 30, 50, 100) if low < t < high]
        if len(ticks) > 7:
            ticks = [t for t in ticks if t in (0.5, 1, 2, 5, 12, 30, 100)]
        panel.set_xticks(ticks, [f"{t:g}×" for t in ticks])
        panel.minorticks_off()
        panel.set_yticks(range(len(models)), models if panel is axes[0] else [""] * len(models))
        panel.set_ylim(len(models) - 0.5, -0.7)
        means = [points[m, b] for m in models if (m, b := report.best_peer(rows[m], quantity)) in points]
        mean = math.exp(sum(map(math.log, means)) / len(means))
        panel.set_title(f"{report.TITLES[quantity]}: {mean:.2f}× as fast as the best peer", fontsize=11, color=_INK, loc="left")
        panel.set_xlabel("time over Firepot's   (right of the line: Firepot is faster)", fontsize=8.5, color=_INK)
    handles: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    save(figure, path)


def new_figure(width: float, height: float, panels: int) -> tuple[Any, list[Any]]:
    """A figure with plain axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for panel in axes:
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(length=0, labelcolor=_INK)
    return figure, axes


def save(figure: Any, path: Path) -> None:
    figure.savefig(str(path))


def heat_map(
    panel: Any, names: list[str], columns: list[str], ratios: list[list[float | None]], title: str
) -> None:  # fmt: skip
    """Cells coloured by a ratio: green above 1, red below, white at 1; its value in each."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("ratio", ["#b2182b", "#f4a582", "#ffffff", "#a6d96a", "#1a7837"])
    logarithms = [[math.nan if r is None else math.log2(r) for r in row] for row in ratios]
    panel.imshow(logarithms, cmap=colours, vmin=-1.5, vmax=1.5, aspect="auto")
    panel.set_xticks(range(len(columns)), columns)
    panel.xaxis.tick_top()
    panel.spines[["bottom"]].set_visible(False)
    panel.set_yticks(range(len(names)), names, fontsize=7.5, family="monospace")
    panel.set_title(title, fontsize=11, color=_INK, loc="left", pad=12)
    for y, row in enumerate(ratios):
        for x, value in enumerate(row):
            text = "–" if value is None else f"{value:.2f}"
            dark = value is not None and abs(math.log2(value)) > 1
            panel.text(x, y, text, ha="center", va="center", fontsize=7.5, color="white" if dark else _INK)
