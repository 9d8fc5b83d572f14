"""detect: frames in, detections out, in pixels of the frames; and classes by number and name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.media.find import find_media
from data.media.sizes import of_one_shape
from data.media.sources import open_source
from engine.stream import DetectOptions, _many, class_indices, detect
from tests.test_detect import NAMES, ColourPredictor, save, save_video, scene
from utils.config import ConfigError


def test_no_frames_give_no_detections() -> None:
    assert list(detect(ColourPredictor(), open_source(), DetectOptions((96, 128)))) == []


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_boxes_are_in_pixels_of_the_frame(tmp_path: Path, resize: str, batch_size: int) -> None:
    shapes = ((200, 400), (333, 100), (96, 128), (48, 64))
    box = {shape: (0, shape[1] // 4, shape[0] // 4, shape[1] // 2, shape[0] // 2) for shape in shapes}
    for number, shape in enumerate(shapes):
        save(tmp_path / f"{number}.png", scene(*shape, box[shape]))
    predictor = ColourPredictor(resize)
    options = DetectOptions((96, 128), resize, batch_size=batch_size)
    results = list(detect(predictor, open_source(str(tmp_path)), options))
    assert predictor.batches == ([1] * 4 if batch_size == 1 else [3, 1])
    for (frame, detections), shape in zip(results, shapes, strict=True):
        assert frame.image.shape[:2] == shape
        pixels = max(shape[0] / 96, shape[1] / 128) + 0.5  # one pixel of the network input
        assert np.abs(detections.boxes[0] - box[shape][1:]).max() <= pixels
        assert detections.labels.tolist() == [0]


def test_detections_in_the_grey_around_the_image_are_left_out(tmp_path: Path) -> None:
    class Corner(ColourPredictor):
        def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tensor([[[10.0, 1.0, 50.0, 9.0], [10.0, 1.0, 50.0, 60.0]]]), torch.full((1, 2, 3), 0.9)

    path = save(tmp_path / "wide.png", scene(60, 240))
    ((_, detections),) = detect(Corner(), open_source(str(path)), DetectOptions((96, 128), iou_thres=1.0))
    assert len(detections) == 3
    assert (detections.boxes[:, 1] == 0).all()


class Shapes(ColourPredictor):
    """Notes the shapes of its inputs."""

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.image_size = images.shape[2:]
        self.shapes = [*getattr(self, "shapes", []), images.shape]
        return super().predict(images)


@pytest.mark.parametrize("rectangle", [False, True])
def test_a_video_is_letterboxed_to_the_least_padding(tmp_path: Path, rectangle: bool) -> None:
    predictor, source = Shapes(), open_source(str(save_video(tmp_path / "a.mp4", frames=5)))
    results = list(detect(predictor, source, DetectOptions((320, 320), batch_size=2, rectangle=rectangle)))
    height = 192 if rectangle else 320  # 90 x 150 becomes 192 x 320
    assert predictor.shapes == [(2, 3, height, 320), (2, 3, height, 320), (1, 3, height, 320)]
    for index, (_, detections) in enumerate(results):
        assert np.abs(detections.boxes[0] - (10 + 4 * index, 20, 40 + 4 * index, 60)).max() <= 2


def test_a_batch_has_one_shape_where_a_source_changes_its_own(tmp_path: Path) -> None:
    for number, shape in enumerate([(100, 200), (100, 200), (200, 100), (50, 100)]):
        save(tmp_path / f"{number}.png", scene(*shape, (0, 20, 20, 60, 40)))
    predictor = Shapes()
    results = list(detect(predictor, open_source(str(tmp_path)), DetectOptions((96, 96), batch_size=4, rectangle=True)))
    assert predictor.shapes == [(2, 3, 64, 96), (1, 3, 96, 64), (1, 3, 64, 96)]
    for _, detections in results:
        assert np.abs(detections.boxes[0] - (20, 20, 60, 40)).max() <= 3


def test_sources_of_one_shape_are_known_by_their_headers(tmp_path: Path) -> None:
    assert of_one_shape(())
    assert of_one_shape(find_media("rtsp://camera/stream"))
    one, same = save(tmp_path / "a" / "1.png", scene(90, 150)), save(tmp_path / "a" / "2.png", scene(90, 150))
    assert of_one_shape(find_media(str(one)))
    save_video(tmp_path / "a" / "v.mp4")
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    assert of_one_shape(find_media(str(tmp_path / "a")))
    assert not of_one_shape([*find_media(str(same)), *find_media("0")])
    save(tmp_path / "a" / "9.png", scene(91, 150))
    assert not of_one_shape(find_media(str(tmp_path / "a")))


def test_errors_of_the_model_surface_and_the_reader_stops(tmp_path: Path) -> None:
    class Broken(ColourPredictor):
        def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
            raise RuntimeError("out of memory")

    source = open_source(str(save_video(tmp_path / "a.mp4")))
    with pytest.raises(RuntimeError, match="out of memory"):
        list(detect(Broken(), source, DetectOptions((96, 128))))


class Together(ColourPredictor):
    """Made for three threads at once; notes those that call it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.callers = set[str](), list[str]()

    @contextmanager
    def side_by_side(self) -> Iterator[Together]:
        self.calls = 3
        yield self
        self.calls = 1

    def begin_thread(self) -> None:
        self.begun.add(threading.current_thread().name)

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.callers.append(threading.current_thread().name)
        return super().predict(images)


def test_frames_of_a_video_are_looked_at_side_by_side_and_come_in_their_order(tmp_path: Path) -> None:
    predictor, options = Together(), DetectOptions((96, 128))
    results = list(detect(predictor, open_source(str(save_video(tmp_path / "a.mp4", frames=30))), options))
    assert [frame.index for frame, _ in results] == list(range(30))
    for index, (_, detections) in enumerate(results):
        assert np.abs(detections.boxes[0] - (10 + 4 * index, 20, min(40 + 4 * index, 150), 60)).max() <= 2
    assert 0 < len(predictor.begun) <= 3
    assert set(predictor.callers) <= predictor.begun
    list(detect(predictor, open_source(str(save_video(tmp_path / "few.mp4", frames=5))), options))
    assert set(predictor.callers[30:]) == {threading.current_thread().name}


def test_a_live_frame_is_looked_at_alone() -> None:
    assert _many(open_source()) is False
    source = open_source("rtsp://127.0.0.1:1/none")
    assert source.expected_frames() is None
    assert not _many(source)


def test_class_indices() -> None:
    assert class_indices(["1", "red", "Blue"], NAMES) == (1, 0, 2)
    with pytest.raises(ConfigError, match=r"(?s)--classes 7.*--classes pink"):
        class_indices(["7", "pink"], NAMES)
