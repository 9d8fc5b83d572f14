"""Every image of training, evaluation and detection is read here.

By Pillow, not OpenCV: its modes say what a file holds (palette, CMYK, 16 bit, alpha), a truncated file raises instead
of coming back half grey (`data.cut_jpeg` says whether the last rows alone are missing), and the result does not change
with the OpenCV release. The one exception is training, where reading is what takes the time: there a plain and whole
JPEG file is decoded by OpenCV, which takes 1.8 ms instead of 2.2 over the 160 photos of coco_tiny and leaves more of
the processor's cache to the rest. The pixels are identical (one core, Pillow 13, OpenCV 4.14).
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from data.cut_jpeg import complete_jpeg
from utils.files import open_regular, read_regular
from utils.rgb import to_rgb
from utils.text import printable, shown

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Names in lower case that count as images in a folder; any file that Pillow knows may be named outright."""

ORIENTATION = 0x0112
"""The EXIF tag; 5 to 8 exchange height and width."""

END_OF_JPEG = b"\xff\xd9"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOT_IMAGES = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with 'git lfs pull'",
    b"<!doctype html": "a web page; download the image again",
    b"<html": "a web page; download the image again",
}


SMALL_SHAPE = (16, 18)
"""Rows and columns of what `read_small` gives: two for each cell of a hash of 8 x 9."""

_told: set[str] = set()
"""What this process has told of files."""


def read_image(path: Path, *, notes: list[str] | None = None) -> np.ndarray:
    """The first image of a file, upright (EXIF orientation applied).

    Grey and 1-bit become three equal channels, alpha and palette transparency are dropped, CMYK (Adobe's inverted JPEG
    too) is converted, and of 16-bit values the high byte is kept, as Pillow and OpenCV do with 16-bit colour. A JPEG
    file that lacks its last bytes is used if at most 2 % of its pixels are lost; they are grey or smeared.

    Args:
        notes: where to say that a file is cut off; the log, once for each file, when None.
    Returns:
        (H, W, 3) uint8 RGB, contiguous and writable.
    Raises:
        ValueError: the file is missing, damaged, too large or not an image; the message names it and a remedy.
    """
    return decode_image(_bytes_of(Path(path)), name=str(path), notes=notes)


def read_for_training(path: Path, *, notes: list[str] | None = None) -> np.ndarray:
    """The first image of a file as `read_image` gives it, perhaps read-only; plain JPEG files take a third less time.

    Args:
        notes: as of `read_image`.
    Returns:
        (H, W, 3) uint8 RGB.
    Raises:
        ValueError: as `read_image`.
    """
    return _decode_or_mend(_bytes_of(path), fast=True, name=str(path), notes=notes)


def decode_image(data: bytes, *, name: str = "image", notes: list[str] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, the image in the bytes of a file; see `read_image`. `name` is for messages."""
    image = _decode_or_mend(data, fast=False, name=name, notes=notes)
    return np.require(image, requirements="W")


def _bytes_of(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise ValueError(_explain_os(error, path)) from None


def _decode_or_mend(data: bytes, *, fast: bool, name: str, notes: list[str] | None) -> np.ndarray:
    """`_decode`, also of a JPEG file that lacks its last bytes."""
    try:
        return _decode(data, fast=fast)
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged bytes (struct.error, SyntaxError)
        completed = complete_jpeg(data)
        if completed is None:
            raise ValueError(_explain(error, data[:64], len(data), name)) from error
        whole, share = completed
    lost = f"{share:.2%} of its pixels are lost" if share else "no pixel is lost"
    note = f"the file is cut off ({len(data)} bytes), {lost}; it is used. If the whole file exists, put it in its place"
    note += " before a training begins"
    if notes is None:
        tell([f"{printable(name)}: {note}"])
    else:
        notes.append(note)
    return _decode(whole, fast=fast)


def read_small(path: Path) -> np.ndarray:
    """(16, 18) uint8 grey: a picture so small that only its scene is left; JPEG files are decoded at a fraction.

    Raises:
        ValueError: as `read_image`.
    """
    data = _bytes_of(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("L", (SMALL_SHAPE[1] * 4, SMALL_SHAPE[0] * 4))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return shrink(to_rgb(image) if image.mode != "L" else np.asarray(image))
    except Exception as error:  # as of `_decode_or_mend`
        raise ValueError(_explain(error, data[:64], len(data), str(path))) from error


def shrink(image: np.ndarray) -> np.ndarray:
    """(16, 18) uint8 grey of an image (H, W, 3) or (H, W) uint8, stretched; each value is the mean of a part."""
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize(SMALL_SHAPE[::-1], Image.Resampling.BOX))


def tell(notes: Iterable[str]) -> None:
    """Log what is wrong with files that are used all the same, each once in this process."""
    for note in notes:
        if note not in _told:
            _told.add(note)
            logger.warning("%s", note)


def _decode(data: bytes, *, fast: bool) -> np.ndarray:
    """The first image in the bytes of a file, by OpenCV if it may be `fast` and the file is plain; anything that Pillow
    raises.
    """
    with Image.open(io.BytesIO(data)) as image:
        if fast and image.format == "JPEG" and (pixels := _decode_by_opencv(data, image)) is not None:
            return pixels
        image.load()
        if image.format != "TIFF":  # Pillow rotates TIFF itself, and Pillow 10.0 would rotate it twice
            ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def _decode_by_opencv(data: bytes, image: Image.Image) -> np.ndarray | None:
    """What Pillow would make of a JPEG file that it has opened, a third faster; None for all but the plainest files."""
    upright = image.getexif().get(ORIENTATION, 1) == 1
    if not (upright and image.mode in ("L", "RGB") and data.endswith(END_OF_JPEG)):
        return None
    import cv2  # commands that read labels alone start without it

    as_rgb = getattr(cv2, "IMREAD_COLOR_RGB", None)  # since OpenCV 4.11
    flags = as_rgb or cv2.IMREAD_COLOR
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return pixels if pixels is None or as_rgb else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) that `read_image` gives, from the header alone: pixels are not decoded.

    Raises:
        ValueError: the file is missing or not an image.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            try:
                with Image.open(file) as image:
                    return _upright_size(image, file)
            except Exception as error:
                file.seek(0)
                raise ValueError(_explain(error, file.read(64), path.stat().st_size, str(path))) from error
    except OSError as error:
        raise ValueError(_explain_os(error, path)) from None


def _upright_size(image: Image.Image, file: BinaryIO) -> tuple[int, int]:
    width, height = image.size
    if isinstance(image, TiffImageFile):  # in some releases of Pillow image.size is upright already
        width, height, orientation = (image.tag_v2.get(tag, 1) for tag in (256, 257, ORIENTATION))
    elif image.format == "PNG" and "exif" not in image.info and not _png_has_exif(file):
        # PngImageFile.getexif would decode the pixels to see whether EXIF follows them
        orientation = Image.Image.getexif(image).get(ORIENTATION, 1)
    else:
        orientation = image.getexif().get(ORIENTATION, 1)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _png_has_exif(file: BinaryIO) -> bool:
    """Whether a PNG file has an eXIf chunk anywhere; some programs write it after the pixels."""
    position = file.tell()
    file.seek(len(PNG_SIGNATURE))
    has_exif = False
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind in (b"eXIf", b"IEND"):
            has_exif = kind == b"eXIf"
            break
        file.seek(length + 4, io.SEEK_CUR)
    file.seek(position)
    return has_exif


def _explain_os(error: OSError, path: Path) -> str:
    name = printable(path)
    if isinstance(error, FileNotFoundError):
        return f"{name}: no such image file"
    if isinstance(error, IsADirectoryError):
        return f"{name}: a folder, expected an image file"
    return f"{name}: cannot be read ({error.strerror or error})"


def _explain(error: Exception, head: bytes, size: int, name: str) -> str:
    """One message for everything that goes wrong while decoding."""
    name = printable(name)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return (
            f"{name}: the header claims more pixels than are decoded ({error}). "
            "Cut a genuine image of that size into tiles; delete anything else"
        )
    if isinstance(error, UnidentifiedImageError):
        if size == 0:
            return f"{name}: the file is empty; copy or download it again"
        for start, kind in NOT_IMAGES.items():
            if head.lstrip().lower().startswith(start):
                return f"{name}: not an image but {kind}"
        return (
            f"{name}: not an image that Pillow knows ({size} bytes beginning with {shown(head[:8])}); "
            "save it as JPEG or PNG, or leave it out"
        )
    reason = f"{error or type(error).__name__}; {size} bytes"
    return f"{name}: cannot be decoded ({reason}); put a whole file in its place or leave it out"
