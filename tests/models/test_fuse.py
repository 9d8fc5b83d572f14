"""models/fuse.py: the function of the model as it was trained."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.images import read_image
from data.transforms import resize_image
from models import fuse
from models.fuse import PackedConv, fuse_
from models.layers import ConvNormAct
from models.predictor import open_predictor
from tests.models.export.models import SMALL, predictor_of, small_model
from utils.boxes import plan_resize


@pytest.mark.parametrize("name", [*SMALL, "darknet", "region"])
def test_a_fused_model_gives_the_same_in_evaluation_mode(name: str) -> None:
    model = small_model(name)
    fused = copy.deepcopy(model).train()
    fuse_(fused)
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d) or module.training]
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        for found, wanted, atol in zip(fused.predict(images), model.predict(images), (1e-2, 1e-5), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=atol)


@pytest.mark.skipif(not fuse._can_pack(), reason="this PyTorch has no such operators")
@pytest.mark.parametrize("activation", ["leaky", "leaky_relu", "relu", "swish", "mish", "linear"])
@pytest.mark.parametrize(
    "options", [{}, {"kernel": 3, "stride": 2}, {"kernel": 3, "groups": 8}, {"kernel": 5, "dilation": 2}]
)
def test_a_packed_convolution_gives_the_same_for_inputs_of_any_shape(options: dict[str, int], activation: str) -> None:
    torch.manual_seed(0)
    block = ConvNormAct(8, 16, **options, normalize=False, activation=activation).eval()
    packed = PackedConv(block.conv, block.act)
    rest = block.act if packed.activation == "none" else nn.Identity()
    with torch.inference_mode():
        for shape in ((1, 8, 20, 12), (3, 8, 9, 31), (1, 8, 20, 12), (2, 8, 1, 1)):
            for memory_format in (torch.channels_last, torch.contiguous_format):
                x = (4 * torch.randn(shape)).contiguous(memory_format=memory_format)
                torch.testing.assert_close(rest(packed(x)), block(x), rtol=1e-4, atol=1e-4)


def test_without_its_operators_a_model_stays_fused(monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    weights = shared / "weights" / "yolo-fastest-1.1-xl.weights"
    packed = open_predictor(weights, device="cpu")
    monkeypatch.setattr(fuse, "_can_pack", lambda: False)
    fused = open_predictor(weights, device="cpu")
    assert not any(isinstance(module, PackedConv) for module in fused.model.modules())
    images = np.random.default_rng(0).random((2, 3, 64, 96), np.float32)
    for found, wanted in zip(packed._raw_maps(images), fused._raw_maps(images), strict=True):
        assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", ["yolo-fastest-1.1-xl", "MobileNetV2-YOLOv3-Nano-coco"])
def test_raw_maps_of_real_weights_agree(shared: Path, name: str) -> None:
    weights = shared / "weights" / f"{name}.weights"
    plain, fused = (open_predictor(weights, device="cpu", fuse=fuse) for fuse in (False, True))
    files = sorted((shared / "data" / "images").rglob("*.jpg"))[:3]
    assert files
    for file in files:
        image = read_image(file)
        letterbox = plan_resize(*image.shape[:2], plain.image_size, "letterbox")
        pixels = resize_image(image, letterbox, plain.image_size)[None].transpose(0, 3, 1, 2)
        for found, wanted in zip(fused._raw_maps(pixels), plain._raw_maps(pixels), strict=True):
            assert found.isfinite().all()
            assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", [*SMALL, "darknet", "region"])
@pytest.mark.parametrize("conf_thres", [0.0, 0.001, 0.3, 0.9, 1.0])
def test_candidates_are_the_boxes_above_the_threshold_in_their_order(name: str, conf_thres: float) -> None:
    model = small_model(name)
    head = model.head
    with torch.inference_mode():
        raw_maps = model.eval()(torch.rand(3, 3, 64, 96))
        raw_maps = [raw + 2 * torch.randn_like(raw) for raw in raw_maps]  # scores of all sizes
        boxes, scores = head.decode(raw_maps)
        few_boxes, few_scores = head.decode_above(raw_maps, conf_thres)
    above = (scores > conf_thres).any(dim=2).any(dim=0)
    found = (few_scores > conf_thres).any(dim=2).any(dim=0)
    assert int(found.sum()) == int(above.sum())
    torch.testing.assert_close(few_boxes[:, found], boxes[:, above], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(few_scores[:, found], scores[:, above], rtol=1e-5, atol=1e-7)
    assert few_boxes.shape[1] < boxes.shape[1] or conf_thres < 0.9


def test_a_predictor_fuses_only_what_it_may_change() -> None:
    model = small_model("cspdet-n-e2e")
    state = copy.deepcopy(model.state_dict())
    predictor = predictor_of(model)
    predictor.predict(np.zeros((1, 3, 64, 64), np.uint8))
    assert list(model.state_dict()) == list(state)
    fuse_(model)
    assert not any("one_to_one" in key or "running_mean" in key for key in model.state_dict())
