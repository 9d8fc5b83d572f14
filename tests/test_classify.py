"""Classifiers from end to end, by the commands: train, resume, evaluate, look, export, and start a detector."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed

import detect
import export
import train
import val
from engine.predictions import predict_ten_crops
from tests.conftest import TINY_MODEL
from tests.test_train import assert_same_run, cpu, rows, stop_after
from utils.checkpoint import load_checkpoint
from utils.config import ROOT

__all__ = ["stop_after"]

NAMES = ("across", "down", "squares")
CHANCE = 1 / len(NAMES)
LEARN = ("--batch-size", "12", "--epochs", "8", "--seed", "1", "--set", "optimizer.lr=0.01", "--set", "amp=off")


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of class folders: stripes across, stripes down, and squares, in many colours, sizes and shapes."""
    folder = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 6)):
        for label, name in enumerate(NAMES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(70, 110, 2)
                y, x = np.indices((height, width)) // rng.integers(6, 10)
                pattern = (y % 2, x % 2, (x + y) % 2)[label][..., None]
                colours = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
                colours = (colours[0] // 2, 127 + colours[1] // 2)
                pixels = np.where(pattern, *colours) + rng.normal(0, 8, (height, width, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / name / f"{number}.png")
    (folder / "data.yaml").write_text("train: train\nval: val\n")
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backbone of `tiny_model` with a head for classification."""
    path = tmp_path_factory.mktemp("tiny_classifier") / "tiny-classifier.yaml"
    backbone = TINY_MODEL[: TINY_MODEL.index("neck:")]
    path.write_text(f"{backbone}head: {{type: classify}}\nimage_size: 64\n")
    return path


@pytest.fixture(scope="module")
def trained(stripes: Path, tiny_classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("runs")
    command = ["--cfg", str(tiny_classifier), "--data", str(stripes), "--project", str(folder)]
    assert train.main([*command, *cpu(), *LEARN]) == 0
    return folder / "exp"


@pytest.fixture
def command(stripes: Path, tiny_classifier: Path, tmp_path: Path) -> list[str]:
    """Arguments of a short training with everything at random that there is."""
    about = ["--cfg", str(tiny_classifier), "--data", str(stripes), "--project", str(tmp_path / "runs")]
    settings = ["augment.classify.mix=[mixup, cutmix, mosaic]", "augment.close_mosaic=0.4", "augment.multi_scale=0.2"]
    settings += ["loss.label_smoothing=0.1", "amp=off", "augment.classify.blur=0.3", "optimizer.lr=0.01"]
    sets = [part for text in settings for part in ("--set", text)]
    return [*about, "--epochs", "3", "--batch-size", "16", *sets]


def best(run: Path) -> str:
    return str(run / "weights" / "best.pt")


def evaluate(tmp_path: Path, *arguments: str) -> dict:
    assert val.main([*arguments, "--workers", "0", "--project", str(tmp_path / "val"), "--name", "v"]) == 0
    return json.loads(max((tmp_path / "val").glob("*/metrics.json"), key=lambda path: path.stat().st_mtime).read_text())


# Training


def test_a_run_learns_and_leaves_what_the_reference_names(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"weights", "config.yaml", "results.csv", "metrics.json", "labels.jpg", "results.jpg"} <= names
    assert {"train_batch0.jpg", "val_predictions.jpg", "confusion.jpg"} <= names
    table = rows(trained)
    assert {"loss/class", "top1", "top5", "lr", "images_per_second"} <= set(table[0])
    assert float(table[-1]["loss/class"]) < 0.7 * float(table[0]["loss/class"])
    figures = json.loads((trained / "metrics.json").read_text())
    assert {"top1", "top5", "per_class", "images", "speed_ms", "protocol"} == figures.keys()
    assert figures["top1"] > 0.8 > 2 * CHANCE
    assert (figures["images"], figures["top5"]) == (18, 1)
    assert set(figures["per_class"]) == set(NAMES)
    assert figures["protocol"] == {"ten_crop": False, "image_size": [64, 64], "precision": "fp32", "resize": "crop"}
    checkpoint = load_checkpoint(Path(best(trained)))
    assert (checkpoint["names"], checkpoint["resize"]) == (list(NAMES), "crop")
    assert checkpoint["metrics"]["top1"] == max(float(row["top1"]) for row in table) == checkpoint["best"]


def test_stopping_and_resuming_changes_nothing(
    command: list[str], tmp_path: Path, stop_after: Callable[[int | None], None]
) -> None:
    assert train.main([*command, *cpu(), "--name", "whole"]) == 0
    stop_after(4)
    assert train.main([*command, *cpu(workers=1), "--name", "parts"]) == 128 + 15
    stop_after(None)
    state = load_checkpoint(tmp_path / "runs" / "parts" / "weights" / "last.pt")
    assert 0 < state["batch"] < 3, "in the middle of an epoch"
    assert train.main(["--resume", str(tmp_path / "runs" / "parts"), *cpu()]) == 0
    assert_same_run(tmp_path / "runs" / "whole", tmp_path / "runs" / "parts")


@pytest.mark.slow
@pytest.mark.skipif(not distributed.is_gloo_available(), reason="this PyTorch has no gloo")
def test_two_processes_compute_what_one_computes(command: list[str], trained: Path, tmp_path: Path) -> None:
    # Frozen parts keep their batch normalisation, so that every rank computes the same function of an image.
    command = [*command, *cpu(), "--weights", best(trained), "--set", "freeze=[backbone]", "--name"]
    assert train.main([*command, "one"]) == 0
    (tmp_path / "runs.json").write_text(json.dumps([{"arguments": [*command, "two"]}]))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += [str(ROOT / "tests" / "ddp_worker.py"), str(tmp_path / "codes.json"), str(tmp_path / "runs.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "codes.json").read_text()) == [[0, 0]]
    one, two = (tmp_path / "runs" / name for name in ("one", "two"))
    for name, value in load_checkpoint(one / "weights" / "last.pt")["weights"].items():
        other = load_checkpoint(two / "weights" / "last.pt")["weights"][name]
        torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-5, msg=name)
    for first, second in zip(rows(one), rows(two), strict=True):
        for key in ("loss/class", "top1", "lr"):
            assert float(second[key]) == pytest.approx(float(first[key]), rel=1e-4), key


# What a classifier is good for


def test_its_backbone_starts_a_detector(
    trained: Path, tiny_model: Path, tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = load_checkpoint(Path(best(trained)))["ema"]
    backbone = [name for name in classifier if name.startswith("backbone.")]
    command = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--weights", best(trained), "--epochs", "1"]
    command += ["--project", str(tmp_path), "--batch-size", "4", "--set", "freeze=[backbone]", *cpu()]
    assert train.main(command) == 0
    detector = load_checkpoint(tmp_path / "exp" / "weights" / "last.pt")["weights"]
    assert f"{len(backbone)} of {len(detector)} tensors loaded from {best(trained)}" in capsys.readouterr().out
    assert backbone == [name for name in detector if name.startswith("backbone.")]
    for name in backbone:
        assert torch.equal(detector[name], classifier[name]), name


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_an_exported_classifier_has_the_same_figures(
    kind: str, trained: Path, stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    output = tmp_path / ("model.onnx" if kind == "onnx" else "model.torchscript")
    assert export.main(["--weights", best(trained), "--format", kind, "--dynamic", "--output", str(output)]) == 0
    assert "in probabilities" in capsys.readouterr().out
    wanted, found = (
        evaluate(tmp_path, "--weights", weights, "--data", str(stripes), "--device", "cpu", "--trust")
        for weights in (best(trained), str(output))
    )
    for key in ("top1", "top5", "per_class", "images"):
        assert found[key] == wanted[key], key


def test_evaluation_gives_the_figures_of_the_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluate(tmp_path, "--weights", best(trained), "--save-json", "--batch-size", "5")
    text = capsys.readouterr().out
    assert f"Top-1 = {figures['top1']:.4f}" in text
    assert "Protocol: one crop, size 64x64, fp32, crop" in text
    assert figures["top1"] == json.loads((trained / "metrics.json").read_text())["top1"]
    rows = json.loads((tmp_path / "val" / "v" / "predictions.json").read_text())
    assert len(rows) == 18
    assert np.mean([row["name"] == row["names"][0] for row in rows]) == pytest.approx(figures["top1"])
    assert all(Path(row["file"]).parent.name == row["name"] for row in rows)
    ten = evaluate(tmp_path, "--weights", best(trained), "--ten-crop")
    assert "Protocol: ten crops" in capsys.readouterr().out
    assert ten["protocol"]["ten_crop"] is True
    assert ten["top1"] > 2 * CHANCE


def test_ten_crops_are_the_mean_of_ten_predictions() -> None:
    class Brightness:
        """Gives each image's mean as the probability of the first of two classes."""

        def predict(self, images: torch.Tensor) -> torch.Tensor:
            mean = images.mean(dim=(1, 2, 3))
            return torch.stack((mean, 1 - mean), dim=1)

    images = torch.rand(3, 3, 18, 18)
    found = predict_ten_crops(Brightness(), images, (16, 16))
    places = [(y, x) for y in (0, 2) for x in (0, 2)] + [(1, 1)]
    wanted = torch.stack([images[:, :, y : y + 16, x : x + 16].mean(dim=(1, 2, 3)) for y, x in places]).mean(dim=0)
    torch.testing.assert_close(found, torch.stack((wanted, 1 - wanted), dim=1))


def test_detect_says_what_images_show(
    trained: Path, stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = stripes.parent / "val" / "down"
    arguments = ["--source", str(source), "--weights", best(trained), "--device", "cpu", "--project", str(tmp_path)]
    assert detect.main([*arguments, "--save-json"]) == 0
    out = capsys.readouterr().out
    assert "down" in out.split("Found: ")[1].splitlines()[0]
    found = json.loads((tmp_path / "exp" / "detections.json").read_text())
    assert len(found) == 3 * 6
    for place in range(0, 18, 3):
        scores = [row["score"] for row in found[place : place + 3]]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-4)
        with Image.open(found[place]["source"]) as image:
            assert found[place]["box"] == [0, 0, *image.size]
    assert len(list((tmp_path / "exp").glob("*.png"))) == 6
    assert detect.main([*arguments, "--save-json", "--no-save", "--max-det", "1", "--classes", "down", "across"]) == 0
    assert {row["name"] for row in json.loads((tmp_path / "exp2" / "detections.json").read_text())} <= {
        "down",
        "across",
    }


# What does not go together


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["--hyp", "shapes"],
            "recipe: augment.mosaic, augment.translate, augment.scale, augment.hue, augment.saturation, augment.value: "
            "for detectors alone",
        ),
        (["--set", "evaluation.max_det=20"], "recipe: evaluation.max_det: for detectors alone"),
        (["--set", "augment.classify.mixx=[cutmix]"], "augment.classify.mixx: unknown key. Did you mean 'mix'"),
        (["--set", "augment.classify.mix=[cutout]"], "expected a list, each entry one of mixup, cutmix, mosaic"),
        (["--set", "augment.classify.short_side=[2, 1]"], "short_side: expected two numbers above 0"),
        (["--set", "loss.box_gain=1"], "recipe: loss.box_gain: unknown key"),
    ],
)
def test_mistakes_of_a_classifiers_training_end_in_one_message(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    assert train.main([*command, *cpu(), *changes]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "runs").exists()


def test_a_classifier_takes_no_boxes(command: list[str], tiny_coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*command, *cpu(), "--data", str(tiny_coco)]) == 2
    error = capsys.readouterr().err
    assert "boxes, for a detector, and the model is a classifier" in error
    assert "python -m data.convert SRC DST --to imagefolder" in error


def test_a_detector_takes_neither_class_folders_nor_a_classifiers_recipe(
    stripes: Path, tiny_model: Path, tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--cfg", str(tiny_model), "--project", str(tmp_path), *cpu()]
    assert train.main([*command, "--data", str(stripes)]) == 2
    assert "class folders are for a classifier" in capsys.readouterr().err
    assert train.main([*command, "--data", str(tiny_coco), "--hyp", "imagenet-gamma"]) == 2
    assert "recipe: augment.classify: for classifiers alone" in capsys.readouterr().err
    assert train.main([*command, "--data", str(tiny_coco), "--set", "model.resize=crop"]) == 2
    assert "resize: 'crop' is for classifiers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (val, ["--conf-thres", "0.1"], "--conf-thres: is for a detector"),
        (val, ["--no-clip"], "--clip: is for a detector"),
        (detect, ["--nms", "greedynms", "--source", "x.png"], "--nms: is for detectors"),
    ],
)
def test_options_of_detectors_are_refused(
    script: object,
    options: list[str],
    message: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.png").touch()
    assert script.main(["--weights", best(trained), "--device", "cpu", *options]) == 2
    assert message in capsys.readouterr().err
