"""Whole models: every file in cfg/ builds, runs and back-propagates; the authors' detectors are exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.benchmark.costs import count_bflops
from models.build import build_model, check_parts
from models.config import ModelConfig, load_model_config
from models.detector import Detector, PassThrough
from models.info import nearest_multiple
from tests.models.test_backbones import count_conv_weights, count_file_floats
from utils.config import ROOT, ConfigError, dump_yaml

CONFIGS = sorted(
    path.stem
    for path in (ROOT / "cfg").glob("*.yaml")
    if load_model_config(path).head["type"] != "classify"  # tests/models/test_backbones_costs.py
)


def graphs() -> list[str]:
    """Models in cfg/ with different networks; of those that differ in activations, anchors or losses only one."""
    seen: dict[str, str] = {}
    for name in CONFIGS:
        config = load_model_config(name)
        head = {key: value for key, value in config.head.items() if key not in ("scale_xy", "size", "box_loss")}
        head["anchors"] = [len(level) for level in head.get("anchors", [])]
        parts = [config.backbone, config.neck or {}, head]
        seen.setdefault(dump_yaml([{**part, "activation": None} for part in parts]), name)
    return list(seen.values())


GRAPHS = graphs()
SMALL = 10_000_000
"""Parameters up to which quick tests run a network with real numbers; of larger ones they see the shapes."""


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_one_that_can_be_built(name: str) -> None:
    check_parts(load_model_config(name))


@pytest.mark.parametrize("name", GRAPHS)
def test_every_config_builds_runs_and_back_propagates(name: str) -> None:
    config = load_model_config(name)
    with torch.device("meta"):
        model = build_model(config, 3)
        small = sum(p.numel() for p in model.parameters()) <= SMALL
        if not small:
            runs_and_back_propagates(model)
    if small:
        runs_and_back_propagates(build_model(config, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_every_config_runs_with_real_numbers(name: str) -> None:
    runs_and_back_propagates(build_model(load_model_config(name), 3))


def runs_and_back_propagates(model: Detector) -> None:
    detects = model.task == "detect"
    height, width = (2 * model.stride, 3 * model.stride) if detects else (64, 64 + 2 * model.stride)
    images = torch.rand(2, 3, height, width)

    raw_maps = model(images)
    if detects:
        strides = model.neck.features.strides * (2 if getattr(model.head, "one_to_one", False) else 1)
        assert [raw.shape[0] for raw in raw_maps] == [2] * len(strides)
        assert [raw.shape[2:] for raw in raw_maps] == [(height // s, width // s) for s in strides]
    else:
        assert [raw.shape for raw in raw_maps] == [(2, 3)]
    sum(raw.square().mean() for raw in raw_maps).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.is_meta or parameter.grad.isfinite().all(), parameter_name

    if not images.is_meta:
        for count in (0, 1):
            with torch.no_grad():
                found = model.eval().predict(images[:count])
            *boxes, scores = found if detects else (found,)
            assert (scores.shape[0], scores.shape[-1]) == (count, 3)
            assert ((scores >= 0) & (scores <= 1)).all()
            assert all(each.shape == (*scores.shape[:2], 4) for each in boxes)


@pytest.mark.parametrize(
    ("name", "trained", "floats", "conv", "bflops"),  # docs/networks.md, Check totals
    [
        ("cspresnext50-panet-spp", 56942525, 57030845, 56.853, (47.098, 71.344, 100.606)),
        ("cspresnet50-panet-spp", 58328765, 58399933, 58.257, (49.313, 74.699, 105.338)),
        ("cspdarknet53-panet-spp", 64363101, 64429405, 64.296, (60.137, 91.095, 128.459)),
    ],
)
def test_detectors_are_the_authors(
    name: str, trained: int, floats: int, conv: float, bflops: tuple[float, float, float]
) -> None:
    with torch.device("meta"):
        model = build_model(load_model_config(name), 80)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    assert count_file_floats(model) == floats
    assert round(count_conv_weights(model) / 1e6, 3) == conv
    for size, expected in zip((416, 512, 608), bflops, strict=True):
        assert count_bflops(model, (size, size)) == pytest.approx(expected, abs=0.0006)


def test_small_model_keeps_its_budget() -> None:
    with torch.device("meta"):
        model = build_model(load_model_config("cspdet-n"), 80)
    assert model.neck.features.strides == (8, 16, 32)
    assert count_bflops(model, (640, 640)) <= 8.0
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 4e6


@pytest.mark.parametrize("name", [name for name in GRAPHS if load_model_config(name).backbone.get("csp")])
def test_plain_twin_builds_and_runs(name: str) -> None:
    with torch.device("meta"):
        twin = build_model(load_model_config(name, ["backbone.csp=null"]), 3).eval()
        assert not [module for module in twin.backbone.modules() if type(module).__name__ == "CrossStagePartial"]
        raw_maps = twin(torch.zeros(1, 3, 128, 128))
    if twin.task == "detect":
        assert [raw.shape[-1] for raw in raw_maps] == [128 // s for s in twin.neck.features.strides]


def test_example_of_the_house_style_builds() -> None:
    config = ModelConfig(
        backbone={
            "type": "darknet",
            "depths": [1, 2, 8, 8, 4],
            "channels": [64, 128, 256, 512, 1024],
            "csp": {"ratio": 0.5, "fusion": "last"},
        },
        neck={"type": "panet", "channels": [128, 256, 512], "spp_kernels": [5, 9, 13]},
        head={
            "type": "anchor",
            "anchors": [[12, 16, 19, 36, 40, 28], [36, 75, 76, 55, 72, 146], [142, 110, 192, 243, 459, 401]],
        },
    )
    with torch.device("meta"):
        model = build_model(config, 80)
    assert model.backbone.features.channels == (256, 512, 1024)
    assert model.stride == 32


def test_without_a_neck_the_head_reads_the_backbone() -> None:
    config = load_model_config("cspdet-n", ["neck=null"])
    with torch.device("meta"):
        model = build_model(config, 3)
    assert isinstance(model.neck, PassThrough)
    assert model.neck.features == model.backbone.features


def test_weights_are_reproducible_and_in_range() -> None:
    config = load_model_config("cspdet-n")
    torch.manual_seed(1)
    first = build_model(config, 3)
    torch.manual_seed(1)
    second = build_model(config, 3)
    for (name, mine), theirs in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    with torch.no_grad():
        raw_maps = first(torch.rand(4, 3, 128, 128))
    assert all(raw.isfinite().all() and raw.abs().max() < 100 for raw in raw_maps)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "neck.spp_kernel=[5]",
            r"cspdet-n.yaml: neck.spp_kernel: unknown key for type 'panet'. Did you mean 'spp_kernels'",
        ),
        ("backbone.type=darknut", r"cspdet-n.yaml: backbone.type: 'darknut' is unknown. Did you mean 'darknet'"),
        ("backbone.stem_stride=3", "backbone.stem_stride: expected one of 1, 2"),
        ("head.anchors=[[10, 13]]", "1 lists for 3 levels"),
        ("image_size=[416, 300]", r"image_size: expected multiples of 32.*the nearest is 416 x 288"),
    ],
)
def test_wrong_models_are_refused(override: str, message: str) -> None:
    config = load_model_config("cspdet-n", [override])
    with pytest.raises(ConfigError, match=message):
        build_model(config, 3)


@pytest.mark.parametrize(("side", "expected"), [(1, 32), (300, 288), (320, 320), (335, 320), (337, 352)])
def test_nearest_multiple(side: int, expected: int) -> None:
    assert nearest_multiple(side, 32) == expected


def test_a_model_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: cspdet-n\nneck: {channels: [32, 64, 128], out_channels: []}\n")
    with torch.device("meta"):
        model = build_model(load_model_config(tmp_path / "mine.yaml"), 3)
    assert model.neck.features.channels == (32, 64, 128)
