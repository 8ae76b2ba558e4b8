"""einops' own tests with Firepot as a backend.

    python -m conformance einops

Needs einops. Its test functions go through a list of backends; ours is put into that list, beside NumPy's, which they
compare with.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

_FILES = ("ops", "einsum", "packing", "parsing", "examples", "other", "layers")
# Tests about other frameworks, which ask whether theirs is tested and skip themselves.
_ENVIRONMENT = "EINOPS_TEST_BACKENDS"


class _Results:
    """Collects what pytest reports, and puts our backend into lists that name backends one by one."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0
        self.reasons: list[str] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        from einops.tests import test_einsum

        if "firepot" not in test_einsum.valid_backends_functional:
            test_einsum.valid_backends_functional.append("firepot")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.skipped:
            self.skipped += 1
        elif report.failed:
            self.failed += 1
            line = str(report.longrepr).strip().splitlines()[-1]
            self.reasons.append(f"{report.nodeid.split('::')[-1]}: {line}")
        elif report.when == "call":
            self.passed += 1


def run(*arguments: str) -> dict[str, Any]:
    """The counts of einops' test functions. ImportError without einops."""
    os.environ[_ENVIRONMENT] = "numpy,firepot"
    import einops.tests

    from firepot.interoperability.einops import Backend

    given = einops.tests.collect_test_backends

    def collect(symbolic: bool = False, layers: bool = False) -> list[Any]:
        return given(symbolic, layers) + ([] if symbolic else [Backend()])

    einops.tests.collect_test_backends = collect
    folder = Path(einops.tests.__file__).parent
    results = _Results()
    try:
        pytest.main(
            ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--import-mode=importlib", "-W", "ignore",
             f"--rootdir={folder}", "-c", os.devnull, *arguments, *(str(folder / f"test_{name}.py") for name in _FILES)],
            plugins=[results],
        )  # fmt: skip
    finally:
        einops.tests.collect_test_backends = given
    return {"entry": f"einops {einops.__version__}", "checks": {"test functions": {
        "passed": results.passed, "failed": results.failed, "skipped": results.skipped, "reasons": results.reasons,
        "skips": [],
    }}}  # fmt: skip


def section(answer: dict[str, Any]) -> str:
    """The page's text."""
    (counts,) = answer["checks"].values()
    text = (
        f"{answer['entry']}: {counts['passed']} of {counts['passed'] + counts['failed']} test functions pass with "
        f"`firepot.interoperability.einops` beside NumPy; {counts['skipped']} concern other frameworks and skip themselves."
    )
    return "\n".join([text, *(["", "### Failing", ""] if counts["failed"] else []), *(f"- {r}" for r in counts["reasons"])])
