"""The seven models, written once for every library that reads like PyTorch.

The vision models are Firepot's own source with the import changed: the same text runs on both libraries.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("mlp", "lstm", "gpt", "resnet18", "mobilenet_v2", "vit_tiny", "resnet50")
# Shape of the input, number of classes or of the vocabulary.
WORK: dict[str, tuple[tuple[int, ...], int]] = {
    "mlp": ((128, 784), 10),
    "lstm": ((32, 64, 256), 10),
    "gpt": ((4, 256), 256),
    "resnet18": ((64, 3, 32, 32), 10),
    "mobilenet_v2": ((8, 3, 224, 224), 1000),
    "vit_tiny": ((8, 3, 224, 224), 1000),
    "resnet50": ((8, 3, 224, 224), 1000),
}
ADAPTIVE = ("gpt", "vit_tiny")  # trained by AdamW, the others by SGD with momentum


def batch(name: str, size: int | None = None) -> tuple[Any, Any]:
    """Input and target of a step as arrays; `size` replaces the batch size."""
    shape, classes = WORK[name]
    shape = shape if size is None else (size, *shape[1:])
    random = np.random.default_rng(0)
    if name == "gpt":
        return random.integers(0, classes, shape), random.integers(0, classes, shape)
    return random.standard_normal(shape, np.float32), random.integers(0, classes, shape[:1])


def build(name: str, library: Any) -> Any:
    """The model in `library`, which is firepot or torch."""
    nn = library.nn
    shape, classes = WORK[name]
    if name == "mlp":
        return nn.Sequential(
            nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, classes)
        )  # fmt: skip
    if name == "lstm":
        return _lstm(nn, classes)
    if name == "gpt":
        return _gpt(library, classes)
    return getattr(_vision(library), name)(classes, shape[1], shape[2])


def _vision(library: Any) -> Any:
    """firepot.vision.models, or its source on another library."""
    if library.__name__ == "firepot":
        from firepot.vision import models

        return models
    found = importlib.util.find_spec("firepot")
    assert found is not None and found.origin is not None
    module = types.ModuleType("vision_models")
    for path in sorted((Path(found.origin).parent / "vision" / "models").glob("[!_]*.py")):
        text = path.read_text().replace("from firepot import nn", f"from {library.__name__} import nn")
        text = text.replace("import firepot as fp", f"import {library.__name__} as fp")
        part = types.ModuleType(path.stem)
        sys.modules[path.stem] = part
        exec(compile(text, str(path), "exec"), part.__dict__)
        module.__dict__.update({k: v for k, v in part.__dict__.items() if not k.startswith("_")})
    return module


def _lstm(nn: Any, classes: int) -> Any:
    class Model(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(256, 256, 2, batch_first=True)
            self.head = nn.Linear(256, classes)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    return Model()


def _gpt(library: Any, vocabulary: int, width: int = 384, layers: int = 6, heads: int = 6, length: int = 256) -> Any:
    nn = library.nn
    attend = nn.functional.scaled_dot_product_attention

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            b, t, d = x.shape
            parts = self.qkv(self.norm1(x)).chunk(3, -1)
            q, k, v = (p.reshape(b, t, heads, d // heads).transpose(1, 2) for p in parts)
            y = attend(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
            x = x + self.project(y)
            return x + self.narrow(nn.functional.gelu(self.widen(self.norm2(x))))

    class Model(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Embedding(vocabulary, width)
            self.position = nn.Parameter(library.randn(length, width) * 0.02)
            self.blocks = nn.Sequential(*[Block() for _ in range(layers)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.blocks(self.token(x) + self.position)))

    return Model()
