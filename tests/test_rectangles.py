"""--img-size H W: a training at that shape, and what --resume, val.py, detect.py and export.py make of it."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import export
import train
import val
from engine import loop
from models.predictor import open_predictor
from tests.test_export import find, needs
from tests.test_train import assert_same_run, command, cpu, quick, stop_after  # noqa: F401 - fixtures
from tests.test_val import CATEGORY_IDS, independent, write_checkpoint, write_dataset
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import load_yaml
from utils.structures import Batch

HEIGHT, WIDTH = 64, 112
ALL_AT_ONCE = (
    *("--img-size", str(HEIGHT), str(WIDTH), "--batch-size", "3", "--epochs", "2", "--seed", "7"),
    *("--set", "augment.multi_scale=0.5", "--set", "augment.mixup=0.5", "--set", "augment.mosaic=0.8"),
    *("--set", "augment.close_mosaic=0", "--set", "optimizer.lr=0.01", "--set", "balance=repeat"),
)


@pytest.mark.usefixtures("quick")
def test_a_training_at_a_rectangle_goes_on_exactly_and_its_shape_is_found_again(
    command: list[str],
    tiny_coco: Path,
    tmp_path: Path,
    stop_after: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shapes = []

    def note(job: object, state: object, batch: Batch) -> None:
        shapes.append(tuple(batch.images.shape[2:]))

    monkeypatch.setattr(loop, "plot_first_batch", note)
    stop_after(None)
    assert train.main([*command, *ALL_AT_ONCE, "--name", "whole"]) == 0
    assert f"{HEIGHT} x {WIDTH} px" in capsys.readouterr().out
    assert len(set(shapes)) > 1, "multi-scale"
    assert all(height < width and not height % 16 and not width % 16 for height, width in shapes)
    stop_after(2)
    assert train.main([*command, *ALL_AT_ONCE, "--name", "parts"]) == 128 + signal.SIGTERM
    stop_after(None)
    whole, parts = tmp_path / "runs" / "whole", tmp_path / "runs" / "parts"
    assert train.main(["--resume", str(parts), *cpu(workers=1)]) == 0
    assert_same_run(whole, parts)
    best = load_checkpoint(whole / "weights" / "best.pt")
    assert best["image_size"] == best["recipe"]["image_size"] == [HEIGHT, WIDTH]
    assert json.loads((whole / "metrics.json").read_text())["protocol"]["image_size"] == [HEIGHT, WIDTH]
    about = ["--weights", str(whole / "weights" / "best.pt"), "--data", str(tiny_coco), "--workers", "0"]
    assert val.main([*about, "--device", "cpu", "--project", str(tmp_path / "val")]) == 0
    figures = json.loads((tmp_path / "val" / "exp" / "metrics.json").read_text())
    assert figures["protocol"]["image_size"] == [HEIGHT, WIDTH]
    for key in ("AP", "AP50", "AR100"):
        assert figures[key] == pytest.approx(json.loads((whole / "metrics.json").read_text())[key], abs=1e-9)


@pytest.mark.usefixtures("quick")
def test_one_number_is_still_a_square(command: list[str], tmp_path: Path, stop_after: Callable) -> None:
    """The recipe of a square keeps one number, as the runs of older releases have it; and those go on."""
    stop_after(1)
    assert train.main([*command, "--img-size", "64"]) == 128 + signal.SIGTERM
    run = tmp_path / "runs" / "exp"
    saved, last = load_yaml(run / "config.yaml"), load_checkpoint(run / "weights" / "last.pt")
    assert saved["recipe"]["image_size"] == last["recipe"]["image_size"] == 64
    assert saved["image_size"] == last["image_size"] == [64, 64]
    for key in ("balance", "balance_threshold"):
        del saved["recipe"][key], last["recipe"][key]
    (run / "config.yaml").write_text(json.dumps(saved))
    save_checkpoint(run / "weights" / "last.pt", last)
    stop_after(None)
    assert train.main(["--resume", str(run), *cpu()]) == 0
    assert open_predictor(run / "weights" / "best.pt", device="cpu").image_size == (64, 64)


@pytest.mark.usefixtures("quick")
def test_a_dry_run_tries_the_rectangle(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.dry_run.STEPS", 12)
    size = ["--img-size", str(HEIGHT), str(WIDTH)]
    assert train.main([*command, *size, "--dry-run", "--set", "optimizer.lr=0.01"]) == 0
    assert "Dry run: everything works." in capsys.readouterr().out
    assert train.main([*command, "--img-size", "64", "100", "--dry-run"]) == 2
    assert "found 64 x 100; the nearest is 64 x 96" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main([*command, "--img-size", "64", "96", "96"])
    assert "expected one number, or height and width, found 3 numbers" in capsys.readouterr().err


# A checkpoint of a rectangular model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of 64 x 128 pixels with random weights, which finds something everywhere."""
    path = write_checkpoint(tmp_path_factory.mktemp("weights") / "best.pt")
    save_checkpoint(path, {**load_checkpoint(path), "image_size": [64, 128]})
    return path


@pytest.fixture(scope="module")
def data(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose objects are what the checkpoint finds at its own size, so that its figures are high."""
    path = write_dataset(tmp_path_factory.mktemp("data"))
    truth = json.loads((path.parent / "val.json").read_text())
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    truth["annotations"] = [
        {"id": number, "image_id": ids[Path(row["source"]).name], "category_id": CATEGORY_IDS[row["class"]]}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        for number, row in enumerate(find(weights, path, tmp_path_factory.mktemp("truth")), 1)
        for x1, y1, x2, y2 in [row["box"]]
    ]
    (path.parent / "val.json").write_text(json.dumps(truth))
    return path


@pytest.mark.parametrize("size", [None, (96, 64)])
def test_val_gives_what_pycocotools_gives(
    data: Path, weights: Path, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    arguments = ["--weights", str(weights), "--data", str(data), "--device", "cpu", "--workers", "0", "--save-json"]
    arguments += ["--img-size", *map(str, size)] if size else []
    assert val.main([*arguments, "--project", str(tmp_path), "--conf-thres", "0"]) == 0
    figures = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert figures["protocol"]["image_size"] == list(size or (64, 128))
    expected = independent(data.parent / "val.json", tmp_path / "exp" / "predictions.json")
    assert expected[0] > (0.01 if size else 0.5), "the model finds little; the comparison would prove little"
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    for name, value in zip(names, expected, strict=True):
        assert figures[name] == (None if value == -1 else pytest.approx(value, abs=1e-9))


def test_an_export_has_the_shape_of_the_training_and_detects_the_same(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    needs("onnx")
    import onnx

    output = tmp_path / "model.onnx"
    assert export.main(["--weights", str(weights), "--format", "onnx", "--output", str(output)]) == 0
    (given,) = onnx.load(str(output)).graph.input
    assert [side.dim_value for side in given.type.tensor_type.shape.dim] == [1, 3, 64, 128]
    predictor = open_predictor(output, device="cpu")
    assert (predictor.image_size, predictor.info.fixed_size) == ((64, 128), True)
    ours, theirs = (find(model, data, tmp_path / model.stem, "--square") for model in (weights, output))
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs, strict=True):
        assert (one["source"], one["class"]) == (other["source"], other["class"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        np.testing.assert_allclose(one["box"], other["box"], atol=0.1)
