"""Opening data sets from folders, archives and IDX files."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

import firepot as fp
from firepot.vision import datasets
from firepot.vision.datasets import FashionMNIST, ImageFolder, open_dataset
from firepot.vision.idx import write_idx


def make_folder(root, classes=("cat", "dog"), count=5, size=(12, 12)):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (40 * number, 10 * i, 0)).save(root / name / f"{i}.png")
    return root


def test_the_rooms_of_vision_are_imported_when_named():
    program = (
        "import sys, firepot as fp\n"
        "assert 'firepot.vision.models' not in sys.modules and 'PIL' not in sys.modules\n"
        "assert fp.vision.transforms.Resize and fp.vision.models.resnet18 and fp.vision.datasets.Digits\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="it has datasets, models, transforms"):
        _ = fp.vision.nothing


def test_a_folder_is_divided_and_an_archive_of_it_is_the_same(tmp_path):
    folder = make_folder(tmp_path / "pets")
    data = open_dataset(folder)
    assert (data.name, data.classes, data.image_size, data.channels) == ("pets", ("cat", "dog"), 12, 3)
    assert (len(data.train), len(data.test), data.mirrored) == (8, 2, True)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    packed = open_dataset(tmp_path / "pets.zip")
    np.testing.assert_array_equal(packed.train.images, data.train.images)
    np.testing.assert_array_equal(packed.test.labels, data.test.labels)


def test_train_and_test_folders_and_sizes(tmp_path):
    make_folder(tmp_path / "d" / "train", size=(20, 10))
    make_folder(tmp_path / "d" / "val", count=1, size=(9, 30))
    data = open_dataset(tmp_path / "d", image_size=8)
    assert data.train.images.shape == (10, 8, 8, 3) and data.test.images.shape == (2, 8, 8, 3)
    assert open_dataset(tmp_path / "d", in_memory=False).train[0][0].shape == (224, 224, 3)


def test_worker_processes_decode_the_same_and_name_a_corrupt_image(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "pets", count=40)
    files = ImageFolder(folder, image_size=12)
    alone = files.in_memory()
    monkeypatch.setattr(datasets, "_WORKERS_FROM", 1)
    seen = []
    np.testing.assert_array_equal(files.in_memory(lambda *done: seen.append(done)).images, alone.images)
    assert seen == [(n, 80) for n in range(1, 81)]
    (folder / "dog" / "7.png").write_bytes((folder / "dog" / "7.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"dog/7\.png: the image is damaged"):
        files.in_memory()


@pytest.mark.parametrize(("shape", "size"), [((6, 10, 10), 10), ((6, 8, 10), 10)])
def test_idx_folders(tmp_path, shape, size):
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.full(shape, 7, np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8) % 3)
    data = open_dataset(tmp_path)
    assert data.train.images.shape == (6, size, size, 1) and data.image_size == size
    assert data.classes == ("0", "1", "2") and not data.mirrored
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09abc")
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte: the file is cut off"):
        open_dataset(tmp_path)


def test_what_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_FASHION_FOLDERS", (str(tmp_path / "none"),))
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        FashionMNIST()
    with pytest.raises(FileNotFoundError, match="no data set 'nothing'"):
        open_dataset("nothing")
    with pytest.raises(ValueError, match="no images in it"):
        open_dataset(tmp_path)
    make_folder(tmp_path / "one", count=1)
    with pytest.raises(ValueError, match="class 'cat' has one image"):
        open_dataset(tmp_path / "one")
