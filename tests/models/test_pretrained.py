"""--weights: what fits is copied, the rest is named and counted, whatever kind of file it is."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.detector import Detector
from models.pretrained import start_from_
from utils.checkpoint import save_checkpoint
from utils.config import ConfigError, to_plain
from utils.weights import write_safetensors


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def config(tiny_model: Path) -> ModelConfig:
    return load_model_config(tiny_model)


def detector(config: ModelConfig, *, seed: int, classes: int = 2) -> Detector:
    torch.manual_seed(seed)
    return build_model(config, classes)


def state_of(model: Detector, config: ModelConfig, *, classes: int = 2) -> dict:
    """What a checkpoint holds, as far as weights need it."""
    about = {"names": [f"class {n}" for n in range(classes)], "category_ids": list(range(classes))}
    raw = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    about |= {"model": to_plain(config), "image_size": [64, 64], "resize": "letterbox"}
    return {**about, "ema": model.state_dict(), "weights": raw}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_of_ours_give_their_averaged_weights(
    config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    source, model = detector(config, seed=1), detector(config, seed=2)
    path = tmp_path / f"best{suffix}"
    (save_checkpoint if suffix == ".pt" else write_safetensors)(path, state_of(source, config))
    start_from_(model, path)
    total = len(model.state_dict())
    assert f"Weights: {total} of {total} tensors loaded from {path}" in caplog.text
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name
    assert "left as initialised" not in caplog.text
    assert "anchors" not in caplog.text


def test_other_classes_and_shapes_are_counted(
    config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, model = detector(config, seed=1, classes=5), detector(config, seed=2)
    before = {name: value.clone() for name, value in model.head.state_dict().items()}
    save_checkpoint(tmp_path / "x.pt", state_of(source, config, classes=5))
    start_from_(model, tmp_path / "x.pt")
    parts = {part: len(getattr(model, part).state_dict()) for part in ("backbone", "neck", "head")}
    counts = f"backbone {parts['backbone']} of {parts['backbone']}, neck {parts['neck']} of {parts['neck']}"
    assert f"{counts}, head 2 of {parts['head']}" in caplog.text  # the anchors
    assert "4 loaded in part, by classes: head.convs.0.weight, head.convs.0.bias" in caplog.text
    for name, value in model.head.convs.state_dict().items():
        rows = value.unflatten(0, (3, 7))
        assert torch.equal(rows[:, :5], source.head.convs.state_dict()[name].unflatten(0, (3, 10))[:, :5]), name
        assert torch.equal(rows[:, 5:], before[f"convs.{name}"].unflatten(0, (3, 7))[:, 5:]), name


def test_anchors_come_with_the_boxes_that_they_belong_to_and_it_is_said(
    config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, model = detector(config, seed=1), detector(config, seed=2)
    source.head.anchors_1.add_(3.25)
    save_checkpoint(tmp_path / "x.pt", state_of(source, config))
    assert start_from_(model, tmp_path / "x.pt").is_whole
    assert torch.equal(model.head.anchors_1, source.head.anchors_1)
    assert torch.equal(model.head.convs[0].weight, source.head.convs[0].weight)
    assert "The anchors come with the head: [[27.25, 27.25, 43.25" in caplog.text
    total = len(model.state_dict())
    assert f"Weights: {total} of {total} tensors" in caplog.text
    other = detector(config, seed=2, classes=7)
    assert not start_from_(other, tmp_path / "x.pt").is_whole
    assert torch.equal(other.head.anchors_1, source.head.anchors_1)
    narrow = replace(config, neck={**config.neck, "out_channels": [16, 32]})
    other = detector(narrow, seed=2)
    assert not start_from_(other, tmp_path / "x.pt").is_whole
    assert torch.equal(other.head.anchors_1, detector(config, seed=3).head.anchors_1)
    assert "The anchors stay those of the configuration; the file has others: [[27.25, 27.25, 43.25" in caplog.text


def test_a_classifier_starts_a_detector(config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classify = ModelConfig(backbone=config.backbone, head={"type": "classify"}, image_size=64)
    source, model = detector(classify, seed=1, classes=7), detector(config, seed=2)
    head = {name: value.clone() for name, value in model.head.state_dict().items()}
    save_checkpoint(tmp_path / "classifier.pt", state_of(source, classify, classes=7))
    start_from_(model, tmp_path / "classifier.pt")
    count = len(model.backbone.state_dict())
    assert f"backbone {count} of {count}, neck 0 of " in caplog.text
    assert ", head 0 of " in caplog.text
    assert "not in the file, left as initialised: neck." in caplog.text
    assert "2 in the file without a place in this model: head." in caplog.text
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, source.backbone.state_dict()[name]), name
    for name, value in model.head.state_dict().items():
        assert torch.equal(value, head[name]), name


def test_state_dicts_of_the_whole_model_and_of_the_backbone_alone(
    config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, model = detector(config, seed=1), detector(config, seed=2)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "whole.pth")
    torch.save(source.backbone.state_dict(), tmp_path / "backbone.pth")
    start_from_(model, tmp_path / "backbone.pth")
    count = len(model.backbone.state_dict())
    assert f"backbone {count} of {count}, neck 0 of " in caplog.text
    assert torch.equal(model.backbone.stem.conv.weight, source.backbone.stem.conv.weight)
    start_from_(model, tmp_path / "whole.pth")
    assert f"Weights: {len(model.state_dict())} of {len(model.state_dict())}" in caplog.text


def test_a_foreign_pickle_needs_trust(config: ModelConfig, tmp_path: Path) -> None:
    source, model = detector(config, seed=1), detector(config, seed=2)
    torch.save({"model": source}, tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=r"x.pt: not loaded, because it is a pickle.*--trust"):
        start_from_(model, tmp_path / "x.pt")
    assert not torch.equal(model.backbone.stem.conv.weight, source.backbone.stem.conv.weight)
    start_from_(model, tmp_path / "x.pt", trust=True)
    assert torch.equal(model.backbone.stem.conv.weight, source.backbone.stem.conv.weight)


def test_timm_weights_start_the_same_network_of_timm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("lcnet_035")
    torch.save(network.state_dict(), tmp_path / "lcnet.pth")
    backbone = {"type": "timm", "model": "lcnet_035"}
    model = build_model(ModelConfig(backbone=backbone, head={"type": "classify"}, image_size=64), 3)
    start_from_(model, tmp_path / "lcnet.pth")
    count = len(model.backbone.state_dict())
    assert f"backbone {count - 2} of {count}, head 0 of 2" in caplog.text
    assert "not in the file, left as initialised: backbone.mean, backbone.std, head.conv.weight" in caplog.text
    own = model.backbone.network.state_dict()
    assert torch.equal(own["conv_stem.weight"], network.conv_stem.weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1), "b": torch.zeros(2)}, r"none of its 2 tensors has a name of this model \(a, b, ...\)"),
        ({"backbone.stem.conv.weight": torch.zeros(1)}, "none of its 1 tensors fits this model"),
        ({}, "expected the weights of a network"),
    ],
)
def test_a_file_in_which_nothing_fits_is_refused(
    config: ModelConfig, tmp_path: Path, content: dict, message: str
) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=message):
        start_from_(detector(config, seed=1), tmp_path / "x.pth")


def test_missing_damaged_and_other_files(config: ModelConfig, tmp_path: Path) -> None:
    model = detector(config, seed=1)
    for name, message in (
        ("none.pt", "no such checkpoint"),
        ("none.pth", "no such checkpoint"),
        ("none.safetensors", "no such file"),
        ("x.onnx", r"expected a checkpoint \(.pt\) or a darknet file"),
    ):
        with pytest.raises(ConfigError, match=message):
            start_from_(model, tmp_path / name)
    save_checkpoint(tmp_path / "x.pt", state_of(model, config))
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be read as a checkpoint"):
        start_from_(model, tmp_path / "x.pt")
    save_checkpoint(tmp_path / "y.pt", {"names": []})
    with pytest.raises(ConfigError, match="has no averaged weights"):
        start_from_(model, tmp_path / "y.pt")


def test_names_alone_are_not_enough(config: ModelConfig, tmp_path: Path) -> None:
    """Anchors that agree are no reason to call a file fitting."""
    model = detector(config, seed=1)
    ema = {"head.anchors_0": model.head.anchors_0, "head.anchors_1": model.head.anchors_1}
    save_checkpoint(tmp_path / "x.pt", {**state_of(model, config), "ema": ema})
    with pytest.raises(ConfigError, match="none of its 2 tensors fits"):
        start_from_(model, tmp_path / "x.pt")
