"""Images as JPEG of a sensible size; OpenCV is imported where it is used, for commands that only read them."""

from __future__ import annotations

import numpy as np


def encoded(image: np.ndarray, *, quality: int) -> bytes:
    """An (H, W, 3) uint8 RGB image as the bytes of a JPEG file."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def fitted(image: np.ndarray, side: int, *, enlarge: bool = False) -> np.ndarray:
    """The (H, W, 3) image scaled so that its longer side has `side` pixels, or at most so many."""
    import cv2

    scale = side / max(image.shape[:2])
    if scale > 1 and not enlarge:
        return image
    height, width = (max(round(length * scale), 1) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
