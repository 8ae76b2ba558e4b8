"""The examples in docstrings. `fp`, `nn`, `F` and `np` are known in them, and what their own module defines."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.nn import functional as F

OPTIONAL = {"einops"}  # what an interoperability module needs
KNOWN = {"fp": fp, "nn": nn, "F": F, "np": np}


def examples() -> list[doctest.DocTest]:
    found = []
    for module in pkgutil.walk_packages(fp.__path__, "firepot."):
        if module.name.endswith("__main__") or module.name.startswith("firepot.vision.digits"):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            continue
        found += [t for t in doctest.DocTestFinder().find(loaded, globs=vars(loaded) | KNOWN) if t.examples]
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda e: e.name)
def test_docstring(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fp.manual_seed(0)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=options).run(example, out=report.append)
    assert not report, "".join(report)
