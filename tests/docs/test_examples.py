"""The documentation's examples, run as a reader would run them.

In README.md and docs/, blocks marked ```python run in order, all those of a file in one namespace; where a block starts
with a prompt (>>>), what it prints is compared with what the page says, `...` standing for anything. Blocks marked
```console that start a program under docs/ are run and compared likewise. The comment `<!-- not run: reason -->` on
the line before a block leaves it out.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import firepot as fp

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NAME = re.compile(r"`((?:firepot|tests|docs|benchmarks)/[\w./]*\w(?:\.py:\w+)?)/?`")  # with `file.py:function` too
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


class Block(NamedTuple):
    language: str
    text: str
    line: int  # of its first line in the page, from 1
    run: bool


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            before = lines[start - 1] if start else ""
            text = "\n".join(lines[start + 1 : number]) + "\n"
            yield Block(lines[start][3:].strip(), text, start + 2, not before.startswith("<!-- not run"))
            start = None
    assert start is None, f"{page}:{start}: the block does not end"


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    if not block.text.startswith(">>>"):
        source = "\n" * (block.line - 1) + block.text  # so that errors name the page's line
        exec(compile(source, str(page), "exec"), namespace)
        return
    test = doctest.DocTestParser().get_doctest(block.text, {}, page.name, str(page), block.line - 1)
    test.globs = namespace
    report: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=OPTIONS).run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)


def run_console(block: Block, page: Path, folder: Path) -> None:
    """`$ NAME=VALUE … python docs/….py` and what it prints, to either stream."""
    command, _, expected = block.text.partition("\n")
    words = shlex.split(command.removeprefix("$"))
    if "python" not in words or not words[-1].startswith("docs/"):
        return
    settings = dict(word.split("=", 1) for word in words[: words.index("python")])
    found = subprocess.run(
        [sys.executable, str(ROOT / words[-1])], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": str(ROOT)} | settings, timeout=120,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    if not doctest.OutputChecker().check_output(expected, found.stdout, OPTIONS):
        pytest.fail(f"{page}:{block.line}: the page says\n{expected}\nand the program printed\n{found.stdout}")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fp.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.run:
            continue
        if block.language == "python":
            run_python(block, page, namespace)
        elif block.language == "console":
            run_console(block, page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: there is no {target}"
    for name, _, definition in (n.partition(":") for n in NAME.findall(text)):
        assert (ROOT / name).exists(), f"{page}: there is no {name}"
        if definition:
            source = (ROOT / name).read_text(encoding="utf-8")
            assert re.search(rf"^ *(def|class) {definition}\b", source, re.MULTILINE), f"{page}: {name} has no {definition}"
