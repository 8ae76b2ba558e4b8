"""What the networks' measurements say, as tables and sentences in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from benchmarks import machine
from benchmarks.timing import geometric_mean, quartiles

NAMES = {
    "firepot": "Firepot", "firepot-eager": "Firepot, no jit", "torch": "PyTorch",
    "torch-channels-last": "PyTorch, channels-last", "torch-compile": "torch.compile", "jax": "JAX",
    "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO",
}  # fmt: skip
TITLES = {
    "train": "Training step", "autocast": "Training step under autocast to bfloat16",
    "infer1": "Inference, batch 1", "infer32": "Inference, batch 32",
}  # fmt: skip

Row = dict[str, dict[str, Any]]  # peer -> its measurements
Table = list[list[str]]  # the header first


def markdown(table: Table) -> str:
    """The table with aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[c]) for row in table) for c in range(len(table[0]))]

    def line(cells: Iterable[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return f"| {first[0]:<{first[1]}} | " + " | ".join(f"{cell:>{width}}" for cell, width in others) + " |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(table[0]), "|" + "|".join(f" {r} " for r in rule) + "|", *map(line, table[1:])])


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def median(turns: Sequence[Sequence[float]]) -> float:
    """Of all times in all turns."""
    return statistics.median(chain.from_iterable(turns))


def best_peer(row: Row, quantity: str) -> str | None:
    """The other library that is quickest here."""
    others = {p: median(m[quantity]) for p, m in row.items() if not p.startswith("firepot") and m.get(quantity)}
    return min(others, key=others.__getitem__, default=None)


def ratio(row: Row, quantity: str) -> tuple[float, float, float] | None:
    """The best peer's time over Firepot's: (lower quartile, ratio of the medians, upper quartile), the quartiles of
    the ratios turn by turn. None where one of them is missing.
    """
    best = best_peer(row, quantity)
    own = row.get("firepot", {}).get(quantity)
    if best is None or not own:
        return None
    pairs = zip(row[best][quantity], own, strict=False)
    low, _, high = quartiles([statistics.median(theirs) / statistics.median(ours) for theirs, ours in pairs])
    return low, median(row[best][quantity]) / median(own), high


def times_table(rows: dict[str, Row], quantity: str) -> Table:
    """Medians in milliseconds, a row a model, and how many times as fast as the best peer Firepot is."""
    peers = [p for p in NAMES if any(quantity in row.get(p, {}) or "error" in row.get(p, {}) for row in rows.values())]
    if quantity in ("train", "autocast"):
        peers = [p for p in peers if p not in ("onnxruntime", "openvino")]
    if quantity == "autocast":
        peers = [p for p in peers if p != "jax"]
    table = [["ms", *(NAMES[p] for p in peers), "best peer ÷ Firepot"]]
    ratios = []
    for model, row in rows.items():
        best = best_peer(row, quantity)
        cells = []
        for p in peers:
            measured = row.get(p, {})
            text = number(1e3 * median(measured[quantity])) if measured.get(quantity) else _absent(measured)
            cells.append(f"**{text}**" if p in (best, "firepot") and measured.get(quantity) else text)
        found = ratio(row, quantity)
        if found is None:
            table.append([model, *cells, "–"])
            continue
        ratios.append(found[1])
        table.append([model, *cells, f"{found[1]:.2f} ({found[0]:.2f}–{found[2]:.2f})"])
    if ratios:
        summary = f"**{geometric_mean(ratios):.2f}**, lowest {min(ratios):.2f}"
        table.append(["geometric mean", *[""] * len(peers), summary])
    return table


def first_step_table(rows: dict[str, Row]) -> Table:
    """Seconds from building the model to the first loss: with empty caches / with the disk cache of the run before."""
    peers = [p for p in NAMES if any("first" in row.get(p, {}) for row in rows.values())]
    table = [["s, cold / warm", *(NAMES[p] for p in peers)]]
    for model, row in rows.items():
        cells = []
        for p in peers:
            first = row.get(p, {}).get("first", {})
            times = [first[t] for t in ("cold", "warm") if first.get(t) is not None]
            cells.append(" / ".join(f"{t:.2f}" for t in times) or _absent(row.get(p, {})))
        table.append([model, *cells])
    return table


def memory_table(rows: dict[str, Row]) -> Table:
    """MiB that a process held at most while it trained, and Firepot's over PyTorch's."""
    peers = [p for p in NAMES if any(row.get(p, {}).get("memory") for row in rows.values())]
    table = [["MiB", *(NAMES[p] for p in peers), "Firepot ÷ PyTorch"]]
    for model, row in rows.items():
        memory = {p: row[p]["memory"] for p in peers if row.get(p, {}).get("memory")}
        cells = [f"{memory[p]:.0f}" if p in memory else _absent(row.get(p, {})) for p in peers]
        share = f"{memory['firepot'] / memory['torch']:.2f}" if {"firepot", "torch"} <= memory.keys() else "–"
        table.append([model, *cells, share])
    return table


def install_table(install: dict[str, Any]) -> Table:
    """Seconds to import, and 10⁶ bytes on disk with all that is required; the largest packages named."""
    table = [["library", "import, s", "installed, MB", "of which"]]
    for library, found in install.items():
        sizes = sorted(found["megabytes"].items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {size:.0f}" for name, size in sizes[:4] if size >= 1)
        table.append([NAMES[library], f"{found['import']:.2f}", f"{sum(found['megabytes'].values()):.0f}", parts])
    return table


def eager_sentence(rows: dict[str, Row]) -> str:
    """What a plain loop costs beside the jitted step."""
    shares = {
        model: median(row["firepot-eager"]["train"]) / median(row["firepot"]["train"])
        for model, row in rows.items()
        if row.get("firepot-eager", {}).get("train") and row.get("firepot", {}).get("train")
    }
    if not shares:
        return ""
    each = ", ".join(f"{model} {share:.2f}" for model, share in shares.items())
    return (
        f"A plain training loop without `fp.jit` takes {geometric_mean(shares.values()):.2f} times as long as the jitted "
        f"step (geometric mean): {each}."
    )


def autocast_sentence(rows: dict[str, Row]) -> str:
    """What autocast brings beside float32."""
    gains = {
        model: median(row["firepot"]["train"]) / median(row["firepot"]["autocast"])
        for model, row in rows.items()
        if row.get("firepot", {}).get("train") and row.get("firepot", {}).get("autocast")
    }
    if not gains:
        return ""
    each = ", ".join(f"{model} {gain:.2f}" for model, gain in gains.items())
    return (
        f"Firepot's step under autocast is {geometric_mean(gains.values()):.2f} times as fast as its float32 step (geometric "
        f"mean): {each}."
    )


def document(results: dict[str, Any]) -> str:
    """All tables of the networks."""
    rows = results.get("models", {})
    parts = [
        "## Networks",
        machine.sentence(results["machine"]),
        machine.warning(results.get("others", {})),
        "![Firepot against each peer](networks.png)",
        "Float32 unless it says autocast. Peers run alternately, each in its own process; cells are medians over all turns, bold: Firepot and "
        "the best peer; the last column is the ratio of these two medians (above 1: Firepot is faster) with the "
        "quartiles of the ratios turn by turn.",
    ]
    for quantity, title in TITLES.items():
        if any(m.get(quantity) for row in rows.values() for m in row.values()):
            parts += [f"### {title}", markdown(times_table(rows, quantity))]
    parts += [autocast_sentence(rows), eager_sentence(rows)]
    if any("first" in m for row in rows.values() for m in row.values()):
        parts += [
            "### First step", "Building the model and one training step, in a fresh process after the import.",
            markdown(first_step_table(rows)),
            "### Peak memory", "Of a process that trains three steps; compiled code is on disk already.",
            markdown(memory_table(rows)),
        ]  # fmt: skip
    if "install" in results:
        parts += ["### Import and install", markdown(install_table(results["install"]))]
    errors = [
        f"- {NAMES[p]}, {model}: {m['error']}"
        for model, row in rows.items()
        for p, m in row.items()
        if m.get("error") and m["error"] != "not installed"
    ]
    if errors:
        parts += ["### Failed", "\n".join(errors)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _absent(measured: dict[str, Any]) -> str:
    error = measured.get("error")
    return "–" if error is None else error if error == "not installed" else "failed"
