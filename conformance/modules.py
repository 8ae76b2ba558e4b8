"""One entry of PyTorch's module database: results and gradients of every sample, in training and in evaluation."""

from __future__ import annotations

import warnings
from typing import Any

import torch

import firepot as fp
from conformance.convert import Untranslatable, difference, flatten, value
from conformance.operators import Tally, _chosen, _compute, _failure

# Modules that draw random numbers in training: only shapes can be compared then.
_RANDOM = {
    "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout", "RReLU",
    "FractionalMaxPool2d", "FractionalMaxPool3d",
}  # fmt: skip
# Dropout inside: compared in evaluation only.
_EVALUATION = {
    "TransformerEncoderLayer", "TransformerDecoderLayer", "TransformerEncoder", "Transformer", "MultiheadAttention",
}  # fmt: skip
_ALWAYS_RANDOM = {"FractionalMaxPool2d", "FractionalMaxPool3d"}


def entries() -> dict[str, Any]:
    """The database by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db
    return {info.name.removeprefix("nn."): info for info in module_db}


def check(entry: Any, samples: int | None = None) -> dict[str, Any]:
    """Everything that is compared of one module."""
    name = entry.name.removeprefix("nn.")
    ours: Any = fp.nn
    for part in name.split("."):
        ours = getattr(ours, part, None)
    if ours is None:
        return {"entry": name, "missing": "not written yet"}
    result: dict[str, Any] = {"entry": name, "checks": {}}
    for training in (True, False):
        forward, backward = Tally(), Tally()
        inputs = entry.module_inputs_func(
            entry, device="cpu", dtype=torch.float64, requires_grad=True, training=training
        )
        for sample in _chosen(inputs, samples):
            _sample(entry, name, ours, sample, training, forward, backward)
        mode = "training" if training else "evaluation"
        result["checks"][mode] = forward.report()
        result["checks"][mode + " gradient"] = backward.report()
    return result


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in arguments.items() if k != "device"}


def _sample(
    entry: Any, name: str, ours: Any, sample: Any, training: bool, forward: Tally, backward: Tally
) -> None:  # fmt: skip
    made, called = sample.constructor_input, sample.forward_input
    what = f"with {made.args} {made.kwargs} {sample.desc}"[:200]
    try:
        reference = entry.module_cls(*made.args, **made.kwargs).to(torch.float64).train(training)
        arguments = value([list(made.args), _plain(made.kwargs)])
        given = value([list(called.args), called.kwargs]) if called is not None else None
    except Untranslatable as reason:
        forward.skip(str(reason))
        return
    except Exception as error:
        forward.skip(f"PyTorch raised {type(error).__name__}")
        return
    try:
        module = ours(*arguments[0], **arguments[1])
        if hasattr(module, "to"):
            module = module.to(fp.float64)
        module.train(training)
    except Exception as error:
        forward.add(_failure(error), what)
        return
    if called is None:
        forward.add(None)
        return
    torch.manual_seed(0)
    try:
        theirs = reference(*called.args, **called.kwargs)
    except Exception as error:
        forward.skip(f"PyTorch raised {type(error).__name__}")
        return
    try:
        module.load_state_dict({k: value(v) for k, v in reference.state_dict().items()})
        result = module(*given[0], **given[1])
    except Exception as error:
        forward.add(_failure(error), what)
        return
    random = (name in _RANDOM and training) or name in _ALWAYS_RANDOM or (training and name in _EVALUATION)
    their_outputs = [t for t in flatten(theirs) if isinstance(t, torch.Tensor)]
    our_outputs = [t for t in flatten(result) if isinstance(t, fp.Tensor)]
    wrong = _compute([our_outputs])[0]
    if wrong is None and len(their_outputs) != len(our_outputs):
        wrong = f"gave {len(our_outputs)} results, expected {len(their_outputs)}"
    if wrong is None:
        found = [difference(o, t, None, random) for o, t in zip(our_outputs, their_outputs, strict=True)]
        wrong = next((f for f in found if f), None)
    forward.add(wrong, what)
    if random or wrong:
        return
    _gradients(reference, module, called, given, their_outputs, our_outputs, backward, what)


def _gradients(
    reference: Any, module: Any, called: Any, given: Any, theirs: Any, ours: Any, tally: Tally, what: str
) -> None:
    numbers = [i for i, t in enumerate(theirs) if t.requires_grad]
    if not numbers:
        return
    their_leaves = [p for p in reference.parameters() if p.requires_grad]
    our_leaves = [p for p in module.parameters() if p.requires_grad]
    their_leaves += [t for t in flatten([called.args, called.kwargs]) if isinstance(t, torch.Tensor) and t.requires_grad]
    our_leaves += [t for t in flatten([given[0], given[1]]) if isinstance(t, fp.Tensor) and t.requires_grad]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(theirs[i].shape, dtype=theirs[i].dtype, generator=generator) for i in numbers]
    expected = torch.autograd.grad([theirs[i] for i in numbers], their_leaves, weights, allow_unused=True)
    try:
        found = fp.autograd.grad(
            [ours[i] for i in numbers], our_leaves, [value(w) for w in weights], allow_unused=True
        )
        wrong = _compute([[g for g in found if g is not None]])[0]
        for number, (f, e) in enumerate(zip(found, expected, strict=True)):
            if wrong is None and not (f is None and e is None):
                e = torch.zeros(f.shape, dtype=torch.float64) if e is None else e
                f = fp.zeros(tuple(e.shape), dtype=fp.float64) if f is None else f
                difficulty = difference(f, e)
                wrong = f"gradient {number}: {difficulty}" if difficulty else None
        tally.add(wrong, what)
    except Exception as error:
        tally.add(_failure(error), what)
