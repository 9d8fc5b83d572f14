"""A released YOLOX file through the commands: trained on, evaluated, exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import export
import train
import val
from models.postprocess import to_array
from models.predictor import open_predictor
from tests.models.yolox_reference import random_weights

CFG = ("--cfg", "yolox-nano")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights for the two classes of `tiny_coco`, whose objectness is high enough to find something."""
    path = tmp_path_factory.mktemp("yolox") / "yolox_nano.pth"
    weights = random_weights(classes=2)
    torch.save({"model": weights, "best_ap": np.float64(0.25)}, path)
    return path


def test_a_training_goes_on_from_it_and_its_checkpoint_is_a_model(
    released: Path, tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [*("--weights", str(released), "--data", str(tiny_coco)), "--project", str(tmp_path), "--device", "cpu"]
    options = ["--img-size", "64", "--epochs", "1", "--batch-size", "4", "--workers", "0", "--hyp", "finetune"]
    assert train.main([*CFG, *run, *options]) == 0
    printed = capsys.readouterr().out
    assert "Weights: 636 of 636 tensors loaded" in printed
    assert "no code of the file was run" in printed
    best = tmp_path / "exp" / "weights" / "best.pt"
    predictor = open_predictor(best, device="cpu")
    assert (predictor.names, predictor.resize, predictor.image_size) == (("blue", "red"), "corner", (64, 64))
    header, _ = (tmp_path / "exp" / "results.csv").read_text().splitlines()
    assert {"loss/box", "loss/objectness", "loss/class"} <= set(header.split(","))


@pytest.mark.parametrize("resize", ["corner", "letterbox"])
def test_it_is_evaluated_as_it_is(released: Path, tiny_coco: Path, tmp_path: Path, resize: str) -> None:
    arguments = [*CFG, "--weights", str(released), "--data", str(tiny_coco), "--img-size", "64", "--workers", "0"]
    assert val.main([*arguments, "--resize", resize, "--project", str(tmp_path), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert figures["protocol"]["resize"] == resize
    assert figures["images"] == 7


@pytest.mark.parametrize("ends", [[], ["--with-nms", "--with-preprocess", "--dynamic"]])
def test_its_export_is_the_same_function(released: Path, tmp_path: Path, ends: list[str]) -> None:
    """export.py itself compares the file with the original, on pictures of other sizes too."""
    output = tmp_path / "x.onnx"
    arguments = [*CFG, "--weights", str(released), "--format", "onnx", "--img-size", "64", "--output", str(output)]
    assert export.main([*arguments, *ends]) == 0
    exported = open_predictor(output, device="cpu")
    assert exported.resize == "corner"
    if not ends:
        images = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), np.uint8)
        _, scores = map(to_array, exported.predict(images))
        assert ((scores > 0).sum(axis=2) == 1).all(), "a box has one class"


@pytest.mark.slow
@pytest.mark.parametrize(("resize", "wanted"), [("corner", (0.306, 0.479)), ("letterbox", (0.302, 0.455))])
def test_real_weights_have_the_figures_of_the_authors_code(
    shared: Path, tmp_path: Path, resize: str, wanted: tuple[float, float]
) -> None:
    """Theirs with 100 boxes an image on the same photos are 0.306 and 0.479; with a letterbox these are ours."""
    data, weights = shared / "data" / "coco_tiny" / "data.yaml", shared / "weights" / "yolox_nano.pth"
    arguments = [*CFG, "--weights", str(weights), "--data", str(data), "--resize", resize, "--workers", "0"]
    assert val.main([*arguments, "--project", str(tmp_path), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert (figures["AP"], figures["AP50"]) == pytest.approx(wanted, abs=0.002)
