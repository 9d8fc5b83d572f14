"""The doctor: a clean set is clean, every planted fault is named, and a mended set has none."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from data.config import DataConfig, load_data_config, read_data_config
from data.doctor.__main__ import EXIT_STATUS, fix, main
from data.doctor.examine import examine
from data.doctor.report import count, to_text
from data.read import read_split
from tests.data.tiny_sets import annotation, make_coco, make_config, make_image, make_voc, make_yolo, read, voc_object
from utils.config import ConfigError
from utils.text import to_json

GOOD = [annotation(1, [10, 5, 20, 10.5]), annotation(2, [1, 2, 30, 20], image=3, category=5)]
GOOD += [annotation(3, [1, 2, 9, 9], image=3, category=9)]


def findings(config: DataConfig) -> list[str]:
    return [str(finding) for finding in examine(config)[0].findings]


def test_no_objects(tmp_path: Path) -> None:
    config = make_coco(tmp_path, [])
    facts = count(read(config))
    assert (facts.images, facts.objects, facts.background) == (2, 0, 2)
    assert facts.sizes == {"small": 0, "medium": 0, "large": 0}
    assert main([str(config.source)]) == 0


def test_clean_sets_are_clean(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = make_coco(tmp_path, GOOD)
    assert main([str(config.source), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "clean"
    assert report["findings"] == []
    assert report["splits"]["val"]["classes"]["cat"] == {"objects": 1, "images": 1}
    assert report["splits"]["val"]["sizes"] == {"small": 3, "medium": 0, "large": 0}


def test_many_findings_are_listed_as_few_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """They are packed while the set is examined, and written one by one."""
    rows = [annotation(number, [number % 40, 5, 30 + number / 100, 20]) for number in range(1, 701)]
    config = make_coco(tmp_path, rows)
    report, _ = examine(config)
    assert len(report.findings) > 700
    assert sum(len(each.findings) for each in report.grouped()) == len(report.findings)
    level = logging.getLogger().level
    assert main([str(config.source), "--json"]) == EXIT_STATUS[report.status]
    assert logging.getLogger().level == level, "for who called this"
    assert capsys.readouterr().out == to_json(report.as_dict(), indent=1) + "\n"
    main([str(config.source), "--all"])
    listed = capsys.readouterr().out
    assert to_text(report, everything=True) in listed
    assert listed.count("sticks out of the 60x40 image") == sum("sticks out" in each.what for each in report.findings)


def test_shared_data_is_clean(shared: Path) -> None:
    report, splits = examine(load_data_config(str(shared / "data" / "coco_tiny" / "data.yaml")))
    assert report.status == "clean"
    assert report.splits["train"].objects == 699  # README: 699 and 804 boxes, 6 and 11 crowd regions
    assert report.splits["val"].objects == 804
    assert [report.splits[split].crowd for split in splits] == [6, 11]


def test_faults_of_images(tmp_path: Path) -> None:
    config = make_coco(tmp_path, GOOD)
    path = tmp_path / "images" / "b.png"
    path.write_bytes(path.read_bytes()[:2000])
    (found,) = (line for line in findings(config) if "b.png" in line)
    assert re.match(r"error: val: .*b\.png: cannot be decoded \(image file is truncated.*; left out", found)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(path, exif=exif)
    (found,) = (line for line in findings(config) if "b.png" in line)
    assert "the labels are for 60x40, the upright image is 40x60: were the boxes drawn without the EXIF" in found
    make_image(path, 41, 60)
    (found,) = (line for line in findings(config) if "b.png" in line)
    assert "the labels are for 60x40, the upright image is 60x41; left out" in found


def test_faults_of_labels(tmp_path: Path) -> None:
    rows = [
        "0 0.5 0.5 0.5 0.5",
        "1 0.5 0.5 0.5 0.5",
        "0 0.5 0.5 0.52 0.52",
        "0 0.5 0.5 0.5 0.499",
        "2 0.2 0.2 0.01 0.2",
        "7 0.2 0.2 0.2 0.2",
        "0 1 0.2 0.2 0.2",
    ]
    found = findings(make_yolo(tmp_path, {"a": "\n".join(rows), "b": None}, options="unreadable: object"))
    label = tmp_path / "labels" / "a.txt"
    for line in (
        f"warning: val: {label}:2: the 'dog' box is a 'cat' box too, at {label}:1; kept",
        f"note: val: {label}:3: the 'cat' box overlaps the one at {label}:1 with IoU 0.92: one object labelled twice?",
        f"warning: val: {label}:4: the 'cat' box overlaps the one at {label}:1 with IoU 1.00: one object labelled",
        f"warning: val: {label}:5: the 'owl' box [11.7, 4, 12.3, 12] is only 0.6 x 8 px; kept",
        f"error: val: {label}:6: class 7 is out of range; the data set has 3 classes, from 0; left out",
        f"warning: val: {label}:7: box [54, 4, 66, 12] (x1, y1, x2, y2) sticks out of the 60x40 image by 6 px; clipped",
        f"warning: val: {label.parent}: 1 of 2 images have no label file (the first: b.png); kept as images without",
    ):
        assert any(one.startswith(line) for one in found), line


def test_faults_between_splits(tmp_path: Path) -> None:
    for name, seed in (("train/a.png", 1), ("train/b.png", 1), ("val/c.png", 1), ("val/d.png", 2)):
        make_image(tmp_path / "images" / name, seed=seed)
        label = (tmp_path / "labels" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.5 0.5\n")
    config = make_config(tmp_path, "train: images/train\nval: images/val\nnames: [cat, dog]")
    found = findings(config)
    images = tmp_path / "images"
    assert f"warning: train: {config.source}: 1 of 2 classes have no object: dog; kept" in found
    same = f"the same picture as {images}/train/a.png in train"
    assert f"warning: train: {images}/train/b.png: {same}; kept" in found
    assert f"warning: val: {images}/val/c.png: {same}, so the measured accuracy is too good; kept" in found
    assert not any("d.png" in line for line in found)


def test_splits_that_do_not_belong_together(tmp_path: Path) -> None:
    make_coco(tmp_path, GOOD)
    other = json.loads((tmp_path / "val.json").read_text())
    other["categories"][0]["id"] = 10
    (tmp_path / "train.json").write_text(json.dumps(other))
    found = findings(make_config(tmp_path, "train: train.json\nval: val.json\ntest: gone.json"))
    assert any("and other ids ('owl': 9 for 10); matched by name" in line for line in found)
    assert any(re.match(r"warning: test: .*gone\.json; the split cannot be used", line) for line in found)


def test_annotation_zero_is_named(tmp_path: Path) -> None:
    found = findings(make_coco(tmp_path, [*GOOD, annotation(0, [3, 3, 9, 9])]))
    assert any("annotation 0: pycocotools takes a match with id 0 for none" in line for line in found)


class Balance(HTMLParser):
    """Checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        sources = [value for name, value in attrs if name in ("src", "href")]
        assert all(value and value.startswith("data:image/") for value in sources)  # nothing outside the file

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("faulty", [False, True])
def test_html_is_one_sound_file(tmp_path: Path, faulty: bool) -> None:
    entries = [*GOOD, annotation(9, "<script>")] if faulty else GOOD
    config = make_coco(tmp_path, entries)
    assert main([str(config.source), "--html", str(tmp_path / "new" / "report.html")]) == (2 if faulty else 0)
    page = (tmp_path / "new" / "report.html").read_text()
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert "<script>" not in page
    assert ("&lt;script&gt;" in page) is faulty


def make_faulty(folder: Path, form: str, options: str = "unreadable: object") -> DataConfig:
    if form == "coco":
        bad = [annotation(4, [50, 5, 20, 10], area=150.0, segmentation=[[1, 2]]), annotation(5, [1, 1, 0, 1])]
        return make_coco(folder, [*GOOD, *bad, annotation(6, "x"), annotation(7, [10, 5, 20, 10.5])], options=options)
    if form == "yolo":
        rows = "0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5\n1 1 0.5 0.5 0.5\n5 5 5 5 5\n"
        return make_yolo(
            folder, {"a": rows, "b": b"\xff", "c": "1 0.5 0.5 0.5 0.5\n2 0.2 0.2 0.1 0.1"}, options=options
        )
    objects = voc_object("cat", (1, 1, 70, 40)) + voc_object("cow", (1, 1, 5, 5)) + voc_object("dog", (9, 9, 20, 20))
    return make_voc(folder, {"a": objects, "b": "<", "c": voc_object("owl", (2, 2, 40, 40))}, options=options)


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_fix_leaves_no_fault(tmp_path: Path, form: str, capsys: pytest.CaptureFixture) -> None:
    config = make_faulty(tmp_path / "set", form)
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "set").rglob("*.*") if path.is_file())
    assert main([str(config.source), "--fix", str(tmp_path / "fixed")]) == 2
    assert "error: val: " in capsys.readouterr().out
    assert main([str(tmp_path / "fixed" / "data.yaml")]) == 0
    assert before == sorted((path, path.read_bytes()) for path in (tmp_path / "set").rglob("*.*") if path.is_file())
    first, second = read(config), read_split(read_data_config(tmp_path / "fixed" / "data.yaml"), "val")
    assert [sample.path.name for sample in first.samples] == [sample.path.name for sample in second.samples]
    for one, other in zip(first.samples, second.samples, strict=True):
        assert one.boxes == pytest.approx(other.boxes, abs=1e-9)
        assert one.labels.tolist() == other.labels.tolist()


def test_fix_keeps_what_coco_holds(tmp_path: Path) -> None:
    config = make_faulty(tmp_path / "set", "coco")
    fix(config, examine(config)[1], tmp_path / "fixed")
    content = json.loads((tmp_path / "fixed" / "annotations" / "instances_val.json").read_text())
    assert content["info"] == {"year": 2024}
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 4]
    clipped = content["annotations"][3]
    assert (clipped["bbox"], clipped["area"], clipped["segmentation"]) == ([50, 5, 10, 10], 100, [[1, 2]])


def test_wrong_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: data set ")
    config = make_coco(tmp_path, GOOD)
    assert main([str(config.source), "--fix", str(tmp_path)]) == 2
    assert "exists and is not empty; name a new folder" in capsys.readouterr().err
    (tmp_path / "val.json").write_text("[]")
    with pytest.raises(ConfigError, match="no split can be used"):
        fix(config, examine(config)[1], tmp_path / "fixed")
    assert EXIT_STATUS == {"clean": 0, "warnings": 1, "errors": 2}  # docs/reference.md
