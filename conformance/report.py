"""The page of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conformance.provided import DEVIATIONS, NUMERICAL

Results = Mapping[tuple[str, str], dict[str, Any]]

_CHECKED = {
    "operator": "Shape, dtype and value in six dtypes, first and second derivative in float64, errors; under `vmap` (all tensors "
    "along dimension 0; the first along a drawn dimension; nested) against a loop, under `jit` against the plain call.",
    "module": "Results and gradients of all parameters and inputs in float64, in training and in evaluation.",
    "optimizer": "Parameters after seven steps on a small network, and what must be refused.",
}
_TITLES = {
    "operator": "Operators (`op_db`)", "module": "Modules (`module_db`)", "optimizer": "Optimisers (`optim_db`)",
}  # fmt: skip


def provided(answer: dict[str, Any]) -> bool:
    return "missing" not in answer


def passes(answer: dict[str, Any]) -> bool:
    """Whether the entry is provided and every sample of every check agreed."""
    return "checks" in answer and not any(c["failed"] for c in answer["checks"].values())


def lines(answer: dict[str, Any]) -> list[str]:
    """What is wrong with an entry."""
    if "missing" in answer:
        return [f"missing: {answer['missing']}"]
    if "waiting" in answer:
        return []
    if "broken" in answer:
        return [f"broken: {answer['broken']}"]
    found = []
    for kind, c in answer["checks"].items():
        for reason in c["reasons"]:
            found.append(f"{kind} {c['failed']}/{c['passed'] + c['failed']}: {reason}")
    return found


def _counts(results: Results, suite: str) -> tuple[int, int, int, dict[str, list[int]]]:
    mine = [r for (s, _), r in results.items() if s == suite]
    checks: dict[str, list[int]] = {}
    for r in mine:
        for kind, c in r.get("checks", {}).items():
            if c["passed"] + c["failed"]:
                row = checks.setdefault(kind, [0, 0, 0, 0])
                row[0] += not c["failed"]
                row[1] += 1
                row[2] += c["passed"]
                row[3] += c["passed"] + c["failed"]
    known = [r for r in mine if "waiting" not in r]  # of the others it is not known whether they are provided
    return len(mine), sum(map(provided, known)), sum(map(passes, known)), checks


def summary(results: Results) -> str:
    out = []
    for suite in _TITLES:
        total, have, good, checks = _counts(results, suite)
        if total:
            out.append(f"{suite}: {have} of {total} provided, {good} pass every check")
            out.extend(f"    {k}: {v[0]}/{v[1]} entries, {v[2]}/{v[3]} samples" for k, v in checks.items())
    return "\n".join(out)


_HEAD = """# Conformance

Written by `python -m conformance`, which holds Firepot against what others wrote: PyTorch's own databases of operators,
modules and optimisers, einops' tests, and functions in higher precision. Each section is the result of one command and is
replaced when it runs again. What fails or is missing is listed with its reason, or with the first difference.
"""
_ORDER = (*_TITLES.values(), "einops", "Accuracy", "Random programs")


def write(path: Path, sections: Mapping[str, str]) -> None:
    """Replace sections of the page by heading, and leave the others as they are."""
    found: dict[str, str] = {}
    if path.exists():
        for part in path.read_text().split("\n## ")[1:]:
            title, _, text = part.partition("\n")
            found[title.strip()] = text.strip()
    found.update(sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(f"## {title}\n\n{found[title].strip()}\n" for title in _ORDER if title in found)
    path.write_text(f"{_HEAD}\n{text}")


def databases(results: Results) -> dict[str, str]:
    """The sections of PyTorch's databases."""
    return {title: section(results, suite) for suite, title in _TITLES.items()
            if any(s == suite for s, _ in results)}  # fmt: skip


def _measured(results: Results, suite: str) -> str:
    """Of which trees the results are, with how many samples a check: the latest tree first."""
    found = Counter((r.get("tree"), r.get("samples")) for (s, _), r in results.items() if s == suite and provided(r) and "waiting" not in r)
    parts = []
    for (tree, samples), count in reversed(found.items()):
        at = f"commit {tree}" if tree else "earlier commits"
        parts.append(f"{count} at {at} with {'all' if samples is None else f'at most {samples}'} samples of each check")
    return " Entries checked: " + "; ".join(parts) + "." if any(r.get("tree") for r in results.values()) else ""


def section(results: Results, suite: str) -> str:
    """The counts of one suite, and what fails or is missing."""
    total, have, good, checks = _counts(results, suite)
    out = [f"{have} of {total} entries are provided; {good} of them pass every check.", ""] if total > 1 else []
    if total > 1:
        out += [_CHECKED[suite] + _measured(results, suite), ""]
    out += ["| check | entries that pass | samples that pass |", "|---|---|---|"]
    out += [f"| {k} | {v[0]} of {v[1]} | {v[2]} of {v[3]} |" for k, v in checks.items()]
    mine = [r for (s, _), r in results.items() if s == suite]
    waiting = [f"`{r['entry']}`" for r in mine if "waiting" in r]
    if waiting:
        out += ["", f"{len(waiting)} entries have not been checked since they may have changed: {', '.join(waiting)}."]
    failing = [r for r in mine if provided(r) and not passes(r) and "waiting" not in r]
    if failing:
        out += ["", "### Failing", ""]
        for r in failing:
            note = DEVIATIONS.get(r["entry"])
            out.append(f"- `{r['entry']}`" + (f": {note}" if note else ""))
            seen = set()
            for line in lines(r):
                kind = line.split(" ")[0]
                if kind not in seen:
                    seen.add(kind)
                    out.append(f"  - {_clean(line)}")
    missing = [r for r in mine if not provided(r)]
    if missing:
        out += ["", "### Missing", ""]
        for reason, _ in Counter(r["missing"] for r in missing).most_common():
            names = ", ".join(f"`{r['entry']}`" for r in missing if r["missing"] == reason)
            out.append(f"- {reason}: {names}")
    numerical = [f"`{r['entry']}` ({NUMERICAL[r['entry']]})" for r in mine if r["entry"] in NUMERICAL and provided(r)]
    if numerical:
        out += ["", "Held against central differences of PyTorch's function where PyTorch's own derivative differs: "
                + ", ".join(numerical) + "."]  # fmt: skip
    skipped = Counter(s for r in mine for c in r.get("checks", {}).values() for s in c["skips"])
    if skipped:
        out += ["", "Samples left out, by reason and number of checks: "
                + ", ".join(f"{k} ({v})" for k, v in skipped.most_common()) + "."]  # fmt: skip
    return "\n".join(out)


def _clean(line: str) -> str:
    text = " ".join(line.split()).replace("|", "\\|")
    return text if len(text) < 240 else text[:237] + "…"
