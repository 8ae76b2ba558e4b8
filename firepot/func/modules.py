"""Modules as functions of their parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from firepot.graph.node import detach
from firepot.nn.module import Module
from firepot.ops.shape import stack
from firepot.tensor import Tensor, wrap


def functional_call(
    module: Module, parameters_and_buffers: Any, args: Any = None, kwargs: dict[str, Any] | None = None, *,
    tie_weights: bool = True, strict: bool = False,
) -> Any:  # fmt: skip
    """Call a module with other parameters and buffers than its own: torch.func.functional_call.

    Args:
        module: what to call.
        parameters_and_buffers: tensors by their names in `state_dict` style ('layer.weight'), or a sequence of such
            dicts. Names that are left out keep the module's own tensors.
        args: the arguments, a tuple (anything else is the one argument).
        kwargs: further arguments.
        tie_weights: give a tensor that the module has under several names its replacement under all of them.
        strict: raise unless every parameter and buffer is given.

    Buffers that the call updates in place (running statistics) are those that were given.

    >>> model = nn.Linear(3, 1)
    >>> params = dict(model.named_parameters())
    >>> loss = lambda p, x: fp.func.functional_call(model, p, (x,)).sum()
    >>> fp.grad(loss)(params, fp.ones(2, 3))["weight"]
    tensor([[2., 2., 2.]])
    """
    given: dict[str, Tensor] = {}
    for part in parameters_and_buffers if isinstance(parameters_and_buffers, Sequence) else [parameters_and_buffers]:
        if not isinstance(part, Mapping):
            raise TypeError(f"functional_call: expected a dict of tensors by name, got {type(part).__name__}")
        given.update(part)
    places = _places(module)
    unknown = [name for name in given if name not in places]
    if unknown:
        raise KeyError(f"functional_call: {type(module).__name__} has no parameter or buffer named {unknown[0]!r}")
    if strict and (missing := [name for name in places if name not in given]):
        raise RuntimeError(f"functional_call: missing {', '.join(missing)} (strict=True)")
    if args is None:
        args = ()
    elif not isinstance(args, tuple):
        args = (args,)
    if tie_weights:
        by_tensor = {id(table[key]): value for name, value in given.items() for table, key in [places[name]]}
        for name, (table, key) in places.items():
            if name not in given and id(table[key]) in by_tensor:
                given[name] = by_tensor[id(table[key])]
    before = [(*places[name], places[name][0][places[name][1]]) for name in given]
    try:
        for name, value in given.items():
            table, key = places[name]
            own = table[key]
            if own is not None and value.shape != own.shape:
                raise RuntimeError(
                    f"functional_call: '{name}' was given with shape {list(value.shape)}, the module's has "
                    f"{list(own.shape)}"
                )
            table[key] = value
        return module(*args, **(kwargs or {}))
    finally:
        for table, key, value in before:
            table[key] = value


def _places(module: Module) -> dict[str, tuple[dict[str, Any], str]]:
    """Where each named parameter and buffer is kept."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for prefix, child in module.named_modules():
        for table in (child._parameters, child._buffers):
            for key in table:
                found[f"{prefix}.{key}" if prefix else key] = (table, key)
    return found


def stack_module_state(models: Sequence[Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, buffers) of modules of one kind, each stacked along a new first dimension, to be mapped over.

    >>> models = [nn.Linear(3, 1) for _ in range(4)]
    >>> params, buffers = fp.func.stack_module_state(models)
    >>> call = lambda p, b, x: fp.func.functional_call(models[0], (p, b), (x,))
    >>> fp.vmap(call, in_dims=(0, 0, None))(params, buffers, fp.ones(2, 3)).shape  # (models, batch, ...)
    (4, 2, 1)
    """
    if not models:
        raise RuntimeError("stack_module_state: expected at least one model, got none")
    if any(type(m) is not type(models[0]) for m in models):
        raise RuntimeError("stack_module_state: expected all models to be of the same class")
    parameters = {}
    for name, first in models[0].named_parameters():
        stacked = wrap(detach(stack([dict(m.named_parameters())[name] for m in models])._node))
        parameters[name] = stacked.requires_grad_(first.requires_grad)
    buffers = {
        name: stack([dict(m.named_buffers())[name] for m in models]).detach() for name, _ in models[0].named_buffers()
    }
    return parameters, buffers
