"""Weights for other classes: the outputs of those with the same names come, whatever the head."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.darknet.weights import save_weights
from models.detector import Detector
from models.names import ClassMatch, known_names, match_names
from models.pretrained import start_from_
from tests.models.yolox_reference import random_weights
from utils.checkpoint import save_checkpoint
from utils.config import to_plain

THEIRS = ("red", "green", "light blue", "grey")
OWN = ("Grey", "violet", "light_blue")
"""Labels 3, none and 2 of THEIRS."""

HEADS: dict[str, dict[str, Any]] = {
    "anchor": {},
    "anchor_free": {"type": "anchor_free", "bins": 4, "depth": 1, "class_channels": 24},
    "one_to_one": {"type": "anchor_free", "bins": 4, "depth": 1, "class_channels": 24, "one_to_one": True},
    "decoupled": {"type": "decoupled", "channels": 16, "depth": 1},
    "classify": {"type": "classify"},
}


def config_of(tiny_model: Path, kind: str) -> ModelConfig:
    plain = to_plain(load_model_config(tiny_model))
    head = HEADS[kind] or plain["head"]
    return ModelConfig(**{**plain, "head": head, "neck": None if kind == "classify" else plain["neck"]})


def built(config: ModelConfig, classes: int, *, seed: int) -> Detector:
    """With random numbers everywhere: fresh biases are the same for all classes."""
    torch.manual_seed(seed)
    model = build_model(config, classes)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save(model: Detector, config: ModelConfig, path: Path, names: tuple[str, ...]) -> None:
    about = {"names": list(names), "category_ids": list(range(len(names))), "model": to_plain(config)}
    save_checkpoint(path, {**about, "image_size": [64, 64], "resize": "letterbox", "ema": model.state_dict()})


def outputs(model: Detector, classes: int, *, training: bool = False) -> tuple[Tensor, Tensor]:
    """All outputs that are not for classes, and (N, C) those that are, by position."""
    torch.manual_seed(5)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = model.head.train(training)(model.neck(model.backbone(images)))
    model.eval()
    groups, before = next(iter(model.head.class_layers().values()))
    rows = [raw.flatten(2).transpose(1, 2) if raw.ndim == 4 else raw[:, None] for raw in maps]
    if not before:  # the classes come last
        before = rows[0].shape[-1] - classes
    parts = [each.unflatten(-1, (groups, before + classes)) for each in rows]
    beside = torch.cat([each[..., :before].flatten() for each in parts])
    return beside, torch.cat([each[..., before:].flatten(0, -2) for each in parts])


@pytest.mark.parametrize("kind", HEADS)
def test_known_classes_are_found_as_before_and_others_are_fresh(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    config = config_of(tiny_model, kind)
    source, model = built(config, 4, seed=1), built(config, 3, seed=2)
    save(source, config, tmp_path / "x.pt", THEIRS)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO):
        started = start_from_(model, tmp_path / "x.pt", names=OWN)
    assert (started.is_whole, started.known) == (False, 2)
    layers = [f"head.{layer}" for layer in model.head.class_layers()]
    assert set(started.new) == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    for training in (False, True) if kind == "one_to_one" else (False,):  # both pairs of branches
        (beside, own), (theirs_beside, theirs) = (
            outputs(each, classes, training=training) for each, classes in ((model, 3), (source, 4))
        )
        torch.testing.assert_close(beside, theirs_beside)
        torch.testing.assert_close(own[:, [0, 2]], theirs[:, [3, 2]])
        assert (own[:, 1] != theirs[:, 1]).any()
    for layer, (groups, before) in model.head.class_layers().items():
        for part in ("weight", "bias"):
            name = f"head.{layer}.{part}"
            rows, before_rows = (
                values[name].unflatten(0, (groups, -1))[:, before + 1] for values in (model.state_dict(), fresh)
            )
            assert torch.equal(rows, before_rows), name
    assert "Outputs of 2 of 3 classes copied by name: Grey, light_blue; left as initialised: violet" in caplog.text


@pytest.mark.parametrize("kind", HEADS)
def test_the_same_classes_in_another_order_are_the_same_model(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    config = config_of(tiny_model, kind)
    source, model = built(config, 4, seed=1), built(config, 4, seed=2)
    save(source, config, tmp_path / "x.pt", THEIRS)
    started = start_from_(model, tmp_path / "x.pt", names=THEIRS[::-1])
    assert (started.is_whole, started.known, started.new) == (True, 4, ())
    (beside, own), (theirs_beside, theirs) = outputs(model, 4), outputs(source, 4)
    torch.testing.assert_close(beside, theirs_beside)
    torch.testing.assert_close(own.flip(1), theirs)


@pytest.mark.parametrize("kind", ["anchor", "decoupled"])
def test_as_many_classes_of_other_names_are_not_taken_for_the_same(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    config = config_of(tiny_model, kind)
    source, model = built(config, 4, seed=1), built(config, 4, seed=2)
    save(source, config, tmp_path / "x.pt", THEIRS)
    names = [f"head.{layer}.bias" for layer in model.head.class_layers()]
    biases = [model.state_dict()[name].clone() for name in names]
    with caplog.at_level(logging.INFO):
        started = start_from_(model, tmp_path / "x.pt", names=("a", "b", "c", "d"))
    assert (started.is_whole, started.known) == (False, 0)
    assert "No class of the file has the name of one of the data" in caplog.text
    for name, bias in zip(names, biases, strict=True):
        groups = 3 if kind == "anchor" else 1
        after, before = (each.unflatten(0, (groups, -1))[:, -4:] for each in (model.state_dict()[name], bias))
        assert torch.equal(after, before)


def test_a_released_file_gives_the_classes_of_coco_by_name(tmp_path: Path) -> None:
    weights = random_weights()
    torch.save({"model": weights}, tmp_path / "yolox_nano.pth")
    model = build_model(load_model_config("yolox-nano"), 3)
    fresh = model.head.class_branches[0][-1].weight.clone()
    started = start_from_(model, tmp_path / "yolox_nano.pth", names=("drone", "Person", "traffic light"))
    assert (started.known, started.is_darknet) == (2, False)
    rows, theirs = model.head.class_branches[0][-1].weight, weights["head.cls_preds.0.weight"]
    assert torch.equal(rows[0], fresh[0])
    assert torch.equal(rows[1:], theirs[[0, 9]])


def test_a_darknet_file_gives_its_classes_by_name(tiny_model: Path, tmp_path: Path) -> None:
    config = config_of(tiny_model, "anchor")
    source, model = built(config, 4, seed=1), built(config, 3, seed=2)
    save_weights(source, tmp_path / "x.weights")
    started = start_from_(build_model(config, 3), tmp_path / "x.weights", names=OWN)
    assert started.known == 0, "its classes have no names"
    (tmp_path / "x.names").write_text("\n".join(THEIRS))
    started = start_from_(model, tmp_path / "x.weights", names=OWN)
    assert (started.is_whole, started.known, started.is_darknet) == (False, 2, True)
    assert set(started.new) == {f"head.convs.{level}.{part}" for level in (0, 1) for part in ("weight", "bias")}
    (beside, own), (theirs_beside, theirs) = outputs(model, 3), outputs(source, 4)
    torch.testing.assert_close(beside, theirs_beside)
    torch.testing.assert_close(own[:, [0, 2]], theirs[:, [3, 2]])
    (tmp_path / "x.names").unlink()
    same = built(config, 4, seed=3)
    assert start_from_(same, tmp_path / "x.weights", names=THEIRS[::-1]).is_whole, "as many, without names: in order"
    assert torch.equal(outputs(same, 4)[1], theirs)


@pytest.mark.parametrize(
    ("own", "theirs", "guessed", "labels"),
    [
        ((), ("a",), False, ()),
        (("Dog", "dog"), ("dog", "Dog", "DOG"), False, (1, 0)),
        (("dog", "dog "), ("dog",), False, (0, None)),
        (("b-c", "a"), ("a", "B_c"), False, (1, 0)),
        (("x", "y"), ("a", "b"), True, (0, 1)),
        (("b", "a"), ("a", "b"), True, (1, 0)),
        (("x", "b"), ("a", "b"), False, (None, 1)),
    ],
)
def test_which_class_is_which(own: tuple, theirs: tuple, guessed: bool, labels: tuple) -> None:
    match = match_names(own, theirs, guessed=guessed)
    assert match == ClassMatch(labels, len(theirs))


def test_darknets_own_names_of_cocos_classes_keep_their_places() -> None:
    """A data set with darknet's spelling (motorbike, sofa, ...) has COCO's 80 classes in COCO's order."""
    names = ["motorbike" if name == "motorcycle" else name for name in known_names(80)]
    assert match_names(names, known_names(80), guessed=True).is_identity


def test_a_head_of_another_number_of_anchors_is_not_read_by_class(tiny_model: Path, tmp_path: Path) -> None:
    config = config_of(tiny_model, "anchor")
    fewer = ModelConfig(**{**to_plain(config), "head": {**config.head, "anchors": [[12, 12], [24, 24]]}})
    source, model = built(fewer, 10, seed=1), built(config, 3, seed=2)  # 15 outputs, which are 3 x 5
    names = tuple(f"c{label}" for label in range(10))
    save(source, fewer, tmp_path / "x.pt", names)
    fresh = model.head.convs[0].bias.clone()
    started = start_from_(model, tmp_path / "x.pt", names=names[:3])
    assert (started.known, started.is_whole) == (0, False)
    assert torch.equal(model.head.convs[0].bias, fresh)
