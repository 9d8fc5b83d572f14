"""Faults planted in copies of real sets are found, each by a finding that names it; so is what a model disputes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.config import load_data_config
from data.doctor.__main__ import main
from data.doctor.examine import examine
from data.doctor.page import to_html
from data.doctor.report import Report, to_text
from tests.data.tiny_sets import make_config, make_image


def copied(shared: Path, name: str, folder: Path) -> Path:
    """A copy of a shared set that can be changed."""
    source = shared / "data" / name
    if not source.is_dir():
        pytest.skip(f"no set {name}")
    target = folder / name
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(source))
    return target


def kinds(report: Report) -> dict[tuple[str, str], int]:
    """Split and kind -> number of findings."""
    sums: dict[tuple[str, str], int] = {}
    for each in report.grouped():
        sums[each.split, each.title] = sums.get((each.split, each.title), 0) + len(each.findings)
    return sums


def plant_in_chess(root: Path) -> dict[tuple[str, str], str]:
    """Spoil a copy of chess in YOLO form; returns split and kind -> what its finding names."""
    images, labels = root / "images", root / "labels"
    train = [Path(line).stem for line in (root / "train.txt").read_text().split()]
    val = [Path(line).stem for line in (root / "val.txt").read_text().split()]
    planted: dict[tuple[str, str], str] = {}
    rows = {
        "class number that the set has not": "13 0.5 0.5 0.1 0.1",
        "box without area": "1 0.5 0.5 0 0.1",
        "row in pixels instead of fractions": "1 208 208 50 50",
        "box that sticks out of the picture": "1 0.97 0.5 0.2 0.2",
        "box outside the picture": "1 1.5 0.5 0.1 0.1",
        "box of the whole picture": "1 0.5 0.5 1 1",
        "sliver, a box far longer than wide": "1 0.5 0.5 0.9 0.01",
        "tiny box": "1 0.5 0.5 0.003 0.003",
        "row with six numbers": "1 0.5 0.5 0.1 0.1 0.9",
        "row with decimal commas": "1 0,5 0,5 0,1 0,1",
        "box that stands twice": "1 0.3 0.3 0.1 0.1\n1 0.3 0.3 0.1 0.1",
        "object with two classes": "1 0.3 0.3 0.1 0.1\n2 0.3 0.3 0.1 0.1",
        "row that cannot be read": "1 0.5 0.5 0.1",
        "negative width or height": "1 0.5 0.5 -0.1 0.1",
    }
    for stem, (kind, text) in zip(train[: 12 * len(rows) : 12], rows.items(), strict=True):
        file = labels / f"{stem}.txt"
        file.write_text(file.read_text().rstrip("\n") + f"\n{text}\n")
        planted["train", kind] = stem
    first, second, third, fourth, fifth = train[1:6]
    damaged = images / f"{first}.jpg"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    planted["train", "picture that cannot be read"] = first
    Image.new("RGB", (416, 416), (3, 3, 3)).save(images / f"{second}.jpg")
    planted["train", "picture that shows nothing"] = second
    (labels / f"{third}.txt").unlink()
    planted["train", "pictures without a label file"] = third
    twin = next(stem for stem in val[3:] if len((labels / f"{stem}.txt").read_text().splitlines()) > 1)
    (labels / f"{fourth}.txt").write_bytes((labels / f"{twin}.txt").read_bytes())
    planted["val", "label file copied from another picture"] = twin
    shutil.copyfile(images / f"{fifth}.jpg", images / f"{val[0]}.jpg")
    planted["val", "picture of another split"] = val[0]
    Image.open(images / f"{train[7]}.jpg").save(images / f"{val[1]}.jpg", quality=70)
    planted["val", "picture nearly as in another split"] = val[1]
    (labels / "stranger.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    planted["train", "label file without a picture"] = "stranger"
    return planted


def test_faults_in_chess_are_found(shared: Path, tmp_path: Path) -> None:
    root = copied(shared, "chess", tmp_path)
    before = kinds(examine(load_data_config(str(root / "data_yolo.yaml")), truth="none")[0])
    planted = plant_in_chess(root)
    assert len({kind for _, kind in planted}) >= 20
    report, _ = examine(load_data_config(str(root / "data_yolo.yaml")), truth="none")
    after = kinds(report)
    for place, name in planted.items():
        assert after.get(place, 0) == before.get(place, 0) + 1 or place[1].startswith("picture nearly"), place
        assert any(name in f"{finding.where} {finding.what}" for finding in report.findings), place
    lines = to_text(report).split("\n\n")[0].splitlines()
    assert len(lines) == len(report.grouped()) <= 40
    assert all("Remedy: " in line for line in lines)
    assert not any(": see the message" in line for line in lines)


def test_label_files_without_a_picture_are_told_once_where_splits_share_a_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_image(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "labels" / "stranger.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "train.txt").write_text("images/one.png\n")
    (tmp_path / "val.txt").write_text("images/two.png\n")
    config = make_config(tmp_path, "train: train.txt\nval: val.txt\ntest: ../gone\nnames: [cat]\n")
    report, _ = examine(config)
    found = [(each.severity, each.split, Path(each.where).name) for each in report.findings]
    assert found == [("error", "train", "stranger.txt"), ("warning", "test", "data.yaml")]  # test may be left out


def test_a_picture_with_a_thing_moved_is_a_scene_and_not_nearly_the_same(tmp_path: Path) -> None:
    """What the val pictures have in common with those of train: all, the photo, the view."""
    cells = np.random.default_rng(1).integers(20, 230, (6, 8), np.uint8)
    first = Image.fromarray(cells).resize((160, 120), Image.Resampling.BICUBIC).convert("RGB")
    moved = first.copy()
    moved.paste(first.crop((20, 20, 36, 36)), (90, 60))
    for folder in ("train", "val"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "labels" / folder).mkdir(parents=True)
    first.save(tmp_path / "images" / "train" / "first.png")
    first.save(tmp_path / "images" / "val" / "all.png", compress_level=1)
    first.save(tmp_path / "images" / "val" / "photo.jpg", quality=60)
    moved.save(tmp_path / "images" / "val" / "view.png")
    for image in (tmp_path / "images").rglob("*.*"):
        (tmp_path / "labels" / image.parent.name / f"{image.stem}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    config = make_config(tmp_path, "train: images/train\nval: images/val\nnames: [cat]\n")
    report, _ = examine(config)
    found = {Path(each.where).stem: each.what.partition(" as ")[0] for each in report.findings if each.twin}
    assert found == {"all": "the same picture", "photo": "nearly the same picture", "view": "the same scene"}
    page = to_html(report)
    assert page.count("class='pair'") == 3
    assert page.count("data:image/jpeg;base64,") == 6


def plant_in_hit_uav(root: Path) -> dict[tuple[str, str], str]:
    """Spoil a copy of hit_uav_mini in COCO form; returns split and kind -> what its finding names."""
    files = {split: root / "annotations" / f"instances_{split}.json" for split in ("train", "val")}
    content: dict[str, Any] = {split: json.loads(file.read_text()) for split, file in files.items()}
    train, val = content["train"], content["val"]
    number = {entry["name"]: entry["id"] for entry in train["categories"]}
    other, car = number["OtherVehicle"], number["Car"]
    train["annotations"] = [entry for entry in train["annotations"] if entry["category_id"] != other]
    rows = train["annotations"]
    images = {entry["id"]: entry for entry in train["images"]}
    one_each = list({entry["image_id"]: entry for entry in rows}.values())
    chosen = one_each[:: len(one_each) // 20]
    planted = plant_boxes(train, chosen[9:17], images)
    chosen[17]["id"] = chosen[19]["id"]
    damaged = root / "images" / images[chosen[18]["image_id"]]["file_name"]
    damaged.write_bytes(damaged.read_bytes()[:3000])
    chosen[0]["image_id"] = 10**9
    chosen[1]["category_id"] = 77
    chosen[2]["bbox"] = "none"
    chosen[3]["bbox"][2] *= -1
    chosen[4]["iscrowd"] = 3
    swapped, missing, doubled = (images[chosen[index]["image_id"]] for index in (5, 6, 7))
    swapped["width"], swapped["height"] = swapped["height"], swapped["width"]
    (root / "images" / missing["file_name"]).unlink()
    train["images"].append({**doubled, "file_name": train["images"][-1]["file_name"]})
    plain = root / "images" / images[chosen[8]["image_id"]]["file_name"]
    with Image.open(plain) as image:
        Image.new("L", image.size, 128).save(plain)
    crowded = val["images"][10]
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [crowded["width"] - 20, crowded["height"] - 20], (300, 2)).round(1)
    val["annotations"] += [
        {
            **val["annotations"][0],
            "category_id": number["Person"],
            "id": 10**6 + index,
            "image_id": crowded["id"],
            "bbox": [x, y, 15, 17],
            "area": 255,
        }
        for index, (x, y) in enumerate(corners.tolist())
    ]
    cars = [entry for entry in val["annotations"] if entry["category_id"] == car]
    kept = {entry["image_id"] for entry in cars[:3]}
    val["annotations"] = [
        entry for entry in val["annotations"] if entry["category_id"] != car or entry["image_id"] in kept
    ]
    for split, file in files.items():
        file.write_text(json.dumps(content[split]))
    return {
        **planted,
        ("train", "annotation id that cannot be used"): str(chosen[17]["id"]),
        ("train", "picture that cannot be read"): damaged.name,
        ("train", "annotation of no image"): str(chosen[0]["id"]),
        ("train", "annotation of no category"): str(chosen[1]["id"]),
        ("train", "bbox that cannot be read"): str(chosen[2]["id"]),
        ("train", "bbox of negative size"): str(chosen[3]["id"]),
        ("train", "iscrowd that is neither 0 nor 1"): str(chosen[4]["id"]),
        ("train", "picture of another size than its labels say"): swapped["file_name"],
        ("train", "label of a picture that is not there"): missing["file_name"],
        ("train", "image id that stands twice"): doubled["file_name"],
        ("train", "picture that shows nothing"): plain.name,
        ("val", "very crowded picture"): crowded["file_name"],
        ("val", "classes that train has not"): "OtherVehicle",
        ("val", "class with another share than in train"): "Car",
    }


def plant_boxes(
    content: dict[str, Any], rows: list[dict[str, Any]], images: dict[int, dict[str, Any]]
) -> dict[tuple[str, str], str]:
    """Spoil a box in each of eight rows; returns split and kind -> what its finding names."""
    width, height = (images[rows[0]["image_id"]][key] for key in ("width", "height"))
    boxes = {
        "box without area": [20, 20, 0, 9],
        "box outside the picture": [width + 9, 20, 30, 30],
        "box that sticks out of the picture": [width - 20, 20, 40, 30],
        "box of the whole picture": [0, 0, width, height],
        "sliver, a box far longer than wide": [20, 20, 300, 6],
        "tiny box": [20, 20, 1, 12],
    }
    planted = {}
    for row, (kind, box) in zip(rows, boxes.items(), strict=False):
        row["bbox"] = box
        row.pop("segmentation", None)
        planted["train", kind] = str(row["id"]) if "box of" not in kind and "sliver" not in kind else ""
    other = next(entry["id"] for entry in content["categories"] if entry["id"] != rows[7]["category_id"])
    free = max(entry["id"] for entry in content["annotations"]) + 1
    content["annotations"] += [{**rows[6], "id": free}, {**rows[7], "id": free + 1, "category_id": other}]
    planted["train", "box that stands twice"] = str(free)
    planted["train", "object with two classes"] = str(free + 1)
    return planted


def test_faults_in_hit_uav_are_found(shared: Path, tmp_path: Path) -> None:
    root = copied(shared, "hit_uav_mini", tmp_path)
    planted = plant_in_hit_uav(root)
    assert len({kind for _, kind in planted}) >= 20
    config = load_data_config(str(root / "data.yaml"))
    report, _ = examine(config, truth="none")
    after = kinds(report)
    for place, name in planted.items():
        assert after.get(place) == 1, (place, after)
        assert any(name in f"{finding.where} {finding.what}" for finding in report.findings), place


def test_untouched_sets_have_no_findings_but_true_ones(shared: Path) -> None:
    """By eye: cells and a piece labelled twice, pictures where nothing moved, scenes that splits share."""
    nearly, twice, whole = (
        "picture nearly as in another split",
        "pair of boxes on one object",
        "box of the whole picture",
    )
    expected = {
        "chess": {("train", "box that stands twice"): 1, ("val", "classes without an object"): 1,
                  ("test", "classes without an object"): 1, ("val", nearly): 4, ("test", nearly): 2},
        "hit_uav_mini": {},
        "bccd": {("train", twice): 4, ("val", twice): 2, ("test", twice): 1},
        "coco_tiny": {("train", whole): 1, ("val", whole): 3},
    }  # fmt: skip
    for name, wanted in expected.items():
        file = shared / "data" / name / "data_yolo.yaml"
        if not file.is_file():
            pytest.skip(f"no set {name}")
        report, _ = examine(load_data_config(str(file)), truth="none")
        found = {place: count for place, count in kinds(report).items() if place[1] != "scene of another split"}
        assert found == wanted


def test_what_predictions_dispute(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Predictions are the true labels; three labels are spoiled."""
    root = copied(shared, "coco_tiny", tmp_path)
    file = root / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    rows = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    predictions = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.9}
        for row in rows
    ]
    alone = [row for row in rows if sum(other["image_id"] == row["image_id"] for other in rows) == 1]
    overlooked, moved, swapped = alone[:3]
    content["annotations"].remove(overlooked)
    moved["bbox"] = [moved["bbox"][0], moved["bbox"][1], moved["bbox"][2] * 0.6, moved["bbox"][3] * 0.7]
    swapped["category_id"] = next(row["category_id"] for row in rows if row["category_id"] != swapped["category_id"])
    file.write_text(json.dumps(content))
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    options = ["--predictions", str(tmp_path / "predictions.json"), "--html", str(tmp_path / "page.html"), "--json"]
    main([str(root / "data.yaml"), *options])
    report = json.loads(capsys.readouterr().out)
    files = {entry["id"]: entry["file_name"] for entry in content["images"]}
    found = {
        each["kind"]: [Path(one["where"]).name for one in each["examples"]]
        for each in report["kinds"] if "model" in each["kind"]
    }  # fmt: skip
    assert files[overlooked["image_id"]] in found["object without a label, by the model"]
    assert found["box that fits badly, by the model"] == [files[moved["image_id"]]]
    assert files[swapped["image_id"]] in found["class that the model disputes"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 3
    assert "Red: the model's box. Blue: the label's." in page
    assert "Longer side of the objects in pixels, in pictures fitted into 640 x 640" in page


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "expected a list of COCO results"),
        ("[", "not valid JSON"),
        ('[{"image_id": 1}]', "entry 0: expected image_id, category_id, bbox, score"),
        ('[{"image_id": -5, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "none of its 1 predictions is for"),
    ],
)
def test_predictions_that_are_none(
    shared: Path, tmp_path: Path, text: str, told: str, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "p.json").write_text(text)
    data = str(shared / "data" / "coco_tiny" / "data.yaml")
    assert main([data, "--predictions", str(tmp_path / "p.json")]) == 2
    assert told in capsys.readouterr().err
