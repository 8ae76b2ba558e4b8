import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import firepot as fp
from benchmarks import cifar10
from benchmarks.__main__ import main
from benchmarks.cifar10_recipe import Images, Recipe, Training, network, triangle


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of two classes that differ in their colour."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = random.integers(0, 120, (count, 32, 32, 3)) + 100 * (np.arange(3) == 2 * labels[:, None])[:, None, None]
    return images.astype(np.uint8), labels


def some(count: int = 64) -> Images:
    return Images(*pictures(count), *pictures(20, 1))


RECIPE = Recipe(epochs=8, batch=16, widths=(8, 16, 16))


def test_both_libraries_start_alike_and_it_learns() -> None:
    firepot, other = (Training(library, RECIPE, some()) for library in (fp, torch))
    np.testing.assert_allclose(cifar10.first_steps(firepot, 3), cifar10.first_steps(other, 3), rtol=1e-3)
    losses = [firepot.epoch() for _ in range(RECIPE.epochs)]
    assert losses[-1] < losses[0] - 0.2
    assert firepot.accuracy() > 0.8


def test_bfloat16_starts_alike() -> None:
    recipe = Recipe(batch=16, widths=(8, 16, 16), precision="bfloat16")
    firepot, other = (cifar10.first_steps(Training(library, recipe, some()), 2) for library in (fp, torch))
    np.testing.assert_allclose(firepot, other, rtol=2e-2)


@pytest.mark.parametrize("library", [fp, torch])
def test_training_images_are_shifted_and_mirrored(library: Any) -> None:
    images = some(32)
    training = Training(library, RECIPE, images)
    padded = np.pad(images.train[5], ((2, 2), (2, 2), (0, 0)), "reflect")[1:33, 3:35, :]
    expected = (padded[:, ::-1] / 255 - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
    found = training.moved(*(library.tensor([v, v]) for v in (5, 1, 3, True))).numpy()
    np.testing.assert_allclose(found[1], expected.transpose(2, 0, 1), atol=1e-5)


def test_the_first_layer_whitens_patches() -> None:
    training = Training(fp, RECIPE, some())
    x = training._normalised(fp.from_numpy(some().train))
    y = fp.nn.functional.conv2d(x, training.network[0].weight).numpy()[:, :12]
    y = y.transpose(1, 0, 2, 3).reshape(12, -1)
    np.testing.assert_allclose(y @ y.T / y.shape[1], np.eye(12), atol=0.05)


def test_size_of_the_network() -> None:
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in network(torch, Recipe()).parameters()]
    widths = [(24, 64), (64, 64), (64, 256), *[(256, 256)] * 3]
    assert sum(np.prod(s) for s in shapes if len(s) == 4) == 9 * sum(i * o for i, o in widths) + 24 * 3 * 4


def test_schedule() -> None:
    assert triangle(0, 100) == 0.2
    assert triangle(23, 100) == 1.0
    assert triangle(100, 100) == pytest.approx(0.07)


def test_seconds_to_an_accuracy_hold_what_came_before() -> None:
    epochs = [{"seconds": 3.0, "accuracy": 0.9}, {"seconds": 4.0, "accuracy": 0.94}, {"seconds": 4.0, "accuracy": 0.95}]
    assert cifar10.seconds_to({"decode": 2.0, "initialise": 1.0, "epochs": epochs}, 0.93) == (10.0, 2)
    assert cifar10.seconds_to({"epochs": epochs[:1]}, 0.93) is None


def test_a_small_run_from_files_to_the_table(tmp_path: Path) -> None:
    for part, count in (("train", 24), ("test", 4)):
        images, labels = pictures(count)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = tmp_path / "data" / part / "ab"[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    firepot, other = (decode(tmp_path / "data", 1) for decode in (cifar10._decode_by_firepot, cifar10._decode_by_torch))
    for name in ("train", "train_labels", "test", "test_labels"):
        np.testing.assert_array_equal(getattr(firepot, name), getattr(other, name))
    arguments = ["cifar10", "--data", str(tmp_path / "data"), "--batch-size", "8", "--widths", "8", "8", "8"]
    main([*arguments, "--epochs", "2", "--peer", "firepot", "--output", str(tmp_path)])
    run = json.loads((tmp_path / "cifar10.json").read_text())["runs"]["float32"]["peers"]["firepot"]
    assert [0 <= e["accuracy"] <= 1 for e in run["epochs"]] == [True, True]
    assert "s to 93 %" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "cifar10.png").stat().st_size > 1000
