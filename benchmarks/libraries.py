"""The peers: each can take training steps of a model, or answer for a batch, or both.

    work = open_work("torch-compile", "resnet18", threads=2)
    work.mode(training=True)
    step = work.training()      # step() takes one and returns its loss
    work.mode(training=False)
    infer = work.inference(1)   # infer() returns the logits of one image, a NumPy array

Each library gets the settings its documentation recommends for this work; all compute in float32 unless asked
to train under autocast.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks import models

Training = Callable[[], float]
Inference = Callable[[], Any]

# Name of the peer -> the package it needs.
TRAINERS = {
    "firepot": "firepot", "firepot-eager": "firepot", "torch": "torch", "torch-channels-last": "torch",
    "torch-compile": "torch", "jax": "jax",
}  # fmt: skip
AUTOCASTING = ("firepot", "torch", "torch-channels-last", "torch-compile")
RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
PEERS = TRAINERS | RUNTIMES


def applies(peer: str, model: str) -> bool:
    """Whether this peer has something of its own to do on this model: layouts matter to images only."""
    return peer != "torch-channels-last" or len(models.WORK[model][0]) == 4


class Work(Protocol):
    """A model in one library. Two methods prepare, and return what is to be timed while `mode` is set to it."""

    def mode(self, training: bool) -> None: ...

    def training(self) -> Training: ...

    def inference(self, batch: int) -> Inference: ...


def load(peer: str, threads: int) -> None:
    """Import the peer's library and set its number of threads."""
    if peer == "jax":
        # XLA takes as many threads as the process has processors.
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:threads])
    if peer == "openvino":
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # or reading a model reports home
    library = importlib.import_module(PEERS[peer])
    if hasattr(library, "set_num_threads"):
        library.set_num_threads(threads)


def open_work(peer: str, model: str, threads: int, folder: Path | None = None) -> Work:
    """The model in the peer's library. `folder` holds the ONNX files that `export` wrote, for the run-times."""
    load(peer, threads)
    if peer == "jax":
        return Jax(model)
    if peer in RUNTIMES:
        assert folder is not None
        return (OnnxRuntime if peer == "onnxruntime" else OpenVino)(model, threads, folder)
    return Torchlike(peer, model)


class Torchlike:
    """firepot (jitted), firepot-eager, torch, torch-channels-last, torch-compile."""

    def __init__(self, peer: str, name: str) -> None:
        self.library = library = importlib.import_module(PEERS[peer])
        self.peer, self.name = peer, name
        library.manual_seed(0)
        self.model = models.build(name, library)
        if peer == "torch-channels-last":
            self.model = self.model.to(memory_format=library.channels_last)
        if peer == "torch-compile":
            self.forward = library.compile(self.model, dynamic=False)
        else:
            self.forward = self.model

    def _input(self, batch: int | None) -> tuple[Any, Any]:
        x, y = (self.library.from_numpy(a) for a in models.batch(self.name, batch))
        if self.peer == "torch-channels-last":
            x = x.contiguous(memory_format=self.library.channels_last)
        return x, y

    def mode(self, training: bool) -> None:
        self.model.train(training)

    def training(self, autocast: bool = False) -> Training:
        library, model, forward = self.library, self.model, self.forward
        adaptive = self.name in models.ADAPTIVE
        options = {"lr": 1e-4} if adaptive else {"lr": 1e-3, "momentum": 0.9}
        optimizer = (library.optim.AdamW if adaptive else library.optim.SGD)(model.parameters(), **options)

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            with library.autocast("cpu", dtype=library.bfloat16, enabled=autocast):
                logits = forward(x)
                logits = logits.flatten(0, 1) if logits.ndim == 3 else logits
                loss = library.nn.functional.cross_entropy(logits, y.flatten())
            loss.backward()
            optimizer.step()
            return loss

        if self.peer == "firepot":
            step = library.jit(step)
        x, y = self._input(None)
        return lambda: step(x, y).item()

    def inference(self, batch: int) -> Inference:
        library, forward = self.library, self.forward
        x, _ = self._input(batch)
        without_gradients = library.no_grad if self.peer.startswith("firepot") else library.inference_mode

        def infer(x: Any) -> Any:
            with without_gradients():
                return forward(x)

        if self.peer == "firepot":
            infer = library.jit(infer)
        return lambda: infer(x).numpy()


class Jax:
    """The models of jax_models.py, jitted, with donated state."""

    def __init__(self, name: str) -> None:
        from benchmarks import jax_models

        self.name, self.models = name, jax_models
        self.parameters, self.running = jax_models.initial(name, self._input(1)[0].shape)

    def _input(self, batch: int | None) -> tuple[Any, Any]:
        import numpy as np

        x, y = models.batch(self.name, batch)
        return self.models.input_of(x), np.asarray(y, np.int32)

    def mode(self, training: bool) -> None:
        """Nothing: the functions differ."""

    def training(self) -> Training:
        import jax

        x, y = self._input(None)
        y = jax.numpy.asarray(y)
        update, memory = self.models.optimizer(self.name, self.parameters)
        key = jax.random.key(0)

        def step() -> float:
            nonlocal memory
            loss, self.parameters, self.running, memory = self.models.train_step(
                self.name, update, self.parameters, self.running, memory, x, y, key
            )
            return float(loss)

        return step

    def inference(self, batch: int) -> Inference:
        import numpy as np

        x, _ = self._input(batch)
        return lambda: np.asarray(self.models.infer(self.name, self.parameters, self.running, x))


class _Runtime:
    def __init__(self, name: str, threads: int, folder: Path) -> None:
        self.name, self.threads, self.folder = name, threads, folder

    def mode(self, training: bool) -> None:
        """Nothing: these only infer."""

    def training(self) -> Training:
        raise NotImplementedError("infers only")

    def _file(self, batch: int) -> str:
        return str(onnx_file(self.folder, self.name, batch))


class OnnxRuntime(_Runtime):
    def inference(self, batch: int) -> Inference:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(self._file(batch), options, providers=["CPUExecutionProvider"])
        x, _ = models.batch(self.name, batch)
        inputs = {session.get_inputs()[0].name: x}
        return lambda: session.run(None, inputs)[0]


class OpenVino(_Runtime):
    def inference(self, batch: int) -> Inference:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",  # else it takes bfloat16 where the processor has it
        }  # fmt: skip
        compiled = openvino.Core().compile_model(self._file(batch), "CPU", settings)
        request = compiled.create_infer_request()
        x, _ = models.batch(self.name, batch)
        return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0]


def onnx_file(folder: Path, model: str, batch: int) -> Path:
    return folder / f"{model}-{batch}.onnx"


def export(name: str, batches: tuple[int, ...], folder: Path, model: Any = None) -> None:
    """Write the model (PyTorch's, by default newly made) for each batch size as ONNX."""
    import torch

    if model is None:
        torch.manual_seed(0)
        model = models.build(name, torch)
    model.eval()
    # Its fused inference path is one operator that ONNX does not have.
    torch.backends.mha.set_fastpath_enabled(False)
    for batch in batches:
        x = torch.from_numpy(models.batch(name, batch)[0])
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the traced batch size is meant
            torch.onnx.export(model, (x,), str(onnx_file(folder, name, batch)), dynamo=False, opset_version=17)
    torch.backends.mha.set_fastpath_enabled(True)
