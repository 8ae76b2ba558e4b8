"""Loops of fp.kernel in lanes: the values of one element at a time and of Python, and which loops they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, build
from firepot.graph.index import contiguous_strides
from firepot.kernels.lanes import Target, covered, replaceable, vectorised
from firepot.kernels.liveness import open_checks, statements_of
from firepot.kernels.procedure import Lanes, Procedure


def run(outputs: Any, passes: Passes) -> list[Any]:
    """The outputs' values by a program with those passes."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    nodes = [t._value for t in outputs]
    _, leaves, order = simplify.structure(nodes)
    executor = Executor(build(*simplify.simplify(order, leaves, nodes, True), passes=passes))
    buffers = executor([leaf.buffer.copy() for leaf in leaves])
    return [b.view(n.dtype.numpy, n.shape).copy() for b, n in zip(buffers, nodes, strict=True)]


def procedure(result: fp.Tensor) -> Procedure:
    found: Procedure = result._node.params[0]
    return found


def in_lanes(p: Procedure) -> list[str]:
    """The variables of the loops that run in lanes."""
    body = vectorised(p, Target(64, tuple(contiguous_strides(a.shape) for a in p.arrays)))
    loops = [s.loop for s in _all(body) if isinstance(s, Lanes)]
    return [getattr(s, "name", None) or s.names[-1] for s in loops]


def _all(body: Any) -> Any:
    for s in statements_of(body):
        yield s
        if isinstance(s, Lanes):
            yield from _all([s.loop])


def maps(x: Any, y: Any, z: Any) -> None:
    n, m = x.shape
    for i, j in fp.kernel.parallel(n, m):
        a = abs(x[i, j])
        if a > 1:
            a = 1 / a + (x[i, j - 1] if j > 0 else 0.5)
        elif a < 0.25:
            continue
        y[i, j] = a * math.exp(-a) if a > 0 else math.inf
        z[i, j] += int(4 * a) % 3 + j


def folds(x: Any, y: Any, z: Any) -> None:
    n, m = x.shape
    for i in fp.kernel.parallel(n):
        total, product, best, least, odd = 2.0, 1.0, -math.inf, 9.0, 0
        for j in range(m):
            total += x[i, j] * x[i, m - 1 - j]
            product *= 1 + x[i, j] / 64
            if x[i, j] < 1:
                best = max(best, x[i, j])
            least = min(least, x[i, j]) if j % 2 == 0 else least
            odd = odd ^ int(8 * x[i, j])
        for j in range(m - 1, -1, -3):
            total -= x[i, j]
        y[i, 0] = total + product
        y[i, 1 % m] = best - least
        z[i, 0] = odd


def carried(x: Any, y: Any, z: Any) -> None:
    """Turns that depend on one another."""
    n, m = x.shape
    for i in range(n):
        total, last = 0.0, 0.0
        for j in range(m):
            total += x[i, j]
            y[i, j] = total + last
            last = x[i, j]
            if j > 0:
                z[i, j] = z[i, j - 1] + 1
        y[i, 0] += last


def inner(x: Any, y: Any, z: Any) -> None:
    """Loops and branches that all lanes share within the one in lanes, and reads far apart."""
    n, m = x.shape
    for j in fp.kernel.parallel(m):
        for i in range(n):
            total = 0.0
            k = 0
            while k < 3:
                if k == 1 and i == 0:
                    break
                total += x[(i + k) % n, j] * x[i, (j + 3 * k) % m]
                k += 1
            for k in range(i):
                if k == 2:
                    continue
                total = total + k
            y[i, j] = total
            z[i, j] = i * m + j


def marks(x: Any, y: Any, z: Any) -> None:
    n, m = x.shape
    for i in range(n):
        for j in range(m):
            k = int(abs(x[i, j]) * 3) % m
            if x[i, j] > 0:
                y[i, k] = 1.0
                z[i, j] = z[i, j] + 1


CASES = {
    "maps": (maps, ["j"]), "folds": (folds, None), "carried": (carried, []), "inner": (inner, ["j"]),
    "marks": (marks, None),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(3, 5), (40, 201), (1, 1), (2, 0)])
@pytest.mark.parametrize("name", CASES)
def test_as_one_element_at_a_time(name: str, shape: tuple[int, int]) -> None:
    function, loops = CASES[name]
    if name in ("folds", "carried") and 0 in shape:
        return
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    result = fp.kernel(out=["x", lambda x: (x.shape, fp.int32)])(function)(fp.tensor(x))
    fast, slow = run(result, Passes()), run(result, Passes(lanes=False))
    for a, b in zip(fast, slow, strict=True):
        if name == "folds":
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # summed in another order
        else:
            np.testing.assert_array_equal(a, b)
    if shape[1] == 201 and loops is not None:
        assert in_lanes(procedure(result[0])) == loops
    if name != "maps" or x.size:
        expected = np.zeros(shape), np.zeros(shape, np.int64)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fp.kernel, "parallel", staticmethod(_positions))
            function(x.astype(np.float64), *expected)
        np.testing.assert_allclose(fast[0], expected[0], rtol=2e-4, atol=2e-4)
        np.testing.assert_array_equal(fast[1], expected[1])


def _positions(*sizes: int) -> Any:
    return range(sizes[0]) if len(sizes) == 1 else np.ndindex(*sizes)


@pytest.mark.parametrize("dtype", [fp.float16, fp.bfloat16, fp.float64, fp.uint8, fp.int64, fp.bool])
def test_dtypes(dtype: Any) -> None:
    x = (fp.arange(70) % 5).to(dtype).reshape(2, 35)

    @fp.kernel(out=["x", lambda x: (x.shape, fp.float64)])
    def both(x: Any, y: Any, z: Any) -> None:
        for i, j in fp.kernel.parallel(x.shape[0], x.shape[1]):
            y[i, j] = x[i, j]
            z[i, j] = x[i, j] * 0.5 + x[i, 34 - j]

    y, z = both(x)
    np.testing.assert_array_equal(y.double().numpy(), x.double().numpy())
    np.testing.assert_array_equal(z.numpy(), x.double().numpy() * 0.5 + x.double().numpy()[:, ::-1])


@pytest.mark.parametrize("at", [3, 40, 69])
def test_first_bad_index_of_lanes(at: int) -> None:
    where = np.arange(70)
    where[at] = 70 + at
    where[69] = 170

    @fp.kernel(out="x")
    def taken(x: Any, k: Any, y: Any) -> None:
        for i in fp.kernel.parallel(len(x)):
            y[i] = x[k[i]] if k[i] < 150 or i < 60 else -1.0

    assert in_lanes(procedure(taken(fp.ones(70), fp.tensor(where)))) in ([], ["i"])
    if at == 69:
        assert taken(fp.ones(70), fp.tensor(where)).numpy()[-1] == -1
    else:
        with pytest.raises(IndexError, match=rf"index {70 + at} is out of bounds"):
            taken(fp.ones(70), fp.tensor(where)).numpy()


def test_outputs_that_are_not_cleared() -> None:
    def numbers(function: Any, *args: Any) -> set[int]:
        return covered(procedure(function(*args)))

    @fp.kernel(out=["x", "x", "x"])
    def several(x: Any, whole: Any, added: Any, part: Any) -> None:
        for i in fp.kernel.parallel(x.shape[0]):
            for j in range(x.shape[1]):
                whole[i, j] = x[i, j]
                added[i, j] += x[i, j]
                if x[i, j] > 0:
                    part[i, j] = 1.0

    @fp.kernel(out="x")
    def stops(x: Any, y: Any) -> None:
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                y[i, j] = x[i, j]
                if x[i, j] > 1:
                    break

    x = fp.randn(4, 5)
    assert covered(procedure(several(x)[0])) == {1}
    assert numbers(stops, x) == set()


def test_what_may_be_written_over_an_input() -> None:
    def own(x: Any, y: Any, a: Any, b: Any) -> None:
        for i in fp.kernel.parallel(len(x)):
            t = x[i] + y[i]
            a[i] = t
            b[i] = t * y[i]

    def neighbours(x: Any, y: Any, a: Any, b: Any) -> None:
        for i in fp.kernel.parallel(len(x)):
            a[i] = x[max(i - 1, 0)] + y[i]
            b[i] = y[len(x) - 1 - i]

    def scalar(x: Any, y: Any, a: Any, b: Any) -> None:
        first = x[0]
        for i in fp.kernel.parallel(len(x)):
            a[i] = first + y[i]
            for _ in range(3):
                b[i] += y[i]

    def in_part(x: Any, y: Any, a: Any, b: Any) -> None:
        for i in fp.kernel.parallel(len(x)):
            if x[i] > 0:
                a[i] = x[i]
            b[i] = a[i] + y[i]

    def turned(x: Any, y: Any, a: Any, b: Any) -> None:
        for i, j in fp.kernel.parallel(x.shape[0], x.shape[1]):
            a[i, j] = x[j, i]
            b[i, j] = y[i, j]

    def found(function: Any, *shape: int, dtype: Any = fp.float32) -> set[tuple[int, int]]:
        kernel = fp.kernel(out=["x", "x"])(function)
        return replaceable(procedure(kernel(fp.ones(*shape), fp.ones(*shape).to(dtype))[0]))

    assert found(own, 9) == {(0, 2), (0, 3), (1, 3)}
    assert found(own, 9, dtype=fp.float64) == {(0, 2), (0, 3)}
    assert found(neighbours, 9) == set()
    assert found(scalar, 9) == set()  # y is read after a is written
    assert found(in_part, 9) == {(1, 3), (0, 3)}
    assert found(turned, 4, 4) == {(1, 3)}


def test_indices_that_cannot_be_bad() -> None:
    @fp.kernel(out="x")
    def within(x: Any, y: Any) -> None:
        for i in fp.kernel.parallel(len(x)):
            for j in range(1, x.shape[1], 2):
                y[i, j] = x[i, 0]

    @fp.kernel(out="x")
    def beyond(x: Any, y: Any) -> None:
        for i in range(len(x)):
            for j in range(x.shape[1] + 1):
                if j < x.shape[1]:
                    y[i, j] = x[i, j]
            if i > 0:
                y[i - 1, 0] = 1.0

    assert not open_checks(procedure(within(fp.ones(4, 5))))
    assert {size for size, _, _ in open_checks(procedure(beyond(fp.ones(4, 5))))} == {4, 5}


@pytest.mark.parametrize("n", [37, 5000])
def test_state_is_updated_in_place(n: int) -> None:
    """As where no memory is shared; the kernel is the whole program then, and copies nothing."""

    @fp.kernel(out=["p", "m"])
    def momentum(p: Any, g: Any, m: Any, rate: Any, new_p: Any, new_m: Any) -> None:
        for i in fp.kernel.parallel(len(p)):
            v = 0.9 * m[i] + g[i]
            new_m[i] = v
            new_p[i] = p[i] - rate * v

    g = fp.tensor(np.linspace(-1, 1, n, dtype=np.float32))
    p, m = fp.ones(n), fp.zeros(n)
    own = fp.ones(n)  # both what is changed and the gradient

    @fp.jit
    def step(rate: fp.Tensor) -> None:
        for t, by in ((p, g), (own, own)):
            a, b = momentum(t, by, m, rate)
            t.copy_(a)
            m.copy_(b)

    expected_p, expected_m, expected_own = np.ones(n), np.zeros(n), np.ones(n)
    for _ in range(3):
        step(fp.tensor(0.5))
        expected_m = 0.9 * expected_m + g.numpy()
        expected_p = expected_p - 0.5 * expected_m
        expected_m = 0.9 * expected_m + expected_own
        expected_own = expected_own - 0.5 * expected_m
    for found, expected in ((p, expected_p), (m, expected_m), (own, expected_own)):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
    (traces,) = step._traces.values()
    assert len(traces[0].executor.executable.steps) == 2
    assert len(traces[0].executor.donated) == 3
