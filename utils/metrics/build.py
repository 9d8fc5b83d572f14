"""The metric that a split is evaluated with: by what its labels are for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from utils.metrics.classification import ClassificationMetric
from utils.metrics.coco import COCO_LIMIT
from utils.metrics.detection import DetectionMetric
from utils.structures import LabelledImages

Metric = DetectionMetric | ClassificationMetric


def build_metric(
    images: LabelledImages,
    *,
    category_ids: Sequence[Hashable] | None = None,
    names: Sequence[str] | None = None,
    backend: str = "pycocotools",
    max_det: int = COCO_LIMIT,
    temperature: float = 1.0,
) -> Metric:
    """The metric of a split, without anything found yet.

    Args:
        category_ids, names: of each label of the model; None where they are the split's own.
        backend: what counts boxes, as in DetectionMetric.
        max_det: detections that are kept in an image. Above COCO's limit of an image and class it becomes that limit;
            below, COCO's limit cuts nothing.
        temperature: of the scores, as in DetectionMetric.
    """
    category_ids, names = category_ids or images.category_ids, names or images.names
    if images.task == "detect":
        limit = max(max_det, COCO_LIMIT)
        return DetectionMetric(
            images.ground_truth, category_ids, names, max_det=limit, backend=backend, temperature=temperature
        )
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    own = [label_of[category_id] for category_id in images.category_ids]
    ids, labels = images.samples.image_ids.tolist(), images.samples.labels.tolist()  # one label an image
    return ClassificationMetric({number: own[label] for number, label in zip(ids, labels, strict=True)}, names)
