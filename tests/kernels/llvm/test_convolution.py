"""Convolutions of every mode against their definition in float64, over sizes, layouts, dtypes and thread counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.kernels.llvm import (
    convolution_filtering,
    convolution_pointwise,
    convolution_winograd,
    convolution_winograd_weight,
)
from firepot.kernels.llvm.convolution import Convolution, lower, result_lane
from firepot.kernels.llvm.convolution_winograd import Winograd
from firepot.kernels.llvm.convolution_winograd_weight import WinogradWeight
from firepot.kernels.llvm.epilogue import StoreEpilogue
from firepot.runtime import pool
from firepot.runtime.buffer import Buffer
from firepot.runtime.processor import Processor, processor
from firepot.runtime.program import ARENA, FIRST, Executable, Operand, Step

MODES = ("forward", "input_grad", "weight_grad")
LAST = (0, 2, 3, 4, 1)  # channels-last
FIRST_ = (0, 1, 2, 3, 4)  # row-major
ODD = (4, 1, 0, 3, 2)

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = pool.get_num_threads()
    yield
    pool.set_num_threads(before)


def definition(c: Convolution, a: Array, b: Array) -> Array:
    """The trilinear form of convolution_form.py, tap by tap."""
    size, out = c.input_size, c.output_size
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, c.stride, c.kernel, c.dilation, strict=True)]
    room = [max(r, p + n) for r, p, n in zip(reach, c.padding, size, strict=True)]
    inner = tuple(slice(p, p + n) for p, n in zip(c.padding, size, strict=True))
    group_in, group_out = c.in_channels // c.groups, c.out_channels // c.groups

    def bordered(x: Array) -> Array:
        result = np.zeros((c.batch, c.in_channels, *room))
        result[(slice(None), slice(None), *inner)] = x
        return result

    def at(k: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(
            slice(i * d, i * d + (o - 1) * s + 1, s) for i, d, o, s in zip(k, c.dilation, out, c.stride, strict=True)
        )

    if c.mode == "forward":
        x, result = bordered(a), np.zeros((c.batch, c.out_channels, *out))
    elif c.mode == "input_grad":
        result = np.zeros((c.batch, c.in_channels, *room))
    else:
        x, result = bordered(a), np.zeros((c.out_channels, group_in, *c.kernel))
    for k in itertools.product(*map(range, c.kernel)):
        for g in range(c.groups):
            ci, co = slice(g * group_in, (g + 1) * group_in), slice(g * group_out, (g + 1) * group_out)
            if c.mode == "forward":
                w = b[(co, slice(None), *k)]
                result[:, co] += np.einsum("nczyx,oc->nozyx", x[(slice(None), ci, *at(k))], w, optimize=True)
            elif c.mode == "input_grad":
                w = b[(co, slice(None), *k)]
                result[(slice(None), ci, *at(k))] += np.einsum("nozyx,oc->nczyx", a[:, co], w, optimize=True)
            else:
                result[(co, slice(None), *k)] += np.einsum(
                    "nczyx,nozyx->oc", x[(slice(None), ci, *at(k))], b[:, co], optimize=True
                )
    return result[(slice(None), slice(None), *inner)] if c.mode == "input_grad" else result


def strides_of(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [0] * len(shape), 1
    for d in reversed(order):
        strides[d] = step
        step *= shape[d]
    return tuple(strides)


def describe(
    mode: str, batch: int, channels: int, out_channels: int, size: tuple[int, int, int], kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1), padding: tuple[int, int, int] = (0, 0, 0),
    dilation: tuple[int, int, int] = (1, 1, 1), groups: int = 1, dtype: DType = dtypes.float32, first: Any = LAST,
    second: Any = None, result: Any = None, extra: tuple[int, int, int] = (0, 0, 0), winograd: bool = True,
) -> Convolution:  # fmt: skip
    """A convolution with operands laid out in the given orders. `extra`: positions more at the high side."""
    out = tuple(
        max(1, (n + 2 * p + e - d * (k - 1) - 1) // s + 1)
        for n, p, e, d, k, s in zip(size, padding, extra, dilation, kernel, stride, strict=True)
    )
    x, y = (batch, channels, *size), (batch, out_channels, *out)
    w = (out_channels, channels // groups, *kernel)
    a, b, r = {"forward": (x, w, y), "input_grad": (y, w, x), "weight_grad": (x, y, w)}[mode]
    default = LAST if mode == "weight_grad" else FIRST_
    return Convolution(
        mode=mode, batch=batch, groups=groups, in_channels=channels, out_channels=out_channels, input_size=size,
        kernel=kernel, output_size=out, stride=stride, dilation=dilation, padding=padding,  # type: ignore[arg-type]
        first_strides=strides_of(a, first), second_strides=strides_of(b, second or default),  # type: ignore[arg-type]
        result_strides=strides_of(r, result or (FIRST_ if mode == "weight_grad" else LAST)),  # type: ignore[arg-type]
        dtype=dtype, accumulate=dtypes.float64 if dtype is dtypes.float64 else dtypes.float32, winograd=winograd,
    )  # fmt: skip


def shapes(c: Convolution) -> tuple[tuple[int, ...], ...]:
    x, y = (c.batch, c.in_channels, *c.input_size), (c.batch, c.out_channels, *c.output_size)
    w = (c.out_channels, c.in_channels // c.groups, *c.kernel)
    return {"forward": (x, w, y), "input_grad": (y, w, x), "weight_grad": (x, y, w)}[c.mode]


def numpy_type(dtype: DType) -> Any:
    return np.float32 if dtype is dtypes.bfloat16 else np.dtype(dtype.name)


def to_memory(array: Array, strides: tuple[int, ...], dtype: DType) -> Array:
    """The array's elements where strides say, as raw memory."""
    raw = np.zeros(array.size, numpy_type(dtype))
    np.lib.stride_tricks.as_strided(raw, array.shape, [s * raw.itemsize for s in strides])[...] = array
    if dtype is dtypes.bfloat16:
        return (raw.view(np.uint32) >> 16).astype(np.uint16)
    return raw


def from_memory(raw: Array, shape: tuple[int, ...], strides: tuple[int, ...], dtype: DType) -> Array:
    if dtype is dtypes.bfloat16:
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return np.lib.stride_tricks.as_strided(raw, shape, [s * raw.itemsize for s in strides]).astype(np.float64)


def random_operands(c: Convolution, seed: int = 0) -> list[Array]:
    """Numbers that the dtype holds exactly, as float64."""
    rng = np.random.default_rng(seed)
    result = []
    for shape in shapes(c)[:2]:
        array = rng.standard_normal(shape).astype(numpy_type(c.dtype))
        if c.dtype is dtypes.bfloat16:
            array = (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        result.append(array.astype(np.float64))
    return result


def run(c: Convolution, operands: list[Array], threads: int, host: Processor | None = None) -> Array:
    """The kernel's result. Memory around every operand is checked to stay as it was."""
    pool.set_num_threads(threads)
    kernel = lower(c, StoreEpilogue(2, c.result_strides, c.dtype, lane=result_lane(c)), host or processor())
    memory = [to_memory(a, s, c.dtype) for a, s in zip(operands, (c.first_strides, c.second_strides), strict=True)]
    result_shape = shapes(c)[2]
    memory.append(np.full(int(np.prod(result_shape)), 0x55, memory[0].dtype))
    guard = 256
    buffers = [Buffer.empty(m.nbytes + 2 * guard) for m in memory]
    views = [b.view(np.dtype(np.uint8), (m.nbytes + 2 * guard,)) for b, m in zip(buffers, memory, strict=True)]
    for view, m in zip(views, memory, strict=True):
        view[:] = 0xFF  # NaN, in every dtype
        view[guard:-guard] = m.view(np.uint8)
    steps = tuple(Operand(FIRST + i, guard) for i in range(3))
    if kernel.workspace:
        steps = (*steps, Operand(ARENA))
    executable = Executable([Step(kernel, steps)], 3, kernel.workspace)
    assert executable.run([b.address for b in buffers]) is None
    for view, m in zip(views[:2], memory, strict=False):
        assert np.array_equal(view[guard:-guard], m.view(np.uint8)), "an input was written"
    for view in views:
        assert (view[:guard] == 0xFF).all() and (view[-guard:] == 0xFF).all(), "written outside of an operand"
    raw = views[2][guard:-guard].copy().view(memory[2].dtype)
    return from_memory(raw, result_shape, c.result_strides, c.dtype)


TOLERANCE = {"float64": 1e-13, "float32": 3e-6, "bfloat16": 5e-3, "float16": 7e-4}


def check(
    c: Convolution, threads: tuple[int, ...] = (1, 3), tolerance: float | None = None, host: Processor | None = None
) -> None:
    operands = random_operands(c)
    expected = definition(c, *operands)
    scale = max(float(np.sqrt((expected**2).mean())), 1e-30) * 6
    results = [run(c, operands, t, host) for t in threads]
    for result in results:
        rounding = {"bfloat16": 2**-8, "float16": 2**-11}.get(c.dtype.name, 0)  # of the result itself
        atol = (tolerance or TOLERANCE[c.dtype.name]) * scale
        np.testing.assert_allclose(result, expected, rtol=rounding, atol=atol)
    for other in results[1:]:
        assert np.array_equal(results[0], other), "the result depends on the number of threads"


NAMED: dict[str, dict[str, Any]] = {
    "3x3": dict(batch=2, channels=32, out_channels=48, size=(1, 9, 11), kernel=(1, 3, 3), padding=(0, 1, 1)),
    "3x3 tiny image": dict(batch=5, channels=16, out_channels=32, size=(1, 2, 1), kernel=(1, 3, 3), padding=(0, 1, 1)),
    "3x3 stride 2": dict(
        batch=2, channels=16, out_channels=40, size=(1, 16, 15), kernel=(1, 3, 3), padding=(0, 1, 1), stride=(1, 2, 2)
    ),
    "1x1": dict(batch=3, channels=20, out_channels=33, size=(1, 7, 7), kernel=(1, 1, 1)),
    "1x1 stride 2": dict(batch=2, channels=32, out_channels=64, size=(1, 8, 9), kernel=(1, 1, 1), stride=(1, 2, 2)),
    "stem 7x7": dict(
        batch=2, channels=3, out_channels=64, size=(1, 30, 28), kernel=(1, 7, 7), padding=(0, 3, 3), stride=(1, 2, 2)
    ),
    "one channel": dict(batch=2, channels=1, out_channels=6, size=(1, 12, 12), kernel=(1, 5, 5), padding=(0, 2, 2)),
    "one output": dict(batch=2, channels=17, out_channels=1, size=(1, 6, 6), kernel=(1, 3, 3), padding=(0, 1, 1)),
    "depthwise": dict(
        batch=2, channels=40, out_channels=40, groups=40, size=(1, 10, 13), kernel=(1, 3, 3), padding=(0, 1, 1)
    ),
    "depthwise stride 2": dict(
        batch=2, channels=32, out_channels=32, groups=32, size=(1, 11, 12), kernel=(1, 5, 5), padding=(0, 2, 2),
        stride=(1, 2, 2),
    ),
    "depthwise multiplier": dict(
        batch=2, channels=6, out_channels=12, groups=6, size=(1, 8, 8), kernel=(1, 3, 3), padding=(0, 1, 1)
    ),
    "depthwise 3d": dict(
        batch=2, channels=17, out_channels=17, groups=17, size=(4, 6, 5), kernel=(3, 2, 3), padding=(1, 0, 2),
        dilation=(1, 2, 1),
    ),
    "groups": dict(
        batch=2, channels=24, out_channels=36, groups=3, size=(1, 9, 8), kernel=(1, 3, 3), padding=(0, 1, 1)
    ),
    "1d": dict(batch=3, channels=12, out_channels=20, size=(1, 1, 33), kernel=(1, 1, 5), padding=(0, 0, 2)),
    "3d": dict(batch=1, channels=8, out_channels=16, size=(5, 6, 7), kernel=(3, 3, 3), padding=(1, 1, 1)),
    "dilated": dict(
        batch=2, channels=16, out_channels=16, size=(1, 14, 14), kernel=(1, 3, 3), padding=(0, 2, 2),
        dilation=(1, 2, 2),
    ),
    "wide border": dict(batch=1, channels=5, out_channels=7, size=(1, 3, 2), kernel=(1, 3, 3), padding=(0, 5, 6)),
    "stride beyond kernel": dict(
        batch=2, channels=8, out_channels=8, size=(1, 10, 11), kernel=(1, 2, 1), stride=(1, 3, 4)
    ),
    "one-sided border": dict(
        batch=2, channels=16, out_channels=16, size=(1, 8, 8), kernel=(1, 4, 4), padding=(0, 1, 1), extra=(1, 1, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMED)
def test_channels_last(name: str, mode: str) -> None:
    check(describe(mode, **NAMED[name]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [dtypes.float64, dtypes.float16, dtypes.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["3x3", "depthwise", "stem 7x7", "1x1"])
def test_other_dtypes(name: str, dtype: DType, mode: str) -> None:
    check(describe(mode, dtype=dtype, **NAMED[name]), threads=(2,))


DOTS: dict[str, dict[str, Any]] = {
    name: NAMED[name]
    for name in ("3x3 stride 2", "1x1 stride 2", "one channel", "one output", "groups", "3d", "dilated", "wide border",
                 "stride beyond kernel")
} | {
    "odd groups": dict(batch=1, channels=9, out_channels=15, groups=3, size=(1, 5, 6), kernel=(1, 3, 3)),
    "odd channels": dict(
        batch=2, channels=17, out_channels=35, size=(1, 7, 5), kernel=(1, 3, 3), padding=(0, 1, 1), stride=(1, 2, 1)
    ),
    "pointwise": dict(batch=3, channels=129, out_channels=130, size=(1, 5, 7), kernel=(1, 1, 1)),
    "pointwise stride 2": dict(
        batch=3, channels=128, out_channels=135, size=(1, 5, 9), kernel=(1, 1, 1), stride=(1, 2, 2)
    ),
    "winograd": dict(batch=2, channels=33, out_channels=50, size=(1, 9, 7), kernel=(1, 3, 3), padding=(0, 1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DOTS)
def test_bfloat16(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_winograd, "_WORTH", math.inf if name == "winograd" else 0)
    monkeypatch.setattr(convolution_pointwise, "_CHUNK_BYTES", 32 << 10)
    check(describe(mode, dtype=dtypes.bfloat16, **DOTS[name]), threads=(1, 3) if "pointwise" in name else (2,))


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_without_dot_products(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_winograd, "_WORTH", 0)
    c = describe(mode, dtype=dtypes.bfloat16, **NAMED["3x3"])
    wide = replace(processor(), vector_bytes=64, vector_registers=32, bf16_dot=True, bf16_tile=False)
    epilogue = StoreEpilogue(2, c.result_strides, c.dtype, lane=result_lane(c))
    kernels = [lower(c, epilogue, p) for p in (wide, replace(wide, bf16_dot=False))]
    assert ["dpbf16ps" in k.generate() for k in kernels] == [True, False]
    assert kernels[0].key != kernels[1].key
    check(c, threads=(2,), host=replace(processor(), bf16_dot=False, bf16_tile=False))


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16], ids=lambda d: d.name)
def test_a_nan_stays_out_of_weights_that_it_is_not_multiplied_with(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word of positions at the end of an odd row must not bring one of x that meets no gradient."""
    monkeypatch.setattr(convolution_winograd, "_WORTH", 0)
    for kernel, size in (((1, 3, 3), (1, 3, 5)), ((1, 1, 1), (1, 3, 5))):
        c = describe("weight_grad", 1, 16, 16, size, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2), dtype=dtype)
        x, g = random_operands(c)
        x[0, 3, 0, 1, 4] = np.nan
        found, expected = run(c, [x, g], 1), definition(c, x, g)
        assert np.array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first", [FIRST_, ODD], ids=["row-major", "odd"])
@pytest.mark.parametrize("name", ["3x3", "depthwise", "one channel", "1x1", "groups"])
def test_other_layouts(name: str, first: Any, mode: str) -> None:
    second = ODD if first == FIRST_ else LAST
    for dtype in (dtypes.float32, dtypes.bfloat16):
        check(describe(mode, first=first, second=second, result=ODD, dtype=dtype, **NAMED[name]), threads=(2,))


WINOGRAD: dict[str, dict[str, Any]] = {
    "whole tiles": {"batch": 2, "channels": 64, "out_channels": 32, "size": (1, 8, 12), "padding": (0, 1, 1)},
    "parts of tiles": {"batch": 3, "channels": 40, "out_channels": 72, "size": (1, 7, 5), "padding": (0, 1, 1)},
    "no border": {"batch": 2, "channels": 17, "out_channels": 19, "size": (1, 9, 6)},
    "planes": {"batch": 2, "channels": 16, "out_channels": 16, "size": (3, 6, 6), "padding": (0, 2, 1)},
    "many channels": {"batch": 9, "channels": 512, "out_channels": 208, "size": (1, 4, 4), "padding": (0, 1, 1)},
    "many tiles": {"batch": 4, "channels": 32, "out_channels": 128, "size": (1, 32, 36), "padding": (0, 1, 1)},
    "one-sided": {
        "batch": 2, "channels": 32, "out_channels": 32, "size": (1, 8, 8), "padding": (0, 0, 1), "extra": (0, 1, 0),
    },
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WINOGRAD)
def test_winograd(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_winograd, "_WORTH", math.inf)
    c = describe(mode, kernel=(1, 3, 3), **WINOGRAD[name])
    assert convolution_winograd.applies(c)
    check(c, tolerance=2e-5)


def test_winograd_weight_gradient_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_winograd, "_WORTH", math.inf)
    monkeypatch.setattr(convolution_winograd_weight, "_CHUNK_BYTES", 100 << 10)
    c = describe("weight_grad", 3, 24, 40, (1, 11, 9), (1, 3, 3), padding=(0, 1, 1))
    assert WinogradWeight.of(c, 16, 32).chunks > 1
    check(c, tolerance=2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_winograd_with_the_weights_in_parts(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In less memory, to the same last bit."""
    monkeypatch.setattr(convolution_winograd, "_WORTH", math.inf)
    for module in (convolution_winograd, convolution_winograd_weight):
        monkeypatch.setattr(module, "_PART_BYTES", 1 << 40)
    c = describe(mode, 5, 272, 264, (1, 6, 7), (1, 3, 3), padding=(0, 1, 1))
    kind = WinogradWeight if mode == "weight_grad" else Winograd
    operands = random_operands(c)
    whole, result = kind.of(c, 16, 32), run(c, operands, 2)
    for module in (convolution_winograd, convolution_winograd_weight):
        monkeypatch.setattr(module, "_PART_BYTES", 4 << 20)
    plan = kind.of(c, 16, 32)
    assert whole.parts == 1 and plan.parts > 1
    assert plan.workspace_bytes < 0.6 * whole.workspace_bytes
    check(c, tolerance=2e-5)
    assert np.array_equal(run(c, operands, 2), result)


@pytest.mark.parametrize("mode", MODES)
def test_winograd_rounds_within_ten_times_the_direct_sum(mode: str) -> None:
    arguments: dict[str, Any] = dict(batch=4, channels=128, out_channels=128, size=(1, 16, 16))
    c = describe(mode, kernel=(1, 3, 3), padding=(0, 1, 1), **arguments)
    assert convolution_winograd.applies(c)
    operands = random_operands(c)
    expected = definition(c, *operands)
    errors = [
        float(np.sqrt(((run(d, operands, 2) - expected) ** 2).mean() / (expected**2).mean()))
        for d in (c, replace(c, winograd=False))
    ]
    assert errors[0] < 2.5e-6
    assert errors[0] < 10 * errors[1]


def test_filtering_matrices_are_exact() -> None:
    """Σ_k from[i, k] · filter[k, j] · input[k, l] = 1 where l = i + j, else 0: the filter's definition."""
    f = convolution_filtering
    for i, j, l in itertools.product(range(f.RESULTS), range(f.TAPS), range(f.POINTS)):
        total = sum(f.FROM_POINTS[i][k] * f.TO_FILTER[k][j] * f.TO_INPUT[k][l] for k in range(f.POINTS))
        assert total == (l == i + j)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    groups = draw(st.sampled_from([1, 1, 1, 2, 5]))
    per_group = draw(st.integers(1, 40))
    out_per_group = per_group if groups > 1 and draw(st.booleans()) else draw(st.integers(1, 40))
    kernel = [draw(st.integers(1, 4)) for _ in range(3)] if draw(st.booleans()) else [1, 3, 3]
    rank = draw(st.integers(1, 3))
    triple = {}
    for what, least, most in (("stride", 1, 3), ("padding", 0, 3), ("dilation", 1, 2)):
        triple[what] = [draw(st.integers(least, most)) for _ in range(3)]
    size = [draw(st.integers(1, 9)) for _ in range(3)]
    for d in range(3 - rank):
        kernel[d], size[d], triple["stride"][d], triple["padding"][d], triple["dilation"][d] = 1, 1, 1, 0, 1
    for d in range(3):  # the kernel must fit
        size[d] = max(size[d], triple["dilation"][d] * (kernel[d] - 1) + 1 - 2 * triple["padding"][d])
    orders = st.sampled_from([LAST, LAST, FIRST_, ODD])
    return describe(
        draw(st.sampled_from(MODES)), draw(st.integers(1, 3)), groups * per_group, groups * out_per_group,
        tuple(size), tuple(kernel), tuple(triple["stride"]), tuple(triple["padding"]),  # type: ignore[arg-type]
        tuple(triple["dilation"]), groups, first=draw(orders), second=draw(orders),  # type: ignore[arg-type]
        result=draw(orders), extra=draw(st.sampled_from([(0, 0, 0), (0, 0, 0), (1, 1, 1)])),
        dtype=draw(st.sampled_from([dtypes.float32, dtypes.float32, dtypes.bfloat16])),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_any_convolution(c: Convolution) -> None:
    check(c)
