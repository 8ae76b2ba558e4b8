"""The page of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from conformance.provided import DEVIATIONS

Results = Mapping[tuple[str, str], dict[str, Any]]

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
    return len(mine), sum(map(provided, mine)), sum(map(passes, mine)), checks


def summary(results: Results) -> str:
    out = []
    for suite in _TITLES:
        total, have, good, checks = _counts(results, suite)
        if total:
            out.append(f"{suite}: {have} of {total} provided, {good} pass every check")
            out.extend(f"    {k}: {v[0]}/{v[1]} entries, {v[2]}/{v[3]} samples" for k, v in checks.items())
    return "\n".join(out)


def page(results: Results, samples: int | None) -> str:
    """The whole page as Markdown."""
    out = [
        "# Conformance", "",
        "Written by `python -m conformance`, which runs every sample of PyTorch's own databases of operators, modules and",
        "optimisers through Firepot and compares shape, dtype, value, first and second derivative (in float64) and errors.",
        "",
    ]  # fmt: skip
    if samples is not None:
        out += [f"This run took at most {samples} samples of each check.", ""]
    for suite, title in _TITLES.items():
        total, have, good, checks = _counts(results, suite)
        if not total:
            continue
        out += [f"## {title}", "", f"{have} of {total} entries are provided; {good} of them pass every check.", ""]
        out += ["| check | entries that pass | samples that pass |", "|---|---|---|"]
        out += [f"| {k} | {v[0]} of {v[1]} | {v[2]} of {v[3]} |" for k, v in checks.items()]
        mine = [r for (s, _), r in results.items() if s == suite]
        failing = [r for r in mine if provided(r) and not passes(r)]
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
        skipped = Counter(s for r in mine for c in r.get("checks", {}).values() for s in c["skips"])
        if skipped:
            out += ["", "Samples left out, by reason and number of checks: "
                    + ", ".join(f"{k} ({v})" for k, v in skipped.most_common()) + "."]  # fmt: skip
        out.append("")
    return "\n".join(out)


def _clean(line: str) -> str:
    text = " ".join(line.split()).replace("|", "\\|")
    return text if len(text) < 240 else text[:237] + "…"
