"""evaluate: the way from pixels to original boxes, batches and ranks that change nothing, and classes by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.config import load_data_config
from data.loader import build_eval_loader
from data.read import read_split
from engine import predictions
from engine.evaluate import evaluate, match_classes
from engine.notes import FileNotes
from engine.predictions import EvaluationOptions
from models.info import ModelInfo, Predictor
from models.predictor import open_predictor
from tests.test_val import CATEGORY_IDS, NAMES, write_checkpoint, write_dataset
from utils import dist
from utils.config import ConfigError
from utils.metrics.coco import FIGURES
from utils.metrics.detection import DetectionMetric
from utils.structures import LabelledImages

OPTIONS = EvaluationOptions(conf_thres=0.001, iou_thres=0.65, max_det=100)


class ColourPredictor(Predictor):
    """Finds the box around all strongly red, green and blue pixels: detection without a network."""

    def __init__(self, size: tuple[int, int], resize: str) -> None:
        info = ModelInfo(NAMES, CATEGORY_IDS, size, resize, stride=32)
        super().__init__(info, device="cpu", precision="fp32", runtime="test")
        self.sizes: list[int] = []

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(images))
        boxes, scores = torch.zeros(len(images), 3, 4), torch.zeros(len(images), 3, 3)
        for index, image in enumerate(images):
            for label in range(3):
                others = [other for other in range(3) if other != label]
                hits = ((image[label] > 0.6) & (image[others] < 0.3).all(dim=0)).nonzero()
                if len(hits):
                    low, high = hits.min(dim=0).values, hits.max(dim=0).values + 1
                    boxes[index, label] = torch.stack((low[1], low[0], high[1], high[0]))
                    scores[index, label, label] = 0.9 - 0.01 * len(hits) / image[0].numel()
        return boxes, scores


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    path = write_dataset(tmp_path_factory.mktemp("data"))
    return read_split(load_data_config(str(path)), "val")


def new_metric(images: LabelledImages) -> DetectionMetric:
    return DetectionMetric(images.ground_truth, images.category_ids, images.names)


def evaluate_colours(
    images: LabelledImages, *, resize: str = "letterbox", batch_size: int = 3, ranks: int = 1, rank=0, stride=None
):
    """Figures, metric and predictor of an evaluation at 128 x 192."""
    size, metric = (128, 192), new_metric(images)
    predictor = ColourPredictor(size, resize)
    loader = build_eval_loader(
        images,
        image_size=size,
        resize=resize,
        batch_size=batch_size,
        workers=0,
        rank=rank,
        world_size=ranks,
        stride=stride,
    )
    return evaluate(predictor, loader, metric, OPTIONS), metric, predictor


def test_nothing_found_anywhere(images: LabelledImages) -> None:
    class Blind(ColourPredictor):
        def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros(len(images), 0, 4), torch.zeros(len(images), 0, 3)

    loader = build_eval_loader(images, image_size=(64, 64), resize="letterbox", batch_size=4, workers=0)
    figures = evaluate(Blind((64, 64), "letterbox"), loader, new_metric(images), OPTIONS)
    assert figures["AP"] == 0.0
    assert figures["images"] == len(images) == 7


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_pixels_of_the_input_map_back_to_the_original_boxes(images: LabelledImages, resize: str) -> None:
    """Rectangles found in the network input agree with the labels of upright, wide and tall originals."""
    figures, metric, _ = evaluate_colours(images, resize=resize)
    assert figures["AP50"] == pytest.approx(1.0)
    assert figures["AP75"] == pytest.approx(1.0)
    assert figures["AR100"] > 0.8
    labelled = sorted((a["image_id"], a["category_id"], a["bbox"]) for a in images.ground_truth["annotations"])
    found = sorted((r["image_id"], r["category_id"], r["bbox"]) for r in metric.predictions())
    assert [row[:2] for row in found] == [row[:2] for row in labelled]
    largest = max(abs(np.subtract(one[2], other[2])).max() for one, other in zip(found, labelled, strict=True))
    assert largest < 2.5, "more than the pixels of the network input can be off"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_least_padding_gives_the_figures_of_the_square_on_fewer_pixels(images: LabelledImages, batch_size: int) -> None:
    square, whole, _ = evaluate_colours(images, batch_size=batch_size)
    figures, metric, predictor = evaluate_colours(images, batch_size=batch_size, stride=32)
    assert sum(predictor.sizes) == len(images)
    rows = [sorted((row["image_id"], row["category_id"]) for row in each.predictions()) for each in (metric, whole)]
    assert rows[0] == rows[1]
    assert figures["AP50"] == square["AP50"] == pytest.approx(1.0)
    assert figures["AP"] == pytest.approx(square["AP"], abs=0.1)
    shapes = [batch.images.shape[2:] for batch in least_loader(images, batch_size)]
    assert all(height % 32 == width % 32 == 0 for height, width in shapes)
    assert sum(height * width for height, width in shapes) < 0.9 * len(shapes) * 128 * 192


def least_loader(images: LabelledImages, batch_size: int) -> DataLoader:
    size = (128, 192)
    return build_eval_loader(images, image_size=size, resize="letterbox", batch_size=batch_size, workers=0, stride=32)


def test_a_fused_model_has_the_figures_of_the_model_as_it_was_trained(images: LabelledImages, tmp_path: Path) -> None:
    weights, figures, boxes = write_checkpoint(tmp_path / "best.pt"), [], []
    for fuse in (True, False):
        predictor, metric = open_predictor(weights, device="cpu", fuse=fuse), new_metric(images)
        loader = build_eval_loader(images, image_size=(64, 64), resize="letterbox", batch_size=3, workers=0)
        options = EvaluationOptions(conf_thres=0.0, max_det=300, nms=predictor.info.nms)
        figures.append(evaluate(predictor, loader, metric, options))
        boxes.append(len(metric.predictions()))
    assert boxes[0] == boxes[1] > 100
    for key in FIGURES:
        assert figures[0][key] == pytest.approx(figures[1][key], abs=1e-4)


def test_batch_size_changes_nothing_and_each_image_counts_once(images: LabelledImages) -> None:
    results = [evaluate_colours(images, batch_size=size) for size in (1, 3, 7, 50)]
    reference = results[0][1].predictions()
    assert len(reference) == len(images.ground_truth["annotations"])
    for figures, metric, predictor in results:
        assert sum(predictor.sizes) == len(images)
        assert metric.predictions() == reference
        assert {key: figures[key] for key in FIGURES} == {key: results[0][0][key] for key in FIGURES}
        assert figures["images"] == len(images)
        assert set(figures["speed_ms"]) == {"preprocess", "inference", "postprocess"}
        assert all(value > 0 for value in figures["speed_ms"].values())


def test_ranks_together_give_the_figures_of_one_process(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone, metric, _ = evaluate_colours(images)
    (_, first, _), (_, second, _) = (evaluate_colours(images, ranks=2, rank=rank) for rank in range(2))
    assert 0 < len(first.predictions()) < len(metric.predictions())
    monkeypatch.setattr(dist, "gather", lambda own: [own, [["b.jpg: cut off"], 2, ["c.jpg: gone"]]])
    monkeypatch.setattr(dist, "collect", lambda _: iter([second.predictions()]))
    loader = build_eval_loader(
        images, image_size=(128, 192), resize="letterbox", batch_size=2, workers=0, rank=0, world_size=2
    )
    predictor = ColourPredictor((128, 192), "letterbox")
    merged = evaluate(predictor, loader, new_metric(images), OPTIONS, over_ranks=True)
    assert caplog.messages == ["b.jpg: cut off", "Evaluation without 2 images that cannot be read: c.jpg: gone"]
    assert {k: v for k, v in merged.items() if k != "speed_ms"} == {k: v for k, v in alone.items() if k != "speed_ms"}


def test_classes_are_matched_by_name(images: LabelledImages) -> None:
    predictor = ColourPredictor((64, 64), "letterbox")
    assert match_classes(predictor, images) == CATEGORY_IDS
    predictor.names = ("blue", "red", "green")
    assert match_classes(predictor, images) == (20, 3, 8)
    predictor.names = ("red", "green", "violet", "pink")
    with pytest.raises(ConfigError, match=r"4 classes and the data 3; only the model knows pink, violet, only .* blue"):
        match_classes(predictor, images)


class Small(ColourPredictor):
    """Has memory for so many images at a time."""

    room = 1

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) > self.room:
            self.sizes.append(len(images))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().predict(images)


def evaluate_small(images: LabelledImages, room: int, *, batch_size: int = 7) -> tuple[dict, list[dict], list[int]]:
    predictor, metric = Small((128, 192), "letterbox"), new_metric(images)
    predictor.room = room
    loader = build_eval_loader(images, image_size=(128, 192), resize="letterbox", batch_size=batch_size, workers=0)
    return evaluate(predictor, loader, metric, OPTIONS), metric.predictions(), predictor.sizes


@pytest.mark.parametrize(("room", "told"), [(7, 0), (3, 1), (2, 2), (1, 2)])
def test_batches_that_do_not_fit_are_evaluated_in_parts(
    images: LabelledImages, caplog: pytest.LogCaptureFixture, room: int, told: int
) -> None:
    figures, rows, _ = evaluate_small(images, room)
    expected, metric, _ = evaluate_colours(images)
    assert rows == metric.predictions()
    assert {key: figures[key] for key in FIGURES} == {key: expected[key] for key in FIGURES}
    texts = [record.message for record in caplog.records if "out of memory" in record.message]
    assert len(texts) == told
    if told:
        assert texts[0].startswith("out of memory on cpu in evaluation: 7 images of 128 x 192 px do not fit (CUDA out")
        assert texts[0].endswith("it goes on with 3 at a time")


def test_memory_that_runs_out_on_another_rank_is_told_by_rank_0(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dist, "rank", lambda: 1)
    notes, predictor = FileNotes(), Small((128, 192), "letterbox")
    loader = build_eval_loader(images, image_size=(128, 192), resize="letterbox", batch_size=2, workers=0)
    evaluate(predictor, loader, new_metric(images), OPTIONS, notes=notes)
    assert not caplog.messages
    assert [text.partition(":")[0] for text in notes.waiting] == ["out of memory on cpu in evaluation"]


def test_later_batches_begin_with_what_fitted(images: LabelledImages) -> None:
    _, _, calls = evaluate_small(images, 2, batch_size=4)
    assert calls == [4, 2, 2, 2, 1]


def test_not_even_one_image_is_said(images: LabelledImages) -> None:
    with pytest.raises(
        ValueError, match=r"in evaluation: not even one image of 128 x 192 px fits .*close other programs"
    ):
        evaluate_small(images, 0)


def test_memory_that_runs_out_while_boxes_are_suppressed(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the thread behind, one batch later; nothing is counted twice or lost."""
    real = predictions.postprocess

    def full(boxes: Tensor, *arguments: object, **options: object) -> object:
        if len(boxes) > 2:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return real(boxes, *arguments, **options)

    expected = evaluate_colours(images)[1].predictions()
    monkeypatch.setattr(predictions, "postprocess", full)
    _, metric, _ = evaluate_colours(images, batch_size=4)
    assert metric.predictions() == expected
    assert "CUDNN_STATUS_ALLOC_FAILED" in caplog.text


def test_another_error_of_a_predictor_is_passed_on(images: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(predictions, "postprocess", wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate_colours(images)


def test_fp32_is_not_tf32_in_an_evaluation(images: LabelledImages) -> None:
    """By default PyTorch lets convolutions on newer GPUs round their inputs to 10 bits."""
    seen = []

    class Looks(ColourPredictor):
        def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            return super().predict(images)

    before = torch.backends.cudnn.allow_tf32
    loader = build_eval_loader(images, image_size=(64, 64), resize="letterbox", batch_size=4, workers=0)
    evaluate(Looks((64, 64), "letterbox"), loader, new_metric(images), OPTIONS)
    assert before
    assert set(seen) == {(False, False)}
    assert torch.backends.cudnn.allow_tf32
