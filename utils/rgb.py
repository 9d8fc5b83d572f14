"""Pictures of any kind as (H, W, 3) uint8 RGB arrays."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from utils.text import shorten


def as_rgb(picture: np.ndarray | Image.Image) -> np.ndarray:
    """A picture that is in memory, upright, as the file that it may come from would be read.

    Args:
        picture: (H, W, 3) uint8 RGB, or grey (H, W) or (H, W, 1), which becomes three equal channels, or (H, W, 4), of
            which alpha is dropped; or a Pillow image of any mode, whose EXIF orientation is applied.
    Returns:
        (H, W, 3) uint8 RGB, contiguous; perhaps the same memory.
    Raises:
        ValueError: something else; says what to change.
    """
    if isinstance(picture, Image.Image):
        if picture.format != "TIFF":  # Pillow rotates TIFF itself, and Pillow 10.0 would rotate it twice
            picture = ImageOps.exif_transpose(picture)
        return np.ascontiguousarray(to_rgb(picture))
    if not isinstance(picture, np.ndarray):
        raise ValueError(f"an image: expected a Pillow image or a NumPy array, found {type(picture).__name__}")
    if remedy := _remedy(picture):
        found = f"{picture.dtype} of shape {picture.shape}"
        raise ValueError(f"an image: expected uint8 of shape (height, width, 3), RGB, found {shorten(found)}; {remedy}")
    if picture.ndim == 2:
        picture = picture[:, :, None]
    channels = picture.shape[2]
    return np.ascontiguousarray(np.repeat(picture, 3, axis=2) if channels == 1 else picture[:, :, :3])


def to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image of any mode, perhaps read-only; of 16-bit values the high byte.

    Raises:
        ValueError: 32-bit pixels.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # 16 bit; older Pillow opens such PNG files as "I". convert("RGB") would clip at 255 instead of scaling.
        high = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(high[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no agreed range; save the image with 8 or 16 bits a channel")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image)


def _remedy(array: np.ndarray) -> str | None:
    """What to do with an array that is no image; None for one that is."""
    shape = array.shape
    if array.ndim == 4:
        return "several images are given as a list: list(images)"
    if array.ndim == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        return "channels come last: image.transpose(1, 2, 0)"
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        return "give one image"
    if array.dtype != np.uint8:
        scale = "(255 * image).round()" if array.dtype.kind == "f" else "image"
        return f"give values from 0 to 255 as uint8, for example {scale}.astype(np.uint8)"
    if array.size == 0:
        return "it has no pixels"
    return None
