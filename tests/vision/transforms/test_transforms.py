"""Transforms of one image: sizes and pixels as torchvision defines them, by Pillow alone."""

import numpy as np
import pytest
from PIL import Image

import firepot as fp
from firepot.vision import transforms as T


def image(width=9, height=6, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(("size", "options", "given", "expected"), [
    (7, {}, (10, 15), (7, 10)),  # int(7 * 15 / 10)
    (7, {}, (15, 10), (10, 7)),
    ((4, 5), {}, (10, 15), (5, 4)),
    ([7], {}, (10, 15), (7, 10)),
    (100, {"max_size": 120}, (30, 50), (72, 120)),
    (29, {}, (7, 7 * 29), (29, 841)),
])  # fmt: skip
def test_resize(size, options, given, expected):
    assert T.Resize(size, **options)(Image.new("RGB", given)).size == expected


def test_resize_refuses_a_maximum_below_the_size():
    with pytest.raises(ValueError, match="max_size"):
        T.Resize(10, max_size=10)
    with pytest.raises(ValueError, match="max_size"):
        T.Resize((10, 12), max_size=20)


def test_center_crop_cuts_and_pads():
    array = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(T.CenterCrop((1, 2))(array)[..., 0], [[6, 7]])
    padded = T.CenterCrop((3, 7))(array)[..., 0]
    np.testing.assert_array_equal(padded, np.pad(array, ((0, 0), (1, 2))))  # of three, two on the right


def test_to_tensor_and_normalise():
    picture = image()
    tensor = T.Compose([T.ToTensor(), T.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])])(picture)
    expected = (np.asarray(picture).transpose(2, 0, 1) / 255 - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / np.reshape(
        [0.2, 0.3, 0.4], (3, 1, 1)
    )
    assert tensor.dtype is fp.float32
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-5, atol=1e-6)
    deep = Image.fromarray(np.array([[0, 65535]], np.uint16))
    np.testing.assert_array_equal(T.ToTensor()(deep).numpy(), [[[0, 1]]])
    with pytest.raises(TypeError, match="after ToTensor"):
        T.Normalize(0.5, 0.5)(picture)
    with pytest.raises(ValueError, match="2 means"):
        T.Compose([T.ToTensor(), T.Normalize([0.1, 0.2], [0.1, 0.2])])(picture)


def test_flips_and_crops_are_parts_of_the_image():
    picture = image()
    array = np.asarray(picture)
    np.testing.assert_array_equal(T.RandomHorizontalFlip(1.0)(array), array[:, ::-1])
    np.testing.assert_array_equal(T.RandomVerticalFlip(1.0)(array), array[::-1])
    assert T.RandomHorizontalFlip(0.0)(picture) is picture
    crop = T.RandomCrop((4, 5), padding=2)(array, random=3)
    padded = np.pad(array, ((2, 2), (2, 2), (0, 0)))
    places = [(i, j) for i in range(7) for j in range(9) if (padded[i : i + 4, j : j + 5] == crop).all()]
    assert len(places) == 1
    with pytest.raises(ValueError, match="does not fit"):
        T.RandomCrop(10)(picture)
    whole = T.RandomResizedCrop((6, 9), scale=(1.0, 1.0), ratio=(1.5, 1.5))(array)
    np.testing.assert_array_equal(whole, array)


@pytest.mark.parametrize("transform", [
    T.RandomCrop(5, padding=1), T.RandomResizedCrop(5), T.RandomRotation(30), T.RandomAffine(10, (0.1, 0.1), (0.8, 1.2), 5),
    T.ColorJitter(0.4, 0.4, 0.4, 0.1), T.RandAugment(), T.RandomApply([T.Grayscale(3)]), T.RandomGrayscale(0.5),
    T.Compose([T.ToTensor(), T.RandomErasing(1.0, value="random")]),
], ids=lambda t: type(t).__name__)  # fmt: skip
def test_the_same_seed_gives_the_same_image(transform):
    picture = image(16, 16)
    first, second = (np.asarray(transform(picture, random=4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    results = {np.asarray(transform(picture, random=seed)).tobytes() for seed in range(8)}
    assert len(results) > 1


def test_every_operation_of_randaugment_keeps_the_shape():
    for mode in ("L", "RGB"):
        picture = image(16, 12).convert(mode)
        for seed in range(40):
            result = T.RandAugment(num_ops=1, magnitude=20)(picture, random=seed)
            assert result.size == (16, 12) and result.mode == mode


@pytest.mark.parametrize("mixer", [T.MixUp(num_classes=4), T.CutMix(num_classes=4)], ids=["mixup", "cutmix"])
def test_mixed_labels_are_the_shares_of_the_pixels(mixer):
    labels = np.array([0, 1, 2, 3])
    images = np.broadcast_to(labels[:, None, None, None].astype(np.float32), (4, 1, 10, 10))
    for seed in range(5):
        mixed, shares = mixer(images, labels, random=seed)
        np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), shares @ labels, rtol=1e-5, atol=1e-6)
