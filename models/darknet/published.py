"""Published weights that do not go with their published cfg."""

from __future__ import annotations

import logging
from pathlib import Path

from models.darknet.header import WeightsHeader
from models.detector import Detector
from models.heads.anchor import AnchorHead

logger = logging.getLogger(__name__)

_TINY_SEEN, _TINY_NUMBERS = 32_013_312, 8_858_734
"""Images seen and numbers of yolov3-tiny.weights as darknet's authors published it."""
_TINY_FINE = [[10.0, 14.0], [23.0, 27.0], [37.0, 58.0]]
"""The anchors of masks 0, 1, 2."""


def warn_of_masks(model: Detector, path: Path, header: WeightsHeader, count: int) -> None:
    """Warn when yolov3-tiny's published weights meet the masks of its published cfg.

    They were trained with the masks 1, 2, 3 at stride 16; docs/darknet.md, Measured.

    Args:
        count: numbers in the file.
    """
    if (header.seen, count) != (_TINY_SEEN, _TINY_NUMBERS) or not isinstance(model.head, AnchorHead):
        return
    if model.head.anchors[0].tolist() == _TINY_FINE:
        logger.warning(
            "%s was trained with the masks 1, 2, 3 at stride 16, and this cfg has 0, 1, 2, with which it finds far "
            "less (AP 0.15 instead of 0.23): write mask=1,2,3 into the last [yolo], or use --cfg yolov3-tiny.yaml",
            path,
        )
