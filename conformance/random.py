"""Random programs, run by PyTorch and by Firepot: recorded, jitted and eagerly.

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

# x, y: earlier floating-point values; d, e: dimensions of x.
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
           "T.vmap(lambda r: r.cumsum(0), in_dims=1)({x})", "T.nn.functional.mse_loss({x}, {x}.sin())"]  # fmt: skip
_KINKED = ["T.relu({x})", "{x}.abs()", "T.where({x} > 0, {x}, {y})", "{x}.masked_fill({x} > 0.5, 2.0)", "{x}.amax({d})",
           "{x}.sort({d})[0]", "{x}.topk(1, {d})[0]", "{x}.clamp(-0.5, 0.5)", "T.maximum({x}, {y})", "{x}[{x} > 0]",
           "{x}.max({d})[0]", "T.nn.functional.max_pool1d({x}, 2, 1)", "{x}.floor() + {x}", "{x}.cummax({d})[0]"]  # fmt: skip
_PLAIN = ["({x} * 3).to(T.int64) // 2", "({x} * 3).to(T.int32) + {x}", "({x} > 0) + 1", "({x} > 0).sum({d})",
          "{x}.argmax({d})", "{x}.argsort({d})", "({x} * 4).to(T.int8).cumsum({d})", "{x}.to(T.float64) * 2",
          "({x} > 0).any({d})", "({x} * 5).to(T.int32) % 3", "{x}.prod({d})", "{x}.std({d})"]  # fmt: skip
_SHAPES = [(), (1,), (4,), (0,), (3, 4), (1, 4), (2, 3, 4), (2, 1, 4), (0, 3), (3, 3)]


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
        return self.lines[-1].split(maxsplit=1)[0].split("[")[0]

    def function(self, library: Any) -> Callable[..., Any]:
        """The program over its inputs, with its derivatives where they are asked for."""

        def run(*inputs: Any) -> list[Any]:
            names = {"T": library, **{f"i{k}": v for k, v in enumerate(inputs)}}
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
        return f"import torch\nimport firepot as fp\n\nfor T in (torch, fp):\n{given}\n{body}\n    print({self.last}){note}"


def draw(seed: int) -> Sample:
    """A program whose every line PyTorch accepts."""
    r = draws.Random(seed)
    order = r.choice([0, 0, 1, 2])
    dtype = "float64" if order else r.choice(["float32", "float64", "float16"])
    sample = Sample([r.choice(_SHAPES) for _ in range(2)], [], dtype, 0, seed)
    inputs = [torch.from_numpy(a) for a in sample.arrays()]
    kinds = _SMOOTH + (_KINKED if order < 2 else []) + (_PLAIN if order == 0 else [])
    names = ["i0", "i1"]
    for _ in range(60):
        if len(sample.lines) >= 1 + seed % 6:
            break
        x = r.choice(names[-2:])
        form = r.choice(kinds)
        if ".arg" in form and x[0] != "i":
            continue  # which of two equal elements is found depends on the rounding of what computed them
        form = form.format(x=x, y=r.choice(names), d=r.choice([0, -1, 1]), e=r.choice([0, -1]))
        line = f"v{len(sample.lines)} = {form}"
        trial = dataclasses.replace(sample, lines=[*sample.lines, line], order=order)
        try:
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


WAYS: dict[str, Callable[[Sample], list[Any]]] = {"recorded": _recorded, "jit": _jitted, "eager": _eager}


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
            if isinstance(error, IndexError) and "is out of range for a tensor with" in str(error):
                return None  # of empty tensors, PyTorch's roll and cummax do not check the dimension; ours do
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
        for way in WAYS if sample.lines else ():
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
