"""detect.py: every output of the command, its exit status, and its messages."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detect
from data.images import read_image
from data.media.video import VideoReader
from data.media.video_writer import VideoWriter
from data.transforms import resize_image
from engine.commands import detect as commands
from models.build import build_model
from models.config import load_model_config
from models.info import ModelInfo, Predictor
from models.postprocess import postprocess
from models.predictor import open_predictor
from tests.test_val import write_checkpoint
from utils.boxes import plan_resize
from utils.checkpoint import save_checkpoint
from utils.config import ConfigError, to_plain
from utils.threads import limit_threads
from utils.timings import STAGES

NAMES = ("red", "green", "blue")


class ColourPredictor(Predictor):
    """Finds the box around the strongly red, green and blue pixels: detection without a network."""

    def __init__(self, resize: str = "letterbox", size: tuple[int, int] = (96, 128)) -> None:
        info = ModelInfo(NAMES, (1, 2, 3), size, resize, stride=32)
        super().__init__(info, device="cpu", precision="fp32", runtime="test")
        self.batches: list[int] = []

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (3, *self.image_size)
        self.batches.append(len(images))
        boxes, scores = np.zeros((len(images), 3, 4), np.float32), np.zeros((len(images), 3, 3), np.float32)
        for index, image in enumerate(images):
            for label in range(3):
                others = image[[other for other in range(3) if other != label]]
                hits = np.argwhere((image[label] > 127) & (others < 64).all(axis=0))
                if len(hits):
                    low, high = hits.min(axis=0), hits.max(axis=0) + 1
                    boxes[index, label] = (low[1], low[0], high[1], high[0])
                    scores[index, label, label] = 0.9 - 0.1 * label
        return boxes, scores


def scene(height: int, width: int, *boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """Grey, with rectangles (label, x1, y1, x2, y2) in pure colours."""
    image = np.full((height, width, 3), 110, np.uint8)
    for label, x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = np.eye(3, dtype=np.uint8)[label] * 255
    return image


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def moving(index: int) -> np.ndarray:
    return scene(90, 150, (0, 10 + 4 * index, 20, 40 + 4 * index, 60))


def save_video(path: Path, frames: int = 12) -> Path:
    writer = VideoWriter(path, Fraction(25, 2), 90, 150)
    for index in range(frames):
        writer.write(moving(index), index * 0.08)
    writer.close()
    return path


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs detect.main with a predictor of colours; gives the exit status and the run folder."""
    predictor = ColourPredictor()
    monkeypatch.setattr(commands, "check_file", lambda *_, **__: None)
    monkeypatch.setattr(commands, "open_fastest", lambda *_, **__: (predictor, ""))

    def run(*arguments: str | Path) -> tuple[int, Path]:
        options = ["--weights", "colours.pt", "--project", str(tmp_path / "runs")]
        status = detect.main([*options, *map(str, arguments)])
        folders = sorted((tmp_path / "runs").glob("*"), key=lambda path: path.stat().st_mtime_ns)
        return status, folders[-1] if folders else tmp_path / "runs" / "none"

    return run


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / "detections.json").read_text(encoding="utf-8"))


def test_every_output_of_images(tmp_path: Path, command, capsys: pytest.CaptureFixture) -> None:
    save(tmp_path / "a" / "x.png", scene(90, 150, (2, 100, 50, 140, 80), (0, 10, 20, 60, 70)))
    save(tmp_path / "b" / "x.png", scene(90, 150, (1, 30, 30, 90, 60)))
    save(tmp_path / "b" / "y.png", scene(90, 150))
    status, folder = command("--source", tmp_path / "a", tmp_path / "b", "--save-json", "--save-txt", "--save-crop")
    assert status == 0
    assert sorted(path.name for path in folder.glob("*.png")) == ["x-2.png", "x.png", "y.png"]
    found = entries(folder)
    assert [(Path(e["source"]).parent.name, e["frame"], e["class"], e["name"]) for e in found] == [
        ("a", 0, 0, "red"),
        ("a", 0, 2, "blue"),
        ("b", 0, 1, "green"),
    ]
    assert [e["score"] for e in found] == pytest.approx([0.9, 0.7, 0.8])
    assert found[0]["box"] == pytest.approx([10, 20, 60, 70], abs=2.5)
    row = [float(text) for text in (folder / "labels" / "x.txt").read_text().splitlines()[1].split()]
    assert row == pytest.approx([2, 120 / 150, 65 / 90, 40 / 150, 30 / 90], abs=0.03)
    assert (folder / "labels" / "y.txt").read_text() == ""
    assert {path.parent.name for path in folder.glob("crops/*/*.jpg")} == {"red", "green", "blue"}
    output = capsys.readouterr().out
    assert "Found: 1 red, 1 blue, 1 green" in output
    assert f"Results: {folder}" in output
    assert "3 images from 3 sources" in output


def test_a_video_keeps_frames_and_rate(tmp_path: Path, command) -> None:
    video = save_video(tmp_path / "clip.avi.mp4")
    status, folder = command("--source", video, "--save-json", "--save-txt", "--batch-size", "5")
    assert status == 0
    reader = VideoReader(str(folder / "clip.avi.mp4"))
    assert (reader.frames, reader.fps) == (12, Fraction(25, 2))
    drawn, _ = reader.read()
    reader.close()
    assert drawn.shape == (90, 150, 3)
    found = entries(folder)
    assert [e["frame"] for e in found] == list(range(12))
    assert found[7]["box"] == pytest.approx([38, 20, 68, 60], abs=3)
    assert len(list((folder / "labels").iterdir())) == 12


@pytest.mark.parametrize(("step", "frames"), [(1, 12), (3, 4), (5, 3)])
def test_every_nth_frame_keeps_its_number_and_the_video_its_length(
    tmp_path: Path, command, step: int, frames: int
) -> None:
    video = save_video(tmp_path / "clip.mp4")
    status, folder = command("--source", video, "--save-json", "--save-txt", "--frame-step", str(step))
    assert status == 0
    assert [e["frame"] for e in entries(folder)] == list(range(0, 12, step))
    assert [e["box"][0] for e in entries(folder)] == pytest.approx([10 + 4 * i for i in range(0, 12, step)], abs=3)
    assert sorted(path.stem for path in (folder / "labels").iterdir()) == [f"clip_{i:06d}" for i in range(0, 12, step)]
    reader = VideoReader(str(folder / "clip.mp4"))
    assert (reader.frames, reader.fps) == (frames, Fraction(25, 2) / step)
    times = []
    while (item := reader.read()) is not None:
        times.append(item[1])
    reader.close()
    assert times == pytest.approx([i * 0.08 for i in range(0, 12, step)])


def test_the_summary_tells_where_the_time_went(tmp_path: Path, command, capsys: pytest.CaptureFixture) -> None:
    assert command("--source", save_video(tmp_path / "clip.mp4"))[0] == 0
    output = capsys.readouterr().out
    stages = r", ".join(rf"{stage} [\d.]+/[\d.]+" for stage in STAGES)
    assert re.search(rf"^Milliseconds a frame, p50/p95: {stages}$", output, re.MULTILINE)
    assert "Reconnects" not in output


def test_a_run_is_never_overwritten_and_nothing_is_saved_unasked(tmp_path: Path, command) -> None:
    image = save(tmp_path / "x.png", scene(90, 150, (0, 10, 20, 60, 70)))
    assert command("--source", image)[1].name == "exp"
    assert command("--source", image)[1].name == "exp2"
    assert command("--source", image, "--no-save", "--save-json")[1].name == "exp3"
    assert [path.name for path in (tmp_path / "runs" / "exp3").iterdir()] == ["detections.json"]
    status, folder = command("--source", image, "--no-save")
    assert (status, folder.name) == (0, "exp3")


def test_bad_files_are_skipped_and_decide_the_exit_status(
    tmp_path: Path, command, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"damaged")
    save(tmp_path / "good.png", scene(90, 150, (0, 10, 20, 60, 70)))
    assert command("--source", tmp_path)[0] == 0
    output = capsys.readouterr().out
    assert "bad.jpg: not an image" in output
    assert "Skipped: 1" in output
    assert command("--source", tmp_path / "bad.jpg", "--name", "none")[0] == 1
    assert "nothing could be processed" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "none").exists()
    assert command("--source", tmp_path / "absent.jpg")[0] == 1
    (tmp_path / "empty").mkdir()
    assert command("--source", tmp_path / "empty")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "gren"], r"--classes gren: .* Did you mean 'green'\? Known: red, green, blue"),
        (["--classes", "3"], "classes are 0 to 2"),
        (["--img-size", "100"], "multiples of 32"),
    ],
)
def test_wrong_values_are_explained(
    tmp_path: Path, command, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    image = save(tmp_path / "x.png", scene(90, 150))
    assert command("--source", image, *arguments)[0] == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert re.search(message, captured.err)


@pytest.mark.parametrize(
    "arguments", [[], ["--source"], ["--source", "x.jpg", "--conf-thres", "1.5"], ["--source", "x.jpg", "--nonsense"]]
)
def test_a_wrong_command_line_ends_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        detect.main(arguments)
    assert error.value.code == 2


def test_without_a_trained_model_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def none() -> Path:
        raise ConfigError("--weights was left out; train one first with 'python train.py'")

    monkeypatch.setattr(commands, "default_weights", none)
    assert detect.main(["--source", str(tmp_path)]) == 2
    assert "python train.py" in capsys.readouterr().err


def test_classes_and_thresholds_filter(tmp_path: Path, command) -> None:
    image = save(tmp_path / "x.png", scene(90, 150, (2, 100, 50, 140, 80), (0, 10, 20, 60, 70), (1, 70, 10, 95, 40)))
    _, folder = command("--source", image, "--save-json", "--classes", "2", "RED")
    assert [e["name"] for e in entries(folder)] == ["red", "blue"]
    _, folder = command("--source", image, "--save-json", "--conf-thres", "0.75")
    assert [e["name"] for e in entries(folder)] == ["red", "green"]
    _, folder = command("--source", image, "--save-json", "--max-det", "1")
    assert [e["name"] for e in entries(folder)] == ["red"]


def test_stopping_leaves_whole_files(tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ColourPredictor):
        def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if len(self.batches) == 5:
                raise KeyboardInterrupt
            return super().predict(images)

    monkeypatch.setattr(commands, "open_fastest", lambda *_, **__: (Interrupted(), ""))
    status, folder = command("--source", save_video(tmp_path / "a.mp4"), "--save-json")
    assert status == 0
    assert len(entries(folder)) == 5
    reader = VideoReader(str(folder / "a.mp4"))
    assert reader.frames == 5
    reader.close()


def test_a_window_shows_every_frame_until_it_is_closed(
    tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FakeWindow:
        def __init__(self, title: str) -> None:
            self.open, self.shown = True, []
            windows.append(self)

        def show(self, image: np.ndarray) -> None:
            self.shown.append(image)
            self.open = len(self.shown) < 3

        def close(self) -> None:
            self.open = False

    windows: list[FakeWindow] = []
    monkeypatch.setattr(commands, "Window", FakeWindow)
    status, folder = command("--source", save_video(tmp_path / "a.mp4"), "--view", "--no-save", "--save-json")
    assert status == 0
    assert len(windows[0].shown) == len(entries(folder)) == 3


def test_a_full_disk_ends_in_a_message(
    tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.media.recorder.write_image", full)
    assert command("--source", save(tmp_path / "x.png", scene(90, 150)))[0] == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_real_checkpoint_gives_what_its_parts_give(tmp_path: Path) -> None:
    overrides = ["image_size=[64, 96]", "backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"]
    config = load_model_config("cspdet-n", overrides)
    model = build_model(config, 3)
    state = {
        "model": to_plain(config),
        "names": list(NAMES),
        "category_ids": [1, 2, 3],
        "image_size": [64, 96],
        "resize": "letterbox",
        "ema": model.state_dict(),
    }
    save_checkpoint(tmp_path / "best.pt", state)
    rng = np.random.default_rng(0)
    image = save(tmp_path / "noise.png", rng.integers(0, 256, (50, 130, 3), dtype=np.uint8))
    arguments = ["--weights", tmp_path / "best.pt", "--source", image, "--device", "cpu", "--save-json", "--no-save"]
    thresholds = ["--conf-thres", "0.0", "--iou-thres", "0.5", "--max-det", "20", "--project", tmp_path / "runs"]
    assert detect.main([str(argument) for argument in [*arguments, *thresholds]]) == 0
    letterbox = plan_resize(50, 130, (64, 96), "letterbox")
    pixels = torch.from_numpy(resize_image(read_image(image), letterbox, (64, 96))).permute(2, 0, 1)[None].float() / 255
    boxes, scores = open_predictor(tmp_path / "best.pt", device="cpu").predict(pixels)
    (expected,) = postprocess(boxes, scores, conf_thres=0.0, iou_thres=0.5, max_det=20, nms=config.nms)
    original = expected.to_original(letterbox)
    original = original.select((original.boxes[:, 2:] > original.boxes[:, :2]).all(axis=1))
    found = entries(tmp_path / "runs" / "exp")
    assert 0 < len(found) <= 20
    assert [e["class"] for e in found] == original.labels.tolist()
    assert np.allclose([e["box"] for e in found], original.boxes, atol=1e-3)
    assert np.allclose([e["score"] for e in found], original.scores, atol=1e-6)
    assert [e["score"] for e in found] == sorted((e["score"] for e in found), reverse=True)


def test_a_real_video(shared: Path, tmp_path: Path, command) -> None:
    video = shared / "data" / "video" / "car-detection.mp4"
    status, folder = command("--source", video, "--batch-size", "8")
    assert status == 0
    reader = VideoReader(str(folder / "car-detection.mp4"))
    assert (reader.frames, reader.fps) == (377, Fraction(25, 2))
    reader.close()


def test_pictures_of_one_shape_get_the_least_padding(tmp_path: Path, command, capsys: pytest.CaptureFixture) -> None:
    save(tmp_path / "a" / "1.png", scene(90, 150, (0, 10, 20, 60, 70)))
    save(tmp_path / "b" / "1.png", scene(150, 90))
    for arguments, shown in (
        (["--source", tmp_path / "a"], "input 96x128 letterbox, least padding\n"),
        (["--source", tmp_path / "a", "--square"], "input 96x128 letterbox\n"),
        (["--source", tmp_path / "a", tmp_path / "b"], "input 96x128 letterbox\n"),
        (["--source", tmp_path / "a", "--resize", "stretch"], "input 96x128 stretch\n"),
    ):
        assert command(*arguments)[0] == 0
        assert shown in capsys.readouterr().out


def test_height_and_width_of_the_input_runtime_and_threads(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = save(tmp_path / "x.png", scene(120, 64))
    weights = write_checkpoint(tmp_path / "best.pt")
    options = ["--weights", str(weights), "--source", str(image), "--project", str(tmp_path), "--device", "cpu"]
    threads = torch.get_num_threads()
    try:
        assert detect.main([*options, "--img-size", "96", "64", "--runtime", "torch", "--threads", "1"]) == 0
        assert torch.get_num_threads() == 1
    finally:
        limit_threads(threads)
    output = capsys.readouterr().out
    assert "Runtime: PyTorch on cpu (1 threads), as asked for" in output
    assert "input 96x64 letterbox, least padding" in output
    assert detect.main([*options, "--img-size", "96", "60"]) == 2
    assert "--img-size: expected multiples of 32" in capsys.readouterr().err
