"""Decoding images of every kind, and naming the files that cannot be."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from firepot.vision.files import Archive, decode, size_of

GREY = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("image", [
    Image.fromarray(GREY),
    Image.fromarray(GREY).convert("LA"),
    Image.fromarray(GREY.astype(np.uint16) * 257),
], ids=["L", "LA", "I;16"])  # fmt: skip
def test_grey_images_keep_their_levels(image):
    content = encoded(image)
    np.testing.assert_array_equal(decode(content, "x", 1)[..., 0], GREY)
    assert decode(content, "x", None).shape == (6, 8, 1)
    np.testing.assert_array_equal(decode(content, "x", 3), np.repeat(GREY[..., None], 3, 2))
    assert size_of(content, "x") == (6, 8, 1)


def test_wide_levels_of_32_bits_and_floats():
    wide = Image.fromarray(GREY.astype(np.int32) * 257)
    np.testing.assert_array_equal(decode(encoded(wide, "TIFF"), "x", 1)[..., 0], GREY)
    narrow = Image.fromarray(GREY.astype(np.int32))
    np.testing.assert_array_equal(decode(encoded(narrow, "TIFF"), "x", 1)[..., 0], GREY)
    floats = Image.fromarray(GREY.astype(np.float32))
    np.testing.assert_array_equal(decode(encoded(floats, "TIFF"), "x", 1)[..., 0], GREY)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_coloured_images_become_rgb(mode):
    red = Image.new("RGB", (8, 6), (255, 0, 0)).convert(mode)
    pixels = decode(encoded(red, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"), "x")
    assert pixels.shape == (6, 8, 3)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


def test_camera_rotation_is_undone_and_sizes_fit():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    content = encoded(Image.fromarray(GREY), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(content, "x", 1)[..., 0], np.rot90(GREY, -1))
    assert decode(content, "x", 3, 5).shape == (5, 5, 3)
    assert decode(encoded(Image.new("RGB", (301, 40)), "JPEG"), "x", 3, 32).shape == (32, 32, 3)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "pic.png: the file is empty"),
    (b"hello", "pic.png: not an image"),
    (encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)))[:900], "pic.png: the image is damaged"),
])  # fmt: skip
def test_what_cannot_be_decoded_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        decode(content, "pic.png")


def test_damage_in_an_archive_is_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/1.png", b"0123456789" * 100)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0123456789" * 100, b"0123456789" * 99 + b"012345678_"))
    with pytest.raises(ValueError, match=r"a\.zip:x/1\.png: damaged in the archive"):
        Archive(path).read("x/1.png")
    path.write_bytes(content[:-30])
    with pytest.raises(ValueError, match=r"a\.zip: not a zip archive, or cut off"):
        Archive(path)
