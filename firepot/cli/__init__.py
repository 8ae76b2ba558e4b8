"""The command `firepot`: train, predict, doctor."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from firepot.cli import doctor, predict, train
from firepot.cli.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    top = argparse.ArgumentParser(
        prog="firepot", description="Train and use image classifiers on Firepot's own compiler.",
        epilog="`firepot train` alone learns handwritten digits in under a minute. `firepot COMMAND --help` tells more.",
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (train, predict, doctor):
        module.add_arguments(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0, 1 after an error, 2 for wrong arguments, 130 after Ctrl-C."""
    given = parser().parse_args(arguments)
    try:
        code: int = given.run(given)
        return code
    except (UserError, ValueError, OSError, ImportError) as error:
        print(f"firepot {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"firepot {given.command}: interrupted", file=sys.stderr)
        return 130
