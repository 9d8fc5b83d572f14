"""What detect.py leaves on disk: names that never collide, rows and JSON to the number, errors that surface."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.media.find import Media
from data.media.recorder import Outputs, Recorder, json_entries, yolo_rows
from data.media.sources import Frame
from data.media.video import VideoReader
from utils.structures import Detections

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

NAMES = ("cat", "dog/wolf", "грузовик")
EVERYTHING = Outputs(drawings=True, txt=True, json=True, crops=True)


def found(*boxes: tuple[float, float, float, float], labels: tuple[int, ...] = ()) -> Detections:
    labels = labels or (0,) * len(boxes)
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), scores, np.array(labels, np.int64))


def image_frame(source: str, name: str | None = None, value: int = 50) -> Frame:
    media = Media(source, name or Path(source).name, "image", source)
    return Frame(np.full((40, 60, 3), value, np.uint8), 0, 0.0, media)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_nothing_recorded_leaves_an_empty_list(tmp_path: Path) -> None:
    with Recorder(tmp_path, NAMES, EVERYTHING):
        pass
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert files(tmp_path) == ["detections.json"]
    assert not Outputs(drawings=False).any


def test_an_image_without_detections_is_written_too(tmp_path: Path) -> None:
    frame = image_frame("a/photo.png")
    with Recorder(tmp_path, NAMES, EVERYTHING) as recorder:
        recorder.put(frame, found())
    assert files(tmp_path) == ["detections.json", "labels/photo.txt", "photo.png"]
    assert (tmp_path / "labels" / "photo.txt").read_text() == ""
    assert np.array_equal(np.asarray(Image.open(tmp_path / "photo.png")), frame.image)


def test_equal_names_from_different_folders_are_kept_apart(tmp_path: Path) -> None:
    frames = [image_frame("a/x.png"), image_frame("b/x.png"), image_frame("c/X.PNG"), image_frame("d/x.jpg")]
    with Recorder(tmp_path, NAMES, EVERYTHING) as recorder:
        for frame in frames:
            recorder.put(frame, found((1, 2, 30, 20)))
    names = files(tmp_path)
    assert [name for name in names if "/" not in name] == ["X-3.PNG", "detections.json", "x-2.png", "x.jpg", "x.png"]
    assert len([name for name in names if name.startswith("labels/")]) == 4
    assert len([name for name in names if name.startswith("crops/cat/")]) == 4
    assert len({name.casefold() for name in names}) == len(names)
    entries = json.loads((tmp_path / "detections.json").read_text())
    assert [entry["source"] for entry in entries] == ["a/x.png", "b/x.png", "c/X.PNG", "d/x.jpg"]


@pytest.mark.parametrize("announced", [True, False])
def test_labels_and_crops_of_equal_stems_name_their_picture(tmp_path: Path, announced: bool) -> None:
    frames = [image_frame(name) for name in ("a/x.jpg", "a/x.png", "a/X.webp", "a/x.gif", "a/y.png", "b/x.png")]
    media = [frame.media for frame in frames] if announced else []
    outputs = Outputs(drawings=True, txt=True, crops=True)
    with Recorder(tmp_path, NAMES, outputs, media=media) as recorder:
        for frame in frames:
            recorder.put(frame, found((1, 2, 30, 20)))
    stems = ["x.jpg" if announced else "x", "x.png", "X.webp", "x.gif", "y", "x-2.png"]
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {f"{stem}.txt" for stem in stems}
    assert {path.name for path in (tmp_path / "crops" / "cat").iterdir()} == {f"{stem}_1.jpg" for stem in stems}
    drawings = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert drawings == {"x.jpg", "x.png", "X.webp", "x.gif.png", "y.png", "x-2.png"}


def test_a_picture_under_another_name_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Recorder(tmp_path, NAMES, Outputs(drawings=False, txt=True)) as recorder:
        for name in ("a/x.png", "b/x.png"):
            recorder.put(image_frame(name), found())
    assert [record.getMessage() for record in caplog.records] == ["b/x.png: written as x-2.png"]
    assert files(tmp_path) == ["labels/x-2.txt", "labels/x.txt"]


def test_drawings_keep_their_format_and_gif_becomes_png(tmp_path: Path) -> None:
    suffixes = ("jpg", "jpeg", "png", "bmp", "webp", "tif", "gif", "pgm")
    with Recorder(tmp_path, NAMES, Outputs()) as recorder:
        for suffix in suffixes:
            recorder.put(image_frame(f"{suffix}_image.{suffix}"), found((5, 5, 50, 30)))
    assert set(files(tmp_path)) == {f"{s}_image.{'png' if s in ('gif', 'pgm') else s}" for s in suffixes}
    for path in tmp_path.iterdir():
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert pixels.shape == (40, 60, 3)
        assert pixels[29, 30, 0] > 110  # the box in the red of class 0, one pixel wide
        assert np.abs(pixels[36, 56] - 50).max() < 12


def test_yolo_rows_are_fractions_of_the_image() -> None:
    detections = found((0.0, 0.0, 60.0, 40.0), (15.0, 10.0, 45.0, 20.0), labels=(2, 0))
    rows = ["2 0.500000 0.500000 1.000000 1.000000", "0 0.500000 0.375000 0.500000 0.250000"]
    assert yolo_rows(detections, (40, 60), confidence=False) == rows
    assert yolo_rows(detections, (40, 60), confidence=True) == [f"{rows[0]} 0.900000", f"{rows[1]} 0.500000"]
    assert yolo_rows(found(), (40, 60), confidence=True) == []


def test_json_entries_have_the_promised_keys() -> None:
    (entry,) = json_entries(image_frame("a/ü.jpg"), found((1.25, 2.5, 30.0, 20.0), labels=(2,)), NAMES)
    assert list(entry) == ["source", "frame", "class", "name", "score", "box"]
    assert entry == {
        "source": "a/ü.jpg",
        "frame": 0,
        "class": 2,
        "name": "грузовик",
        "score": 0.9,
        "box": [1.25, 2.5, 30, 20],
    }


def test_crops_are_cut_from_the_image_without_drawing(tmp_path: Path) -> None:
    frame = image_frame("x.jpg", value=130)
    detections = found((-5.0, 10.4, 20.2, 30.0), (50.0, 30.0, 90.0, 90.0), (10.0, 10.0, 10.0, 30.0), labels=(1, 2, 0))
    with Recorder(tmp_path, NAMES, Outputs(drawings=False, crops=True)) as recorder:
        recorder.put(frame, detections)
    assert files(tmp_path) == ["crops/dog_wolf/x_1.jpg", "crops/грузовик/x_2.jpg"]
    sizes = [Image.open(tmp_path / name).size for name in files(tmp_path)]
    assert sizes == [(21, 20), (10, 10)]
    assert np.abs(np.asarray(Image.open(tmp_path / files(tmp_path)[0])).astype(int) - 130).max() <= 3


def test_videos_with_equal_names_and_their_frames(tmp_path: Path) -> None:
    with Recorder(tmp_path, NAMES, EVERYTHING) as recorder:
        for folder, count in (("a", 3), ("b", 2)):
            media = Media(f"{folder}/v.avi", "v.mp4", "video", f"{folder}/v.avi", Fraction(25, 2))
            for index in range(count):
                frame = Frame(np.full((33, 47, 3), 80, np.uint8), index, index * 0.08, media)
                recorder.put(frame, found((2, 3, 20, 20)) if index == 1 else found())
    labels = [f"labels/v-2_{i:06d}.txt" for i in range(2)] + [f"labels/v_{i:06d}.txt" for i in range(3)]
    crops = ["crops/cat/v-2_000001_1.jpg", "crops/cat/v_000001_1.jpg"]
    assert files(tmp_path) == [*crops, "detections.json", *labels, "v-2.mp4", "v.mp4"]
    for name, count in (("v.mp4", 3), ("v-2.mp4", 2)):
        reader = VideoReader(str(tmp_path / name))
        assert (reader.frames, reader.fps) == (count, Fraction(25, 2))
        reader.close()
    frames = [(entry["source"], entry["frame"]) for entry in json.loads((tmp_path / "detections.json").read_text())]
    assert frames == [("a/v.avi", 1), ("b/v.avi", 1)]


@pytest.mark.parametrize("video_first", [True, False])
def test_a_frame_and_an_image_of_its_name_keep_their_own_files(tmp_path: Path, video_first: bool) -> None:
    media = Media("v.avi", "v.mp4", "video", "v.avi", Fraction(25, 2))
    video = [(Frame(np.full((32, 48, 3), 80, np.uint8), i, i * 0.08, media), found((2, 3, 20, 20))) for i in range(2)]
    image = [(image_frame("v_000001.jpg"), found((1, 1, 9, 9), (2, 2, 9, 9)))]
    with Recorder(tmp_path, NAMES, EVERYTHING) as recorder:
        for frame, detections in [*video, *image] if video_first else [*image, *video]:
            recorder.put(frame, detections)
        assert len(recorder._taken) < 6, "the frames of a stream have no end"
    of_image, of_frame = ("v_000001-2", "v_000001") if video_first else ("v_000001", "v_000001-2")
    assert len((tmp_path / "labels" / f"{of_image}.txt").read_text().splitlines()) == 2
    assert len((tmp_path / "labels" / f"{of_frame}.txt").read_text().splitlines()) == 1
    assert len([name for name in files(tmp_path) if name.startswith("crops/cat/v_000001")]) == 3


def test_what_cannot_be_written_is_raised_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a file where a folder is needed")

    def record() -> None:
        with Recorder(tmp_path, NAMES, Outputs(drawings=False, txt=True)) as recorder:
            for number in range(100):
                recorder.put(image_frame(f"{number}.jpg"), found())

    with pytest.raises(OSError, match="labels"):
        record()


@pytest.mark.skipif(resource is None, reason="this system has no limits of file sizes")
@pytest.mark.parametrize("room", [5, 1000])
@pytest.mark.parametrize("name", ["detections.json", "detections.jsonl"])
def test_a_frame_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path, name: str, room: int) -> None:
    outputs = Outputs(drawings=False, json=name.endswith("json"), jsonl=name.endswith("jsonl"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def record() -> None:
        with Recorder(tmp_path, NAMES, outputs) as recorder:
            for index in range(1000):
                recorder.put(replace(image_frame("a.png"), index=index), found((1, 2, 3, 4)))

    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match=rf"{name}: cannot be written \(File too large\)"):
            record()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    text = (tmp_path / name).read_text()
    entries = [json.loads(line) for line in text.splitlines()] if name.endswith("jsonl") else json.loads(text)
    assert [entry["frame"] for entry in entries] == list(range(len(entries)))
    assert bool(entries) == (room > 500)


def test_an_error_of_the_caller_is_not_hidden_and_files_are_whole(tmp_path: Path) -> None:
    def record() -> None:
        with Recorder(tmp_path, NAMES, EVERYTHING) as recorder:
            recorder.put(image_frame("a.jpg"), found((1, 2, 30, 20)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record()
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 1
