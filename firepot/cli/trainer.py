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
from firepot.cli.metrics import Metrics
from firepot.cli.report import write_report
from firepot.cli.train import Configuration, extra
from firepot.data import DataLoader
from firepot.nn import functional as F
from firepot.vision import models, transforms
from firepot.vision.datasets import ImageArrays, ImageData

_EVALUATION_BATCH = 256


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
        self.best = 0.0
        self.history: list[dict[str, float]] = []
        self.running = {"loss": 0.0, "correct": 0.0, "images": 0.0}
        self._stop = False
        self._train_step = fp.jit(self._step)
        self._evaluation_step = fp.jit(self._evaluate_batch)

    # -- one step, captured ------------------------------------------------------------------------------------------

    def _step(self, images: fp.Tensor, labels: fp.Tensor) -> tuple[fp.Tensor, fp.Tensor]:
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.configuration.label_smoothing)
        loss.backward()
        self.optimizer.step()
        classes = labels.argmax(1) if labels.ndim == 2 else labels
        return loss.detach(), (logits.detach().argmax(1) == classes).sum()

    def _evaluate_batch(self, images: fp.Tensor, labels: fp.Tensor) -> tuple[fp.Tensor, fp.Tensor]:
        with fp.no_grad():
            logits = self.model(images)
            return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1)

    # -- the course --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Train to the end. Returns the exit code: 0, or 130 if Ctrl-C stopped it."""
        tqdm = extra("tqdm").tqdm
        parameters = sum(p.numel() for p in self.model.parameters())
        print(
            f"{self.configuration.model} ({parameters:,} parameters) on {self.data.name}: {len(self.data.train):,} images to "
            f"train, {len(self.data.test):,} to test, {len(self.data.classes)} classes; results in {self.output}"
        )
        begin = time.perf_counter()
        evaluated: tuple[float, float, np.ndarray[Any, Any]] | None = None
        with self._interruptible(), Metrics(self.output, self.step_number) as metrics:
            while self.epoch < self.configuration.epochs:
                finished = self._train_epoch(tqdm, metrics)
                if not finished:
                    self.save()
                    print(f"stopped; go on with: firepot train --resume {self.output}")
                    return 130
                evaluated = self._close_epoch(metrics)
                if self._stop and self.epoch < self.configuration.epochs:
                    print(f"stopped; go on with: firepot train --resume {self.output}")
                    return 130
        loss, accuracy, predictions = evaluated if evaluated is not None else self.evaluate()
        seconds = time.perf_counter() - begin
        write_report(self.output, self.configuration, self.data, self.history, predictions)
        print(
            f"test accuracy {100 * accuracy:.2f} %, loss {loss:.4f}, after {seconds:.1f} s; "
            f"report: {self.output / 'report.html'}"
        )
        return 0

    def _train_epoch(self, tqdm: Any, metrics: Metrics) -> bool:
        """Go through the data once (or through the rest of it). False if stopped on the way."""
        self.model.train()
        total, start = len(self.loader), time.perf_counter()
        done = self.step_number - self.epoch * total
        images_seen = 0
        title = f"epoch {self.epoch + 1}/{self.configuration.epochs}"
        with tqdm(total=total, initial=done, desc=title, unit="batch", leave=True, dynamic_ncols=True) as bar:
            for images, labels in self.loader:
                if self.mix is not None:
                    images, labels = self.mix(
                        images, labels, np.random.default_rng((self.configuration.seed, self.step_number))
                    )
                loss, correct = self._train_step(images, labels)
                value = loss.item()
                if not math.isfinite(value):
                    raise ValueError(f"the loss became {value} at step {self.step_number}; a smaller --lr may help")
                self.running["loss"] += value * len(images)
                self.running["correct"] += correct.item()
                self.running["images"] += len(images)
                images_seen += len(images)
                rate = self.scheduler.get_last_lr()[0]
                self.scheduler.step()
                self.step_number += 1
                metrics.step(self.step_number, loss=value, lr=rate)
                bar.update()
                bar.set_postfix_str(
                    f"loss {self.running['loss'] / self.running['images']:.4f}, "
                    f"acc {100 * self.running['correct'] / self.running['images']:.2f} %, "
                    f"{images_seen / (time.perf_counter() - start):.0f} images/s", refresh=False,
                )  # fmt: skip
                if self._stop and self.step_number < (self.epoch + 1) * total:
                    return False
        return True

    def _close_epoch(self, metrics: Metrics) -> tuple[float, float, np.ndarray[Any, Any]]:
        images = self.running["images"]
        loss, accuracy, predictions = self.evaluate()
        self.epoch += 1
        row = {
            "epoch": self.epoch, "step": self.step_number, "train_loss": self.running["loss"] / images,
            "train_accuracy": self.running["correct"] / images, "test_loss": loss, "test_accuracy": accuracy,
        }  # fmt: skip
        self.history.append(row)
        metrics.epoch(row)
        self.running = dict.fromkeys(self.running, 0.0)
        print(f"  test: loss {loss:.4f}, accuracy {100 * accuracy:.2f} %")
        self.save()
        if accuracy > self.best or self.epoch == 1:
            self.best = max(self.best, accuracy)
            self.save("best.safetensors")
        return loss, accuracy, predictions

    def evaluate(self) -> tuple[float, float, np.ndarray[Any, Any]]:
        """(mean loss, accuracy, predicted class of each image) on the test set."""
        self.model.eval()
        losses, predictions, labels_seen = [], [], []
        for images, labels in self.test_loader:
            count, wanted = len(images), min(_EVALUATION_BATCH, len(self.data.test))
            if count < wanted:  # fill the last batch up, so that one program serves all
                images = fp.cat([images, fp.zeros(wanted - count, *images.shape[1:])])
                filler = fp.zeros(wanted - count, dtype=fp.int64)
                loss, chosen = self._evaluation_step(images, fp.cat([labels, filler]))
            else:
                loss, chosen = self._evaluation_step(images, labels)
            losses.append(loss.numpy()[:count])
            predictions.append(chosen.numpy()[:count])
            labels_seen.append(labels.numpy())
        self.model.train()
        found, truth = np.concatenate(predictions), np.concatenate(labels_seen)
        return float(np.concatenate(losses).mean()), float((found == truth).mean()), found

    # -- stopping and going on ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C lets the running step end; the second interrupts it."""

        def stop(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def save(self, name: str = "checkpoint.safetensors") -> None:
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

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `save` was called."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.loader.load_state_dict(state["loader"])
        fp.set_rng_state(state["random"])
        self.epoch, self.step_number, self.best = state["epoch"], state["step"], state["best"]
        self.running, self.history = state["running"], state["history"]


def _prepare(data: ImageData, configuration: Configuration) -> tuple[list[float], list[float]]:
    """Give the data sets their transforms; the channels' mean and standard deviation."""
    flip = configuration.data != "digits" and configuration.augment != "none"
    small = data.image_size <= 64
    train, test = data.train, data.test
    if isinstance(train, ImageArrays) and isinstance(test, ImageArrays):
        mean, std = transforms.channel_statistics(train.images)
        if configuration.augment != "randaugment":
            padding = (
                0
                if configuration.augment == "none"
                else max(2, data.image_size // 10)
                if small
                else data.image_size // 10
            )
            train.batch_transform = transforms.Augment(mean, std, padding=padding, flip=flip)
            test.batch_transform = transforms.Augment(mean, std)
            return mean, std
    else:  # as ImageNet's
        mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if data.channels == 3 else ([0.5], [0.25])
    steps: list[Any] = []
    if configuration.augment != "none":
        if small:
            steps.append(transforms.RandomCrop(data.image_size, padding=max(2, data.image_size // 10)))
        else:
            steps.append(transforms.RandomResizedCrop(data.image_size, scale=(0.25, 1.0)))
        if flip:
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
        groups[0]["weight_decay"] = configuration.weight_decay / 20
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
