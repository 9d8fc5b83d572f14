"""val.py: figures against pycocotools run by itself, and the command."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import val
from models.build import build_model
from models.config import load_model_config
from utils.checkpoint import save_checkpoint
from utils.config import to_plain
from utils.metrics.coco import FIGURES

NAMES = ("red", "green", "blue")
CATEGORY_IDS = (3, 8, 20)


def write_dataset(folder: Path, *, count: int = 7, category_ids: tuple[int, ...] = CATEGORY_IDS) -> Path:
    """Grey images of many shapes with one rectangle of each of up to three colours; the last image is empty."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        height, width = ((120, 200), (260, 90), (101, 77), (160, 160))[number % 4]
        pixels = np.full((height, width, 3), 90, np.uint8)
        image_id = 1000 - 7 * number
        for label in range(min(number, 3) if number < count - 1 else 0):
            w, h = int(rng.integers(20, width // 3)), int(rng.integers(20, height // 3))
            x, y = int(rng.integers(0, width // 3 - w + 1)) + label * width // 3, int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w] = [255 if channel == label else 0 for channel in range(3)]
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_ids[label]}
            annotations.append({**ids, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": image_id, "file_name": f"{number}.png", "width": width, "height": height})
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    (folder / "data.yaml").write_text("val: val.json\nimages: images\n")
    return folder / "data.yaml"


def write_checkpoint(path: Path, *, names: tuple[str, ...] = NAMES, data: str = "shapes", size: int = 64) -> Path:
    """A tiny detector with random weights and a lively head, so that it finds something everywhere."""
    torch.manual_seed(13)
    small = [f"image_size={size}", "backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"]
    config = load_model_config("cspdet-n", [*small, "head.scale_xy=1", "head.size=exp"])
    model = build_model(config, len(names))
    for conv in model.head.convs:
        conv.bias.data.normal_(0, 1)
    about = {"model": to_plain(config), "names": list(names), "category_ids": [1, 2, 3][: len(names)], "data": data}
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {**about, "image_size": [size, size], "resize": "letterbox", "ema": model.state_dict()}
    save_checkpoint(path, state)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "best.pt")


def independent(truth: Path, rows: Path) -> np.ndarray:
    """The twelve figures of pycocotools, from the two files alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(rows)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def at_limit(truth: Path, rows: Path, limit: int) -> dict[str, float]:
    """Figures of pycocotools with another maxDets, which its own summary cannot show."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(rows)), "bbox")
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    parts = {"AP": precision[..., 0, 2], "AP50": precision[0, ..., 0, 2], "AP75": precision[5, ..., 0, 2]}
    parts |= {f"AP{name}": precision[..., area, 2] for area, name in enumerate("sml", start=1)}
    parts |= {"AR1": recall[..., 0, 0], "AR10": recall[..., 0, 1], f"AR{limit}": recall[..., 0, 2]}
    parts |= {f"AR{name}": recall[..., area, 2] for area, name in enumerate("sml", start=1)}
    return {key: values[values > -1].mean() if (values > -1).any() else None for key, values in parts.items()}


def test_command_writes_what_pycocotools_gives(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--weights", str(weights), "--data", str(data), "--device", "cpu", "--save-json", "--workers", "0"]
    arguments += ["--project", str(tmp_path), "--max-det", "300", "--conf-thres", "0"]
    assert val.main([*arguments, "--html", str(tmp_path / "none" / "page.html")]) == 2
    assert "expected a file in a folder that exists" in capsys.readouterr().err
    assert val.main([*arguments, "--html", str(tmp_path / "page.html")]) == 0
    assert "Worst pictures" in (tmp_path / "page.html").read_text()
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    rows = json.loads((tmp_path / "exp" / "predictions.json").read_text())
    expected = independent(data.parent / "val.json", tmp_path / "exp" / "predictions.json")
    assert expected[8] > 0, "the model finds nothing; the comparison would prove little"
    at_300 = at_limit(data.parent / "val.json", tmp_path / "exp" / "predictions.json", 300)
    assert {key: metrics[key] for key in at_300} == {
        key: None if value is None else pytest.approx(value, rel=0, abs=1e-12) for key, value in at_300.items()
    }
    assert metrics["AR100"] == pytest.approx(expected[8], abs=1e-12)
    assert set(metrics) == {
        *FIGURES,
        "AR300",
        "per_class",
        "images",
        "speed_ms",
        "protocol",
        "errors",
        "f1",
        "calibration",
    }
    assert metrics["errors"]["AP50"] == pytest.approx(metrics["AP50"], abs=1e-9)
    assert set(metrics["errors"]["per_class"]) == set(NAMES)
    assert list(metrics["per_class"]) == list(NAMES)
    assert metrics["images"] == 7
    assert metrics["protocol"]["image_size"] == [64, 64]
    assert metrics["protocol"]["resize"] == "letterbox"
    assert {row["image_id"] for row in rows} <= {1000 - 7 * number for number in range(7)}
    assert {row["category_id"] for row in rows} <= set(CATEGORY_IDS)
    assert max(sum(row["image_id"] == i for row in rows) for i in {row["image_id"] for row in rows}) > 100
    assert (tmp_path / "exp" / "pr_curve.jpg").stat().st_size > 1000
    lines = printed.splitlines()
    assert " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=300 ]" in printed
    assert "Protocol: conf 0, NMS IoU 0.65 (vote), max-det 300, size 64x64, fp32, letterbox" in lines

    assert val.main([*arguments, "--resize", "stretch", "--img-size", "96", "--batch-size", "1"]) == 0
    again = json.loads((tmp_path / "exp2" / "metrics.json").read_text())
    assert again["protocol"]["resize"] == "stretch"
    assert again["protocol"]["image_size"] == [96, 96]
    assert json.loads((tmp_path / "exp" / "metrics.json").read_text()) == metrics, "a run folder was written over"


def test_rect_evaluates_with_the_least_padding(data: Path, weights: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--weights", str(weights), "--data", str(data), "--device", "cpu", "--save-json", "--workers", "0"]
    assert val.main([*arguments, "--project", str(tmp_path), "--rect", "--batch-size", "2"]) == 0
    figures = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert figures["protocol"]["resize"] == "letterbox, least padding"
    assert figures["images"] == 7
    truth, rows = tmp_path / "exp" / "ground_truth.json", tmp_path / "exp" / "predictions.json"
    assert independent(truth, rows)[:3] == pytest.approx([figures[key] for key in ("AP", "AP50", "AP75")], abs=1e-9)
    assert val.main([*arguments, "--project", str(tmp_path), "--rect", "--resize", "stretch"]) == 2
    assert "--rect: is for letterboxed images, and these get their size by stretch" in capsys.readouterr().err


def test_command_maps_classes_in_another_order(weights: Path, data: Path, tmp_path: Path) -> None:
    """The same images with other category ids, in another order: the same figures under the same names."""
    other = write_dataset(tmp_path / "other", category_ids=(9, 2, 5))
    for number, source in enumerate((data, other)):
        arguments = ["--weights", str(weights), "--data", str(source), "--device", "cpu", "--workers", "0"]
        assert val.main([*arguments, "--project", str(tmp_path / "runs"), "--name", f"run{number}"]) == 0
    first, second = (json.loads((tmp_path / "runs" / f"run{n}" / "metrics.json").read_text()) for n in range(2))
    assert first["per_class"] == second["per_class"]
    assert first["AR100"] == pytest.approx(second["AR100"], abs=1e-12)


def test_data_left_out_is_what_the_model_was_trained_on(data: Path, tmp_path: Path, capsys) -> None:
    path = write_checkpoint(tmp_path / "own.pt", data=str(data))
    rest = ["--device", "cpu", "--workers", "0", "--project", str(tmp_path)]
    assert val.main(["--weights", str(path), *rest]) == 0
    assert str(data) in capsys.readouterr().out
    gone = write_checkpoint(tmp_path / "gone.pt", data=str(tmp_path / "no.yaml"))
    assert val.main(["--weights", str(gone), *rest]) == 2
    assert "is gone; name a data YAML" in capsys.readouterr().err


def test_a_split_without_labels_and_missing_images(weights: Path, tmp_path: Path, capsys) -> None:
    source = write_dataset(tmp_path / "data")
    (tmp_path / "data" / "images" / "2.png").unlink()
    arguments = ["--weights", str(weights), "--data", str(source), "--device", "cpu", "--project", str(tmp_path)]
    assert val.main([*arguments, "--workers", "0", "--save-json"]) == 0
    assert "no such image: " in capsys.readouterr().out
    metrics = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert metrics["images"] == 6, "a missing image does not count, in any format"
    truth = tmp_path / "exp" / "ground_truth.json"
    assert len(json.loads(truth.read_text())["images"]) == 6
    expected = independent(truth, tmp_path / "exp" / "predictions.json")
    figures = [-1.0 if metrics[key] is None else metrics[key] for key in FIGURES]
    np.testing.assert_allclose(figures, expected, rtol=0, atol=1e-9)

    content = json.loads((tmp_path / "data" / "val.json").read_text())
    (tmp_path / "data" / "val.json").write_text(json.dumps({**content, "annotations": []}))
    assert val.main([*arguments, "--workers", "0"]) == 0
    assert json.loads((tmp_path / "exp2" / "metrics.json").read_text())["AP"] is None


def cut_off(path: Path, weights: Path) -> Path:
    path.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, w: ["--weights", str(p / "no.pt")], "no.pt: no such file"),
        (lambda p, w: ["--weights", str(cut_off(p / "cut.pt", w))], "cut.pt: cannot be read as a checkpoint"),
        (lambda p, w: ["--weights", str(p / "yolo.weights")], "yolo.weights: no such file"),
        (lambda p, w: ["--weights", str(p / "model.tflite")], "expected .pt, .pth, .weights, .onnx"),
        (lambda p, w: ["--weights", str(write_checkpoint(p / "x.pt", names=("pink",)))], "only the model knows pink"),
        (lambda p, w: ["--img-size", "100"], "--img-size: expected multiples of 32"),
        (lambda p, w: ["--device", "0"], "Did you mean 'cuda:0'?"),
        (lambda p, w: ["--device", "gpu"], "expected cpu, cuda, cuda:N or mps"),
        (lambda p, w: ["--device", "cpu", "--half"], "--half: needs a CUDA GPU"),
        (lambda p, w: ["--data", "cocoo"], "cocoo"),
        (lambda p, w: ["--split", "test"], "has no split 'test', only val"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_message(
    change: Callable, message: str, data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    base = ["--weights", str(weights), "--data", str(data), "--device", "cpu", "--workers", "0"]
    assert val.main([*base, "--project", str(tmp_path / "runs"), *change(tmp_path, weights)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", [["--conf-thres", "25"], ["--max-det", "0"], ["--img-size", "x"], ["--conf", "0.1"]])
def test_wrong_values_end_in_status_2(option: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped, contextlib.redirect_stderr(io.StringIO()):
        val.main(option)
    assert stopped.value.code == 2


def test_a_damaged_image_is_named_without_a_traceback(weights: Path, tmp_path: Path, capsys) -> None:
    source = write_dataset(tmp_path / "data")
    damaged = tmp_path / "data" / "images" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    arguments = ["--weights", str(weights), "--data", str(source), "--device", "cpu", "--project", str(tmp_path)]
    assert val.main([*arguments, "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {damaged}")
    assert "Traceback" not in error
