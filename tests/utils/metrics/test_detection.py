"""DetectionMetric against pycocotools run by itself on the files, and its two backends against each other."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.metrics.coco import FIGURES
from utils.metrics.detection import DetectionMetric
from utils.structures import Detections

BACKENDS = ("pycocotools", "faster")


def random_ground_truth(seed: int = 0, *, images: int = 40, categories: tuple = (2, 3, 7, 11)) -> dict:
    """Objects of all sizes, crowds, mask areas, images and a category without any."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image_id in range(1, images + 1):
        for _ in range(rng.integers(0, 12) if image_id % 5 else 0):
            x, y, w, h = (rng.random(4) * [400, 300, 200, 180] ** np.array([1, 1, rng.random(), 1])).round(2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id * 10,
                    "category_id": int(rng.choice(categories[:-1])),
                    "bbox": [x, y, w + 1, h + 1],
                    "area": (w + 1) * (h + 1) * rng.uniform(0.4, 1),
                    "iscrowd": int(rng.random() < 0.08),
                }
            )
    return {
        "images": [{"id": i * 10, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"thing{i}"} for i in categories],
    }


def random_detections(ground_truth: dict, category_ids: tuple, seed: int = 1, *, extra: int = 20) -> dict:
    """Image id -> detections near the objects, among strays, with equal scores here and there."""
    rng = np.random.default_rng(seed)
    found = {}
    for image in ground_truth["images"]:
        rows = [(rng.random(4) * 300, rng.integers(len(category_ids))) for _ in range(rng.integers(0, extra + 1))]
        for annotation in ground_truth["annotations"]:
            if annotation["image_id"] == image["id"] and rng.random() < 0.8:
                box = np.array(annotation["bbox"]) + rng.normal(0, 0.05, 4) * annotation["bbox"][2]
                rows += [(box, category_ids.index(annotation["category_id"]))] * int(rng.integers(1, 3))
        boxes = np.array([row[0] for row in rows]).reshape(-1, 4)
        boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:])
        scores = np.sort(rng.random(len(rows)).round(1 if image["id"] % 20 else 4))[::-1].copy()
        found[image["id"]] = Detections(
            boxes.astype(np.float32), scores.astype(np.float32), np.array([int(row[1]) for row in rows], np.int64)
        )
    return found


def filled(ground_truth: dict, found: dict, **options) -> DetectionMetric:
    ids = tuple(category["id"] for category in ground_truth["categories"])
    metric = DetectionMetric(ground_truth, ids, [c["name"] for c in ground_truth["categories"]], **options)
    metric.update(list(found), list(found.values()))
    return metric


def independent(ground_truth: dict, rows: list, folder: Path, *, category: int | None = None) -> np.ndarray:
    """The twelve figures as a user of pycocotools gets them from two files."""
    (folder / "truth.json").write_text(json.dumps(ground_truth))
    (folder / "rows.json").write_text(json.dumps(rows))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "rows.json")), "bbox")
        if category is not None:
            evaluation.params.catIds = [category]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def empty_ground_truth() -> dict:
    return {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_find_and_nothing_found(backend: str) -> None:
    metric = DetectionMetric(empty_ground_truth(), [1], ["a"], backend=backend)
    assert metric.predictions() == []
    figures = metric.compute()
    assert [figures[key] for key in FIGURES] == [None] * 12
    assert figures["per_class"] == {"a": {"AP": None, "AP50": None}}
    assert figures["images"] == 1
    assert metric.pr_curves()[1] == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_objects_but_nothing_found_gives_zero(backend: str) -> None:
    truth = random_ground_truth()
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    figures = filled(truth, {image["id"]: none for image in truth["images"]}, backend=backend).compute()
    assert [figures[key] for key in FIGURES] == [0.0] * 12
    assert figures["per_class"]["thing2"] == {"AP": 0.0, "AP50": 0.0}
    assert figures["per_class"]["thing11"] == {"AP": None, "AP50": None}


@pytest.mark.parametrize("backend", BACKENDS)
def test_found_where_there_is_nothing(backend: str) -> None:
    metric = DetectionMetric(empty_ground_truth(), [1], ["a"], backend=backend)
    metric.update([1], [Detections(np.float32([[1, 2, 3, 4]]), np.float32([0.5]), np.array([0]))])
    assert metric.compute()["AP"] is None


def test_no_images_at_all() -> None:
    metric = DetectionMetric({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, [1], ["a"])
    assert metric.compute()["AP"] is None
    assert metric.compute()["images"] == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_pycocotools_on_the_written_file(backend: str, seed: int, tmp_path: Path) -> None:
    truth = random_ground_truth(seed)
    metric = filled(truth, random_detections(truth, (2, 3, 7, 11), seed + 10), backend=backend)
    figures, rows = metric.compute(), metric.predictions()
    expected = independent(truth, rows, tmp_path)
    assert 0.05 < expected[0] < 0.95
    np.testing.assert_allclose([figures[key] for key in FIGURES], expected, rtol=0, atol=1e-9)
    for category in truth["categories"]:
        alone = independent(truth, rows, tmp_path, category=category["id"])
        mine = {key: -1.0 if value is None else value for key, value in figures["per_class"][category["name"]].items()}
        assert mine == pytest.approx({"AP": alone[0], "AP50": alone[1]}, abs=1e-9)
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize("max_det", [20, 100, 300])
def test_the_backends_agree_on_every_figure(max_det: int) -> None:
    truth = random_ground_truth(3)
    found = random_detections(truth, (2, 3, 7, 11), 4, extra=150)
    slow, fast = (filled(truth, found, backend=backend, max_det=max_det).compute() for backend in BACKENDS)
    assert {f"AR{limit}" for limit in (1, 10, min(max_det, 100), max_det)} < slow.keys() == fast.keys()
    keys = [key for key in slow if key.startswith("A")]
    np.testing.assert_allclose([slow[k] for k in keys], [fast[k] for k in keys], rtol=0, atol=1e-9)
    assert slow["per_class"] == {name: pytest.approx(row, abs=1e-9) for name, row in fast["per_class"].items()}


def test_more_than_a_hundred_of_a_class_count_only_when_asked() -> None:
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}],
    }
    boxes = np.float32([[50, 50, 60, 60]] * 150 + [[0, 0, 10, 10]])
    found = {1: Detections(boxes, np.linspace(1, 0.1, 151, dtype=np.float32), np.zeros(151, np.int64))}
    assert filled(truth, found).compute()["AR100"] == 0.0
    more = filled(truth, found, max_det=300)
    assert more.compute()["AR100"] == 0.0
    assert more.compute()["AR300"] == 1.0
    assert more.compute()["AP"] == pytest.approx(1 / 151)
    assert "maxDets=300" in more.table()


def test_area_and_crowd_left_out_are_filled_in(tmp_path: Path) -> None:
    truth = random_ground_truth(5)
    for annotation in truth["annotations"]:
        annotation.update(iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
    bare = copy.deepcopy(truth)
    for annotation in bare["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    before = copy.deepcopy(bare)
    metric = filled(bare, random_detections(truth, (2, 3, 7, 11)))
    expected = independent(truth, metric.predictions(), tmp_path)
    np.testing.assert_allclose([metric.compute()[key] for key in FIGURES], expected, rtol=0, atol=1e-9)
    assert bare == before, "the caller's ground truth was written into"


@pytest.mark.parametrize("rename", [lambda i: -i, lambda i: f"id{i}"], ids=["negative", "text"])
def test_unusual_ids_change_no_figure(rename) -> None:
    truth = random_ground_truth(6)
    found = random_detections(truth, (2, 3, 7, 11))
    renamed = copy.deepcopy(truth)
    for group in ("images", "annotations", "categories"):
        for entry in renamed[group]:
            entry["id"] = rename(entry["id"])
    for annotation in renamed["annotations"]:
        annotation.update(image_id=rename(annotation["image_id"]), category_id=rename(annotation["category_id"]))
    other = filled(renamed, {rename(image_id): rows for image_id, rows in found.items()})
    plain = filled(truth, found)
    assert other.predictions()[0]["category_id"] == rename(plain.predictions()[0]["category_id"])
    # Equal scores in different images are ordered by image id, which moves AP in the fourth digit.
    assert other.compute()["AP"] == pytest.approx(plain.compute()["AP"], abs=2e-3)
    assert other.compute()["AR100"] == pytest.approx(plain.compute()["AR100"], abs=1e-9)


def test_annotation_id_zero_gives_what_pycocotools_gives(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = random_ground_truth(7)
    for annotation in truth["annotations"]:
        annotation["id"] -= 1
    metric = filled(truth, random_detections(truth, (2, 3, 7, 11)))
    assert "id 0" in caplog.text
    expected = independent(truth, metric.predictions(), tmp_path)
    np.testing.assert_allclose([metric.compute()[key] for key in FIGURES], expected, rtol=0, atol=1e-9)


def test_ranks_merge_to_the_same_figures_and_count_no_image_twice() -> None:
    truth = random_ground_truth(8)
    found = random_detections(truth, (2, 3, 7, 11))
    whole = filled(truth, found)
    ids = list(found)
    first = filled(truth, {i: found[i] for i in ids[::2]})
    second = filled(truth, {i: found[i] for i in [*ids[1::2], ids[0]]})  # a padded sampler repeats an image
    first.extend(second.predictions())
    assert first.predictions() == whole.predictions()
    assert first.compute() == whole.compute()
    first.reset()
    assert first.predictions() == []


def test_pr_curve_has_the_mean_that_the_table_shows() -> None:
    truth = random_ground_truth()
    metric = filled(truth, random_detections(truth, (2, 3, 7, 11)))
    recalls, curves = metric.pr_curves()
    assert recalls.shape == (101,)
    assert set(curves) == {"thing2", "thing3", "thing7"}
    for name, curve in curves.items():
        assert curve.mean() == pytest.approx(metric.compute()["per_class"][name]["AP50"], abs=1e-12)


def test_table_prints_what_pycocotools_prints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    truth = random_ground_truth()
    metric = filled(truth, random_detections(truth, (2, 3, 7, 11)))
    table = metric.table()
    assert capsys.readouterr().out == "", "pycocotools was not silenced"
    printed = io.StringIO()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with contextlib.redirect_stdout(printed):
        coco = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(metric.predictions()), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        printed.truncate(0)
        printed.seek(0)
        evaluation.summarize()
    lines = table.splitlines()
    assert lines[:12] == printed.getvalue().splitlines()
    assert len(lines) == 12 + 2 + 4 + 2
    assert lines[-3].split() == ["thing11", "–", "–"], "a class without objects"
    assert lines[-1].split()[:5] == ["AP50", "lost", "to:", "class", f"{metric.errors()['class']:.3f}"]


def test_with_another_limit_the_figures_are_those_of_pycocotools_at_that_limit() -> None:
    """180 objects of 180 found perfectly: COCO's 100 count 0.55 of them, 300 count all."""
    boxes = [[12.0 * (i % 20), 12.0 * (i // 20), 10.0, 10.0] for i in range(180)]
    annotations = [{"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": annotations}
    for annotation in annotations:
        annotation.update(area=100.0, iscrowd=0)
    corners = np.float32([[x, y, x + w, y + h] for x, y, w, h in boxes])
    found = {1: Detections(corners, np.linspace(1, 0.1, 180, dtype=np.float32), np.zeros(180, np.int64))}
    assert filled(truth, found).compute()["AP"] == pytest.approx(0.5545, abs=1e-3)
    metric = filled(truth, found, max_det=300)
    figures = metric.compute()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(metric.predictions()), "bbox")
        evaluation.params.maxDets = [1, 10, 300]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    expected = {"AP": precision[..., 0, -1], "AR1": recall[..., 0, 0], "AR10": recall[..., 0, 1]}
    expected |= {"AR300": recall[..., 0, -1], "ARs": recall[..., 1, -1], "APs": precision[..., 1, -1]}
    assert {key: figures[key] for key in expected} == {key: float(values.mean()) for key, values in expected.items()}
    assert (figures["AP"], figures["AR300"]) == (1.0, 1.0)
    assert figures["AR100"] == pytest.approx(100 / 180)


def test_wrong_use_is_refused() -> None:
    truth = random_ground_truth()
    one = Detections(np.float32([[1, 2, 3, 4]]), np.float32([0.5]), np.array([0]))
    metric = filled(truth, {10: one})
    with pytest.raises(ValueError, match="counted before"):
        metric.update([10], [one])
    with pytest.raises(ValueError, match="not among the 40"):
        metric.update([5], [one])
    with pytest.raises(ValueError, match="image 20: a detection is not finite"):
        metric.update([20], [Detections(one.boxes * np.float32("nan"), one.scores, one.labels)])
    with pytest.raises(ValueError, match="backend: 'fast' is unknown"):
        filled(truth, {}, backend="fast")
    text = {"images": [{"id": "x"}], "categories": [{"id": 1, "name": "a"}]}
    with pytest.raises(ValueError, match="'faster': expected ids that are whole numbers"):
        DetectionMetric(text, [1], ["a"], backend="faster")
    with pytest.raises(ValueError, match="max_det"):
        filled(truth, {}, max_det=5)
    with pytest.raises(ValueError, match="expected 2 different ids"):
        DetectionMetric(truth, [2], ["a", "b"])
    with pytest.raises(ValueError, match="none is in the ground truth"):
        DetectionMetric(truth, [0, 1], ["a", "b"])
    truth["annotations"][0].pop("bbox")
    with pytest.raises(ValueError, match=r"annotation 1: expected bbox"):
        filled(truth, {})


def test_names_that_stand_twice_stay_apart() -> None:
    truth = {**empty_ground_truth(), "categories": [{"id": 1, "name": "a"}, {"id": 4, "name": "a"}]}
    assert set(DetectionMetric(truth, [1, 4], ["a", "a"]).compute()["per_class"]) == {"a (1)", "a (4)"}


def test_a_class_that_the_split_does_not_know_has_no_figure() -> None:
    truth = random_ground_truth()
    metric = DetectionMetric(truth, [2, 3, 7, 11, 99], ["a", "b", "c", "d", "e"])
    metric.update([10], [Detections(np.float32([[1, 2, 3, 4]]), np.float32([0.5]), np.array([4]))])
    assert metric.compute()["per_class"]["e"] == {"AP": None, "AP50": None}
