"""Darknet cfg texts: comments and spaces, line numbers in every complaint, and the configuration of a model."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from models.build import build_model
from models.config import ModelConfig, load_model_config, model_config_from
from models.darknet.cfg import declared_classes, format_cfg, model_values, parse_cfg, read_cfg
from models.darknet.sections import Section
from tests.models.darknet.cfgs import NETWORKS
from tests.models.darknet.common import TINY, build_text, wrong
from utils.config import ROOT, ConfigError, dump_yaml, parse_yaml, to_plain

SHIPPED = sorted((ROOT / "cfg" / "darknet").glob("*.cfg"))


@pytest.mark.parametrize("text", ["", "\n\n# only a comment\n; and another\n"])
def test_nothing_is_refused(text: str) -> None:
    assert wrong(text) == "x.cfg: expected darknet sections like [net] and [convolutional], found none"
    assert "expected layers after [net]" in wrong("[net]\nwidth=32\nheight=32\n")


def test_sections_keys_lines_and_comments() -> None:
    sections = parse_cfg(TINY, where="x.cfg")
    assert [section.kind for section in sections] == ["net", "convolutional", "maxpool", "convolutional", "yolo"]
    assert [section.line for section in sections] == [1, 6, 14, 15, 20]
    assert sections[0].options == {"width": 64, "height": 32, "letter_box": 1}
    assert sections[4].integers("mask") == [1, 0]
    assert sections[4].numbers("anchors") == [10.0, 20.0, 30.0, 40.0]
    assert sections[2].integer("stride", 1) == 1


def test_windows_files_and_foreign_bytes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    windows = TINY.replace("\n", "\r\n").encode().replace(b"the image", "图像".encode("gbk"))
    path.write_bytes(b"\xef\xbb\xbf" + windows)
    assert [s.options for s in read_cfg(path)] == [s.options for s in parse_cfg(TINY, where="x.cfg")]
    with pytest.raises(ConfigError, match="cannot be read"):
        read_cfg(tmp_path / "no.cfg")


def test_text_and_plain_values_round_trip() -> None:
    for text in (TINY, NETWORKS["yolov4-tiny"].cfg().text()):
        sections = parse_cfg(text, where="x.cfg")
        again = parse_cfg(format_cfg(sections), where="y.cfg")
        assert [(s.kind, s.options) for s in again] == [(s.kind, s.options) for s in sections]
        plain = parse_yaml(dump_yaml([section.to_plain() for section in sections]))
        assert [Section.from_plain(values) for values in plain] == sections


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[net]\nwidth", "[convolutional]\nwidth", "line 1: expected [net] first, found [convolutional]"),
        ("[net]\n", "width=3\n[net]\n", "line 1: expected [net] before anything else, found 'width=3'"),
        ("[maxpool]", "[net]", "line 14: expected [net] once, at the top"),
        ("[maxpool]", "[maxpol]", "line 14: [maxpol] is no section of darknet. Did you mean [maxpool]?"),
        ("[yolo]", "[Gaussian_yolo]", "line 20: [Gaussian_yolo] is a section of darknet that is not supported here"),
        ("[maxpool]", "[local]", "line 14: [local] is a section of darknet that is not supported"),
        ("[maxpool]", "[maxpool", "line 14: expected a section like [convolutional], found '[maxpool'"),
        ("size=3", "size", "line 9: expected key=value or [section], found 'size'"),
        ("size=3", "size=three", "line 9: [convolutional] size: expected a whole number, found 'three'"),
        ("activation=leaky", "activation=elu", "line 12: [convolutional] activation: expected one of leaky, relu"),
        ("10,20", "10x20", "line 22: [yolo] anchors: expected numbers with commas between, found '10x20,30,40'"),
        ("pad=1", "xnor=1", "line 11: [convolutional] xnor=1 is not supported: it computes with the signs of weights"),
        ("pad=1", "dontload=1", "line 11: [convolutional] dontload=1 is not supported"),
        ("pad=1", "share_index=2", "line 11: [convolutional] share_index=2 is not supported"),
        ("iou_loss=ciou", "iou_loss=siou", "line 26: [yolo] iou_loss: expected one of mse, iou, giou, diou, ciou"),
        ("greedynms", "softnms", "line 27: [yolo] nms_kind: expected one of default, greedynms, diounms"),
        ("1.05", "wide", "line 25: [yolo] scale_x_y: expected a number, found 'wide'"),
    ],
)
def test_mistakes_name_the_line(old: str, new: str, message: str) -> None:
    assert message in wrong(TINY.replace(old, new, 1))


def test_a_file_that_is_no_cfg_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    with open(path, "wb") as file:
        file.truncate(10**12)  # sparse: takes no room
    with pytest.raises(ConfigError, match="expected a cfg file of darknet, below 2,000,000 bytes"):
        read_cfg(path)
    assert "expected at most 5,000 sections" in wrong("[net]\n" + "[maxpool]\n" * 6000)


def test_all_mistakes_come_at_once() -> None:
    text = TINY.replace("[maxpool]", "[maxpol]\nsize=x").replace("filters=8", "filters=x").replace("num=2", "num=y")
    assert [line.split(":")[0] for line in wrong(text).splitlines()] == [
        "x.cfg, line 8",
        "x.cfg, line 14",
        "x.cfg, line 25",
    ]


def test_unknown_and_repeated_keys_are_told(caplog: pytest.LogCaptureFixture) -> None:
    text = TINY.replace("stride=2", "strid=2\nfilters=9\nbeta1=0.6")
    with caplog.at_level(logging.WARNING):
        sections = parse_cfg(text, where="x.cfg")
    assert sections[1].options["filters"] == 8, "the first counts, as in darknet"
    assert "x.cfg, line 10: [convolutional] knows no key 'strid'" in caplog.text
    assert "Did you mean 'stride'?" in caplog.text
    assert "line 11: 'filters' stands twice" in caplog.text
    assert "'beta1'" in caplog.text
    caplog.clear()
    parse_cfg(TINY.replace("num=2", "num=2\njitter=.3\nignore_thresh=.7"), where="x.cfg")
    assert caplog.text == "", "darknet's training keys are no mistake"


def test_a_cfg_is_a_model_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mine.cfg"
    path.write_text(TINY)
    config = load_model_config(path)
    assert (config.name, config.file, config.size, config.resize) == ("mine", "mine.cfg", (32, 64), "letterbox")
    assert (config.nms, config.beta_nms) == ("greedynms", 0.6)
    assert config.head["anchors"] == [[30, 40, 10, 20]]
    assert (config.head["scale_xy"], config.head["size"], config.head["box_loss"]) == ([1.05], "exp", "ciou")
    assert declared_classes(config.backbone) == 2
    saved = model_config_from(parse_yaml(dump_yaml(to_plain(config))), where="config.yaml")
    assert saved == config, "a checkpoint needs no cfg beside it"
    assert load_model_config(path, ["head.anchors=[[1, 2]]", "image_size=64"]).head["anchors"] == [[1, 2]]


def test_levels_are_finest_first_whatever_the_file_has() -> None:
    values = model_values(parse_cfg(NETWORKS["yolov3"].cfg().text(), where="x.cfg"))
    assert values["head"]["anchors"][0] == [10, 13, 16, 30, 33, 23]
    assert values["resize"] == "stretch"
    tiny = model_values(parse_cfg(NETWORKS["yolov4-tiny"].cfg().text(), where="x.cfg"))
    assert tiny["head"]["anchors"] == [[23, 27, 37, 58, 81, 82], [81, 82, 135, 169, 344, 319]]
    assert declared_classes(load_model_config("csppeleenet-prn").backbone) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "filters=14",
            "filters=15",
            r"line 15, \[convolutional\]: filters: expected 2 anchors x \(5 \+ 2 classes\) = 14",
        ),
        ("[maxpool]", "[maxpool]\nstride=3", "expected a width and height in .net. that the network's strides divide"),
        ("activation=linear", "activation=leaky", "activation: expected linear in the convolution before a yolo layer"),
        ("activation=linear", "batch_normalize=1\nactivation=linear", "batch_normalize: expected 0"),
        ("mask = 1,0", "mask = 1,2", "mask: expected numbers of anchors, 0 to 1"),
        ("[conv]  # alias", "[route]\nlayers=-1,7\n[conv]", r"line 15, \[route\]: layers=7 from layer 2 is layer 7"),
        ("[maxpool]", "[shortcut]\nfrom=-2", "from=-2 from layer 1 is layer -1"),
        ("filters=8", "filters=8\ngroups=3", "groups=3 does not divide the 8 filters"),
        ("height = 32", "height = 0", "expected a width and height above 0"),
        ("letter_box=1", "channels=4", "channels: expected 3"),
        (
            "[yolo]",
            "[dropout]\n[yolo]",
            r"expected a \[convolutional\] layer right before it, found line 20, \[dropout\]",
        ),
    ],
)
def test_layers_that_do_not_fit_name_file_and_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_text(TINY.replace(old, new, 1))
    with pytest.raises(ConfigError, match=rf"x\.cfg: .*{message}"):
        load_model_config(path)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("darknet", {"type": "classify", "pool": "first", "dropout": 0.0}),
        ("resnet50", {"type": "classify", "pool": "last", "dropout": 0.0}),
    ],
)
def test_a_classifier_is_a_model_too(name: str, head: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "c.cfg"
    path.write_text(NETWORKS[name].cfg(divide=16).text())
    config = load_model_config(path)
    assert (config.head, config.neck, config.image_size, config.resize) == (head, None, 256, "crop")
    assert declared_classes(config.backbone) == 1000
    assert build_model(config, 7).head.num_classes == 7


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[avgpool]", "[dropout]"),
        ("[avgpool]", "[dropout]\n\n[route]\nlayers=-1"),
        ("filters=1000\nsize=1", "filters=1000\nsize=3"),
        ("filters=1000\n", "batch_normalize=1\nfilters=1000\n"),
        ("pad=1\nactivation=linear", "pad=1\nactivation=logistic"),
    ],
)
def test_networks_that_end_otherwise_are_refused(old: str, new: str, tmp_path: Path) -> None:
    text = NETWORKS["darknet"].cfg(divide=16).text()
    assert old in text
    path = tmp_path / "c.cfg"
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=r"c\.cfg: expected at least one \[yolo\] or \[region\] section; or, of a"):
        load_model_config(path)


def test_dropout_at_a_classifiers_end_is_the_heads(tmp_path: Path) -> None:
    path = tmp_path / "c.cfg"
    path.write_text(
        NETWORKS["darknet"].cfg(divide=16).text().replace("[avgpool]", "[avgpool]\n[dropout]\nprobability=.2")
    )
    model = build_model(load_model_config(path), 3)
    assert model.head.dropout.p == 0.2
    assert model.backbone.layers[-3:] and all(
        type(layer).__name__ == "Identity" for layer in model.backbone.layers[-4:]
    )


def test_elastic_networks_take_multiples_of_64(tmp_path: Path) -> None:
    network = NETWORKS["csresnext50-elastic-panet-spp"]
    with pytest.raises(ValueError, match=r"line \d+, \[route\]: maps of different size cannot be joined"):
        model_values(parse_cfg(network.cfg(size=416).text(), where="x.cfg"))
    thin = ModelConfig(**model_values(parse_cfg(network.cfg(size=64, divide=4).text(), where="x.cfg")))
    assert build_model(thin, 80).stride == 64


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_files_of_ours_are_the_published_networks(path: Path) -> None:
    """Found by their bare names; but for the masks of yolov3-tiny, which go with its authors' weights."""
    expected = parse_cfg(NETWORKS[path.stem].cfg().text(), where="tables")
    found = read_cfg(path)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        mask = {"mask": theirs.options["mask"]} if path.stem == "yolov3-tiny" and ours.kind == "yolo" else {}
        assert (ours.kind, {**ours.options, **mask}) == (theirs.kind, theirs.options)
    assert load_model_config(path.name).name == path.stem


def test_a_cfg_can_say_how_pytorch_yolov4_decodes() -> None:
    """What docs/darknet.md tells to set for its weights."""
    text = TINY.replace("size=1\nactivation=linear", "size=1\nactivation=logistic")
    text = text.replace("scale_x_y=1.05", "scale_x_y=2.0\nnew_coords=1")
    model = build_text(text)
    raw = torch.randn(1, 14, 4, 8)
    boxes, scores = model.head.decode([raw])
    values = raw.view(2, 7, 4, 8).sigmoid()
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(8), indexing="ij")
    centres = (values[:, :2] * 2 - 0.5 + torch.stack((columns, rows))) * 2
    sizes = (values[:, 2:4] * 2) ** 2 * torch.tensor([[30.0, 40], [10, 20]])[:, :, None, None]
    expected = torch.cat((centres - sizes / 2, centres + sizes / 2), dim=1).permute(0, 2, 3, 1).reshape(1, 64, 4)
    torch.testing.assert_close(boxes, expected)
    torch.testing.assert_close(scores[0], (values[:, 5:] * values[:, 4:5]).permute(0, 2, 3, 1).reshape(64, 2))
