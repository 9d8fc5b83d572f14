"""Classifiers as darknet files: out as .cfg and .weights, in again, and their first layers as a detector's start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import export
from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.darknet.cfg import cfg_text, parse_cfg
from models.darknet.weights import classes_in_file, count_floats_in, load_weights_, stored_layers
from models.detector import Detector
from models.predictor import open_predictor
from models.pretrained import start_from_
from tests.models.darknet.cfgs import NETWORKS, Cfg
from tests.models.darknet.common import build_text, randomise_, saved
from utils.checkpoint import save_checkpoint
from utils.config import ConfigError, to_plain

THIN = ["backbone.channels=[16, 32, 64, 128, 256]", "backbone.stem_channels=8", "backbone.depths=[1, 1, 2, 1, 1]"]
DETECTOR = load_model_config("cspdarknet53-panet-spp", [*THIN, "neck.channels=[8, 16, 32]"])
CLASSIFIER = ModelConfig(DETECTOR.backbone, {"type": "classify"}, image_size=64, resize="stretch", name="thin")
PART = 54
"""Darknet layers of the thin backbone: the stem, and a strided convolution and a partial stage five times."""


def thin(num_classes: int = 7, *, pool: str = "first", seed: int = 0) -> Detector:
    """A thin CSPDarknet-53 as a classifier, with random weights."""
    model = build_model(replace(CLASSIFIER, head={"type": "classify", "pool": pool, "dropout": 0.1}), num_classes)
    randomise_(model, seed=seed)
    return model.eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of `thin()`."""
    names = [f"thing {label}" for label in range(7)]
    about = {"names": names, "category_ids": list(range(7)), "image_size": [64, 64], "resize": "stretch"}
    save_checkpoint(tmp_path / "best.pt", {"model": to_plain(CLASSIFIER), "ema": thin().state_dict(), **about})
    return tmp_path / "best.pt"


@pytest.mark.parametrize("pool", ["first", "last"])
def test_what_is_written_classifies_the_same(pool: str, tmp_path: Path) -> None:
    model = thin(pool=pool)
    text = cfg_text(model, image_size=(64, 96))
    ends = ["avgpool", "convolutional"] if pool == "first" else ["convolutional", "avgpool"]
    assert [section.kind for section in parse_cfg(text, where="x.cfg")][-3:] == [*ends, "softmax"]
    again = build_text(text)
    load_weights_(again, saved(model, tmp_path))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(again.eval().predict(images), model.predict(images))
    assert cfg_text(again) == text, "written once more, it is the same"
    other = build_text(text, num_classes=3)
    assert "filters=3\n" in cfg_text(other)
    assert classes_in_file(other, count_floats_in(saved(model, tmp_path))) == 7
    assert load_weights_(other, saved(model, tmp_path), partial=True).skipped == 1


def test_export_writes_a_classifier(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["--weights", str(checkpoint), "--format", "darknet"]) == 0
    assert "in probabilities" in capsys.readouterr().out
    predictor = open_predictor(checkpoint.with_suffix(".weights"), device="cpu")
    assert predictor.names[6] == "thing 6"
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(predictor.predict(images), thin().predict(images).detach())


def test_a_model_file_takes_classifier_weights_of_any_number_of_classes(tmp_path: Path) -> None:
    (tmp_path / "thin.yaml").write_text(
        "backbone: {type: darknet, depths: [1, 1], channels: [8, 16], stem_channels: 8}\nhead: {type: classify}\n"
    )
    model = build_model(load_model_config(tmp_path / "thin.yaml"), 5)
    path = saved(model, tmp_path)
    assert len(open_predictor(path, cfg=tmp_path / "thin.yaml", device="cpu").names) == 5


def test_first_layers_of_a_classifier_start_a_detector(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = checkpoint.with_name(f"thin.conv.{PART}")
    assert export.main(["--weights", str(checkpoint), "--format", "darknet", "--output", str(part)]) == 0
    assert sorted(file.name for file in part.parent.iterdir()) == ["best.pt", part.name]
    classifier = thin()
    assert count_floats_in(part) == sum(layer.count for layer in stored_layers(classifier)[:-1])
    model = build_model(DETECTOR, 3)
    start_from_(model, part)
    assert (
        f"{len(stored_layers(classifier)) - 1} of {len(stored_layers(model))} layers loaded" in capsys.readouterr().out
    )
    for name, tensor in model.backbone.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, classifier.backbone.state_dict()[name]), name


@pytest.mark.parametrize("layers", [0, 58])
def test_there_are_only_so_many_layers(layers: int, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = checkpoint.with_name(f"thin.conv.{layers}")
    assert export.main(["--weights", str(checkpoint), "--format", "darknet", "--output", str(part)]) == 2
    assert "expected 1 to 57" in capsys.readouterr().err
    assert not part.exists()


def test_the_published_part_of_csdarknet53_is_its_backbone() -> None:
    """csdarknet53.conv.105: the layers before the pool, and before the neck of the detector."""
    with torch.device("meta"):
        graph = build_text(NETWORKS["csdarknet53"].cfg().text())
    assert graph.backbone.outputs == [104]
    assert graph.backbone.classifier.conv == 106


def test_a_part_that_is_no_number_is_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--weights", str(checkpoint), "--format", "darknet", "--output", str(checkpoint.with_name("x.conv"))]
    assert export.main(arguments) == 2
    assert "x.conv.N for its first N layers" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="start a training from it"):
        open_predictor(checkpoint.with_name("x.conv.3"))


@pytest.mark.parametrize("end", ["pool", "convolution", "convolution alone"])
def test_a_classifier_may_end_in_a_leaky_convolution(end: str, tmp_path: Path) -> None:
    """As extraction.cfg and cifar.cfg do; also with nothing after it, and without a pool where there is one cell."""
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("this OpenCV has no darknet reader (OpenCV 5)")
    cfg = Cfg(32)
    cfg.conv(8, 3, 2)
    if end == "convolution":
        cfg.add("avgpool")
    elif end == "convolution alone":
        cfg.maxpool(16, 16)
    cfg.plain_conv(5, "leaky")
    if end == "pool":
        cfg.add("avgpool")
        cfg.add("softmax", groups=1)
    (tmp_path / "c.cfg").write_text(cfg.text())
    config = load_model_config(tmp_path / "c.cfg")
    order = "first" if end == "convolution" else "last"
    assert config.head == {"type": "classify", "pool": order, "dropout": 0.0, "activation": "leaky"}
    model = build_model(config, 5).eval()
    randomise_(model)
    weights, image = saved(model, tmp_path), torch.rand(1, 3, 32, 32)
    net = cv2.dnn.readNetFromDarknet(np.frombuffer(cfg.text().encode(), np.uint8), np.fromfile(weights, np.uint8))
    net.setInput(image.numpy())
    with torch.no_grad():
        (logits,) = model(image)
        found = model.predict(image) if end == "pool" else logits
    assert end == "pool" or (logits < 0).any(), "else leaky would be nothing"
    np.testing.assert_allclose(found.numpy(), net.forward().reshape(1, 5), rtol=1e-3, atol=1e-5)
    other = parse_cfg(cfg_text(build_model(config, 3)), where="x")
    assert [each.kind for each in other] == [each.kind for each in parse_cfg(cfg.text(), where="x")]
    assert [each for each in other if each.kind == "convolutional"][-1].options["filters"] == 3


def test_a_head_with_an_activation_is_written_with_it() -> None:
    head = {"type": "classify", "activation": "leaky", "pool": "last"}
    text = cfg_text(build_model(replace(CLASSIFIER, head=head), 7), image_size=(64, 64))
    assert build_text(text).head.act.negative_slope == 0.1
    assert "filters=7\nsize=1\nstride=1\npad=1\nactivation=leaky\n\n[avgpool]" in text
