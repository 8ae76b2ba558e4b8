"""Image files: reading them from a folder or a zip archive, and decoding them."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its extension, and not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and "__MACOSX" not in path.parts


class Folder:
    """The files below a directory, by their path relative to it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def names(self) -> list[str]:
        found = []
        for directory, folders, files in os.walk(self.path, followlinks=True):
            folders.sort()
            prefix = Path(directory).relative_to(self.path)
            found += [(prefix / file).as_posix() for file in files]
        return sorted(found)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def describe(self, name: str) -> str:
        return str(self.path / name)


class Archive:
    """The files in a zip archive, by their path in it.

    The archive is opened once a process: a file position shared between a process and its fork would mix
    their reads.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._opened: zipfile.ZipFile | None = None
        self._process = -1
        self._open()

    def _open(self) -> zipfile.ZipFile:
        if self._opened is None or self._process != os.getpid():
            try:
                self._opened = zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise ValueError(f"{self.path}: not a zip archive, or cut off ({error})") from None
            self._process = os.getpid()
        return self._opened

    def names(self) -> list[str]:
        return sorted(entry.filename for entry in self._open().infolist() if not entry.is_dir())

    def read(self, name: str) -> bytes:
        try:
            return self._open().read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self.describe(name)}: damaged in the archive ({error})") from None
        except RuntimeError as error:  # a password, or a compression that Python lacks
            raise ValueError(f"{self.describe(name)}: cannot be read ({error})") from None

    def describe(self, name: str) -> str:
        return f"{self.path}:{name}"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None, "_process": -1}


def decode(content: bytes, name: str, channels: int | None = 3, size: int | None = None) -> np.ndarray[Any, Any]:
    """The image in `content` as uint8 of shape (height, width, channels), turned as its camera noted.

    `channels` is 1 (grey), 3 (colour), 4 (with opacity) or None: grey images have one, all others three. With
    `size`, the image is scaled so that its shorter side has that length, and its centre cut out: (size, size,
    channels). Raises ValueError that names the file where it cannot be decoded.
    """
    from PIL import Image, ImageOps

    with _opened(content, name) as image:
        if size is not None:
            image.draft(None, (size, size))  # lets the JPEG decoder skip resolution that scaling would drop
        image.load()
        mode = _MODES[channels or channels_of(image)]
        converted = eight_bit(ImageOps.exif_transpose(image), mode)
        if size is not None and converted.size != (size, size):
            converted = ImageOps.fit(converted, (size, size), Image.Resampling.BILINEAR)
        pixels = np.array(converted, np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


def size_of(content: bytes, name: str) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) of an image, read from its header."""
    with _opened(content, name) as image:
        return image.height, image.width, channels_of(image)


def eight_bit(image: Any, mode: str) -> Any:
    """A Pillow image in one of the modes L, RGB and RGBA. Of 16-bit levels the upper eight bits are kept;
    Pillow would cut off what is above 255.
    """
    from PIL import Image

    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if image.mode != "I" or levels.max(initial=0) > 255:
            levels = levels >> 8
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def channels_of(image: Any) -> int:
    """1 of a grey Pillow image, 3 of one with colours."""
    return 1 if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I") else 3


@contextmanager
def _opened(content: bytes, name: str) -> Iterator[Any]:
    """The Pillow image in `content`. What goes wrong inside is raised as a ValueError that names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    except UnidentifiedImageError:
        what = "the file is empty" if not content else "not an image in a format that Pillow knows"
        raise ValueError(f"{name}: {what}") from None
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: the image is damaged or cut off ({error})") from None
