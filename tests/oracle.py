"""The oracle of the differential tests: the same expression in Firepot and in PyTorch, compared in one program.

Compiling many small programs is what such tests would spend their time on. So a test records pairs of results in a
`Comparison`, which computes all of Firepot's in one `fp.eval` and lists every difference at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import firepot as fp
from firepot.compiler.simplify import structure

torch.set_num_threads(1)

TOLERANCE = {  # (relative, absolute) by dtype
    "complex128": (1e-9, 1e-10), "complex64": (2e-5, 4e-6), "float64": (1e-9, 1e-10), "float32": (2e-5, 2e-6), "float16": (4e-3, 2e-3), "bfloat16": (3e-2, 1e-2),
}  # fmt: skip


def to_torch(value: Any) -> Any:
    """A Firepot dtype or tensor (or a container of tensors) as PyTorch's."""
    if isinstance(value, fp.dtype):
        return getattr(torch, value.name)
    if isinstance(value, fp.Tensor):
        found = torch.from_numpy(value.detach().numpy())
        return found.to(to_torch(value.dtype))
    if isinstance(value, (list, tuple)):
        return type(value)(to_torch(v) for v in value)
    return value


def kinds(tensor: fp.Tensor) -> set[str]:
    """The names of the primitives that a pending value is recorded as."""
    return {n.primitive.name for n in structure([tensor._node])[2]}


def both(array: Any, dtype: str = "float64", requires_grad: bool = False) -> tuple[fp.Tensor, torch.Tensor]:
    """The same values as a Firepot tensor and as a PyTorch tensor."""
    array = np.asarray(array)
    reference = torch.from_numpy(array.copy()).to(getattr(torch, dtype))
    ours = fp.tensor(array).to(getattr(fp, dtype))
    if requires_grad:
        fp.eval(ours)
        ours, reference = ours.detach().requires_grad_(), reference.requires_grad_()
    return ours, reference


def draw(shape: tuple[int, ...], seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray[Any, Any]:
    """Reproducible float64 values."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape)


class Comparison:
    """Pairs of results; `check()` computes Firepot's in one program and reports every pair that differs."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, fp.Tensor, torch.Tensor, tuple[float, float] | None]] = []

    def add(self, label: str, ours: Any, reference: Any, tolerance: tuple[float, float] | None = None) -> None:
        """Record one pair, or the pairs in two equally long sequences."""
        if isinstance(ours, (tuple, list)):
            assert len(ours) == len(reference), f"{label}: {len(ours)} results, PyTorch gives {len(reference)}"
            for i, (a, b) in enumerate(zip(ours, reference, strict=True)):
                self.add(f"{label}[{i}]", a, b, tolerance)
            return
        if not isinstance(ours, fp.Tensor):
            assert ours == reference, f"{label}: {ours}, PyTorch gives {reference}"
            return
        self.pairs.append((label, ours, reference, tolerance))

    def check(self) -> None:
        fp.eval([ours for _, ours, _, _ in self.pairs])
        failures = [f for f in (_difference(*pair) for pair in self.pairs) if f]
        assert not failures, "\n".join(failures)


def _difference(
    label: str, ours: fp.Tensor, reference: torch.Tensor, tolerance: tuple[float, float] | None
) -> str | None:
    reference = reference.detach()
    if ours.dtype.name != str(reference.dtype).removeprefix("torch."):
        return f"{label}: dtype {ours.dtype.name}, PyTorch gives {reference.dtype}"
    if ours.shape != tuple(reference.shape):
        return f"{label}: shape {ours.shape}, PyTorch gives {tuple(reference.shape)}"
    got = ours.detach().numpy()
    expected = (reference.float() if reference.dtype is torch.bfloat16 else reference.resolve_conj().resolve_neg()).numpy()
    if got.dtype.kind == "c":
        relative, absolute = tolerance or TOLERANCE[ours.dtype.name]
        equal = np.isclose(got, expected, rtol=relative, atol=absolute, equal_nan=True)
    elif got.dtype.kind != "f":
        equal = got == expected
    else:
        relative, absolute = tolerance or TOLERANCE[ours.dtype.name]
        equal = np.isclose(got, expected, rtol=relative, atol=absolute, equal_nan=True)
        equal &= (got != 0) | (expected != 0) | (np.signbit(got) == np.signbit(expected))
    if equal.all():
        return None
    places = np.argwhere(~equal)[:4]
    values = ", ".join(f"{p.tolist()}: {got[tuple(p)]} for {expected[tuple(p)]}" for p in places)
    return f"{label}: {np.sum(~equal)} of {equal.size} elements differ from PyTorch's, at {values}"


def compare_gradients(
    compared: Comparison, label: str, ours: Any, reference: Any, inputs: Any, tolerance: Any = None
) -> None:
    """Record the gradients of Σ result · weights with respect to (Firepot, PyTorch) pairs of leaves."""
    weights = draw(tuple(reference.shape), 99, 0.5, 1.5)
    w, rw = both(weights, str(reference.dtype).removeprefix("torch."))
    if reference.is_complex():
        w, rw = w * (1 - 0.5j), rw * (1 - 0.5j)
        ours, reference = fp.view_as_real(ours * w), torch.view_as_real(reference * rw)
        w, rw = 1, 1
    found = fp.autograd.grad((ours * w).sum(), [a for a, _ in inputs], allow_unused=True, retain_graph=True)
    expected = torch.autograd.grad((reference * rw).sum(), [b for _, b in inputs], allow_unused=True, retain_graph=True)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        zero = torch.zeros_like(inputs[i][1])
        if a is None:  # both ways of saying "does not depend" are right
            assert b is None or not b.any(), f"{label}: no gradient for input {i}, PyTorch gives {b}"
            continue
        compared.add(f"{label} gradient {i}", a, zero if b is None else b, tolerance)
