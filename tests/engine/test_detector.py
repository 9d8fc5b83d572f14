"""load_detector: the results of detect.py for every kind of picture and source, in one thread or several."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detect
from data.images import ORIENTATION, read_image
from data.media.sources import open_source
from engine.detector import Detector, load_detector
from models.config import load_model_config
from models.export.onnx import write_onnx
from models.export.openvino import write_openvino
from models.export.torchscript import write_torchscript
from models.info import ModelInfo, Predictor
from tests.models.export.models import SMALL, small_model, spec_of
from tests.test_detect import NAMES, ColourPredictor, moving, save, save_video, scene
from utils.checkpoint import save_checkpoint
from utils.config import ConfigError, to_plain

BOXES = ((2, 100, 50, 140, 80), (0, 10, 20, 60, 70))


def colours(predictor: Predictor | None = None) -> Detector:
    predictor = predictor or ColourPredictor()
    return Detector(predictor, image_size=predictor.image_size, resize=predictor.resize)


class Classifier(Predictor):
    """Of 7 classes, the brighter the picture, the likelier the last."""

    def __init__(self) -> None:
        info = ModelInfo(tuple("abcdefg"), tuple(range(7)), (32, 32), "crop", stride=32, task="classify")
        super().__init__(info, device="cpu", precision="fp32", runtime="test")

    def predict(self, images: np.ndarray) -> np.ndarray:
        bright = images.reshape(len(images), -1).mean(axis=1, keepdims=True) / 255
        return (bright * np.arange(7)).astype(np.float32)


def test_no_pictures_give_no_results() -> None:
    assert colours()([]) == []
    assert len(colours()(scene(20, 30))) == 0
    assert colours()(scene(20, 30)).names.shape == (0,)


def test_a_path_an_image_an_array_and_a_list_give_the_same(tmp_path: Path) -> None:
    array = scene(90, 150, *BOXES)
    path = save(tmp_path / "x.png", array)
    pictures = [path, str(path), Image.open(path), array, Image.fromarray(array).convert("RGBA")]
    detector = colours()
    first, *others = (detector(picture) for picture in pictures)
    assert first.names.tolist() == ["red", "blue"]
    assert first.class_names == NAMES
    assert first.category_ids == (1, 2, 3)
    assert np.abs(first.boxes[0] - (10, 20, 60, 70)).max() < 2.5
    for batch_size in (1, 2, 9):
        for other in (*others, *detector(pictures, batch_size=batch_size), *detector(tuple(pictures))):
            assert other.to_dicts() == first.to_dicts()


def test_orientation_is_applied_to_files_and_images_and_drawings(tmp_path: Path) -> None:
    upright = scene(90, 150, *BOXES)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "x.png"), upright)
    image = Image.open(tmp_path / "x.png")
    detections = colours()(image)
    assert detections.to_dicts() == colours()(upright).to_dicts() == colours()(tmp_path / "x.png").to_dicts()
    assert np.array_equal(detections.draw(image), detections.draw(upright))


def test_options_are_those_of_the_command() -> None:
    array = scene(90, 150, *BOXES, (1, 70, 10, 95, 40))
    detector = colours()
    assert detector(array, classes=["RED", 2]).names.tolist() == ["red", "blue"]
    assert detector(array, conf=0.75).names.tolist() == ["red", "green"]
    assert detector(array, max_det=1).names.tolist() == ["red"]
    for options, message in (
        ({"classes": ["gren"]}, "Did you mean 'green'"),
        ({"conf": 1.5}, "expected numbers from 0 to 1"),
        ({"nms": "best"}, "'best' is unknown"),
        ({"batch_size": 0}, "batch_size: expected a whole number from 1, found 0"),
    ):
        with pytest.raises(ValueError, match=message):
            detector(array, **options)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.zeros(3, 4, 4), "expected a Pillow image or a NumPy array, found Tensor"),
        (np.zeros((4, 5, 3), np.float32), r"found float32 of shape \(4, 5, 3\).*\(255 \* image\)"),
        ("nosuch.jpg", "nosuch.jpg: no such image file"),
        ("clip.mp4", "clip.mp4: expected an image file; for videos, .* use detector.stream"),
        ("http://localhost/x.jpg", r"detector\.stream\(source\)"),
        (".", r"detector\.stream\(source\)"),
    ],
)
def test_what_is_no_picture_is_refused(picture: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        colours()(picture)


def test_a_video_frame_by_frame(tmp_path: Path) -> None:
    video = save_video(tmp_path / "a.mp4", 7)
    found = list(colours().stream(video))
    assert [(frame.index, frame.source, round(frame.time, 6)) for frame, _ in found] == [
        (index, str(video), round(index * 0.08, 6)) for index in range(7)
    ]
    for index, (frame, detections) in enumerate(found):
        assert frame.image.shape == (90, 150, 3)
        assert np.abs(frame.image.astype(int) - moving(index)).mean() < 12
        assert np.abs(detections.boxes[0] - (10 + 4 * index, 20, 40 + 4 * index, 60)).max() < 3
        assert detections.names.tolist() == ["red"]
    steps = list(colours().stream(str(video), frame_step=3, batch_size=2))
    assert [frame.index for frame, _ in steps] == [0, 3, 6]
    for frame, detections in steps:
        assert detections.to_dicts() == found[frame.index][1].to_dicts()


def test_a_stream_that_is_left_early_ends_its_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    for _ in colours().stream(save_video(tmp_path / "a.mp4")):
        break
    assert threading.active_count() == before


def test_sources_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = colours()
    with pytest.raises(ValueError, match="nosuch: no such file or folder"):
        detector.stream(tmp_path / "nosuch")
    with pytest.raises(ValueError, match="frame_step: expected a whole number from 1, found 0"):
        detector.stream(tmp_path, frame_step=0)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"bad\.jpg: not an image"):
        list(detector.stream(bad))
    good = save(tmp_path / "good.png", scene(90, 150, *BOXES))
    with caplog.at_level(logging.WARNING):
        ((frame, detections),) = detector.stream([bad, good])
    assert (frame.source, len(detections)) == (str(good), 2)
    assert "bad.jpg" in caplog.text


def test_a_classifier_gives_the_likeliest_classes() -> None:
    detector = colours(Classifier())
    detections = detector(np.full((40, 60, 3), 255, np.uint8))
    assert detections.names.tolist() == list("gfedc")
    assert detections.boxes.tolist() == [[0, 0, 60, 40]] * 5
    assert detector(np.full((40, 60, 3), 255, np.uint8), max_det=1).names.tolist() == ["g"]
    with pytest.raises(ValueError, match="iou: is for detectors"):
        detector(np.zeros((4, 4, 3), np.uint8), iou=0.5)


def test_the_model_works_for_one_thread_at_a_time() -> None:
    class Alone(ColourPredictor):
        at_work = False

        def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert not self.at_work
            self.at_work = True
            found = super().predict(images)
            self.at_work = False
            return found

    detector = colours(Alone())
    pictures = [moving(index % 20) for index in range(200)]
    expected = [detector(picture).to_dicts() for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert [each.to_dicts() for each in pool.map(detector, pictures)] == expected


def test_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="holds no trained model"):
        load_detector()
    with pytest.raises(ConfigError, match=r"x\.pt: no such file"):
        load_detector("x.pt")
    with pytest.raises(ConfigError, match="runtime: expected one of auto, torch, onnx, openvino, found 'tensorrt'"):
        load_detector("x.pt", runtime="tensorrt")
    with pytest.raises(ConfigError, match="resize: expected one of letterbox, corner, stretch, found 'squeeze'"):
        load_detector("x.pt", resize="squeeze")


def test_runtimes_agree_and_their_export_is_kept_where_the_program_runs(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("onnxruntime")
    weights, photo = shared / "weights" / "yolo-fastest-1.1-xl.weights", shared / "data" / "images" / "dog.jpg"
    fast = load_detector(weights, device="cpu")
    assert "ONNX Runtime" in fast.description
    assert "fastest" in fast.description
    assert list((tmp_path / "runs" / "cache").rglob("*.onnx"))
    plain = load_detector(weights, runtime="torch", device="cpu")
    assert "PyTorch" in plain.description
    one, other = fast(photo), plain(photo)
    assert one.names.tolist() == other.names.tolist() == ["dog", "bicycle", "car", "truck"]
    assert np.abs(one.boxes - other.boxes).max() < 0.01
    assert np.abs(one.scores - other.scores).max() < 1e-4


WRITERS = {"m.onnx": write_onnx, "m.xml": write_openvino, "m.torchscript": write_torchscript}


@pytest.mark.parametrize("name", ["m.pt", *WRITERS])
def test_every_runtime_gives_numpy_arrays_to_every_thread(tmp_path: Path, name: str) -> None:
    model, spec = small_model("cspdet-n"), spec_of(small_model("cspdet-n"))
    if name == "m.pt":
        config, info = load_model_config("cspdet-n", SMALL["cspdet-n"]), spec.info
        about = {"names": list(info.names), "category_ids": list(info.category_ids), "resize": info.resize}
        about |= {"model": to_plain(config), "image_size": list(info.image_size), "ema": model.state_dict()}
        save_checkpoint(tmp_path / name, about)
    else:
        pytest.importorskip({"m.onnx": "onnxruntime", "m.xml": "openvino"}.get(name, "torch"))
        WRITERS[name](model, tmp_path / name, spec)
    detector = load_detector(tmp_path / name, runtime="torch" if name == "m.pt" else "auto", device="cpu", trust=True)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(8)]
    expected = [detector(picture, conf=0.0, max_det=20) for picture in pictures]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda picture: detector(picture, conf=0.0, max_det=20), pictures * 4))
    for one, other in zip(expected * 4, found, strict=True):
        for part in ("boxes", "scores", "labels", "names"):
            assert type(getattr(other, part)) is np.ndarray
            assert np.array_equal(getattr(one, part), getattr(other, part))
        assert len(one) > 5
    if name == "m.torchscript":  # takes long to prepare for another shape, and looks at one frame at a time
        return
    video = save_video(tmp_path / "a.mp4", frames=16)
    alone = [detector(frame.image, conf=0.0, max_det=20) for frame in open_source(str(video))]
    for one, (_, other) in zip(alone, detector.stream(video, conf=0.0, max_det=20), strict=True):
        assert np.allclose(one.boxes, other.boxes, atol=1e-3)
        assert np.allclose(one.scores, other.scores, atol=1e-5)


def by_command(folder: Path, *options: str | Path) -> dict[str, list[dict]]:
    """The entries of detections.json by source, without it."""
    given = ["--conf-thres", "0.3", "--iou-thres", "0.5", "--save-json", "--no-save", "--project", str(folder)]
    given += ["--device", "cpu", "--runtime", "torch", "--name", "run"]
    assert detect.main([*map(str, options), *given]) == 0
    found: dict[str, list[dict]] = {}
    newest = max(folder.glob("run*"), key=lambda path: path.stat().st_mtime_ns)
    for entry in json.loads((newest / "detections.json").read_text()):
        found.setdefault(entry.pop("source"), []).append(entry)
    return found


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("name", ["yolo-fastest-1.1-xl.weights", "MobileNetV2-YOLOv3-Nano-coco.weights"])
def test_real_weights_give_what_the_command_writes(shared: Path, tmp_path: Path, name: str, resize: str) -> None:
    """A folder is a source, whose pictures of several shapes share one input; a picture that is given is one alone."""
    weights, images = shared / "weights" / name, shared / "data" / "images"
    detector = load_detector(weights, runtime="torch", device="cpu", resize=resize)
    expected = by_command(tmp_path, "--weights", weights, "--resize", resize, "--source", images)
    assert len(expected) >= 4
    for frame, detections in detector.stream(images, conf=0.3, iou=0.5):
        assert [{"frame": 0, **entry} for entry in detections.to_dicts()] == expected.get(frame.source, [])
    paths = [images / "dog.jpg", images / "person.jpg"] * 2
    alone = {
        str(path): by_command(tmp_path, "--weights", weights, "--resize", resize, "--source", path).get(str(path), [])
        for path in paths[:2]
    }
    assert all(alone.values())
    with ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(lambda path: detector(Image.open(path), conf=0.3, iou=0.5), paths))
    for path, *found in zip(paths, detector(paths, conf=0.3, iou=0.5), threaded, strict=True):
        for detections in found:
            assert [{"frame": 0, **entry} for entry in detections.to_dicts()] == alone[str(path)]
