"""Our models as darknet cfgs: the authors' files section by section, and the same maps from what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from models.benchmark.costs import classes_of
from models.build import HEADS, build_model
from models.config import load_model_config
from models.darknet.cfg import cfg_text, parse_cfg
from models.darknet.sections import Section
from models.darknet.weights import load_weights_
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.heads.classify import ClassifyHead
from models.layers import ConvNormAct, Maxout, WeightedShortcut
from tests.models.darknet.cfgs import NETWORKS
from tests.models.darknet.common import build_text, quick, randomise_, saved
from utils.config import ROOT, ConfigError
from utils.schema import build

OURS = sorted(path.stem for path in (ROOT / "cfg").glob("*.yaml"))
QUICK = {
    "csresnext50-panet-spp",
    "yolov4-tiny",
    "yolov3-spp",
    "yolov3-tiny-prn",
    "csdarknet53-elastic",
    "csmobilenet-v2",
}
PUBLISHED = sorted(name for name, network in NETWORKS.items() if network.yaml in OURS)


def test_layers_are_those_of_the_authors_files() -> None:
    with_files = {name for name, network in NETWORKS.items() if network.yaml}
    others = {"resnet50", "yolov2", "yolov2-tiny"}  # the first classifies before its pool
    assert set(PUBLISHED) == with_files == NETWORKS.keys() - others


@pytest.mark.parametrize("name", quick(PUBLISHED, QUICK))
def test_sections_are_those_of_the_authors_files(name: str) -> None:
    network = NETWORKS[name]
    config = load_model_config(network.yaml)
    with torch.device("meta"):
        model = build_model(config, classes_of(config))
    if model.task == "detect":  # its anchors are to be read
        model.head = build(HEADS, config.head, where="head", features=model.neck.features, num_classes=80)
    text = cfg_text(model, image_size=(network.size, network.size))
    written, expected = (parse_cfg(each, where=name) for each in (text, network.cfg().text()))
    assert len(written) == len(expected)
    for ours, theirs in zip(written[1:], expected[1:], strict=True):
        assert ours.kind == theirs.kind
        if ours.kind == "yolo":  # theirs say more, of training
            assert masked_anchors(ours) == masked_anchors(theirs), theirs.where
            assert ours.number("scale_x_y", 1) == theirs.number("scale_x_y", 1), theirs.where
        else:
            assert ours.options == theirs.options, theirs.where


def masked_anchors(yolo: Section) -> list[list[float]]:
    anchors = yolo.numbers("anchors")
    return [anchors[2 * number : 2 * number + 2] for number in yolo.integers("mask")]


@pytest.mark.parametrize("name", ["cspdet-n", "cspdet-n-p2", "cspdet-n-dw5", "csppeleenet-prn"])
def test_what_is_written_computes_the_same(name: str, tmp_path: Path) -> None:
    thin = {
        "cspdet-n": ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"],
        "cspdet-n-p2": ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 8, 16, 24]"],
        "cspdet-n-dw5": ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"],
        "csppeleenet-prn": ["backbone.depths=[1, 1, 2, 1]", "head.size=square", "head.scale_xy=2"],
    }
    model = build_model(load_model_config(name, thin[name]), 3)
    randomise_(model)
    text = cfg_text(model, image_size=(64, 96), resize="letterbox")
    assert text.startswith("[net]\nbatch=1\nsubdivisions=1\nwidth=96\nheight=64\nchannels=3\nletter_box=1\n")
    again = build_text(text)
    load_weights_(again, saved(model, tmp_path))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        first, second = (each.eval().predict(images) for each in (model, again))
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two)
    assert cfg_text(again) == text, "written once more, it is the same"


REFUSED = {
    "csppeleenet-cem-sam": "darknet adds maps of one size only, unlike 'add' in 'neck' (CEM)",
    "cspresnext50-panet-spp-rfbn-asff": "darknet has no section for 'softmax' in 'neck.asff.levels.0'",
}
"""Model files with parts that darknet does not have: a global context, weights of every position."""


@pytest.mark.parametrize(
    "name", quick(OURS, {"csppeleenet-efm-sam", "efficientnet-b0-prn", "cspdensenetb-ref", *REFUSED})
)
def test_every_model_file_goes_out_and_in_or_is_refused_by_name(name: str, tmp_path: Path) -> None:
    model = build_model(load_model_config(name), 3).eval()
    if not isinstance(model.head, (AnchorHead, ClassifyHead)):
        pytest.skip("darknet has no such head; the test below")
    randomise_(model)
    size = (2 * model.stride,) * 2 if model.stride > 1 else (64, 64)
    if name in REFUSED:
        with pytest.raises(ConfigError) as caught:
            cfg_text(model, image_size=size)
        assert REFUSED[name] in str(caught.value)
        return
    text = cfg_text(model, image_size=size)
    again = build_text(text)
    load_weights_(again, saved(model, tmp_path))
    images = torch.rand(1, 3, *size)
    with torch.no_grad():
        for one, two in zip(model(images), again.eval()(images), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert cfg_text(again) == text


def test_weighted_sums_and_maxout_become_sections(tmp_path: Path) -> None:
    """BiFPN's weights go into the weights file; Maxout is [maxpool] with maxpool_depth; a dilated 3x3 stays one."""
    neck = {"type": "bifpn", "channels": 8, "levels": 2, "repeats": 1}
    thin = load_model_config("cspdet-n", ["backbone.channels=[8, 16, 24, 32]"])
    head = {"type": "anchor", "anchors": [[10, 13], [30, 61]]}
    model = build_model(replace(thin, neck=neck, head=head), 2)
    step = nn.Sequential(Maxout(32, 24), ConvNormAct(24, 32, 3, dilation=2))
    model = Detector(Between(model.backbone, step), model.neck, model.head).eval()
    randomise_(model)
    for module in model.modules():
        if isinstance(module, WeightedShortcut):
            nn.init.uniform_(module.weights, 0.1, 1)
    text = cfg_text(model, image_size=(64, 64))
    for line in ("weights_type=per_feature", "weights_normalization=relu", "maxpool_depth=1", "dilation=2"):
        assert f"{line}\n" in text
    again = build_text(text)
    load_weights_(again, saved(model, tmp_path))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for one, two in zip(model(images), again.eval()(images), strict=True):
            torch.testing.assert_close(one, two)


def test_a_head_that_darknet_does_not_have_is_named(tmp_path: Path) -> None:
    model = build_model(load_model_config("cspdet-n", ["backbone.channels=[8, 16, 24, 32]"]), 2)
    model.head = nn.Identity()
    with pytest.raises(ConfigError, match="no section for a head of type Identity; only for anchor, region and"):
        cfg_text(model)
    with pytest.raises(ConfigError, match="cannot hold a model with a head of type Identity"):
        saved(model, tmp_path)


def test_a_cfg_keeps_its_text_but_for_classes_and_anchors() -> None:
    text = NETWORKS["yolov4-tiny"].cfg(divide=16).text()
    same = cfg_text(build_text(text))
    sections = parse_cfg(text, where="x")
    assert [s.options for s in parse_cfg(same, where="y")] == [s.options for s in sections]
    model = build_text(text, num_classes=2)
    with torch.no_grad():
        model.head.anchors_0[0] = torch.tensor([20.5, 30.0])
    again = parse_cfg(cfg_text(model, image_size=(64, 32), resize="letterbox"), where="y")
    assert again[0].options == {**sections[0].options, "height": 64, "width": 32, "letter_box": 1}
    yolos = [section for section in again if section.kind == "yolo"]
    assert [yolo.options["mask"] for yolo in yolos] == ["2,3,4", "0,1,2"]
    assert all(yolo.options["anchors"] == "20.5,30,37,58,81,82,135,169,344,319" for yolo in yolos)
    assert all((yolo.options["classes"], yolo.options["num"]) == (2, 5) for yolo in yolos)
    assert build_text(cfg_text(model)).head.anchors[0].tolist() == [[20.5, 30], [37, 58], [81, 82]]


class Between(nn.Module):
    """A backbone that ends in something."""

    def __init__(self, backbone: nn.Module, step) -> None:
        super().__init__()
        self.features, self.backbone, self.step = backbone.features, backbone, step

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.backbone(images)
        return [*maps[:-1], self.step(maps[-1])]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda x: x.relu(), "darknet has no section for 'relu"),
        (nn.Dropout2d(0.5), "darknet has no section for 'backbone.step' \\(Dropout2d\\)"),
        (nn.AvgPool2d(3, 1, 1), "darknet has no pool like"),
        (nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), "darknet has no pool like"),
        (
            nn.Sequential(nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 1)),
            "darknet has no section for 'backbone.step.0' \\(ConstantPad2d\\)",
        ),
        (nn.LeakyReLU(0.2), "no section for an activation by itself: 'backbone.step' \\(LeakyReLU\\)"),
        (ConvNormAct(32, 32, activation="leaky_relu"), "darknet has no activation like that of 'backbone.step'"),
        (lambda x: x + x.mean((2, 3), keepdim=True), "darknet has no section for 'mean' in 'backbone' \\(Between\\)"),
        (nn.Upsample(scale_factor=1, mode="bilinear"), "upsamples by repetition only"),
        (lambda x: torch.cat((x[:, 1:9], x[:, :1], x[:, 9:]), dim=1), "darknet cuts maps into equal parts only"),
        (lambda x: torch.cat((x,), dim=2), "joins by dimension 2"),
        (lambda x: x if x.mean() > 0 else -x, "its steps depend on the image"),
    ],
)
def test_what_darknet_does_not_have_is_named(step, message: str) -> None:
    config = load_model_config("cspdet-n", ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"])
    model = build_model(config, 2)
    with pytest.raises(ConfigError, match=message):
        cfg_text(Detector(Between(model.backbone, step), model.neck, model.head), image_size=(64, 64))


def test_gates_and_sums_become_sections(tmp_path: Path) -> None:
    """sigmoid(conv(x)) * x is [sam], a product with a pooled map [scale_channels], x + y [shortcut]."""
    config = load_model_config(
        "cspdet-n", ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]", "neck.activation=linear"]
    )
    model = build_model(config, 2)

    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.squeeze = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)
            self.pool, self.logistic = nn.AdaptiveAvgPool2d(1), nn.Sigmoid()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x * self.logistic(self.conv(x))
            x = torch.sigmoid(self.squeeze(self.pool(x))) * x
            first, second = x.chunk(2, dim=1)
            return torch.cat((second, first), dim=1) + x

    model = Detector(Between(model.backbone, Gates()), model.neck, model.head)
    randomise_(model)
    text = cfg_text(model, image_size=(64, 64))
    assert all(f"[{kind}]" in text for kind in ("sam", "avgpool", "scale_channels"))
    again = build_text(text)
    load_weights_(again, saved(model, tmp_path))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for one, two in zip(model.eval()(images), again.eval()(images), strict=True):
            torch.testing.assert_close(one, two)


def test_the_kind_of_nms_is_written_where_the_cfg_does_not_say() -> None:
    model = build_model(load_model_config("yolov4-tiny", ["backbone.channels=[4, 8, 8]"]), 2)
    text = cfg_text(model, image_size=(64, 64), nms={"nms_kind": "greedynms", "beta_nms": 0.6})
    yolos = [section for section in parse_cfg(text, where="x") if section.kind == "yolo"]
    assert all(yolo.options["nms_kind"] == "greedynms" for yolo in yolos)
    assert cfg_text(build_text(text), nms={"nms_kind": "diounms", "beta_nms": 0.5}) == text, "what it says stays"
