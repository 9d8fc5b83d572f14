"""The page of an evaluation and thumbnails.zip beside it: which pictures are read for them, and how."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data.images import read_image
from utils.evaluation_html import Evaluation, to_html
from utils.files import write_atomically
from utils.gallery import Case, Gallery, window_of, worst_pictures, wrong_pictures
from utils.gallery_html import View, gallery_section
from utils.jpeg import encoded, fitted
from utils.log import tracked
from utils.metrics.build import Metric
from utils.metrics.classification import ClassificationMetric
from utils.results import columns_of, read_results
from utils.structures import LabelledImages
from utils.thumbnails import FILE, Thumbnail, chosen_ids, thumbnail, write_thumbnails

SIDE, QUALITY = 320, 72
"""Longer side of a picture of the page in pixels, and the quality of its JPEG."""
THREADS, CHUNK = 4, 8
DIAGRAMS = {"pr_curve": "precision over recall", "f1_curve": "F1", "confusion": "confusion", "labels": "labels"}
"""Files of a run folder that the page shows, without their suffix -> what they are."""


def write_page(
    path: Path | None,
    figures: Mapping[str, Any],
    metric: Metric,
    images: LabelledImages,
    *,
    folder: Path,
    about: tuple[str, ...] = (),
    store: bool = False,
) -> None:
    """Write the page of an evaluation, and with `store` the thumbnails for the comparison of runs.

    Args:
        path: of the page; None writes none.
        figures: as in metrics.json.
        folder: of the run, with its diagrams, and of a training with results.csv.
        about: lines below the title.
        store: write FILE into `folder`.
    """
    gallery = gallery_of(figures, metric) if path is not None else Gallery((), {}, {})
    ids = images.samples.image_ids.tolist()
    small = chosen_ids(ids) if store else set()
    views, thumbnails = _pictures(gallery, small, images)
    if store:
        write_thumbnails(folder / FILE, thumbnails.items())
    if path is None:
        return
    shown = [(case, view) for place, case in enumerate(gallery.cases) if (view := views.get(place)) is not None]
    names = tuple(figures.get("per_class") or images.names)
    table = folder / "results.csv"
    page = Evaluation(
        folder.name,
        about,
        figures,
        columns_of(read_results(table)) if table.is_file() else {},
        [(title, file.read_bytes()) for key, title in DIAGRAMS.items() if (file := folder / f"{key}.jpg").is_file()],
        gallery_section(gallery, shown, names),
    )
    write_atomically(path, to_html(page))


def gallery_of(figures: Mapping[str, Any], metric: Metric) -> Gallery:
    """The worst pictures of an evaluation, of a detector at the threshold of its best F1."""
    if isinstance(metric, ClassificationMetric):
        return wrong_pictures(metric.predictions(), metric.names)
    conf = (figures.get("f1") or {}).get("conf")
    rows, ids = metric.predictions(), metric.category_ids
    return worst_pictures(metric.ground_truth, rows, ids, conf=conf, max_det=metric.max_det)


def _pictures(
    gallery: Gallery, small: set[Hashable], images: LabelledImages
) -> tuple[dict[int, View], dict[Hashable, Thumbnail]]:
    """Of each case by its place what is shown of its picture, and the thumbnails; each picture is read once."""
    cases: dict[Hashable, list[int]] = {}
    for place, case in enumerate(gallery.cases):
        cases.setdefault(case.image_id, []).append(place)
    wanted = [i for i, number in enumerate(images.samples.image_ids.tolist()) if number in small or number in cases]
    views, thumbnails = dict[int, View](), dict[Hashable, Thumbnail]()
    for index, image in tracked(_read(images, wanted), len(wanted), "Drawing the page"):
        if image is None:
            continue
        number, name = int(images.samples.image_ids[index]), images.samples.path(index).name
        for place in cases.get(number, ()):
            views[place] = _view(gallery.cases[place], image, name)
        if number in small:
            thumbnails[number] = thumbnail(image, name)
    return views, thumbnails


def _read(images: LabelledImages, wanted: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
    """(H, W, 3) uint8 RGB of each sample; None where it cannot be read, which the evaluation has told."""

    def read(index: int) -> np.ndarray | None:
        try:
            return read_image(images.samples.path(index), notes=[])
        except ValueError:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            yield from zip(part, pool.map(read, part), strict=True)


def _view(case: Case, image: np.ndarray, name: str) -> View:
    height, width = image.shape[:2]
    x1, y1, x2, y2 = window_of(case, width, height)
    part = fitted(np.ascontiguousarray(image[y1:y2, x1:x2]), SIDE, enlarge=True)
    whole = (x1, y1, x2, y2) == (0, 0, width, height)
    return View(name, (x1, y1, x2, y2), (part.shape[0], part.shape[1]), encoded(part, quality=QUALITY), whole)
