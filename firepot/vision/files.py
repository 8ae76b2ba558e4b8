"""Image files: reading them from a folder or a zip archive, and decoding them."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
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

    def describe(self, name: str) -> str:
        return f"{self.path}:{name}"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None, "_process": -1}


def decode(content: bytes, name: str, channels: int | None = 3, size: int | None = None) -> np.ndarray[Any, Any]:
    """The image in `content` as uint8 of shape (height, width, channels).

    `channels` is 1 (grey), 3 (colour), 4 (with opacity) or None: grey images have one, all others three. With
    `size`, the image is scaled so that its shorter side has that length, and its centre cut out: (size, size,
    channels). Raises ValueError that names the file where it cannot be decoded.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as image:
            if size is not None:
                image.draft(None, (size, size))  # lets the JPEG decoder skip resolution that scaling would drop
            image.load()
            mode = _MODES[channels] if channels else "L" if image.mode in ("1", "L", "I;16", "I") else "RGB"
            upright = ImageOps.exif_transpose(image)
            converted = upright if upright.mode == mode else upright.convert(mode)
            if size is not None and converted.size != (size, size):
                converted = ImageOps.fit(converted, (size, size), Image.Resampling.BILINEAR)
            pixels = np.array(converted, np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{name}: the image cannot be decoded; it is damaged, cut off or not an image ({error})"
        ) from None
    return pixels.reshape(*pixels.shape[:2], -1)


def size_of(content: bytes, name: str) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) of an image, read from its header."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.height, image.width, 1 if image.mode in ("1", "L", "I;16", "I") else 3
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name}: not an image, or damaged ({error})") from None
