"""The error of element-wise float32 functions over the whole float32 line, in units of the last place.

    python -m conformance accuracy                # every 1009th float, and all floats around special points
    python -m conformance accuracy --stride 1     # every float: 4.3 billion a function
    python -m conformance accuracy --only exp "s*"

Results are kept in build/conformance/; a run that was stopped goes on where it was.

The oracle is PyTorch in float64, whose errors lie far below a float32's last place. One unit is the distance of
neighbouring float32 numbers at the exact result; half a unit is correct rounding.
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

_CHUNK = 1 << 18
_NEAR = 300  # floats on each side of a special point
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Function:
    """ours over float32, theirs over float64, and how many units of the last place are allowed.

    lowest: smaller arguments are left out.
    """

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    limit: float
    arguments: int = 1
    lowest: float = -math.inf


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
FUNCTIONS["gelu"] = Function(fp.nn.functional.gelu, lambda x: torch.where(x == -math.inf, torch.nan, x * _ndtr(x)), 4)
# x · sigmoid(x) where sigmoid(x) is subnormal, so that it has fewer digits.
for _name in ("silu", "mish"):
    FUNCTIONS[_name] = dataclasses.replace(FUNCTIONS[_name], lowest=-87.0)

NOTES = {
    "silu": "below −87, where the results are below 1e-35, sigmoid(x) is subnormal",
    "mish": "below −87, where the results are below 1e-35, tanh(softplus(x)) is subnormal",
    "gelu": "x (1 + erf(x/√2)) / 2 cancels for negative x, as PyTorch's does; the absolute error is below 1e-6",
    "logaddexp": "where the result is near zero, operands of both signs cancel",
    "logaddexp2": "where the result is near zero, operands of both signs cancel",
}

# Where functions change: reductions of the argument, overflow, roots, poles.
_SPECIAL = [
    0.0, 1.0, 0.5, 2.0, 0.25, 4.0, 0.625, 3.75, 9.0, math.sqrt(2), math.sqrt(0.5), math.log(2) / 2, math.log(2), 16.6355,
    88.72284, 87.33655, 103.97208, 127.0, 128.0, 149.0, 1.4616321, 2.0**-126, 2.0**-149, 2.0**24, 2.0**31, 2.0**64,
    _LARGEST, math.inf, *(k * math.pi / 2 for k in (1, 2, 3, 4, 100, 10**4, 10**6)), *map(float, range(3, 20)),
]  # fmt: skip


@dataclass
class Result:
    """The largest error of a function, where it is, and over how many arguments it was sought."""

    units: float
    at: Sequence[float]
    count: int


def units(found: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The distance of float32 results from exact ones in units of the last place; ∞ where one of them is NaN.

    What overflows counts as the number after the largest.
    """
    beyond = 2.0**128
    given, wanted = (np.clip(v.astype(np.float64), -beyond, beyond) for v in (found, exact))
    with np.errstate(over="ignore"):
        near = np.minimum(np.abs(exact.astype(np.float32)), np.float32(_LARGEST))
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
    """The largest error of a function over the line, or over pairs."""
    worst = Result(-1.0, (), 0)
    chunks: Iterator[Any] = ((x,) for x in line(stride)) if function.arguments == 1 else pairs(stride)
    total = 2 + -(-(1 << 32) // (_CHUNK * stride))
    for x in tqdm(chunks, progress, total, leave=False, disable=progress is None or None):
        if function.lowest > -math.inf:
            x = (x[0][x[0] >= function.lowest],)
            if not x[0].size:
                continue
        found = function.ours(*map(fp.from_numpy, x)).numpy()
        exact = function.theirs(*(torch.from_numpy(v).double() for v in x)).numpy()
        error = units(found, exact)
        place = int(error.argmax())
        if error[place] > worst.units:
            worst = Result(float(error[place]), tuple(float(v[place]) for v in x), worst.count)
        worst.count += len(x[0])
    return worst


def section(results: dict[str, Result], stride: int) -> str:
    """The page's text."""
    within = sum(r.units <= FUNCTIONS[n].limit for n, r in results.items())
    what = "every float32" if stride == 1 else f"every {stride}th float32 and all around special points"
    out = [
        f"`python -m conformance accuracy` compares with float64 over {what}, functions of two arguments over as many "
        "pairs. One ulp is the distance of neighbouring float32 numbers at the exact result; correct rounding is half.",
        "", f"{within} of {len(results)} functions are within their limit.", "",
        "| function | largest error in ulp | at | limit | |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, r in results.items():
        wrong = r.units > FUNCTIONS[name].limit
        at = ", ".join(f"{v:.8g}" for v in r.at)
        shown = f"**{r.units:.3g}**" if wrong else f"{r.units:.2f}"
        out.append(f"| {name} | {shown} | {at} | {FUNCTIONS[name].limit:g} | {NOTES.get(name, '')} |")
    return "\n".join(out)


def sums() -> list[tuple[str, float, float]]:
    """(what, our error, NumPy's, which sums pairwise) of reductions over 10⁸ float32 numbers, relative to the exact one."""
    x = np.random.default_rng(0).random(10**8, dtype=np.float32)
    ours = fp.from_numpy(x)
    total = float(np.sum(x, dtype=np.float64))
    found = []
    for what, mine, pairwise, exact in (
        ("sum", ours.sum(), np.sum(x), total), ("mean", ours.mean(), np.mean(x), total / x.size),
        ("sum of squares", (ours * ours).sum(), np.sum(x * x), float(np.dot(x.astype(np.float64), x))),
    ):  # fmt: skip
        found.append((what, abs(mine.item() / exact - 1), abs(float(pairwise) / exact - 1)))
    return found


def main(arguments: list[str]) -> str | None:
    """Measures what has no result yet and prints it; the page's text, once all functions have one."""
    parser = argparse.ArgumentParser(prog="python -m conformance accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stride", type=int, default=1009, help="distance of the floats that are tried (default: 1009)")
    parser.add_argument("--only", nargs="+", metavar="FUNCTION", help="some functions (again); * stands for anything")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    given = parser.parse_args(arguments)
    path = Path(f"build/conformance/accuracy-{given.stride}.json")
    known = json.loads(path.read_text()) if path.exists() and not given.fresh else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, function in FUNCTIONS.items():
        if any(fnmatch.fnmatchcase(name, o) for o in given.only) if given.only else name not in known:
            r = measure(function, given.stride, name)
            known[name] = dataclasses.asdict(r)
            path.write_text(json.dumps(known))
            mark = "" if r.units <= function.limit else f"   over {function.limit:g}"
            print(f"{name:12} {r.units:12.4g} ulp at {', '.join(f'{v!r}' for v in r.at)}{mark}", flush=True)
    results = {n: Result(**known[n]) for n in FUNCTIONS if n in known}
    if len(results) < len(FUNCTIONS):
        return None
    text = section(results, given.stride)
    text += "\n\nReductions of 10⁸ float32 numbers between 0 and 1, relative error; half a unit in the last place is up to 6e-8:\n\n"
    text += "| | Firepot | NumPy, pairwise |\n|---|---|---|\n"
    for what, mine, pairwise in sums():
        print(f"{what:16} {mine:.2g}, pairwise {pairwise:.2g}")
        text += f"| {what} | {mine:.1e} | {pairwise:.1e} |\n"
    return text
