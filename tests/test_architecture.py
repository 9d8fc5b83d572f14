"""docs/architecture.md: every part that it adds works, and every file that it names exists."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data import read
from data.config import load_data_config
from models import build
from models.config import model_config_from
from utils.config import ROOT
from utils.structures import Targets

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PYTHON = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
"""File -> code."""
MODEL = yaml.safe_load("".join(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)))
"""Backbone, neck and head."""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The modules of the page, imported under the names that they would have."""
    modules = {}
    for file, code in PYTHON.items():
        path, name = tmp_path / file, file.removesuffix(".py").replace("/", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        modules[path.stem if path.parts[-2] != "losses" else f"{path.stem}_loss"] = module
    return modules


def test_the_added_backbone_neck_head_and_loss_train(
    added: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build.BACKBONES, "plain", added["plain"].PlainBackbone)
    monkeypatch.setitem(build.NECKS, "top_down", added["top_down"].TopDown)
    monkeypatch.setitem(build.HEADS, "cell", added["cell"].CellHead)
    monkeypatch.setitem(build.CRITERIA, added["cell"].CellHead, added["cell_loss"].CellLoss)
    config = model_config_from({"name": "added", "image_size": 64, "resize": "letterbox", **MODEL}, where="model")
    model = build.build_model(config, 2)
    criterion = build.build_criterion(model, {"box_gain": 0.5}, where="loss")
    images, box = torch.rand(2, 3, 64, 64), [10.0, 20.0, 40.0, 50.0]
    targets = Targets(torch.tensor([box]), torch.tensor([1]), torch.tensor([0]), torch.tensor([False]))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    losses = []
    for _ in range(200):
        terms = criterion(model(images), targets)
        losses.append(sum(terms.values()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
    with torch.inference_mode():
        boxes, scores = model.predict(images)
    assert boxes.shape == (2, 64, 4)
    best = int(scores[0, :, 1].argmax())
    assert boxes[0, best].tolist() == pytest.approx(box, abs=5)


def test_the_added_format_is_read(
    added: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "FORMATS", (*read.FORMATS, added["csv_boxes"]))
    for folder in ("images", "boxes"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "boxes" / "a.csv").write_text("cat,1,2,30,35.5\ndog,5,5,9,9\ncow,1,1,2,2\n")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\nunreadable: object\n")
    config = load_data_config(str(tmp_path / "data.yaml"))
    images = read.read_split(config, "train")
    assert images.samples[0].boxes.tolist() == [[1, 2, 30, 35.5], [5, 5, 9, 9]]
    assert images.samples[0].labels.tolist() == [0, 1]
    (problem,) = images.problems
    assert str(problem).startswith(f"{tmp_path / 'boxes' / 'a.csv'}:3: ['cow'")
    assert read.label_format(config, "train") == "csv_boxes"


def test_every_file_that_the_page_names_exists() -> None:
    names = set(re.findall(r"`((?:engine|models|data|utils|cfg|docs|tests)/[\w/.]*)`", PAGE))
    assert len(names) > 30
    assert not [name for name in names if not (ROOT / name).exists()]
    listed = set(re.findall(r"`(\w+\.py)`", PAGE.partition("### engine/")[2].partition("## The path")[0]))
    assert {path.name for path in (ROOT / "engine").glob("[!_]*.py")} <= listed, "each file of engine/ has its row"
