"""The embedded data set on disk: whole or not at all, whatever cuts it off or draws beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from data import shapes
from data.config import load_data_config
from data.drawing.figures import NAMES
from data.images import image_size
from data.read import read_split
from data.shapes import COUNTS, DIGEST, ensure_shapes, set_digest
from utils.config import ROOT, ConfigError

SMALL = {"train": 5, "val": 3}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of eight images."""
    monkeypatch.setattr(shapes, "COUNTS", SMALL)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_in_the_way_of_writing(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file, no folder")
    with pytest.raises(ConfigError, match=r"cannot be drawn into .*make the folder writable"):
        ensure_shapes(tmp_path)


@pytest.mark.usefixtures("small")
def test_files_of_a_set(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = ensure_shapes(tmp_path)
    assert path == tmp_path / "runs" / "data" / "shapes" / "data.yaml"
    assert len(list((path.parent / "images" / "train").iterdir())) == SMALL["train"]
    assert capfd.readouterr().err.startswith("Drawing the embedded data set 'shapes' (8 images) into ")
    assert not list(path.parent.parent.glob(".shapes-*"))
    written = {name: (path.parent / name).stat().st_mtime_ns for name in _files(path.parent)}
    assert ensure_shapes(tmp_path) == path
    assert {name: (path.parent / name).stat().st_mtime_ns for name in _files(path.parent)} == written
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("small")
def test_annotations_load(tmp_path: Path) -> None:
    folder = ensure_shapes(tmp_path).parent
    ids = set()
    for split, count in SMALL.items():
        coco = COCO(str(folder / "annotations" / f"instances_{split}.json"))
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(NAMES)
        assert len(coco.getImgIds()) == count
        ids |= set(coco.getImgIds())
        for image in coco.loadImgs(coco.getImgIds()):
            assert image_size(folder / "images" / image["file_name"]) == (image["height"], image["width"])
            for entry in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
                x, y, w, h = entry["bbox"]
                assert 0 <= x < x + w <= image["width"]
                assert 0 <= y < y + h <= image["height"]
                assert 0 < entry["area"] <= w * h
    assert len(ids) == sum(SMALL.values())


@pytest.mark.usefixtures("small")
def test_the_project_reads_it(tmp_path: Path) -> None:
    path = ensure_shapes(tmp_path)
    images = read_split(load_data_config(str(path)), "train")
    assert list(images.names) == list(NAMES)
    assert len(images.samples) == SMALL["train"]
    assert not images.problems
    entries = json.loads((path.parent / "annotations" / "instances_train.json").read_text())["annotations"]
    assert sum(len(sample.labels) for sample in images.samples) == len(entries)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["image", "annotations", "marker", "version", "folder"])
def test_a_damaged_or_old_set_is_drawn_anew(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_shapes(tmp_path).parent
    digest = set_digest(folder)
    if damage == "image":
        (folder / "images" / "val" / "000007.jpg").unlink()
    elif damage == "annotations":
        (folder / "annotations" / "instances_val.json").unlink()
    elif damage == "marker":
        (folder / "complete.txt").write_bytes(b"\xff")
    elif damage == "version":
        monkeypatch.setattr(shapes, "VERSION", shapes.VERSION + 1)
        (folder / "extra.txt").write_text("of the old version")
    else:
        for name in _files(folder):
            (folder / name).unlink()
    ensure_shapes(tmp_path)
    assert not (folder / "extra.txt").exists()
    assert damage == "version" or set_digest(folder) == digest


@pytest.mark.usefixtures("small")
def test_a_cut_off_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "_write_annotations", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ensure_shapes(tmp_path)
    assert _files(tmp_path / "runs" / "data") in ([], [".shapes.lock"])
    (tmp_path / "runs" / "data" / ".shapes-killed" / "set").mkdir(parents=True)  # what a killed process leaves
    ensure_shapes(tmp_path)
    assert not (tmp_path / "runs" / "data" / ".shapes-killed").exists() or os.name == "nt"


@pytest.mark.usefixtures("small")
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shapes, "_draw_image", refuse)
    with pytest.raises(ConfigError, match="No space left on device"):
        ensure_shapes(tmp_path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("lock", [True, False])
def test_two_processes_at_once(tmp_path: Path, lock: bool) -> None:
    """With a lock one draws and one waits; without one both draw, and either's set is whole."""
    script = f"""
import contextlib, pathlib
from data import shapes
shapes.COUNTS = {SMALL}
if not {lock}:
    shapes._one_at_a_time = lambda path: contextlib.nullcontext(False)
print(shapes.ensure_shapes(pathlib.Path({str(tmp_path)!r})))
"""
    command = [sys.executable, "-c", script]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    folder = tmp_path / "runs" / "data" / "shapes"
    assert {out.strip() for out, _ in results} == {str(folder / "data.yaml")}
    assert set_digest(folder) == set_digest(ensure_shapes(tmp_path / "alone").parent)
    assert (folder / "complete.txt").exists()
    assert not list(folder.parent.glob(".shapes-*"))
    if lock and os.name == "posix":
        assert sum("Drawing" in err for _, err in results) == 1


@pytest.mark.slow
def test_digest_of_the_whole_set(tmp_path: Path) -> None:
    folder = ensure_shapes(tmp_path).parent
    assert set_digest(folder) == DIGEST
    entries = json.loads((folder / "annotations" / "instances_train.json").read_text())
    counts = [0] * len(NAMES)
    for entry in entries["annotations"]:
        counts[entry["category_id"] - 1] += 1
    assert min(counts) > 0.8 * max(counts)
    used = {entry["image_id"] for entry in entries["annotations"]}
    assert 0.03 < 1 - len(used) / COUNTS["train"] < 0.07
