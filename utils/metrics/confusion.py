"""The confusion matrix of a detector: which class each object was found as, what was missed, what is not there."""

from __future__ import annotations

import numpy as np

from utils.metrics.matches import MATCH_IOU, Matches, assign, overlaps


def confusion_matrix(matches: Matches, conf: float, *, iou: float = MATCH_IOU) -> np.ndarray:
    """Counts of objects and detections above a score.

    First the objects that were found as what they are, as `match` has them. What is left over is assigned without
    regard to classes: the best detection takes the object that it overlaps most, from `iou` on, and is a confusion. A
    second detection of an object that was found is a false positive.

    Returns:
        (C + 1, C + 1) int64, by true class (row) and class found (column). The last column has the objects that were
        missed, so that the row of a class adds up to its objects; the last row has the false positives.
    """
    background = matches.class_count
    kept = matches.select(matches.scores > conf)
    free = np.ones(len(kept.object_labels), bool)
    free[kept.found[kept.hits]] = False
    rest, objects = np.flatnonzero(~kept.hits), np.flatnonzero(free)
    pairs = overlaps(
        kept.boxes[rest], kept.images[rest], kept.object_boxes[objects], kept.object_images[objects], least=iou
    )
    taken = assign(*pairs, len(rest))
    confused, partner = rest[taken >= 0], objects[taken[taken >= 0]]
    as_class = np.full(len(kept.object_labels), background)  # of each object, what it was found as
    as_class[kept.found[kept.hits]] = kept.labels[kept.hits]
    as_class[partner] = kept.labels[confused]
    matrix = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(matrix, (kept.object_labels, as_class), 1)
    matrix[background, :background] = np.bincount(kept.labels[rest[taken < 0]], minlength=background)
    return matrix
