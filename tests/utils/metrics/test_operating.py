"""The operating point: keys and figures of metrics.json, thresholds to ship, and what a user reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.metrics.test_detection import random_detections, random_ground_truth
from tests.utils.metrics.test_matches import IDS, drawn_metric
from utils import thresholds
from utils.metrics import operating
from utils.metrics.detection import DetectionMetric
from utils.metrics.operating import GRID, curves, operating_text, thresholds_of, with_operating_point
from utils.plots_metric import plot_metric

NAMES = tuple(f"thing{i}" for i in IDS)


@pytest.mark.parametrize("objects", [False, True])
def test_nothing_found(objects: bool, tmp_path: Path) -> None:
    truth = random_ground_truth() if objects else {**random_ground_truth(), "annotations": []}
    metric = DetectionMetric(truth, IDS, NAMES)
    figures = with_operating_point(metric.compute(), metric)
    assert figures["f1"]["best"] == (0.0 if objects else None)
    assert figures["f1"]["conf"] is None
    assert figures["calibration"]["d_ece"] is None
    assert figures["per_class"]["thing2"]["f1"] == (0.0 if objects else None)
    assert figures["per_class"]["thing11"]["f1"] is None
    assert thresholds_of(figures) is None
    assert "no threshold" in operating_text(figures)
    plot_metric(metric, figures, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.jpg", "f1_curve.jpg", "pr_curve.jpg"}


def test_figures_are_added_and_none_is_changed(tmp_path: Path) -> None:
    metric = drawn_metric(6)
    plain = metric.compute()
    figures = json.loads(json.dumps(with_operating_point(plain, metric)))
    assert {key: figures[key] for key in plain if key != "per_class"} == {
        key: value for key, value in plain.items() if key != "per_class"
    }
    matches, f1 = metric.matches(), figures["f1"]
    kept = matches.scores > f1["conf"]
    assert f1["precision"] == pytest.approx(matches.hits[kept].mean())
    assert f1["recall"] == pytest.approx((kept & matches.hits).sum() / len(matches.object_labels))
    assert f1["best_interval"][0] <= f1["best"] <= f1["best_interval"][1]
    assert f1["conf_interval"][0] <= f1["conf"] <= f1["conf_interval"][1]
    assert figures["calibration"]["detections"] == kept.sum()
    assert sum(row["objects"] for row in figures["per_class"].values()) == len(matches.object_labels)
    for label, row in enumerate(figures["per_class"].values()):
        assert {"AP", "AP50", "f1", "conf", "objects"} == row.keys()
        assert row["objects"] == (matches.object_labels == label).sum()
    of_all, by_class = curves(matches, NAMES)
    assert list(by_class) == list(NAMES[:3]), "the last has no objects"
    assert np.nanmax(of_all["F1"]) == pytest.approx(f1["best"], abs=0.02)
    assert len(GRID) == len(of_all["F1"])
    plot_metric(metric, figures, tmp_path)
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            assert picture.format == "JPEG"
            assert min(picture.size) > 400


def test_a_temperature_moves_the_threshold_and_nothing_else() -> None:
    """The detections above it are the same; so are the F1 values and their spread."""
    plain, heated = (drawn_metric(6, temperature=t) for t in (1.0, 1.9))
    one, other = (with_operating_point(metric.compute(), metric) for metric in (plain, heated))
    for key in ("best", "precision", "recall", "best_interval"):
        assert one["f1"][key] == other["f1"][key]
    assert one["f1"]["conf"] != other["f1"]["conf"]
    assert one["calibration"]["detections"] == other["calibration"]["detections"]
    assert one["calibration"]["d_ece"] != other["calibration"]["d_ece"]
    assert "temperature 1.900" in operating_text(other)
    assert "temperature" not in operating_text(one)


def test_a_class_with_few_objects_has_the_threshold_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_ground_truth()
    few = [a for a in truth["annotations"] if a["category_id"] != 7]
    few += [a for a in truth["annotations"] if a["category_id"] == 7][:5]
    metric = DetectionMetric({**truth, "annotations": few}, IDS, NAMES)
    found = random_detections(truth, IDS)
    metric.update(list(found), list(found.values()))
    monkeypatch.setattr(operating, "LEAST_OBJECTS", 30)
    figures = with_operating_point(metric.compute(), metric)
    shipped = thresholds_of(figures)
    assert shipped.conf == figures["f1"]["conf"]
    rows = figures["per_class"]
    assert shipped.by_class == (rows["thing2"]["conf"], rows["thing3"]["conf"], None, None)
    assert rows["thing7"]["conf"] is not None, "it is told all the same"
    assert shipped.of_labels()[2:].tolist() == [shipped.conf] * 2
    assert thresholds.Thresholds.from_plain(json.loads(json.dumps(shipped.to_plain()))) == shipped
