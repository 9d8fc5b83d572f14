"""Detections of tiles: what one object is across tiles, and the same in val.py, detect.py and load_detector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detect as detect_script
import val
from data.config import load_data_config
from data.loader import build_eval_loader
from data.media.sources import open_source
from data.read import read_split, read_splits
from engine.calibration import calibration_images
from engine.detector import Detector, load_detector
from engine.evaluate import evaluate
from engine.predictions import EvaluationOptions
from engine.stream import DetectOptions, detect
from engine.tiles import TileMerger, grid_of, merge_tiles
from models.export.network import ExportSpec
from models.info import ModelInfo, Predictor
from tests.test_detect import save, scene
from tests.test_val import CATEGORY_IDS, NAMES, at_limit, write_checkpoint, write_dataset
from utils.config import ConfigError
from utils.metrics.coco import FIGURES
from utils.metrics.detection import DetectionMetric
from utils.structures import Detections
from utils.tiles import Grid, Tile

PAIR = Grid((100, 100), 0.4).tiles(100, 160)
"""From 0 to 100 and from 60 to 160."""


def found(*rows: tuple[float, ...]) -> Detections:
    """Detections of (x1, y1, x2, y2, score, label)."""
    values = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(values[:, :4].copy(), values[:, 4].copy(), values[:, 5].astype(np.int64))


def merged(*parts: Detections, max_det: int = 100, tiles: tuple[Tile, ...] = PAIR) -> list[list[float]]:
    result = merge_tiles(tiles, parts, iou_thres=0.5, max_det=max_det)
    return [[*box, score, label] for box, score, label in zip(
        result.boxes.tolist(), result.scores.round(3).tolist(), result.labels.tolist(), strict=True
    )]  # fmt: skip


def test_nothing_in_any_tile() -> None:
    assert merged(found(), found()) == []
    assert TileMerger(0.5, 10).finish() == []


def test_one_object_seen_whole_in_two_tiles_counts_once() -> None:
    left, right = found((70, 10, 90, 30, 0.5, 0)), found((10, 11, 30, 31, 0.75, 0), (60, 10, 90, 30, 0.25, 0))
    assert merged(left, right) == [[70, 11, 90, 31, 0.75, 0], [120, 10, 150, 30, 0.25, 0]]
    other_class = found((10, 11, 30, 31, 0.75, 1))
    assert len(merged(left, other_class)) == 2


def test_boxes_of_one_tile_never_fall_by_each_other() -> None:
    """That is for the suppression of the model, whose kind may be 'none'."""
    twice = found((10, 10, 30, 30, 0.75, 0), (10, 10, 30, 30, 0.5, 0))
    assert len(merged(twice, found())) == 2
    assert merged(twice, found(), max_det=1) == [[10, 10, 30, 30, 0.75, 0]]


def test_the_cut_part_of_an_object_falls_by_the_whole() -> None:
    """From 80 to 130: the left tile sees 40 % of it, up to its edge; the right one sees all."""
    part, whole = found((80, 10, 100, 60, 0.5, 0)), found((20, 10, 70, 60, 0.75, 0))
    assert merged(part, whole) == [[80, 10, 130, 60, 0.75, 0]]
    inner = found((78, 10, 98, 60, 0.5, 0))
    assert len(merged(inner, whole)) == 2, "a small object beside a large one, not cut by an edge"
    at_the_border = found((0, 0, 20, 20, 0.5, 0))
    assert len(merged(found((0, 0, 50, 50, 0.75, 0)), found())) == 1
    assert len(merged(at_the_border, found())) == 1, "an edge of the picture cuts nothing"


def test_the_merger_puts_images_together_wherever_batches_end() -> None:
    parts = [found((10, 10, 20, 20, 0.5, 0)), found((30, 30, 50, 50, 0.25, 1))]
    ids, tiles, all_parts = [7, 7, 9, 9], [*PAIR, *PAIR], [*parts, *parts[::-1]]
    results = []
    for cuts in ([4], [1, 1, 1, 1], [3, 1], [0, 2, 2]):
        merger, done, start = TileMerger(0.5, 10), [], 0
        for count in cuts:
            rows = slice(start, start + count)
            done += merger.add(ids[rows], tiles[rows], all_parts[rows])
            start += count
        done += merger.finish()
        results.append([(image_id, each.boxes.tolist()) for image_id, each in done])
    assert all(result == results[0] for result in results)
    assert [image_id for image_id, _ in results[0]] == [7, 9]


class Blobs(Predictor):
    """Finds each connected patch of a pure colour in arrays or tensors: detection without a network."""

    def __init__(self, size: tuple[int, int] = (96, 96), nms: str = "default") -> None:
        info = ModelInfo(NAMES, CATEGORY_IDS, size, "letterbox", stride=32, nms=nms)
        super().__init__(info, device="cpu", precision="fp32", runtime="test")
        self.sizes: list[int] = []

    def predict(self, images: np.ndarray | torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        values = np.asarray(images).astype(np.float32)
        values = values / 255 if images.dtype in (np.uint8, torch.uint8) else values
        self.sizes.append(len(values))
        boxes, scores = np.zeros((len(values), 200, 4), np.float32), np.zeros((len(values), 200, 3), np.float32)
        for index, image in enumerate(values):
            row = 0
            for label in range(3):
                others = image[[other for other in range(3) if other != label]]
                mask = (image[label] > 0.6) & (others < 0.3).all(axis=0)
                _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
                for x, y, w, h, area in stats[1:].tolist():
                    boxes[index, row] = x, y, x + w, y + h
                    scores[index, row, label] = 0.5 + min(area, 2000) / 5000
                    row += 1
        return boxes, scores


def scattered(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of patches of 12 px a side, all apart, and their boxes with labels."""
    rng, rows = np.random.default_rng(0), []
    for y in range(4, height - 16, 22):
        for x in range(4, width - 16, 22):
            dx, dy, label = rng.integers(0, 9), rng.integers(0, 9), int(rng.integers(3))
            rows.append((label, x + dx, y + dy, x + dx + 12, y + dy + 12))
    return scene(height, width, *rows), np.array(sorted(rows))


@pytest.mark.parametrize("nms", ["default", "greedynms", "vote", "none"])
@pytest.mark.parametrize(("size", "overlap"), [(96, 0.2), (64, 0.3)])
def test_every_object_of_a_picture_is_found_once_and_in_its_place(nms: str, size: int, overlap: float) -> None:
    """With tiles of the network input's size to the last bit; for each kind of suppression, and tiles at a time."""
    picture, labelled = scattered(230, 310)
    for batch_size in (1, 5):
        detector = Detector(Blobs(nms=nms), image_size=(96, 96), resize="letterbox")
        result = detector(picture, tile=size, overlap=overlap, batch_size=batch_size)
        rows = np.column_stack((result.labels, result.boxes))
        rows = rows[np.lexsort(rows.T[::-1])]
        assert len(rows) == len(labelled)
        rounding = 1e-3 if nms == "vote" else 0
        assert np.abs(rows - labelled).max() <= (rounding if size == 96 else 1)
        assert result.names.tolist() == [NAMES[label] for label in result.labels]


def test_a_picture_that_one_tile_holds_is_seen_as_without_tiles(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "best.pt")
    detector = load_detector(weights, runtime="torch", device="cpu")
    for number, (height, width) in enumerate([(60, 64), (64, 64), (17, 40)]):
        picture = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        one, two = detector(picture, conf=0.01), detector(picture, conf=0.01, tile=True)
        assert len(one) > 5
        for name in ("boxes", "scores", "labels"):
            assert np.array_equal(getattr(one, name), getattr(two, name))
    large = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    assert len(detector(large, conf=0.01, tile=True)) != len(detector(large, conf=0.01))


def test_the_stream_and_a_call_give_the_same_tiles(tmp_path: Path) -> None:
    shapes = ((230, 310), (96, 200), (50, 60))
    for number, shape in enumerate(shapes):
        save(tmp_path / f"{number}.png", scattered(*shape)[0])
    predictor, grid = Blobs(), Grid((96, 96), 0.2)
    for batch_size in (1, 2, 8):
        options = DetectOptions((96, 96), batch_size=batch_size, grid=grid)
        results = list(detect(predictor, open_source(str(tmp_path)), options))
        assert [frame.image.shape[:2] for frame, _ in results] == list(shapes)
        for (frame, found_in), shape in zip(results, shapes, strict=True):
            assert len(found_in) == len(scattered(*shape)[1])
            alone = Detector(predictor, image_size=(96, 96), resize="letterbox", square=True)(frame.image, tile=96)
            assert np.array_equal(alone.boxes, found_in.boxes)
        assert max(predictor.sizes) <= max(batch_size, 1)
        predictor.sizes.clear()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of a validation split of three pictures with many small objects."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "images").mkdir()
    images, annotations = [], []
    for number, (height, width) in enumerate([(230, 310), (60, 50), (150, 96)]):
        picture, rows = scattered(height, width)
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        images.append({"id": 5 - number, "file_name": f"{number}.png", "height": height, "width": width})
        for label, x1, y1, x2, y2 in rows.tolist():
            about = {"id": len(annotations) + 1, "image_id": 5 - number, "category_id": CATEGORY_IDS[label]}
            annotations.append({**about, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 144, "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    (folder / "data.yaml").write_text("val: val.json\nimages: images\n")
    return folder / "data.yaml"


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_an_evaluation_by_tiles_finds_what_whole_pictures_hide(large: Path, tmp_path: Path, batch_size: int) -> None:
    """And its figures are those of pycocotools for the merged detections."""
    images, figures = read_split(load_data_config(str(large)), "val"), {}
    for grid in (None, Grid((96, 96), 0.2)):
        predictor = Blobs()
        metric = DetectionMetric(images.ground_truth, images.category_ids, images.names, max_det=300)
        loader = build_eval_loader(
            images, image_size=(96, 96), resize="letterbox", batch_size=batch_size, workers=0, grid=grid
        )
        figures[grid] = evaluate(predictor, loader, metric, EvaluationOptions(max_det=300, grid=grid))
        assert sum(predictor.sizes) == (3 if grid is None else 12 + 1 + 2)
        assert figures[grid]["images"] == 3
    assert figures[grid]["AP50"] == pytest.approx(1.0)
    assert figures[grid]["AP"] > 0.99, "the picture that is smaller than a tile is enlarged"
    assert figures[None]["AP"] < 0.7
    (tmp_path / "rows.json").write_text(json.dumps(metric.predictions()))
    expected = at_limit(large.with_name("val.json"), tmp_path / "rows.json", 300)
    assert {key: figures[grid][key] for key in expected} == {
        key: None if value is None else pytest.approx(value, rel=0, abs=1e-9) for key, value in expected.items()
    }


def test_val_by_tiles_equals_pycocotools_and_says_how(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = write_checkpoint(tmp_path / "best.pt")
    fixed = ["--weights", str(weights), "--device", "cpu", "--workers", "0", "--save-json", "--conf-thres", "0"]
    fixed += ["--max-det", "300", "--nms", "default"]
    yaml = write_dataset(tmp_path / "data")
    tiled_yaml = yaml.with_name("tiled.yaml")
    tiled_yaml.write_text(yaml.read_text() + "tiling: {size: 96}\n")
    data = str(yaml)

    def figures_of(name: str, *more: str) -> dict:
        assert val.main([*fixed, "--project", str(tmp_path / "runs"), "--name", name, *more]) == 0
        return json.loads((tmp_path / "runs" / name / "metrics.json").read_text())

    tiled = figures_of("tiled", "--data", data, "--tile", "--overlap", "0.3")
    assert "tiles 64x64, overlap 0.3, size 64x64" in capsys.readouterr().out
    assert tiled["protocol"]["tile"] == [64, 64]
    expected = at_limit(yaml.with_name("val.json"), tmp_path / "runs" / "tiled" / "predictions.json", 300)
    assert {key: tiled[key] for key in expected} == {
        key: None if value is None else pytest.approx(value, rel=0, abs=1e-9) for key, value in expected.items()
    }
    assert expected["AR300"] > 0
    whole = figures_of("whole", "--data", data)
    assert "tile" not in whole["protocol"]
    by_yaml = figures_of("yaml", "--data", str(tiled_yaml))
    assert by_yaml["protocol"]["tile"] == [96, 96]
    same = figures_of("same", "--data", data, "--tile", "96")
    assert [by_yaml[key] for key in FIGURES] == [same[key] for key in FIGURES]
    not_tiled = figures_of("not", "--data", str(tiled_yaml), "--no-tile")
    assert [not_tiled[key] for key in FIGURES] == [whole[key] for key in FIGURES] != [same[key] for key in FIGURES]


def test_val_of_pictures_within_a_tile_is_val_without(tmp_path: Path) -> None:
    weights, data = write_checkpoint(tmp_path / "best.pt"), write_dataset(tmp_path / "data")
    rows = []
    for number, more in enumerate(([], ["--tile", "300", "--batch-size", "3"])):
        arguments = ["--weights", str(weights), "--data", str(data), "--device", "cpu", "--workers", "0", "--save-json"]
        assert (
            val.main(
                [*arguments, "--batch-size", "3", *more, "--project", str(tmp_path / "runs"), "--name", f"{number}"]
            )
            == 0
        )
        rows.append(json.loads((tmp_path / "runs" / str(number) / "predictions.json").read_text()))
    assert rows[0] == rows[1]
    assert rows[0]


def test_detect_by_tiles_in_every_runtime(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = write_checkpoint(tmp_path / "best.pt")
    picture = save(tmp_path / "x.png", scattered(150, 200)[0])
    boxes = {}
    for runtime in ("torch", "onnx"):
        name = ["--project", str(tmp_path / "runs"), "--name", runtime, "--runtime", runtime, "--device", "cpu"]
        options = ["--weights", str(weights), "--tile", "--overlap", "0.25", "--conf-thres", "0.1", "--save-json"]
        assert detect_script.main(["--source", str(picture), *options, *name, "--no-save"]) == 0
        assert "tiles 64x64, overlap 0.25" in capsys.readouterr().out
        entries = json.loads((tmp_path / "runs" / runtime / "detections.json").read_text())
        boxes[runtime] = np.array([entry["box"] for entry in entries])
    assert len(boxes["torch"]) == len(boxes["onnx"]) > 10
    apart = np.abs(boxes["torch"][:, None] - boxes["onnx"]).max(axis=2).min(axis=1)
    assert (apart < 0.05).mean() > 0.99, "equal scores may come in another order, and fall off the end of the list"
    assert boxes["torch"][:, 2].max() > 130, "beyond the first tiles"


def test_int8_is_calibrated_on_what_the_network_sees_of_tiles(large: Path) -> None:
    tiled = large.with_name("train.yaml")
    tiled.write_text("train: val.json\nval: val.json\nimages: images\ntiling: {size: 96, empty: 1}\n")
    info = ModelInfo(NAMES, CATEGORY_IDS, (96, 96), "letterbox", stride=32)
    images = calibration_images(str(tiled), ExportSpec(info))
    assert len(images) == read_splits(str(tiled)).tiles.kept == 12 + 1 + 2
    first = Grid((96, 96)).tiles(230, 310)[1]
    assert np.array_equal(images[1], first.cut(scattered(230, 310)[0]).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 0.3), "--overlap: is for tiles"),
        ((16, None), "--tile: size: expected at least 32 pixels"),
        ((64, 0.95), "--overlap: expected a share from 0 to 0.9"),
    ],
)
def test_wrong_tiles_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid_of(*arguments, image_size=(64, 64))
    with pytest.raises(ConfigError, match="--tile: is for a detector"):
        grid_of(64, None, image_size=(64, 64), classify=True)


def test_options_that_contradict_tiles_are_refused(tmp_path: Path, large: Path, capsys: pytest.CaptureFixture) -> None:
    fixed = ["--weights", str(write_checkpoint(tmp_path / "best.pt")), "--data", str(large), "--device", "cpu"]
    for more, message in (
        (["--tile", "--rect"], "--rect: is for whole pictures"),
        (["--tile", "--no-tile"], "--no-tile: contradicts"),
        (["--overlap", "0.3"], "--overlap: is for tiles"),
    ):
        assert val.main([*fixed, *more]) == 2
        assert message in capsys.readouterr().err
