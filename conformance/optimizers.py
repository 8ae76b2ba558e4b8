"""One entry of PyTorch's optimiser database: every configuration trains a small network for some steps."""

from __future__ import annotations

import warnings
from typing import Any

import torch

import firepot as fp
from conformance.convert import Untranslatable, difference, value
from conformance.operators import Tally, _chosen, _failure

_STEPS = 7
# A step of L-BFGS is many moves. With a small learning rate it is chaotic: in PyTorch itself, starting values that
# differ in the last digit lead to parameters that differ by 1e-9 after four steps and by 1e-3 after five.
_STEPS_OF_LBFGS = 3
# What only says how PyTorch computes, not what.
_MEANS = {"foreach", "fused", "capturable", "differentiable"}


def entries() -> dict[str, Any]:
    """The database by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_optimizers import optim_db
    return {info.optim_cls.__name__: info for info in optim_db}


def check(entry: Any, samples: int | None = None) -> dict[str, Any]:
    """Parameters after some steps of every configuration, and what must be refused."""
    name = entry.optim_cls.__name__
    ours = getattr(fp.optim, name, None)
    if ours is None:
        return {"entry": name, "missing": "not written yet"}
    steps, errors = Tally(), Tally()
    for sample in _chosen(entry.optim_inputs_func(device="cpu"), samples):
        try:
            settings = {k: v for k, v in sample.kwargs.items() if k not in _MEANS}
            wrong = _train(entry.optim_cls, ours, settings, {k: value(v) for k, v in settings.items()})
        except Untranslatable as reason:
            steps.skip(str(reason))
            continue
        except Exception as error:
            wrong = _failure(error)
        steps.add(wrong, f"with {sample.kwargs}" if wrong else "")
    for bad in entry.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        given = bad.optimizer_error_input
        try:
            params, kwargs = _same(given.params, {}), value(given.kwargs)
        except Untranslatable as reason:
            errors.skip(str(reason))
            continue
        if _MEANS & set(kwargs):
            errors.skip("an argument that says how PyTorch computes")
            continue
        if params is None:
            params = [fp.nn.Parameter(fp.randn(2, 3))]
        try:
            ours(params, **kwargs)
        except Exception:
            errors.add(None)
            continue
        errors.add(f"did not raise ({bad.error_type.__name__}: {bad.error_regex[:100]})", f"on {kwargs}")
    return {"entry": name, "checks": {"parameters": steps.report(), "errors": errors.report()}}


def _same(given: Any, known: dict[int, Any]) -> Any:
    """A value of Firepot in which what was one parameter is one parameter."""
    if isinstance(given, torch.nn.Parameter):
        return known.setdefault(id(given), fp.nn.Parameter(value(given.detach())))
    if isinstance(given, dict):
        return {k: _same(v, known) for k, v in given.items()}
    if isinstance(given, (list, tuple)):
        return type(given)(_same(v, known) for v in given)
    return value(given)


def _train(theirs: Any, ours: Any, their_settings: dict[str, Any], our_settings: dict[str, Any]) -> str | None:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    start = [draw(5, 4), draw(3, 5)]
    x, y = draw(6, 4), draw(6, 3)
    reference = [torch.nn.Parameter(p.clone()) for p in start]
    mine = [fp.nn.Parameter(value(p)) for p in start]
    x_, y_ = value(x), value(y)
    # For the optimiser of sparse gradients: a row of the second parameter has none, in each step another.
    sparse = theirs is torch.optim.SparseAdam
    step = 0
    their_optimizer, our_optimizer = theirs(reference, **their_settings), ours(mine, **our_settings)

    def their_loss() -> torch.Tensor:
        their_optimizer.zero_grad()
        errors = torch.tanh(x @ reference[0].T) @ reference[1].T - y
        if sparse:
            errors = errors * (torch.arange(3) != step % 3)
        loss = errors.square().mean()
        loss.backward()
        for p in reference if sparse else ():
            assert p.grad is not None
            p.grad = p.grad.to_sparse(1)
        return loss

    def our_loss() -> fp.Tensor:
        our_optimizer.zero_grad()
        errors = fp.tanh(x_ @ mine[0].T) @ mine[1].T - y_
        if sparse:
            errors = errors * (fp.arange(3) != step % 3)
        loss = errors.square().mean()
        loss.backward()
        return loss

    for step in range(_STEPS_OF_LBFGS if theirs is torch.optim.LBFGS else _STEPS):
        their_optimizer.step(their_loss)
        our_optimizer.step(our_loss)
        for number, (o, t) in enumerate(zip(mine, reference, strict=True)):
            wrong = difference(o.detach(), t.detach())
            if wrong:
                return f"step {step + 1}, parameter {number}: {wrong}"
    return None
