"""Metrics of a training: JSON lines for programs, TensorBoard event files for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from firepot.cli.train import extra


class Metrics:
    """Writes metrics.jsonl and events.* in the output folder. Lines after `step` (of a run that was killed) go."""

    def __init__(self, output: Path, step: int) -> None:
        path = output / "metrics.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step] if step else []
        path.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a")
        self._board = extra("tensorboardX").SummaryWriter(str(output), purge_step=step or None)

    def step(self, step: int, **values: float) -> None:
        """The numbers of one training step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"step/{name}", value, step)

    def epoch(self, row: dict[str, float]) -> None:
        """The numbers of one epoch."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self._board.add_scalar(f"epoch/{name}", value, int(row["epoch"]))

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()
        self._board.close()


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a last one that was cut off by a kill is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()
