"""Random programs, run by PyTorch and by Firepot: recorded, jitted, eagerly, and with each pass of the compiler off.

    python -m conformance random --seconds 60 --seed 0

A program is lines of Python that read the same in both. One that differs is reduced to the lines that matter.
"""

from __future__ import annotations

import argparse
import dataclasses
import random as draws
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import firepot as fp
from conformance import convert
from firepot.compiler import simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Passes, build

# x, y: earlier floating-point values; d, e: dimensions of x; n, m: sizes; v: the name that the line makes.
_SMOOTH = ["T.tanh({x})", "T.sin({x})", "T.sigmoid({x})", "T.nn.functional.softmax({x}, {d})",
           "T.nn.functional.log_softmax({x}, {d})", "{x} * {y}", "{x} + {y}", "{x} - {y}", "{x} / (1 + {y} * {y})",
           "{x}.sum({d})", "{x}.mean({d}, keepdim=True)", "{x}.logsumexp({d})", "{x}.cumsum({d})",
           "{x}.transpose({d}, {e})", "{x}.flip({d})", "{x}.unsqueeze({d})", "{x}.expand(2, *{x}.shape)",
           "{x}[..., None]", "{x}[::2]", "{x}[1:]", "{x}[T.tensor([0, -1])]", "T.cat([{x}, {x} * 2], {d})",
           "T.stack([{x}, {x}.exp().sin()], {d})", "T.roll({x}, 1, {d})", "{x}.reshape(-1)", "{x} @ {y}",
           "{x} @ {x}.transpose(-1, -2)", "T.einsum('...i,...j->...ij', {x}, {x})",
           "T.nn.functional.layer_norm({x}, {x}.shape[-1:])", "T.nn.functional.avg_pool1d({x}, 2, 1)",
           "T.nn.functional.conv1d({x}.reshape(1, 1, -1), T.ones(2, 1, 2, dtype={x}.dtype))",
           "T.nn.functional.pad({x}, (1, 2))", "T.vmap(lambda r: r.sin() * r.sum())({x})",
           "T.vmap(lambda r: r.cumsum(0), in_dims=1)({x})", "T.nn.functional.mse_loss({x}, {x}.sin())",
           "T.vmap(lambda r, s: r * s.sum(), in_dims=(0, None), out_dims=-1)({x}, {y})",
           "T.vmap(T.vmap(lambda r: r.exp().sum()))({x})", "T.func.jvp(lambda r: (r * r).sin(), ({x},), ({x}.cos(),))[1]",
           "T.vmap(T.func.grad(lambda r: (r.sin() * r).sum()))({x})"]  # fmt: skip
_KINKED = ["T.relu({x})", "{x}.abs()", "T.where({x} > 0, {x}, {y})", "{x}.masked_fill({x} > 0.5, 2.0)", "{x}.amax({d})",
           "{x}.sort({d})[0]", "{x}.topk(1, {d})[0]", "{x}.clamp(-0.5, 0.5)", "T.maximum({x}, {y})", "{x}[{x} > 0]",
           "{x}.max({d})[0]", "T.nn.functional.max_pool1d({x}, 2, 1)", "{x}.floor() + {x}", "{x}.cummax({d})[0]",
           "T.nn.functional.max_pool2d({x}, {n}, {m})", "T.nn.functional.smooth_l1_loss({x}, {y})",
           "T.nn.functional.huber_loss({x}, {y}, reduction='none')", "T.nn.functional.hardswish({x})"]  # fmt: skip
_PLAIN = ["({x} * 3).to(T.int64) // 2", "({x} * 3).to(T.int32) + {x}", "({x} > 0) + 1", "({x} > 0).sum({d})",
          "{x}.argmax({d})", "{x}.argsort({d})", "({x} * 4).to(T.int8).cumsum({d})", "{x}.to(T.float64) * 2",
          "({x} > 0).any({d})", "({x} * 5).to(T.int32) % 3", "{x}.prod({d})", "{x}.std({d})"]  # fmt: skip
# Changed in place behind a copy, so that no view of it exists: those are where Firepot differs on purpose.
_IN_PLACE = ["{x}.clone(); {v} += {y}", "{x}.clone(); {v}.mul_(0.5).add_({y})", "{x}.clone(); {v}[1:] = {v}[:-1] * 2",
             "{x}.clone(); {v}[::2] *= 3", "{x}.clone(); {v}[0] = {y}", "{x}.clone(); {v}[..., -1] += {v}[..., 0]",
             "{x}.clone(); {v}[T.tensor([0, -1])] = 1.5", "{x}.clone(); {v}[{v} > 0] = 0.25", "{x}.clone(); {v}[:, {m}:] -= 1",
             "{x}.clone(); {v}[T.tensor([1, 0]), :1] = {y}.sum()", "{x}.clone(); {v}.copy_({y})",
             "{x}.clone(); {v}.sub_({v}.mean({d}, keepdim=True)).div_(2)", "{x}.clone(); {v}.masked_fill_({v} < 0, 0.5)",
             "T.zeros({n}, 4, dtype={x}.dtype); {v}[0] = {x}.sum(); {v}[1:, {m}] += {y}.mean()"]  # fmt: skip
# Of images (N, C, H, W). Weights are numbers that both compute alike: K(…) is sines in a shape.
_IMAGES = ["T.nn.functional.conv2d({x}, K({x}, 4, {x}.shape[1], {n}, {n}), padding={m})",
           "T.nn.functional.conv2d({x}, K({x}, 6, {x}.shape[1], 3, 3), K({x}, 6), stride={n}, padding=1)",
           "T.nn.functional.conv2d({x}, K({x}, 2 * {x}.shape[1], 1, 3, {n}), padding=1, groups={x}.shape[1])",
           "T.nn.functional.conv2d({x}, K({x}, 3, {x}.shape[1], 2, 2), dilation=2, padding=2)",
           "T.nn.functional.conv2d({x}, K({x}, 16, {x}.shape[1], 1, 1)).relu() + 1",
           "T.nn.functional.conv_transpose2d({x}, K({x}, {x}.shape[1], 3, 3, {n}), stride={n}, padding=1)",
           "T.nn.functional.avg_pool2d({x}, {n}, {m})", "T.nn.functional.adaptive_avg_pool2d({x}, ({n}, 1))",
           "T.nn.functional.batch_norm({x}, None, None, K({x}, {x}.shape[1]), K({x}, {x}.shape[1]), True)",
           "T.nn.functional.batch_norm({x}, {x}.mean((0, 2, 3)).detach(), T.ones({x}.shape[1], dtype={x}.dtype))",
           "T.nn.functional.group_norm({x}, 1, K({x}, {x}.shape[1]))", "T.nn.functional.instance_norm({x})",
           "T.nn.functional.interpolate({x}, scale_factor={n}, mode='nearest')",
           "T.nn.functional.interpolate({x}, size=({n}, 5), mode='bilinear', align_corners=False)",
           "T.nn.functional.pixel_shuffle({x}.repeat(1, 4, 1, 1), 2)", "{x}.mean((2, 3))", "{x}.permute(0, 2, 3, 1)",
           "{x}[:, :, ::2, 1:]", "{x}.flatten(1) @ {x}.flatten(1).T", "T.nn.functional.pad({x}, (1, 0, 1, 1), mode='reflect')",
           "T.nn.functional.unfold({x}, 2)", "{x} * K({x}, {x}.shape[1], 1, 1)"]  # fmt: skip
_LOSSES = ["T.nn.functional.cross_entropy({x}.reshape(-1, {n}), T.arange({x}.numel() // {n}) % {n})",
           "T.nn.functional.cross_entropy({x}.reshape(-1, {n}), T.arange({x}.numel() // {n}) % {n}, label_smoothing=0.1)",
           "T.nn.functional.nll_loss({x}.reshape(-1, {n}).log_softmax(1), T.arange({x}.numel() // {n}) % {n}, ignore_index=1)",
           "T.nn.functional.binary_cross_entropy_with_logits({x}, {y}.sigmoid())",
           "T.nn.functional.kl_div({x}.log_softmax({d}), {x}.flip({d}).softmax({d}), reduction='sum')",
           "T.nn.functional.gaussian_nll_loss({x}, {y}, T.ones_like({x}) * 2)",
           "T.nn.functional.poisson_nll_loss({x}, {y} * {y})", "T.nn.functional.cosine_similarity({x}, {y}, {d})",
           "T.nn.functional.soft_margin_loss({x}, {x}.detach().sign())"]  # fmt: skip
# Loops and branches, which PyTorch takes step by step.
_CONTROL = ["SCAN(lambda c, r: ((c * 0.5 + r).tanh(), c.sum() * r), {x}[0] * 0, {x})[1]",
            "SCAN(lambda c, r: (c.sin() + r, c), {x}[0], {x} * 2)[0]", "SCAN(lambda c, r: (c @ {y} + r, r * c), {x}[0], {x})[1]",
            "COND({x}.sum() > 0.1, lambda v: v.sin() * 2, lambda v: v * {y}, {x} + 0 * {y})",
            "SCAN(lambda c, r: (COND(r.sum() > 0, lambda c: c * r, lambda c: c - r, c), r.exp()), {x}[0], {x})[0]",
            "WHILE(lambda v: (v * v).sum() > 0.1, lambda v: v * 0.5 * T.cos({y}), {x} + {y})"]  # fmt: skip
# Index expressions. AT reads a tensor at positions, zero outside of it; REINDEX goes over positions, REDUCE folds the last.
_INDICES = ["REINDEX((3, {x}.numel()), lambda i, j: AT({x}.reshape(-1), {m} * j + i - 1))",
            "REINDEX(({x}.numel(), {n}), lambda i, j: AT({x}.reshape(-1), ({n} * i + j) // 2 - 1) * 2 + AT({y}.reshape(-1), j))",
            "REINDEX(({n}, {x}.shape[0]), lambda i, j: AT({x}.reshape({x}.shape[0], -1), {x}.shape[0] - 1 - j, (i + 1) % 2))",
            "REDUCE(({x}.numel(),), (3,), lambda i, k: AT({x}.reshape(-1), i + {m} * k - 1) * AT({y}.reshape(-1), k))",
            "REDUCE(({n}, {x}.shape[0]), (2, 3), lambda i, j, k, l: AT({x}.reshape({x}.shape[0], -1), j + k - 1, {m} * i + l).sin())",
            "REDUCE(({n}, 4), ({x}.shape[-1],), lambda i, j, k: AT({x}.reshape(-1, {x}.shape[-1]), i, k)"
            " * AT({x}.reshape(-1, {x}.shape[-1]), j, k))",
            "REDUCE(({x}.shape[0],), ({x}.shape[0],), lambda i, k: AT({x}.reshape({x}.shape[0], -1), k, 0) * AT({y}.reshape(-1), i - k))"]  # fmt: skip
_SHAPES = [(), (1,), (4,), (0,), (3, 4), (1, 4), (2, 3, 4), (2, 1, 4), (0, 3), (3, 3)]
_IMAGE_SHAPES = [(2, 3, 5, 6), (1, 8, 4, 4), (2, 16, 3, 5), (1, 1, 7, 2)]
_RANKS = {"roll", "cummax"}  # of empty tensors, PyTorch's do not check the dimension; ours do


def _weights(library: Any) -> Callable[..., Any]:
    def weights(like: Any, *shape: int) -> Any:
        size = int(np.prod(shape))
        return library.sin(library.arange(size, dtype=library.float64) + 1).reshape(shape).to(like.dtype)

    return weights


_STEPS = """
def SCAN(f, c, xs):
    ys = []
    for x in xs:
        c, y = f(c, x)
        ys.append(y)
    return c, torch.stack(ys)
def COND(p, f, g, x):
    return f(x) if p else g(x)
def WHILE(p, f, x):
    for _ in range(20):
        x = f(x) if p(x) else x
    return x
def AT(x, *positions):
    inside, clipped = True, []
    for p, size in zip(positions, x.shape):
        p = torch.as_tensor(p)
        inside = (p >= 0) & (p < size) & inside
        clipped.append(p.clamp(0, size - 1))
    return torch.where(inside, x[tuple(clipped)], 0)
def REINDEX(shape, f):
    grid = torch.meshgrid(*(torch.arange(s) for s in shape), indexing="ij")
    return f(*grid).expand(shape)
def REDUCE(shape, folded, f):
    return REINDEX((*shape, *folded), f).sum(tuple(range(len(shape), len(shape) + len(folded))))
"""
_OURS = """
SCAN, COND = fp.scan, fp.cond
WHILE = lambda p, f, x: fp.while_loop(p, f, x, maximum=20)
AT, REINDEX, REDUCE = lambda x, *positions: x[positions], fp.reindex, fp.reindex_reduce
"""


def _control(library: Any) -> dict[str, Any]:
    """Loops, branches and index expressions for a library."""
    names: dict[str, Any] = {"torch": library, "fp": library}
    exec(_OURS if library is fp else _STEPS, names)
    return names


@dataclasses.dataclass
class Sample:
    """Lines that compute v0, v1, … from the inputs; the last is the result."""

    shapes: list[tuple[int, ...]]
    lines: list[str]
    dtype: str
    order: int  # of the derivative that is compared too
    seed: int

    def arrays(self) -> list[np.ndarray[Any, Any]]:
        generator = np.random.default_rng(self.seed)
        return [generator.standard_normal(s).astype(self.dtype) for s in self.shapes]

    @property
    def last(self) -> str:
        """The name of the result."""
        return self.lines[-1].split(maxsplit=1)[0]

    def function(self, library: Any) -> Callable[..., Any]:
        """The program over its inputs, with its derivatives where they are asked for."""

        def run(*inputs: Any) -> list[Any]:
            names = {**_control(library), "T": library, "K": _weights(library), **{f"i{k}": v for k, v in enumerate(inputs)}}
            for line in self.lines:
                exec(line, names)
            return [names[self.last]]

        if not self.order:
            return run

        def derived(*inputs: Any) -> list[Any]:
            (result,) = run(*inputs)
            first = library.func.grad(lambda x: run(x, *inputs[1:])[0].sin().sum())
            second = library.func.grad(lambda x: first(x).sin().sum())
            return [result, first(inputs[0])] + ([second(inputs[0])] if self.order > 1 else [])

        return derived

    def source(self) -> str:
        """A stand-alone program."""
        given = "\n".join(f"    i{k} = T.tensor({a.tolist()}, dtype=T.{self.dtype}).reshape({a.shape})"
                          for k, a in enumerate(self.arrays()))  # fmt: skip
        body = "\n".join("    " + line for line in self.lines)
        note = f"  # and its derivatives to order {self.order} by i0" if self.order else ""
        weights = ""
        if "K(" in body:
            weights = ("    def K(like, *shape):\n        size = math.prod(shape)\n        sines = T.sin(T.arange(size, dtype=T.float64) + 1)"
                       "\n        return sines.reshape(shape).to(like.dtype)\n\n")  # fmt: skip
        if any(f"{name}(" in body for name in ("SCAN", "COND", "WHILE", "REINDEX", "REDUCE")):
            steps, ours = (
                "\n".join(f"{' ' * indent}{line}" for line in text.strip().splitlines())
                for text, indent in ((_STEPS.replace("torch.", "T."), 4), (_OURS, 8))
            )
            weights += f"{steps}\n    if T is fp:\n{ours}\n\n"
        head = "import math\n\nimport torch\n" if weights else "import torch\n"
        return f"{head}import firepot as fp\n\nfor T in (torch, fp):\n{weights}{given}\n{body}\n    print({self.last}){note}"


def draw(seed: int) -> Sample:
    """A program whose every line PyTorch accepts."""
    r = draws.Random(seed)
    order = r.choice([0, 0, 1, 2])
    dtype = "float64" if order else r.choice(["float32", "float64", "float16"])
    images = r.random() < 0.3
    shapes = _IMAGE_SHAPES if images else _SHAPES
    sample = Sample([r.choice(shapes) for _ in range(2)], [], dtype, 0, seed)
    inputs = [torch.from_numpy(a) for a in sample.arrays()]
    kinds = _SMOOTH + _IN_PLACE + _LOSSES + _CONTROL + _INDICES + (_KINKED if order < 2 else []) + (_PLAIN if order == 0 else [])
    kinds = kinds + 4 * _IMAGES if images else kinds
    names = ["i0", "i1"]
    for _ in range(60):
        if len(sample.lines) >= 1 + seed % 6:
            break
        x = r.choice(names[-2:])
        form = r.choice(kinds)
        if ".arg" in form and x[0] != "i":
            continue  # which of two equal elements is found depends on the rounding of what computed them
        made = f"v{len(sample.lines)}"
        form = form.format(x=x, y=r.choice(names), d=r.choice([0, -1, 1]), e=r.choice([0, -1]), n=r.choice([2, 3]),
                           m=r.choice([1, 2]), v=made)  # fmt: skip
        line = f"{made} = {form}"
        trial = dataclasses.replace(sample, lines=[*sample.lines, line], order=order)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sizes that broadcast
                (value, *_) = trial.function(torch)(*inputs)
        except Exception:
            continue
        if value.numel() > 3000 or (order and not value.is_floating_point()):
            continue
        sample.lines.append(line)
        if value.is_floating_point():
            names.append(line.split()[0])
    return dataclasses.replace(sample, order=order)


def _given(sample: Sample) -> list[fp.Tensor]:
    return [fp.from_numpy(a) for a in sample.arrays()]


def _recorded(sample: Sample) -> list[Any]:
    return list(sample.function(fp)(*_given(sample)))


def _jitted(sample: Sample) -> list[Any]:
    return list(fp.jit(sample.function(fp))(*_given(sample)))


def _eager(sample: Sample) -> list[Any]:
    with fp.debug.eager():
        return _recorded(sample)


def _without(one: str) -> Callable[[Sample], list[Any]]:
    """Run with one of the compiler's passes switched off."""

    def run(sample: Sample) -> list[Any]:
        results = _recorded(sample)
        pending = [r for r in results if isinstance(r, fp.Tensor) and r._value.buffer is None]
        nodes = [r._value for r in pending]
        if not nodes:
            return results
        _, leaves, order = simplify.structure(nodes)
        placeholders, copies = simplify.simplify(order, leaves, nodes)
        executor = Executor(build(placeholders, copies, passes=Passes(**{one: False})))
        buffers = executor([leaf.buffer.copy() for leaf in leaves])
        values = [fp.from_numpy(b.view(n.dtype.numpy, n.shape)) for b, n in zip(buffers, nodes, strict=True)]
        found = dict(zip(map(id, pending), values, strict=True))
        return [found.get(id(r), r) for r in results]

    return run


PASSES = [field.name for field in dataclasses.fields(Passes)]
WAYS: dict[str, Callable[[Sample], list[Any]]] = {
    "recorded": _recorded, "jit": _jitted, "eager": _eager, **{f"without {p}": _without(p) for p in PASSES},
}  # fmt: skip


def _ways(seed: int) -> list[str]:
    """The ways in which a program is run: one of the passes is off, in turn."""
    return ["recorded", "jit", "eager", f"without {PASSES[seed % len(PASSES)]}"]


def difference(sample: Sample, way: str) -> str | None:
    """What one way of running a program does other than PyTorch does, in words."""
    arrays = sample.arrays()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = sample.function(torch)(*map(torch.from_numpy, arrays))
        except Exception:
            return None  # what PyTorch refuses is not compared
        try:
            exact = sample.function(torch)(*(torch.from_numpy(a).double() for a in arrays))
        except Exception:
            exact = theirs
        try:
            ours = WAYS[way](sample)
            for number, (a, b, c) in enumerate(zip(ours, theirs, exact, strict=True)):
                wrong = convert.difference(a, b, c.double())
                if wrong:
                    return f"{way}: {f'derivative {number}: ' if number else ''}{wrong}"
        except Exception as error:
            if isinstance(error, IndexError) and str(error).split(":")[0] in _RANKS:
                return None
            return f"{way}: {type(error).__name__}: {str(error)[:300]}"
    return None


def reduced(sample: Sample, way: str, seconds: float = 20) -> Sample:
    """The program with the lines, derivatives and elements left out that the difference does not need."""
    changed, end = True, time.monotonic() + seconds
    while changed and time.monotonic() < end:
        changed = False
        trials = [dataclasses.replace(sample, lines=sample.lines[:-1])] if len(sample.lines) > 1 else []
        trials += [dataclasses.replace(sample, lines=sample.lines[:k] + sample.lines[k + 1 :])
                   for k in range(len(sample.lines) - 1)]  # fmt: skip
        trials += [dataclasses.replace(sample, order=sample.order - 1)] if sample.order else []
        for k, shape in enumerate(sample.shapes):
            for d, size in enumerate(shape):
                if size > 1:
                    smaller = (*shape[:d], size - 1, *shape[d + 1 :])
                    trials.append(dataclasses.replace(
                        sample, shapes=[*sample.shapes[:k], smaller, *sample.shapes[k + 1 :]]))  # fmt: skip
        for trial in trials:
            if difference(trial, way):
                sample, changed = trial, True
                break
    return sample


def findings(seed: int, seconds: float = float("inf"), programs: int | None = None) -> tuple[int, list[str]]:
    """The number of programs run and a report of each that differs."""
    torch.set_num_threads(1)
    end, found, done = time.monotonic() + seconds, [], 0
    while time.monotonic() < end and done != programs:
        sample = draw(seed + done)
        done += 1
        for way in _ways(seed + done) if sample.lines else ():
            wrong = difference(sample, way)
            if wrong and not (way == "jit" and any("> 0]" in line for line in sample.lines)):
                small = reduced(sample, way)
                found.append(f"# seed {seed + done - 1}, {difference(small, way)}\n{small.source()}\n")
                break
    return done, found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance random", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    done, found = findings(given.seed, given.seconds)
    print("\n".join(found))
    print(f"{done} programs, {len(found)} that differ")
    return 1 if found else 0
