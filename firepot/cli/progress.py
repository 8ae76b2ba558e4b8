"""How far a training is: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

_BAR = "{desc} {percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}"
_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts to `total`, from `done`. With stderr on a terminal it draws a bar there; without, long work prints
    a line every half minute, so that a log stays readable.
    """

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "", keep: bool = False) -> None:
        self._title, self._total, self._done, self._unit = title, total, done, unit
        self._bar: Any = None
        self._printed = time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=done, desc=title, bar_format=_BAR, leave=keep, dynamic_ncols=True, file=sys.stderr
            )

    def show(self, text: str, advance: int = 1) -> None:
        """`advance` more are done; `text` tells how it goes."""
        self._done += advance
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=advance == 0)
            self._bar.update(advance)
        elif time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            print(f"{self._title}: {self._done:,} of {self._total:,}{self._unit}{text and ', ' + text}", flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()


class Decoding:
    """The progress of decoding a data set, in the form that `open_dataset` reports it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._seen = 0

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            self._progress = Progress("decoding", total, unit=" images")
        self._progress.show("", done - self._seen)
        self._seen = done

    def __enter__(self) -> Decoding:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._progress is not None:
            self._progress.__exit__()
