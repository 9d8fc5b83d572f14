"""The commands on darknet files: real weights find real objects, and a cfg trains, resumes and goes out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import detect
import export
import train
import val
from models.benchmark import __main__ as benchmark
from models.build import build_model
from models.config import load_model_config
from models.predictor import open_predictor
from tests.models.darknet.cfgs import NETWORKS, Cfg, yolov3_tiny
from tests.models.darknet.common import build_text, randomise_, saved
from utils.checkpoint import load_checkpoint
from utils.config import ConfigError

CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for the weights of darknet's authors; in that file the finer yolo layer has the masks 0, 1, 2."""
    cfg = Cfg(416)
    yolov3_tiny(cfg, fine_mask="0,1,2")
    path = tmp_path_factory.mktemp("real") / "yolov3-tiny.cfg"
    path.write_text(cfg.text())
    return ["--cfg", str(path), "--weights", str(shared / "weights" / "yolov3-tiny.weights"), *CPU]


def test_real_weights_have_their_ap(real: list[str], shared: Path, tmp_path: Path) -> None:
    """80 photos of COCO; an independent NumPy decode of OpenCV's maps, boxes uncut, gives AP 0.146 and AP50 0.283.

    Darknet weights are counted uncut unless --clip is given.
    """
    data = ["--data", str(shared / "data" / "coco_tiny" / "data.yaml"), "--workers", "0", "--project", str(tmp_path)]
    protocol = ["--img-size", "416", "--resize", "stretch", "--iou-thres", "0.45", "--conf-thres", "0.001"]
    assert val.main([*real, *data, *protocol]) == 0
    figures = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert figures["AP"] == pytest.approx(0.146, abs=0.003)
    assert figures["AP50"] == pytest.approx(0.283, abs=0.005)


def test_real_weights_find_dog_bicycle_and_car(real: list[str], shared: Path, tmp_path: Path) -> None:
    source = ["--source", str(shared / "data" / "images" / "dog.jpg"), "--project", str(tmp_path), "--save-json"]
    assert detect.main([*real, *source]) == 0
    found = json.loads((tmp_path / "exp" / "detections.json").read_text())
    best = {row["name"]: row["box"] for row in reversed(found)}
    assert {"dog", "bicycle", "car"} <= set(best)
    for name, box in {"dog": (130, 220, 310, 540), "bicycle": (130, 130, 565, 430), "car": (465, 75, 690, 170)}.items():
        assert overlap(best[name], box) > 0.5, name


def overlap(one, two) -> float:
    """IoU."""
    inner = max(0, min(one[2], two[2]) - max(one[0], two[0])) * max(0, min(one[3], two[3]) - max(one[1], two[1]))
    return inner / ((one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1]) - inner)


def test_real_weights_go_out_as_they_came_in(real: list[str], tmp_path: Path) -> None:
    target = tmp_path / "out.weights"
    assert export.main([*real[:4], "--format", "darknet", "--output", str(target)]) == 0
    assert target.read_bytes() == Path(real[3]).read_bytes()
    again = open_predictor(target, device="cpu")  # with the cfg and the names beside it
    assert (again.info.named, again.names[16], again.image_size, again.resize) == (True, "dog", (416, 416), "stretch")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A thin yolov4-tiny for 64 x 64 pixels and 80 classes, with random weights beside it."""
    cfg = NETWORKS["yolov4-tiny"].cfg(size=64, divide=8)
    (tmp_path / "small.cfg").write_text(cfg.text())
    model = build_text(cfg.text())
    randomise_(model)
    saved(model, tmp_path).rename(tmp_path / "small.weights")
    return tmp_path / "small.cfg"


def test_a_cfg_trains_on_other_classes_and_goes_out_as_darknet(small: Path, tiny_coco: Path, tmp_path: Path) -> None:
    arguments = ["--cfg", str(small), "--weights", str(small.with_suffix(".weights")), "--data", str(tiny_coco)]
    arguments += ["--epochs", "1", "--batch-size", "4", "--workers", "0", "--threads", "1", "--set", "amp=off"]
    assert train.main([*arguments, *CPU, "--project", str(tmp_path / "runs")]) == 0
    best = tmp_path / "runs" / "exp" / "weights" / "best.pt"
    state = load_checkpoint(best)
    small.unlink()  # the checkpoint holds the network itself
    predictor = open_predictor(best, device="cpu")
    assert predictor.info.nms == "greedynms"
    assert len(predictor.names) == len(state["names"]) != 80
    target = tmp_path / "out.weights"
    assert export.main(["--weights", str(best), "--format", "darknet", "--output", str(target)]) == 0
    image = torch.rand(1, 3, 64, 64)
    for one, two in zip(predictor.predict(image), open_predictor(target, device="cpu").predict(image), strict=True):
        torch.testing.assert_close(one, two)


def test_names_come_from_a_file_or_from_their_number(small: Path) -> None:
    weights = small.with_suffix(".weights")
    predictor = open_predictor(weights, cfg=small, device="cpu")
    assert (predictor.names[0], predictor.info.named) == ("person", False)
    assert (predictor.info.nms, predictor.info.beta_nms, predictor.resize) == ("greedynms", 0.6, "stretch")
    small.with_suffix(".names").write_text("\n".join(f"thing {i}" for i in range(80)) + "\n\n")
    predictor = open_predictor(weights, device="cpu")  # the cfg beside it
    assert (predictor.names[79], predictor.info.named) == ("thing 79", True)
    small.with_suffix(".names").write_text("one\ntwo\n")
    with pytest.raises(ConfigError, match=r"small\.names: expected 80 different names, one a line, found 2"):
        open_predictor(weights, device="cpu")


def test_our_model_files_take_weights_of_any_number_of_classes(tmp_path: Path) -> None:
    model = build_model(load_model_config("cspdet-n"), 3)
    randomise_(model)
    path = saved(model, tmp_path)
    predictor = open_predictor(path, cfg="cspdet-n", device="cpu")
    assert predictor.names == ("class 0", "class 1", "class 2")
    with pytest.raises(ConfigError, match=r"expected .* numbers for this model, found"):
        open_predictor(path, cfg="csppeleenet-prn", device="cpu")


def test_wrong_files_end_in_one_message(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = str(small.with_suffix(".weights"))
    (tmp_path / "bad.cfg").write_text(small.read_text().replace("[yolo]", "[Gaussian_yolo]"))
    other = tmp_path / "other.weights"
    other.write_bytes(Path(weights).read_bytes())
    (tmp_path / "x.jpg").touch()
    for options, message in (
        (
            ["--weights", weights, "--cfg", str(tmp_path / "bad.cfg")],
            "[Gaussian_yolo] is a section of darknet that is not",
        ),
        (["--weights", weights, "--cfg", "no.cfg"], "'no.cfg': no such file"),
        (["--weights", str(other)], "darknet weights hold no network; name its file with --cfg"),
        (["--weights", str(tmp_path / "x.conv.9")], "start a training from it"),
    ):
        assert detect.main([*options, *CPU, "--source", str(tmp_path), "--project", str(tmp_path / "runs")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert "Traceback" not in error


def test_the_benchmark_takes_a_cfg(small: Path, capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main([str(small), "--json", "--threads", "1", *CPU]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["cfg"] == "small.cfg"
    assert row["img_size"] == 64
    assert row["params"] == sum(p.numel() for p in build_text(small.read_text()).parameters())
