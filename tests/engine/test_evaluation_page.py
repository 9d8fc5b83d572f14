"""engine/evaluation_page.py: the page and the thumbnails of a split on disk, one of whose pictures is gone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from data.config import load_data_config
from data.read import read_split
from engine import evaluation_page
from engine.evaluation_page import write_page
from tests.test_val import write_dataset
from tests.utils.samples import metric_of, whole_images
from utils.metrics.build import build_metric
from utils.structures import Detections, LabelledImages
from utils.thumbnails import FILE, read_thumbnails


@pytest.fixture
def images(tmp_path: Path) -> LabelledImages:
    return read_split(load_data_config(str(write_dataset(tmp_path / "data"))), "val")


def found(images: LabelledImages) -> dict[int, Detections]:
    """All objects of each image, but the first has the next class."""
    detections = {}
    for sample in images.samples:
        labels = sample.labels.copy()
        labels[:1] = (labels[:1] + 1) % len(images.names)
        scores = np.full(len(labels), 0.9, np.float32)
        detections[sample.image_id] = Detections(sample.boxes.astype(np.float32), scores, labels)
    return detections


def test_each_error_has_its_picture_and_one_that_is_gone_is_left_out(images: LabelledImages, tmp_path: Path) -> None:
    metric = build_metric(images)
    metric.update(*map(list, zip(*found(images).items(), strict=True)))
    with_objects = [sample for sample in images.samples if len(sample.labels)]
    gone = with_objects[1].image_id
    with_objects[1].path.unlink()
    (tmp_path / "results.csv").write_text("epoch,loss/box,AP\n1,2.0,0.1\n2,1.0,0.2\n")
    write_page(tmp_path / "page.html", metric.compute(), metric, images, folder=tmp_path, about=("<x>",), store=True)
    text = (tmp_path / "page.html").read_text()
    shown = re.findall(r"data-kind='class' .*?<small>(\S+?)(?: \(part\))?</small>", text)
    assert sorted(shown) == sorted(sample.path.name for sample in with_objects if sample.image_id != gone)
    assert text.count("<polyline") == 2
    assert "&lt;x&gt;" in text
    small = read_thumbnails(tmp_path / FILE)
    assert set(small) == {sample.image_id for sample in images.samples if sample.image_id != gone}
    sizes = {number: (each.height, each.width) for number, each in small.items()}
    assert all(sizes[s.image_id] == (s.height, s.width) for s in images.samples if s.image_id in sizes)


def test_without_a_page_only_thumbnails_are_written(images: LabelledImages, tmp_path: Path) -> None:
    metric = build_metric(images)
    write_page(None, metric.compute(), metric, images, folder=tmp_path, store=True)
    assert len(read_thumbnails(tmp_path / FILE)) == len(images)
    assert not list(tmp_path.glob("*.html"))


def test_a_page_alone_reads_no_picture_without_errors(
    images: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = build_metric(images)
    for sample in images.samples:
        scores = np.full(len(sample.labels), 0.9, np.float32)
        metric.update([sample.image_id], [Detections(sample.boxes.astype(np.float32), scores, sample.labels)])
    monkeypatch.setattr(evaluation_page, "read_image", lambda *_, **__: pytest.fail("read"))
    write_page(tmp_path / "page.html", metric.compute(), metric, images, folder=tmp_path)
    assert "No error to show" in (tmp_path / "page.html").read_text()
    assert not (tmp_path / FILE).exists()


def test_a_classifiers_page_has_its_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, names = whole_images([0, 1, 2], names=("cat", "dog", "owl")), ("cat", "dog", "owl")
    metric = metric_of(images, [0, 2, 2])
    monkeypatch.setattr(evaluation_page, "read_image", lambda *_, **__: np.zeros((40, 60, 3), np.uint8))
    write_page(tmp_path / "page.html", metric.compute(), metric, images, folder=tmp_path)
    text = (tmp_path / "page.html").read_text()
    assert text.count("<figure data-kind='wrong'") == 1
    assert f"{names[1]}, found as {names[2]}" in text
