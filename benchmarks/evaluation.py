"""Time of a COCO evaluation, ours and pycocotools': python benchmarks/evaluation.py [--images 5000].

Detections are generated as a detector with 80 classes gives them, 82 an image. Prints the processor time of each stage.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.arguments import Parser, whole_number
from utils.boxes import xyxy_to_xywh
from utils.log import say
from utils.metrics.detection import DetectionMetric
from utils.structures import Detections

SIDES, CLASSES, PER_IMAGE = np.array((640.0, 480.0)), 80, 82


def main(argv: list[str] | None = None) -> int:
    """Generate, count with both backends, and print; 1 as exit status if their figures differ."""
    parser = Parser(description="Time of a COCO evaluation, ours and pycocotools'.")
    parser.add_argument("--images", type=whole_number, default=5000, help="images of 82 detections each")
    parser.add_argument("--rounds", type=whole_number, default=1, help="how often each counts; the median is printed")
    args = parser.parse_args(argv)
    truth, found = generate(args.images)
    total = sum(map(len, found))
    objects = len(truth["annotations"])
    say(f"{args.images:,} images, {objects:,} objects, {total:,} detections; seconds of processor time")
    figures, medians = {}, {}
    rounds: dict[str, list[dict[str, float]]] = {"faster": [], "pycocotools": []}
    for _ in range(args.rounds):  # in turn, so that what else the machine does meets both
        for backend, times in rounds.items():
            figures[backend], seconds = count(truth, found, backend)
            times.append(seconds)
    for backend, times in rounds.items():
        stages = {stage: float(np.median([each[stage] for each in times])) for stage in times[0]}
        medians[backend] = sum(stages.values())
        parts = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in stages.items())
        say(f"{backend:>11}: {medians[backend]:7.2f} ({parts}), AP {figures[backend]['AP']:.4f}")
    say(f"pycocotools takes {medians['pycocotools'] / medians['faster']:.1f} times as long")
    pairs = [(figures["faster"][key], value) for key, value in figures["pycocotools"].items() if key.startswith("A")]
    difference = max(abs(one - other) for one, other in pairs)
    say(f"largest difference of a figure: {difference:.1e}")
    return int(difference > 1e-9)


def generate(images: int) -> tuple[dict, list[Detections]]:
    """A COCO dict with about 7 objects an image, and the detections of each image: some near objects, most not."""
    rng = np.random.default_rng(0)
    annotations: list[dict] = []
    found: list[Detections] = []
    for image_id in range(1, images + 1):
        count = int(rng.poisson(7.3))
        boxes, labels = draw_boxes(rng, count), rng.integers(CLASSES, size=count)
        for box, label in zip(xyxy_to_xywh(boxes).tolist(), labels.tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "bbox": box}
            annotations.append({**entry, "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.01)})
        near = rng.integers(count, size=min(3 * count, PER_IMAGE)) if count else np.zeros(0, np.int64)
        shift = rng.normal(0, 0.08, (len(near), 4)) * np.tile(boxes[near, 2:] - boxes[near, :2], 2)
        far = PER_IMAGE - len(near)
        all_boxes = np.concatenate((boxes[near] + shift, draw_boxes(rng, far))).astype(np.float32)
        all_labels = np.concatenate((labels[near], rng.integers(CLASSES, size=far)))
        scores = np.concatenate((rng.random(len(near)), rng.random(far) ** 3)).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        found.append(Detections(all_boxes[order], scores[order], all_labels[order]))
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    listed = [{"id": number} for number in range(1, images + 1)]
    return {"images": listed, "annotations": annotations, "categories": categories}, found


def draw_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) xyxy boxes of all sizes in an image."""
    sizes = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corners = rng.random((count, 2)) * np.maximum(SIDES - sizes, 1)
    return np.concatenate((corners, corners + sizes), axis=1)


def count(truth: dict, found: list[Detections], backend: str) -> tuple[dict, dict[str, float]]:
    """The figures, and the seconds of each stage."""
    begin = time.process_time()
    names = [category["name"] for category in truth["categories"]]
    metric = DetectionMetric(truth, [category["id"] for category in truth["categories"]], names, backend=backend)
    made = time.process_time()
    metric.update([image["id"] for image in truth["images"]], found)
    updated = time.process_time()
    figures = metric.compute()
    return figures, {"truth": made - begin, "rows": updated - made, "figures": time.process_time() - updated}


if __name__ == "__main__":
    sys.exit(main())
