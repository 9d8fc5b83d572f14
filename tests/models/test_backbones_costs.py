"""Every classifier in cfg/: the authors' networks to the last number, the others within 2 % of what was published."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from models.benchmark.costs import count_bflops
from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.detector import Detector
from tests.models.test_backbones import count_conv_weights, count_file_floats
from utils.config import ROOT

CLASSIFIERS = sorted(
    path.stem for path in (ROOT / "cfg").glob("*.yaml") if load_model_config(path).head["type"] == "classify"
)
OTHER_ACTIVATION = {"gamma", "mish", "swish", "omega"}
"""Ends of the names of files that differ from their base in recipe or activation alone."""
GRAPHS = [name for name in CLASSIFIERS if name.rpartition("-")[2] not in OTHER_ACTIVATION]
OUTSIDE = {"densenet201-elastic": "bflops"}
"""The published figure counts more than convolutions and pools: the layers are those of the method's authors."""


ROWS = {
    "darknet-ref": [""],
    "darknet53": [""],
    "cspdarknet53": ["", "-gamma", "-omega", "-elastic"],
    "resnet10": [""],
    "cspresnet10": [""],
    "resnet50": [""],
    "cspresnet50": ["", "-gamma", "-omega", "-elastic"],
    "resnext50": [""],
    "cspresnext50": ["", "-gamma", "-omega", "-mish", "-swish", "-elastic"],
    "densenet201": ["-elastic"],
    "cspdensenet201": ["-elastic"],
    "res2netlite72": [""],
    "peleenet": ["", "-swish", "-mish", "-swish-se"],
    "csppeleenet": ["", "-swish", "-mish", "-swish-se", "-ref"],
    "sparsepeleenet": [""],
    "cspdensenet": ["-ref"],
    "cspdensenetb": ["-ref"],
    "csppeleenetb": ["-ref"],
    "mobilenet": ["-v2"],
    "cspmobilenet": ["-v2"],
    "efficientnet": ["-b0"],
}
"""Tables of the authors' README (docs/benchmark.md): a name, and the ends it takes."""


def on_meta(name: str, *overrides: str) -> Detector:
    """The model with shapes alone, which is all that counting needs; activations cost nothing and are left aside."""
    config = load_model_config(name, overrides)
    return _built(json.dumps([{**config.backbone, "activation": "leaky"}, config.head]))


@functools.cache
def _built(parts: str) -> Detector:
    backbone, head = json.loads(parts)
    with torch.device("meta"):
        return build_model(ModelConfig(backbone, head, image_size=64), 1000)


def bflops_of(name: str, *overrides: str, size: int | None = None) -> float:
    return _counted(on_meta(name, *overrides), size or load_model_config(name).size[0])


@functools.cache
def _counted(model: Detector, size: int) -> float:
    return count_bflops(model, (size, size))


def trained(model: Detector) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "floats", "train", "conv", "size", "bflops"),  # docs/networks.md, Check totals
    [
        ("darknet-ref", 7323480, 7319416, 7.314, 256, 0.967),
        ("resnet10", 5248936, 5244968, 5.240, 256, 2.274),
        ("darknet53", 41645640, 41609928, 41.573, 256, 18.576),
        ("cspdarknet53", 27677512, 27642184, 27.606, 256, 13.071),
        ("cspdarknet53", 27677512, 27642184, 27.606, 224, 10.008),
        ("cspdarknet53-gamma", 27677512, 27642184, 27.606, 256, 13.071),
        ("cspdarknet53-omega", 27677512, 27642184, 27.606, 256, 13.071),
        ("cspdarknet53-elastic", 19117000, 19081608, 19.045, 256, 7.745),
        ("resnet50", 22825896, 22780456, 22.734, 256, 9.749),
        ("cspresnet50", 21648040, 21607848, 21.567, 256, 8.972),
        ("cspresnet50", 21648040, 21607848, 21.567, 224, 6.869),
        ("cspresnet50-gamma", 21648040, 21607848, 21.567, 256, 8.972),
        ("cspresnet50-omega", 21648040, 21607848, 21.567, 256, 8.972),
        ("cspresnet50-elastic", 29900200, 29848360, 29.796, 256, 9.367),
        ("resnext50", 22312872, 22252328, 22.191, 256, 10.119),
        ("cspresnext50", 20614824, 20557480, 20.499, 256, 7.933),
        ("cspresnext50", 20614824, 20557480, 20.499, 224, 6.075),
        ("cspresnext50-gamma", 20614824, 20557480, 20.499, 256, 7.933),
        ("cspresnext50-omega", 20614824, 20557480, 20.499, 256, 7.933),
        ("cspresnext50-elastic", 16973736, 16916264, 16.858, 256, 5.452),
        ("mobilenet-v2", 3540136, 3505960, 3.471, 224, 0.859),
        ("cspmobilenet-v2", 2568448, 2541424, 2.513, 224, 0.764),
        ("efficientnet-b0", 4890040, 4853720, 4.808, 224, 0.915),
        ("res2netlite72", 21026856, 20974808, 20.922, 224, 5.187),
        ("densenet201", 17206440, 17173160, 17.139, 256, 10.850),
    ],
)
def test_released_networks_are_exact(name: str, floats: int, train: int, conv: float, size: int, bflops: float) -> None:
    model = on_meta(name)
    assert count_file_floats(model) == floats
    assert trained(model) == train
    assert round(count_conv_weights(model) / 1e6, 3) == conv
    assert bflops_of(name, size=size) == pytest.approx(bflops, abs=0.0006)


def test_resnet50_of_the_repository_classifies_before_the_pool() -> None:
    assert bflops_of("resnet50", "head.pool=last") == pytest.approx(10.007, abs=0.0006)  # docs/networks.md
    assert count_file_floats(on_meta("resnet50", "head.pool=last")) == 22825896


@pytest.mark.parametrize(
    ("name", "floats", "conv", "bflops"),  # docs/networks.md, Backbones without published cfgs
    [
        ("peleenet", None, 2.792, 1.0166),
        ("csppeleenet", None, 2.843, 0.893),
        ("cspdensenet-ref", 3498632, 3.490, 0.893),
        ("csppeleenet-ref", 4121016, 4.108, 1.109),
        ("cspdensenetb-ref", 1394616, 1.383, 0.633),
        ("csppeleenetb-ref", 2025400, 2.010, 0.897),
    ],
)
def test_fitted_networks_cost_what_networks_md_says(name: str, floats: int | None, conv: float, bflops: float) -> None:
    assert floats is None or count_file_floats(on_meta(name)) == floats
    assert round(count_conv_weights(on_meta(name)) / 1e6, 3) == conv
    assert bflops_of(name) == pytest.approx(bflops, abs=0.0006)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_costs_are_the_published_ones(name: str) -> None:
    config = load_model_config(name)
    for figures in config.published:
        assert (figures["image_size"], figures["image_size"]) == config.size
        for key, ours in (("params", count_conv_weights(on_meta(name)) / 1e6), ("bflops", bflops_of(name))):
            if key in figures:
                inside = ours == pytest.approx(figures[key], rel=0.02)
                assert inside == (OUTSIDE.get(name) != key), f"{key}: {ours}, published {figures[key]}"


def test_every_row_of_the_authors_tables_has_a_file() -> None:
    """But for networks of others (HarDNet-138s, DenseNet-264-32, ResNet-152, MixNet-M-GPU), and CSPResNeXt-50+Elastic,
    of whose graph no more is known than one figure."""
    rows = {name + end for name, ends in ROWS.items() for end in ends}
    assert rows <= set(CLASSIFIERS)
    for name in rows:
        assert {"image_size", "bflops", "top1", "top5"} <= load_model_config(name).published[0].keys(), name


@pytest.mark.parametrize(
    ("plain", "partial"),
    [
        ("darknet53", "cspdarknet53"),
        ("resnet50", "cspresnet50"),
        ("resnext50", "cspresnext50"),
        ("resnet10", "cspresnet10"),
        ("densenet201-elastic", "cspdensenet201-elastic"),
        ("peleenet", "csppeleenet"),
        ("mobilenet-v2", "cspmobilenet-v2"),
    ],
)
def test_partial_networks_take_less_than_the_published_plain_ones(plain: str, partial: str) -> None:
    assert bflops_of(partial) < bflops_of(plain)


@pytest.mark.parametrize(
    ("plain", "excited"), [("peleenet", "peleenet-swish-se"), ("csppeleenet", "csppeleenet-swish-se")]
)
def test_squeeze_and_excitation_takes_what_was_published(plain: str, excited: str) -> None:
    added = count_conv_weights(on_meta(excited)) - count_conv_weights(on_meta(plain))
    assert round(added / 1e6, 2) == 0.02  # the authors' README: 2.79M to 2.81M, 2.83M to 2.85M
    assert bflops_of(excited) == pytest.approx(bflops_of(plain), rel=1e-3)


@pytest.mark.parametrize("name", [name for name in GRAPHS if "swish" not in name])
def test_every_classifier_runs_and_back_propagates(name: str) -> None:
    model = build_model(load_model_config(name, ["image_size=64"]), 3)
    elastic = load_model_config(name).backbone.get("elastic", False)  # even maps, to halve them; else any size
    assert model.stride == ((32 if "densenet" in name else 64) if elastic else 1)
    height, width = (64, 64) if elastic else (65, 83)
    raw_maps = model(torch.rand(2, 3, height, width))
    assert [raw.shape for raw in raw_maps] == [(2, 3)]
    raw_maps[0].square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    with torch.no_grad():
        assert model.eval().predict(torch.zeros(0, 3, height, width)).shape == (0, 3)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name.rpartition("-")[2] in OTHER_ACTIVATION])
def test_variants_have_the_activation_of_their_name(name: str) -> None:
    activation = {"omega": "mish", "gamma": "leaky"}.get(name.rpartition("-")[2], name.rpartition("-")[2])
    assert load_model_config(name).backbone.get("activation", "leaky") == activation
