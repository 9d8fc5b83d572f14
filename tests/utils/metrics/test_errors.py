"""Where the AP went: hand-made cases, the figures of tidecv, and pycocotools' own AP50."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import val
from tests.utils.metrics.test_detection import filled, random_detections, random_ground_truth
from utils.metrics import errors as module
from utils.metrics.coco import box_ground_truth
from utils.metrics.errors import ERRORS, KINDS, SIZES, error_split, match_errors

NAMES = {"cat": 1, "dog": 2}


def truth(*objects: dict[str, Any], images: int = 1, categories: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Of boxes 100 x 100 where nothing else is said."""
    return box_ground_truth(
        {
            "images": [{"id": i + 1} for i in range(images)],
            "categories": [{"id": i} for i in categories],
            "annotations": [
                {"id": k + 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 100, 100], **each}
                for k, each in enumerate(objects)
            ],
        }
    )


def row(score: float, x: float = 0, *, category: int = 1, size: float = 100, image: int = 1) -> dict[str, Any]:
    """A detection; moved by x, its IoU with a box of 100 x 100 at 0 is (100 - x) / (100 + x)."""
    return {"image_id": image, "category_id": category, "bbox": [x, 0, size, size], "score": score}


def kinds_of(ground_truth: dict[str, Any], *rows: dict[str, Any], max_det: int = 100) -> list[str]:
    return [KINDS[kind] for kind in match_errors(ground_truth, rows, max_det=max_det).kinds]


def test_without_objects_there_is_no_figure_and_without_detections_all_is_missed() -> None:
    nothing = error_split(truth(), [], NAMES)
    assert nothing["AP50"] is None and all(nothing[error] is None for error in ERRORS)
    assert nothing["per_class"]["cat"] == {"AP50": None, **dict.fromkeys(ERRORS)}
    assert kinds_of(truth(), row(0.5)) == ["background"]
    found = match_errors(truth({}, {"category_id": 2, "iscrowd": 1}), [])
    assert found.missed.tolist() == [True, False] and len(found.kinds) == 0
    split = error_split(truth({}), [], NAMES)
    assert (split["AP50"], split["missed"], split["class"]) == (0.0, 1.0, 0.0)
    assert split["per_class"]["dog"]["missed"] is None


def test_each_kind_as_the_paper_draws_it() -> None:
    ground_truth = truth({}, {"bbox": [300, 0, 100, 100]}, {"bbox": [600, 0, 100, 100], "category_id": 2})
    rows = [
        row(0.9, 10),  # IoU 0.82 with the first
        row(0.8, 20),  # the first once more
        row(0.7, 350),  # IoU 1/3 with the second
        row(0.6, 610),  # on the dog
        row(0.5, 650),  # on the dog, and badly
        row(0.4, 1000),
    ]
    found = match_errors(ground_truth, rows)
    assert [KINDS[k] for k in found.kinds] == ["correct", "duplicate", "location", "class", "both", "background"]
    assert found.objects.tolist() == [0, 0, 1, 2, -1, -1]
    assert found.ious == pytest.approx([90 / 110, 80 / 120, 50 / 150, 90 / 110, 50 / 150, 0])
    assert found.found.tolist() == [True, False, False] and not found.missed.any()


def test_the_thresholds_belong_to_location() -> None:
    """IoU 0.5 finds an object; where that is taken, TIDE says location up to 0.5 and duplicate above."""
    ground_truth = truth({"bbox": [0, 0, 30, 10]})
    boxes = {"whole": [0, 0, 30, 10], "half": [0, 0, 15, 10], "tenth": [0, 0, 3, 10], "less": [0, 0, 2.9, 10]}
    rows = [{**row(0.9 - 0.1 * k), "bbox": box} for k, box in enumerate(boxes.values())]
    assert kinds_of(ground_truth, rows[1]) == ["correct"]
    assert kinds_of(ground_truth, *rows) == ["correct", "location", "location", "background"]
    other = [{**each, "category_id": 2} for each in rows]
    assert kinds_of(ground_truth, *other) == ["class", "class", "background", "background"]


def test_crowd_regions_ignore_detections_of_their_class_and_are_never_missed() -> None:
    ground_truth = truth({"iscrowd": 1, "bbox": [0, 0, 400, 400]}, {"bbox": [10, 0, 100, 100]})
    rows = [row(0.9, 10), row(0.8, 200), row(0.7, 250), row(0.6, 200, category=2)]
    found = match_errors(ground_truth, rows)
    assert [KINDS[k] for k in found.kinds] == ["correct", "ignored", "ignored", "background"]
    assert (
        found.objects.tolist() == [1, -1, -1, -1] and not found.missed.any() and found.found.tolist() == [False, True]
    )
    assert error_split(ground_truth, rows[:3], NAMES)["AP50"] == 1


def test_detections_beyond_the_limit_of_their_class_count_neither_way() -> None:
    rows = [row(0.1, 500), row(0.9, 600), row(0.3), row(0.2, category=2)]
    assert kinds_of(truth({}), *rows, max_det=2) == ["ignored", "background", "correct", "class"]


def test_ap_after_the_oracle_by_hand() -> None:
    """Two cats; the detections best first: background, correct, location of the other, location of it again."""
    ground_truth = truth({}, {"bbox": [300, 0, 100, 100]})
    rows = [row(0.9, 700), row(0.8), row(0.7, 350), row(0.6, 351)]
    split = error_split(ground_truth, rows, NAMES)
    half = 51 / 101  # of the recall thresholds, those up to 0.5
    assert split["AP50"] == pytest.approx(half / 2)
    assert split["background"] == pytest.approx(half - half / 2)  # found at rank 1, and no other
    assert split["location"] == pytest.approx(2 / 3 - half / 2)  # ranks 2 and 3; the envelope lifts both to 2/3
    assert (split["class"], split["both"], split["duplicate"], split["missed"]) == (0, 0, 0, 0)
    assert split["per_class"]["cat"] == {key: split[key] for key in ("AP50", *ERRORS)}


def test_a_mended_label_takes_a_false_alarm_from_one_class_and_finds_for_the_other() -> None:
    ground_truth = truth({}, {"bbox": [300, 0, 100, 100], "category_id": 2})
    rows = [row(0.9, 300), row(0.8)]
    split = error_split(ground_truth, rows, NAMES)
    assert split["per_class"]["cat"]["class"] == pytest.approx(0.5)
    assert split["per_class"]["dog"]["class"] == pytest.approx(1.0)
    assert split["class"] == pytest.approx(0.75)


def test_a_class_that_is_missed_altogether_is_lost_to_missed() -> None:
    """Where tidecv finds nothing to count, and says 0."""
    ground_truth = truth({}, {"bbox": [300, 0, 100, 100], "category_id": 2})
    split = error_split(ground_truth, [row(0.9), row(0.8, 700, category=2)], NAMES)
    assert split["per_class"]["dog"]["missed"] == 1 and split["per_class"]["cat"]["missed"] == 0
    assert split["missed"] == pytest.approx(0.5)


def test_sizes_are_those_of_the_objects_or_else_of_the_detections() -> None:
    small, medium = {"bbox": [0, 0, 32, 32]}, {"bbox": [300, 0, 32, 33]}
    split = error_split(truth(small, medium, {"bbox": [600, 0, 96, 96.5]}), [row(0.9, 600), row(0.1, 900)], NAMES)
    lost = {size: split["sizes"][size]["missed"] for size in SIZES}
    assert lost["small"] == lost["medium"] > 0 and lost["large"] == 0
    seg = truth({"bbox": [0, 0, 90, 90], "area": 500})
    assert error_split(seg, [], NAMES)["sizes"]["small"]["missed"] == 1, "COCO's area, not that of the box"
    alarm = error_split(truth({}), [row(0.9, 500, size=20), row(0.8)], NAMES)
    assert [alarm["sizes"][size]["background"] for size in SIZES] == [pytest.approx(0.5), 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_ap50_is_that_of_pycocotools(seed: int) -> None:
    """With crowds, mask areas, equal scores, classes without objects, and another limit."""
    ids, limit = (2, 3, 7, 11), (100, 12)[seed % 2]
    ground_truth = random_ground_truth(seed)
    metric = filled(ground_truth, random_detections(ground_truth, ids, seed), max_det=limit)
    figures, split = metric.compute(), metric.errors()
    assert split["AP50"] == pytest.approx(figures["AP50"], abs=1e-12)
    for name, part in split["per_class"].items():
        assert part["AP50"] == pytest.approx(figures["per_class"][name]["AP50"], abs=1e-12)
        assert part["missed"] is None or 0 <= part["missed"] <= 1


def test_the_order_of_the_rows_changes_nothing() -> None:
    ground_truth, rows = distinct(5)
    order = np.random.default_rng(0).permutation(len(rows))
    one, two = match_errors(ground_truth, rows), match_errors(ground_truth, [rows[i] for i in order])
    assert (one.kinds[order] == two.kinds).all() and (one.objects[order] == two.objects).all()
    assert (one.missed == two.missed).all()


def distinct(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of three classes and detections of all kinds, no two of them equal."""
    rng = np.random.default_rng(seed)
    annotations, rows = [], []
    for image in range(1, 31):
        for _ in range(rng.integers(1, 9)):
            box = np.array([*rng.random(2) * 300, *np.exp(rng.uniform(2.5, 5.2, 2))])
            label, crowd = int(rng.integers(1, 4)), int(rng.random() < 0.08)
            about = {"image_id": image, "category_id": label, "bbox": box.tolist(), "iscrowd": crowd}
            annotations.append({"id": len(annotations) + 1, **about})
            for _ in range(rng.integers(0, 4)):
                moved = box + rng.normal(0, 0.2, 4) * box[[2, 3, 2, 3]] * rng.random()
                seen = label if rng.random() < 0.75 else int(rng.integers(1, 4))
                rows.append((image, seen, [*moved[:2], *np.abs(moved[2:]) + 1]))
        rows += [(image, int(rng.integers(1, 4)), [*rng.random(2) * 400, *rng.random(2) * 90 + 2]) for _ in range(6)]
    scores = rng.permutation(len(rows)) / len(rows)
    keys = ("image_id", "category_id", "bbox")
    detections = [
        {**dict(zip(keys, each, strict=True)), "score": float(s)} for each, s in zip(rows, scores, strict=True)
    ]
    images, categories = [{"id": i} for i in range(1, 31)], [{"id": i} for i in (1, 2, 3)]
    return box_ground_truth({"images": images, "annotations": annotations, "categories": categories}), detections


@pytest.fixture
def tidecv(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The authors' package, without the plots for which it wants more packages."""
    if importlib.util.find_spec("tidecv") is None:
        pytest.skip("tidecv is not installed: pip install --no-deps tidecv")
    for name in ("appdirs", "pandas", "seaborn"):
        if importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
            monkeypatch.setattr(sys.modules[name], "user_data_dir", None, raising=False)
    parts = ("data", "quantify", "errors.main_errors", "errors.qualifiers")
    data, quantify, kinds, sizes = (importlib.import_module(f"tidecv.{part}") for part in parts)
    types = (kinds.ClassError, kinds.BoxError, kinds.OtherError, kinds.DuplicateError, kinds.BackgroundError)
    # COCO's thresholds are i * 0.01, where tidecv has i / 100
    monkeypatch.setattr(module, "RECALLS", np.arange(101) / 100)
    types = dict(zip(ERRORS, (*types, kinds.MissedError), strict=True))
    anything = sizes.Qualifier("", lambda each: True)
    yield SimpleNamespace(Data=data.Data, Run=quantify.TIDERun, types=types, sizes=sizes.AREA, anything=anything)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tidecv"]:
        del sys.modules[name]


def run_of(tidecv: SimpleNamespace, ground_truth: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    objects, found = tidecv.Data("truth", max_dets=10**6), tidecv.Data("found", max_dets=10**6)
    for image in ground_truth["images"]:
        objects.add_image(image["id"], str(image["id"]))
    for each in ground_truth["annotations"]:
        add = objects.add_ignore_region if each["iscrowd"] else objects.add_ground_truth
        add(each["image_id"], each["category_id"], box=each["bbox"])
    for each in rows:
        found.add_detection(each["image_id"], each["category_id"], each["score"], box=each["bbox"])
    return tidecv.Run(objects, found, 0.5, 0.1, "bbox", 10**6)


def assert_same(tidecv: SimpleNamespace, ground_truth: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Every detection, object and figure. Classes that have no object or miss all are counted in another way."""
    run, mine = run_of(tidecv, ground_truth, rows), match_errors(ground_truth, rows)
    for error, kind in tidecv.types.items():
        listed = run.error_dict[kind]
        if error == "missed":
            assert sorted(each.gt["_id"] for each in listed) == np.flatnonzero(mine.missed).tolist()
        else:
            ids = sorted(each.pred["_id"] for each in listed if each.pred["used"] is not None)
            assert ids == np.flatnonzero(mine.kinds == KINDS.index(error)).tolist(), error
        for size in (None, *SIZES):
            qualifier = tidecv.anything if size is None else tidecv.sizes[SIZES.index(size)]
            test = (lambda each: True) if qualifier is None else qualifier.test
            after = run.fix_errors(
                lambda each, kind=kind, test=test: (
                    isinstance(each, kind) and test(getattr(each, "gt", None) or each.pred)
                )
            )
            for category, value in mine.average_precision(error, size).items():
                if error != "missed" or after.objs[category].num_gt_positives:
                    assert value == pytest.approx(after.objs[category].get_ap() / 100, abs=1e-9), (error, size)


@pytest.mark.parametrize("seed", range(6))
def test_generated_cases_are_counted_as_tidecv_does(tidecv: SimpleNamespace, seed: int) -> None:
    ground_truth, rows = distinct(seed)
    assert_same(tidecv, ground_truth, rows)
    run = run_of(tidecv, ground_truth, rows)
    split = error_split(ground_truth, rows, {"a": 1, "b": 2, "c": 3})
    for error, value in run.fix_main_errors().items():
        name = next(name for name, kind in tidecv.types.items() if kind is error)
        assert split[name] == pytest.approx(value / 100, abs=1e-9), name
        assert split[name] > 0, "the case has errors of each kind"
    for size, qualifier in zip(SIZES, tidecv.sizes, strict=True):
        for error, value in run.fix_main_errors(qual=qualifier).items():
            name = next(name for name, kind in tidecv.types.items() if kind is error)
            assert split["sizes"][size][name] == pytest.approx(value / 100, abs=1e-9), (size, name)


def test_real_predictions_are_counted_as_tidecv_does(tidecv: SimpleNamespace, shared: Path, tmp_path: Path) -> None:
    """YOLOX nano on COCO pictures; moved by a hair, since of equal IoUs COCO takes the last and tidecv the first."""
    arguments = [
        "--weights",
        str(shared / "weights" / "yolox_nano.pth"),
        "--cfg",
        "yolox-nano.yaml",
        "--img-size",
        "256",
    ]
    arguments += ["--workers", "0", "--save-json", "--device", "cpu"]
    data = str(shared / "data" / "coco_tiny" / "data.yaml")
    assert val.main([*arguments, "--data", data, "--project", str(tmp_path)]) == 0
    contents = [json.loads((tmp_path / "exp" / f"{name}.json").read_text()) for name in ("ground_truth", "predictions")]
    ground_truth, rows = contents
    assert len(rows) > 1000
    rng = np.random.default_rng(0)
    for each in (*ground_truth["annotations"], *rows):
        each["bbox"] = (np.array(each["bbox"]) + rng.uniform(0, 1e-3, 4)).tolist()
    for each in ground_truth["annotations"]:
        each["area"] = each["bbox"][2] * each["bbox"][3]  # tidecv knows no other
    scores = np.array([row["score"] for row in rows]) + rng.uniform(0, 1e-7, len(rows))
    assert_same(tidecv, ground_truth, [{**row, "score": float(s)} for row, s in zip(rows, scores, strict=True)])
