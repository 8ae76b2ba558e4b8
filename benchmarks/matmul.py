"""Float32 matrix products against NumPy's OpenBLAS, PyTorch's MKL and oneDNN, beside the processor's peak; bfloat16 and
int8 products against PyTorch's.

oneDNN is reached through PyTorch's linear operator, whose first operand must be row-major: where that is stored
transposed, the transposed product is asked for, and where both are in its way (x transposed, y not) PyTorch copies.
"""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks import machine, plots, report
from benchmarks.process import Answer, Peer
from benchmarks.timing import geometric_mean, timed

PEERS = {"firepot": "firepot", "openblas": "numpy", "mkl": "torch", "onednn": "torch"}
NAMES = {"firepot": "Firepot", "openblas": "OpenBLAS", "mkl": "MKL", "onednn": "oneDNN"}
# (m, k, n) of x (m, k) @ y (k, n): squares, then the products of the GPT's and the ViT's layers.
SQUARE = tuple((n, n, n) for n in (512, 768, 1024, 2048, 4096))
TALL = (
    (1024, 384, 1152), (1024, 384, 384), (1024, 384, 1536), (1024, 1536, 384), (1024, 384, 256),
    (1576, 192, 576), (1576, 192, 192), (1576, 192, 768), (1576, 768, 192),
)  # fmt: skip
TRANSPOSES = ("nn", "nt", "tn", "tt")  # which of x and y is stored transposed
# By dtype: shapes as above, x row-major and y stored transposed, as in a linear layer.
NARROW = ("bfloat16", "int8")
NARROW_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 384, 1536), (1576, 768, 192), (1, 4096, 4096))
_HUGE = 1e11

Results = dict[str, Any]


def measure(threads: tuple[int, ...], rounds: int, seconds: float, results: Results, quick: bool = False) -> None:
    """Put times of every shape and transposition into `results`, beside those of other numbers of threads."""
    results["machine"] = machine.describe(max(threads))
    results["rows"] = [row for row in results.get("rows", []) if row["threads"] not in threads]
    peers = [p for p, package in PEERS.items() if importlib.util.find_spec(package) is not None]
    shapes = [s for s in SQUARE + TALL if not quick or max(s) <= 1024]
    results["narrow"] = [row for row in results.get("narrow", []) if row["threads"] not in threads]
    for count in threads:
        watch = machine.Watch()
        with ExitStack() as stack:
            running = {p: stack.enter_context(Peer("matmul", p, count)) for p in peers}
            results.setdefault("kernels", {})[str(count)] = running["openblas"].ask(do="about")
            peaks = [running["firepot"].ask(do="peak")["gflops"]]
            for shape, transposes in itertools.product(shapes, TRANSPOSES):
                flops = 2.0 * shape[0] * shape[1] * shape[2]
                row: dict[str, Any] = {"shape": shape, "transposes": transposes, "threads": count, "times": {}}
                for _ in range(min(rounds, 2) if flops > _HUGE else rounds):
                    for p, peer in running.items():
                        answer = peer.ask(do="time", shape=shape, transposes=transposes, seconds=seconds)
                        if "times" in answer:
                            row["times"].setdefault(p, []).append(answer["times"])
                        else:
                            row.setdefault("errors", {})[p] = answer["error"]
                results["rows"].append(row)
                if transposes == TRANSPOSES[-1]:
                    peaks.append(running["firepot"].ask(do="peak")["gflops"])
            results.setdefault("peak", {})[str(count)] = max(peaks)
            _measure_narrow({p: running[p] for p in ("firepot", "mkl") if p in running}, count, rounds, seconds, results)
        results.setdefault("others", {})[f"{count} thread(s)"] = watch.others()
    results["rows"].sort(key=lambda row: row["threads"])


def _measure_narrow(running: dict[str, Peer], count: int, rounds: int, seconds: float, results: Results) -> None:
    """Every dtype, float32 between the others, of every shape."""
    for shape in NARROW_SHAPES:
        for _ in range(rounds):
            for dtype, (p, peer) in itertools.product(("float32", *NARROW), running.items()):
                key = {"shape": shape, "transposes": "nt", "threads": count, "dtype": dtype}
                row = next((r for r in results["narrow"] if r.items() >= key.items()), None)
                if row is None:
                    row = {**key, "times": {}}
                    results["narrow"].append(row)
                answer = peer.ask(do="time", shape=shape, transposes="nt", dtype=dtype, seconds=seconds)
                if "times" in answer:
                    row["times"].setdefault(p, []).append(answer["times"])
                else:
                    row.setdefault("errors", {})[p] = answer["error"]


def open_peer(name: str, threads: int) -> Callable[[Answer], Answer]:
    """What runs in the peer's process: answers `time`, `about` and `peak`."""
    calls: dict[Any, Callable[[], Any]] = {}

    def answer(question: Answer) -> Answer:
        if question["do"] == "about":
            return _about()
        if question["do"] == "peak":
            return {"gflops": _peak(threads)}
        key = (tuple(question["shape"]), question["transposes"], question.get("dtype", "float32"))
        if key not in calls:
            calls.clear()
            calls[key] = _product(name, threads, *key)
            calls[key]()
        return {"times": timed(calls[key], question["seconds"])}

    return answer


def operands(shape: tuple[int, int, int], transposes: str, dtype: str = "float32") -> tuple[Any, Any]:
    """x and y as they are stored; what is to be bfloat16 as float32."""
    import numpy as np

    m, k, n = shape
    random = np.random.default_rng(0)
    sizes = (m, k) if transposes[0] == "n" else (k, m), (k, n) if transposes[1] == "n" else (n, k)
    if dtype == "int8":
        x, y = (random.integers(-128, 128, size, np.int8) for size in sizes)
    else:
        x, y = (random.standard_normal(size, np.float32) for size in sizes)
    return x, y


def _product(
    name: str, threads: int, shape: tuple[int, int, int], transposes: str, dtype: str = "float32"
) -> Callable[[], Any]:
    stored = operands(shape, transposes, dtype)
    x_turned, y_turned = (t == "t" for t in transposes)
    if name == "openblas":
        import numpy as np

        x, y = (a.T if t else a for a, t in zip(stored, (x_turned, y_turned), strict=True))
        out = np.empty((shape[0], shape[2]), np.float32)
        return lambda: np.matmul(x, y, out=out)
    if name == "firepot":
        import firepot as fp

        fp.set_num_threads(threads)
        multiply = fp.int_mm if dtype == "int8" else fp.matmul
        function = fp.jit(lambda x, y: multiply(x.mT if x_turned else x, y.mT if y_turned else y))
        a, b = (fp.from_numpy(s).to(getattr(fp, dtype)) for s in stored)
        fp.eval(a, b)
        return lambda: function(a, b)
    import torch

    torch.set_num_threads(threads)
    turned = (x_turned, y_turned)
    tensors = [torch.from_numpy(a).to(getattr(torch, dtype)) for a in stored]
    x, y = (tensor.mT if t else tensor for tensor, t in zip(tensors, turned, strict=True))
    if dtype != "float32":
        return lambda: torch._int_mm(x, y) if dtype == "int8" else torch.mm(x, y)
    if name == "mkl":
        out = torch.empty(shape[0], shape[2])
        return lambda: torch.mm(x, y, out=out)
    linear = torch.ops.mkldnn._linear_pointwise  # linear(a, b) = a bᵀ
    if transposes == "tt":
        return lambda: linear(y.mT, x, None, "none", [], "").mT
    return lambda: linear(x, y.mT, None, "none", [], "")


def _about() -> Answer:
    """Which kernels OpenBLAS chose, on how many threads."""
    import numpy as np
    import threadpoolctl

    (np.ones((64, 64), np.float32) @ np.ones((64, 64), np.float32)).sum()
    found = [i for i in threadpoolctl.threadpool_info() if i["internal_api"] == "openblas"]
    return {k: found[0][k] for k in ("version", "architecture", "num_threads")}


def _peak(threads: int) -> float:
    from firepot.runtime import doctor, pool

    pool.set_num_threads(threads)
    deadline = time.perf_counter() + 0.3
    best = 0.0
    while time.perf_counter() < deadline:
        found = doctor.examine()
        best = max(best, found.gflops_all_threads)
    return best


# What it says.


def gflops(row: dict[str, Any], peer: str) -> float | None:
    if not row["times"].get(peer):
        return None
    m, k, n = row["shape"]
    return 2e-9 * m * k * n / report.median(row["times"][peer])


def summary_table(results: Results) -> report.Table:
    """A line a shape and number of threads, over the four transpositions."""
    others = [p for p in PEERS if p != "firepot"]
    head = ["(m, k, n)", "threads", "Firepot, GFLOP/s", "of peak", "lowest"]
    table = [head + [f"÷ {NAMES[p]} (lowest)" for p in others]]
    groups: dict[tuple[Any, int], list[dict[str, Any]]] = {}
    for row in results["rows"]:
        groups.setdefault((tuple(row["shape"]), row["threads"]), []).append(row)
    for (shape, threads), rows in groups.items():
        peak = results["peak"][str(threads)]
        own = [gflops(row, "firepot") or float("nan") for row in rows]
        line = [str(shape), str(threads), f"{geometric_mean(own):.0f}", f"{100 * geometric_mean(own) / peak:.0f} %"]
        line.append(f"{100 * min(own) / peak:.0f} %")
        for p in others:
            ratios = [speed / theirs for row, speed in zip(rows, own, strict=True) if (theirs := gflops(row, p))]
            line.append(f"{geometric_mean(ratios):.2f} ({min(ratios):.2f})" if ratios else "–")
        table.append(line)
    return table


def narrow_table(results: Results) -> report.Table:
    """bfloat16 and int8 products beside Firepot's float32 and PyTorch's of the same dtype."""
    table = [["(m, k, n)", "threads", "dtype", "Firepot, GFLOP/s", "÷ Firepot's float32", "÷ PyTorch"]]
    rows = results.get("narrow", [])
    for row in sorted(rows, key=lambda r: r["threads"]):
        if row["dtype"] == "float32":
            continue
        plain = next(r for r in rows if r["dtype"] == "float32" and all(r[k] == row[k] for k in ("shape", "threads")))
        own, theirs, before = gflops(row, "firepot"), gflops(row, "mkl"), gflops(plain, "firepot")
        line = [str(tuple(row["shape"])), str(row["threads"]), row["dtype"], f"{own:.0f}" if own else "–"]
        line += [f"{own / other:.2f}" if own and other else "–" for other in (before, theirs)]
        table.append(line)
    return table


def _narrow_section(results: Results) -> list[str]:
    if not results.get("narrow"):
        return []
    return [
        "bfloat16 and int8 (into int32), y stored transposed, beside float32 and PyTorch's torch.mm and torch._int_mm:",
        report.markdown(narrow_table(results)),
    ]


def all_rows(results: Results) -> report.Table:
    table = [["(m, k, n)", "stored transposed", "threads", *(f"{NAMES[p]}, GFLOP/s" for p in PEERS), "of peak"]]
    for row in results["rows"]:
        speeds = [gflops(row, p) for p in PEERS]
        turned = {"nn": "–", "nt": "y", "tn": "x", "tt": "x, y"}[row["transposes"]]
        share = f"{100 * speeds[0] / results['peak'][str(row['threads'])]:.0f} %" if speeds[0] else "–"
        cells = ["–" if s is None else f"{s:.1f}" for s in speeds]
        table.append([str(tuple(row["shape"])), turned, str(row["threads"]), *cells, share])
    return table


def document(results: Results) -> str:
    peaks = ", ".join(f"{peak:.0f} on {count} thread(s)" for count, peak in results["peak"].items())
    kernels = next(iter(results["kernels"].values()))
    counts = []
    for p in PEERS:
        pairs = [(gflops(r, "firepot"), gflops(r, p)) for r in results["rows"]]
        if p != "firepot":
            ahead = [own > theirs for own, theirs in pairs if own and theirs]
            counts.append(f"{NAMES[p]} on {sum(ahead)} of {len(ahead)} rows")
    return "\n\n".join(part for part in [
        "## Matrix multiplication",
        machine.sentence(results["machine"]),
        machine.warning(results.get("others", {})),
        f"Measured multiply-add peak: {peaks} GFLOP/s. OpenBLAS {kernels.get('version')} chose its "
        f"{kernels.get('architecture')} kernels; MKL and oneDNN as PyTorch brings them. Firepot is ahead of "
        + ", ".join(counts) + ". Ratios are geometric means over the four ways to store the operands, with the lowest.",
        "![Percent of peak](matmul.png)",
        report.markdown(summary_table(results)),
        "[Every row](matmul.md)",
        *_narrow_section(results),
    ] if part) + "\n"  # fmt: skip


def plot(results: Results, path: Any) -> None:
    """Percent of peak of every library, a panel a number of threads."""
    counts = sorted({row["threads"] for row in results["rows"]})
    figure, axes = plots.new_figure(6.2 * len(counts), 4.6, len(counts))
    for panel, count in zip(axes, counts, strict=True):
        shapes = list(dict.fromkeys(tuple(r["shape"]) for r in results["rows"]))
        for p, (colour, marker) in zip(PEERS, plots.MATMUL_STYLES, strict=True):
            points = [
                (y + 0.12 * (t - 1.5), 100 * speed / results["peak"][str(count)])
                for row in results["rows"] if row["threads"] == count and (speed := gflops(row, p))
                for y, t in [(shapes.index(tuple(row["shape"])), TRANSPOSES.index(row["transposes"]))]
            ]  # fmt: skip
            panel.plot(
                [x for _, x in points], [y for y, _ in points], marker, ms=5, color=colour, mec="white", mew=0.5,
                label=NAMES[p], alpha=0.9, zorder=3 if p == "firepot" else 2,
            )  # fmt: skip
        panel.axvline(100, color="#333333", lw=1)
        panel.set_yticks(range(len(shapes)), ["×".join(map(str, s)) for s in shapes] if count == counts[0] else [])
        panel.set_ylim(len(shapes) - 0.4, -0.6)
        panel.grid(axis="y", color="#eeeeee")
        panel.set_title(f"{count} thread{'s' if count > 1 else ''}", loc="left", fontsize=11)
        panel.set_xlabel("percent of the measured multiply-add peak")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    plots.save(figure, path)
