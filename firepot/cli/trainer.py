"""The training loop: one captured step, checkpoints that continue number for number, a clean stop."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import firepot as fp
from firepot import nn, optim
from firepot.cli.errors import UserError
from firepot.cli.metrics import Metrics
from firepot.cli.progress import Progress
from firepot.cli.report import Evaluation, write_report
from firepot.cli.train import BEST, CHECKPOINT, Configuration
from firepot.data import DataLoader
from firepot.nn import functional as F
from firepot.vision import models, transforms
from firepot.vision.datasets import ImageArrays, ImageData

_EVALUATION_BATCH = 256
_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_SMALL_IMAGE = 64  # up to this side, images are shifted; larger ones are cut out in parts


class _Stopped(Exception):
    """Ctrl-C, or a request to end, at a place where the state is whole."""


class Trainer:
    """Trains, evaluates, saves and reports one configuration."""

    def __init__(self, configuration: Configuration, data: ImageData, output: Path) -> None:
        self.configuration, self.data, self.output = configuration, data, output
        fp.manual_seed(configuration.seed)
        classes = len(data.classes)
        self.model = models.get_model(configuration.model, classes, data.channels, data.image_size)
        self.mean, self.std = _prepare(data, configuration)
        batch = min(configuration.batch_size, len(data.train))
        self.loader = DataLoader(
            data.train, batch, shuffle=True, drop_last=True, num_workers=configuration.workers,
            generator=configuration.seed,
        )  # fmt: skip
        self.test_loader = DataLoader(data.test, _EVALUATION_BATCH, num_workers=configuration.workers)
        self.optimizer = _optimizer(configuration, self.model)
        self.scheduler = _scheduler(configuration, self.optimizer, configuration.epochs * len(self.loader))
        self.mix = _mixing(configuration, classes)
        self.epoch = 0
        self.step_number = 0
        self.saved_step: int | None = None  # of the newest checkpoint
        self.best = 0.0
        self.history: list[dict[str, float]] = []
        self.running = {"loss": 0.0, "correct": 0.0, "images": 0.0}
        self._signal: int | None = None  # that asked to stop
        self._saved_at = time.monotonic()
        self._speed = 0.0  # images a second
        self._train_step = fp.jit(self._step)
        self._evaluation_step = fp.jit(self._evaluate_batch)

    # -- one step, captured ------------------------------------------------------------------------------------------

    def _step(self, images: fp.Tensor, labels: fp.Tensor) -> tuple[fp.Tensor, fp.Tensor]:
        self.optimizer.zero_grad()
        with self._autocast():
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.configuration.label_smoothing)
        loss.backward()
        self.optimizer.step()
        classes = labels.argmax(1) if labels.ndim == 2 else labels
        return loss.detach(), (logits.detach().argmax(1) == classes).sum()

    def _autocast(self) -> fp.autocast:
        return fp.autocast("cpu", dtype=fp.bfloat16, enabled=self.configuration.precision == "bfloat16")

    def _evaluate_batch(self, images: fp.Tensor, labels: fp.Tensor) -> tuple[fp.Tensor, fp.Tensor, fp.Tensor]:
        with fp.no_grad():
            with self._autocast():
                logits = self.model(images).float()
            confidence, chosen = F.softmax(logits, 1).max(1)
            return F.cross_entropy(logits, labels, reduction="none"), chosen, confidence

    # -- the course --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Train to the end. Returns the exit code: 0, or 128 and the signal's number if one stopped it."""
        data, epochs = self.data, self.configuration.epochs
        parameters = sum(p.numel() for p in self.model.parameters())
        _say(
            f"{self.configuration.model} ({parameters:,} parameters) on {data.name}: {len(data.train):,} images to train, "
            f"{len(data.test):,} to test, {len(data.classes)} classes; results in {self.output}"
        )
        self._remove_unfinished()
        begin = time.perf_counter()
        evaluation: Evaluation | None = None
        with self._interruptible(), Metrics(self.output, self.step_number) as metrics:
            try:
                while self.epoch < epochs:
                    self._train_epoch(metrics)
                    evaluation = self._close_epoch(metrics)
                if evaluation is None:  # resumed after its last epoch
                    evaluation = self.evaluate()
            except _Stopped:
                metrics.flush()
                self.save()
                _say(f"stopped after step {self.step_number:,}; go on with: firepot train --resume {self.output}")
                return 128 + (self._signal or 0)
        seconds = time.perf_counter() - begin
        write_report(self.output, self.configuration, data, self.history, evaluation, parameters)
        _say(
            f"test accuracy {100 * evaluation.accuracy:.2f} %, loss {evaluation.loss:.4f}, after {seconds:.1f} s; "
            f"report: {self.output / 'report.html'}"
        )
        return 0

    def _train_epoch(self, metrics: Metrics) -> None:
        """Go through the data once, or through the rest of it."""
        self.model.train()
        total = len(self.loader)
        end = (self.epoch + 1) * total
        if self.step_number == end:
            return  # stopped while it was tested
        title = f"epoch {self.epoch + 1}/{self.configuration.epochs}"
        with Progress(title, total, self.step_number - self.epoch * total, " steps") as progress:
            progress.show("" if self._train_step.traces else "compiling", advance=0)
            start = None  # after the first step, which may have compiled
            for images, labels in self._batches(metrics):
                self._train_batch(images, labels, metrics)
                if start is None:
                    start, images_before = time.perf_counter(), self.running["images"]
                else:
                    self._speed = (self.running["images"] - images_before) / (time.perf_counter() - start)
                progress.show(self._summary())
                if self.step_number < end:  # after the last, the loader has still to close the epoch
                    self._stop_if_asked()
                    if time.monotonic() - self._saved_at > _SECONDS_BETWEEN_CHECKPOINTS:
                        metrics.flush()
                        self.save()

    def _batches(self, metrics: Metrics) -> Iterator[tuple[fp.Tensor, fp.Tensor]]:
        """The rest of the epoch's batches. If one cannot be made, what was learnt until then is saved first."""
        try:
            yield from self.loader
        except Exception:
            metrics.flush()
            self.save()
            raise

    def _train_batch(self, images: fp.Tensor, labels: fp.Tensor, metrics: Metrics) -> None:
        count = len(images)
        if self.mix is not None:
            random = np.random.default_rng((self.configuration.seed, self.step_number))
            images, labels = self.mix(images, labels, random)
        loss, correct = self._train_step(images, labels)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(f"the loss became {value} at step {self.step_number + 1:,}; a smaller --lr may help")
        self.running["loss"] += value * count
        self.running["correct"] += correct.item()
        self.running["images"] += count
        rate = self.scheduler.get_last_lr()[0]
        self.scheduler.step()
        self.step_number += 1
        metrics.write({"step": self.step_number, "loss": value, "lr": rate})

    def _summary(self) -> str:
        """Loss and accuracy of the epoch until now, and images a second."""
        images = self.running["images"]
        loss, accuracy = self.running["loss"] / images, self.running["correct"] / images
        speed = f", {self._speed:,.0f} images/s" if self._speed else ""
        return f"loss {loss:.4f}, acc {100 * accuracy:.2f} %{speed}"

    def _close_epoch(self, metrics: Metrics) -> Evaluation:
        images = self.running["images"]
        evaluation = self.evaluate()
        self.epoch += 1
        _say(
            f"epoch {self.epoch}/{self.configuration.epochs}: {self._summary()}; test: loss {evaluation.loss:.4f}, "
            f"acc {100 * evaluation.accuracy:.2f} %"
        )
        row = {
            "epoch": self.epoch, "step": self.step_number, "train_loss": self.running["loss"] / images,
            "train_accuracy": self.running["correct"] / images, "test_loss": evaluation.loss,
            "test_accuracy": evaluation.accuracy,
        }  # fmt: skip
        self.history.append(row)
        metrics.write(row)
        metrics.flush()
        self.running = dict.fromkeys(self.running, 0.0)
        better = self.epoch == 1 or evaluation.accuracy > self.best
        self.best = max(self.best, evaluation.accuracy)
        if better:
            self.save(BEST)
        self.save()
        return evaluation

    def evaluate(self) -> Evaluation:
        """Test the model. Leaves it in evaluation mode."""
        self.model.eval()
        size = min(_EVALUATION_BATCH, len(self.data.test))
        losses, predictions, confidences, truths = [], [], [], []
        with Progress("test", len(self.test_loader), unit=" batches") as progress:
            for images, labels in self.test_loader:
                count = len(images)
                if count < size:  # fill the last batch up, so that one program serves all
                    images = fp.cat([images, fp.zeros(size - count, *images.shape[1:])])
                    labels = fp.cat([labels, fp.zeros(size - count, dtype=fp.int64)])
                loss, chosen, confidence = self._evaluation_step(images, labels)
                losses.append(loss.numpy()[:count])
                predictions.append(chosen.numpy()[:count])
                confidences.append(confidence.numpy()[:count])
                truths.append(labels.numpy()[:count])
                progress.show("")
                self._stop_if_asked()
        return Evaluation(*(np.concatenate(parts) for parts in (losses, predictions, confidences, truths)))

    # -- stopping and going on ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C, or request to end, lets the running step finish; the second interrupts it."""

        def stop(number: int, frame: Any) -> None:
            if self._signal is not None:
                raise KeyboardInterrupt
            self._signal = number

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_if_asked(self) -> None:
        if self._signal is not None:
            raise _Stopped

    def _remove_unfinished(self) -> None:
        """Delete the checkpoints that a killed run was writing."""
        for path in (CHECKPOINT, BEST):
            for aside in self.output.glob(f".{path}.*"):
                aside.unlink()

    def save(self, name: str = CHECKPOINT) -> None:
        """Everything that the next step depends on, in one file."""
        state = {
            "configuration": asdict(self.configuration),
            "data": {
                "classes": list(self.data.classes), "channels": self.data.channels, "image_size": self.data.image_size,
                "mean": self.mean, "std": self.std,
            },
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(), "loader": self.loader.state_dict(), "random": fp.get_rng_state(),
            "epoch": self.epoch, "step": self.step_number, "best": self.best, "running": self.running,
            "history": self.history,
        }  # fmt: skip
        fp.save(state, self.output / name)
        if name == CHECKPOINT:
            self.saved_step, self._saved_at = self.step_number, time.monotonic()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `save` was called."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.loader.load_state_dict(state["loader"])
        fp.set_rng_state(state["random"])
        self.epoch, self.step_number, self.best = state["epoch"], state["step"], state["best"]
        self.running, self.history = state["running"], state["history"]
        self.saved_step = self.step_number


def _say(text: str) -> None:
    print(text, flush=True)  # at once, also into a file or a pipe


def _prepare(data: ImageData, configuration: Configuration) -> tuple[list[float], list[float]]:
    """Give the data sets their transforms; the channels' mean and standard deviation."""
    train, test = data.train, data.test
    if isinstance(train, ImageArrays):
        mean, std = transforms.channel_statistics(train.images)
    elif data.channels == 3:  # as ImageNet's
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    else:
        mean, std = [0.5], [0.25]

    size = data.image_size
    varied = configuration.augment != "none"
    shift = max(2, size // 10) if varied else 0
    mirror = varied and data.mirrored
    alone = configuration.augment == "randaugment"  # varies image by image, not a batch at once
    if isinstance(train, ImageArrays) and isinstance(test, ImageArrays) and not alone:
        train.batch_transform = transforms.Augment(mean, std, padding=shift, flip=mirror)
        test.batch_transform = transforms.Augment(mean, std)
        return mean, std

    steps: list[Any] = []
    if varied and size <= _SMALL_IMAGE:
        steps.append(transforms.RandomCrop(size, padding=shift))
    elif varied:
        steps.append(transforms.RandomResizedCrop(size, scale=(0.25, 1.0)))
    if mirror:
        steps.append(transforms.RandomHorizontalFlip())
    if configuration.augment == "randaugment":
        steps.append(transforms.RandAugment())
    finish = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    train.transform = transforms.Compose([*steps, *finish])
    test.transform = transforms.Compose(finish)
    return mean, std


def _optimizer(configuration: Configuration, model: nn.Module) -> optim.Optimizer:
    """Weights decay; biases and normalisation parameters do not."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": configuration.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    lr = configuration.lr
    if configuration.optimizer == "sgd":
        return optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    kinds = {
        "adamw": optim.AdamW, "adam": optim.Adam, "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad,
        "lion": optim.Lion, "lamb": optim.LAMB,
    }  # fmt: skip
    return kinds[configuration.optimizer](groups, lr=lr)


def _scheduler(configuration: Configuration, optimizer: optim.Optimizer, steps: int) -> optim.lr_scheduler.LRScheduler:
    """Stepped after every batch."""
    schedules = optim.lr_scheduler
    if configuration.schedule == "onecycle":
        # One more than the steps: a schedule is also stepped after the last batch.
        return schedules.OneCycleLR(optimizer, configuration.lr, total_steps=steps + 1, cycle_momentum=False)
    if configuration.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, steps)
    if configuration.schedule == "step":
        return schedules.StepLR(optimizer, max(1, steps // 3))
    return schedules.LambdaLR(optimizer, lambda _: 1.0)


def _mixing(configuration: Configuration, classes: int) -> Any:
    if configuration.augment == "mixup":
        return transforms.MixUp(alpha=0.2, num_classes=classes)
    if configuration.augment == "cutmix":
        return transforms.CutMix(alpha=1.0, num_classes=classes)
    return None
