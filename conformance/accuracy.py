"""The error of element-wise float32 functions over the whole float32 line, in units of the last place.

    python -m conformance accuracy                # every 1009th float, and all floats around special points
    python -m conformance accuracy --stride 1     # every float: 4.3 billion a function, a minute or two each
    python -m conformance accuracy --only exp "s*"

Each function's result over the most floats is kept in build/conformance/; a run that was stopped goes on where it was.

The oracle is PyTorch in float64, whose errors lie far below a float32's last place. One unit is the distance of
neighbouring float32 numbers at the exact result; half a unit is correct rounding. Where a result is a difference of larger
terms, which no formula in float32 without twice the digits gives to its own last place, the unit is that of the terms.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import firepot as fp

_CHUNK = 1 << 17
_NEAR = 300  # floats on each side of a special point
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Function:
    """ours over float32, theirs over float64, and how many units of the last place are allowed.

    lowest: smaller arguments are left out. terms: of the arguments, how large the terms are whose difference the result is.
    """

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    limit: float
    arguments: int = 1
    lowest: float = -math.inf
    terms: Callable[..., Any] | None = None


def _named(limit: float, *names: str, arguments: int = 1) -> dict[str, Function]:
    def find(library: Any, name: str) -> Callable[..., Any]:
        for place in (library, library.special, library.nn.functional):
            if hasattr(place, name):
                return getattr(place, name)
        raise AttributeError(name)

    return {n: Function(find(fp, n), find(torch, n), limit, arguments) for n in names}


FUNCTIONS = {
    **_named(2, "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "square", "sin",
             "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf"),
    **_named(4, "erfc", "erfinv", "lgamma", "digamma", "softplus", "silu", "gelu", "mish", "selu", "elu", "logsigmoid",
             "softsign", "sinc", "logit", "erfcx", "ndtr", "ndtri", "log_ndtr", "entr", "i0", "i0e", "i1", "i1e"),
    **_named(2, "pow", "atan2", "hypot", "div", arguments=2),
    **_named(4, "fmod", "remainder", "logaddexp", "logaddexp2", "xlogy", "xlog1py", arguments=2),
}  # fmt: skip

def _sinc(x: torch.Tensor) -> torch.Tensor:
    n = torch.round(x)
    sine = torch.sin(math.pi * (x - n)) * torch.where(n % 2 == 0, 1.0, -1.0)
    return torch.where(x == 0, 1.0, sine / (math.pi * x))


def _ndtr(x: torch.Tensor) -> torch.Tensor:
    return torch.erfc(x * -math.sqrt(0.5)) / 2


# Where PyTorch is no oracle: its sinc loses the angle of large arguments, its ndtr and gelu cancel (below −8.3 they are
# zero in float64 too).
FUNCTIONS["sinc"] = Function(fp.sinc, _sinc, 4)
FUNCTIONS["ndtr"] = Function(fp.special.ndtr, _ndtr, 4)
FUNCTIONS["gelu"] = Function(
    fp.nn.functional.gelu, lambda x: torch.where(x == -math.inf, torch.nan, x * _ndtr(x)), 4,
    terms=lambda x: torch.abs(x) / 2,
)  # fmt: skip
for _name in ("logaddexp", "logaddexp2"):
    FUNCTIONS[_name] = dataclasses.replace(FUNCTIONS[_name], terms=lambda x, y: torch.maximum(x.abs(), y.abs()))
# x · sigmoid(x) where sigmoid(x) is subnormal, so that it has fewer digits.
for _name in ("silu", "mish"):
    FUNCTIONS[_name] = dataclasses.replace(FUNCTIONS[_name], lowest=-87.0)

NOTES = {
    "silu": "below −87, where the results are below 1e-35, sigmoid(x) is subnormal",
    "mish": "below −87, where the results are below 1e-35, tanh(softplus(x)) is subnormal",
    "gelu": "in units of x/2: x/2 · (1 + erf(x/√2)), PyTorch's formula too, cancels where x is negative",
    "logaddexp": "in units of the larger operand, which cancels where the result is near zero",
    "logaddexp2": "in units of the larger operand, which cancels where the result is near zero",
}

# Where functions change: reductions of the argument, overflow, roots, poles.
_SPECIAL = [
    0.0, 1.0, 0.5, 2.0, 0.25, 4.0, 0.625, 3.75, 9.0, math.sqrt(2), math.sqrt(0.5), math.log(2) / 2, math.log(2), 16.6355,
    88.72284, 87.33655, 103.97208, 127.0, 128.0, 149.0, 1.4616321, 2.0**-126, 2.0**-149, 2.0**24, 2.0**31, 2.0**64,
    _LARGEST, math.inf, *(k * math.pi / 2 for k in (1, 2, 3, 4, 100, 10**4, 10**6)), *map(float, range(3, 20)),
]  # fmt: skip


@dataclass
class Result:
    """The largest error of a function, where it is, over how many arguments it was sought, and the stride between them."""

    units: float
    at: Sequence[float]
    count: int
    stride: int


def units(
    found: np.ndarray[Any, Any], exact: np.ndarray[Any, Any], terms: np.ndarray[Any, Any] | None = None
) -> np.ndarray[Any, Any]:
    """The distance of float32 results from exact ones in units of the last place; ∞ where one of them is NaN.

    What overflows counts as the number after the largest. terms: sizes whose last place counts where they are larger.
    """
    beyond = 2.0**128
    given, wanted = (np.clip(v.astype(np.float64), -beyond, beyond) for v in (found, exact))
    sizes = np.abs(exact) if terms is None else np.fmax(np.abs(exact), terms)
    with np.errstate(over="ignore"):
        near = np.minimum(sizes.astype(np.float32), np.float32(_LARGEST))
        unit = np.where(near == np.float32(_LARGEST), 2.0**104, np.spacing(near).astype(np.float64))
    with np.errstate(invalid="ignore"):
        distance = np.abs(given - wanted) / unit
    return np.where(np.isnan(given) & np.isnan(wanted), 0.0, np.where(np.isnan(distance), np.inf, distance))


def line(stride: int) -> Iterator[np.ndarray[Any, Any]]:
    """Every stride-th float32, NaN once, and all around the special points."""
    points = np.array([s * p for p in _SPECIAL for s in (1, -1)], np.float32).view(np.int32)
    near = (points[:, None] + np.arange(-_NEAR, _NEAR + 1)).astype(np.int32).view(np.float32).ravel()
    yield near[~np.isnan(near)]
    yield np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    for first in range(0, 1 << 32, _CHUNK * stride):
        bits = np.arange(first, min(first + _CHUNK * stride, 1 << 32), stride, dtype=np.uint64).astype(np.uint32)
        x = bits.view(np.float32)
        yield x[~np.isnan(x)]


def pairs(stride: int, seed: int = 0) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """As many pairs as `line` has numbers: of any size, of moderate size, and of nearly equal size."""
    draw = np.random.default_rng(seed)
    special = np.array([s * p for p in [*_SPECIAL[:12], 3.0, 7.0, _LARGEST, math.inf, 2.0**-149] for s in (1, -1)], np.float32)
    x, y = np.meshgrid(special, special)
    yield x.ravel(), y.ravel()
    for k in range(max(1, (1 << 32) // (_CHUNK * stride))):
        if k % 3 == 0:
            x, y = (draw.integers(0, 1 << 32, _CHUNK, dtype=np.uint32).view(np.float32) for _ in range(2))
        else:
            x = (draw.choice([-1.0, 1.0], _CHUNK) * np.exp(draw.uniform(-5, 5, _CHUNK))).astype(np.float32)
            y = draw.uniform(-20, 20, _CHUNK) if k % 3 == 1 else x * draw.uniform(0.99, 1.01, _CHUNK)
            y = y.astype(np.float32)
        sound = ~(np.isnan(x) | np.isnan(y))
        yield x[sound], y[sound]


def measure(function: Function, stride: int = 1009, progress: str | None = None) -> Result:
    """The largest error of a function over the line, or over pairs. Half a unit stands for all that is rounded correctly."""
    worst = Result(-1.0, (), 0, stride)
    chunks: Iterator[Any] = ((x,) for x in line(stride)) if function.arguments == 1 else pairs(stride)
    total = 2 + -(-(1 << 32) // (_CHUNK * stride))
    for x in tqdm(chunks, progress, total, leave=False, disable=progress is None or None):
        if function.lowest > -math.inf:
            x = (x[0][x[0] >= function.lowest],)
        worst.count += len(x[0])
        if not x[0].size:
            continue
        wide = [torch.from_numpy(v).double() for v in x]
        found, exact = function.ours(*map(fp.from_numpy, x)).numpy(), function.theirs(*wide).numpy()
        with np.errstate(over="ignore"):
            inexact = found != exact.astype(np.float32)
        if worst.units < 0.5:
            inexact[:] = True
        inexact &= ~(np.isnan(found) & np.isnan(exact))
        places = np.flatnonzero(inexact)
        if not places.size:
            continue
        terms = None if function.terms is None else function.terms(*wide).numpy()[places]
        error = units(found[places], exact[places], terms)
        place = int(error.argmax())
        if error[place] > worst.units:
            at = tuple(float(v[places[place]]) for v in x)
            worst = dataclasses.replace(worst, units=float(error[place]), at=at)
    return worst


def section(results: dict[str, Result]) -> str:
    """The page's text."""
    within = sum(r.units <= FUNCTIONS[n].limit for n, r in results.items())
    strides = sorted({r.stride for n, r in results.items() if FUNCTIONS[n].arguments == 1})
    lines = [
        f"{sum(r.stride == s and FUNCTIONS[n].arguments == 1 for n, r in results.items())} functions over "
        f"{'every float32' if s == 1 else f'every {s}th and all around special points'}" for s in strides
    ]  # fmt: skip
    out = [
        f"`python -m conformance accuracy` compares with float64: {', '.join(lines)}; those of two arguments over as many "
        "pairs as the table tells. One ulp is the distance of neighbouring float32 numbers at the exact result; "
        "correct rounding is half.",
        "", f"{within} of {len(results)} functions are within their limit.", "",
        "| function | largest error in ulp | at | limit | over | |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, r in results.items():
        wrong = r.units > FUNCTIONS[name].limit
        at = ", ".join(f"{v:.8g}" for v in r.at)
        shown = f"**{r.units:.3g}**" if wrong else f"{r.units:.2f}"
        over = "every float" if r.stride == 1 else f"every {r.stride}th float"
        over = over if FUNCTIONS[name].arguments == 1 else f"{r.count / 1e6:.0f} million pairs"
        out.append(f"| {name} | {shown} | {at} | {FUNCTIONS[name].limit:g} | {over} | {NOTES.get(name, '')} |")
    return "\n".join(out)


# What pairwise summation of 10⁸ numbers promises, relative to the sum of their sizes: half a unit for each of log₂ n levels.
_PAIRWISE = math.log2(10**8) * 2.0**-24


def sums() -> list[tuple[str, float, float]]:
    """(what, our error, NumPy's, which sums pairwise) of reductions over 10⁸ float32 numbers, relative to the sum of sizes."""
    found = []

    def add(what: str, ours: fp.Tensor, pairwise: Any, exact: Any, sizes: Any) -> None:
        errors = (np.abs(np.asarray(v, np.float64) - exact) / sizes for v in (ours.numpy(), pairwise))
        found.append((what, *(float(np.max(e)) for e in errors)))

    draw = np.random.default_rng(0)
    for name, x in (("uniform", draw.random(10**8, np.float32)), ("normal", draw.standard_normal(10**8, np.float32))):
        ours, exact = fp.from_numpy(x), np.sum(x, dtype=np.float64)
        sizes = np.sum(np.abs(x), dtype=np.float64)
        add(f"sum, {name}", ours.sum(), np.sum(x), exact, sizes)
        add(f"mean, {name}", ours.mean(), np.mean(x), exact / x.size, sizes / x.size)
        exact = np.sum(x * x, dtype=np.float64)
        add(f"sum of squares, {name}", (ours * ours).sum(), np.sum(x * x), exact, exact)
        add(f"dot with itself, {name}", fp.dot(ours, ours), np.sum(x * x), exact, exact)
    table = np.ascontiguousarray(x.reshape(10, -1).T)
    exact, sizes = np.sum(table, 0, dtype=np.float64), np.sum(np.abs(table), 0, dtype=np.float64)
    pairwise = np.sum(np.ascontiguousarray(table.T), 1)  # along the rows NumPy sums one by one
    add("sums of 10 columns of 10⁷, normal", fp.from_numpy(table).sum(0), pairwise, exact, sizes)
    return found


def main(arguments: list[str]) -> str | None:
    """Measures what has no result yet and prints it; the page's text, once all functions have one."""
    parser = argparse.ArgumentParser(prog="python -m conformance accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stride", type=int, default=1009, help="distance of the floats that are tried (default: 1009)")
    parser.add_argument("--only", nargs="+", metavar="FUNCTION", help="some functions (again), without the sums; * stands for anything")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    given = parser.parse_args(arguments)
    path = Path("build/conformance/accuracy.json")
    known = json.loads(path.read_text()) if path.exists() and not given.fresh else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, function in FUNCTIONS.items():
        if given.only:
            wanted = any(fnmatch.fnmatchcase(name, o) for o in given.only)
        else:
            wanted = name not in known or known[name]["stride"] > given.stride
        if wanted:
            r = measure(function, given.stride, name)
            known[name] = dataclasses.asdict(r)
            path.write_text(json.dumps(known))
            mark = "" if r.units <= function.limit else f"   over {function.limit:g}"
            print(f"{name:12} {r.units:12.4g} ulp at {', '.join(f'{v!r}' for v in r.at)}{mark}", flush=True)
    if "sums" not in known or not given.only:
        known["sums"] = sums()
        path.write_text(json.dumps(known))
    results = {n: Result(**known[n]) for n in FUNCTIONS if n in known}
    if len(results) < len(FUNCTIONS):
        return None
    text, found = section(results), known["sums"]
    good = sum(mine <= _PAIRWISE for _, mine, _ in found)
    text += (
        f"\n\nOf {len(found)} reductions over 10⁸ float32 numbers, {good} are within what pairwise summation promises, "
        f"{_PAIRWISE:.1e} of the sum of the numbers' sizes:\n\n| | Firepot | NumPy, pairwise |\n|---|---|---|\n"
    )
    for what, mine, pairwise in found:
        print(f"{what:34} {mine:.2g}, pairwise {pairwise:.2g}")
        text += f"| {what} | {f'{mine:.1e}' if mine <= _PAIRWISE else f'**{mine:.1e}**'} | {pairwise:.1e} |\n"
    return text
