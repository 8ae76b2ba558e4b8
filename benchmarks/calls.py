"""What a call costs before any work is done: recording an operation, calling a jitted function, a small network."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks import libraries, machine, report
from benchmarks.process import Answer, Peer
from benchmarks.timing import quartiles, timed

PEERS = {"firepot": "firepot", "torch": "torch", "jax": "jax"}
# Operations on vectors x and y of eight numbers, a 4 × 4 matrix m, an 8 × 8 matrix w, a mask c, an image of 3 × 8 × 8 and
# four 3 × 3 filters; each on the result of the one before where the shape allows.
OPERATIONS = (
    "x + y", "x * 2.5", "relu(x)", "x.reshape(2, 4)", "x.sum()", "m @ m", "clamp(x, 0.0, 1.0)", "cat([x, y])", "x[0]",
    "m[:, 1]", "m.mean(1)", "where(c, x, y)", "m.T", "x > y", "x > 0.5", "cast(x, int32)",
)  # fmt: skip
# The same of what Firepot composes of several of its primitives, beyond a view or a constant.
COMPOSED = ("m.var(1)", "softmax(x, 0)", "linear(x, w, y)", "conv2d(image, filters)", "layer_norm(x, (8,), x, y)")
_SECONDS = 0.1  # of a turn
_CHAIN = 50  # operations in a row, of which nothing is kept

Results = dict[str, Any]


def measure(rounds: int, results: Results) -> None:
    """Fill `results["rows"]`: seconds of single calls by peer."""
    results["machine"] = machine.describe(1)
    peers = [p for p, package in PEERS.items() if importlib.util.find_spec(package) is not None]
    questions = [{"do": "operation", "what": o} for o in (*OPERATIONS, *COMPOSED)]
    questions += [{"do": "eager", "what": "one addition with its value computed"}]
    questions += [{"do": "jit", "what": "jitted x + 1 (PyTorch: eager)"}]
    questions += [{"do": "mlp", "what": "MLP, one vector, jitted (PyTorch: eager)"}]
    results["rows"] = []
    watch = machine.Watch()
    with ExitStack() as stack:
        running = {p: stack.enter_context(Peer("calls", p, 1)) for p in peers}
        for question in questions:
            row: dict[str, Any] = {**question, "times": {}}
            for _ in range(rounds):
                for p, peer in running.items():
                    answer = peer.ask(**question)
                    if "times" in answer:
                        row["times"].setdefault(p, []).extend(answer["times"])
                    else:
                        row.setdefault("errors", {})[p] = answer["error"]
            results["rows"].append(row)
    results["others"] = {"the calls": watch.others()}


def open_peer(name: str, threads: int) -> Callable[[Answer], Answer]:
    """What runs in the peer's process: answers `operation`, `eager`, `jit` and `mlp`."""
    libraries.load(name, threads)
    prepared: dict[str, tuple[Callable[[], Any], int]] = {}

    def answer(question: Answer) -> Answer:
        key = question["what"]
        if key not in prepared:
            prepared[key] = _prepare(name, question["do"], key, threads)
            prepared[key][0]()
            prepared[key][0]()
        run, calls = prepared[key]
        return {"times": [t / calls for t in timed(run, _SECONDS, at_least=20)]}

    return answer


def _prepare(name: str, do: str, what: str, threads: int) -> tuple[Callable[[], Any], int]:
    """(what to time, how many calls that makes)."""
    if do == "mlp":
        work = libraries.open_work(name, "mlp", threads)
        work.mode(training=False)
        return work.inference(1), 1
    names = _names(name)
    x, y = names["x"], names["y"]
    if name == "jax":
        import jax

        jit, ready = jax.jit(lambda x: x + 1), lambda a: a.block_until_ready()
    else:
        library = __import__(name)
        jit = library.jit(lambda x: x + 1) if name == "firepot" else lambda x: x + 1
        ready = library.eval if name == "firepot" else lambda a: a
    if do == "jit":
        return lambda: ready(jit(x)), 1
    if do == "eager":
        return lambda: ready(x + y), 1
    operation = eval(f"lambda x: {what}", names)
    calls = range(_CHAIN)

    def several() -> None:
        for _ in calls:
            operation(x)

    def chain() -> None:
        z = x
        for _ in calls:
            z = operation(z)

    result = operation(x)
    return (chain if (result.shape, result.dtype) == (x.shape, x.dtype) else several), _CHAIN


def _names(name: str) -> dict[str, Any]:
    """What the operations are written with, in the peer's library. JAX has no layer_norm."""
    if name == "jax":
        import jax

        library = jax.numpy
        names = {
            "clamp": library.clip, "cat": library.concatenate, "relu": jax.nn.relu, "softmax": jax.nn.softmax,
            "cast": lambda x, dtype: x.astype(dtype), "linear": lambda x, w, b: x @ w.T + b,
            "conv2d": lambda x, w: jax.lax.conv(x, w, (1, 1), "VALID"),
        }  # fmt: skip
    else:
        library = importlib.import_module(name)
        functional = importlib.import_module(f"{name}.nn.functional")
        names = {
            "clamp": library.clamp, "cat": library.cat, "relu": library.relu, "softmax": functional.softmax,
            "cast": lambda x, dtype: x.to(dtype), "linear": functional.linear, "conv2d": functional.conv2d,
            "layer_norm": functional.layer_norm,
        }  # fmt: skip
    x = library.arange(8.0)
    shapes = {"y": 8, "m": (4, 4), "w": (8, 8), "image": (1, 3, 8, 8), "filters": (4, 3, 3, 3)}
    values = {n: library.ones(s) for n, s in shapes.items()}
    return {**names, **values, "x": x, "c": x > 2, "where": library.where, "int32": library.int32}


def table(results: Results) -> report.Table:
    """Microseconds: the median, and the quartiles."""
    result = [["µs a call", *(report.NAMES[p] for p in PEERS)]]
    for row in results["rows"]:
        cells = []
        for p in PEERS:
            times = row["times"].get(p)
            if not times:
                cells.append("–")
                continue
            low, middle, high = quartiles([1e6 * t for t in times])
            cells.append(f"{report.number(middle)} ({report.number(low)}–{report.number(high)})")
        name = f"`{row['what']}`" if row["do"] == "operation" else row["what"]
        name += ", composed" if row["what"] in COMPOSED else ""
        result.append([name, *cells])
    return result


def document(results: Results) -> str:
    return "\n\n".join(part for part in [
        "## Calls",
        machine.sentence(results["machine"]),
        machine.warning(results.get("others", {})),
        "Medians with quartiles, one thread, eight numbers. The operations: what Python waits for. Firepot records them, "
        "PyTorch computes them, JAX may still be computing. Composed: of several of Firepot's primitives.",
        report.markdown(table(results)),
    ] if part) + "\n"  # fmt: skip
