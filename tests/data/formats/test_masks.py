"""Outlines without boxes, and masks that are called crowds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks

from data.convert import main as convert
from data.doctor.examine import examine
from data.formats.masks import outline_box
from data.read import count_objects, read_splits
from tests.data.tiny_sets import HEIGHT, WIDTH, annotation, make_coco, make_config, read, said


def rle(pixels: np.ndarray, *, text: bool) -> dict[str, Any]:
    """COCO's run lengths of an (H, W) mask, by pycocotools, or as a list."""
    if text:
        coded = masks.encode(np.asfortranarray(pixels.astype(np.uint8)))
        return {"size": list(pixels.shape), "counts": coded["counts"].decode()}
    flat = np.concatenate(([False], pixels.ravel(order="F"), [False]))
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    edges = np.concatenate(([0], ends, [pixels.size]))
    return {"size": list(pixels.shape), "counts": np.diff(edges).tolist()}


@pytest.mark.parametrize("text", [False, True])
def test_box_of_run_lengths_is_that_of_pycocotools(text: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        pixels = rng.random((int(rng.integers(1, 60)), int(rng.integers(1, 60)))) < rng.choice([0.002, 0.05, 0.5, 1])
        coded = masks.encode(np.asfortranarray(pixels.astype(np.uint8)))
        expected = masks.toBbox(coded).tolist()
        assert outline_box(rle(pixels, text=text)) == (expected if expected[2] else None)


@pytest.mark.parametrize(
    "segmentation",
    [
        None, [], [[]], {}, "x", [1, 2], [[1, 2, 3]], [[1, 2]], [[1, 2, 1, 5]], [["a", 2, 3, 4]],
        [[1, 2, float("nan"), 4]],
        [[10**400, 2, 3, 4]], [[True, 2, 3, 4]], {"size": [2, 2], "counts": [1, 9]}, {"size": [2], "counts": [1, 3]},
        {"size": [2, 2], "counts": [-1, 5]}, {"size": [2, 2], "counts": "é"}, {"size": [2, 2], "counts": "oooooooooo"},
        {"size": [0, 0], "counts": [0]}, {"size": [2, 2], "counts": [4]}, {"size": [2, 2], "counts": ""},
    ],
)  # fmt: skip
def test_no_outline(segmentation: Any) -> None:
    assert outline_box(segmentation) is None


def test_outlines_give_the_boxes(tmp_path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[5:9, 20:31] = True
    two = [[1, 2, 9, 2, 9, 6.5], [12, 4, 14, 4, 14, 8]]
    entries = [
        annotation(1, None, segmentation=two, area=None),
        annotation(2, None, segmentation=rle(pixels, text=True), category=5),
        annotation(3, [0, 0, 0, 0], segmentation=[[1, 1, 5, 1, 5, 7]], category=5),
        annotation(4, ["x", 1, 2, 3], segmentation=rle(pixels, text=False), category=9),
        annotation(5, [9, 9, 3, 3], segmentation=[["nonsense"]], image=3),
    ]
    data = read(make_coco(tmp_path, entries))
    expected = [[1, 2, 14, 8], [20, 5, 31, 9], [1, 1, 5, 7], [20, 5, 31, 9]]
    assert data.samples[0].boxes.tolist() == expected
    truth = data.ground_truth["annotations"]
    assert [entry["bbox"] for entry in truth] == [
        [1, 2, 13, 6],
        [20, 5, 11, 4],
        [1, 1, 4, 6],
        [20, 5, 11, 4],
        [9, 9, 3, 3],
    ]
    assert truth[0]["area"] == 78
    for line in (
        "annotation 1: 2 annotations (this is the first) have an outline and no bbox; read as their boxes",
        "annotation 3: bbox is [0, 0, 0, 0], the box of its outline is taken; repaired",
        'annotation 4: bbox is ["x", 1, 2, 3], the box of its outline is taken; repaired',
    ):
        assert line in said(data)
    assert len(data.problems) == 4


def crowded(folder: Path, *, cats: int, dogs: int) -> Any:
    """One image with two cats, crowds of cats, and crowds of dogs."""
    boxes = [annotation(number, [number, 1, 9, 9]) for number in (1, 2)]
    crowd = [annotation(10 + number, [number, 2, 9, 9], iscrowd=1) for number in range(cats)]
    return make_coco(
        folder, [*boxes, *crowd, *(annotation(50 + n, [n, 3, 9, 9], category=5, iscrowd=1) for n in range(dogs))]
    )


def test_crowds_are_counted_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = crowded(tmp_path, cats=3, dogs=0)
    data = read(config)
    assert count_objects(data) == "2 boxes and 3 crowd regions"
    splits = read_splits(str(make_config(tmp_path, "train: val.json\nval: val.json").source))
    assert splits.counts() == "2 training images with 2 boxes and 3 crowd regions, 2 validation images"
    assert convert([str(config.source), str(tmp_path / "to"), "--to", "voc"]) == 0
    assert "val: 2 images, 2 objects and 3 crowd regions, 3 classes" in capsys.readouterr().out
    assert examine(config)[0].splits["val"].crowd == 3


def test_a_set_and_a_class_of_crowds_are_named(tmp_path: Path) -> None:
    assert "crowd" not in said(read(crowded(tmp_path / "a", cats=2, dogs=0)))
    most = said(read(crowded(tmp_path / "b", cats=3, dogs=0)))
    assert (
        "annotation 10: 3 of 5 boxes are crowd regions (this is the first), nothing to learn or find; if they are"
        in most
    )
    both = said(read(crowded(tmp_path / "c", cats=0, dogs=2)))
    assert "annotation 50: all boxes of 'dog' (2) are crowd regions, nothing to learn" in both
    assert "of 4 boxes" not in both
    report, _ = examine(crowded(tmp_path / "d", cats=1, dogs=4))
    assert sum("crowd" in finding.what for finding in report.findings if finding.severity == "warning") == 2
