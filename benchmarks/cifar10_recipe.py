"""Training on CIFAR-10 in few operations, written once for Firepot and PyTorch.

The network and its optimisation are those of Keller Jordan's airbench ("94% on CIFAR-10 in 3.29 seconds on a single
GPU", 2024), which stand on David Page's "How to train your ResNet" (2018): a first layer that whitens patches and is
not trained, convolutions that start as the identity, batch norms with trained biases only, whose rate is 64 times
higher, label smoothing, Nesterov's momentum under a triangular schedule, weights drawn every few steps to their
running average, and tests that average over an image and its mirror image, at the end over shifted ones too.

Images stay in memory as bytes; a step takes their places in the set, their shifts and mirrorings, and does the rest.
What is random comes from NumPy, so that both libraries see the same weights and the same batches.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_SIDE = 32
_SHIFT = 2  # pixels that a training image moves at most, each way
_TEST_BATCH = 2000
_WHITENING_IMAGES = 5000
_WHITENING_EPOCHS = 3  # after which the first layer's bias is no longer trained
_AVERAGE_FROM, _AVERAGE_EVERY = 3, 5  # epochs, steps
_AVERAGE_DECAY, _AVERAGE_POWER = 0.95, 3.0


@dataclass(frozen=True)
class Recipe:
    """What decides the numbers of a training. Rates are a thousand images' (1024), before momentum multiplies them."""

    epochs: int = 12
    batch: int = 1024
    widths: tuple[int, int, int] = (64, 256, 256)
    rate: float = 11.5
    momentum: float = 0.85
    weight_decay: float = 0.0153
    bias_scale: float = 64.0
    label_smoothing: float = 0.2
    logit_scale: float = 1 / 9
    precision: str = "float32"
    seed: int = 0

    def described(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Images:
    """Both sets: uint8 (N, 32, 32, 3), and labels int64 (N,)."""

    train: Array
    train_labels: Array
    test: Array
    test_labels: Array


class Training:
    """A training in one library: `epoch` after `epoch`, and `accuracy` in between.

    library:  firepot or torch
    compiled: torch.compile for PyTorch; Firepot's steps are always jitted
    """

    def __init__(self, library: Any, recipe: Recipe, images: Images, compiled: bool = False) -> None:
        if len(images.train) < recipe.batch:
            raise ValueError(f"{len(images.train)} training images do not make a batch of {recipe.batch}")
        self.library, self.recipe = library, recipe
        border = (_SHIFT, _SHIFT)
        padded = np.pad(images.train, ((0, 0), border, border, (0, 0)), "reflect")
        self.padded, self.labels = library.from_numpy(padded), library.from_numpy(images.train_labels)
        self.test, self.test_labels = library.from_numpy(images.test), library.from_numpy(images.test_labels)
        self.mean, self.std = (library.tensor(v) * 255 for v in (MEAN, STD))
        self.steps_per_epoch = len(images.train) // recipe.batch
        # Half of the images are mirrored in even epochs, the others in odd ones: so each is seen both ways.
        self.mirrored_first = np.random.default_rng((recipe.seed, 1)).random(len(images.train)) < 0.5
        self.done = 0  # epochs

        self.network = network(library, recipe)
        self._initialise()
        firepot = library.__name__ == "firepot"
        if not firepot:
            self.network = self.network.to(memory_format=library.channels_last)
        self.forward = library.compile(self.network, dynamic=False) if compiled else self.network
        self.optimizer, self.scheduler = self._optimization()
        self.average: dict[str, Any] | None = None
        jit = library.jit if firepot else lambda function: function
        self._step, self._draw, self._infer = jit(self._train), jit(self._draw_to_average), jit(self._logits)

    # How it learns.

    def epoch(self) -> float:
        """Train on every image once; the mean loss."""
        random = np.random.default_rng((self.recipe.seed, 2, self.done))
        order = random.permutation(len(self.mirrored_first))
        shifts = random.integers(0, 2 * _SHIFT + 1, (2, len(order)))
        self.network[0].bias.requires_grad_(self.done < _WHITENING_EPOCHS)
        losses = []
        for number in range(self.steps_per_epoch):
            losses.append(self.step(order[number * self.recipe.batch :][: self.recipe.batch], shifts))
            step = self.done * self.steps_per_epoch + number + 1
            if self.done >= _AVERAGE_FROM and step % _AVERAGE_EVERY == 0:
                share = step / (self.recipe.epochs * self.steps_per_epoch)
                self._average(_AVERAGE_DECAY**_AVERAGE_EVERY * share**_AVERAGE_POWER)
        if self.average is not None:
            self._average(1.0)
        self.done += 1
        return sum(losses) / len(losses)

    def step(self, places: Array, shifts: Array) -> float:
        """One step on the images at `places`, moved by their columns of `shifts`; the mean loss."""
        mirrored = self.mirrored_first[places] ^ (self.done % 2 == 1)
        arguments = (places, *(np.ascontiguousarray(s[places]) for s in shifts), mirrored)
        self.network.train()
        loss = self._step(*(self.library.from_numpy(a) for a in arguments)).item() / len(places)
        self.scheduler.step()
        return float(loss)

    def _train(self, places: Any, down: Any, right: Any, mirrored: Any) -> Any:
        library = self.library
        x = self.moved(places, down, right, mirrored)
        self.optimizer.zero_grad()
        with self._precision():
            loss = library.nn.functional.cross_entropy(
                self.forward(x) * self.recipe.logit_scale, self.labels[places],
                label_smoothing=self.recipe.label_smoothing, reduction="sum",
            )  # fmt: skip
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def moved(self, places: Any, down: Any, right: Any, mirrored: Any) -> Any:
        """Training images (N, 3, 32, 32), each shifted within its border and perhaps mirrored."""
        span = self.library.arange(_SIDE)
        rows = down[:, None] + span
        columns = right[:, None] + self.library.where(mirrored[:, None], _SIDE - 1 - span, span)
        return self._normalised(self.padded[places[:, None, None], rows[:, :, None], columns[:, None, :]])

    def _normalised(self, images: Any) -> Any:
        """uint8 (N, H, W, C) as float32 (N, C, H, W), which is channels-last in memory."""
        return ((images.to(self.library.float32) - self.mean) / self.std).permute(0, 3, 1, 2)

    def _precision(self) -> AbstractContextManager[Any]:
        lower = self.recipe.precision == "bfloat16"
        found: AbstractContextManager[Any] = self.library.autocast("cpu", dtype=self.library.bfloat16, enabled=lower)
        return found

    def _average(self, decay: float) -> None:
        """Draw weights and running statistics to their running average, or the average to them the first time."""
        state = {k: v for k, v in self.network.state_dict().items() if v.dtype == self.library.float32}
        if self.average is None:
            self.average = {k: v.clone() for k, v in state.items()}
        else:
            self._draw(self.library.tensor(1 - decay))

    def _draw_to_average(self, weight: Any) -> None:
        assert self.average is not None
        with self.library.no_grad():
            state = self.network.state_dict()
            for name, average in self.average.items():
                average.copy_(average + (state[name] - average) * weight)
                state[name].copy_(average)

    # How good it is.

    def accuracy(self) -> float:
        """The share of test images whose class is found, by the sum of what an image and its mirror image give; at the
        end of the training also of what both give moved by a pixel, up and left or down and right.
        """
        self.network.eval()
        right = 0
        for start in range(0, len(self.test), _TEST_BATCH):
            images = self.test[start : start + _TEST_BATCH]
            logits = self._infer(images)
            if self.done >= self.recipe.epochs:
                border = np.pad(images.numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
                for part in (border[:, :_SIDE, :_SIDE], border[:, 2:, 2:]):
                    logits = logits + self._infer(self.library.from_numpy(np.ascontiguousarray(part))) * 0.5
            right += int((logits.argmax(1) == self.test_labels[start : start + _TEST_BATCH]).sum().item())
        return right / len(self.test)

    def _logits(self, images: Any) -> Any:
        x = self._normalised(images)
        with self.library.no_grad(), self._precision():
            return (self.forward(x) + self.forward(x.flip(-1))).to(self.library.float32)

    # Where it starts.

    def _initialise(self) -> None:
        library = self.library
        random = np.random.default_rng((self.recipe.seed, 0))
        with library.no_grad():
            for _, parameter in self.network.named_parameters():
                if parameter.ndim > 1:  # uniform as PyTorch's layers start
                    bound = 1 / math.sqrt(math.prod(parameter.shape[1:]))
                    parameter.copy_(
                        library.from_numpy(random.uniform(-bound, bound, tuple(parameter.shape)).astype(np.float32))
                    )
            for layer in self.network.modules():
                if isinstance(layer, library.nn.Conv2d) and layer is not self.network[0]:
                    same = min(layer.weight.shape[:2])
                    identity = library.nn.init.dirac_(library.empty(same, *layer.weight.shape[1:]))
                    layer.weight.copy_(library.cat((identity, layer.weight[same:])))
            self.network[0].weight.copy_(self._whitening())
            self.network[0].bias.zero_()
        self.network[0].weight.requires_grad_(False)

    def _whitening(self, small: float = 5e-4) -> Any:
        """Weights (24, 3, 2, 2) that make 2 × 2 patches uncorrelated and of variance one: eigenvectors of their
        covariance over the roots of its eigenvalues, and the same with the opposite sign.
        """
        library = self.library
        inside = self.padded[:, _SHIFT:-_SHIFT, _SHIFT:-_SHIFT]
        x = self._normalised(inside[:: max(1, len(inside) // _WHITENING_IMAGES)])
        patches = x.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
        values, vectors = library.linalg.eigh(patches.T @ patches / len(patches))
        rows = (vectors / library.sqrt(values + small)).flip(1).T
        # An eigenvector's sign is the solver's choice: here its largest element is positive.
        largest = library.take_along_dim(rows, rows.abs().argmax(1, keepdim=True), 1)
        rows = rows * library.sign(largest)
        return library.cat((rows, -rows)).reshape(24, 3, 2, 2)

    def _optimization(self) -> tuple[Any, Any]:
        recipe, optim = self.recipe, self.library.optim
        # Nesterov's steps are this many times as long as the gradient of an image.
        scale = 1024 * (1 + 1 / (1 - recipe.momentum))
        rate, decay = recipe.rate / scale, recipe.weight_decay * recipe.batch / scale
        groups: list[dict[str, Any]] = []
        for norms, factor in ((True, recipe.bias_scale), (False, 1.0)):
            found = [
                p for layer in self.network.modules() for p in layer._parameters.values()
                if p is not None and p.requires_grad and isinstance(layer, self.library.nn.BatchNorm2d) == norms
            ]  # fmt: skip
            groups.append({"params": found, "lr": rate * factor, "weight_decay": decay / (rate * factor)})
        optimizer = optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=True)
        steps = recipe.epochs * self.steps_per_epoch
        return optimizer, optim.lr_scheduler.LambdaLR(optimizer, lambda step: triangle(step, steps))


def triangle(step: int, steps: int, start: float = 0.2, peak: float = 0.23, end: float = 0.07) -> float:
    """The share of the highest learning rate: from `start` up to 1 at the share `peak` of all steps, then to `end`."""
    top = max(1, int(peak * steps))
    if step <= top:
        return start + (1 - start) * step / top
    return 1 + (end - 1) * (min(step, steps) - top) / max(1, steps - top)


def network(library: Any, recipe: Recipe) -> Any:
    """Eight layers: 2 × 2 whitening, three pairs of 3 × 3 convolutions, a linear one."""
    nn = library.nn
    layers = [nn.Conv2d(3, 24, 2), nn.GELU()]
    channels = 24
    for width in recipe.widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.MaxPool2d(2), _norm(nn, width), nn.GELU()]
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), _norm(nn, width), nn.GELU()]
        channels = width
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(channels, 10, bias=False))


def _norm(nn: Any, width: int) -> Any:
    layer = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer
