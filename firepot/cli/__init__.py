"""The command `firepot`: train, predict, doctor."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from firepot.cli import doctor, predict, train
from firepot.cli.errors import UserError

_DESCRIPTION = "Train and use image classifiers on Firepot's own compiler."
_EPILOG = """\
Begin with
  firepot train                      learn handwritten digits, in under a minute
  firepot predict runs/digits-lenet IMAGE...
  firepot doctor                     see what this machine offers

`firepot COMMAND --help` tells more. After an error, FIREPOT_DEBUG=1 shows where in the program it arose."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    import firepot

    top = argparse.ArgumentParser(
        prog="firepot", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"firepot {firepot.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (train, predict, doctor):
        module.add_arguments(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0, 1 after an error, 2 for wrong arguments, 130 after Ctrl-C."""
    from firepot.compiler.debug import LEVEL

    given = parser().parse_args(arguments)

    def say(message: object) -> None:
        print(f"firepot {given.command}: {message}", file=sys.stderr)

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            code: int = given.run(given)
            return code
        except KeyboardInterrupt:
            say("interrupted")
            return 130
        except (UserError, ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
            if LEVEL > 0:
                raise
            say(_described(error))
            return 1


def _described(error: BaseException) -> str:
    """One line about an error."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({error})' if str(error) else ''}; a smaller --batch-size or --image-size takes less"
    return str(error) or type(error).__name__
