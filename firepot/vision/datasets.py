"""Data sets of labelled images, in memory as uint8 arrays or read from files as they are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from firepot.data.dataset import Dataset
from firepot.data.loader import DataLoader
from firepot.data.pool import default_context
from firepot.vision.files import Archive, Folder, decode, is_image, size_of
from firepot.vision.idx import read_idx

Array = np.ndarray[Any, Any]
Transform = Callable[[Any], Any]

_FASHION_FOLDERS = ("/usr/share/datasets/fashion-mnist", "~/.cache/firepot/fashion-mnist")
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_TRAIN_NAMES, _TEST_NAMES = ("train", "training"), ("test", "val", "valid", "validation", "t10k")
_IN_MEMORY_BYTES = 1 << 30
_WORKERS_FROM = 256  # images to decode; for fewer, processes cost more time than they save


class ImageArrays(Dataset[tuple[Any, Any]]):
    """Labelled images in memory: `images` uint8 (N, H, W, C), `labels` int64 (N,), `classes` their names.

    Sample i is (image, label); the image is the array (H, W, C), or what `transform` makes of it.
    `batch_transform` gets the uint8 images of a whole batch instead, which is much faster: see
    `firepot.vision.transforms.Augment`. Raises ValueError if there are no images, or the shapes, the dtype or
    the labels do not fit.
    """

    def __init__(
        self, images: Array, labels: Array, classes: Sequence[str] | None = None,
        transform: Transform | None = None,
        batch_transform: Transform | None = None,
    ) -> None:  # fmt: skip
        images = images[..., None] if images.ndim == 3 else images
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"ImageArrays: images must be uint8 (N, H, W, C), got {images.dtype} {images.shape}")
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"ImageArrays: {len(images)} images need as many labels, got labels of shape {labels.shape}"
            )
        if not len(images):
            raise ValueError("ImageArrays: there are no images")
        self.images, self.labels = images, labels.astype(np.int64)
        self.classes = tuple(classes) if classes else tuple(str(i) for i in range(int(labels.max()) + 1))
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise ValueError(
                f"ImageArrays: labels reach from {self.labels.min()} to {self.labels.max()}, "
                f"but there are {len(self.classes)} classes"
            )
        self.transform, self.batch_transform = transform, batch_transform

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])

    def __getattr__(self, name: str) -> Any:
        # `batch` exists only where it gives what the samples would: with a per-image transform there is none.
        if name == "batch" and self.__dict__.get("transform") is None:
            return self._batch
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _batch(self, indices: Sequence[int]) -> tuple[Any, Any]:
        images, labels = self.images[list(indices)], self.labels[list(indices)]
        return (images if self.batch_transform is None else self.batch_transform(images)), labels

    def __len__(self) -> int:
        return len(self.images)


class ImageFiles(Dataset[tuple[Any, Any]]):
    """Labelled image files, decoded when a sample is taken.

    Sample i is (image, label): the image uint8 (H, W, C), or what `transform` makes of it. With `image_size`
    every image is scaled and its centre cut out, so that all have the same shape.
    """

    def __init__(
        self, source: Folder | Archive, names: Sequence[str], labels: Sequence[int], classes: Sequence[str],
        channels: int | None = 3, image_size: int | None = None, transform: Transform | None = None,
    ) -> None:  # fmt: skip
        self.source, self.names, self.classes = source, list(names), tuple(classes)
        self.labels = np.asarray(labels, np.int64)
        self.channels, self.image_size, self.transform = channels, image_size, transform

    @property
    def samples(self) -> list[tuple[str, int]]:
        """(file, label) of every sample, as torchvision names it."""
        return [(self.source.describe(n), int(i)) for n, i in zip(self.names, self.labels, strict=True)]

    @property
    def targets(self) -> list[int]:
        return [int(label) for label in self.labels]

    def load(self, index: int) -> Array:
        """The image at `index` without the transform."""
        name = self.names[index]
        return decode(self.source.read(name), self.source.describe(name), self.channels, self.image_size)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        image = self.load(index)
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])

    def __len__(self) -> int:
        return len(self.names)

    def in_memory(self, progress: Callable[[int, int], None] | None = None) -> ImageArrays:
        """Decodes everything, on all processors. Calls `progress(done, total)` as it goes."""
        images: Array | None = None
        for index, image in enumerate(self._decoded()):
            if images is None:
                images = np.empty((len(self), *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                raise ValueError(
                    f"{self.source.describe(self.names[index])}: the image is {image.shape} and others are "
                    f"{images.shape[1:]}; give image_size to bring all to one size"
                )
            images[index] = image
            if progress is not None:
                progress(index + 1, len(self))
        if images is None:
            raise ValueError(f"{self.source.path}: there are no images")
        return ImageArrays(images, self.labels, self.classes, self.transform)

    def _decoded(self) -> Iterator[Array]:
        """Every image, in order. Threads alternate on the interpreter's lock when images are small (60,000 of
        32 x 32 took 13 s in two threads and 5 s in two processes), so they serve only where a fork is not safe.
        """
        processors = min(os.cpu_count() or 1, 16)
        if default_context().get_start_method() == "fork":
            untransformed = copy(self)
            untransformed.transform = None
            workers = processors if len(self) >= _WORKERS_FROM else 0
            for batch in DataLoader(untransformed, 64, num_workers=workers, collate_fn=list):
                for image, _ in batch:
                    yield image
        else:
            with ThreadPoolExecutor(processors) as threads:
                for start in range(0, len(self), 1024):  # not all at once, or an error would wait for the last
                    yield from threads.map(self.load, range(start, min(start + 1024, len(self))))


@dataclass(frozen=True)
class ImageData:
    """A training and a test set of the same classes, as `open_dataset` finds them.

    `mirrored`: an image turned left to right still shows its class, as of things and not of writing.
    """

    name: str
    train: ImageArrays | ImageFiles
    test: ImageArrays | ImageFiles
    classes: tuple[str, ...]
    image_size: int
    channels: int
    mirrored: bool = True


class Digits(ImageArrays):
    """Handwritten digits that come with the installation: 4,000 images to train on, 1,000 to test, 28 x 28
    grey.

    A part of MNIST; firepot/vision/digits/LICENSE.txt has its source and its licence.
    """

    def __init__(self, train: bool = True, transform: Transform | None = None) -> None:
        images, labels = _read_idx_pair(Path(__file__).parent / "digits", train)
        super().__init__(images, labels, [str(digit) for digit in range(10)], transform)


class MNIST(ImageArrays):
    """The four IDX files of MNIST, or of a set made like it, in the folder `root`."""

    def __init__(self, root: str | Path, train: bool = True, transform: Transform | None = None) -> None:
        images, labels = _read_idx_pair(_existing_folder(root), train)
        super().__init__(images, labels, None, transform)


class FashionMNIST(ImageArrays):
    """Articles of clothing, 60,000 images to train on and 10,000 to test, 28 x 28 grey.

    Without `root`, looks where the Debian package `dataset-fashion-mnist` puts the files. H. Xiao, K. Rasul
    and R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
    2017.
    """

    def __init__(self, root: str | Path | None = None, train: bool = True, transform: Transform | None = None) -> None:
        places = [Path(place).expanduser() for place in ([root] if root is not None else _FASHION_FOLDERS)]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise FileNotFoundError(
                f"Fashion-MNIST is not in {' or '.join(map(str, places))}. On Debian and Ubuntu, "
                "`apt install dataset-fashion-mnist` brings it; or put its four IDX files into a folder "
                "and name that."
            )
        images, labels = _read_idx_pair(folder, train)
        super().__init__(images, labels, _FASHION_CLASSES, transform)


class ImageFolder(ImageFiles):
    """A folder, or a zip archive, with one folder of images a class. Labels count the class names in sorted
    order. With image_size all images get one size.

    >>> from pathlib import Path
    >>> from PIL import Image
    >>> for name in ("daisy", "rose"):
    ...     Path("flowers", name).mkdir(parents=True)
    ...     Image.new("RGB", (8, 6)).save(f"flowers/{name}/1.png")
    >>> dataset = ImageFolder("flowers")
    >>> image, label = dataset[1]
    >>> image.shape, dataset.classes[label]
    ((6, 8, 3), 'rose')
    """

    def __init__(
        self,
        root: str | Path,
        transform: Transform | None = None,
        image_size: int | None = None,
        channels: int | None = 3,
    ) -> None:
        source = _open_source(root)
        classes, names, labels = _by_class([n for n in source.names() if is_image(n)], source.path)
        super().__init__(source, names, labels, classes, channels, image_size, transform)
        self.class_to_idx = {name: index for index, name in enumerate(classes)}


def open_dataset(
    spec: str | Path = "digits", image_size: int | None = None, in_memory: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageData:  # fmt: skip
    """Opens the training and the test set that `spec` names.

    "digits", "fashion-mnist", or a path: a folder of IDX files; a folder of class folders with images; a zip
    archive of one. Class folders may lie in `train` and `test` (or `val`); if not, every fifth image a class,
    in a fixed random order, is for testing. Images of different sizes are brought to `image_size` (default:
    224, or the size of all if they have the same and it is square). They are decoded into memory if they take
    up to 1 GiB, else read as they are needed; `in_memory` decides otherwise, and `progress(done, total)` is
    called while decoding.

    Raises FileNotFoundError if there is no such path, and ValueError that names the file if it is empty or
    damaged.
    """
    name = str(spec)
    if name in ("digits", "fashion-mnist"):
        kind = Digits if name == "digits" else FashionMNIST
        return _from_arrays(name, kind(train=True), kind(train=False), image_size, mirrored=name != "digits")
    path = Path(spec).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no data set '{name}': neither 'digits', 'fashion-mnist', nor a folder or zip archive")
    if path.is_dir() and any("-idx" in file.name or ".idx" in file.name for file in path.iterdir()):
        # Sets in this form mostly show writing.
        return _from_arrays(path.resolve().name, MNIST(path, True), MNIST(path, False), image_size, mirrored=False)
    return _from_files(_open_source(path), image_size, in_memory, progress)


def _from_arrays(
    name: str, train: ImageArrays, test: ImageArrays, image_size: int | None, mirrored: bool
) -> ImageData:
    size = image_size or max(train.images.shape[1:3])
    for part in (train, test):
        if part.images.shape[1:3] != (size, size):
            part.images = np.stack([_resized(image, size) for image in part.images])
    classes = max(train.classes, test.classes, key=len)
    train.classes = test.classes = classes
    return ImageData(name, train, test, classes, size, train.images.shape[3], mirrored)


def _resized(image: Array, size: int) -> Array:
    from PIL import Image, ImageOps

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.array(ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)).reshape(size, size, -1)


def _from_files(
    source: Folder | Archive,
    image_size: int | None,
    in_memory: bool | None,
    progress: Callable[[int, int], None] | None,
) -> ImageData:
    names = [n for n in source.names() if is_image(n)]
    if not names:
        raise ValueError(
            f"{source.path}: no images in it; expected folders named for the classes, with JPEG or PNG files"
        )
    train, test = _divide(names, source)
    classes, train_names, train_labels = _by_class(train, source.path)
    test_classes, test_names, test_labels = _by_class(test, source.path)
    if set(test_classes) - set(classes):
        raise ValueError(f"{source.path}: classes only in the test set: {sorted(set(test_classes) - set(classes))}")
    test_labels = [classes.index(test_classes[label]) for label in test_labels]
    # The headers of some images tell what they are like; what differs later is scaled or reported by name.
    some = train_names[:: max(1, len(train_names) // 50)]
    sizes = [size_of(source.read(n), source.describe(n)) for n in some]
    channels = max(c for _, _, c in sizes)
    same_square = len({(h, w) for h, w, _ in sizes}) == 1 and sizes[0][0] == sizes[0][1]
    size = image_size or (sizes[0][0] if same_square else 224)
    parts: list[ImageArrays | ImageFiles] = []
    fits = (len(train_names) + len(test_names)) * size * size * channels <= _IN_MEMORY_BYTES
    done, total = 0, len(train_names) + len(test_names)
    for part_names, part_labels in ((train_names, train_labels), (test_names, test_labels)):
        files = ImageFiles(source, part_names, part_labels, classes, channels, size)
        if fits if in_memory is None else in_memory:
            before = done
            report = None if progress is None else lambda n, _, before=before: progress(before + n, total)
            parts.append(files.in_memory(report))
        else:
            parts.append(files)
        done += len(files)
    return ImageData(source.path.resolve().stem, parts[0], parts[1], tuple(classes), size, channels)


def _divide(names: list[str], source: Folder | Archive) -> tuple[list[str], list[str]]:
    """The training and the test images: by their folder, or else four fifths and one fifth of every class."""
    parts = [PurePosixPath(n).parts for n in names]
    depth = 0
    while all(len(p) > depth + 2 for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1  # an archive often wraps everything in one folder
    folders = {p[depth].lower() for p in parts if len(p) > depth + 2}
    train_folder = next((f for f in _TRAIN_NAMES if f in folders), None)
    test_folder = next((f for f in _TEST_NAMES if f in folders), None)
    if train_folder and test_folder:
        within = {folder: [n for n, p in zip(names, parts, strict=True) if p[depth].lower() == folder]
                  for folder in (train_folder, test_folder)}  # fmt: skip
        return within[train_folder], within[test_folder]
    train, test = [], []
    classes, ordered, labels = _by_class(names, source.path)
    random = np.random.default_rng(0)
    for label, class_name in enumerate(classes):
        members = [n for n, i in zip(ordered, labels, strict=True) if i == label]
        if len(members) < 2:
            raise ValueError(
                f"{source.path}: class '{class_name}' has one image; training and testing need two or more"
            )
        held_out = max(1, len(members) // 5)
        order = random.permutation(len(members)).tolist()
        test += [members[i] for i in sorted(order[:held_out])]
        train += [members[i] for i in sorted(order[held_out:])]
    return train, test


def _by_class(names: list[str], path: Path) -> tuple[list[str], list[str], list[int]]:
    """Class names in sorted order, and the images with the number of the folder that each lies in."""
    kept = [(PurePosixPath(n).parent.name, n) for n in names]
    if not kept or any(not folder for folder, _ in kept):
        what = "no images in it" if not kept else f"images outside of class folders, such as '{names[0]}'"
        raise ValueError(f"{path}: {what}; expected folders named for the classes, with JPEG or PNG files")
    classes = sorted({folder for folder, _ in kept})
    number = {name: index for index, name in enumerate(classes)}
    return classes, [n for _, n in kept], [number[folder] for folder, _ in kept]


def _open_source(path: str | Path) -> Folder | Archive:
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or zip archive")
    return Folder(path) if path.is_dir() else Archive(path)


def _existing_folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    return folder


def _read_idx_pair(folder: Path, train: bool) -> tuple[Array, Array]:
    """Images (N, H, W) and labels (N,) from the IDX files of a folder, compressed or not."""
    prefixes = ("train",) if train else ("t10k", "test")

    def read(what: str, rank: int) -> tuple[Path, Array]:
        stems = [f"{p}-{what}{dot}idx{rank}-ubyte{end}" for p in prefixes for dot in "-." for end in (".gz", "")]
        path = next((folder / stem for stem in stems if (folder / stem).exists()), None)
        if path is None:
            raise FileNotFoundError(f"{folder}: there is no {stems[0]} (nor uncompressed)")
        return path, read_idx(path)

    (image_path, images), (label_path, labels) = read("images", 3), read("labels", 1)
    if images.ndim not in (3, 4) or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"{image_path} has shape {images.shape} and {label_path} {labels.shape}: expected (N, H, W) and (N,)"
        )
    return images, labels
