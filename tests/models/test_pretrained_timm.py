"""timm's CSPDarknet-53 and Darknet-53 in our own backbone: equal features; other networks are refused with advice."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.backbones.darknet import Darknet
from models.backbones.resnet import ResNet
from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.pretrained import start_from_
from models.pretrained_timm import IMAGE_MEAN, IMAGE_STD, fold_image_statistics, from_timm, is_timm_darknet
from tests.models.test_timm import lively
from utils.config import ConfigError

timm = pytest.importorskip("timm")

DEPTHS, CHANNELS = [1, 2, 8, 8, 4], [64, 128, 256, 512, 1024]


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """timm's, with random weights and lively statistics."""
    torch.manual_seed(3)
    made = {name: timm.create_model(name, features_only=True) for name in ("cspdarknet53", "darknet53")}
    for network in made.values():
        lively(network)
    return made


def whole(network: nn.Module) -> dict[str, Tensor]:
    """A feature network's weights under the names of the whole one, with a classifier."""
    weights = {re.sub(r"^(stem|stages)_", r"\1.", name): value for name, value in network.state_dict().items()}
    return {**weights, "head.fc.weight": torch.zeros(1000, 1024), "head.fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(("name", "csp"), [("cspdarknet53", {"ratio": 0.5}), ("darknet53", None)])
def test_features_are_equal(networks: dict[str, nn.Module], name: str, csp: dict | None) -> None:
    theirs = networks[name]
    weights = whole(theirs)
    assert set(timm.create_model(name).state_dict()) == set(weights), "the names in this test are timm's"
    assert is_timm_darknet(weights)
    ours = _backbone(csp, activation="leaky_relu")
    ours.load_state_dict(from_timm(weights, ours))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for found, wanted in zip(ours.eval()(images), theirs.eval()(images)[-3:], strict=True):
            scale = wanted.abs().max()
            assert scale > 0.1
            assert (found - wanted).abs().max() / scale < 1e-5
    sizes = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    assert sizes[0] == sizes[1]


def _backbone(csp: dict | None, **options: object) -> Darknet:
    spec = {"type": "darknet", "depths": DEPTHS, "channels": CHANNELS, "csp": csp, **options}
    config = load_model_config("cspdarknet53-panet-spp", [f"backbone={spec}".replace("None", "null")])
    return build_model(config, 1).backbone


def test_images_in_zero_to_one_give_what_normalised_ones_gave(networks: dict[str, nn.Module]) -> None:
    theirs = networks["cspdarknet53"].eval()
    backbone = _backbone({"ratio": 0.5}, activation="leaky_relu").eval()
    backbone.load_state_dict(fold_image_statistics(from_timm(whole(theirs), backbone)))
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    with torch.no_grad():
        found, wanted = backbone.stem(images), theirs.stem_conv1((images - mean) / std)
        torch.testing.assert_close(found[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-5)
        edge = (found - wanted).abs()
        assert edge.max() > 1e-3, "the border is padded with another colour"


def test_a_model_starts_from_a_file(
    networks: dict[str, nn.Module], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cspdarknet53.pth"
    torch.save(whole(networks["cspdarknet53"]), path)
    for activation, said in (("leaky", True), ("leaky_relu", False)):
        backbone = load_model_config("cspdarknet53-panet-spp", [f"backbone.activation={activation}"]).backbone
        model = build_model(ModelConfig(backbone=backbone, head={"type": "classify"}, image_size=64), 2)
        count = len(model.backbone.state_dict())
        caplog.clear()
        with caplog.at_level(logging.INFO):
            start_from_(model, path)
        assert f"backbone {count} of {count}, head 0 of 2" in caplog.text
        assert ("--set model.backbone.activation=leaky_relu" in caplog.text) is said
        expected = fold_image_statistics(from_timm(whole(networks["cspdarknet53"]), model.backbone))
        for name, value in model.backbone.state_dict().items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("name", ["cspresnet50", "cspresnext50", "cs3darknet_s"])
def test_networks_that_differ_from_the_authors_are_refused(name: str, tmp_path: Path) -> None:
    weights = timm.create_model(name).state_dict()
    assert is_timm_darknet(weights)
    with torch.device("meta"):
        ours = [_backbone({"ratio": 0.5}), build_model(load_model_config("cspresnext50-panet-spp"), 2).backbone]
    assert isinstance(ours[1], ResNet)
    for backbone in ours:
        with pytest.raises(ConfigError, match=r"differs from the authors'.*take backbone: \{type: timm, model: NAME"):
            from_timm(weights, backbone)


def test_timms_darknet_in_another_backbone_of_ours_is_refused(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(whole(networks["darknet53"]), path)
    with torch.device("meta"):
        model = build_model(load_model_config("cspresnet50-panet-spp"), 2)
    with pytest.raises(ConfigError, match=r"^--weights .*x.pth: these are timm's weights"):
        start_from_(model, path)


def test_other_weights_are_not_taken_for_timms() -> None:
    assert not is_timm_darknet({})
    assert not is_timm_darknet(timm.create_model("resnet10t").state_dict())
    assert not is_timm_darknet(_backbone({"ratio": 0.5}).state_dict())
