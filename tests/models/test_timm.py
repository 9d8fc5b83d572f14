"""Networks of timm as backbones: maps, normalisation, weights from files, and no network unless it is asked for."""

from __future__ import annotations

import ast
import copy
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.backbones.timm import TimmBackbone
from models.benchmark.costs import count_costs
from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.darknet.cfg import cfg_text
from models.detector import Detector
from models.export.compare import compare
from models.export.network import ExportSpec
from models.export.onnx import write_onnx
from models.export.torchscript import write_torchscript
from models.info import ModelInfo
from models.predictor import open_predictor
from models.predictor_torch import ModelPredictor
from utils.checkpoint import save_checkpoint
from utils.config import ROOT, ConfigError, to_plain

timm = pytest.importorskip("timm")

SMALL = {"type": "timm", "model": "lcnet_035"}
ANCHORS = [[10, 13, 16, 30], [30, 61, 62, 45], [116, 90, 156, 198]]


def config(backbone: dict, **changes: object) -> ModelConfig:
    neck = {"type": "panet", "channels": [8, 16, 24]}
    return ModelConfig(
        backbone=backbone, neck=neck, head={"type": "anchor", "anchors": ANCHORS}, image_size=64, **changes
    )


def lively(module: nn.Module) -> None:
    """Statistics as after a training, so that a wrong order shows."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)


def test_a_network_is_built_where_the_block_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_default_device", lambda: torch.device("cpu"))  # which torch 2.6 and 2.7 say there
    with torch.device("meta"):
        backbone = TimmBackbone(model="lcnet_035")
    assert {tensor.device.type for tensor in backbone.state_dict().values()} == {"meta"}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **_: object) -> None:
        raise OSError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("name", ["resnet10t", "lcnet_035", "mobilenetv3_small_050", "regnetx_002", "convnext_atto"])
def test_maps_are_timms_own_for_normalised_images(name: str) -> None:
    backbone = TimmBackbone(model=name)
    theirs = timm.create_model(name, features_only=True)
    theirs.load_state_dict(backbone.network.state_dict())
    assert backbone.features.strides == (8, 16, 32)
    images = torch.rand(2, 3, 64, 96)
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        maps, expected = backbone.eval()(images), theirs.eval()((images - mean) / std)[-3:]
        assert [x.shape[0] for x in backbone(images[:0])] == [0, 0, 0]
    for found, wanted, width, stride in zip(maps, expected, *backbone_features(backbone), strict=True):
        torch.testing.assert_close(found, wanted)
        assert found.shape == (2, width, 64 // stride, 96 // stride)


def backbone_features(backbone: TimmBackbone) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return backbone.features.channels, backbone.features.strides


@pytest.mark.parametrize("strides", [[4, 8], [8], [32], [2, 16, 32]])
def test_any_choice_of_levels_without_what_lies_behind(strides: list[int]) -> None:
    backbone = TimmBackbone(model="resnet10t", strides=strides)
    assert backbone.features.strides == tuple(strides)
    maps = backbone(torch.rand(2, 3, 64, 64))
    assert [64 // x.shape[-1] for x in maps] == strides
    sum(x.square().mean() for x in maps).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    whole = sum(p.numel() for p in TimmBackbone(model="resnet10t").parameters())
    assert (sum(p.numel() for p in backbone.parameters()) < whole) is (strides[-1] < 32)


def test_networks_with_other_layouts_and_fixed_sizes() -> None:
    """Swin gives channels last and takes one size; of ViT's maps, all of one stride, the deepest is taken."""
    swin = TimmBackbone(
        model="swin_tiny_patch4_window7_224", options={"img_size": 64, "window_size": 2, "depths": (1,) * 4}
    )
    assert (swin.fixed_size, swin.channels_last) == ((64, 64), True)
    assert [tuple(x.shape) for x in swin(torch.rand(1, 3, 64, 64))] == [(1, 192, 8, 8), (1, 384, 4, 4), (1, 768, 2, 2)]
    with pytest.raises(ValueError, match=r"takes 64 x 64 pixels alone, found 64 x 96; leave augment.multi_scale at 0"):
        swin(torch.rand(1, 3, 64, 96))
    vit = TimmBackbone(model="vit_tiny_patch16_224", options={"dynamic_img_size": True, "depth": 3})
    assert (vit.fixed_size, vit.features.strides) == (None, (16,))
    assert vit(torch.rand(1, 3, 32, 64))[0].shape == (1, 192, 2, 4)


def test_parameters_that_no_map_depends_on_are_not_trained() -> None:
    """DistributedDataParallel would wait for their gradients."""
    backbone = TimmBackbone(model="hrnet_w18_small")
    idle = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert idle
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert backbone.training
    sum(x.square().mean() for x in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert all((parameter.grad is None) is (name in idle) for name, parameter in backbone.named_parameters())


def test_a_detector_trains_copies_and_reloads() -> None:
    model = build_model(config(SMALL), 3)
    raw_maps = model(torch.rand(2, 3, 64, 64))
    sum(raw.square().mean() for raw in raw_maps).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    twin = copy.deepcopy(model)
    other = build_model(config(SMALL), 3)
    other.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval().predict(images)
        for again in (twin, other):
            for found, wanted in zip(again.eval().predict(images), expected, strict=True):
                assert torch.equal(found, wanted)


def test_costs_are_counted_without_computing() -> None:
    for name, params, macs in (("resnet10t", 5.44, 1.10), ("convnext_atto", 3.70, 0.55)):  # timm's own tables, at 224
        wanted = ModelConfig(backbone={"type": "timm", "model": name}, head={"type": "classify"}, image_size=224)
        costs = count_costs(wanted)
        assert costs.params / 1e6 == pytest.approx(params, rel=0.01)
        assert costs.bflops / 2 == pytest.approx(macs, rel=0.03)


def test_a_classifier_reads_it_too() -> None:
    model = build_model(ModelConfig(backbone=SMALL, head={"type": "classify"}, image_size=64), 5)
    assert model.eval().predict(torch.rand(2, 3, 64, 64)).shape == (2, 5)


def test_normalisation_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = build_model(config(SMALL), 2)
    lively(model)
    info = ModelInfo(("a", "b"), (1, 2), (64, 64), "letterbox", model.stride)
    original = ModelPredictor(model, info, device=torch.device("cpu"))
    for write, name in ((write_onnx, "m.onnx"), (write_torchscript, "m.torchscript")):
        write(original.model, tmp_path / name, ExportSpec(info, dynamic=True))
        exported = open_predictor(tmp_path / name, device="cpu", trust=True)
        difference = compare(original, exported, [(2, 64, 64), (1, 96, 128)])
        assert difference.within(5e-5), (name, difference)


def test_darknet_files_cannot_hold_it() -> None:
    with pytest.raises(ConfigError):
        cfg_text(build_model(config(SMALL), 2))


# Weights


def saved(tmp_path: Path, name: str = "lcnet_035", *, suffix: str = ".pth") -> tuple[Path, dict]:
    """A file of random weights of the whole network, as timm has it."""
    network = timm.create_model(name)
    lively(network)
    path = tmp_path / f"{name}{suffix}"
    if suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    else:
        torch.save(network.state_dict(), path)
    return path, network


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_works_in_place_of_the_hub(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    path, network = saved(tmp_path, suffix=suffix)
    with caplog.at_level("INFO"):
        backbone = TimmBackbone(model="lcnet_035", pretrained=str(path))
    assert "tensors of timm's 'lcnet_035' loaded from" in caplog.text
    own = {name.replace(".", "_"): value for name, value in network.state_dict().items()}
    for name, value in backbone.network.state_dict().items():
        assert torch.equal(value, own[name.replace(".", "_")]), name


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    with pytest.raises(
        ValueError, match=r"does not fit timm's 'resnet10t': \d+ of its \d+ tensors are not in the file"
    ):
        TimmBackbone(model="resnet10t", pretrained=str(path))
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "code.pth")
    with pytest.raises(ConfigError, match=r"code.pth: not loaded, because it is a pickle"):
        TimmBackbone(model="lcnet_035", pretrained=str(tmp_path / "code.pth"))
    with pytest.raises(ConfigError, match=r"none.pth: no such file"):
        TimmBackbone(model="lcnet_035", pretrained=str(tmp_path / "none.pth"))


def test_weights_are_fetched_only_when_a_training_starts(tmp_path: Path) -> None:
    """A checkpoint has its own: inference and going on work where the file or the network is gone."""
    path, network = saved(tmp_path)
    wanted = config({**SMALL, "pretrained": str(path)})
    started = build_model(wanted, 2, pretrained=True)
    stem = network.state_dict()["conv_stem.weight"]
    assert torch.equal(started.backbone.network.state_dict()["conv_stem.weight"], stem)
    path.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        build_model(wanted, 2, pretrained=True)
    assert isinstance(build_model(wanted, 2), Detector)
    state = {"model": to_plain(wanted), "names": ["a", "b"], "category_ids": [1, 2], "resize": "letterbox"}
    save_checkpoint(tmp_path / "best.pt", state | {"image_size": [64, 64], "ema": started.state_dict()})
    predictor = open_predictor(tmp_path / "best.pt", device="cpu")
    assert torch.equal(predictor.model.backbone.network.state_dict()["conv_stem.weight"], stem)


def test_the_hub_is_asked_only_for_pretrained_true(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = timm.create_model

    def create(name: str, *, pretrained: bool, **options: object) -> nn.Module:
        if pretrained:
            asked.append((name, options["out_indices"]))
            raise ConnectionError("Name or service not known\nand more")
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)
    build_model(config({**SMALL, "pretrained": True}), 2)
    assert not asked
    with pytest.raises(ConfigError) as error:
        build_model(config({**SMALL, "pretrained": True, "strides": [4, 8, 16]}, name="mine"), 2, pretrained=True)
    assert asked == [("lcnet_035", (1, 2, 3))]
    text = str(error.value)
    assert text.startswith("mine.yaml: backbone: pretrained: timm's weights for 'lcnet_035' cannot be had")
    assert "Name or service not known" in text and "and more" not in text
    assert "pretrained: /path/to/file.safetensors" in text


@pytest.mark.usefixtures("no_network")
def test_pretrained_weights_come_from_the_cache_or_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network, and at once: the hub's library would try again and again."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("https_proxy", raising=False)
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot be had .*Offline take a file: pretrained: /path"):
        TimmBackbone(model="lcnet_050", pretrained=True)
    assert time.monotonic() - begin < 20
    path, network = saved(tmp_path, "lcnet_050", suffix=".safetensors")
    repository = network.pretrained_cfg["hf_hub_id"].replace("/", "--")
    snapshot = tmp_path / f"models--{repository}" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    path.rename(snapshot / "model.safetensors")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    backbone = TimmBackbone(model="lcnet_050", pretrained=True)
    assert torch.equal(backbone.network.state_dict()["conv_stem.weight"], network.conv_stem.weight)


@pytest.mark.usefixtures("no_network")
def test_building_uses_no_network() -> None:
    build_model(config({**SMALL, "pretrained": True}), 2)
    for name in ("hf-hub:timm/lcnet_035", "local-dir:/nowhere"):
        with pytest.raises(ValueError, match="has no network"):
            TimmBackbone(model=name)


def test_a_path_in_a_model_file_is_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "backbone: {type: timm, model: lcnet_035, pretrained: w.pth}\nhead: {type: classify}\nimage_size: 64\n"
    )
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "mine.yaml").write_text("base: ../base.yaml\nimage_size: 96\n")
    for name in ("base.yaml", "inside/mine.yaml"):
        backbone = load_model_config(tmp_path / name).backbone
        assert Path(backbone["pretrained"]).resolve() == tmp_path / "w.pth"
    assert load_model_config(tmp_path / "base.yaml", ["backbone.pretrained=x.pth"]).backbone["pretrained"] == "x.pth"


# What is refused


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "cspresnxt50"}, r"has no network 'cspresnxt50'. Did you mean 'cspresnext50'"),
        ({"model": "lcnet_035.nope"}, r"cannot be made a feature extractor \(Invalid pretrained tag"),
        ({"model": "levit_128s"}, r"cannot be a backbone: of an image of 224 x 224 it gives maps"),
        ({"model": "lcnet_035", "strides": [3, 8]}, r"strides \[3, 8\]: expected some of \[2, 4, 8, 16, 32\]"),
        ({"model": "lcnet_035", "strides": [16, 8]}, "ascending"),
        ({"model": "lcnet_035", "strides": []}, "expected some of"),
        ({"model": "lcnet_035", "options": {"foo": 1}}, r"with options \{'foo': 1\} \(.*unexpected keyword"),
        ({"model": "lcnet_035", "options": {"pretrained": True}}, r"options.pretrained: is for the backbone to decide"),
        ({"model": "lcnet_035", "pretraind": True}, r"unknown key for type 'timm'. Did you mean 'pretrained'"),
        ({"model": "lcnet_035", "pretrained": 3}, "expected true or false or a text"),
        ({}, ".model: this key is missing"),
    ],
)
def test_wrong_keys_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^mine.yaml: backbone.*{message}"):
        build_model(config({"type": "timm", **keys}, name="mine"), 2)


def test_a_size_that_the_network_does_not_take_is_refused() -> None:
    backbone = {"type": "timm", "model": "vit_tiny_patch16_224", "options": {"depth": 3}}
    head = {"type": "anchor", "anchors": [[10, 13]]}
    build_model(ModelConfig(backbone=backbone, head=head, image_size=224), 2)
    with pytest.raises(ConfigError, match=r"image_size: this backbone takes 224 x 224 alone, found 64 x 64"):
        build_model(ModelConfig(backbone=backbone, head=head, image_size=64), 2)


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="needs the package timm, which is not installed: pip install timm"):
        TimmBackbone(model="lcnet_035")


def test_timm_is_imported_only_where_it_is_used() -> None:
    """It takes seconds."""
    for path in [*ROOT.glob("*.py"), *(ROOT / "models").rglob("*.py"), *(ROOT / "utils").rglob("*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"timm", "safetensors", "huggingface_hub"}, path
