"""Small pictures of an evaluation in one file of bounded size, thumbnails.zip, for the comparison of runs."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.config import ConfigError
from utils.files import write_atomically
from utils.jpeg import encoded, fitted
from utils.text import first_line, from_json, to_json

FILE = "thumbnails.zip"
MOST_PICTURES, MOST_BYTES = 1000, 6_000_000
SIDE, QUALITY = 256, 60
_INDEX = "index.json"
_MOST_INDEX = 2**24


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small picture.

    Args:
        name: of the file that it is of; height, width: of that picture in pixels.
        jpeg: the bytes of a JPEG file.
    """

    name: str
    height: int
    width: int
    jpeg: bytes


def chosen_ids(image_ids: Sequence[Hashable], most: int = MOST_PICTURES) -> set[Hashable]:
    """The pictures that get a thumbnail, at most so many: by the digest of the id, so that all runs take the same."""
    if len(image_ids) <= most:
        return set(image_ids)
    return set(sorted(image_ids, key=lambda number: hashlib.blake2b(repr(number).encode()).digest())[:most])


def thumbnail(image: np.ndarray, name: str, *, side: int = SIDE, quality: int = QUALITY) -> Thumbnail:
    """The (H, W, 3) uint8 RGB image in a square of `side` pixels; a smaller one is not enlarged."""
    height, width = image.shape[:2]
    return Thumbnail(name, height, width, encoded(fitted(image, side), quality=quality))


def write_thumbnails(path: Path, pictures: Iterable[tuple[Hashable, Thumbnail]]) -> None:
    """Write a zip file of JPEG files with 'index.json'; those that would be beyond MOST_BYTES are left out."""
    index, contents, size = list[dict[str, object]](), list[bytes](), 0
    for image_id, picture in pictures:
        size += len(picture.jpeg) + 200
        if size > MOST_BYTES:
            break
        index.append({"id": image_id, "name": picture.name, "height": picture.height, "width": picture.width})
        contents.append(picture.jpeg)

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(_INDEX, to_json(index))
            for number, content in enumerate(contents):
                archive.writestr(f"{number}.jpg", content)

    write_atomically(path, write, needed=size)


def read_thumbnails(path: Path) -> dict[Hashable, Thumbnail]:
    """What `write_thumbnails` wrote, by image id; empty where there is no file.

    Raises:
        ConfigError: a damaged file.
    """
    if not path.is_file():
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if sum(part.file_size for part in parts) > 2 * MOST_BYTES + _MOST_INDEX:
                raise ValueError("larger than it may be")
            return {
                entry["id"]: Thumbnail(
                    str(entry["name"]), int(entry["height"]), int(entry["width"]), archive.read(f"{number}.jpg")
                )
                for number, entry in enumerate(from_json(archive.read(_INDEX)))
            }
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, OSError, NotImplementedError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}); remove it, or evaluate again") from None
