"""docs/adding-an-operator.md carried out: its diffs on a copy of the source, then its test in that copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def fenced(language: str, text: str) -> list[str]:
    return [part.partition("\n```")[0] for part in text.split(f"\n```{language}\n")[1:]]


def test_the_steps_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "adding-an-operator.md").read_text(encoding="utf-8")
    shutil.copytree(ROOT / "firepot", tmp_path / "firepot", ignore=shutil.ignore_patterns("__pycache__"))
    diffs = fenced("diff", page)
    assert len(diffs) == 6
    for diff in diffs:
        head, context, *added = diff.splitlines()
        path = tmp_path / head.removeprefix("--- ")
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines.count(context[1:]) == 1, f"{head}: the line {context[1:]!r} is not there once"
        at = lines.index(context[1:]) + 1
        assert all(line.startswith("+") for line in added)
        lines[at:at] = [line[1:] for line in added]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tests,) = (block for block in fenced("python", page) if "def test_" in block)
    (tmp_path / "test_cbrt.py").write_text(tests + "\n", encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_cbrt.py"],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "FIREPOT_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert "6 passed" in run.stdout
