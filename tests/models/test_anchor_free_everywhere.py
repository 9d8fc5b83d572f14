"""The anchor-free head on every backbone and neck: builds, judges, back-propagates and decodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.build import build_criterion, build_model, task_of
from models.config import load_model_config
from utils.config import ROOT
from utils.structures import Targets


def detectors() -> list[Path]:
    """All model files of detectors, darknet's too."""
    files = [*sorted((ROOT / "cfg").glob("*.yaml")), *sorted((ROOT / "cfg" / "darknet").glob("*.cfg"))]
    return [file for file in files if task_of(load_model_config(str(file))) == "detect"]


def parts(file: Path) -> tuple[str, str]:
    """Types of backbone and neck."""
    config = load_model_config(str(file))
    return config.backbone["type"], (config.neck or {}).get("type", "none")


def width(file: Path) -> int:
    """Of the widest stage; the narrower files are the faster tests."""
    return max(load_model_config(str(file)).backbone.get("channels", [512]))


FILES = detectors()
PAIRS = {parts(file): file for file in sorted(FILES, key=width, reverse=True)}
"""The narrowest file of each pair of backbone and neck; the slow test has all files."""


def check(file: Path, assigner: str) -> None:
    config = load_model_config(str(file), ["head={type: anchor_free}"])
    model = build_model(config, 3).train()
    boxes = torch.tensor([[4.0, 4, 40, 50], [10, 10, 30, 20], [1, 1, 60, 60]])
    targets = Targets(boxes, torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.bool))
    images = torch.rand(2, 3, 64, 64)
    criterion = build_criterion(model, {"assigner": {"type": assigner}}, where="loss")
    sum(criterion(model(images), targets).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    found, scores = model.eval().predict(images)
    cells = sum((64 // stride) ** 2 for stride in model.head.strides)
    assert found.shape == (2, cells, 4)
    assert scores.shape == (2, cells, 3)
    assert found.isfinite().all()


def test_all_kinds_of_parts_are_there() -> None:
    backbones, necks = zip(*PAIRS, strict=True)
    assert {"darknet", "darknet_ref", "darknet_tiny", "dense_ref", "mobilenet", "peleenet", "resnet"} <= set(backbones)
    assert {"panet", "fpn", "additive_fpn", "tiny_fpn", "prn", "gfm", "efm", "cem", "bifpn"} <= set(necks)


@pytest.mark.parametrize("pair", sorted(PAIRS), ids="-".join)
def test_every_pair_of_backbone_and_neck_takes_it(pair: tuple[str, str]) -> None:
    check(PAIRS[pair], "task_aligned")


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_detector_takes_it(file: Path) -> None:
    check(file, "simota")
