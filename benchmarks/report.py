"""The table and the plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

Results = dict[str, dict[str, dict[str, Any]]]  # model -> peer -> measurements


def _median(values: list[float]) -> float:
    return statistics.median(values)


def table(results: Results, peers: list[str]) -> str:
    """Markdown: medians in milliseconds, and the best peer's time over Firepot's (above 1: Firepot is faster)."""
    lines = []
    others = [p for p in peers if not p.startswith("firepot")]
    for quantity, title in (("train", "Training step"), ("infer", "One-image inference")):
        lines += [f"### {title}, ms", "", "| model | " + " | ".join(peers) + " | best peer / firepot |"]
        lines.append("|---" * (len(peers) + 2) + "|")
        for model, by_peer in results.items():
            medians = {p: _median(m[quantity]) for p, m in by_peer.items() if quantity in m}
            cells = [
                f"{1e3 * medians[p]:.2f}" if p in medians else by_peer.get(p, {}).get("missing", "-") for p in peers
            ]
            best = min((medians[p] for p in others if p in medians), default=None)
            ratio = f"{best / medians['firepot']:.2f}" if best is not None and "firepot" in medians else "-"
            lines.append(f"| {model} | " + " | ".join(cells) + f" | {ratio} |")
        lines.append("")
    lines += ["### First step (s) and peak memory (MiB)", "", "| model | " + " | ".join(peers) + " |"]
    lines.append("|---" * (len(peers) + 1) + "|")
    for model, by_peer in results.items():
        cells = [
            f"{by_peer[p]['first']:.2f} s, {by_peer[p]['memory']:.0f}" if "first" in by_peer.get(p, {}) else "-"
            for p in peers
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def plot(results: Results, peers: list[str], path: Path) -> None:
    """Bars of training-step times relative to Firepot's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    shown = [m for m in results if "train" in results[m].get("firepot", {})]
    for k, peer in enumerate(peers):
        heights = [
            _median(results[m][peer]["train"]) / _median(results[m]["firepot"]["train"])
            if "train" in results[m].get(peer, {}) else 0.0
            for m in shown
        ]  # fmt: skip
        axes.bar(
            [i + (k - len(peers) / 2) * 0.8 / len(peers) for i in range(len(shown))],
            heights,
            0.8 / len(peers),
            label=peer,
        )
    axes.axhline(1.0, color="black", lw=0.8)
    axes.set_xticks(range(len(shown)), shown)
    axes.set_ylabel("training step, relative to firepot")
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))
