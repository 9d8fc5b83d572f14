"""YOLOX's networks: the sizes and maps that its authors publish and compute, and their weights as files."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.images import read_image
from data.transforms import resize_image
from models.build import build_model
from models.config import load_model_config
from models.detector import Detector
from models.predictor import open_predictor
from models.predictor_torch import ModelPredictor
from models.pretrained import start_from_
from models.pretrained_yolox import from_yolox
from tests.models.yolox_reference import random_weights, raw_maps
from utils.boxes import plan_resize
from utils.config import ConfigError

SIZES = ("nano", "tiny", "s", "m", "l", "x")


@functools.cache
def picture() -> Tensor:
    """(1, 3, 64, 96) BGR in 0..255."""
    return torch.tensor(np.random.RandomState(1).randint(0, 256, (1, 3, 64, 96)), dtype=torch.float32)


@functools.cache
def released(size: str = "nano", classes: int = 80) -> dict[str, Tensor]:
    """Random numbers under the names of a released file."""
    return random_weights(**({} if size == "nano" else {"base": 24, "depthwise": False}), classes=classes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file like a released one."""
    path = tmp_path / "yolox_nano.pth"
    torch.save({"model": released(), "start_epoch": 300, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


def build(size: str, classes: int = 80) -> Detector:
    return build_model(load_model_config(f"yolox-{size}"), classes).eval()


# Sizes


@pytest.mark.parametrize("size", SIZES)
def test_parameters_and_operations_are_the_published_ones(size: str) -> None:
    """In the authors' counting (yolox/utils/model_utils.py): two for each multiply-add, four a value of a norm."""
    config = load_model_config(f"yolox-{size}")
    counted = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal counted
        counted += output.numel() * (4 if isinstance(layer, nn.BatchNorm2d) else 2 * layer.weight[0].numel())

    with torch.device("meta"), torch.no_grad():
        model = build_model(config, 80).eval()
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                module.register_forward_hook(count)
        model(torch.zeros(1, 3, 64, 64))
    (published,) = config.published
    params = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    operations = counted * config.size[0] * config.size[1] / 64**2 / 1e9
    digits = 2 if size in ("nano", "tiny") else 1
    assert round(params, digits) == published["params"]
    assert round(operations, digits) == published["bflops"]


# Maps

GOLDEN = {
    "nano": (
        ([-0.539296, 0.248629, -0.109784, -0.433547, 0.277601, 0.304939, 0.078485], -0.0455321, 0.2887512),
        ([0.216405, 0.146613, 0.385615, 0.004168, 0.206422, 0.253921, -0.053035], 0.0134358, 0.2495496),
        ([-0.119856, -0.063234, -0.240199, 0.338508, -0.081081, -0.170337, 0.154627], 0.0225002, 0.2424825),
    ),
    "tiny": (
        ([-0.21288, 0.030437, -0.06859, -0.273721, -0.172539, -0.260607, -0.231379], -0.0455547, 0.2451035),
        ([-0.058122, -0.131048, -0.079061, 0.025539, -0.196228, -0.146508, -0.454188], -0.0538687, 0.2410512),
        ([0.067394, -0.10238, -0.097071, 0.21767, 0.2374, -0.048964, -0.03719], -0.0384151, 0.2123908),
    ),
}
"""Of the authors' code (commit 6ddff48) with these weights and picture: channels 0 to 5 and 84 at row 1, column 2; mean
and deviation of the map. Their coarse nano and tiny maps are 2 x 3."""


@pytest.mark.parametrize("size", GOLDEN)
def test_raw_maps_are_those_of_the_authors_code(size: str) -> None:
    model = build(size)
    model.load_state_dict(from_yolox(released(size)))
    with torch.no_grad():
        found, expected = model(picture().flip(1) / 255), raw_maps(released(size), picture())
    for ours, theirs, (values, mean, deviation) in zip(found, expected, GOLDEN[size], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        numbers = [*ours[0, [0, 1, 2, 3, 4, 5, 84], 1, 2].tolist(), float(ours.mean()), float(ours.std())]
        np.testing.assert_allclose(numbers, [*values, mean, deviation], rtol=0, atol=1e-5)


def test_norms_keep_the_authors_epsilon() -> None:
    model = build("nano", classes=2)
    assert {each.eps for each in model.modules() if isinstance(each, nn.BatchNorm2d)} == {1e-3}


# Files


def test_a_released_file_predicts_and_starts_a_training(file: Path) -> None:
    predictor = open_predictor(file, cfg="yolox-nano.yaml", device="cpu", fuse=False)
    assert isinstance(predictor, ModelPredictor)
    assert predictor.names[:2] == ("person", "bicycle")
    assert predictor.resize == "corner"
    started = build("nano")
    assert start_from_(started, file).is_whole, "the whole head"
    for name, value in started.state_dict().items():
        assert torch.equal(value, predictor.model.state_dict()[name]), name


def test_another_number_of_classes_leaves_those_rows_alone(file: Path) -> None:
    model = build("nano", classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not start_from_(model, file).is_whole
    after = model.state_dict()
    same = {name for name in before if "batches" not in name and torch.equal(after[name], before[name])}
    assert same == {f"head.class_branches.{level}.4.{kind}" for level in range(3) for kind in ("weight", "bias")}


def test_the_number_of_classes_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"model": released(classes=2)}, path)
    (tmp_path / "mine.names").write_text("cat\ndog\n")
    assert open_predictor(path, cfg="yolox-nano.yaml", device="cpu").names == ("cat", "dog")


def test_a_file_without_or_with_another_model_says_what_is_wrong(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"yolox_nano.pth: a .pth file holds no network; .*--cfg yolox-nano.yaml"):
        open_predictor(file, device="cpu")
    with pytest.raises(ConfigError, match=r"do not fit yolox-tiny.yaml \(.*expected.*found.*another --cfg"):
        open_predictor(file, cfg="yolox-tiny.yaml", device="cpu")
    with pytest.raises(ConfigError, match="none of its 636 tensors has a name of this model"):
        open_predictor(file, cfg="csppeleenet-prn.yaml", device="cpu")


def test_a_file_with_numbers_that_no_training_gives_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "yolox_nano.pth"
    torch.save({"model": {**released(), "head.obj_preds.0.bias": torch.tensor([float("nan")])}}, path)
    with pytest.raises(ConfigError, match="NaN"):
        open_predictor(path, cfg="yolox-nano.yaml", device="cpu")


# The real weights


def test_real_weights_compute_what_the_authors_export_does(shared: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(shared / "weights" / "yolox_nano.onnx", providers=["CPUExecutionProvider"])
    predictor = open_predictor(shared / "weights" / "yolox_nano.pth", cfg="yolox-nano.yaml", device="cpu")
    assert isinstance(predictor, ModelPredictor)
    path = sorted((shared / "data" / "coco_tiny" / "images").glob("*.jpg"))[0]
    image = read_image(path)
    plan = plan_resize(*image.shape[:2], (416, 416), "corner")
    pixels = resize_image(image, plan, (416, 416), mode="corner").transpose(2, 0, 1)[None]
    (expected,) = session.run(None, {"images": pixels[:, ::-1].astype(np.float32)})
    with torch.no_grad():
        raw = [each.flatten(2) for each in predictor.model(torch.from_numpy(pixels).float() / 255)]
    found = torch.cat(raw, dim=2).mT[0]
    found[:, 4:] = found[:, 4:].sigmoid()
    np.testing.assert_allclose(found.numpy(), expected[0], rtol=0, atol=2e-4)
