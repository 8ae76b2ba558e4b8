"""The benchmark section of a README: made from the results, put between two markers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks import machine, report

START, END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"


def insert(text: str, section: str) -> str:
    """`text` with what stands between the markers replaced. Raises ValueError where they are not there, once each."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"the text must have one line {START} and after it one line {END}")
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{section.strip()}\n\n{END}{after}"


def section(results: dict[str, Any], folder: str) -> str:
    """The tables that a newcomer looks at. `folder`: where the plot and all other tables are, from the README."""
    rows = results["models"]
    parts = [f"![Firepot against each peer]({folder}/networks.png)"]
    for quantity, title in report.TITLES.items():
        if any(m.get(quantity) for row in rows.values() for m in row.values()):
            kind = "" if quantity == "autocast" else ", float32"
            parts += [f"**{title}** (median{kind})", report.markdown(report.times_table(rows, quantity))]
    if "install" in results:
        parts.append(report.markdown(report.install_table(results["install"])))
    parts.append(
        f"Measured on {machine.sentence(results['machine'])} The last column: the best peer's time over Firepot's, with "
        f"quartiles; above 1 Firepot is faster. [All tables]({folder}/README.md): first step, memory, kernels, calls. "
        "`python -m benchmarks` measures again."
    )
    return "\n\n".join(parts)


def update(path: Path, results: dict[str, Any], folder: Path) -> None:
    """Replace the section in the file."""
    relative = Path(os.path.relpath(folder, path.parent)).as_posix()
    path.write_text(insert(path.read_text(), section(results, relative)))
