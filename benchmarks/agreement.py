"""Whether the peers compute the same: logits of all for PyTorch's weights, and losses of three training steps."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import libraries

_STEPS = 3


def check(name: str, threads: int = 2) -> dict[str, tuple[float, float]]:
    """{peer: (largest difference of logits over the largest logit, largest relative difference of losses)}, against
    PyTorch's. NaN: does not train, or drops units at random while training.
    """
    import torch

    reference = libraries.Torchlike("torch", name)
    _disturb(reference.model)
    state = {k: v.numpy().copy() for k, v in reference.model.state_dict().items()}
    reference.mode(training=False)
    logits = reference.inference(2)().copy()
    scale = float(np.abs(logits).max())
    found: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        libraries.export(name, (2,), Path(folder), reference.model)
        losses = _losses(reference, name)
        for peer, package in libraries.PEERS.items():
            if peer in ("torch", "torch-compile") or not libraries.applies(peer, name):
                continue
            if importlib.util.find_spec(package) is None:
                continue
            work = libraries.open_work(peer, name, threads, Path(folder))
            if isinstance(work, libraries.Torchlike):
                values = {k: work.library.from_numpy(v) for k, v in state.items()}
                work.model.load_state_dict(values)
            elif isinstance(work, libraries.Jax):
                work.parameters, work.running = work.models.from_state(state)
            work.mode(training=False)
            difference = float(np.abs(np.asarray(work.inference(2)()) - logits).max()) / scale
            drift = float("nan")
            if losses and peer in libraries.TRAINERS:
                others = _losses(work, name)
                drift = max(abs(a - b) / abs(b) for a, b in zip(others, losses, strict=True))
            found[peer] = difference, drift
    assert torch.backends.mha.get_fastpath_enabled()
    return found


def _losses(work: Any, name: str) -> list[float]:
    if name == "mobilenet_v2":  # drops units
        return []
    work.mode(training=True)
    step = work.training()
    return [step() for _ in range(_STEPS)]


def _disturb(model: Any) -> None:
    """Move every parameter from values like 0 and 1, which would hide a forgotten one."""
    import torch

    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1 or not p.any():
                p.add_(torch.randn_like(p) * 0.05)
