"""YOLOv2: its layers against NumPy and OpenCV, its cfgs and weights in and out, grey networks, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import export
import train
from engine.detector import load_detector
from models.build import build_model
from models.config import load_model_config
from models.darknet.cfg import cfg_text, parse_cfg
from models.darknet.header import WeightsHeader
from models.darknet.weights import classes_in_file, count_floats_in, load_weights_, save_weights
from models.heads.region import RegionHead
from models.postprocess import postprocess
from tests.models.darknet.cfgs import ANCHORS_V2, NETWORKS
from tests.models.darknet.common import build_text, difference, opencv_maps, our_maps, randomise_, saved, wrong
from tests.models.darknet.test_graph import run
from utils.boxes import cxcywh_to_xyxy

SMALL = {name: NETWORKS[name].cfg(size=64, divide=8).text() for name in ("yolov2", "yolov2-tiny")}


def reorg_by_hand(x: np.ndarray, stride: int) -> np.ndarray:
    """Darknet's reorg_cpu as reorg_old_layer.c calls it: both shapes are those of the input, element by element."""
    channels, height, width = x.shape
    narrow = channels // stride**2
    flat, out = x.ravel(), np.empty(x.size, x.dtype)
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                column = i * stride + k // narrow % stride
                row = j * stride + k // narrow // stride
                out[i + width * (j + height * k)] = flat[
                    column + width * stride * (row + height * stride * (k % narrow))
                ]
    return out.reshape(channels * stride**2, height // stride, width // stride)


def reorg3d_by_hand(x: np.ndarray, stride: int) -> np.ndarray:
    """The cells of each square behind each other."""
    return np.concatenate([x[:, y::stride, z::stride] for y in range(stride) for z in range(stride)])


@pytest.mark.parametrize(("stride", "channels", "size"), [(2, 8, (6, 4)), (2, 4, (2, 6)), (3, 9, (3, 6))])
@pytest.mark.parametrize("kind", ["reorg", "reorg3d"])
def test_cells_become_channels_in_darknets_order(kind: str, stride: int, channels: int, size: tuple[int, int]) -> None:
    x, found = run(f"[{kind}]\nstride={stride}\n", size=size, channels=channels)
    by_hand = reorg_by_hand if kind == "reorg" else reorg3d_by_hand
    np.testing.assert_array_equal(found, by_hand(x, stride))
    assert sorted(found.ravel()) == sorted(x.ravel()), "nothing is lost"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("[reorg]\nstride=2\n", "line 7, [reorg]: expected a height and width that 2 divides and a number of channels"),
        ("[reorg3d]\nstride=4\n", "a height and width that 4 divides, found 6 x 6 x 8"),
        ("[reorg]\n", "stride: expected 2 or more, found 1"),
    ],
)
def test_maps_that_reorg_cannot_fold_are_refused(layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run(layer, channels=6)


def opencv_boxes(text: str, weights: Path, images: Tensor) -> np.ndarray:
    """What OpenCV's region layer gives: rows of cx, cy, w, h (shares), objectness, scores; its NMS sets some to 0."""
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("this OpenCV has no darknet reader (OpenCV 5)")
    net = cv2.dnn.readNetFromDarknet(np.frombuffer(text.encode(), np.uint8), np.fromfile(weights, np.uint8))
    net.setInput(np.ascontiguousarray(images.numpy()))
    return net.forward()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("classes", [20, 2])
def test_maps_boxes_and_scores_are_opencvs(name: str, classes: int, tmp_path: Path) -> None:
    """Also the detections that are left after NMS at 0.4, which OpenCV does in its layer."""
    text = NETWORKS[name].cfg(size=128, divide=8).text().replace("thresh=0.6", "thresh=0.05")
    text = text.replace("classes=80", f"classes={classes}")
    text = text.replace("filters=425", f"filters={5 * (5 + classes)}")
    model = build_text(text)
    randomise_(model, seed=3)
    with torch.no_grad():
        model.head.convs[0].weight.mul_(3)  # for scores that are worth looking at
    weights, image = saved(model, tmp_path), torch.rand(1, 3, 128, 128)
    for expected, found in zip(opencv_maps(text, weights, image), our_maps(model, image), strict=True):
        assert difference(found, expected) < 1e-3

    rows = opencv_boxes(text, weights, image)
    with torch.no_grad():
        boxes, scores = model.predict(image)
    order = torch.arange(boxes.shape[1]).view(5, 4, 4).permute(1, 2, 0).flatten()  # OpenCV: row, column, anchor
    boxes, scores = boxes[0, order], scores[0, order]
    expected = cxcywh_to_xyxy(torch.from_numpy(rows[:, :4])) * 128
    assert difference(boxes.numpy(), expected.numpy()) < 1e-3
    kept = rows[:, 5:] > 0
    assert 3 < kept.sum() < (scores > 0.05).sum(), "something was found, something suppressed"
    np.testing.assert_allclose(scores.numpy()[kept], rows[:, 5:][kept], rtol=2e-3, atol=1e-4)

    (found,) = postprocess(boxes[None], scores[None], conf_thres=0.05, iou_thres=0.4, max_det=1000)
    row, label = kept.nonzero()
    order = np.lexsort((-rows[row, 5 + label], label))
    ours = np.lexsort((-found.scores, found.labels))
    np.testing.assert_array_equal(found.labels[ours], label[order])
    np.testing.assert_allclose(found.scores[ours], rows[row, 5 + label][order], rtol=2e-3, atol=1e-4)
    assert difference(found.boxes[ours], expected.numpy()[row][order]) < 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_cfgs_and_weights_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    text = SMALL[name]
    model = build_text(text)
    randomise_(model)
    path = saved(model, tmp_path)
    again = build_text(cfg_text(model))
    assert cfg_text(again) == cfg_text(model)
    assert [each.options for each in parse_cfg(cfg_text(model), where="x")] == [
        each.options for each in parse_cfg(text, where="x")
    ]
    assert load_weights_(again, path).last.startswith("layer ")
    assert saved(again, tmp_path).read_bytes() == path.read_bytes()
    save_weights(model, path, header=WeightsHeader(seen=2**63 + 5))
    other = build_text(text, num_classes=3)
    assert classes_in_file(other, count_floats_in(path)) == 80
    assert load_weights_(other, path, partial=True).skipped == 1
    assert other.head.seen > 12800 > again.head.seen, "the images that the file was trained on count"
    last = parse_cfg(cfg_text(other), where="x")[-2:]
    assert (last[0].integer("filters"), last[1].integer("classes"), last[1].text("softmax", "")) == (40, 3, "1")
    assert last[1].numbers("anchors") == pytest.approx([float(side) for side in ANCHORS_V2.split(",")], rel=0)


def test_anchors_are_in_cells_in_the_file_and_in_pixels_in_the_head() -> None:
    model = build_text(SMALL["yolov2"], num_classes=3)
    assert model.head.anchors[0][0].tolist() == pytest.approx([32 * 0.57273, 32 * 0.677385])
    model.head.set_anchors_([[64.0, 32, 16, 16, 8, 12.3, 1.6, 3.2, 100, 90]])
    (region,) = (each for each in parse_cfg(cfg_text(model), where="x") if each.kind == "region")
    assert region.options["anchors"] == "2.0,1.0,0.5,0.5,0.25,0.384375,0.05,0.1,3.125,2.8125"
    assert torch.equal(build_text(cfg_text(model)).head.anchors[0], model.head.anchors[0])


def test_what_a_region_says_of_its_loss_is_the_heads(caplog: pytest.LogCaptureFixture) -> None:
    head = build_text(SMALL["yolov2-tiny"]).head
    assert (head.softmax, head.rescore, head.bias_match, head.thresh) == (True, False, True, pytest.approx(0.6))
    assert head.scales == {"object_scale": 5, "noobject_scale": 1, "coord_scale": 1, "class_scale": 1}
    assert not caplog.text
    start, _, _ = SMALL["yolov2-tiny"].partition("[region]")
    head = build_text(f"{start}[region]\nanchors={ANCHORS_V2}\nnum=5\nclasses=80").head
    assert (head.softmax, head.rescore, head.bias_match, head.thresh) == (False, False, False, 0.5)
    assert set(head.scales.values()) == {1}, "darknet's defaults"
    assert "softmax=0: a class's score is the sigmoid of its value, as in pjreddie's darknet" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("coords=4", "coords=8", "coords=8 is not supported: its predictions have more than a box"),
        ("coords=4", "tree=9k.tree", "tree=9k.tree is not supported: its classes form a tree"),
        ("coords=4", "classfix=1", "classfix=1 is not supported"),
        ("coords=4", "background=1", "background=1 is not supported: one of its classes is the background"),
        ("[region]", "[detection]", "[detection] is a section of darknet that is not supported here"),
        ("stride=2\n\n[route]", "stride=2\nreverse=1\n[route]", "[reorg] reverse=1 is not supported"),
        ("activation=leaky", "activation=silu", "found 'silu'; in darknet it is called swish"),
    ],
)
def test_what_stays_refused_is_named(old: str, new: str, message: str) -> None:
    assert message in wrong(SMALL["yolov2"].replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("filters=425", "filters=255", "filters: expected 5 anchors x (5 + 80 classes) = 425 for line"),
        ("num=5", "num=6", "anchors: expected num=6 pairs of width and height above 0, found 10 values"),
        (
            "activation=linear",
            "activation=relu",
            "activation: expected linear in the convolution before a region layer",
        ),
    ],
)
def test_a_region_that_does_not_fit_its_convolution_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build_text(SMALL["yolov2"].replace(old, new))


def test_levels_of_two_kinds_are_refused() -> None:
    conv = "[conv]\nfilters=14\nactivation=linear\n"
    first = "[net]\nwidth=64\nheight=64\n[conv]\nfilters=4\nactivation=leaky\n" + conv
    yolo = "[yolo]\nanchors=4,5, 6,7\nnum=2\nclasses=2\n"
    region = yolo.replace("yolo", "region") + "softmax=1\n"
    with pytest.raises(
        ValueError, match=r"\[yolo\]: expected all layers of one kind, but line 10, \[region\] is another"
    ):
        build_text(first + region + "[route]\nlayers=0\n" + conv + yolo)
    with pytest.raises(ValueError, match=r"thresh=0.5, but line 10, \[region\] has 0.6"):
        build_text(first + region + "thresh=0.6\n[route]\nlayers=0\n" + conv + region)
    assert isinstance(build_text(first + region + "[route]\nlayers=0\n" + conv + region).head, RegionHead)


GREY = SMALL["yolov2"].replace("channels=3", "channels=1")


def test_grey_networks_take_rgb_and_compute_what_opencv_does(tmp_path: Path) -> None:
    model = build_text(GREY, num_classes=80)
    randomise_(model)
    weights, images = saved(model, tmp_path), torch.rand(1, 3, 64, 64)
    grey = cv2.cvtColor(images[0].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)
    (expected,) = opencv_maps(GREY, weights, torch.from_numpy(grey)[None, None])
    (found,) = our_maps(model, images)
    assert difference(found, expected) < 1e-3
    assert model.backbone.layers[0].conv.in_channels == 1
    assert "channels=1\n" in cfg_text(model)
    with pytest.raises(ValueError, match=r"line 1, \[net\]: channels: expected 3 \(RGB\) or 1 \(grey\), found 4"):
        build_text(GREY.replace("channels=1", "channels=4"))


def test_a_grey_network_trains_and_is_used_like_any_other(tiny_coco: Path, tmp_path: Path) -> None:
    """train, val and export as commands, on pictures in colour; the converted picture gives the same detections."""
    (tmp_path / "grey.cfg").write_text(GREY)
    arguments = ["--cfg", str(tmp_path / "grey.cfg"), "--data", str(tiny_coco), "--device", "cpu", "--threads", "1"]
    arguments += ["--epochs", "1", "--batch-size", "4", "--workers", "0", "--set", "amp=off"]
    assert train.main([*arguments, "--project", str(tmp_path / "runs")]) == 0
    best = tmp_path / "runs" / "exp" / "weights" / "best.pt"
    target = tmp_path / "out.weights"
    assert export.main(["--weights", str(best), "--format", "darknet", "--output", str(target)]) == 0
    one, two = (load_detector(path, runtime="torch", device="cpu") for path in (best, target))
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    grey = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    found = [each(image, conf=0.01) for each in (one, two) for image in (picture, grey)]
    assert len(found[0]) > 0
    np.testing.assert_allclose(found[0].scores, found[2].scores, atol=1e-4)
    np.testing.assert_allclose(found[1].scores, found[3].scores, atol=1e-4)
    np.testing.assert_allclose(found[0].scores[:5], found[1].scores[:5], atol=0.05)  # grey levels are rounded to 1/255


def test_a_model_file_with_a_region_head_goes_out_and_in(tiny_model: Path, tmp_path: Path) -> None:
    head = "{type: region, anchors: [[12, 12, 20, 33.3], [40, 40]], softmax: true, rescore: false, thresh: 0.7}"
    model = build_model(load_model_config(str(tiny_model), [f"head={head}"]), 3)
    randomise_(model)
    again = build_text(cfg_text(model, image_size=(64, 96)))
    load_weights_(again, saved(model, tmp_path))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for one, two in zip(again.eval().predict(images), model.eval().predict(images), strict=True):
            torch.testing.assert_close(one, two)
    assert (again.head.rescore, again.head.bias_match, again.head.scales) == (False, True, model.head.scales)
