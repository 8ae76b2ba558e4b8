"""One call of an operator under Firepot's transforms: vmap against a loop over the examples, jit against a plain call."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import firepot as fp
from conformance.convert import Untranslatable, flatten

_FACTORS = (1.0, 0.75)  # of the examples: what is floating point is scaled, which keeps signs, symmetry, most domains


class Call:
    """A function over the tensors among its arguments, and nothing else.

    target: our function; given: [input, args, kwargs].
    Raises Untranslatable where no argument is a tensor.
    """

    def __init__(self, target: Callable[..., Any], given: Any) -> None:
        self.target = target
        self.leaves, self.structure = fp.tree.flatten(given)
        self.places = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, fp.Tensor)]
        self.tensors = [self.leaves[i].detach() for i in self.places]
        if not self.tensors:
            raise Untranslatable("no tensor among the arguments")

    def __call__(self, *tensors: fp.Tensor) -> list[fp.Tensor]:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        input, args, kwargs = fp.tree.unflatten(self.structure, leaves)
        return [r for r in flatten(self.target(input, *args, **kwargs)) if isinstance(r, fp.Tensor)]

    def example(self, factor: float, count: int | None = None) -> list[fp.Tensor]:
        """The tensors of another example; of only the first `count` of them."""
        scaled = [t * factor if t.dtype.is_floating_point and factor != 1 else t for t in self.tensors]
        return scaled if count is None else [*scaled[:count], *self.tensors[count:]]

    def each(self, examples: Sequence[Sequence[fp.Tensor]], out: int = 0) -> list[fp.Tensor]:
        """The results for the examples, one call each, stacked. Untranslatable where their sizes depend on values."""
        results = [self(*e) for e in examples]
        if len({tuple((r.shape, r.dtype) for r in result) for result in results}) > 1:
            raise Untranslatable("sizes that depend on values")
        return [fp.stack(list(column), out) for column in zip(*results, strict=True)]


Way = tuple[str, Callable[[], list[fp.Tensor]], Callable[[], list[fp.Tensor]]]


def captured(call: Call) -> list[Way]:
    """(how, the captured call, the plain call)."""
    return [("jit", lambda: fp.jit(call)(*call.tensors), lambda: call(*call.tensors))]


def mapped(call: Call, seed: int, nested: bool) -> list[Way]:
    """(how, the mapped call, the loop) of the ways in which a call is mapped.

    All tensors over dimension 0; the first alone, in and out at dimensions that the seed draws; `nested`: two levels.
    """
    draw = random.Random(seed)
    every = [call.example(f) for f in _FACTORS]
    first = [call.example(f, 1) for f in _FACTORS]
    into = draw.randint(0, call.tensors[0].ndim)
    out = draw.randint(0, min((r.ndim for r in call(*call.tensors)), default=0))
    dims = (into, *[None] * (len(call.tensors) - 1))
    ways: list[Way] = [
        ("vmap", lambda: fp.vmap(call)(*_stacked(every)), lambda: call.each(every)),
        (
            f"vmap(in_dims={dims}, out_dims={out})",
            lambda: fp.vmap(call, dims, out)(fp.stack([e[0] for e in first], into), *call.tensors[1:]),
            lambda: call.each(first, out),
        ),
    ]
    if nested:
        more = [call.example(f / 2) for f in _FACTORS]
        ways.append((
            "vmap(vmap)",
            lambda: fp.vmap(fp.vmap(call))(*_stacked([_stacked(every), _stacked(more)])),
            lambda: _stacked([call.each(every), call.each(more)]),
        ))  # fmt: skip
    return ways


def _stacked(examples: Sequence[Sequence[fp.Tensor]]) -> list[fp.Tensor]:
    return [fp.stack(list(column)) for column in zip(*examples, strict=True)]
