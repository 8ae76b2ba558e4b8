"""Plans on disk: what is found runs as what was built, and nothing is found that is not the same."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.compiler import driver, plan_cache
from firepot.compiler.plan import from_bytes, to_bytes
from firepot.compiler.simplify import structure
from firepot.compiler.statistics import log
from firepot.graph import node as graph
from firepot.graph import primitives
from firepot.graph.node import Primitive, apply
from firepot.graph.primitives import elementwise as ew
from firepot.nn import functional as F
from firepot.runtime import engine
from firepot.runtime.code_cache import CodeCache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache on disk of the test's own."""
    cache = CodeCache(tmp_path)
    monkeypatch.setattr(engine, "code_cache", lambda: cache)
    return tmp_path


def as_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what is in memory."""
    monkeypatch.setattr(engine, "_addresses", {})
    monkeypatch.setattr(driver, "_programs", type(driver._programs)())


def training() -> list[np.ndarray[Any, Any]]:
    """Steps of a network with state, dropout and checked indices, under jit and plain."""
    fp.manual_seed(3)
    table = nn.Embedding(9, 16)
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 5))
    opt = fp.optim.SGD([*table.parameters(), *net.parameters()], lr=0.1, momentum=0.9)
    x, y = fp.tensor([[1, 7], [0, 8], [3, 3]]), fp.tensor([1, 4, 0])

    def step(x: fp.Tensor, y: fp.Tensor) -> fp.Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(net(table(x).sum(1)), y)
        loss.backward()
        opt.step()
        return loss

    fast = fp.jit(step)
    losses = [f(x, y).numpy(force=True) for f in (fast, fast, step)]
    return [*losses, *(p.numpy(force=True) for p in net.parameters()), net[1].running_var.numpy()]


def recurrent() -> list[np.ndarray[Any, Any]]:
    fp.manual_seed(1)
    net = nn.LSTM(20, 24, batch_first=True)
    infer = fp.jit(lambda x: net(x)[0])
    x = fp.randn(3, 4, 20)
    with fp.no_grad():
        return [infer(x).numpy() for _ in range(2)]


def odd_results() -> list[np.ndarray[Any, Any]]:
    """Results that are arguments, the same twice, empty, and parts of each other."""
    x, empty = fp.arange(6.0).reshape(2, 3), fp.zeros(0, 3)
    y = x.exp()
    f = fp.jit(lambda x, y, e: (x, y + 1, y + 1, e * 2, fp.cat([x, y * 2, x]), x.T.contiguous(), x * -0.0, x * 0.0))
    return [t.numpy() for t in f(x, y, empty)]


def loops() -> list[np.ndarray[Any, Any]]:
    """Loops in loops with constants to pack, a branch, a loop with a condition, results of several dtypes."""
    fp.manual_seed(2)
    w, xs = fp.randn(20, 20) * 0.2, fp.randn(3, 5, 20)

    def run(w: fp.Tensor, xs: fp.Tensor) -> Any:
        def step(h: fp.Tensor, x: fp.Tensor) -> Any:
            h = fp.cond(x.sum() > 0, lambda h: (h @ w + x).tanh(), lambda h: h * 2, h)
            return fp.scan(lambda h, _: (h @ w, None), h, length=2)[0], h.sum()

        last, sums = fp.scan(step, xs[0] * 0, xs)
        n, total = fp.while_loop(lambda v: v[1] < 50, lambda v: (v[0] + 1, v[1] * 1.5 + 1), (fp.tensor(0), sums.mean().abs()))
        return last, n, total

    last, n, total = fp.jit(run)(w, xs)
    gradient = fp.jit(fp.grad(lambda w: fp.scan(lambda h, x: ((h @ w + x).tanh(), None), xs[0], xs)[0].sum()))(w)
    return [t.numpy() for t in (last, n, total, gradient)]


@pytest.mark.parametrize("work", [training, recurrent, odd_results, loops])
def test_what_is_found_computes_the_same(work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    as_another_process(monkeypatch)
    before = log.planned
    built = work()
    assert log.planned == before
    as_another_process(monkeypatch)
    programs, compiled = log.programs, engine.statistics().compiled
    found = work()
    assert log.planned - before == log.programs - programs > 0
    assert engine.statistics().compiled == compiled
    for a, b in zip(built, found, strict=True):
        assert a.tobytes() == b.tobytes()
    monkeypatch.setattr(plan_cache, "ENABLED", False)
    as_another_process(monkeypatch)
    programs, planned = log.programs, log.planned
    for a, b in zip(built, work(), strict=True):
        assert a.tobytes() == b.tobytes()
    assert log.planned == planned
    assert log.programs > programs


def test_another_process_finds_all_and_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is pending in the one, and not in the other, as its garbage is collected at some time."""
    as_another_process(monkeypatch)
    pending = fp.ones(3) * 2 + 1
    expected = training()
    assert pending._value.buffer is not None
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import firepot as fp
from test_plan_cache import training
from firepot.compiler.statistics import log
print(training()[0].tobytes().hex(), log.planned, log.programs, fp.debug.statistics().native_compiled)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, os.path.dirname(__file__)],
        env={**os.environ, "FIREPOT_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    loss, planned, found, compiled = done.stdout.split()
    assert loss == expected[0].tobytes().hex()
    assert int(planned) == int(found) > 0
    assert int(compiled) <= 1  # the threads' own code, which this process may have had in memory


def test_a_bad_index_is_told_though_numbers_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(name: str) -> str:
        with pytest.raises(IndexError) as caught:
            fp.eval(F.embedding(fp.tensor([1, 5, 0]), fp.ones(3, 4)) * 2)
        return str(caught.value)

    as_another_process(monkeypatch)
    expected = look("first")
    assert "5" in expected
    as_another_process(monkeypatch)
    monkeypatch.setattr(ew, "check_sites", ew.CheckSites())
    ew.check_sites.number((99, "another check {index}", True))
    before = log.planned
    assert look("second") == expected
    assert log.planned > before


def test_damaged_and_missing_files_are_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def value() -> list[float]:
        as_another_process(monkeypatch)
        return (fp.tensor([1.0, 2.0]).exp() * 3).tolist()  # type: ignore[no-any-return]

    expected = value()
    planned = log.planned
    files = sorted(folder.rglob("*.code"))
    for file in files:
        contents = file.read_bytes()
        for damaged in (contents[:-1], b"", contents[:16] + b"{}"):
            file.write_bytes(damaged)
            assert value() == expected
        file.unlink()
        assert value() == expected
    assert value() == expected
    assert log.planned > planned
    assert sorted(folder.rglob("*.code")) == files


def name(*outputs: fp.Tensor, **arguments: Any) -> str | None:
    return plan_cache.name_of(structure([t._node for t in outputs])[0], arguments)


def test_whatever_the_program_depends_on_is_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    x = fp.tensor([[1.0, 2.0], [3.0, 4.0]])
    y = fp.tensor([[5.0, 2.0], [3.0, 4.0]])
    graphs = {
        "sum": (x + y,), "product": (x * y,), "double": (x.double() + y.double(),), "row": (x[0] + y[0],),
        "twice": (x + x,), "both": (x + y, x * y), "swapped": (x * y, x + y), "zero": (x + 0.25,), "other": (x + 0.5,),
        "minus": (x / -0.0,), "plus": (x / 0.0,), "nan": (x + float("nan"),), "max": (x.amax(0),),
        "max of rows": (x.amax(1),), "min": (x.amin(0),), "any": (x.bool().any(0),), "one": (x.long() + 1,),
        "float": (x.double() + 1,),
    }  # fmt: skip
    names = [name(*outputs) for outputs in graphs.values()]
    names += [name(x + y, donations=((0, 0),)), name(x + y, donations=((0, 1),)), name(x + y, constants=(0,))]
    names += [name(x + y, inputs=(1, 0))]
    assert None not in names
    assert len(set(names)) == len(names)
    assert name(x + y) == names[0]
    monkeypatch.setattr(plan_cache, "_compiler_key", lambda: b"another source")
    assert name(x + y) not in names


def test_sources_that_changed_since_they_were_read_name_nothing_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.source_digest("graph/*.py") == engine.source_digest("graph/*.py")
    monkeypatch.setattr(engine, "_READ_FROM", 0.0)
    assert engine.source_digest("graph/*.py") != engine.source_digest("graph/*.py")


def test_what_has_no_sure_form_has_no_name() -> None:
    class Own(ew.Scalar):
        """A primitive from outside of the graph's modules."""

    x = fp.ones(3)
    assert plan_cache.name_of(structure([apply(Own("sin"), (x._node,))])[0], {}) is None
    twin = ew.Scalar("exp")  # of the same class and name as one of the graph's
    assert name(x.exp()) is not None
    assert plan_cache.name_of(structure([apply(twin, (x._node,))])[0], {}) is None


def test_primitives_have_names_of_their_own() -> None:
    found: dict[str, Primitive] = {}
    families = [f"{primitives.__name__}.{m.name}" for m in pkgutil.iter_modules(primitives.__path__)]
    for module in [graph, *map(import_module, families)]:
        values: list[Any] = list(vars(module).values())
        values += [v for table in values if isinstance(table, dict) for v in table.values()]
        for p in values:
            if isinstance(p, Primitive):
                text = plan_cache._primitive(p)
                assert found.setdefault(text, p) is p
    assert len(found) > 50


def test_a_plan_is_read_as_it_was_written() -> None:
    x, w = fp.ones(4, 6), fp.ones(6, 5)
    fp.eval(x, w)
    y = fp.relu(x @ w).sum(0)
    fp.eval(y)
    plan = next(reversed(driver._programs.values())).plan
    assert plan.steps
    assert from_bytes(to_bytes(plan)) == plan
