"""Metrics of a training: JSON lines for programs, TensorBoard event files for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Metrics:
    """Writes metrics.jsonl and a TensorBoard event file in the output folder.

    A training that goes on at `step` keeps the lines up to there; what a killed run wrote after its last
    checkpoint goes. The event file is made anew from the kept lines, so that it has every step once.
    """

    def __init__(self, output: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        path = output / "metrics.jsonl"
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step] if step else []
        aside = path.with_suffix(".aside")
        aside.write_text("".join(line + "\n" for line in kept))
        aside.replace(path)
        for old in output.glob("events.out.tfevents.*"):
            old.unlink()
        self._file = path.open("a")
        self._board = SummaryWriter(str(output))
        for line in kept:
            self._show(json.loads(line))

    def write(self, row: dict[str, float]) -> None:
        """The numbers of a step, or of an epoch, which has the key "epoch"; "step" says when."""
        self._file.write(json.dumps(row) + "\n")
        self._show(row)

    def flush(self) -> None:
        """Everything so far to the disk: before a checkpoint, which must not know more than the metrics."""
        self._file.flush()
        self._board.flush()

    def _show(self, row: dict[str, float]) -> None:
        group = "epoch" if "epoch" in row else "step"
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self._board.add_scalar(f"{group}/{name}", value, int(row["step"]))

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: Any) -> None:
        self._board.close()
        self._file.close()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file; a last one that was cut off by a kill is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()
